"""Types of all values of a graph, from its inputs on.

onnx's own inference is asked node by node; contents.py follows what is computed from shapes, shapes.py knows symbolic dims,
and bodies are inferred here, so that their nodes see the outer values' types.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from edgec.errors import BadInput, EdgecError
from edgec.ir import contents, types
from edgec.ir.contents import Contents
from edgec.ir.dims import Dim, Sym
from edgec.ir.graph import REGIONS, Array, Graph, Node, Value
from edgec.ir.proto import VERSIONS, node_proto, schema_of, tensor_proto, type_of, type_proto
from edgec.ir.quantized import lookup_type, sum_pool_type
from edgec.ir.shapes import Shape, broadcast, shapes
from edgec.ir.types import Tensor, Type, dtype_name

_SMALL = 256
"""onnx is told the elements of integer operands up to this size: shapes, axes, pads."""
_FLOATS_MATTER = {"Resize", "Range"}


def infer(graph: Graph) -> Graph:
    """The graph with the types of all its values; the same object when nothing new is known.

    What is declared stays where inference knows nothing. BadInput names a node whose inputs do not fit it.
    """
    return Inference().graph(graph)


def shape_values(graph: Graph) -> dict[Value, Any]:
    """The elements of the small tensors that are known before the model runs: a Dim, or nested tuples of Dims.

    The keys are values of this graph, which must have its types (see `infer`); float tensors and unknown elements are left out.
    """
    inference = Inference()
    if inference.graph(graph) is not graph:
        raise ValueError("shape_values wants a graph that infer() made")
    known = {v: inference.contents(v) for n in graph.nodes for v in n.outputs}
    return {v: _nested(k.tolist()) for v, k in known.items() if k is not None and all(isinstance(e, int | Sym) for e in k.flat)}


def _nested(element: Any) -> Any:
    return tuple(map(_nested, element)) if isinstance(element, list) else element


class Inference:
    """One sweep over a graph. `rewrite` may replace each node, whose inputs have their types by then, by others (opset upgrades)."""

    def __init__(self, rewrite: Callable[["Inference", Node], Iterable[Node]] | None = None) -> None:
        self._rewrite = rewrite
        self._now: dict[Value, Value] = {}
        self._known: dict[Value, Contents] = {}
        self._arrays: dict[Value, Array] = {}
        self._weights: list[dict[Value, Array]] = []
        self._branches = 0
        self._failures = 0

    def contents(self, value: Value | None) -> Contents:
        """What is known of the elements of a value that this sweep has made."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = contents.of_weight(self._arrays[value]) if value in self._arrays else None
        return self._known[value]

    def array(self, value: Value | None) -> Array | None:
        """The elements of a weight, or of a value whose elements are all known numbers."""
        if value is None or value in self._arrays:
            return None if value is None else self._arrays[value]
        known = self.contents(value)
        return contents.numbers(known, value.tensor.dtype) if known is not None else None

    def weight(self, name: str, array: Array) -> Value:
        """A new weight of the graph that is being made."""
        value = Value(name, Tensor(dtype_name(array.dtype), array.shape))
        self._weights[-1][value] = self._arrays[value] = array
        return value

    def now(self, value: Value) -> Value:
        """The value that stands for an old one."""
        return self._now.get(value, value)

    def graph(self, graph: Graph, inputs: Sequence[Type | None] | None = None, known: Mapping[int, Array] = MappingProxyType({})) -> Graph:
        """The graph with types; a body's inputs have the types and the elements that its node gives them."""
        for i, value in enumerate(graph.inputs):
            self._known[self._define(value, inputs[i] if inputs else None, exact=bool(inputs))] = known.get(i)
        weights: dict[Value, Array] = {}
        for value, array in graph.weights.items():
            new = self._define(value, Tensor(dtype_name(array.dtype), array.shape))
            weights[new] = self._arrays[new] = array
        self._weights.append(weights)
        nodes: list[Node] = []
        for old in graph.nodes:
            nodes += self._nodes(self._bound(old))
        self._weights.pop()
        same = len(nodes) == len(graph.nodes) and all(a is b for a, b in zip(nodes, graph.nodes, strict=True))
        if same and all(self.now(v) is v for v in (*graph.inputs, *graph.weights, *graph.outputs)) and len(weights) == len(graph.weights):
            return graph
        return replace(graph, inputs=tuple(map(self.now, graph.inputs)), outputs=tuple(map(self.now, graph.outputs)), nodes=tuple(nodes),
                       weights=weights)

    def branch(self, body: Graph) -> tuple[Graph, bool]:
        """A branch of an If with types, and whether it can run at all: one that is never taken may not fit the shapes of its inputs."""
        before, self._branches = self._failures, self._branches + 1
        made = self.graph(body)
        self._branches -= 1
        return made, self._failures == before

    def _define(self, value: Value, kind: Type | None, *, exact: bool = False) -> Value:
        merged = kind if exact and kind is not None else _merged(kind, value.type)
        new = value if merged == value.type else Value(value.name, merged)
        self._now[value] = new
        return new

    def _bound(self, node: Node) -> Node:
        inputs = tuple(v and self.now(v) for v in node.inputs)
        return node if inputs == node.inputs else replace(node, inputs=inputs)

    def _nodes(self, old: Node) -> list[Node]:
        """A node, or what stands for it, with the types of the results."""
        try:
            return [self._node(self._bound(node)) for node in (self._rewrite(self, old) if self._rewrite else (old,))]
        except EdgecError:
            raise
        except Exception as problem:  # a malformed node can break any rule, and must not break the program
            raise BadInput(f"{old.label} does not fit its inputs: {problem}") from problem

    def _node(self, node: Node) -> Node:
        """The node with the types of its results."""
        body = _BODIES.get(node.op)
        if body:
            node, kinds = body(self, node)
        else:
            kinds = list(self._kinds(node))
        outputs = tuple(self._define(v, k) for v, k in zip(node.outputs, kinds, strict=True))
        if outputs != node.outputs:
            node = replace(node, outputs=outputs)
        if not body:
            self._known.update(zip(outputs, self._elements(node), strict=True))
        return node

    def _elements(self, node: Node) -> list[Contents]:
        tensors = [v.type if isinstance(v.type, Tensor) else None for v in node.outputs]
        try:
            return contents.contents(node, [self.contents(v) for v in node.inputs], tensors)
        except (ValueError, IndexError):
            if not self._branches:
                raise
            self._failures += 1
            return [None] * len(tensors)

    def _kinds(self, node: Node) -> Sequence[Type | None]:
        if node.op in _OWN:
            return _OWN[node.op](node)
        schema = schema_of(node.op)
        if schema is None:
            return [None] * len(node.outputs)
        kinds = self._ask(node, schema)
        if all(isinstance(k, Tensor) and k.shape is not None and None not in k.shape for k in kinds):
            return kinds
        own = shapes(node, [self.contents(v) for v in node.inputs])
        return [replace(k, shape=_completed(k.shape, s)) if isinstance(k, Tensor) else k for k, s in zip(kinds, own, strict=True)]

    def _ask(self, node: Node, schema: onnx.defs.OpSchema) -> list[Type | None]:
        """What onnx says about a node's results."""
        names = [f"i{i}" if v is not None else "" for i, v in enumerate(node.inputs)]
        results = [f"o{i}" if v.name else "" for i, v in enumerate(node.outputs)]
        given = {n: type_proto(v.type) for n, v in zip(names, node.inputs, strict=True) if v is not None}
        data = {n: tensor_proto(a, n) for n, v in zip(names, node.inputs, strict=True) if (a := self._operand(node, v)) is not None}
        opsets = [onnx.helper.make_opsetid(d, n) for d, n in VERSIONS.items()]
        try:
            made = onnx.shape_inference.infer_node_outputs(schema, node_proto(node, names, results), given, data, opset_imports=opsets)
        except (InferenceError, ValidationError, RuntimeError) as problem:
            if self._branches:
                self._failures += 1
                return [None] * len(results)
            raise BadInput(f"{node.label} does not fit its inputs: {_reason(problem)}") from None
        return [type_of(made[n]) if n in made else None for n in results]

    def _operand(self, node: Node, value: Value | None) -> Array | None:
        """The elements that onnx may need to infer a shape."""
        if value is None or not isinstance(value.type, Tensor) or not value.type.is_static or value.type.elements > _SMALL:
            return None
        if value.type.dtype not in ("i64", "i32", "bool") and node.op not in _FLOATS_MATTER:
            return None
        known = self.contents(value)
        return contents.numbers(known, value.type.dtype) if known is not None else None


def _reason(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    text = lines[0] if lines else type(problem).__name__
    return text.rsplit("] ", 1)[-1].rstrip(".")


def _completed(a: Shape | None, b: Shape | None) -> Shape | None:
    """What either of two descriptions of one shape knows; the first wins."""
    if a is None or b is None or len(a) != len(b):
        return b if a is None else a
    return tuple(y if x is None else x for x, y in zip(a, b, strict=True))


def _merged(new: Type | None, old: Type | None) -> Type | None:
    """The newly inferred type, completed by what was declared."""
    if new is None or old is None:
        return old if new is None else new
    match new, old:
        case Tensor(), Tensor():
            shape = _completed(new.shape, old.shape) if new.dtype == old.dtype or new.shape is None else new.shape
            keep = old.shape is not None and shape is not None and len(shape) == len(old.shape)
            return replace(new, shape=shape, layout=old.layout if keep else None, quant=old.quant if keep else None)
        case types.Sequence(), types.Sequence():
            return types.Sequence(_merged(new.element, old.element) or new.element)
        case types.Optional(), types.Optional():
            return types.Optional(_merged(new.element, old.element) or new.element)
    return new


def _joined(a: Type | None, b: Type | None) -> Type | None:
    """What is true of a value that has either of two types."""
    match a, b:
        case Tensor(), Tensor():
            if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
                return Tensor(a.dtype, None)
            return Tensor(a.dtype, tuple(x if x == y else None for x, y in zip(a.shape, b.shape, strict=True)))
        case types.Sequence(), types.Sequence():
            return types.Sequence(_joined(a.element, b.element) or a.element)
        case types.Optional(), types.Optional():
            return types.Optional(_joined(a.element, b.element) or a.element)
    return a if a == b else None


def _with_body(node: Node, **bodies: Graph) -> Node:
    changed = {k: b for k, b in bodies.items() if node.attrs[k] is not b}
    return replace(node, attrs=MappingProxyType({**node.attrs, **changed})) if changed else node


def _if(inference: Inference, node: Node) -> tuple[Node, list[Type | None]]:
    condition = inference.array(node.inputs[0])
    (then, can_then), (other, can_other) = (inference.branch(node.attrs[k]) for k in ("then_branch", "else_branch"))
    node = _with_body(node, then_branch=then, else_branch=other)
    if condition is not None and condition.size == 1:
        return node, [v.type for v in (then if condition.item() else other).outputs]
    if can_then != can_other:
        return node, [v.type for v in (then if can_then else other).outputs]
    return node, [_joined(a.type, b.type) for a, b in zip(then.outputs, other.outputs, strict=True)]


def _loop(inference: Inference, node: Node) -> tuple[Node, list[Type | None]]:
    body: Graph = node.attrs["body"]
    state = [None if v is None else v.type for v in node.inputs[2:]]
    made = body
    for _ in range(_ROUNDS):  # a state whose shape changes from round to round is known by what stays the same
        made = inference.graph(body, [Tensor("i64", ()), Tensor("bool", ()), *state], {1: np.array(True, object)})  # noqa: FBT003  a body runs only while so
        joined = [_joined(a, v.type) for a, v in zip(state, made.outputs[1:], strict=False)]
        if joined == state:
            break
        state = joined
    steady = inference.contents(made.outputs[0])
    first = inference.contents(node.inputs[1])
    endless = steady is not None and steady.item() is True and (node.inputs[1] is None or (first is not None and first.item() is True))
    limit = inference.contents(node.inputs[0]) if endless else None
    rounds = limit.item() if limit is not None and limit.size == 1 else None
    return _with_body(node, body=made), [*state, *(_stacked(v.type, rounds, 0) for v in made.outputs[1 + len(state):])]


def _stacked(kind: Type | None, count: Dim | None, axis: int) -> Type | None:
    if not isinstance(kind, Tensor) or kind.shape is None:
        return replace(kind, shape=None) if isinstance(kind, Tensor) else None
    axis += len(kind.shape) + 1 if axis < 0 else 0
    return Tensor(kind.dtype, (*kind.shape[:axis], count, *kind.shape[axis:]))


def _scan(inference: Inference, node: Node) -> tuple[Node, list[Type | None]]:
    body, scanned = node.attrs["body"], node.attrs["num_scan_inputs"]
    state = [None if v is None else v.type for v in node.inputs[:len(node.inputs) - scanned]]
    slices: list[Type | None] = []
    count: Dim | None = None
    for v, axis in zip(node.inputs[len(state):], node.attrs.get("scan_input_axes", [0] * scanned), strict=True):
        kind = None if v is None else v.type
        if isinstance(kind, Tensor) and kind.shape is not None:
            at = axis % len(kind.shape)
            count = kind.shape[at] if count is None else count
            kind = Tensor(kind.dtype, (*kind.shape[:at], *kind.shape[at + 1:]))
        slices.append(kind)
    made = inference.graph(body, [*state, *slices])
    results = made.outputs[len(state):]
    axes = node.attrs.get("scan_output_axes", [0] * len(results))
    kinds = [_joined(a, v.type) for a, v in zip(state, made.outputs, strict=False)]
    return _with_body(node, body=made), [*kinds, *(_stacked(v.type, count, axis) for v, axis in zip(results, axes, strict=True))]


def _map(inference: Inference, node: Node) -> tuple[Node, list[Type | None]]:
    kinds = [v.type.element if v is not None and isinstance(v.type, types.Sequence) else None if v is None else v.type for v in node.inputs]
    made = inference.graph(node.attrs["body"], kinds)
    return _with_body(node, body=made), [v.type and types.Sequence(v.type) for v in made.outputs]


def _flex_attention(inference: Inference, node: Node) -> tuple[Node, list[Type | None]]:
    q, k, v = (i.type if i is not None else None for i in node.inputs)
    if not isinstance(q, Tensor) or not isinstance(k, Tensor) or not isinstance(v, Tensor) or not q.shape or not k.shape or not v.shape:
        return node, [None]
    scores = Tensor("f64" if q.dtype == "f64" else "f32", (*q.shape[:3], k.shape[2]))
    return _with_body(node, **{k: inference.graph(b, [scores]) for k, b in node.bodies}), [Tensor(q.dtype, (*q.shape[:3], v.shape[3]))]


def _region(inference: Inference, node: Node) -> tuple[Node, list[Type | None]]:
    body = node.attrs["body"]
    made = inference.graph(body, [None if v is None else _as_inside(v.type, b.type) for v, b in zip(node.inputs, body.inputs, strict=True)])
    return _with_body(node, body=made), [replace(v.type, quant=None) if isinstance(v.type, Tensor) else v.type for v in made.outputs]


def _as_inside(outer: Type | None, inner: Type | None) -> Type | None:
    """The type of an operand, on the scale that a region says of it."""
    return replace(outer, quant=inner.quant) if isinstance(outer, Tensor) and isinstance(inner, Tensor) else outer


_ROUNDS = 8
_BODIES: Mapping[str, Callable[[Inference, Node], tuple[Node, list[Type | None]]]] = {
    "If": _if, "Loop": _loop, "Scan": _scan, "SequenceMap": _map, **dict.fromkeys(REGIONS, _region),
    "ai.onnx.preview.FlexAttention": _flex_attention}


def _as_first(node: Node) -> list[Type | None]:
    kind = node.inputs[0].type if node.inputs[0] is not None else None
    plain = Tensor(kind.dtype, kind.shape) if isinstance(kind, Tensor) else kind
    return [plain, *[None] * (len(node.outputs) - 1)]


def _skip_norm(node: Node) -> list[Type | None]:
    (kind,) = _as_first(node)[:1]
    return [kind, None, None, kind][:len(node.outputs)]


def _fused_matmul(node: Node) -> list[Type | None]:
    a, b = (v.type if v is not None else None for v in node.inputs[:2])
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return [None]
    if a.shape is None or b.shape is None or min(len(a.shape), len(b.shape)) < 2:  # noqa: PLR2004  a matrix has two axes
        return [Tensor(a.dtype, None)]
    rows, columns = a.shape[-1 if node.attrs.get("transA", 0) else -2], b.shape[-2 if node.attrs.get("transB", 0) else -1]
    return [Tensor(a.dtype, (*broadcast(a.shape[:-2], b.shape[:-2]), rows, columns))]


_OWN: Mapping[str, Callable[[Node], list[Type | None]]] = {
    **dict.fromkeys(("com.microsoft.Gelu", "com.microsoft.FastGelu", "com.microsoft.BiasGelu", "com.microsoft.QuickGelu", "edgec.Reorder",
                     "edgec.MultiplyShift", "GroupNormalization", "MeanVarianceNormalization"), _as_first),
    "com.microsoft.SkipLayerNormalization": _skip_norm, "com.microsoft.SkipSimplifiedLayerNormalization": _skip_norm,
    "com.microsoft.FusedMatMul": _fused_matmul, "edgec.SumPool": sum_pool_type, "edgec.Lookup": lookup_type,
}
