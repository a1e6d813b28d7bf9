"""Convolutions, products, pools and resizes in TFLite's words.

Products of matrices become convolutions of one row. TFLite has an operator of its own for them, but LiteRT rounds that one once where NPUs,
and LiteRT's convolutions, round twice.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from edgec.ir.graph import Value
from edgec.ir.windows import geometry
from passes.changes.tflite import Refused, signed
from passes.changes.tflite_work import BYTE, IMAGE_RANK, Work, bias_of, kernel_of, last, padded, per_channel

_DOUBLINGS = (2, 4, 8)


def _conv(work: Work) -> None:
    if len(work.dims) != IMAGE_RANK:
        raise Refused(f"a convolution along {len(work.dims) - 2} axes; TFLite's are along two")
    kernel, scales = kernel_of(work.operand(1), 0)
    channels, count = work.computed(0).stored.dims[1], kernel.shape[0]
    group = work.attrs.get("group", 1)
    if group not in (1, channels):
        raise Refused(f"a convolution in {group} groups of {channels // group} channels: TFLite's is in one, or of one channel each")
    bias = work.group.inputs[2] if len(work.group.inputs) > 2 else None  # noqa: PLR2004  the third operand
    plain = work.constant(2) if bias is None else None
    x, told = _windows(work, kernel.shape[2:], ahead=True)
    depthwise = group == channels > 1
    ordered = np.moveaxis(kernel[:, 0], 0, -1)[None] if depthwise else kernel.transpose(0, 2, 3, 1)
    w = work.body.weight(work.operand(1).stored.name, np.ascontiguousarray(ordered), per_channel(scales, 3 if depthwise else 0))
    told |= {"activation": work.activation(), **({"multiplier": count // channels} if depthwise else {})}
    operands = (x, w, bias_of(work, scales, bias, plain))
    work.done(work.emit("DepthwiseConv2D" if depthwise else "Conv2D", operands, last(work.dims), **told), image=True)


def _product(work: Work) -> None:
    """Rows times a stored matrix: a convolution of one row of pixels."""
    attrs, bias, plain = work.attrs, work.group.bias, None
    across = bool(attrs.get("transB", 0))
    if work.operand(1).array is None:
        raise Refused("both factors are computed")
    if attrs.get("transA", 0) or attrs.get("alpha", 1.0) != 1 or attrs.get("beta", 1.0) != 1:
        raise Refused("a Gemm that transposes or scales its operands")
    matrix, scales = kernel_of(work.operand(1), 0 if across else 1)
    if matrix.ndim != 2:                                       # noqa: PLR2004  rows and columns
        raise Refused("a product with several matrices")
    if work.anchor.op == "Gemm" and work.anchor.input(2) is not None:
        bias = work.group.inputs[2]
        plain = work.constant(2) if bias is None else None
    weights = matrix if across else matrix.T
    depth, rows = weights.shape[1], prod(work.dims[:-1])
    x = work.body.reshaped(work.plain(), (1, 1, rows, depth))
    w = work.body.weight(work.operand(1).stored.name, np.ascontiguousarray(weights)[:, None, None], per_channel(scales, 0))
    operands = (x, w, bias_of(work, scales, bias, plain))
    made = work.emit("Conv2D", operands, (1, 1, rows, len(weights)), stride=(1, 1), dilation=(1, 1), padding="VALID",
                     activation=work.activation())
    work.done(work.body.reshaped(made, work.dims), image=False)


def _max_pool(work: Work) -> None:
    if len(work.group.outputs) > 1 or len(work.anchor.outputs) > 1:
        raise Refused("a pool that returns places")
    kernel = _pooled(work)
    x, told = _windows(work, kernel, fill=BYTE.min)
    if told.pop("dilation") != (1, 1):
        raise Refused("a pool whose windows are dilated")
    made = work.emit("MaxPool2D", (x,), last(work.dims), x.tensor.quant, filter=tuple(kernel), **told)
    work.done(made, image=True)


def _pooled(work: Work) -> list[int]:
    if len(work.dims) != IMAGE_RANK:
        raise Refused(f"a pool along {len(work.dims) - 2} axes; TFLite's are along two")
    return list(work.attrs.get("kernel_shape") or work.computed(0).stored.dims[2:])


def _average_pool(work: Work) -> None:
    kernel = _pooled(work)
    pads = geometry(work.attrs, work.computed(0).stored.dims[2:], kernel)[2]
    counted = bool(work.attrs.get("count_include_pad", 0)) and any(map(sum, pads))
    if counted:
        x = padded(work.body, work.image(), [(0, 0), *pads, (0, 0)], work.output.stored.name)
        told = {"stride": tuple(work.attrs.get("strides") or (1, 1)), "dilation": tuple(work.attrs.get("dilations") or (1, 1)),
                "padding": "VALID"}
    else:
        x, told = _windows(work, kernel)
        if any(map(sum, pads)) and told["padding"] != "SAME":
            raise Refused(f"an average whose windows have the pads {pads}")
    if told.pop("dilation") != (1, 1):
        raise Refused("an average whose windows are dilated")
    _mean(work, x, kernel, told)


def _mean(work: Work, x: Value, kernel: Sequence[int], told: Mapping[str, Any]) -> None:
    """Averages of windows. Where the result has another scale, sums by a depthwise convolution with ones, which round once."""
    dims, source = (1, *last(work.dims)[1:]) if len(work.dims) == IMAGE_RANK else (1, 1, 1, x.dims[-1]), x.tensor.quant
    dims = (x.dims[0], *dims[1:])
    if source == work.result or told["padding"] == "SAME":
        made = work.emit("AveragePool2D", (x,), dims, source, filter=tuple(kernel), **told)
    else:
        channels = x.dims[-1]
        scales = np.full(channels, 1 / prod(kernel), np.float32)
        w = work.body.weight("ones", np.ones((1, *kernel, channels), np.int8), per_channel(scales, 3))
        operands = (x, w, bias_of(work, scales, None, None))
        made = work.emit("DepthwiseConv2D", operands, dims, **told, dilation=(1, 1), multiplier=1, activation="NONE")
    work.done(made if len(work.dims) == IMAGE_RANK else work.body.reshaped(made, work.dims), image=len(work.dims) == IMAGE_RANK)


def _reduce_mean(work: Work) -> None:
    """The mean of whole images."""
    given = work.constant(1)
    axes = work.attrs.get("axes") if given is None else given.tolist()
    dims = work.computed(0).stored.dims
    if len(dims) != IMAGE_RANK or sorted(int(a) % len(dims) for a in axes or ()) != [2, 3]:
        raise Refused("a mean along other axes than those of an image")
    _mean(work, work.image(), dims[2:], {"stride": (1, 1), "padding": "VALID"})


def _resize(work: Work) -> None:
    source, dims = work.computed(0).stored.dims, work.dims
    mode, where = work.attrs.get("mode", "nearest"), work.attrs.get("coordinate_transformation_mode", "half_pixel")
    if len(dims) != IMAGE_RANK or source[:2] != dims[:2] or work.attrs.get("antialias", 0) or work.attrs.get("axes"):
        raise Refused("a resize of other axes than those of an image")
    (height, rest), (width, more) = (divmod(dims[i], source[i]) for i in (2, 3))
    if rest or more or height != width or height not in _DOUBLINGS:
        raise Refused(f"from {list(source[2:])} to {list(dims[2:])}; an Ethos-U makes images 2, 4 or 8 times as large")
    half = where in ("half_pixel", "pytorch_half_pixel")
    if mode == "nearest":
        rounding = work.attrs.get("nearest_mode", "round_prefer_floor")
        if not (where == "asymmetric" and rounding == "floor") and not (half and rounding.startswith("round")):
            raise Refused(f"the nearest pixel by {where} and {rounding}")
        op, half = "ResizeNearestNeighbor", False              # for these factors both are the pixel that a block was made of
    elif mode == "linear" and (where == "asymmetric" or (half and height == 2)):  # noqa: PLR2004  what the unit can do
        op = "ResizeBilinear"
    else:
        raise Refused(f"a {mode} resize by {where}, {height} times as large")
    x = work.image()
    operands = (x, work.body.integers("size", dims[2:]))
    work.done(work.emit(op, operands, last(dims), x.tensor.quant, align_corners=0, half_pixel_centers=int(half)), image=True)


def _windows(work: Work, kernel: Sequence[int], *, fill: int | None = None, ahead: bool = False) -> tuple[Value, dict[str, Any]]:
    """The image that windows slide over, behind a Pad where TFLite has no word for the padding, and what it is told about windows.

    `ahead`: a Pad that made the image may become the padding of the windows. `fill`: what an image of this operator is padded with, when
    that is not its zero point.
    """
    source = work.computed(0)
    stored, extra = source.stored, [(0, 0), (0, 0)]
    if ahead and stored in work.body.pads:
        inner, extra = work.body.pads[stored][0], list(work.body.pads[stored][1])
        if _padding(work, inner, kernel, extra) == "SAME":
            stored = inner
        else:
            extra = [(0, 0), (0, 0)]
    padding = _padding(work, stored, kernel, extra)
    x = work.body.image(stored, source.quant)
    strides, dilations, pads, _ = geometry(work.attrs, source.stored.dims[2:], kernel)
    told = {"stride": tuple(strides), "dilation": tuple(dilations), "padding": padding or "VALID"}
    if padding is None:
        if fill is not None and fill != signed(source.dtype, source.quant).zero[0]:
            raise Refused(f"windows with the pads {pads}: TFLite pads with the zero point, which is not the least value here")
        x = padded(work.body, x, [(0, 0), *pads, (0, 0)], work.output.stored.name)
    return x, told


def _padding(work: Work, stored: Value, kernel: Sequence[int], extra: Sequence[tuple[int, int]]) -> str | None:
    """SAME or VALID, where windows over a tensor with these further pads are one of them."""
    size = stored.dims[2:]
    strides, dilations, own, out = geometry(work.attrs, work.operand(0).stored.dims[2:], kernel)
    pads = [(a + c, b + d) for (a, b), (c, d) in zip(own, extra, strict=True)]
    if any(p < 0 for both in pads for p in both):
        raise Refused("windows that leave out a part of the image")
    full = [d + sum(p) - (k - 1) * dil - 1 for d, p, k, dil in zip(size, pads, kernel, dilations, strict=True)]
    if [f // s + 1 for f, s in zip(full, strides, strict=True)] != list(out):
        raise Refused("ceil_mode adds windows that reach beyond the padding")
    if not any(map(sum, pads)):
        return "VALID"
    same = geometry({"strides": strides, "dilations": dilations, "auto_pad": "SAME_UPPER"}, size, kernel)
    return "SAME" if same[2] == pads and same[3] == out else None


WINDOWS: Mapping[str, Callable[[Work], None]] = {
    "Conv": _conv, "Gemm": _product, "MatMul": _product, "MaxPool": _max_pool, "GlobalMaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalAveragePool": _average_pool, "ReduceMean": _reduce_mean, "Resize": _resize,
}
__all__ = ["WINDOWS"]
