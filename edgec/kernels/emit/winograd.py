"""3x3 convolutions by Winograd's method: transform a block of inputs, one matrix product for each element of a tile, transform back."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.base import vectors
from edgec.kernels.emit import tiles
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, address, along, const, function, hold, lane, loop, when
from edgec.kernels.emit.elementwise import epilogue
from edgec.kernels.winograd import UNROLL, WinogradPlan

_BODY = 192             # multiplications by a lane that the innermost loop may hold
_IMAGE, _FILTERS, _BIAS = 0, 1, 2


def emit(plan: WinogradPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: Task(plan, kernel, task).run())


def of_inputs(m: int, d: Sequence[Vector], lanes: int) -> list[Vector]:
    """B' d along one axis, of f32, or with m = 2 of integers."""
    def four(v: Vector) -> Vector:
        return v * const(4.0, "f32", lanes)

    if m == 2:                                                         # noqa: PLR2004
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    five = const(5.0, "f32", lanes)
    a, b = hold(d[4] - four(d[2]), "f32", lanes), hold(d[3] - four(d[1]), "f32", lanes)
    c, e = hold(d[4] - d[2], "f32", lanes), hold((d[3] - d[1]) * const(2.0, "f32", lanes), "f32", lanes)
    return [four(d[0]) + (d[4] - d[2] * five), a + b, a - b, c + e, c - e, four(d[1]) + (d[5] - d[3] * five)]


def of_products(m: int, p: Sequence[Vector], lanes: int) -> list[Vector]:
    """A' p along one axis."""
    if m == 2:                                                         # noqa: PLR2004
        return [p[0] + (p[1] + p[2]), p[1] - p[2] - p[3]]
    a, b = hold(p[1] + p[2], "f32", lanes), hold(p[1] - p[2], "f32", lanes)
    c, e = hold(p[3] + p[4], "f32", lanes), hold(p[3] - p[4], "f32", lanes)
    return [p[0] + (a + c), b + e * const(2.0, "f32", lanes), a + c * const(4.0, "f32", lanes), p[5] + (b + e * const(8.0, "f32", lanes))]


class Task:
    """One run of blocks and one part of the vector groups: of f32, and what the form on bytes (`winograd_dot.py`) shares with it.

    A step of the reduction is what lies in one lane: one channel, or a pair of them in 16 bits.
    """

    dtype = sums = "f32"
    """Of what is transformed, and of products."""

    def __init__(self, plan: WinogradPlan, kernel: Kernel, task: Index) -> None:
        self.plan, self.k = plan, kernel
        self.part, self.chunk = tiles.indices(task, plan.parts)
        self.output, self.scratch = len(plan.args) - 2, len(plan.args) - 1
        cells = plan.side * plan.side
        self.transformed = task * plan.args[-1].elements
        self.products = self.transformed + cells * plan.strides[0]
        self.edge = self.products + cells * plan.strides[1]
        self.lanes = kernel.isa.lanes

    # Arithmetic

    def pixels(self, index: Index, lanes: int) -> Vector:
        """Inputs of `lanes` steps."""
        return self.k.load(_IMAGE, index, lanes)

    def outside(self, lanes: int) -> Vector:
        """What stands for inputs outside of the image."""
        return const(0.0, "f32", lanes)

    def kept(self, index: Index, lanes: int) -> Vector:
        """Inputs of `lanes` steps from scratch memory."""
        return self.k.load(self.scratch, index, lanes)

    def keep(self, value: Vector, index: Index, lanes: int) -> None:
        """Put inputs of `lanes` steps, transformed or not, into scratch memory."""
        self.k.store(self.scratch, value, index, lanes)

    def transformed_element(self, value: Vector, element: tuple[int, int], lanes: int) -> Vector:
        """An element of B' d B as it is kept."""
        del element, lanes
        return value

    def filters(self, index: Index, lanes: int) -> Vector:
        """Filters of one step and `lanes` output channels."""
        return self.k.load(_FILTERS, index, lanes)

    def add(self, acc: Vector, pixel: Vector, weights: Vector, lanes: int) -> Vector:
        """The accumulator plus the products of a step."""
        del lanes
        return acc + pixel * weights

    def bias(self, channel: Index, at: Sequence[Index], lanes: int) -> Vector | None:
        """What is added to all outputs of some channels."""
        del at
        return T.bind(self.k.load(_BIAS, channel, lanes)) if self.plan.bias else None

    def result(self, value: Vector, bias: Vector | None, lanes: int) -> Vector:
        """An output from an element of A' p A."""
        del lanes
        return value if bias is None else value + bias

    # Blocks

    def run(self) -> None:
        """All blocks of the run."""
        plan = self.plan
        each = -(-plan.blocks // plan.runs)
        low = self.chunk * each
        loop(low, low + each if plan.blocks % each == 0 else T.bind(T.min(low + each, plan.blocks)), self.block)

    def block(self, b: Index) -> None:
        """One block of tiles: transformed, multiplied and transformed back."""
        plan = self.plan
        self.transform(b)
        each = -(-len(plan.widths) // plan.parts)
        low = self.part * each
        high = low + each if plan.parts * each == len(plan.widths) else T.bind(T.min(low + each, len(plan.widths)))
        loop(low, high, lambda g: tiles.channels(g, plan.widths, partial(self.group, b)))

    def place(self, b: Index, t: Index) -> tuple[Index, Index, Index]:
        """Image, row and column of the outputs of a tile; the last tile stands for those behind it."""
        plan = self.plan
        rows, columns = plan.grid
        number, count = b * plan.tiles + t, plan.x.axes[0].extent * rows * columns
        if plan.blocks * plan.tiles != count:
            number = T.min(number, count - 1)
        column, row, image = tiles.indices(T.bind(number), columns, rows)
        return (0 if plan.x.axes[0].extent == 1 else image), row * plan.m, column * plan.m

    # Inputs

    def transform(self, b: Index) -> None:
        """The transformed inputs of a block: first those of tiles at an edge, which are copied to where zeros surround them.

        Of the others, one vector of channels of all tiles comes after the other: neighbors share what they read, and few lines are open.
        """
        plan, side = self.plan, self.plan.side
        height, width = (a.extent for a in plan.x.axes[2:])
        rows, columns = (a.stride for a in plan.x.axes[2:])
        begins = T.alloc_buffer((plan.tiles,), "int32")                # where the inputs of a tile begin, -1 of one at an edge

        def look(t: Index) -> None:
            n, y, x = self.place(b, t)
            y, x = y - plan.pads[0], x - plan.pads[1]
            if height < side or width < side:
                self.padded(t, (n, y, x))
                return
            with T.If(tirx.any(tirx.LT(y, 0), tirx.LT(x, 0), tirx.GT(y, height - side), tirx.GT(x, width - side))):
                with T.Then():
                    T.buffer_store(begins, -1, [t])
                    self.padded(t, (n, y, x))
                with T.Else():
                    T.buffer_store(begins, address(plan.x, [n, 0, 0, 0]) + y * rows + x * columns, [t])

        def inside(c: Index, lanes: int) -> None:
            def tile(t: Index) -> None:
                begin = T.bind(begins[t])
                when(tirx.GE(begin, 0), lambda: self.tile(t, c, lanes, lambda i, j: self.pixels(
                    begin + along(plan.x.axes[1], c * plan.depth) + i * rows + j * columns, lanes)))

            loop(0, plan.tiles, tile)

        loop(0, plan.tiles, look)
        if height >= side and width >= side:
            self.vectors(inside)

    def padded(self, t: Index, at: tuple[Index, Index, Index]) -> None:
        """The transformed inputs of a tile at an edge, whose first input is at (image, row, column)."""
        side, (n, y, x) = self.plan.side, at
        for i in range(side):
            for j in range(side):
                self.vectors(partial(self.copy, n, y + i, x + j, self.edge + (i * side + j) * self.plan.steps))
        self.vectors(lambda c, w: self.tile(t, c, w, lambda i, j: self.kept(self.edge + (i * side + j) * self.plan.steps + c, w)))

    def copy(self, n: Index, y: Index, x: Index, target: Index, c: Index, lanes: int) -> None:
        """Channels of one input, or zeros outside of the image."""
        height, width = (a.extent for a in self.plan.x.axes[2:])
        with T.If(tirx.all(tirx.GE(y, 0), tirx.GE(x, 0), tirx.LT(y, height), tirx.LT(x, width))):
            with T.Then():
                self.keep(self.pixels(address(self.plan.x, [n, c * self.plan.depth, y, x]), lanes), target + c, lanes)
            with T.Else():
                self.keep(self.outside(lanes), target + c, lanes)

    def vectors(self, body: Callable[[Index, int], None]) -> None:
        """Run body(first step, lanes) for every vector of input channels."""
        count = self.plan.steps // self.lanes
        loop(0, count, lambda v: body(v * self.lanes, self.lanes))
        start = count * self.lanes
        for width in vectors(self.plan.steps - start, self.lanes):
            body(start, width)
            start += width

    def tile(self, t: Index, c: Index, lanes: int, read: Callable[[int, int], Vector]) -> None:
        """B' d B of one tile for a vector of steps."""
        plan, side, size = self.plan, self.plan.side, lanes * self.plan.depth
        half = Accumulators([size] * side, side, self.dtype)
        for j in range(side):
            column = [hold(read(i, j), self.dtype, size) for i in range(side)]
            for i, value in enumerate(of_inputs(plan.m, column, size)):
                half.set(i, j, value)
        for i in range(side):
            for j, value in enumerate(of_inputs(plan.m, [half.get(i, j) for j in range(side)], size)):
                at = self.transformed + (i * side + j) * plan.strides[0] + c * plan.tiles + t * lanes
                self.keep(self.transformed_element(value, (i, j), size), at, lanes)

    # Products

    def group(self, b: Index, widths: tuple[int, ...], first: Index) -> None:
        """All tiles of a block for one vector group."""
        plan, columns = self.plan, self.plan.columns
        places = [0, *accumulate(widths)]

        def element(e: Index) -> None:
            loop(0, plan.tiles // columns, lambda i: self.product(e, i * columns, columns, widths, first))
            if plan.tiles % columns:
                self.product(e, plan.tiles // columns * columns, plan.tiles % columns, widths, first)

        def back(t: Index) -> None:
            n, y, x = self.place(b, t)
            for j, lanes in enumerate(widths):
                self.outputs(t, (n, first + places[j], y, x), places[j], lanes)

        loop(0, plan.side * plan.side, element)
        loop(0, plan.tiles, back)

    def product(self, e: Index, start: Index, columns: int, widths: tuple[int, ...], first: Index) -> None:
        """One register tile: `columns` tiles from `start`, at element e, over all input channels."""
        plan, size, line = self.plan, sum(widths), self.k.isa.line_bytes // 4
        places = [0, *accumulate(widths)][:-1]
        cells = plan.side * plan.side
        acc = Accumulators(widths, columns, self.sums)
        for i in range(columns):
            for j, w in enumerate(widths):
                acc.set(i, j, const(0, self.sums, w))
        filters = first * (cells * plan.steps) + e * (plan.steps * size)
        asked = filters + plan.steps * size + tirx.truncdiv(start, plan.columns) * (plan.steps // UNROLL * plan.ahead * line)

        def load(c: Index) -> list[Vector]:
            return [T.bind(self.filters(filters + c * size + at, w)) for at, w in zip(places, widths, strict=True)]

        def ask(q: Index) -> None:
            for i in range(plan.ahead):
                self.k.prefetch(_FILTERS, (asked + (q * plan.ahead + i) * line) * plan.depth)

        self.chain(acc, widths, (self.transformed + e * plan.strides[0], start, columns), (load, ask))
        for i in range(columns):
            for j, w in enumerate(widths):
                at = self.products + e * plan.strides[1] + (start + i) * plan.largest + places[j]
                self.k.store(self.scratch, acc.get(i, j), at, w)

    def chain(self, acc: Accumulators, widths: Sequence[int], inputs: tuple[Index, Index, int],
              filters: tuple[Callable[[Index], list[Vector]], Callable[[Index], None]]) -> None:
        """Add the products of all steps.

        `inputs`: where those of an element begin, the first tile, and how many tiles there are. `filters`: what loads the vectors of a
        step, and what asks for more, with the number of a body of the loop.
        """
        channels, lanes, (element, start, columns), (load, ask) = self.plan.steps, self.lanes, inputs, filters

        def add(loaded: Sequence[Vector], pixel: Callable[[int, int], Vector]) -> None:
            for i in range(columns):
                for j, w in enumerate(widths):
                    acc.set(i, j, self.add(acc.get(i, j), pixel(i, w), loaded[j], w))

        def pixels(c: Index, wide: int) -> list[Index]:
            """Where the vector of `wide` channels from c on lies, of each tile."""
            return [element + c * self.plan.tiles + (start + i) * wide for i in range(columns)]

        def by_broadcast(first: Index, begin: Index, count: int, wide: int) -> None:
            """Channels `begin` and following of the vector that begins with `first`."""
            at = pixels(first, wide)
            for u in range(count):
                add(load(first + begin + u), lambda i, w, u=u: self.k.splat(self.scratch, at[i] + begin + u, w))  # type: ignore[misc]

        def by_lane(first: Index, count: int) -> None:
            together = tiles.steps_at_once(self.k.isa, columns, len(widths))
            for part in range(0, count, lanes):
                held = [T.bind(self.k.load(self.scratch, p, lanes)) for p in pixels(first + part, lanes)]
                for u in range(0, lanes, together):
                    for v, loaded in enumerate([load(first + part + u + v) for v in range(together)]):
                        add(loaded, lambda i, w, held=held, at=u + v: lane(held[i], at, w))  # type: ignore[misc]

        whole = channels // lanes * lanes
        if self.k.isa.broadcast != "lane":
            unroll = min(UNROLL, lanes)

            def body(v: Index, q: Index) -> None:
                ask(v * (lanes // unroll) + q)
                by_broadcast(v * lanes, q * unroll, unroll, lanes)

            loop(0, channels // lanes, lambda v: loop(0, lanes // unroll, partial(body, v)))
        else:
            rounds = lanes * max(r for r in (1, 2, 4) if r <= max(1, _BODY // (lanes * columns * len(widths))))
            loop(0, whole // rounds, lambda q: by_lane(q * rounds, rounds))
            by_lane(whole // rounds * rounds, whole % rounds)
        for wide in vectors(channels - whole, lanes):
            by_broadcast(whole, 0, wide, wide)
            whole += wide

    # Outputs

    def outputs(self, t: Index, at: tuple[Index, Index, Index, Index], offset: int, lanes: int) -> None:
        """A' p A of one tile for a vector of output channels, bias and epilogue; outputs outside of the image are left out."""
        plan, side, m = self.plan, self.plan.side, self.plan.m
        n, channel, y, x = at
        half = Accumulators([lanes] * side, m, self.sums)
        for j in range(side):
            places = [self.products + (i * side + j) * plan.strides[1] + t * plan.largest + offset for i in range(side)]
            column = [hold(self.k.load(self.scratch, p, lanes), self.sums, lanes) for p in places]
            for i, value in enumerate(of_products(m, column, lanes)):
                half.set(i, j, value)
        bias = self.bias(channel, [n, channel, 0, 0], lanes)
        height, width = (a.extent for a in plan.y.axes[2:])
        for i in range(m):
            row = [hold(v, self.sums, lanes) for v in of_products(m, [half.get(i, j) for j in range(side)], lanes)]
            for j, value in enumerate(row):
                conditions = [tirx.LT(p, size) for p, size, k in ((y + i, height, i), (x + j, width, j)) if size % m and k >= size % m]
                when(tirx.all(*conditions) if len(conditions) > 1 else conditions[0] if conditions else True,
                     partial(self.write, [n, channel, y + i, x + j], self.result(value, bias, lanes), lanes))

    def write(self, at: Sequence[Index], value: Vector, lanes: int) -> None:
        """The epilogue of some outputs, and their place."""
        made = epilogue(self.k, self.plan.epilogue, value, at, 1, lanes)
        self.k.write(self.output, self.plan.y, at, 1, made, lanes)
