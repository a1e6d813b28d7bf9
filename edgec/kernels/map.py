"""Plans for elementwise kernels, copies and broadcasts: one nest of loops over the output, in the order of its memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from edgec.ir.layout import Axis, View
from edgec.kernels.base import KernelPlan
from edgec.kernels.expr import Expr

_TASK = 16384
"""Elements that are worth handing to another thread."""


@dataclass(frozen=True)
class Loop:
    """`extent` iterations; `strides`: how far each operand (inputs…, output) moves in one of them, in elements."""

    extent: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class MapPlan(KernelPlan):
    """args: inputs…, output. `loops` from outermost to innermost, the last one vectorized; task t runs `rows` iterations of the first.

    `table`: entries of a table behind the first input, whose bytes choose among them; 0 when there is none.
    """

    loops: tuple[Loop, ...]
    rows: int
    expr: Expr
    name: str = "map"
    table: int = 0

    kind = "map"

    @property
    def algo(self) -> str:
        """map, or copy when nothing is computed."""
        return self.name


def split(axes: Sequence[Axis]) -> list[tuple[int, tuple[int, ...]]]:
    """One logical axis as loops that suit the blocks of every operand: (extent, stride of each operand), outermost first.

    ValueError when the blocks do not divide one another or the extent.
    """
    extent = axes[0].extent
    cuts = sorted({a.block for a in axes if a.block and a.block < extent})
    sizes = [1, *cuts, extent]
    loops = []
    for low, high in pairwise(sizes):
        if high % low:
            raise ValueError(f"blocks of {low} do not divide {high}")
        if high != low:
            loops.append((high // low, tuple(_step(a, low) for a in axes)))
    return loops[::-1] or [(1, tuple(0 for _ in axes))]


def _step(axis: Axis, n: int) -> int:
    """How far n neighbors reach that lie in one block, or are whole blocks."""
    if axis.block and n < min(axis.block, axis.extent):
        return n * axis.inner
    return axis.at(n)


def nest(views: Sequence[View]) -> tuple[Loop, ...]:
    """The loops over the common index space of views (the output last), sorted by the output's strides and merged where all allow it."""
    loops = [Loop(n, s) for axes in zip(*(v.axes for v in views), strict=True) for n, s in split(axes) if n != 1]
    loops.sort(key=lambda it: (-abs(it.strides[-1]), it.extent))
    merged: list[Loop] = []
    for it in loops:
        if merged and all(a == b * it.extent for a, b in zip(merged[-1].strides, it.strides, strict=True)):
            merged[-1] = Loop(merged[-1].extent * it.extent, it.strides)
        else:
            merged.append(it)
    return tuple(merged) or (Loop(1, tuple(0 for _ in views)),)


def task_rows(loops: Sequence[Loop], lanes: int) -> int:
    """Iterations of the outermost loop that make a task: a function of the shape alone."""
    inner = max(1, prod(it.extent for it in loops[1:]))
    rows = max(1, _TASK // inner)
    return -(-rows // lanes) * lanes if len(loops) == 1 else min(rows, loops[0].extent)
