"""Plans for integer contractions: ConvInteger and MatMulInteger with stored i8 weights, their sums of products in i32 registers.

The loop nest is that of `contract.py`, with four bytes of a reduction in each lane where that has one f32: the `form` names the
instruction that multiplies and sums them (`emit/dotforms.py`; on x86 without VNNI the weights decide, see `pairs.py`). What follows
(bias, requantization, residuals) happens in the registers; an i32 tensor is never stored.

A tap outside the input counts as the zero point, so that x - zero is 0 there. Hence the zero point can leave the sum for all outputs
alike: sum((x - zero) * w) = sum(x * w) - zero * sum(w). The sums of the weights are packed behind the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

from edgec.ir.graph import Array
from edgec.ir.layout import View
from edgec.kernels import pairs
from edgec.kernels.base import Epilogue, KernelPlan, Load
from edgec.kernels.choice import Choice
from edgec.kernels.taps import Taps

DEPTH = 4
"""Bytes of a reduction that go into one lane at a time."""
MERGED = 32
"""The longest row of taps, in bytes, that is read as one run."""
Form = Literal["vpdpbusd", "vpmaddubsw", "vpsignb", "pmaddwd", "sdot", "smlal", "smull", "portable"]
SHORT = {"vpdpbusd": "vnni", "vpmaddubsw": "maddubs", "vpsignb": "signb", "pmaddwd": "madd", "sdot": "sdot", "smlal": "smlal",
         "smull": "smull", "portable": "portable"}
"""The forms as names of algorithms have them."""
ORDER = {"vpdpbusd": ((0, 1, 2, 3),), "vpmaddubsw": ((0, 1, 2, 3),), "vpsignb": ((0, 1, 2, 3),), "sdot": ((0, 1, 2, 3),),
         "pmaddwd": ((0, 2), (1, 3)), "smlal": ((0, 1), (2, 3)), "smull": ((0, 1), (2, 3)), "portable": ((0,), (1,), (2,), (3,))}
"""How the four bytes of a lane lie in a packed weight: one vector for each tuple, which it holds side by side for each lane."""
_LEAST = 4


def computed(form: Form, width: int) -> int:
    """Lanes that are computed for `width` output channels: instructions on bytes have at least four."""
    return width if form == "portable" else max(width, _LEAST)


def place(widths: Sequence[int], form: Form | None, first: Any) -> Any:
    """Lanes that are computed before the vector of channel `first`; only the narrow vectors at the end have more than channels."""
    if form is None or not isinstance(first, int):
        return first
    lanes, start = 0, 0
    for w in widths:
        if start >= first:
            break
        start, lanes = start + w, lanes + computed(form, w)
    return lanes


@dataclass(frozen=True)
class DotPlan(KernelPlan):
    """args: input, weight, [zero point], [bias], epilogue operands…, output; the weight's sums follow it as i32, one a channel.

    `x`, `y`: views [n, c, h, w]. `widths`: the vector groups of one convolution group. `columns`: output columns in a register tile.
    `chunk`: input channels that lie at one step. `merged`: the taps of a row are one run of bytes (few channels, channels last).
    `zero`: whether there is a zero point. `bias`: an i32 operand that is added to the sums, per channel. `unroll`: steps of four bytes in
    the innermost loop body. Tasks are n x group x vector group x `row_chunks`.
    """

    x: View
    y: View
    ys: Taps
    xs: Taps
    kernel: tuple[int, int]
    groups: int
    widths: tuple[tuple[int, ...], ...]
    columns: int
    chunk: int
    merged: bool
    unroll: int
    row_chunks: int
    form: Form
    zero: bool
    bias: Load | None
    epilogue: Epilogue
    name: str = "conv"
    stored: str = field(default="oihw", repr=False)

    kind = "dot"

    @property
    def algo(self) -> str:
        """The word conv or gemm, the form, and the register tile: columns x vectors."""
        return f"{self.name}_{SHORT[self.form]}_{self.columns}x{max(len(w) for w in self.widths)}"

    @property
    def choice(self) -> Choice:
        """The register tile."""
        return Choice("direct", self.columns, max(len(w) for w in self.widths))

    @property
    def open(self) -> Self:
        """Without the tile and all that follows from it: how tasks are cut and loops unrolled."""
        return replace(self, tasks=0, widths=(), columns=0, unroll=0, row_chunks=0)

    @property
    def in_channels(self) -> int:
        """Input channels of one convolution group."""
        return self.x.axes[1].extent // self.groups

    @property
    def out_channels(self) -> int:
        """Output channels of one convolution group."""
        return self.y.axes[1].extent // self.groups

    @property
    def chunks(self) -> int:
        """Runs of channels of one group."""
        return self.in_channels // self.chunk

    @property
    def runs(self) -> tuple[int, int]:
        """Runs of bytes in a row of taps of one chunk, and the bytes of each."""
        return (1, self.kernel[1] * self.chunk) if self.merged else (self.kernel[1], self.chunk)

    @property
    def steps(self) -> int:
        """Steps of four bytes in one run."""
        return -(-self.runs[1] // DEPTH)

    @property
    def reduction(self) -> int:
        """Bytes of packed weight that one output channel has."""
        return self.chunks * self.kernel[0] * self.runs[0] * self.steps * DEPTH

    @property
    def group_bytes(self) -> int:
        """Bytes of packed weight of one convolution group, without the sums."""
        return sum(computed(self.form, w) for widths in self.widths for w in widths) * self.reduction


def pack(plan: DotPlan, weight: Array) -> Array:
    """A weight in the order in which the kernel reads it: [group][vector group][chunk][ky][run][step][vector][part][lane][byte], then sums.

    Bytes behind the end of a run, and lanes that no channel has, are zero.
    """
    whole = oihw(weight, plan.stored)
    (runs, size), order = plan.runs, ORDER[plan.form]
    in_runs = pairs.runs(whole, plan.chunk, merged=plan.merged)
    bytes_of = in_runs.reshape(plan.groups, plan.out_channels, plan.chunks, plan.kernel[0], runs, size)
    room = plan.steps * DEPTH - size
    lanes = np.pad(bytes_of, [(0, 0)] * 5 + [(0, room)]).reshape(*bytes_of.shape[:-1], plan.steps, DEPTH)
    parts, start = [], 0
    for widths in plan.widths:
        vectors = []
        for w in widths:
            part = lanes[:, start:start + w]
            part = np.pad(part, [(0, 0), (0, computed(plan.form, w) - w)] + [(0, 0)] * 5)
            ordered = [np.moveaxis(part[..., list(picked)], 1, -2) for picked in order]       # [G, chunk, ky, run, step, lane, byte]
            vectors += [o.reshape(*o.shape[:5], -1) for o in ordered]
            start += w
        parts.append(np.concatenate(vectors, axis=-1).reshape(plan.groups, -1))
    packed = np.ascontiguousarray(np.concatenate(parts, axis=1)).reshape(-1)
    sums = whole.astype(np.int32).sum(axis=(1, 2, 3), dtype=np.int32)
    return np.concatenate([packed, sums.astype("<i4").view(np.int8)])


def oihw(weight: Array, stored: str) -> Array:
    """A stored weight as [M, C/groups, KH, KW]; `stored` is oihw, oiwh (of a column image that is seen as a row), io or oi (matrices)."""
    if stored in ("io", "oi"):
        return (weight.T if stored == "io" else weight)[:, :, None, None]
    if weight.ndim == 3:                                       # noqa: PLR2004  a 1-D convolution is a row
        weight = weight[:, :, None]
    return weight.swapaxes(2, 3) if stored == "oiwh" else weight
