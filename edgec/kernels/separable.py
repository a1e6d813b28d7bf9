"""Plans for depthwise convolutions in one kernel with the convolutions around them: what lies between is some rows in a cache.

A task goes through bands of rows of the output. For each it computes those rows of the convolution in front (`expand`) that are not yet in
a ring of rows in its scratch memory, from these the depthwise rows, all channels of them, and multiplies them at once by the weights of the
1x1 convolution behind (`point`). Either of the two may be absent. All parts are plans of their own, whose code this one shares.

The tasks of one call follow one another: only its first computes rows of `expand` that another call computes, too.
"""

from dataclasses import dataclass

from edgec.ir.graph import Array
from edgec.kernels import contract, window
from edgec.kernels.base import KernelPlan
from edgec.kernels.contract import ContractPlan
from edgec.kernels.window import WindowPlan


@dataclass(frozen=True)
class SeparablePlan(KernelPlan):
    """args: those of `expand`, without its output; of `depth` and of `point`, without what the part before has made; scratch.

    An image has `bands` bands of `rows` rows, the last one maybe lower. Views of what lies in scratch memory have row 0 of an image at
    their base; where just one band is kept, the base moves. `point` reads a band as one row of all its pixels where it is `flat`. Scratch
    memory is a ring of rows, `ring` elements, then a band of depthwise rows. A task is one of as many equal runs of the bands of all images
    as there are tasks.
    """

    expand: ContractPlan | None
    depth: WindowPlan
    point: ContractPlan | None
    bands: int
    rows: int
    flat: bool
    ring: int

    kind = "separable"

    @property
    def algo(self) -> str:
        """Rows of a band, and the register tiles of all parts: columns x vectors."""
        parts = [self.expand, self.depth, self.point]
        sizes = [f"{p.columns}x{1 if isinstance(p, WindowPlan) else max(map(len, p.widths))}" for p in parts if p is not None]
        return "_".join(["separable", f"{self.rows}r", *sizes])

    @property
    def starts(self) -> tuple[int, int, int]:
        """The numbers of the first arguments of `depth` and of `point`, and that of the scratch memory."""
        depth = len(self.expand.args) - 1 if self.expand else 0
        return depth, depth + len(self.depth.args) - 1 - bool(self.expand) if self.point else len(self.args) - 1, len(self.args) - 1

    @property
    def all_bands(self) -> int:
        """Bands of all images."""
        return self.depth.y.axes[0].extent * self.bands


def pack(plan: SeparablePlan, arg: int, weight: Array) -> Array:
    """The weight of a part as that reads it, anything else flat."""
    depth, point, _ = plan.starts
    if plan.expand and arg == 1:
        return contract.pack(plan.expand, weight)
    if arg == (depth if plan.expand else 1):
        return window.pack(plan.depth, weight)
    return contract.pack(plan.point, weight) if plan.point and arg == point else weight.reshape(-1)
