"""Single layers as kernels, with the tile that the cost model chooses or with another one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import numpy as np

from edgec import cost
from edgec.ir.graph import Node, Value
from edgec.ir.layout import Layout
from edgec.ir.types import Tensor
from edgec.isa import Isa
from edgec.kernels import plan_contract
from edgec.kernels.base import KernelPlan, Operands
from edgec.kernels.plan import plan

_IMAGE = 4
"""At most so many channels come as an image comes: one plane after the other."""


@dataclass(frozen=True)
class Layer:
    """A square convolution of `channels` to `out` channels on images of `size` x `size`, padded so that stride 1 keeps the size.

    With `kernel` 0 it is a product of a matrix of `size` rows and `channels` columns with a stored one of `out` columns.
    """

    kernel: int
    size: int
    channels: int
    out: int
    stride: int = 1

    @property
    def name(self) -> str:
        """How a person would call it."""
        if not self.kernel:
            return f"gemm {self.size}x{self.channels}x{self.out}"
        return f"{self.kernel}x{self.kernel}{f'/{self.stride}' if self.stride > 1 else ''} {self.channels}-{self.out} @{self.size}"

    def plan(self, isa: Isa) -> KernelPlan:
        """The kernel that the compiler makes of it; activations lie in blocks of a vector's channels where that divides them."""
        if not self.kernel:
            w, shapes = Value("w", Tensor("f32", (self.channels, self.out))), ((self.size, self.channels), (self.size, self.out))
            x, y = (Value(n, Tensor("f32", s)) for n, s in zip("xy", shapes, strict=True))
            return _plan(isa, Node("MatMul", (x, w), (y,), MappingProxyType({})), w)
        after = -(-self.size // self.stride)
        x, y = (Value(n, Tensor("f32", (1, c, s, s), _layout(isa, c)))
                for n, c, s in (("x", self.channels, self.size), ("y", self.out, after)))
        w = Value("w", Tensor("f32", (self.out, self.channels, self.kernel, self.kernel)))
        total = max(0, (after - 1) * self.stride + self.kernel - self.size)
        pads = [total // 2] * 2 + [total - total // 2] * 2
        attrs = {"kernel_shape": [self.kernel] * 2, "pads": pads, "strides": [self.stride] * 2}
        return _plan(isa, Node("Conv", (x, w), (y,), MappingProxyType(attrs)), w)


def _layout(isa: Isa, channels: int) -> Layout:
    if channels <= _IMAGE:
        return Layout((0, 1, 2, 3))
    return Layout((0, 1, 2, 3), ((1, isa.lanes),)) if channels % isa.lanes == 0 else Layout((0, 2, 3, 1))


def _plan(isa: Isa, node: Node, weight: Value) -> KernelPlan:
    made = plan(node, isa, Operands.of({weight: np.zeros(weight.dims, np.float32)}, lambda v: v.tensor.view))
    if isinstance(made, str):
        raise SystemExit(f"{node.label}: {made}")
    return made.plan


@contextmanager
def forced(tw: int, nb: int) -> Iterator[None]:
    """Plans made meanwhile have this register tile: columns, vectors."""
    with patch.object(plan_contract, "choose_tile", lambda *_args, **_kw: cost.Tile(tw, nb, 1.0)):
        yield


def with_facts(isa: Isa, **facts: Any) -> Isa:
    """A unit of which more is said, such as exact=True: no Winograd."""
    return replace(isa, extra=tuple(sorted({**dict(isa.extra), **facts}.items())))
