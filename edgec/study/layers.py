"""Layers of a net, each as a graph of its own, and a walk that meets them with what they read and make for all samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value, captured
from edgec.ir.types import Tensor

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_REAL = ("f16", "f32", "f64")


@dataclass(frozen=True)
class Layer:
    """A node with a stored weight: `alone` is its graph with one input, one output, an f32 weight; `stored` the same as it is stored."""

    node: Node
    weight: Array
    alone: Graph
    stored: Graph

    @property
    def name(self) -> str:
        """What passes and messages call it."""
        return self.node.origin or self.node.output.name


def layers(graph: Graph) -> dict[Node, "Layer | str"]:
    """The nodes that multiply by weights, each as a layer, or why it cannot be studied."""
    return {n: _layer(graph, n) for n in graph.nodes if n.op in OPERATORS}


def _layer(graph: Graph, node: Node) -> Layer | str:
    x, w = node.input(0), node.input(1)
    if x is None or w is None:
        return "it is not complete"
    cast, source = graph.producer.get(w), w
    if w not in graph.weights:
        if cast is None or cast.inputs[0] is None or cast.inputs[0] not in graph.weights:
            return "its right operand is computed"
        if cast.op != "Cast":
            return f"its weight is stored through {cast.op}"
        source = cast.inputs[0]
    kept = graph.weights[source]
    weight = kept if source is w else kept.astype(np.float32)
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype}, not float32"
    if x in graph.weights:
        return "its input is known"
    if any(v is not None and v not in graph.weights for v in node.inputs[2:]):
        return "its bias is computed"
    constants = {v: graph.weights[v] for v in node.inputs[2:] if v is not None}
    alone = Graph(node.output.name, (x,), (node.output,), (node,), {w: weight, **constants})
    if source is w or cast is None:
        return Layer(node, weight, alone, alone)
    return Layer(node, weight, alone, replace(alone, nodes=(cast, node), weights={source: kept, **constants}))


class Walk:
    """The values of a net for all samples, as far as they are still read, while its nodes are computed one after the other."""

    def __init__(self, graph: Graph, samples: Sequence[Mapping[str, Any]]) -> None:
        self.graph, self._real = graph, real_outputs(graph)
        self.known = [{**graph.weights} | {v: f[v.name] for v in graph.inputs} for f in samples]
        last = {v: i for i, n in enumerate(graph.nodes) for v in (*n.inputs, *(c for _, b in n.bodies for c in captured(b))) if v}
        self._dies: dict[int, list[Value]] = {}
        for v, i in last.items():
            if v not in graph.outputs:
                self._dies.setdefault(i, []).append(v)
        self._at = 0

    def __iter__(self) -> Iterator[Node]:
        """Each node, when its inputs and its results are known for all samples."""
        for i, node in enumerate(self.graph.nodes):
            self._at = i
            for values in self.known:
                values.update(_results(node, values))
            yield node
            for values in self.known:
                for v in self._dies.get(i, ()):
                    values.pop(v, None)

    def outputs(self, sample: int, instead: Array | None = None) -> list[Array]:
        """The real results of the net for a sample, if the node that has just been computed had made `instead`."""
        values = dict(self.known[sample])
        if instead is not None:
            values[self.graph.nodes[self._at].output] = instead
        for i in range(self._at + 1, len(self.graph.nodes)):
            node = self.graph.nodes[i]
            values.update(_results(node, values))
            for v in self._dies.get(i, ()):
                values.pop(v, None)
        return [np.asarray(values[v]) for v in self._real]


def _results(node: Node, values: Mapping[Value, Any]) -> dict[Value, Any]:
    made = evaluate_node(node, [None if v is None else values[v] for v in node.inputs], values)
    return dict(zip(node.outputs, made, strict=False))


def real_outputs(graph: Graph) -> list[Value]:
    """The outputs of a net that are real numbers."""
    return [v for v in graph.outputs if isinstance(v.type, Tensor) and v.type.dtype in _REAL]
