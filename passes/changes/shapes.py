"""Nodes that are about shapes: known ones become constants, and whatever only renames axes becomes a Reshape."""

from collections.abc import Sequence
from math import prod

import numpy as np

from edgec.ir.graph import Node, Value
from edgec.ir.proto import CODES
from edgec.ir.sweep import Changes, Sweep
from passes.changes.facts import Draft, broadcast, dims, dtype, ints, positive, rank, shape


def constant_shape(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Shape whose answer is known is a weight."""
    known = shape(node.inputs[0])
    if known is None:
        return None
    asked = known[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
    numbers = [d for d in asked if isinstance(d, int)]
    return [edit.integers(node.output.name, numbers)] if len(numbers) == len(asked) else None


def constant_size(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Size whose answer is known is a weight."""
    known = dims(node.inputs[0])
    return None if known is None else [edit.weight(node.output.name, np.array(prod(known), np.int64))]


def as_reshape(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Flatten, Squeeze, Unsqueeze and Reshape are one thing: a Reshape to a constant shape, of which one extent may be open."""
    source, to = node.inputs[0], shape(node.output)
    if source is None or to is None:
        return None
    if to == shape(source) and None not in to and edit.may_forward(node.output, source):
        return [source]
    target = [d if isinstance(d, int) else -1 for d in to]
    if target.count(-1) > 1 or (-1 in target and 0 in target):
        return None
    if node.op == "Reshape" and ints(edit, node.inputs[1]) == target and bool(node.attrs.get("allowzero")) == (0 in target):
        return None
    shape_now = edit.integers(f"{node.output.name}.shape", target)
    return edit.remake(node, "Reshape", (source, shape_now), {"allowzero": 1} if 0 in target else {})


def reshape_of_reshape(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Of two reshapes in a row the second alone decides, when its shape holds no copied extent."""
    first, target = edit.producer(node.inputs[0]), ints(edit, node.inputs[1])
    if first is None or first.op != "Reshape" or target is None or (0 in target and not node.attrs.get("allowzero")):
        return None
    return edit.remake(node, inputs=(first.inputs[0], node.inputs[1]))


def transpose_as_reshape(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Transpose has an explicit order; one that moves only axes of extent one moves nothing in memory."""
    source, count = node.inputs[0], rank(node.inputs[0])
    if source is None or count is None:
        return None
    perm = list(node.attrs.get("perm") or range(count)[::-1])
    if perm == list(range(count)):
        return [source] if edit.may_forward(node.output, source) else None
    known = dims(source)
    if known is not None and (moved := [p for p in perm if known[p] != 1]) == sorted(moved) and 0 not in known:
        return edit.remake(node, "Reshape", (source, edit.integers(f"{node.output.name}.shape", [known[p] for p in perm])), {})
    return edit.remake(node, attrs={"perm": perm}) if list(node.attrs.get("perm", ())) != perm else None


def positive_axis(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """The attribute `axis` counts from the front, and is there."""
    counted = node.output if node.op in ("Concat", "OneHot") else node.inputs[0]
    count = rank(counted)
    default = _AXIS.get(node.op)
    if count is None or (default is None and "axis" not in node.attrs):
        return None
    axis = node.attrs.get("axis", default)
    right = positive(axis, count)
    return None if node.attrs.get("axis") == right else edit.remake(node, attrs={**node.attrs, "axis": right})


def positive_axes(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """The axes of a reduction are there, sorted, and count from the front."""
    count, given = rank(node.inputs[0]), ints(edit, node.input(1))
    if count is None or (node.input(1) is not None and given is None) or (not given and node.attrs.get("noop_with_empty_axes", 0)):
        return None
    right = sorted(positive(a, count) for a in given) if given else list(range(count))
    attrs = {"keepdims": node.attrs.get("keepdims", 1)}
    if given == right and dict(node.attrs) == attrs:
        return None
    return edit.remake(node, inputs=(node.inputs[0], node.input(1) if given == right else edit.integers(f"{node.output.name}.axes", right)),
                       attrs=attrs)


def matmul_of_vectors(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A product with a vector is one with a matrix of one row or column."""
    a, b = node.inputs
    left, right, result = dims(a), dims(b), dims(node.output)
    if a is None or b is None or left is None or right is None or result is None or (len(left) > 1 and len(right) > 1):
        return None
    draft = Draft(edit, node)
    a = draft.reshape(a, (1, *left)) if len(left) == 1 else a
    b = draft.reshape(b, (*right, 1)) if len(right) == 1 else b
    return [draft.reshape(draft.matmul(a, b), result)]


def expand_inside(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Elementwise operators broadcast by themselves: an Expand that changes nothing of the result is not needed."""
    result = dims(node.output)
    if result is None:
        return None
    inputs = list(node.inputs)
    for i, value in enumerate(node.inputs):
        maker = edit.producer(value)
        if maker is None or maker.op != "Expand" or dims(maker.inputs[0]) is None:
            continue
        trial = [*inputs[:i], maker.inputs[0], *inputs[i + 1:]]
        shapes = [dims(v) for v in trial if v is not None]
        if broadcast(*(s for s in shapes if s is not None)) == result and None not in shapes:
            inputs = trial
    return None if inputs == list(node.inputs) else edit.remake(node, inputs=inputs)


def cast_like(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """CastLike asks its second operand for nothing but its type."""
    to = dtype(node.inputs[1])
    return edit.remake(node, "Cast", node.inputs[:1], {**node.attrs, "to": CODES[to]}) if to else None


_AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "Concat": None, "Gather": 0, "GatherElements": 0, "ScatterElements": 0, "Split": 0,
         "LayerNormalization": -1, "RMSNormalization": -1, "ArgMax": 0, "ArgMin": 0, "TopK": -1, "OneHot": -1, "LpNormalization": -1}
_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
               "ReduceLogSum", "ReduceLogSumExp")
_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "And", "Or", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual",
                 "LessOrEqual", "Where", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
CHANGES: Changes = {
    "Shape": (constant_shape,), "Size": (constant_size,), "Flatten": (as_reshape,), "Squeeze": (as_reshape,), "Unsqueeze": (as_reshape,),
    "Reshape": (as_reshape, reshape_of_reshape), "Transpose": (transpose_as_reshape,), "MatMul": (matmul_of_vectors,),
    "CastLike": (cast_like,), **dict.fromkeys(_AXIS, (positive_axis,)), **dict.fromkeys(_REDUCTIONS, (positive_axes,)),
    **dict.fromkeys(_BROADCASTING, (expand_inside,)),
}
