"""interface: inputs and outputs as callers have them, and the preprocessing of pixels in the weights of the first layers.

A model reads (x - mean) * scale; edgec/interface.py says what x is. Where only convolutions and products with stored weights read that,
through nothing but views and pads, the scale and the order of channels go into their weights, and the mean into their bias. A window that
is padded reads zeros that stand behind the subtraction, which no bias can say: there the mean is subtracted by the kernel that converts x.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgec import interface
from edgec.interface import TO_FIRST, TO_LAST, Outside
from edgec.ir.dims import Dim
from edgec.ir.edit import Namer, attributes, prune, rename, splice
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor, dtype_name
from edgec.pipeline import Context
from passes.changes.first_layers import Layer, layers

NAME = "fold-preprocessing"
_CODES = {"f32": 1, "i32": 6, "i64": 7, "f16": 10, "f64": 11, "bf16": 16}


def run(graph: Graph, context: Context) -> Graph:
    """The graph with the interface that the options ask for; the same object when they ask for nothing. UsageError for what cannot be."""
    asked = interface.read({k: str(v) for k, v in context.options.items()})
    if not asked:
        return graph
    asked.check(graph)
    edit = _Edit(graph, context)
    for value in graph.inputs:
        if value.name in asked.inputs:
            edit.input(value, asked.inputs[value.name])
    for value in dict.fromkeys(graph.outputs):
        if value.name in asked.outputs:
            edit.output(value, asked.outputs[value.name])
    return edit.done()


@dataclass
class _Edit:
    graph: Graph
    context: Context
    weights: dict[Value, Array] = field(default_factory=dict)
    instead: dict[Node, tuple[Node, ...]] = field(default_factory=dict)
    renamed: dict[Value, Value] = field(default_factory=dict)
    faces: dict[str, Value] = field(default_factory=dict)
    before: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = Namer(self.graph)

    def done(self) -> Graph:
        """The graph with all that was added."""
        inner = rename(splice(self.graph, self.instead, self.weights), self.renamed)
        inputs, outputs = (tuple(self.faces.get(old.name, old) for old in side) for side in (self.graph.inputs, self.graph.outputs))
        return prune(replace(inner, inputs=inputs, outputs=outputs, nodes=(*self.before, *inner.nodes, *self.after)))

    def output(self, value: Value, face: Outside) -> None:
        """Convert and turn what a node makes."""
        own, seen = value.tensor, face.tensor(value.tensor)
        steps: list[tuple[str, Tensor, dict[str, Any]]] = []
        if seen.dtype != own.dtype:
            steps.append(("Cast", replace(own, dtype=seen.dtype, quant=None), {"to": _CODES[seen.dtype]}))
        if face.layout == "NHWC":
            steps.append(("Transpose", seen, {"perm": list(TO_LAST)}))
        if not steps:
            return
        last = self.renamed[value] = Value(self.name(f"{value.name}.own"), own)
        self.faces[value.name] = out = Value(value.name, seen)
        for i, (op, kind, attrs) in enumerate(steps):
            made = out if i == len(steps) - 1 else Value(self.name(f"{value.name}.{op.lower()}"), kind)
            self.after.append(Node(op, (last,), (made,), attributes(**attrs), origin=value.name))
            last = made

    def input(self, value: Value, face: Outside) -> None:
        """Turn and convert what a caller gives, and do there what does not go into weights."""
        own, shape = value.tensor, value.tensor.shape or ()
        now = self.faces[value.name] = Value(value.name, face.tensor(own))
        left = self._fold(value, face)
        if face.layout == "NHWC":
            now = self._node(value, "Transpose", (now,), shape, now.tensor.dtype, perm=list(TO_FIRST))
        wide = "f32" if (left.mean or left.scale) and own.dtype != "f64" else own.dtype
        now = self._cast(value, now, wide)
        if left.swap_channels:
            bounds = [self._weight(f"{value.name}.{name}", np.array([n], np.int64)) for name, n in (
                ("start", -1), ("end", np.iinfo(np.int64).min), ("axis", interface.swap_axis(shape)), ("step", -1))]
            now = self._node(value, "Slice", (now, *bounds), shape, wide)
        for op, what, numbers in (("Sub", "mean", left.mean), ("Mul", "scale", left.scale)):
            if numbers:
                operand = _column(numbers, shape).astype(np.float64 if wide == "f64" else np.float32)
                now = self._node(value, op, (now, self._weight(f"{value.name}.{what}", operand)), shape, wide)
        self.renamed[value] = self._cast(value, now, own.dtype)

    def _fold(self, value: Value, face: Outside) -> Outside:
        """Fold what can be, and return what is left for nodes: in the caller's order of channels when that is folded."""
        left = replace(face, mean=face.mean if any(face.mean) else (), scale=face.scale if any(s != 1 for s in face.scale) else ())
        if not (left.mean or left.scale or left.swap_channels):
            return left
        found = self._layers(value)
        scales = [layer.numbers(_full(left.scale, value)) for layer in found] if left.scale and not isinstance(found, str) else []
        if any(s is None for s in scales):
            found = "a layer that reads it sums over several channels at a place"
        if isinstance(found, str):
            self.context.note(f"the input {value.name} is prepared by nodes of their own: {found}")
            return left
        orders = _orders(value, found) if left.swap_channels else []
        means, padded = [layer.numbers(_full(left.mean, value)) for layer in found] if left.mean else [], [x for x in found if x.is_padded]
        left = replace(left, scale=())
        if left.swap_channels:
            if any(o is None for o in orders):
                self.context.note(f"the channels of the input {value.name} are swapped by a node of its own: it does not go into weights")
                orders = []
            else:
                left = replace(left, swap_channels=False, mean=left.mean[::-1])
        if means and (padded or any(m is None for m in means)):
            reason = f"{padded[0].node.label} reads zeros beyond its edge" if padded else "it does not go into a bias"
            self.context.note(f"the mean of the input {value.name} is subtracted as it is converted: {reason}")
            means = []
        elif means:
            left = replace(left, mean=())
        for i, layer in enumerate(found):
            if scales or orders or means:
                self._apply(layer, *(numbers[i] if numbers else None for numbers in (scales, means, orders)))
        return left

    def _layers(self, value: Value) -> list[Layer] | str:
        if not value.tensor.is_static:
            return "its shape is open"
        found = layers(self.graph, value)
        return found if isinstance(found, str) or all(self.context.may(NAME, i) for i in range(len(found))) else f"{NAME} is not allowed"

    def _apply(self, layer: Layer, scale: Array | None, mean: Array | None, where: Array | None) -> None:
        """Give a layer its new weights."""
        node, bias = layer.node, layer.bias
        weight, gain = layer.folded(scale, mean, where)
        base = node.output.name
        inputs = (node.inputs[0], self._weight(f"{base}.weight", weight), *node.inputs[2:])
        if gain is not None and node.op != "MatMul":
            inputs = (*inputs[:2], self._weight(f"{base}.bias", gain if bias is None else (gain + bias).astype(bias.dtype)))
        new = replace(node, inputs=inputs)
        self.instead[node] = (new,)
        if gain is not None and node.op == "MatMul":
            product = Value(self.name(f"{base}.product"), node.output.type)
            summand = self._weight(f"{base}.bias", gain)
            self.instead[node] = (replace(new, outputs=(product,)), Node("Add", (product, summand), node.outputs, origin=node.origin))
        self.context.did(NAME, node)

    def _cast(self, value: Value, now: Value, dtype: str) -> Value:
        return now if now.tensor.dtype == dtype else self._node(value, "Cast", (now,), value.tensor.shape, dtype, to=_CODES[dtype])

    def _node(
        self, value: Value, op: str, inputs: tuple[Value, ...], shape: tuple[Dim | None, ...] | None, dtype: str, **attrs: Any,
    ) -> Value:
        out = Value(self.name(f"{value.name}.{op.lower()}"), Tensor(dtype, shape))
        self.before.append(Node(op, inputs, (out,), attributes(**attrs), origin=value.name))
        return out

    def _weight(self, name: str, array: Array) -> Value:
        made = Value(self.name(name), Tensor(dtype_name(array.dtype), array.shape))
        self.weights[made] = array
        return made


def _column(numbers: Sequence[float], shape: Sequence[Dim | None]) -> Array:
    return interface.column(numbers, len(shape), interface.channel_axis(shape, len(numbers)) or 0)


def _full(numbers: Sequence[float], value: Value) -> Array:
    return np.broadcast_to(_column(numbers, value.dims), value.dims)


def _orders(value: Value, found: Sequence[Layer]) -> list[Array | None]:
    places = np.arange(value.tensor.elements).reshape(value.dims)
    swapped = np.flip(places, interface.swap_axis(value.dims))
    return [layer.order(places, swapped) for layer in found]
