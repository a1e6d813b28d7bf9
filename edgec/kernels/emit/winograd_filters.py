"""The filters of Winograd's method: G g G' of each filter, once, before the first run."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from tvm import tirx

from edgec.kernels.emit import tiles
from edgec.kernels.emit.core import Accumulators, Index, Kernel, Vector, cast, const, function, hold, loop
from edgec.kernels.winograd import TAPS, FiltersPlan


def emit(plan: FiltersPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: tiles.channels(task, plan.widths, partial(_group, plan, kernel)))


def _of_filter(m: int, g: Sequence[Vector], dtype: str, lanes: int) -> list[Vector]:
    """G g along one axis; twice that in integers, where it is whole."""
    def times(v: Vector, factor: float) -> Vector:
        return v * const(factor, dtype, lanes)

    ends = hold(g[0] + g[2], dtype, lanes)
    if dtype != "f32":
        return [times(g[0], 2), ends + g[1], ends - g[1], times(g[2], 2)]
    if m == 2:                                                         # noqa: PLR2004
        return [g[0], times(ends + g[1], 0.5), times(ends - g[1], 0.5), g[2]]
    outer, inner = hold(times(g[0], 1 / 24) + times(g[2], 1 / 6), dtype, lanes), hold(times(g[1], 1 / 12), dtype, lanes)
    return [times(g[0], 0.25), times(ends + g[1], -1 / 6), times(ends - g[1], -1 / 6), outer + inner, outer - inner, g[2]]


def _group(plan: FiltersPlan, k: Kernel, widths: tuple[int, ...], first: Index) -> None:
    """All filters of one vector group."""
    side, size, dtype = plan.m + TAPS - 1, sum(widths), plan.args[1].dtype
    source, target = first * (TAPS * TAPS * plan.channels), first * (side * side * plan.channels)

    def channel(c: Index) -> None:
        for at, lanes in zip([0, *accumulate(widths)], widths, strict=False):
            half = Accumulators([lanes] * TAPS, side, dtype)
            for x in range(TAPS):
                places = [source + (c * TAPS * TAPS + y * TAPS + x) * size + at for y in range(TAPS)]
                column = [hold(cast(k.load(0, p, lanes), dtype, lanes), dtype, lanes) for p in places]
                for i, value in enumerate(_of_filter(plan.m, column, dtype, lanes)):
                    half.set(i, x, value)
            for i in range(side):
                row = [hold(half.get(i, x), dtype, lanes) for x in range(TAPS)]
                for j, value in enumerate(_of_filter(plan.m, row, dtype, lanes)):
                    k.store(1, value, target + ((i * side + j) * plan.channels + c) * size + at, lanes)

    loop(0, plan.channels, channel)
