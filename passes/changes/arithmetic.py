"""Numbers that are computed at build time: the same bits on every build machine, whatever instructions numpy finds there.

- Moves, and arithmetic of integers, are exact. QuantizeLinear divides in f32, as it does when a model runs.
- + - * / sqrt, comparisons, rounding, minima and maxima of reals are computed in float64, where IEEE 754 leaves no choice, and are
  rounded to the dtype once: f16 and f32 results are the correctly rounded ones.
- Sums and products of matrices add in the order of the index, one elementwise operation after another: no BLAS, no trees.
- exp, log, tanh and their like are computed in numpy's longdouble, for which numpy has one scalar loop and no SIMD variant, and are
  rounded to the dtype then. Those with f64 results stay in the graph, because longdouble is no wider than float64 on some machines.
- Everything else stays in the graph, and so does everything random.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Node, Value
from edgec.ir.types import Tensor, dtype_name, numpy_dtype

MOVES = frozenset({
    "Cast", "Compress", "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND",
    "Identity", "NonZero", "OneHot", "Pad", "QuantizeLinear", "Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unique", "Unsqueeze", "Where"})
EXACT = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Ceil", "Clip", "DequantizeLinear", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual",
    "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "PRelu", "Range", "Reciprocal",
    "ReduceMax", "ReduceMin", "Relu", "Round", "Sign", "Sqrt", "Sub", "ThresholdedRelu", "Xor"})
INTEGER = frozenset({
    "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CumSum", "MatMul", "Mod", "Pow", "ReduceProd", "ReduceSum", "Sum",
    "TopK"})
"""Folded when nothing is real."""
_REAL = frozenset({"f16", "bf16", "f32", "f64"})


class CannotFold(Exception):
    """A node that has no value at build time, such as a division by zero: it stays and is computed, or refused, when the model runs."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.label)
        self.node = node


def computable(node: Node) -> bool:
    """Whether this kind of node is computed at build time at all."""
    kinds = [_kind(v) for v in (*node.inputs, *node.outputs) if v is not None]
    if node.op in MOVES:
        return "" not in kinds and not (node.op == "Cast" and "string" in kinds)
    if any(k in {"", "string"} or k[0] == "c" for k in kinds):
        return False
    if not any(k in _REAL for k in kinds):
        return node.op in EXACT or node.op in INTEGER
    return node.op in EXACT or node.op in _SUMS or (node.op in _SMOOTH and "f64" not in kinds)


def compute(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    """The results of a node that is `computable`; CannotFold when they do not exist."""
    given = [a for a in inputs if a is not None]
    if node.op in ("Div", "Mod") and given[0].dtype.kind in "iu" and not given[1].all():
        raise CannotFold(node)
    if node.op == "Cast" and not _fits(given[0], node):
        raise CannotFold(node)
    real = [dtype_name(a.dtype) in _REAL for a in given]
    with np.errstate(all="ignore"):
        try:
            if node.op in MOVES or not any(real):
                made = evaluate_node(node, inputs)
            elif node.op in EXACT:
                made = evaluate_node(node, [a.astype(np.float64) if a is not None and dtype_name(a.dtype) in _REAL else a for a in inputs])
            elif node.op in _SUMS:
                made = [_SUMS[node.op](node, *(a.astype(np.float64) if dtype_name(a.dtype) in _REAL else a for a in given))]
            else:
                made = [_SMOOTH[node.op](*(a.astype(np.longdouble) for a in given))]
        except (ArithmeticError, IndexError, LookupError, NotImplementedError, TypeError, ValueError):
            raise CannotFold(node) from None
        return [np.asarray(a).astype(numpy_dtype(_kind(v)), copy=False) for v, a in zip(node.outputs, made, strict=True)]


def _kind(value: Value) -> str:
    return value.type.dtype if isinstance(value.type, Tensor) else ""


def _fits(array: Array, node: Node) -> bool:
    """Whether a Cast to integers has one meaning: what is no number or out of range becomes what the machine likes."""
    kind = numpy_dtype(_kind(node.output))
    if array.dtype.kind in "iub" or kind.kind not in "iu":
        return True
    wide, limits = array.astype(np.float64), np.iinfo(kind)
    return bool(np.isfinite(wide).all() and (wide > limits.min - 1.0).all() and (wide < limits.max + 1.0).all())


def _rows(node: Node, x: Array, axes: Array | None) -> tuple[Array, list[int], tuple[int, ...]]:
    """The operand of a reduction with the elements that are added on its last axis, the axes, and the shape of the result with them."""
    if axes is None or not axes.size:
        if node.attrs.get("noop_with_empty_axes", 0):
            raise CannotFold(node)
        chosen = list(range(x.ndim))
    else:
        chosen = sorted(int(a) % x.ndim for a in axes.reshape(-1))
    rest = [a for a in range(x.ndim) if a not in chosen]
    shape = tuple(1 if a in chosen else d for a, d in enumerate(x.shape))
    return x.transpose(*rest, *chosen).reshape(*(x.shape[a] for a in rest), -1), chosen, shape


def _reduction(before: Callable[[Array], Array], after: Callable[[Array, int], Array]) -> Callable[..., Array]:
    def reduce(node: Node, x: Array, axes: Array | None = None) -> Array:
        rows, chosen, shape = _rows(node, x, axes)
        count = rows.shape[-1]
        total = before(rows).cumsum(-1)[..., -1] if count else np.zeros(rows.shape[:-1])  # a running sum adds in order
        kept = after(total, count).reshape(shape)
        return kept if node.attrs.get("keepdims", 1) else kept.reshape([d for a, d in enumerate(kept.shape) if a not in chosen])

    return reduce


def _matmul(node: Node, a: Array, b: Array) -> Array:
    if min(a.ndim, b.ndim) < 2:  # noqa: PLR2004  canonicalize makes matrices of vectors
        raise CannotFold(node)
    total = np.zeros(np.broadcast_shapes((*a.shape[:-2], a.shape[-2], b.shape[-1]), (*b.shape[:-2], 1, 1)))
    for k in range(a.shape[-1]):
        total += a[..., :, k, None] * b[..., k, None, :]
    return total


def _sum(_: Node, *operands: Array) -> Array:
    total: Array = operands[0]
    for other in operands[1:]:
        total = total + other
    return total


_SUMS: Mapping[str, Callable[..., Array]] = {
    "ReduceSum": _reduction(lambda x: x, lambda s, _: s), "ReduceMean": _reduction(lambda x: x, lambda s, n: s / n),
    "ReduceSumSquare": _reduction(np.square, lambda s, _: s), "ReduceL1": _reduction(np.abs, lambda s, _: s),
    "ReduceL2": _reduction(np.square, lambda s, _: np.sqrt(s)), "MatMul": _matmul, "Sum": _sum,
}
_one: Any = np.longdouble(1)
_SMOOTH: Mapping[str, Callable[..., Array]] = {
    "Exp": np.exp, "Log": np.log, "Pow": np.power, "Sin": np.sin, "Cos": np.cos, "Tan": np.tan, "Asin": np.arcsin, "Acos": np.arccos,
    "Atan": np.arctan, "Sinh": np.sinh, "Cosh": np.cosh, "Tanh": np.tanh, "Sigmoid": lambda x: _one / (_one + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(x, np.longdouble(0)),
}
