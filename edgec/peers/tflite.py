"""A float model in the operators of TFLite, channels last, for LiteRT: what edgec is compared with must be fed first.

Nodes are those of `passes.catalog.PORTABLE`. Images keep their channels last from operator to operator (edgec/peers/channels_last.py),
activations go into the operators before them, and pads that are neither SAME nor VALID are a Pad in front, which XNNPACK fuses into a
convolution. Inputs and outputs keep names, shapes and order of the model.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from edgec.errors import UnsupportedModel
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.peers.channels_last import Order, channels_last, moved, plain, reduced, reshaped
from edgec.peers.tflite_maker import ACTIVATIONS, IMAGE, SIX, Maker, NotInTflite, limits

_BINARY = {"Add": "Add", "Sub": "Sub", "Mul": "Mul", "Div": "Div", "Max": "Maximum", "Min": "Minimum", "Pow": "Pow"}
_WITH_ACTIVATION = {"Add", "Sub", "Mul", "Div"}
_UNARY = {"Sigmoid": "Logistic", "Tanh": "Tanh", "HardSwish": "HardSwish", "Exp": "Exp", "Sqrt": "Sqrt"}
_REDUCTIONS = {"ReduceMean": "Mean", "ReduceSum": "Sum", "ReduceMax": "ReduceMax"}


def tflite(graph: Graph) -> Graph:
    """The graph in `tfl` operators; UnsupportedModel names every node that has none, and why."""
    maker = Maker(graph, _WRITERS)
    refused = dict[str, str]()
    for node in graph.nodes:
        try:
            maker.node(node)
        except NotInTflite as why:
            refused[node.label] = str(why)
            maker.forget(node)
    if refused:
        raise UnsupportedModel("TFLite has no words for " + "; ".join(f"{n}: {why}" for n, why in refused.items()), list(refused))
    outputs = tuple(maker.named(v) for v in graph.outputs)
    return Graph(graph.name, tuple(maker.inputs), outputs, tuple(maker.nodes), maker.weights)


def _laid(node: Node, order: Order) -> tuple[int, ...]:
    """The shape of a result in memory."""
    return tuple(node.output.dims[a] for a in order)


def _conv(m: Maker, node: Node) -> None:
    w = m.known(node.input(1), "weight")
    bias = m.known(node.input(2), "bias") if node.input(2) is not None else np.zeros(w.shape[0], np.float32)
    x, pads, attrs = m.window(node, w.shape[2:])
    group, last = node.attrs.get("group", 1), channels_last(IMAGE)
    operands = [m.padded(x, pads)]
    if group > 1 and w.shape[1] == 1:
        op, attrs = "DepthwiseConv2D", {**attrs, "multiplier": w.shape[0] // group}
        operands.append(m.constant(w.transpose(1, 2, 3, 0)))
    else:
        op = "Conv2D"
        operands.append(m.constant(w.transpose(0, 2, 3, 1)))
    operands.append(m.constant(bias))
    m.put(node, m.emit(op, operands, _laid(node, last), activation=m.activation(node), **attrs), last)


def _conv_transpose(m: Maker, node: Node) -> None:
    w = m.known(node.input(1), "weight")
    a, last = node.attrs, channels_last(IMAGE)
    if a.get("group", 1) != 1 or any(d != 1 for d in a.get("dilations", [1, 1])) or any(a.get("output_padding", [0, 0])):
        raise NotInTflite("a transposed convolution has no groups, dilations or output padding there")
    x, stride, pads = m.image(node), a.get("strides", [1, 1]), list(a.get("pads", [0] * 4))
    same = [(k - s) // 2 for k, s in zip(w.shape[2:], stride, strict=True)]
    rest = [k - s - b for k, s, b in zip(w.shape[2:], stride, same, strict=True)]
    if any(pads) and pads != [*same, *rest]:
        raise NotInTflite("its pads are neither SAME nor VALID")
    bias = m.known(node.input(2), "bias") if node.input(2) is not None else np.zeros(w.shape[1], np.float32)
    dims = _laid(node, last)
    operands = [m.constant(np.array(dims, np.int32)), m.constant(w.transpose(1, 2, 3, 0)), x, m.constant(bias)]
    m.put(node, m.emit("TransposeConv", operands, dims, stride=tuple(stride), padding="SAME" if any(pads) else "VALID",
                       activation=m.activation(node)), last)


def _max_pool(m: Maker, node: Node) -> None:
    if len(node.outputs) > 1 or any(d != 1 for d in node.attrs.get("dilations", [1, 1])):
        raise NotInTflite("a maximum has no places and no dilations there")
    last = channels_last(IMAGE)
    x, pads, attrs = m.window(node, node.attrs["kernel_shape"])
    value = node.inputs[0]
    fill = 0.0 if value is not None and m.positive(value) else float(np.finfo(np.float32).min)
    m.put(node, m.emit("MaxPool2D", [m.padded(x, pads, fill)], _laid(node, last), filter=tuple(node.attrs["kernel_shape"]),
                       activation=m.activation(node), **attrs), last)


def _average_pool(m: Maker, node: Node) -> None:
    a, last = node.attrs, channels_last(IMAGE)
    kernel = list(a["kernel_shape"])
    if any(d != 1 for d in a.get("dilations", [1, 1])):
        raise NotInTflite("a mean has no dilations there")
    x, pads, attrs = m.window(node, kernel)
    out, whole = node.output.dims[2:], not a.get("count_include_pad", 0) or not any(a.get("pads", [0]))
    if tuple(out) == (1, 1) and whole and all(k >= s for k, s in zip(kernel, x.dims[1:3], strict=True)):
        _mean(m, node)
        return
    if attrs["padding"] == "SAME" and not whole:
        pads, attrs["padding"] = list(a["pads"]), "VALID"
    counts = None
    if any(pads) and whole:                                     # VALID counts the pads, so they are taken out again
        seen = [np.array([min(i * s - b + k, n) - max(i * s - b, 0) for i in range(o)], np.float32)
                for o, s, k, b, n in zip(out, attrs["stride"], kernel, pads[:2], x.dims[1:3], strict=True)]
        counts = m.constant((prod(kernel) / np.outer(*seen)).astype(np.float32)[None, :, :, None])
    activation = "NONE" if counts is not None else m.activation(node)
    made = m.emit("AveragePool2D", [m.padded(x, pads)], _laid(node, last), filter=tuple(kernel), activation=activation, **attrs)
    if counts is not None:
        made = m.emit("Mul", [made, counts], made.dims, activation=m.activation(node))
    m.put(node, made, last)


def _mean(m: Maker, node: Node) -> None:
    """The mean of a whole image."""
    last = channels_last(IMAGE)
    axes = m.constant(np.array([1, 2], np.int32))
    m.put(node, m.emit("Mean", [m.image(node), axes], _laid(node, last), keep_dims=1), last)


def _reduction(m: Maker, node: Node) -> None:
    value = node.inputs[0]
    if value is None or node.input(1) is None:
        raise NotInTflite("its axes are not named")
    rank = len(value.dims)
    axes, order = [int(i) % rank for i in m.known(node.input(1), "list of axes")], _lies(m, value)
    places = m.constant(np.array([order.index(i) for i in axes], np.int32))
    keep = node.attrs.get("keepdims", 1)
    after = order if keep else reduced(order, axes)
    m.put(node, m.emit(_REDUCTIONS[node.op], [m.at(value, order), places], _laid(node, after), keep_dims=keep), after)


def _lies(m: Maker, value: Value) -> Order:
    return m.places[value].order if value in m.places else plain(len(value.dims))


def _lifted(m: Maker, value: Value, order: Order) -> Value:
    """An operand that is broadcast, with as many axes as an order has."""
    rank, own = len(order), len(value.dims)
    dims = (1,) * (rank - own) + value.dims
    if value in m.graph.weights:
        array = m.graph.weights[value]
        return m.constant(array.reshape(1) if array.size == 1 else array.reshape(dims).transpose(order))
    if own == rank:
        return m.at(value, order)
    inner = tuple(a - (rank - own) for a in order if a >= rank - own)
    return m.shaped(m.at(value, inner), [dims[a] for a in order])


def _binary(m: Maker, node: Node) -> None:
    op, order = _BINARY[node.op], m.order(node)
    operands = [_lifted(m, v, order) for v in node.inputs if v is not None]
    kind = node.output.tensor.dtype
    fused = {"activation": m.activation(node)} if op in _WITH_ACTIVATION and kind == "f32" else {}
    m.put(node, m.emit(op, operands, _laid(node, order), kind, **fused), order)


def _unary(m: Maker, node: Node) -> None:
    order = m.order(node)
    m.put(node, m.emit(_UNARY[node.op], _operands(m, node, order), _laid(node, order)), order)


def _operands(m: Maker, node: Node, order: Order) -> list[Value]:
    return [m.at(v, order) for v in node.inputs[:1] if v is not None]


def _gelu(m: Maker, node: Node) -> None:
    order, approximate = m.order(node), node.attrs.get("approximate", "none") == "tanh"
    m.put(node, m.emit("Gelu", _operands(m, node, order), _laid(node, order), approximate=approximate), order)


def _clip(m: Maker, node: Node) -> None:
    ends, order = limits(m.graph, node), m.order(node)
    if ends is None:
        raise NotInTflite("its limits are computed")
    (made,), dims = _operands(m, node, order), _laid(node, order)
    if ends in ACTIVATIONS:
        made = m.emit("Relu", [made], dims, activation=ACTIVATIONS[ends])
    else:
        for op, end in zip(("Maximum", "Minimum"), ends, strict=True):
            if np.isfinite(end):
                made = m.emit(op, [made, m.constant(np.array([end], np.float32))], dims)
    m.put(node, made, order)


def _hard_sigmoid(m: Maker, node: Node) -> None:
    """Write alpha x + beta between 0 and 1 as a sixth of what lies between 0 and 6, for which there is an activation."""
    order, dims = m.order(node), _laid(node, m.order(node))
    alpha, beta = node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
    (made,) = _operands(m, node, order)
    for op, number, activation in (("Mul", alpha * SIX, "NONE"), ("Add", beta * SIX, "RELU6"), ("Mul", 1 / SIX, "NONE")):
        made = m.emit(op, [made, m.constant(np.array([number], np.float32))], dims, activation=activation)
    m.put(node, made, order)


def _matmul(m: Maker, node: Node) -> None:
    a, b = node.inputs
    if a is None or b is None or a in m.graph.weights:
        raise NotInTflite("its left factor is stored")
    right, order = m.graph.weights.get(b), plain(len(node.output.dims))
    if right is not None and right.ndim == 2:  # noqa: PLR2004  a matrix
        _fully_connected(m, node, right.T, None)
        return
    if len(a.dims) != len(b.dims):
        raise NotInTflite("its factors have different ranks")
    m.put(node, m.emit("BatchMatMul", [m.at(v, plain(len(v.dims))) for v in (a, b)], node.output.dims), order)


def _gemm(m: Maker, node: Node) -> None:
    attrs, w = node.attrs, m.known(node.input(1), "weight")
    if attrs.get("alpha", 1.0) != 1 or attrs.get("beta", 1.0) != 1 or attrs.get("transA", 0):
        raise NotInTflite("it scales or transposes")
    bias = m.known(node.input(2), "bias") if node.input(2) is not None else None
    _fully_connected(m, node, w if attrs.get("transB", 0) else w.T, bias)


def _fully_connected(m: Maker, node: Node, w: Array, bias: Array | None) -> None:
    """A product with a stored matrix, and the sum with a stored vector that may follow."""
    value, last = node.inputs[0], node
    behind = m.behind(node)
    if bias is None and behind is not None and behind.op == "Add":
        others = [m.graph.weights.get(v) for v in behind.inputs if v is not node.output and v is not None]
        if others and others[0] is not None and others[0].size == w.shape[0] == others[0].shape[-1]:
            bias, last = others[0], behind
            m.skipped.add(behind)
    if value is None:
        raise NotInTflite("it has no input")
    flat = np.zeros(w.shape[0], np.float32) if bias is None else np.broadcast_to(bias.reshape(-1), w.shape[:1])
    operands = [m.at(value, plain(len(value.dims))), m.constant(w), m.constant(flat)]
    m.put(last, m.emit("FullyConnected", operands, node.output.dims, activation=m.activation(last), keep_num_dims=len(value.dims) > 2),  # noqa: PLR2004
          plain(len(node.output.dims)))


def _concat(m: Maker, node: Node) -> None:
    order = m.order(node)
    operands = [m.at(v, order) for v in node.inputs if v is not None]
    m.put(node, m.emit("Concat", operands, _laid(node, order), node.output.tensor.dtype, axis=order.index(node.attrs["axis"])), order)


def _reshape(m: Maker, node: Node) -> None:
    value = node.inputs[0]
    if value is None or 0 in value.dims:
        raise NotInTflite("it is empty")
    have = _lies(m, value)
    before, after = reshaped(value.dims, node.output.dims, have)
    place = m.places[value]
    lain = place.value if moved(value.dims, have, before) is None else m.at(value, before)
    m.put(node, m.shaped(lain, _laid(node, after)), after)


def _transpose(m: Maker, node: Node) -> None:
    """Nothing moves: the axes of the model have other numbers."""
    value, perm = node.inputs[0], list(node.attrs["perm"])
    if value is None:
        raise NotInTflite("it has no input")
    place = m.places[value]
    m.put(node, place.value, tuple(perm.index(a) for a in place.order))


def _softmax(m: Maker, node: Node) -> None:
    axis, order = node.attrs["axis"], m.order(node)
    order = (*(a for a in order if a != axis), axis)
    m.put(node, m.emit("Softmax", _operands(m, node, order), _laid(node, order)), order)


def _response_norm(m: Maker, node: Node) -> None:
    size, order = node.attrs["size"], channels_last(IMAGE)
    if size % 2 == 0:
        raise NotInTflite("its window is even")
    m.put(node, m.emit("LocalResponseNorm", [m.image(node)], _laid(node, order), radius=size // 2, bias=node.attrs.get("bias", 1.0),
                       alpha=node.attrs.get("alpha", 1e-4) / size, beta=node.attrs.get("beta", 0.75)), order)


def _layer_norm(m: Maker, node: Node) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, as converters of other frameworks write it."""
    value = node.inputs[0]
    if value is None or len(node.outputs) > 1 or node.attrs["axis"] % len(value.dims) != len(value.dims) - 1:
        raise NotInTflite("only norms along the last axis can be written")
    order, dims = plain(len(value.dims)), value.dims
    x, axis, one = m.at(value, order), m.constant(np.array([len(dims) - 1], np.int32)), (*dims[:-1], 1)
    mean = m.emit("Mean", [x, axis], one, keep_dims=1)
    variance = m.emit("Mean", [m.emit("SquaredDifference", [x, mean], dims), axis], one, keep_dims=1)
    epsilon = m.constant(np.array([node.attrs.get("epsilon", 1e-5)], np.float32))
    root = m.emit("Rsqrt", [m.emit("Add", [variance, epsilon], one)], one)
    made = m.emit("Mul", [m.emit("Sub", [x, mean], dims), root], dims)
    for op, operand in zip(("Mul", "Add"), node.inputs[1:], strict=False):
        if operand is not None:
            made = m.emit(op, [made, m.constant(m.known(operand, "scale"))], dims)
    m.put(node, made, order)


_RESIZES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("nearest", "asymmetric"): {}, ("linear", "asymmetric"): {}, ("linear", "half_pixel"): {"half_pixel_centers": 1},
    ("linear", "pytorch_half_pixel"): {"half_pixel_centers": 1}, ("linear", "align_corners"): {"align_corners": 1}}


def _resize(m: Maker, node: Node) -> None:
    mode, way = node.attrs.get("mode", "nearest"), node.attrs.get("coordinate_transformation_mode", "half_pixel")
    last = channels_last(IMAGE)
    if (mode, way) not in _RESIZES or (mode == "nearest" and node.attrs.get("nearest_mode", "round_prefer_floor") != "floor"):
        raise NotInTflite(f"its mode is {mode} with {way}")
    size = m.constant(np.array(node.output.dims[2:], np.int32))
    op = "ResizeBilinear" if mode == "linear" else "ResizeNearestNeighbor"
    m.put(node, m.emit(op, [m.image(node), size], _laid(node, last), **_RESIZES[mode, way]), last)


def _slice(m: Maker, node: Node) -> None:
    value = node.inputs[0]
    if value is None:
        raise NotInTflite("it has no input")
    rank, order = len(value.dims), _lies(m, value)
    starts, ends = (m.known(node.input(i), "range").tolist() for i in (1, 2))
    axes = m.known(node.input(3), "list of axes").tolist() if node.input(3) is not None else list(range(len(starts)))
    steps = m.known(node.input(4), "step").tolist() if node.input(4) is not None else [1] * len(starts)
    if min(steps) < 1:
        raise NotInTflite("it goes backwards")
    ranges = {a: (0, n, 1) for a, n in enumerate(value.dims)}
    for axis, begin, end, step in zip(axes, starts, ends, steps, strict=True):
        first, stop, _ = slice(begin, end, step).indices(value.dims[axis % rank])
        ranges[axis % rank] = first, stop, step
    operands = [m.constant(np.array([ranges[a][i] for a in order], np.int32)) for i in range(3)]
    m.put(node, m.emit("StridedSlice", [m.at(value, order), *operands], _laid(node, order), value.tensor.dtype), order)


def _pad(m: Maker, node: Node) -> None:
    value, order = node.inputs[0], m.order(node)
    if value is None or node.attrs.get("mode", "constant") != "constant" or node.input(3) is not None:
        raise NotInTflite(f"its mode is {node.attrs.get('mode', 'constant')}")
    pads = m.known(node.input(1), "list of pads").reshape(2, -1).T
    fill = float(m.known(node.input(2), "number")) if node.input(2) is not None else 0.0
    if pads.min() < 0:
        raise NotInTflite("its pads are negative")
    operands = [m.at(value, order), m.constant(pads[list(order)].astype(np.int32))]
    if fill:
        operands.append(m.constant(np.array([fill], np.float32)))
    m.put(node, m.emit("PadV2" if fill else "Pad", operands, _laid(node, order)), order)


def _gather(m: Maker, node: Node) -> None:
    table, places = node.inputs
    if table is None or places is None or node.attrs.get("axis", 0) != 0:
        raise NotInTflite("only rows can be gathered")
    operands = [m.at(v, plain(len(v.dims))) for v in (table, places)]
    m.put(node, m.emit("Gather", operands, node.output.dims, axis=0), plain(len(node.output.dims)))


def _cast(m: Maker, node: Node) -> None:
    value, order = node.inputs[0], m.order(node)
    if value is None:
        raise NotInTflite("it has no input")
    before, after = value.tensor.dtype, node.output.tensor.dtype
    made = m.at(value, order)
    m.put(node, made if before == after else m.emit("Cast", [made], _laid(node, order), after, **{"from": before, "to": after}), order)


_WRITERS: Mapping[str, Callable[[Maker, Node], None]] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": _mean,
    **dict.fromkeys(_BINARY, _binary), **dict.fromkeys(_UNARY, _unary), **dict.fromkeys(_REDUCTIONS, _reduction),
    "Relu": _clip, "Clip": _clip, "HardSigmoid": _hard_sigmoid, "Gelu": _gelu, "MatMul": _matmul, "Gemm": _gemm, "Concat": _concat,
    "Reshape": _reshape, "Transpose": _transpose, "Softmax": _softmax, "LRN": _response_norm, "LayerNormalization": _layer_norm,
    "Resize": _resize, "Slice": _slice, "Pad": _pad, "Gather": _gather, "Cast": _cast,
}
