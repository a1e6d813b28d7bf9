"""Quantized convolutions, products and average pools as sums of integers.

    clamp(round((sum((x - xz) * w) + b) * m) + yz)          m = xs * ws / ys

`x - xz` beyond the edge is zero, so padding is exact. The sum, a 32-bit bias and everything behind it are one kernel after `cluster`.
"""

from math import prod
from typing import Any

import numpy as np

from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.ir.windows import taps
from passes.changes.integer_draft import Draft, factor
from passes.changes.qdq import Group, Quantized, quantized

BYTES = ("i8", "u8")
_DRIFT = 1e-3           # a bias whose scale is off by less has the scale that belongs to it, as runtimes take it to have
_LARGEST = 2.0**31 - 1


def contraction(draft: Draft, group: Group) -> bool:
    """Conv, Gemm and MatMul with stored weights; whether it was one that integers can do."""
    x, w, y = group.inputs[0], group.inputs[1], group.outputs[0]
    sums = _sums(draft, group.anchor, x, w, group.inputs[2] if len(group.inputs) > 2 else group.bias)    # noqa: PLR2004  a bias
    if isinstance(sums, str) or x is None or w is None or y.axis is not None or y.dtype not in BYTES:
        return False
    bounds = limits(draft.graph, group.activation, y)
    draft.requantized(sums, _along(factor(x, w, y), group.anchor), y, bounds)
    return True


def loose(draft: Draft, node: Node) -> str | None:
    """A Conv, Gemm or MatMul of quantized operands whose result is wanted as a real; why it stays, None when it does not."""
    x, w, b = (quantized(draft.graph, _maker(draft.graph, node.input(i))) for i in range(3))
    sums = _sums(draft, node, x, w, b)
    if isinstance(sums, str) or x is None or w is None:
        return str(sums)
    real, plain = draft.node("Cast", (sums,), "f32", sums.dims, to=1), _along(factor(x, w, None), node)
    draft.into(node.output, "Mul", (real, draft.weight("scale", plain)))
    return None


def average(draft: Draft, group: Group) -> bool:
    """Average pools, and means over all pixels."""
    node, x, y = group.anchor, group.inputs[0], group.outputs[0]
    if x is None or x.axis is not None or y.axis is not None or {x.dtype, y.dtype} - set(BYTES) or not x.stored.tensor.is_static:
        return False
    attrs: dict[str, Any] = {k: node.attrs[k] for k in ("kernel_shape", "strides", "pads", "dilations", "ceil_mode") if k in node.attrs}
    if node.op != "AveragePool":
        attrs = {"kernel_shape": list(x.stored.dims[2:])}
    elif node.attrs.get("auto_pad", "NOTSET") != "NOTSET" or node.attrs.get("ceil_mode", 0):
        return False
    if node.op == "ReduceMean" and not _over_pixels(draft.graph, node):
        return False
    total = draft.node("edgec.SumPool", (x.stored, draft.weight("zero", x.zero)), "i32", node.output.dims, **attrs)
    scale = np.asarray(np.float64(x.scale) / np.float64(y.scale) / _counts(node, attrs, x.stored.dims), np.float32)
    draft.requantized(total, scale, y, limits(draft.graph, group.activation, y))
    return True


def limits(graph: Graph, activation: Node | None, y: Quantized) -> tuple[int, int] | None:
    """The smallest and the largest integer that a Relu or Clip leaves, None when it leaves all."""
    kind, zero, scale = np.iinfo(y.zero.dtype), int(y.zero), np.float64(y.scale)
    if activation is None:
        return None
    ends = [graph.weights.get(v) if (v := activation.input(i)) is not None else None for i in (1, 2)]
    if activation.op == "Relu":
        ends = [np.zeros(()), None]
    with np.errstate(over="ignore"):
        low, high = (None if e is None else float(np.rint(np.float64(e.reshape(())) / scale)) + zero for e in ends)
    bounds = [int(min(max(b, kind.min), kind.max)) for b in (kind.min if low is None else low, kind.max if high is None else high)]
    return None if bounds == [kind.min, kind.max] else (bounds[0], bounds[1])


def _sums(draft: Draft, node: Node, x: Quantized | None, w: Quantized | None, bias: Quantized | None) -> Value | str:
    """The sums of a contraction with its bias, in i32, or why there are none."""
    if x is None or x.axis is not None or x.dtype not in BYTES or x.array is not None:
        return "what it reads is not stored as bytes of one scale"
    if w is None or w.array is None or w.dtype != "i8":
        return "its weight is not stored as i8"
    if w.zero.size != 1 and w.zero.any():
        return "the zeros of its weight differ between channels"
    if not x.stored.tensor.is_static or not isinstance(node.output.type, Tensor) or not node.output.type.is_static:
        return "its shapes are not known"
    axis, turned = _channel(node, w)
    if w.axis is not None and w.axis != axis:
        return "the scales of its weight do not belong to its results"
    factors, auto = [node.attrs.get(k, 1) for k in ("alpha", "beta")], node.attrs.get("auto_pad", "NOTSET")
    if factors != [1, 1] or node.attrs.get("transA", 0) or auto != "NOTSET":
        return "it is not in canonical form"
    added = _bias(draft, node, x, w, bias)
    if isinstance(added, str):
        return added
    stored = draft.weight("weight", np.ascontiguousarray(w.array.T)) if turned else w.stored
    zero = draft.weight("zero", x.zero)
    op, attrs = ("ConvInteger", dict(node.attrs)) if node.op == "Conv" else ("MatMulInteger", {})
    sums = draft.node(op, (x.stored, stored, zero), "i32", node.output.dims, **attrs)
    if w.zero.any():
        share = _shared(draft, node, x, stored, zero)
        if share is None:
            return "its channels are in groups, and the zero of its weight is not 0"
        sums = draft.node("Sub", (sums, draft.map("Mul", share, w.zero.astype(np.int32).reshape(()))), "i32", sums.dims)
    return sums if added is None else draft.map("Add", sums, added)


def _shared(draft: Draft, node: Node, x: Quantized, stored: Value, zero: Value) -> Value | None:
    """What one more in each weight would add to the sums: sum((x - xz) * (w - wz)) = sum((x - xz) * w) - wz * sum(x - xz)."""
    *rest, last = node.output.dims
    if node.op != "Conv":
        ones = draft.weight("ones", np.ones((stored.dims[0], 1), np.int8))
        return draft.node("MatMulInteger", (x.stored, ones, zero), "i32", (*rest, 1))
    groups, channels = node.attrs.get("group", 1), x.stored.dims[1]
    if groups == channels == stored.dims[0]:
        window = {k: node.attrs[k] for k in ("kernel_shape", "strides", "pads", "dilations") if k in node.attrs}
        return draft.node("edgec.SumPool", (x.stored, zero), "i32", node.output.dims, **{"kernel_shape": list(stored.dims[2:]), **window})
    if groups != 1:
        return None
    ones = draft.weight("ones", np.ones((1, *stored.dims[1:]), np.int8))
    return draft.node("ConvInteger", (x.stored, ones, zero), "i32", (rest[0], 1, *rest[2:], last), **node.attrs)


def _channel(node: Node, w: Quantized) -> tuple[int, bool]:
    """The axis of a weight that its scales belong to, and whether the weight has to be turned round."""
    if node.op == "Conv":
        return 0, False
    turned = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
    return (0 if turned else len(w.stored.dims) - 1), turned


def _bias(draft: Draft, node: Node, x: Quantized, w: Quantized, bias: Quantized | None) -> Array | str | None:
    """The bias in units of the sums, laid along the channels; None when there is none."""
    scale = np.maximum(np.asarray(x.scale.astype(np.float64) * w.scale), np.finfo(np.float64).tiny)
    value = node.input(2) if node.op in ("Conv", "Gemm") else None
    if bias is not None and bias.array is not None:
        near = np.all(np.abs(bias.scale / scale - 1) <= _DRIFT)
        whole = (bias.array.astype(np.float64) - bias.zero) * (1.0 if near else bias.scale / scale)
    elif value is None:
        return None
    else:
        plain = draft.graph.weights.get(value)
        if plain is None:
            return "its bias is computed"
        whole = plain.astype(np.float64) / (scale if scale.ndim == 0 or plain.shape == scale.shape else scale.reshape(-1))
    whole = np.rint(whole)
    if whole.size not in (1, node.output.dims[1 if node.op == "Conv" else -1]):
        return "its bias is no vector of its channels"
    if not (np.abs(whole) <= _LARGEST).all():
        return "its bias does not fit into 32 bits"
    return _along(whole.astype(np.int32), node)


def _along(array: Array, node: Node) -> Array:
    """Numbers of output channels in a shape that broadcasts over the result."""
    if array.size == 1:
        return array.reshape(())
    return array.reshape(-1, *[1] * (len(node.output.dims) - 2)) if node.op == "Conv" else array.reshape(-1)


def _maker(graph: Graph, value: Value | None) -> Node | None:
    node = graph.producer.get(value) if value is not None else None
    return node if node is not None and node.op == "DequantizeLinear" else None


def _over_pixels(graph: Graph, node: Node) -> bool:
    x, axes = node.inputs[0], node.input(1)
    chosen = graph.weights.get(axes) if axes is not None else None
    count = len(x.dims) if x is not None else 0
    return bool(node.attrs.get("keepdims", 1)) and chosen is not None and sorted(int(a) % count for a in chosen) == list(range(2, count))


def _counts(node: Node, attrs: dict[str, Any], dims: tuple[int, ...]) -> Array:
    """How many elements each window averages over."""
    size, pads = prod(attrs["kernel_shape"]), attrs.get("pads", ())
    if node.op != "AveragePool" or not any(pads) or node.attrs.get("count_include_pad", 0):
        return np.array(float(size))
    view, _ = taps(np.ones((1, 1, *dims[2:])), attrs["kernel_shape"], attrs, 0)
    return np.asarray(view.sum(tuple(range(view.ndim - len(attrs["kernel_shape"]), view.ndim))))


__all__ = ["BYTES", "average", "contraction", "limits", "loose"]
