"""horizontal: convolutions that read the same tensor become one (horizontal fusion), where that is predicted to be faster.

Heads of detectors are such: a few channels each, which fill a vector only together. What follows each of them alike (activations and
depthwise convolutions) follows the one, and slices of its result are what the others made. Each sum is over the same products as before.
Where the channels do not fill the last vector, channels of zeros may, which cost less than narrower vectors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import prod
from typing import Any

import numpy as np

from edgec.ir.edit import Namer, attributes, origins, prune, splice
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor, dtype_bits
from edgec.isa import cpu_isa, devices
from edgec.kernels.expr import ELEMENTWISE
from edgec.machine import Target
from edgec.pipeline import Context
from passes.changes.costs import Costs

NAME = "merge-convolutions"
_GAIN = 0.9             # the share of the time that the merged ones may be expected to take: less is no reason to change anything
_IMAGE = 4              # axes of an image
_MOST = 16              # convolutions that are merged: heads have a handful


@dataclass(frozen=True)
class _Tower:
    """A convolution and what follows it alone, as far as that could follow several at once."""

    nodes: tuple[Node, ...]

    @property
    def channels(self) -> int:
        return self.nodes[0].output.dims[1]


def run(graph: Graph, context: Context) -> Graph:
    """The graph with merged convolutions; without a target nothing is known of times, and nothing changes."""
    if context.target is None:
        return graph
    return _Horizontal(graph, context, context.target).run()


class _Horizontal:
    def __init__(self, graph: Graph, context: Context, target: Target) -> None:
        self.graph, self.context, self.name = graph, context, Namer(graph)
        self.costs, self.others = Costs(graph, cpu_isa(target)), devices(target)
        self.weights: dict[Value, Array] = {}

    def run(self) -> Graph:
        instead, place = dict[Node, tuple[Node, ...]](), {n: i for i, n in enumerate(self.graph.nodes)}
        for towers in self._siblings():
            chosen, spare = self._best(towers)
            if chosen and self.context.may(NAME):
                made, first = self._merged(chosen, spare), min(chosen, key=lambda t: place[t.nodes[0]]).nodes[0]
                instead |= {n: () for t in chosen for n in t.nodes}
                instead[first] = made
                self.context.did(NAME, made[0])
        return prune(splice(self.graph, instead, self.weights)) if instead else self.graph

    def _siblings(self) -> Iterator[list[_Tower]]:
        """Convolutions that could be one, narrow ones first, each with what follows all of them alike."""
        groups: dict[Any, list[_Tower]] = {}
        for node in self.graph.nodes:
            if self._merges(node) and node.attrs.get("group", 1) == 1:
                weight = node.inputs[1]
                key = (node.inputs[0], node.device, weight and weight.tensor.dtype, node.output.tensor.dtype, _window(node))
                groups.setdefault(key, []).append(_Tower(tuple(self._tower(node))))
        for found in groups.values():
            if len(found) > 1:
                yield sorted(found, key=lambda t: t.channels)[:_MOST]

    def _merges(self, node: Node) -> bool:
        """Whether a node is a convolution of an image of known size with weights of its own, on the core whose times are known."""
        if node.op != "Conv" or node.device in self.others or not _static(node.output) or not _static(node.inputs[0]):
            return False
        if len(node.output.dims) != _IMAGE:
            return False
        return all(v is None or (v in self.graph.weights and self.graph.uses(v) == 1) for v in node.inputs[1:])

    def _tower(self, node: Node) -> Iterator[Node]:
        yield node
        while (reader := self._only_reader(node)) is not None and (self._alone(reader, node) or self._depthwise(reader)):
            yield reader
            node = reader

    def _only_reader(self, node: Node) -> Node | None:
        readers = self.graph.consumers.get(node.output, ())
        return readers[0] if len(readers) == 1 and self.graph.uses(node.output) == 1 and readers[0].device == node.device else None

    def _alone(self, reader: Node, node: Node) -> bool:
        """Whether each element of a result depends on one element of the convolution, and on nothing that has channels."""
        others = [v for v in reader.inputs[1:] if v is not None]
        if reader.inputs[0] is not node.output or not _static(reader.output) or any(v not in self.graph.weights for v in others):
            return False
        return (ELEMENTWISE.get(reader.op) == 1 or reader.op == "Clip") and all(prod(v.dims) == 1 for v in others)

    def _depthwise(self, node: Node) -> bool:
        weight = node.input(1)
        return self._merges(node) and weight is not None and node.attrs.get("group", 1) == weight.dims[0] == node.output.dims[1] \
            and weight.dims[1] == 1

    def _best(self, towers: Sequence[_Tower]) -> tuple[list[_Tower], int]:
        """The narrowest towers, as many as save most, with what follows all of them, and channels to spare; none where nothing is saved."""
        best, gain, isa = (list[_Tower](), 0), 0.0, self.costs.isa
        for count in range(2, len(towers) + 1):
            some = _alike(towers[:count])
            before = self.costs.of([n for t in some for n in t.nodes if n.op == "Conv"])
            fill = -sum(t.channels for t in some) % isa.lanes if isa.fact("optimize") != "size" else 0
            for spare in sorted({0, fill}):
                after = self._cycles(some, spare)
                if after <= _GAIN * before and before - after > gain:
                    best, gain = (some, spare), before - after
        return best

    def _cycles(self, towers: Sequence[_Tower], spare: int) -> float:
        """What towers take as one, with a copy of what the slices hold."""
        made, isa = self._nodes(towers, spare, str)[0], self.costs.isa
        moved = sum(2 * prod(t.nodes[-1].output.dims) * dtype_bits(t.nodes[-1].output.tensor.dtype) // 8 for t in towers)
        return self.costs.of([n for n in made if n.op == "Conv"]) + moved / (isa.l2_bytes_per_cycle or isa.dram_bytes_per_cycle)

    def _merged(self, towers: Sequence[_Tower], spare: int) -> tuple[Node, ...]:
        """The nodes that stand for towers; each tower's last value is a slice."""
        made, weights = self._nodes(towers, spare, self.name)
        self.weights |= weights
        whole, start, slices = made[-1].output, 0, list[Node]()
        for tower in towers:
            last = tower.nodes[-1]
            ranges = [(0, d) for d in whole.dims]
            ranges[1] = (start, start + tower.channels)
            start += tower.channels
            numbers = {"starts": [a for a, _ in ranges], "ends": [b for _, b in ranges], "axes": range(_IMAGE), "steps": [1] * _IMAGE}
            operands = [self._weight(f"{last.output.name}.{part}", np.array(n, np.int64)) for part, n in numbers.items()]
            slices.append(Node("Slice", (whole, *operands), (last.output,), attributes(), last.device, last.origin))
        return (*made, *slices)

    def _weight(self, name: str, array: Array) -> Value:
        value = Value(self.name(name), Tensor("i64", array.shape))
        self.weights[value] = array
        return value

    def _nodes(self, towers: Sequence[_Tower], spare: int, name: Any) -> tuple[list[Node], dict[Value, Array]]:
        """The merged nodes without slices, and the weights of their convolutions: zeros for `spare` channels that nobody reads."""
        made, weights, value = list[Node](), dict[Value, Array](), towers[0].nodes[0].inputs[0]
        for level in zip(*(t.nodes for t in towers), strict=True):
            first, dims = level[0], list(level[0].output.dims)
            dims[1] = sum(n.output.dims[1] for n in level) + spare
            out = Value(name(f"{first.output.name}.merged"), Tensor(first.output.tensor.dtype, tuple(dims)))
            operands, attrs = first.inputs[1:], first.attrs
            if first.op == "Conv":
                parts = {"weight": [self._numbers(n, 1) for n in level]}
                if any(n.input(2) is not None for n in level):
                    parts["bias"] = [self._numbers(n, 2) for n in level]
                shapes = {k: (dims[1], *p[0].shape[1:]) for k, p in parts.items()}
                operands = tuple(Value(name(f"{out.name}.{k}"), Tensor(_dtype(level), shape)) for k, shape in shapes.items())
                weights |= {v: np.concatenate([*p, np.zeros((spare, *p[0].shape[1:]), p[0].dtype)])
                            for v, p in zip(operands, parts.values(), strict=True) if v is not None}
                attrs = attributes(**{**attrs, "group": dims[1] if attrs.get("group", 1) > 1 or made else 1})
            made.append(Node(first.op, (value, *operands), (out,), attrs, first.device, origins(level)))
            value = out
        return made, weights

    def _numbers(self, node: Node, operand: int) -> Array:
        value, weight = node.input(operand), node.inputs[1]
        if value is not None:
            return self.graph.weights[value]
        return np.zeros(node.output.dims[1], self.graph.weights[weight].dtype if weight is not None else np.float32)


def _dtype(level: Sequence[Node]) -> str:
    weight = level[0].inputs[1]
    return "f32" if weight is None else weight.tensor.dtype


def _alike(towers: Sequence[_Tower]) -> list[_Tower]:
    """Towers as far as they are alike in all but channels and weights."""
    levels = zip(*(t.nodes for t in towers), strict=False)
    count = sum(1 for _ in takewhile(lambda level: len({_kind(n) for n in level}) == 1, levels))
    return [replace(t, nodes=t.nodes[:count]) for t in towers]


def _kind(node: Node) -> Any:
    """What two nodes of different towers share where one node can stand for both."""
    if node.op == "Conv":
        return node.op, _window(node), node.output.tensor.dtype, node.inputs[1] and node.inputs[1].tensor.dtype
    return node.op, node.output.tensor.dtype, repr(sorted(node.attrs.items())), node.inputs[1:]


def _window(node: Node) -> Any:
    return tuple((k, tuple(v)) for k, v in sorted(node.attrs.items()) if k in ("kernel_shape", "strides", "pads", "dilations"))


def _static(value: Value | None) -> bool:
    return value is not None and isinstance(value.type, Tensor) and value.type.is_static
