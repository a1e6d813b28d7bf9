"""Depthwise convolution and pooling: vectors of channels, a tile of output columns, all taps unrolled."""

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.contract import Taps
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, cast, const, function, loop, when
from edgec.kernels.emit.elementwise import epilogue
from edgec.kernels.emit.functions import OPERATIONS
from edgec.kernels.expr import Instr
from edgec.kernels.window import WindowPlan, row_classes

_MAX = Instr("Max", (0, 1))


def emit(plan: WindowPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: _Window(plan, kernel).task(task))


class _Window:
    """One task: some rows of one vector of channels of one image."""

    def __init__(self, plan: WindowPlan, kernel: Kernel) -> None:
        self.plan, self.k = plan, kernel
        self.taps = sum(ys.count for ys in plan.ys) * sum(xs.count for xs in plan.xs)

    def task(self, t: Index) -> None:
        plan = self.plan
        chunks, count = plan.row_chunks, len(plan.widths)
        r = T.bind(tirx.truncmod(t, chunks)) if chunks > 1 else 0
        t = T.bind(tirx.truncdiv(t, chunks)) if chunks > 1 else t
        v = T.bind(tirx.truncmod(t, count)) if count > 1 else 0
        n = T.bind(tirx.truncdiv(t, count)) if count > 1 else t
        if plan.y.axes[0].extent == 1:
            n = 0
        full = sum(1 for w in plan.widths if w == plan.widths[0])
        rest = plan.widths[full:]
        when(v < full if rest else True, lambda: self.rows(n, r, v * plan.widths[0], plan.widths[0]))
        for i, width in enumerate(rest):
            start = full * plan.widths[0] + sum(rest[:i])
            when(v == full + i, lambda s=start, w=width: self.rows(n, r, s, w))  # type: ignore[misc]

    def rows(self, n: Index, r: Index, channel: Index, width: int) -> None:
        plan = self.plan
        for ys in plan.ys:
            height = -(-ys.out_count // plan.row_chunks)
            for rows, taps in row_classes(ys, plan.x.axes[2].extent):
                low, high = (rows.start, rows.stop) if plan.row_chunks == 1 else (
                    T.bind(T.max(r * height, rows.start)), T.bind(T.min(r * height + height, rows.stop)))
                loop(low, high, lambda y, t=taps, ys=ys: self.row(n, channel, width, ys, y, t))  # type: ignore[misc]

    def row(self, n: Index, channel: Index, width: int, ys: Taps, y: Index, rows: range) -> None:
        plan = self.plan
        size = plan.x.axes[3].extent
        for xs in plan.xs:
            start = 0
            while start < xs.out_count:
                columns = min(plan.columns, xs.out_count - start)
                runs = xs.runs(range(start, start + columns), size)
                stop = start + columns
                while stop + columns <= xs.out_count and xs.runs(range(stop, stop + columns), size) == runs:
                    stop += columns
                loop(0, (stop - start) // columns,
                     lambda i, s=start, c=columns, q=runs, p=xs: self.tile(n, channel, width, ys, y, rows, p, s + i * c, c, q))  # type: ignore[misc]
                start = stop

    def tile(self, n: Index, channel: Index, width: int, ys: Taps, y: Index, rows: range, xs: Taps, x: Index, columns: int,  # noqa: PLR0913
             runs: list[tuple[range, tuple[int, ...]]]) -> None:
        plan, k = self.plan, self.k
        acc = Accumulators((width,), columns)
        start = self._start(channel, width)
        for i in range(columns):
            acc.set(i, 0, start)
        taken = [0] * columns
        for ty in rows:
            row = ys.reads(y, ty) if isinstance(y, int) else y * ys.step + ys.first + ty * ys.pitch
            for taps, inside in runs:
                for tx in taps:
                    weight = self._weight(channel, width, ys.kernel + ty * ys.kernel_step, xs.kernel + tx * xs.kernel_step)
                    for i in inside:
                        taken[i] += 1
                        value = k.read(0, plan.x, [n, channel, row, (x + i) * xs.step + xs.first + tx * xs.pitch], 1, width)
                        acc.set(i, 0, self._step(acc.get(i, 0), value, weight, width))
        row, column = ys.out_begin + y * ys.out_step, xs.out_begin + x * xs.out_step
        for i in range(columns):
            at = [n, channel, row, column + i * xs.out_step]
            value = self._finish(acc.get(i, 0), taken[i], y, x, i, width)
            k.write(len(plan.args) - 1, plan.y, at, 1, epilogue(k, plan.epilogue, value, at, 1, width), width)

    def _start(self, channel: Index, width: int) -> Vector:
        if self.plan.op == "depthwise" and self.plan.bias:
            return T.bind(self.k.load(2, channel, width))
        return const(float("-inf") if self.plan.op == "max" else 0.0, "f32", width)

    def _weight(self, channel: Index, width: int, ky: int, kx: int) -> Vector | None:
        """A vector of a width that divides its start: the packed weight of earlier vectors is exactly channel * taps elements."""
        if self.plan.op != "depthwise":
            return None
        taps_x = 1 + max(xs.kernel + (xs.count - 1) * xs.kernel_step for xs in self.plan.xs)
        taps_y = 1 + max(ys.kernel + (ys.count - 1) * ys.kernel_step for ys in self.plan.ys)
        return T.bind(cast(self.k.load(1, channel * (taps_x * taps_y) + (ky * taps_x + kx) * width, width), "f32", width))

    def _step(self, acc: Vector, value: Vector, weight: Vector | None, width: int) -> Vector:
        if self.plan.op == "depthwise":
            return acc + value * weight
        return acc + value if self.plan.op == "average" else OPERATIONS["Max"](_MAX, [acc, value], ["f32", "f32"], width)

    def _finish(self, value: Vector, taken: int, y: Index, x: Index, i: int, width: int) -> Vector:
        if self.plan.op != "average":
            return value
        if self.plan.divisor is None:
            return value / const(float(max(taken, 1)), "f32", width)
        by_row, by_column = self.plan.divisor
        columns = {by_column[j] for j in range(len(by_column))}
        if len(set(by_row)) == 1 and len(columns) == 1:
            return value / const(float(by_row[0] * by_column[0]), "f32", width)
        count = _lookup(by_row, y) * _lookup(by_column, x + i)
        return value / (T.Broadcast(count, width) if width > 1 else count)


def _lookup(table: tuple[int, ...], index: Index) -> Vector:
    """A small table of counts that differs only near its end, as nested selects."""
    value: Vector = const(float(table[0]), "f32")
    for position in range(1, len(table)):
        if table[position] != table[position - 1]:
            value = tirx.Select(index >= position, const(float(table[position]), "f32"), value)
    return value
