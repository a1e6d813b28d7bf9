"""Partition: each part of the graph runs on the unit of the target where all of it together takes least.

What a part costs on a unit says its text, what it costs on the CPU the plan of its kernel, and what a tensor costs on its way between
two memories the link of the unit. `edgec.partition` finds the assignment of the least sum, exactly. Nodes get the name of their unit
(none: the CPU); what lies on a unit that runs whole regions is put into one node for each region.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import inf
from typing import Any

from edgec.errors import UsageError
from edgec.ir.edit import attributes, origins, prune, reads, rename, sort
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.machine import Target, Unit
from edgec.partition import HOST, Flow, Problem, Stored, link, regions, solve
from edgec.pipeline import Context
from passes import promote
from passes.changes import qdq
from passes.changes.offers import Group, constants, feeding, groups

NAME = "assign-unit"
_WILD = "*?["


def run(graph: Graph, context: Context) -> Graph:
    """The graph whose nodes know their units; the same object when all of it runs on the CPU."""
    if context.target is None:
        return graph
    wanted = [n.strip() for n in str(context.options.get("units", "")).split(",") if n.strip()]
    units = _chosen(context.target, wanted)
    place = _pairs(str(context.options.get("place", "")))
    alone = len(context.target.units) < 2 and not place         # noqa: PLR2004
    if alone or any(n.op == "edgec.Region" for n in graph.nodes):
        return graph                                            # there is no choice, or it was made before
    split = _asked(graph, context)
    parts = groups(split, context.target, units)
    problem = _problem(split, parts, context.target, units)
    on = solve(replace(problem, costs=_wishes(parts, units, spare=bool(wanted) and units[HOST].name not in wanted, place=place)))
    if on is None:
        raise UsageError("no partition does all that --place asks for: a unit has too little memory, or wants larger regions")
    on = _permitted(parts, on, context)
    made = _Partitioned(split, parts, units, problem, on)
    context.facts["partition"] = made.facts()
    return made.graph() if made.changes() else graph


def _asked(graph: Graph, context: Context) -> Graph:
    """The graph that units are asked about: in f32 what would be promoted to it anyway, each quantized operator a group of its own."""
    if any(n.op in ("QuantizeLinear", "DequantizeLinear") for n in graph.nodes):
        return qdq.separate(graph)
    return promote.run(graph, Context(context.target, context.disabled))


def _permitted(parts: Sequence[Group], on: list[int], context: Context) -> list[int]:
    """The assignment as far as the rewrites of this run may go; what may not leave the CPU stays there."""
    kept = []
    for i, unit in enumerate(on):
        allowed = unit == HOST or context.may(NAME)
        if unit != HOST and allowed:
            context.did(NAME, parts[i].anchor)
        kept.append(unit if allowed else HOST)
    return kept


def _chosen(target: Target, wanted: Sequence[str]) -> list[Unit]:
    """The units that may be used, the CPU first: all of them, or those of a list."""
    known = {u.name: u for u in target.units.values() if u is target.cpu or u.kind != "cpu"}
    for name in wanted:
        if name not in known:
            raise UsageError(f"target {target.name} has no unit {name} to use; it has {', '.join(known)}")
    return [target.cpu, *(u for u in known.values() if u is not target.cpu and (not wanted or u.name in wanted))]


def _pairs(text: str) -> list[tuple[str, str]]:
    """What `NODE=unit,…` asks for: names or patterns of nodes, and units."""
    made = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        node, equals, unit = item.rpartition("=")
        if not equals or not node or not unit:
            raise UsageError(f"a place is NODE=UNIT, such as conv1=cpu or 'layer4*=gpu', and not {item}")
        made.append((node, unit))
    return made


def _wishes(parts: Sequence[Group], units: Sequence[Unit], *, spare: bool, place: Iterable[tuple[str, str]]) -> list[list[float]]:
    """The costs as the user wants them seen: what he did not ask for is dear, or impossible where he named the very node.

    `spare` says that the CPU shall run only what no other unit can. A later wish for a node goes before an earlier one.
    """
    costs = [[g.offers[u.name].us for u in units] for g in parts]
    dear = 2 * sum(c for row in costs for c in row if c < inf) + 1e6
    if spare:
        costs = [[row[HOST] + dear * any(c < inf for c in row[HOST + 1:]), *row[HOST + 1:]] for row in costs]
    number = {u.name: i for i, u in enumerate(units)}
    place = [*((n.output.name, n.device) for g in parts for n in g.nodes if n.device is not None), *place]
    for pattern, unit in place:
        if unit not in number:
            raise UsageError(f"there is no unit {unit} to place {pattern} on; there are {', '.join(number)}")
        wild = any(letter in pattern for letter in _WILD)
        hit = [i for i, g in enumerate(parts) if any(_matches(pattern, n, wild=wild) for n in g.nodes)]
        if not hit:
            names = [name for g in parts for n in g.nodes for name in _names(n)]
            near = difflib.get_close_matches(pattern, names, 1)
            raise UsageError(f"there is no node {pattern} to place" + (f"; did you mean {near[0]}?" if near else ""))
        for i in hit:
            offers = [parts[i].offers[u.name] for u in units]
            if offers[number[unit]].us < inf:
                costs[i] = [o.us + (0.0 if u == number[unit] else dear if wild else inf) for u, o in enumerate(offers)]
            elif not wild:
                raise UsageError(f"{pattern} cannot be placed on {unit}: {offers[number[unit]].reason}")
    return costs


def _names(node: Node) -> list[str]:
    return [*node.origin.split("+"), *(v.name for v in node.outputs)]


def _matches(pattern: str, node: Node, *, wild: bool) -> bool:
    return any(fnmatchcase(name, pattern) if wild else name == pattern for name in _names(node))


def _problem(graph: Graph, parts: Sequence[Group], target: Target, units: Sequence[Unit]) -> Problem:
    """The question in numbers."""
    owner = {n: i for i, g in enumerate(parts) for n in g.nodes}
    known = constants(graph)
    readers: dict[Value, dict[int | None, None]] = {}
    stored: dict[Value, dict[int, None]] = {}
    for i, group in enumerate(parts):
        for node in (*group.nodes, *feeding(graph, group.nodes, known)):
            for v in reads(node):
                if v in graph.weights:
                    stored.setdefault(v, {})[i] = None
                elif node in owner and (maker := graph.producer.get(v)) not in known and (maker is None or owner.get(maker) != i):
                    readers.setdefault(v, {})[i] = None
    for v in graph.outputs:
        readers.setdefault(v, {})[None] = None
    flows = []
    for v, who in readers.items():
        maker = graph.producer.get(v)
        if (maker is None and v not in graph.inputs) or maker in known:
            continue
        flows.append(Flow(_bytes(v), None if maker is None else owner[maker], tuple(who), v.name))
    costs = [[g.offers[u.name].us for u in units] for g in parts]
    weights = tuple(Stored(_bytes(v), tuple(who)) for v, who in stored.items())
    return Problem(tuple(link(target, u) for u in units), costs, tuple(flows), weights, tuple(g.operators for g in parts))


def _bytes(value: Value) -> int:
    return value.type.bytes if isinstance(value.type, Tensor) and value.type.is_static else 0


class _Partitioned:
    """An assignment, as a graph and as facts for reports."""

    def __init__(self, graph: Graph, parts: Sequence[Group], units: Sequence[Unit], problem: Problem, on: Sequence[int]) -> None:
        self.old, self.parts, self.units, self.problem, self.on = graph, parts, units, problem, on
        self.regions = regions(problem, on)
        self.constants = constants(graph)
        self.place = {n: i for i, n in enumerate(graph.nodes)}

    def changes(self) -> bool:
        """Whether a node has another unit than it had."""
        devices = (u.name if (u := self.units[v]) is not self.units[HOST] else None for v in self.on)
        return any(n.device != device for g, device in zip(self.parts, devices, strict=True) for n in g.nodes)

    def graph(self) -> Graph:
        """The graph whose nodes have devices, with one node for each region."""
        device = {n: self.units[u].name for g, u in zip(self.parts, self.on, strict=True) if u != HOST for n in g.nodes}
        inside = {n: k for k, (_, part) in enumerate(self.regions) for i in part for n in self.parts[i].nodes}
        nodes: list[Node] = []
        for node in self.old.nodes:
            if node in inside:
                continue
            nodes.append(replace(node, device=device.get(node)) if device.get(node) != node.device else node)
        nodes += [self._region(k, [self.parts[i] for i in part]) for k, (_, part) in enumerate(self.regions)]
        return prune(sort(self._own_constants(replace(self.old, nodes=tuple(nodes)))))

    def _region(self, number: int, parts: Sequence[Group]) -> Node:
        """The node of a region, whose body has weights of its own."""
        mine = {n for g in parts for n in g.nodes}
        nodes = sorted({*mine, *feeding(self.old, mine, self.constants)}, key=self.place.__getitem__)
        made = {v for n in nodes for v in n.outputs}
        read = dict.fromkeys(v for n in nodes for v in reads(n) if v not in made)
        given = tuple(v for v in read if v not in self.old.weights)
        escaping = tuple(v for n in nodes if n in mine for v in n.outputs
                         if v in self.old.outputs or any(r not in mine for r in self.old.consumers.get(v, ())))
        weights = {v: self.old.weights[v] for v in read if v in self.old.weights}
        body = Graph(f"region {number}", given, escaping, tuple(nodes), weights)
        fresh = {v: Value(v.name, v.type) for v in (*given, *weights, *made)}
        unit = self.units[self.regions[number][0]]
        return Node("edgec.Region", given, escaping, attributes(kind=unit.kind, body=rename(body, fresh)), unit.name,
                    origins(n for n in nodes if n in mine))

    def _own_constants(self, graph: Graph) -> Graph:
        """The graph in which each unit computes the constants that it reads by itself."""
        copies: dict[tuple[Node, str], dict[Value, Value]] = {}
        nodes: list[Node] = []
        for node in graph.nodes:
            if node.device is None or node.op == "edgec.Region" or node in self.constants:
                nodes.append(node)
                continue
            instead: dict[Value, Value] = {}
            for constant in sorted(feeding(self.old, [node], self.constants), key=self.place.__getitem__):
                if (constant, node.device) not in copies:
                    copies[constant, node.device] = {v: Value(f"{v.name}.{node.device}", v.type) for v in constant.outputs}
                    now = {k: v for c, d in copies if d == node.device for k, v in copies[c, d].items()}
                    nodes.append(replace(constant, inputs=tuple(v and now.get(v, v) for v in constant.inputs), device=node.device,
                                         outputs=tuple(copies[constant, node.device].values())))
                instead.update(copies[constant, node.device])
            nodes.append(replace(node, inputs=tuple(v and instead.get(v, v) for v in node.inputs)) if instead else node)
        return replace(graph, nodes=tuple(nodes))

    def facts(self) -> dict[str, Any]:
        """What a manifest tells: units, groups with their offers, copies, regions; times in microseconds."""
        copies, flows, name = list(self.problem.copies(self.on)), self.problem.flows, [u.name for u in self.units]
        mine = [[g for g, v in zip(self.parts, self.on, strict=True) if v == k] for k in range(len(self.units))]
        return {
            "predicted_us": self.problem.price(self.on),
            "units": [{"name": u.name, "kind": u.kind, "groups": len(mine[k]), "nodes": sum(len(g.nodes) for g in mine[k]),
                       "us": sum(g.offers[u.name].us for g in mine[k]), "copies": sum(c.unit == k for c in copies),
                       "copies_us": sum(c.us for c in copies if c.unit == k),
                       "alone_us": self.problem.price(self.problem.single(k))} for k, u in enumerate(self.units)],
            "groups": [self._group(i) for i in range(len(self.parts))],
            "copies": [{"tensor": flows[c.flow].name, "bytes": flows[c.flow].size, "unit": name[c.unit], "into": c.into, "us": c.us,
                        "maker": flows[c.flow].producer, "readers": [r for r in flows[c.flow].readers if r is not None]} for c in copies],
            "regions": [{"unit": name[u], "groups": part} for u, part in self.regions],
        }

    def _group(self, number: int) -> dict[str, Any]:
        """A group: what it is about and made of, its unit, and for each unit its time and what moving it there would add, or why not."""
        group, on = self.parts[number], self.on
        offers = {u.name: {"reason": o.reason} if (o := group.offers[u.name]).us == inf
                  else {"us": o.us, "more_us": self.problem.instead(on, number, k)} for k, u in enumerate(self.units)}
        return {"operator": group.anchor.op, "node": group.anchor.origin or group.anchor.output.name,
                "nodes": list(dict.fromkeys(name for n in group.nodes for name in n.origin.split("+") if name)),
                "unit": self.units[on[number]].name, "offers": offers}
