"""The layers that read an input, and what is done to that input moved into their weights.

A layer sums over one axis of what it reads. Numbers of the input (means, scales, places) are sent along the path to the layer; where they
are the same for every other axis, they are numbers of the axis that it sums over, and weights can take them in.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value

_VIEWS = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
_SHAPES = frozenset({"Shape", "Size"})
_MATRIX = 2


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul with a stored weight, and the views and pads through which it reads an input."""

    graph: Graph
    node: Node
    path: tuple[Node, ...]
    is_padded: bool

    @property
    def groups(self) -> int:
        """The number of groups of a convolution, 1 for products."""
        return int(self.node.attrs.get("group", 1))

    @property
    def bias(self) -> Array | None:
        """The stored bias, None when there is none."""
        value = self.node.input(2)
        return None if value is None else self.graph.weights[value]

    @property
    def weight(self) -> Array:
        """The stored weight."""
        return next(self.graph.weights[v] for v in self.node.inputs[1:2] if v is not None)

    def rows(self, array: Array) -> Array:
        """What arrives at the layer of an array in the place of the input: a row for each sum, along the axis that it sums over."""
        for node in self.path:
            if node.op == "Pad":  # beyond the edge there are zeros, for which any number of the channel will do
                node = replace(node, attrs=MappingProxyType({**node.attrs, "mode": "edge"}))  # noqa: PLW2901
            stored = [None if v is None else self.graph.weights[v] for v in node.inputs[1:]]
            array = np.asarray(evaluate_node(node, [array, *stored])[0])
        moved = np.moveaxis(array, 1, -1) if self.node.op == "Conv" else array
        return moved.reshape(-1, moved.shape[-1])

    def numbers(self, array: Array) -> Array | None:
        """The numbers along the axis that it sums over, None where they differ from sum to sum."""
        rows = self.rows(array)
        return rows[0] if (rows == rows[0]).all() else None

    def order(self, places: Array, wanted: Array) -> Array | None:
        """Where the layer finds among `places` what it should read as `wanted`, None where it does not find each of them once."""
        have, want = self.rows(places), self.rows(wanted)
        if self.groups != 1:
            return None
        order = np.argsort(have[0])
        where = order[np.minimum(np.searchsorted(have[0], want[0], sorter=order), len(order) - 1)]
        return where if np.unique(where).size == where.size and (have[:, where] == want).all() else None

    def folded(self, scale: Array | None, mean: Array | None, where: Array | None) -> tuple[Array, Array | None]:
        """The weight that makes of x what the old one makes of (x - mean) * scale, inputs at the places `where`; and the bias's gain."""
        old, node = self.weight, self.node
        is_conv, turned = node.op == "Conv", bool(node.attrs.get("transB"))
        w = old.astype(np.float64)
        w = w.reshape(*w.shape[:2], -1) if is_conv else (w if turned else w.T)[..., None]   # [outputs, inputs of a group, taps]

        def along(numbers: Array) -> Array:
            return np.repeat(numbers.reshape(self.groups, -1), len(w) // self.groups, axis=0)[..., None]

        if scale is not None:
            w = w * along(scale)
        gain = None if mean is None else -(w * along(mean)).sum((1, 2))
        if where is not None:
            w, before = np.empty_like(w), w
            w[:, where] = before
        made = w.reshape(old.shape) if is_conv else w[..., 0] if turned else w[..., 0].T
        return np.ascontiguousarray(made.astype(old.dtype)), None if gain is None else gain.astype(old.dtype)


def layers(graph: Graph, value: Value, path: tuple[Node, ...] = (), *, is_padded: bool = False) -> list[Layer] | str:
    """The layers that read a value; or, when something else reads it too, which that is."""
    found = list[Layer]()
    if value in graph.outputs:
        return f"{value.name} is an output"
    for node in graph.consumers.get(value, ()):
        if node.op in _SHAPES:
            continue
        stored = node.inputs[0] is value and all(v is None or v in graph.weights for v in node.inputs[1:])
        if stored and (node.op in _VIEWS or _is_zero_pad(graph, node)):
            more = layers(graph, node.output, (*path, node), is_padded=is_padded or node.op == "Pad")
            if isinstance(more, str):
                return more
            found += more
        elif stored and _takes(graph, node):
            found.append(Layer(graph, node, path, is_padded or _pads(node)))
        else:
            return f"{node.label} reads it"
    return found


def _is_zero_pad(graph: Graph, node: Node) -> bool:
    value = node.input(2)
    return node.op == "Pad" and node.attrs.get("mode", "constant") == "constant" and (value is None or not graph.weights[value].any())


def _takes(graph: Graph, node: Node) -> bool:
    """Whether the weight of a node can take in what is done to its first input without losing digits."""
    w = node.input(1)
    if node.op not in ("Conv", "Gemm", "MatMul") or w is None or graph.weights[w].dtype.name not in ("float32", "float64"):
        return False
    plain = node.attrs.get("alpha", 1.0) == 1.0 == node.attrs.get("beta", 1.0) and not node.attrs.get("transA")
    return node.op == "Conv" or (plain and graph.weights[w].ndim == _MATRIX)


def _pads(node: Node) -> bool:
    return any(node.attrs.get("pads") or ()) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
