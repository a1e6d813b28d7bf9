"""Quantized operators in a graph: an operator between DequantizeLinear and QuantizeLinear, which integers can compute.

    DequantizeLinear → Conv (its weight and its bias behind a DequantizeLinear of their own) → Relu or Clip → QuantizeLinear

is one `Group`. `groups` finds all of them: `partition` gives a group to one unit, `integers` computes it without reals, and writers for
accelerators take scales and zero points from it. After `separate` no node belongs to two groups.
"""

from dataclasses import dataclass, replace

import numpy as np

from edgec.ir.edit import Namer
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Quant

ACTIVATIONS = frozenset({"Relu", "Clip"})
"""What a group may do to the result of its operator: both are bounds for integers."""
_LINEAR = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, eq=False)
class Quantized:
    """Integers that stand for reals: real = (integer - zero) * scale, per tensor (`axis` None) or along an axis.

    `stored` are the integers, `real` the reals, `node` makes one of the other, `array` holds the integers when they are a weight.
    `scale` is f32 and `zero` has the dtype of the integers; both have no axes, or one.
    """

    stored: Value
    real: Value
    node: Node
    scale: Array
    zero: Array
    axis: int | None = None
    array: Array | None = None

    @property
    def dtype(self) -> str:
        """The dtype of the integers."""
        return self.stored.tensor.dtype

    @property
    def quant(self) -> Quant:
        """Scale and zero point as a type carries them."""
        return Quant(tuple(map(float, self.scale.reshape(-1))), tuple(map(int, self.zero.reshape(-1))), self.axis)

    def like(self, other: "Quantized") -> bool:
        """Whether the same integer stands for the same real in both."""
        same = (self.dtype, self.axis) == (other.dtype, other.axis)
        return same and np.array_equal(self.scale, other.scale) and np.array_equal(self.zero, other.zero)


@dataclass(frozen=True, eq=False)
class Group:
    """One operator in quantized form.

    `inputs` go with those of `anchor`: None where it reads a constant that is not quantized (a shape, a bias in f32) or nothing.
    `bias` is what an Add behind a MatMul adds. `outputs` go with those of the anchor. `nodes` are all of them in the order of the graph:
    DequantizeLinear, the anchor, the Add, the activation, QuantizeLinear.
    """

    anchor: Node
    inputs: tuple[Quantized | None, ...]
    outputs: tuple[Quantized, ...]
    nodes: tuple[Node, ...]
    bias: Quantized | None = None
    activation: Node | None = None

    @property
    def reads(self) -> tuple[Value, ...]:
        """The integers that are computed elsewhere, each once."""
        return tuple(dict.fromkeys(q.stored for q in self.inputs if q is not None and q.array is None))

    @property
    def makes(self) -> tuple[Value, ...]:
        """The integers that it makes."""
        return tuple(q.stored for q in self.outputs)


def groups(graph: Graph) -> tuple[Group, ...]:
    """The quantized operators of a graph in the order of their last node; bodies are not looked into.

    What stays out: an operator that reads a computed real, or whose result is read as a real by anybody, and scales that are computed
    or belong to blocks. A DequantizeLinear with several readers belongs to the group of each: see `separate`.
    """
    place = {n: i for i, n in enumerate(graph.nodes)}
    found = [_group(graph, node, place) for node in graph.nodes if node.op == "QuantizeLinear"]
    return tuple({group.anchor: group for group in found if group is not None}.values())


def quantized(graph: Graph, node: Node | None) -> Quantized | None:
    """What a QuantizeLinear or DequantizeLinear with constant scales means; None for any other node."""
    if node is None or node.op not in _LINEAR or node.attrs.get("block_size", 0):
        return None
    source, scale, zero = node.inputs[0], _constant(graph, node.input(1)), _constant(graph, node.input(2))
    if source is None or scale is None or (zero is None and node.input(2) is not None) or scale.dtype != np.float32:
        return None
    stored, real = (node.output, source) if node.op == "QuantizeLinear" else (source, node.output)
    if zero is None:
        zero = np.zeros(scale.shape, _DTYPES.get(stored.tensor.dtype, np.int32))
    if scale.size == 1:
        return Quantized(stored, real, node, scale.reshape(()), zero.reshape(()), None, graph.weights.get(stored))
    axis, rank = int(node.attrs.get("axis", 1)), stored.tensor.rank
    if axis < 0 and rank is None:
        return None
    return Quantized(stored, real, node, scale, zero, axis + (rank or 0) * (axis < 0), graph.weights.get(stored))


def separate(graph: Graph) -> Graph:
    """The graph in which each reader of a DequantizeLinear has one of its own, so that no two groups share a node.

    Bodies that capture its result keep reading the first.
    """
    name = Namer(graph)
    copies, own = dict[Node, list[Node]](), dict[tuple[Node, Value], Value]()
    for node in graph.nodes:
        if node.op != "DequantizeLinear":
            continue
        readers = [r for r in dict.fromkeys(graph.consumers.get(node.output, ())) if node.output in r.inputs]
        kept = node.output in graph.outputs or len(readers) < len(set(graph.consumers.get(node.output, ())))
        for reader in readers[0 if kept else 1:]:
            again = replace(node, outputs=(Value(name(node.output.name), node.output.type),))
            copies.setdefault(node, []).append(again)
            own[reader, node.output] = again.output
    if not own:
        return graph
    changed = {reader for reader, _ in own}
    nodes = list[Node]()
    for n in graph.nodes:
        made = replace(n, inputs=tuple(v and own.get((n, v), v) for v in n.inputs)) if n in changed else n
        nodes += [made, *copies.get(n, ())]
    return replace(graph, nodes=tuple(nodes))


def _group(graph: Graph, last: Node, place: dict[Node, int]) -> Group | None:
    """The group that ends in a QuantizeLinear."""
    node, behind, activation = _maker(graph, last), list[Node](), None
    if node is not None and node.op in ACTIVATIONS and (before := _maker(graph, node)) is not None and before.op != "DequantizeLinear":
        node, activation = before, node
        behind.append(activation)
    bias = _bias(graph, node)
    if node is not None and bias is not None:
        behind.append(node)
        node = _matmul(graph, node)
    if node is None or node.op in _LINEAR or next(node.bodies, None) is not None:
        return None
    inputs = tuple(None if v is None else _dequantized(graph, v) for v in node.inputs)
    if any(q is None and v is not None and v not in graph.weights for v, q in zip(node.inputs, inputs, strict=True)):
        return None
    outputs = (quantized(graph, last),) if behind else tuple(_result(graph, v) for v in node.outputs)
    known = tuple(q for q in outputs if q is not None)
    if len(known) != len(outputs) or all(q is None or q.array is not None for q in inputs):
        return None
    if behind and len(node.outputs) > 1:
        return None
    before_anchor = [q.node for q in (*inputs, bias) if q is not None]
    nodes = dict.fromkeys((*before_anchor, node, *behind, *(q.node for q in known)))
    return Group(node, inputs, known, tuple(sorted(nodes, key=place.__getitem__)), bias, activation)


def _maker(graph: Graph, node: Node) -> Node | None:
    """What makes the first input of a node for this node alone; what else it reads is constant."""
    first, *rest = node.inputs
    if first is None or graph.uses(first) != 1 or any(v is not None and v not in graph.weights for v in rest):
        return None
    return graph.producer.get(first)


def _result(graph: Graph, value: Value) -> Quantized | None:
    """The integers of a result that a QuantizeLinear alone reads."""
    readers = graph.consumers.get(value, ())
    return quantized(graph, readers[0]) if len(readers) == 1 == graph.uses(value) and readers[0].op == "QuantizeLinear" else None


def _dequantized(graph: Graph, value: Value) -> Quantized | None:
    node = graph.producer.get(value)
    return quantized(graph, node) if node is not None and node.op == "DequantizeLinear" else None


def _matmul(graph: Graph, add: Node) -> Node | None:
    """The product among the operands of an Add that nobody else reads."""
    makers = [graph.producer.get(v) for v in add.inputs if v is not None and graph.uses(v) == 1]
    return next((m for m in makers if m is not None and m.op == "MatMul"), None)


def _bias(graph: Graph, node: Node | None) -> Quantized | None:
    """What an Add behind a product adds, when these are stored integers."""
    if node is None or node.op != "Add":
        return None
    product = _matmul(graph, node)
    found = [_dequantized(graph, v) for v in node.inputs if v is not None and product is not None and v not in product.outputs]
    return next((q for q in found if q is not None and q.array is not None and q.dtype == "i32"), None)


def _constant(graph: Graph, value: Value | None) -> Array | None:
    return graph.weights.get(value) if value is not None else None


_DTYPES: dict[str, type[np.generic]] = {"i8": np.int8, "u8": np.uint8, "i16": np.int16, "u16": np.uint16, "i32": np.int32}
__all__ = ["ACTIVATIONS", "Group", "Quantized", "groups", "quantized", "separate"]
