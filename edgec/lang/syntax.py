"""What texts of rules, targets and pipelines say, as dataclasses: the only part of edgec that sees their trees."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lark import Token, Transformer, Tree, v_args
from lark.exceptions import VisitError
from lark.tree import Meta

from edgec.errors import SourceError
from edgec.lang.expr import NOWHERE, Binary, Call, Expr, Index, List, Literal, Member, Name, Place, Unary, quantity
from edgec.lang.grammar import Kind, read


@dataclass(frozen=True)
class Variable:
    """An operand that may be anything; an optional one may be absent."""

    name: str
    optional: bool = False
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Constant:
    """An operand that is a weight; an optional one may be absent and counts as zero then."""

    name: str
    optional: bool = False
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Anything:
    """An operand that does not matter, absent ones included."""

    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Rest:
    """All operands from here on."""

    name: str
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Number:
    """A weight whose elements all are this number, as exactly as their type can say it."""

    value: float
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Want:
    """An attribute of a pattern: a name that is not bound yet binds it, anything else must equal it."""

    key: str
    value: Expr
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Pattern:
    """A node: one of several operators, its operands, its attributes, and the name that the rule gives it."""

    operators: tuple[str, ...]
    operands: "tuple[Operand, ...]" = ()
    wants: tuple[Want, ...] = ()
    name: str = ""
    at: Place = field(default=NOWHERE, compare=False)


Operand = Pattern | Variable | Constant | Anything | Rest | Number


@dataclass(frozen=True)
class Where:
    """A condition."""

    condition: Expr
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Let:
    """A name for the value of an expression."""

    name: str
    value: Expr
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Give:
    """An attribute of a new node."""

    key: str
    value: Expr
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Spread:
    """All attributes of a matched node, or all operands that a Rest holds."""

    name: str
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Build:
    """A new node; its operands are new nodes, what the pattern bound, or constants computed now."""

    operator: str
    operands: "tuple[Build | Spread | Expr, ...]" = ()
    gives: tuple[Give | Spread, ...] = ()
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Forward:
    """No new node: what the pattern bound to this name stands there instead."""

    name: str
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Specimen:
    """What a name is in an example: an element type and a shape, a value, or both."""

    name: str
    dtype: str | None = None
    shape: tuple[Expr, ...] = ()
    value: Expr | None = None
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Rule:
    """A pattern, what must hold, and what stands there instead."""

    name: str
    doc: str
    pattern: Pattern
    clauses: tuple[Where | Let, ...]
    result: Build | Forward
    examples: tuple[tuple[Specimen, ...], ...] = ()
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Setting:
    """A fact."""

    name: str
    value: Expr
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Runs:
    """The operators that a unit runs (None: all), the conditions, and the cost in cycles."""

    operators: tuple[str, ...] | None
    when: tuple[Expr, ...] = ()
    cost: Expr | None = None
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Never:
    """The operators that a unit never runs (None: all), and why not."""

    operators: tuple[str, ...] | None
    because: str = ""
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Unit:
    """A core, a GPU, an NPU: facts and what it runs, in the order of the text."""

    name: str
    kind: str
    lines: tuple[Setting | Runs | Never, ...]
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Memory:
    """A cache or a memory, and facts of it."""

    name: str
    settings: tuple[Setting, ...]
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Target:
    """A machine before inheritance: the parents, with their places, and what it says itself."""

    name: str
    doc: str
    parents: tuple[Name, ...]
    items: tuple[Setting | Unit | Memory, ...]
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Run:
    """One pass with its options; an option without a value is None."""

    name: str
    options: tuple[tuple[str, Expr | None], ...] = ()
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Repeat:
    """Steps that run until nothing changes."""

    steps: "tuple[Run | Repeat, ...]"
    at: Place = field(default=NOWHERE, compare=False)


def read_rules(text: str, path: str = "<text>") -> tuple[Rule, ...]:
    """The rules of a text, unchecked but for their grammar; SourceError otherwise."""
    made: tuple[Rule, ...] = _transform("rules", text, path)
    return made


def read_targets(text: str, path: str = "<text>") -> tuple[Target, ...]:
    """The targets of a text, in its order; SourceError when it does not read."""
    made: tuple[Target, ...] = _transform("targets", text, path)
    return made


@lru_cache(256)
def read_pipeline(text: str, path: str = "<pipeline>") -> tuple[Run | Repeat, ...]:
    """The steps of a pipeline; SourceError when it does not read."""
    made: tuple[Run | Repeat, ...] = _transform("pipeline", text, path)
    return made


def _transform(kind: Kind, text: str, path: str) -> Any:
    tree: Tree[Token] = read(kind, text, path)
    try:
        return _Trees().transform(tree)
    except VisitError as error:
        if not isinstance(error.orig_exc, ValueError):
            raise
        meta = error.obj.meta if isinstance(error.obj, Tree) else error.obj
        raise SourceError(str(error.orig_exc), text, meta.line or 1, meta.column or 1, path) from None


def _place(token: Token) -> Place:
    return Place(token.line or 1, token.column or 1)


def _start(meta: Meta) -> Place:
    return NOWHERE if meta.empty else Place(meta.line, meta.column)


def _unquoted(token: Token | None) -> str:
    return str(json.loads(token)) if token is not None else ""


def _given(parts: Sequence[Any] | None) -> tuple[Any, ...]:
    return tuple(parts or ())


@v_args(inline=True, meta=True)
class _Trees(Transformer[Token, Any]):
    """Each method turns one kind of tree into its dataclass, children first; lark calls them by name."""

    def _all(self, _: Meta, *parts: Any) -> tuple[Any, ...]:
        return parts

    rules = operands = wanted = makings = given = targets = parents = conditions = arguments = steps = options = example = _all

    def rule(self, _: Meta, name: Token, doc: Token | None, pattern: Pattern, *parts: Any) -> Rule:
        clauses = tuple(c for p in parts if isinstance(p, tuple) for c in p if isinstance(c, Where | Let))
        result = next(p for p in parts if isinstance(p, Build | Forward))
        examples = tuple(p for p in parts if isinstance(p, tuple) and p and isinstance(p[0], Specimen))
        return Rule(str(name), _unquoted(doc), pattern, clauses, result, examples, _place(name))

    def pattern(self, _: Meta, name: Token | None, ops: Token, operands: tuple[Operand, ...] | None,
                wants: tuple[Want, ...] | None) -> Pattern:
        return Pattern(tuple(ops.split("|")), _given(operands), _given(wants), str(name or ""), _place(ops))

    def variable(self, _: Meta, name: Token, maybe: Token | None) -> Variable:
        return Variable(str(name), maybe is not None, _place(name))

    def constant(self, _: Meta, name: Token, maybe: Token | None) -> Constant:
        return Constant(str(name), maybe is not None, _place(name))

    def anything(self, meta: Meta) -> Anything:
        return Anything(_start(meta))

    def rest(self, _: Meta, star: Token, name: Token) -> Rest:
        return Rest(str(name), _place(star))

    def number(self, _: Meta, minus: Token | None, digits: Token) -> Number:
        return Number(-quantity(digits) if minus else quantity(digits), _place(minus or digits))

    def want(self, _: Meta, key: Token, value: Expr) -> Want:
        return Want(str(key), value, _place(key))

    def where(self, _: Meta, conditions: tuple[Expr, ...]) -> tuple[Where, ...]:
        return tuple(Where(c, c.at) for c in conditions)

    def let(self, _: Meta, name: Token, value: Expr) -> tuple[Let]:
        return (Let(str(name), value, _place(name)),)

    def forward(self, _: Meta, name: Token) -> Forward:
        return Forward(str(name), _place(name))

    def build(self, _: Meta, operator: Token, operands: tuple[Any, ...] | None, gives: tuple[Any, ...] | None) -> Build:
        if "|" in operator:
            raise ValueError("a result is one operator, not a choice")
        return Build(str(operator), _given(operands), _given(gives), _place(operator))

    def computed(self, _: Meta, value: Expr) -> Expr:
        return value

    def spread(self, _: Meta, star: Token, name: Token) -> Spread:
        return Spread(str(name), _place(star))

    splice = spread

    def give(self, _: Meta, key: Token, value: Expr) -> Give:
        return Give(str(key), value, _place(key))

    def typed(self, _: Meta, name: Token, dtype: Token, shape: List, value: Expr | None) -> Specimen:
        return Specimen(str(name), str(dtype), shape.items, value, _place(name))

    def valued(self, _: Meta, name: Token, value: Expr) -> Specimen:
        return Specimen(str(name), value=value, at=_place(name))

    def target(self, _: Meta, name: Token, parents: tuple[Token, ...] | None, doc: Token | None, *items: Any) -> Target:
        return Target(str(name), _unquoted(doc), tuple(Name(str(p), _place(p)) for p in _given(parents)), items, _place(name))

    def setting(self, _: Meta, name: Token, value: Expr) -> Setting:
        return Setting(str(name), value, _place(name))

    def unit(self, _: Meta, name: Token, kind: Token, *lines: Any) -> Unit:
        return Unit(str(name), str(kind), lines, _place(name))

    def memory(self, _: Meta, name: Token, *settings: Any) -> Memory:
        return Memory(str(name), settings, _place(name))

    def ops(self, _: Meta, *names: Token) -> tuple[str, ...]:
        return tuple(map(str, names))

    def every(self, *_: Any) -> None:
        return None

    def runs(self, meta: Meta, operators: tuple[str, ...] | None, when: tuple[Expr, ...] | None, cost: Expr | None) -> Runs:
        return Runs(operators, _given(when), cost, _start(meta))

    def never(self, meta: Meta, operators: tuple[str, ...] | None, because: Token | None) -> Never:
        return Never(operators, _unquoted(because), _start(meta))

    def pipeline(self, _: Meta, steps: tuple[Run | Repeat, ...] | None) -> tuple[Run | Repeat, ...]:
        return _given(steps)

    def run(self, _: Meta, name: Token, options: tuple[Any, ...] | None) -> Run:
        return Run(str(name), _given(options), _place(name))

    def repeat(self, meta: Meta, steps: tuple[Run | Repeat, ...]) -> Repeat:
        return Repeat(steps, _start(meta))

    def option(self, _: Meta, name: Token, value: Expr | None) -> tuple[str, Expr | None]:
        return str(name), value

    def binary(self, _: Meta, left: Expr, sign: Token, right: Expr) -> Binary:
        return Binary(str(sign), left, right, _place(sign))

    def either(self, meta: Meta, left: Expr, right: Expr) -> Binary:
        return Binary("or", left, right, _start(meta))

    def both(self, meta: Meta, left: Expr, right: Expr) -> Binary:
        return Binary("and", left, right, _start(meta))

    def no(self, meta: Meta, operand: Expr) -> Unary:
        return Unary("not", operand, _start(meta))

    def negative(self, _: Meta, minus: Token, operand: Expr) -> Unary:
        return Unary("-", operand, _place(minus))

    def quantity(self, _: Meta, digits: Token) -> Literal:
        return Literal(quantity(digits), str(digits), _place(digits))

    def string(self, _: Meta, quoted: Token) -> Literal:
        return Literal(_unquoted(quoted), str(quoted), _place(quoted))

    def name(self, _: Meta, name: Token) -> Name:
        return Name(str(name), _place(name))

    def call(self, _: Meta, function: Token, arguments: tuple[Expr, ...] | None) -> Call:
        return Call(str(function), _given(arguments), _place(function))

    def member(self, _: Meta, owner: Expr, name: Token) -> Member:
        return Member(owner, str(name), _place(name))

    def index(self, _: Meta, owner: Expr, index: Expr) -> Index:
        return Index(owner, index, owner.at)

    def list(self, meta: Meta, items: tuple[Expr, ...] | None) -> List:
        return List(_given(items), _start(meta))
