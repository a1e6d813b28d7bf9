"""One rule at one node: what its names stand for there, or the reason why it does not hold."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from edgec.ir.graph import Node, Value
from edgec.ir.types import dtype_name
from edgec.lang import expr, syntax
from edgec.rules import facts
from edgec.rules.helpers import functions
from edgec.rules.site import ABSENT, Const, NoMatch, Site, Thing, value_of

COMMUTATIVE = frozenset({"Add", "Mul", "Min", "Max", "And", "Or", "Xor", "Equal", "Sum", "Mean", "BitwiseAnd", "BitwiseOr", "BitwiseXor"})
_ULPS = 2  # how far a weight may be from the number of a pattern: exporters round 1/sqrt(2) in their own ways


@dataclass(frozen=True)
class Rule:
    """A rule of a rules file, ready to be tried."""

    source: syntax.Rule
    path: str = "<text>"

    @property
    def name(self) -> str:
        """Its name."""
        return self.source.name

    @property
    def doc(self) -> str:
        """What it says about itself."""
        return self.source.doc

    @property
    def roots(self) -> tuple[str, ...]:
        """The operators on which it looks up."""
        return self.source.pattern.operators

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.path}:{self.source.at.line}"

    @cached_property
    def depth(self) -> int:
        """How many nodes lie between the root and the farthest node of the pattern, both counted."""
        return max(_depths(self.source.pattern))

    @cached_property
    def clauses(self) -> tuple[tuple[syntax.Where | syntax.Let, frozenset[str]], ...]:
        """Conditions and names, each with the names that it needs."""
        return tuple((c, frozenset(n.name for n in expr.names(c.condition if isinstance(c, syntax.Where) else c.value)))
                     for c in self.source.clauses)


def _depths(pattern: syntax.Pattern) -> Iterator[int]:
    yield 1
    for operand in pattern.operands:
        if isinstance(operand, syntax.Pattern):
            yield from (d + 1 for d in _depths(operand))


@dataclass(frozen=True)
class Match:
    """Where a rule holds: what its names stand for, and the nodes of its pattern, the root first."""

    names: Mapping[str, Thing] = field(default_factory=lambda: MappingProxyType({}))
    nodes: tuple[Node, ...] = ()
    pending: tuple[int, ...] = ()

    def bind(self, name: str, thing: Thing) -> "Match | None":
        """The match with one more name; None when the name already stands for something else."""
        if name not in self.names:
            return Match({**self.names, name: thing}, self.nodes, self.pending)
        old = self.names[name]
        if value_of(old) is not None or value_of(thing) is not None:
            return self if value_of(old) is value_of(thing) else None
        return self if old is thing or expr.binary("==", old, thing) else None


class Matcher:
    """One try of one rule at one node. `why` is the reason that came nearest to a match."""

    def __init__(self, rule: Rule, site: Site) -> None:
        self.rule, self.site = rule, site
        self._far = -1
        self._reason: Callable[[], str] = lambda: "it was not tried"

    @property
    def why(self) -> str:
        """Why the rule does not hold here."""
        return self._reason()

    def at(self, root: Node) -> Iterator[Match]:
        """Every way in which the rule holds at a node, conditions included."""
        if root.op not in self.rule.roots:  # most nodes, so no more is done for them
            self._no(Match(), lambda: f"{root.label} is no {' or '.join(self.rule.roots)}")
            return
        if any(self.site.uses(v) for v in root.outputs[1:]):
            self._no(Match(), lambda: f"another output of {root.label} is read than the first")
            return
        for found in self._node(self.rule.source.pattern, root, Match(pending=tuple(range(len(self.rule.clauses))))):
            if len({n.device for n in found.nodes}) > 1:
                self._no(found, lambda: "its nodes run on different units")
            else:
                yield found

    def refuse(self, match: Match, reason: str) -> None:
        """Take down why a match came to nothing in the end."""
        self._no(match, lambda: reason, bonus=1000)

    def _no(self, match: Match, reason: Callable[[], str], bonus: int = 0) -> None:
        far = len(match.names) + 4 * len(match.nodes) + bonus
        if far > self._far:
            self._far, self._reason = far, reason

    def _node(self, pattern: syntax.Pattern, node: Node, match: Match) -> Iterator[Match]:
        if node.op not in pattern.operators:
            return self._no(match, lambda: f"{node.label} is no {' or '.join(pattern.operators)}")
        inputs, operands = self.site.inputs(node), pattern.operands
        if len(inputs) > len(operands) and not (operands and isinstance(operands[-1], syntax.Rest)) and any(inputs[len(operands):]):
            return self._no(match, lambda: f"{node.label} has more operands than the pattern")
        here: Match | None = Match(match.names, (*match.nodes, node), match.pending)
        if pattern.name and here is not None:
            here = here.bind(pattern.name, node)
        for want in pattern.wants:
            here = here and self._attribute(want, node, here)
        here = here and self._clauses(here)
        if here is None:
            return None
        orders = [inputs]
        if node.op in COMMUTATIVE and len(inputs) == len(operands) == 2 and inputs[0] is not inputs[1]:  # noqa: PLR2004  a pair can be turned
            orders.append(inputs[::-1])
        for order in orders:
            yield from self._operands(operands, order, here)
        return None

    def _operands(self, operands: Sequence[syntax.Operand], inputs: Sequence[Value | None], match: Match) -> Iterator[Match]:
        if not operands:
            yield match
            return
        if isinstance(operands[0], syntax.Rest):
            bound = match.bind(operands[0].name, tuple(inputs))
            if bound is not None and (checked := self._clauses(bound)) is not None:
                yield checked
            return
        for found in self._operand(operands[0], inputs[0] if inputs else None, match):
            if (checked := self._clauses(found)) is not None:
                yield from self._operands(operands[1:], inputs[1:], checked)

    def _operand(self, operand: syntax.Operand, value: Value | None, match: Match) -> Iterator[Match]:
        match operand:
            case syntax.Anything():
                yield match
            case syntax.Variable(name, optional):
                if value is None and not optional:
                    return self._no(match, lambda: f"the operand {name} is absent")
                yield from self._bind(name, ABSENT if value is None else value, match)
            case syntax.Constant(name, optional):
                array = None if value is None else self.site.array(value)
                if value is None and optional:
                    yield from self._bind(name, ABSENT, match)
                elif array is None:
                    return self._no(match, lambda: f"{name} is absent" if value is None else f"{name}, {value}, is no constant")
                else:
                    yield from self._bind(name, Const(value, array), match)
            case syntax.Number(number):
                array = None if value is None else self.site.array(value)
                if array is None or not _is(array, number):
                    return self._no(match, lambda: f"{value or 'an absent operand'} is not the constant {number}")
                yield match
            case syntax.Pattern():
                maker = None if value is None else self.site.maker(value)
                if maker is None or value is not maker.output:
                    return self._no(match, lambda: f"{value or 'an absent operand'} is not made by {' or '.join(operand.operators)}")
                yield from self._node(operand, maker, match)
        return None

    def _bind(self, name: str, thing: Thing, match: Match) -> Iterator[Match]:
        bound = match.bind(name, thing)
        if bound is None:
            return self._no(match, lambda: f"{name} would be two values")
        yield bound
        return None

    def _attribute(self, want: syntax.Want, node: Node, match: Match) -> Match | None:
        have = node.attrs.get(want.key)
        if have is None:
            have = facts.default(node.op, want.key)
        if isinstance(want.value, expr.Name) and want.value.name not in match.names:
            return match.bind(want.value.name, have)
        try:
            wanted = self.evaluate(want.value, match)
        except NoMatch as error:
            self._no(match, partial(str, error))
            return None
        rounded = isinstance(wanted, float) and isinstance(have, float) and np.float32(wanted) == np.float32(have)
        if rounded or expr.binary("==", wanted, have):
            return match
        self._no(match, lambda: f"{want.key} of {node.label} is {have}, not {wanted}")
        return None

    def _clauses(self, match: Match) -> Match | None:
        """The match after every condition and every name that can be had by now; None when a condition fails."""
        for i in match.pending:
            clause, needs = self.rule.clauses[i]
            if not needs <= match.names.keys():
                continue
            match = Match(match.names, match.nodes, tuple(k for k in match.pending if k != i))
            try:
                if isinstance(clause, syntax.Where):
                    if not expr.truth(self.evaluate(clause.condition, match)):
                        self._no(match, partial(self._failed, clause.condition, match))
                        return None
                else:
                    match = Match({**match.names, clause.name: self.evaluate(clause.value, match)}, match.nodes, match.pending)
                    return self._clauses(match)  # the new name may let an earlier clause in
            except NoMatch as error:
                self._no(match, partial(str, error))
                return None
        return match

    def evaluate(self, expression: expr.Expr, match: Match) -> Any:
        """The value of an expression of the rule; NoMatch when it has none here."""
        try:
            with np.errstate(all="ignore"):
                return expr.evaluate(expression, match.names, functions(self.site))
        except expr.CannotEvaluate as error:
            raise NoMatch(str(error)) from None

    def _failed(self, condition: expr.Expr, match: Match) -> str:
        said = f"{expr.text(condition)} does not hold"
        if isinstance(condition, expr.Binary) and condition.sign not in ("and", "or"):
            left = self.evaluate(condition.left, match)
            if isinstance(left, int | float | str | list | tuple):
                said += f": {expr.text(condition.left)} is {left}"
        return said


def _is(array: Any, number: float) -> bool:
    """Whether every element of a weight is a number, as exactly as its type can say it."""
    kind = dtype_name(array.dtype)
    if array.size == 0 or kind in ("bool", "string") or kind.startswith("c"):
        return False
    first = float(array.flat[0])
    if not kind.startswith(("f", "bf")) or float(number).is_integer() or not np.isfinite(number):
        return first == number and bool((array == array.flat[0]).all())
    near = abs(first - number) <= _ULPS * float(np.spacing(array.dtype.type(number)))
    return near and bool((array == array.flat[0]).all())
