"""Weights stored as integers: the scale moves behind the sum, so that kernels multiply by the stored numbers and storage stays small.

Conv(x, (q - 0) * s) + b  =  Conv(x, q) * s + b        s one number, or one for each output channel
"""

from collections.abc import Sequence

import numpy as np

from edgec.ir.graph import Node, Value
from edgec.ir.sweep import Changes, Sweep
from edgec.ir.types import Tensor

_F32 = 1
_CHANNEL_AXIS = {"Conv": 0, "MatMul": 1, "Gemm": 1}


def scale_behind_sum(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A convolution or product of reals whose weight is DequantizeLinear of stored integers around zero."""
    maker, before = edit.producer(node.input(1)), edit.producer(node.input(0))
    if before is not None and before.op == "DequantizeLinear":
        return None  # integers are multiplied there
    if maker is None or maker.op != "DequantizeLinear" or not isinstance(node.output.type, Tensor) or not node.output.type.is_static:
        return None
    stored, scale = edit.constant(maker.inputs[0]), edit.constant(maker.inputs[1])
    zero = edit.constant(maker.input(2)) if maker.input(2) is not None else None
    if stored is None or scale is None or (maker.input(2) is not None and (zero is None or zero.any())) or scale.dtype != np.float32:
        return None
    channel = 1 - _CHANNEL_AXIS[node.op] if node.op == "Gemm" and node.attrs.get("transB") else _CHANNEL_AXIS[node.op]
    blocks = maker.attrs.get("block_size", 0)
    if scale.size != 1 and (scale.ndim != 1 or blocks or int(maker.attrs.get("axis", 1)) % stored.ndim != channel):
        return None
    rank = len(node.output.dims)
    column = (-1, *[1] * (rank - 2)) if node.op == "Conv" else (-1,)
    weight = node.inputs[1]
    if weight is None:
        return None
    wide = edit.node(maker, "Cast", (maker.inputs[0],), stored.shape, dtype="f32", to=_F32)
    shape = node.output.dims
    summed = edit.node(node, node.op, (node.inputs[0], wide), shape, **node.attrs)
    factor = edit.weight(f"{weight.name}.scale", scale.reshape(column if scale.size > 1 else ()))
    bias = node.input(2)
    if bias is None:
        return edit.remake(node, "Mul", (summed, factor), {})
    scaled = edit.node(node, "Mul", (summed, factor), shape)
    array = edit.constant(bias)
    if node.op == "Conv" and array is not None:
        bias = edit.weight(bias.name, array.reshape(column))
    elif node.op == "Conv":
        return None
    return edit.remake(node, "Add", (scaled, bias), {})


CHANGES: Changes = dict.fromkeys(_CHANNEL_AXIS, (scale_behind_sum,))
