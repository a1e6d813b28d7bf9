"""What a rule puts where it holds, and rules over a whole graph.

Constants are computed in float64 and rounded once, to the element type of the replaced value; integers keep their type.
A rule that would store more weights than before, lose a number to infinity, or make a value of another type, does not hold.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from edgec.errors import EdgecError
from edgec.ir.edit import origins
from edgec.ir.graph import REGIONS, Array, Graph, Node, Value
from edgec.ir.infer import infer
from edgec.ir.types import Tensor, dtype_name, numpy_dtype
from edgec.lang import expr, syntax
from edgec.rules import facts
from edgec.rules.helpers import Typed
from edgec.rules.match import Match, Matcher, Rule
from edgec.rules.site import Absent, NoMatch, Site, plain, stored, value_of

_SMALL = 256
_SHARE = 64
_CROWD = 16


@dataclass
class Change:
    """New nodes, in order, with new weights; or no node and a value that is read instead."""

    nodes: list[Node] = field(default_factory=list)
    weights: dict[Value, Array] = field(default_factory=dict)
    forward: Value | None = None


def try_rule(rule: Rule, graph: Graph, node: Node) -> Graph:
    """The graph after one use of a rule at a node; NoMatch says why it does not hold there."""
    site = Site(graph)
    matcher = Matcher(rule, site)
    if _apply(matcher, node) is None:
        raise NoMatch(matcher.why)
    return site.finish()


def why_not(rule: Rule, graph: Graph, node: Node) -> str | None:
    """Why a rule does not hold at a node, None when it does."""
    try:
        try_rule(rule, graph, node)
    except NoMatch as reason:
        return str(reason)
    return None


def rewrite(graph: Graph, rules: Sequence[Rule], may: Callable[[str], bool] = lambda _: True,
            did: Callable[[str, Node], None] = lambda _, __: None) -> Graph:
    """The graph when no rule holds anywhere any more, bodies included but for fused regions; the same object when none did.

    At each node the rules are tried in their order. `may` says whether a rule may be used now, `did` hears of each use:
    the rule and the node that it was done to. EdgecError when the rules do not end.
    """
    engine = _Engine(rules, may, did, 200 + 50 * sum(1 for _ in graph.walk()))
    while True:
        made = engine.sweep(graph, None)
        if made is graph:
            return graph
        graph = made


class _Engine:
    def __init__(self, rules: Sequence[Rule], may: Callable[[str], bool], did: Callable[[str, Node], None], patience: int) -> None:
        self.may, self.did, self.patience = may, did, patience
        self.rules: dict[str, list[Rule]] = {}
        for rule in rules:
            for op in rule.roots:
                self.rules.setdefault(op, []).append(rule)
        self.depth = max((r.depth for r in rules), default=1)
        self.last: deque[str] = deque(maxlen=20)

    def sweep(self, graph: Graph, outer: Site | None) -> Graph:
        """The graph after its nodes, and those that come of them, were looked at once and whenever something near them changed."""
        site = Site(graph, outer)
        queue: deque[Node] = deque(graph.nodes)
        waiting = set(queue)
        while queue:
            node = queue.popleft()
            waiting.discard(node)
            if not site.alive(node):
                continue
            if node.op not in REGIONS and (bodies := {k: new for k, b in node.bodies if (new := self.sweep(b, site)) is not b}):
                site.swap(node, old := replace(node, attrs=MappingProxyType({**node.attrs, **bodies})))
                node = old
            found = self.first(site, node)
            for near in found:
                if near not in waiting and site.alive(near):
                    waiting.add(near)
                    queue.append(near)
        return site.finish()

    def first(self, site: Site, node: Node) -> Iterable[Node]:
        """The nodes to look at again after the first rule that holds at a node was used; none when none holds."""
        for rule in self.rules.get(node.op, ()):
            if not self.may(rule.name):
                continue
            change = _apply(Matcher(rule, site), node)
            if change is None:
                continue
            self.did(rule.name, node)
            self.last.append(rule.name)
            self.patience -= 1
            if self.patience < 0:
                raise EdgecError(f"the rules do not end on {site.graph.name}: {', '.join(sorted(set(self.last)))} undo each other")
            return self.near(site, change, node)
        return ()

    def near(self, site: Site, change: Change, node: Node) -> Iterable[Node]:
        """The new nodes, and the readers of what they make and read: where a rule may hold that did not hold before."""
        found: dict[Node, None] = dict.fromkeys(change.nodes)
        edge = [site.now(node.output)]
        for _ in range(self.depth):
            readers = [r for v in edge for r in site.readers(v)[:_CROWD]]
            found.update(dict.fromkeys(readers))
            edge = [v for r in readers for v in r.outputs]
        read = {site.now(v) for v in node.inputs if v is not None}
        found.update(dict.fromkeys(r for v in read for r in site.readers(v)[:_CROWD]))
        return found


def _apply(matcher: Matcher, root: Node) -> Change | None:
    """Use the rule where it first holds to the end; None, with the matcher's reason, when it does not."""
    for match in matcher.at(root):
        try:
            change = _Builder(matcher, match).change()
            if change.forward is not None:
                matcher.site.forward(root, change.forward)
            else:
                matcher.site.replace(root, tuple(change.nodes), change.weights)
        except NoMatch as reason:
            matcher.refuse(match, str(reason))
            continue
        return change
    return None


class _Builder:
    """The result of one match, before the graph knows of it."""

    def __init__(self, matcher: Matcher, match: Match) -> None:
        self.matcher, self.match, self.site = matcher, match, matcher.site
        self.root, self.made = match.nodes[0], Change()
        self.origin = origins(reversed(match.nodes))

    def change(self) -> Change:
        """The new nodes and weights; NoMatch when they would not do."""
        result = self.matcher.rule.source.result
        if isinstance(result, syntax.Forward):
            value = value_of(self.match.names[result.name])
            if value is None:
                raise NoMatch(f"{result.name} is absent")
            self.same_type(value)
            self.made.forward = value
            if self.root.output in self.site.results and self.root.op != "Identity" and (
                    self.site.maker(value) is None or value in self.site.results):
                self.made.forward = None  # the result keeps its name, so something has to make it
                self.made.nodes = [Node("Identity", (value,), (self.root.output,), {}, self.root.device, self.origin)]
            return self.made
        self.build(result, self.root.output)
        self.infer()
        self.weigh()
        return self.made

    def build(self, result: syntax.Build, output: Value) -> None:
        """One node, those that it reads first."""
        attrs: dict[str, Any] = {}
        for give in result.gives:
            if isinstance(give, syntax.Spread):
                source = self.match.names[give.name]
                attrs |= {k: v for k, v in source.attrs.items() if source.op == result.operator or facts.has_attribute(result.operator, k)}
            else:
                attrs[give.key] = plain(self.matcher.evaluate(give.value, self.match))
        inputs: list[Value | None] = []
        for i, operand in enumerate(result.operands):
            inputs += self.operand(operand, f"{self.root.output.name}.{result.operator.rpartition('.')[2]}.{i}")
        while inputs and inputs[-1] is None:
            inputs.pop()
        known = {k: v for k, v in attrs.items() if v is not None}
        self.made.nodes.append(Node(result.operator, tuple(inputs), (output,), MappingProxyType(known), self.root.device, self.origin))

    def operand(self, operand: "syntax.Build | syntax.Spread | expr.Expr", name: str) -> list[Value | None]:
        """The values of one operand of the result."""
        match operand:
            case syntax.Build():
                inner = Value(self.site.names(f"{self.root.output.name}.{operand.operator.rpartition('.')[2]}"))
                self.build(operand, inner)
                return [inner]
            case syntax.Spread(rest):
                return list(self.match.names[rest])
            case expr.Name("_"):
                return [None]
        thing = self.matcher.evaluate(operand, self.match)
        if isinstance(thing, Absent):
            return [None]
        known = value_of(thing)
        return [self.constant(thing, name) if known is None else known]

    def constant(self, number: Any, name: str) -> Value:
        """A new weight."""
        if isinstance(number, Typed):
            array, kind = number.number, number.dtype
        else:
            array = np.asarray(number)
            own = array.dtype.kind in "biu" and not isinstance(number, bool | int)
            kind = dtype_name(array.dtype) if own else self.root.output.tensor.dtype
        with np.errstate(all="ignore"):
            stored = np.ascontiguousarray(array.astype(numpy_dtype(kind))).reshape(array.shape)
        if array.dtype.kind == "f":
            if not np.isfinite(stored.astype(np.float64)).all():
                raise NoMatch(f"a constant of the result is no finite number in {kind}")
            if not kind.startswith(("f", "bf")) and (stored != array).any():
                raise NoMatch(f"a constant of the result is no {kind}")
        value = Value(self.site.names(name), Tensor(kind, stored.shape))
        self.made.weights[value] = stored
        return value

    def same_type(self, value: Value) -> None:
        """NoMatch unless a value can stand for the replaced one: one element type, one known shape."""
        old, new = self.root.output.type, value.type
        if not isinstance(old, Tensor) or not isinstance(new, Tensor):
            if old is None or old != new:
                raise NoMatch(f"{value} and {self.root.output} are not known to have one type")
            return
        if old.dtype != new.dtype:
            raise NoMatch(f"{value} is {new.dtype}, {self.root.output} is {old.dtype}")
        if old.shape is None or old.shape != new.shape or None in old.shape:
            raise NoMatch(f"{value} and {self.root.output} are not known to have one shape")

    def infer(self) -> None:
        """Give the new values their types; NoMatch when the last would not have the type of the replaced value."""
        reads = {v for n in self.made.nodes for v in n.inputs if v is not None} - {v for n in self.made.nodes for v in n.outputs}
        weights = {**self.made.weights, **{v: a for v in reads if (a := self.site.array(v)) is not None}}
        last = self.made.nodes[-1]
        nodes = (*self.made.nodes[:-1], replace(last, outputs=(Value(last.output.name),)))
        inputs = tuple(v for v in reads if v not in weights)
        try:
            typed = infer(Graph("result", inputs, nodes[-1].outputs, nodes, weights))
        except EdgecError as error:
            raise NoMatch(f"the result would be wrong: {error}") from None
        fresh = {old: Value(old.name, new.type) for a, b in zip(nodes[:-1], typed.nodes[:-1], strict=True)
                 for old, new in zip(a.outputs, b.outputs, strict=True)}
        for i, n in enumerate(self.made.nodes):
            reads_now, makes = tuple(v and fresh.get(v, v) for v in n.inputs), tuple(fresh.get(v, v) for v in n.outputs)
            self.made.nodes[i] = replace(n, inputs=reads_now, outputs=makes)
        old, new = self.root.output.type, typed.nodes[-1].output.type
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            if old.dtype != new.dtype:
                raise NoMatch(f"the result would be {new.dtype}, not {old.dtype}")
            if old.shape is not None and new.shape is not None and not _agree(old.shape, new.shape):
                raise NoMatch(f"the result would have the shape {list(new.shape)}, not {list(old.shape)}")

    def weigh(self) -> None:
        """NoMatch when more bytes would be stored than before, but for a bias and for shapes.

        A weight that other nodes read too counts by the share of its readings that go: it is gone when the rule has held for all of them.
        """
        dying: list[Node] = []
        read = {v for n in self.made.nodes for v in n.inputs if v is not None}
        for node in self.match.nodes:
            if node is self.root or all(v not in read and self.site.uses(v) == sum(self.site.inputs(d).count(v) for d in dying)
                                        for v in node.outputs):
                dying.append(node)
        gone = Counter(v for n in dying for v in self.site.inputs(n) if v is not None and v not in read)
        freed = sum(stored(a) * n // self.site.uses(v) for v, n in gone.items() if (a := self.site.array(v)) is not None)
        grown = sum(map(stored, self.made.weights.values()))
        matched = {v: a for n in self.match.nodes for v in self.site.inputs(n) if v is not None and (a := self.site.array(v)) is not None}
        if grown > freed + _SMALL + sum(map(stored, matched.values())) // _SHARE:
            raise NoMatch(f"{grown} bytes of weights would be stored instead of {freed}")


def _agree(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Whether two shapes may be one: the same rank, and no two numbers that differ."""
    return len(old) == len(new) and all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(old, new, strict=True))


def fires(rules: Sequence[Rule], graph: Graph) -> Counter[str]:
    """How often each rule is used when all of them run over a graph; rules that are not used count zero."""
    counts = Counter({r.name: 0 for r in rules})
    rewrite(graph, rules, did=lambda name, _: counts.update([name]))
    return counts
