"""What rules see of a graph, and how it changes under them.

A `Site` keeps who makes and who reads each value up to date at a cost that does not depend on the size of the graph,
and makes one new graph at the end of a sweep.
"""

from collections import Counter
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from edgec.ir.edit import Namer, substitute
from edgec.ir.graph import Array, Graph, Node, Value, captured
from edgec.ir.types import dtype_bits, dtype_name

if TYPE_CHECKING:
    from collections.abc import Callable


class NoMatch(Exception):
    """The rule does not hold here. Its text says why, for those who ask."""


class Const(NDArrayOperatorsMixin):
    """A weight that a pattern has bound. In arithmetic it is its numbers: floats as float64, integers as they are."""

    __array_priority__ = 100
    __hash__ = object.__hash__

    def __init__(self, value: Value | None, array: Array) -> None:
        self.value, self.array = value, array

    @cached_property
    def number(self) -> Array:
        """The numbers that expressions compute with."""
        name = dtype_name(self.array.dtype)
        if name.startswith(("f", "bf")):
            return np.asarray(self.array, np.float64)
        return np.asarray(self.array, np.int64) if dtype_bits(name) < self.array.dtype.itemsize * 8 else self.array

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> Array:
        return np.array(self.number, dtype, copy=copy)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*(i.number if isinstance(i, Const) else i for i in inputs), **kwargs)

    def __getitem__(self, index: Any) -> Any:
        return self.number[index]

    def __len__(self) -> int:
        return len(self.array)


class Absent(Const):
    """An optional operand that is not there: zero in arithmetic, absent as an operand."""

    def __init__(self) -> None:
        super().__init__(None, np.zeros(()))


ABSENT = Absent()
Thing = Any
"""What a name of a rule stands for: a Node, a Value, a Const, ABSENT, a tuple of operands, or an attribute's value."""


def value_of(thing: Thing) -> Value | None:
    """The value that a bound thing is when it is an operand; None for anything else."""
    match thing:
        case Value():
            return thing
        case Node():
            return thing.output
        case Const():
            return thing.value
    return None


class Site:
    """A graph under change. `outer` is the site of the graph whose node holds this one as a body."""

    def __init__(self, graph: Graph, outer: "Site | None" = None) -> None:
        self.graph, self.outer = graph, outer
        self.weights: dict[Value, Array] = dict(graph.weights)
        self.producer: dict[Value, Node] = {}
        self.results = set(graph.outputs)
        self.names: Namer = outer.names if outer is not None else Namer(graph)
        self._reads: Counter[Value] = Counter(graph.outputs)
        self._readers: dict[Value, dict[Node, None]] = {}
        self._captures: dict[Node, tuple[Value, ...]] = {}
        self._instead: dict[Value, Value] = {}
        self._made: dict[Node, tuple[Node, ...]] = {}
        self.changed = False
        self.functions: dict[str, Callable[..., Any]] = {}
        for node in graph.nodes:
            self._enter(node)

    def now(self, value: Value) -> Value:
        """The value that is read in place of this one by now."""
        found = value
        while found in self._instead:
            found = self._instead[found]
        while value is not found:  # chains stay short for whoever comes next
            following = self._instead[value]
            self._instead[value] = found
            value = following
        return found

    def inputs(self, node: Node) -> tuple[Value | None, ...]:
        """What a node reads by now."""
        return tuple(v and self.now(v) for v in node.inputs)

    def maker(self, value: Value) -> Node | None:
        """The node that makes a value, None for inputs, weights and values of outer graphs."""
        return self.producer.get(value)

    def array(self, value: Value) -> Array | None:
        """The numbers of a weight, of an outer graph too; None when the value is no weight."""
        found = self.weights.get(value)
        return self.outer.array(value) if found is None and self.outer is not None else found

    def uses(self, value: Value) -> int:
        """How often a value is read, by nodes, bodies and as a result; a body that captures it counts once for outer graphs."""
        here = self._reads[value]
        if self.outer is None or value in self.producer or value in self.weights:
            return here
        return here + max(self.outer.uses(value) - 1, 0)

    def readers(self, value: Value) -> tuple[Node, ...]:
        """The nodes that read a value by now."""
        return tuple(self._readers.get(value, ()))

    def alive(self, node: Node) -> bool:
        """Whether the node still stands."""
        return node not in self._made

    def replace(self, root: Node, nodes: tuple[Node, ...], weights: dict[Value, Array]) -> None:
        """Put nodes, in order, where one stood; the last makes its first output, its other outputs are read by nobody."""
        self.weights.update(weights)
        self._made[root] = nodes
        for node in nodes:
            self._enter(node)
        self._leave(root)
        self.changed = True

    def forward(self, root: Node, value: Value) -> None:
        """Let everybody who reads a node's first output read another value; NoMatch when a result would lose its name."""
        old = root.output
        if old in self.results:
            maker = self.maker(value)
            if maker is None or value in self.results:
                raise NoMatch(f"{old!r} is a result of the graph and must keep its name")
            self._leave(root, keep=value)
            self._made[root] = ()
            outputs = tuple(old if v is value else v for v in maker.outputs)
            self.swap(maker, replace(maker, outputs=outputs))
            self._merge(value, old)
        else:
            self._leave(root, keep=value)
            self._made[root] = ()
            self._merge(old, value)
        self.changed = True

    def swap(self, old: Node, new: Node) -> None:
        """Put a node where one stood that made as many values of the same meaning."""
        self._made[old] = (new,)
        self._enter(new)
        self._unread(old)
        self.changed = True

    def finish(self) -> Graph:
        """The graph as it is now; the one that came in when nothing changed."""
        if not self.changed:
            return self.graph
        nodes: list[Node] = []
        for first in self.graph.nodes:
            stack = [first]
            while stack:
                node = stack.pop()
                if node in self._made:
                    stack += reversed(self._made[node])
                else:
                    nodes.append(node)
        weights = {v: a for v, a in self.weights.items() if self._reads[v]}
        return substitute(replace(self.graph, nodes=tuple(nodes), weights=weights), self._instead)

    def _enter(self, node: Node) -> None:
        for value in node.outputs:
            self.producer[value] = node
        if any(True for _ in node.bodies):
            self._captures[node] = tuple(v for _, b in node.bodies for v in captured(b))
        for value in self._reading(node):
            self._reads[value] += 1
            self._readers.setdefault(value, {})[node] = None

    def _reading(self, node: Node) -> tuple[Value, ...]:
        return tuple(self.now(v) for v in (*node.inputs, *self._captures.get(node, ())) if v is not None)

    def _unread(self, node: Node) -> None:
        for value in self._reading(node):
            self._reads[value] -= 1
            self._readers[value].pop(node, None)

    def _leave(self, node: Node, keep: Value | None = None) -> None:
        """Take a node's readings back, and take away whatever nobody reads any more."""
        stack = [node]
        while stack:
            gone = stack.pop()
            self._unread(gone)
            for value in gone.outputs:
                if self.producer.get(value) is gone:
                    del self.producer[value]
            for value in self._reading(gone):
                maker = self.producer.get(value)
                if maker is not None and value is not keep and maker not in self._made and not any(self._reads[v] for v in maker.outputs):
                    self._made[maker] = ()
                    stack.append(maker)

    def _merge(self, old: Value, new: Value) -> None:
        self._instead[old] = new
        self._reads[new] += self._reads.pop(old, 0)
        self._readers.setdefault(new, {}).update(self._readers.pop(old, {}))


def stored(array: Array) -> int:
    """Bytes that an array takes in a file of weights."""
    return -(-array.size * dtype_bits(dtype_name(array.dtype)) // 8)


def plain(value: Any) -> Any:
    """A computed attribute as graphs hold it: plain numbers, texts and lists of them."""
    match value:
        case Const():
            return plain(value.number)
        case np.ndarray() | np.generic():
            return value.tolist()
        case list() | tuple():
            return [plain(v) for v in value]
    return value
