"""Nodes that change nothing."""

from collections.abc import Sequence

import numpy as np

from edgec.ir.graph import Node, Value
from edgec.ir.sweep import Changes, Sweep
from edgec.ir.types import Tensor
from passes.changes.facts import Draft, dims, dtype, ints, shape


def _forward(node: Node, edit: Sweep, source: Value | None) -> Sequence[Value] | None:
    return [source] if source is not None and edit.may_forward(node.output, source) else None


def drop_identity(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """An Identity is another name."""
    return _forward(node, edit, node.inputs[0])


def drop_dropout(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Dropout that does not train keeps everything; a mask that somebody reads is all true."""
    training, known = edit.constant(node.input(2)), dims(node.inputs[0])
    if (node.input(2) is not None and (training is None or training.any())) or node.inputs[0] is None:
        return None
    if len(node.outputs) > 1 and edit.uses(node.outputs[1]):
        if known is None or not edit.may_forward(node.output, node.inputs[0]):
            return None
        return [node.inputs[0], edit.weight(node.outputs[1].name, np.ones(known, np.bool_))]
    return _forward(node, edit, node.inputs[0])


def drop_same_type(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Cast to the type that a value has."""
    same = dtype(node.inputs[0]) == dtype(node.output) != ""
    return _forward(node, edit, node.inputs[0]) if same else None


def drop_same_shape(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Expand, Tile, Slice and Pad whose result has the shape of what they read.

    A Slice may turn an axis round, though, and a Pad may cut as much as it adds.
    """
    known = shape(node.inputs[0])
    if known is None or known != shape(node.output) or None in known:
        return None
    if node.op == "Slice" and node.input(4) is not None:
        steps = ints(edit, node.input(4))
        if steps is None or min(steps, default=1) < 0:
            return None
    if node.op == "Pad":
        pads = ints(edit, node.input(1))
        if pads is None or any(pads):
            return None
    return _forward(node, edit, node.inputs[0])


def drop_same_size(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Resize to the same size asks each element for itself, unless it crops."""
    known = dims(node.inputs[0])
    same = known is not None and known == dims(node.output) and node.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"
    scales = edit.constant(node.input(2))
    if not same or (node.input(2) is not None and (scales is None or (scales != 1).any())):
        return None
    return _forward(node, edit, node.inputs[0]) or edit.remake(node, "Identity", node.inputs[:1], {})


def drop_single(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """The sum, mean, maximum, minimum or concatenation of one value is that value."""
    return _forward(node, edit, node.inputs[0]) if len(node.inputs) == 1 else None


def drop_empty_parts(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Concat leaves out parts without elements."""
    axis = node.attrs["axis"]
    kept = [v for v in node.inputs if (known := dims(v)) is None or axis < 0 or known[axis] != 0]
    return edit.remake(node, inputs=kept) if 0 < len(kept) < len(node.inputs) else None


def concat_of_concat(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Concat whose operand is a Concat along the same axis, read by nobody else, takes its parts."""
    inputs: list[Value | None] = []
    for value in node.inputs:
        maker = edit.producer(value)
        inner = maker is not None and maker.op == "Concat" and maker.attrs == node.attrs and value is not None and edit.uses(value) == 1
        inputs += maker.inputs if maker is not None and inner else [value]
    return edit.remake(node, inputs=inputs) if len(inputs) > len(node.inputs) else None


def drop_unit_window(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A pool that looks at one element at a time."""
    kernel, result = node.attrs.get("kernel_shape", ()), dims(node.output)
    moves = any(k != 1 for k in kernel) or any(node.attrs.get("pads") or ())
    if moves or result is None or result != dims(node.inputs[0]) or len(node.outputs) > 1:
        return None
    return _forward(node, edit, node.inputs[0])


def drop_unit_reduction(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A sum, mean, product or extreme over axes of extent one only changes the shape, if that."""
    known, result, source = dims(node.inputs[0]), dims(node.output), node.inputs[0]
    if known is None or result is None or source is None or np.prod(known) != np.prod(result) or 0 in known:
        return None
    return _forward(node, edit, source) if known == result else [Draft(edit, node).reshape(source, result)]


def drop_unread_outputs(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Optional results at the end that nobody reads: the mask of a Dropout, the indices of a MaxPool, the statistics of a norm."""
    outputs = list(node.outputs)
    while len(outputs) > 1 and not edit.uses(outputs[-1]):
        outputs.pop()
    return edit.remake(node, outputs=outputs) if len(outputs) < len(node.outputs) else None


def inline_if(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """An If whose condition is known is the branch that it takes."""
    condition = edit.constant(node.inputs[0])
    if condition is None:
        return None
    return edit.splice(node.attrs["then_branch" if condition.reshape(-1)[0] else "else_branch"], (), node)


def cast_behind_move(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A weight that is stored narrow is moved first and widened then: the move is done at build time, and the storage stays narrow."""
    cast = edit.producer(node.inputs[0])
    if cast is None or cast.op != "Cast" or edit.constant(cast.inputs[0]) is None or any(edit.constant(v) is None for v in node.inputs[1:]):
        return None
    if not isinstance(node.output.type, Tensor):
        return None
    moved = edit.node(node, node.op, (cast.inputs[0], *node.inputs[1:]), node.output.type.shape, **node.attrs)
    return edit.remake(node, "Cast", (moved,), cast.attrs)


def cast_behind_gather(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Rows of a table that is stored narrow are looked up first and widened then: only those that are read."""
    cast = edit.producer(node.inputs[0])
    if cast is None or cast.op != "Cast" or edit.constant(cast.inputs[0]) is None or not isinstance(node.output.type, Tensor):
        return None
    rows = edit.node(node, node.op, (cast.inputs[0], *node.inputs[1:]), node.output.type.shape, **node.attrs)
    return edit.remake(node, "Cast", (rows,), cast.attrs)


_OPTIONAL = ("Dropout", "MaxPool", "BatchNormalization", "LayerNormalization", "LSTM", "GRU", "RNN", "Unique", "TopK")
_UNIT = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
CHANGES: Changes = {
    **dict.fromkeys(_OPTIONAL, (drop_unread_outputs,)),
    **dict.fromkeys(_UNIT, (drop_unit_reduction,)),
    "Identity": (drop_identity,), "Dropout": (drop_unread_outputs, drop_dropout), "Cast": (drop_same_type,),
    "Expand": (drop_same_shape,), "Tile": (drop_same_shape,),
    "Slice": (drop_same_shape, cast_behind_move), "Pad": (drop_same_shape,), "Resize": (drop_same_size,), "Sum": (drop_single,),
    "Mean": (drop_single,), "Max": (drop_single,), "Min": (drop_single,), "Concat": (drop_single, drop_empty_parts, concat_of_concat),
    "MaxPool": (drop_unread_outputs, drop_unit_window), "AveragePool": (drop_unit_window,), "GlobalAveragePool": (drop_unit_window,),
    "GlobalMaxPool": (drop_unit_window,), "If": (inline_if,), "Transpose": (cast_behind_move,), "Reshape": (cast_behind_move,),
    "Gather": (cast_behind_gather,),
}
