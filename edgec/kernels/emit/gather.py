"""Gather and scatter: every index is checked before anything is read or written where it points."""

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.base import vectors
from edgec.kernels.emit.core import Index, Kernel, Vector, cast, compute_dtype, const, fail_when, function, hold, loop
from edgec.kernels.emit.elementwise import evaluate
from edgec.kernels.emit.functions import OPERATIONS
from edgec.kernels.emit.indexing import bases_of
from edgec.kernels.expr import Instr
from edgec.kernels.gather import GatherPlan
from edgec.kernels.map import Loop


def emit(plan: GatherPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: _Gather(plan, kernel).task(task))


class _Gather:
    """One task: some points."""

    def __init__(self, plan: GatherPlan, kernel: Kernel) -> None:
        self.plan, self.k = plan, kernel
        self.out = len(plan.args) - 1

    def task(self, t: Index) -> None:
        plan = self.plan
        if plan.scatters:
            self.walk(plan.copy, [0, 0], self.copy)
            loop(0, plan.units, self.point)
            return
        low = hold(t * plan.rows, "i32", 1)
        high = low + plan.rows if plan.units % plan.rows == 0 else hold(T.min(low + plan.rows, plan.units), "i32", 1)
        loop(low, high, self.point)

    def point(self, u: Index) -> None:
        plan = self.plan
        bases = bases_of(u, plan.points, len(plan.args))
        moved = self.out if plan.scatters else 0
        for component in plan.components:
            bases[moved] = hold(bases[moved] + self.index(bases[1] + component.offset, component.extent) * component.stride, "i32", 1)
        self.walk(plan.slices, bases, self.scatter if plan.scatters else self.gather)

    def index(self, place: Index, size: int) -> Index:
        """A number of the index tensor, counted from the axis' end if it is negative."""
        dtype = self.plan.args[1].dtype
        found = hold(self.k.load(1, place), dtype, 1)
        fail_when(tirx.LT(found, const(-size, dtype)) | tirx.GE(found, const(size, dtype)))
        positive = tirx.Select(tirx.LT(found, const(0, dtype)), found + const(size, dtype), found)
        return cast(positive, "i32", 1)

    def walk(self, loops: Sequence[Loop], bases: list[Index], body: Callable[[Loop, list[Index], int], None]) -> None:
        """Run body(innermost loop, bases, lanes) for every vector of nested loops."""
        *outer, inner = loops
        lanes = self.k.isa.lanes

        def move(bases: list[Index], it: Loop, i: Index) -> list[Index]:
            return [b + i * s if s else b for b, s in zip(bases, it.strides, strict=True)]

        def descend(level: int, bases: list[Index]) -> None:
            if level < len(outer):
                loop(0, outer[level].extent, lambda i: descend(level + 1, move(bases, outer[level], i)))
                return
            count = inner.extent // lanes
            loop(0, count, lambda v: body(inner, move(bases, inner, v * lanes), lanes))
            start = count * lanes
            for width in vectors(inner.extent - start, lanes):
                body(inner, move(bases, inner, start), width)
                start += width

        descend(0, bases)

    def gather(self, inner: Loop, bases: list[Index], width: int) -> None:
        values = [self.read(a, inner, bases, width) for a in range(self.out) if a != 1]
        value = evaluate(self.plan.epilogue, values, width)[0]
        self.k.store(self.out, value, bases[self.out], width, inner.strides[self.out])

    def scatter(self, inner: Loop, bases: list[Index], width: int) -> None:
        value = self.read(2, inner, bases, width)
        op, dtype = self.plan.reduction, compute_dtype(self.plan.args[self.out].dtype)
        if op:
            old = hold(self.read(self.out, inner, bases, width), dtype, width)
            value = OPERATIONS[op](Instr(op, (0, 1), (), dtype), [old, hold(value, dtype, width)], [dtype, dtype], width)
        self.k.store(self.out, value, bases[self.out], width, inner.strides[self.out])

    def copy(self, inner: Loop, bases: list[Index], width: int) -> None:
        source, target = inner.strides
        value = self.k.gather(0, bases[0], source, width) if source != 1 and width > 1 else self.k.load(0, bases[0], width)
        self.k.store(self.out, value, bases[1], width, target)

    def read(self, arg: int, inner: Loop, bases: list[Index], width: int) -> Vector:
        step = inner.strides[arg]
        if width == 1 or step == 0:
            return self.k.splat(arg, bases[arg], width)
        return self.k.load(arg, bases[arg], width) if step == 1 else self.k.gather(arg, bases[arg], step, width)
