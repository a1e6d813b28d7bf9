"""Plans for integer depthwise convolutions: vectors along the channels, a register tile of output columns, sums in i32.

With the instructions of x86, four rows of a column of the input are interleaved, so that one takes four taps of a column at a time;
each interleaved column serves all outputs that read it. Otherwise (`planar`) the taps are multiplied one by one in 16 bits: where vectors
are short, interleaving took as many instructions as it saved. See `dot.py` for zero points and the sums of weights.
"""

from dataclasses import dataclass

import numpy as np

from edgec.ir.graph import Array
from edgec.ir.layout import View
from edgec.kernels.base import Epilogue, KernelPlan, Load
from edgec.kernels.dot import DEPTH, ORDER, SHORT, Form, computed
from edgec.kernels.taps import Taps


@dataclass(frozen=True)
class DepthPlan(KernelPlan):
    """args: input, weight, [zero point], [bias], epilogue operands…, output; the weight's sums follow it as i32, one a channel.

    `widths`: the vectors along the channels, widest first. `columns`: output columns in a tile. `zero`, `bias`: as in DotPlan. Tasks are
    n x vector x `row_chunks`.
    """

    x: View
    y: View
    ys: Taps
    xs: Taps
    widths: tuple[int, ...]
    columns: int
    row_chunks: int
    form: Form
    zero: bool
    bias: Load | None
    epilogue: Epilogue

    kind = "depth"

    @property
    def algo(self) -> str:
        """The form, and the number of columns in a tile."""
        return f"depthwise_{SHORT[self.form]}_{self.columns}x1"

    @property
    def planar(self) -> bool:
        """Whether taps are multiplied one by one."""
        return self.form in ("smlal", "smull", "portable")

    @property
    def quads(self) -> int:
        """Groups of four rows of taps."""
        return -(-self.ys.count // DEPTH)

    @property
    def reduction(self) -> int:
        """Bytes of packed weight that a lane has."""
        return self.ys.count * self.xs.count if self.planar else self.xs.count * self.quads * DEPTH

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weight, without the sums."""
        return self.reduction * sum(self.lanes(w) for w in self.widths)

    def lanes(self, width: int) -> int:
        """Lanes that are computed for a vector of channels."""
        return width if self.planar else computed(self.form, width)


def pack(plan: DepthPlan, weight: Array) -> Array:
    """A weight [C, 1, KH, KW] as [vector][ky][kx][lane] (planar) or [vector][kx][four rows][part][lane][byte], then the sums."""
    whole = weight.reshape(weight.shape[0], plan.ys.count, plan.xs.count)
    parts, start = [], 0
    for width in plan.widths:
        part = whole[start:start + width]
        start += width
        if plan.planar:
            parts.append(np.moveaxis(part, 0, -1).reshape(-1))
            continue
        part = np.pad(part, [(0, plan.lanes(width) - width), (0, plan.quads * DEPTH - plan.ys.count), (0, 0)])
        rows = part.reshape(plan.lanes(width), plan.quads, DEPTH, plan.xs.count).transpose(3, 1, 0, 2)      # [kx, quad, lane, byte]
        parts.append(np.concatenate([rows[..., list(picked)].reshape(*rows.shape[:2], -1) for picked in ORDER[plan.form]], -1).reshape(-1))
    sums = whole.astype(np.int32).sum(axis=(1, 2), dtype=np.int32)
    return np.concatenate([*parts, sums.astype("<i4").view(np.int8)])
