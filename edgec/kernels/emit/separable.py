"""Depthwise convolutions with 1x1 convolutions around them: rows into a ring, a band of depthwise rows, and at once its products."""

from functools import partial

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.contract import ContractPlan
from edgec.kernels.emit import contract, tiles, window
from edgec.kernels.emit.core import Index, Kernel, function, loop
from edgec.kernels.separable import SeparablePlan

_Part = tuple[Index, int]


def emit(plan: SeparablePlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, partial(_task, plan))


def _task(plan: SeparablePlan, kernel: Kernel, task: Index) -> None:
    """A run of bands. All tasks of a call use the memory of its first, one after the other."""
    each = -(-plan.all_bands // plan.tasks)
    low = T.bind(task * each)
    high = low + each if plan.all_bands % each == 0 else T.bind(T.min(low + each, plan.all_bands))
    loop(low, high, lambda number: _band(plan, kernel, task, T.bind(number)))


def _band(plan: SeparablePlan, kernel: Kernel, task: Index, number: Index) -> None:
    each, scratch = -(-plan.all_bands // plan.tasks), plan.starts[2]
    band, n = tiles.indices(number, plan.bands)
    if plan.depth.y.axes[0].extent == 1:
        n = 0
    ring = T.bind(kernel.begin * plan.args[scratch].elements)
    behind = T.bind(ring + plan.ring)
    rows = T.bind(behind - band * (plan.rows * plan.depth.y.axes[2].stride))   # where row 0 of the image would be
    at_depth, at_point, _ = plan.starts
    if plan.expand is not None:
        fresh = tirx.any(tirx.EQ(number, kernel.begin * each), tirx.EQ(band, 0))
        part = kernel.part(plan.expand, [*range(at_depth), scratch], {at_depth: ring})
        _expand(plan.expand, part, (task, n), _new_rows(plan, band, fresh))
    first = [scratch] if plan.expand else []
    result = scratch if plan.point else scratch - 1
    bases = ({0: ring} if plan.expand else {}) | ({len(plan.depth.args) - 1: rows} if plan.point else {})
    depth = kernel.part(plan.depth, [*first, *range(at_depth, at_point if plan.point else result), result], bases)
    loop(0, len(plan.depth.widths), lambda v: window.channels(plan.depth, depth, n, _bound(v), (band, plan.bands)))
    if plan.point is not None:
        part = kernel.part(plan.point, [scratch, *range(at_point, scratch)], {0: behind if plan.flat else rows})
        _products(plan.point, part, (task, n), (band, plan.bands))


def _new_rows(plan: SeparablePlan, band: Index, fresh: Index) -> tuple[Index, Index]:
    """The rows that a band reads and the band before it did not; all it reads where it is the first of its kind (`fresh`)."""
    ys, height = plan.depth.ys, plan.depth.x.axes[2].extent
    last = band * plan.rows + plan.rows - 1
    if plan.rows * plan.bands != ys.out_count:
        last = T.min(last, ys.out_count - 1)
    reach = (ys.count - 1) * ys.pitch + 1
    low = T.bind(T.max(ys.reads(band * plan.rows, 0), 0))
    high = T.bind(T.min(ys.reads(last, 0) + reach, height))
    before = T.min(ys.reads(band * plan.rows - 1, 0) + reach, height)
    return T.bind(tirx.Select(fresh, low, T.max(low, before))), high


def _expand(part: ContractPlan, kernel: Kernel, at: tuple[Index, Index], rows: tuple[Index, Index]) -> None:
    task, n = at
    loop(0, len(part.widths), lambda g: tiles.channels(
        _bound(g), part.widths, partial(contract.some_rows, part, kernel, task, (n, 0), rows)))


def _products(part: ContractPlan, kernel: Kernel, at: tuple[Index, Index], rows: _Part) -> None:
    task, n = at
    loop(0, len(part.widths), lambda g: tiles.channels(
        _bound(g), part.widths, partial(contract.vectors_of, part, kernel, task, (n, 0), rows)))


def _bound(number: Index) -> Index:
    return number if isinstance(number, int) else T.bind(number)
