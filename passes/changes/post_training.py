"""Post-training quantization: a net in reals becomes one between DequantizeLinear and QuantizeLinear, fitted to samples.

Weights: i8 from -127 to 127 around zero, one scale for each output channel; `paired`, no two neighbors of one sign sum to more than 128.
Activations: i8 around any zero, from the smallest to the largest value that was seen. What a layer makes on average is corrected by its
bias, which is i32 in units of the sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgec.ir.edit import Namer, attributes
from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value, captured
from edgec.ir.types import Tensor, dtype_name
from edgec.kernels.pairs import MOST
from passes.changes import pairs
from passes.changes.quantizable import LAYERS, SAME_SCALE, Plan, bias_behind, varying

Feeds = Sequence[Mapping[str, Any]]
_LOW, _HIGH, _STEPS = -128, 127, 255
_LARGEST = 2.0**30              # of a bias: what is above is left for the sums
_TINY = 1e-12


class Walk:
    """The values of a net for all samples, as far as they are still read, while its nodes are computed one after the other."""

    def __init__(self, graph: Graph, samples: Feeds) -> None:
        self.known: list[dict[Value, Any]] = [{**graph.weights} | {v: f[v.name] for v in graph.inputs} for f in samples]
        reads = ((n, (*n.inputs, *(c for _, body in n.bodies for c in captured(body)))) for n in graph.nodes)
        self.last = {v: n for n, values in reads for v in values if v is not None}

    def values(self, value: Value) -> list[Array]:
        """A value, sample by sample."""
        return [np.asarray(k[value]) for k in self.known]

    def go(self, node: Node) -> None:
        """Compute what a node makes, and forget what nobody reads any more."""
        done = [v for v in {*node.inputs} if v is not None and self.last.get(v) is node]
        for known in self.known:
            made = evaluate_node(node, [None if v is None else known[v] for v in node.inputs], known)
            known.update(zip(node.outputs, made, strict=False))
            for v in done:
                known.pop(v, None)


@dataclass
class Seen:
    """What samples showed: the ends of the range of values, the largest of each of their channels, and means of layers' results."""

    ranges: dict[Value, tuple[float, float]] = field(default_factory=dict)
    channels: dict[Value, Array] = field(default_factory=dict)
    means: dict[Value, Array] = field(default_factory=dict)


def observe(graph: Graph, samples: Feeds, ranges: set[Value], channels: set[Value], results: Mapping[Value, int]) -> Seen:
    """One walk over a net with all samples. `results` are those whose means are wanted, with the axis of their channels."""
    walk, seen = Walk(graph, samples), Seen()

    def look(value: Value) -> None:
        arrays = walk.values(value) if value in ranges or value in channels or value in results else []
        if value in ranges:
            seen.ranges[value] = float(min(a.min() for a in arrays)), float(max(a.max() for a in arrays))
        if value in channels:
            seen.channels[value] = np.max([np.abs(a).max((0, *range(2, a.ndim))) for a in arrays], axis=0)
        if value in results:
            seen.means[value] = _mean(arrays, results[value])

    for value in graph.inputs:
        look(value)
    for node in graph.nodes:
        walk.go(node)
        for value in node.outputs:
            look(value)
    return seen


def _mean(arrays: Sequence[Array], axis: int) -> Array:
    """The mean of each channel."""
    each = [a.astype(np.float64).mean(tuple(i for i in range(a.ndim) if i != axis % a.ndim)) for a in arrays]
    return np.asarray(np.mean(each, axis=0))


@dataclass(frozen=True)
class Scale:
    """How bytes stand for the reals of a tensor."""

    scale: np.float32
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> "Scale":
        """The scale of a range, in which zero always lies, and is exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = np.float32(max((high - low) / _STEPS, _TINY))
        return cls(step, int(np.clip(np.rint(_LOW - low / float(step)), _LOW, _HIGH)))


def scales(graph: Graph, made: Plan, ranges: Mapping[Value, tuple[float, float]]) -> dict[Value, Scale]:
    """The scale of each stored value; what a move makes has that of what it reads, and so have the parts of what is joined."""
    root = {v: v for v in made.stored}

    def find(value: Value) -> Value:
        while root[value] is not value:
            value = root[value]
        return value

    for node in graph.nodes:
        if node not in made.nodes:
            continue
        if node.op in SAME_SCALE and node.inputs[0] in root and node.output in root:
            root[find(node.output)] = find(node.inputs[0])
        elif node.op == "Concat":
            for v in varying(graph, node):
                if v in root and node.output in root and graph.uses(v) == 1:
                    root[find(v)] = find(node.output)
    ends = dict[Value, tuple[float, float]]()
    for v in made.stored:
        low, high = ends.get(find(v), (0.0, 0.0))
        ends[find(v)] = min(low, ranges[v][0]), max(high, ranges[v][1])
    return {v: Scale.of(*ends[find(v)]) for v in made.stored}


class Insertion:
    """A graph on its way to quantized form; `paired`: no pair of neighboring weights may saturate 16 bits (`pairs.py`)."""

    def __init__(self, graph: Graph, made: Plan, known: Mapping[Value, Scale], *, paired: bool = False) -> None:
        self.graph, self.plan, self.scales, self.name, self.paired = graph, made, known, Namer(graph), paired
        self.weights: dict[Value, Array] = dict(graph.weights)
        self.nodes: list[Node] = []
        self.bytes: dict[Value, tuple[Value, Value, Value]] = {}
        """For each value that is stored: its bytes, their scale and zero."""
        self._known: dict[Node, tuple[Array, int]] = {}                # scales of weights, which layer and bias ask for
        self.biases: dict[Value, Node] = {}
        """For each layer's result, its bias included: the DequantizeLinear of that bias."""

    def run(self) -> Graph:
        """The quantized graph."""
        for value in self.graph.inputs:
            self._store(value, value)
        for node in self.graph.nodes:
            self._node(node)
        return Graph(self.graph.name, self.graph.inputs, self.graph.outputs, tuple(self.nodes), self.weights, self.graph.bounds)

    def _weight(self, base: str, array: Array) -> Value:
        value = Value(self.name(base), Tensor(dtype_name(array.dtype), array.shape))
        self.weights[value] = array
        return value

    def _add(self, op: str, inputs: Sequence[Value | None], output: Value, like: Node | None, **attrs: Any) -> Value:
        device, origin = (like.device, like.origin) if like is not None else (None, "")
        self.nodes.append(Node(op, tuple(inputs), (output,), attributes(**attrs), device, origin))
        return output

    def _params(self, value: Value, scale: Scale) -> tuple[Value, Value]:
        return (self._weight(f"{value.name}.scale", np.array(scale.scale, np.float32)),
                self._weight(f"{value.name}.zero", np.array(scale.zero, np.int8)))

    def _store(self, value: Value, real: Value, like: Node | None = None) -> None:
        """Put a QuantizeLinear behind a value that is stored as bytes; `real` holds its numbers."""
        if value not in self.scales:
            return
        stored = Value(self.name(f"{value.name}.bytes"), Tensor("i8", value.tensor.shape))
        scale, zero = self._params(value, self.scales[value])
        self.bytes[value] = self._add("QuantizeLinear", (real, scale, zero), stored, like), scale, zero

    def _real(self, value: Value, like: Node, into: Value | None = None) -> Value:
        """The reals of stored bytes, for one reader."""
        return self._add("DequantizeLinear", self.bytes[value], into or Value(self.name(f"{value.name}.real"), value.type), like)

    def _node(self, old: Node) -> None:
        quantized = old in self.plan.nodes
        inputs = list(old.inputs)
        for i, v in enumerate(old.inputs):
            maker = self.graph.producer.get(v) if v is not None else None
            if v is not None and v in self.bytes and (quantized or (maker is not None and maker in self.plan.nodes)):
                inputs[i] = self._real(v, old)
        if quantized and old.op in LAYERS:
            inputs[1:] = self._layer(old)
        elif quantized and old.op == "Add" and (product := self._product(old)) is not None:
            at = 1 - next(i for i, v in enumerate(old.inputs) if v is product.output)
            inputs[at] = self._bias(old.inputs[at], product, old.output)
        outputs = list(old.outputs)
        named = quantized and old.output in self.scales and old.output in self.graph.outputs
        if named:
            outputs[0] = Value(self.name(f"{old.output.name}.raw"), old.output.type)
        self.nodes.append(Node(old.op, tuple(inputs), tuple(outputs), old.attrs, old.device, old.origin))
        for value, real in zip(old.outputs, outputs, strict=True):
            self._store(value, real, old)
        if named:
            self._real(old.output, old, old.output)

    def _product(self, add: Node) -> Node | None:
        makers = [self.graph.producer.get(v) for v in add.inputs if v is not None]
        return next((m for m in makers if m is not None and m in self.plan.nodes and bias_behind(self.graph, m) is add), None)

    def _layer(self, node: Node) -> list[Value | None]:
        """The weight and the bias of a layer, stored as integers."""
        w, bias = node.inputs[1], node.input(2)
        if w is None:
            return []
        step, axis = self._steps(node)
        array = self.weights[w]
        column = [1] * array.ndim
        column[axis] = -1
        exact = array / step.reshape(column)
        whole = np.clip(np.rint(exact), -_HIGH, _HIGH).astype(np.int8)
        if self.paired:
            whole = pairs.mended(node, whole, exact)
        stored, scale = self._weight(f"{w.name}.bytes", whole), self._weight(f"{w.name}.scale", step)
        zero = self._weight(f"{w.name}.zero", np.zeros(step.shape, np.int8))
        real = Value(self.name(f"{w.name}.real"), w.type)
        made: list[Value | None] = [self._add("DequantizeLinear", (stored, scale, zero), real, node, axis=axis)]
        if node.op != "MatMul" and (bias is not None or node.op == "Conv"):
            made.append(self._bias(bias, node, node.output))
        return made

    def _steps(self, node: Node) -> tuple[Array, int]:
        """The scales of a weight, for each output channel, and their axis; large enough for its bias to fit into the sums."""
        if node not in self._known:
            self._known[node] = self._new_steps(node)
        return self._known[node]

    def _new_steps(self, node: Node) -> tuple[Array, int]:
        w = node.inputs[1]
        array = np.zeros(0) if w is None else self.graph.weights[w].astype(np.float64)
        axis = 0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1
        most = np.abs(array).max(tuple(a for a in range(array.ndim) if a != axis))
        bias = self.graph.weights.get(b) if (b := node.input(2)) is not None else None
        least = np.full(most.shape, most.max() * _TINY)
        if bias is not None:
            least = np.maximum(least, np.abs(bias.reshape(-1)) / (_LARGEST * float(self._input_scale(node))))
        if self.paired:
            least = np.maximum(least, pairs.largest(node, array) / MOST)
        return np.maximum(most / _HIGH, least).astype(np.float32), axis

    def _input_scale(self, node: Node) -> np.float32:
        return self.scales[node.inputs[0]].scale if node.inputs[0] is not None else np.float32(1)

    def _bias(self, bias: Value | None, layer: Node, result: Value) -> Value:
        """A bias in units of the sums of a layer; zeros where it has none, for what corrects it."""
        step, _ = self._steps(layer)
        scale = np.asarray(self._input_scale(layer) * step, np.float32)
        array = np.zeros(scale.shape) if bias is None else self.graph.weights[bias].reshape(-1).astype(np.float64)
        whole = np.clip(np.rint(array / scale), -_LARGEST, _LARGEST).astype(np.int32)
        base = bias.name if bias is not None else f"{layer.output.name}.bias"
        stored, by = self._weight(f"{base}.whole", whole), self._weight(f"{base}.scale", scale)
        made = self._add("DequantizeLinear", (stored, by), Value(self.name(f"{base}.real"), Tensor("f32", scale.shape)), layer, axis=0)
        self.biases[result] = self.nodes[-1]
        return made


def corrected(graph: Graph, samples: Feeds, biases: Mapping[Value, Node], means: Mapping[Value, Array],
              results: Mapping[Value, int]) -> Graph:
    """The graph whose layers make, on average, what they made before they were quantized, layer after layer."""
    walk, weights = Walk(graph, samples), dict(graph.weights)
    names = {v.name: v for v in biases}
    for node in graph.nodes:
        found = next((names[v.name] for v in node.outputs if v.name in names), None)
        walk.go(node)
        if found is None:
            continue
        border = biases[found]
        stored, by = border.inputs[:2]
        if stored is None or by is None:
            continue
        scale = graph.weights[by].astype(np.float64)
        change = np.rint((means[found] - _mean(walk.values(node.output), results[found])) / scale)
        fits = np.abs(weights[stored] + change) <= 2 * _LARGEST - 1
        weights[stored] = (weights[stored] + np.where(fits, change, 0)).astype(np.int32)
        column = [1] * len(node.output.dims)
        column[results[found]] = -1
        added = (np.where(fits, change, 0) * scale).astype(np.float32).reshape(column)
        for known in walk.known:
            known[node.output] = np.asarray(known[node.output] + added, np.float32)
    return Graph(graph.name, graph.inputs, graph.outputs, graph.nodes, weights, graph.bounds)
