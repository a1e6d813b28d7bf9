"""Plans for 3x3 convolutions of bytes by Winograd's F(2x2, 3x3), exact in integers.

Twice the filter transform of the f32 form along each axis, 2 G g (2 G)', is whole, and B' d B of bytes is, too: |elements| are at most
9 * 128 and 4 * 255, so products of both sum in i32 as far as the plan's weights keep them (`fits`), and outputs are a quarter of
A' (...) A. Hence every result is that of the direct form, with 16 multiplications for 36.

Two channels lie side by side in 16 bits each: what multiplies pairs and sums them does 16 of these on AVX2 where 8 of f32 are multiplied.
"""

from dataclasses import dataclass

import numpy as np

from edgec.ir.graph import Array
from edgec.kernels.base import Load
from edgec.kernels.winograd import WinogradPlan, transformed

G = np.array(((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2)), np.float32)
"""Twice the transform of filters along one axis."""
_PIXEL = 4 * 255        # the largest element of B' d B, d less its zero point
_OFTEN = np.abs(G)[:3].sum(0).astype(np.int64), np.abs(G)[1:].sum(0).astype(np.int64)


@dataclass(frozen=True)
class DotWinogradPlan(WinogradPlan):
    """args: input, filters, [zero point], epilogue operands…, output, scratch as i32. `bias` is False; `offset` is what a bias is here.

    `zero`: whether there is a zero point. `offset`: an i32 operand that is added to the sums, per channel.
    """

    zero: bool = False
    offset: Load | None = None

    kind = "winograd_dot"
    depth = 2

    @property
    def algo(self) -> str:
        """The word conv, the form, and the register tile: tiles x vectors."""
        return f"conv_{super().algo}"


def paired(weight: Array) -> Array:
    """A weight [M, C, 3, 3] as [2 M, C/2, 3, 3], whose rows 2i and 2i + 1 are the even and the odd channels of row i."""
    count, channels, *taps = weight.shape
    return weight.reshape(count, channels // 2, 2, *taps).swapaxes(1, 2).reshape(2 * count, channels // 2, *taps)


def filters(plan: DotWinogradPlan, weight: Array) -> Array:
    """2 G g (2 G)' of a weight [M, C, 3, 3] in i16, as [vector group][element of the tile][pair of channels][lane][channel]."""
    return transformed(paired(weight), G, [2 * sum(widths) for widths in plan.widths], np.int16)


def fits(weight: Array) -> bool:
    """Whether no sum of an output overflows, whatever the pixels are: [M, C, 3, 3] in i8, M > 0.

    An output adds up nine elements at most. In their filters, with all signs alike, a weight stands as often as `_OFTEN` says along an
    axis: for the first output of a tile and for the second.
    """
    sums = np.abs(weight.astype(np.int32)).sum(axis=1)
    return max(int(np.einsum("mij,i,j->m", sums, a, b).max()) for a in _OFTEN for b in _OFTEN) * _PIXEL < 2**31
