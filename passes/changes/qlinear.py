"""Quantized operators in one form: DequantizeLinear, an operator of reals, QuantizeLinear.

What runtimes and exporters write instead is rewritten: QLinearConv and QLinearMatMul, moves of integers between the two borders, weights in
u8 or around another zero, biases in f32 that runtimes would round anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgec.ir.graph import Array, Node, Value
from edgec.ir.sweep import Changes, Sweep
from edgec.ir.types import Tensor, numpy_dtype
from passes.changes.facts import dims, ints, positive
from passes.changes.integer_moves import MOVES

_BYTES = ("i8", "u8")
_CONTRACTIONS = ("Conv", "Gemm", "MatMul")
_LARGEST = 2.0**31 - 1


@dataclass(frozen=True)
class _Params:
    """Scale and zero point of stored integers, as values and as numbers."""

    scale: Value
    zero: Value | None
    numbers: tuple[Array, Array]
    axis: int | None


def qlinear_conv(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A QLinearConv between its borders."""
    x, xs, xz, w, ws, wz, ys, yz, *rest = node.inputs
    scales = edit.constant(xs), edit.constant(ws)
    if x is None or w is None or scales[0] is None or scales[1] is None or dims(node.output) is None:
        return None
    inputs = [_real(node, edit, x, xs, xz), _real(node, edit, w, ws, wz, axis=0)]
    if rest and rest[0] is not None:
        product = np.asarray(scales[0].reshape(-1)[0] * scales[1].reshape(-1), np.float32)
        scale = edit.weight(f"{rest[0].name}.scale", product if product.size > 1 else product.reshape(()))
        inputs.append(_real(node, edit, rest[0], scale, None, axis=0))
    made = edit.node(node, "Conv", inputs, node.output.dims, **node.attrs)
    return edit.remake(node, "QuantizeLinear", (made, *_flat(edit, ys, yz)), {})


def qlinear_matmul(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A QLinearMatMul between its borders."""
    a, a_scale, a_zero, b, b_scale, b_zero, ys, yz = node.inputs
    if a is None or b is None or dims(node.output) is None or dims(b) is None:
        return None
    scales = edit.constant(a_scale), edit.constant(b_scale)
    if scales[0] is None or scales[1] is None or scales[0].size != 1:
        return None  # one scale for each row is a product of two tensors of reals
    inputs = (_real(node, edit, a, a_scale, a_zero), _real(node, edit, b, b_scale, b_zero, axis=len(b.dims) - 1))
    made = edit.node(node, "MatMul", inputs, node.output.dims)
    return edit.remake(node, "QuantizeLinear", (made, *_flat(edit, ys, yz)), {})


def between_borders(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A move of integers whose meaning is known, behind it or before, is a move of reals between two borders of one scale."""
    x = node.inputs[0]
    if x is None or not isinstance(x.type, Tensor) or x.type.dtype not in _BYTES or dims(x) is None or dims(node.output) is None:
        return None
    if edit.constant(x) is not None or len(node.outputs) > 1:
        return None
    parts = [v for v in node.inputs if v is not None] if node.op == "Concat" else [x]
    found = _meant(edit, node, parts)
    if found is None:
        return None
    others: list[Value | None] = [] if node.op == "Concat" else list(node.inputs[1:])
    numbers = {"Pad": (1,), "Clip": (0, 1)}.get(node.op, ()) if node.attrs.get("mode", "constant") == "constant" else ()
    for i in numbers:
        given = edit.constant(others[i]) if i < len(others) and others[i] is not None else np.zeros(()) if node.op == "Pad" else None
        if given is None and i < len(others) and others[i] is not None:
            return None
        if given is not None:
            real = (given.reshape(()).astype(np.float64) - float(found.numbers[1])) * float(found.numbers[0])
            others[i:i + 1] = [edit.weight(f"{node.output.name}.real", np.array(real, np.float32))] if real or node.op != "Pad" else [None]
    while others and others[-1] is None:
        others.pop()
    reals = [_real(node, edit, v, found.scale, found.zero) for v in parts]
    made = edit.node(node, node.op, (*reals, *others), node.output.dims, **node.attrs)
    return edit.remake(node, "QuantizeLinear", (made, found.scale, found.zero), {})


def drop_border(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Integers that become reals and the same integers again."""
    before = edit.producer(node.inputs[0])
    if before is None or before.op != "DequantizeLinear" or before.inputs[0] is None:
        return None
    ours, theirs = _params(edit, node), _params(edit, before)
    if ours is None or theirs is None or before.inputs[0].tensor.dtype != node.output.tensor.dtype or ours.axis != theirs.axis:
        return None
    if not all(np.array_equal(a, b) for a, b in zip(ours.numbers, theirs.numbers, strict=True)):
        return None
    return [before.inputs[0]] if edit.may_forward(node.output, before.inputs[0]) else None


def drop_bound(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Relu or Clip before integers that end where it does: what is beyond its bounds is beyond theirs."""
    bound, params = edit.producer(node.inputs[0]), _params(edit, node)
    if bound is None or bound.op not in ("Relu", "Clip") or params is None or params.axis is not None or bound.inputs[0] is None:
        return None
    ends = [edit.constant(bound.input(i)) if bound.input(i) is not None else None for i in (1, 2)]
    if bound.op == "Relu":
        ends = [np.zeros(()), None]
    elif any(e is None and bound.input(i) is not None for i, e in enumerate(ends, 1)):
        return None
    kind, (scale, zero) = np.iinfo(numpy_dtype(node.output.tensor.dtype)), params.numbers
    low, high = (None if e is None else float(np.rint(e.reshape(()).astype(np.float32) / scale)) + float(zero) for e in ends)
    if (low is not None and low > kind.min) or (high is not None and high < kind.max):
        return None
    return edit.remake(node, inputs=(bound.inputs[0], *node.inputs[1:]))


def signed_weight(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A weight of bytes around another zero is stored as i8 around zero where it fits, else as i8 at least."""
    stored, params = edit.constant(node.inputs[0]), _params(edit, node)
    if stored is None or params is None or stored.dtype not in (np.int8, np.uint8) or node.attrs.get("block_size", 0):
        return None
    zero = params.numbers[1]
    if stored.dtype == np.int8 and not zero.any():
        return None
    shape = [1] * stored.ndim
    if params.axis is not None:
        shape[params.axis] = -1
    centered = stored.astype(np.int16) - zero.astype(np.int16).reshape(shape if params.axis is not None else ())
    fits = bool((np.abs(centered.astype(np.float64) + 0.5) < 128).all())          # noqa: PLR2004  from -128 to 127
    if not fits and stored.dtype == np.int8:
        return None
    now = centered if fits else stored.astype(np.int16) - 128
    base = node.inputs[0].name if node.inputs[0] is not None else node.output.name
    at = None if fits else edit.weight(f"{base}.zero", (zero.astype(np.int16) - 128).astype(np.int8))
    return edit.remake(node, inputs=(edit.weight(base, now.astype(np.int8)), params.scale, *((at,) if at else ())))


def signed_product(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A sum of products with stored u8, or with integers around another zero, is one with i8 around zero, less what the zero makes.

    sum(x * (w - z)) = sum(x * w) - z * sum(x)
    """
    x, w, zeros = node.inputs[0], node.inputs[1], edit.constant(node.input(3)) if node.input(3) is not None else np.zeros(())
    stored = edit.constant(w)
    if x is None or w is None or stored is None or zeros is None or zeros.size != 1:
        return None
    if dims(node.output) is None or stored.ndim < 2:            # noqa: PLR2004  a vector
        return None
    zero, point = int(zeros.reshape(-1)[0]), node.inputs[2] if len(node.inputs) > 2 else None    # noqa: PLR2004  a zero point
    if stored.dtype == np.int8 and not zero:
        return None
    centered = stored.astype(np.int16) - zero
    fits = bool((np.abs(centered + 0.5) < 128).all())           # noqa: PLR2004  from -128 to 127
    if fits:
        return edit.remake(node, inputs=(x, edit.weight(w.name, centered.astype(np.int8)), *((point,) if point else ())))
    if stored.dtype == np.int8 or node.attrs.get("group", 1) != 1:
        return None
    shape = node.output.dims
    alone = [1, *stored.shape[1:]] if node.op == "ConvInteger" else [stored.shape[0], 1]
    few = [shape[0], 1, *shape[2:]] if node.op == "ConvInteger" else [*shape[:-1], 1]
    behind = (point,) if point else ()
    ones = edit.weight(f"{w.name}.ones", np.ones(alone, np.int8))
    whole = edit.weight(w.name, (stored.astype(np.int16) - 128).astype(np.int8))
    share = edit.node(node, node.op, (x, ones, *behind), few, dtype="i32", **node.attrs)
    scaled = edit.node(node, "Mul", (share, edit.scalar(f"{w.name}.zero", zero - 128, np.dtype(np.int32))), few, dtype="i32")
    return edit.remake(node, "Sub", (edit.node(node, node.op, (x, whole, *behind), shape, dtype="i32", **node.attrs), scaled), {})


def pad_of_bytes(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """Zeros around what a convolution reads are its own padding, also where they stand between two borders of one scale."""
    data = edit.producer(node.inputs[0])
    stored = edit.producer(data.inputs[0]) if data is not None and data.op == "DequantizeLinear" else None
    pad = edit.producer(stored.inputs[0]) if stored is not None and stored.op == "QuantizeLinear" else None
    before = edit.producer(pad.inputs[0]) if pad is not None and pad.op == "Pad" else None
    if data is None or stored is None or pad is None or before is None or before.op != "DequantizeLinear" or before.inputs[0] is None:
        return None
    params = [_params(edit, n) for n in (data, stored, before)]
    numbers = [p.numbers for p in params if p is not None and p.axis is None]
    same = len(numbers) == len(params) and all(np.array_equal(a, b) for n in numbers for a, b in zip(n, numbers[0], strict=True))
    around, fill = ints(edit, pad.input(1)), edit.constant(pad.input(2)) if pad.input(2) is not None else np.zeros(())
    count, own = len(node.output.dims) if dims(node.output) is not None else 0, list(node.attrs.get("pads", ()))
    if not same or before.inputs[0].tensor.dtype != stored.output.tensor.dtype or fill is None or fill.any() or pad.input(3) is not None:
        return None
    if around is None or pad.attrs.get("mode", "constant") != "constant" or node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    outside = around[:2] + around[count:count + 2]
    if len(around) != 2 * count or any(outside) or min(around) < 0 or len(own) not in (0, 2 * (count - 2)):
        return None
    own = own or [0] * (2 * (count - 2))
    pads = [a + b for a, b in zip(own, around[2:count] + around[count + 2:], strict=True)]
    real = edit.node(node, "DequantizeLinear", before.inputs, before.inputs[0].dims, dtype="f32", **before.attrs)
    return edit.remake(node, inputs=(real, *node.inputs[1:]), attrs={**node.attrs, "pads": pads})


def whole_bias(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A bias in f32 behind quantized data and weights is stored in i32, in units of the sums of their products, as runtimes compute it."""
    bias, data, weight = node.input(2), edit.producer(node.inputs[0]), edit.producer(node.input(1))
    array = edit.constant(bias)
    if bias is None or array is None or array.dtype != np.float32 or array.ndim != 1 or data is None or weight is None:
        return None
    if {data.op, weight.op} != {"DequantizeLinear"} or edit.constant(weight.inputs[0]) is None or edit.constant(data.inputs[0]) is not None:
        return None
    x, w = _params(edit, data), _params(edit, weight)
    channel = 0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1
    if x is None or w is None or x.axis is not None or w.axis not in (None, channel) or node.attrs.get("alpha", 1.0) != 1.0:
        return None
    scale = np.asarray(x.numbers[0] * w.numbers[0], np.float32)
    if not (scale > 0).all():
        return None
    whole = np.rint(array.astype(np.float64) / scale)
    if not (np.abs(whole) <= _LARGEST).all():
        return None
    stored, by = edit.weight(bias.name, whole.astype(np.int32)), edit.weight(f"{bias.name}.scale", scale)
    more = {} if scale.ndim == 0 else {"axis": 0}
    made = edit.node(node, "DequantizeLinear", (stored, by), array.shape, dtype="f32", **more)
    return edit.remake(node, inputs=(node.inputs[0], node.inputs[1], made))


def _real(like: Node, edit: Sweep, value: Value, scale: Value | None, zero: Value | None, axis: int | None = None) -> Value:
    array = edit.constant(scale)
    attrs = {"axis": axis} if axis is not None and array is not None and array.size > 1 else {}
    return edit.node(like, "DequantizeLinear", (value, *_flat(edit, scale, zero)), value.dims, dtype="f32", **attrs)


def _flat(edit: Sweep, *numbers: Value | None) -> tuple[Value, ...]:
    """Scale and zero point as borders have them: without axes when they are one number, an absent one left out."""
    made = list[Value]()
    for value in numbers:
        array = edit.constant(value)
        if value is not None:
            made.append(value if array is None or array.size != 1 or not array.ndim else edit.weight(value.name, array.reshape(())))
    return tuple(made)


def _params(edit: Sweep, node: Node) -> _Params | None:
    """Scale and zero point of a border when they are constant."""
    scale, stored = edit.constant(node.input(1)), node.inputs[0] if node.op == "DequantizeLinear" else node.output
    at = node.input(1)
    if scale is None or at is None or stored is None or scale.dtype != np.float32 or node.attrs.get("block_size", 0):
        return None
    zero = edit.constant(node.input(2)) if node.input(2) is not None else np.zeros(scale.shape, np.int32)
    if zero is None:
        return None
    if scale.size == 1:
        return _Params(at, node.input(2), (scale.reshape(()), zero.reshape(())), None)
    rank = stored.tensor.rank
    return None if rank is None else _Params(at, node.input(2), (scale, zero), positive(int(node.attrs.get("axis", 1)), rank))


def _meant(edit: Sweep, node: Node, parts: Sequence[Value]) -> _Params | None:
    """What the integers of a move stand for: what the borders before it say, or all of those behind it."""
    before = [edit.producer(v) for v in parts]
    borders = [n for n in before if n is not None and n.op == "QuantizeLinear"]
    if len(borders) == len(before):
        found = [_params(edit, n) for n in borders]
    else:
        readers = edit.graph.consumers.get(node.output, ())
        found = [_params(edit, n) if n.op == "DequantizeLinear" and n.inputs[0] is node.output else None for n in readers]
    first = found[0] if found else None
    if first is None or first.axis is not None or any(p is None or p.axis is not None for p in found):
        return None
    pairs = [zip(p.numbers, first.numbers, strict=True) for p in found if p is not None]
    return first if all(np.array_equal(a, b) for pair in pairs for a, b in pair) else None


LEGAL: Changes = {"QLinearConv": (qlinear_conv,), "QLinearMatMul": (qlinear_matmul,)}
CHANGES: Changes = {
    "QuantizeLinear": (drop_border, drop_bound), "DequantizeLinear": (signed_weight,),
    **dict.fromkeys((*MOVES, "Pad", "MaxPool", "Concat", "Clip"), (between_borders,)),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), (signed_product,)),
    "Conv": (pad_of_bytes, whole_bias), "Gemm": (whole_bias,),
}
