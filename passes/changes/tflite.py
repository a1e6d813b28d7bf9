"""A graph of `tfl` operators as it grows: values by what they stand for, in both orders of their axes.

A quantized tensor of ONNX has up to two values here: `plain`, with its own axes, and `image`, channels last, which is made of the other
where it is first wanted. Bytes are signed: a u8 tensor is held 128 lower.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgec.ir.edit import attributes
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.tflite import PREFIX
from edgec.ir.types import Quant, Tensor, dtype_name
from passes.changes.qdq import Quantized

IMAGE = (0, 2, 3, 1)
PLAIN = (0, 3, 1, 2)
_RANK = 4
_SHIFT = 128


class Refused(ValueError):
    """What cannot be said in TFLite's operators; the message says why."""


def signed(dtype: str, quant: Quant) -> Quant:
    """Scale and zero point of a tensor when its bytes are signed."""
    if dtype not in ("i8", "u8"):
        raise Refused(f"activations of {dtype}: an int8 unit computes with i8 and u8")
    if len(quant.scale) != 1:
        raise Refused("activations with a scale for each channel")
    return quant if dtype == "i8" else Quant(quant.scale, (quant.zero[0] - _SHIFT,))


class Body:
    """Nodes and weights so far, the values of tensors, and `entries`: which order of axes each input is wanted in."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.weights: dict[Value, Array] = {}
        self.maker: dict[Value, Node] = {}
        self.forms: dict[tuple[Value, bool], Value] = {}
        self.entries: dict[Value, tuple[Value, bool]] = {}
        self.pads: dict[Value, tuple[Value, tuple[tuple[int, int], ...]]] = {}
        self.origin = ""
        self._names: dict[str, int] = {}

    def plain(self, stored: Value, quant: Quant) -> Value:
        """The value of a tensor with its own axes."""
        return self._form(stored, quant, image=False)

    def image(self, stored: Value, quant: Quant) -> Value:
        """The value of a tensor of four axes, channels last."""
        return self._form(stored, quant, image=True)

    def is_image(self, *operands: Quantized) -> bool:
        """Whether computed operands are better read channels last: one of them is there already, or none of them is anywhere."""
        stored = [q.stored for q in operands if q.array is None]
        there = [image for v in stored for image in (True, False) if (v, image) in self.forms]
        return True in there or not there

    def put(self, stored: Value, value: Value, *, image: bool) -> None:
        """Say which value a tensor has."""
        self.forms[stored, image] = value

    def name(self, base: str) -> str:
        """A name that nothing here has."""
        count = self._names[base] = self._names.get(base, 0) + 1
        return base if count == 1 else f"{base}.{count}"

    def weight(self, base: str, array: Array, quant: Quant | None = None) -> Value:
        """A new constant."""
        value = Value(self.name(base), Tensor(dtype_name(array.dtype), array.shape, quant=quant))
        self.weights[value] = array
        return value

    def integers(self, base: str, numbers: Any) -> Value:
        """A new constant of 32 bits: a shape, an order of axes."""
        return self.weight(base, np.array(numbers, np.int32))

    def node(self, op: str, operands: Sequence[Value | None], dims: Sequence[int], quant: Quant, base: str, *, dtype: str = "i8",
             **attrs: Any) -> Value:
        """The result of a new operator."""
        result = Value(self.name(base), Tensor(dtype, tuple(dims), quant=quant))
        made = Node(PREFIX + op, tuple(operands), (result,), attributes(**attrs), origin=self.origin)
        self.nodes.append(made)
        self.maker[result] = made
        return result

    def reshaped(self, value: Value, dims: Sequence[int]) -> Value:
        """The same elements in another shape; of two changes of shape in a row the second is enough."""
        before = self.maker.get(value)
        if before is not None and before.op == "tfl.Reshape" and before.inputs[0] is not None:
            value = before.inputs[0]
        if value.dims == tuple(dims):
            return value
        return self.node("Reshape", (value, self.integers("shape", list(dims))), dims, _quant(value), value.name)

    def transposed(self, value: Value, order: Sequence[int]) -> Value:
        """The axes in another order; where only axes of length one move, a change of shape."""
        dims = [value.dims[i] for i in order]
        if [i for i in order if value.dims[i] != 1] == [i for i, d in enumerate(value.dims) if d != 1]:
            return self.reshaped(value, dims)
        return self.node("Transpose", (value, self.integers("order", list(order))), dims, _quant(value), value.name)

    def quantized(self, value: Value, quant: Quant, base: str) -> Value:
        """The same reals on another scale."""
        return value if _quant(value) == quant else self.node("Quantize", (value,), value.dims, quant, base)

    def constant(self, operand: Quantized, rank: int, *, image: bool) -> Value:
        """A stored operand of an elementwise operator, with as many axes as its result."""
        if operand.array is None:
            raise Refused("an operand that is not stored")
        array, quant = operand.array, signed(operand.dtype, operand.quant)
        if operand.dtype == "u8":
            array = (array.astype(np.int16) - _SHIFT).astype(np.int8)
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        return self.weight(operand.stored.name, np.ascontiguousarray(array.transpose(IMAGE)) if image else array, quant)

    def graph(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> Graph:
        """What was made, as a graph."""
        return Graph(name, tuple(inputs), tuple(outputs), tuple(self.nodes), self.weights)

    def leave(self, stored: Value, quant: Quant) -> tuple[Value, bool]:
        """The value in which a tensor leaves, whether it is an image, in the dtype that readers outside want."""
        image = (stored, False) not in self.forms
        value = self._form(stored, quant, image=image)
        if stored.tensor.dtype == "u8":
            value = self.node("Quantize", (value,), value.dims, quant, stored.name, dtype="u8")
        return value, image

    def _form(self, stored: Value, quant: Quant, *, image: bool) -> Value:
        if (stored, image) not in self.forms:
            if (stored, not image) in self.forms:
                made = self.transposed(self.forms[stored, not image], IMAGE if image else PLAIN)
            else:
                made = self._entry(stored, quant, image=image)
            self.forms[stored, image] = made
        return self.forms[stored, image]

    def _entry(self, stored: Value, quant: Quant, *, image: bool) -> Value:
        """An input, in the order of axes in which it is wanted first."""
        dims = stored.dims
        if image and len(dims) != _RANK:
            raise Refused(f"an image with {len(dims)} axes")
        entry = Value(self.name(stored.name), Tensor(stored.tensor.dtype, tuple(dims[i] for i in IMAGE) if image else dims, quant=quant))
        self.entries[stored] = entry, image
        if stored.tensor.dtype == "u8":
            return self.node("Quantize", (entry,), entry.dims, signed("u8", quant), stored.name)
        return entry


def _quant(value: Value) -> Quant:
    if value.tensor.quant is None:
        raise Refused(f"%{value.name} has no scale")
    return value.tensor.quant


__all__ = ["IMAGE", "PLAIN", "Body", "Refused", "signed"]
