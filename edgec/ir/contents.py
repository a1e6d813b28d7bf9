"""What is known of the elements of small tensors before the model runs: numbers, and expressions of symbolic dims.

Exporters compute shapes with nodes (Shape, Gather, Mul, Concat …). A tensor's contents are an object array whose elements are
ints, floats, bools, Syms, or None where nothing is known; a tensor of which nothing is known has no contents.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from edgec.ir.dims import Dim, Sym, at_least, maximum, minimum
from edgec.ir.evaluate import evaluate_node, is_pure
from edgec.ir.graph import Array, Node
from edgec.ir.types import Tensor, numpy_dtype

LIMIT = 1024
"""Tensors with more elements are data, not shapes: nothing is kept of them."""
_TRACKED = {"i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool", "f16", "f32", "f64"}
_VARIADIC = {"Max", "Min", "Sum"}
_INTEGERS = _TRACKED - {"bool", "f16", "f32", "f64"}

Contents = Array | None


def of_weight(array: Array) -> Contents:
    """The contents of a weight, None when it is too large or of a kind that shapes are never computed from."""
    if array.size > LIMIT or array.dtype.kind not in "iufb":
        return None
    return np.array([*array.ravel().tolist(), None], object)[:-1].reshape(array.shape)


def numeric(known: Contents) -> bool:
    """Whether every element is a plain number."""
    return known is not None and all(isinstance(e, int | float) for e in known.flat)


def numbers(known: Contents, dtype: str) -> Array | None:
    """The contents as a plain array, None unless every element is a number."""
    return np.array(known.tolist(), numpy_dtype(dtype)).reshape(known.shape) if known is not None and numeric(known) else None


def ints(known: Contents) -> list[int] | None:
    """The contents as a flat list of ints, None unless every element is an int."""
    return [int(e) for e in known.flat] if known is not None and numeric(known) else None


def dims(known: Contents) -> list[Dim | None] | None:
    """The contents of a tensor that is a shape, as a flat list."""
    return None if known is None else [int(e) if isinstance(e, float) else e for e in known.flat]


def contents(node: Node, inputs: Sequence[Contents], results: Sequence[Tensor | None]) -> list[Contents]:
    """What is known of a node's results; `results` are their types when they are tensors."""
    nothing: list[Contents] = [None] * len(node.outputs)
    if not any(t is not None and t.dtype in _TRACKED and (not t.is_static or t.elements <= LIMIT) for t in results):
        return nothing
    if node.op == "Shape":
        return [_shape(node)]
    if node.op == "Size":
        shape = _input_shape(node, 0)
        return [None if shape is None or None in shape else _scalar(prod((d for d in shape if d is not None), start=1))]
    given = [k for k, v in zip(inputs, node.inputs, strict=True) if v is not None]
    if (not given and node.inputs) or any(k is None for k in given):
        return nothing
    rule = _RULES.get(node.op)
    integers = all(t is None or t.dtype in _INTEGERS or t.dtype == "bool" for t in results)
    if rule is not None and (integers or not all(map(numeric, given))):
        made = rule(node, inputs)
        return [_wrapped(m, t) for m, t in zip(made if isinstance(made, list) else [made], results, strict=True)]
    if all(map(numeric, given)) and is_pure(node) and all(t is not None and t.is_static and t.elements <= LIMIT for t in results):
        arrays = [None if v is None or k is None else numbers(k, v.tensor.dtype) for k, v in zip(inputs, node.inputs, strict=True)]
        return [of_weight(np.asarray(a)) for a in evaluate_node(node, arrays)]
    return nothing


def _wrapped(known: Contents, kind: Tensor | None) -> Contents:
    """The contents as the result's dtype holds them: integers wrap."""
    if known is None or known.size > LIMIT or kind is None:
        return None
    if kind.dtype not in _INTEGERS:
        return known
    limits = np.iinfo(numpy_dtype(kind.dtype))
    low, span = int(limits.min), int(limits.max) - int(limits.min) + 1
    return _apply(lambda e: (int(e) - low) % span + low if isinstance(e, int) else e, known)


def _scalar(element: Any) -> Array:
    made = np.empty((), object)
    made[()] = element
    return made


def _input_shape(node: Node, i: int) -> tuple[Dim | None, ...] | None:
    value = node.input(i)
    return value.type.shape if value is not None and isinstance(value.type, Tensor) else None


def _shape(node: Node) -> Contents:
    shape = _input_shape(node, 0)
    if shape is None:
        return None
    part = shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
    return np.array([*part, None], object)[:-1]


def _each(function: Callable[..., Any]) -> Callable[[Node, Sequence[Contents]], Contents]:
    """A rule that computes element by element with broadcasting, and knows nothing where an operand is unknown."""
    def known(*elements: Any) -> Any:
        return None if any(e is None for e in elements) else function(*elements)

    def rule(node: Node, inputs: Sequence[Contents]) -> Contents:
        arrays = [k for k in inputs if k is not None]
        if node.op not in _VARIADIC:
            return _apply(known, *arrays)
        first, *others = arrays
        for other in others:
            first = _apply(known, first, other)
        return first

    return rule


def _apply(function: Callable[..., Any], *arrays: Array) -> Array:
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), object)


def _exact(value: Any) -> Any:
    """A float that is a whole number, as an int: what a Sym can be computed with."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def compute(a: Any, b: Any) -> Any:
        if isinstance(a, Sym) or isinstance(b, Sym):
            a, b = _exact(a), _exact(b)
            if isinstance(a, float) or isinstance(b, float):
                return None
        return function(a, b)

    return compute


def _divide(a: Any, b: Any) -> Any:
    """Integer division as ONNX means it: towards zero; with symbols only where that is the same as rounding down."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a // b if at_least(a) and at_least(b) and b != 0 else None


def _divide_exactly(a: Any, b: Any) -> Any:
    """Division of floats, of which at least one holds a symbol: known only when nothing remains."""
    return a // b if b != 0 and (a // b) * b == a else None


def _modulo(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a % b if b else None
    return a - a // b * b if at_least(a) and at_least(b) and b != 0 else None


def _less(a: Any, b: Any) -> Any:
    if not isinstance(a, Sym) and not isinstance(b, Sym):
        return a < b
    return True if at_least(b - a, 1) else False if at_least(a - b) else None


def _equal(a: Any, b: Any) -> Any:
    return True if a == b else False if isinstance(a - b, int | float) or at_least(a - b, 1) or at_least(b - a, 1) else None


def _absolute(a: Any) -> Any:
    return abs(a) if not isinstance(a, Sym) else a if at_least(a) else None


def _whole(a: Any) -> Any:
    return a if isinstance(a, Sym) else None


def _div(node: Node, inputs: Sequence[Contents]) -> Contents:
    integer = all(v is not None and v.tensor.dtype in _INTEGERS for v in node.inputs)
    return _each(_arithmetic(_divide if integer else _divide_exactly))(node, inputs)


def _mod(node: Node, inputs: Sequence[Contents]) -> Contents:
    return None if node.attrs.get("fmod", 0) else _each(_arithmetic(_modulo))(node, inputs)


def _cast(node: Node, inputs: Sequence[Contents]) -> Contents:
    known, target = inputs[0], node.outputs[0].tensor.dtype
    if known is None or target not in _TRACKED:
        return None
    if target == "bool":
        return _apply(lambda e: None if e is None or isinstance(e, Sym) else bool(e), known)
    return _apply(lambda e: e if e is None or isinstance(e, Sym) else int(e) if target in _INTEGERS else float(e), known)


def _reshape(node: Node, inputs: Sequence[Contents]) -> Contents:
    known, target = inputs[0], ints(inputs[1])
    if known is None or target is None:
        return None
    if 0 in target and not node.attrs.get("allowzero", 0):
        target = [known.shape[i] if t == 0 else t for i, t in enumerate(target)]
    return known.reshape(target)


def _axes(inputs: Sequence[Contents], at: int) -> list[int] | None:
    given = inputs[at] if at < len(inputs) else None
    return ints(given)


def _squeeze(_: Node, inputs: Sequence[Contents]) -> Contents:
    axes, known = _axes(inputs, 1), inputs[0]
    return None if known is None else known.squeeze(None if axes is None else tuple(axes))


def _unsqueeze(_: Node, inputs: Sequence[Contents]) -> Contents:
    axes, known = _axes(inputs, 1), inputs[0]
    return None if known is None or axes is None else np.expand_dims(known, tuple(axes))


def _gather(node: Node, inputs: Sequence[Contents]) -> Contents:
    known, indices = inputs[0], ints(inputs[1])
    if known is None or indices is None or inputs[1] is None:
        return None
    axis = node.attrs.get("axis", 0) % known.ndim
    if any(not -known.shape[axis] <= i < known.shape[axis] for i in indices):
        return None
    picked = np.array(indices, np.int64).reshape(inputs[1].shape)
    shape = (*known.shape[:axis], *picked.shape, *known.shape[axis + 1:])
    return np.array([*np.take(known, picked.ravel(), axis).ravel(), None], object)[:-1].reshape(shape)


def _slice(_: Node, inputs: Sequence[Contents]) -> Contents:
    known = inputs[0]
    starts, ends, axes, steps = (_axes(inputs, i) for i in range(1, 5))
    if known is None or starts is None or ends is None:
        return None
    index = [slice(None)] * known.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = axes[i] if axes else i, steps[i] if steps else 1
        stop = None if step < 0 and end < -known.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return known[tuple(index)]


def _concat(node: Node, inputs: Sequence[Contents]) -> Contents:
    return np.concatenate([k for k in inputs if k is not None], node.attrs["axis"])


def _split(node: Node, inputs: Sequence[Contents]) -> list[Contents]:
    known, axis = inputs[0], node.attrs.get("axis", 0)
    sizes = _axes(inputs, 1)
    if known is None:
        return [None] * len(node.outputs)
    if sizes is None:
        step = -(-known.shape[axis] // len(node.outputs))
        return list(np.split(known, range(step, step * len(node.outputs), step), axis))
    return list(np.split(known, np.cumsum(sizes)[:-1], axis))


def _filled(node: Node, inputs: Sequence[Contents]) -> Contents:
    shape = ints(inputs[0])
    if shape is None or prod(shape) > LIMIT:
        return None
    value = node.attrs.get("value")
    return np.full(shape, 0.0 if value is None else value.item(), object)


def _expand(_: Node, inputs: Sequence[Contents]) -> Contents:
    known, shape = inputs[0], ints(inputs[1])
    if known is None or shape is None or prod(shape) > LIMIT:
        return None
    return np.broadcast_to(known, np.broadcast_shapes(known.shape, tuple(shape)))


def _tile(_: Node, inputs: Sequence[Contents]) -> Contents:
    known, repeats = inputs[0], ints(inputs[1])
    return None if known is None or repeats is None or prod(repeats) * known.size > LIMIT else np.tile(known, repeats)


def _transpose(node: Node, inputs: Sequence[Contents]) -> Contents:
    return None if inputs[0] is None else inputs[0].transpose(node.attrs.get("perm"))


def _reduce(function: Callable[[Any, Any], Any], start: Any) -> Callable[[Node, Sequence[Contents]], Contents]:
    def rule(node: Node, inputs: Sequence[Contents]) -> Contents:
        known, axes = inputs[0], _axes(inputs, 1)
        if known is None:
            return None
        if not axes and node.attrs.get("noop_with_empty_axes", 0):
            return known
        kept = tuple(a % known.ndim for a in axes) if axes else tuple(range(known.ndim))
        if start is None and any(known.shape[a] == 0 for a in kept):
            return None
        moved = np.moveaxis(known, kept, range(len(kept))).reshape(-1, *(n for a, n in enumerate(known.shape) if a not in kept))
        first = np.full(moved.shape[1:], start, object) if start is not None else moved[0]
        for part in moved if start is not None else moved[1:]:
            first = _apply(lambda a, b: None if a is None or b is None else function(a, b), first, np.asarray(part, object))
        shape = [1 if a in kept else n for a, n in enumerate(known.shape)] if node.attrs.get("keepdims", 1) else first.shape
        return np.asarray(first, object).reshape(shape)

    return rule


_Rule = Callable[[Node, Sequence[Contents]], "Contents | list[Contents]"]
_RULES: dict[str, _Rule] = {
    "Identity": lambda _, k: k[0], "Cast": _cast, "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Flatten": lambda n, k: None if k[0] is None else k[0].reshape(prod(k[0].shape[:n.attrs.get("axis", 1)]), -1),
    "Gather": _gather, "Slice": _slice, "Concat": _concat, "Split": _split, "ConstantOfShape": _filled, "Expand": _expand, "Tile": _tile,
    "Transpose": _transpose,
    "Add": _each(_arithmetic(lambda a, b: a + b)), "Sub": _each(_arithmetic(lambda a, b: a - b)),
    "Mul": _each(_arithmetic(lambda a, b: a * b)), "Div": _div, "Mod": _mod,
    "Neg": _each(lambda a: -a), "Abs": _each(_absolute), "Floor": _each(_whole), "Ceil": _each(_whole), "Round": _each(_whole),
    "Max": _each(_arithmetic(maximum)), "Min": _each(_arithmetic(minimum)), "Sum": _each(_arithmetic(lambda a, b: a + b)),
    "Equal": _each(_arithmetic(_equal)), "Less": _each(_arithmetic(_less)), "Greater": _each(_arithmetic(lambda a, b: _less(b, a))),
    "LessOrEqual": _each(_arithmetic(lambda a, b: None if (less := _less(b, a)) is None else not less)),
    "GreaterOrEqual": _each(_arithmetic(lambda a, b: None if (less := _less(a, b)) is None else not less)),
    "And": _each(lambda a, b: a and b), "Or": _each(lambda a, b: a or b), "Xor": _each(lambda a, b: a != b), "Not": _each(lambda a: not a),
    "Where": lambda _, k: _apply(lambda c, a, b: None if c is None else a if c else b, *(x for x in k if x is not None)),
    "ReduceProd": _reduce(lambda a, b: a * b, 1), "ReduceSum": _reduce(lambda a, b: a + b, 0),
    "ReduceMax": _reduce(_arithmetic(maximum), None), "ReduceMin": _reduce(_arithmetic(minimum), None),
}
