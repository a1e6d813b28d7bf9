"""Operators in numpy where onnx has no reference implementation, or a slow or a wrong one."""

from collections.abc import Callable, Mapping, Sequence
from math import erf
from typing import Any

import numpy as np

from edgec.ir.graph import Array, Node
from edgec.ir.quantized import lookup, multiply_shift, sum_pool
from edgec.ir.recurrent import recurrent
from edgec.ir.tflite import MEANINGS
from edgec.ir.windows import average_pool, convolve, lp_pool, max_pool, transposed

Inputs = Sequence[Any]


def _given(inputs: Inputs, i: int) -> Any:
    return inputs[i] if i < len(inputs) else None


def _conv(node: Node, inputs: Inputs) -> list[Any]:
    return [convolve(inputs[0], inputs[1], _given(inputs, 2), node.attrs)]


def _conv_transpose(node: Node, inputs: Inputs) -> list[Any]:
    return [transposed(inputs[0], inputs[1], _given(inputs, 2), node.attrs)]


def _conv_integer(node: Node, inputs: Inputs) -> list[Any]:
    x, w, zero, w_zero = inputs[0], inputs[1], _given(inputs, 2), _given(inputs, 3)
    x = x.astype(np.float64) - (0 if zero is None else zero.astype(np.float64))      # exact, and many times as fast as integers
    by_filter = 0 if w_zero is None else w_zero.astype(np.float64).reshape(-1, *[1] * (w.ndim - 1))
    return [convolve(x, w.astype(np.float64) - by_filter, None, node.attrs).astype(np.int64).astype(np.int32)]


def _matmul_integer(_: Node, inputs: Inputs) -> list[Any]:
    a, b, a_zero, b_zero = inputs[0].astype(np.float64), inputs[1].astype(np.float64), _given(inputs, 2), _given(inputs, 3)
    if a_zero is not None:
        a -= a_zero[..., None] if a_zero.ndim == 1 and a_zero.size > 1 else a_zero     # one for each row
    if b_zero is not None:
        b -= b_zero
    return [np.asarray(a @ b).astype(np.int64).astype(np.int32)]


def _max_pool(node: Node, inputs: Inputs) -> list[Any]:
    return list(max_pool(inputs[0], node.attrs, indices=len(node.outputs) > 1))


def _global(function: Callable[[Array, Mapping[str, Any]], Array]) -> Callable[[Node, Inputs], list[Any]]:
    def compute(node: Node, inputs: Inputs) -> list[Any]:
        return [function(inputs[0], {**node.attrs, "kernel_shape": inputs[0].shape[2:]})]

    return compute


def _global_pool(function: Callable[..., Any]) -> Callable[[Node, Inputs], list[Any]]:
    return lambda _, inputs: [np.asarray(function(inputs[0], axis=tuple(range(2, inputs[0].ndim)), keepdims=True), inputs[0].dtype)]


def _bin(i: int, extent: int, count: int, start: int, limit: int) -> tuple[int, int]:
    """The i-th of `count` parts of a region, clipped to the image."""
    low, high = i * extent // count + start, -(-(i + 1) * extent // count) + start
    return min(max(low, 0), limit), min(max(high, 0), limit)


def _roi_max(node: Node, inputs: Inputs) -> list[Any]:
    x, rois = inputs
    (rows, columns), scale = node.attrs["pooled_shape"], node.attrs.get("spatial_scale", 1.0)
    made = np.zeros((len(rois), x.shape[1], rows, columns), x.dtype)
    for r, (batch, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (int(np.floor(c * scale + 0.5)) for c in corners)
        height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i in range(rows):
            top, bottom = _bin(i, height, rows, y1, x.shape[2])
            for j in range(columns):
                left, right = _bin(j, width, columns, x1, x.shape[3])
                if bottom > top and right > left:
                    made[r, :, i, j] = x[int(batch), :, top:bottom, left:right].max((1, 2))
    return [made]


_erf = np.frompyfunc(erf, 1, 1)


def error_function(x: Array) -> Array:
    """Compute erf of each element, by the C library."""
    return np.asarray(_erf(x.astype(np.float64)), np.float64).astype(x.dtype)


def _gelu(node: Node, inputs: Inputs) -> list[Any]:
    x = inputs[0]
    if node.attrs.get("approximate", "none") == "tanh":
        return [_tanh_gelu(x)]
    return [x * x.dtype.type(0.5) * (error_function(x * np.sqrt(0.5, dtype=x.dtype)) + x.dtype.type(1))]


def _tanh_gelu(x: Array) -> Array:
    k = x.dtype.type
    return np.asarray(x * (np.tanh((x + x * x * x * k(0.044715)) * k(np.sqrt(2 / np.pi))) + k(1)) * k(0.5))


def _fast_gelu(_: Node, inputs: Inputs) -> list[Any]:
    bias = _given(inputs, 1)
    return [_tanh_gelu(inputs[0] if bias is None else inputs[0] + bias)]


def _bias_gelu(node: Node, inputs: Inputs) -> list[Any]:
    return _gelu(node, [inputs[0] + inputs[1]])


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)), x.dtype)


def _quick_gelu(node: Node, inputs: Inputs) -> list[Any]:
    x = inputs[0]
    return [x * _sigmoid(x * x.dtype.type(node.attrs.get("alpha", 1.702)))]


def _hard_swish(_: Node, inputs: Inputs) -> list[Any]:
    x = inputs[0]
    return [x * np.clip(x * x.dtype.type(1 / 6) + x.dtype.type(0.5), 0, 1)]


def _mish(_: Node, inputs: Inputs) -> list[Any]:
    return [inputs[0] * np.tanh(np.logaddexp(inputs[0], inputs[0].dtype.type(0)))]


def _normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    mean = x.mean(axes, keepdims=True)
    spread = ((x - mean) ** 2).mean(axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(spread + x.dtype.type(epsilon)), x.dtype)


def _group_norm(node: Node, inputs: Inputs) -> list[Any]:
    x, scale, bias = inputs
    groups = x.reshape(x.shape[0], node.attrs["num_groups"], -1)
    column = (-1, *[1] * (x.ndim - 2))
    return [_normalized(groups, (2,), node.attrs.get("epsilon", 1e-5)).reshape(x.shape) * scale.reshape(column) + bias.reshape(column)]


def _mean_variance(node: Node, inputs: Inputs) -> list[Any]:
    x, axes = inputs[0], tuple(node.attrs.get("axes", [0, 2, 3]))
    return [(x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + x.dtype.type(1e-9))]


def _skip_norm(node: Node, inputs: Inputs) -> list[Any]:
    simplified = "Simplified" in node.op
    x, skip, gamma = inputs[:3]
    beta, bias = (None, _given(inputs, 3)) if simplified else (_given(inputs, 3), _given(inputs, 4))
    total = x + skip if bias is None else x + skip + bias
    epsilon = node.attrs.get("epsilon", 1e-12 if not simplified else 1e-5)
    made = total / np.sqrt((total * total).mean(-1, keepdims=True) + epsilon) if simplified else _normalized(total, (-1,), epsilon)
    made = np.asarray(made, x.dtype) * gamma
    return [made if beta is None else made + beta, None, None, total][:max(len(node.outputs), 1)]


def _fused_matmul(node: Node, inputs: Inputs) -> list[Any]:
    a, b = inputs
    for flag in ("transBatchA", "transBatchB"):
        if node.attrs.get(flag, 0):
            raise ValueError(f"{flag} has no meaning here")
    a = np.swapaxes(a, -1, -2) if node.attrs.get("transA", 0) else a
    b = np.swapaxes(b, -1, -2) if node.attrs.get("transB", 0) else b
    return [(a @ b) * a.dtype.type(node.attrs.get("alpha", 1.0))]


def _gather_elements(node: Node, inputs: Inputs) -> list[Any]:
    """Indices may cover a part of the data, and count from the end."""
    data, indices = inputs
    axis = node.attrs.get("axis", 0) % data.ndim
    part = data[tuple(slice(None) if a == axis else slice(n) for a, n in enumerate(indices.shape))]
    return [np.take_along_axis(part, np.where(indices < 0, indices + data.shape[axis], indices), axis)]


def _zip_map(node: Node, inputs: Inputs) -> list[Any]:
    keys = node.attrs.get("classlabels_strings") or node.attrs["classlabels_int64s"]
    rows = inputs[0] if inputs[0].ndim > 1 else inputs[0][None]
    return [[dict(zip(keys, row, strict=True)) for row in rows]]


def _category(node: Node, inputs: Inputs) -> list[Any]:
    words, codes, x = node.attrs["cats_strings"], node.attrs["cats_int64s"], inputs[0]
    if x.dtype == object:
        numbers = dict(zip(words, codes, strict=True))
        return [np.array([numbers.get(e, node.attrs.get("default_int64", -1)) for e in x.ravel()], np.int64).reshape(x.shape)]
    names = dict(zip(codes, words, strict=True))
    return [np.array([names.get(e, node.attrs.get("default_string", "_Unused")) for e in x.ravel()], object).reshape(x.shape)]


def _cast_map(node: Node, inputs: Inputs) -> list[Any]:
    table, sparse = inputs[0], node.attrs.get("map_form", "DENSE") == "SPARSE"
    keys = range(node.attrs["max_map"]) if sparse else sorted(table)
    values = [table.get(k, 0) for k in keys]
    target = node.attrs.get("cast_to", "TO_FLOAT")
    kind: Any = {"TO_FLOAT": np.float32, "TO_INT64": np.int64}.get(target, object)
    return [np.array([[str(v) for v in values] if kind is object else values], kind)]


def _multinomial(node: Node, inputs: Inputs) -> list[Any]:
    random = np.random.default_rng(int(node.attrs.get("seed", 0)))
    odds = np.exp(inputs[0] - inputs[0].max(1, keepdims=True)).cumsum(1)
    draws = random.random((inputs[0].shape[0], node.attrs.get("sample_size", 1))) * odds[:, -1:]
    kind = np.int64 if node.attrs.get("dtype", 6) == 7 else np.int32  # noqa: PLR2004  the numbers that ONNX gives to INT32 and INT64
    return [(draws[:, :, None] >= odds[:, None, :]).sum(2).astype(kind)]


def _mean(_: Node, inputs: Inputs) -> list[Any]:
    """Mean; onnx's own does not broadcast."""
    total = inputs[0]
    for x in inputs[1:]:
        total = total + x
    return [np.asarray(total / total.dtype.type(len(inputs)), total.dtype)]


def _local_response(node: Node, inputs: Inputs) -> list[Any]:
    """LRN; onnx's own counts images where it means channels."""
    x, size = inputs[0], node.attrs["size"]
    squares = np.zeros_like(x)
    for c in range(x.shape[1]):
        squares[:, c] = np.square(x[:, max(0, c - (size - 1) // 2):c + size // 2 + 1]).sum(1)
    base = node.attrs.get("bias", 1.0) + node.attrs.get("alpha", 1e-4) / size * squares
    return [(x / base ** node.attrs.get("beta", 0.75)).astype(x.dtype)]


def _unit_length(node: Node, inputs: Inputs) -> list[Any]:
    """LpNormalization; onnx's own forgets the signs when p is 1."""
    x, axis, p = inputs[0], node.attrs.get("axis", -1), node.attrs.get("p", 2)
    length = (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p)
    return [np.where(length == 0, 0, x / np.where(length == 0, 1, length)).astype(x.dtype)]


def _pad(node: Node, inputs: Inputs) -> list[Any]:
    """Pad; onnx's own cannot cut, which is what negative pads do, before anything is added."""
    x, pads, value, axes = inputs[0], inputs[1], _given(inputs, 2), _given(inputs, 3)
    chosen, wide = range(x.ndim) if axes is None else [int(a) % x.ndim for a in axes], [(0, 0)] * x.ndim
    for i, axis in enumerate(chosen):
        wide[axis] = int(pads[i]), int(pads[len(chosen) + i])
    x = x[tuple(slice(max(-b, 0), max(d + min(e, 0), 0)) for d, (b, e) in zip(x.shape, wide, strict=True))]
    room = [(max(b, 0), max(e, 0)) for b, e in wide]
    mode: Any = node.attrs.get("mode", "constant")
    if mode != "constant":
        return [np.pad(x, room, mode)]
    empty = "" if x.dtype == object else 0
    return [np.pad(x, room, constant_values=empty if value is None else np.asarray(value).reshape(-1)[0])]


OWN: Mapping[str, Callable[[Node, Inputs], list[Any]]] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "ConvInteger": _conv_integer, "MatMulInteger": _matmul_integer, "MaxPool": _max_pool,
    "Relu": lambda _, k: [np.maximum(k[0], k[0].dtype.type(0))],
    "AveragePool": lambda n, k: [average_pool(k[0], n.attrs)], "LpPool": lambda n, k: [lp_pool(k[0], n.attrs)],
    "GlobalAveragePool": _global_pool(np.mean), "GlobalMaxPool": _global_pool(np.max), "GlobalLpPool": _global(lp_pool),
    "MaxRoiPool": _roi_max, "Gelu": _gelu, "HardSwish": _hard_swish, "Mish": _mish,
    "GroupNormalization": _group_norm, "MeanVarianceNormalization": _mean_variance, "Multinomial": _multinomial,
    "LRN": _local_response, "Mean": _mean, "LpNormalization": _unit_length, "Pad": _pad,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), recurrent), "GatherElements": _gather_elements,
    "Optional": lambda _, k: [_given(k, 0)], "OptionalGetElement": lambda _, k: [k[0]],  # an optional is its value, or None
    "OptionalHasElement": lambda _, k: [np.array(_given(k, 0) is not None)],
    "Erf": lambda _, k: [error_function(k[0])], "edgec.Reorder": lambda _, k: [k[0]],
    "edgec.SumPool": sum_pool, "edgec.Lookup": lookup, "edgec.MultiplyShift": multiply_shift,
    "ai.onnx.ml.ZipMap": _zip_map, "ai.onnx.ml.CategoryMapper": _category, "ai.onnx.ml.CastMap": _cast_map,
    "com.microsoft.Gelu": _gelu, "com.microsoft.FastGelu": _fast_gelu, "com.microsoft.BiasGelu": _bias_gelu,
    "com.microsoft.QuickGelu": _quick_gelu, "com.microsoft.FusedMatMul": _fused_matmul,
    "com.microsoft.SkipLayerNormalization": _skip_norm, "com.microsoft.SkipSimplifiedLayerNormalization": _skip_norm,
    **MEANINGS,
}
