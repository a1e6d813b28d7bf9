# ruff: noqa: T201 - it is a program
"""What llvm-mca expects of the inner loops of f32 kernels: `python -m tests.benchmarks.fp32_arm [--tiles] [TARGET …]`.

The loop is the innermost block of the compiled kernel with the most multiplications by an element. llvm-mca (Debian: `llvm-19`)
simulates it on LLVM's model of the core, without caches. A core of one vector pipe starts one `fmla` a cycle, one of two pipes two.
With `--tiles`, all register tiles are shown that could be chosen, beside the one that is.
"""

import argparse
from collections.abc import Mapping

from edgec.codegen.object import kernel_texts
from edgec.isa import Isa, cpu_isa
from edgec.kernels.base import KernelPlan
from edgec.target import find
from tests.benchmarks.arm_loops import CORES, cycles, hottest, spills, total
from tests.benchmarks.layers import Layer, forced, with_facts

FMLA = {"fmla.s": 1}
LEAST = {"cortex-a72": 0.95, "cortex-a76": 1.9, "cortex-a53": 0.55}
"""`fmla` a cycle that a core must reach."""
LAYERS = (Layer(1, 56, 64, 64), Layer(1, 28, 128, 128), Layer(1, 14, 256, 1024), Layer(1, 7, 512, 512), Layer(1, 56, 256, 512, 2),
          Layer(3, 56, 64, 64), Layer(3, 28, 128, 128), Layer(3, 14, 256, 256), Layer(3, 7, 512, 512), Layer(3, 56, 128, 128, 2),
          Layer(0, 128, 384, 384), Layer(0, 128, 384, 1536))
"""Those in which nets spend their time. The 3x3 convolutions appear twice: direct, and by Winograd's method where that is chosen."""
TILES = ((7, 2), (8, 2), (9, 2), (10, 2), (4, 3), (5, 3), (6, 3), (7, 3), (3, 4), (4, 4), (5, 4), (6, 4), (3, 5), (4, 5), (2, 6), (3, 6),
         (2, 8))
TRIED = (Layer(1, 28, 480, 480), Layer(3, 56, 480, 480), Layer(3, 112, 480, 480, 2), Layer(0, 120, 384, 480))
"""Layers of which each tile above leaves no rest."""


def kernels(isa: Isa) -> Mapping[str, KernelPlan]:
    """The kernels whose loops count."""
    made = {layer.name: layer.plan(with_facts(isa, exact=True)) for layer in LAYERS}
    return made | {f"{layer.name} W": fast for layer in LAYERS if (fast := layer.plan(isa)).kind == "winograd"}


def show(core: str, isa: Isa) -> None:
    """Print one line for each kernel on a core."""
    plans = kernels(isa)
    for kernel, text in kernel_texts(plans, isa, "asm").items():
        body = hottest(text, FMLA)
        took, count, spilled = cycles(body, core), total(body, FMLA), spills(body)
        least = LEAST.get(core, 0.0)
        print(f"{core:12} {kernel:20} {plans[kernel].algo:18} {count:5} {len(body) - count:6} {took:7.1f} {count / took:12.2f}"
              f"{f'  less than {least}' if round(count / took, 2) < least else ''}{f'  {spilled} spills' if spilled else ''}", flush=True)


def show_tiles(core: str, isa: Isa) -> None:
    """Print one line for each register tile: for each kernel `fmla` a cycle, and spills where there are some."""
    exact, plans = with_facts(isa, exact=True), dict[str, KernelPlan]()
    for tw, nb in TILES:
        with forced(tw, nb):
            plans |= {f"{tw}x{nb} {layer.name}": layer.plan(exact) for layer in TRIED}
    texts = kernel_texts(plans, isa, "asm")
    for tw, nb in TILES:
        cells = []
        for layer in TRIED:
            body = hottest(texts[f"{tw}x{nb} {layer.name}"], FMLA)
            cells.append(f"{total(body, FMLA) / cycles(body, core):6.2f}{f' ({spills(body)} spills)' if spills(body) else '':12}")
        print(f"{core:12} {f'{tw}x{nb}':6} {tw * nb + tw + nb:3} registers  {''.join(cells)}", flush=True)


def main() -> None:
    """Print a table for each core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=CORES, metavar="TARGET")
    parser.add_argument("--tiles", action="store_true")
    args = parser.parse_args()
    print(f"{'target':12} " + ("tile: " + ", ".join(layer.name for layer in TRIED) if args.tiles else
                               f"{'kernel':20} {'plan':18} {'fmla':>5} {'others':>6} {'cycles':>7} {'fmla a cycle':>12}"))
    for name in args.targets:
        (show_tiles if args.tiles else show)(name, cpu_isa(find(name)))


if __name__ == "__main__":
    main()
