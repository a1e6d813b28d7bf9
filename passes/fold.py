"""fold: nodes whose operands are all known are computed now. A tensor without elements is always known.

Stored weights never grow: a result that is bigger than the weights it frees stays an operation (Cast of f16 weights, Expand,
ConstantOfShape), unless it is small. How numbers are computed stands in `arithmetic.py`. Among quantized operators, stored integers
stay integers, small ones too: a DequantizeLinear is what says that they are some.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from edgec.ir.edit import Namer, prune, rename
from edgec.ir.graph import REGIONS, Array, Graph, Node, Value, captured
from edgec.ir.infer import infer
from edgec.ir.types import Tensor, dtype_bits, dtype_name, numpy_dtype
from edgec.pipeline import Context
from passes.changes.arithmetic import CannotFold, computable, compute

LARGEST = 1 << 26
"""Bytes of a result that is not even computed."""
SMALL = 256
"""Bytes of a result that may always be stored: scalars, scales, shapes."""
MIDDLE = 4096
"""Bytes of a result that may be stored as long as all of these are at most `SHARE` of the weights."""
SHARE = 1 / 50


def run(graph: Graph, context: Context) -> Graph:
    """The graph with its constant parts computed, in bodies too."""
    learned: list[Value] = []
    made = prune(_Fold(graph, context, {}, Namer(graph), learned).run())
    return infer(made) if learned else made  # a shape that was computed tells more of what reads it


class _Fold:
    """One graph or body.

    `known` holds numbers, `pending` nodes that could be computed, `freed` the bytes that go when a value does; `learned` takes the
    values whose types say more now.
    """

    def __init__(self, graph: Graph, context: Context, outer: Mapping[Value, Array], namer: Namer, learned: list[Value]) -> None:
        self.graph, self.context, self.namer, self.learned = graph, context, namer, learned
        self.known: dict[Value, Array] = {**outer, **_empty(graph.inputs), **graph.weights}
        self.freed = {v: _bytes(a) if graph.uses(v) == 1 else 0 for v, a in graph.weights.items()}
        self.pending: dict[Value, Node] = {}
        self.left = int(sum(_bytes(a) for a in graph.weights.values()) * SHARE)
        self.quantized = any(n.op == "QuantizeLinear" and n.inputs[0] not in graph.weights for n in graph.nodes)

    def run(self) -> Graph:
        nodes = tuple(map(self.bodies, self.graph.nodes))
        for node in nodes:
            self.consider(node)
            self.known.update(_empty(v for v in node.outputs if v not in self.pending))
        if not self.pending:
            return self.graph if nodes == self.graph.nodes else replace(self.graph, nodes=nodes)
        while True:
            kept, stored = self.decide(nodes)
            try:
                weights = {stored[v]: self.value(v) for v in stored}
            except CannotFold as error:
                self.give_up(error.node)
                continue
            if not stored and len(kept) == len(nodes) and nodes == self.graph.nodes:
                return self.graph
            for node in dict.fromkeys(self.pending[v] for v in stored):
                self.context.did("fold", node)
            return self.typed(replace(self.graph, nodes=tuple(reversed(kept)), weights={**self.graph.weights, **weights}), weights)

    def bodies(self, node: Node) -> Node:
        """The node with its bodies folded; weights of this graph are known in there."""
        if node.op in REGIONS:
            return node
        made = {k: new for k, b in node.bodies if (new := _Fold(b, self.context, self.known, self.namer, self.learned).run()) is not b}
        return replace(node, attrs=MappingProxyType({**node.attrs, **made})) if made else node

    def consider(self, node: Node) -> None:
        """Put a node among the pending ones when all that it reads is known or pending, and its kind can be computed."""
        if not computable(node) or not all(v is None or v in self.known or v in self.pending for v in node.inputs):
            return
        if node.op == "Identity" and node.output in self.graph.outputs:
            return  # the name of a result that is a constant
        if node.op == "DequantizeLinear" and self.quantized:
            return
        sizes = [_size(v) for v in node.outputs]
        if any(size is not None and size > LARGEST for size in sizes):
            return
        self.pending.update(dict.fromkeys(node.outputs, node))
        if None in sizes:
            try:
                for v in node.outputs:
                    self.known[v] = self.value(v)
            except CannotFold as error:
                self.give_up(error.node)
                return
        self.freed.update({v: self.credit(node) if self.graph.uses(v) == 1 else 0 for v in node.outputs})

    def give_up(self, node: Node) -> None:
        for v in node.outputs:
            self.pending.pop(v, None)

    def credit(self, node: Node) -> int:
        """The bytes of weights that nobody reads when this node is gone."""
        return sum(self.freed.get(v, 0) for v in {v for v in node.inputs if v is not None})

    def decide(self, nodes: Iterable[Node]) -> tuple[list[Node], dict[Value, Value]]:
        """The nodes that stay, in reverse order, and the values to store with the weights they become.

        It goes from the end, so that nothing is stored that only feeds what is stored. A result of the graph keeps a node that makes it.
        """
        needed, kept, stored, left, count = set(self.graph.outputs), list[Node](), dict[Value, Value](), self.left, 0
        for node in reversed(tuple(nodes)):
            wanted = [v for v in node.outputs if v in needed]
            if node.output in self.pending:
                if not wanted:
                    continue
                size = sum(_bytes(self.known[v]) if v in self.known else _size(v) or 0 for v in wanted)
                growth = size - self.credit(node)
                if self.context.may("fold", count) and (growth <= 0 or size <= SMALL or (size <= MIDDLE and growth <= left)):
                    left -= max(growth, 0) if size > SMALL else 0
                    count += 1
                    stored.update((v, Value(self.namer(f"{v.name}.value"), v.type) if v in self.graph.outputs else v) for v in wanted)
                    named = [v for v in wanted if stored[v] is not v]
                    kept += [Node("Identity", (stored[v],), (v,), device=node.device, origin=node.origin) for v in named]
                    continue
            kept.append(node)
            needed.update(v for v in node.inputs if v is not None)
            for _, body in node.bodies:
                needed.update(captured(body))
        return kept, stored

    def value(self, value: Value) -> Array:
        """The numbers of a value, computed with everything they depend on; CannotFold names a node that will not be computed."""
        waiting = [value]
        while waiting:
            if waiting[-1] in self.known:
                waiting.pop()
                continue
            node = self.pending[waiting[-1]]
            missing = [v for v in node.inputs if v is not None and v not in self.known]
            if any(v not in self.pending for v in missing):
                raise CannotFold(node)  # it reads what was given up
            if missing:
                waiting += missing
                continue
            results = compute(node, [None if v is None else self.known[v] for v in node.inputs])
            self.known.update(zip(node.outputs, results, strict=True))
        return self.known[value]

    def typed(self, graph: Graph, weights: Mapping[Value, Array]) -> Graph:
        """The graph in which the weights that were computed have the types that they turned out to have."""
        fresh = {v: Value(v.name, Tensor(dtype_name(a.dtype), a.shape)) for v, a in weights.items()
                 if not isinstance(v.type, Tensor) or v.type.shape != a.shape}
        self.learned += fresh
        return rename(graph, fresh)


def _empty(values: Iterable[Value]) -> dict[Value, Array]:
    """The numbers of values that have none: they are known without any computation."""
    return {v: np.empty(v.dims, numpy_dtype(v.type.dtype)) for v in values
            if isinstance(v.type, Tensor) and v.type.is_static and not v.type.elements and v.type.dtype != "string"}


def _size(value: Value) -> int | None:
    kind = value.type
    return -(-kind.elements * dtype_bits(kind.dtype) // 8) if isinstance(kind, Tensor) and kind.is_static else None


def _bytes(array: Array) -> int:
    return -(-array.size * dtype_bits(dtype_name(array.dtype)) // 8)
