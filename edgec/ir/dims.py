"""Dims: integers, and expressions over named symbols that are known only when the model runs.

A `Sym` is a sum of products, kept in one canonical form and interned: two equal expressions are one object, so `==` and
`is` agree and a Sym can be a key. A factor of a product is a symbol, a floor division, a max or a min. Symbols stand for
extents of at least 1, and a divisor is never zero.
"""

import ast
import keyword
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import gcd, prod
from operator import add, floordiv, mul, sub
from typing import Literal


@dataclass(frozen=True, slots=True)
class _Atom:
    """What a product is made of: a symbol, or an operation whose canonical operands are `args`."""

    kind: Literal["name", "floordiv", "max", "min"]
    name: str = ""
    args: "tuple[Dim, ...]" = ()

    def __str__(self) -> str:
        if self.kind == "name":
            plain = self.name.isascii() and self.name.isidentifier() and not keyword.iskeyword(self.name)
            return self.name if plain else repr(self.name)
        if self.kind == "floordiv":
            return "//".join(_wrapped(a) for a in self.args)
        return f"{self.kind}({','.join(map(str, self.args))})"


_Terms = tuple[tuple[tuple[_Atom, ...], int], ...]


class Sym:
    """An expression that is no plain number, printed `(H+1)//2`; made by `symbol`, arithmetic and `parse_dim` only."""

    __slots__ = ("_text", "terms")
    terms: _Terms
    _text: str

    def __add__(self, other: "Dim") -> "Dim":
        return _sum([(self, 1), (other, 1)])

    def __sub__(self, other: "Dim") -> "Dim":
        return _sum([(self, 1), (other, -1)])

    def __rsub__(self, other: "Dim") -> "Dim":
        return _sum([(other, 1), (self, -1)])

    def __mul__(self, other: "Dim") -> "Dim":
        total: Counter[tuple[_Atom, ...]] = Counter()
        for a, x in self.terms:
            for b, y in _terms(other):
                total[tuple(sorted((*a, *b), key=_rank))] += x * y
        return _canonical(total)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> "Dim":
        return self * -1

    def __floordiv__(self, other: "Dim") -> "Dim":
        return _floordiv(self, other)

    def __rfloordiv__(self, other: "Dim") -> "Dim":
        return _floordiv(other, self)

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__

    def __reduce__(self) -> tuple[Callable[[str], "Dim"], tuple[str]]:
        return parse_dim, (str(self),)


Dim = int | Sym
_interned: dict[_Terms, Sym] = {}


def symbol(name: str) -> Sym:
    """The Sym of a name, which may be any text that is not empty; ValueError when it is."""
    if not name:
        raise ValueError("a symbol needs a name")
    return _of(_Atom("name", name))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """The quotient a / b, rounded up; b is positive."""
    return _floordiv(a + b - 1, b)


def maximum(first: Dim, *others: Dim) -> Dim:
    """The largest of several dims; operands that are known to be no larger than another vanish."""
    return reduce(lambda a, b: _extreme("max", a, b), others, first)


def minimum(first: Dim, *others: Dim) -> Dim:
    """The smallest of several dims; operands that are known to be no smaller than another vanish."""
    return reduce(lambda a, b: _extreme("min", a, b), others, first)


def symbols(dim: Dim) -> frozenset[str]:
    """The names in an expression."""
    names: set[str] = set()
    for factors, _ in _terms(dim):
        for atom in factors:
            names.update([atom.name] if atom.kind == "name" else (n for a in atom.args for n in symbols(a)))
    return frozenset(names)


def bind(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """The expression with some of its symbols replaced."""
    return dim if isinstance(dim, int) else _sum([(prod((_bind_atom(a, values) for a in factors), start=1), n) for factors, n in dim.terms])


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The number that an expression has when its symbols have these values; KeyError names a symbol that has none."""
    bound = bind(dim, values)
    if isinstance(bound, int):
        return bound
    raise KeyError(min(symbols(bound)))


def at_least(dim: Dim, bound: int = 0) -> bool:
    """Whether an expression is known to be no smaller than a number, whatever its symbols are."""
    low = _lower(dim)
    if low is not None and low >= bound:
        return True
    for factors, n in _terms(dim):
        if len(factors) != 1 or factors[0].kind == "name":
            continue
        atom, rest = factors[0], dim - n * _of(factors[0])
        if atom.kind != "floordiv":
            held = (at_least(rest + n * a, bound) for a in atom.args)
            return any(held) if (atom.kind == "max") == (n > 0) else all(held)
        if isinstance(k := atom.args[1], int) and k > 0:  # k * (x//k) lies between x-k+1 and x
            return at_least(rest * k + n * (atom.args[0] - k + 1 if n > 0 else atom.args[0]), k * bound)
    return False


def parse_dim(text: str) -> Dim:
    """The dim that `str` prints, or any expression of + - * // max min ceildiv; ValueError says what is wrong."""
    try:
        return _read(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, RecursionError, ZeroDivisionError):
        raise ValueError(f"{text!r} is no dimension: write a number, a name, or an expression such as (H+1)//2") from None


_CALLS: dict[str, Callable[..., Dim]] = {"max": maximum, "min": minimum, "ceildiv": ceildiv}
_OPERATORS: dict[type[ast.operator], Callable[[Dim, Dim], Dim]] = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.FloorDiv: floordiv}


def _read(node: ast.expr) -> Dim:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.Constant(value=str(name)) | ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_read(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_read(left), _read(right))
        case ast.Call(func=ast.Name(id=name), args=[_, _, *_] as args, keywords=[]) if name in _CALLS:
            return _CALLS[name](*map(_read, args))
    raise TypeError


def _rank(atom: _Atom) -> tuple[bool, str]:
    return atom.kind != "name", str(atom)


def _terms(dim: Dim) -> _Terms:
    return dim.terms if isinstance(dim, Sym) else (((), dim),)


def _of(atom: _Atom) -> Sym:
    made = _canonical({(atom,): 1})
    assert isinstance(made, Sym)  # noqa: S101  one atom is never a number
    return made


def _canonical(total: Mapping[tuple[_Atom, ...], int]) -> Dim:
    terms = tuple(sorted(((f, n) for f, n in total.items() if n), key=lambda t: (-len(t[0]), t[1] < 0, [_rank(a) for a in t[0]])))
    if not terms:
        return 0
    if not terms[0][0]:
        return terms[0][1]
    if terms not in _interned:
        made = Sym()
        made.terms = terms
        made._text = _print(terms)  # noqa: SLF001  the only place that makes one
        _interned[terms] = made
    return _interned[terms]


def _sum(parts: Iterable[tuple[Dim, int]]) -> Dim:
    total: Counter[tuple[_Atom, ...]] = Counter()
    for dim, times in parts:
        for factors, n in _terms(dim):
            total[factors] += n * times
    return _canonical(total)


def _floordiv(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a == b:
        return 1
    terms = _terms(b)
    if len(terms) > 1:
        return _of(_Atom("floordiv", args=(a, b)))
    (factors, n), = terms
    for atom in factors:  # N*C // N is C: extents that divide are not zero
        if all(atom in f for f, _ in _terms(a)) and a != 0:
            return _floordiv(_without(a, atom), _without(b, atom))
    if n < 0:
        return _floordiv(-a, -b)
    inner = _only(a)
    if inner is not None and inner.kind == "floordiv":  # A//2//W is A//(2*W)
        return _floordiv(inner.args[0], inner.args[1] * b)
    if not factors:
        return _by_number(a, n)
    return 0 if a == 0 else _of(_Atom("floordiv", args=(a, b)))


def _by_number(a: Dim, n: int) -> Dim:
    """The quotient a // n for a positive number: whole multiples leave, then the common divisor, then an inner division."""
    whole = _sum([(_product(f), c // n) for f, c in _terms(a) if c % n == 0 or not f])
    rest = _sum([(_product(f), c % n if not f else c) for f, c in _terms(a) if c % n or not f])
    if isinstance(rest, int):
        return whole + rest // n
    common = gcd(n, *(c for f, c in rest.terms if f))
    rest = _sum([(_product(f), c // common) for f, c in rest.terms])  # (2*H+1)//4 is H//2: the constant may round down
    n //= common
    if n == 1:
        return whole + rest
    if isinstance(rest, Sym):
        inner, shift = rest.terms[0], sum(c for f, c in rest.terms if not f)
        if len(inner[0]) == 1 and inner[1] == 1 and len(rest.terms) == 1 + bool(shift) and inner[0][0].kind == "floordiv":
            top, bottom = inner[0][0].args
            if isinstance(bottom, int):  # ((H+1)//2 + 1)//2 is (H+3)//4
                return whole + _floordiv(top + shift * bottom, bottom * n)
    return whole + _of(_Atom("floordiv", args=(rest, n)))


def _without(dim: Dim, atom: _Atom) -> Dim:
    def less(factors: tuple[_Atom, ...]) -> tuple[_Atom, ...]:
        i = factors.index(atom)
        return factors[:i] + factors[i + 1:]

    return _canonical({less(f): n for f, n in _terms(dim)})


def _product(factors: tuple[_Atom, ...]) -> Dim:
    return _canonical({factors: 1})


def _extreme(kind: Literal["max", "min"], a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b) if kind == "max" else min(a, b)
    if at_least(a - b):
        return a if kind == "max" else b
    if at_least(b - a):
        return b if kind == "max" else a
    operands: list[Dim] = []
    for dim in (a, b):
        atom = _only(dim)
        operands += atom.args if atom is not None and atom.kind == kind else (dim,)
    numbers = [d for d in operands if isinstance(d, int)]
    constant = [max(numbers) if kind == "max" else min(numbers)] if numbers else []
    return _of(_Atom(kind, args=(*sorted({d for d in operands if isinstance(d, Sym)}, key=str), *constant)))


def _only(dim: Dim) -> _Atom | None:
    if isinstance(dim, Sym) and len(dim.terms) == 1 and dim.terms[0][1] == 1 and len(dim.terms[0][0]) == 1:
        return dim.terms[0][0][0]
    return None


def _bind_atom(atom: _Atom, values: Mapping[str, Dim]) -> Dim:
    if atom.kind == "name":
        return values[atom.name] if atom.name in values else _of(atom)
    args = [bind(a, values) for a in atom.args]
    return reduce(floordiv, args) if atom.kind == "floordiv" else maximum(*args) if atom.kind == "max" else minimum(*args)


def _lower(dim: Dim) -> int | None:
    """A number that the dim never goes below, None when none is known."""
    total = 0
    for factors, n in _terms(dim):
        lows = [_lower_atom(a) for a in factors]
        if (n < 0 and factors) or any(low is None or low < 0 for low in lows):
            return None
        total += n * prod(low for low in lows if low is not None)
    return total


def _lower_atom(atom: _Atom) -> int | None:
    if atom.kind == "name":
        return 1
    lows = [_lower(a) for a in atom.args]
    if atom.kind == "max":
        return max((low for low in lows if low is not None), default=None)
    if any(low is None for low in lows):
        return None
    known = [low for low in lows if low is not None]
    if atom.kind == "min":
        return min(known)
    divisor = atom.args[1]
    return known[0] // divisor if isinstance(divisor, int) and divisor > 0 else 0 if min(known) >= 0 else None


def _wrapped(dim: Dim) -> str:
    atom = _only(dim)
    plain = (isinstance(dim, int) and dim >= 0) or (atom is not None and atom.kind != "floordiv")
    return str(dim) if plain else f"({dim})"


def _print(terms: _Terms) -> str:
    text = ""
    for factors, n in terms:
        sign = ("-" if n < 0 else "+" if text else "")
        parts = [str(abs(n))] * (abs(n) != 1 or not factors)
        alone = not parts and len(factors) == 1 and (text or n > 0)  # -H//2 would be (-H)//2
        parts += [f"({a})" if a.kind == "floordiv" and not alone else str(a) for a in factors]
        text += sign + "*".join(parts)
    return text
