"""A bundle on disk, seen from Python: where it is, what its manifest says, and a way to run it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgec.codegen.manifest import calls, read_manifest
from edgec.remote import TIMEOUT
from edgec.session import Session, load

_NAMED = 3  # changes of kernels that a summary names


@dataclass(frozen=True)
class Bundle:
    """The folder that a build leaves behind."""

    path: Path

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Everything there is to know about it; BadInput when it cannot be read."""
        return read_manifest(self.path)

    def load(self, *, threads: int | None = None, poison: bool = False, simulate_npu: bool = False,
             on: str | None = None, timeout: float = TIMEOUT) -> Session:
        """Load it to run here, under its target's emulator, or `on` a machine that ssh reaches. `threads`: as it was built for.

        `simulate_npu` computes regions of an NPU from what their operators mean, since commands can be executed on the NPU alone.
        """
        return load(self.path, threads=threads or int(self.manifest["options"].get("threads", 1)), poison=poison,
                    simulate_npu=simulate_npu, on=on, timeout=timeout)

    def summary(self) -> str:
        """Kernels, predicted time, and sizes, in a few lines."""
        m, sizes, report = self.manifest, self.manifest["sizes"], self.manifest["report"]
        bound = sizes["arena_lower_bound"]
        macs = f"{report['macs'] / 1e6:.1f} M multiply-accumulates"
        macs += f", {report['integer_macs'] / report['macs']:.1%} on integers" if report.get("integer_macs") else ""
        over = f"{sizes['arena_bytes'] / bound:.2f} of the lower bound {bound}" if bound else "no lower bound"
        over += " (which counts no scratch memory)" if bound and any(k["scratch_bytes"] for k in m["kernels"].values()) else ""
        prepared, only = sizes["prepared_bytes"], sizes.get("prepare_only_bytes", 0)
        then = f"; {only} bytes of weights are not read after that" if only else ""
        functions = len({s["kernel"] for s in calls(m)})
        return "\n".join([
            f"{self.path} for {m['target']['name']} ({m['target']['cpu']})",
            f"  kernels    {report['kernels']} calls of {functions} functions, {macs}",
            f"  predicted  {report['predicted_ms']:.3f} ms {_parts(report)}",
            *([f"  measured   {_measured(m['measured'])}"] if "measured" in m else []),
            f"  weights    {sizes['weights_bytes']} bytes",
            *([f"  prepared   {prepared} bytes, made of the weights once, when the model is loaded{then}"] if prepared else []),
            f"  arena      {sizes['arena_bytes']} bytes, {over}",
            f"  code       {sizes['code_bytes']} bytes",
            *(f"  {u['name']:<10} {_unit(u, m)}" for u in m.get("units", ()) if u["name"] not in m.get("npus", {})),
            *(line for name, facts in m.get("npus", {}).items() for line in _npu(name, facts, report["macs"])),
            *(f"  {name:<10} {_memory(use)}" for name, use in m.get("memories", {}).items()),
        ])


def _measured(facts: Mapping[str, Any]) -> str:
    """What was measured on the machine that built a bundle, and what that changed."""
    kernels = facts["kernels"]
    changed = [k for k in kernels if k["chosen"] != k["default"]]
    took = sum(len(k["origins"]) * k["measured_us"]["default"] for k in kernels)
    saved = sum(len(k["origins"]) * k["measured_us"]["default"] * (1 - k["ratio"]) for k in changed)
    some = f"{len(kernels)} of {len(kernels) + facts['unknown']} kernels that leave a choice"
    if not changed:
        return f"{some}: none is better otherwise"
    names = ", ".join(f"{k['chosen']} for {k['default']} ({k['origins'][0]}: {k['ratio']:.2f})" for k in changed[:_NAMED])
    more = f", and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return f"{some}; {len(changed)} changed, so that all of them take {1 - saved / (took or 1):.3f} of the time: {names}{more}"


def _unit(unit: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """What runs on a unit with a memory of its own."""
    kernels = sum(manifest["kernels"][s["kernel"]]["unit"] == unit["name"] for s in calls(manifest))
    copies = sum(s.get("step") == "copy" and s["unit"] == unit["name"] for s in manifest["steps"])
    memory = f"{unit['weights_bytes']} bytes of weights, arena {unit['arena_bytes']} bytes"
    return f"{unit['driver']}: {kernels} kernels, {copies} copies, {memory}"


def _npu(name: str, facts: Mapping[str, Any], macs: int) -> list[str]:
    """What runs on an NPU, what its compiler expects of that, and that nobody has seen it run."""
    regions = facts["regions"]
    figures = [r["figures"] for r in regions]
    total = {k: sum(f[k] for f in figures) for k in ("cycles", "weight_bytes")}
    sram, dram, flash = (max(f[k] for f in figures) for k in ("sram_bytes", "dram_bytes", "flash_bytes"))
    share = sum(r["macs"] for r in regions) / macs if macs else 0.0
    memory = ", ".join(f"{size / 1024:.1f} KiB of {kind}" for kind, size in (("SRAM", sram), ("DRAM", dram), ("flash", flash)) if size)
    many = f"{len(regions)} command stream{'s' * (len(regions) != 1)}"
    return [f"  {name:<10} {facts['accelerator']}: {share:.1%} of the multiply-accumulates, {many}",
            f"             {total['cycles']} cycles ({total['cycles'] / figures[0]['clock'] * 1e3:.3f} ms) and {memory}, as Vela expects",
            f"             made by {facts['compiler']}, not executed here: what the NPU computes is known from its operators alone"]


def _parts(report: Mapping[str, Any]) -> str:
    """Where the predicted time goes: on one core, or on several units."""
    parts = report.get("units_ms")
    return f"one after the other: {', '.join(f'{unit} {ms:.3f}' for unit, ms in parts.items())}" if parts else "on one core"


def _memory(use: Mapping[str, Any]) -> str:
    """How much of one of the target's memories is taken."""
    of = f" of {use['size']} bytes ({use['bytes'] / use['size']:.0%})" if use["size"] else " bytes"
    return f"{use['bytes']}{of}: {', '.join(part for part, size in use['parts'].items() if size)}"
