"""What runtimes that read no ONNX are fed: a model's graph as the portable passes leave it, its stored operands all in f32.

Operators that such runtimes have are left whole, which edgec itself would take apart, and what keeps weights small here is undone.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgec import access
from edgec.ir.edit import attributes, prune
from edgec.ir.evaluate import evaluate_node, is_pure
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.onnx import import_model
from edgec.peers.base import Shapes
from edgec.pipeline import Context, run_passes

_LEFT = frozenset({"local-response-norm", "scale-behind-sum", "cast-behind-gather"})
"""Rewrites that are for edgec's kernels alone."""


def prepared(model: Path | bytes, shapes: Shapes) -> Graph:
    """The graph of a model with all shapes known; the errors of edgec's importer."""
    known = access.module("passes.catalog")
    graph = import_model(model, shapes=shapes, static=True)
    return prune(_whole_means(_joined_slices(_folded(run_passes(graph, known.PORTABLE, known.CATALOG, Context(disabled=_LEFT))))))


def _folded(graph: Graph) -> Graph:
    """Compute everything whose operands are stored, though it may take more memory then."""
    weights, nodes = dict(graph.weights), list[Node]()
    for node in graph.nodes:
        if is_pure(node) and not any(node.bodies) and all(v is None or v in weights for v in node.inputs):
            made = evaluate_node(node, [None if v is None else weights[v] for v in node.inputs])
            weights |= {v: np.asarray(a) for v, a in zip(node.outputs, made, strict=True)}
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), weights=weights)


def _joined_slices(graph: Graph) -> Graph:
    """A Slice of a Slice along other axes is one; exporters write one for each axis."""
    weights, nodes, instead = dict(graph.weights), list[Node](), dict[Value, Node]()
    for node in graph.nodes:
        first = instead.get(node.inputs[0]) if node.op == "Slice" and node.inputs[0] is not None else None
        ours, theirs = ranges(graph, node), ranges(replace(graph, weights=weights), first) if first is not None else None
        if first is not None and ours and theirs and graph.uses(first.output) == 1 and not {*ours} & {*theirs}:
            both = {**theirs, **ours}
            rows = (*zip(*both.values(), strict=True),)
            named = {"starts": rows[0], "ends": rows[1], "axes": [*both], "steps": rows[2]}
            columns = {name: np.array(column, np.int64) for name, column in named.items()}
            made = [Value(f"{node.output.name}.{name}", Tensor("i64", a.shape)) for name, a in columns.items()]
            weights |= dict(zip(made, columns.values(), strict=True))
            node = replace(node, inputs=(first.inputs[0], *made))  # noqa: PLW2901  the node that is kept
        if node.op == "Slice":
            instead[node.output] = node
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), weights=weights)


def ranges(graph: Graph, node: Node | None) -> dict[int, tuple[int, int, int]] | None:
    """Start, end and step of each axis that a Slice cuts; None when they are not all written out."""
    if node is None or node.op != "Slice" or len(node.inputs) != 5 or any(v not in graph.weights for v in node.inputs[1:]):  # noqa: PLR2004
        return None
    starts, ends, axes, steps = (graph.weights[v].tolist() for v in node.inputs[1:] if v is not None)
    found = {int(a): (int(b), int(e), int(s)) for a, b, e, s in zip(axes, starts, ends, steps, strict=True)}
    dims = node.inputs[0].dims if node.inputs[0] is not None else ()
    return {a: r for a, r in found.items() if (r[0], r[2]) != (0, 1) or r[1] < dims[a]}


def _whole_means(graph: Graph) -> Graph:
    """An AveragePool that sees each pixel once, and only them, is a GlobalAveragePool, whatever its pads."""
    def changed(node: Node) -> Node:
        value, attrs = node.inputs[0] if node.inputs else None, node.attrs
        if node.op != "AveragePool" or value is None or any(d != 1 for d in node.output.dims[2:]):
            return node
        kernel, pads = attrs["kernel_shape"], attrs.get("pads") or [0] * (2 * len(attrs["kernel_shape"]))
        sees_all = all(k >= n + b for k, n, b in zip(kernel, value.dims[2:], pads, strict=False))
        if not sees_all or any(d != 1 for d in attrs.get("dilations") or [1]) or (attrs.get("count_include_pad", 0) and any(pads)):
            return node
        return replace(node, op="GlobalAveragePool", attrs=attributes())

    return replace(graph, nodes=tuple(map(changed, graph.nodes)))
