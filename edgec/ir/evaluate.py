"""What nodes mean, in numpy: ONNX's own reference implementation, with ours where that one is missing, wrong or slow."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from edgec.ir import operators
from edgec.ir.graph import REGIONS, Graph, Node, Value, captured
from edgec.ir.proto import VERSIONS, attribute_proto, node_proto
from edgec.ir.types import Tensor, numpy_dtype

Outer = Mapping[Value, Any]
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_NARROW = {"float16", "bfloat16"}
_MOVES = {"Cast", "CastLike", "BitCast", "QuantizeLinear", "DequantizeLinear", "Identity", "Reshape", "Transpose", "Concat", "Gather",
          "Slice", "Squeeze", "Unsqueeze", "Flatten", "Split", "Expand", "Tile", "Where", "Shape", "Size", "If", "Loop", "Scan",
          "edgec.Reorder", "GatherND", "GatherElements", "DepthToSpace", "SpaceToDepth", "Optional", "OptionalGetElement",
          "OptionalHasElement",
          "SequenceConstruct", "SequenceAt", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceLength", "SplitToSequence",
          "ConcatFromSequence", "SequenceMap", *REGIONS}


class CannotEvaluate(ValueError):
    """A node that has no meaning for these inputs, or none that is known; the message names the node."""


def is_pure(node: Node) -> bool:
    """Whether a node computes the same from the same inputs, and only from these."""
    return node.op not in _RANDOM and not any(True for _ in node.bodies) and not (node.op == "Dropout" and node.input(2) is not None)


def evaluate(graph: Graph, feeds: Mapping[str, Any], *, precise: bool = False) -> dict[str, Any]:
    """The results of a graph by name, from its inputs by name.

    `precise` computes in float64 whatever is f16, bf16 or f32. KeyError names an input that is not given; CannotEvaluate names a node.
    """
    results = run(graph, [feeds[v.name] for v in graph.inputs], precise=precise)
    return {v.name: r for v, r in zip(graph.outputs, results, strict=True)}


def run(graph: Graph, arguments: Sequence[Any], outer: Outer | None = None, *, precise: bool = False) -> list[Any]:
    """The results of a graph or a body in order; `outer` holds the values that a body captures."""
    known: dict[Value, Any] = dict(outer or {})
    known.update(zip(graph.inputs, (_widened(a) if precise else _plain(a) for a in arguments), strict=True))
    known.update((v, _widened(a) if precise else a) for v, a in graph.weights.items())
    last = {v: i for i, n in enumerate(graph.nodes) for v in n.inputs if v is not None}
    kept = {*graph.outputs, *(v for n in graph.nodes for _, b in n.bodies for v in captured(b))}
    for i, node in enumerate(graph.nodes):
        inputs = [None if v is None else known[v] for v in node.inputs]
        known.update(zip(node.outputs, evaluate_node(node, inputs, known, precise=precise), strict=False))
        for v in {v for v in node.inputs if v is not None and last[v] == i} - kept:
            known.pop(v, None)
    return [known[v] for v in graph.outputs]


def evaluate_node(node: Node, inputs: Sequence[Any], outer: Outer | None = None, *, precise: bool = False) -> list[Any]:
    """The results of one node: arrays, or lists and dicts for sequences and maps; None stands for an absent input.

    CannotEvaluate names the node when it is unknown or its inputs do not fit. `outer` holds what its bodies capture.
    """
    try:
        if node.op in _BODIES:
            return _BODIES[node.op](node, inputs, outer or {}, precise=precise)
        given, narrow = _prepared(node, inputs)
        own = operators.OWN.get(node.op)
        made = own(node, given) if own else _reference(node, given)
    except CannotEvaluate:
        raise
    except Exception as problem:
        raise CannotEvaluate(f"{node.label} cannot be computed: {problem}") from problem
    made = [_as_declared(m, v, narrow) for m, v in zip(made, node.outputs, strict=False)]
    return [_widened(m) if node.op != "BitCast" else m for m in made] if precise else made


def _prepared(node: Node, inputs: Sequence[Any]) -> tuple[list[Any], np.dtype[Any] | None]:
    """The inputs as they are computed with: 16-bit floats in float32; and the narrow dtype, if there was one."""
    if node.op in _MOVES:
        return list(inputs), None
    narrow = next((a.dtype for a in inputs if isinstance(a, np.ndarray) and a.dtype.name in _NARROW), None)
    if narrow is None:
        return list(inputs), None
    return [a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype.name in _NARROW else a for a in inputs], narrow


def _as_declared(made: Any, value: Value, narrow: np.dtype[Any] | None) -> Any:
    """The result in the dtype that the node promises: rounded back to 16 bits, and text as objects."""
    made = _plain(made)
    if narrow is not None and isinstance(made, np.ndarray) and made.dtype.kind == "f":
        declared = numpy_dtype(value.type.dtype) if isinstance(value.type, Tensor) else narrow
        return made.astype(declared)
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return array.astype(object) if array.dtype.kind in "UST" else array
    return value


def _widened(value: Any) -> Any:
    value = _plain(value)
    if isinstance(value, np.ndarray) and (value.dtype == np.float32 or value.dtype.name in _NARROW):
        return value.astype(np.float64)
    return [_widened(v) for v in value] if isinstance(value, list) else value


def _reference(node: Node, inputs: Sequence[Any]) -> list[Any]:
    names = [f"i{i}" if v is not None and a is not None else "" for i, (v, a) in enumerate(zip(node.inputs, inputs, strict=True))]
    proto = node_proto(node, names, [f"o{i}" if v.name else "" for i, v in enumerate(node.outputs)])
    if node.op in _RANDOM and "seed" not in node.attrs:
        proto.attribute.append(attribute_proto("seed", 0.0))  # the same numbers on every run
    session = _session(proto.SerializeToString())
    with np.errstate(all="ignore"):
        made = iter(session.run(None, {n: a for n, a in zip(names, inputs, strict=True) if n}))
    return [next(made) if v.name else None for v in node.outputs]


@lru_cache(4096)
def _session(node: bytes) -> ReferenceEvaluator:
    proto = onnx.NodeProto.FromString(node)
    domain = proto.domain
    graph = onnx.helper.make_graph(
        [proto], "one", [onnx.helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(proto.input) if n],
        [onnx.helper.make_empty_tensor_value_info(n) for n in proto.output if n])
    opsets = [onnx.helper.make_opsetid(d, VERSIONS.get(d, 1)) for d in {"", domain}]
    return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets))


def _if(node: Node, inputs: Sequence[Any], outer: Outer, *, precise: bool) -> list[Any]:
    return run(node.attrs["then_branch" if np.asarray(inputs[0]).item() else "else_branch"], [], outer, precise=precise)


def _loop(node: Node, inputs: Sequence[Any], outer: Outer, *, precise: bool) -> list[Any]:
    body: Graph = node.attrs["body"]
    limit = None if inputs[0] is None else int(np.asarray(inputs[0]).item())
    go = True if inputs[1] is None else bool(np.asarray(inputs[1]).item())
    state, count = list(inputs[2:]), 0
    stacked: list[list[Any]] = [[] for _ in body.outputs[1 + len(state):]]
    while go and (limit is None or count < limit):
        made = run(body, [np.array(count, np.int64), np.array(go), *state], outer, precise=precise)
        go, state = bool(np.asarray(made[0]).item()), made[1:1 + len(state)]
        for results, result in zip(stacked, made[1 + len(state):], strict=True):
            results.append(result)
        count += 1
    return [*state, *(_stack(r, v, 0) for r, v in zip(stacked, body.outputs[1 + len(state):], strict=True))]


def _stack(results: Sequence[Any], value: Value, axis: int) -> Any:
    """The results of all rounds side by side; with no round at all an empty array of the declared type."""
    if results:
        return np.stack(results, axis)
    shape = value.type.shape if isinstance(value.type, Tensor) else None
    dtype = numpy_dtype(value.type.dtype) if isinstance(value.type, Tensor) else np.dtype(np.float32)
    return np.zeros((0, *(d if isinstance(d, int) else 0 for d in shape or ())), dtype)


def _scan(node: Node, inputs: Sequence[Any], outer: Outer, *, precise: bool) -> list[Any]:
    body: Graph = node.attrs["body"]
    scanned = node.attrs["num_scan_inputs"]
    states = len(inputs) - scanned
    stacks = len(body.outputs) - states
    in_axes, in_back = node.attrs.get("scan_input_axes", [0] * scanned), node.attrs.get("scan_input_directions", [0] * scanned)
    out_axes, out_back = node.attrs.get("scan_output_axes", [0] * stacks), node.attrs.get("scan_output_directions", [0] * stacks)
    state, sources = list(inputs[:states]), [np.moveaxis(a, axis, 0) for a, axis in zip(inputs[states:], in_axes, strict=True)]
    stacked: list[list[Any]] = [[] for _ in range(stacks)]
    for i in range(len(sources[0])):
        made = run(body, [*state, *(s[-1 - i] if back else s[i] for s, back in zip(sources, in_back, strict=True))], outer, precise=precise)
        state = made[:states]
        for results, result in zip(stacked, made[states:], strict=True):
            results.append(result)
    ordered = [r[::-1] if back else r for r, back in zip(stacked, out_back, strict=True)]
    return [*state, *(_stack(r, v, axis) for r, v, axis in zip(ordered, body.outputs[states:], out_axes, strict=True))]


def _map(node: Node, inputs: Sequence[Any], outer: Outer, *, precise: bool) -> list[Any]:
    body: Graph = node.attrs["body"]
    rounds = [run(body, [a[i] if isinstance(a, list) else a for a in inputs], outer, precise=precise) for i in range(len(inputs[0]))]
    return [[r[i] for r in rounds] for i in range(len(body.outputs))]


def _flex_attention(node: Node, inputs: Sequence[Any], outer: Outer, *, precise: bool) -> list[Any]:
    """Attention whose scores and whose probabilities pass through a body each, when there is one."""
    q, k, v = inputs
    kind = np.float64 if precise or q.dtype == np.float64 else np.float32
    share = q.shape[1] // k.shape[1]
    scores = q.astype(kind) @ np.repeat(k, share, 1).astype(kind).swapaxes(-1, -2) * kind(node.attrs.get("scale", q.shape[-1] ** -0.5))
    if "score_mod" in node.attrs:
        (scores,) = run(node.attrs["score_mod"], [scores], outer, precise=precise)
    odds = np.exp(scores - scores.max(-1, keepdims=True))
    odds /= odds.sum(-1, keepdims=True)
    if "prob_mod" in node.attrs:
        (odds,) = run(node.attrs["prob_mod"], [odds], outer, precise=precise)
    return [(odds @ np.repeat(v, share, 1).astype(kind)).astype(q.dtype)]


def _region(node: Node, inputs: Sequence[Any], _: Outer, *, precise: bool) -> list[Any]:
    return run(node.attrs["body"], inputs, precise=precise)


_BODIES: Mapping[str, Callable[..., list[Any]]] = {
    "If": _if, "Loop": _loop, "Scan": _scan, "SequenceMap": _map, **dict.fromkeys(REGIONS, _region),
    "ai.onnx.preview.FlexAttention": _flex_attention}
