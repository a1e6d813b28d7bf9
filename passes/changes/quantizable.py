"""Which nodes of a net in reals can be quantized, and which of its tensors are stored as bytes then."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from passes.changes.integer_moves import MOVES
from passes.changes.qdq import ACTIVATIONS

LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
SAME_SCALE = frozenset({*MOVES, "MaxPool", "GlobalMaxPool", "Pad", "Resize"})
"""Operators whose result lies between the smallest and the largest of what they read."""
_FOLLOWERS = frozenset({
    *SAME_SCALE, *ACTIVATIONS, "Add", "Sub", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "Sigmoid", "HardSigmoid", "HardSwish",
    "Tanh", "LeakyRelu", "Elu", "Swish", "Gelu", "Mish", "Softplus", "PRelu", "com.microsoft.QuickGelu"})
"""Operators that are computed from bytes where all they read are bytes."""


@dataclass
class Plan:
    """What is quantized: `nodes`, and `stored`, the values that are bytes. `kept` tells for each layer that stays in reals why."""

    nodes: set[Node] = field(default_factory=set)
    stored: dict[Value, None] = field(default_factory=dict)
    kept: dict[Node, str] = field(default_factory=dict)


def plan(graph: Graph, keep: Collection[str] = ()) -> Plan:
    """All layers with stored weights but those named in `keep`, what lies between them, and what they read."""
    made = Plan()
    moved = set[Value]()                                        # inputs of the model, maybe moved
    bytes_: set[Value] = set()
    for value in graph.inputs:
        if _real(value):
            moved.add(value)
    for node in graph.nodes:
        if node.op in LAYERS:
            reason = "it was asked for" if (node.origin or node.output.name) in keep else _unfit(graph, node)
            if reason is None:
                made.nodes.add(node)
                bytes_.add(node.output)
            else:
                made.kept[node] = reason
        elif node.op == "ConvTranspose":
            made.kept[node] = "no kernel computes a transposed convolution with integers"
        elif node.op in _FOLLOWERS and len(node.outputs) == 1 and _real(node.output):
            reads = varying(graph, node)
            plain = all(v in graph.weights or v is None or v in reads for v in node.inputs) and _constants_fit(graph, node)
            if plain and reads and all(v in bytes_ for v in reads):
                made.nodes.add(node)
                bytes_.add(node.output)
            elif plain and len(reads) == 1 and reads[0] in moved and node.op in MOVES:
                made.nodes.add(node)
                moved.add(node.output)
    _trim(graph, made)
    for node in graph.nodes:
        if node in made.nodes and not is_joined(graph, made, node):
            made.stored.update(dict.fromkeys(v for v in varying(graph, node) if not is_inner(graph, made, v)))
    return made


def activation(graph: Graph, node: Node) -> Node | None:
    """The Relu or Clip that alone reads what a node computes."""
    if node.op in SAME_SCALE or node.op == "Concat":
        return None                                             # it does not compute
    readers = graph.consumers.get(node.output, ())
    alone = len(readers) == graph.uses(node.output) == 1 and readers[0].op in ACTIVATIONS and readers[0].inputs[0] is node.output
    return readers[0] if alone and all(v is None or v in graph.weights for v in readers[0].inputs[1:]) else None


def bias_behind(graph: Graph, node: Node) -> Node | None:
    """The Add of a stored vector that alone reads a product."""
    readers = graph.consumers.get(node.output, ()) if node.op == "MatMul" else ()
    if len(readers) != 1 or graph.uses(node.output) != 1 or readers[0].op != "Add":
        return None
    other = next((v for v in readers[0].inputs if v is not node.output), None)
    fits = other is not None and other in graph.weights and graph.weights[other].shape == node.output.dims[-1:]
    return readers[0] if fits else None


def is_inner(graph: Graph, made: Plan, value: Value) -> bool:
    """Whether a value stays inside of a group: what an activation, or the Add of a bias, reads of a quantized node."""
    maker = graph.producer.get(value)
    if maker is None or maker not in made.nodes:
        return False
    behind = bias_behind(graph, maker)
    if behind is not None and behind in made.nodes:
        return True
    before = graph.producer.get(maker.inputs[0]) if maker.op in ACTIVATIONS and maker.inputs[0] is not None else None
    again = maker.op in ACTIVATIONS and before is not None and before in made.nodes and activation(graph, before) is maker
    found = activation(graph, maker)
    return found is not None and found in made.nodes and not again


def is_joined(graph: Graph, made: Plan, node: Node) -> bool:
    """Whether a node is the tail of a group: an activation or the Add of a bias."""
    return any(v is not None and is_inner(graph, made, v) for v in node.inputs)


def _trim(graph: Graph, made: Plan) -> None:
    """Leave in reals what no layer reads in the end: nothing is won there by bytes, and something is lost."""
    wanted = set[Value]()
    for node in reversed(graph.nodes):
        if node.op not in LAYERS and node.output not in wanted:
            made.nodes.discard(node)
        if node in made.nodes:
            wanted.update(varying(graph, node))


def varying(graph: Graph, node: Node) -> list[Value]:
    """The computed reals that a node reads."""
    return [v for v in node.inputs if v is not None and v not in graph.weights and _real(v)]


def _real(value: Value) -> bool:
    return isinstance(value.type, Tensor) and value.type.dtype == "f32" and value.type.is_static and value.type.elements > 0


def _unfit(graph: Graph, node: Node) -> str | None:
    """Why a layer stays in reals, None when it is quantized."""
    x, w, bias = node.input(0), node.input(1), node.input(2)
    weight = graph.weights.get(w) if w is not None else None
    if weight is None:
        return "its right operand is computed"
    if weight.dtype != np.float32 or x is None or not _real(x) or not _real(node.output):
        return "it is not in f32, or its shapes are not known"
    if x in graph.weights or (bias is not None and bias not in graph.weights):
        return "what it reads is not one computed tensor and constants"
    if not np.isfinite(weight).all() or not weight.any():
        return "its weight is zero, or not finite"
    if node.op == "Conv" and weight.ndim > 4:                   # noqa: PLR2004
        return "no kernel computes a convolution of volumes with integers"
    if node.op == "MatMul" and weight.ndim != 2:                # noqa: PLR2004
        return "its right operand is no matrix"
    if node.op == "Gemm" and (set(node.attrs) - {"transB"} or (bias is not None and graph.weights[bias].ndim != 1)):
        return "it is not in canonical form"
    return None


def _constants_fit(graph: Graph, node: Node) -> bool:
    """Whether the reals among the constants of a follower are single numbers, finite ones, or the bias behind a product."""
    numbers = [a for v in node.inputs if v is not None and (a := graph.weights.get(v)) is not None and a.dtype.kind == "f"]
    if node.op == "Add" and any(bias_behind(graph, m) is node for v in node.inputs if v is not None and (m := graph.producer.get(v))):
        return all(np.isfinite(a).all() for a in numbers)
    return node.op == "Resize" or all(a.size == 1 and np.isfinite(a).all() for a in numbers)
