"""The ordinary nodes that stand for a layer whose weight is the product of smaller ones."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edgec.ir.edit import attributes
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.ir.windows import geometry, taps
from passes.changes.low_rank import Factors, Shape

_WINDOW = 2             # axes of a weight that are no window
_PRIME = 7919


@dataclass(frozen=True)
class Site:
    """A node that could be factored: its weight as [O,I,*window], and its bias."""

    node: Node
    weight: Array
    bias: Array | None

    @property
    def name(self) -> str:
        """What users call it."""
        return self.node.origin or self.node.output.name


def site(graph: Graph, node: Node) -> Site | str:
    """A node as a layer, or why it cannot be factored."""
    x, w, bias = node.input(0), node.input(1), node.input(2)
    weight = None if w is None else graph.weights.get(w)
    if weight is None or w is None or x is None:
        return "its right operand is computed"
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype}, not float32"
    if not isinstance(x.type, Tensor) or not x.type.is_static or not isinstance(node.output.type, Tensor) or not node.output.type.is_static:
        return "its shapes are not known"
    if graph.uses(w) > 1:
        return "others read its weight too"
    if not np.isfinite(weight).all():
        return "its weight holds numbers that are not finite"
    if bias is not None and bias not in graph.weights:
        return "its bias is computed"
    if node.op == "Conv":
        if node.attrs.get("group", 1) != 1:
            return "its channels are in groups"
        return Site(node, weight, None if bias is None else graph.weights[bias])
    if weight.ndim != _WINDOW:
        return "its weight is no matrix"
    if node.attrs.get("transA") or node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0:
        return "it is a Gemm with factors or with a transposed left operand"
    if bias is not None and graph.weights[bias].shape != node.output.dims[-1:]:
        return "its bias is no vector"
    matrix = weight if node.attrs.get("transB") else weight.T
    return Site(node, np.ascontiguousarray(matrix), None if bias is None else graph.weights[bias])


def rows(node: Node, x: Array, most: int, sample: int) -> Array:
    """At most so many of the vectors that a weight is multiplied by, spread evenly, and not at the same places in each sample."""
    if node.op != "Conv":
        each = x.reshape(-1, x.shape[-1])
        return np.asarray(each[_places(len(each), most, sample)])
    view, out = taps(x, node.inputs[1].dims[_WINDOW:] if node.inputs[1] is not None else (), node.attrs, 0)
    image, *where = np.unravel_index(_places(len(x) * prod(out), most, sample), (len(x), *out))
    index: tuple[Any, ...] = (image, slice(None), *where)
    return np.asarray(view[index])


def _places(count: int, most: int, sample: int) -> Array:
    return np.asarray((np.linspace(0, count, min(most, count), endpoint=False).astype(int) + _PRIME * sample) % count)


def nodes(of: Site, shape: Shape, name: Callable[[str], str]) -> tuple[tuple[Node, ...], tuple[Value, ...]]:
    """The parts of a layer, and the values of their weights in the order of `arrays`."""
    node, base = of.node, of.node.output.name
    o, i, *window = of.weight.shape
    image = node.op == "Conv"
    parts, holes, made = shape.parts(o, i, len(window)), list[Value](), list[Node]()
    current = node.inputs[0]
    assert current is not None  # noqa: S101  a site has one
    image_dims = current.dims[_WINDOW:]
    strides, dilations, pads, _ = geometry(node.attrs, image_dims, window) if image else ([], [], [], [])

    def hole(what: str, *dims: int) -> Value:
        holes.append(Value(name(f"{base}.{what}"), Tensor("f32", dims)))
        return holes[-1]

    for k, part in enumerate(parts):
        own, last = [a in part.axes for a in range(len(window))], k == len(parts) - 1
        kernel = [w if mine else 1 for w, mine in zip(window, own, strict=True)]
        weight = hole(f"part{k}.weight", *((part.results, part.inputs, *kernel) if image else (part.inputs, part.results)))
        bias = (hole(f"part{k}.bias", o),) if last and node.op != "MatMul" else ()
        if image:
            image_dims = tuple(n if mine else d for n, d, mine in zip(node.output.dims[_WINDOW:], image_dims, own, strict=True))
        dims = (current.dims[0], part.results, *image_dims) if image else (*current.dims[:-1], part.results)
        output = node.output if last else Value(name(f"{base}.part{k}"), Tensor("f32", dims))
        attrs = attributes(kernel_shape=kernel, strides=[s if mine else 1 for s, mine in zip(strides, own, strict=True)],
                           pads=[p[end] if mine else 0 for end in (0, 1) for p, mine in zip(pads, own, strict=True)],
                           dilations=[d if mine else 1 for d, mine in zip(dilations, own, strict=True)], group=1) if image else attributes()
        op = node.op if image or bias else "MatMul"
        made.append(Node(op, (current, weight, *bias), (output,), attrs, node.device, node.origin))
        current = output
    return tuple(made), tuple(holes)


def arrays(of: Site, shape: Shape, factors: Factors) -> list[Array]:
    """The weights of the parts, in the order of `nodes`."""
    o, i, *window = of.weight.shape
    made: list[Array] = []
    for part, array in zip(shape.parts(o, i, len(window)), factors.parts, strict=True):
        kernel = [w if a in part.axes else 1 for a, w in enumerate(window)]
        made.append(array.reshape(part.results, part.inputs, *kernel) if of.node.op == "Conv" else array[:, :, 0].T)
    if of.node.op != "MatMul":
        made.append(factors.shift if of.bias is None else of.bias + factors.shift)
    return [np.ascontiguousarray(a, np.float32) for a in made]
