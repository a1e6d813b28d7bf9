"""What is known of a value before it exists: element type, shape, layout, quantization; and ONNX's container types."""

from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from edgec.ir.dims import Dim, Sym
from edgec.ir.layout import Layout, View

_NUMPY = {
    "f16": np.float16, "f32": np.float32, "f64": np.float64, "bf16": ml_dtypes.bfloat16, "bool": np.bool_,
    "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "c64": np.complex64, "c128": np.complex128, "string": np.object_,
    "i4": ml_dtypes.int4, "u4": ml_dtypes.uint4, "i2": ml_dtypes.int2, "u2": ml_dtypes.uint2,
    "f8e4m3fn": ml_dtypes.float8_e4m3fn, "f8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "f8e5m2": ml_dtypes.float8_e5m2, "f8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "f8e8m0": ml_dtypes.float8_e8m0fnu, "f4e2m1": ml_dtypes.float4_e2m1fn,
}
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(kind) for name, kind in _NUMPY.items()}
_NAMES = {kind: name for name, kind in DTYPES.items()}
_BITS = {"i4": 4, "u4": 4, "i2": 2, "u2": 2, "f4e2m1": 4}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a short name; KeyError when there is none."""
    return DTYPES[name]


def dtype_name(kind: np.dtype[Any]) -> str:
    """The short name of a numpy dtype: f32 for float32. Every kind of text is `string`."""
    return "string" if kind.kind in "USOT" else _NAMES[np.dtype(kind)]


def dtype_bits(name: str) -> int:
    """Bits that one element takes in a file of weights."""
    return _BITS.get(name) or DTYPES[name].itemsize * 8


@dataclass(frozen=True)
class Quant:
    """How integers stand for real numbers: real = (integer - zero) * scale, per tensor or along an axis (in blocks of `block`)."""

    scale: tuple[float, ...]
    zero: tuple[int, ...] = (0,)
    axis: int | None = None
    block: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor. `shape` is None when not even the rank is known; a dim is None when nothing is known of it; `layout` None is row-major."""

    dtype: str
    shape: tuple[Dim | None, ...] | None
    layout: Layout | None = None
    quant: Quant | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape when every dim is a number; ValueError otherwise."""
        if self.shape is None or not all(isinstance(d, int) for d in self.shape):
            raise ValueError(f"the shape {self.shape} is not all numbers")
        return tuple(d for d in self.shape if isinstance(d, int))

    @property
    def is_static(self) -> bool:
        """Whether every dim is a number."""
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)

    @property
    def rank(self) -> int | None:
        """The number of axes, None when unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def elements(self) -> int:
        """Logical elements of a static tensor."""
        return prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes of a static tensor without padding."""
        return -(-self.elements * dtype_bits(self.dtype) // 8)

    @property
    def view(self) -> View:
        """Where each element of a static tensor lies."""
        return View.of(self.dims, self.layout)


@dataclass(frozen=True)
class Sequence:
    """A list of values of one type."""

    element: "Type"


@dataclass(frozen=True)
class Optional:
    """A value, or none."""

    element: "Type"


@dataclass(frozen=True)
class Map:
    """A table from scalars of a dtype to values of a type."""

    key: str
    value: "Type"


Type = Tensor | Sequence | Optional | Map

__all__ = ["DTYPES", "Dim", "Map", "Optional", "Quant", "Sequence", "Sym", "Tensor", "Type", "dtype_bits", "dtype_name", "numpy_dtype"]
