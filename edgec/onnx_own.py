"""Operators of edgec's own on integers, as nodes of ONNX that mean the same bit for bit."""

from collections.abc import Callable, Mapping

import numpy as np

from edgec.ir.edit import attributes
from edgec.ir.graph import Array, Node, Value
from edgec.ir.proto import CODES
from edgec.ir.types import Tensor, dtype_name

_MIDDLE = 1 << 62       # added to a product so that it is positive and shifts as an unsigned number


class _Parts:
    """The nodes that stand for one, written as calls."""

    def __init__(self, node: Node) -> None:
        self.like, self.nodes, self.weights = node, list[Node](), dict[Value, Array]()

    def __call__(self, op: str, *inputs: Value | None, dtype: str, shape: tuple[int, ...] | None, **attrs: object) -> Value:
        made = Value(f"{self.like.output.name}.{op.lower()}", Tensor(dtype, shape))
        self.nodes.append(Node(op, inputs, (made,), attributes(**attrs), self.like.device, self.like.origin))
        return made

    def last(self, op: str, *inputs: Value | None, **attrs: object) -> None:
        self.nodes.append(Node(op, inputs, self.like.outputs, attributes(**attrs), self.like.device, self.like.origin))

    def weight(self, array: Array) -> Value:
        value = Value(f"{self.like.output.name}.number", Tensor(dtype_name(array.dtype), array.shape))
        self.weights[value] = array
        return value

    def cast(self, value: Value, dtype: str) -> Value:
        return self("Cast", value, dtype=dtype, shape=_shape(value), to=CODES[dtype])


def expanded(node: Node) -> tuple[list[Node], dict[Value, Array]] | None:
    """ONNX's nodes and weights for a node of edgec's own domain; None for any other node."""
    made = _EXPANSIONS.get(node.op)
    if made is None:
        return None
    parts = _Parts(node)
    made(parts, [v for v in node.inputs if v is not None])
    return parts.nodes, parts.weights


def _sum_pool(parts: _Parts, inputs: list[Value]) -> None:
    """A convolution of each channel with ones."""
    x, zero = inputs
    kernel, channels = parts.like.attrs["kernel_shape"], x.dims[1]
    ones = parts.weight(np.ones((channels, 1, *kernel), np.int8))
    parts.last("ConvInteger", x, ones, zero, **{**parts.like.attrs, "group": channels})


def _lookup(parts: _Parts, inputs: list[Value]) -> None:
    """A Gather whose indices count from the first entry."""
    x, table = inputs
    index = parts.cast(x, "i32")
    if x.tensor.dtype == "i8":
        index = parts("Add", index, parts.weight(np.array(128, np.int32)), dtype="i32", shape=_shape(x))
    parts.last("Gather", table, index, axis=0)


def _multiply_shift(parts: _Parts, inputs: list[Value]) -> None:
    """A product in i64, half of the divisor added, shifted as unsigned."""
    x, multiplier, shift = inputs
    shape = _shape(parts.like.output)
    product = parts("Mul", parts.cast(x, "i64"), parts.cast(multiplier, "i64"), dtype="i64", shape=shape)
    wide, one = parts.cast(shift, "u64"), parts.weight(np.array(1, np.uint64))
    less = parts("Sub", wide, one, dtype="u64", shape=_shape(shift))
    half = parts("BitShift", one, less, dtype="u64", shape=_shape(shift), direction="LEFT")
    middle = parts.weight(np.array(_MIDDLE, np.int64))
    rounded = parts("Add", product, parts.cast(half, "i64"), dtype="i64", shape=shape)
    positive = parts.cast(parts("Add", rounded, middle, dtype="i64", shape=shape), "u64")
    shifted = parts.cast(parts("BitShift", positive, wide, dtype="u64", shape=shape, direction="RIGHT"), "i64")
    apart = parts("BitShift", parts.cast(middle, "u64"), wide, dtype="u64", shape=_shape(shift), direction="RIGHT")
    parts.last("Cast", parts("Sub", shifted, parts.cast(apart, "i64"), dtype="i64", shape=shape), to=CODES["i32"])


def _shape(value: Value) -> tuple[int, ...] | None:
    return value.dims if isinstance(value.type, Tensor) and value.type.is_static else None


_EXPANSIONS: Mapping[str, Callable[[_Parts, list[Value]], None]] = {
    "edgec.SumPool": _sum_pool, "edgec.Lookup": _lookup, "edgec.MultiplyShift": _multiply_shift}
