"""Expressions: what rules, targets and options of passes compute with, as data.

A quantity such as `32 KiB` or `1.5 GHz` is a plain number in the base unit of its kind: bytes, hertz, bytes per second,
seconds, joules, watts, cycles. A comparison of arrays holds when it holds everywhere; `!=` is the opposite of `==`.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

_PREFIX = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30,
           "k": 10**3, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}
_BASE = re.compile(r"(?P<prefix>[KMG]i?|[kmunpf])??(?P<base>B|Hz|s|J|W|cycles?|FLOP|MAC)(?P<per>/\w+)?\Z")
_QUANTITY = re.compile(r"(?P<number>inf|[\d.]+(e[+-]?\d+)?)\s*(?P<unit>.*)\Z")
_BINDING = {"or": 1, "and": 2, "not": 3, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4, "in": 4,
            "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6}


@dataclass(frozen=True)
class Place:
    """Where a word stands: line and column, both counted from one."""

    line: int
    column: int


NOWHERE = Place(1, 1)


@dataclass(frozen=True)
class Literal:
    """A number in its base unit, or a text; `source` is how it was written."""

    value: float | str
    source: str
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Name:
    """A word that stands for something."""

    name: str
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Unary:
    """`-a` or `not a`."""

    sign: str
    operand: "Expr"
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Binary:
    """Two operands and what stands between them, `and` and `or` included."""

    sign: str
    left: "Expr"
    right: "Expr"
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Call:
    """A function and its arguments."""

    function: str
    arguments: "tuple[Expr, ...]"
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Member:
    """A part of something: `core.lanes`."""

    owner: "Expr"
    name: str
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Index:
    """An element: `pads[0]`."""

    owner: "Expr"
    index: "Expr"
    at: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class List:
    """Several values in an order."""

    items: "tuple[Expr, ...]"
    at: Place = field(default=NOWHERE, compare=False)


Expr = Literal | Name | Unary | Binary | Call | Member | Index | List


class CannotEvaluate(Exception):
    """An expression that has no value here; the text says why, `at` says where."""

    def __init__(self, message: str, at: Place = NOWHERE) -> None:
        super().__init__(message)
        self.at = at


def quantity(text: str) -> float:
    """The number that a text such as `1e-5`, `32 KiB` or `4.2 GB/s` stands for, an int when whole; ValueError names an unknown unit."""
    parts = _QUANTITY.match(text.strip())
    if parts is None:
        raise ValueError(f"{text!r} is no quantity")
    digits, unit = parts["number"], parts["unit"]
    number = int(digits) if digits.isdigit() else float(digits)
    if not unit:
        return number
    known = _BASE.match(unit)
    if known is None:
        raise ValueError(f"no unit is called {unit}")
    scaled = number * _PREFIX[known["prefix"] or ""]
    return int(scaled) if float(scaled).is_integer() else scaled


def choose(condition: Any, then: Any, otherwise: Any) -> Any:
    """One of two values."""
    return then if condition else otherwise


def _scalar_or_array(scalar: Callable[[Any], Any], array: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: array(x) if hasattr(x, "__array_ufunc__") else scalar(x)


FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType({
    "abs": abs, "ceil": _scalar_or_array(math.ceil, np.ceil), "floor": _scalar_or_array(math.floor, np.floor),
    "sqrt": _scalar_or_array(math.sqrt, np.sqrt), "exp": _scalar_or_array(math.exp, np.exp), "log": _scalar_or_array(math.log, np.log),
    "log2": _scalar_or_array(math.log2, np.log2), "len": len, "choose": choose,
    "min": lambda a, *more: _fold(min, np.minimum, a, *more), "max": lambda a, *more: _fold(max, np.maximum, a, *more),
})
_CONSTANTS: Mapping[str, Any] = MappingProxyType({"true": True, "false": False})


def _fold(scalar: Callable[..., Any], array: Callable[[Any, Any], Any], first: Any, *more: Any) -> Any:
    if not any(hasattr(v, "__array_ufunc__") for v in (first, *more)):
        return scalar(first, *more) if more else scalar(first)
    for v in more:
        first = array(first, v)
    return first


def evaluate(expr: Expr, names: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]] = FUNCTIONS) -> Any:
    """The value of an expression when its names and functions mean this; CannotEvaluate says what went wrong and where."""
    try:
        return _value(expr, names, functions)
    except (ArithmeticError, TypeError, ValueError, IndexError) as wrong:
        raise CannotEvaluate(f"{text(expr)} has no value: {wrong}", expr.at) from wrong


def _value(expr: Expr, names: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> Any:
    match expr:
        case Literal(value):
            return value
        case Name(name, at):
            if name not in names and name not in _CONSTANTS:
                raise CannotEvaluate(f"{name} means nothing here", at)
            return names[name] if name in names else _CONSTANTS[name]
        case Unary(sign, operand):
            value = _value(operand, names, functions)
            return not truth(value) if sign == "not" else -value
        case Binary("and", left, right):
            return truth(_value(left, names, functions)) and truth(_value(right, names, functions))
        case Binary("or", left, right):
            return truth(_value(left, names, functions)) or truth(_value(right, names, functions))
        case Binary(sign, left, right):
            return binary(sign, _value(left, names, functions), _value(right, names, functions))
        case Call(function, arguments, at):
            if function not in functions:
                raise CannotEvaluate(f"no function is called {function}", at)
            return functions[function](*(_value(a, names, functions) for a in arguments))
        case Member(owner, name, at):
            whole = _value(owner, names, functions)
            if not isinstance(whole, Mapping) or name not in whole:
                raise CannotEvaluate(f"{text(owner)} has no {name}", at)
            return whole[name]
        case Index(owner, index):
            return _value(owner, names, functions)[_value(index, names, functions)]
        case List(items):
            return [_value(i, names, functions) for i in items]


def truth(value: Any) -> bool:
    """Whether a condition holds; an array holds when all of it does."""
    return bool(np.all(value)) if hasattr(value, "__array_ufunc__") else bool(value)


def _equal(left: Any, right: Any) -> bool:
    if hasattr(left, "__array_ufunc__") or hasattr(right, "__array_ufunc__"):
        return truth(np.equal(left, right))
    if isinstance(left, Sequence) and isinstance(right, Sequence) and not isinstance(left, str) and not isinstance(right, str):
        return list(left) == list(right)
    return bool(left == right)


_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType({
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv, "%": operator.mod,
    "==": _equal, "!=": lambda a, b: not _equal(a, b), "in": lambda a, b: any(_equal(a, v) for v in b),
    "<": lambda a, b: truth(a < b), "<=": lambda a, b: truth(a <= b), ">": lambda a, b: truth(a > b), ">=": lambda a, b: truth(a >= b),
})


def binary(sign: str, left: Any, right: Any) -> Any:
    """What an operator other than `and` and `or` makes of two values."""
    return _OPERATORS[sign](left, right)


def text(expr: Expr) -> str:
    """The expression as one would write it, to quote it in a reason."""
    return _text(expr, 0)


def _text(expr: Expr, outer: int) -> str:
    match expr:
        case Literal(_, source):
            return source
        case Name(name):
            return name
        case Unary("not", operand):
            made, level = f"not {_text(operand, 3)}", 3
        case Unary(_, operand):
            made, level = f"-{_text(operand, 7)}", 7
        case Binary(sign, left, right):
            level = _BINDING[sign]
            made = f"{_text(left, level + (level == _BINDING['==']))} {sign} {_text(right, level + 1)}"
        case Call(function, arguments):
            return f"{function}({', '.join(map(text, arguments))})"
        case Member(owner, name):
            return f"{_text(owner, 8)}.{name}"
        case Index(owner, index):
            return f"{_text(owner, 8)}[{text(index)}]"
        case List(items):
            return f"[{', '.join(map(text, items))}]"
    return f"({made})" if level < outer else made


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and every part of it."""
    yield expr
    parts: tuple[Expr, ...] = ()
    match expr:
        case Unary(_, operand):
            parts = (operand,)
        case Binary(_, left, right):
            parts = (left, right)
        case Call(_, arguments):
            parts = arguments
        case Member(owner, _):
            parts = (owner,)
        case Index(owner, index):
            parts = (owner, index)
        case List(items):
            parts = items
    for part in parts:
        yield from walk(part)


def names(expr: Expr) -> list[Name]:
    """The names that an expression reads, constants of the language left out."""
    return [e for e in walk(expr) if isinstance(e, Name) and e.name not in _CONSTANTS]
