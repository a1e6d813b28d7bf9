"""A graph of TFLite's operators in the making, images channels last: what edgec/peers/tflite.py writes into."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from edgec.ir.edit import attributes
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor, dtype_name
from edgec.peers.channels_last import Order, Placed, channels_last, moved, plain

_TYPES = ("f32", "i32", "i64")
_FUSING = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "MaxPool", "AveragePool"}
"""Operators that an activation behind them goes into."""
_POSITIVE = {"Relu", "Sigmoid", "Softmax", "Exp", "HardSigmoid"}
_KEEPS_SIGN = {"MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Reshape", "Transpose", "LRN"}
IMAGE = 4   # axes of an image
SIX = 6.0


class NotInTflite(ValueError):
    """What keeps a node from being written."""


def limits(graph: Graph, node: Node) -> tuple[float, float] | None:
    """What an activation that only cuts off leaves; None for other nodes."""
    if node.op == "Relu":
        return 0.0, np.inf
    if node.op != "Clip":
        return None
    ends = [graph.weights.get(v) if v is not None else None for v in (node.input(1), node.input(2))]
    if any(v is not None and e is None for v, e in zip(node.inputs[1:], ends, strict=False)):
        return None
    low, high = (float(e) if e is not None else d for e, d in zip(ends, (-np.inf, np.inf), strict=True))
    return low, high


ACTIVATIONS = {(0.0, np.inf): "RELU", (0.0, SIX): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


class Maker:
    """Nodes in the making; `places` says how each value of the model lies."""

    def __init__(self, graph: Graph, writers: "Mapping[str, Callable[[Maker, Node], None]]") -> None:
        self.graph, self.writers = graph, writers
        self.nodes, self.weights, self.inputs = list[Node](), dict[Value, Array](), list[Value]()
        self.places = dict[Value, Placed]()
        self._moved = dict[tuple[Value, Order], Value]()
        self.skipped = set[Node]()
        for value in graph.inputs:
            self.inputs.append(Value(value.name, Tensor(known_dtype(value), value.dims)))
            self.places[value] = Placed(self.inputs[-1], plain(len(value.dims)))

    # what operators are made of

    def node(self, node: Node) -> None:
        """Write one node of the model; NotInTflite says why not."""
        if node in self.skipped:
            return
        write = self.writers.get(node.op)
        if write is None:
            raise NotInTflite("no operator means the same")
        for value in (*node.inputs, *node.outputs):
            if value is not None and value not in self.graph.weights:
                known_dtype(value)
        write(self, node)

    def forget(self, node: Node) -> None:
        """Let what follows a node that was refused be looked at, too."""
        for value in node.outputs:
            if isinstance(value.type, Tensor) and value.type.is_static:
                self.places[value] = Placed(Value(value.name, Tensor("f32", value.dims)), plain(len(value.dims)))

    def constant(self, array: Array, name: str = "") -> Value:
        """A new constant."""
        made = Value(name or f"constant{len(self.weights)}", Tensor(dtype_name(array.dtype), array.shape))
        self.weights[made] = np.ascontiguousarray(array)
        return made

    def known(self, value: Value | None, what: str) -> Array:
        """An operand that must be stored in the model."""
        array = self.graph.weights.get(value) if value is not None else None
        if array is None:
            raise NotInTflite(f"its {what} is computed")
        return array

    def emit(self, op: str, operands: Sequence[Value | None], dims: Sequence[int], dtype: str = "f32", **attrs: Any) -> Value:
        """Add an operator, whose result has `dims` in memory."""
        made = Value(f"t{len(self.nodes)}", Tensor(dtype, tuple(dims)))
        self.nodes.append(Node(f"tfl.{op}", tuple(operands), (made,), attributes(**attrs)))
        return made

    def at(self, value: Value, order: Order) -> Value:
        """A value of the model with its axes in an order."""
        if value in self.graph.weights:
            return self.constant(np.transpose(self.graph.weights[value], order), "")
        place = self.places[value]
        if place.order == order:
            return place.value
        key = place.value, order
        if key not in self._moved:
            dims, permutation = tuple(value.dims[a] for a in order), moved(value.dims, place.order, order)
            if permutation is None:
                self._moved[key] = self.shaped(place.value, dims)
            else:
                perm = self.constant(np.array(permutation, np.int32))
                self._moved[key] = self.emit("Transpose", [place.value, perm], dims, place.value.tensor.dtype)
        return self._moved[key]

    def shaped(self, value: Value, dims: Sequence[int]) -> Value:
        """The same elements in another shape."""
        if value.dims == tuple(dims):
            return value
        return self.emit("Reshape", [value, self.constant(np.array(dims, np.int32))], dims, value.tensor.dtype)

    def order(self, node: Node) -> Order:
        """How the largest computed operand of a result's rank lies."""
        rank = len(node.output.dims)
        found = [self.places[v] for v in node.inputs if v in self.places and len(v.dims) == rank]
        return max(found, key=lambda p: prod(p.value.dims)).order if found else plain(rank)

    def put(self, node: Node, made: Value, order: Order) -> None:
        """Say how the result of a node lies."""
        result = self._skips(node)
        self.places[result] = Placed(made, order)

    def _skips(self, node: Node) -> Value:
        """The result of a node, or of the activation that went into it."""
        after = self.behind(node)
        return after.output if after is not None and after in self.skipped else node.output

    def behind(self, node: Node) -> Node | None:
        """The only reader of a result that is nothing else."""
        readers = self.graph.consumers.get(node.output, ())
        return readers[0] if len(readers) == 1 and self.graph.uses(node.output) == 1 else None

    def activation(self, node: Node) -> str:
        """The activation that goes into a node, which is then written."""
        after = self.behind(node)
        ends = limits(self.graph, after) if after is not None and node.op in _FUSING else None
        name = ACTIVATIONS.get(ends, "NONE") if ends else "NONE"
        if name != "NONE" and after is not None:
            self.skipped.add(after)
        return name

    def named(self, value: Value) -> Value:
        """A result of the model, in the model's order."""
        return self.at(value, plain(len(value.dims)))

    def positive(self, value: Value) -> bool:
        """Whether nothing in a value is below zero, as far as its operators tell."""
        node = self.graph.producer.get(value)
        if node is None:
            return value in self.graph.weights and bool((self.graph.weights[value] >= 0).all())
        ends = limits(self.graph, node)
        if node.op in _POSITIVE or (ends is not None and ends[0] >= 0):
            return True
        return node.op in _KEEPS_SIGN and all(self.positive(v) for v in node.inputs[:None if node.op == "Concat" else 1] if v is not None)

    # windows

    def padded(self, x: Value, pads: Sequence[int], fill: float = 0.0) -> Value:
        """An image with pads around it: top, left, bottom, right."""
        if not any(pads):
            return x
        if min(pads) < 0:
            raise NotInTflite("its pads are negative")
        top, left, bottom, right = pads
        borders = self.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
        n, h, w, c = x.dims
        dims = (n, h + top + bottom, w + left + right, c)
        if fill == 0:
            return self.emit("Pad", [x, borders], dims)
        return self.emit("PadV2", [x, borders, self.constant(np.array([fill], np.float32))], dims)

    def window(self, node: Node, kernel: Sequence[int]) -> tuple[Value, list[int], dict[str, Any]]:
        """An image, the pads that TFLite cannot express, and the attributes of a window."""
        x = self.image(node)
        stride, dilation = node.attrs.get("strides", [1, 1]), node.attrs.get("dilations", [1, 1])
        pads = list(node.attrs.get("pads", [0, 0, 0, 0]))
        attrs = {"stride": tuple(stride), "dilation": tuple(dilation), "padding": "VALID"}
        if any(pads) and all(_same(*axis) for axis in zip(x.dims[1:3], kernel, stride, dilation, pads[:2], pads[2:], strict=True)):
            return x, [0, 0, 0, 0], {**attrs, "padding": "SAME"}
        return x, pads, attrs

    def image(self, node: Node) -> Value:
        """The first operand, an image whose channels are last."""
        value = node.inputs[0]
        if value is None or len(value.dims) != IMAGE:
            raise NotInTflite("its window has other axes than height and width")
        return self.at(value, channels_last(IMAGE))


def _same(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int) -> bool:
    """Whether pads along an axis are those of SAME."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return (begin, end) == (total // 2, total - total // 2)


def known_dtype(value: Value) -> str:
    """The dtype of a value that LiteRT can hold; NotInTflite for others."""
    kind = value.type
    if not isinstance(kind, Tensor) or not kind.is_static or kind.dtype not in _TYPES:
        what = kind.dtype if isinstance(kind, Tensor) and kind.is_static else "of unknown shape"
        raise NotInTflite(f"{value} is {what}, and values are to be {', '.join(_TYPES)} of known shape")
    return kind.dtype
