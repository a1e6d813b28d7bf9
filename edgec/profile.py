"""Where the time of a run goes: each kernel measured on this machine, beside what the target's facts say it could take at least.

The roofline: a kernel cannot be faster than its multiply-accumulates at the unit's peak, nor than the bytes it must move. Weights come from
the level of memory that holds all weights and the arena, because a run passes through all of them before it meets one again;
activations come from the level that holds the arena. The clock is the one at which a loop of multiply-adds reaches the peak here and now.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.bundle import Bundle
from edgec.clock import peak_gflops
from edgec.cost import bytes_per_cycle, int8_peak, peak_macs
from edgec.errors import UsageError
from edgec.isa import Isa, cpu_isa
from edgec.measure import pinned
from edgec.samples import draw
from edgec.target import from_text

_INTEGER = frozenset({"dot", "depth"})
_SAVED = {2: 16 / 36, 4: 36 / 144}
"""Multiplications of Winograd's F(2x2) and F(4x4) for each one of the plain method."""


@dataclass(frozen=True)
class Floor:
    """The least microseconds of a kernel by the facts of its unit: of its arithmetic, of its bytes, and which of the two binds.

    `bound` is `compute`, or the level of memory that takes most of the time of the bytes.
    """

    compute_us: float
    memory_us: float
    bound: str

    @property
    def us(self) -> float:
        """The longer of the two."""
        return max(self.compute_us, self.memory_us)


def floor(isa: Isa, kernel: Mapping[str, Any], weights: int, arena: int, everything: int, threads: int = 1) -> Floor:
    """The roofline of a kernel of a manifest that reads `weights` bytes of weights; `everything` counts arena and all weights in bytes.

    Threads share the arithmetic and have first and second caches of their own; further levels are counted once.
    """
    work = kernel["macs"] * _saved(kernel["algo"])
    peak = int8_peak(isa) if kernel["kind"] in _INTEGER else peak_macs(isa)
    us = 1e6 / isa.clock_hz
    compute = work / peak * us / threads
    streamed = min(weights, kernel["bytes"])
    parts = dict[str, float]()
    for moved, footprint in ((streamed, everything), (kernel["bytes"] - streamed, arena)):
        level = _level(isa, footprint)
        shared = threads if level in ("l1", "l2") else 1
        parts[level] = parts.get(level, 0.0) + moved / bytes_per_cycle(isa, footprint) * us / shared
    memory = sum(parts.values())
    slowest = max(parts, key=lambda level: parts[level])
    return Floor(compute, memory, "compute" if compute >= memory else slowest)


def _saved(algo: str) -> float:
    found = re.match(r"(?:conv_)?winograd(\d)", algo)
    return _SAVED.get(int(found[1]), 1.0) if found else 1.0


def _level(isa: Isa, footprint: float) -> str:
    """The level from which `bytes_per_cycle` lets so many bytes come."""
    levels = (("l1", isa.l1_bytes, 1.0), ("l2", isa.l2_bytes, isa.l2_bytes_per_cycle), ("l3", isa.l3_bytes, isa.l3_bytes_per_cycle))
    return next((name for name, size, speed in levels if footprint <= size and speed), "dram")


def profile(bundle: Bundle, *, threads: int = 1, runs: int | None = None, duration: float = 2.0, seed: int = 1,
            cpu_time: bool = False) -> dict[str, Any]:
    """Measure each step of a bundle on this machine: `runs` times, or for about `duration` seconds. Times are medians in microseconds.

    `cpu_time` measures the processor's time for one thread instead, which other programs on a busy machine leave alone. UsageError for
    that of several threads, DeviceError when another processor or an emulator would run it, ToolMissing without a C compiler.
    """
    if cpu_time and threads > 1:
        raise UsageError("processor time is that of one thread: profile with --threads 1")
    manifest = bundle.manifest
    isa = cpu_isa(from_text(manifest["target"]["text"]))
    with pinned(threads) as cores:
        session = bundle.load(threads=threads)
        clock = session.clock(draw(session.inputs, seed, manifest.get("input_ranges", {})))
        clock.steps(2)
        once = float(np.median(clock.steps(3, cpu_time=cpu_time).sum(axis=1)))
        count = runs or max(5, min(100_000, int(duration / max(once, 1e-6)), 10_000_000 // max(1, len(manifest["steps"]))))
        seconds = clock.steps(count, cpu_time=cpu_time)
        measured_peak = peak_gflops(isa)
    peak = 2e-9 * peak_macs(isa) * isa.clock_hz
    kernels = _kernels(manifest, isa, at_clock(isa, isa.clock_hz * measured_peak / peak), seconds, threads)
    sizes, total = manifest["sizes"], float(np.median(seconds.sum(axis=1))) * 1e6
    for k in kernels:
        k["share"] = k["us"] / total if total else 0.0
        k["peak_share"] = k["gflops"] / (measured_peak * threads) if k["gflops"] is not None else None
    return {"model": manifest["name"], "target": manifest["target"]["name"], "threads": threads, "cores": list(cores),
            "clock": "cpu" if cpu_time else "wall", "runs": count,
            "us": total, "floor_us": sum(k["floor_us"] or 0.0 for k in kernels), "predicted_us": sum(k["predicted_us"] for k in kernels),
            "gflops": 2e-3 * manifest["report"]["macs"] / total if total else None,
            "peak_gflops": {"facts": peak, "measured": measured_peak},
            "arena_bytes": sizes["arena_bytes"], "weights_bytes": sizes["weights_bytes"] + sizes["prepared_bytes"], "kernels": kernels}


def at_clock(isa: Isa, hertz: float) -> Isa:
    """The same core at another clock: caches follow it, the memory behind them does not."""
    return replace(isa, clock_hz=hertz, dram_bytes_per_cycle=isa.dram_bytes_per_cycle * isa.clock_hz / hertz)


def _kernels(manifest: Mapping[str, Any], isa: Isa, now: Isa, seconds: npt.NDArray[np.float64], threads: int) -> list[dict[str, Any]]:
    """What is known of each step; predictions are made at the clock of `isa`, floors at that of `now`."""
    sizes, found = manifest["sizes"], []
    everything = sizes["arena_bytes"] + sizes["weights_bytes"] + sizes["prepared_bytes"]
    for number, step in enumerate(manifest["steps"]):
        us = float(np.median(seconds[:, number])) * 1e6
        if "kernel" not in step:
            found.append({"step": number, "op": step["step"], "algo": step["unit"], "origin": step["result"], "unit": step["unit"],
                          "us": us, "p90_us": float(np.quantile(seconds[:, number], 0.9)) * 1e6, "predicted_us": 0.0,
                          **dict.fromkeys(("macs", "bytes", "gflops", "gbps", "floor_us", "floor", "bound"))})
            continue
        kernel = manifest["kernels"][step["kernel"]]
        own = kernel["unit"] == "cpu"
        bound = floor(now, kernel, _weights(manifest, step), sizes["arena_bytes"], everything, threads) if own else None
        found.append({
            "step": number, "op": "+".join([step["op"], *step["fused"]]), "algo": kernel["algo"], "generic": kernel["generic"],
            "origin": step["origin"], "unit": kernel["unit"], "tasks": step["tasks"], "behind": step.get("behind", 0), "us": us,
            "p90_us": float(np.quantile(seconds[:, number], 0.9)) * 1e6, "predicted_us": kernel["cycles"] / isa.clock_hz * 1e6,
            "macs": kernel["macs"], "bytes": kernel["bytes"], "gflops": 2e-3 * kernel["macs"] / us if us and own else None,
            "gbps": 1e-3 * kernel["bytes"] / us if us and own else None, "floor_us": bound.us if bound else None,
            "floor": asdict(bound) if bound else None, "bound": bound.bound if bound else None})
    return found


def _weights(manifest: Mapping[str, Any], step: Mapping[str, Any]) -> int:
    """The bytes of weights that a step reads, plain or prepared."""
    buffers = manifest["buffers"]
    read = {o["buffer"] for o in step["operands"] if not o["write"] and buffers[o["buffer"]]["region"] in ("weights", "prepared")}
    return sum(int(buffers[b]["bytes"]) for b in read)
