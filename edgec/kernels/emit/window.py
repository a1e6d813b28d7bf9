"""Depthwise convolution and pooling: vectors of channels, a tile of output columns, all taps unrolled."""

from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.emit import tiles
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, cast, compute_dtype, const, function, loop
from edgec.kernels.emit.elementwise import epilogue
from edgec.kernels.emit.functions import OPERATIONS
from edgec.kernels.emit.tiles import Output
from edgec.kernels.expr import Instr
from edgec.kernels.taps import Tiles
from edgec.kernels.window import WindowPlan

_MAX = Instr("Max", (0, 1))


def emit(plan: WindowPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, partial(_task, plan))


def _task(plan: WindowPlan, kernel: Kernel, task: Index) -> None:
    """Some rows of one vector of channels of one image."""
    chunk, number, n = tiles.parts(task, plan.row_chunks, len(plan.widths), rows_first=plan.rows_first)
    if plan.y.axes[0].extent == 1:
        n = 0

    channels(plan, kernel, n, number, (chunk, plan.row_chunks))


def channels(plan: WindowPlan, kernel: Kernel, n: Index, number: Index, part: tuple[Index, int]) -> None:
    """Some rows of vector `number` of the channels of image n; `part`: which chunk of rows, of how many."""
    def rows(widths: tuple[int, ...], channel: Index) -> None:
        vector = _Channels(plan, kernel, n, channel, widths[0])
        for outputs, taps in plan.ys.classes(plan.x.axes[2].extent):
            tiles.rows(*part, plan.ys.out_count, outputs, partial(row, vector, taps))

    def row(vector: "_Channels", taps: range, y: Index) -> None:
        tiles.tiles((plan.xs,), plan.columns, plan.x.axes[3].extent, partial(vector.tile, Output(plan.ys, y), taps))

    tiles.channels(number, [(w,) for w in plan.widths], rows)


@dataclass(frozen=True)
class _Channels:
    """`width` neighboring channels of image `n`, from channel `first` on."""

    plan: WindowPlan
    k: Kernel
    n: Index
    first: Index
    width: int

    def tile(self, row: Output, rows: range, column: Output, alike: Tiles) -> None:
        """One tile of an output row whose taps `rows` are inside the input."""
        plan, k, width = self.plan, self.k, self.width
        acc = Accumulators((width,), alike.columns, self.dtype)
        start = self._start()
        for i in range(alike.columns):
            acc.set(i, 0, start)
        taken = [0] * alike.columns
        if plan.looped:
            taken = [plan.ys.count * plan.xs.count] * alike.columns
            loop(0, plan.ys.count, lambda ty: loop(0, plan.xs.count, partial(self._looped, acc, row, column, ty)))
        for ty in rows if not plan.looped else ():
            for taps, inside in alike.runs:
                for tx in taps:
                    weight = self._weight(row.kernel(ty), column.kernel(tx))
                    for i in inside:
                        taken[i] += 1
                        value = k.read(0, plan.x, [self.n, self.first, row.reads(ty), column.reads(tx, ahead=i)], 1, width)
                        acc.set(i, 0, self._step(acc.get(i, 0), value, weight))
        y, x = row.position, column.position
        for i in range(alike.columns):
            at = [self.n, self.first, y, x + i * column.taps.out_step]
            value = self._finish(acc.get(i, 0), taken[i], row.number, column.number + i)
            k.write(len(plan.args) - 1, plan.y, at, 1, epilogue(k, plan.epilogue, value, at, 1, width), width)

    @property
    def dtype(self) -> str:
        """What the window is folded in: f32, or the bytes of a maximum, or i32 for sums of bytes."""
        stored = self.plan.args[0].dtype
        return "i32" if self.plan.op == "sum" else compute_dtype(stored)

    def _looped(self, acc: Accumulators, row: Output, column: Output, ty: Index, tx: Index) -> None:
        for i in range(self.plan.columns):
            value = self.k.read(0, self.plan.x, [self.n, self.first, row.reads(ty), column.reads(tx, ahead=i)], 1, self.width)
            acc.set(i, 0, self._step(acc.get(i, 0), value, None))

    def _start(self) -> Vector:
        if self.plan.op == "depthwise" and self.plan.bias:
            return T.bind(self.k.load(2, self.first, self.width))
        least = float("-inf") if self.dtype == "f32" else -128 if self.dtype == "i8" else 0
        return const(least if self.plan.op == "max" else 0, self.dtype, self.width)

    def _weight(self, ky: int, kx: int) -> Vector | None:
        """The weights of a tap. Wider vectors come first, so those of earlier channels take exactly `first` x taps elements."""
        plan, width = self.plan, self.width
        if plan.op != "depthwise":
            return None
        start = self.first * (plan.ys.count * plan.xs.count) + (ky * plan.xs.count + kx) * width
        return T.bind(cast(self.k.load(1, start, width), "f32", width))

    def _step(self, acc: Vector, value: Vector, weight: Vector | None) -> Vector:
        if self.plan.op == "depthwise":
            return acc + value * weight
        if self.plan.op == "max":
            return OPERATIONS["Max"](_MAX, [acc, value], [self.dtype] * 2, self.width)
        return acc + cast(value, self.dtype, self.width)

    def _finish(self, value: Vector, taken: int, y: Index, x: Index) -> Vector:
        """The result of output (y, x) for which `taken` taps were inside the input."""
        plan, width = self.plan, self.width
        if plan.op == "sum":
            point = cast(self.k.load(1, 0), "i32", 1) * taken
            return value - (T.Broadcast(point, width) if width > 1 else point)
        if plan.op != "average":
            return value
        if plan.divisor is None:
            return value / const(float(max(taken, 1)), "f32", width)
        by_row, by_column = plan.divisor
        if len(set(by_row)) == 1 and len(set(by_column)) == 1:
            return value / const(float(by_row[0] * by_column[0]), "f32", width)
        count = _lookup(by_row, y) * _lookup(by_column, x)
        return value / (T.Broadcast(count, width) if width > 1 else count)


def _lookup(table: tuple[int, ...], index: Index) -> Vector:
    """A small table of counts that differs only near its end, as nested selects."""
    value: Vector = const(float(table[0]), "f32")
    for position in range(1, len(table)):
        if table[position] != table[position - 1]:
            value = tirx.Select(index >= position, const(float(table[position]), "f32"), value)
    return value
