"""Indices that are known only when the kernel runs."""

from collections.abc import Sequence

from tvm import tirx

from edgec.kernels.emit.core import Index, Kernel, Vector, hold, lane
from edgec.kernels.map import Loop


def bases_of(unit: Index, loops: Sequence[Loop], operands: int) -> list[Index]:
    """The offset of each operand in iteration `unit` of nested loops."""
    bases: list[Index] = [0] * operands
    for number, it in enumerate(reversed(loops)):
        unit = hold(unit, "i32", 1)
        i = unit if number == len(loops) - 1 else hold(tirx.truncmod(unit, it.extent), "i32", 1)
        bases = [b + i * s if s else b for b, s in zip(bases, it.strides, strict=True)]
        unit = tirx.truncdiv(unit, it.extent)
    return [b if isinstance(b, int) else hold(b, "i32", 1) for b in bases]


def lanes_of(indices: Vector, width: int) -> list[Index]:
    """The lanes of a vector of indices as numbers."""
    return [hold(lane(indices, i), "i32", 1) for i in range(width)] if width > 1 else [indices]


def pick(kernel: Kernel, arg: int, places: Sequence[Index]) -> Vector:
    """The elements of an operand at any places, put together."""
    loaded = [kernel.load(arg, p) for p in places]
    return loaded[0] if len(loaded) == 1 else tirx.Shuffle(loaded, [tirx.IntImm("int32", i) for i in range(len(loaded))])
