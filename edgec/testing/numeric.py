"""Numbers before and after: random inputs for a graph, the error of an output, and whether two graphs compute the same."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from edgec.ir.dims import Dim, evaluate, symbols
from edgec.ir.graph import Array, Graph
from edgec.ir.types import Tensor, dtype_name, numpy_dtype
from edgec.lang.text import show_type
from edgec.lang.text_data import limits, random

_LEAST_SPREAD = 0.01
_COARSE = 4


def error(y: Array, ref: Array, other_ref: Array) -> float:
    """How far an output is off: max|y - ref| over max|ref - other_ref|, the spread of the reference between two different inputs.

    Integers, truth values and strings have the error 0 or infinity. NaN and infinities are right where the reference has the same.
    ValueError when the spread is under 1 % of max|ref|: such a comparison would say nothing.
    """
    if is_exact(ref):
        return 0.0 if equal(y, ref) else np.inf
    spread, size = deviation(other_ref, ref, finite=True), largest(ref)
    if spread < _LEAST_SPREAD * size or not spread:
        raise ValueError(f"the reference changes by {spread:.3g} between the two inputs and is as large as {size:.3g}: "
                         "take inputs that differ more")
    return deviation(y, ref) / spread


def feeds(graph: Graph, seed: int, dims: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Random inputs of a graph: reals with low frequencies along the last axes, small whole numbers, truth values.

    `dims` gives numbers to symbols; others get a small one within their bounds, and unknown dims are 2. ValueError names an
    input that is no numeric tensor of known rank.
    """
    known, made = dict(dims or {}), dict[str, Array]()
    for i, value in enumerate(graph.inputs):
        kind = value.type
        if not isinstance(kind, Tensor) or kind.shape is None or kind.dtype == "string":
            typed = show_type(kind) if kind else "of unknown type"
            raise ValueError(f"no random numbers for the input {value}, which is {typed}: give them yourself")
        made[value.name] = _numbers(kind.dtype, tuple(_number(d, known, graph.bounds) for d in kind.shape), 1000 * seed + i)
    return made


def _number(dim: Dim | None, known: dict[str, int], bounds: Mapping[str, tuple[int, int]]) -> int:
    if dim is None:
        return 2
    for name in sorted(symbols(dim)):
        low, high = bounds.get(name, (1, 8))
        known.setdefault(name, min(max(3 + len(known), low), high))  # different numbers show when symbols are mixed up
    return evaluate(dim, known)


def _numbers(dtype: str, shape: tuple[int, ...], seed: int) -> Array:
    if dtype == "bool":
        return random(seed, dtype, shape)
    draw = np.random.default_rng(seed)
    if dtype[0] in "iu":
        low, high = max(0, limits(dtype)[0]), min(3, limits(dtype)[1])  # small, so that indices are in range
        return draw.integers(low, high, shape, endpoint=True).astype(numpy_dtype(dtype))
    made = draw.standard_normal(shape) * (0.6 if shape else 1)
    if shape:
        coarse = draw.standard_normal([*shape[:-2], *(-(-n // _COARSE) for n in shape[-2:])])
        for axis in range(max(0, len(shape) - 2), len(shape)):
            coarse = np.repeat(coarse, _COARSE, axis)
        made = made + 0.8 * coarse[tuple(slice(n) for n in shape)]
    return made.astype(numpy_dtype(dtype))


def numeric_difference(
    before: Graph, after: Graph, tolerance: float = 1e-4, *, seeds: int = 3, dims: Mapping[str, int] | None = None, precise: bool = False,
) -> str | None:
    """Where two graphs differ on random inputs, evaluated in numpy, None when they compute the same.

    Reals may be off by `tolerance` of the spread of the output over the inputs (of at least 1 % of its largest number); integers,
    truth values, strings, shapes and element types have to be equal.
    `precise` evaluates both in float64, which leaves nothing of rounding, whatever the machine's order of summation.
    """
    from edgec.ir.evaluate import evaluate as run  # noqa: PLC0415  it brings onnx along, which takes long to load

    if (old := _interface(before)) != (new := _interface(after)):
        return f"the interface was {old} and is {new}"
    given = [feeds(before, seed, dims) for seed in range(seeds)]
    reference, made = ([run(graph, g, precise=precise) for g in given] for graph in (before, after))
    for name in reference[0]:
        for refs, results in zip(zip(*(_leaves(r[name]) for r in reference), strict=True),
                                 zip(*(_leaves(m[name]) for m in made), strict=True), strict=True):
            if wrong := _leaf_difference(refs, results, tolerance):
                return f"the output {name} {wrong}"
    return None


def _interface(graph: Graph) -> str:
    return f"({', '.join(v.name for v in graph.inputs)}) -> ({', '.join(v.name for v in graph.outputs)})"


def _leaves(value: Any) -> Iterator[Array]:
    """The arrays in a tensor, a sequence, an optional or a map; lengths, keys and absence are arrays as well."""
    if isinstance(value, Mapping):
        yield np.array([str(k) for k in value], object)
        value = list(value.values())
    if isinstance(value, list | tuple):
        yield np.array(len(value))
        for element in value:
            yield from _leaves(element)
    elif value is None:
        yield np.array("absent", object)
    else:
        yield np.asarray(value)


def _leaf_difference(refs: tuple[Array, ...], results: tuple[Array, ...], tolerance: float) -> str | None:
    for ref, result in zip(refs, results, strict=True):
        if ref.shape != result.shape or dtype_name(ref.dtype) != dtype_name(result.dtype):
            was, now = (f"{dtype_name(a.dtype)}{list(a.shape)}" for a in (ref, result))
            return f"was {was} and is {now}"
        if is_exact(ref) and not equal(result, ref):
            return "has other elements"
    if is_exact(refs[0]):
        return None
    spreads = [deviation(a, b, finite=True) for a, b in combinations(refs, 2) if a.shape == b.shape]
    scale = max([*spreads, *(_LEAST_SPREAD * largest(r) for r in refs), float(np.finfo(np.float32).tiny)])
    worst = max(deviation(result, ref) for ref, result in zip(refs, results, strict=True)) / scale
    return f"is off by {worst:.3g} of its spread, {tolerance:.3g} is allowed" if worst > tolerance else None


def is_exact(array: Array) -> bool:
    """Whether elements have to be equal: integers, truth values, strings."""
    return dtype_name(array.dtype)[0] not in "fc" and dtype_name(array.dtype) != "bf16"


def equal(a: Array, b: Array) -> bool:
    """Whether shapes and all elements are equal."""
    return a.shape == b.shape and bool(np.all(a == b))


def _wide(array: Array) -> Array:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def largest(array: Array) -> float:
    """The largest absolute finite element, 0 when there is none."""
    wide = np.abs(_wide(array))
    return float(np.max(wide, where=np.isfinite(wide), initial=0))


def deviation(a: Array, b: Array, *, finite: bool = False) -> float:
    """max|a - b|; NaN against NaN and equal infinities are no deviation, any other is infinite, or ignored when only `finite` counts."""
    wide_a, wide_b = _wide(a), _wide(b)
    with np.errstate(invalid="ignore"):
        gap = np.where((wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b)), 0, np.abs(wide_a - wide_b))
    gap = np.where(np.isfinite(gap), gap, 0 if finite else np.inf)
    return float(np.max(gap, initial=0))
