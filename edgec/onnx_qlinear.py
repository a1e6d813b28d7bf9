"""Quantized operators of com.microsoft, as ONNX Runtime writes them, in ONNX's own: DequantizeLinear, an operator, QuantizeLinear.

Each has the scale and zero point of its operands and of its result among its inputs. Those that work on images with channels last get a
Transpose on both sides.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from edgec.errors import UnsupportedModel
from edgec.ir.graph import Array, Node, Value


class Site(Protocol):
    """A node on its way in: what the importer's own context of one offers."""

    @property
    def node(self) -> Node:
        """The node."""

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""

    def value(self, what: str) -> Value:
        """A new value."""

    def weight(self, what: str, array: Any, dtype: Any = None) -> Value:
        """A new constant."""

    def array(self, i: int) -> Array:
        """The elements of an input that is constant."""

    def shape(self, i: int) -> tuple[Any, ...]:
        """The shape of an input."""

    def new(self, op: str, inputs: Iterable[Value | None], outputs: Iterable[Value], **attrs: Any) -> Node:
        """Another node with the same origin."""

    def unsupported(self, why: str) -> UnsupportedModel:
        """The error of a node that has no equivalent."""


class _Parts:
    """The nodes that stand for one."""

    def __init__(self, at: Site) -> None:
        self.at, self.nodes, self.count = at, list[Node](), 0

    def make(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        """The result of a new node."""
        self.count += 1
        made = self.at.value(f"{op.lower()}.{self.count}")
        self.nodes.append(self.at.new(op, inputs, (made,), **attrs))
        return made

    def real(self, i: int, axis: int | None = None) -> Value:
        """The reals of the operand whose integers, scale and zero point are the inputs from the i-th on."""
        value, scale, zero = (*self.at.node.inputs, None, None)[i:i + 3]
        attrs = {} if axis is None else {"axis": axis}
        return self.make("DequantizeLinear", value, scale, *(() if zero is None else (zero,)), **attrs)

    def last(self, real: Value, i: int) -> list[Node]:
        """The nodes, with the result stored by the scale and zero point that are the inputs from the i-th on."""
        scale, zero = (*self.at.node.inputs, None)[i:i + 2]
        self.nodes.append(self.at.new("QuantizeLinear", (real, scale, *(() if zero is None else (zero,))), self.at.node.outputs))
        return self.nodes

    def turned(self, value: Value, rank: int, *, back: bool = False) -> Value:
        """An image with channels last as one with channels second, or back, where the node says that its images are so."""
        if not self.at.attr("channels_last", 0):
            return value
        order = [0, *range(2, rank), 1] if back else [0, rank - 1, *range(1, rank - 1)]
        return self.make("Transpose", value, perm=order)


def _binary(op: str) -> Callable[[Site], list[Node]]:
    def step(at: Site) -> list[Node]:
        parts = _Parts(at)
        return parts.last(parts.make(op, parts.real(0), parts.real(3)), 6)

    return step


def _unary(op: str, *kept: str) -> Callable[[Site], list[Node]]:
    def step(at: Site) -> list[Node]:
        parts = _Parts(at)
        return parts.last(parts.make(op, parts.real(0), **{k: at.attr(k) for k in kept if at.attr(k) is not None}), 3)

    return step


def _pool(op: str, *kept: str) -> Callable[[Site], list[Node]]:
    def step(at: Site) -> list[Node]:
        parts, rank = _Parts(at), len(at.shape(0))
        image = parts.turned(parts.real(0), rank)
        made = parts.make(op, image, **{k: at.attr(k) for k in kept if at.attr(k) is not None})
        return parts.last(parts.turned(made, rank, back=True), 3)

    return step


def _conv(at: Site) -> list[Node]:
    parts, rank = _Parts(at), len(at.shape(0))
    image, weight = parts.turned(parts.real(0), rank), parts.real(3, 0 if at.array(4).size > 1 else None)
    inputs = [image, weight]
    bias = (*at.node.inputs, None)[8]
    if bias is not None:
        scale = np.asarray(at.array(1).reshape(-1)[0] * at.array(4).reshape(-1), np.float32)
        by = at.weight("bias.scale", scale if scale.size > 1 else scale.reshape(()))
        inputs.append(parts.make("DequantizeLinear", bias, by, **({"axis": 0} if scale.size > 1 else {})))
    made = parts.make("Conv", *inputs, **{k: a for k, a in at.node.attrs.items() if k != "channels_last"})
    return parts.last(parts.turned(made, rank, back=True), 6)


def _gemm(at: Site) -> list[Node]:
    parts = _Parts(at)
    axis = 0 if at.attr("transB", 0) else 1
    a, b = parts.real(0), parts.real(3, axis if at.array(4).size > 1 else None)
    inputs, alpha = [a, b], at.attr("alpha", 1.0)
    bias, y_scale = (*at.node.inputs, None, None)[6:8]
    if bias is not None:
        scale = np.asarray(alpha * at.array(1).reshape(-1)[0] * at.array(4).reshape(-1), np.float32)
        by = at.weight("bias.scale", scale if scale.size > 1 else scale.reshape(()))
        axis = len(at.shape(6)) - 1
        inputs.append(parts.make("DequantizeLinear", bias, by, **({"axis": axis} if scale.size > 1 else {})))
    made = parts.make("Gemm", *inputs, **{k: a for k, a in at.node.attrs.items() if k in ("alpha", "transA", "transB")})
    if y_scale is not None:
        return parts.last(made, 7)
    return [*parts.nodes[:-1], at.new(parts.nodes[-1].op, parts.nodes[-1].inputs, at.node.outputs, **parts.nodes[-1].attrs)]


def _concat(at: Site) -> list[Node]:
    parts = _Parts(at)
    reals = [parts.real(i) for i in range(2, len(at.node.inputs), 3)]
    return parts.last(parts.make("Concat", *reals, axis=at.attr("axis")), 0)


def _matmul_to_float(at: Site) -> list[Node]:
    """MatMulIntegerToFloat(a, b, a_scale, b_scale, a_zero, b_zero, bias): a product of integers and its scale."""
    parts = _Parts(at)
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (*at.node.inputs, *[None] * 3)[:7]
    whole = parts.make("Cast", parts.make("MatMulInteger", a, b, a_zero, b_zero), to=1)
    made = parts.make("Mul", whole, parts.make("Mul", a_scale, b_scale))
    return _added(at, parts, made, bias)


def _dynamic_matmul(at: Site) -> list[Node]:
    """DynamicQuantizeMatMul(a, b, b_scale, b_zero, bias): the same behind a quantization of a."""
    parts = _Parts(at)
    a, b, b_scale, b_zero, bias = (*at.node.inputs, *[None] * 2)[:5]
    stored, scale, zero = (at.value(n) for n in ("stored", "scale", "zero"))
    parts.nodes.append(at.new("DynamicQuantizeLinear", (a,), (stored, scale, zero)))
    whole = parts.make("Cast", parts.make("MatMulInteger", stored, b, zero, b_zero), to=1)
    return _added(at, parts, parts.make("Mul", whole, parts.make("Mul", scale, b_scale)), bias)


def _added(at: Site, parts: _Parts, made: Value, bias: Value | None) -> list[Node]:
    inputs: Sequence[Value] = (made,) if bias is None else (made, bias)
    return [*parts.nodes, at.new("Identity" if bias is None else "Add", inputs, at.node.outputs)]


_WINDOW = ("kernel_shape", "strides", "pads", "auto_pad", "ceil_mode", "count_include_pad")
STEPS: Mapping[str, Callable[[Site], list[Node]]] = MappingProxyType({
    f"com.microsoft.{op}": step for op, step in {
        "QLinearAdd": _binary("Add"), "QLinearMul": _binary("Mul"), "QLinearSigmoid": _unary("Sigmoid"),
        "QLinearLeakyRelu": _unary("LeakyRelu", "alpha"), "QLinearSoftmax": _unary("Softmax", "axis"),
        "QLinearGlobalAveragePool": _pool("GlobalAveragePool"),
        "QLinearAveragePool": _pool("AveragePool", *_WINDOW), "QLinearConv": _conv, "QGemm": _gemm, "QLinearConcat": _concat,
        "MatMulIntegerToFloat": _matmul_to_float, "DynamicQuantizeMatMul": _dynamic_matmul}.items()})
"""What becomes of each operator."""
