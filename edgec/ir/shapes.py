"""Shapes that onnx's own inference leaves open because a dim is symbolic, or because a shape is computed: one function an operator.

Each takes the node and the contents of its inputs (see contents.py) and returns a shape for each result, None where it knows none.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor

import numpy as np

from edgec.ir.contents import Contents, dims, ints
from edgec.ir.dims import Dim, Sym, at_least, ceildiv, maximum, minimum
from edgec.ir.graph import Node
from edgec.ir.types import Tensor

Shape = tuple[Dim | None, ...]
Rule = Callable[[Node, Sequence[Contents]], Sequence[Shape | None]]
_FAR = 2**31 - 1
"""What exporters write for `to the end`."""


def shapes(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    """The shapes of a node's results, as far as its rule knows them."""
    rule = _RULES.get(node.op)
    return rule(node, inputs) if rule else [None] * len(node.outputs)


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape of an elementwise result; a dim is None where it cannot be told which of two operands is the larger."""
    rank = max(len(a), len(b))
    return tuple(_larger(x, y) for x, y in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True))


def _larger(a: Dim | None, b: Dim | None) -> Dim | None:
    if a in (1, b):
        return b
    if b == 1:
        return a
    if isinstance(a, int) or isinstance(b, int):  # an extent over 1 decides: the other can only be equal or 1
        return a if isinstance(a, int) else b
    if a is None or b is None:
        return next((d for d in (a, b) if d is not None and at_least(d, 2)), None)
    if at_least(a, 2) or at_least(b, 2):
        return a if at_least(a, 2) else b
    return maximum(a, b) if at_least(a, 1) and at_least(b, 1) else None


def _of(node: Node, i: int) -> Shape | None:
    value = node.input(i)
    return value.type.shape if value is not None and isinstance(value.type, Tensor) else None


def _known(inputs: Sequence[Contents], i: int) -> Contents:
    return inputs[i] if i < len(inputs) else None


def _window(node: Node, _: Sequence[Contents]) -> Sequence[Shape | None]:
    """Convolutions and poolings: results of all outputs have one shape."""
    x, w = _of(node, 0), _of(node, 3 if node.op == "QLinearConv" else 1) if "Pool" not in node.op else None
    kernel = node.attrs.get("kernel_shape") or (list(w[2:]) if w is not None else None)
    if x is None or kernel is None or ("Pool" not in node.op and w is None):
        return [None] * len(node.outputs)
    n = len(kernel)
    strides, dilations = node.attrs.get("strides") or [1] * n, node.attrs.get("dilations") or [1] * n
    pads, auto, ceil = node.attrs.get("pads") or [0] * 2 * n, node.attrs.get("auto_pad", "NOTSET"), node.attrs.get("ceil_mode", 0)
    spatial = tuple(
        _windows(d, k, s, dil, None if auto.startswith("SAME") else 0 if auto == "VALID" else (begin, end), ceil)
        for d, k, s, dil, begin, end in zip(x[2:], kernel, strides, dilations, pads[:n], pads[n:], strict=True))
    channels = x[1] if w is None else w[0]
    return [(x[0], channels, *spatial)] * len(node.outputs)


def _windows(d: Dim | None, k: Dim | None, stride: int, dilation: int, pads: tuple[int, int] | int | None, ceil: int) -> Dim | None:
    if d is None or k is None:
        return None
    if pads is None:
        return ceildiv(d, stride)
    begin, end = (pads, pads) if isinstance(pads, int) else pads
    span = d + begin + end - (k - 1) * dilation - 1
    if not ceil:
        return span // stride + 1
    count = ceildiv(span, stride) + 1
    fits = (count - 1) * stride - d - begin  # the last window must start inside the image or its left border
    return count if at_least(-fits, 1) else count - 1 if at_least(fits) else None


def _conv_transpose(node: Node, _: Sequence[Contents]) -> Sequence[Shape | None]:
    x, w = _of(node, 0), _of(node, 1)
    if x is None or w is None or w[1] is None:
        return [None]
    n = len(x) - 2
    kernel = node.attrs.get("kernel_shape") or list(w[2:])
    given = node.attrs.get("output_shape")
    strides, dilations = node.attrs.get("strides") or [1] * n, node.attrs.get("dilations") or [1] * n
    pads, extra = node.attrs.get("pads") or [0] * 2 * n, node.attrs.get("output_padding") or [0] * n
    auto = node.attrs.get("auto_pad", "NOTSET")
    spatial: list[Dim | None] = []
    for i, d in enumerate(x[2:]):
        if given:
            spatial.append(given[-n:][i])
        elif d is None or kernel[i] is None:
            spatial.append(None)
        elif auto.startswith("SAME"):
            spatial.append(d * strides[i])
        else:
            cut = 0 if auto == "VALID" else pads[i] + pads[i + n]
            spatial.append((d - 1) * strides[i] + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - cut)
    return [(x[0], w[1] * node.attrs.get("group", 1), *spatial)]


def _reshape(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    x, target = _of(node, 0), dims(_known(inputs, 1))
    if target is None:
        return [None]
    if not node.attrs.get("allowzero", 0):
        target = [(x[i] if x is not None and i < len(x) else None) if d == 0 else d for i, d in enumerate(target)]
    if -1 not in target:
        return [tuple(target)]
    rest = [d for d in target if isinstance(d, Sym) or d != -1]
    free: Dim | None = None
    if x is not None:
        top, bottom = list(x), list(rest)
        for d in x:  # what stands on both sides cancels, known or not, but only where it surely is the same
            if d is not None and d in bottom:
                top.remove(d)
                bottom.remove(d)
        if None not in top and None not in bottom:
            free = _quotient([d for d in top if d is not None], [d for d in bottom if d is not None])
    return [tuple(free if not isinstance(d, Sym) and d == -1 else d for d in target)]


def _quotient(top: list[Dim], bottom: list[Dim]) -> Dim | None:
    over: Dim = 1
    under: Dim = 1
    for d in top:
        over *= d
    for d in bottom:
        under *= d
    return None if under == 0 else over // under


def _flatten(node: Node, _: Sequence[Contents]) -> Sequence[Shape | None]:
    x = _of(node, 0)
    if x is None:
        return [(None, None)]
    axis = node.attrs.get("axis", 1)
    axis += len(x) if axis < 0 else 0
    return [tuple(None if None in part else _quotient([d for d in part if d is not None], []) for part in (x[:axis], x[axis:]))]


def _expand(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    x, target = _of(node, 0), dims(_known(inputs, 1))
    return [None if x is None or target is None else broadcast(x, tuple(target))]


def _filled(_: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    target = dims(inputs[0])
    return [None if target is None else tuple(target)]


def _tile(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    x, repeats = _of(node, 0), dims(_known(inputs, 1))
    if x is None or repeats is None:
        return [None]
    return [tuple(None if d is None or r is None else d * r for d, r in zip(x, repeats, strict=True))]


def _concat(node: Node, _: Sequence[Contents]) -> Sequence[Shape | None]:
    parts = [_of(node, i) for i in range(len(node.inputs))]
    known = [p for p in parts if p is not None]
    if not known:
        return [None]
    axis = node.attrs["axis"] % len(known[0])
    merged = [next((p[i] for p in known if p[i] is not None), None) for i in range(len(known[0]))]
    total: Dim | None = 0
    for p in parts:
        total = None if total is None or p is None or (d := p[axis]) is None else total + d
    return [tuple(total if i == axis else d for i, d in enumerate(merged))]


def _split(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    x, sizes, count = _of(node, 0), dims(_known(inputs, 1)), len(node.outputs)
    if x is None:
        return [None] * count
    axis = node.attrs.get("axis", 0) % len(x)
    whole = x[axis]
    if sizes is None and whole is not None and node.input(1) is None:
        step = ceildiv(whole, count)
        sizes = [step] * (count - 1) + [whole - step * (count - 1)]
    return [tuple((sizes[i] if sizes else None) if a == axis else d for a, d in enumerate(x)) for i in range(count)]


def _slice(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    x = _of(node, 0)
    if x is None:
        return [None]
    starts, ends, given = dims(_known(inputs, 1)), dims(_known(inputs, 2)), _of(node, 1)
    count = given[0] if given else None
    axes = ints(_known(inputs, 3)) if node.input(3) is not None else list(range(count)) if isinstance(count, int) else None
    if axes is None:
        return [(None,) * len(x)]
    steps = ints(_known(inputs, 4)) if node.input(4) is not None else [1] * len(axes)
    made = list(x)
    for i, axis in enumerate(axes):
        made[axis] = _sliced(x[axis], starts[i], ends[i], steps[i]) if starts and ends and steps else None
    return [tuple(made)]


def _sliced(d: Dim | None, start: Dim | None, end: Dim | None, step: int) -> Dim | None:
    if d is None or start is None or end is None:
        return None
    if step > 0:
        first, last = _place(start, d, 0, d), _place(end, d, 0, d)
    else:
        first, last = _place(start, d, 0, d - 1), _place(end, d, -1, d - 1)
    if first is None or last is None:
        return None
    return maximum(ceildiv(last - first, step) if step > 0 else ceildiv(first - last, -step), 0)


def _place(at: Dim, d: Dim, low: Dim, high: Dim) -> Dim | None:
    """A start or an end as a distance from the beginning, within bounds; None when its sign is not known."""
    if isinstance(at, int) and at >= _FAR:
        return high
    if isinstance(at, int) and at <= -_FAR:
        return low
    if at_least(-at, 1):
        at = at + d
    elif not at_least(at):
        return None
    return maximum(minimum(at, high), low)


def _pad(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    x, pads = _of(node, 0), dims(_known(inputs, 1))
    if x is None or pads is None:
        return [None if x is None else (None,) * len(x)]
    axes = ints(_known(inputs, 3)) if node.input(3) is not None else list(range(len(x)))
    if axes is None:
        return [(None,) * len(x)]
    made = list(x)
    for i, axis in enumerate(axes):
        d, begin, end = x[axis], pads[i], pads[i + len(axes)]
        made[axis] = None if d is None or begin is None or end is None else d + begin + end
    return [tuple(made)]


def _resize(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    x, scales, sizes = _of(node, 0), _known(inputs, 2), dims(_known(inputs, 3))
    if x is None or node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return [None]
    axes = [a % len(x) for a in node.attrs.get("axes") or range(len(x))]
    made = list(x)
    for i, axis in enumerate(axes):
        if sizes is not None:
            made[axis] = sizes[i]
        elif scales is not None and scales.size:
            made[axis] = _scaled(x[axis], scales.flat[i])
        else:
            made[axis] = None
    return [tuple(made)]


def _scaled(d: Dim | None, scale: float | None) -> Dim | None:
    """floor(d * scale): an expression when the scale is a simple fraction."""
    if d is None or not isinstance(scale, int | float):
        return None
    if isinstance(d, int):
        return floor(np.float32(d) * np.float32(scale))
    ratio = Fraction(float(scale)).limit_denominator(64)
    return d * ratio.numerator // ratio.denominator if float(ratio) == scale else None


def _range(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    bounds = [dims(k) for k in inputs]
    if any(b is None for b in bounds):
        return [(None,)]
    start, limit, delta = (b[0] for b in bounds if b is not None)
    if start is None or limit is None or not isinstance(delta, int) or delta == 0 or node.inputs[0] is None:
        return [(None,)]
    if "f" in node.inputs[0].tensor.dtype:
        return [(None,)]
    return [(maximum(ceildiv(limit - start, delta) if delta > 0 else ceildiv(start - limit, -delta), 0),)]


def _space_to_depth(node: Node, _: Sequence[Contents]) -> Sequence[Shape | None]:
    x, block = _of(node, 0), node.attrs["blocksize"]
    if x is None:
        return [None]
    n, c, h, w = x
    if node.op == "SpaceToDepth":
        return [(n, None if c is None else c * block**2, None if h is None else h // block, None if w is None else w // block)]
    return [(n, None if c is None else c // block**2, None if h is None else h * block, None if w is None else w * block)]


def _elementwise(node: Node, _: Sequence[Contents]) -> Sequence[Shape | None]:
    made: Shape | None = ()
    for i in range(len(node.inputs)):
        x = _of(node, i)
        made = None if made is None or x is None else broadcast(made, x)
    return [made]


def _top(node: Node, inputs: Sequence[Contents]) -> Sequence[Shape | None]:
    x, count = _of(node, 0), dims(_known(inputs, 1))
    if x is None or count is None:
        return [None, None]
    axis = node.attrs.get("axis", -1) % len(x)
    return [tuple(count[0] if i == axis else d for i, d in enumerate(x))] * len(node.outputs)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool"), _window),
    "ConvTranspose": _conv_transpose, "Reshape": _reshape, "Flatten": _flatten, "Expand": _expand, "ConstantOfShape": _filled,
    "Tile": _tile, "Concat": _concat, "Split": _split, "Slice": _slice, "Pad": _pad, "Resize": _resize,
    "Range": _range, "SpaceToDepth": _space_to_depth, "DepthToSpace": _space_to_depth, "TopK": _top,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu", "Mod", "And", "Or", "Xor", "Equal", "Greater",
                     "Less", "GreaterOrEqual", "LessOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "Where"), _elementwise),
}
