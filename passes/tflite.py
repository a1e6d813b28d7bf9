"""tflite: what lies on an NPU whose compiler reads TFLite becomes TFLite's integer operators, channels last.

A region comes in as quantized operators (DequantizeLinear → operator → QuantizeLinear) and leaves as a region of `tfl` operators, which
round as that unit does. The order of axes changes once, at the borders of the region: a Transpose stands before or behind it where an image
goes in or out. What a unit runs is asked beforehand (`refusal`), so nothing is refused here that partition gives to such a unit.
"""

from collections.abc import Mapping

from edgec.errors import UnsupportedModel
from edgec.ir.edit import Namer, attributes, origins, prune
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.tflite import PREFIX
from edgec.ir.types import Quant, Tensor
from edgec.pipeline import Context
from passes.changes.qdq import Group, groups, quantized
from passes.changes.tflite import IMAGE, PLAIN, Body, Refused
from passes.changes.tflite_operators import MOVES, move, write
from passes.changes.tflite_work import Work

NAME = "write-tflite"
COMPILER = "vela"
_UNKNOWN = Quant((1.0,))


def run(graph: Graph, context: Context) -> Graph:
    """The graph whose regions for NPUs are in TFLite's operators."""
    target = context.target
    if target is None:
        return graph
    name, made, changed = Namer(graph), list[Node](), False
    for node in graph.nodes:
        unit = target.units.get(node.device or "")
        ours = node.op == "edgec.Region" and unit is not None and unit.facts.get("compiler") == COMPILER
        if ours and not is_written(node.attrs["body"]) and context.may(NAME):
            made += _region(node, name)
            context.did(NAME, node)
            changed = True
        else:
            made.append(node)
    return Graph(graph.name, graph.inputs, graph.outputs, tuple(made), graph.weights, graph.bounds) if changed else graph


def is_written(body: Graph) -> bool:
    """Whether a region is in TFLite's operators already."""
    return all(n.op.startswith(PREFIX) for n in body.nodes)


def refusal(group: Group, weights: Mapping[Value, Array]) -> str:
    """Why a quantized operator cannot be written for such an NPU, in words; empty when it can. `weights` are those of its graph."""
    body = Body()
    try:
        write(Work(body, group, weights))
        body.leave(group.outputs[0].stored, group.outputs[0].quant)
    except Refused as why:
        return str(why)
    return ""


def written(body: Graph) -> tuple[Graph, tuple[bool, ...], tuple[bool, ...]]:
    """A body of quantized operators in TFLite's; which inputs and which outputs are images, channels last.

    UnsupportedModel names the operator that cannot be written.
    """
    made, scales = Body(), _scales(body)
    found = {node: group for group in groups(body) for node in group.nodes}
    for node in body.nodes:
        group = found.get(node)
        if group is not None and node is not group.nodes[-1]:
            continue
        told = node if group is None else group.anchor
        made.origin = origins(group.nodes) if group is not None else node.origin
        try:
            if group is not None:
                write(Work(made, group, body.weights))
            else:
                _alone(made, node, body, scales)
        except Refused as why:
            raise UnsupportedModel(f"{told.label} cannot run on an int8 unit: {why}", [told.label]) from why
    left = [made.leave(v, scales.get(v, _UNKNOWN)) for v in body.outputs]
    entered = [made.entries.get(v) or (Value(v.name, v.type), False) for v in body.inputs]
    graph = prune(made.graph(body.name, [v for v, _ in entered], [v for v, _ in left]))
    return graph, tuple(i for _, i in entered), tuple(i for _, i in left)


def _alone(made: Body, node: Node, body: Graph, scales: Mapping[Value, Quant]) -> None:
    """A node that belongs to no group: what moves integers, or what a group repeats."""
    source = node.inputs[0]
    if node.op in MOVES and source is not None and source.tensor.dtype in ("i8", "u8"):
        move(made, node, source, scales.get(source, _UNKNOWN), node.output)
    elif node.op != "DequantizeLinear" or body.uses(node.output):
        raise Refused(f"{node.op} is no quantized operator")


def _scales(body: Graph) -> dict[Value, Quant]:
    """Scales and zero points of integer tensors, known where one is quantized or dequantized, and carried along what moves them."""
    known = {q.stored: q.quant for n in body.nodes if (q := quantized(body, n)) is not None and q.array is None}
    moves = [(n.inputs[0], n.output) for n in body.nodes if n.op in MOVES and n.inputs[0] is not None]
    for pairs in (moves, [(b, a) for a, b in reversed(moves)]):
        for source, result in pairs:
            if source in known:
                known.setdefault(result, known[source])
    return known


def _region(node: Node, name: Namer) -> list[Node]:
    """The region in TFLite's operators, with what changes the order of axes around it."""
    body, enter, leave = written(node.attrs["body"])
    before, behind, inputs, outputs = list[Node](), list[Node](), list[Value | None](), list[Value]()
    for value, image in zip(node.inputs, enter, strict=True):
        if image and value is not None:
            turned = _turned(value, name)
            before.append(Node("Transpose", (value,), (turned,), attributes(perm=list(IMAGE)), None, node.origin))
            inputs.append(turned)
        else:
            inputs.append(value)
    for value, image in zip(node.outputs, leave, strict=True):
        outputs.append(_turned(value, name) if image else value)
        if image:
            behind.append(Node("Transpose", (outputs[-1],), (value,), attributes(perm=list(PLAIN)), None, node.origin))
    kept = {k: v for k, v in node.attrs.items() if k != "body"}
    return [*before, Node(node.op, tuple(inputs), tuple(outputs), attributes(**kept, body=body), node.device, node.origin), *behind]


def _turned(value: Value, name: Namer) -> Value:
    """A value for the same image, channels last."""
    return Value(name(f"{value.name}.nhwc"), Tensor(value.tensor.dtype, tuple(value.dims[i] for i in IMAGE)))
