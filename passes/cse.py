"""cse: what is computed twice is computed once, and equal weights are stored once.

Two nodes are equal when operator, operands, attributes, device and types are. Nodes with bodies and nodes with random results are left
alone, and so is DequantizeLinear: each belongs to the operator behind it. A body may use what the graph around it has made before. Vectors
of zeros or ones are equal only until they are trained, and code must not change with the numbers in the weights: these stay apart.
"""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.ir.edit import prune, substitute
from edgec.ir.graph import REGIONS, Array, Graph, Node, Value
from edgec.ir.sweep import Sweep, sweep
from edgec.ir.types import dtype_name
from edgec.pipeline import Context

RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"})
TURNED = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"})
"""Operators whose operands may change places without a bit of the result changing."""
_PROBES = 16


def run(graph: Graph, context: Context) -> Graph:
    """The graph in which equal weights and equal nodes are one."""
    merged = prune(substitute(graph, _equal_weights(graph, context), keep_outputs=True))
    scopes: dict[Sweep, dict[Hashable, Node]] = {}

    def merge_equal_nodes(node: Node, edit: Sweep) -> Sequence[Value] | None:
        """An equal node that stands before this one, here or in a graph around."""
        key = _key(node)
        if key is None:
            return None
        scope: Sweep | None = edit
        while scope is not None:
            twin = scopes.get(scope, {}).get(key)
            if twin is not None:
                free = all(edit.may_forward(old, new) for old, new in zip(node.outputs, twin.outputs, strict=True))
                return twin.outputs if free else None
            scope = scope.outer
        scopes.setdefault(edit, {})[key] = node
        return None

    return sweep(merged, {"*": (merge_equal_nodes,)}, context)


def _key(node: Node) -> Hashable | None:
    """What two equal nodes share; None for nodes that equal nothing."""
    if node.op in RANDOM or node.op == "DequantizeLinear" or next(node.bodies, None) is not None:
        return None
    inputs = tuple(sorted(node.inputs, key=id)) if node.op in TURNED else node.inputs
    return node.op, inputs, tuple(sorted((k, _frozen(a)) for k, a in node.attrs.items())), node.device, tuple(v.type for v in node.outputs)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        return dtype_name(value.dtype), value.shape, _bytes(value)
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return type(value).__name__, repr(value)  # 1, 1.0 and True are three things; nan is one


def _equal_weights(graph: Graph, context: Context) -> Mapping[Value, Value]:
    """Each weight that repeats an earlier one, or one of a graph around, and that one."""
    scopes = list(_scopes(graph, ()))
    groups: dict[Hashable, list[tuple[tuple[Graph, ...], Value, Array]]] = {}
    for scope in scopes:
        for value, array in scope[-1].weights.items():
            if _is_blank(array):
                continue
            groups.setdefault((value.type, array.shape, _probe(array)), []).append((scope, value, array))
    instead: dict[Value, Value] = {}
    results = {v for scope in scopes for v in scope[-1].outputs}
    for group in groups.values():
        first: dict[bytes, list[tuple[tuple[Graph, ...], Value]]] = {}
        for scope, value, array in group if len(group) > 1 else ():
            twins = first.setdefault(hashlib.blake2b(_bytes(array), digest_size=16).digest(), [])
            twin = next((v for s, v in twins if scope[:len(s)] == s), None)  # it is seen from here
            readers = scope[-1].consumers.get(value, ())
            if twin is None or value in results or not readers or not context.may("merge-equal-weights"):
                twins.append((scope, value))
                continue
            context.did("merge-equal-weights", readers[0])
            instead[value] = twin
    return instead


def _scopes(graph: Graph, outer: tuple[Graph, ...]) -> Iterable[tuple[Graph, ...]]:
    """The graph and its bodies, each with those around it; a region sees nothing of what is around it."""
    yield (*outer, graph)
    for node in graph.nodes:
        for _, body in node.bodies:
            if node.op not in REGIONS:
                yield from _scopes(body, (*outer, graph))


def _is_blank(array: Array) -> bool:
    """Whether many reals are all one number."""
    flat = array.reshape(-1)
    return array.size > 1 and dtype_name(array.dtype) in {"f16", "bf16", "f32", "f64"} and bool((flat == flat[0]).all())


def _probe(array: Array) -> Hashable:
    """A few elements: most arrays are told apart by them."""
    flat = array.reshape(-1)
    return tuple(repr(v) for v in flat[::max(1, array.size // _PROBES)][:_PROBES + 1])


def _bytes(array: Array) -> bytes:
    return repr(array.reshape(-1).tolist()).encode() if array.dtype.kind in "OUST" else np.ascontiguousarray(array).tobytes()
