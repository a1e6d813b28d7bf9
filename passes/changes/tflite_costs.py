"""What quantized operators cost on an NPU by its own compiler, which is asked once about all of them together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgec.codegen.npu import tflite, vela
from edgec.ir.edit import prune
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.isa import Npu
from passes.changes.qdq import Group
from passes.changes.tflite import Body, Refused
from passes.changes.tflite_operators import write
from passes.changes.tflite_work import Work


@dataclass(frozen=True)
class Answer:
    """Cycles of each group, by the operator that it is about, and why the NPU does not run others, in the compiler's words."""

    cycles: Mapping[Node, float]
    refused: Mapping[Node, str]


def can_ask() -> bool:
    """Whether Vela is installed."""
    return vela.is_installed()


def ask(groups: Iterable[Group], weights: Mapping[Value, Array], npu: Npu, cache: Path | None = None) -> Answer:
    """Compile all groups as one model, without those that cannot be written or that the compiler leaves for the CPU.

    ToolMissing without Vela.
    """
    waiting, refused = list(groups), dict[Node, str]()
    while True:
        model, owner, unwritten = _together(waiting, weights)
        refused |= unwritten
        if not model.nodes:
            return Answer({g.anchor: 0.0 for g in waiting if g.anchor not in refused}, refused)
        try:
            figures = vela.compile_model(tflite.model(model), npu, cache=cache).figures
        except vela.LeftForCpu as left:
            refused |= {owner[name]: reason for name, reason in left.reasons.items() if name in owner}
            before = len(waiting)
            waiting = [g for g in waiting if g.anchor not in refused]
            if len(waiting) == before:
                raise
            continue
        free = {g.anchor: 0.0 for g in waiting if g.anchor not in refused}   # some only change how a tensor is looked at
        return Answer(free | _shared(figures.layers, owner), refused)


def _together(groups: Iterable[Group], weights: Mapping[Value, Array]) -> tuple[Graph, dict[str, Node], dict[Node, str]]:
    """One model of all groups, whose results are what none of them reads. Also who makes a tensor, and what cannot be written."""
    body, made, refused = Body(), dict[Group, list[Node]](), dict[Node, str]()
    for group in groups:
        before = len(body.nodes)
        try:
            write(Work(body, group, weights))
        except Refused as why:
            del body.nodes[before:]
            refused[group.anchor] = str(why)
            continue
        made[group] = body.nodes[before:]
    reads, inside = {v for g in made for v in g.reads}, {v for n in body.nodes for v in n.inputs}
    results = [n.output for g, nodes in made.items() if not reads.issuperset(g.makes) for n in nodes if n.output not in inside]
    graph = prune(body.graph("all", [v for v, _ in body.entries.values()], results))
    used = {v for n in graph.nodes for v in n.inputs}
    owner = {n.output.name: g.anchor for g, nodes in made.items() for n in nodes}
    return replace(graph, inputs=tuple(v for v in graph.inputs if v in used)), owner, refused


def _shared(layers: Iterable[vela.Layer], owner: Mapping[str, Node]) -> dict[Node, float]:
    """Cycles by operator: a step without a tensor of its own belongs to the next that has one."""
    cycles = dict.fromkeys(owner.values(), 0.0)
    pending = 0.0
    for layer in layers:
        pending += layer.cycles
        if layer.name in owner:
            cycles[owner[layer.name]] += pending
            pending = 0.0
    return cycles
