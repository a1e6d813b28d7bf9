"""Operators of edgec's own for integers that stand for reals, in numpy: sums of windows, tables, and multiplication without reals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgec.ir.graph import Node
from edgec.ir.types import Tensor, Type
from edgec.ir.windows import geometry, taps


def sum_pool(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """edgec.SumPool(x, zero): the sum of x - zero over each window, as i32; beyond the edge stand zero points."""
    x, zero = inputs[0].astype(np.int64), np.asarray(inputs[1]).astype(np.int64).reshape(())
    kernel = node.attrs["kernel_shape"]
    view, _ = taps(x - zero, kernel, node.attrs, 0)
    return [view.sum(tuple(range(view.ndim - len(kernel), view.ndim))).astype(np.int32)]


def lookup(_: Node, inputs: Sequence[Any]) -> list[Any]:
    """edgec.Lookup(x, table): the entry of each element; the table of i8 begins with that of -128."""
    x, table = inputs
    return [table[x.astype(np.int64) - np.iinfo(x.dtype).min]]


def multiply_shift(_: Node, inputs: Sequence[Any]) -> list[Any]:
    """edgec.MultiplyShift(x, multiplier, shift): x * multiplier / 2**shift to the nearest, halves upward; shift is from 1 to 62."""
    x, multiplier, shift = (np.asarray(a).astype(np.int64) for a in inputs)
    return [((x * multiplier + (np.int64(1) << (shift - 1))) >> shift).astype(np.int32)]


def sum_pool_type(node: Node) -> list[Type | None]:
    """The type of a SumPool: i32, spatial extents as the window slides."""
    x = node.inputs[0].type if node.inputs[0] is not None else None
    if not isinstance(x, Tensor) or not x.is_static:
        return [Tensor("i32", None)]
    *_, out = geometry(node.attrs, x.dims[2:], node.attrs["kernel_shape"])
    return [Tensor("i32", (*x.dims[:2], *out))]


def lookup_type(node: Node) -> list[Type | None]:
    """The type of a Lookup: the shape of x, the dtype of the table."""
    x, table = (v.type if v is not None else None for v in node.inputs)
    return [Tensor(table.dtype, x.shape) if isinstance(x, Tensor) and isinstance(table, Tensor) else None]
