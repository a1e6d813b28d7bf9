"""Where random graphs grow: the graph so far, and how patterns plant nodes in it.

A pattern is a function that picks values which exist and plants a few nodes behind one of them. To add one, write it in
`patterns.py` or `image_patterns.py` under `@pattern` with the rank of the values it grows from (None: any), how often it
comes, and the operators it cannot do without.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Any

import numpy as np

from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor, dtype_name

CHANNELS = (1, 2, 3, 5, 6, 7, 8, 12, 16, 17)
LARGEST = 4096
"""Elements that a value should not have more of: numpy has to compute them."""


class Garden:
    """The graph so far: its nodes, weights, and the values that patterns may grow from. Shapes are the caller's to know."""

    def __init__(self, draw: np.random.Generator, allowed: frozenset[str] | None) -> None:
        self.draw, self.allowed = draw, allowed
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.weights: dict[Value, Array] = {}

    def may(self, *ops: str) -> bool:
        """Whether all of these operators are allowed."""
        return self.allowed is None or self.allowed.issuperset(ops)

    def chance(self, share: float) -> bool:
        """True in this share of all cases."""
        return bool(self.draw.random() < share)

    def one_of(self, choices: Sequence[Any]) -> Any:
        """One of several, all as likely."""
        return choices[int(self.draw.integers(len(choices)))]

    def pick(self, rank: int | None, shape: tuple[int, ...] | None = None) -> Value:
        """A value of a rank or a shape, mostly one of the last."""
        fitting = [v for v in self.values if (rank is None or len(v.dims) == rank) and (shape is None or v.dims == shape)]
        return fitting[-1 - min(int(self.draw.geometric(0.5)) - 1, len(fitting) - 1)]

    def add(self, op: str, inputs: Sequence[Value | None], shape: Sequence[int], **attrs: Any) -> Value:
        """Plant a node with one output of a shape."""
        return self.add_many(op, inputs, [shape], **attrs)[0]

    def add_many(self, op: str, inputs: Sequence[Value | None], shapes: Iterable[Sequence[int]], **attrs: Any) -> tuple[Value, ...]:
        """Plant a node with one output of each shape."""
        number = len(self.nodes)
        names = (f"{op.lower()}_{number}" + f".{i}" * (i > 0) for i in count())
        outputs = tuple(Value(next(names), Tensor("f32", tuple(map(int, s)))) for s in shapes)
        self.nodes.append(Node(op, tuple(inputs), outputs, MappingProxyType(attrs), None, f"{op}_{number}"))
        return outputs

    def weight(self, array: Array) -> Value:
        """A new weight."""
        value = Value(f"w{len(self.weights)}", Tensor(dtype_name(array.dtype), array.shape))
        self.weights[value] = array
        return value

    def normal(self, *shape: int, scale: float = 1.0) -> Value:
        """A new weight of normally distributed numbers."""
        return self.weight((self.draw.standard_normal(shape) * scale).astype(np.float32))

    def uniform(self, low: float, high: float, *shape: int) -> Value:
        """A new weight of evenly distributed numbers."""
        return self.weight(self.draw.uniform(low, high, shape).astype(np.float32))

    def ints(self, *numbers: int) -> Value:
        """A new weight of i64 numbers along one axis."""
        return self.weight(np.array(numbers, np.int64))

    def scalar(self, number: float) -> Value:
        """A new weight of one number without axes."""
        return self.weight(np.array(number, np.float32))

    def graph(self, name: str) -> Graph:
        """The whole graph: the last value is an output, and sometimes others, read or not."""
        read = {v for n in self.nodes for v in n.inputs}
        made = [v for n in self.nodes for v in n.outputs]
        outputs = [self.values[-1] if self.values[-1] in made else made[-1]]
        loose = [v for v in made if v not in read and v not in outputs]
        outputs += [v for v in loose if self.chance(0.7)][-3:]
        if self.chance(0.4) and (inner := [v for v in made if v not in outputs]):
            outputs.append(self.one_of(inner))
        weights = {v: a for v, a in self.weights.items() if v in read}
        return Graph(name, (self.values[0],), tuple(outputs), tuple(self.nodes), weights)


@dataclass(frozen=True)
class Pattern:
    """A function that plants nodes behind a value of a rank, how often it is wanted, and the operators that it needs."""

    plant: Callable[[Garden, Value], Value]
    rank: int | None
    often: float
    needs: frozenset[str]


def activated(g: Garden, x: Value) -> Value:
    """The value behind an activation, or itself."""
    kinds = [k for k in (*_COMMON * 3, *_ACTIVATIONS) if g.may(k)]
    return _activation(g, x, g.one_of(kinds)) if kinds and g.chance(0.6) else x


_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "Relu": {}, "LeakyRelu": {"alpha": 0.125}, "Sigmoid": {}, "Tanh": {}, "HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "HardSwish": {},
    "Elu": {}, "Softplus": {}, "Clip": {}, "PRelu": {}, "Abs": {}, "Neg": {}, "Erf": {}, "Gelu": {"approximate": "none"}, "Softsign": {},
}


_COMMON = ("Relu", "Relu", "Clip", "Sigmoid")


def _activation(g: Garden, x: Value, op: str) -> Value:
    inputs: list[Value | None] = [x]
    if op == "Clip":
        low, high = g.one_of([(0.0, 6.0), (-1.0, None), (None, 1.0), (-0.5, 0.5)])
        inputs += [None if low is None else g.scalar(low)] + ([] if high is None else [g.scalar(high)])
    elif op == "PRelu":
        inputs.append(g.uniform(0.0, 0.5, *(x.dims[1], *[1] * (len(x.dims) - 2)) if len(x.dims) > 1 else (1,)))
    return g.add(op, inputs, x.dims, **_ACTIVATIONS[op])


def normalized(g: Garden, x: Value) -> Value:
    """A batch norm behind the value."""
    c = x.dims[1]
    parameters = (g.uniform(0.7, 1.3, c), g.normal(c, scale=0.2), g.normal(c, scale=0.2), g.uniform(0.5, 1.5, c))
    return g.add("BatchNormalization", (x, *parameters), x.dims, epsilon=1e-5)


def added(g: Garden, x: Value, y: Value) -> Value:
    """The sum of two values, in either order."""
    return g.add("Add", (x, y) if g.chance(0.5) else (y, x), np.broadcast_shapes(x.dims, y.dims))


def reshaped(g: Garden, x: Value, *shape: int) -> Value:
    """The value in another shape; one extent may be left to be inferred."""
    inferred = list(shape)
    if g.chance(0.5):
        inferred[g.one_of(range(len(shape)))] = -1
    return g.add("Reshape", (x, g.ints(*inferred)), shape)


def transposed(g: Garden, x: Value, *perm: int) -> Value:
    """The value with its axes permuted."""
    return g.add("Transpose", (x,), [x.dims[p] for p in perm], perm=list(perm))


def gemm(g: Garden, x: Value) -> Value:
    """A Gemm behind a matrix."""
    (n, k), m, turned = x.dims, int(g.one_of(CHANNELS)), int(g.draw.integers(2))
    inputs = [x, g.normal(*((m, k) if turned else (k, m)), scale=k**-0.5)]
    if g.chance(0.7):
        inputs.append(g.normal(m, scale=0.3))
    more = {"alpha": 0.5} if g.chance(0.2) else {}
    return g.add("Gemm", inputs, [n, m], transB=turned, **more)


Plant = Callable[[Garden, Value], Value]


def registrar(patterns: list[Pattern]) -> Callable[..., Callable[[Plant], Plant]]:
    """The decorator that adds patterns to a list."""
    def pattern(rank: int | None, often: float, *needs: str) -> Callable[[Plant], Plant]:
        def register(plant: Plant) -> Plant:
            patterns.append(Pattern(plant, rank, often, frozenset(needs)))
            return plant

        return register

    return pattern
