"""One walk over a graph in order of use in which each node may stay, go, or be built anew.

A pass that is written in Python says, for each operator, which `Change`s to try; the walk keeps the books: values that stand
for others, fresh names, bodies, and the names of the interface, which no change can alter.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from edgec.ir.dims import Dim
from edgec.ir.edit import Namer, inline, prune, rename
from edgec.ir.graph import REGIONS, Array, Graph, Node, Value
from edgec.ir.types import Tensor, dtype_name


class Gate(Protocol):
    """Who decides whether a rewrite may happen, and counts those that did."""

    def may(self, name: str) -> bool:
        """Whether one more rewrite of this name is allowed."""

    def did(self, name: str, node: Node) -> None:
        """Take down that it happened."""


Change = Callable[[Node, "Sweep"], Sequence[Value] | None]
"""Looks at a node; None leaves it, values stand for its first outputs. The function's name, with hyphens, names the rewrite."""
Changes = Mapping[str, tuple[Change, ...]]


@cache
def name_of(change: Change) -> str:
    """How `--disable`, traces and tests call a change: drop_identity is `drop-identity`."""
    return change.__name__.strip("_").replace("_", "-")


def sweep(graph: Graph, changes: Changes, gate: Gate) -> Graph:
    """The graph after one walk; new nodes are walked over too. The same object when no change has happened and nothing is dead."""
    return prune(Sweep(graph, changes, gate).run())


class Sweep:
    """A walk under way: what a change may ask, and how it adds nodes and weights."""

    def __init__(self, graph: Graph, changes: Changes, gate: Gate, outer: "Sweep | None" = None) -> None:
        self.graph, self._changes, self._gate, self.outer = graph, changes, gate, outer
        self._nodes: list[Node] = []
        self._made: dict[Value, Node] = {}
        self._weights = dict(graph.weights)
        self._instead: dict[Value, Value] = {}
        self._queue: list[Node] = []
        self._interface = frozenset(graph.outputs)
        self._claimed: set[Value] = set()
        self._popular: set[Value] = set()
        self._changed = False
        self._namer: Namer | None = None

    def constant(self, value: Value | None) -> Array | None:
        """The numbers of a value that is a weight, here or outside of this body; None otherwise."""
        if value is None or value in self._weights:
            return self._weights.get(value) if value is not None else None
        return self.outer.constant(value) if self.outer else None

    def producer(self, value: Value | None) -> Node | None:
        """The node that makes a value by now; None for inputs and weights."""
        if value is None or value in self._made:
            return self._made.get(value) if value is not None else None
        return self.outer.producer(value) if self.outer else None

    def uses(self, value: Value) -> int:
        """How often a value is read, at most; two when that is not known, because this walk made the value or found new readers for it."""
        return max(self.graph.uses(value), 2 * (value in self._popular))

    def name(self, base: str) -> str:
        """A name that no value has yet."""
        if self.outer:
            return self.outer.name(base)
        self._namer = self._namer or Namer(self.graph)
        return self._namer(base)

    def weight(self, base: str, array: Array) -> Value:
        """A new weight with these numbers."""
        value = Value(self.name(base), Tensor(dtype_name(array.dtype), array.shape))
        self._weights[value] = array
        return value

    def integers(self, base: str, numbers: Iterable[int]) -> Value:
        """A new weight i64[n], as shapes, axes and pads are."""
        return self.weight(base, np.array(list(numbers), np.int64))

    def scalar(self, base: str, number: float, dtype: "np.dtype[Any]") -> Value:
        """A new weight without axes."""
        return self.weight(base, np.array(number).astype(dtype))

    def node(self, like: Node, op: str, inputs: Sequence[Value | None], shape: Sequence[Dim | None] | None, *,
             dtype: str | None = None, **attrs: Any) -> Value:
        """The result of a new node, which has the origin of `like` and the dtype of its first input when none is given."""
        first = next((v for v in inputs if v is not None), None)
        kind = dtype or (first.tensor.dtype if first is not None else like.output.tensor.dtype)
        out = Value(self.name(f"{like.output.name}.{op.rpartition('.')[2].lower()}"), Tensor(kind, None if shape is None else tuple(shape)))
        self._queue.append(Node(op, tuple(inputs), (out,), MappingProxyType(attrs), like.device, like.origin))
        return out

    def remake(self, like: Node, op: str | None = None, inputs: Sequence[Value | None] | None = None,
               attrs: Mapping[str, Any] | None = None, outputs: Sequence[Value] | None = None) -> tuple[Value, ...]:
        """A node that makes the outputs of `like`, or the first of them, in another way."""
        made = replace(like, op=op or like.op, inputs=like.inputs if inputs is None else tuple(inputs),
                       outputs=like.outputs if outputs is None else tuple(outputs),
                       attrs=like.attrs if attrs is None else MappingProxyType(dict(attrs)))
        self._queue.append(made)
        return made.outputs

    def splice(self, body: Graph, arguments: Sequence[Value], like: Node) -> tuple[Value, ...]:
        """The results of a body whose nodes are copied to this place."""
        nodes, weights, outputs = inline(body, arguments, f"{like.output.name}/")
        fresh = {v: Value(self.name(v.name), v.type) for v in (*weights, *(o for n in nodes for o in n.outputs))}
        part = rename(Graph("", (), outputs, nodes, weights), fresh)
        self._weights.update(part.weights)
        self._queue.extend(part.nodes)
        return part.outputs

    def may_forward(self, result: Value, source: Value) -> bool:
        """Whether `source` can stand for `result`: a result of the graph needs a node that makes it under its own name."""
        if result not in self._interface:
            return True
        if source not in self._made or source in self._interface or source in self._claimed:
            return False
        self._claimed.add(source)
        return True

    def now(self, value: Value) -> Value:
        """What stands for a value by now."""
        root = value
        while root in self._instead:
            root = self._instead[root]
        if root is not value:
            self._instead[value] = root  # so that no chain is followed twice
        return self.outer.now(root) if self.outer else root

    def run(self) -> Graph:
        """Walk, and give the graph that stands there now."""
        for node in self.graph.nodes:
            self._visit(node)
        final, renamed = dict[Value, Value](), dict[Value, Value]()
        for old in dict.fromkeys(self.graph.outputs):
            new = final[old] = self.now(old)
            if new is old:
                continue
            self._changed = True
            if self.outer and new in self._made:
                continue  # results of a body go by their position
            if new in self._made and new not in self._interface and new not in renamed and not self.outer:
                renamed[new] = old
            else:
                like = self.graph.producer[old]
                self._nodes.append(Node("Identity", (new,), (old,), device=like.device, origin=like.origin))
                final[old] = old
        if not self._changed:
            return self.graph
        outputs = tuple(final[v] for v in self.graph.outputs)
        return rename(replace(self.graph, nodes=tuple(self._nodes), weights=self._weights, outputs=outputs), renamed)

    def _visit(self, first: Node) -> None:
        waiting = [first]
        while waiting:
            node = self._current(waiting.pop())
            if self._change(node):
                waiting += reversed(self._queue)
                self._queue = []
            else:
                self._nodes.append(node)
                self._made.update(dict.fromkeys(node.outputs, node))

    def _change(self, node: Node) -> bool:
        """Try the changes of the node's operator, then those of every operator; whether one happened."""
        for change in (*self._changes.get(node.op, ()), *self._changes.get("*", ())):
            name = name_of(change)
            if not self._gate.may(name):
                continue
            results = change(node, self)
            if results is None:
                self._queue = []
                continue
            self._gate.did(name, node)
            self._changed = True
            self._instead.update({old: new for old, new in zip(node.outputs, results, strict=False) if new is not old})
            self._popular.update(results, (v for n in self._queue for v in (*n.inputs, *n.outputs) if v is not None))
            return True
        return False

    def _current(self, node: Node) -> Node:
        """The node as it reads now, its bodies walked over."""
        inputs = tuple(v and self.now(v) for v in node.inputs)
        bodies: dict[str, Graph] = {}
        if node.op not in REGIONS:  # the inside of a region belongs to the pass that formed it
            bodies = {k: new for k, body in node.bodies if (new := self._body(body)) is not body}
        if inputs == node.inputs and not bodies:
            return node
        self._changed = True
        return replace(node, inputs=inputs, attrs=MappingProxyType({**node.attrs, **bodies}) if bodies else node.attrs)

    def _body(self, body: Graph) -> Graph:
        return Sweep(body, self._changes, self._gate, self).run()
