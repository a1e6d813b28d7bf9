"""Plans for Resize: nearest, linear and cubic, along any axes, in any layout whose resized axes are not blocked.

Where each output reads, and with which weights, is computed in the kernel from the position, in f32 and step by step as ONNX Runtime
does it, so that ties fall to the same side. No tables are stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels.base import Arg, Epilogue, KernelPlan, extent, traffic
from edgec.kernels.expr import Expr
from edgec.kernels.functions import ANY, FLOATS, refusal
from edgec.kernels.map import Loop, split

_TASK = 16384
"""Elements that are worth handing to another thread."""
_MODES = ("nearest", "linear", "cubic")
_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn",
                "tf_crop_and_resize")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Scaled:
    """A resized axis: its extent in input and output, output positions for one of the input, the part that is shown, and the strides."""

    source: int
    size: int
    scale: float
    start: float
    end: float
    strides: tuple[int, ...]


@dataclass(frozen=True)
class ResizePlan(KernelPlan):
    """args: input, operands of the epilogue, output. Loops: `outer`, then `axes`, then `inner`, which is vectorized.

    Without `inner` the last of the axes is vectorized, each lane reading where it must. A unit is an iteration of the outer loops at one
    position of the first axis (unless that is the vectorized one); a task runs `rows` units.
    """

    outer: tuple[Loop, ...]
    axes: tuple[Scaled, ...]
    inner: Loop | None
    rows: int
    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    extrapolation: float
    epilogue: Expr

    kind = "resize"

    @property
    def algo(self) -> str:
        """The interpolation, and where its vectors lie."""
        return f"{self.mode}_{'along' if self.inner is None else 'across'}"

    @property
    def rows_of_axis(self) -> int:
        """How many positions of the first axis are units of their own."""
        return self.axes[0].size if self.inner is not None or len(self.axes) > 1 else 1

    @property
    def units(self) -> int:
        """Rows in all."""
        return prod(it.extent for it in self.outer) * self.rows_of_axis


def plan_resize(attrs: Mapping[str, Any], scales: Sequence[float] | None, in_view: View, out_view: View, dtypes: Sequence[str], isa: Isa,
                epilogue: Epilogue | None = None, roi: Sequence[float] | None = None) -> ResizePlan | str:
    """The plan of a Resize, or the reason why there is none.

    `scales` has one number for each axis, or is None when the sizes were given; `roi` has the starts of all axes, then their ends.
    `dtypes` are those of the input, the epilogue's loads and the output.
    """
    mode, coordinates = _word(attrs, "mode", "nearest"), _word(attrs, "coordinate_transformation_mode", "half_pixel")
    nearest = _word(attrs, "nearest_mode", "round_prefer_floor")
    epilogue = epilogue or Epilogue(Expr((dtypes[0],)))
    for known, word in ((_MODES, mode), (_COORDINATES, coordinates), (_NEAREST, nearest)):
        if word not in known:
            return f"Resize is not written for {word}"
    if attrs.get("antialias"):
        return "Resize is not written for antialias"
    if dtypes[0] not in (ANY if mode == "nearest" else FLOATS):
        return f"Resize with {mode} interpolation is not written for {dtypes[0]}"
    if coordinates == "tf_crop_and_resize" and roi is None:
        return "Resize by tf_crop_and_resize needs a region that is known when the model is built"
    if reason := refusal(epilogue.expr):
        return reason
    views = [in_view, *(load.view for load in epilogue.loads), out_view]
    rank = len(in_view.axes)
    if not prod(out_view.shape):
        return "there is nothing to compute"
    starts, ends = (roi[:rank], roi[rank:]) if roi is not None and coordinates == "tf_crop_and_resize" else ([0.0] * rank, [1.0] * rank)
    resized: list[Scaled] = []
    loops: list[Loop] = []
    for a in range(rank):
        axes = [v.axes[a] for v in views]
        source, size = axes[0].extent, axes[-1].extent
        scale = float(np.float32(scales[a] if scales is not None else size / source))
        if source == size and scale == 1.0 and (starts[a], ends[a]) == (0.0, 1.0):
            try:
                loops += [Loop(n, s) for n, s in split(axes) if n != 1]
            except ValueError as error:
                return str(error)
            continue
        strides = [_stride(axis) for axis in axes]
        if any(s is None for s in strides):
            return "Resize of an axis that the layout blocks is not written"
        resized.append(Scaled(source, size, scale, float(starts[a]), float(ends[a]), tuple(s for s in strides if s is not None)))
    if not resized:
        return "nothing is resized"
    return _assemble(attrs, (mode, coordinates, nearest), resized, loops, views, dtypes, isa, epilogue.expr)


def _assemble(attrs: Mapping[str, Any], words: tuple[str, str, str], resized: list[Scaled], loops: list[Loop], views: Sequence[View],
              dtypes: Sequence[str], isa: Isa, epilogue: Expr) -> ResizePlan:
    resized.sort(key=lambda s: -s.strides[-1])
    loops.sort(key=lambda it: -it.strides[-1])
    merged: list[Loop] = []
    for it in loops:
        if merged and all(a == b * it.extent for a, b in zip(merged[-1].strides, it.strides, strict=True)):
            merged[-1] = Loop(merged[-1].extent * it.extent, it.strides)
        else:
            merged.append(it)
    inner = merged.pop() if merged and merged[-1].strides[-1] == merged[-1].strides[0] == 1 else None
    inputs = [Arg("input", d, extent(v)) for d, v in zip(dtypes[:-1], views[:-1], strict=True)]
    args = (*inputs, Arg("output", dtypes[-1], extent(views[-1])))
    elements, taps = prod(views[-1].shape), {"nearest": 1, "linear": 2, "cubic": 4}[words[0]] ** len(resized)
    whole = inner is None and len(resized) == 1                        # then a unit is the whole of the only axis
    row = prod(s.size for s in resized[0 if whole else 1:]) * (inner.extent if inner else 1)
    rows = max(1, _TASK // row)
    units = elements // row
    moved = traffic(args)
    work = elements * taps * (2 if inner else 3 * isa.lanes) / isa.lanes
    mode, coordinates, nearest = words
    return ResizePlan(
        isa, args, -(-units // rows), outer=tuple(merged), axes=tuple(resized), inner=inner, rows=rows, mode=mode, coordinates=coordinates,
        nearest=nearest, cubic=float(attrs.get("cubic_coeff_a", -0.75)), exclude_outside=bool(attrs.get("exclude_outside", 0)),
        extrapolation=float(attrs.get("extrapolation_value", 0.0)), epilogue=epilogue, bytes=moved,
        computing=max(work, moved / max(1.0, isa.l2_bytes_per_cycle or 16.0)))


def _stride(axis: Axis) -> int | None:
    """The step from one index to the next, None when the axis is blocked."""
    if axis.block and axis.block < axis.extent:
        return None
    return axis.inner if axis.block else axis.stride


def _word(attrs: Mapping[str, Any], name: str, default: str) -> str:
    value = attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)
