"""Recurrent layers: products of a chunk of inputs first, then step by step the products of the last state and the cell's arithmetic."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import accumulate

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.ir.layout import View
from edgec.kernels.base import vectors
from edgec.kernels.emit import tiles
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, address, const, function, lane, loop, when
from edgec.kernels.emit.elementwise import evaluate
from edgec.kernels.expr import Expr
from edgec.kernels.recurrent import RecurrentPlan

_UNROLL = 4
_W, _R, _BIAS = 1, 2, 3


def emit(plan: RecurrentPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    if plan.rounds > 1:
        return function(plan, symbol, lambda kernel, number: _Task(plan, kernel, 0).round(number))
    return function(plan, symbol, lambda kernel, task: _Task(plan, kernel, task).run())


class _Group:
    """Some vectors of hidden units: `first` is the first unit, `at` the start of each vector behind it, `sums` the widths gate by gate.

    `gates`: all of the plan's, or those of them that are computed together.
    """

    def __init__(self, plan: RecurrentPlan, widths: tuple[int, ...], first: Index, gates: Sequence[int] = ()) -> None:
        self.widths, self.first, self.size = widths, first, sum(widths)
        self.at = [0, *accumulate(widths)][:-1]
        self.gates = gates or range(plan.gates)
        self.sums = widths * len(self.gates)
        self.places = [gate * self.size + at for gate in self.gates for at in self.at]


class _Task:
    """One direction of `rows` images: where their operands and their scratch memory begin."""

    def __init__(self, plan: RecurrentPlan, kernel: Kernel, task: Index) -> None:
        self.plan, self.k = plan, kernel
        part, self.side = tiles.indices(task, plan.x.axes[1].extent // plan.rows)
        if plan.y.axes[1].extent == 1:
            self.side = 0
        self.image = part * plan.rows
        self.states = 3 + plan.bias
        self.out = self.states + len(plan.first)
        self.scratch = len(plan.args) - 1
        self.sums = task * plan.args[-1].elements
        self.h = self.sums + plan.rows * plan.chunk * (2 if plan.ahead else 1) * plan.gates * plan.hidden
        self.c = self.h + 2 * plan.rows * plan.hidden

    def run(self) -> None:
        """All steps."""
        self.first_states()
        loop(0, self.alike, self.whole)
        self.finish()

    def round(self, number: Index) -> None:
        """A chunk of steps. What the next one needs lies in scratch memory."""
        last = self.plan.rounds - 1
        when(tirx.EQ(number, 0), self.first_states)
        when(tirx.LT(number, self.alike) if self.alike <= last else True, lambda: self.whole(number))
        when(tirx.EQ(number, last), self.finish)

    def finish(self) -> None:
        """What follows the chunks that are alike."""
        self.rest()
        self.last_states()

    def first_states(self) -> None:
        """What the first chunk begins with."""
        for number, place in enumerate((self.h, self.c)[:self.plan.states]):
            self.units(partial(self.begin, number, place))
        if self.plan.ahead:
            self.products_of(0, self.plan.chunk)

    def last_states(self) -> None:
        """What the last chunk leaves behind, as far as somebody asks for it."""
        h = self.h + self.plan.steps % 2 * self.plan.rows * self.plan.hidden
        for number, place in enumerate((h, self.c)[:len(self.plan.last)]):
            self.units(partial(self.end, number, place))

    @property
    def alike(self) -> int:
        """The chunks that have all of their steps and, with `ahead`, one behind them."""
        return (self.plan.steps - bool(self.plan.ahead)) // self.plan.chunk

    def whole(self, q: Index) -> None:
        """One of those."""
        if self.plan.ahead:
            self.part_ahead(q)
        else:
            self.part(q * self.plan.chunk, self.plan.chunk)

    def rest(self) -> None:
        """The steps behind them."""
        first, place = self.alike * self.plan.chunk, self.alike % 2 * self.plan.chunk
        if self.plan.ahead:
            loop(0, self.plan.steps - first, lambda i: self.step(first + i, place + i))
        elif first < self.plan.steps:
            self.part(first, self.plan.steps - first)

    def units(self, body: Callable[[Index, Index, int], None]) -> None:
        """Run body(image, first unit, lanes) for every vector of the state."""
        hidden, lanes = self.plan.hidden, self.k.isa.lanes

        def image(r: Index) -> None:
            loop(0, hidden // lanes, lambda v: body(r, v * lanes, lanes))
            start = hidden // lanes * lanes
            for width in vectors(hidden - start, lanes):
                body(r, start, width)
                start += width

        loop(0, self.plan.rows, image)

    def begin(self, number: int, place: Index, r: Index, unit: Index, lanes: int) -> None:
        value = const(0.0, "f32", lanes)
        if self.plan.first:
            value = self.k.load(self.states + number, self.of_state(self.plan.first[number], r, unit), lanes)
        self.k.store(self.scratch, value, place + r * self.plan.hidden + unit, lanes)

    def end(self, number: int, place: Index, r: Index, unit: Index, lanes: int) -> None:
        value = self.k.load(self.scratch, place + r * self.plan.hidden + unit, lanes)
        self.k.store(self.out + 1 + number, value, self.of_state(self.plan.last[number], r, unit), lanes)

    def of_state(self, view: View, r: Index, unit: Index) -> Index:
        return address(view, [self.side, self.image + r, unit])

    def time(self, step: Index) -> Index:
        """Where a step lies in the sequence."""
        last = self.plan.steps - 1
        if self.plan.y.axes[1].extent > 1:
            return step + self.side * (last - 2 * step)
        return last - step if self.plan.backward else step

    def groups(self, body: Callable[[_Group], None]) -> None:
        """Run body for each group of vectors of hidden units, those that are alike in a loop."""
        widths = self.plan.widths
        size, full = sum(widths[0]), sum(1 for w in widths if w == widths[0])
        loop(0, full, lambda g: body(_Group(self.plan, widths[0], g * size)))
        start = full * size
        for rest in widths[full:]:
            body(_Group(self.plan, rest, start))
            start += sum(rest)

    def part(self, first: Index, count: int) -> None:
        """Steps from `first`: what X adds to their sums, then the steps themselves."""
        self.products_of(first, count)
        loop(0, count, lambda i: self.step(first + i, i))

    def part_ahead(self, q: Index) -> None:
        """The steps of chunk q, whose sums are there, and in between what X adds to the sums of the next chunk."""
        plan = self.plan
        here = T.bind(tirx.truncmod(q, 2) * plan.chunk)
        there = T.bind(plan.chunk - here)

        def begin(group: _Group) -> None:
            for place, lanes in zip(group.places, group.sums, strict=True):
                value = T.bind(self.k.load(_BIAS, self.bias(group) + place, lanes)) if plan.bias else const(0.0, "f32", lanes)
                for i in range(plan.chunk):
                    self.k.store(self.scratch, value, self.sum(group, there + i, 0) + place, lanes)

        self.groups(begin)
        following = [(q + 1) * plan.chunk + i for i in range(plan.chunk)]
        if plan.steps % plan.chunk:                                    # sums behind the last step are never read
            following = [T.min(step, plan.steps - 1) for step in following]
        pixels = [T.bind(address(plan.x, [self.time(step), self.image, 0])) for step in following]
        loop(0, plan.chunk, lambda i: self.step(q * plan.chunk + i, here + i, partial(self.both, i, there, pixels)))

    def products_of(self, first: Index, count: int) -> None:
        """What X adds to the sums of `count` steps from `first`, at the beginning of the scratch memory."""
        columns = self.plan.columns

        def tile(group: _Group, r: Index, start: Index, width: int) -> None:
            cells = Accumulators(group.sums, width)
            for j, (place, lanes) in enumerate(zip(group.places, group.sums, strict=True)):
                value = T.bind(self.k.load(_BIAS, self.bias(group) + place, lanes)) if self.plan.bias else const(0.0, "f32", lanes)
                for i in range(width):
                    cells.set(i, j, value)
            pixels = [address(self.plan.x, [self.time(first + start + i), self.image + r, 0]) for i in range(width)]
            self.products(cells, 1, (0, pixels), (_W, self.plan.x.shape[2]), group)
            for i in range(width):
                for j, (place, lanes) in enumerate(zip(group.places, group.sums, strict=True)):
                    self.k.store(self.scratch, cells.get(i, j), self.sum(group, start + i, r) + place, lanes)

        def of_group(group: _Group) -> None:
            def image(r: Index) -> None:
                loop(0, count // columns, lambda i: tile(group, r, i * columns, columns))
                if count % columns:
                    tile(group, r, count // columns * columns, count % columns)

            loop(0, self.plan.rows, image)

        self.groups(of_group)

    def bias(self, group: _Group) -> Index:
        rows = self.plan.gates + self.plan.apart
        return self.side * (rows * self.plan.hidden) + group.first * rows

    def sum(self, group: _Group, place: Index, r: Index) -> Index:
        """Where the sums of a group for a step of the chunk lie."""
        gates, hidden = self.plan.gates, self.plan.hidden
        return self.sums + (place * self.plan.rows + r) * (gates * hidden) + group.first * gates

    def step(self, step: Index, place: Index, products: Callable[[Accumulators, Index, _Group], None] | None = None) -> None:
        """One step, whose sums lie at `place`. `products` adds those of the old state, and does something else in between."""
        size = self.plan.rows * self.plan.hidden
        odd = T.bind(tirx.truncmod(step, 2))
        old, new, time = self.h + odd * size, self.h + size - odd * size, self.time(step)
        if self.plan.reset is not None:
            self.step_reset(self.plan.reset, (old, new), time, place)
            return

        def of_group(group: _Group) -> None:
            chains, rows = self.plan.chains, self.plan.rows
            cells = Accumulators(group.sums, rows * chains)
            for r in range(rows):
                for j, lanes in enumerate(group.sums):
                    cells.set(r * chains, j, self.start(group, j, self.sum(group, place, r)))
                    for chain in range(1, chains):
                        cells.set(r * chains + chain, j, const(0.0, "f32", lanes))
            before = [old + r * self.plan.hidden for r in range(rows)]
            if products:
                products(cells, old, group)
            else:
                self.products(cells, chains, (self.scratch, before), (_R, self.plan.hidden), group)
            for r in range(rows):
                for v, lanes in enumerate(group.widths):
                    unit = group.first + group.at[v]
                    sums = [reduce(lambda a, b: a + b, [cells.get(r * chains + c, g * len(group.widths) + v) for c in range(chains)])
                            for g in range(self.plan.gates)]
                    if self.plan.apart:
                        of_x = self.sum(group, place, r) + group.places[2 * len(group.widths) + v]
                        sums.insert(2, self.k.load(self.scratch, of_x, lanes))
                    places = [old + r * self.plan.hidden + unit, self.c + r * self.plan.hidden + unit][:self.plan.states]
                    states = [self.k.load(self.scratch, p, lanes) for p in places]
                    made = evaluate(self.plan.cell, [*sums, *states], lanes)
                    for value, p in zip(made, (new + r * self.plan.hidden + unit, *places[1:]), strict=True):
                        self.k.store(self.scratch, value, p, lanes)
                    self.k.store(self.out, made[0], address(self.plan.y, [time, self.side, self.image + r, unit]), lanes)

        self.groups(of_group)

    def step_reset(self, reset: Expr, states: tuple[Index, Index], time: Index, place: Index) -> None:
        """A step of a GRU that resets first: all units of the state have to pass the reset gate before the product with the hidden gate."""
        plan, (old, new) = self.plan, states
        passed = self.c + plan.rows * plan.hidden                      # behind the update gates, which lie where an LSTM has its c

        def summed(group: _Group, source: Index, finish: Callable[[int, int, int, list[Vector]], None]) -> None:
            cells = Accumulators(group.sums, plan.rows * plan.chains)
            for r in range(plan.rows):
                for j, lanes in enumerate(group.sums):
                    for chain in range(plan.chains):
                        start = const(0.0, "f32", lanes) if chain else self.start(group, j, self.sum(group, place, r))
                        cells.set(r * plan.chains + chain, j, start)
            before = [source + r * plan.hidden for r in range(plan.rows)]
            self.products(cells, plan.chains, (self.scratch, before), (_R, plan.hidden), group)
            for r in range(plan.rows):
                for v, lanes in enumerate(group.widths):
                    finish(r, v, lanes, [reduce(lambda a, b: a + b, [cells.get(r * plan.chains + c, g * len(group.widths) + v)
                                                                     for c in range(plan.chains)]) for g in range(len(group.gates))])

        def gates(group: _Group) -> None:
            def finish(r: int, v: int, lanes: int, sums: list[Vector]) -> None:
                unit = r * plan.hidden + group.first + group.at[v]
                made = evaluate(reset, [*sums, self.k.load(self.scratch, old + unit, lanes)], lanes)
                for value, where in zip(made, (self.c, passed), strict=True):
                    self.k.store(self.scratch, value, where + unit, lanes)

            summed(_Group(plan, group.widths, group.first, (0, 1)), old, finish)

        def hidden(group: _Group) -> None:
            def finish(r: int, v: int, lanes: int, sums: list[Vector]) -> None:
                unit = group.first + group.at[v]
                given = [self.k.load(self.scratch, where + r * plan.hidden + unit, lanes) for where in (self.c, old)]
                value = evaluate(plan.cell, [*sums, *given], lanes)[0]
                self.k.store(self.scratch, value, new + r * plan.hidden + unit, lanes)
                self.k.store(self.out, value, address(plan.y, [time, self.side, self.image + r, unit]), lanes)

            summed(_Group(plan, group.widths, group.first, (2,)), passed, finish)

        self.groups(gates)
        self.groups(hidden)

    def both(self, turn: Index, there: Index, pixels: Sequence[Index], cells: Accumulators, old: Index, group: _Group) -> None:
        """Products of the old state with R for a group, and between them this group's share of those of X with W for the next chunk.

        The tiles of the next chunk are taken in turns by the groups of all its steps, and wait among the sums meanwhile.
        """
        plan, lanes, (size, total) = self.plan, self.k.isa.lanes, (self.plan.x.axes[2].extent, self.plan.gates * group.size)
        parts, each, ratio = plan.gates * len(group.widths) // plan.ahead, plan.ahead * lanes, plan.hidden // plan.share
        done = T.bind((turn * len(plan.widths) + tirx.truncdiv(group.first, group.size)) * plan.share)
        tile, start = T.bind(tirx.truncdiv(done, size)), T.bind(tirx.truncmod(done, size))
        target = T.bind(tirx.truncdiv(tile, parts) * total + tirx.truncmod(tile, parts) * each)
        weight = T.bind(self.side * (plan.gates * plan.hidden * size) + tirx.truncdiv(tile, parts) * (total * size)
                        + tirx.truncmod(tile, parts) * each + start * total)
        sums = [self.sums + (there + i) * (plan.gates * plan.hidden) + target for i in range(plan.chunk)]
        matrix = self.side * (plan.gates * plan.hidden * plan.hidden) + group.first * (plan.gates * plan.hidden)
        ahead = Accumulators((lanes,) * plan.ahead, plan.chunk)
        for i in range(plan.chunk):
            for j in range(plan.ahead):
                ahead.set(i, j, self.k.load(self.scratch, sums[i] + j * lanes, lanes))

        def mixed(c: Index) -> None:
            loaded = [T.bind(self.k.load(_W, weight + c * total + j * lanes, lanes)) for j in range(plan.ahead)]
            for u in range(ratio):
                state = c * ratio + u
                for j, (place, w) in enumerate(zip(group.places, group.sums, strict=True)):
                    cell = u % plan.chains
                    of_state = self.k.splat(self.scratch, old + state, w) * self.k.load(_R, matrix + state * total + place, w)
                    cells.set(cell, j, cells.get(cell, j) + of_state)
                for i in range(plan.chunk * u // ratio, plan.chunk * (u + 1) // ratio):
                    pixel = T.bind(self.k.splat(0, pixels[i] + start + c, lanes))
                    for j in range(plan.ahead):
                        ahead.set(i, j, ahead.get(i, j) + pixel * loaded[j])

        loop(0, plan.share, mixed)
        for i in range(plan.chunk):
            for j in range(plan.ahead):
                self.k.store(self.scratch, ahead.get(i, j), sums[i] + j * lanes, lanes)

    def start(self, group: _Group, j: int, sums: Index) -> Vector:
        """What a sum begins with: what X gave it; the hidden gate of a GRU keeps that apart and begins with its second bias."""
        lanes = group.sums[j]
        if not self.plan.apart or j < 2 * len(group.widths):
            return self.k.load(self.scratch, sums + group.places[j], lanes)
        return self.k.load(_BIAS, self.bias(group) + group.size + group.places[j], lanes) if self.plan.bias else const(0.0, "f32", lanes)

    def products(self, cells: Accumulators, chains: int, pixels: tuple[int, Sequence[Index]], weights: tuple[int, int],
                 group: _Group) -> None:
        """Add products of the vectors at `pixels` (an operand, and where each begins) with a packed matrix (an operand, and its depth).

        The cells of a column are `chains` neighbors, which take turns.
        """
        (source, starts), (matrix, depth) = pixels, weights
        total = self.plan.gates * group.size
        base = self.side * (self.plan.gates * self.plan.hidden * depth) + group.first * (self.plan.gates * depth)
        lanes = self.k.isa.lanes
        by_lane = self.k.isa.broadcast == "lane" and depth >= lanes

        def add(k: Index, turn: int, pixel: Callable[[int, int], Vector]) -> None:
            loaded = [T.bind(self.k.load(matrix, base + k * total + place, w)) for place, w in zip(group.places, group.sums, strict=True)]
            for i in range(len(starts)):
                for j, w in enumerate(group.sums):
                    cell = i * chains + turn % chains
                    cells.set(cell, j, cells.get(cell, j) + pixel(i, w) * loaded[j])

        def splat(k: Index, i: int, width: int) -> Vector:
            return self.k.splat(source, starts[i] + k, width)

        def block(q: Index) -> None:
            held = [T.bind(self.k.load(source, start + q * lanes, lanes)) for start in starts]
            for u in range(lanes):
                add(q * lanes + u, u, lambda i, w, u=u: lane(held[i], u, w))  # type: ignore[misc]

        def plain(first: Index, count: int) -> None:
            for u in range(count):
                add(first + u, u, partial(splat, first + u))

        unroll = lanes if by_lane else -(-_UNROLL // chains) * chains
        loop(0, depth // unroll, block if by_lane else lambda q: plain(q * unroll, unroll))
        plain(depth // unroll * unroll, depth % unroll)
