"""From a graph of kernels to a Program: plans, memory, weights, steps."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgec.codegen import memory
from edgec.codegen.c_source import identifier
from edgec.codegen.object import kernel_symbol
from edgec.codegen.place import VIEW_OPS, Place, Places
from edgec.codegen.program import Buffer, Call, Kernel, Operand, Port, Program
from edgec.errors import UnsupportedModel
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.layout import View
from edgec.ir.types import dtype_bits
from edgec.isa import Isa
from edgec.kernels import plan_map
from edgec.kernels.base import KernelPlan, Operands, Planned
from edgec.kernels.expr import ELEMENTWISE
from edgec.kernels.plan import packed, plan, unknown

_ALIGN, _LEAST_ALIGN = 64, 8
_TIGHT = 1.05


@dataclass(frozen=True)
class Schedule:
    """A Program, plans of its kernels by key, bytes of its weights by buffer number, and `notes` that are worth a line in a report."""

    program: Program
    plans: Mapping[str, KernelPlan]
    weights: Mapping[int, bytes]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Step:
    planned: Planned
    node: Node
    values: tuple[Value, ...]
    writes: tuple[Place, ...]
    views: Mapping[Value, Place] = field(default_factory=dict)


def schedule(graph: Graph, isa: Isa, name: str, advise: Callable[[Collection[str]], str] = lambda _: "") -> Schedule:
    """The schedule of a graph whose nodes are kernels and views.

    UnsupportedModel lists every node that no kernel is written for, and what `advise` says for their origins.
    """
    refused = _hopeless(graph, isa)
    if not refused:
        graph = _own_results(graph)
        places = Places(graph)
        steps, refused = _steps(graph, places, isa)
    if refused:
        lines = "\n".join(f"  {node.label}: {why}" for node, why in refused)
        many = f"{len(refused)} node{'s' * (len(refused) != 1)}"
        advice = advise({n.origin for n, _ in refused})
        raise UnsupportedModel(f"no kernel can be made for {many}:\n{lines}{advice}", [n.label for n, _ in refused])
    return _Assembly(graph, places, steps, isa, identifier(name)).run()


def _hopeless(graph: Graph, isa: Isa) -> list[tuple[Node, str]]:
    """What nothing can be planned for, when there is a value whose size is not known: no value has a place then."""
    if not any(unknown(n) for n in graph.nodes):
        return []
    straight = Operands.of(graph.weights, lambda v: v.tensor.view)
    answers = ((n, unknown(n) if n.op in VIEW_OPS or n.op == "Concat" else plan(n, isa, straight)) for n in graph.nodes)
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


def _steps(graph: Graph, places: Places, isa: Isa) -> tuple[list[_Step], list[tuple[Node, str]]]:
    operands = Operands.of(graph.weights, lambda v: places[v].view)
    steps: list[_Step] = []
    refused: list[tuple[Node, str]] = []
    for node in graph.nodes:
        if not any(v.tensor.elements for v in node.outputs):
            continue
        if node.op in VIEW_OPS or node.op == "Concat":
            for copy in places.copied.get(node, ()):
                made = plan_map.copy(copy.source, copy.read.view, copy.write.view, isa)
                if isinstance(made, str):
                    refused.append((node, made))
                else:
                    steps.append(_Step(made, node, (node.outputs[0],), (copy.write,), {copy.source: copy.read}))
            continue
        made = plan(node, isa, operands)
        if isinstance(made, str):
            refused.append((node, made))
        else:
            values = made.outputs or node.outputs[:1]
            steps.append(_Step(made, node, values, tuple(places[v] for v in values)))
    return steps, refused


class _Assembly:
    """Buffers and steps as they are numbered."""

    def __init__(self, graph: Graph, places: Places, steps: list[_Step], isa: Isa, name: str) -> None:
        self.graph, self.places, self.steps, self.isa, self.name = graph, places, steps, isa, name
        self.buffers: list[Buffer] = []
        self.number: dict[object, int] = {}
        self.weights: dict[int, bytes] = {}
        self.weights_bytes = 0
        self.stored: dict[tuple[Value, bytes], int] = {}
        self.c_names: set[str] = set()

    def run(self) -> Schedule:
        ports_in = self._ports("input", self.graph.inputs)
        ports_out = self._ports("output", self.graph.outputs)
        arena, bound = self._arena()
        calls, plans, kernels = [], dict[str, KernelPlan](), dict[str, Kernel]()
        for i, step in enumerate(self.steps):
            what = step.planned.plan
            symbol = kernel_symbol(what, self.isa)
            plans.setdefault(symbol, what)
            kernels.setdefault(symbol, Kernel(symbol, _kind(step.node, what), what.algo, what.generic, what.macs, what.bytes,
                                              _scratch_bytes(what), what.cycles, len(what.args)))
            calls.append(Call(symbol, tuple(self._operands(i, step)), what.tasks, step.node.origin or step.node.op, step.values[0].name,
                              *_operators(step.node)))
        program = Program(self.name, tuple(self.buffers), tuple(calls), ports_in, ports_out, kernels, weights_bytes=self.weights_bytes,
                          arena_bytes=arena, arena_lower_bound=bound, alignment=_ALIGN)
        return Schedule(program, plans, self.weights)

    def _ports(self, region: str, values: tuple[Value, ...]) -> tuple[Port, ...]:
        ports = []
        for i, value in enumerate(values):
            c_name = base = identifier(value.name)
            while c_name in self.c_names:
                c_name = f"{base}_{len(self.c_names)}"
            self.c_names.add(c_name)
            number = self._buffer((region, i), Buffer(value.name, "input" if region == "input" else "output", i, value.tensor.bytes))
            self.number[value] = number
            ports.append(Port(value.name, c_name, value.tensor.dtype, value.dims, number))
        return tuple(ports)

    def _buffer(self, key: object, buffer: Buffer) -> int:
        self.number[key] = len(self.buffers)
        self.buffers.append(buffer)
        return self.number[key]

    def _arena(self) -> tuple[int, int]:
        """Arena offsets for every storage that is no input, output or weight, and for scratch; (bytes, lower bound)."""
        life: dict[object, list[int]] = {}
        size: dict[object, int] = {}
        logical: dict[object, bool] = {}
        for i, step in enumerate(self.steps):
            roots = [self.places[v].root for v in step.planned.inputs] + [place.root for place in step.writes]
            for root in roots:
                if root not in self.number and root not in self.graph.weights:
                    life.setdefault(root, [i, i])[1] = i
                    size[root] = root.tensor.bytes
                    logical[root] = True
            if _scratch_bytes(step.planned.plan):
                life[i], size[i] = [i, i], _scratch_bytes(step.planned.plan)
        keys = list(life)
        lifetimes = [(size[k], life[k][0], life[k][1]) for k in keys]
        offsets, total = memory.plan(lifetimes, _ALIGN)
        if total > _TIGHT * memory.lower_bound(lifetimes):      # small tensors: whole cache lines for each would be most of the arena
            offsets, total = memory.plan(lifetimes, _LEAST_ALIGN)
        for key, offset in zip(keys, offsets, strict=True):
            self._buffer(key, Buffer(key.name if isinstance(key, Value) else f"scratch of step {key}", "arena", offset, size[key]))
        return total, memory.lower_bound([(size[k], life[k][0], life[k][1]) for k in keys if k in logical])

    def _operands(self, i: int, step: _Step) -> list[Operand]:
        what = step.planned.plan
        values, results = iter(step.planned.inputs), zip(step.writes, step.values, strict=True)
        made: list[Operand] = []
        for position, arg in enumerate(what.args):
            if arg.role == "output":
                made.append(self._operand(*next(results), write=True))
            elif arg.role == "scratch":
                made.append(Operand(self.number[i], 0, write=True))
            else:
                value = next(values)
                place = step.views.get(value, self.places[value])
                if place.root in self.graph.weights:
                    made.append(self._weight(what, position, value, place))
                else:
                    made.append(self._operand(place, value, write=False))
        return made

    def _operand(self, place: Place, value: Value, *, write: bool) -> Operand:
        return Operand(self.number[place.root], place.offset * dtype_bits(value.tensor.dtype) // 8, write)

    def _weight(self, what: KernelPlan, position: int, value: Value, place: Place) -> Operand:
        array = self.graph.weights[place.root]
        if what.args[position].role == "weight":
            array = packed(what, position, array)
        data = np.ascontiguousarray(array).tobytes()
        # what merely has the same numbers now is another weight: code must not depend on it
        number = self.stored.get((place.root, data))
        if number is None:
            number = self._buffer(("weight", len(self.buffers)), Buffer(value.name, "weights", self.weights_bytes, len(data)))
            self.stored[place.root, data] = number
            self.weights[number] = data
            self.weights_bytes += -(-len(data) // _ALIGN) * _ALIGN
        return Operand(number, place.offset * dtype_bits(value.tensor.dtype) // 8)


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
