# ruff: noqa: T201 - it is a program
"""What llvm-mca expects of the inner loops of int8 convolutions: `python -m tests.benchmarks.int8_arm [TARGET …]`.

The loop is the innermost block of the compiled kernel with the most products. llvm-mca (Debian: `llvm`) simulates it on LLVM's model of
the core, without caches.
"""

import sys
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from edgec.codegen.object import kernel_texts
from edgec.ir.graph import Node, Value
from edgec.ir.layout import Layout
from edgec.ir.types import Tensor
from edgec.isa import Isa, cpu_isa
from edgec.kernels.base import KernelPlan, Operands
from edgec.kernels.plan import plan
from edgec.target import find
from tests.benchmarks.arm_loops import CORES, cycles, hottest, spills, total

PRODUCTS = {"smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "sdot": 16}
"""Products of bytes in an instruction."""
CHANNELS, SIZE = 128, 28


def convolution(kernel: int, isa: Isa) -> KernelPlan:
    """A convolution of 128 to 128 channels on 28x28 pixels whose sums become bytes."""
    nhwc, pad = Layout((0, 2, 3, 1)), kernel // 2
    image = (1, CHANNELS, SIZE, SIZE)
    x, y = Value("x", Tensor("i8", image, nhwc)), Value("y", Tensor("i32", image, nhwc))
    w = Value("w", Tensor("i8", (CHANNELS, CHANNELS, kernel, kernel)))
    node = Node("ConvInteger", (x, w), (y,), MappingProxyType({"kernel_shape": [kernel] * 2, "pads": [pad] * 4}))
    made = plan(node, isa, Operands.of({w: np.zeros(w.dims, np.int8)}, lambda v: v.tensor.view))
    if isinstance(made, str):
        raise SystemExit(made)
    return made.plan


def main(targets: Sequence[str]) -> None:
    """Print one line for each convolution on each core."""
    print(f"{'target':12} {'kernel':22} {'products':>8} {'cycles':>7} {'a cycle':>8}")
    for name in targets:
        isa = cpu_isa(find(name))
        plans = {str(k): convolution(k, isa) for k in (3, 1)}
        for kernel, text in kernel_texts(plans, isa, "asm").items():
            body = hottest(text, PRODUCTS)
            took, count, spilled = cycles(body, name), total(body, PRODUCTS), spills(body)
            print(f"{name:12} {plans[kernel].algo + ' ' + kernel + 'x' + kernel:22} {count:8} {took:7.1f} {count / took:8.2f}"
                  f"{f'  {spilled} spills' if spilled else ''}")


if __name__ == "__main__":
    main(sys.argv[1:] or CORES)
