"""A quantized operator on its way into TFLite: what its group says, and the parts that several operators have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.ir.graph import Array, Node, Value
from edgec.ir.tflite import ACTIVATIONS, as_integer, bounds
from edgec.ir.types import Quant, Tensor
from passes.changes.qdq import Group, Quantized
from passes.changes.tflite import IMAGE, Body, Refused, signed

IMAGE_RANK = 4
BYTE = np.iinfo(np.int8)


@dataclass(frozen=True)
class Work:
    """A group that is being rewritten, in a body, with the constants of the graph that it stands in."""

    body: Body
    group: Group
    weights: Mapping[Value, Array]

    @property
    def anchor(self) -> Node:
        """The operator that the group is about."""
        return self.group.anchor

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Its attributes."""
        return self.anchor.attrs

    @property
    def output(self) -> Quantized:
        """The first result."""
        return self.group.outputs[0]

    @property
    def result(self) -> Quant:
        """Scale and zero point of the result, as signed bytes."""
        return signed(self.output.dtype, self.output.quant)

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of the result."""
        return self.output.stored.dims

    def operand(self, i: int) -> Quantized:
        """The i-th operand, which is quantized."""
        found = self.group.inputs[i] if i < len(self.group.inputs) else None
        if found is None:
            raise Refused(f"operand {i} is not quantized")
        return found

    def image(self, i: int = 0) -> Value:
        """The i-th operand, channels last."""
        operand = self.computed(i)
        return self.body.image(operand.stored, operand.quant)

    def plain(self, i: int = 0) -> Value:
        """The i-th operand with its own axes."""
        operand = self.computed(i)
        return self.body.plain(operand.stored, operand.quant)

    def computed(self, i: int) -> Quantized:
        """The i-th operand, which is no constant."""
        operand = self.operand(i)
        if operand.array is not None:
            raise Refused(f"operand {i} is a constant")
        signed(operand.dtype, operand.quant)
        return operand

    def constant(self, i: int) -> Array | None:
        """The i-th operand when it is a constant that is not quantized."""
        value = self.anchor.input(i)
        if value is None:
            return None
        if value not in self.weights:
            raise Refused(f"operand {i} is computed")
        return self.weights[value]

    def done(self, value: Value, *, image: bool) -> None:
        """Take a value as the result, on the scale of the result."""
        self.body.put(self.output.stored, self.body.quantized(value, self.result, self.output.stored.name), image=image)

    def emit(self, op: str, operands: Sequence[Value | None], dims: Sequence[int], quant: Quant | None = None, **attrs: Any) -> Value:
        """A new operator that is named after the result; its scale is that of the result unless told otherwise."""
        return self.body.node(op, operands, dims, quant or self.result, self.output.stored.name, **attrs)

    def activation(self, node: Node | None = None) -> str:
        """TFLite's word for what Relu or Clip leave of the result; Refused when it has none."""
        node = node or self.group.activation
        if node is None:
            return "NONE"
        least, most = (0.0, None) if node.op == "Relu" else (_number(self.weights, node.input(1)), _number(self.weights, node.input(2)))
        value = Value("", Tensor("i8", (), quant=self.result))
        low = BYTE.min if least is None else min(max(as_integer(value, least), BYTE.min), BYTE.max)
        high = BYTE.max if most is None else min(max(as_integer(value, most), BYTE.min), BYTE.max)
        for kind in ACTIVATIONS[:-1] if node is self.group.activation else ACTIVATIONS:
            if bounds(value, kind) == (low, high):
                return kind
        raise Refused(f"results are kept between {least} and {most}, for which TFLite has no activation")


def _number(weights: Mapping[Value, Array], value: Value | None) -> float | None:
    if value is None:
        return None
    if value not in weights:
        raise Refused("the bounds of Clip are computed")
    return float(weights[value].reshape(-1)[0])


def kernel_of(operand: Quantized, axis: int) -> tuple[Array, Array]:
    """Weights as bytes around zero, and a scale for each channel along an axis."""
    if operand.array is None:
        raise Refused("the weights are computed")
    if operand.axis is not None and operand.axis != axis:
        raise Refused(f"the weights have a scale for each index of axis {operand.axis}, not for each channel of the result")
    zero = operand.zero.astype(np.int16).reshape([-1 if i == operand.axis else 1 for i in range(operand.array.ndim)])
    centered = operand.array.astype(np.int16) - zero
    if centered.min(initial=0) < BYTE.min or centered.max(initial=0) > BYTE.max:
        raise Refused("the weights do not lie symmetrically around zero: without their zero point they have nine bits")
    scales = np.broadcast_to(operand.scale.reshape(-1), operand.array.shape[axis])
    return centered.astype(np.int8), scales.astype(np.float32)


def bias_of(work: Work, scales: Array, bias: Quantized | None, plain: Array | None) -> Value:
    """What is added to sums, on their scale; zeros when nothing is."""
    sums = np.float32(work.operand(0).scale) * scales
    if bias is not None and bias.array is not None:
        stored = np.broadcast_to(bias.array.reshape(-1), sums.shape)
        if bias.dtype == "i32" and np.allclose(bias.scale, sums, rtol=1e-5, atol=0) and not bias.zero.any():
            return work.body.weight("bias", stored.astype(np.int32), per_channel(sums, 0))
        plain = (stored.astype(np.float64) - bias.zero) * bias.scale
    if plain is None:
        return work.body.weight("bias", np.zeros(sums.shape, np.int32), per_channel(sums, 0))
    if plain.size not in (1, sums.size):
        raise Refused("what is added is no bias")
    made = np.rint(np.broadcast_to(plain.reshape(-1), sums.shape).astype(np.float64) / sums)
    if np.abs(made).max(initial=0) >= np.iinfo(np.int32).max:
        raise Refused("the bias does not fit in 32 bits")
    return work.body.weight("bias", made.astype(np.int32), per_channel(sums, 0))


def per_channel(scales: Array, axis: int) -> Quant:
    """Scales of weights or biases, one for each channel along an axis; one alone where all are the same."""
    if len(scales) < 2 or (scales == scales[0]).all():         # noqa: PLR2004  one
        return Quant((float(scales[0]),))
    return Quant(tuple(map(float, scales)), (0,) * len(scales), axis)


def last(dims: Sequence[int]) -> tuple[int, ...]:
    """The dims of an image, channels last."""
    return tuple(dims[i] for i in IMAGE)


def padded(body: Body, x: Value, pads: Sequence[tuple[int, int]], name: str) -> Value:
    """An image with a border of its zero point."""
    dims = [d + b + e for d, (b, e) in zip(x.dims, pads, strict=True)]
    if x.tensor.quant is None:
        raise Refused("an image without a scale")
    return body.node("Pad", (x, body.integers("pads", pads)), dims, x.tensor.quant, name)


__all__ = ["BYTE", "IMAGE_RANK", "Work", "bias_of", "kernel_of", "last", "padded", "per_channel"]
