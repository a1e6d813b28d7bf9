"""Plans for contractions: convolution (any stride, dilation, groups, padding, 1-D and 2-D, transposed) and matrix products.

All are one loop nest. The output is seen as [n, c, y, x], the input likewise; a row of output is cut into tiles of `columns`
neighbors in x, and the output channels of a convolution group into groups of vectors. A tile's accumulators stay in registers
over the whole reduction. A matrix product is a 1x1 convolution whose x axis is the row of the left operand.

Padding is never stored. Along x, a tile that touches an edge is emitted on its own, without the taps that would read outside;
along y, the loop over taps is clipped. (Register tiles are one row high, so clipping is exact.)
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

import numpy as np

from edgec.ir.graph import Array
from edgec.ir.layout import Axis, View
from edgec.kernels.base import Epilogue, KernelPlan
from edgec.kernels.choice import Choice
from edgec.kernels.taps import Taps

PARTIAL = 256
"""Products that are summed in one chain: its rounding error grows with its length, that of a sum of chains hardly beyond one chain's."""


@dataclass(frozen=True)
class ContractPlan(KernelPlan):
    """args: input, weight, [bias], epilogue operands…, output, [scratch].

    `x`, `y`: views [n, c, h, w] of input and output. `ys`, `xs`: phases of the two spatial axes. `widths`: the vector groups of one
    convolution group. `columns`: output columns in a register tile. `unroll`: input channels in the innermost loop body. `chunk`: input
    channels that lie at one step. `kernel`: (KH, KW). A weight is packed (see `pack`) unless it is an activation, seen as [n, k, c] through
    `w` and contiguous along c. `form`: the axes of the stored weight (see `oihw`). Every `partial` chunks a partial sum is closed and added
    to the total, which keeps rounding errors from growing along the whole reduction. Tasks are n x group x vector group x `row_chunks`.
    `streams`: pieces of memory from which a vector group's weights are read side by side (see `cost.streams`). `together`: vector groups
    of a task. `ahead`: lines of the next vector group's weights that are asked for at a time, in each innermost body, or where
    these are too many (`seldom`) in front of the bodies of a chunk at one tap; `lead`: how many bytes in front of its own loads a body asks
    again, where two groups' weights are too many for the second level. With `widen`, a task first widens the weights of a
    vector group into its scratch memory, because many tiles read them. With `turns`, the tiles of a row take turns: each closes one partial
    sum, so that the weights of that part are read from the first level, and totals lie in the output meanwhile. With `rows_first`, tasks
    that follow each other are vector groups of the same rows, not rows of the same vector group.
    """

    x: View
    y: View
    ys: tuple[Taps, ...]
    xs: tuple[Taps, ...]
    kernel: tuple[int, int]
    groups: int
    widths: tuple[tuple[int, ...], ...]
    columns: int
    unroll: int
    chunk: int
    row_chunks: int
    partial: int
    bias: bool
    epilogue: Epilogue
    w: View | None = None
    name: str = "conv"
    form: str = field(default="oihw", repr=False)
    streams: int = 1
    together: int = 1
    widen: bool = False
    ahead: int = 0
    seldom: bool = False
    lead: int = 0
    turns: bool = False
    rows_first: bool = False

    kind = "contract"

    @property
    def algo(self) -> str:
        """conv, gemm, conv_transpose … with the register tile: columns x vectors."""
        return f"{self.name}_{self.columns}x{max(len(w) for w in self.widths)}"

    @property
    def asks(self) -> bool:
        """Whether it asks for the next vector group's weights."""
        return self.ahead > 0

    @property
    def choice(self) -> Choice:
        """The register tile."""
        return Choice("direct", self.columns, max(len(w) for w in self.widths))

    @property
    def open(self) -> Self:
        """Without the tile and all that follows from it: how tasks are cut, weights read and asked for, and loops unrolled."""
        return replace(self, args=tuple(a for a in self.args if a.role != "scratch"), tasks=0, widths=(), columns=0, unroll=0, row_chunks=0,
                       streams=1, together=1, widen=False, ahead=0, lead=0, turns=False, rows_first=False)

    @property
    def output(self) -> int:
        """The number of the argument that is written."""
        return len(self.args) - 1 - self.widen

    @property
    def in_channels(self) -> int:
        """Input channels of one convolution group."""
        return self.x.axes[1].extent // self.groups

    @property
    def out_channels(self) -> int:
        """Output channels of one convolution group."""
        return self.y.axes[1].extent // self.groups


def oihw(plan: ContractPlan, weight: Array) -> Array:
    """A stored weight as [M, C/groups, KH, KW].

    Forms: oihw and iohw (Conv and ConvTranspose), oiwh and iowh (the same of a column image, seen as a row), io and oi (matrices), windows
    (iohw with one output channel, whose taps are output channels of the kernel).
    """
    if plan.form == "windows":
        return weight.reshape(weight.shape[0], -1).T[:, :, None, None]
    if plan.form in ("io", "oi"):
        return (weight.T if plan.form == "io" else weight)[:, :, None, None]
    if plan.form.startswith("io"):
        per_group = weight.reshape(plan.groups, plan.in_channels, plan.out_channels, *weight.shape[2:])
        weight = per_group.swapaxes(1, 2).reshape(-1, plan.in_channels, *weight.shape[2:])
    if weight.ndim == 3:                                       # noqa: PLR2004  a 1-D convolution is a row
        weight = weight[:, :, None]
    return weight.swapaxes(2, 3) if plan.form.endswith("wh") else weight


def streams(widths: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
    """The vectors of a group in at most `count` parts, as equal as they can be: each part's weights lie in a piece of memory."""
    count = min(count, len(widths))
    cuts = [len(widths) * i // count for i in range(count + 1)]
    return [widths[a:b] for a, b in pairwise(cuts)]


def pack(plan: ContractPlan, weight: Array) -> Array:
    """A weight in the order in which the kernel reads it: [group][vector group][stream][chunk][ky][kx][channel][lane].

    No element is added or lost, whatever the channel counts are.
    """
    ic, chunk = plan.in_channels, plan.chunk
    per_group = oihw(plan, weight).reshape(plan.groups, plan.out_channels, ic // chunk, chunk, *plan.kernel)
    parts, start = [], 0
    for size in (sum(part) for widths in plan.widths for part in streams(widths, plan.streams)):
        part = per_group[:, start:start + size]                       # [G, lanes, ICo, chunk, KH, KW]
        parts.append(part.transpose(0, 2, 4, 5, 3, 1).reshape(plan.groups, -1))
        start += size
    return np.ascontiguousarray(np.concatenate(parts, axis=1)).reshape(-1)


def run_length(axis: Axis, count: int, groups: int) -> int:
    """The longest run of channels at one step, no longer than a partial sum, into which the `count` channels of each group split."""
    if not axis.block or axis.block >= axis.extent:
        return next((d for d in range(min(count, PARTIAL), PARTIAL // 8, -1) if count % d == 0), count)
    run = axis.block
    while count % run or any(g * count % run for g in range(groups)) or axis.block % run:
        run -= 1
    return run
