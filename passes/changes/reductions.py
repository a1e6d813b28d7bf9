"""Norms and rarer reductions, taken apart into sums, means and elementwise arithmetic; sums of many operands into sums of two."""

from collections.abc import Sequence
from math import prod

from edgec.ir.graph import Node, Value
from edgec.ir.proto import CODES
from edgec.ir.sweep import Changes, Sweep
from passes.changes.facts import Draft, axes, dims, positive


def _static(node: Node) -> list[Value] | None:
    """The operands when all are there and all shapes, that of the result included, are numbers."""
    operands = [v for v in node.inputs if v is not None]
    return operands if len(operands) == len(node.inputs) and all(dims(v) is not None for v in (*operands, node.output)) else None


def _normalized(draft: Draft, value: Value, along: Sequence[int], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over some axes, in f32 at least.

    The variance is the mean square of what is left when the mean is gone.
    """
    narrow = value.tensor.dtype in ("f16", "bf16")
    x = _cast(draft, value, "f32") if narrow else value
    centered = draft("Sub", x, draft.reduce("ReduceMean", x, along))
    variance = draft.reduce("ReduceMean", draft("Mul", centered, centered), along)
    made = draft("Div", centered, draft("Sqrt", draft("Add", variance, draft.number(epsilon, x))))
    return _cast(draft, made, value.tensor.dtype) if narrow else made


def _cast(draft: Draft, value: Value, dtype: str) -> Value:
    return draft.edit.node(draft.like, "Cast", (value,), value.dims, dtype=dtype, to=CODES[dtype])


def instance_norm(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """InstanceNormalization: each channel of each image by itself, then a scale and a bias for each channel."""
    operands = _static(node)
    if operands is None:
        return None
    (x, scale, bias), draft = operands, Draft(edit, node)
    column = (*scale.dims, *[1] * (len(x.dims) - 2))
    made = _normalized(draft, x, range(2, len(x.dims)), node.attrs.get("epsilon", 1e-5))
    return [draft("Add", draft("Mul", made, draft.reshape(scale, column)), draft.reshape(bias, column))]


def group_norm(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """GroupNormalization: each group of channels of each image by itself, then a scale and a bias for each channel."""
    operands = _static(node)
    if operands is None:
        return None
    (x, scale, bias), draft, groups = operands, Draft(edit, node), node.attrs["num_groups"]
    n, c, *rest = x.dims
    column = (c, *[1] * len(rest))
    if scale.dims != (c,):
        return None
    made = _normalized(draft, draft.reshape(x, (n, groups, c // groups * prod(rest))), (2,), node.attrs.get("epsilon", 1e-5))
    made = draft.reshape(made, x.dims)
    return [draft("Add", draft("Mul", made, draft.reshape(scale, column)), draft.reshape(bias, column))]


def mean_variance_norm(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """MeanVarianceNormalization adds its epsilon to the standard deviation, not to the variance."""
    operands = _static(node)
    if operands is None:
        return None
    (x,), draft = operands, Draft(edit, node)
    along = [positive(a, len(x.dims)) for a in node.attrs.get("axes", (0, 2, 3))]
    centered = draft("Sub", x, draft.reduce("ReduceMean", x, along))
    deviation = draft("Sqrt", draft.reduce("ReduceMean", draft("Mul", centered, centered), along))
    return [draft("Div", centered, draft("Add", deviation, draft.number(1e-9, x)))]


def local_response_norm(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """LRN: the mean square of neighboring channels is an average pool along the channels."""
    operands = _static(node)
    if operands is None:
        return None
    (x,), draft, size = operands, Draft(edit, node), node.attrs["size"]
    n, c, *rest = x.dims
    squares = draft.reshape(draft("Mul", x, x), (n, 1, c, prod(rest)))
    before = (size - 1) // 2
    pool = edit.node(node, "AveragePool", (squares,), squares.dims, kernel_shape=[size, 1], strides=[1, 1], dilations=[1, 1],
                     pads=[before, 0, size - 1 - before, 0], count_include_pad=1)
    near = draft("Mul", draft.reshape(pool, x.dims), draft.number(node.attrs.get("alpha", 1e-4), x))
    base = draft("Add", near, draft.number(node.attrs.get("bias", 1.0), x))
    return [draft("Div", x, draft("Pow", base, draft.number(node.attrs.get("beta", 0.75), x)))]


def sum_of(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Reductions that are a sum of something, or something of a sum."""
    x = node.inputs[0]
    along = axes(edit, node, len(known)) if (known := dims(x)) is not None else None
    if x is None or not along or dims(node.output) is None:
        return None
    draft, keep = Draft(edit, node), bool(node.attrs.get("keepdims", 1))
    after = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(node.op)
    operand = draft("Abs", x) if node.op == "ReduceL1" else x if node.op == "ReduceLogSum" else draft("Mul", x, x)
    total = draft.reduce("ReduceSum", operand, along, keep=keep)
    return [draft(after, total) if after else total]


def of_no_axes(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A reduction over no axes is what it does to each element."""
    x = node.inputs[0]
    if x is None or (known := dims(x)) is None or axes(edit, node, len(known)) != [] or dims(node.output) is None or 0 in known:
        return None
    draft = Draft(edit, node)
    if node.op == "ReduceSumSquare":
        return [draft("Mul", x, x)]
    return [draft({"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log"}.get(node.op, "Identity"), x)]


def log_of_sum_of_exponents(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """ReduceLogSumExp: the largest is taken out first, so that no exponent overflows; kept finite, so that infinities come out right."""
    x = node.inputs[0]
    along = axes(edit, node, len(known)) if (known := dims(x)) is not None else None
    result = dims(node.output)
    if x is None or not along or result is None or x.tensor.dtype not in _LARGEST:
        return None
    draft, far = Draft(edit, node), _LARGEST[x.tensor.dtype]
    top = draft("Min", draft("Max", draft.reduce("ReduceMax", x, along), draft.number(-far, x)), draft.number(far, x))
    total = draft.reduce("ReduceSum", draft("Exp", draft("Sub", x, top)), along)
    return [draft.reshape(draft("Add", draft("Log", total), top), result)]


def unit_length(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """LpNormalization divides by the length along one axis; a vector of zeros stays as it is."""
    operands = _static(node)
    if operands is None:
        return None
    (x,), draft = operands, Draft(edit, node)
    axis = [positive(node.attrs.get("axis", -1), len(x.dims))]
    one = node.attrs.get("p", 2) == 1
    total = draft.reduce("ReduceSum", draft("Abs", x) if one else draft("Mul", x, x), axis)
    length = total if one else draft("Sqrt", total)
    empty = edit.node(node, "Equal", (length, draft.number(0, x)), length.dims, dtype="bool")
    safe = edit.node(node, "Where", (empty, draft.number(1, x), length), length.dims, dtype=x.tensor.dtype)
    return [draft("Div", x, safe)]


def two_at_a_time(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Sum, Mean, Max and Min of many operands are chains of binary operators."""
    operands, op = _static(node), {"Sum": "Add", "Mean": "Add"}.get(node.op, node.op)
    if operands is None or (len(operands) <= 2 and op == node.op):  # noqa: PLR2004  two operands: binary already
        return None
    draft, total = Draft(edit, node), operands[0]
    for other in operands[1:]:
        total = draft(op, total, other)
    return [draft("Div", total, draft.number(len(operands), total)) if node.op == "Mean" else total]


_LARGEST = {"f16": 65504.0, "bf16": float.fromhex("0x1.FEp127"), "f32": float.fromhex("0x1.FFFFFEp127"),
            "f64": float.fromhex("0x1.FFFFFFFFFFFFFp1023")}
_PLAIN = ("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin")
_SUMS = ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
CHANGES: Changes = {
    "InstanceNormalization": (instance_norm,), "GroupNormalization": (group_norm,), "MeanVarianceNormalization": (mean_variance_norm,),
    "LRN": (local_response_norm,), "LpNormalization": (unit_length,), "ReduceLogSumExp": (of_no_axes, log_of_sum_of_exponents),
    **dict.fromkeys(_SUMS, (of_no_axes, sum_of)), **dict.fromkeys(_PLAIN, (of_no_axes,)),
    **dict.fromkeys(("Sum", "Mean", "Max", "Min"), (two_at_a_time,)),
}
