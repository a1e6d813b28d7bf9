"""What became of one node of a model: the rewrites that touched it, the kernel it went into, and the reasons for what did not happen."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from edgec import access
from edgec.codegen.npu import region as npu
from edgec.codegen.place import Places
from edgec.codegen.program import Call
from edgec.codegen.schedule import Schedule, schedule
from edgec.cost import node_facts
from edgec.errors import UnsupportedModel, UsageError
from edgec.history import Moment, record
from edgec.ir.graph import REGIONS, Graph, Node, shortened
from edgec.ir.types import Tensor
from edgec.isa import cpu_isa, devices
from edgec.kernels.base import KernelPlan, Operands
from edgec.kernels.plan import why_generic
from edgec.lang.text import show_type
from edgec.pipeline import Context
from edgec.rules.apply import why_not
from edgec.rules.check import load_files
from edgec.rules.match import Rule
from edgec.target import Target


@dataclass(frozen=True)
class Event:
    """A step that did something to it: the nodes that carried its name before and after, and the rewrites that were done to these."""

    step: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    rewrites: tuple[str, ...]


@dataclass(frozen=True)
class Kernel:
    """A step of the schedule that computes it, maybe with others. `details`: the plan's numbers; `generic`: why it is TVM's kernel."""

    step: int
    symbol: str
    origin: str
    ops: tuple[str, ...]
    kind: str
    algo: str
    details: Mapping[str, Any]
    tasks: int
    rounds: int
    behind: int
    macs: int
    bytes: int
    predicted_us: float
    share: float
    result: str
    generic: str | None


@dataclass(frozen=True)
class Missed:
    """Something that did not happen: a rule, or a unit, the node it was asked for, and the reason; `reason` is empty when it did happen."""

    name: str
    node: str
    reason: str


@dataclass(frozen=True)
class Offer:
    """What a unit would take for the nodes that run together, in microseconds, and by how much the whole run would grow, copies included.

    `reason` says in the words of the target why it cannot run them; there are no times then.
    """

    unit: str
    us: float | None
    more_us: float | None
    reason: str


@dataclass(frozen=True)
class Placed:
    """On which unit nodes run that belong together, what each unit asked for, and the copies of what they read or make: as text."""

    unit: str
    nodes: tuple[str, ...]
    offers: tuple[Offer, ...]
    copies: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    """Everything about one node.

    `placed` tells on which unit it runs, where the target has several.
    `views` are nodes of the last graph that carry its name and need no kernel; `refused` says why a node that carries it has none.
    `total_us` and `steps` are those of the whole model; None when it cannot be scheduled, which `problem` explains.
    """

    node: str
    op: str
    target: str
    events: tuple[Event, ...]
    kernels: tuple[Kernel, ...]
    views: tuple[str, ...]
    refused: tuple[str, ...]
    apart: tuple[str, ...]
    rules: tuple[Missed, ...]
    units: tuple[Missed, ...]
    placed: tuple[Placed, ...]
    notes: tuple[str, ...]
    steps: int | None
    total_us: float | None
    problem: str | None


def why(graph: Graph, name: str, target: Target, partition: Mapping[str, str] | None = None) -> Story:
    """The story of the node with this name, or that makes a value of this name, in a build for a target; UsageError for an unknown one.

    `partition` holds options of that pass.
    """
    graph = _named(graph)
    node = _find(graph, name)
    known, context = access.module("passes.catalog"), Context(target)
    final, moments = record(graph, known.pipeline(partition=partition), known.CATALOG, context)
    settled = next((m.before for m in moments if m.row.name == "cluster"), final)
    now = carriers(settled, node.origin)
    final = npu.priced(final, devices(target))
    made, problem = _schedule(final, target)
    last = carriers(final, node.origin)
    refused = [line.strip() for line in (problem or "").splitlines()[1:] for n in last if line.startswith(f"  {n.label}: ")]
    kernels = tuple(_kernels(final, made, target, node.origin)) if made else ()
    busy = {k.step for k in kernels}
    return Story(
        node.origin, node.op, target.name,
        tuple(e for m in moments if (e := _event(m, context, node.origin)) is not None), kernels,
        tuple(_described(n) for n in last if made and not _computed(n, made, busy)), tuple(dict.fromkeys(refused)),
        tuple(dict.fromkeys(_apart(settled, final, context, now))), tuple(_rules(settled, now)),
        tuple(_units(settled, now, target)) if len(target.units) == 1 else (),
        tuple(_placed(context.facts.get("partition", {}), node.origin)),
        tuple(n for n in context.notes if any(n.startswith(f"{c.label}: ") for c in (*now, node))),
        len(made.program.steps) if made else None, _total(made, target) if made else None, problem)


def carriers(graph: Graph, origin: str) -> list[Node]:
    """The nodes that came from the one of this name, alone or with others; those in bodies too, but not within regions."""
    def walk(inner: Graph) -> Iterator[Node]:
        for node in inner.nodes:
            if origin in node.origin.split("+"):
                yield node
            if node.op not in REGIONS:
                for _, body in node.bodies:
                    yield from walk(body)

    return list(walk(graph))


def _named(graph: Graph) -> Graph:
    """The graph whose nodes all have an origin, nameless ones that of their first result."""
    if all(n.origin for n in graph.nodes):
        return graph
    return replace(graph, nodes=tuple(n if n.origin or not n.outputs else replace(n, origin=n.outputs[0].name) for n in graph.nodes))


def _find(graph: Graph, name: str) -> Node:
    nodes = [n for _, n in graph.walk()]
    wanted = name.removeprefix("%")
    found = [n for n in nodes if n.origin == name] or [n for n in nodes if any(v.name == wanted for v in n.outputs)]
    if found:
        return found[0]
    near = difflib.get_close_matches(wanted, [*(n.origin for n in nodes), *(v.name for n in nodes for v in n.outputs)], n=1)
    raise UsageError(f"the model has no node {name}, and none that makes a value of this name"
                     + (f"; did you mean {near[0]}?" if near else "; `edgec opt MODEL --passes canonicalize` prints all"))


def _described(node: Node) -> str:
    reads = ", ".join("-" if v is None else f"%{v.name}" for v in node.inputs)
    return f"{' '.join(f'%{v.name}' for v in node.outputs)} = {_operator(node)}({reads}) {shortened(node.origin)!r}"


def _operator(node: Node) -> str:
    return "+".join(n.op for n in node.attrs["body"].nodes) if node.op == "edgec.Fused" else node.op


def _event(moment: Moment, context: Context, origin: str) -> Event | None:
    before, after = carriers(moment.before, origin), carriers(moment.after, origin)
    near = [n for n in (*before, *after) if n.op != "edgec.Region"]  # a region is told of by its own name, not by all that is in it
    names = {origin, *(part for n in near for part in n.origin.split("+"))} if before else {origin}
    rewrites = [f"{r.name} at {shortened(r.origin)}" for r in moment.rewrites(context) if names.intersection(r.origin.split("+"))]
    was, now = tuple(map(_described, before)), tuple(map(_described, after))
    return Event(moment.row.name, was, now, tuple(dict.fromkeys(rewrites))) if rewrites or was != now else None


def _schedule(final: Graph, target: Target) -> tuple[Schedule | None, str | None]:
    try:
        return schedule(final, cpu_isa(target), "why", units=devices(target)), None
    except UnsupportedModel as error:
        return None, str(error)


def _kernels(final: Graph, made: Schedule, target: Target, origin: str) -> Iterator[Kernel]:
    isa, places, total = cpu_isa(target), Places(final), _total(made, target)
    operands = Operands.of(final.weights, lambda v: places[v].view)
    makers = {v.name: n for n in final.nodes for v in n.outputs}
    types = {v.name: v.type for n in final.nodes for v in n.outputs}
    for i, step in enumerate(made.program.steps):
        if not isinstance(step, Call) or origin not in step.origin.split("+"):
            continue
        kernel, kind = made.program.kernels[step.kernel], types[step.result]
        us = kernel.cycles / isa.clock_hz * 1e6
        row_major = isinstance(kind, Tensor) and kind.layout is None
        result = f"%{step.result}: {show_type(kind) if kind else '?'}{', row-major' * row_major}"
        yield Kernel(i, kernel.symbol, step.origin, (step.op, *step.fused), kernel.kind, kernel.algo, _details(made.plan(step.kernel)),
                     step.tasks, step.rounds, step.behind, kernel.macs, kernel.bytes, us, us / total if total else 0.0, result,
                     why_generic(makers[step.result], isa, operands) if kernel.generic else None)


def _details(plan: KernelPlan) -> dict[str, Any]:
    """The numbers and words of a plan; views and expressions are left out."""
    own = [f.name for f in fields(plan) if f.name not in {f.name for f in fields(KernelPlan)}]
    return {name: value for name in own if _plain(value := getattr(plan, name))}


def _plain(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, tuple) and bool(value) and all(map(_plain, value)))


def _computed(node: Node, made: Schedule, steps: set[int]) -> bool:
    """Whether one of these steps makes a result of a node."""
    return any(made.program.steps[i].result == v.name for i in steps for v in node.outputs)


def _total(made: Schedule, target: Target) -> float:
    return sum(made.program.kernels[s.kernel].cycles for s in made.program.calls) / cpu_isa(target).clock_hz * 1e6


def _apart(settled: Graph, final: Graph, context: Context, nodes: Sequence[Node]) -> Iterator[str]:
    """For each edge at which these nodes and a neighbor are in different kernels, why."""
    cluster = access.module("passes.cluster")
    region = {n: [n] for n in settled.nodes}
    place = {v.name: n for n in settled.nodes for v in n.outputs}
    for kernel in final.nodes:
        if kernel.op == "edgec.Fused":
            members = [place[v.name] for n in kernel.attrs["body"].nodes for v in n.outputs if v.name in place]
            members.sort(key=lambda n: n.op in cluster.ELEMENTWISE)  # the root first, the rest in order
            region.update(dict.fromkeys(members, members))
    for node in (n for n in nodes if n in region and n.op != "edgec.Region"):
        for source in (settled.producer[v] for v in node.inputs if v is not None and v in settled.producer):
            if source not in region[node]:
                yield f"not with {source.label}: {cluster.why_apart(settled, context, region[source], node)}"
        for reader in (r for v in node.outputs for r in settled.consumers.get(v, ())):
            if reader not in region[node]:
                yield f"not with {reader.label}: {cluster.why_apart(settled, context, region[node], reader)}"


def _rules(settled: Graph, nodes: Sequence[Node]) -> Iterator[Missed]:
    standing = set(settled.nodes)  # those in bodies are left out: rules are tried on whole graphs
    for node in (n for n in nodes if n in standing):
        for rule in _rulebook():
            if node.op in rule.roots:
                yield Missed(rule.name, node.label, why_not(rule, settled, node) or "it holds, but no pass of this build asks for it")


@cache
def _rulebook() -> tuple[Rule, ...]:
    """All rules of passes and targets."""
    return tuple(r for room in access.ROOMS for file in access.files(room, "**/*.rules") for r in load_files([file]))


def _placed(facts: Mapping[str, Any], origin: str) -> Iterator[Placed]:
    """Where the pass partition put the nodes that carry this name, and why."""
    names = [g["node"] for g in facts.get("groups", ())]
    for number, group in enumerate(facts.get("groups", ())):
        if origin not in group["nodes"]:
            continue
        offers = tuple(Offer(u, o.get("us"), o.get("more_us"), o.get("reason", "")) for u, o in group["offers"].items())
        copies = []
        for c in facts["copies"]:
            if number == c["maker"] or number in c["readers"]:
                way = f"to {c['unit']}" if c["into"] else f"from {c['unit']} to the CPU"
                read = ", ".join(names[r] for r in c["readers"]) or "the caller"
                copies.append(f"%{c['tensor']} {way}: {c['bytes']} bytes, {c['us']:.2f} us, read by {read}")
        yield Placed(group["unit"], tuple(group["nodes"]), offers, tuple(copies))


def _units(settled: Graph, nodes: Sequence[Node], target: Target) -> Iterator[Missed]:
    for node in nodes:
        facts = node_facts(node, settled)
        for unit in target.units:
            yield Missed(unit, node.label, target.verdict(unit, node.op, facts).reason)
