"""What can be seen to be wrong with rules before any of them is tried: each mistake with its place."""

import difflib
import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edgec.errors import BadInput, SourceError
from edgec.ir.types import DTYPES
from edgec.lang import expr, syntax
from edgec.lang.expr import Expr, Place
from edgec.rules import facts
from edgec.rules.helpers import HELPERS
from edgec.rules.match import COMMUTATIVE, Rule


def load(text: str, path: str = "<text>") -> tuple[Rule, ...]:
    """The rules of a text in their order; SourceError for the first mistake."""
    return load_all({path: text})


def load_files(paths: Iterable[Path]) -> tuple[Rule, ...]:
    """The rules of several files, checked together, named by their paths; SourceError for the first mistake."""
    texts: dict[str, str] = {}
    for path in paths:
        try:
            texts[str(path)] = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"the rules in {path} cannot be read: {error}") from None
    return load_all(texts)


def load_all(texts: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules of several texts by their paths, checked together; SourceError for the first mistake."""
    made: list[Rule] = []
    for path, text in texts.items():
        for source in syntax.read_rules(text, path):
            for message, at in mistakes(source, made):
                raise SourceError(message, text, at.line, at.column, path)
            made.append(Rule(source, path))
    return tuple(made)


def mistakes(rule: syntax.Rule, earlier: Sequence[Rule] = ()) -> Iterator[tuple[str, Place]]:
    """What is wrong with a rule that stands behind others: sentences and their places."""
    yield from _Check(rule).mistakes()
    for other in earlier:
        if other.name == rule.name:
            yield f"another rule is called {rule.name}: {other.place}", rule.at
        if not _conditional(other.source) and _covers(other.source.pattern, rule.pattern):
            yield f"this rule never gets its turn: {other.name} ({other.place}) holds wherever it does", rule.at
    if not _conditional(rule) and isinstance(rule.result, syntax.Build) and _matches(rule.pattern, rule.result, _kinds(rule.pattern)):
        yield f"the result of {rule.name} matches its own pattern, so it would never end", rule.result.at


def _conditional(rule: syntax.Rule) -> bool:
    return any(isinstance(c, syntax.Where) for c in rule.clauses)


def _nodes(pattern: syntax.Pattern) -> Iterator[syntax.Pattern]:
    yield pattern
    for operand in pattern.operands:
        if isinstance(operand, syntax.Pattern):
            yield from _nodes(operand)


def _kinds(pattern: syntax.Pattern) -> dict[str, syntax.Operand | syntax.Want]:
    """What each name of a pattern is bound by, in the order of matching."""
    kinds: dict[str, syntax.Operand | syntax.Want] = {}
    if pattern.name:
        kinds[pattern.name] = pattern
    for want in pattern.wants:
        if isinstance(want.value, expr.Name):
            kinds.setdefault(want.value.name, want)
    for operand in pattern.operands:
        match operand:
            case syntax.Pattern():
                kinds = {**_kinds(operand), **kinds}
            case syntax.Variable(name) | syntax.Constant(name) | syntax.Rest(name):
                kinds.setdefault(name, operand)
    return kinds


class _Check:
    def __init__(self, rule: syntax.Rule) -> None:
        self.rule, self.kinds = rule, _kinds(rule.pattern)
        self.known = dict.fromkeys((*self.kinds, *(c.name for c in rule.clauses if isinstance(c, syntax.Let))))

    def mistakes(self) -> Iterator[tuple[str, Place]]:
        for node in _nodes(self.rule.pattern):
            for op in node.operators:
                yield from self.operator(op, node.at)
                yield from self.arity(op, node.operands, node.at)
                yield from (m for w in node.wants for m in self.attribute(op, w.key, w.at))
        yield from self.wants()
        yield from self.clauses()
        yield from self.result(self.rule.result)
        yield from self.examples()

    def operator(self, op: str, at: Place) -> Iterator[tuple[str, Place]]:
        if not facts.exists(op):
            yield f"ONNX has no operator {op}", at

    def arity(self, op: str, operands: Sequence[object], at: Place) -> Iterator[tuple[str, Place]]:
        if not facts.exists(op):
            return
        least, most = facts.arity(op)
        count, rest = len(operands), any(isinstance(o, syntax.Rest | syntax.Spread) for o in operands)
        if count - rest > most:
            yield f"{op} has at most {most} operand{'s' * (most != 1)}, not {count}", at
        if count < least and not rest:
            yield f"{op} has at least {least} operand{'s' * (least != 1)}, not {count}", at

    def attribute(self, op: str, key: str, at: Place) -> Iterator[tuple[str, Place]]:
        if facts.exists(op) and not facts.has_attribute(op, key):
            yield f"{op} has no attribute {key}", at

    def wants(self) -> Iterator[tuple[str, Place]]:
        bound: set[str] = set()
        for node in _nodes(self.rule.pattern):
            if node.name in bound:
                yield f"{node.name} already stands for something else", node.at
            bound |= {node.name} if node.name else set()
            for want in node.wants:
                if isinstance(want.value, expr.Name):
                    bound.add(want.value.name)
                else:
                    yield from self.expression(want.value, bound)
            bound |= {o.name for o in node.operands if isinstance(o, syntax.Variable | syntax.Constant | syntax.Rest)}
            for operand in node.operands[:-1]:
                if isinstance(operand, syntax.Rest):
                    yield f"*{operand.name} takes all operands, so none can follow", operand.at

    def clauses(self) -> Iterator[tuple[str, Place]]:
        read = Counter(n.name for e in self.expressions() for n in expr.names(e))
        bound = set(self.kinds)
        for clause in self.rule.clauses:
            if isinstance(clause, syntax.Where):
                yield from self.expression(clause.condition, self.known)
                continue
            yield from self.expression(clause.value, bound)
            if clause.name in bound:
                yield f"{clause.name} already stands for something else", clause.at
            bound.add(clause.name)
            if not read[clause.name]:
                yield f"{clause.name} is computed and never used", clause.at

    def expressions(self) -> Iterator[Expr]:
        for clause in self.rule.clauses:
            yield clause.condition if isinstance(clause, syntax.Where) else clause.value
        stack: list[syntax.Build | syntax.Forward | syntax.Spread | Expr] = [self.rule.result]
        while stack:
            part = stack.pop()
            if isinstance(part, syntax.Build):
                stack += [*part.operands, *(g.value for g in part.gives if isinstance(g, syntax.Give))]
            elif not isinstance(part, syntax.Spread | syntax.Forward):
                yield part

    def expression(self, value: Expr, bound: Iterable[str]) -> Iterator[tuple[str, Place]]:
        for name in expr.names(value):
            if name.name not in bound:
                yield f"{name.name} is bound by nothing before it", name.at
        for part in expr.walk(value):
            if isinstance(part, expr.Call):
                yield from self.call(part)

    def call(self, call: expr.Call) -> Iterator[tuple[str, Place]]:
        if call.function not in HELPERS:
            near = difflib.get_close_matches(call.function, HELPERS, 1)
            yield f"no helper is called {call.function}" + (f", did you mean {near[0]}?" if near else ""), call.at
            return
        function, asks = HELPERS[call.function]
        try:
            inspect.signature(function).bind(*[None] * (len(call.arguments) + asks))
        except TypeError:
            yield f"{call.function} does not take {len(call.arguments)} argument{'s' * (len(call.arguments) != 1)}", call.at
        except ValueError:
            return  # a function of C tells nothing about its arguments

    def result(self, result: "syntax.Build | syntax.Forward | syntax.Spread | Expr") -> Iterator[tuple[str, Place]]:
        match result:
            case syntax.Forward(name, at):
                if not isinstance(self.kinds.get(name), syntax.Pattern | syntax.Variable | syntax.Constant):
                    yield f"{name} is no operand and no node of the pattern", at
            case syntax.Spread(name, at):
                if not isinstance(self.kinds.get(name), syntax.Rest):
                    yield f"the pattern has no *{name}", at
            case syntax.Build(op, operands, gives, at):
                yield from self.operator(op, at)
                yield from self.arity(op, operands, at)
                for operand in operands:
                    yield from self.result(operand)
                for give in gives:
                    if isinstance(give, syntax.Give):
                        yield from self.attribute(op, give.key, give.at)
                        yield from self.expression(give.value, self.known)
                    elif not isinstance(self.kinds.get(give.name), syntax.Pattern):
                        yield f"{give.name} is no node of the pattern", give.at
            case expr.Name("_"):
                pass
            case _:
                yield from self.expression(result, self.known)

    def examples(self) -> Iterator[tuple[str, Place]]:
        if not self.rule.examples:
            yield f"{self.rule.name} has no example, so nothing can prove it", self.rule.at
        for example in self.rule.examples:
            said = {s.name for s in example}
            for specimen in example:
                kind = self.kinds.get(specimen.name)
                if kind is None or isinstance(kind, syntax.Pattern):
                    yield f"the pattern has no operand and no attribute {specimen.name}", specimen.at
                elif specimen.dtype is not None and specimen.dtype not in DTYPES:
                    yield f"there is no element type {specimen.dtype}", specimen.at
                elif specimen.dtype is None and not isinstance(kind, syntax.Want):
                    yield f"the operand {specimen.name} needs a type, such as f32[2,3]", specimen.at
            for name, kind in self.kinds.items():
                if name not in said and isinstance(kind, syntax.Variable | syntax.Constant) and not kind.optional:
                    yield f"an example says nothing of {name}", example[0].at


def _covers(general: syntax.Pattern, special: syntax.Pattern) -> bool:
    """Whether one pattern certainly holds wherever another does."""
    names = [o.name for n in _nodes(general) for o in n.operands if isinstance(o, syntax.Variable | syntax.Constant)]
    names += [w.value.name for n in _nodes(general) for w in n.wants if isinstance(w.value, expr.Name)]
    return len(set(names)) == len(names) and _covers_node(general, special)


def _covers_node(general: syntax.Pattern, special: syntax.Pattern) -> bool:
    if not set(special.operators) <= set(general.operators):
        return False
    have = {w.key: w.value for w in special.wants}
    if any(not isinstance(w.value, expr.Name) and have.get(w.key) != w.value for w in general.wants):
        return False
    mine, yours = list(general.operands), list(special.operands)
    for i, operand in enumerate(mine):
        if isinstance(operand, syntax.Rest):
            return True
        if not _covers_operand(operand, yours[i] if i < len(yours) else None):
            return False
    return len(yours) <= len(mine)


def _covers_operand(general: syntax.Operand, special: syntax.Operand | None) -> bool:
    match general, special:
        case syntax.Anything(), _:
            return True
        case syntax.Variable(_, optional) | syntax.Constant(_, optional), None:
            return optional
        case syntax.Variable(_, optional), syntax.Variable(_, maybe) | syntax.Constant(_, maybe):
            return optional or not maybe
        case syntax.Variable(), syntax.Pattern() | syntax.Number():
            return True
        case syntax.Constant(_, optional), syntax.Constant(_, maybe):
            return optional or not maybe
        case syntax.Constant(), syntax.Number():
            return True
        case syntax.Number(value), syntax.Number(other):
            return value == other
        case syntax.Pattern(), syntax.Pattern():
            return _covers_node(general, special)
    return False


def _matches(pattern: syntax.Pattern, made: syntax.Build, kinds: Mapping[str, syntax.Operand | syntax.Want]) -> bool:
    """Whether a result certainly matches a pattern whose conditions all hold."""
    if made.operator not in pattern.operators:
        return False
    spread = any(isinstance(g, syntax.Spread) for g in made.gives)
    given = {g.key: g.value for g in made.gives if isinstance(g, syntax.Give)}
    for want in pattern.wants:
        if isinstance(want.value, expr.Name):
            continue
        if want.key not in given and (spread or not isinstance(want.value, expr.Literal)):
            continue  # it comes from the matched node, which had it
        have = given.get(want.key)
        if have != want.value and not (have is None and isinstance(want.value, expr.Literal)
                                       and facts.default(made.operator, want.key) == want.value.value):
            return False
    orders = [list(made.operands)]
    if made.operator in COMMUTATIVE and len(made.operands) == len(pattern.operands) == 2:  # noqa: PLR2004  a pair can be turned
        orders.append(orders[0][::-1])
    return any(_match_operands(pattern.operands, order, kinds) for order in orders)


def _match_operands(operands: Sequence[syntax.Operand], made: Sequence["syntax.Build | syntax.Spread | Expr"],
                    kinds: Mapping[str, syntax.Operand | syntax.Want]) -> bool:
    for i, operand in enumerate(operands):
        new = made[i] if i < len(made) else None
        match operand:
            case syntax.Rest():
                return True
            case syntax.Anything() | syntax.Variable(optional=True):
                continue
            case syntax.Variable():
                fits = new is not None
            case syntax.Constant(_, optional):
                source = kinds.get(new.name) if isinstance(new, expr.Name) else new
                computed = not isinstance(source, syntax.Build | syntax.Spread | syntax.Variable | syntax.Pattern | syntax.Rest)
                fits = optional if new is None else computed
            case syntax.Number(value):
                fits = isinstance(new, expr.Literal) and new.value == value
            case syntax.Pattern():
                source = kinds.get(new.name) if isinstance(new, expr.Name) else new
                fits = source is operand or (isinstance(source, syntax.Build) and _matches(operand, source, kinds))
        if not fits:
            return False
    return len(made) <= len(operands)
