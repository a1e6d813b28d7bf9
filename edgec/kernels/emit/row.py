"""One row of a reduction, or a group of vectors of rows: how it is walked, folded, read and written."""

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.base import vectors
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, compute_dtype, const, hold, loop
from edgec.kernels.emit.elementwise import evaluate
from edgec.kernels.emit.functions import OPERATIONS
from edgec.kernels.emit.vectormath import VectorMath
from edgec.kernels.expr import Instr
from edgec.kernels.map import Loop
from edgec.kernels.reduce import ReducePlan

Step = Callable[[Vector, Vector, int], Vector]                         # (accumulator, element, lanes) -> accumulator
Body = Callable[[int, int, list[Index]], None]                         # (slot, lanes, bases)
Element = Callable[[int, int, list[Index]], Vector]                    # (which vector of rows, lanes, bases) -> element
Combine = Callable[[Any, Any, int], Any]
UNROLL = 4                                                             # accumulators in flight


class Row:
    """One row, or a group of vectors of rows (`widths`)."""

    def __init__(self, plan: ReducePlan, kernel: Kernel, bases: list[Index], widths: tuple[int, ...]) -> None:
        self.plan, self.k, self.bases, self.widths = plan, kernel, bases, widths
        self.inputs, self.out = len(plan.prologue.arguments), len(plan.args) - 1
        self.dtype = compute_dtype(plan.prologue.dtype(plan.prologue.results[0]))
        self.vector = plan.reduced[-1] if plan.along else plan.kept[-1]
        self.in_place = plan.args[self.out].dtype == self.dtype        # the output may hold what a pass has computed
        self.stored = False

    def slots(self, unroll: int) -> tuple[int, list[int]]:
        """How often the innermost loop is unrolled, and the width of every vector that is then in flight."""
        inner = self.plan.reduced[-1].extent
        if not self.widths:
            lanes = self.k.isa.lanes
            unroll = min(unroll, inner // lanes)
            return unroll, [lanes] * unroll + list(vectors(inner % lanes, lanes))
        unroll = max(1, min(unroll // len(self.widths), inner))
        return unroll, list(self.widths) * unroll

    def walk(self, unroll: int, body: Body, *, backward: bool = False) -> None:
        """Run body(slot, lanes, bases) for every vector of the row."""
        *outer, inner = self.plan.reduced

        def move(bases: list[Index], it: Loop, i: Index) -> list[Index]:
            i = it.extent - 1 - i if backward else i
            return [b + i * s if s else b for b, s in zip(bases, it.strides, strict=True)]

        def descend(level: int, bases: list[Index]) -> None:
            if level < len(outer):
                loop(0, outer[level].extent, lambda i: descend(level + 1, move(bases, outer[level], i)))
            else:
                (self._across if self.widths else self._along)(unroll, body, lambda i: move(bases, inner, i))

        descend(0, self.bases)

    def _along(self, unroll: int, body: Body, at: Callable[[Index], list[Index]]) -> None:
        extent, lanes = self.plan.reduced[-1].extent, self.k.isa.lanes
        unroll, slots = self.slots(unroll)
        step, start = lanes * unroll, 0

        def full(first: Index, count: int) -> None:
            for u in range(count):
                body(u, lanes, at(first + u * lanes))

        if unroll:
            loop(0, extent // step, lambda i: full(i * step, unroll))
            full(extent // step * step, extent % step // lanes)
            start = extent // lanes * lanes
        for slot, width in enumerate(slots[unroll:], unroll):
            body(slot, width, at(start))
            start += width

    def _across(self, unroll: int, body: Body, at: Callable[[Index], list[Index]]) -> None:
        extent = self.plan.reduced[-1].extent
        unroll = self.slots(unroll)[0]

        def some(first: Index, count: int) -> None:
            for u in range(count):
                bases = at(first + u)
                for j, width in enumerate(self.widths):
                    body(u * len(self.widths) + j, width, self._shifted(bases, j))

        loop(0, extent // unroll, lambda i: some(i * unroll, unroll))
        some(extent // unroll * unroll, extent % unroll)

    def _shifted(self, bases: list[Index], j: int) -> list[Index]:
        """Where the j-th vector of rows begins."""
        start = sum(self.widths[:j])
        return [b + start * s if start and s else b for b, s in zip(bases, self.vector.strides, strict=True)]

    def reduce(self, init: float, element: Element, step: Step, unroll: int = UNROLL) -> list[Vector]:
        """Fold the elements of the row into one number (`along`), or into one vector for each of the group."""
        slots = self.slots(unroll)[1]
        cells = Accumulators(slots, 1, self.dtype)
        for slot, width in enumerate(slots):
            cells.set(0, slot, const(init, self.dtype, width))

        def add(slot: int, width: int, bases: list[Index]) -> None:
            cells.set(0, slot, step(cells.get(0, slot), element(self.number(slot), width, bases), width))

        self.walk(unroll, add)
        found = [cells.get(0, slot) for slot in range(len(slots))]
        return self.fold(found, slots, lambda a, b, w: hold(step(a, b, w), self.dtype, w), part)

    def number(self, slot: int) -> int:
        """Which vector of rows a slot belongs to."""
        return slot % len(self.widths) if self.widths else 0

    def fold(self, values: list[Any], slots: list[int], combine: Combine, lanes_of: Callable[[Any, Sequence[int]], Any]) -> list[Any]:
        """Combine what the slots hold into one of each vector of rows, or into one number."""
        if self.widths:
            return [_tree(values[j::len(self.widths)], lambda a, b, w=w: combine(a, b, w))  # type: ignore[misc]
                    for j, w in enumerate(self.widths)]
        width, current = self.k.isa.lanes, None
        while True:
            same = [v for v, w in zip(values, slots, strict=True) if w == width]
            same = same if current is None else [current, *same]
            current = _tree(same, lambda a, b, w=width: combine(a, b, w)) if same else None  # type: ignore[misc]
            if width == 1:
                return [current]
            width //= 2
            if current is not None:
                current = combine(lanes_of(current, range(width)), lanes_of(current, range(width, 2 * width)), width)

    def each(self, values: list[Vector]) -> list[tuple[Vector, VectorMath]]:
        """Values of the rows, held, with the functions on vectors of their width."""
        widths = self.widths or (1,)
        return [(hold(v, self.dtype, w), VectorMath(self.dtype, w)) for v, w in zip(values, widths, strict=True)]

    def spread(self, statistic: list[Vector], j: int, width: int) -> Vector:
        """A statistic of the row in every lane, or that of the j-th vector of rows."""
        if self.widths or width == 1:
            return statistic[j]
        return T.Broadcast(statistic[0], width)

    def element(self, _: int, width: int, bases: list[Index]) -> Vector:
        """An element of the row after the prologue."""
        if self.stored:
            return hold(self.read(self.out, bases, width), self.dtype, width)
        loaded = [self.read(a, bases, width) for a in range(self.inputs)]
        return hold(evaluate(self.plan.prologue, loaded, width)[0], self.dtype, width)

    def kept_element(self, j: int, width: int, bases: list[Index]) -> Vector:
        """The same; what the prologue has computed goes into the output, where later passes find it."""
        value = self.element(j, width, bases)
        if self.in_place and self.plan.prologue.instrs:
            self.write(bases, width, value)
        return value

    def read(self, arg: int, bases: list[Index], width: int) -> Vector:
        """A vector of an operand, along the vectorized loop."""
        step = self.vector.strides[arg]
        if width == 1 or step == 0:
            return self.k.splat(arg, bases[arg], width)
        return self.k.load(arg, bases[arg], width) if step == 1 else self.k.gather(arg, bases[arg], step, width)

    def write(self, bases: list[Index], width: int, value: Vector) -> None:
        """Write a vector of the output."""
        self.k.store(self.out, value, bases[self.out], width, self.vector.strides[self.out])

    def store(self, bases: list[Index], width: int, value: Vector) -> None:
        """Apply the epilogue and write."""
        first = self.inputs + self.plan.params
        loaded = [self.read(a, bases, width) for a in range(first, self.out)]
        self.write(bases, width, evaluate(self.plan.epilogue, [value, *loaded], width)[0])

    def finish(self, results: list[Vector]) -> None:
        """Store one result for each row."""
        for j, width in enumerate(self.widths or (1,)):
            self.store(self._shifted(self.bases, j), width, results[j])

    def binary(self, op: str) -> Step:
        """An operator of two operands as a step."""
        instr = Instr(op, (0, 1), (), self.dtype)
        return lambda a, b, w: OPERATIONS[op](instr, [a, b], [self.dtype] * 2, w)

    def unary(self, op: str, value: Vector, width: int) -> Vector:
        """An operator of one operand."""
        return OPERATIONS[op](Instr(op, (0,), (), self.dtype), [value], [self.dtype], width)

    def squared(self, element: Element) -> Element:
        """The squares of elements."""
        def square(j: int, width: int, bases: list[Index]) -> Vector:
            value = hold(element(j, width, bases), self.dtype, width)
            return self.binary("Mul")(value, value, width)
        return square


def part(value: Vector, lanes: Sequence[int]) -> Vector:
    """Some lanes of a vector."""
    return tirx.Shuffle([value], [tirx.IntImm("int32", i) for i in lanes])


def _tree(values: list[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """Combine values pairwise."""
    while len(values) > 1:
        values = [combine(*values[i:i + 2]) if i + 1 < len(values) else values[i] for i in range(0, len(values), 2)]
    return values[0]
