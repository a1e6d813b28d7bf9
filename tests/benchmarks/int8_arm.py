# ruff: noqa: T201 - it is a program
"""What llvm-mca expects of the inner loops of int8 convolutions: `python -m tests.benchmarks.int8_arm [TARGET …]`.

The loop is the innermost block of the compiled kernel with the most products. llvm-mca (Debian: `llvm`) simulates it on LLVM's model of
the core, without caches.
"""

import re
import shutil
import subprocess
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

PRODUCTS = {"smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "sdot": 16}
"""Products of bytes in an instruction."""
MODELS = {"cortex-a76": "neoverse-n1"}
"""Cores whose model LLVM has under another name: Neoverse N1 is the Cortex-A76 of servers."""
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


def hottest(assembly: str) -> list[str]:
    """The loop of one block with the most products."""
    lines = assembly.splitlines()
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"(\.L\w+):", line))}
    best: tuple[int, list[str]] = (0, [])
    for i, line in enumerate(lines):
        jump = re.match(r"\s+(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,|b)\s+(\.L\w+)", line)
        start = labels.get(jump[1], i) if jump else i
        inside = lines[start + 1:i + 1]
        if start < i and not any(re.match(r"\.LBB\w+:", other) for other in inside):
            body = [text.split("//")[0] for text in inside if text.startswith("\t") and not text.lstrip().startswith(".")]
            best = max(best, (products(body), body), key=lambda b: b[0])
    return best[1]


def products(body: Sequence[str]) -> int:
    """Products in a piece of assembly."""
    return sum(PRODUCTS.get(line.split()[0], 0) for line in body)


def cycles(body: Sequence[str], mcpu: str) -> float:
    """Cycles of one round of a loop, on average of many."""
    rounds = 200
    done = subprocess.run(["llvm-mca", "-mtriple=aarch64", f"-mcpu={mcpu}", f"-iterations={rounds}"], input="\n".join(body) + "\n",
                          capture_output=True, text=True, check=True)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if found is None:
        raise SystemExit(done.stdout)
    return int(found[1]) / rounds


def main(targets: Sequence[str]) -> None:
    """Print one line for each convolution on each core."""
    if shutil.which("llvm-mca") is None:
        raise SystemExit("llvm-mca is not installed; it comes with Debian's package llvm")
    print(f"{'target':12} {'kernel':22} {'products':>8} {'cycles':>7} {'a cycle':>8}")
    for name in targets:
        isa = cpu_isa(find(name))
        plans = {str(k): convolution(k, isa) for k in (3, 1)}
        for kernel, text in kernel_texts(plans, isa, "asm").items():
            body = hottest(text)
            took, count = cycles(body, MODELS.get(name, name)), products(body)
            spilled = sum("sp" in line for line in body)
            print(f"{name:12} {plans[kernel].algo + ' ' + kernel + 'x' + kernel:22} {count:8} {took:7.1f} {count / took:8.2f}"
                  f"{f'  {spilled} spills' if spilled else ''}")


if __name__ == "__main__":
    main(sys.argv[1:] or ("cortex-a72", "cortex-a53", "cortex-a76", "cortex-a55"))
