"""Graphs on which a rule is tried: its example, and everything near it that a model might hold instead.

A `Specimen` is a plan that is cheap to vary; `build` makes the graph and what is fed to it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor, numpy_dtype
from edgec.lang import expr, syntax
from edgec.rules import facts
from edgec.rules.match import Rule
from edgec.rules.site import plain

Shape = tuple[int, ...]
_FORMS = 4


@dataclass(frozen=True)
class Specimen:
    """A graph to be: `shapes` and `dtypes` of operands by name, explicit `numbers`, `attrs` by the number of the node in the pattern.

    `fills` says how an operand is filled, `absent` which optional ones are left out, `same` which operand is another one, `taps` which
    nodes' outputs (node, output) are results too, `wide` which nodes have all their outputs, `readers` which have one more reader,
    `shared` which weights have; `deep` puts nodes before the inputs and behind the result; `unknown` leaves the shapes of inputs open.
    """

    what: str
    ops: tuple[str, ...]
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, str]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    fills: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    same: Mapping[str, str] = field(default_factory=dict)
    taps: frozenset[tuple[int, int]] = frozenset()
    wide: frozenset[int] = frozenset()
    readers: frozenset[int] = frozenset()
    shared: frozenset[str] = frozenset()
    deep: str = ""
    literal: Shape = ()
    unknown: bool = False

    def but(self, what: str, **changes: Any) -> "Specimen":
        """The same with something else."""
        return replace(self, what=f"{self.what}, {what}" if self.what else what, **changes)


def nodes_of(rule: Rule) -> list[syntax.Pattern]:
    """The nodes of a rule's pattern, operands before their readers."""
    made: list[syntax.Pattern] = []

    def visit(pattern: syntax.Pattern) -> None:
        for operand in pattern.operands:
            if isinstance(operand, syntax.Pattern):
                visit(operand)
        made.append(pattern)

    visit(rule.source.pattern)
    return made


def operands_of(rule: Rule) -> dict[str, syntax.Variable | syntax.Constant]:
    """The operands of a rule's pattern that an example describes."""
    nodes = nodes_of(rule)
    made = {n.name for n in nodes}
    return {o.name: o for n in nodes for o in n.operands if isinstance(o, syntax.Variable | syntax.Constant) and o.name not in made}


def examples(rule: Rule) -> Iterator[Specimen]:
    """What the rule's examples describe, for each choice of operators."""
    nodes, operands = nodes_of(rule), operands_of(rule)
    for i, example in enumerate(rule.source.examples):
        said = {s.name: s for s in example}
        shapes = {n: tuple(int(expr.evaluate(d, {})) for d in s.shape) for n, s in said.items() if s.dtype is not None}
        values = {n: plain(expr.evaluate(s.value, {})) for n, s in said.items() if s.value is not None}
        attrs: dict[int, dict[str, Any]] = {}
        for k, node in enumerate(nodes):
            attrs[k] = {}
            for want in node.wants:
                if not isinstance(want.value, expr.Name):
                    attrs[k][want.key] = plain(expr.evaluate(want.value, values))
                elif want.value.name in values:
                    attrs[k][want.key] = values[want.value.name]
        for ops in product(*(n.operators for n in nodes)):
            chosen = "" if all(len(n.operators) == 1 for n in nodes) else f" with {', '.join(ops)}"
            dtypes = {n: s.dtype for n, s in said.items() if s.dtype is not None}
            numbers = {n: v for n, v in values.items() if n in operands}
            absent = frozenset(n for n in operands if n not in said)
            yield Specimen(f"example {i + 1}{chosen}", ops, shapes, dtypes, numbers, attrs, absent=absent)


class _Build:
    def __init__(self, rule: Rule, plan: Specimen) -> None:
        self.rule, self.plan, self.rng = rule, plan, np.random.default_rng(0)
        self.values: dict[str, Value] = {}
        self.bound: dict[str, Value] = {}
        self.inputs: list[Value] = []
        self.weights: dict[Value, Array] = {}
        self.feeds: dict[str, Array] = {}
        self.nodes: list[Node] = []
        self.made: list[Node] = []

    def graph(self) -> Graph:
        """The whole specimen."""
        result = self.node(self.rule.source.pattern)
        outputs = [result] if self.plan.deep not in ("behind", "around") else [self.after(result)]
        outputs += [self.made[i].outputs[k] for i, k in sorted(self.plan.taps)]
        outputs += [self.after(self.made[i].output) for i in sorted(self.plan.readers)]
        outputs += [self.after(self.values[n]) for n in sorted(self.plan.shared)]
        outputs += [self.values[n] for n in self.values if self.plan.deep == "around" and self.values[n] not in self.weights]
        return Graph(self.rule.name, tuple(self.inputs), tuple(dict.fromkeys(outputs)), tuple(self.nodes), self.weights)

    def after(self, value: Value) -> Value:
        made = Value(f"{value.name}_again")
        self.nodes.append(Node("Identity", (value,), (made,)))
        return made

    def node(self, pattern: syntax.Pattern) -> Value:
        operands: list[Value | None] = [self.operand(o) for o in pattern.operands if not isinstance(o, syntax.Rest)]
        while operands and operands[-1] is None:
            operands.pop()
        i = len(self.made)
        op, attrs = self.plan.ops[i], MappingProxyType(dict(self.plan.attrs.get(i, {})))
        count = facts.results(op) if i in self.plan.wide else 1 + max((k for n, k in self.plan.taps if n == i), default=0)
        outputs = tuple(Value(f"made{i}" + (f".{k}" if k else "")) for k in range(count))
        self.made.append(Node(op, tuple(operands), outputs, attrs, origin=f"n{i}"))
        self.nodes.append(self.made[-1])
        if pattern.name:
            self.bound[pattern.name] = outputs[0]
        return outputs[0]

    def operand(self, operand: syntax.Operand) -> Value | None:
        match operand:
            case syntax.Pattern():
                return self.node(operand)
            case syntax.Number(number):
                kind = next(iter(self.plan.dtypes.values()))
                array = np.full(self.plan.literal, number).astype(numpy_dtype(kind))
                value = Value(f"number{len(self.weights)}", Tensor(kind, array.shape))
                self.weights[value] = array
                return value
            case syntax.Variable(name) if name in self.bound:
                return self.bound[name]
            case syntax.Variable(name) | syntax.Constant(name) if name not in self.plan.absent:
                return self.named(self.plan.same.get(name, name), constant=isinstance(operand, syntax.Constant))
        return None

    def named(self, name: str, *, constant: bool) -> Value:
        if name in self.values:
            return self.values[name]
        kind, shape = self.plan.dtypes[name], self.plan.shapes[name]
        array = self.array(name, kind, shape, constant=constant)
        value = Value(name, Tensor(kind, None if self.plan.unknown and not constant else array.shape))
        if constant:
            self.weights[value] = array
        else:
            self.inputs.append(value)
            self.feeds[name] = array
            if self.plan.deep in ("before", "around") and kind != "bool":
                made = Value(f"{name}_turned")
                self.nodes.append(Node("Neg", (value,), (made,)))
                value = made
        self.values[name] = value
        return value

    def array(self, name: str, kind: str, shape: Shape, *, constant: bool) -> Array:
        if name in self.plan.numbers:
            return np.broadcast_to(np.asarray(self.plan.numbers[name]), shape).astype(numpy_dtype(kind))
        fill = self.plan.fills.get(name, "")
        if kind == "bool":
            return self.rng.integers(0, 2, shape).astype(np.bool_)
        if not kind.startswith(("f", "bf")):
            low = 0 if kind.startswith("u") else -5
            made = self.rng.integers(1 if constant else low, 6, shape)
            if fill == "large":
                made = np.iinfo(numpy_dtype(kind)).max // 2 - made
            if fill == "negative" and low:
                made = -made
            return np.asarray(made * 0 if fill == "zero" else made).astype(numpy_dtype(kind))
        real = self.rng.standard_normal(shape)
        if constant:
            real = np.abs(real) + 0.5
        return np.asarray(_filled(real, fill)).astype(numpy_dtype(kind))


def _filled(real: Array, fill: str) -> Array:
    match fill:
        case "zero":
            return np.zeros_like(real)
        case "negative":
            return -np.abs(real) - 0.1
        case "large":
            return real * 100
        case "small":
            return real * 1e-4
    special = {"nan": [np.nan], "inf": [np.inf], "-inf": [-np.inf], "some": [0.0, -1.5, -0.0]}.get(fill, [])
    flat = np.array(real).reshape(-1)
    for i, number in enumerate(special):
        flat[i * 7 % max(flat.size, 1):][:1] = number
    return flat.reshape(np.shape(real))


def build(rule: Rule, plan: Specimen) -> tuple[Graph, dict[str, Array], list[Node]]:
    """The graph of a plan without types, what is fed to it, and the nodes of the pattern in it."""
    made = _Build(rule, plan)
    graph = made.graph()
    return graph, made.feeds, made.made


def forms(shape: Shape) -> Iterator[Shape]:
    """The shapes near one: broadcast along any axes, axes fewer or more, other extents."""
    if len(shape) <= _FORMS:
        for ones in product((False, True), repeat=len(shape)):
            yield tuple(1 if one else d for one, d in zip(ones, shape, strict=True))
    for k in range(1, len(shape) + 1):
        yield shape[k:]
        yield (*shape[k:], *[1] * k)
    yield (1, *shape)
    yield (2, *shape)
    yield (*shape, 1)
    for axis, extent in enumerate(shape):
        for other in {extent + 1, 2 * extent, 3, 2} - {extent}:
            yield (*shape[:axis], other, *shape[axis + 1:])
