"""Reductions and normalizations: each row (or group of vectors of rows) is walked once for each statistic, then once to write it."""

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.base import vectors
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, cast, const, function, hold, loop, when
from edgec.kernels.emit.indexing import bases_of
from edgec.kernels.emit.row import UNROLL, Element, Row, part
from edgec.kernels.emit.vectormath import VectorMath
from edgec.kernels.reduce import ReducePlan


def emit(plan: ReducePlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: _Rows(plan, kernel).task(task))


class _Rows:
    """Which rows a task takes."""

    def __init__(self, plan: ReducePlan, kernel: Kernel) -> None:
        self.plan, self.k = plan, kernel

    def task(self, t: Index) -> None:
        plan = self.plan
        low = hold(t * plan.rows, "i32", 1)
        high = low + plan.rows if plan.units % plan.rows == 0 else hold(T.min(low + plan.rows, plan.units), "i32", 1)
        loop(low, high, self.unit)

    def unit(self, u: Index) -> None:
        plan, lanes = self.plan, self.k.isa.lanes
        if plan.along:
            _Operator(plan, self.k, bases_of(u, plan.kept, len(plan.args) + 1), ()).emit()
            return
        *outer, inner = plan.kept
        size = lanes * plan.group
        full, rest = divmod(inner.extent, size)
        groups = full + (rest > 0)
        g = hold(tirx.truncmod(u, groups), "i32", 1) if groups > 1 else 0
        bases = bases_of(tirx.truncdiv(u, groups), outer, len(plan.args) + 1)
        bases = [b + g * size * s for b, s in zip(bases, inner.strides, strict=True)]
        alone = full == 0 or rest == 0
        if full:
            when(True if alone else g < full, lambda: _Operator(plan, self.k, bases, (lanes,) * plan.group).emit())
        if rest:
            when(True if alone else tirx.EQ(g, full), lambda: _Operator(plan, self.k, bases, vectors(rest, lanes)).emit())


class _Operator(Row):
    """What each operator does with a row."""

    def emit(self) -> None:
        op = self.plan.op
        if op in ("softmax", "log_softmax"):
            self._softmax(log=op == "log_softmax")
        elif op in ("normalize", "rms", "lp"):
            self._normalize(op)
        elif op == "cumsum":
            self._cumsum()
        elif op in ("arg_max", "arg_min"):
            self._arg(tirx.GT if op == "arg_max" else tirx.LT)
        else:
            self.finish(self._statistic(op))

    def _statistic(self, op: str) -> list[Vector]:
        """The result of a reduction, before the epilogue."""
        x, d, n = self.element, self.dtype, self.plan.size
        if op in ("max", "min"):
            limit = _lowest(d) if op == "max" else _highest(d)
            return self.reduce(limit, x, self.binary(op.capitalize()))
        if op == "prod":
            return self.reduce(1, x, self.binary("Mul"))
        if op == "log_sum_exp":
            top = [m.hold(m.where(tirx.LT(m.abs(v), m.const(float("inf"))), v, m.const(0.0)))
                   for v, m in self.each(self.reduce(float("-inf"), x, self.binary("Max")))]
            total = self.reduce(0, lambda j, w, b: VectorMath(d, w).exp(x(j, w, b) - self.spread(top, j, w)), self.binary("Add"), 2)
            return [m.log(v) + t for (v, m), t in zip(self.each(total), top, strict=True)]
        if op == "l1":
            total = self.reduce(0, lambda j, w, b: self.unary("Abs", x(j, w, b), w), self.binary("Add"))
        else:
            total = self.reduce(0, self.squared(x) if op in ("l2", "sum_square") else x, self.binary("Add"))
        if op == "mean":
            return [v / m.const(n) for v, m in self.each(total)]
        if op in ("l2", "log_sum"):
            return [m.sqrt(v) if op == "l2" else m.log(v) for v, m in self.each(total)]
        return total

    def _softmax(self, *, log: bool) -> None:
        d = self.dtype
        plain = lambda a, b, _w: tirx.Select(tirx.GT(b, a), b, a)  # noqa: E731  NaN may be lost here: its exponential is in the sum
        top = [v for v, _ in self.each(self.reduce(float("-inf"), self.kept_element, plain))]
        self.stored = self.in_place and bool(self.plan.prologue.instrs)

        def power(j: int, w: int, b: list[Index]) -> Vector:
            value = VectorMath(d, w).hold(VectorMath(d, w).exp_down(self.element(j, w, b) - self.spread(top, j, w)))
            if self.in_place and not log:
                self.write(b, w, value)
            return value

        total = self.each(self.reduce(0, power, self.binary("Add"), 2))
        self.stored = self.stored or (self.in_place and not log)
        scale = [m.hold(m.log(v) if log else m.const(1.0) / v) for v, m in total]

        def write(slot: int, w: int, b: list[Index]) -> None:
            j = self.number(slot)
            value = self.element(j, w, b)
            if log:
                value = (value - self.spread(top, j, w)) - self.spread(scale, j, w)
            else:
                e = value if self.in_place else VectorMath(d, w).exp_down(value - self.spread(top, j, w))
                value = e * self.spread(scale, j, w)
            self.store(b, w, value)

        self.walk(2, write)

    def _normalize(self, op: str) -> None:
        """Subtract the mean (`normalize`), divide by a deviation or a norm, scale and shift."""
        n, add = self.plan.size, self.binary("Add")
        mean: list[Vector] = []
        element: Element = self.kept_element
        if op == "normalize":
            mean = [m.hold(v / m.const(n)) for v, m in self.each(self.reduce(0, element, add))]
            self.stored = self.in_place and bool(self.plan.prologue.instrs)
            element = lambda j, w, b: self.element(j, w, b) - self.spread(mean, j, w)  # noqa: E731
        if op == "lp" and self.plan.order == 1:
            total = self.reduce(0, lambda j, w, b: self.unary("Abs", element(j, w, b), w), add)
        else:
            total = self.reduce(0, self.squared(element), add)
        self.stored = self.in_place and bool(self.plan.prologue.instrs)
        scale = []
        for v, m in self.each(total):
            if op == "lp":                                             # a row of zeros stays one
                norm = m.hold(m.sqrt(v) if self.plan.order == 2 else v)  # noqa: PLR2004
                scale.append(m.hold(m.where(tirx.EQ(norm, m.const(0.0)), m.const(0.0), m.const(1.0) / norm)))
            else:
                scale.append(m.hold(m.const(1.0) / m.sqrt(v / m.const(n) + m.const(self.plan.eps))))

        def write(slot: int, w: int, b: list[Index]) -> None:
            j = self.number(slot)
            value = self.element(j, w, b)
            if mean:
                value = value - self.spread(mean, j, w)
            value = value * self.spread(scale, j, w)
            if self.plan.params > 0:
                value = value * self.read(self.inputs, b, w)
            if self.plan.params > 1:
                value = value + self.read(self.inputs + 1, b, w)
            self.store(b, w, value)

        self.walk(2, write)

    def _cumsum(self) -> None:
        """A running sum, element by element; along a row each vector is one number."""
        self.widths = self.widths or (1,)
        cells = Accumulators(self.widths, 1, self.dtype)
        for j, width in enumerate(self.widths):
            cells.set(0, j, const(0, self.dtype, width))
        exclusive = "exclusive" in self.plan.flags

        def add(j: int, width: int, bases: list[Index]) -> None:
            value = self.element(j, width, bases)
            if exclusive:
                self.store(bases, width, hold(cells.get(0, j), self.dtype, width))
            cells.set(0, j, self.binary("Add")(cells.get(0, j), value, width))
            if not exclusive:
                self.store(bases, width, cells.get(0, j))

        self.walk(1, add, backward="reverse" in self.plan.flags)

    def _arg(self, better: Callable[[Vector, Vector], Vector]) -> None:
        """The index of the best element; of equal ones the first, or the last."""
        d, last = self.dtype, "last" in self.plan.flags
        slots = self.slots(UNROLL)[1]
        best, index = Accumulators(slots, 1, d), Accumulators(slots, 1, "i32")
        for slot, width in enumerate(slots):
            best.set(0, slot, const(_lowest(d) if better is tirx.GT else _highest(d), d, width))
            index.set(0, slot, const(0, "i32", width))
        step = self.vector.strides[-1] if self.plan.along else 0

        def choose(a: tuple[Vector, Vector], b: tuple[Vector, Vector], width: int) -> tuple[Vector, Vector]:
            later = tirx.GT(b[1], a[1]) if last else tirx.LT(b[1], a[1])
            wins = hold(better(b[0], a[0]) | (tirx.EQ(b[0], a[0]) & later), "bool", width)
            return hold(tirx.Select(wins, b[0], a[0]), d, width), hold(tirx.Select(wins, b[1], a[1]), "i32", width)

        def see(slot: int, width: int, bases: list[Index]) -> None:
            value = self.element(0, width, bases)
            wins = better(value, best.get(0, slot))
            wins = hold(wins | tirx.EQ(value, best.get(0, slot)) if last else wins, "bool", width)
            first = const(bases[-1], "i32") if isinstance(bases[-1], int) else bases[-1]
            here = first if width == 1 else T.Ramp(first, step, width) if step else T.Broadcast(first, width)
            best.set(0, slot, tirx.Select(wins, value, best.get(0, slot)))
            index.set(0, slot, tirx.Select(wins, here, index.get(0, slot)))

        self.walk(UNROLL, see)
        pairs = self.fold([(hold(best.get(0, s), d, w), hold(index.get(0, s), "i32", w)) for s, w in enumerate(slots)], slots, choose,
                           lambda pair, lanes: (part(pair[0], lanes), part(pair[1], lanes)))
        self.finish([cast(i, "i64", w) for (_, i), w in zip(pairs, self.widths or (1,), strict=True)])


def _lowest(dtype: str) -> float:
    return float("-inf") if dtype[0] == "f" else 0 if dtype[0] == "u" else -(1 << (int(dtype[1:]) - 1))


def _highest(dtype: str) -> float:
    return float("inf") if dtype[0] == "f" else (1 << int(dtype[1:])) - 1 if dtype[0] == "u" else (1 << (int(dtype[1:]) - 1)) - 1

