"""Operators of older opsets as those of the one normalized opset.

One table says for each operator what changed in which version; everything that is not listed only learned new types or options.
(onnx's own version converter refuses many models: old IR versions, bodies, operators that it has no adapter for.)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from edgec import onnx_qlinear
from edgec.errors import UnsupportedModel
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.infer import Inference
from edgec.ir.proto import CODES, OPSET, VERSIONS, split_op
from edgec.ir.types import Tensor, numpy_dtype


def upgrade(graph: Graph, versions: Mapping[str, int]) -> Graph:
    """The graph with every operator at its normalized version, and with the types of all values.

    `versions` are the opsets that the model declares. UnsupportedModel names a node that has no equivalent, BadInput one that does not fit.
    """
    read = {v for g in _graphs(graph) for v in (*g.outputs, *(v for n in g.nodes for v in n.inputs if v is not None))}

    def rewrite(inference: Inference, node: Node) -> Iterable[Node]:
        domain, op = split_op(node.op)
        version = versions.get(domain, VERSIONS.get(domain, 1))
        made = [node]
        for until, step in _STEPS.get(node.op, ()):
            if version < until:
                made = [*made[:-1], *step(_Context(inference, made[-1], version, read))]
        if node.op in onnx_qlinear.STEPS:
            made = onnx_qlinear.STEPS[node.op](_Context(inference, node, version, read))
        if domain == "com.microsoft" and op in ("QuantizeLinear", "DequantizeLinear"):
            made = [replace(made[-1], op=op)]
        return made

    return Inference(rewrite).graph(graph)


def _graphs(graph: Graph) -> Iterable[Graph]:
    yield graph
    for node in graph.nodes:
        for _, body in node.bodies:
            yield from _graphs(body)


@dataclass(frozen=True)
class _Context:
    """A node on its way up, with what a step needs to make others of it."""

    inference: Inference
    node: Node
    version: int
    read: set[Value]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        return self.node.attrs.get(name, default)

    def weight(self, what: str, array: Any, dtype: Any = None) -> Value:
        """A new constant operand."""
        return self.inference.weight(f"{self.node.outputs[0].name}.{what}", np.asarray(array, dtype))

    def value(self, what: str) -> Value:
        """A new value between two nodes."""
        return Value(f"{self.node.outputs[0].name}.{what}")

    def shape(self, i: int) -> tuple[Any, ...]:
        """The shape of an input, whose rank must be known."""
        value = self.node.input(i)
        if value is None or not isinstance(value.type, Tensor) or value.type.shape is None:
            raise self.unsupported(f"the rank of its input {i} is not known")
        return value.type.shape

    def dtype(self, i: int) -> np.dtype[Any]:
        """The numpy dtype of an input."""
        value = self.node.input(i)
        if value is None or not isinstance(value.type, Tensor):
            raise self.unsupported(f"the type of its input {i} is not known")
        return numpy_dtype(value.type.dtype)

    def array(self, i: int) -> Array:
        """The elements of an input that must be a constant."""
        array = self.inference.array(self.node.input(i))
        if array is None:
            raise self.unsupported(f"its input {i} is not a constant")
        return array

    def unsupported(self, why: str) -> UnsupportedModel:
        """The error of a node that has no equivalent in the normalized opset."""
        what = f"{self.node.label} of opset {self.version} cannot be expressed in opset {OPSET}"
        return UnsupportedModel(f"{what}: {why}", [self.node.origin])

    def changed(self, *drop: str, op: str | None = None, inputs: Iterable[Value | None] | None = None, **attrs: Any) -> Node:
        """The node without some attributes, with others."""
        kept = {k: v for k, v in self.node.attrs.items() if k not in drop}
        return replace(self.node, op=op or self.node.op, inputs=self.node.inputs if inputs is None else tuple(inputs),
                       attrs=MappingProxyType({**kept, **attrs}))

    def new(self, op: str, inputs: Iterable[Value | None], outputs: Iterable[Value], **attrs: Any) -> Node:
        """Another node with the same origin."""
        return Node(op, tuple(inputs), tuple(outputs), MappingProxyType(attrs), None, self.node.origin)


_Step = Callable[[_Context], list[Node]]


def _drop(*names: str) -> _Step:
    return lambda at: [at.changed(*names)] if any(n in at.node.attrs for n in names) else [at.node]


def _to_input(name: str, dtype: Any = np.int64) -> _Step:
    """An attribute becomes the next input."""
    return lambda at: [at.node if name not in at.node.attrs else
                       at.changed(name, inputs=(*at.node.inputs, at.weight(name, at.attr(name), dtype)))]


def _default(**attrs: Any) -> _Step:
    """What was the default becomes explicit."""
    return lambda at: [at.changed(**{**attrs, **at.node.attrs})]


def _renamed(op: str) -> _Step:
    return lambda at: [at.changed(op=op)]


def _broadcast(at: _Context) -> list[Node]:
    """Before opset 7 the second operand was laid along an axis of the first, by attribute."""
    node, axis = at.node, at.attr("axis")
    if not at.attr("broadcast", 0) or axis is None:
        return [at.changed("axis", "broadcast")]
    behind = len(at.shape(0)) - axis % len(at.shape(0)) - len(at.shape(1))
    if behind <= 0:
        return [at.changed("axis", "broadcast")]
    wide = at.value("aligned")
    axes = at.weight("axes", range(len(at.shape(1)), len(at.shape(1)) + behind), np.int64)
    return [at.new("Unsqueeze", (node.inputs[1], axes), (wide,)), at.changed("axis", "broadcast", inputs=(node.inputs[0], wide))]


def _prelu(at: _Context) -> list[Node]:
    """Before opset 7 a slope of rank 1 belonged to the channels."""
    x, slope = at.shape(0), at.shape(1)
    if len(slope) != 1 or slope[0] == 1 or len(x) < 3:  # noqa: PLR2004  no axes behind the channels
        return [at.node]
    wide = at.value("slope")
    axes = at.weight("axes", range(1, len(x) - 1), np.int64)
    return [at.new("Unsqueeze", (at.node.inputs[1], axes), (wide,)), at.changed(inputs=(at.node.inputs[0], wide))]


def _batch_norm(at: _Context) -> list[Node]:
    """Runtimes always ran these as inference; statistics of each element (spatial=0) become arithmetic."""
    node = at.node
    if any(v in at.read for v in node.outputs[1:]):
        raise at.unsupported("its statistics are read, as only training does")
    node = replace(at.changed("is_test", "spatial", "consumed_inputs", "momentum"), outputs=node.outputs[:1])
    if at.attr("spatial", 1) or len(at.shape(1)) == 1:
        return [node]
    x, scale, bias, mean, var = node.inputs
    centered, wide, root, unit, scaled = (at.value(n) for n in ("centered", "wide", "root", "unit", "scaled"))
    epsilon = at.weight("epsilon", at.attr("epsilon", 1e-5), at.dtype(0))
    return [at.new("Sub", (x, mean), (centered,)), at.new("Add", (var, epsilon), (wide,)), at.new("Sqrt", (wide,), (root,)),
            at.new("Div", (centered, root), (unit,)), at.new("Mul", (unit, scale), (scaled,)), at.new("Add", (scaled, bias), node.outputs)]


def _cast(at: _Context) -> list[Node]:
    """The type was a name once."""
    long = {"FLOAT": "f32", "DOUBLE": "f64", "FLOAT16": "f16", "STRING": "string", "BOOL": "bool"}
    name = str(at.attr("to")).upper()
    short = long.get(name) or name.replace("UINT", "u").replace("INT", "i").lower()
    if short not in CODES:
        raise at.unsupported(f"it casts to {name!r}")
    return [at.changed(to=CODES[short])]


def _clip(at: _Context) -> list[Node]:
    bounds = [None if k not in at.node.attrs else at.weight(k, at.attr(k), at.dtype(0)) for k in ("min", "max")]
    while bounds and bounds[-1] is None:
        bounds.pop()
    return [at.changed("min", "max", inputs=(*at.node.inputs, *bounds))]


def _dropout(at: _Context) -> list[Node]:
    """Always inference; the mask had the type of the data before opset 10."""
    node = at.changed("ratio", "is_test", "consumed_inputs")
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if mask is None or mask not in at.read or at.version >= 10:  # noqa: PLR2004  the opset in which the mask became bool
        return [node if mask is None or mask in at.read else replace(node, outputs=node.outputs[:1])]
    bools = at.value("mask")
    return [replace(node, outputs=(node.outputs[0], bools)), at.new("Cast", (bools,), (mask,), to=CODES["bool"])]


def _flat_softmax(at: _Context) -> list[Node]:
    """Before opset 13 all axes from `axis` on were one."""
    axis, kind = at.attr("axis", 1), at.node.inputs[0].type if at.node.inputs[0] is not None else None
    if isinstance(kind, Tensor) and kind.shape is not None:
        axis += len(kind.shape) if axis < 0 else 0
        wide = [i for i in range(axis, len(kind.shape)) if kind.shape[i] != 1]
        if len(wide) <= 1:
            return [at.changed(axis=wide[0] if wide else max(len(kind.shape) - 1, 0))]
    flat, soft, shape = at.value("flat"), at.value("soft"), at.value("shape")
    return [at.new("Flatten", at.node.inputs, (flat,), axis=axis), replace(at.changed(axis=1), inputs=(flat,), outputs=(soft,)),
            at.new("Shape", at.node.inputs, (shape,)), at.new("Reshape", (soft, shape), at.node.outputs, allowzero=1)]


def _dft(at: _Context) -> list[Node]:
    data, *length = at.node.inputs
    return [at.changed("axis", inputs=(data, length[0] if length else None, at.weight("axis", at.attr("axis", 1), np.int64)))]


def _grid_sample(at: _Context) -> list[Node]:
    mode = at.attr("mode", "bilinear")
    return [at.changed(mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))]


def _group_norm(at: _Context) -> list[Node]:
    """Before opset 21 there was one scale and one bias for each group."""
    x, scale, bias = at.node.inputs
    groups, channels = at.attr("num_groups"), at.shape(0)[1]
    if not isinstance(channels, int):
        raise at.unsupported("the number of its channels is not known")
    nodes, operands = [], []
    axis, wide = at.weight("axis", [1], np.int64), at.weight("wide", [groups, channels // groups], np.int64)
    flat = at.weight("flat", [channels], np.int64)
    for what, value in (("scale", scale), ("bias", bias)):
        column, spread, made = (at.value(f"{what}.{n}") for n in ("column", "spread", "channels"))
        nodes += [at.new("Unsqueeze", (value, axis), (column,)), at.new("Expand", (column, wide), (spread,)),
                  at.new("Reshape", (spread, flat), (made,))]
        operands.append(made)
    return [*nodes, at.changed(inputs=(x, *operands))]


def _integer_p(at: _Context) -> list[Node]:
    p = float(at.attr("p", 2.0))
    if not p.is_integer():
        raise at.unsupported(f"its norm has the order {p}")
    return [at.changed(p=int(p))]


def _pad(at: _Context) -> list[Node]:
    pads = at.weight("pads", at.attr("pads", at.attr("paddings")), np.int64)
    fill = at.weight("fill", at.attr("value", 0.0), at.dtype(0))
    return [at.changed("pads", "paddings", "value", inputs=(at.node.inputs[0], pads, fill))]


def _resize_10(at: _Context) -> list[Node]:
    """Opset 10 scaled from the corner; nearest took the pixel to the left when enlarging, to the right when reducing."""
    x, scales = at.node.inputs[:2]
    if at.attr("mode", "nearest") != "nearest":
        return [at.changed(op="Resize", inputs=(x, None, scales), coordinate_transformation_mode="asymmetric")]
    factors = at.inference.array(scales)
    made = at.changed(op="Resize", inputs=(x, None, scales), coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    if factors is None or (factors >= 1).all():
        return [made]
    down, between = at.weight("down", np.minimum(factors, 1), np.float32), at.value("smaller")
    reduce = replace(made, inputs=(x, None, down), attrs=MappingProxyType({**made.attrs, "nearest_mode": "ceil"}))
    if (factors <= 1).all():
        return [reduce]
    up = at.weight("up", np.maximum(factors, 1), np.float32)
    return [replace(reduce, outputs=(between,)), replace(made, inputs=(between, None, up))]


def _resize(at: _Context) -> list[Node]:
    """Since opset 13 empty tensors are absent inputs, and TensorFlow's old nearest rule is gone."""
    inputs = [None if i in (1, 2) and v is not None and isinstance(v.type, Tensor) and v.type.shape == (0,) else v
              for i, v in enumerate(at.node.inputs)]
    if at.attr("coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return [at.changed(inputs=inputs)]
    if at.attr("mode", "nearest") != "nearest" or at.attr("nearest_mode", "round_prefer_floor") != "floor":
        raise at.unsupported("tf_half_pixel_for_nn without nearest_mode=floor")
    return [at.changed(inputs=inputs, coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil")]


def _upsample(at: _Context) -> list[Node]:
    node = at.node
    scales: Any = at.attr("scales")
    if scales is None and "height_scale" in node.attrs:
        scales = [1, 1, at.attr("height_scale"), at.attr("width_scale")]
    given = node.inputs[1] if scales is None else at.weight("scales", scales, np.float32)
    mode = {"bilinear": "linear"}.get(at.attr("mode", "nearest"), at.attr("mode", "nearest"))
    nearest = {"nearest_mode": "floor"} if mode == "nearest" else {}
    corner = {"mode": mode, "coordinate_transformation_mode": "asymmetric", **nearest}
    return [at.new("Resize", (node.inputs[0], None, given), node.outputs, **corner)]


def _slice(at: _Context) -> list[Node]:
    given = [at.weight(k, at.attr(k), np.int64) for k in ("starts", "ends", "axes") if k in at.node.attrs]
    return [at.changed("starts", "ends", "axes", inputs=(*at.node.inputs, *given))]


def _split(at: _Context) -> list[Node]:
    """Equal parts must be counted since opset 18."""
    return [at.node if at.node.input(1) is not None else at.changed(num_outputs=len(at.node.outputs))]


def _recurrent(at: _Context) -> list[Node]:
    """Before opset 7 the whole sequence came out only on request."""
    blank = not at.attr("output_sequence", 0) and at.node.outputs and at.node.outputs[0] not in at.read
    outputs = (Value(""), *at.node.outputs[1:]) if blank else at.node.outputs
    return [replace(at.changed("output_sequence"), outputs=outputs)]


def _tile(at: _Context) -> list[Node]:
    repeats = [1] * len(at.shape(0))
    repeats[int(at.array(2).item())] = int(at.array(1).item())
    return [at.changed(inputs=(at.node.inputs[0], at.weight("repeats", repeats, np.int64)))]


def _top_k(at: _Context) -> list[Node]:
    return [at.changed("k", inputs=(*at.node.inputs, at.weight("k", [at.attr("k")], np.int64)))]


def _scan(at: _Context) -> list[Node]:
    """Opset 8 scanned each element of a batch: that is a scan over the batch of scans over the sequence."""
    lengths, *operands = at.node.inputs
    body: Graph = at.attr("body")
    if len(at.node.inputs) == len(body.inputs):  # the inner one, which this step has made
        return [at.node]
    if lengths is not None:
        raise at.unsupported("it has sequence lengths")
    scanned = at.attr("num_scan_inputs")
    inner_inputs = tuple(Value(f"{v.name}.item") for v in operands if v is not None)
    inner_outputs = tuple(Value(f"{v.name}.item") for v in at.node.outputs)
    directions = {"scan_input_directions": at.attr("directions")} if "directions" in at.node.attrs else {}
    inner = at.new("Scan", inner_inputs, inner_outputs, body=body, num_scan_inputs=scanned, **directions)
    batch = Graph(f"{body.name}.batch", inner_inputs, inner_outputs, (inner,))
    return [at.new("Scan", operands, at.node.outputs, body=batch, num_scan_inputs=len(operands))]


def _label_encoder(at: _Context) -> list[Node]:
    words = at.attr("classes_strings")
    numbers, rest = list(range(len(words))), ("classes_strings", "default_int64", "default_string")
    if at.dtype(0).hasobject:
        return [at.changed(*rest, keys_strings=words, values_int64s=numbers, default_int64=at.attr("default_int64", -1))]
    return [at.changed(*rest, keys_int64s=numbers, values_strings=words, default_string=at.attr("default_string", "_Unused"))]


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_IN_PLACE = ("Abs", "Ceil", "Elu", "Exp", "Floor", "HardSigmoid", "InstanceNormalization", "LeakyRelu", "Log", "Max", "Mean", "Min", "Neg",
             "Reciprocal", "Relu", "Sigmoid", "Sqrt", "Sum", "Tanh")
_STEPS: Mapping[str, tuple[tuple[int, _Step], ...]] = {
    **dict.fromkeys(_IN_PLACE, ((6, _drop("consumed_inputs")),)),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), ((6, _drop("consumed_inputs")), (7, _broadcast))),
    **dict.fromkeys(("And", "Or", "Xor", "Equal", "Greater", "Less", "Pow"), ((7, _broadcast),)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), ((13, _flat_softmax),)),
    **{f"Reduce{r}": ((18, _to_input("axes")),) for r in _REDUCTIONS},
    **dict.fromkeys(("GRU", "LSTM", "RNN"), ((7, _recurrent),)),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), ((2, _integer_p),)),
    "ReduceSum": ((13, _to_input("axes")),), "Squeeze": ((13, _to_input("axes")),), "Unsqueeze": ((13, _to_input("axes")),),
    "BatchNormalization": ((14, _batch_norm),), "Cast": ((6, _cast),), "Clip": ((6, _drop("consumed_inputs")), (11, _clip)),
    "Concat": ((4, _default(axis=1)),), "DFT": ((20, _dft),), "Dropout": ((12, _dropout),), "Gemm": ((7, _drop("broadcast")),),
    "GridSample": ((20, _grid_sample),), "GroupNormalization": ((21, _group_norm),),
    "MeanVarianceNormalization": ((OPSET, _default(axes=[0, 2, 3])),), "PRelu": ((6, _drop("consumed_inputs")), (7, _prelu)),
    "Pad": ((11, _pad),),
    "Reshape": ((5, _drop("consumed_inputs")), (5, _to_input("shape"))), "Resize": ((11, _resize_10), (13, _resize)),
    "RoiAlign": ((16, _default(coordinate_transformation_mode="output_half_pixel")),), "Scan": ((9, _scan),),
    "Scatter": ((OPSET, _renamed("ScatterElements")),), "Selu": ((6, _drop("consumed_inputs")), (6, _default(alpha=1.6732, gamma=1.0507))),
    "Slice": ((10, _slice),), "Split": ((2, _default(axis=0)), (13, _to_input("split")), (18, _split)), "Tile": ((6, _tile),),
    "TopK": ((10, _top_k),), "Upsample": ((OPSET, _upsample),),
    "SimplifiedLayerNormalization": ((OPSET, _renamed("RMSNormalization")),), "ai.onnx.ml.LabelEncoder": ((2, _label_encoder),),
}
