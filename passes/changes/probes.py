"""What an error of a layer's results does to the outputs of a net, found by small changes of the results.

There are no gradients, so operators of any kind may follow.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from edgec.cost import node_macs
from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value, captured
from edgec.ir.types import Tensor

_STEP = 0.01        # of the spread of the results
_NOTHING = 1e-30


def worth(graph: Graph, node: Node, known: Sequence[Mapping[Value, Any]], work: float) -> Array | None:
    """The matrix [O,O] by which an error of a node's results counts at the outputs; None when finding it takes more than so much work.

    `known` holds, run by run, what is known once the node is computed. One channel of the results after the other is changed by a little,
    up or down at random in each place, so that errors of different places are taken for independent.
    """
    later = graph.nodes[graph.nodes.index(node) + 1:]
    reached, behind = {node.output}, list[Node]()
    for n in later:
        if not reached.isdisjoint({*(v for v in n.inputs if v is not None), *(v for _, body in n.bodies for v in captured(body))}):
            reached.update(n.outputs)
            behind.append(n)
    outputs = [v for v in graph.outputs if v in reached and isinstance(v.type, Tensor) and v.type.dtype == "f32"]
    axis = 1 if node.op == "Conv" else len(node.output.dims) - 1
    channels = node.output.dims[axis]
    runs = min(len(known), int(work / max(channels * sum(map(_work, behind)), 1)))
    if not runs or not outputs or not behind:                       # without nodes behind it, its results are the outputs
        return None
    draw, total = np.random.default_rng(0), np.zeros((channels, channels))
    results = [_run(later, values) for values in known[:runs]]
    spread = [max(float(np.var(np.concatenate([r[v].reshape(-1) for r in results]))), _NOTHING) for v in outputs]
    step = _STEP * max(float(np.std(np.concatenate([values[node.output].reshape(-1) for values in known[:runs]]))), _NOTHING)
    for values, base in zip(known, results, strict=False):
        made = values[node.output]
        signs = draw.choice([-step, step], [1 if a == axis else d for a, d in enumerate(made.shape)]).astype(np.float32)
        moved = []
        for c in range(channels):
            changed = made.copy()
            place = tuple(slice(c, c + 1) if a == axis else slice(None) for a in range(made.ndim))
            changed[place] += signs
            after = _run(behind, {**base, node.output: changed})
            moved.append(np.concatenate([(after[v] - base[v]).reshape(-1) / np.sqrt(s) for v, s in zip(outputs, spread, strict=True)]))
        each = np.asarray(moved, np.float64) / step
        total += each @ each.T
    return total


def _run(nodes: Sequence[Node], known: Mapping[Value, Any]) -> dict[Value, Any]:
    """All values after nodes are computed."""
    values = dict(known)
    for n in nodes:
        values.update(zip(n.outputs, evaluate_node(n, [None if v is None else values[v] for v in n.inputs], values), strict=False))
    return values


def _work(node: Node) -> float:
    sizes = sum(prod(v.dims) for v in node.outputs if isinstance(v.type, Tensor) and v.type.is_static)
    known = all(v is None or (isinstance(v.type, Tensor) and v.type.is_static) for v in (*node.inputs, *node.outputs))
    return 10.0 * sizes + (node_macs(node) if known else 0)
