"""What TFLite's int8 operators mean, bit by bit as its reference kernels compute them.

`tfl.Conv2D`, `tfl.Add` and the others stand in regions that an NPU computes. Scales and zero points belong to the types of the values,
images are channels last, and attributes are those of TFLite: `padding` is SAME or VALID, `activation` NONE, RELU, RELU6 or RELU_N1_TO_1,
pairs are height and width. Tables (Logistic, Tanh) are those of TFLite's optimized kernels and of Vela, which are computed in reals.
"""

from collections.abc import Callable, Mapping, Sequence
from math import floor
from typing import Any

import numpy as np

from edgec.ir.fixed_point import Ints, away, exp_negative, high_product, multiplier, multipliers, reciprocal, scaled, shift_right
from edgec.ir.graph import Array, Node, Value
from edgec.ir.types import Quant, numpy_dtype
from edgec.ir.windows import convolve, geometry, max_pool, taps

Inputs = Sequence[Any]
PREFIX = "tfl."
_LIMITS = {"NONE": (None, None), "RELU": (0, None), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1), "RELU_0_TO_1": (0, 1)}
"""What activations keep of a result, as reals."""
ACTIVATIONS = tuple(_LIMITS)
_ADD_BITS, _HALF_BITS = 20, 10
_F32 = np.float32


def quant(value: Value | None) -> Quant:
    """Scale and zero point of a value; ValueError when its type has none."""
    if value is None or value.tensor.quant is None:
        raise ValueError(f"{value} has no scale")
    return value.tensor.quant


def _scale(value: Value | None) -> float:
    return float(_F32(quant(value).scale[0]))


def _zero(value: Value | None) -> int:
    return quant(value).zero[0]


def bounds(value: Value, activation: str) -> tuple[int, int]:
    """The least and the greatest integer that an activation leaves in a value."""
    kind = np.iinfo(numpy_dtype(value.tensor.dtype))
    low, high = int(kind.min), int(kind.max)
    first, last = _LIMITS[activation]
    if first is not None:
        low = max(low, as_integer(value, first))
    if last is not None:
        high = min(high, as_integer(value, last))
    return low, high


def as_integer(value: Value, real: float) -> int:
    """The integer that stands for a real in a value, whatever its dtype holds."""
    return _zero(value) + int(away(_F32(real) / _F32(_scale(value))))


def _finished(node: Node, made: Ints) -> list[Any]:
    """The result behind its zero point, within the bounds of its activation."""
    low, high = bounds(node.output, node.attrs.get("activation", "NONE"))
    return [np.clip(made + _zero(node.output), low, high).astype(numpy_dtype(node.output.tensor.dtype))]


def _off(inputs: Inputs, node: Node, i: int) -> Ints:
    return np.asarray(inputs[i], np.int64) - _zero(node.inputs[i])


def _channel_scales(node: Node) -> Array:
    """What a sum of products is multiplied by, for each channel of the result."""
    weights = np.asarray(quant(node.inputs[1]).scale, _F32).astype(np.float64)
    return np.asarray(_scale(node.inputs[0]) * weights / _scale(node.output))


def window(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """A window of TFLite in ONNX's words."""
    auto = "SAME_UPPER" if attrs["padding"] == "SAME" else "VALID"
    return {"strides": list(attrs["stride"]), "dilations": list(attrs.get("dilation", (1, 1))), "auto_pad": auto}


def _convolved(node: Node, inputs: Inputs, weights: Array, groups: int) -> list[Any]:
    """A convolution of images whose channels are last; sums of 32 bits are exact in float64."""
    x = np.moveaxis(_off(inputs, node, 0), -1, 1).astype(np.float64)
    sums = convolve(x, weights.astype(np.float64), None, {**window(node.attrs), "group": groups})
    made = np.moveaxis(sums, 1, -1).astype(np.int64)
    return _finished(node, scaled(made + _bias(inputs), *multipliers(_channel_scales(node))))


def _bias(inputs: Inputs) -> Any:
    return np.asarray(inputs[2], np.int64) if len(inputs) > 2 and inputs[2] is not None else 0  # noqa: PLR2004  the third operand


def _conv(node: Node, inputs: Inputs) -> list[Any]:
    weights = np.moveaxis(inputs[1], -1, 1)
    return _convolved(node, inputs, weights, inputs[0].shape[-1] // weights.shape[1])


def _depthwise(node: Node, inputs: Inputs) -> list[Any]:
    return _convolved(node, inputs, np.moveaxis(inputs[1], -1, 0), inputs[0].shape[-1])


def _sum(sign: int) -> Callable[[Node, Inputs], list[Any]]:
    def compute(node: Node, inputs: Inputs) -> list[Any]:
        scales = [_scale(v) for v in node.inputs]
        twice = float(_F32(2) * _F32(max(scales)))
        parts = [scaled(_off(inputs, node, i) << _ADD_BITS, *multiplier(s / twice)) for i, s in enumerate(scales)]
        back = multiplier(twice / float(_F32(1 << _ADD_BITS) * _F32(_scale(node.output))))
        return _finished(node, scaled(parts[0] + sign * parts[1], *back))

    return compute


def _mul(node: Node, inputs: Inputs) -> list[Any]:
    real = _F32(_scale(node.inputs[0])) * _F32(_scale(node.inputs[1])) / _F32(_scale(node.output))
    return _finished(node, scaled(_off(inputs, node, 0) * _off(inputs, node, 1), *multiplier(float(real))))


def _requantized(node: Node, inputs: Inputs, real: float) -> list[Any]:
    return _finished(node, scaled(_off(inputs, node, 0), *multiplier(real)))


def _quantize(node: Node, inputs: Inputs) -> list[Any]:
    return _requantized(node, inputs, _scale(node.inputs[0]) / _scale(node.output))


def _relu(node: Node, inputs: Inputs) -> list[Any]:
    """An activation by itself; its ratio of scales is one of two f32."""
    return _requantized(node, inputs, float(_F32(_scale(node.inputs[0])) / _F32(_scale(node.output))))


def _average(node: Node, inputs: Inputs) -> list[Any]:
    """The mean of what a window sees of the image, halves away from zero."""
    attrs, kernel = window(node.attrs), node.attrs["filter"]
    x = np.moveaxis(np.asarray(inputs[0], np.int64), -1, 1)
    total = taps(x, kernel, attrs, 0)[0].sum((-2, -1))
    count = taps(np.ones((1, 1, *x.shape[2:]), np.int64), kernel, attrs, 0)[0].sum((-2, -1))
    made = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return _finished(node, np.moveaxis(made, 1, -1) - _zero(node.output))


def _max(node: Node, inputs: Inputs) -> list[Any]:
    (made,) = max_pool(np.moveaxis(inputs[0], -1, 1), {**window(node.attrs), "kernel_shape": list(node.attrs["filter"])}, indices=False)
    return _finished(node, np.moveaxis(made, 1, -1).astype(np.int64) - _zero(node.output))


def _pad(node: Node, inputs: Inputs) -> list[Any]:
    return [np.pad(inputs[0], [(int(b), int(e)) for b, e in inputs[1]], constant_values=_zero(node.output))]


def _concat(node: Node, inputs: Inputs) -> list[Any]:
    return [np.concatenate(inputs, node.attrs["axis"])]


def _nearest(node: Node, inputs: Inputs) -> list[Any]:
    made = inputs[0]
    for axis in (1, 2):
        size, count = inputs[0].shape[axis], node.output.dims[axis]
        corners, half = node.attrs.get("align_corners", 0) and count > 1, node.attrs.get("half_pixel_centers", 0)
        step = _F32(size - 1) / _F32(count - 1) if corners else _F32(size) / _F32(count)
        at = (np.arange(count, dtype=_F32) + _F32(0.5 if half else 0)) * step
        made = np.take(made, np.clip(away(at) if corners else np.floor(at).astype(np.int64), 0, size - 1), axis)
    return [made]


def _bilinear(node: Node, inputs: Inputs) -> list[Any]:
    """Weights of ten bits along each axis, and one division, halves away from zero."""
    one = 1 << _HALF_BITS
    x, places = np.asarray(inputs[0], np.int64), []
    for axis in (1, 2):
        size, count = x.shape[axis], node.output.dims[axis]
        corners = node.attrs.get("align_corners", 0) and count > 1
        step = (one * (size - 1) + (count - 1) // 2) // (count - 1) if corners else (one * size + count // 2) // count
        at = np.arange(count) * step + (step // 2 - one // 2 if node.attrs.get("half_pixel_centers", 0) else 0)
        low = np.maximum(np.where(at >= 0, at // one, -(-at // one)), 0)
        high = np.minimum(np.where(at + one - 1 >= 0, (at + one - 1) // one, 0), size - 1)
        places.append(((low, one - (at - one * low)), (high, at - one * low)))
    total = sum(np.take(np.take(x, row, 1), column, 2) * high[:, None, None] * wide[:, None]
                for row, high in places[0] for column, wide in places[1])
    rounded = np.sign(total) * ((np.abs(total) + (1 << 19)) >> 20)
    return [np.asarray(rounded).astype(inputs[0].dtype)]


def _softmax(node: Node, inputs: Inputs) -> list[Any]:
    """Along the last axis: exponentials in Q0, their sum in Q12."""
    real = min(node.attrs.get("beta", 1.0) * _scale(node.inputs[0]) * (1 << 26), (1 << 31) - 1.0)
    q, left = multiplier(real)
    least = -floor(31 * (1 << 26) / (1 << left))
    x = np.asarray(inputs[0], np.int64)
    below = x - x.max(-1, keepdims=True)
    counts = below >= least
    powers = np.where(counts, exp_negative(high_product(np.where(counts, below, 0) << left, q)), 0)
    share, bits = reciprocal(np.where(counts, shift_right(powers, 12), 0).sum(-1, keepdims=True), 12)
    made = shift_right(high_product(share, powers), bits + 31 - 8)
    return [np.where(counts, np.clip(made - 128, -128, 127), -128).astype(np.int8)]


def _table(function: Callable[[Array], Array]) -> Callable[[Node, Inputs], list[Any]]:
    """A function of one byte, computed for each of its values in f32."""
    def compute(node: Node, inputs: Inputs) -> list[Any]:
        reals = _F32(_scale(node.inputs[0])) * _off(inputs, node, 0).astype(_F32)
        made = function(reals.astype(np.float64)).astype(_F32) * (_F32(1) / _F32(_scale(node.output)))
        return _finished(node, away(made))

    return compute


def _half(real: float) -> tuple[int, int]:
    """A multiplier of 15 bits."""
    q, exponent = multiplier(real)
    return min((q + (1 << 15)) >> 16, (1 << 15) - 1), exponent


def _hard_swish(node: Node, inputs: Inputs) -> list[Any]:
    """Compute x * clip(x / 6 + 1 / 2, 0, 1) in 16 bits."""
    fine = _F32(1 / 128) * _F32(_scale(node.inputs[0]))
    out, out_bits = _half(float(fine / _F32(_scale(node.output))))
    gate, gate_bits = _half(float(fine / _F32(3 / 32768)))
    low, high = -(1 << 15), (1 << 15) - 1
    x = _off(inputs, node, 0) << 7
    value = high_product(x, out, 15)
    part = x if gate_bits <= 0 else np.clip(x << (gate_bits - 1), low, high)
    part = high_product(part, gate, 15)
    if gate_bits > 0:
        part = np.clip(part << 1, low, high)
    elif gate_bits < 0:
        part = shift_right(part, -gate_bits)
    product = ((part + (1 << 15)) >> 1) * value
    made = np.where(product >= 0, product >> 15, -((-product) >> 15))
    return _finished(node, shift_right(made, -out_bits))


def _strided(_: Node, inputs: Inputs) -> list[Any]:
    begin, end, step = (np.asarray(a, np.int64) for a in inputs[1:4])
    return [inputs[0][tuple(slice(int(b), int(e), int(s)) for b, e, s in zip(begin, end, step, strict=True))]]


MEANINGS: Mapping[str, Callable[[Node, Inputs], list[Any]]] = {
    "tfl.Conv2D": _conv, "tfl.DepthwiseConv2D": _depthwise,
    "tfl.Add": _sum(1), "tfl.Sub": _sum(-1), "tfl.Mul": _mul, "tfl.AveragePool2D": _average, "tfl.MaxPool2D": _max,
    "tfl.Concat": _concat, "tfl.Pad": _pad, "tfl.Reshape": lambda n, k: [k[0].reshape(n.output.dims)],
    "tfl.Transpose": lambda _, k: [np.transpose(k[0], [int(i) for i in k[1]])],
    "tfl.StridedSlice": _strided, "tfl.ResizeNearestNeighbor": _nearest, "tfl.ResizeBilinear": _bilinear,
    "tfl.Softmax": _softmax, "tfl.Logistic": _table(lambda x: 1 / (1 + np.exp(-x))), "tfl.Tanh": _table(np.tanh),
    "tfl.HardSwish": _hard_swish, "tfl.Quantize": _quantize, "tfl.Relu": _relu,
}
__all__ = ["ACTIVATIONS", "MEANINGS", "PREFIX", "as_integer", "bounds", "geometry", "quant", "window"]
