"""Integer depthwise convolutions: interleaved rows for instructions that sum products of bytes, or tap by tap."""

from abc import ABC, abstractmethod
from functools import partial

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.depth import DepthPlan
from edgec.kernels.dot import DEPTH, place
from edgec.kernels.emit import tiles
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, cast, const, function, hold, type_name
from edgec.kernels.emit.dot import cut, initial, padded
from edgec.kernels.emit.dotforms import FORMS, Parts, assembled
from edgec.kernels.emit.elementwise import epilogue
from edgec.kernels.emit.tiles import Output
from edgec.kernels.taps import Tiles


def emit(plan: DepthPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, partial(_task, plan))


def _task(plan: DepthPlan, kernel: Kernel, task: Index) -> None:
    """Some rows of one vector of channels of one image."""
    chunk, number, n = tiles.indices(task, plan.row_chunks, len(plan.widths))
    if plan.y.axes[0].extent == 1:
        n = 0

    def rows(widths: tuple[int, ...], channel: Index) -> None:
        vector = (_Planar if plan.planar else _Interleaved)(plan, kernel, n, channel, widths[0])
        for part, taps in plan.ys.classes(plan.x.axes[2].extent):
            tiles.rows(chunk, plan.row_chunks, plan.ys.out_count, part, partial(row, vector, taps))

    def row(vector: "_Channels", taps: range, y: Index) -> None:
        tiles.tiles((plan.xs,), plan.columns, plan.x.axes[3].extent, partial(vector.tile, Output(plan.ys, y), taps))

    tiles.channels(number, [(w,) for w in plan.widths], rows)


class _Channels(ABC):
    """`width` neighboring channels of image `n`, from channel `first` on."""

    def __init__(self, plan: DepthPlan, kernel: Kernel, n: Index, first: Index, width: int) -> None:
        self.plan, self.k, self.n, self.first, self.width = plan, kernel, n, first, width
        self.lanes, self.data = plan.lanes(width), plan.args[0].dtype
        self.weight = place(plan.widths, None if plan.planar else plan.form, first) * plan.reduction
        self.form = FORMS[plan.form](kernel, self.data)
        self.zero = hold(cast(kernel.load(2, 0), "i32", 1), "i32", 1) if plan.zero else const(0, "i32")
        start = initial(plan, kernel, [n, first, 0, 0], (plan.weight_bytes + first * 4, self.zero, self.form.shift), width)
        self.start = hold(padded(start, width, self.lanes), "i32", self.lanes)
        zero = hold(cast(self.zero, self.data, 1), self.data, 1)
        self.outside = T.Broadcast(zero, width) if width > 1 else zero

    def tile(self, row: Output, rows: range, column: Output, alike: Tiles) -> None:
        """One tile of an output row whose taps `rows` are inside the input."""
        plan, k, width = self.plan, self.k, self.width
        acc = Accumulators((self.lanes,), alike.columns, "i32")
        for i in range(alike.columns):
            acc.set(i, 0, self.start)
        inside = {(i, tx) for taps, columns in alike.runs for tx in taps for i in columns}
        self.sum(acc, row, rows, column, alike.columns, inside)
        for i in range(alike.columns):
            at = [self.n, self.first, row.position, column.position + i * column.taps.out_step]
            value = hold(cut(acc.get(i, 0), width, self.lanes), "i32", width)
            k.write(len(plan.args) - 1, plan.y, at, 1, epilogue(k, plan.epilogue, value, at, 1, width), width)

    @abstractmethod
    def sum(self, acc: Accumulators, row: Output, rows: range, column: Output, columns: int, inside: set[tuple[int, int]]) -> None:
        """Add all products; `inside` holds (column, tap) of those along x that are inside the input."""

    def pixels(self, row: Output, ty: int, column: Output, tx: int, ahead: int) -> Vector:
        """The channels of one pixel as they are stored."""
        at = [self.n, self.first, row.reads(ty), column.reads(tx, ahead=ahead)]
        return hold(self.k.read(0, self.plan.x, at, 1, self.width), self.data, self.width)


class _Interleaved(_Channels):
    """Four rows of a column at a time."""

    def sum(self, acc: Accumulators, row: Output, rows: range, column: Output, columns: int, inside: set[tuple[int, int]]) -> None:
        """Column by column of the input: each that is made ready serves every output that reads it."""
        plan, lanes, xs = self.plan, self.lanes, self.plan.xs
        size = DEPTH * lanes
        starts = [self.weight + (xs.kernel + tx * xs.kernel_step) * plan.quads * size for tx in range(xs.count)]
        weights = [[self.form.weights(start + q * size, lanes) for q in range(plan.quads)] for start in starts]
        byte = hold(self.zero & const(0xFF, "i32"), "i32", 1)
        beside = self.form.spread(hold(assembled([byte] * DEPTH), "i32", 1), lanes)
        made: dict[int, list[Parts]] = {}
        for i in range(columns):
            for tx in range(xs.count):
                place = i * xs.step + tx * xs.pitch
                if (i, tx) in inside and place not in made:
                    made[place] = [self._quad(row, rows, column, tx, i, q) for q in range(plan.quads)]
                pixel = made[place] if (i, tx) in inside else [beside] * plan.quads
                for q in range(plan.quads):
                    acc.set(i, 0, self.form.add(acc.get(i, 0), pixel[q], weights[tx][q], lanes))

    def _quad(self, row: Output, rows: range, column: Output, tx: int, ahead: int, quad: int) -> Parts:
        """Four rows of a column, interleaved; where weights are zero, any row will do."""
        taps = range(quad * DEPTH, min(quad * DEPTH + DEPTH, self.plan.ys.count))
        read = [self.pixels(row, ty, column, tx, ahead) if ty in rows else self.outside for ty in taps]
        read = [padded(v, self.width, self.lanes) for v in (*read, *[read[0]] * (DEPTH - len(read)))]
        order = [tirx.IntImm("int32", t * self.lanes + c) for c in range(self.lanes) for t in range(DEPTH)]
        mixed = hold(tirx.Shuffle(read, order), self.data, DEPTH * self.lanes)
        return self.form.ready(T.reinterpret(type_name("i32", self.lanes), mixed), self.lanes)


class _Planar(_Channels):
    """Tap by tap; with `smlal`, two products are summed in 16 bits, which weights of -128 could overflow."""

    def sum(self, acc: Accumulators, row: Output, rows: range, column: Output, columns: int, inside: set[tuple[int, int]]) -> None:
        """Pairs of taps, or single ones."""
        plan, width, xs, ys = self.plan, self.width, self.plan.xs, self.plan.ys
        taps = [(ty, tx) for ty in range(ys.count) for tx in range(xs.count)]
        together = 2 if plan.form == "smlal" else 1
        made: dict[tuple[int, int], Vector] = {}
        for t in range(0, len(taps), together):
            some = taps[t:t + together]
            weights = [self._weight(self.weight + ((ys.kernel + ty * ys.kernel_step) * xs.count + xs.kernel + tx * xs.kernel_step) * width)
                       for ty, tx in some]
            for i in range(columns):
                total = None
                for (ty, tx), weight in zip(some, weights, strict=True):
                    here = ty in rows and (i, tx) in inside
                    place = (ty, i * xs.step + tx * xs.pitch) if here else (-1, 0)
                    if place not in made:
                        made[place] = self._wide(self.pixels(row, ty, column, tx, i) if here else self.outside)
                    product = made[place] * weight
                    total = product if total is None else total + product
                acc.set(i, 0, acc.get(i, 0) + cast(total, "i32", width))

    def _weight(self, at: Index) -> Vector:
        raw = self.k.raw(1)[T.Ramp(at, 1, self.width)] if self.width > 1 else self.k.raw(1)[at]
        return hold(cast(raw, "i16", self.width), "i16", self.width)

    def _wide(self, value: Vector) -> Vector:
        if self.form.shift:
            value = T.reinterpret(type_name("i8", self.width), hold(value, self.data, self.width) ^ const(0x80, self.data, self.width))
        return hold(cast(value, "i16", self.width), "i16", self.width)
