"""Resize: from the position of an output to the positions it reads and their weights, then one product of weights for each tap."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.base import vectors
from edgec.kernels.emit.core import Index, Kernel, Vector, cast, compute_dtype, const, function, hold, keep, loop
from edgec.kernels.emit.elementwise import evaluate
from edgec.kernels.emit.indexing import bases_of, lanes_of, pick
from edgec.kernels.emit.vectormath import VectorMath
from edgec.kernels.resize import ResizePlan, Scaled


def emit(plan: ResizePlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: _Resize(plan, kernel).task(task))


@dataclass(frozen=True)
class _Taps:
    """Where one position of an axis reads (index, weight; no weight when there is one tap), and whether it lies outside the input."""

    taps: list[tuple[Vector, Vector | None]]
    outside: Vector | None


class _Resize:
    """One task: some rows."""

    def __init__(self, plan: ResizePlan, kernel: Kernel) -> None:
        self.plan, self.k = plan, kernel
        self.out = len(plan.args) - 1
        self.dtype = compute_dtype(plan.args[0].dtype)

    def task(self, t: Index) -> None:
        plan = self.plan
        low = hold(t * plan.rows, "i32", 1)
        high = low + plan.rows if plan.units % plan.rows == 0 else hold(T.min(low + plan.rows, plan.units), "i32", 1)
        loop(low, high, self.unit)

    def unit(self, u: Index) -> None:
        rows = self.plan.rows_of_axis
        bases = bases_of(tirx.truncdiv(u, rows) if rows > 1 else u, self.plan.outer, len(self.plan.args))
        if rows > 1:
            self.position(0, hold(tirx.truncmod(u, rows), "i32", 1), bases, [])
        else:
            self.axis(0, bases, [])

    def axis(self, level: int, bases: list[Index], taps: list[_Taps]) -> None:
        """All positions of one axis and of those below."""
        plan = self.plan
        if level == len(plan.axes):
            self.across(bases, taps)
        elif plan.inner is None and level == len(plan.axes) - 1:
            self.along(bases, taps)
        elif level == len(plan.axes) - 1 and self.k.isa.lanes > 1 and plan.coordinates != "tf_crop_and_resize":
            self.together(level, bases, taps)
        else:
            loop(0, plan.axes[level].size, lambda o: self.position(level, o, bases, taps))

    def position(self, level: int, o: Index, bases: list[Index], taps: list[_Taps]) -> None:
        """One position of an axis; the input's base stays, for taps move it."""
        axis = self.plan.axes[level]
        here = [bases[0], *(b + o * s for b, s in zip(bases[1:], axis.strides[1:], strict=True))]
        position = const(o, "i32") if isinstance(o, int) else o
        self.axis(level + 1, here, [*taps, self.taps(axis, position, 1)])

    def together(self, level: int, bases: list[Index], taps: list[_Taps]) -> None:
        """All positions of the last axis: where a vector of them reads is found at once, for it takes longer than the reading."""
        axis, lanes = self.plan.axes[level], self.k.isa.lanes

        def several(start: Index) -> None:
            first = const(start, "i32") if isinstance(start, int) else start
            found = self.taps(axis, T.Ramp(first, 1, lanes), lanes).taps
            kept = [(keep(i, "i32", lanes), None if w is None else keep(w, "f32", lanes)) for i, w in found]

            def one(i: Index) -> None:
                here = [bases[0], *(b + (start + i) * s for b, s in zip(bases[1:], axis.strides[1:], strict=True))]
                own = [(T.bind(index[i]), None if weight is None else T.bind(weight[i])) for index, weight in kept]
                self.axis(level + 1, here, [*taps, _Taps(own, None)])

            loop(0, lanes, one)

        count = axis.size // lanes
        loop(0, count, lambda v: several(v * lanes))
        loop(count * lanes, axis.size, lambda o: self.position(level, o, bases, taps))

    def across(self, bases: list[Index], taps: list[_Taps]) -> None:
        """Vectors along an axis that is not resized: all lanes read at the same taps."""
        inner, lanes = self.plan.inner, self.k.isa.lanes
        if inner is None:
            raise TypeError("a plan without an inner loop has no vectors across its axes")

        def vector(start: Index, width: int) -> None:
            at = [b + start * s for b, s in zip(bases, inner.strides, strict=True)]
            value = self.sum(taps, at[0], width, lambda base: self.k.load(0, base, width))
            self.store(value, at, width, inner.strides)

        count = inner.extent // lanes
        loop(0, count, lambda v: vector(v * lanes, lanes))
        start = count * lanes
        for width in vectors(inner.extent - start, lanes):
            vector(start, width)
            start += width

    def along(self, bases: list[Index], taps: list[_Taps]) -> None:
        """Vectors along the last resized axis: each lane reads at its own taps."""
        axis, lanes = self.plan.axes[-1], self.k.isa.lanes

        def vector(start: Index, width: int) -> None:
            first = const(start, "i32") if isinstance(start, int) else start
            own = self.taps(axis, T.Ramp(first, 1, width) if width > 1 else first, width)
            at = [bases[0], *(b + start * s for b, s in zip(bases[1:], axis.strides[1:], strict=True))]
            lists = [[i * axis.strides[0] for i in lanes_of(index, width)] for index, _ in own.taps]

            def read(base: Index) -> Vector:
                found = [pick(self.k, 0, [base + i for i in places]) for places in lists]
                return self.weighted([(v, w) for v, (_, w) in zip(found, own.taps, strict=True)], width, splat=False)

            value = self.sum(taps, at[0], width, read, own.outside)
            self.store(value, at, width, axis.strides)

        count = axis.size // lanes
        loop(0, count, lambda v: vector(v * lanes, lanes))
        start = count * lanes
        for width in vectors(axis.size - start, lanes):
            vector(start, width)
            start += width

    def sum(self, taps: list[_Taps], base: Index, width: int, read: Callable[[Index], Vector], outside: Vector | None = None) -> Vector:
        """The weighted sum over the taps of all axes but the vectorized one, and what is shown outside the input."""
        def level(number: int, base: Index) -> Vector:
            if number == len(taps):
                return read(base)
            stride = self.plan.axes[number].strides[0]
            return self.weighted([(level(number + 1, base + i * stride), w) for i, w in taps[number].taps], width)

        value = level(0, base)
        for flag in (*(t.outside for t in taps), outside):
            if flag is not None:
                wide = flag if flag is outside or width == 1 else T.Broadcast(flag, width)
                value = tirx.Select(wide, const(self.plan.extrapolation, self.dtype, width), value)
        return value

    def weighted(self, terms: list[tuple[Vector, Vector | None]], width: int, *, splat: bool = True) -> Vector:
        """The sum of values times weights, which are one number each (`splat`) or one for each lane."""
        total: Vector = None
        for value, weight in terms:
            if weight is None:
                return value
            wide = T.Broadcast(weight, width) if splat and width > 1 else weight
            term = value * cast(wide, self.dtype, width)
            total = hold(term if total is None else total + term, self.dtype, width)
        return total

    def store(self, value: Vector, bases: list[Index], width: int, strides: tuple[int, ...]) -> None:
        k = self.k
        loaded = []
        for a in range(1, self.out):
            step = strides[a]
            loaded.append(k.splat(a, bases[a], width) if step == 0 or width == 1 else k.load(a, bases[a], width) if step == 1
                          else k.gather(a, bases[a], step, width))
        k.store(self.out, evaluate(self.plan.epilogue, [value, *loaded], width)[0], bases[self.out], width, strides[self.out])

    # -- positions, in f32 as ONNX Runtime computes them

    def taps(self, axis: Scaled, o: Vector, lanes: int) -> _Taps:
        """Where position o (a number, or one in each lane) of a resized axis reads."""
        m = VectorMath("f32", lanes)
        x = m.hold(self.coordinate(axis, m, m.hold(cast(o, "f32", lanes))))
        outside = None
        if self.plan.coordinates == "tf_crop_and_resize":
            outside = hold(tirx.LT(x, m.const(0.0)) | tirx.GT(x, m.const(axis.source - 1)), "bool", lanes)
        if self.plan.mode == "nearest":
            return _Taps([(self.index(axis, m, self.rounded(m, x)), None)], outside)
        if self.plan.mode == "linear":
            inside = m.at_most(m.at_least(x, 0.0), axis.source - 1)
            low = m.hold(T.floor(inside))
            weight = m.hold(inside - low)
            high = self.index(axis, m, low + m.const(1.0))
            return _Taps([(self.index(axis, m, low), m.hold(m.const(1.0) - weight)), (high, weight)], outside)
        return _Taps(self.cubic(axis, m, x), outside)

    def coordinate(self, axis: Scaled, m: VectorMath, o: Vector) -> Vector:
        """The position in the input that an output position stands for."""
        kind, last = self.plan.coordinates, axis.source - 1
        half, scale = m.const(0.5), m.const(axis.scale)
        if kind == "asymmetric":
            return o / scale
        if kind == "align_corners":
            return m.hold(o * m.const(last)) / m.const(axis.size - 1) if axis.size > 1 else m.const(0.0)
        if kind == "tf_crop_and_resize":
            if axis.size == 1:
                return m.const(0.5 * (axis.start + axis.end) * last)
            moved = m.hold(m.hold(o * m.const(axis.end - axis.start)) * m.const(last))
            return m.hold(moved / m.const(axis.size - 1)) + m.const(axis.start * last)
        turned = m.hold(m.hold(o + half) / scale)
        if kind == "tf_half_pixel_for_nn":
            return turned
        if kind == "pytorch_half_pixel" and axis.size == 1:
            return m.const(0.0)
        if kind == "half_pixel_symmetric":
            adjustment = np.float32(axis.size) / (np.float32(axis.scale) * np.float32(axis.source))
            turned = m.hold(turned + m.const(float(np.float32(axis.source) / np.float32(2) * (np.float32(1) - adjustment))))
        return turned - half

    def rounded(self, m: VectorMath, x: Vector) -> Vector:
        """The integer that stands for a position."""
        return {"round_prefer_floor": lambda: T.ceil(x - m.const(0.5)), "round_prefer_ceil": lambda: T.floor(x + m.const(0.5)),
                "floor": lambda: T.floor(x), "ceil": lambda: T.ceil(x)}[self.plan.nearest]()

    def cubic(self, axis: Scaled, m: VectorMath, x: Vector) -> list[tuple[Vector, Vector | None]]:
        """Four taps with Keys' weights."""
        low = m.hold(T.floor(x))
        t, a = m.hold(x - low), self.plan.cubic
        weights = []
        for distance, near in ((t + m.const(1.0), False), (t, True), (m.const(1.0) - t, True), (m.const(2.0) - t, False)):
            d = m.hold(distance)
            if near:
                weight = m.hold((d * m.const(a + 2) - m.const(a + 3)) * d) * d + m.const(1.0)
            else:
                weight = m.hold(m.hold((d * m.const(a) - m.const(5 * a)) * d) + m.const(8 * a)) * d - m.const(4 * a)
            weights.append(m.hold(weight))
        places = [m.hold(low + m.const(k)) for k in (-1, 0, 1, 2)]
        if self.plan.exclude_outside:
            inside = [tirx.GE(p, m.const(0.0)) & tirx.LE(p, m.const(axis.source - 1)) for p in places]
            weights = [m.hold(m.where(i, w, m.const(0.0))) for i, w in zip(inside, weights, strict=True)]
            total = m.hold(weights[0] + weights[1] + weights[2] + weights[3])
            weights = [m.hold(w / total) for w in weights]
        return [(self.index(axis, m, p), w) for p, w in zip(places, weights, strict=True)]

    def index(self, axis: Scaled, m: VectorMath, place: Vector) -> Vector:
        """A whole number as an index, moved inside the input."""
        inside = m.at_most(m.at_least(m.hold(place), 0.0), axis.source - 1)
        return hold(cast(inside, "i32", m.lanes), "i32", m.lanes)
