"""Convolutions and matrix products: a register tile of output columns x vectors of output channels, over the whole reduction."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.ir.types import dtype_bits
from edgec.kernels.base import vectors
from edgec.kernels.contract import ContractPlan, streams
from edgec.kernels.emit import tiles
from edgec.kernels.emit.ahead import Ahead
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, address, along, cast, const, function, lane, loop, when
from edgec.kernels.emit.elementwise import epilogue
from edgec.kernels.emit.tiles import Output
from edgec.kernels.taps import TapRun, Taps, Tiles


def emit(plan: ContractPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, partial(_task, plan))


def _task(plan: ContractPlan, kernel: Kernel, task: Index) -> None:
    """Some rows of one vector group of one convolution group of one image."""
    count = len(plan.widths)
    chunk, number, group, n = tiles.parts(task, plan.row_chunks, -(-count // plan.together), plan.groups, rows_first=plan.rows_first)
    if plan.y.axes[0].extent == 1:
        n = 0
    rows = partial(vectors_of, plan, kernel, task, (n, group), (chunk, plan.row_chunks))
    if plan.together == 1:
        tiles.channels(number, plan.widths, rows)
        return
    low = T.bind(number * plan.together)
    high = low + plan.together if count % plan.together == 0 else T.bind(T.min(low + plan.together, count))
    loop(low, high, lambda g: tiles.channels(T.bind(g), plan.widths, rows))


def vectors_of(plan: ContractPlan, kernel: Kernel, task: Index, at: tuple[Index, Index], part: tuple[Index, int],
               widths: tuple[int, ...], first: Index) -> None:
    """Some rows of the vector group that starts at channel `first`. `at`: image and convolution group; `part`: which chunk, of how many."""
    tile = _Tile(plan, kernel, *at, widths, first, partial(_nothing, task))
    if plan.widen:
        tile.widen(task * plan.args[-1].elements)
    tile.ask(part[0])
    for ys in plan.ys:
        tiles.rows(*part, ys.out_count, range(ys.out_count), partial(_row, tile, ys))


def some_rows(plan: ContractPlan, kernel: Kernel, task: Index, at: tuple[Index, Index], part: tuple[Index, Index],
              widths: tuple[int, ...], first: Index) -> None:
    """Rows `part[0]` to `part[1]` of the vector group that starts at channel `first`; `at`: image and convolution group."""
    tile = _Tile(plan, kernel, *at, widths, first, partial(_nothing, task))
    for ys in plan.ys:
        loop(*part, partial(_row, tile, ys))


def _row(tile: "_Tile", ys: Taps, y: Index) -> None:
    plan = tile.plan
    if not plan.turns:
        tiles.tiles(plan.xs, plan.columns, plan.x.axes[3].extent, partial(tile.emit, Output(ys, y)))
        return
    with T.serial(0, -(-plan.in_channels // (plan.chunk * plan.partial))) as turn:
        tiles.tiles(plan.xs, plan.columns, plan.x.axes[3].extent, partial(tile.turn, Output(ys, y), turn))


class _Tile:
    """The register tile of the vector group `widths` that starts at output channel `first` of convolution group `group` of image `n`."""

    def __init__(self, plan: ContractPlan, kernel: Kernel, n: Index, group: Index, widths: tuple[int, ...], first: Index,
                 nothing: Callable[[int], Index]) -> None:
        self.plan, self.k, self.nothing = plan, kernel, nothing
        self.n, self.group, self.widths, self.first = n, group, widths, first
        self.offsets = [0, *accumulate(widths)]
        self.channel = group * plan.out_channels + first
        reduction = plan.in_channels * plan.kernel[0] * plan.kernel[1]
        self.stored, self.weight = 1, group * (plan.out_channels * reduction) + first * reduction
        self.size = self.offsets[-1] * reduction
        self.streams: list[tuple[int, int]] = []               # of each vector: lanes of its stream, and where it begins in it
        for part in streams(widths, plan.streams):
            begin = self.offsets[len(self.streams)] * (reduction - 1)
            self.streams += [(sum(part), begin)] * len(part)
        axis = plan.x.axes[1]
        self.channel_step = axis.inner if axis.block else axis.stride
        self.width = dtype_bits(plan.args[1].dtype) // 8
        self.ahead = Ahead(kernel, 1, self.width) if plan.ahead else None
        self.lane_form = kernel.isa.broadcast == "lane" and plan.chunk % kernel.isa.lanes == 0 and self.channel_step == 1

    def ask(self, part: Index) -> None:
        """Ask for the next vector group's weights from now on: for those that fall to this part of the rows."""
        if self.ahead is not None:
            each = -(-self.size // self.plan.row_chunks)
            self.ahead.begin(self.weight + self.size + part * each, each)

    def widen(self, target: Index) -> None:
        """Put the weights into scratch memory as f32, from `target` on, and read them there from now on."""
        k, source, scratch, lanes = self.k, self.weight, len(self.plan.args) - 1, self.k.isa.lanes

        def move(at: Index, width: int) -> None:
            k.store(scratch, cast(k.load(1, source + at, width), "f32", width), target + at, width)

        loop(0, self.size // lanes, lambda i: move(i * lanes, lanes))
        at = self.size // lanes * lanes
        for width in vectors(self.size - at, lanes):
            move(at, width)
            at += width
        self.stored, self.weight = scratch, target

    def emit(self, row: Output, column: Output, alike: Tiles) -> None:
        """Start from the bias, reduce, apply the epilogue, store."""
        plan, columns = self.plan, alike.columns
        acc = Accumulators(self.widths, columns)
        self._start(acc, columns, bias=True)
        low, high = tiles.clip(row, plan.x.axes[2].extent)
        chunks = plan.in_channels // plan.chunk

        def reduce(summand: Accumulators, q: Index) -> None:
            loop(low, high, lambda ty: self._row_of_taps(summand, q, row, ty, column, alike.runs))

        if alike.runs and chunks <= plan.partial:
            loop(0, chunks, partial(reduce, acc))
        elif alike.runs:
            summand = Accumulators(self.widths, columns)

            def part(first: Index, count: int) -> None:
                self._start(summand, columns, bias=False)
                loop(first, first + count, partial(reduce, summand))
                for i in range(columns):
                    for j in range(len(self.widths)):
                        acc.set(i, j, acc.get(i, j) + summand.get(i, j))

            whole = chunks // plan.partial
            loop(0, plan.partial, partial(reduce, acc))                # the first part is added to nothing
            loop(0, whole - 1, lambda i: part((i + 1) * plan.partial, plan.partial))
            if chunks % plan.partial:
                part(whole * plan.partial, chunks % plan.partial)
        self._finish(acc, row, column, columns)

    def turn(self, row: Output, number: Index, column: Output, alike: Tiles) -> None:
        """One partial sum of a tile, added to those before it, which lie in the output; the last one is followed by the epilogue."""
        plan, k, columns, chunks = self.plan, self.k, alike.columns, self.plan.in_channels // self.plan.chunk
        acc, first = Accumulators(self.widths, columns), number * plan.partial
        self._start(acc, columns, bias=number == 0)
        low, high = tiles.clip(row, plan.x.axes[2].extent)
        last = first + plan.partial if chunks % plan.partial == 0 else T.bind(T.min(first + plan.partial, chunks))
        if alike.runs:
            loop(first, last, lambda q: loop(low, high, lambda ty: self._row_of_taps(acc, q, row, ty, column, alike.runs)))
        cells = [(i, j, self._at(row, column, i, j), w) for i in range(columns) for j, w in enumerate(self.widths)]

        def add() -> None:
            for i, j, at, w in cells:
                acc.set(i, j, k.read(plan.output, plan.y, at, 1, w) + acc.get(i, j))

        def keep() -> None:
            for i, j, at, w in cells:
                k.write(plan.output, plan.y, at, 1, acc.get(i, j), w)

        when(number > 0, add)
        when(last < chunks, keep)
        when(last == chunks, lambda: self._finish(acc, row, column, columns))

    def _finish(self, acc: Accumulators, row: Output, column: Output, columns: int) -> None:
        """Apply the epilogue, and store."""
        plan = self.plan
        for i in range(columns):
            for j, w in enumerate(self.widths):
                at = self._at(row, column, i, j)
                value = epilogue(self.k, plan.epilogue, acc.get(i, j), at, 1, w)
                self.k.write(plan.output, plan.y, at, 1, value, w)

    def _at(self, row: Output, column: Output, i: int, j: int) -> list[Index]:
        """Where vector j of column i of the tile lies in the output."""
        return [self.n, self.channel + self.offsets[j], row.position, column.position + i * column.taps.out_step]

    def _start(self, acc: Accumulators, columns: int, *, bias: Any) -> None:
        """Begin with the bias, if there is one, where `bias` holds: a bool that is decided now, or a condition; else with nothing."""
        for j, w in enumerate(self.widths):
            start = const(0.0, "f32", w)
            if self.plan.bias and bias is not False:
                value = T.bind(self.k.load(2, self.channel + self.offsets[j], w) if self.plan.form != "windows" else self.k.splat(2, 0, w))
                start = value if bias is True else tirx.Select(bias, value, start)
            for i in range(columns):
                acc.set(i, j, start)

    def _row_of_taps(self, acc: Accumulators, q: Index, row: Output, ty: Index, column: Output, runs: Sequence[TapRun]) -> None:
        """Chunk q of the input channels at one row of taps."""
        plan = self.plan
        base = address(plan.x, [self.n, 0, row.reads(ty), 0]) + along(plan.x.axes[1], self.group * plan.in_channels + q * plan.chunk)
        ky = row.kernel(ty)

        def tap(columns: tuple[int, ...], zero: Index, tx: Index) -> None:
            step = ((q * plan.kernel[0] + ky) * plan.kernel[1] + column.kernel(tx)) * plan.chunk
            pixel = base + along(plan.x.axes[3], column.reads(tx)) + zero
            self._channels(acc, q, pixel, step, columns, plan.x.axes[3].stride * column.taps.step)

        apart = self._apart(column, runs)
        for number, (taps, columns) in enumerate(runs):
            zero = self.nothing(number) if apart else 0
            loop(taps.start, taps.stop + zero if len(taps) > 1 else taps.stop, partial(tap, columns, zero))

    def _apart(self, column: Output, runs: Sequence[TapRun]) -> bool:
        """Whether taps have to be kept from sharing the pixels that they load, because these are more than there are registers.

        A compiler that sees several taps in one piece loads each pixel once for all of them, and spills most of what it loads.
        """
        plan = self.plan
        if plan.chunk > plan.unroll or sum(len(taps) for taps, _ in runs) == 1:
            return False
        pixels = {column.taps.reads(i, t) for taps, columns in runs for t in taps for i in columns}
        loads = plan.chunk // self.k.isa.lanes if self.lane_form else plan.chunk     # of each pixel
        return len(pixels) * loads + max(len(columns) for _, columns in runs) * len(self.widths) > self.k.isa.registers

    def _channels(self, acc: Accumulators, q: Index, pixel: Index, step: Index, columns: tuple[int, ...], stride: int) -> None:
        """All channels of a chunk at one tap, `unroll` of them at a time; the pixels of neighboring columns lie `stride` apart."""
        plan = self.plan

        if self.ahead is not None and plan.seldom:
            self.ahead.ask(plan.ahead)

        def by_broadcast(c: Index) -> None:
            self._ask(step + c * plan.unroll)
            for u in range(plan.unroll):
                channel = c * plan.unroll + u
                at = pixel + channel * self.channel_step
                self._fma(acc, self._weights(q, step, channel), columns, partial(splat, at))

        def splat(at: Index, column: int, width: int) -> Vector:
            return self.k.splat(0, at + column * stride, width)

        def by_lane(c: Index) -> None:
            """One load of neighboring channels for each column, then multiplication by lane: aarch64 has it in the instruction."""
            self._ask(step + c * plan.unroll)
            lanes = self.k.isa.lanes
            together = tiles.steps_at_once(self.k.isa, len(columns), len(self.widths))
            for part in range(0, plan.unroll, lanes):
                loaded = {i: T.bind(self.k.load(0, pixel + c * plan.unroll + part + i * stride, lanes)) for i in columns}
                for first in range(0, lanes, together):
                    steps = range(first, first + together)
                    weights = [self._weights(q, step, c * plan.unroll + part + u) for u in steps]
                    for u, vectors_of_step in zip(steps, weights, strict=True):
                        self._fma(acc, vectors_of_step, columns, partial(_of_column, loaded, u))

        loop(0, plan.chunk // plan.unroll, by_lane if self.lane_form else by_broadcast)

    def _ask(self, step: Index) -> None:
        """Ask for weights that come after those of the next `unroll` steps."""
        if self.ahead is not None and not self.plan.seldom:
            self.ahead.ask(self.plan.ahead)
        if self.ahead is not None and self.plan.lead:
            wide = self.offsets[-1]
            lines = max(1, self.plan.unroll * wide * self.width // self.k.isa.line_bytes)
            self.ahead.lead(self.weight + step * wide + self.plan.lead // self.width, lines)

    def _weights(self, q: Index, step: Index, c: Index) -> list[Vector]:
        """The vectors that channel c of chunk q is multiplied with; `step` steps of the reduction come before the chunk at this tap."""
        plan = self.plan
        if plan.w is None:
            starts = [self.weight + begin + (step + c) * size + offset
                      for (size, begin), offset in zip(self.streams, self.offsets[:-1], strict=True)]
            return [T.bind(cast(self.k.load(self.stored, start, w), "f32", w)) for start, w in zip(starts, self.widths, strict=True)]
        row = address(plan.w, [self.n, q * plan.chunk + c, 0]) + self.first
        return [T.bind(self.k.load(1, row + offset, w)) for offset, w in zip(self.offsets[:-1], self.widths, strict=True)]

    def _fma(self, acc: Accumulators, weights: list[Vector], columns: tuple[int, ...], pixel: Callable[[int, int], Vector]) -> None:
        for i in columns:
            for j, w in enumerate(self.widths):
                acc.set(i, j, acc.get(i, j) + pixel(i, w) * weights[j])


def _nothing(task: Index, number: int) -> Index:
    """Zero, which a compiler cannot know, and for each number another one: no kernel has so many tasks."""
    return tirx.truncdiv(task, (1 << 30) - number)


def _of_column(loaded: dict[int, Vector], number: int, column: int, width: int) -> Vector:
    """One lane of the vector that was loaded for a column, in every lane of a vector of `width`."""
    return lane(loaded[column], number, width)
