"""Seeded random graphs that look like what models are made of: image nets and transformers, full of what passes look for.

A pattern is a function that picks values which exist and plants a few nodes behind them. To add one, write it under
`_pattern` with the rank of the values it grows from (None: any), how often it comes, and the operators it cannot do without.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor, dtype_name

_CHANNELS = (1, 2, 3, 5, 6, 7, 8, 12, 16, 17)
_LARGEST = 4096


def random_graph(seed: int, size: int, ops: Iterable[str] | None = None) -> Graph:
    """A valid static f32 graph of about `size` nodes that depends on nothing but its arguments; `ops` limits the operators.

    Some values are read twice, some inner values are outputs, some nodes are dead. ValueError when no pattern is made of `ops`.
    """
    draw = np.random.default_rng(seed)
    allowed = None if ops is None else frozenset(ops)
    image = bool(draw.integers(2))
    ranks = {4 if image else 3}
    fitting = [p for p in _PATTERNS if allowed is None or p.needs <= allowed]
    if allowed is not None and not any(p.rank is None or p.rank in ranks for p in fitting):
        ranks = {p.rank for p in fitting if p.rank is not None} - {2}
    if not ranks or not fitting:
        raise ValueError(f"no pattern is made of {', '.join(sorted(allowed or ()))} alone")
    garden = _Garden(draw, allowed)
    batch = int(draw.integers(1, 3))
    if 4 in ranks:  # noqa: PLR2004  images
        shape = [int(draw.choice(_CHANNELS)), int(draw.integers(5, 14)), int(draw.integers(5, 14))]
    else:
        shape = [int(draw.integers(2, 9)), int(draw.choice((4, 6, 8, 12, 16)))]
    garden.values.append(Value("x", Tensor("f32", (batch, *shape))))
    for _ in range(100 + 20 * size):  # a pattern may find that it does not fit
        if len(garden.nodes) >= size:
            break
        known = {len(v.dims) for v in garden.values}
        now = [p for p in fitting if p.rank is None or p.rank in known]
        pattern = now[int(draw.choice(len(now), p=np.array([p.often for p in now]) / sum(p.often for p in now)))]
        garden.values.append(pattern.plant(garden, garden.pick(pattern.rank)))
    if not garden.nodes:
        raise ValueError(f"no pattern of {', '.join(sorted(allowed or ()))} fits anywhere")
    return garden.graph(f"random_{seed}")


class _Garden:
    """The graph so far: its nodes, weights, and the values that patterns may grow from."""

    def __init__(self, draw: np.random.Generator, allowed: frozenset[str] | None) -> None:
        self.draw, self.allowed = draw, allowed
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.weights: dict[Value, Array] = {}

    def may(self, *ops: str) -> bool:
        return self.allowed is None or self.allowed.issuperset(ops)

    def chance(self, share: float) -> bool:
        return bool(self.draw.random() < share)

    def one_of(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.draw.integers(len(choices)))]

    def pick(self, rank: int | None, shape: tuple[int, ...] | None = None) -> Value:
        """A value of a rank or a shape, mostly one of the last."""
        fitting = [v for v in self.values if (rank is None or len(v.dims) == rank) and (shape is None or v.dims == shape)]
        return fitting[-1 - min(int(self.draw.geometric(0.5)) - 1, len(fitting) - 1)]

    def add(self, op: str, inputs: Sequence[Value | None], shape: Sequence[int], **attrs: Any) -> Value:
        return self.add_many(op, inputs, [shape], **attrs)[0]

    def add_many(self, op: str, inputs: Sequence[Value | None], shapes: Iterable[Sequence[int]], **attrs: Any) -> tuple[Value, ...]:
        number = len(self.nodes)
        names = (f"{op.lower()}_{number}" + f".{i}" * (i > 0) for i in count())
        outputs = tuple(Value(next(names), Tensor("f32", tuple(map(int, s)))) for s in shapes)
        self.nodes.append(Node(op, tuple(inputs), outputs, MappingProxyType(attrs), None, f"{op}_{number}"))
        return outputs

    def weight(self, array: Array) -> Value:
        value = Value(f"w{len(self.weights)}", Tensor(dtype_name(array.dtype), array.shape))
        self.weights[value] = array
        return value

    def normal(self, *shape: int, scale: float = 1.0) -> Value:
        return self.weight((self.draw.standard_normal(shape) * scale).astype(np.float32))

    def uniform(self, low: float, high: float, *shape: int) -> Value:
        return self.weight(self.draw.uniform(low, high, shape).astype(np.float32))

    def ints(self, *numbers: int) -> Value:
        return self.weight(np.array(numbers, np.int64))

    def scalar(self, number: float) -> Value:
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
class _Pattern:
    plant: Callable[[_Garden, Value], Value]
    rank: int | None
    often: float
    needs: frozenset[str]


_PATTERNS: list[_Pattern] = []
_Plant = Callable[[_Garden, Value], Value]


def _pattern(rank: int | None, often: float, *needs: str) -> Callable[[_Plant], _Plant]:
    def register(plant: _Plant) -> _Plant:
        _PATTERNS.append(_Pattern(plant, rank, often, frozenset(needs)))
        return plant

    return register


def _activated(g: _Garden, x: Value) -> Value:
    """The value behind an activation, or itself."""
    kinds = [k for k in (*_COMMON * 3, *_ACTIVATIONS) if g.may(k)]
    return _activation(g, x, g.one_of(kinds)) if kinds and g.chance(0.6) else x


_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "Relu": {}, "LeakyRelu": {"alpha": 0.125}, "Sigmoid": {}, "Tanh": {}, "HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "HardSwish": {},
    "Elu": {}, "Softplus": {}, "Clip": {}, "PRelu": {}, "Abs": {}, "Neg": {}, "Erf": {}, "Gelu": {"approximate": "none"}, "Softsign": {},
}


_COMMON = ("Relu", "Relu", "Clip", "Sigmoid")


def _activation(g: _Garden, x: Value, op: str) -> Value:
    inputs: list[Value | None] = [x]
    if op == "Clip":
        low, high = g.one_of([(0.0, 6.0), (-1.0, None), (None, 1.0), (-0.5, 0.5)])
        inputs += [None if low is None else g.scalar(low)] + ([] if high is None else [g.scalar(high)])
    elif op == "PRelu":
        inputs.append(g.uniform(0.0, 0.5, *(x.dims[1], *[1] * (len(x.dims) - 2)) if len(x.dims) > 1 else (1,)))
    return g.add(op, inputs, x.dims, **_ACTIVATIONS[op])


def _conv(
    g: _Garden, x: Value, channels: int, kernel: int, *, pads: Sequence[int] | None = None, stride: int = 1, dilation: int = 1, group: int = 1,
) -> Value:
    n, c, *spatial = x.dims
    reach = (kernel - 1) * dilation
    pads = [reach // 2, reach // 2, reach - reach // 2, reach - reach // 2] if pads is None else list(pads)
    shape = [(s + pads[i] + pads[i + 2] - reach - 1) // stride + 1 for i, s in enumerate(spatial)]
    inputs = [x, g.normal(channels, c // group, kernel, kernel, scale=(c // group * kernel * kernel) ** -0.5)]
    if g.chance(0.5):
        inputs.append(g.normal(channels, scale=0.3))
    return g.add("Conv", inputs, [n, channels, *shape], kernel_shape=[kernel] * 2, pads=pads, strides=[stride] * 2,
                 dilations=[dilation] * 2, group=group)


def _normalized(g: _Garden, x: Value) -> Value:
    c = x.dims[1]
    parameters = (g.uniform(0.7, 1.3, c), g.normal(c, scale=0.2), g.normal(c, scale=0.2), g.uniform(0.5, 1.5, c))
    return g.add("BatchNormalization", (x, *parameters), x.dims, epsilon=1e-5)


def _added(g: _Garden, x: Value, y: Value) -> Value:
    return g.add("Add", (x, y) if g.chance(0.5) else (y, x), np.broadcast_shapes(x.dims, y.dims))


def _reshaped(g: _Garden, x: Value, *shape: int) -> Value:
    inferred = list(shape)
    if g.chance(0.5):
        inferred[g.one_of(range(len(shape)))] = -1
    return g.add("Reshape", (x, g.ints(*inferred)), shape)


def _transposed(g: _Garden, x: Value, *perm: int) -> Value:
    return g.add("Transpose", (x,), [x.dims[p] for p in perm], perm=list(perm))


@_pattern(4, 6, "Conv")
def _conv_block(g: _Garden, x: Value) -> Value:
    c = x.dims[1]
    kernel = g.one_of([1, 1, 3, 3, 5])
    group = g.one_of([k for k in (1, 1, 1, 2, 3, c) if c % k == 0])
    pads = [int(g.draw.integers(0, kernel)) for _ in range(4)]
    out = int(group * max(1, g.one_of(_CHANNELS) // group))
    dilation = 2 if kernel == 3 and min(x.dims[2:]) > 4 and g.chance(0.2) else 1  # noqa: PLR2004  the window has to fit
    if min(x.dims[2:]) < (kernel - 1) * dilation + 1:
        return _conv(g, x, out, 1, group=group)
    y = _conv(g, x, out, kernel, pads=pads, stride=g.one_of([1, 1, 2]), dilation=dilation, group=group)
    return _activated(g, _normalized(g, y) if g.may("BatchNormalization") and g.chance(0.5) else y)


@_pattern(4, 2, "Conv")
def _separable(g: _Garden, x: Value) -> Value:
    c = x.dims[1]
    y = _activated(g, _conv(g, x, c, 3, group=c))
    return _activated(g, _conv(g, y, int(g.one_of(_CHANNELS)), 1))


@_pattern(4, 3, "Conv", "Add")
def _residual(g: _Garden, x: Value) -> Value:
    y = _activated(g, _conv(g, x, x.dims[1], g.one_of([1, 3])))
    return _activated(g, _added(g, x, _conv(g, y, x.dims[1], 3)))


@_pattern(4, 2, "Pad", "Conv")
def _padded_conv(g: _Garden, x: Value) -> Value:
    if min(x.dims[2:]) < 2:  # noqa: PLR2004  the window has to fit
        return x
    return _activated(g, _conv(g, _pad(g, x, 0.0), int(g.one_of(_CHANNELS)), 3, pads=[0, 1, 0, 0], stride=g.one_of([1, 2])))


@_pattern(4, 1, "Pad", "MaxPool")
def _padded_pool(g: _Garden, x: Value) -> Value:
    return _pool(g, _pad(g, x, g.one_of([0.0, -np.inf]), 1), "MaxPool", 0)  # no window lies in the padding alone


def _pad(g: _Garden, x: Value, number: float, most: int = 2) -> Value:
    before, after = (int(g.draw.integers(0, most + 1)) for _ in range(2))
    n, c, h, w = x.dims
    inputs = [x, g.ints(0, 0, before, 1, 0, 0, 1, after)]
    if number or g.chance(0.5):
        inputs.append(g.scalar(number))
    mode = {} if number or g.chance(0.5) else {"mode": "constant"}
    return g.add("Pad", inputs, [n, c, h + before + 1, w + 1 + after], **mode)


def _pool(g: _Garden, x: Value, op: str, most: int = 1) -> Value:
    n, c, *spatial = x.dims
    kernel = min(g.one_of([2, 3]), *spatial)
    stride, pad = g.one_of([1, 2]), int(g.draw.integers(0, min(most, kernel // 2) + 1))
    shape = [(s + 2 * pad - kernel) // stride + 1 for s in spatial]
    more = {"count_include_pad": int(g.draw.integers(2))} if op == "AveragePool" else {}
    return g.add(op, (x,), [n, c, *shape], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, **more)


@_pattern(4, 1.5, "MaxPool")
def _max_pool(g: _Garden, x: Value) -> Value:
    return _pool(g, x, "MaxPool")


@_pattern(4, 1, "AveragePool")
def _average_pool(g: _Garden, x: Value) -> Value:
    return _pool(g, x, "AveragePool")


@_pattern(4, 1, "BatchNormalization")
def _batch_norm(g: _Garden, x: Value) -> Value:
    return _activated(g, _normalized(g, x))


@_pattern(4, 1, "GlobalAveragePool", "Conv", "Sigmoid", "Mul")
def _squeeze_excite(g: _Garden, x: Value) -> Value:
    n, c = x.dims[:2]
    y = _activated(g, _conv(g, g.add("GlobalAveragePool", (x,), [n, c, 1, 1]), max(1, c // 2), 1))
    gate = g.add("Sigmoid", (_conv(g, y, c, 1),), [n, c, 1, 1])
    return g.add("Mul", (x, gate), x.dims)


@_pattern(4, 0.7, "Resize")
def _upsampled(g: _Garden, x: Value) -> Value:
    n, c, h, w = x.dims
    if prod(x.dims) * 4 > _LARGEST:
        return x
    scales = g.weight(np.array([1, 1, 2, 2], np.float32))
    return g.add("Resize", (x, None, scales), [n, c, 2 * h, 2 * w],
                 mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@_pattern(4, 0.7, "GlobalAveragePool", "Flatten", "Gemm")
def _head(g: _Garden, x: Value) -> Value:
    n, c = x.dims[:2]
    return _gemm(g, g.add("Flatten", (g.add("GlobalAveragePool", (x,), [n, c, 1, 1]),), [n, c], axis=1))


def _gemm(g: _Garden, x: Value) -> Value:
    (n, k), m, turned = x.dims, int(g.one_of(_CHANNELS)), int(g.draw.integers(2))
    inputs = [x, g.normal(*((m, k) if turned else (k, m)), scale=k**-0.5)]
    if g.chance(0.7):
        inputs.append(g.normal(m, scale=0.3))
    more = {"alpha": 0.5} if g.chance(0.2) else {}
    return g.add("Gemm", inputs, [n, m], transB=turned, **more)


@_pattern(2, 2, "Gemm")
def _dense_layer(g: _Garden, x: Value) -> Value:
    return _activated(g, _gemm(g, x))


@_pattern(4, 0.7, "Reshape", "Transpose")
def _tokens(g: _Garden, x: Value) -> Value:
    n, c, h, w = x.dims
    return _transposed(g, _reshaped(g, x, n, c, h * w), 0, 2, 1)


@_pattern(4, 1, "Transpose")
def _channels_last_and_back(g: _Garden, x: Value) -> Value:
    return _transposed(g, _activated(g, _transposed(g, x, 0, 2, 3, 1)), 0, 3, 1, 2)


@_pattern(None, 2, "Add", "Mul")
def _scaled_and_shifted(g: _Garden, x: Value) -> Value:
    shape = g.one_of([(), (1,), (1, x.dims[1], *[1] * (len(x.dims) - 2)), x.dims[-1:], x.dims])
    for op in g.one_of(["Mul Add", "Mul", "Add", "Add Add", "Mul Mul", "Add Mul", "Sub Div", "Div", "Sub"]).split():
        if g.may(op):
            number = g.uniform(0.5, 1.5, *shape) if op in {"Mul", "Div"} else g.normal(*shape)
            turned = op in {"Mul", "Add", "Sub"} and g.chance(0.3)
            x = g.add(op, (number, x) if turned else (x, number), np.broadcast_shapes(x.dims, shape))
    return x


@_pattern(None, 1.5, "Add")
def _sum(g: _Garden, x: Value) -> Value:
    y = _added(g, x, g.pick(None, x.dims))
    return _activated(g, _added(g, y, g.pick(None, x.dims)) if g.chance(0.3) else y)


@_pattern(None, 1, "Concat")
def _joined(g: _Garden, x: Value) -> Value:
    parts = [x, *(g.pick(None, x.dims) for _ in range(g.one_of([1, 1, 2])))]
    axis = g.one_of([1, len(x.dims) - 1])
    if prod(x.dims) * len(parts) > _LARGEST:
        return x
    shape = [d * (len(parts) if i == axis else 1) for i, d in enumerate(x.dims)]
    return g.add("Concat", parts, shape, axis=g.one_of([axis, axis - len(shape)]))


@_pattern(None, 1, "Split", "Concat")
def _split_and_joined(g: _Garden, x: Value) -> Value:
    size = x.dims[1]
    if size < 2:  # noqa: PLR2004  nothing to split
        return x
    first = int(g.draw.integers(1, size))
    shapes = [(x.dims[0], k, *x.dims[2:]) for k in (first, size - first)]
    a, b = g.add_many("Split", (x, g.ints(first, size - first)), shapes, axis=1)
    return g.add("Concat", (_activated(g, b), a), x.dims, axis=1)


@_pattern(None, 1, "Slice")
def _sliced(g: _Garden, x: Value) -> Value:
    axis = len(x.dims) - 1
    start, step = int(g.draw.integers(0, 2)), g.one_of([1, 1, 2])
    if x.dims[axis] < 4:  # noqa: PLR2004  keep something
        return x
    shape = [*x.dims[:-1], len(range(start, x.dims[axis], step))]
    return g.add("Slice", (x, g.ints(start), g.ints(2**31 - 1), g.ints(axis), g.ints(step)), shape)


@_pattern(None, 1.5, "Sigmoid", "Mul")
def _silu(g: _Garden, x: Value) -> Value:
    gate = g.add("Sigmoid", (x,), x.dims)
    return g.add("Mul", (x, gate) if g.chance(0.5) else (gate, x), x.dims)


@_pattern(None, 0.7, "Add", "Clip", "Mul")
def _hard_swish(g: _Garden, x: Value) -> Value:
    y = g.add("Clip", (g.add("Add", (x, g.scalar(3.0)), x.dims), g.scalar(0.0), g.scalar(6.0)), x.dims)
    y = g.add("Mul", (x, y), x.dims)
    return g.add("Div", (y, g.scalar(6.0)), x.dims) if g.may("Div") else g.add("Mul", (y, g.scalar(1 / 6)), x.dims)


@_pattern(None, 0.7, "Div", "Erf", "Add", "Mul")
def _gelu(g: _Garden, x: Value) -> Value:
    y = g.add("Erf", (g.add("Div", (x, g.scalar(2**0.5)), x.dims),), x.dims)
    y = g.add("Mul", (x, g.add("Add", (y, g.scalar(1.0)), x.dims)), x.dims)
    return g.add("Mul", (y, g.scalar(0.5)), x.dims)


@_pattern(None, 0.7, "Softmax")
def _softmax(g: _Garden, x: Value) -> Value:
    return g.add("Softmax", (x,), x.dims, axis=g.one_of([-1, 1]))


@_pattern(None, 0.7, "ReduceMean", "Sub")
def _centered(g: _Garden, x: Value) -> Value:
    mean = g.add("ReduceMean", (x, g.ints(-1)), [*x.dims[:-1], 1], keepdims=1)
    return g.add("Sub", (x, mean), x.dims)


@_pattern(None, 1, "Identity")
def _nothing(g: _Garden, x: Value) -> Value:
    """What a simplifier should remove."""
    kinds = [k for k in ("Identity", "Dropout", "Transpose", "Reshape", "Cast", "Add", "Mul", "Concat") if g.may(k)]
    match g.one_of(kinds):
        case "Transpose":
            return _transposed(g, x, *range(len(x.dims)))
        case "Reshape":
            return _reshaped(g, x, *x.dims)
        case "Cast":
            return g.add("Cast", (x,), x.dims, to=1)
        case "Add":
            return g.add("Add", (x, g.scalar(0.0)), x.dims)
        case "Mul":
            return g.add("Mul", (x, g.scalar(1.0)), x.dims)
        case "Concat":
            return g.add("Concat", (x,), x.dims, axis=0)
        case op:
            return g.add(op, (x,), x.dims)


@_pattern(None, 0.7, "Add", "Mul")
def _constant_arithmetic(g: _Garden, x: Value) -> Value:
    size = x.dims[-1]
    known = g.add("Mul", (g.normal(size), g.add("Add", (g.normal(size), g.scalar(1.0)), [size])), [size])
    return _added(g, x, known)


@_pattern(None, 0.7, "Tanh", "Add")
def _twice_the_same(g: _Garden, x: Value) -> Value:
    return _added(g, g.add("Tanh", (x,), x.dims), g.add("Tanh", (x,), x.dims))


@_pattern(3, 5, "MatMul")
def _linear(g: _Garden, x: Value) -> Value:
    return _activated(g, _project(g, x, int(g.one_of((4, 6, 8, 12, 16)))))


def _project(g: _Garden, x: Value, width: int) -> Value:
    y = g.add("MatMul", (x, g.normal(x.dims[-1], width, scale=x.dims[-1] ** -0.5)), [*x.dims[:-1], width])
    return _added(g, y, g.normal(width, scale=0.3)) if g.may("Add") and g.chance(0.7) else y


@_pattern(3, 1, "Reshape", "Gemm")
def _flat_linear(g: _Garden, x: Value) -> Value:
    n, t, d = x.dims
    y = _gemm(g, _reshaped(g, x, n * t, d))
    return _reshaped(g, y, n, t, y.dims[1])


@_pattern(3, 2, "MatMul", "Add")
def _feed_forward(g: _Garden, x: Value) -> Value:
    d = x.dims[-1]
    return _added(g, x, _project(g, _activated(g, _project(g, x, 2 * d)), d))


@_pattern(3, 1.5, "LayerNormalization")
def _layer_norm(g: _Garden, x: Value) -> Value:
    d = x.dims[-1]
    parameters = [g.uniform(0.7, 1.3, d)] + ([g.normal(d, scale=0.2)] if g.chance(0.8) else [])
    return g.add("LayerNormalization", (x, *parameters), x.dims, axis=-1, epsilon=1e-5)


@_pattern(3, 1.5, "ReduceMean", "Sub", "Pow", "Add", "Sqrt", "Div", "Mul")
def _spelled_layer_norm(g: _Garden, x: Value) -> Value:
    *outer, d = x.dims
    centered = g.add("Sub", (x, g.add("ReduceMean", (x, g.ints(-1)), [*outer, 1], keepdims=1)), x.dims)
    square = g.add("Pow", (centered, g.scalar(2.0)), x.dims)
    variance = g.add("ReduceMean", (square, g.ints(-1)), [*outer, 1], keepdims=1)
    deviation = g.add("Sqrt", (g.add("Add", (variance, g.scalar(1e-5)), [*outer, 1]),), [*outer, 1])
    y = g.add("Div", (centered, deviation), x.dims)
    return _added(g, g.add("Mul", (y, g.uniform(0.7, 1.3, d)), x.dims), g.normal(d, scale=0.2))


@_pattern(3, 2, "MatMul", "Reshape", "Transpose", "Softmax", "Mul")
def _attention(g: _Garden, x: Value) -> Value:
    n, t, d = x.dims
    heads = 2 if d % 2 == 0 else 1
    k = d // heads
    q, key, value = (_transposed(g, _reshaped(g, _project(g, x, d), n, t, heads, k), *perm)
                     for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
    scores = g.add("MatMul", (q, key), [n, heads, t, t])
    scores = g.add("Mul", (scores, g.scalar(k**-0.5)), scores.dims)
    y = g.add("MatMul", (g.add("Softmax", (scores,), scores.dims, axis=-1), value), [n, heads, t, k])
    y = _project(g, _reshaped(g, _transposed(g, y, 0, 2, 1, 3), n, t, d), d)
    return _added(g, x, y) if g.may("Add") else y


@_pattern(3, 0.7, "Gather")
def _gathered(g: _Garden, x: Value) -> Value:
    picked = [int(i) for i in g.draw.integers(-x.dims[1], x.dims[1], 3)]
    return g.add("Gather", (x, g.ints(*picked)), [x.dims[0], 3, x.dims[2]], axis=1)


@_pattern(3, 0.7, "Transpose")
def _turned(g: _Garden, x: Value) -> Value:
    return _transposed(g, _activated(g, _transposed(g, x, 0, 2, 1)), 0, 2, 1)
