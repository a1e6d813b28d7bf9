"""Quantized models by the letter: what the written graph means in real numbers, in float64 and straight from the ONNX file.

It shares no code with edgec, so that it can tell who is right where two runtimes differ. Sums of a convolution are off by some 1e-15 of
their size here, and a quotient within 1e-9 of the middle between two integers counts as the middle, which goes to the even one.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import numpy_helper

Array = npt.NDArray[Any]
_DIGITS = 9


def load(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """The model as a function of arrays by name. A node of another operator than Q/DQ image classifiers have is a KeyError."""
    graph = onnx.load(path).graph
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        known: dict[str, Array] = {**weights, **feeds}
        for node in graph.node:
            attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            known[node.output[0]] = OPERATORS[node.op_type]([known[i] for i in node.input if i], attrs)
        return {v.name: known[v.name] for v in graph.output}

    return run


def quantized(real: Array, scale: Array, zero: Array, axis: int = 1) -> Array:
    """Real numbers divided by a scale and rounded half to even, clipped to what the dtype of `zero` holds."""
    steps = np.rint(np.round(real / _along(scale, real.ndim, axis), _DIGITS)) + _along(zero, real.ndim, axis)
    kind = np.iinfo(zero.dtype)
    return np.asarray(np.clip(steps, kind.min, kind.max).astype(zero.dtype))


def dequantized(stored: Array, scale: Array, zero: Array | None = None, axis: int = 1) -> Array:
    """Integers as the real numbers that they stand for, exactly."""
    steps = stored.astype(np.float64) - (0 if zero is None else _along(zero, stored.ndim, axis))
    return np.asarray(steps * _along(scale, stored.ndim, axis))


def _along(numbers: Array, rank: int, axis: int) -> Array:
    wide = numbers.astype(np.float64)
    return wide.reshape([-1 if i == axis % rank else 1 for i in range(rank)]) if wide.size > 1 else wide.reshape(())


def _convolution(x: Array, w: Array, bias: Array | None, attrs: Mapping[str, Any]) -> Array:
    windows = _windows(x, w.shape[2:], attrs, 0.0)
    groups, of = attrs.get("group", 1), w.shape[1]
    if of == 1 and w.shape[0] == groups:
        made = np.einsum("nchwij,cij->nchw", windows, w[:, 0])
    else:
        each = len(w) // groups
        made = np.concatenate([np.tensordot(windows[:, g * of:(g + 1) * of], w[g * each:(g + 1) * each], ([1, 4, 5], [1, 2, 3]))
                               for g in range(groups)], -1).transpose(0, 3, 1, 2)
    return np.asarray(made if bias is None else made + bias.reshape(-1, 1, 1))


def _windows(x: Array, kernel: tuple[int, ...], attrs: Mapping[str, Any], fill: float) -> Array:
    """Every window: [N, C, H, W, rows, columns]."""
    if attrs.get("dilations", [1, 1]) != [1, 1] or attrs.get("auto_pad", b"NOTSET") != b"NOTSET" or attrs.get("ceil_mode"):
        raise KeyError(str(attrs))
    top, left, bottom, right = attrs.get("pads", [0, 0, 0, 0])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    down, across = attrs.get("strides", [1, 1])
    return sliding_window_view(padded, kernel, (2, 3))[:, :, ::down, ::across]


def _pad(x: Array, pads: Array, fill: float) -> Array:
    half = len(pads) // 2
    return np.pad(x, list(zip(pads[:half], pads[half:], strict=True)), constant_values=fill)


def _mean(x: Array, attrs: Mapping[str, Any]) -> Array:
    if attrs.get("count_include_pad") or any(attrs.get("pads", ())):
        raise KeyError(str(attrs))
    return np.asarray(_windows(x, tuple(attrs["kernel_shape"]), attrs, 0.0).mean((4, 5)))


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _product(inputs: list[Array], attrs: Mapping[str, Any]) -> Array:
    a, b = (m.T if attrs.get(t) else m for m, t in zip(inputs[:2], ("transA", "transB"), strict=True))
    return np.asarray(attrs.get("alpha", 1.0) * (a @ b) + (attrs.get("beta", 1.0) * inputs[2] if len(inputs) > 2 else 0))


OPERATORS: Mapping[str, Callable[[list[Array], Mapping[str, Any]], Array]] = {
    "QuantizeLinear": lambda i, a: quantized(i[0], i[1], i[2], a.get("axis", 1)),
    "DequantizeLinear": lambda i, a: dequantized(i[0], i[1], i[2] if len(i) > 2 else None, a.get("axis", 1)),
    "Conv": lambda i, a: _convolution(i[0], i[1], i[2] if len(i) > 2 else None, a),
    "Gemm": _product, "MatMul": lambda i, _: np.asarray(i[0] @ i[1]), "Add": lambda i, _: i[0] + i[1],
    "Relu": lambda i, _: np.maximum(i[0], 0), "Clip": lambda i, _: np.clip(i[0], i[1], i[2]),
    "Pad": lambda i, _: _pad(i[0], i[1], float(i[2]) if len(i) > 2 else 0.0),
    "AveragePool": lambda i, a: _mean(i[0], a), "GlobalAveragePool": lambda i, _: i[0].mean((2, 3), keepdims=True),
    "Softmax": lambda i, _: _softmax(i[0]), "Reshape": lambda i, _: i[0].reshape(i[1]),
    "Transpose": lambda i, a: i[0].transpose(a["perm"])}
