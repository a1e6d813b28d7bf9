"""From a graph of kernels to a Program: plans, memory, weights, steps."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgec.codegen import memory as memory_plan
from edgec.codegen.c_source import identifier
from edgec.codegen.object import kernel_symbol
from edgec.codegen.pipelines import beside, pipelines
from edgec.codegen.place import VIEW_OPS, Place, Places
from edgec.codegen.program import HOST, Buffer, Call, Copy, Kernel, Launch, Operand, Port, Program, Step, Unit, Wait
from edgec.codegen.threads import alone
from edgec.codegen.transfer import Move, Work, transfers
from edgec.errors import UnsupportedModel
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.layout import View
from edgec.ir.types import dtype_bits
from edgec.isa import Device, Isa, Npu
from edgec.kernels.base import KernelPlan, Operands, Planned
from edgec.kernels.expr import ELEMENTWISE
from edgec.kernels.plan import copy, packed, plan, unknown

_ALIGN, _LEAST_ALIGN = 64, 8
_TIGHT = 1.05


Units = Mapping[str, Device]
Refine = Callable[[Node, Isa, Operands, Planned], Planned]
"""Hears of each kernel of the CPU that was planned for a node, and answers with this plan or another one for the same node."""


@dataclass(frozen=True)
class Schedule:
    """A Program, plans of its kernels by key, bytes of its weights by buffer number, and `notes` that are worth a line in a report.

    `plans` are the CPU's, `launched` those of each other unit, by its name.
    """

    program: Program
    plans: Mapping[str, KernelPlan]
    weights: Mapping[int, bytes]
    notes: tuple[str, ...] = ()
    launched: Mapping[str, Mapping[str, KernelPlan]] = field(default_factory=dict)

    def plan(self, key: str) -> KernelPlan:
        """The plan of a kernel of any unit."""
        return next(plans[key] for plans in (self.plans, *self.launched.values()) if key in plans)


def schedule(graph: Graph, isa: Isa, name: str, advise: Callable[[Collection[str]], str] = lambda _: "",
             units: Units | None = None, refine: Refine | None = None) -> Schedule:
    """The schedule of a graph whose nodes are kernels and views. A node runs on that of `units` which its device names, else on the CPU.

    UnsupportedModel lists every node that no kernel is written for, and what `advise` says for their origins.
    """
    units = units or {}
    refused = _hopeless(graph, isa, units)
    if not refused:
        graph = _own_results(graph)
        places = Places(graph)
        steps, refused = _steps(graph, places, isa, units, refine or (lambda _node, _isa, _operands, made: made))
    if refused:
        lines = "\n".join(f"  {node.label}: {why}" for node, why in refused)
        many = f"{len(refused)} node{'s' * (len(refused) != 1)}"
        advice = advise({n.origin for n, _ in refused})
        raise UnsupportedModel(f"no kernel can be made for {many}:\n{lines}{advice}", [n.label for n, _ in refused])
    return _Assembly(graph, places, transfers(graph, places, steps), isa, units, identifier(name)).run()


def _hopeless(graph: Graph, isa: Isa, units: Units) -> list[tuple[Node, str]]:
    """What nothing can be planned for, when there is a value whose size is not known: no value has a place then."""
    if not any(unknown(n) for n in graph.nodes):
        return []
    straight = Operands.of(graph.weights, lambda v: v.tensor.view)
    answers = ((n, unknown(n) if n.op in VIEW_OPS or n.op == "Concat" else plan(n, units.get(n.device or "", isa), straight))
               for n in graph.nodes)
    return [(n, why) for n, why in answers if isinstance(why, str)]


def _own_results(graph: Graph) -> Graph:
    """The graph in which a result that is also an input, a weight or another result is a copy of it, for it has memory of its own."""
    taken, copies, outputs = {*graph.inputs, *graph.weights}, list[Node](), list[Value]()
    for value in graph.outputs:
        result = value
        if value in taken:
            result = Value(value.name, value.type)
            copies.append(Node("Identity", (value,), (result,)))
        taken.add(result)
        outputs.append(result)
    return replace(graph, nodes=(*graph.nodes, *copies), outputs=tuple(outputs)) if copies else graph


def _steps(graph: Graph, places: Places, cpu: Isa, units: Units, refine: Refine) -> tuple[list[Work], list[tuple[Node, str]]]:
    operands = Operands.of(graph.weights, lambda v: places[v].view)
    steps: list[Work] = []
    refused: list[tuple[Node, str]] = []
    for node in graph.nodes:
        if not any(v.tensor.elements for v in node.outputs):
            continue
        device = units.get(node.device or "")
        if device is None and node.device not in (None, HOST) and node.op != "edgec.Region":
            refused.append((node, f"edgec writes no code for the unit {node.device}"))
            continue
        isa = device or cpu
        on = (node.device or HOST, node.device or HOST if device and device.own_memory else HOST) if device else (HOST, HOST)
        if node.op in VIEW_OPS or node.op == "Concat":
            for move in places.copied.get(node, ()):
                made = copy(move.source, move.read.view, move.write.view, isa)
                if isinstance(made, str):
                    refused.append((node, made))
                else:
                    steps.append(Work(made, node, (node.outputs[0],), (move.write,), isa, *on, {move.source: move.read}))
            continue
        made = plan(node, isa, operands)
        if isinstance(made, str):
            refused.append((node, made))
        else:
            made = refine(node, isa, operands, made) if device is None else made
            values = made.outputs or node.outputs[:1]
            steps.append(Work(made, node, values, tuple(places[v] for v in values), isa, *on))
    return steps, refused


class _Assembly:
    """Buffers and steps as they are numbered. A storage in a memory is a buffer; scratch goes by the number of its step."""

    def __init__(self, graph: Graph, places: Places, steps: list[Work | Move], cpu: Isa, units: Units, name: str) -> None:
        self.graph, self.places, self.steps, self.cpu, self.devices, self.name = graph, places, steps, cpu, units, name
        self.behind, self.alone = pipelines(steps, places, cpu), alone(steps, cpu)
        self.memories = (HOST, *(n for n, d in units.items() if d.own_memory and any(s.unit == n for s in steps)))
        self.buffers: list[Buffer] = []
        self.number: dict[object, int] = {}
        self.weights: dict[int, bytes] = {}
        self.weights_bytes = dict.fromkeys(self.memories, 0)
        self.stored: dict[tuple[str, Value, bytes], int] = {}
        self.c_names: set[str] = set()
        self.prepared_bytes = 0
        self.prepared: dict[tuple[Value, str], int] = {}
        self.prepare: list[Call] = []
        self.plans: dict[str, dict[str, KernelPlan]] = {}
        self.kernels: dict[str, Kernel] = {}

    def run(self) -> Schedule:
        ports_in = self._ports("input", self.graph.inputs)
        ports_out = self._ports("output", self.graph.outputs)
        arenas = {memory: self._arena(memory) for memory in self.memories}
        steps = list[Step]()
        busy = dict[str, None]()                               # units that may still work in the CPU's memory
        for i, step in enumerate(self.steps):
            if isinstance(step, Move):
                steps += [*map(Wait, busy), self._copy(step)]
                busy.clear()
                continue
            what = step.planned.plan
            symbol = self._kernel(what, _kind(step.node, what), step.isa, step.unit)
            tasks, rounds = (1, what.span) if i in self.alone else (what.tasks, what.rounds)
            facts = (symbol, tuple(self._operands(i, step)), tasks, step.node.origin or step.node.op, step.values[0].name,
                     *_operators(step.node))
            if step.unit == HOST:
                steps += [*map(Wait, busy), Call(*facts, rounds=rounds, behind=self.behind.get(i, 0))]
                busy.clear()
            else:
                steps.append(Launch(*facts, step.unit, step.isa.group if isinstance(step.isa, Device) else 1))
                busy |= {step.unit: None} if step.memory == HOST else {}
        steps += map(Wait, busy)
        offsets = self._lay_out_weights({o.buffer for s in steps for o in s.operands})
        units = tuple(Unit(n, d.driver, arenas.get(n, (0, 0))[0], offsets.get(n, 0), self.weights_bytes.get(n, 0))
                      for n, d in self.devices.items() if any(isinstance(s, Launch) and s.unit == n for s in steps))
        program = Program(self.name, tuple(self.buffers), tuple(steps), ports_in, ports_out, self.kernels,
                          weights_bytes=sum(self.weights_bytes.values()), arena_bytes=arenas[HOST][0], arena_lower_bound=arenas[HOST][1],
                          prepared_bytes=self.prepared_bytes, alignment=_ALIGN, units=units, prepare=tuple(self.prepare))
        return Schedule(program, self.plans.get(HOST, {}), self.weights, (), {n: p for n, p in self.plans.items() if n != HOST})

    def _kernel(self, what: KernelPlan, kind: str, isa: Isa | Device, unit: str) -> str:
        """The key of a kernel, which is now known to be needed."""
        symbol = kernel_symbol(what, isa)
        self.plans.setdefault(unit, {}).setdefault(symbol, what)
        self.kernels.setdefault(symbol, Kernel(symbol, kind, what.algo, what.generic, what.macs, what.bytes, _scratch_bytes(what),
                                               what.cycles * self.cpu.clock_hz / isa.clock_hz, len(what.args), unit))
        return symbol

    def _lay_out_weights(self, read: Collection[int]) -> dict[str, int]:
        """Where each memory's part of the file of weights begins: the CPU's first, and its last those that only `prepare` reads."""
        begin, at = dict[str, int](), 0
        last = {o.buffer: i for i, s in enumerate(self.prepare) for o in s.operands if not o.write and o.buffer not in read}
        for memory in self.memories:
            begin[memory] = at
            for i in sorted((i for i in self.weights if self.buffers[i].unit == memory), key=lambda i: (last.get(i, -1), i)):
                self.buffers[i] = replace(self.buffers[i], offset=at)
                at += -(-self.buffers[i].bytes // _ALIGN) * _ALIGN
        return begin

    def _copy(self, step: Move) -> Copy:
        operands = (Operand(self.number[step.root, step.source]), Operand(self.number[step.root, step.target], 0, write=True))
        return Copy(operands, step.root.tensor.bytes, step.unit, "", step.root.name)

    def _ports(self, region: str, values: tuple[Value, ...]) -> tuple[Port, ...]:
        ports = []
        for i, value in enumerate(values):
            c_name = base = identifier(value.name)
            while c_name in self.c_names:
                c_name = f"{base}_{len(self.c_names)}"
            self.c_names.add(c_name)
            number = self._buffer((region, i), Buffer(value.name, "input" if region == "input" else "output", i, value.tensor.bytes))
            self.number[value, HOST] = number
            ports.append(Port(value.name, c_name, value.tensor.dtype, value.dims, number))
        return tuple(ports)

    def _buffer(self, key: object, buffer: Buffer) -> int:
        self.number[key] = len(self.buffers)
        self.buffers.append(buffer)
        return self.number[key]

    def _arena(self, memory: str) -> tuple[int, int]:
        """Arena offsets for every storage in a memory that is no input, output or weight, and for scratch; (bytes, lower bound)."""
        life: dict[object, list[int]] = {}
        size: dict[object, int] = {}
        logical: dict[object, bool] = {}
        for i, step in enumerate(self.steps):
            first, last = beside(self.behind, i)
            for root in self._roots(step, memory):
                if (root, memory) not in self.number and root not in self.graph.weights:
                    life.setdefault((root, memory), [first, last])[1] = last
                    size[root, memory] = root.tensor.bytes
                    logical[root, memory] = True
            if isinstance(step, Work) and step.memory == memory and _scratch_bytes(step.planned.plan):
                life[i], size[i] = [first, last], _scratch_bytes(step.planned.plan)
        keys = list(life)
        lifetimes = [(size[k], life[k][0], life[k][1]) for k in keys]
        offsets, total = memory_plan.plan(lifetimes, _ALIGN)
        aligned = any(isinstance(s, Work) and isinstance(s.isa, Npu) for s in self.steps)
        if memory == HOST and not aligned and total > _TIGHT * memory_plan.lower_bound(lifetimes):
            offsets, total = memory_plan.plan(lifetimes, _LEAST_ALIGN)   # small tensors: whole lines for each would be most of the arena
        for key, offset in zip(keys, offsets, strict=True):
            name = key[0].name if isinstance(key, tuple) else f"scratch of step {key}"
            self._buffer(key, Buffer(name, "arena", offset, size[key], memory))
        return total, memory_plan.lower_bound([(size[k], life[k][0], life[k][1]) for k in keys if k in logical])

    def _roots(self, step: Work | Move, memory: str) -> list[Value]:
        """The storages in a memory that a step touches."""
        if isinstance(step, Move):
            return [step.root] if memory in (step.source, step.target) else []
        if step.memory != memory:
            return []
        return [self.places[v].root for v in step.planned.inputs] + [place.root for place in step.writes]

    def _operands(self, i: int, step: Work) -> list[Operand]:
        what = step.planned.plan
        values, results = iter(step.planned.inputs), zip(step.writes, step.values, strict=True)
        made: list[Operand] = []
        for position, arg in enumerate(what.args):
            if arg.role == "output":
                made.append(self._operand(*next(results), step.memory, write=True))
            elif arg.role == "scratch":
                made.append(Operand(self.number[i], 0, write=True))
            else:
                value = next(values)
                place = step.views.get(value, self.places[value])
                if place.root in self.graph.weights:
                    made.append(self._weight(what, position, value, place, step.memory))
                else:
                    made.append(self._operand(place, value, step.memory, write=False))
        return made

    def _operand(self, place: Place, value: Value, memory: str, *, write: bool) -> Operand:
        return Operand(self.number[place.root, memory], place.offset * dtype_bits(value.tensor.dtype) // 8, write)

    def _weight(self, what: KernelPlan, position: int, value: Value, place: Place, memory: str) -> Operand:
        array = self.graph.weights[place.root]
        if what.args[position].role == "prepared":
            return self._prepared(dict(what.prepare)[position], value, place)
        if what.args[position].role == "weight":
            array = packed(what, position, array)
        data = np.ascontiguousarray(array).tobytes()
        # what merely has the same numbers now is another weight: code must not depend on it
        number = self.stored.get((memory, place.root, data))
        if number is None:
            at = self.weights_bytes[memory]
            number = self._buffer(("weight", len(self.buffers)), Buffer(value.name, "weights", at, len(data), memory))
            self.stored[memory, place.root, data] = number
            self.weights[number] = data
            self.weights_bytes[memory] += -(-len(data) // _ALIGN) * _ALIGN
        return Operand(number, place.offset * dtype_bits(value.tensor.dtype) // 8)


    def _prepared(self, what: KernelPlan, value: Value, place: Place) -> Operand:
        """What a kernel makes of a weight before the first run."""
        symbol = self._kernel(what, what.kind, self.cpu, HOST)
        if (place.root, symbol) not in self.prepared:
            size = next(a.elements * dtype_bits(a.dtype) // 8 for a in what.args if a.role == "output")
            number = self._buffer(("prepared", len(self.buffers)), Buffer(f"{value.name}.prepared", "prepared", self.prepared_bytes, size))
            self.prepared[place.root, symbol] = number
            self.prepared_bytes += -(-size // _ALIGN) * _ALIGN
            operands = (self._weight(what, 0, value, place, HOST), Operand(number, 0, write=True))
            self.prepare.append(Call(symbol, operands, what.tasks, value.name, f"{value.name}.prepared"))
        return Operand(self.prepared[place.root, symbol])


def _kind(node: Node, what: KernelPlan) -> str:
    return str(node.attrs.get("kind", what.kind)) if node.op == "edgec.Fused" else node.op.lower()


def _operators(node: Node) -> tuple[str, tuple[str, ...]]:
    """The operator that a kernel is about, and those of its region that were taken into it."""
    if node.op != "edgec.Fused":
        return node.op, ()
    ops = [n.op for n in node.attrs["body"].nodes]
    anchor = next((op for op in ops if op not in ELEMENTWISE), ops[0])
    ops.remove(anchor)
    return anchor, tuple(ops)


def _scratch_bytes(what: KernelPlan) -> int:
    return sum(a.elements * dtype_bits(a.dtype) // 8 * what.tasks for a in what.args if a.role == "scratch")


__all__ = ["Array", "Schedule", "View", "schedule"]
