"""Integer convolutions and products: a register tile of output columns x vectors of output channels, over the whole reduction."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.depth import DepthPlan
from edgec.kernels.dot import DEPTH, DotPlan, computed, place
from edgec.kernels.emit import tiles
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, address, along, cast, const, function, hold, loop, type_name
from edgec.kernels.emit.dotforms import FORMS, Parts, Sdot, assembled
from edgec.kernels.emit.elementwise import epilogue
from edgec.kernels.emit.tiles import Output
from edgec.kernels.taps import Tiles, ranges

Pixel = Callable[[int], Parts]
"""A pixel made ready for vectors of a width."""


def emit(plan: DotPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, partial(_task, plan))


def _task(plan: DotPlan, kernel: Kernel, task: Index) -> None:
    """Some rows of one vector group of one convolution group of one image."""
    chunk, number, group, n = tiles.indices(task, plan.row_chunks, len(plan.widths), plan.groups)
    if plan.y.axes[0].extent == 1:
        n = 0

    def rows(widths: tuple[int, ...], first: Index) -> None:
        tile = _Tile(plan, kernel, n, group, widths, first)
        tiles.rows(chunk, plan.row_chunks, plan.ys.out_count, range(plan.ys.out_count), partial(row, tile))

    def row(tile: "_Tile", y: Index) -> None:
        output = Output(plan.ys, y)
        tile.begin(output)
        tiles.tiles((plan.xs,), plan.columns, plan.x.axes[3].extent, partial(tile.emit, output))

    tiles.channels(number, plan.widths, rows)


class _Tile:
    """The register tile of the vector group `widths` that starts at output channel `first` of convolution group `group` of image `n`."""

    def __init__(self, plan: DotPlan, kernel: Kernel, n: Index, group: Index, widths: tuple[int, ...], first: Index) -> None:
        self.plan, self.k, self.n, self.group, self.widths = plan, kernel, n, group, widths
        self.form = FORMS[plan.form](kernel, plan.args[0].dtype)
        self.computed = tuple(computed(plan.form, w) for w in widths)
        self.channel = group * plan.out_channels + first
        self.offsets = [0, *accumulate(widths)]
        self.places = [0, *accumulate(DEPTH * w for w in self.computed)]      # of the vectors of a step, in a packed weight
        self.weight = group * plan.group_bytes + place([w for ws in plan.widths for w in ws], plan.form, first) * plan.reduction
        axis = plan.x.axes[1]
        self.channel_step = axis.inner if axis.block else axis.stride
        self.contiguous = self.channel_step == 1 or plan.chunk == 1
        self.zero = hold(cast(kernel.load(2, 0), "i32", 1), "i32", 1) if plan.zero else const(0, "i32")
        byte = hold(self.zero & const(0xFF, "i32"), "i32", 1)
        self.outside = hold(assembled([byte] * DEPTH), "i32", 1)              # a pixel outside the input
        self.outside_byte = byte
        self.start = Accumulators(self.computed, 1, "i32")
        self.started = Accumulators(self.computed, 1, "i32") if plan.ys.clipped(plan.x.axes[2].extent) else self.start
        for j, (w, full) in enumerate(zip(widths, self.computed, strict=True)):
            at = plan.groups * plan.group_bytes + (self.channel + self.offsets[j]) * 4
            value = initial(plan, kernel, [n, self.channel + self.offsets[j], 0, 0], (at, self.zero, self.form.shift), w)
            self.start.set(0, j, padded(value, w, full))

    def begin(self, row: Output) -> None:
        """Before the tiles of a row: what its taps above and below the input add to every output."""
        if self.started is self.start:
            return
        plan, form, (runs, _) = self.plan, self.form, self.plan.runs
        above, below = tiles.clip(row, plan.x.axes[2].extent)
        low = T.bind(T.min(above, plan.ys.count))                     # no tap at all may be inside
        high = T.bind(T.max(low, below))
        self.taps = low, high
        for j in range(len(self.widths)):
            self.started.set(0, j, self.start.get(0, j))

        def add(q: Index, ty: Index, step: Index) -> None:
            at = self.weight + ((q * plan.kernel[0] + row.kernel(ty)) * runs * plan.steps + step) * self.places[-1]
            for j, w in enumerate(self.computed):
                pixel = form.spread(self.outside, w)
                self.started.set(0, j, form.add(self.started.get(0, j), pixel, form.weights(at + self.places[j], w), w))

        for begin, end in ((0, low), (high, plan.ys.count)):
            loop(begin, end, lambda ty: loop(0, plan.chunks, lambda q: loop(0, runs * plan.steps, partial(add, q, ty))))

    def emit(self, row: Output, column: Output, alike: Tiles) -> None:
        """Reduce, apply the epilogue, store."""
        plan, k, columns = self.plan, self.k, alike.columns
        acc = Accumulators(self.computed, columns, "i32")
        for i in range(columns):
            for j in range(len(self.widths)):
                acc.set(i, j, self.started.get(0, j))
        low, high = (0, plan.ys.count) if self.started is self.start else self.taps
        loop(low, high, lambda ty: loop(0, plan.chunks, lambda q: self._row_of_taps(acc, q, row, ty, column, alike)))
        y, x = row.position, column.position
        for i in range(columns):
            for j, w in enumerate(self.widths):
                at = [self.n, self.channel + self.offsets[j], y, x + i * column.taps.out_step]
                value = hold(cut(acc.get(i, j), w, self.computed[j]), "i32", w)
                k.write(len(plan.args) - 1, plan.y, at, 1, epilogue(k, plan.epilogue, value, at, 1, w), w)

    def _row_of_taps(self, acc: Accumulators, q: Index, row: Output, ty: Index, column: Output, alike: Tiles) -> None:
        """Chunk q of the input channels at one row of taps."""
        plan, (runs, size), step = self.plan, self.plan.runs, self.plan.x.axes[3].stride
        base = address(plan.x, [self.n, 0, row.reads(ty), 0]) + along(plan.x.axes[1], self.group * plan.in_channels + q * plan.chunk)
        weight = self.weight + (q * plan.kernel[0] + row.kernel(ty)) * runs * plan.steps * self.places[-1]
        inside = {tx: columns for taps, columns in alike.runs for tx in taps}

        def at(run: int) -> list[Index]:
            """Where the run of each column begins; `run` counts taps, from the first one of a merged run."""
            first = hold(base + column.reads(run) * step, "i32", 1)
            return [first + i * column.taps.step * step for i in range(alike.columns)]

        def tap(taps: Sequence[list[bool] | None], tx: Index) -> None:
            self._run(acc, weight + column.kernel(tx) * plan.steps * self.places[-1], size, at(tx), taps)

        if plan.merged:
            reached = [[i in inside.get(tx, ()) for tx in range(plan.xs.count)] for i in range(alike.columns)]
            self._run(acc, weight, size, at(0), [None if all(taps) else taps for taps in reached])
            return
        for some, here in ranges([inside.get(tx, ()) for tx in range(plan.xs.count)]):
            taps: list[list[bool] | None] = [None if i in here else [False] for i in range(alike.columns)]
            loop(some.start, some.stop, partial(tap, taps))

    def _run(self, acc: Accumulators, weight: Index, size: int, at: Sequence[Index], taps: Sequence[list[bool] | None]) -> None:
        """A run of `size` bytes for each column: `taps` tells which of the taps in it are inside the input, None when all of them are."""
        full, unroll = size // DEPTH, self.plan.unroll
        if any(t is not None and any(t) for t in taps):
            for step in range(-(-size // DEPTH)):
                pixels = [self._pieces(a, t, step, size) for a, t in zip(at, taps, strict=True)]
                self._step(acc, weight + step * self.places[-1], [partial(self.form.spread, p) for p in pixels])
            return

        def several(first: Index, count: int) -> None:
            quads = count // 4 if isinstance(self.form, Sdot) and self.contiguous else 0
            for quad in range(quads):
                self._quad(acc, weight, first + 4 * quad, at, taps)
            for u in range(4 * quads, count):
                step = first + u
                pixels = [self._pixel(a, step) if t is None else partial(self.form.spread, self.outside)
                          for a, t in zip(at, taps, strict=True)]
                self._step(acc, weight + step * self.places[-1], pixels)

        loop(0, full // unroll, lambda s: several(s * unroll, unroll))
        several(full // unroll * unroll, full % unroll)
        if size % DEPTH:
            pixels = [self._pieces(a, t, full, size) for a, t in zip(at, taps, strict=True)]
            self._step(acc, weight + full * self.places[-1], [partial(self.form.spread, p) for p in pixels])

    def _quad(self, acc: Accumulators, weight: Index, step: Index, at: Sequence[Index], taps: Sequence[list[bool] | None]) -> None:
        """Four steps whose pixels come by one load for each column."""
        form = self.form
        if not isinstance(form, Sdot):
            raise TypeError("one load serves four steps where a pixel can be a lane")
        loaded = [form.quad(a + step * DEPTH) if t is None else [form.spread(self.outside, 4)] * 4 for a, t in zip(at, taps, strict=True)]
        for u in range(4):
            pixels: list[Pixel] = [partial(_same, pixel[u]) for pixel in loaded]
            self._step(acc, weight + (step + u) * self.places[-1], pixels)

    def _pixel(self, at: Index, step: Index) -> Pixel:
        """Four bytes of a run that are all inside."""
        if self.contiguous:
            return partial(self.form.load, at + step * DEPTH)
        places = [at + (step * DEPTH + i) * self.channel_step for i in range(DEPTH)]
        return partial(self.form.spread, assembled([self._byte(p) for p in places]))

    def _byte(self, at: Index) -> Vector:
        return cast(cast(self.k.raw(0)[at], "u8", 1), "i32", 1)

    def _pieces(self, at: Index, taps: list[bool] | None, step: int, size: int) -> Vector:
        """Four bytes of a run, fewer at its end, each from where it lies or, outside the input, the zero point."""
        chunk, parts = self.plan.chunk, []
        for b in range(step * DEPTH, min(size, step * DEPTH + DEPTH)):
            tap, channel = divmod(b, chunk)
            if taps is not None and not taps[min(tap, len(taps) - 1)]:
                parts.append(self.outside_byte)
            else:
                place = at + (b if self.plan.merged else channel * self.channel_step)
                parts.append(self._byte(place))
        return assembled(parts)

    def _step(self, acc: Accumulators, weight: Index, pixels: Sequence[Pixel]) -> None:
        """The products of one step: every column with every vector."""
        weights = [self.form.weights(weight + self.places[j], w) for j, w in enumerate(self.computed)]
        for i, make in enumerate(pixels):
            made: dict[int, Parts] = {}
            for j, w in enumerate(self.computed):
                if w not in made:
                    made[w] = make(w)
                acc.set(i, j, self.form.add(acc.get(i, j), made[w], weights[j], w))


def _same(pixel: Parts, width: int) -> Parts:
    del width
    return pixel


def initial(plan: DotPlan | DepthPlan, kernel: Kernel, at: Sequence[Index], zero: tuple[Index, Index, int], width: int) -> Vector:
    """The bias of some channels, less the zero point times the sums of their weights.

    `zero`: where these sums lie, the zero point, and what the form adds to pixels.
    """
    value: Vector = const(0, "i32", width)
    if plan.bias is not None:
        value = kernel.read(plan.bias.arg, plan.bias.view, at, 1, width)
    place, point, shift = zero
    if plan.zero or shift:
        sums = hold(T.reinterpret(type_name("i32", width), kernel.raw(1)[T.Ramp(place, 1, 4 * width)]), "i32", width)
        shifted = hold(point + const(shift, "i32"), "i32", 1)
        value = value - (T.Broadcast(shifted, width) if width > 1 else shifted) * sums
    return hold(value, "i32", width)


def padded(value: Vector, width: int, full: int) -> Vector:
    """A vector with more lanes, whose further ones hold anything."""
    if width in (full, 1):
        return value if width == full else T.Broadcast(value, full)
    return tirx.Shuffle([value] * (full // width), [tirx.IntImm("int32", i) for i in range(full)])


def cut(value: Vector, width: int, full: int) -> Vector:
    """The first lanes of a vector."""
    return value if width == full else tirx.Shuffle([value], [tirx.IntImm("int32", i) for i in range(width)])
