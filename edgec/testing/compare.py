"""Whether two graphs are the same, apart from the identity of their values; and the first difference in words."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgec.ir.graph import Graph, Node, Value
from edgec.lang.text import show_type
from edgec.lang.text_data import same_bits


def difference(a: Graph, b: Graph, *, names: bool = True) -> str | None:
    """The first difference between two graphs, None when there is none; `names=False` ignores how inner values are called.

    Compared are structure, names, types, layouts, attributes, devices, origins, bounds, bodies, and weights bit by bit.
    """
    try:
        for what, left, right in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
            _must([v.name for v in left] == [v.name for v in right], f"the {what}s are {_list(left)} and {_list(right)}")
        _Comparison(names=names).graphs(a, b, "the graph")
    except _Differs as found:
        return str(found)
    return None


class _Differs(Exception):
    pass


def _must(fine: bool, message: str) -> None:  # noqa: FBT001  reads like an assertion
    if not fine:
        raise _Differs(message)


class _Comparison:
    def __init__(self, *, names: bool) -> None:
        self.names = names
        self.partner: dict[Value, Value] = {}
        self.taken: set[Value] = set()
        self.bodies: set[tuple[Graph, Graph]] = set()

    def graphs(self, a: Graph, b: Graph, where: str) -> None:
        _must(a.name == b.name, f"{where} is called {a.name} and {b.name}")
        _must(dict(a.bounds) == dict(b.bounds), f"{where} has the bounds {dict(a.bounds)} and {dict(b.bounds)}")
        self.defined(a.inputs, b.inputs, f"the inputs of {where}")
        self.defined(tuple(a.weights), tuple(b.weights), f"the weights of {where}")
        for (value, x), y in zip(a.weights.items(), b.weights.values(), strict=True):
            _must(same_bits(x, y), f"the weight {value} of {where} differs in shape, dtype or numbers")
        _must(len(a.nodes) == len(b.nodes), f"{where} has {len(a.nodes)} and {len(b.nodes)} nodes")
        for left, right in zip(a.nodes, b.nodes, strict=True):
            self.nodes(left, right)
        self.used(a.outputs, b.outputs, f"the outputs of {where}")

    def nodes(self, a: Node, b: Node) -> None:
        for what in ("op", "device", "origin"):
            _must(getattr(a, what) == getattr(b, what), f"{what} of {a.label}: {getattr(a, what)!r} and {getattr(b, what)!r}")
        self.used(a.inputs, b.inputs, f"the inputs of {a.label}")
        self.attrs(a.attrs, b.attrs, a.label)
        self.defined(a.outputs, b.outputs, f"the outputs of {a.label}")

    def attrs(self, a: Mapping[str, Any], b: Mapping[str, Any], where: str) -> None:
        _must(list(a) == list(b), f"the attributes of {where} are {', '.join(a)} and {', '.join(b)}")
        for key in a:
            self.attr(a[key], b[key], f"the attribute {key} of {where}")

    def attr(self, a: Any, b: Any, where: str) -> None:
        if isinstance(a, Graph) and isinstance(b, Graph):
            if (a, b) not in self.bodies:  # one body may stand in several places
                self.bodies.add((a, b))
                self.graphs(a, b, where)
        elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            _must(same_bits(a, b), f"{where} differs in shape, dtype or numbers")
        elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            _must(len(a) == len(b), f"{where} has {len(a)} and {len(b)} elements")
            for x, y in zip(a, b, strict=True):
                self.attr(x, y, where)
        elif isinstance(a, float) and isinstance(b, float):
            same = (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
            _must(same, f"{where} is {a!r} and {b!r}")
        else:
            _must(type(a) is type(b) and a == b, f"{where} is {a!r} and {b!r}")

    def defined(self, a: tuple[Value, ...], b: tuple[Value, ...], where: str) -> None:
        _must(len(a) == len(b), f"{where} are {len(a)} and {len(b)}")
        for x, y in zip(a, b, strict=True):
            _must(not self.names or x.name == y.name, f"among {where} are {x} and {y}")
            _must(x.type == y.type, f"among {where}, {x} is {_typed(x)} and {_typed(y)}")
            _must(y not in self.taken, f"among {where}, {y} is defined twice")
            self.partner[x] = y
            self.taken.add(y)

    def used(self, a: tuple[Value | None, ...], b: tuple[Value | None, ...], where: str) -> None:
        _must(len(a) == len(b), f"{where} are {len(a)} and {len(b)}")
        for x, y in zip(a, b, strict=True):
            _must((None if x is None else self.partner.get(x, x)) is y, f"among {where} are {x} and {y}")


def _list(values: Iterable[Value]) -> str:
    return ", ".join(map(str, values)) or "none"


def _typed(value: Value) -> str:
    return show_type(value.type) if value.type else "of unknown type"
