"""Plans for sliding windows that keep channels apart: depthwise convolution, max and average pooling.

Vectors run along the channels, a register tile holds some neighboring output columns. Rows and columns at an edge are emitted on
their own with the taps that exist there, so padding is neither stored nor read.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgec.ir.graph import Array
from edgec.ir.layout import View
from edgec.kernels.base import Epilogue, KernelPlan
from edgec.kernels.taps import Taps


@dataclass(frozen=True)
class WindowPlan(KernelPlan):
    """args: input, [weight], [bias], epilogue operands…, output; views are [n, c, h, w].

    `widths`: the vectors along the channels, widest first; `columns`: output columns in a register tile. An average divides by the number
    of taps inside the input or, with `divisor` (`count_include_pad`), inside the padded input: those of each output row, times those of
    each column. The maximum of bytes is one of bytes, by vectors of four times as many; a sum is one of bytes in i32, less the zero point
    (the second argument) for each tap. `looped`: taps are not unrolled, for there are many and all are inside the input. Tasks are
    n x vector x `row_chunks`; with `rows_first` those that follow each other are vectors of the same rows, which most kernels around
    share out by rows, too.
    """

    op: Literal["depthwise", "max", "average", "sum"]
    x: View
    y: View
    ys: Taps
    xs: Taps
    widths: tuple[int, ...]
    columns: int
    row_chunks: int
    bias: bool
    epilogue: Epilogue
    divisor: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    looped: bool = False
    rows_first: bool = False

    kind = "window"

    @property
    def algo(self) -> str:
        """depthwise, max_pool, average_pool or sum_pool with the number of columns in a tile."""
        return f"{self.op}{'' if self.op == 'depthwise' else '_pool'}_{self.columns}x1"


def pack(plan: WindowPlan, weight: Array) -> Array:
    """A depthwise weight [C, 1, KH, KW] as [vector][ky][kx][lane]."""
    parts, start = [], 0
    for width in plan.widths:
        parts.append(np.moveaxis(weight[start:start + width, 0], 0, -1).reshape(-1))
        start += width
    return np.ascontiguousarray(np.concatenate(parts)) if parts else weight.reshape(-1)
