"""Reductions and normalizations: each row (or group of vectors of rows) is walked once for each statistic, then once to write it."""

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.base import vectors
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, cast, compute_dtype, const, function, hold, loop, when
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
_UNROLL = 4                                                            # accumulators in flight


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
            _Row(plan, self.k, self._bases(u, plan.kept), ()).emit()
            return
        *outer, inner = plan.kept
        size = lanes * plan.group
        full, rest = divmod(inner.extent, size)
        groups = full + (rest > 0)
        g = hold(tirx.truncmod(u, groups), "i32", 1) if groups > 1 else 0
        bases = [b + g * size * s for b, s in zip(self._bases(tirx.truncdiv(u, groups), outer), inner.strides, strict=True)]
        alone = full == 0 or rest == 0
        if full:
            when(True if alone else g < full, lambda: _Row(plan, self.k, bases, (lanes,) * plan.group).emit())
        if rest:
            when(True if alone else tirx.EQ(g, full), lambda: _Row(plan, self.k, bases, vectors(rest, lanes)).emit())

    def _bases(self, u: Index, loops: Sequence[Loop]) -> list[Index]:
        """The offset of each operand (and of the logical index) in iteration u of some loops."""
        bases: list[Index] = [0] * (len(self.plan.args) + 1)
        for number, it in enumerate(reversed(loops)):
            if it.extent == 1:
                continue
            last = number == len(loops) - 1
            u = hold(u, "i32", 1)
            i = u if last else hold(tirx.truncmod(u, it.extent), "i32", 1)
            bases = [b + i * s if s else b for b, s in zip(bases, it.strides, strict=True)]
            u = tirx.truncdiv(u, it.extent)
        return [b if isinstance(b, int) else hold(b, "i32", 1) for b in bases]


class _Row:
    """One row, or a group of vectors of rows (`widths`)."""

    def __init__(self, plan: ReducePlan, kernel: Kernel, bases: list[Index], widths: tuple[int, ...]) -> None:
        self.plan, self.k, self.bases, self.widths = plan, kernel, bases, widths
        self.inputs, self.out = len(plan.prologue.arguments), len(plan.args) - 1
        self.dtype = compute_dtype(plan.prologue.dtype(plan.prologue.results[0]))
        self.vector = plan.reduced[-1] if plan.along else plan.kept[-1]
        self.in_place = plan.args[self.out].dtype == self.dtype        # the output may hold what a pass has computed
        self.stored = False

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
            self._finish(self._statistic(op))

    # -- walking along the row

    def _slots(self, unroll: int) -> tuple[int, list[int]]:
        """How often the innermost loop is unrolled, and the width of every vector that is then in flight."""
        inner = self.plan.reduced[-1].extent
        if not self.widths:
            lanes = self.k.isa.lanes
            unroll = min(unroll, inner // lanes)
            return unroll, [lanes] * unroll + list(vectors(inner % lanes, lanes))
        unroll = max(1, min(unroll // len(self.widths), inner))
        return unroll, list(self.widths) * unroll

    def _walk(self, unroll: int, body: Body, *, backward: bool = False) -> None:
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
        unroll, slots = self._slots(unroll)
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
        unroll = self._slots(unroll)[0]

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

    # -- statistics

    def _reduce(self, init: float, element: Element, step: Step, unroll: int = _UNROLL) -> list[Vector]:
        """Fold the elements of the row into one number (`along`), or into one vector for each of the group."""
        slots = self._slots(unroll)[1]
        cells = Accumulators(slots, 1, self.dtype)
        for slot, width in enumerate(slots):
            cells.set(0, slot, const(init, self.dtype, width))

        def add(slot: int, width: int, bases: list[Index]) -> None:
            cells.set(0, slot, step(cells.get(0, slot), element(self._number(slot), width, bases), width))

        self._walk(unroll, add)
        return self._fold([cells.get(0, slot) for slot in range(len(slots))], slots, lambda a, b, w: hold(step(a, b, w), self.dtype, w), _part)

    def _number(self, slot: int) -> int:
        """Which vector of rows a slot belongs to."""
        return slot % len(self.widths) if self.widths else 0

    def _fold(self, values: list[Any], slots: list[int], combine: Combine, part: Callable[[Any, Sequence[int]], Any]) -> list[Any]:
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
                current = combine(part(current, range(width)), part(current, range(width, 2 * width)), width)

    def _statistic(self, op: str) -> list[Vector]:
        """The result of a reduction, before the epilogue."""
        x, d, n = self._element, self.dtype, self.plan.size
        if op in ("max", "min"):
            limit = _lowest(d) if op == "max" else _highest(d)
            return self._reduce(limit, x, self._binary(op.capitalize()))
        if op == "prod":
            return self._reduce(1, x, self._binary("Mul"))
        if op == "log_sum_exp":
            top = [m.hold(m.where(tirx.LT(m.abs(v), m.const(float("inf"))), v, m.const(0.0)))
                   for v, m in self._each(self._reduce(float("-inf"), x, self._binary("Max")))]
            total = self._reduce(0, lambda j, w, b: VectorMath(d, w).exp(x(j, w, b) - self._spread(top, j, w)), self._binary("Add"), 2)
            return [m.log(v) + t for (v, m), t in zip(self._each(total), top, strict=True)]
        element = {"l1": lambda j, w, b: self._unary("Abs", x(j, w, b), w), "l2": self._squared(x), "sum_square": self._squared(x)}.get(op, x)
        total = self._reduce(0, element, self._binary("Add"))
        if op == "mean":
            return [v / m.const(n) for v, m in self._each(total)]
        if op in ("l2", "log_sum"):
            return [m.sqrt(v) if op == "l2" else m.log(v) for v, m in self._each(total)]
        return total

    def _each(self, values: list[Vector]) -> list[tuple[Vector, VectorMath]]:
        widths = self.widths or (1,)
        return [(hold(v, self.dtype, w), VectorMath(self.dtype, w)) for v, w in zip(values, widths, strict=True)]

    def _spread(self, statistic: list[Vector], j: int, width: int) -> Vector:
        """A statistic of the row in every lane, or that of the j-th vector of rows."""
        if self.widths or width == 1:
            return statistic[j]
        return T.Broadcast(statistic[0], width)

    # -- elements

    def _element(self, _: int, width: int, bases: list[Index]) -> Vector:
        """An element of the row after the prologue."""
        if self.stored:
            return hold(self._read(self.out, bases, width), self.dtype, width)
        loaded = [self._read(a, bases, width) for a in range(self.inputs)]
        return hold(evaluate(self.plan.prologue, loaded, width)[0], self.dtype, width)

    def _kept_element(self, j: int, width: int, bases: list[Index]) -> Vector:
        """The same; what the prologue has computed goes into the output, where later passes find it."""
        value = self._element(j, width, bases)
        if self.in_place and self.plan.prologue.instrs:
            self._write(bases, width, value)
        return value

    def _read(self, arg: int, bases: list[Index], width: int) -> Vector:
        step = self.vector.strides[arg]
        if width == 1 or step == 0:
            return self.k.splat(arg, bases[arg], width)
        return self.k.load(arg, bases[arg], width) if step == 1 else self.k.gather(arg, bases[arg], step, width)

    def _write(self, bases: list[Index], width: int, value: Vector) -> None:
        self.k.store(self.out, value, bases[self.out], width, self.vector.strides[self.out])

    def _store(self, bases: list[Index], width: int, value: Vector) -> None:
        """Apply the epilogue and write."""
        first = self.inputs + self.plan.params
        loaded = [self._read(a, bases, width) for a in range(first, self.out)]
        self._write(bases, width, evaluate(self.plan.epilogue, [value, *loaded], width)[0])

    def _finish(self, results: list[Vector]) -> None:
        for j, width in enumerate(self.widths or (1,)):
            self._store(self._shifted(self.bases, j), width, results[j])

    def _binary(self, op: str) -> Step:
        instr = Instr(op, (0, 1), (), self.dtype)
        return lambda a, b, w: OPERATIONS[op](instr, [a, b], [self.dtype] * 2, w)

    def _unary(self, op: str, value: Vector, width: int) -> Vector:
        return OPERATIONS[op](Instr(op, (0,), (), self.dtype), [value], [self.dtype], width)

    def _squared(self, element: Element) -> Element:
        def square(j: int, width: int, bases: list[Index]) -> Vector:
            value = hold(element(j, width, bases), self.dtype, width)
            return self._binary("Mul")(value, value, width)
        return square

    # -- operators with one result an element

    def _softmax(self, *, log: bool) -> None:
        d = self.dtype
        plain = lambda a, b, _w: tirx.Select(tirx.GT(b, a), b, a)  # noqa: E731  NaN may be lost here: its exponential is in the sum
        top = [v for v, _ in self._each(self._reduce(float("-inf"), self._kept_element, plain))]
        self.stored = self.in_place and bool(self.plan.prologue.instrs)

        def power(j: int, w: int, b: list[Index]) -> Vector:
            value = VectorMath(d, w).hold(VectorMath(d, w).exp(self._element(j, w, b) - self._spread(top, j, w)))
            if self.in_place and not log:
                self._write(b, w, value)
            return value

        total = self._each(self._reduce(0, power, self._binary("Add"), 2))
        self.stored = self.stored or (self.in_place and not log)
        scale = [m.hold(m.log(v) if log else m.const(1.0) / v) for v, m in total]

        def write(slot: int, w: int, b: list[Index]) -> None:
            j = self._number(slot)
            value = self._element(j, w, b)
            if log:
                value = (value - self._spread(top, j, w)) - self._spread(scale, j, w)
            else:
                e = value if self.in_place else VectorMath(d, w).exp(value - self._spread(top, j, w))
                value = e * self._spread(scale, j, w)
            self._store(b, w, value)

        self._walk(2, write)

    def _normalize(self, op: str) -> None:
        """Subtract the mean (`normalize`), divide by a deviation or a norm, scale and shift."""
        n, add = self.plan.size, self._binary("Add")
        mean: list[Vector] = []
        element = self._kept_element
        if op == "normalize":
            mean = [m.hold(v / m.const(n)) for v, m in self._each(self._reduce(0, element, add))]
            self.stored = self.in_place and bool(self.plan.prologue.instrs)
            element = lambda j, w, b: self._element(j, w, b) - self._spread(mean, j, w)  # noqa: E731
        if op == "lp" and self.plan.order == 1:
            total = self._reduce(0, lambda j, w, b: self._unary("Abs", element(j, w, b), w), add)
        else:
            total = self._reduce(0, self._squared(element), add)
        self.stored = self.in_place and bool(self.plan.prologue.instrs)
        scale = []
        for v, m in self._each(total):
            if op == "lp":                                             # a row of zeros stays one
                norm = m.hold(m.sqrt(v) if self.plan.order == 2 else v)  # noqa: PLR2004
                scale.append(m.hold(m.where(tirx.EQ(norm, m.const(0.0)), m.const(0.0), m.const(1.0) / norm)))
            else:
                scale.append(m.hold(m.const(1.0) / m.sqrt(v / m.const(n) + m.const(self.plan.eps))))

        def write(slot: int, w: int, b: list[Index]) -> None:
            j = self._number(slot)
            value = self._element(j, w, b)
            if mean:
                value = value - self._spread(mean, j, w)
            value = value * self._spread(scale, j, w)
            if self.plan.params > 0:
                value = value * self._read(self.inputs, b, w)
            if self.plan.params > 1:
                value = value + self._read(self.inputs + 1, b, w)
            self._store(b, w, value)

        self._walk(2, write)

    def _cumsum(self) -> None:
        """A running sum, element by element; along a row each vector is one number."""
        self.widths = self.widths or (1,)
        cells = Accumulators(self.widths, 1, self.dtype)
        for j, width in enumerate(self.widths):
            cells.set(0, j, const(0, self.dtype, width))
        exclusive = "exclusive" in self.plan.flags

        def add(j: int, width: int, bases: list[Index]) -> None:
            value = self._element(j, width, bases)
            if exclusive:
                self._store(bases, width, hold(cells.get(0, j), self.dtype, width))
            cells.set(0, j, self._binary("Add")(cells.get(0, j), value, width))
            if not exclusive:
                self._store(bases, width, cells.get(0, j))

        self._walk(1, add, backward="reverse" in self.plan.flags)

    def _arg(self, better: Callable[[Vector, Vector], Vector]) -> None:
        """The index of the best element; of equal ones the first, or the last."""
        d, last = self.dtype, "last" in self.plan.flags
        slots = self._slots(_UNROLL)[1]
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
            value = self._element(0, width, bases)
            wins = better(value, best.get(0, slot))
            wins = hold(wins | tirx.EQ(value, best.get(0, slot)) if last else wins, "bool", width)
            first = const(bases[-1], "i32") if isinstance(bases[-1], int) else bases[-1]
            here = first if width == 1 else T.Ramp(first, step, width) if step else T.Broadcast(first, width)
            best.set(0, slot, tirx.Select(wins, value, best.get(0, slot)))
            index.set(0, slot, tirx.Select(wins, here, index.get(0, slot)))

        self._walk(_UNROLL, see)
        pairs = self._fold([(hold(best.get(0, s), d, w), hold(index.get(0, s), "i32", w)) for s, w in enumerate(slots)], slots, choose,
                           lambda pair, lanes: (_part(pair[0], lanes), _part(pair[1], lanes)))
        self._finish([cast(i, "i64", w) for (_, i), w in zip(pairs, self.widths or (1,), strict=True)])


def _part(value: Vector, lanes: Sequence[int]) -> Vector:
    return tirx.Shuffle([value], [tirx.IntImm("int32", i) for i in lanes])


def _tree(values: list[Any], combine: Callable[[Any, Any], Any]) -> Any:  # noqa: ANN401
    """Combine values pairwise."""
    while len(values) > 1:
        values = [combine(*values[i:i + 2]) if i + 1 < len(values) else values[i] for i in range(0, len(values), 2)]
    return values[0]


def _lowest(dtype: str) -> float:
    return float("-inf") if dtype[0] == "f" else 0 if dtype[0] == "u" else -(1 << (int(dtype[1:]) - 1))


def _highest(dtype: str) -> float:
    return float("inf") if dtype[0] == "f" else (1 << int(dtype[1:])) - 1 if dtype[0] == "u" else (1 << (int(dtype[1:]) - 1)) - 1

