"""Plans for Pad with a constant: the few that no convolution or pooling has taken up."""

from dataclasses import dataclass

from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels.base import Arg, KernelPlan, Operands, Planned, extent, traffic
from edgec.kernels.region import Region

_STATIC = 1024
"""Elements along the vector axis that are laid out one by one when its blocks or pads ask for it."""


@dataclass(frozen=True)
class PadPlan(KernelPlan):
    """args: input, [value], output; tasks are the positions along the first axis of `order`.

    `before`: pads at the begin of each axis. `order`: axes from outermost to innermost in the output's memory. `value`: whether one is
    given; else it is zero.
    """

    x: View
    y: View
    before: tuple[int, ...]
    order: tuple[int, ...]
    value: bool

    kind = "pad"

    def source(self, axis: int, i: int) -> int | None:
        """The input position along an axis that output position i shows, None in the pad."""
        j = i - self.before[axis]
        return j if 0 <= j < self.x.axes[axis].extent else None


@dataclass(frozen=True)
class Run:
    """`width` neighbors of the output from position `at`; `source` is where they come from, None for the pad."""

    at: int
    width: int
    source: int | None


def runs(plan: PadPlan, axis: int, lanes: int) -> list[Run]:
    """The vector axis as vectors: each one contiguous in the output and, where it is no pad, in the input."""
    made, i = list[Run](), 0
    x, y = plan.x.axes[axis], plan.y.axes[axis]
    while i < y.extent:
        width = lanes
        while width > 1 and not _fits(plan, axis, x, y, i, width):
            width //= 2
        made.append(Run(i, width, plan.source(axis, i)))
        i += width
    return made


def _fits(plan: PadPlan, axis: int, x: Axis, y: Axis, i: int, width: int) -> bool:
    if i + width > y.extent or any(y.at(i + k) != y.at(i) + k for k in range(width)):
        return False
    sources = [plan.source(axis, i + k) for k in range(width)]
    first = sources[0]
    if first is None:
        return all(s is None for s in sources)
    return all(s is not None and x.at(s) == x.at(first) + k for k, s in enumerate(sources))


def pad(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """A plan for Pad with mode constant, constant pads that are not negative, and nothing fused."""
    node = region.anchor
    if node is None or region.anchor_inputs[0] is None or region.expr.instrs:
        return "Pad stands alone"
    value, pads, fill, axes = (*region.anchor_inputs, None, None, None)[:4]
    known = operands.ints(pads) if pads is not None else None
    if node.attrs.get("mode", "constant") != "constant" or known is None or axes is not None or value is None:
        return f"Pad is written for constant pads of all axes, not for mode {node.attrs.get('mode', 'constant')}"
    before = known[:len(known) // 2]
    x, y = operands.view(value), operands.view(region.output)
    if any(b < 0 or a.extent + b > o.extent for b, a, o in zip(before, x.axes, y.axes, strict=True)):
        return "Pad cuts something off"
    steps = [a.inner if a.block else a.stride for a in y.axes]
    order = tuple(sorted(range(len(before)), key=lambda a: (-steps[a], -y.axes[a].extent)))
    if y.axes[order[-1]].extent > _STATIC:
        return "Pad along an axis that is too long to lay out"
    args = [Arg("input", value.tensor.dtype, extent(x)), *([Arg("input", fill.tensor.dtype, 1)] if fill else []),
            Arg("output", region.result.dtype, extent(y))]
    moved = traffic(args)
    tasks = y.axes[order[0]].extent if len(order) > 1 else 1
    plan = PadPlan(isa, tuple(args), tasks, x=x, y=y, before=before, order=order, value=fill is not None, bytes=moved,
                   computing=moved / max(1.0, isa.l2_bytes_per_cycle or 16.0))
    return Planned(plan, (value, *((fill,) if fill else ())))
