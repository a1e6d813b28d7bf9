"""Plans for 3x3 convolutions by Winograd's minimal filtering: F(2x2, 3x3) and F(4x4, 3x3).

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016: a tile of m x m outputs is A' ((G g G') * (B' d B)) A, where
d are its (m+2) x (m+2) inputs and * multiplies element by element. Over all channels, each of the (m+2)^2 elements is a matrix product of
its own, so 9 multiplications an output become (m+2)^2 / m^2: four for m=2, two and a quarter for m=4.

G g G' of all filters is computed once: by `NAME_prepare` (`FiltersPlan`), or, where a net must start quickly, when it is built (`filters`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgec.ir.graph import Array
from edgec.ir.layout import View
from edgec.kernels.base import Epilogue, KernelPlan
from edgec.kernels.choice import Choice

TAPS = 3
UNROLL = 4              # channels in a body of the innermost loop
_G = {2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
      4: ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))}


@dataclass(frozen=True)
class WinogradPlan(KernelPlan):
    """args: input, filters (as FiltersPlan and `filters` make them), [bias], epilogue operands…, output, scratch.

    `x`, `y`: views [n, c, h, w]. `m`: outputs of a tile along each axis. `pads`: above and to the left. `widths`: the vector groups of the
    output channels. `tiles` neighboring tiles, of all images in a row, are transformed together: a block; `columns` of them make a register
    tile of the products. A task is one of `runs` equal runs of blocks, and one of `parts` equal parts of the vector groups.

    Transformed inputs lie as [element of the tile][vector of channels][tile][lane], so that both the transform of one vector of all tiles
    and the products of some tiles go through memory in order. `ahead`: lines of the filters that come next which are asked for in each
    `UNROLL` channels, 0 where nothing is asked for.
    """

    x: View
    y: View
    m: int
    pads: tuple[int, int]
    widths: tuple[tuple[int, ...], ...]
    tiles: int
    columns: int
    runs: int
    parts: int
    bias: bool
    epilogue: Epilogue
    ahead: int = 0

    kind = "winograd"
    depth = 1
    """Input channels that lie in one lane: a step of the reduction."""

    @property
    def algo(self) -> str:
        """The form, and the register tile: tiles x vectors."""
        return f"winograd{self.m}_{self.columns}x{max(map(len, self.widths))}"

    @property
    def asks(self) -> bool:
        """Whether it asks for the filters that come next."""
        return self.ahead > 0

    @property
    def choice(self) -> Choice:
        """The form, and the register tile."""
        return Choice(f"winograd{self.m}", self.columns, max(map(len, self.widths)))

    @property
    def side(self) -> int:
        """Inputs of a tile along each axis."""
        return self.m + TAPS - 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles of an image."""
        return -(-self.y.axes[2].extent // self.m), -(-self.y.axes[3].extent // self.m)

    @property
    def blocks(self) -> int:
        """Blocks of tiles in all images."""
        rows, columns = self.grid
        return -(-self.x.axes[0].extent * rows * columns // self.tiles)

    @property
    def channels(self) -> int:
        """Input channels."""
        return self.x.axes[1].extent

    @property
    def steps(self) -> int:
        """Steps of the reduction."""
        return self.channels // self.depth

    @property
    def largest(self) -> int:
        """Output channels of the largest vector group."""
        return max(map(sum, self.widths))

    @property
    def strides(self) -> tuple[int, int]:
        """From element to element in scratch memory: of transformed inputs, and of the products of a vector group."""
        line = self.isa.line_bytes // 4
        return apart(self.tiles * self.steps, line), apart(self.tiles * self.largest, line)


@dataclass(frozen=True)
class FiltersPlan(KernelPlan):
    """args: weight as `pack` puts it, output [vector group][element of the tile][input channel][lane]. A task is one vector group."""

    m: int
    channels: int
    widths: tuple[tuple[int, ...], ...]

    kind = "winograd_filters"

    @property
    def algo(self) -> str:
        """The form."""
        return f"filters{self.m}"


def pack(plan: FiltersPlan, weight: Array) -> Array:
    """A weight [M, C, 3, 3] as [vector group][channel][tap][lane]."""
    groups, start = [], 0
    for widths in plan.widths:
        size = sum(widths)
        groups.append(weight[start:start + size].reshape(size, plan.channels, TAPS * TAPS).transpose(1, 2, 0).reshape(-1))
        start += size
    return np.ascontiguousarray(np.concatenate(groups))


def filters(plan: WinogradPlan, weight: Array) -> Array:
    """G g G' of a weight [M, C, 3, 3], f32 from sums in f64, as [vector group][element of the tile][input channel][lane]."""
    return transformed(weight, np.array(_G[plan.m]), [sum(widths) for widths in plan.widths], np.float32)


def transformed(weight: Array, g: Array, sizes: Sequence[int], dtype: type) -> Array:
    """Each filter w of a weight [M, C, 3, 3] as g w g', by sums in f64: [group of so many of M][element][C][lane]."""
    groups, start = list[Array](), 0
    for size in sizes:
        part = np.tensordot(weight[start:start + size].astype(np.float64), g, axes=(3, 1))     # [lane, channel, row of taps, j]
        groups.append(np.tensordot(g, part, axes=(1, 2)).transpose(0, 3, 2, 1).astype(dtype).reshape(-1))
        start += size
    return np.concatenate(groups)


def apart(elements: int, line: int) -> int:
    """So many elements or a few more: an odd number of cache lines of `line`, so that what lies so far apart does not meet in one set."""
    return (-(-elements // line) | 1) * line


def scratch_elements(plan: WinogradPlan) -> int:
    """What a task needs: transformed inputs of a block, products of a block for one vector group, one tile at an edge."""
    return plan.side * plan.side * (sum(plan.strides) + plan.steps)
