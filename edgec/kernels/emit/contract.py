"""Convolutions and matrix products: a register tile of output columns x vectors of output channels, over the whole reduction."""

from collections.abc import Callable, Sequence
from itertools import accumulate

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.contract import ContractPlan, Taps
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, address, along, cast, const, function, lane, loop, when
from edgec.kernels.emit.elementwise import epilogue


def emit(plan: ContractPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: _Contraction(plan, kernel).task(task))


class _Contraction:
    """One task: some rows of one group of output channels of one image."""

    def __init__(self, plan: ContractPlan, kernel: Kernel) -> None:
        self.plan, self.k = plan, kernel
        self.full = sum(1 for w in plan.widths if w == plan.widths[0])     # groups of the first, widest kind come first
        self.lane_form = kernel.isa.broadcast == "lane" and plan.chunk % kernel.isa.lanes == 0 and self._channel_step() == 1

    def _channel_step(self) -> int:
        axis = self.plan.x.axes[1]
        return axis.inner if axis.block else axis.stride

    def task(self, t: Index) -> None:
        plan = self.plan
        chunks, vgroups = plan.row_chunks, len(plan.widths)
        r = T.bind(tirx.truncmod(t, chunks)) if chunks > 1 else 0
        t = T.bind(tirx.truncdiv(t, chunks)) if chunks > 1 else t
        g = T.bind(tirx.truncmod(t, vgroups)) if vgroups > 1 else 0
        t = T.bind(tirx.truncdiv(t, vgroups)) if vgroups > 1 else t
        group = T.bind(tirx.truncmod(t, plan.groups)) if plan.groups > 1 else 0
        n = T.bind(tirx.truncdiv(t, plan.groups)) if plan.groups > 1 else t
        if plan.y.axes[0].extent == 1:
            n = 0
        size = sum(plan.widths[0])
        reduction = plan.in_channels * plan.kernel[0] * plan.kernel[1]
        rest = plan.widths[self.full:]
        if not rest:
            self.rows(n, group, r, plan.widths[0], g * size, g * size * reduction)
            return
        when(g < self.full if vgroups > 1 else True, lambda: self.rows(n, group, r, plan.widths[0], g * size, g * size * reduction))
        for i, widths in enumerate(rest):
            start = self.full * size + sum(map(sum, rest[:i]))
            when(g == self.full + i, lambda w=widths, s=start: self.rows(n, group, r, w, s, s * reduction))  # type: ignore[misc]

    def rows(self, n: Index, group: Index, r: Index, widths: tuple[int, ...], first: Index, weight: Index) -> None:
        """All output rows of one chunk, for the vector group that starts at channel `first` of its convolution group."""
        plan = self.plan
        tile = _Tile(self, n, group, widths, first, weight)
        for ys in plan.ys:
            height = -(-ys.out_count // plan.row_chunks)
            low = r * height
            high = low + height if ys.out_count % plan.row_chunks == 0 or isinstance(low, int) else T.min(low + height, ys.out_count)
            loop(low, min(high, ys.out_count) if isinstance(high, int) else high, lambda y, ys=ys: self.row(tile, ys, y))  # type: ignore[misc]

    def row(self, tile: "_Tile", ys: Taps, y: Index) -> None:
        """One output row: tiles that are alike in a loop, those at an edge each on its own."""
        plan = self.plan
        width = plan.x.axes[3].extent
        for xs in plan.xs:
            start = 0
            while start < xs.out_count:
                columns = min(plan.columns, xs.out_count - start)
                runs = xs.runs(range(start, start + columns), width)
                stop = start + columns
                while stop + columns <= xs.out_count and xs.runs(range(stop, stop + columns), width) == runs:
                    stop += columns
                loop(0, (stop - start) // columns, lambda i, s=start, c=columns, q=runs, p=xs: tile.emit(ys, y, p, s + i * c, c, q))  # type: ignore[misc]
                start = stop


class _Tile:
    """The register tile."""

    def __init__(self, whole: _Contraction, n: Index, group: Index, widths: tuple[int, ...], first: Index, weight: Index) -> None:
        plan = whole.plan
        self.plan, self.k, self.lane_form = plan, whole.k, whole.lane_form
        self.n, self.group, self.widths = n, group, widths
        self.offsets = [0, *accumulate(widths)]
        self.channel = group * plan.out_channels + first
        per_group = plan.out_channels * plan.in_channels * plan.kernel[0] * plan.kernel[1]
        self.weight = group * per_group + weight
        self.first = first
        self.channel_step = whole._channel_step()

    def emit(self, ys: Taps, y: Index, xs: Taps, x: Index, columns: int, runs: list[tuple[range, tuple[int, ...]]]) -> None:
        """Start from the bias, reduce, apply the epilogue, store."""
        plan, k = self.plan, self.k
        acc = Accumulators(self.widths, columns)
        self._start(acc, columns, bias=True)
        low, high = self._clip(ys, y)
        chunks, partial = plan.in_channels // plan.chunk, plan.partial

        def reduce(q: Index) -> None:
            loop(low, high, lambda ty: self._row_of_taps(summand, q, ys, y, ty, xs, x, runs))

        summand = acc
        if runs and chunks <= partial:
            loop(0, chunks, reduce)
        elif runs:
            summand = Accumulators(self.widths, columns)

            def part(first: Index, count: int) -> None:
                self._start(summand, columns, bias=False)
                loop(first, first + count, reduce)
                for i in range(columns):
                    for j in range(len(self.widths)):
                        acc.set(i, j, acc.get(i, j) + summand.get(i, j))
            loop(0, chunks // partial, lambda i: part(i * partial, partial))
            if chunks % partial:
                part(chunks // partial * partial, chunks % partial)
        row, column = ys.out_begin + y * ys.out_step, xs.out_begin + x * xs.out_step
        for i in range(columns):
            for j, w in enumerate(self.widths):
                at = [self.n, self.channel + self.offsets[j], row, column + i * xs.out_step]
                value = epilogue(k, plan.epilogue, acc.get(i, j), at, 1, w)
                k.write(len(plan.args) - 1, plan.y, at, 1, value, w)

    def _start(self, acc: Accumulators, columns: int, *, bias: bool) -> None:
        for j, w in enumerate(self.widths):
            start = T.bind(self.k.load(2, self.channel + self.offsets[j], w)) if bias and self.plan.bias else const(0.0, "f32", w)
            for i in range(columns):
                acc.set(i, j, start)

    def _clip(self, ys: Taps, y: Index) -> tuple[Index, Index]:
        """The taps whose input row exists for output row y."""
        height = self.plan.x.axes[2].extent
        if not ys.clipped(height):
            return 0, ys.count
        base = y * ys.step + ys.first
        p = abs(ys.pitch)
        # floor division of possibly negative numbers: shift by a multiple of the pitch that makes them positive
        shift = (abs(ys.first) + ys.count * p) * p + p
        above = -base if ys.pitch > 0 else base - (height - 1)             # taps before this many pitches are outside
        below = (height - 1) - base if ys.pitch > 0 else base
        if isinstance(y, int):
            return max(0, -(-above // p)), min(ys.count, below // p + 1)
        low = T.max(0, tirx.truncdiv(above + p - 1 + shift * p, p) - shift)
        high = T.min(ys.count, tirx.truncdiv(below + shift * p, p) - shift + 1)
        return T.bind(low), T.bind(high)

    def _row_of_taps(self, acc: Accumulators, q: Index, ys: Taps, y: Index, ty: Index, xs: Taps, x: Index,
                     runs: Sequence[tuple[range, tuple[int, ...]]]) -> None:
        plan = self.plan
        channel = self.group * plan.in_channels + q * plan.chunk
        row = y * ys.step + ys.first + ty * ys.pitch
        base = address(plan.x, [self.n, 0, row, 0]) + along(plan.x.axes[1], channel)
        ky = ys.kernel + ty * ys.kernel_step
        size = self.offsets[-1]
        for taps, columns in runs:
            def tap(tx: Index, columns: tuple[int, ...] = columns) -> None:
                kx = xs.kernel + tx * xs.kernel_step
                weight = self.weight + ((q * plan.kernel[0] + ky) * plan.kernel[1] + kx) * (plan.chunk * size)
                pixel = base + along(plan.x.axes[3], x * xs.step + xs.first + tx * xs.pitch)
                self._channels(acc, q, pixel, weight, columns, xs.step)
            loop(taps.start, taps.stop, tap)

    def _channels(self, acc: Accumulators, q: Index, pixel: Index, weight: Index, columns: tuple[int, ...], step: int) -> None:
        """All channels of a chunk at one tap, `unroll` of them at a time."""
        plan = self.plan
        stride = plan.x.axes[3].stride * step

        def some(c: Index) -> None:
            if self.lane_form:
                self._lanes(acc, q, pixel, weight, c, columns, stride)
            else:
                for u in range(plan.unroll):
                    at = pixel + (c * plan.unroll + u) * self.channel_step
                    self._fma(acc, self._weights(q, weight, c * plan.unroll + u), columns,
                              lambda i, w, at=at: self.k.splat(0, at + i * stride, w))  # type: ignore[misc]

        loop(0, plan.chunk // plan.unroll, some)

    def _lanes(self, acc: Accumulators, q: Index, pixel: Index, weight: Index, c: Index, columns: tuple[int, ...], stride: int) -> None:
        """One vector load of neighboring channels for each column, then multiplication by lane: aarch64 has it in the instruction."""
        lanes = self.k.isa.lanes
        for part in range(0, self.plan.unroll, lanes):
            loaded = {i: T.bind(self.k.load(0, pixel + c * self.plan.unroll + part + i * stride, lanes)) for i in columns}
            for u in range(lanes):
                self._fma(acc, self._weights(q, weight, c * self.plan.unroll + part + u), columns,
                          lambda i, w, u=u: lane(loaded[i], u) if w == 1 else tirx.Shuffle([loaded[i]], [tirx.IntImm("int32", u)] * w))  # type: ignore[misc]

    def _weights(self, q: Index, weight: Index, c: Index) -> list[Vector]:
        plan = self.plan
        if plan.w is None:
            return [T.bind(cast(self.k.load(1, weight + c * self.offsets[-1] + self.offsets[j], w), "f32", w)) for j, w in enumerate(self.widths)]
        row = address(plan.w, [self.n, q * plan.chunk + c, 0]) + self.first
        return [T.bind(self.k.load(1, row + self.offsets[j], w)) for j, w in enumerate(self.widths)]

    def _fma(self, acc: Accumulators, weights: list[Vector], columns: tuple[int, ...], pixel: Callable[[int, int], Vector]) -> None:
        for i in columns:
            for j, w in enumerate(self.widths):
                acc.set(i, j, acc.get(i, j) + pixel(i, w) * weights[j])
