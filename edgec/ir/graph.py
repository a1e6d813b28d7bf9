"""The graph: values, the nodes that make them, and nothing else.

A graph never changes: a pass makes a new one, which shares every node that it left alone. Analyses are cached
properties, so they can never be stale.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from edgec.ir.types import Tensor, Type

Array = np.ndarray[Any, Any]
_NONE: Mapping[str, Any] = MappingProxyType({})
_NAMES = 16
REGIONS = frozenset({"edgec.Fused", "edgec.Region"})
"""Operators that mean what their `body` says, a graph that captures nothing: one kernel (Fused), and what runs on a unit of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One value, made once. Its name is for people; two values are the same only if they are one object."""

    name: str
    type: Type | None = None

    def __repr__(self) -> str:
        return f"%{self.name}"

    @property
    def tensor(self) -> Tensor:
        """Its type when it is a tensor; TypeError, naming the value, otherwise."""
        if not isinstance(self.type, Tensor):
            raise TypeError(f"%{self.name} is no tensor of known type")
        return self.type

    @property
    def dims(self) -> tuple[int, ...]:
        """The static shape; ValueError when it is not all numbers."""
        return self.tensor.dims


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation: what it reads, what it makes, on which unit it runs, and the ONNX nodes it came from.

    `op` is the ONNX operator's name; other domains are a prefix: `com.microsoft.Gelu`, `edgec.Fused`.
    `attrs` hold int, float, str, lists of them, numpy arrays, Type, or Graph (bodies).
    """

    op: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    device: str | None = None
    origin: str = ""

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def label(self) -> str:
        """How messages call it: its ONNX name, else its operator and first output."""
        if self.origin:
            return f"{self.op} {shortened(self.origin)!r}"
        return f"{self.op} that makes %{self.outputs[0].name}" if self.outputs else self.op

    def input(self, i: int) -> Value | None:
        """The i-th input, None when absent."""
        return self.inputs[i] if i < len(self.inputs) else None

    @property
    def bodies(self) -> Iterator[tuple[str, "Graph"]]:
        """The graphs among its attributes."""
        return ((k, a) for k, a in self.attrs.items() if isinstance(a, Graph))


def shortened(origin: str) -> str:
    """The names of an origin, or the first and the last of too many: `conv1+relu1+…+fc (74 nodes)`."""
    names = origin.split("+")
    return origin if len(names) <= _NAMES else f"{names[0]}+{names[1]}+…+{names[-1]} ({len(names)} nodes)"


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which each reads only what stands before it. `bounds`: smallest and largest value of each symbol."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    weights: Mapping[Value, Array] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def producer(self) -> Mapping[Value, Node]:
        """The node that makes a value; inputs and weights have none."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def consumers(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read a value, once for each time they read it; bodies that capture it count once."""
        table: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    table.setdefault(value, []).append(node)
            for _, body in node.bodies:
                for value in captured(body):
                    table.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in table.items()}

    @cached_property
    def _output_counts(self) -> Counter[Value]:
        return Counter(self.outputs)

    def uses(self, value: Value) -> int:
        """How often a value is read, by nodes and as a result."""
        return len(self.consumers.get(value, ())) + self._output_counts[value]

    def walk(self) -> Iterator[tuple["Graph", Node]]:
        """Every node with the graph it stands in, bodies after their node."""
        for node in self.nodes:
            yield self, node
            for _, body in node.bodies:
                yield from body.walk()

    def to_onnx(self) -> Any:
        """The graph as an onnx.ModelProto that any ONNX runtime can load."""
        from edgec.onnx import export_model  # noqa: PLC0415  the importer stands above the IR and is only wanted here

        return export_model(self)


def captured(graph: Graph) -> dict[Value, None]:
    """The values of outer graphs that a body reads, in the order of first use."""
    made = {*graph.inputs, *graph.weights, *(v for n in graph.nodes for v in n.outputs)}
    read: dict[Value, None] = {}
    for node in graph.nodes:
        read.update(dict.fromkeys(v for v in node.inputs if v is not None))
        for _, body in node.bodies:
            read.update(captured(body))
    read.update(dict.fromkeys(graph.outputs))
    return {v: None for v in read if v not in made}
