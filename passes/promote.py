"""Promote: half-precision activations become f32, half-precision weights stay as they are stored.

No CPU unit here multiplies in half precision, so each kernel would widen what it reads and round what it writes, and each rounding would
cost accuracy that no reference has spent. Weights keep their two bytes: a Cast, which kernels do in registers, widens them. The model's
interface keeps its types.
"""

from dataclasses import replace

from edgec.ir.edit import Namer, attributes, prune
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.pipeline import Context

_HALF = frozenset({"f16", "bf16"})
_CODES = {"f32": 1, "f16": 10, "bf16": 16}
_BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def run(graph: Graph, context: Context) -> Graph:
    """The graph without half-precision arithmetic; the same object when there is none, or when it has bodies."""
    made = [v for n in graph.nodes for v in n.outputs if _half(v)]
    if not (made or any(map(_half, graph.inputs))) or any(n.op in _BODIES for n in graph.nodes) or not context.may("promote-half"):
        return graph
    name = Namer(graph)
    returned = set(graph.outputs)
    now = {v: Value(name(f"{v.name}.f32") if v in returned else v.name, _single(v)) for v in made}
    before: list[Node] = []
    for value in (*graph.inputs, *graph.weights):
        if _half(value):
            now[value] = Value(name(f"{value.name}.f32"), _single(value))
            before.append(Node("Cast", (value,), (now[value],), attributes(to=_CODES["f32"]), origin=value.name))
    nodes = [_node(n, now) for n in graph.nodes]
    narrowed = [v for v in dict.fromkeys(graph.outputs) if v in made]
    after = [Node("Cast", (now[v],), (v,), attributes(to=_CODES[v.tensor.dtype]), origin=v.name) for v in narrowed]
    for n in graph.nodes:
        if any(map(_half, n.outputs)):
            context.did("promote-half", n)
    return prune(replace(graph, nodes=(*before, *nodes, *after)))


def _node(node: Node, now: dict[Value, Value]) -> Node:
    inputs = tuple(now.get(v, v) if v is not None else None for v in node.inputs)
    outputs = tuple(now.get(v, v) for v in node.outputs)
    if inputs == node.inputs and outputs == node.outputs:
        return node
    narrows = node.op == "Cast" and node.attrs.get("to") in {_CODES[dtype] for dtype in _HALF}
    attrs = {**node.attrs, "to": _CODES["f32"]} if narrows else node.attrs
    return replace(node, inputs=inputs, outputs=outputs, attrs=attributes(**attrs))


def _half(value: Value) -> bool:
    return isinstance(value.type, Tensor) and value.type.dtype in _HALF


def _single(value: Value) -> Tensor:
    return replace(value.tensor, dtype="f32")
