"""Elementwise kernels and copies."""

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.base import vectors
from edgec.kernels.emit.core import Index, Kernel, Vector, cast, const, function, hold, lane, loop
from edgec.kernels.emit.elementwise import evaluate
from edgec.kernels.map import MapPlan


def emit(plan: MapPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: _task(plan, kernel, task))


def _task(plan: MapPlan, kernel: Kernel, t: Index) -> None:
    first, *rest = plan.loops
    zero = [0] * len(plan.args)
    if not rest:
        low = t * plan.rows if plan.tasks > 1 else 0
        _vectorized(plan, kernel, zero, low, T.bind(T.min(low + plan.rows, first.extent)) if plan.tasks > 1 else first.extent)
        return

    def descend(level: int, bases: list[Index]) -> None:
        it = plan.loops[level]
        if level == len(plan.loops) - 1:
            _vectorized(plan, kernel, bases, 0, it.extent)
            return
        low, high = 0, it.extent
        if level == 0 and plan.tasks > 1:
            low = t * plan.rows
            high = low + plan.rows if it.extent % plan.rows == 0 else T.min(low + plan.rows, it.extent)
        loop(low, high, lambda i: descend(level + 1, [b + i * s for b, s in zip(bases, it.strides, strict=True)]))

    descend(0, list(zero))


def _vectorized(plan: MapPlan, kernel: Kernel, bases: list[Index], low: Index, high: Index) -> None:
    """The innermost loop from low to high: full vectors, then the rest by smaller ones."""
    inner, lanes = plan.loops[-1], kernel.isa.lanes

    def at(i: Index, width: int) -> None:
        values = [_read(kernel, a, bases[a] + i * inner.strides[a], inner.strides[a], width)
                  for a in range(len(plan.args) - 1) if not plan.table or a != 1]
        if plan.table:
            values[0] = _looked_up(plan, kernel, values[0], width)
        result = evaluate(plan.expr, values, width)[0]
        kernel.store(len(plan.args) - 1, result, bases[-1] + i * inner.strides[-1], width, inner.strides[-1])

    if isinstance(low, int) and isinstance(high, int):
        count = (high - low) // lanes
        loop(0, count, lambda v: at(low + v * lanes, lanes))
        start = low + count * lanes
        for width in vectors(high - start, lanes):
            at(start, width)
            start += width
        return
    count = T.bind(tirx.truncdiv(high - low, lanes))
    loop(0, count, lambda v: at(low + v * lanes, lanes))
    loop(low + count * lanes, high, lambda i: at(i, 1))


def _looked_up(plan: MapPlan, kernel: Kernel, value: Vector, width: int) -> Vector:
    """The entries of some bytes: table lookups one by one."""
    least = plan.table // 2 if plan.args[0].dtype == "i8" else 0
    index = hold(cast(value, "i32", width) + const(least, "i32", width), "i32", width)
    if width == 1:
        return kernel.load(1, index)
    return tirx.Shuffle([kernel.load(1, lane(index, i)) for i in range(width)], [tirx.IntImm("int32", i) for i in range(width)])


def _read(kernel: Kernel, arg: int, index: Index, stride: int, width: int) -> Vector:
    if stride == 0 or width == 1:
        return kernel.splat(arg, index, width)
    return kernel.load(arg, index, width) if stride == 1 else kernel.gather(arg, index, stride, width)
