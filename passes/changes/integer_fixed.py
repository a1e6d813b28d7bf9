"""Sums and products of two quantized tensors, and softmax, on units without reals: fixed-point numbers in 32 bits."""

from math import ceil, floor, log2

import numpy as np

from edgec.ir.graph import Value
from passes.changes.integer import BYTES, limits
from passes.changes.integer_draft import Draft, fixed_point
from passes.changes.qdq import Group, Quantized

_BITS = 16              # behind the point of a summand, where there is room
_WIDE = 30              # bits that a number may have
_SPAN = 255
_EXPONENTS = 22         # bits of the largest exponential


def summed(draft: Draft, group: Group) -> bool:
    """Add and Sub: each operand in units of the result, with bits behind the point; the sum is rounded once."""
    y, operands = group.outputs[0], [q for q in group.inputs if q is not None]
    if draft.fpu or not _fits(group, operands, 2):
        return False
    ratios = [np.float64(q.scale) / np.float64(y.scale) for q in operands]
    bits = min(_BITS, floor(_WIDE - 1 - log2(_SPAN * max(ratios))))
    if bits < 0:
        return False
    parts = list[Value]()
    for i, (q, ratio) in enumerate(zip(operands, ratios, strict=True)):
        multiplier, shift = fixed_point(np.array(ratio * 2.0**bits))
        if group.anchor.op == "Sub" and i:
            multiplier = -multiplier
        centered = _centered(draft, q)
        parts.append(draft.node("edgec.MultiplyShift", (centered, draft.weight("multiplier", multiplier), draft.weight("shift", shift)),
                                "i32", centered.dims))
    total = draft.node("Add", parts, "i32", group.anchor.output.dims)
    draft.requantized(total, np.array(2.0**-bits), y, limits(draft.graph, group.activation, y))
    return True


def multiplied(draft: Draft, group: Group) -> bool:
    """Mul: a product of integers, scaled once."""
    y, operands = group.outputs[0], [q for q in group.inputs if q is not None]
    if draft.fpu or not _fits(group, operands, 2):
        return False
    product = draft.node("Mul", [_centered(draft, q) for q in operands], "i32", group.anchor.output.dims)
    scale = np.float64(operands[0].scale) * np.float64(operands[1].scale) / np.float64(y.scale)
    draft.requantized(product, np.array(scale), y, limits(draft.graph, group.activation, y))
    return True


def softmax(draft: Draft, group: Group) -> bool:
    """Softmax: exponentials of the distances from the largest come from a table, and are divided by their sum."""
    node, y = group.anchor, group.outputs[0]
    x = group.inputs[0]
    if draft.fpu or x is None or not _fits(group, [x], 1) or group.activation is not None:
        return False
    dims = node.output.dims
    axis = int(node.attrs.get("axis", -1)) % len(dims)
    bits = min(_EXPONENTS, _WIDE - max(ceil(log2(dims[axis])), ceil(log2(1 / float(y.scale)))))
    if bits < _BITS // 2:
        return False
    few = tuple(1 if i == axis else d for i, d in enumerate(dims))
    axes = draft.weight("axes", np.array([axis], np.int64))
    whole = draft.node("Cast", (x.stored,), "i32", dims, to=6)
    distance = draft.node("Sub", (draft.node("ReduceMax", (whole, axes), "i32", few, keepdims=1), whole), "i32", dims)
    entries = np.rint(np.exp(-np.arange(_SPAN + 1) * np.float64(x.scale)) * 2.0**bits).astype(np.int32)
    power = draft.node("Gather", (draft.weight("exponentials", entries), distance), "i32", dims, axis=0)
    total = draft.node("ReduceSum", (power, axes), "i32", few, keepdims=1)
    multiplier, shift = fixed_point(np.array(1 / np.float64(y.scale)))
    scaled = draft.node("edgec.MultiplyShift", (power, draft.weight("multiplier", multiplier), draft.weight("shift", shift)), "i32", dims)
    half = draft.map("Div", total, np.array(2, np.int32))
    share = draft.node("Div", (draft.node("Add", (scaled, half), "i32", dims), total), "i32", dims)
    draft.stored(share, y, None)
    return True


def _fits(group: Group, operands: list[Quantized], count: int) -> bool:
    y = group.outputs[0]
    known = len(operands) == count == len(group.anchor.inputs) and all(q.axis is None and q.dtype in BYTES for q in (*operands, y))
    return known and all(q.stored.tensor.is_static for q in operands)


def _centered(draft: Draft, q: Quantized) -> Value:
    """The integers of an operand less their zero point."""
    return draft.map("Sub", draft.node("Cast", (q.stored,), "i32", q.stored.dims, to=6), np.array(int(q.zero), np.int32))
