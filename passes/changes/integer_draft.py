"""New nodes that compute with integers in the place of a quantized operator."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgec.ir.edit import Namer, attributes
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor, dtype_name
from passes.changes.facts import broadcast
from passes.changes.qdq import Quantized

F32, I32 = 1, 6
"""What ONNX calls these types in a Cast."""


@dataclass
class Draft:
    """Nodes that take the place of one, written as calls. `fpu` tells whether the unit multiplies reals."""

    graph: Graph
    fpu: bool = True
    name: Namer = field(init=False)
    weights: dict[Value, Array] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    like: Node | None = None
    known: dict[tuple[str, str, bytes], Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = Namer(self.graph)

    def begin(self, like: Node) -> None:
        """Start the nodes that take the place of another."""
        self.nodes, self.like = [], like

    def weight(self, what: str, array: Array) -> Value:
        """A new weight; one number that means the same in several kernels is one weight."""
        base, key = self.like.output.name if self.like is not None else "quantized", (what, dtype_name(array.dtype), array.tobytes())
        if not array.ndim and key in self.known:
            return self.known[key]
        value = Value(self.name(f"{base}.{what}"), Tensor(dtype_name(array.dtype), array.shape))
        self.weights[value] = array
        if not array.ndim:
            self.known[key] = value
        return value

    def into(self, output: Value, op: str, inputs: Sequence[Value | None], **attrs: Any) -> Value:
        """A node that makes a value which others read already."""
        device, origin = (self.like.device, self.like.origin) if self.like is not None else (None, "")
        self.nodes.append(Node(op, tuple(inputs), (output,), attributes(**attrs), device, origin))
        return output

    def node(self, op: str, inputs: Sequence[Value | None], dtype: str, shape: Sequence[int], **attrs: Any) -> Value:
        """The result of a new node."""
        base = self.like.output.name if self.like is not None else "quantized"
        return self.into(Value(self.name(f"{base}.{op.rpartition('.')[2].lower()}"), Tensor(dtype, tuple(shape))), op, inputs, **attrs)

    def map(self, op: str, x: Value, other: Array, dtype: str | None = None) -> Value:
        """An elementwise operator with a constant on its right side."""
        shape = broadcast(x.dims, other.shape) or x.dims
        return self.node(op, (x, self.weight(op.rpartition(".")[2].lower(), other)), dtype or x.tensor.dtype, shape)

    def scaled(self, sums: Value, factor: Array) -> Value:
        """Sums in i32 times a factor, in f32."""
        return self.map("Mul", self.node("Cast", (sums,), "f32", sums.dims, to=F32), factor.astype(np.float32))

    def requantized(self, sums: Value, factor: Array, to: Quantized, bounds: tuple[int, int] | None = None) -> Value:
        """Sums in i32 times a factor, rounded, as the integers of `to`; `bounds` are integers, too.

        With reals: f32(sum) * f32(factor), to the nearest, halves to even. Without: a multiplication by a fixed-point number.
        """
        kind, zero = np.iinfo(to.zero.dtype), int(to.zero)
        if self.fpu:
            real = self.scaled(sums, factor)
            if bounds is not None:
                ends = [self.weight(n, np.array(b - zero, np.float32)) for n, b in zip(("low", "high"), bounds, strict=True)]
                real = self.node("Clip", (real, *ends), "f32", real.dims)
            one = self.weight("one", np.array(1, np.float32))
            return self.into(to.stored, "QuantizeLinear", (real, one, self._zero(to)))
        multiplier, by = fixed_point(factor)
        whole = self.node("edgec.MultiplyShift", (sums, self.weight("multiplier", multiplier), self.weight("shift", by)), "i32", sums.dims)
        return self.stored(whole, to, bounds or (kind.min, kind.max))

    def stored(self, whole: Value, to: Quantized, bounds: tuple[int, int] | None) -> Value:
        """Integers in units of `to`, in i32, around its zero point and within its bounds."""
        kind = np.iinfo(to.zero.dtype)
        ends = [self.weight(n, np.array(b, np.int32)) for n, b in zip(("low", "high"), bounds or (kind.min, kind.max), strict=True)]
        moved = self.map("Add", whole, np.array(int(to.zero), np.int32))
        return self.into(to.stored, "Cast", (self.node("Clip", (moved, *ends), "i32", whole.dims),), to=_CODES[to.dtype])

    def _zero(self, to: Quantized) -> Value:
        """The zero point, as the model has it if it can: where the same value takes it off again, a kernel need not add it."""
        given = to.node.input(2)
        return given if given is not None and not given.dims and given in self.graph.weights else self.weight("to_zero", to.zero)

    def requantize(self, x: Value, of: Quantized, to: Quantized) -> Value:
        """Integers of one scale as those of another: in reals that stay in registers, or by a table where there are none."""
        if not self.fpu:
            return self.into(to.stored, "edgec.Lookup", (x, self.weight("table", table(of, to, lambda reals: reals))))
        real = self.node("DequantizeLinear", (x, self.weight("scale", of.scale), self.weight("zero", of.zero)), "f32", x.dims)
        return self.into(to.stored, "QuantizeLinear", (real, self.weight("to_scale", to.scale), self._zero(to)))


def factor(x: Quantized, w: Quantized, y: Quantized | None) -> Array:
    """What a sum of products of integers is multiplied with to become the integers of `y`, or reals; computed as ONNX Runtime does."""
    product = x.scale * w.scale
    return np.asarray(product if y is None else product / y.scale, np.float32)


def fixed_point(factor: Array) -> tuple[Array, Array]:
    """Positive factors as multiplier / 2**shift with 31 bits of multiplier, both i32."""
    part, exponent = np.frexp(factor.astype(np.float64))
    multiplier = np.rint(part * 2.0**31).astype(np.int64)
    carried = multiplier == 1 << 31
    multiplier, shift = np.where(carried, multiplier >> 1, multiplier), 31 - (exponent + carried)
    small = np.maximum(shift - _LONGEST, 0)                     # so small that hardly anything is left of it
    return (multiplier >> small).astype(np.int32), np.clip(shift, 1, _LONGEST).astype(np.int32)


def table(of: Quantized, to: Quantized, function: Any) -> Array:
    """The integers of `to` for each integer of `of`, smallest first, with a function of reals in float64 between them.

    The borders compute in f32, as they do when a model runs.
    """
    limits, kind = np.iinfo(of.zero.dtype), to.zero.dtype
    whole = np.arange(limits.min, limits.max + 1, dtype=np.float32)
    with np.errstate(all="ignore"):
        reals = np.asarray(function(((whole - np.float32(of.zero)) * of.scale).astype(np.float64)), np.float32)
        rounded = np.rint(np.nan_to_num(reals / to.scale, nan=0.0)).astype(np.float64) + float(to.zero)
    return np.clip(rounded, np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)


_LONGEST = 62
_CODES = {"u8": 2, "i8": 3, "u16": 4, "i16": 5}
