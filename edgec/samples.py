"""Random inputs that say something about a model: reals with low frequencies, as images and sounds have, and indices within range."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import BadInput
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor, dtype_name
from edgec.session import Port

Array = npt.NDArray[Any]
Ranges = Mapping[str, tuple[int, int]]
_LONG = 8       # an axis of this many elements has a shape that can be smooth
_PATCHES = 7    # along such an axis
_BYTES = 8      # integers of so many bits are pictures or quantized numbers, and take every value; longer ones count or point at something
_INDICES = {"Gather": 1, "GatherElements": 1}
_PASSED_ON = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand", "Slice", "Concat"})


def draw(ports: Iterable[Port], seed: int, ranges: Ranges, scale: float = 1.0) -> dict[str, Array]:
    """An array for each port: reals of about unit variance times `scale`, integers within `ranges` (else 0 and 1), truth values.

    BadInput names a port whose elements nobody can draw.
    """
    return {p.name: _draw(p, np.random.default_rng([seed, i]), ranges.get(p.name), scale) for i, p in enumerate(ports)}


def _draw(port: Port, random: np.random.Generator, limits: tuple[int, int] | None, scale: float) -> Array:
    kind = dtype_name(port.dtype)
    if kind == "bool":
        return random.integers(0, 2, port.shape).astype(np.bool_)
    if port.dtype.kind in "iu":
        whole = np.iinfo(port.dtype)
        low, high = limits or ((int(whole.min), int(whole.max)) if whole.bits <= _BYTES else (0, 1))
        return random.integers(low, high, port.shape, endpoint=True).astype(port.dtype)
    if kind not in {"f16", "f32", "f64", "bf16"}:
        raise BadInput(f"no random numbers can be drawn for the input {port.name}, which is {kind}: give an array")
    coarse = random.standard_normal([min(n, _PATCHES) if n >= _LONG else n for n in port.shape])
    for axis, n in enumerate(port.shape):
        coarse = np.take(coarse, np.arange(n) * coarse.shape[axis] // max(n, 1), axis)
    offsets = random.standard_normal([1 if n >= _LONG else n for n in port.shape])
    return np.asarray((0.8 * coarse + 0.4 * offsets + 0.3 * random.standard_normal(port.shape)) * scale).astype(port.dtype)


def ranges(graph: Graph) -> dict[str, tuple[int, int]]:
    """The values that integer inputs may have where they are indices into tables of known size: smallest and largest."""
    found: dict[str, tuple[int, int]] = {}
    for value in graph.inputs:
        if isinstance(value.type, Tensor) and value.type.dtype in {"i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"}:
            sizes = [size for node, position in _readers(graph, value) if (size := _table(node, position))]
            if sizes:
                found[value.name] = (0, min(sizes) - 1)
    return found


def _readers(graph: Graph, start: Value) -> Iterator[tuple[Node, int]]:
    """Who reads a value, or the same numbers in another shape, and as which operand."""
    queue, seen = [start], {start}
    for value in queue:
        for node in dict.fromkeys(graph.consumers.get(value, ())):
            for position in (i for i, v in enumerate(node.inputs) if v is value):
                yield node, position
                if node.op in _PASSED_ON and (position == 0 or node.op == "Concat"):
                    queue += [v for v in node.outputs if v not in seen]
                    seen.update(node.outputs)


def _table(node: Node, position: int) -> int | None:
    """How many entries an operand can point at; None when it points at nothing, or nobody knows."""
    if _INDICES.get(node.op) != position:
        return None
    table = node.inputs[0]
    if table is None or not isinstance(table.type, Tensor) or table.type.shape is None:
        return None
    size = table.type.shape[int(node.attrs.get("axis", 0))]
    return size if isinstance(size, int) else None
