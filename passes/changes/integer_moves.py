"""Quantized operators that move bytes, choose among them, or look each of them up."""

from functools import partial, reduce
from math import prod
from typing import Any

import numpy as np

from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor
from passes.changes.integer import BYTES, limits
from passes.changes.integer_draft import Draft, table
from passes.changes.qdq import Group, Quantized

MOVES = frozenset({
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Tile", "Transpose",
    "Unsqueeze"})
"""Operators whose result holds what they read, wherever it goes."""
TABLES = frozenset({
    "Abs", "Add", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Mul", "Neg",
    "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Swish", "Tanh", "ThresholdedRelu", "PRelu",
    "Max", "Min", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "com.microsoft.Gelu", "com.microsoft.QuickGelu"})
"""Operators that become a table when all they read is one tensor of bytes, and single numbers."""


def moved(draft: Draft, group: Group) -> bool:
    """Moves of bytes, the largest of some bytes, the nearest pixel; where scales differ, the moved bytes get the new one."""
    x, y, node = group.inputs[0], group.outputs[0], group.anchor
    if x is None or not _bytes(x, y) or (node.op == "MaxPool" and len(node.outputs) > 1) or (group.activation and not x.like(y)):
        return False
    if node.op == "Resize" and (node.attrs.get("mode", "nearest") != "nearest" or _crops(node)):
        return False
    others = list(node.inputs[1:])
    if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
        given = node.input(2)
        fill = draft.graph.weights.get(given) if given is not None else np.zeros(())
        if fill is None:
            return False
        others = [others[0], draft.weight("fill", _integers(fill.reshape(()), x)), *others[2:]]
    bounds = limits(draft.graph, group.activation, y)
    if x.like(y) and bounds is None:
        draft.into(y.stored, node.op, (x.stored, *others), **node.attrs)
        return True
    bytes_ = draft.node(node.op, (x.stored, *others), x.dtype, node.output.dims, **node.attrs)
    if bounds is None:
        draft.requantize(bytes_, x, y)
    else:
        _bounded(draft, bytes_, y, bounds)
    return True


def joined(draft: Draft, group: Group) -> bool:
    """Concat: what has another scale than the result gets that of the result first."""
    y = group.outputs[0]
    if any(q is None or not _bytes(q, y) for q in group.inputs) or group.activation is not None:
        return False
    parts = list[Value]()
    for q in group.inputs:
        if q is None or q.like(y):
            parts += [] if q is None else [q.stored]
            continue
        part = Value(draft.name(f"{q.stored.name}.requantized"), Tensor(y.dtype, q.stored.dims))
        draft.requantize(q.stored, q, Quantized(part, y.real, y.node, y.scale, y.zero))
        parts.append(part)
    draft.into(y.stored, "Concat", parts, **group.anchor.attrs)
    return True


def bounded(draft: Draft, group: Group) -> bool:
    """Relu and Clip between equal scales are bounds of the bytes."""
    x, y = group.inputs[0], group.outputs[0]
    if x is None or not _bytes(x, y) or not x.like(y):
        return False
    found = limits(draft.graph, group.anchor, y)
    if found is None:
        draft.into(y.stored, "Identity", (x.stored,))
    else:
        _bounded(draft, x.stored, y, found)
    return True


def _bounded(draft: Draft, x: Value, y: Quantized, bounds: tuple[int, int]) -> None:
    ends = [draft.weight(n, np.array(b, y.zero.dtype)) for n, b in zip(("low", "high"), bounds, strict=True)]
    draft.into(y.stored, "Clip", (x, *ends))


def looked_up(draft: Draft, group: Group) -> bool:
    """A function of one tensor of bytes: a table of its 256 results."""
    y, node = group.outputs[0], group.anchor
    varying = [i for i, q in enumerate(group.inputs) if q is not None and q.array is None]
    if len(varying) != 1 or len(node.outputs) > 1 or (x := group.inputs[varying[0]]) is None or not _bytes(x, y):
        return False
    constants = [_number(draft.graph, v, q) for v, q in zip(node.inputs, group.inputs, strict=True)]
    if any(c is None and v is not None and i not in varying for i, (v, c) in enumerate(zip(node.inputs, constants, strict=True))):
        return False
    if prod(node.output.dims) != prod(x.stored.dims):
        return False
    steps = [partial(_function, node, varying[0], constants)]
    if group.activation is not None:
        bounds = [_number(draft.graph, v, None) for v in group.activation.inputs[1:]]
        steps.append(partial(_function, group.activation, 0, [None, *bounds]))
    entries = table(x, y, lambda reals: reduce(lambda a, step: step(a), steps, reals))
    draft.into(y.stored, "edgec.Lookup", (x.stored, draft.weight("table", entries)))
    return True


def _function(node: Node, position: int, constants: list[Array | None], reals: Array) -> Array:
    inputs: list[Any] = [c if i != position else reals for i, c in enumerate(constants)]
    return np.asarray(evaluate_node(node, inputs)[0], np.float64)


def _number(graph: Graph, value: Value | None, q: Quantized | None) -> Array | None:
    """A constant operand that is one number, in float64."""
    if value is None or (q is not None and q.array is None):
        return None
    array = graph.weights.get(value) if q is None else (q.array if q.array is not None else np.zeros(0)).astype(np.float64) - q.zero
    if array is None or array.size != 1:
        return None
    return np.asarray(array.reshape(()) * (1.0 if q is None else q.scale.reshape(-1)[0]), np.float64)


def _integers(reals: Array, q: Quantized) -> Array:
    kind = np.iinfo(q.zero.dtype)
    rounded = np.rint(np.asarray(reals, np.float64) / np.float64(q.scale)) + float(q.zero)
    return np.asarray(np.clip(rounded, kind.min, kind.max)).astype(q.zero.dtype)


def _bytes(*several: Quantized) -> bool:
    return all(q.axis is None and q.dtype in BYTES and q.stored.tensor.is_static for q in several)


def _crops(node: Node) -> bool:
    return node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
