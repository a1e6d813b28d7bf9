# ruff: noqa: T201 - it is a program
"""The register tiles that the cost model picks beside all others: `python -m tests.benchmarks.tiles [--target host] [LAYER …]`.

Each layer is compiled with every tile that fits the registers, and all of its kernels are timed in turns on one core, by the time of the
thread: the least of many rounds counts, so that other programs disturb little. The fastest few are then timed once more beside the one that
was picked, because the least of fifty figures is too small by chance.
"""

import argparse
import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.codegen.object import compile_kernels, kernel_symbol
from edgec.cost import fits
from edgec.ir.graph import Array
from edgec.ir.types import numpy_dtype
from edgec.isa import Isa, cpu_isa
from edgec.kernels.base import KernelPlan
from edgec.kernels.contract import ContractPlan
from edgec.measure import pinned
from edgec.target import find
from tests.benchmarks.layers import Layer, forced, with_facts
from tests.benchmarks.models import table

LAYERS = (
    # ResNet-50
    Layer(7, 224, 3, 64, 2), Layer(1, 56, 64, 64), Layer(3, 56, 64, 64), Layer(1, 56, 64, 256), Layer(1, 56, 256, 64),
    Layer(1, 56, 256, 128), Layer(3, 56, 128, 128, 2), Layer(3, 28, 128, 128), Layer(1, 28, 128, 512), Layer(1, 28, 512, 128),
    Layer(1, 56, 256, 512, 2), Layer(3, 28, 256, 256, 2), Layer(3, 14, 256, 256), Layer(1, 14, 256, 1024), Layer(1, 14, 1024, 256),
    Layer(1, 28, 512, 1024, 2), Layer(3, 14, 512, 512, 2), Layer(3, 7, 512, 512), Layer(1, 7, 512, 2048), Layer(1, 7, 2048, 512),
    # MobileNet
    Layer(3, 224, 3, 32, 2), Layer(1, 112, 32, 64), Layer(1, 56, 128, 128), Layer(1, 28, 256, 256), Layer(1, 14, 512, 512),
    Layer(1, 7, 1024, 1024), Layer(1, 112, 32, 16), Layer(1, 56, 144, 24), Layer(1, 28, 32, 192), Layer(1, 14, 384, 64),
    Layer(1, 14, 576, 96), Layer(1, 7, 960, 160),
    # VGG
    Layer(3, 224, 3, 64), Layer(3, 112, 64, 128), Layer(3, 56, 256, 256), Layer(3, 28, 512, 512), Layer(3, 14, 512, 512),
    # SqueezeNet
    Layer(1, 55, 96, 16), Layer(1, 55, 16, 64), Layer(3, 55, 16, 64), Layer(3, 27, 32, 128), Layer(3, 13, 48, 192), Layer(1, 13, 512, 1000),
    # MiniLM
    Layer(0, 128, 384, 384), Layer(0, 128, 384, 1536), Layer(0, 128, 1536, 384),
)
_LEAST = 12      # accumulators of a tile that is tried: fewer cannot hide the latency of a multiplication, and were never near the best
_FEW = 5         # tiles that are timed once more
_TURN = 0.002    # seconds
Run = Callable[[], object]


def operands(plan: KernelPlan) -> list[Array]:
    """An array for each operand, from a multiple of 64 bytes on; small numbers, so that sums stay finite."""
    random, made = np.random.default_rng(0), []
    for arg in plan.args:
        size, dtype = arg.elements * (plan.tasks if arg.role == "scratch" else 1), numpy_dtype(arg.dtype)
        room = np.zeros(size * dtype.itemsize + 64, np.uint8)
        start = -room.ctypes.data % 64
        array = room[start:start + size * dtype.itemsize].view(dtype)
        array[...] = random.standard_normal(size).astype(dtype) if arg.role != "scratch" else 0
        made.append(array)
    return made


def runs(plans: Mapping[str, KernelPlan], isa: Isa, folder: Path) -> dict[str, Run]:
    """A function for each plan that runs all of its tasks; all work on the same operands."""
    objects, made = compile_kernels(plans, isa), {}
    arrays = operands(next(iter(plans.values())))
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
    for number, (name, plan) in enumerate(plans.items()):
        path = folder / f"{len(list(folder.iterdir()))}_{number}"
        path.with_suffix(".o").write_bytes(objects[name])
        subprocess.run(["ld", "-shared", "-o", path.with_suffix(".so"), path.with_suffix(".o")], check=True)
        kernel = getattr(ctypes.CDLL(str(path.with_suffix(".so"))), kernel_symbol(plan, isa))
        made[name] = _run(kernel, arrays, pointers, plan.tasks)
    return made


def _run(kernel: Callable[..., int], arrays: Sequence[Array], pointers: Sequence[ctypes.c_void_p], tasks: int) -> Run:
    def run() -> Sequence[Array]:
        kernel(*pointers, 0, tasks)
        return arrays                                                  # kept alive with the function

    return run


def least(timed: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Seconds of the thread for one run of each, the least of many rounds in turns."""
    counts = {name: max(1, int(_TURN / max(_turn(run, 1), 1e-7))) for name, run in timed.items()}
    best = dict.fromkeys(timed, float("inf"))
    for _ in range(rounds):
        for name, run in timed.items():
            best[name] = min(best[name], _turn(run, counts[name]))
    return best


def _turn(run: Run, count: int) -> float:
    start = time.thread_time()
    for _ in range(count):
        run()
    return (time.thread_time() - start) / count


def tiles(layer: Layer, isa: Isa) -> dict[str, KernelPlan]:
    """Plans of a layer with every tile, the picked one first."""
    picked = layer.plan(isa)
    if not isinstance(picked, ContractPlan):
        raise SystemExit(f"{layer.name} is not a contraction but {picked.algo}")
    lane = isa.broadcast == "lane"
    columns, vectors = max(t.out_count for t in picked.xs), sum(map(len, picked.widths))
    made: dict[str, KernelPlan] = {}
    for nb in range(1, min(vectors, isa.registers) + 1):
        for tw in range(1, min(columns, isa.registers) + 1):
            if fits(isa, tw, nb, lane=lane) and tw * nb >= min(_LEAST, isa.registers // 2):
                with forced(tw, nb):
                    made[f"{tw}x{nb}"] = layer.plan(isa)
    name = f"{picked.columns}x{max(map(len, picked.widths))}"
    return {name: picked, **{k: v for k, v in made.items() if k != name}}


def compared(layer: Layer, isa: Isa, folder: Path, rounds: int) -> tuple[str, str, float, str]:
    """The tile that was picked, the fastest one, how much longer the picked one takes, and the rate of the fastest in GFLOP/s."""
    plans = tiles(layer, isa)
    timed = runs(plans, isa, folder)
    picked = next(iter(plans))
    with pinned(1):
        first = least(timed, rounds)
        few = sorted(first, key=lambda n: first[n])[:_FEW]
        again = least({n: timed[n] for n in dict.fromkeys([picked, *few])}, 3 * rounds)
    best = min(again, key=lambda n: again[n])
    return picked, best, again[picked] / again[best] - 1, f"{2e-9 * plans[picked].macs / again[best]:.0f}"


def main() -> None:
    """Print one line for each layer, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layers", nargs="*", metavar="LAYER", help="such as '3x3 64-64 @56'; default all")
    parser.add_argument("--target", default="host")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    isa = with_facts(cpu_isa(find(args.target)), exact=True)
    rows: list[tuple[object, ...]] = []
    slower = []
    with tempfile.TemporaryDirectory() as folder:
        for layer in LAYERS:
            if not args.layers or layer.name in args.layers:
                picked, best, loss, rate = compared(layer, isa, Path(folder), args.rounds)
                slower.append(loss)
                rows.append((layer.name, picked, best, f"{loss:.1%}", rate))
                print(*rows[-1], flush=True)
    print(table(("layer", "picked", "fastest", "picked takes longer by", "GFLOP/s of the fastest"), rows))
    print(f"{len(slower)} layers: {np.mean(slower):.1%} longer on average, {np.max(slower):.1%} at most")


if __name__ == "__main__":
    main()
