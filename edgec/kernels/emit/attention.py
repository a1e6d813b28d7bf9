"""Attention: K turned where it must be, then block by block of rows their scores, their powers, and the products with V."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.attention import AttentionPlan
from edgec.kernels.base import vectors
from edgec.kernels.contract import PARTIAL
from edgec.kernels.emit import tiles
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, address, const, function, hold, lane, loop
from edgec.kernels.emit.elementwise import epilogue
from edgec.kernels.emit.vectormath import VectorMath

_Q, _K, _V = 0, 1, 2
_UNROLL = 4
Load = Callable[[Index, int], Vector]                                  # (element of the reduction, lanes) -> neighbors from there


def emit(plan: AttentionPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, partial(_task, plan))


def _task(plan: AttentionPlan, kernel: Kernel, task: Index) -> None:
    first = T.bind(task * plan.units)
    last = first + plan.units if plan.all_units % plan.units == 0 else T.min(first + plan.units, plan.all_units)
    loop(first, T.bind(last), lambda u: _Unit(plan, kernel, task, T.bind(u)).run())


class _Unit:
    """A part of the rows of one head."""

    def __init__(self, plan: AttentionPlan, kernel: Kernel, task: Index, unit: Index) -> None:
        self.plan, self.k = plan, kernel
        self.part, self.h, self.b = tiles.indices(unit, plan.parts, plan.y.axes[1].extent)
        if plan.y.axes[0].extent == 1:
            self.b = 0
        self.scratch = len(plan.args) - 1
        self.out = self.scratch - 1
        line = 16
        self.turned = T.bind(task * plan.args[-1].elements)
        self.scores = self.turned + -(-plan.columns * plan.depth * plan.turned // line) * line
        self.sums = self.scores + -(-plan.rows * plan.columns // line) * line

    def run(self) -> None:
        """Turn K, then all blocks of rows of this part."""
        if self.plan.turned:
            self.turn()
        rows, parts, size = self.plan.y.axes[2].extent, self.plan.parts, self.plan.rows
        height = -(-rows // parts)
        if parts == 1:
            loop(0, rows // size, lambda i: self.block(i * size, size))
            if rows % size:
                self.block(rows // size * size, rows % size)
            return
        height = -(-height // size) * size                             # whole blocks, the last part takes what is left
        start = T.bind(self.part * height)
        loop(0, T.bind(T.max(0, T.min(height, rows - start) // size)), lambda i: self.block(start + i * size, size))
        if rows % size:
            at = rows // size * size
            with T.If(tirx.EQ(self.part, at // height)), T.Then():
                self.block(at, rows % size)

    def turn(self) -> None:
        """K of this head in scratch memory, columns in a row."""
        plan, lanes = self.plan, self.k.isa.lanes
        columns, depth, axis = plan.columns, plan.depth, plan.k.axes[2]
        base = address(plan.k, [self.b, self.h, 0, 0])
        whole = (columns // lanes * lanes, depth // lanes * lanes) if axis.stride == 1 and lanes > 1 else (0, 0)

        def square(c: Index, d: Index) -> None:
            at = base + c * lanes * plan.k.axes[3].stride + d * lanes
            made = _transposed([self.k.load(_K, at + i * plan.k.axes[3].stride, lanes) for i in range(lanes)], lanes)
            for i, value in enumerate(made):
                self.k.store(self.scratch, value, self.turned + (d * lanes + i) * columns + c * lanes, lanes)

        def single(c: Index, d: Index) -> None:
            value = self.k.load(_K, base + c * plan.k.axes[3].stride + d * axis.stride)
            self.k.store(self.scratch, value, self.turned + d * columns + c)

        loop(0, whole[0] // lanes, lambda c: loop(0, whole[1] // lanes, partial(square, c)))
        if whole[1] < depth:
            loop(0, whole[0], lambda c: loop(whole[1], depth, partial(single, c)))
        if whole[0] < columns:
            loop(whole[0], columns, lambda c: loop(0, depth, partial(single, c)))

    def block(self, first: Index, count: int) -> None:
        """`count` rows from `first`."""
        plan = self.plan
        first = T.bind(first)
        _groups(plan.widths, lambda widths, at: self.score(first, count, widths, at))
        loop(0, count, self.soften)
        _groups(plan.across, lambda widths, at: self.apply(first, count, widths, at))

    def score(self, first: Index, count: int, widths: tuple[int, ...], column: Index) -> None:
        """Products of the rows with some columns of K, and the arithmetic that follows."""
        plan, k = self.plan, self.k
        left = [address(plan.q, [self.b, self.h, first + i, 0]) for i in range(count)]
        places = [0, *accumulate(widths)]

        def right(d: Index, j: int) -> Vector:
            if plan.turned:
                return k.load(self.scratch, self.turned + d * plan.columns + column + places[j], widths[j])
            return k.load(_K, address(plan.k, [self.b, self.h, d, column]) + places[j], widths[j])

        cells = self.products((_Q, left, plan.q.axes[3].stride), right, plan.depth, widths)
        for i in range(count):
            for j, w in enumerate(widths):
                at = [self.b, self.h, first + i, column + places[j]]
                value = epilogue(k, plan.scores, cells.get(i, j), at, 3, w)
                k.store(self.scratch, value, self.scores + i * plan.columns + column + places[j], w)

    def soften(self, row: Index) -> None:
        """Scores of a row of the block become powers of their distance to the largest, and one over their sum is kept."""
        at = T.bind(self.scores + row * self.plan.columns)
        top = self.fold(float("-inf"), lambda i, w: self.k.load(self.scratch, at + i, w), _larger)

        def power(i: Index, w: int) -> Vector:
            value = hold(self.k.load(self.scratch, at + i, w) - _spread(top, w), "f32", w)
            value = VectorMath("f32", w).hold(VectorMath("f32", w).exp_down(value))
            self.k.store(self.scratch, value, at + i, w)
            return value

        total = self.fold(0.0, power, lambda a, b, _: a + b)
        self.k.store(self.scratch, const(1.0, "f32") / total, self.sums + row)

    def fold(self, start: float, element: Load, step: Callable[[Vector, Vector, int], Vector]) -> Vector:
        """All elements of a row of scores in one number: vectors in turns, then the lanes of what they make."""
        lanes, columns = self.k.isa.lanes, self.plan.columns
        unroll = min(_UNROLL, columns // lanes)
        cells = Accumulators((lanes,) * max(1, unroll), 1)
        for u in range(max(1, unroll)):
            cells.set(0, u, const(start, "f32", lanes))

        def some(first: Index, count: int) -> None:
            for u in range(count):
                cells.set(0, u, step(cells.get(0, u), element(first + u * lanes, lanes), lanes))

        if unroll:
            whole = columns // (lanes * unroll)
            loop(0, whole, lambda i: some(i * lanes * unroll, unroll))
            some(whole * lanes * unroll, columns // lanes - whole * unroll)
        value, width = hold(cells.get(0, 0), "f32", lanes), lanes
        for u in range(1, unroll):
            value = hold(step(value, cells.get(0, u), width), "f32", width)
        rest, at = vectors(columns % lanes, lanes) if lanes > 1 else (), columns // lanes * lanes
        while width > 1:
            width //= 2
            halves = [tirx.Shuffle([value], [tirx.IntImm("int32", i) for i in part]) for part in (range(width), range(width, 2 * width))]
            value = hold(step(halves[0], halves[1], width), "f32", width)
            if width in rest:
                value = hold(step(value, element(at, width), width), "f32", width)
                at += width
        return value

    def apply(self, first: Index, count: int, widths: tuple[int, ...], column: Index) -> None:
        """Products of the powers with some columns of V, divided by the sums of their rows."""
        plan, k = self.plan, self.k
        places = [0, *accumulate(widths)]
        left = [self.scores + i * plan.columns for i in range(count)]

        def right(c: Index, j: int) -> Vector:
            return k.load(_V, address(plan.v, [self.b, self.h, c, column]) + places[j], widths[j])

        cells = self.products((self.scratch, left, 1), right, plan.columns, widths)
        for i in range(count):
            for j, w in enumerate(widths):
                value = cells.get(i, j) * k.splat(self.scratch, self.sums + i, w)
                k.write(self.out, plan.y, [self.b, self.h, first + i, column + places[j]], 3, value, w)

    def products(self, left: tuple[int, Sequence[Index], int], right: Callable[[Index, int], Vector], depth: int, widths: tuple[int, ...]
                 ) -> Accumulators:
        """Sums of products of rows (an operand, where each begins, the step along it) with vectors, in chains of PARTIAL products."""
        count = len(left[1])
        cells = self._zeros(count, widths)
        if depth <= PARTIAL:
            self._chain(cells, left, right, (0, depth), widths)
            return cells
        summand = Accumulators(widths, count)

        def part(start: Index, size: int) -> None:
            self._clear(summand, count, widths)
            self._chain(summand, left, right, (start, size), widths)
            for i in range(count):
                for j in range(len(widths)):
                    cells.set(i, j, cells.get(i, j) + summand.get(i, j))

        loop(0, depth // PARTIAL, lambda q: part(q * PARTIAL, PARTIAL))
        if depth % PARTIAL:
            part(depth // PARTIAL * PARTIAL, depth % PARTIAL)
        return cells

    def _zeros(self, count: int, widths: tuple[int, ...]) -> Accumulators:
        cells = Accumulators(widths, count)
        self._clear(cells, count, widths)
        return cells

    def _clear(self, cells: Accumulators, count: int, widths: tuple[int, ...]) -> None:
        for i in range(count):
            for j, w in enumerate(widths):
                cells.set(i, j, const(0.0, "f32", w))

    def _chain(self, cells: Accumulators, left: tuple[int, Sequence[Index], int], right: Callable[[Index, int], Vector],
               span: tuple[Index, int], widths: tuple[int, ...]) -> None:
        (source, starts, step), (begin, length), lanes = left, span, self.k.isa.lanes
        by_lane = self.k.isa.broadcast == "lane" and step == 1 and lanes > 1

        def add(d: Index, pixel: Callable[[int, int], Vector]) -> None:
            loaded = [T.bind(right(d, j)) for j in range(len(widths))]
            for i in range(len(starts)):
                for j, w in enumerate(widths):
                    cells.set(i, j, cells.get(i, j) + pixel(i, w) * loaded[j])

        def plain(first: Index, count: int) -> None:
            for u in range(count):
                add(first + u, lambda i, w, u=u: self.k.splat(source, starts[i] + (first + u) * step, w))  # type: ignore[misc]

        def block(first: Index) -> None:
            held = [T.bind(self.k.load(source, start + first, lanes)) for start in starts]
            for u in range(lanes):
                add(first + u, lambda i, w, u=u: lane(held[i], u, w))  # type: ignore[misc]

        unroll = lanes if by_lane else _UNROLL
        loop(0, length // unroll, lambda q: block(begin + q * unroll) if by_lane else plain(begin + q * unroll, unroll))
        plain(begin + length // unroll * unroll, length % unroll)


def _groups(groups: Sequence[tuple[int, ...]], body: Callable[[tuple[int, ...], Index], None]) -> None:
    """Run body(widths, first column) for each group of vectors, those that are alike in a loop."""
    size, full = sum(groups[0]), sum(1 for g in groups if g == groups[0])
    loop(0, full, lambda g: body(groups[0], g * size))
    start = full * size
    for widths in groups[full:]:
        body(widths, start)
        start += sum(widths)


def _larger(a: Vector, b: Vector, _: int) -> Vector:
    """The larger of two; NaN may be lost here, for its power is in the sum."""
    return tirx.Select(tirx.GT(b, a), b, a)


def _spread(value: Vector, width: int) -> Vector:
    return T.Broadcast(value, width) if width > 1 else value


def _transposed(rows: Sequence[Vector], lanes: int) -> list[Vector]:
    """A square of vectors with rows and columns exchanged: after log2(lanes) perfect shuffles of the rows i and i + lanes/2."""
    rows = [hold(r, "f32", lanes) for r in rows]
    low = [tirx.IntImm("int32", i // 2 + i % 2 * lanes) for i in range(lanes)]
    high = [tirx.IntImm("int32", i // 2 + i % 2 * lanes + lanes // 2) for i in range(lanes)]
    for _ in range(lanes.bit_length() - 1):
        pairs = [(rows[i], rows[i + lanes // 2]) for i in range(lanes // 2)]
        rows = [hold(tirx.Shuffle(list(pair), half), "f32", lanes) for pair in pairs for half in (low, high)]
    return list(rows)
