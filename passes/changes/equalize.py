"""Cross-layer equalization: channels that differ much in range are brought closer, which no net notices before it is quantized.

A channel that one layer makes may be divided by any s > 0 if the next layer's weights for it are multiplied by s: between them stands
nothing, or what keeps factors, as a Relu does. One scale for all channels of the tensor between them then suits each of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgec.ir.edit import Namer
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor

IMBALANCE = 8.0
"""How many times the median of the ranges the largest must be before anything changes: what is balanced is left alone."""
_KEEP = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Pad", "Identity"})
_MOST = 1e4


@dataclass(frozen=True)
class Pair:
    """A layer, the one that alone reads what it makes, and the tensor that the second reads."""

    first: Node
    second: Node
    between: Value


def pairs(graph: Graph) -> list[Pair]:
    """The pairs of layers between which channels may be scaled."""
    made = list[Pair]()
    for node in graph.nodes:
        if node.op != "Conv" or not _own_weights(graph, node):
            continue
        value = node.output
        while (reader := _only_reader(graph, value)) is not None and reader.op in _KEEP and _constant_is_zero(graph, reader):
            value = reader.output
        if reader is not None and reader.op == "Conv" and reader.inputs[0] is value and _own_weights(graph, reader):
            groups = reader.attrs.get("group", 1)
            if groups == 1 or groups == value.dims[1] == reader.output.dims[1]:
                made.append(Pair(node, reader, value))
    return made


def equalized(graph: Graph, found: list[Pair], ranges: Mapping[Value, Array]) -> tuple[Graph, list[Pair]]:
    """The graph with equalized weights, and the pairs that were imbalanced. `ranges`: the largest absolute value of each channel."""
    weights, changed, name = dict(graph.weights), list[Pair](), Namer(graph)
    fresh = dict[Value, Value]()
    for pair in found:
        w, b, v = pair.first.inputs[1], pair.first.input(2), pair.second.inputs[1]
        reach = ranges[pair.between]
        if w is None or v is None or not _imbalanced(reach):
            continue
        next_ = weights[fresh.get(v, v)]
        depthwise = pair.second.attrs.get("group", 1) != 1
        other = np.abs(next_).max(tuple(a for a in range(next_.ndim) if a != (0 if depthwise else 1)))
        factor = _factors(reach, other)
        first = weights[fresh.get(w, w)]
        column = (-1, *[1] * (first.ndim - 1))
        new = {w: first / factor.reshape(column), v: next_ * factor.reshape(column if depthwise else (1, *column[:-1]))}
        if b is not None:
            new[b] = weights[fresh.get(b, b)] / factor
        for value, array in new.items():
            at = fresh.setdefault(value, Value(name(f"{value.name}.equal"), value.type))
            weights[at] = array.astype(np.float32)
        changed.append(pair)
    if not changed:
        return graph, []
    nodes = tuple(Node(n.op, tuple(v and fresh.get(v, v) for v in n.inputs), n.outputs, n.attrs, n.device, n.origin) for n in graph.nodes)
    return Graph(graph.name, graph.inputs, graph.outputs, nodes, weights, graph.bounds), changed


def _imbalanced(reach: Array) -> bool:
    alive = reach[reach > 0]
    return alive.size > 1 and bool(alive.max() > IMBALANCE * np.median(alive))


def _factors(reach: Array, other: Array) -> Array:
    """What each channel is divided by: the ranges on both sides meet in the middle; a dead channel stays."""
    alive = (reach > 0) & (other > 0)
    factor = np.sqrt(np.divide(reach, other, out=np.ones_like(reach, np.float64), where=alive))
    middle = np.exp(np.log(factor[alive]).mean()) if alive.any() else 1.0
    return np.where(alive, np.clip(factor / middle, 1 / _MOST, _MOST), 1.0)


def _only_reader(graph: Graph, value: Value) -> Node | None:
    readers = graph.consumers.get(value, ())
    return readers[0] if len(readers) == 1 == graph.uses(value) else None


def _own_weights(graph: Graph, node: Node) -> bool:
    given = [v for v in node.inputs[1:] if v is not None]
    return isinstance(node.output.type, Tensor) and node.output.type.is_static and all(
        v in graph.weights and graph.uses(v) == 1 and graph.weights[v].dtype == np.float32 for v in given)


def _constant_is_zero(graph: Graph, node: Node) -> bool:
    value = node.input(2) if node.op == "Pad" else None
    return node.attrs.get("mode", "constant") == "constant" and (value is None or not graph.weights.get(value, np.ones(1)).any())
