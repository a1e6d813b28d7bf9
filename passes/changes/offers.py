"""What each unit of a target asks for each group of nodes: the question that `partition` answers.

A group is what runs together: a quantized operator with its DequantizeLinear and QuantizeLinear, an anchor with the elementwise nodes
that `cluster` would take into its kernel, or a single node. What is computed from weights alone belongs to whoever reads it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from edgec.cost import int8_peak, kernel_cycles, node_bytes, node_facts, node_macs
from edgec.ir.edit import reads
from edgec.ir.evaluate import is_pure
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.isa import Gpu, Isa, Npu, cpu_isa, devices
from edgec.kernels.base import Operands, Planned
from edgec.kernels.expr import ELEMENTWISE
from edgec.kernels.plan import plan, unknown
from edgec.machine import Target, Unit
from edgec.pipeline import Context
from passes import canonicalize, cluster, integers, tflite
from passes.changes import qdq, tflite_costs
from passes.changes.tflite_operators import MOVES

_BYTES = ("i8", "u8")
_LINEAR = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Offer:
    """What a group takes on a unit, in microseconds; infinite when it cannot run there, which `reason` explains in words of the target."""

    us: float
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes that run together, in the order of the graph, the operator that they are about, and the offer of each unit, by its name."""

    nodes: tuple[Node, ...]
    anchor: Node
    offers: Mapping[str, Offer]

    @property
    def operators(self) -> int:
        """How many operators it counts for: those that compute something."""
        return sum(n.op not in cluster.VIEWS and n.op not in _LINEAR for n in self.nodes)


def constants(graph: Graph) -> set[Node]:
    """The nodes that are computed from weights alone."""
    known, found = set(graph.weights), set[Node]()
    for node in graph.nodes:
        if node.inputs and is_pure(node) and all(v is None or v in known for v in node.inputs):
            found.add(node)
            known.update(node.outputs)
    return found


def groups(graph: Graph, target: Target, units: Sequence[Unit]) -> list[Group]:
    """The groups of a graph in an order of use, with the offers of these units, the CPU first."""
    return list(_Groups(graph, target, units).run())


class _Groups:
    def __init__(self, graph: Graph, target: Target, units: Sequence[Unit]) -> None:
        self.graph, self.target, self.units = graph, target, units
        self.isa = cpu_isa(target)
        self.devices = devices(target)
        self.constants = constants(graph)
        self.images = Operands.of(graph.weights, cluster.assumed_views(graph, self.isa))
        self.rows = Operands.of(graph.weights, lambda v: v.tensor.view)
        self.quantized = qdq.groups(graph)
        self.answers = dict[str, tflite_costs.Answer | None]()
        self.integers = self._integers() if self.quantized else {}

    def run(self) -> Iterator[Group]:
        place = {n: i for i, n in enumerate(self.graph.nodes)}
        taken = set(self.constants)
        parts: list[tuple[int, Group]] = []
        for quantized in self.quantized:
            nodes = tuple(n for n in quantized.nodes if n not in self.constants)
            if not taken.intersection(nodes):
                taken.update(nodes)
                parts.append((place[quantized.anchor], self._quantized(quantized, nodes)))
        for region, kernel in self._kernels():
            nodes = tuple(sorted((n for n in region if n not in self.constants), key=place.__getitem__))
            if nodes and not taken.intersection(nodes):
                taken.update(nodes)
                parts += [(place[g.nodes[-1]], g) for g in self._fused(nodes, kernel)]
        parts += [(i, self._single(n)) for n, i in place.items() if n not in taken]
        return (group for _, group in sorted(parts, key=lambda p: p[0]))

    def _kernels(self) -> Iterator[tuple[set[Node], Node]]:
        """What `cluster` would make one kernel for the CPU of: its nodes, and the node that stands for them."""
        plain = cluster.run(self.graph, Context(self.target))
        for kernel in plain.nodes:
            if kernel.op == "edgec.Fused":
                yield self._behind(kernel), kernel

    def _behind(self, kernel: Node) -> set[Node]:
        """The nodes between the inputs of a kernel and its result."""
        given, found = set(kernel.inputs), set[Node]()
        waiting = [self.graph.producer[kernel.output]]
        while waiting:
            node = waiting.pop()
            found.add(node)
            waiting += [p for v in node.inputs if v is not None and v not in given and (p := self.graph.producer.get(v)) and p not in found]
        return found

    def _fused(self, nodes: tuple[Node, ...], kernel: Node) -> list[Group]:
        """One group, or one for each node where a unit runs some of them and not all."""
        anchor = next((n for n in nodes if n.op not in ELEMENTWISE), nodes[0])
        made = self._group(nodes, anchor, kernel)
        if len(nodes) > 1 and any(self._runs_some(u.name, nodes) for u in self.units[1:] if made.offers[u.name].us == inf):
            return [self._single(n) for n in nodes]
        return [made]

    def _runs_some(self, unit: str, nodes: Iterable[Node]) -> bool:
        return any(self.target.verdict(unit, n.op, node_facts(n, self.graph)).runs for n in nodes)

    def _single(self, node: Node) -> Group:
        return self._group((node,), node, node)

    def _group(self, nodes: tuple[Node, ...], anchor: Node, kernel: Node) -> Group:
        cpu, *others = self.units
        offers = {cpu.name: Offer(self._on_cpu(kernel, anchor))}
        facts = node_facts(anchor, self.graph)
        facts |= {"macs": node_macs(kernel), "bytes": node_bytes(kernel)} if not unknown(kernel) else {}
        for unit in others:
            offers[unit.name] = self._elsewhere(unit, nodes, anchor, facts, kernel)
        return Group(nodes, anchor, offers)

    def _quantized(self, quantized: qdq.Group, nodes: tuple[Node, ...]) -> Group:
        """The group of a quantized operator: integers are what it reads and writes, and its dtype."""
        anchor, stored = quantized.anchor, [q.array for q in (*quantized.inputs, quantized.bias) if q is not None and q.array is not None]
        known = not any(map(unknown, nodes))
        facts = {**node_facts(anchor, self.graph), "dtype": quantized.reads[0].tensor.dtype}
        moved = sum(v.tensor.bytes for v in (*quantized.reads, *quantized.makes)) if known else 0
        weights = sum(a.nbytes for a in stored)
        facts |= {"bytes": moved + weights, "weight_bytes": weights} if known else {}
        cpu, *others = self.units
        macs = node_macs(anchor) if known else 0
        cycles = self.integers.get(quantized.makes[0].name) or _bytewise(self.isa, macs, moved, weights, self.images.footprint)
        offers = {cpu.name: Offer(_us(self.isa, cycles))}
        for unit in others:
            offer = self._elsewhere(unit, [n for n in nodes if n.op not in _LINEAR], anchor, facts, None)
            offers[unit.name] = self._as_compiled(unit, quantized, offer) if unit.facts.get("compiler") == tflite.COMPILER else offer
        return Group(nodes, anchor, offers)

    def _as_compiled(self, unit: Unit, quantized: qdq.Group, offer: Offer) -> Offer:
        """An offer as the compiler of an NPU sees it: its cycles, where it is installed, or why it refuses."""
        anchor = quantized.anchor
        if offer.us == inf:
            return offer
        answer = self._answer(unit)
        why = tflite.refusal(quantized, self.graph.weights) if answer is None else answer.refused.get(anchor, "")
        if why:
            return Offer(inf, f"{unit.name} cannot run {anchor.label}: {why}")
        return offer if answer is None else Offer(answer.cycles[anchor] / self.target.clock(unit) * 1e6)

    def _answer(self, unit: Unit) -> tflite_costs.Answer | None:
        """What the compiler of an NPU says of all quantized operators together; None where it is not installed."""
        if unit.name not in self.answers:
            npu = self.devices.get(unit.name)
            asked = isinstance(npu, Npu) and tflite_costs.can_ask()
            self.answers[unit.name] = tflite_costs.ask(self.quantized, self.graph.weights, npu) if asked and isinstance(npu, Npu) else None
        return self.answers[unit.name]

    def _integers(self) -> dict[str, float]:
        """The cycles of the kernels that the CPU would compute quantized groups with, by the name of the integers that they make.

        A kernel that makes something in between counts for whoever reads that.
        """
        context = Context(self.target)
        plain = cluster.run(canonicalize.run(integers.run(self.graph, context), context), context)
        made = {v.name for g in self.quantized for v in g.makes[:1]}
        owner, cycles = dict[Node, str](), dict[str, float]()
        for kernel in reversed(plain.nodes):
            name = kernel.output.name if kernel.outputs else ""
            behind = [owner[r] for v in kernel.outputs for r in plain.consumers.get(v, ()) if r in owner]
            if name not in made and not behind:
                continue
            owner[kernel] = name if name in made else behind[0]
            planned = self._planned(kernel, kernel, self.isa) if kernel.op not in cluster.VIEWS else ""
            cycles[owner[kernel]] = cycles.get(owner[kernel], 0.0) + (planned.plan.cycles if isinstance(planned, Planned) else 0.0)
        return cycles

    def _on_cpu(self, kernel: Node, anchor: Node) -> float:
        """The predicted time of the kernel that will be made; what has none yet is taken as arithmetic at its peak."""
        if unknown(kernel) or anchor.op in cluster.VIEWS:
            return 0.0
        planned = self._planned(kernel, anchor, self.isa)
        if isinstance(planned, Planned):
            return _us(self.isa, planned.plan.cycles)
        return _us(self.isa, kernel_cycles(self.isa, node_macs(kernel), node_bytes(kernel)))

    def _planned(self, kernel: Node, anchor: Node, isa: Isa) -> Planned | str:
        return plan(kernel, isa, self.rows if anchor.op in ("MatMul", "Gemm") else self.images)

    def _elsewhere(self, unit: Unit, nodes: Iterable[Node], anchor: Node, facts: Mapping[str, object], kernel: Node | None) -> Offer:
        """What a unit beside the CPU says of a group: all of its operators must run there, and the cost is that of the anchor."""
        for node in nodes:
            if reason := _strange(node):
                return Offer(inf, f"{unit.name} cannot run {node.label}: {reason}")
            own = facts if node is anchor else {**node_facts(node, self.graph), "dtype": facts.get("dtype", "")}
            verdict = self.target.verdict(unit.name, node.op, own)
            if not verdict.runs:
                return Offer(inf, verdict.reason)
        cost = self.target.verdict(unit.name, anchor.op, facts).cost
        if unit.facts.get("compiler") == tflite.COMPILER and kernel is not None and not (anchor.op in MOVES and facts["dtype"] in _BYTES):
            return Offer(inf, f"{unit.name} cannot run {anchor.label}: it is no quantized operator")
        device = self.devices.get(unit.name)
        if isinstance(device, Gpu):
            planned = self._planned(kernel, anchor, device) if kernel is not None and anchor.op not in cluster.VIEWS else None
            if isinstance(planned, str):
                return Offer(inf, f"{unit.name} cannot run {anchor.label}: {planned}")
            if cost is None:
                return Offer(planned.plan.cycles / device.clock_hz * 1e6 if planned is not None else 0.0)
        if cost is None:
            return Offer(inf, f"target {self.target.name} does not say what {anchor.op} costs on {unit.name}")
        launch = float(unit.facts.get("launch", 0)) if cost and unit.kind != "npu" else 0.0
        return Offer((cost + launch) / self.target.clock(unit) * 1e6)


def _us(isa: Isa, cycles: float) -> float:
    return cycles / isa.clock_hz * 1e6


def _bytewise(isa: Isa, macs: int, moved: int, weights: int, footprint: float) -> float:
    """The cycles of a kernel in bytes, at the speed of the instruction that multiplies these."""
    return kernel_cycles(isa, macs, moved, computing=macs / int8_peak(isa), weights=weights, footprint=footprint)


def _strange(node: Node) -> str:
    """Why only the CPU can run a node, whatever a target says: empty when it can be elsewhere."""
    if next(node.bodies, None) is not None:
        return "it has a body"
    reason = unknown(node)
    if reason is None and any(_is_text(v) for v in (*node.inputs, *node.outputs)):
        reason = "it works on text"
    return reason or ""


def _is_text(value: Value | None) -> bool:
    return value is not None and isinstance(value.type, Tensor) and value.type.dtype == "string"


def feeding(graph: Graph, nodes: Iterable[Node], known: set[Node]) -> list[Node]:
    """Those of the constant nodes `known` that these nodes read, and what those read, in no order."""
    found: dict[Node, None] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        for v in reads(node):
            maker = graph.producer.get(v)
            if maker is not None and maker in known and maker not in found:
                found[maker] = None
                waiting.append(maker)
    return list(found)
