"""Patterns for random graphs that grow from values of any rank, and those that transformers are made of (axes N, T, D)."""

from math import prod

import numpy as np

from edgec.ir.graph import Value
from edgec.testing.garden import LARGEST, Garden, Pattern, activated, added, gemm, registrar, reshaped, transposed

PATTERNS: list[Pattern] = []
pattern = registrar(PATTERNS)


@pattern(2, 2, "Gemm")
def _dense_layer(g: Garden, x: Value) -> Value:
    return activated(g, gemm(g, x))


@pattern(None, 2, "Add", "Mul")
def _scaled_and_shifted(g: Garden, x: Value) -> Value:
    shape = g.one_of([(), (1,), (1, x.dims[1], *[1] * (len(x.dims) - 2)), x.dims[-1:], x.dims])
    for op in g.one_of(["Mul Add", "Mul", "Add", "Add Add", "Mul Mul", "Add Mul", "Sub Div", "Div", "Sub"]).split():
        if g.may(op):
            number = g.uniform(0.5, 1.5, *shape) if op in {"Mul", "Div"} else g.normal(*shape)
            turned = op in {"Mul", "Add", "Sub"} and g.chance(0.3)
            x = g.add(op, (number, x) if turned else (x, number), np.broadcast_shapes(x.dims, shape))
    return x


@pattern(None, 1.5, "Add")
def _sum(g: Garden, x: Value) -> Value:
    y = added(g, x, g.pick(None, x.dims))
    return activated(g, added(g, y, g.pick(None, x.dims)) if g.chance(0.3) else y)


@pattern(None, 1, "Concat")
def _joined(g: Garden, x: Value) -> Value:
    parts = [x, *(g.pick(None, x.dims) for _ in range(g.one_of([1, 1, 2])))]
    axis = g.one_of([1, len(x.dims) - 1])
    if prod(x.dims) * len(parts) > LARGEST:
        return x
    shape = [d * (len(parts) if i == axis else 1) for i, d in enumerate(x.dims)]
    return g.add("Concat", parts, shape, axis=g.one_of([axis, axis - len(shape)]))


@pattern(None, 1, "Split", "Concat")
def _split_and_joined(g: Garden, x: Value) -> Value:
    size = x.dims[1]
    if size < 2:  # noqa: PLR2004  nothing to split
        return x
    first = int(g.draw.integers(1, size))
    shapes = [(x.dims[0], k, *x.dims[2:]) for k in (first, size - first)]
    a, b = g.add_many("Split", (x, g.ints(first, size - first)), shapes, axis=1)
    return g.add("Concat", (activated(g, b), a), x.dims, axis=1)


@pattern(None, 1, "Slice")
def _sliced(g: Garden, x: Value) -> Value:
    axis = len(x.dims) - 1
    start, step = int(g.draw.integers(0, 2)), g.one_of([1, 1, 2])
    if x.dims[axis] < 4:  # noqa: PLR2004  keep something
        return x
    shape = [*x.dims[:-1], len(range(start, x.dims[axis], step))]
    return g.add("Slice", (x, g.ints(start), g.ints(2**31 - 1), g.ints(axis), g.ints(step)), shape)


@pattern(None, 1.5, "Sigmoid", "Mul")
def _silu(g: Garden, x: Value) -> Value:
    gate = g.add("Sigmoid", (x,), x.dims)
    return g.add("Mul", (x, gate) if g.chance(0.5) else (gate, x), x.dims)


@pattern(None, 0.7, "Add", "Clip", "Mul")
def _hard_swish(g: Garden, x: Value) -> Value:
    y = g.add("Clip", (g.add("Add", (x, g.scalar(3.0)), x.dims), g.scalar(0.0), g.scalar(6.0)), x.dims)
    y = g.add("Mul", (x, y), x.dims)
    return g.add("Div", (y, g.scalar(6.0)), x.dims) if g.may("Div") else g.add("Mul", (y, g.scalar(1 / 6)), x.dims)


@pattern(None, 0.7, "Div", "Erf", "Add", "Mul")
def _gelu(g: Garden, x: Value) -> Value:
    y = g.add("Erf", (g.add("Div", (x, g.scalar(2**0.5)), x.dims),), x.dims)
    y = g.add("Mul", (x, g.add("Add", (y, g.scalar(1.0)), x.dims)), x.dims)
    return g.add("Mul", (y, g.scalar(0.5)), x.dims)


@pattern(None, 0.7, "Softmax")
def _softmax(g: Garden, x: Value) -> Value:
    return g.add("Softmax", (x,), x.dims, axis=g.one_of([-1, 1]))


@pattern(None, 0.7, "ReduceMean", "Sub")
def _centered(g: Garden, x: Value) -> Value:
    mean = g.add("ReduceMean", (x, g.ints(-1)), [*x.dims[:-1], 1], keepdims=1)
    return g.add("Sub", (x, mean), x.dims)


@pattern(None, 1, "Identity")
def _nothing(g: Garden, x: Value) -> Value:
    """What a simplifier should remove."""
    kinds = [k for k in ("Identity", "Dropout", "Transpose", "Reshape", "Cast", "Add", "Mul", "Concat") if g.may(k)]
    match g.one_of(kinds):
        case "Transpose":
            return transposed(g, x, *range(len(x.dims)))
        case "Reshape":
            return reshaped(g, x, *x.dims)
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


@pattern(None, 0.7, "Add", "Mul")
def _constant_arithmetic(g: Garden, x: Value) -> Value:
    size = x.dims[-1]
    known = g.add("Mul", (g.normal(size), g.add("Add", (g.normal(size), g.scalar(1.0)), [size])), [size])
    return added(g, x, known)


@pattern(None, 0.7, "Tanh", "Add")
def _twice_the_same(g: Garden, x: Value) -> Value:
    return added(g, g.add("Tanh", (x,), x.dims), g.add("Tanh", (x,), x.dims))


@pattern(3, 5, "MatMul")
def _linear(g: Garden, x: Value) -> Value:
    return activated(g, _project(g, x, int(g.one_of((4, 6, 8, 12, 16)))))


def _project(g: Garden, x: Value, width: int) -> Value:
    y = g.add("MatMul", (x, g.normal(x.dims[-1], width, scale=x.dims[-1] ** -0.5)), [*x.dims[:-1], width])
    return added(g, y, g.normal(width, scale=0.3)) if g.may("Add") and g.chance(0.7) else y


@pattern(3, 1, "Reshape", "Gemm")
def _flat_linear(g: Garden, x: Value) -> Value:
    n, t, d = x.dims
    y = gemm(g, reshaped(g, x, n * t, d))
    return reshaped(g, y, n, t, y.dims[1])


@pattern(3, 2, "MatMul", "Add")
def _feed_forward(g: Garden, x: Value) -> Value:
    d = x.dims[-1]
    return added(g, x, _project(g, activated(g, _project(g, x, 2 * d)), d))


@pattern(3, 1.5, "LayerNormalization")
def _layer_norm(g: Garden, x: Value) -> Value:
    d = x.dims[-1]
    parameters = [g.uniform(0.7, 1.3, d)] + ([g.normal(d, scale=0.2)] if g.chance(0.8) else [])
    return g.add("LayerNormalization", (x, *parameters), x.dims, axis=-1, epsilon=1e-5)


@pattern(3, 1.5, "ReduceMean", "Sub", "Pow", "Add", "Sqrt", "Div", "Mul")
def _spelled_layer_norm(g: Garden, x: Value) -> Value:
    *outer, d = x.dims
    centered = g.add("Sub", (x, g.add("ReduceMean", (x, g.ints(-1)), [*outer, 1], keepdims=1)), x.dims)
    square = g.add("Pow", (centered, g.scalar(2.0)), x.dims)
    variance = g.add("ReduceMean", (square, g.ints(-1)), [*outer, 1], keepdims=1)
    deviation = g.add("Sqrt", (g.add("Add", (variance, g.scalar(1e-5)), [*outer, 1]),), [*outer, 1])
    y = g.add("Div", (centered, deviation), x.dims)
    return added(g, g.add("Mul", (y, g.uniform(0.7, 1.3, d)), x.dims), g.normal(d, scale=0.2))


@pattern(3, 2, "MatMul", "Reshape", "Transpose", "Softmax", "Mul")
def _attention(g: Garden, x: Value) -> Value:
    n, t, d = x.dims
    heads = 2 if d % 2 == 0 else 1
    k = d // heads
    q, key, value = (transposed(g, reshaped(g, _project(g, x, d), n, t, heads, k), *perm)
                     for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
    scores = g.add("MatMul", (q, key), [n, heads, t, t])
    scores = g.add("Mul", (scores, g.scalar(k**-0.5)), scores.dims)
    if g.may("Add") and g.chance(0.5):
        scores = added(g, scores, g.normal(*g.one_of([(t,), (n, 1, 1, t), (heads, t, t)])))
    y = g.add("MatMul", (g.add("Softmax", (scores,), scores.dims, axis=-1), value), [n, heads, t, k])
    y = _project(g, reshaped(g, transposed(g, y, 0, 2, 1, 3), n, t, d), d)
    return added(g, x, y) if g.may("Add") else y


@pattern(3, 0.7, "Gather")
def _gathered(g: Garden, x: Value) -> Value:
    picked = [int(i) for i in g.draw.integers(-x.dims[1], x.dims[1], 3)]
    return g.add("Gather", (x, g.ints(*picked)), [x.dims[0], 3, x.dims[2]], axis=1)


@pattern(3, 0.7, "Transpose")
def _turned(g: Garden, x: Value) -> Value:
    return transposed(g, activated(g, transposed(g, x, 0, 2, 1)), 0, 2, 1)
