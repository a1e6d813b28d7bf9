"""A quantized graph as ONNX Runtime computes it with integers: each convolution between two borders as one QLinearConv.

It is no form that edgec works on. ONNX Runtime computes some quantized convolutions in f32, such as those in front of a Clip; this
makes it compute all of them with integers, so that its results are a reference for edgec's, bit for bit.
"""

from typing import Any

import numpy as np

from edgec.ir.edit import Namer, prune, splice
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor, dtype_name
from passes.changes.integer import limits
from passes.changes.qdq import Group, groups


def qlinear(graph: Graph) -> Graph:
    """The graph with QLinearConv; the bounds of an activation become a Clip of bytes. The same object when there is nothing to do."""
    instead, weights, name = dict[Node, tuple[Node, ...]](), dict[Value, Array](), Namer(graph)

    def weight(number: Any) -> Value:
        array = np.asarray(number)
        value = Value(name("number"), Tensor(dtype_name(array.dtype), array.shape))
        weights[value] = array
        return value

    for group in groups(graph):
        operands = _operands(group)
        if operands is None:
            continue
        y, bounds = group.outputs[0], limits(graph, group.activation, group.outputs[0])
        made = y.stored if bounds is None else Value(name("unbounded"), y.stored.type)
        given = [v if isinstance(v, Value) else weight(v) for v in operands]
        nodes = [Node("QLinearConv", tuple(given), (made,), group.anchor.attrs, origin=group.anchor.origin)]
        if bounds is not None:
            ends = (weight(np.array(b, y.zero.dtype)) for b in bounds)
            nodes.append(Node("Clip", (made, *ends), (y.stored,), origin=group.anchor.origin))
        instead[y.node] = tuple(nodes)
    return prune(splice(graph, instead, weights)) if instead else graph


def _operands(group: Group) -> list[Value | Array] | None:
    """What a QLinearConv reads; None when the group is no convolution that it can be."""
    if group.anchor.op != "Conv" or group.inputs[0] is None or group.inputs[1] is None:
        return None
    x, w, y = group.inputs[0], group.inputs[1], group.outputs[0]
    bias = group.inputs[2] if len(group.inputs) > 2 else None                # noqa: PLR2004  a bias
    if {x.axis, y.axis} != {None} or w.axis not in (None, 0) or (bias is None and group.anchor.input(2) is not None):
        return None
    return [x.stored, x.scale, x.zero, w.stored, w.scale, w.zero, y.scale, y.zero, *([bias.stored] if bias is not None else [])]
