"""What a small change of each input of a node does to a scalar, from what a change of its results does: reverse-mode derivatives in numpy.

Operators that real nets are made of have one, `differentiable` tells which. At a corner (Relu at zero, equal maxima) one side is taken.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Node
from edgec.ir.windows import geometry, taps, transposed

Inputs = Sequence[Any]
Slopes = list[Array | None]
_MATRIX = 2
_STEP = 1e-5            # of central differences, in float64
_EACH = frozenset((
    "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu", "Celu", "LeakyRelu", "ThresholdedRelu", "Softplus", "Softsign", "Gelu",
    "Mish", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs", "Reciprocal", "Clip", "Pow", "Sin", "Cos",
    "com.microsoft.Gelu", "com.microsoft.FastGelu", "com.microsoft.QuickGelu"))
_VIEWS = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"))
_MOVES = frozenset((
    "Transpose", "Concat", "Split", "Slice", "Gather", "Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth"))


def differentiable(node: Node) -> bool:
    """Whether there is a derivative of this operator by its first input, and by the second one of a sum or product."""
    if node.op == "Pad" and node.attrs.get("mode", "constant") != "constant":
        return False
    plain = node.op in _RULES and sum(bool(v.name) for v in node.outputs) == 1
    return plain or node.op in _EACH or node.op in _MOVES or node.op in _VIEWS


def slopes(node: Node, inputs: Inputs, outputs: Inputs, by: Sequence[Array | None], wanted: Sequence[bool]) -> Slopes:
    """For each input that is wanted the derivative of a scalar, None for others; `by` are those by the results, None for zero.

    Inputs and results are arrays in f32 or f64, and so are the derivatives.
    """
    if node.op in _MOVES:
        return _moved(node, inputs, outputs, by)
    (first,) = (b for b in by if b is not None)
    if node.op in _VIEWS:
        return [first.reshape(inputs[0].shape), *[None] * (len(inputs) - 1)]
    if node.op in _EACH:
        return [np.asarray(first * _difference(node, inputs), first.dtype), *[None] * (len(inputs) - 1)]
    made = _RULES[node.op](node, inputs, outputs, first, wanted)
    return [*made, *[None] * (len(inputs) - len(made))]


def _difference(node: Node, inputs: Inputs) -> Array:
    """The derivative of each element of a function of one operand, by a small step to both sides."""
    x, *rest = (a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in inputs)
    step = _STEP * np.maximum(np.abs(x), 1.0)
    above, below = (evaluate_node(node, [x + s, *rest])[0].astype(np.float64) for s in (step, -step))
    return np.asarray((above - below) / (2 * step))


def _moved(node: Node, inputs: Inputs, outputs: Inputs, by: Sequence[Array | None]) -> Slopes:
    """Of an operator that only moves elements: numbers take their places, and so tell where each came from; 0 is what pads."""
    data = [isinstance(a, np.ndarray) and a.dtype.kind == "f" and not (node.op == "Pad" and i) for i, a in enumerate(inputs)]
    sizes = [a.size if d else 0 for a, d in zip(inputs, data, strict=True)]
    starts = np.cumsum([1, *sizes])
    places = [np.arange(s, s + n).reshape(a.shape) if d else None if node.op == "Pad" and i == _MATRIX else a
              for i, (a, d, s, n) in enumerate(zip(inputs, data, starts, sizes, strict=False))]
    total = np.zeros(starts[-1])
    for where, b in zip(evaluate_node(node, places), by, strict=False):
        if b is not None:
            total += np.bincount(where.reshape(-1), b.reshape(-1), starts[-1])
    dtype = outputs[0].dtype
    return [total[s:s + n].reshape(a.shape).astype(dtype) if d else None for a, d, s, n in zip(inputs, data, starts, sizes, strict=False)]


def _summed(slope: Array, like: Array) -> Array:
    """A derivative summed over the axes along which an operand was broadcast."""
    extra = slope.ndim - like.ndim
    slope = slope.sum(tuple(range(extra))) if extra else slope
    axes = tuple(i for i, d in enumerate(like.shape) if d == 1 and slope.shape[i] != 1)
    return np.asarray(slope.sum(axes, keepdims=True) if axes else slope)


def _conv(node: Node, inputs: Inputs, _: Inputs, by: Array, wanted: Sequence[bool]) -> Slopes:
    x, w, *bias = inputs
    made: Slopes = [None] * len(inputs)
    kernel, groups = w.shape[2:], node.attrs.get("group", 1)
    strides, dilations, pads, out = geometry(node.attrs, x.shape[2:], kernel)
    if wanted[0]:
        unread = [d + b + e - (o - 1) * s - (k - 1) * t - 1
                  for d, o, s, k, t, (b, e) in zip(x.shape[2:], out, strides, kernel, dilations, pads, strict=True)]
        made[0] = transposed(by, w, None, {"strides": strides, "dilations": dilations, "group": groups, "output_padding": unread,
                                           "pads": [p[end] for end in (0, 1) for p in pads]})
    if wanted[1]:
        view, _out = taps(x, kernel, node.attrs, 0)
        per = len(w) // groups
        slope = np.empty((groups, per, w.shape[1], *kernel), np.result_type(x, w))
        for g in range(groups):
            mine = np.moveaxis(by.reshape(len(x), groups, per, prod(out))[:, g], 1, 0).reshape(per, -1)
            some = view[:, g * w.shape[1]:(g + 1) * w.shape[1]]
            for k in range(prod(kernel)):
                at: Any = (Ellipsis, *np.unravel_index(k, kernel))
                slope[g][at] = mine @ np.moveaxis(some[at], 1, -1).reshape(-1, w.shape[1])
        made[1] = slope.reshape(w.shape)
    if bias and wanted[2]:
        made[2] = by.sum((0, *range(2, by.ndim)))
    return made


def _matmul(_: Node, inputs: Inputs, __: Inputs, by: Array, wanted: Sequence[bool]) -> Slopes:
    a, b = inputs
    left, right = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    by = by[..., None, :] if a.ndim == 1 else by
    by = by[..., None] if b.ndim == 1 else by
    made: Slopes = [None, None]
    if wanted[0]:
        made[0] = _summed(by @ np.swapaxes(right, -1, -2), left).reshape(a.shape)
    if wanted[1] and right.ndim == _MATRIX:                              # one product for all rows
        made[1] = (left.reshape(-1, left.shape[-1]).T @ by.reshape(-1, by.shape[-1])).reshape(b.shape)
    elif wanted[1]:
        made[1] = _summed(np.swapaxes(left, -1, -2) @ by, right).reshape(b.shape)
    return made


def _gemm(node: Node, inputs: Inputs, _: Inputs, by: Array, wanted: Sequence[bool]) -> Slopes:
    a, b, *bias = inputs
    turned, alpha, beta = (node.attrs.get("transA"), node.attrs.get("transB")), node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    left, right = (m.T if t else m for m, t in zip((a, b), turned, strict=True))
    made: Slopes = [None] * len(inputs)
    if wanted[0]:
        made[0] = alpha * (right @ by.T if turned[0] else by @ right.T)
    if wanted[1]:
        made[1] = alpha * (by.T @ left if turned[1] else left.T @ by)
    if bias and wanted[2]:
        made[2] = beta * _summed(by, bias[0])
    return made


def _windows(node: Node, x: Array, kernel: Sequence[int]) -> tuple[Array, list[Any], Any]:
    """Zeros for an image with its borders, what of it each tap reads, and where the image lies in it."""
    strides, dilations, pads, out = geometry(node.attrs, x.shape[2:], kernel)
    room = [max(d + b + e, (o - 1) * s + (k - 1) * t + 1)
            for d, (b, e), o, s, k, t in zip(x.shape[2:], pads, out, strides, kernel, dilations, strict=True)]
    places = [(Ellipsis, *(slice(a * t, a * t + (o - 1) * s + 1, s) for a, t, o, s in zip(at, dilations, out, strides, strict=True)))
              for at in product(*map(range, kernel))]
    inner = (Ellipsis, *(slice(b, b + d) for d, (b, _) in zip(x.shape[2:], pads, strict=True)))
    return np.zeros((*x.shape[:2], *room), x.dtype), places, inner


def _max_pool(node: Node, inputs: Inputs, outputs: Inputs, by: Array, _: Sequence[bool]) -> Slopes:
    x, kernel = inputs[0], node.attrs["kernel_shape"]
    seen = np.moveaxis(taps(x, kernel, node.attrs, -np.inf)[0].reshape(*outputs[0].shape, -1), -1, 0)
    made, places, inner = _windows(node, x, kernel)
    left = by
    for one, place in zip(seen, places, strict=True):
        here = one == outputs[0]
        made[place] += np.where(here, left, 0)
        left = np.where(here, 0, left)
    return [made[inner]]


def _average_pool(node: Node, inputs: Inputs, _: Inputs, by: Array, __: Sequence[bool]) -> Slopes:
    x, kernel = inputs[0], node.attrs["kernel_shape"]
    made, places, inner = _windows(node, x, kernel)
    shares = evaluate_node(node, [np.ones((1, 1, *x.shape[2:]))])[0]      # the mean of ones: 1 unless what is counted is outside
    inside = taps(np.ones((1, 1, *x.shape[2:])), kernel, node.attrs, 0)[0].sum(tuple(range(-len(kernel), 0)))
    each = by * (shares / np.maximum(inside, 1)).astype(by.dtype)
    for place in places:
        made[place] += each
    return [made[inner]]


def _means(node: Node, inputs: Inputs, outputs: Inputs, by: Array, _: Sequence[bool]) -> Slopes:
    """Of sums and means along axes."""
    x = inputs[0]
    axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else node.attrs.get("axes")
    if node.op == "GlobalAveragePool":
        axes = range(2, x.ndim)
    if axes is None or len(axes) == 0:
        axes = () if node.attrs.get("noop_with_empty_axes") else range(x.ndim)
    kept = [1 if i in {int(a) % x.ndim for a in axes} else d for i, d in enumerate(x.shape)]
    share = 1 if node.op == "ReduceSum" else outputs[0].size / max(x.size, 1)
    return [np.broadcast_to(by.reshape(kept) * by.dtype.type(share), x.shape).copy()]


def _softmax(node: Node, _: Inputs, outputs: Inputs, by: Array, __: Sequence[bool]) -> Slopes:
    y, axis = outputs[0], node.attrs.get("axis", -1)
    return [y * (by - (by * y).sum(axis, keepdims=True))]


def _layer_norm(node: Node, inputs: Inputs, _: Inputs, by: Array, wanted: Sequence[bool]) -> Slopes:
    x, scale = inputs[0], inputs[1]
    axes = tuple(range(node.attrs.get("axis", -1) % x.ndim, x.ndim))
    centered = x - x.mean(axes, keepdims=True)
    over = 1 / np.sqrt(np.square(centered).mean(axes, keepdims=True) + x.dtype.type(node.attrs.get("epsilon", 1e-5)))
    normal, slope = centered * over, by * scale
    inner = slope - slope.mean(axes, keepdims=True) - normal * (slope * normal).mean(axes, keepdims=True)
    made: Slopes = [over * inner, _summed(by * normal, scale) if wanted[1] else None]
    return [*made, _summed(by, inputs[2])] if len(inputs) > _MATRIX and wanted[2] else made


def _batch_norm(node: Node, inputs: Inputs, _: Inputs, by: Array, __: Sequence[bool]) -> Slopes:
    x, scale, _b, _m, variance = inputs
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return [np.asarray(by * factor.reshape(-1, *[1] * (x.ndim - _MATRIX)), by.dtype)]


def _sums(node: Node, inputs: Inputs, _: Inputs, by: Array, wanted: Sequence[bool]) -> Slopes:
    """Of Add, Sub, Mul and Div, broadcast."""
    a, b = inputs
    each: Mapping[str, Callable[[], Iterator[Array]]] = {
        "Add": lambda: iter((by, by)), "Sub": lambda: iter((by, -by)), "Mul": lambda: iter((by * b, by * a)),
        "Div": lambda: iter((by / b, -by * a / (b * b)))}
    return [_summed(s, like) if w else None for s, like, w in zip(each[node.op](), (a, b), wanted, strict=True)]


def _relu(_: Node, inputs: Inputs, __: Inputs, by: Array, ___: Sequence[bool]) -> Slopes:
    return [by * (inputs[0] > 0)]


_RULES: Mapping[str, Callable[[Node, Inputs, Inputs, Array, Sequence[bool]], Slopes]] = {
    "Conv": _conv, "MatMul": _matmul, "Gemm": _gemm, "MaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": _means,
    "ReduceMean": _means, "ReduceSum": _means, "Softmax": _softmax, "LayerNormalization": _layer_norm, "BatchNormalization": _batch_norm,
    "Relu": _relu, **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _sums)}
