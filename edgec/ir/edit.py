"""Edits: each makes a new graph in one sweep, whatever the number of changes, and reaches into bodies."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from edgec.ir.graph import Array, Graph, Node, Value, captured
from edgec.ir.types import Type


def substitute(graph: Graph, instead: Mapping[Value, Value], *, keep_outputs: bool = False) -> Graph:
    """The graph in which each key of `instead` is read as its value, chains followed; bodies included.

    `keep_outputs` leaves the graph's own outputs (its interface) as they are.
    """
    if not instead:
        return graph

    def now(value: Value) -> Value:
        while value in instead:
            value = instead[value]
        return value

    def body(inner: Graph) -> Graph:
        nodes = tuple(map(node, inner.nodes))
        outputs = tuple(map(now, inner.outputs))
        same = outputs == inner.outputs and all(a is b for a, b in zip(nodes, inner.nodes, strict=True))
        return inner if same else replace(inner, nodes=nodes, outputs=outputs)

    def node(old: Node) -> Node:
        inputs = tuple(v and now(v) for v in old.inputs)
        bodies = {k: new for k, a in old.bodies if (new := body(a)) is not a}
        if inputs == old.inputs and not bodies:
            return old
        return replace(old, inputs=inputs, attrs=MappingProxyType({**old.attrs, **bodies}) if bodies else old.attrs)

    made = body(graph)
    return replace(made, outputs=graph.outputs) if keep_outputs and made.outputs != graph.outputs else made


def retype(graph: Graph, types: Mapping[Value, Type | None]) -> tuple[Graph, dict[Value, Value]]:
    """The graph in which the keys have other types, as fresh values of the same names, and the map from old values to new."""
    fresh = {v: Value(v.name, t) for v, t in types.items()}
    return rename(graph, fresh), fresh


def rename(graph: Graph, fresh: Mapping[Value, Value]) -> Graph:
    """The graph in which each key is made and read as its value; inputs, weights, outputs and bodies included."""
    if not fresh:
        return graph

    def get(value: Value) -> Value:
        return fresh.get(value, value)

    def node(old: Node) -> Node:
        bodies = {k: rename(a, fresh) for k, a in old.bodies}
        return replace(old, inputs=tuple(v and get(v) for v in old.inputs), outputs=tuple(map(get, old.outputs)),
                       attrs=MappingProxyType({**old.attrs, **bodies}) if bodies else old.attrs)

    return replace(graph, inputs=tuple(map(get, graph.inputs)), outputs=tuple(map(get, graph.outputs)),
                   nodes=tuple(map(node, graph.nodes)), weights={get(v): a for v, a in graph.weights.items()})


def splice(graph: Graph, instead: Mapping[Node, Iterable[Node]], weights: Mapping[Value, Array] = MappingProxyType({})) -> Graph:
    """The graph with each key node replaced by the nodes given (none deletes it), and with more weights.

    A replacement that defines the same Value must define the same numbers with the same type.
    """
    if not instead and not weights:
        return graph
    nodes = tuple(new for old in graph.nodes for new in instead.get(old, (old,)))
    return replace(graph, nodes=nodes, weights={**graph.weights, **weights})


def prune(graph: Graph) -> Graph:
    """The graph without nodes and weights that nobody reads; bodies are pruned too. The same object when nothing goes."""
    live, kept, changed = set(graph.outputs), list[Node](), False
    for old in reversed(graph.nodes):
        if not live.intersection(old.outputs):
            changed = True
            continue
        node, bodies = old, {k: new for k, a in old.bodies if (new := prune(a)) is not a}
        if bodies:
            node, changed = replace(old, attrs=MappingProxyType({**old.attrs, **bodies})), True
        kept.append(node)
        live.update(v for v in node.inputs if v is not None)
        for _, body in node.bodies:
            live.update(captured(body))
    if not changed and all(v in live for v in graph.weights):
        return graph
    return replace(graph, nodes=tuple(reversed(kept)), weights={v: a for v, a in graph.weights.items() if v in live})


def inline(body: Graph, arguments: Iterable[Value], prefix: str = "") -> tuple[tuple[Node, ...], dict[Value, Array], tuple[Value, ...]]:
    """Fresh copies of a body's nodes with its inputs bound to `arguments`: (nodes, weights, values of its outputs)."""
    now: dict[Value, Value] = dict(zip(body.inputs, arguments, strict=True))
    for value in (*body.weights, *(v for n in body.nodes for v in n.outputs)):
        now[value] = Value(prefix + value.name, value.type)
    copied = rename(body, now)
    return copied.nodes, dict(copied.weights), copied.outputs


def sort(graph: Graph) -> Graph:
    """The graph with its nodes in an order of use; ValueError names a node on a cycle. Keeps the given order where it can."""
    done = {*graph.inputs, *graph.weights}
    made = {v for n in graph.nodes for v in n.outputs}
    waiting: dict[Node, int] = {}
    readers: dict[Value, list[Node]] = {}
    ready: list[Node] = []
    for node in graph.nodes:
        needs = {v for v in reads(node) if v in made and v not in done}
        waiting[node] = len(needs)
        for v in needs:
            readers.setdefault(v, []).append(node)
        if not needs:
            ready.append(node)
    place = {n: i for i, n in enumerate(graph.nodes)}
    heap = [place[n] for n in ready]
    heapq.heapify(heap)
    order: list[Node] = []
    while heap:
        node = graph.nodes[heapq.heappop(heap)]
        order.append(node)
        for v in node.outputs:
            for reader in readers.get(v, ()):
                waiting[reader] -= 1
                if not waiting[reader]:
                    heapq.heappush(heap, place[reader])
    if len(order) != len(graph.nodes):
        stuck = next(n for n in graph.nodes if waiting[n] > 0)
        raise ValueError(f"the graph has a cycle through {stuck.label}")
    return graph if tuple(order) == graph.nodes else replace(graph, nodes=tuple(order))


class Namer:
    """Fresh names that no value of a graph has yet."""

    def __init__(self, graph: Graph) -> None:
        self._used = {v.name for g, n in graph.walk() for v in n.outputs} | {v.name for v in (*graph.inputs, *graph.weights)}

    def __call__(self, base: str) -> str:
        """`base`, or `base.2`, `base.3` … when it is taken."""
        name, i = base, 1
        while name in self._used:
            i += 1
            name = f"{base}.{i}"
        self._used.add(name)
        return name


def origins(nodes: Iterable[Node]) -> str:
    """The joined origin of a node that replaces several: `conv1+bn1`, each name once."""
    return "+".join(dict.fromkeys(part for n in nodes for part in n.origin.split("+") if part))


def attributes(**attrs: Any) -> Mapping[str, Any]:
    """Attributes of a new node."""
    return MappingProxyType(attrs)


def without(graph: Graph, nodes: Iterable[Node]) -> list[str]:
    """Names of the values that a graph must return to do without some nodes and all that depends on them; empty when nothing is left."""
    bad, tainted = set(nodes), set[Value]()
    for node in graph.nodes:
        if node in bad or any(v in tainted for v in reads(node)):
            tainted.update(node.outputs)
    made = {v for n in graph.nodes for v in n.outputs}
    edge = [v.name for v in graph.outputs if v not in tainted and v in made]
    edge += [v.name for n in graph.nodes if tainted.intersection(n.outputs) for v in reads(n) if v in made and v not in tainted]
    return list(dict.fromkeys(edge))


def reads(node: Node) -> Iterable[Value]:
    """What a node reads, values that its bodies capture among them."""
    yield from (v for v in node.inputs if v is not None)
    for _, body in node.bodies:
        yield from captured(body)
