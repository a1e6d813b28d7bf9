"""Numbers as text: which tensors can stand in the text itself, and what a list of literals means as a tensor."""

import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from edgec.ir.graph import Array
from edgec.ir.types import dtype_bits, dtype_name, numpy_dtype
from edgec.lang.text_types import quoted

SMALL = 16
"""The largest number of elements that stand in the text one by one."""
_PART: dict[str, np.dtype[Any]] = {"c64": np.dtype("f4"), "c128": np.dtype("f8")}
_UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def scalar(value: object) -> str:
    """The text of a number, a truth value, a string or bytes; TypeError for anything else."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        text = str(value) if isinstance(value, (np.float32, np.float16)) else repr(float(value))
        return text if any(c in text for c in ".en") else text + ".0"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bytes):
        plain = (chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\x{c:02x}" for c in value)  # noqa: PLR2004  printable ASCII
        return f'b"{"".join(plain)}"'
    raise TypeError(f"no text for a {type(value).__name__}")


def read_bytes(text: str) -> bytes:
    r"""The bytes of `b"\x00a"`."""
    return re.sub(r"\\x(..)", lambda m: chr(int(m[1], 16)), text[2:-1]).encode("latin-1")


def read_numbers(text: str) -> list[Any]:
    """The numbers and truth values of a list in brackets; ValueError names one that is none."""
    try:
        return list(json.loads(text))  # the common case, at the speed of C
    except ValueError:
        return [_number(part.strip()) for part in text[1:-1].split(",")]


def _number(text: str) -> int | float | bool:
    if text in {"true", "false"}:
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is no number")


def inline(array: Array, dtype: str) -> str | None:
    """`splat 1.0` or `dense [1, 2]` when that gives back exactly the same bits, None otherwise."""
    if array.size and _is_uniform(array):
        one, again = _texts(array.reshape(-1)[:1], dtype)
        if same_bits(splat(again, dtype, array.shape), array):
            return f"splat {one[0]}" if len(one) == 1 else f"splat [{', '.join(one)}]"
    if array.size <= SMALL:
        every, again = _texts(array.reshape(-1), dtype)
        if same_bits(dense(again, dtype, array.shape), array):
            return f"dense [{', '.join(every)}]"
    return None


def _texts(flat: Array, dtype: str) -> tuple[list[str], list[Any]]:
    """The elements as text, and as that text reads: a NaN, for one, may come back with other bits."""
    values = _literals(flat, dtype)
    texts = [scalar(v) for v in values]
    return texts, values if dtype == "string" else read_numbers(f"[{', '.join(texts)}]") if texts else []


def _literals(flat: Array, dtype: str) -> list[Any]:
    """The elements as values that `scalar` writes; a complex number is two, its real and its imaginary part."""
    if dtype in _PART:
        return list(np.ascontiguousarray(flat).view(_PART[dtype]))
    if dtype == "string":
        return [v if isinstance(v, (str, bytes)) else str(v) for v in flat.tolist()]
    if dtype in {"f16", "f32"}:
        return list(flat)
    if flat.dtype.kind == "V" or dtype == "bf16":  # the kinds of ml_dtypes
        with np.errstate(invalid="ignore"):  # a signaling NaN
            return list(flat.astype(np.float64 if dtype[0] in "fb" else np.int64))
    return list(flat.tolist())


def dense(values: Iterable[Any], dtype: str, shape: tuple[int, ...]) -> Array:
    """The tensor whose elements are listed, flat or nested as its shape is; ValueError when they do not fit."""
    flat = list(_flatten(list(values), shape, 2 if dtype in _PART else 1))
    if dtype == "string":
        made = np.empty(len(flat), object)
        made[:] = [_checked(v, dtype) for v in flat]
    elif dtype in _PART:
        made = np.array([_checked(v, dtype) for v in flat], _PART[dtype]).view(numpy_dtype(dtype))
    elif dtype[0] in "iu":
        made = np.array([_checked(v, dtype) for v in flat], np.uint64 if dtype == "u64" else np.int64).astype(numpy_dtype(dtype))
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # 1e39 is the infinity of f32
            made = np.array([_checked(v, dtype) for v in flat], bool if dtype == "bool" else np.float64).astype(numpy_dtype(dtype))
    return made.reshape(shape)


def splat(value: Iterable[Any], dtype: str, shape: tuple[int, ...]) -> Array:
    """The tensor whose elements are all the same: one literal, or the two parts of a complex number."""
    return np.full(shape, dense(value, dtype, ()), numpy_dtype(dtype))


def random(seed: int, dtype: str, shape: tuple[int, ...]) -> Array:
    """Seeded numbers for tests: standard normal reals, small integers, fair truth values; ValueError for strings."""
    draw = np.random.default_rng(seed)
    if dtype == "string":
        raise ValueError("there are no random strings")
    if dtype == "bool":
        return draw.integers(0, 2, shape).astype(bool)
    if dtype[0] in "iu":
        low, high = limits(dtype)
        return draw.integers(max(-100, low), min(100, high), shape, endpoint=True).astype(numpy_dtype(dtype))
    real = draw.standard_normal(shape)
    return (real + 1j * draw.standard_normal(shape) if dtype in _PART else real).astype(numpy_dtype(dtype))


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have one shape, one dtype and the same bits; strings are compared as strings."""
    if a.shape != b.shape or dtype_name(a.dtype) != dtype_name(b.dtype):
        return False
    if dtype_name(a.dtype) == "string":
        return all(type(x) is type(y) and x == y for x, y in zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True))
    return np.array_equal(bits(a), bits(b))


def bits(array: Array) -> Array:
    """The same bits as unsigned integers, which numpy compares and stores whatever the dtype is; the unused ones of a byte are zero."""
    flat = np.ascontiguousarray(array).reshape(-1).view(_UNSIGNED.get(array.dtype.itemsize, np.uint64))
    width = dtype_bits(dtype_name(array.dtype))
    return flat & np.uint8((1 << width) - 1) if width in {2, 4} else flat


def limits(dtype: str) -> tuple[int, int]:
    """The smallest and the largest number of an integer dtype."""
    width = dtype_bits(dtype)
    return (0, 2**width - 1) if dtype[0] == "u" else (-(2 ** (width - 1)), 2 ** (width - 1) - 1)


def _is_uniform(array: Array) -> bool:
    flat = array.reshape(-1)
    if array.dtype.kind in "OUS":
        return all(v == flat[0] for v in flat)
    ends = bits(flat[[0, -1]])
    if not np.array_equal(ends[:len(ends) // 2], ends[len(ends) // 2:]):  # most arrays are told apart here
        return False
    every = bits(flat).reshape(array.size, -1)
    return bool((every == every[0]).all())


def _flatten(values: list[Any], shape: tuple[int, ...], parts: int) -> Iterable[Any]:
    """The literals in row-major order; nested lists have to have the shape."""
    if not any(isinstance(v, list) for v in values):
        count = int(np.prod(shape)) * parts
        if len(values) != count:
            raise ValueError(f"the type wants {count} numbers, the list has {len(values)}")
        yield from values
        return
    if not shape or len(values) != shape[0] or not all(isinstance(v, list) for v in values):
        raise ValueError(f"the nested lists do not have the shape {list(shape)}")
    for value in values:
        yield from _flatten(value, shape[1:], parts)


def _checked(value: Any, dtype: str) -> Any:
    """A literal that may be an element of this dtype; ValueError otherwise."""
    wrong = ValueError(f"{scalar(value) if isinstance(value, (bool, int, float, str, bytes, np.generic)) else 'this'} is no {dtype}")
    if dtype == "string":
        if not isinstance(value, (str, bytes)):
            raise wrong
    elif dtype == "bool":
        if not isinstance(value, (bool, np.bool_)):
            raise wrong
    elif isinstance(value, (bool, np.bool_, str, bytes)) or not isinstance(value, (int, float, np.number)):
        raise wrong
    elif dtype[0] in "iu":
        low, high = limits(dtype)
        if not isinstance(value, (int, np.integer)) or not low <= value <= high:
            raise wrong
    return value
