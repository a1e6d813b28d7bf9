"""Where each value of a graph of kernels lies: a storage, an offset into it, and a view.

Reshape, Transpose, Slice, Expand are other views of the same storage wherever strides can say it; Concat is written in place by the
kernels that make its operands. What cannot be a view is copied by a kernel of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.errors import UnsupportedModel
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import View
from edgec.kernels.base import broadcast

VIEW_OPS = frozenset({"Reshape", "Transpose", "Slice", "Identity", "Expand", "edgec.Reorder", "Unsqueeze", "Squeeze", "Flatten"})
_WHOLE = frozenset({"Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten"})
"""Views of all elements of their operand, each of them once."""


@dataclass(frozen=True)
class Place:
    """`root` owns the memory; `offset` is in elements of the value's dtype."""

    root: Value
    offset: int
    view: View

    def part(self, axis: int, start: int, step: int, count: int) -> "Place | None":
        """Every step-th element from `start` along an axis; None where a block is cut."""
        made = self.view.slice(axis, start, step, count)
        return Place(self.root, self.offset + made[1], made[0]) if made is not None else None

    def same(self, other: "Place") -> bool:
        """Whether each index lies at the same address."""
        axes = zip(self.view.axes, other.view.axes, strict=True)
        return self.root is other.root and self.offset == other.offset and all(a == b or a.extent == b.extent == 1 for a, b in axes)


@dataclass(frozen=True)
class Copy:
    """Elements of `source` that a kernel must move: from `read` to `write`, whose views have one shape."""

    source: Value
    read: Place
    write: Place


class Places:
    """The places of all values of a graph; `copied` lists for each node of VIEW_OPS and each Concat the copies that it needs.

    UnsupportedModel names a node that is neither a view nor a copy.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.at: dict[Value, Place] = {}
        self.copied: dict[Node, list[Copy]] = {}
        for value in (*graph.inputs, *graph.weights):
            self.at[value] = Place(value, 0, View.of(value.dims))
        for node in reversed(graph.nodes):
            if node.op == "Concat":
                self._in_place(node)
        for node in graph.nodes:
            for value in node.outputs:
                self.at.setdefault(value, _own(value))
            if node.op == "Concat":
                self._copy_rest(node)
            elif node.op in VIEW_OPS:
                self._view(node)

    def __getitem__(self, value: Value) -> Place:
        return self.at[value]

    # Views

    def _view(self, node: Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        if source is None:
            raise UnsupportedModel(f"{node.label} has no input", [node.label])
        seen = self._seen(node, self.at[source])
        if seen is None:
            self.copied[node] = [self._copy(node, source)]
        elif output in self.graph.outputs:
            self.copied[node] = [Copy(source, seen, self.at[output])]
        else:
            self.at[output] = seen

    def _seen(self, node: Node, source: Place) -> Place | None:
        """The output as another view of the operand's memory, None when strides cannot say it."""
        shape = node.outputs[0].dims
        match node.op:
            case "Slice":
                for axis, start, step in self._bounds(node, source.view.shape):
                    part = source.part(axis, start, step, shape[axis])
                    if part is None:
                        return None
                    source = part
                return source
            case "Expand":
                return Place(source.root, source.offset, broadcast(source.view, shape))
            case "edgec.Reorder":
                return None                                    # it is there to be a copy
            case _:
                view = _moved(node, source.view)
                return Place(source.root, source.offset, view) if view is not None else None

    def _copy(self, node: Node, source: Value) -> Copy:
        """The copy of all elements of an operand into the node's output, in the index space of one or the other."""
        read, write = self.at[source], self.at[node.outputs[0]]
        if read.view.shape == write.view.shape:
            return Copy(source, read, write)
        if source.tensor.elements == node.outputs[0].tensor.elements:
            if (view := read.view.reshape(write.view.shape)) is not None:
                return Copy(source, Place(read.root, read.offset, view), write)
            if (view := write.view.reshape(read.view.shape)) is not None:
                return Copy(source, read, Place(write.root, write.offset, view))
        layouts = f"from {source.tensor.layout} to {node.outputs[0].tensor.layout}"
        raise UnsupportedModel(f"{node.label} cannot be copied {layouts}", [node.label])

    def _bounds(self, node: Node, shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """(axis, start, step) for each axis that a Slice cuts."""
        if not all(v is None or v in self.graph.weights for v in node.inputs[1:]):
            raise UnsupportedModel(f"{node.label} has bounds that are not known when the model is built", [node.label])
        given = (node.input(i) for i in (1, 3, 4))
        starts, axes, steps = (self.graph.weights[v].reshape(-1).tolist() if v is not None else [] for v in given)
        made = []
        for start, axis, step in zip(starts, axes or range(len(starts)), steps or [1] * len(starts), strict=True):
            size = shape[axis]
            first = start + size if start < 0 else start
            made.append((axis % len(shape), min(max(first, 0), size - 1 if step < 0 else size), step))
        return made

    # Concatenations

    def _in_place(self, node: Node) -> None:
        """Decide which operands are written where a Concat wants them. Later ones come first: an operand may be a Concat itself."""
        output = node.outputs[0]
        whole = self.at.setdefault(output, _own(output))
        for value, part in _parts(node, whole):
            maker = self.graph.producer.get(value)
            if part is None or maker is None or value in self.graph.outputs or node.inputs.count(value) != 1:
                continue
            if maker.op in VIEW_OPS:
                self._through(value, part, node.device)
            elif maker.device == node.device:                  # else it is written in another unit's memory
                self.at.setdefault(value, part)

    def _through(self, value: Value, part: Place, device: str | None) -> None:
        """A view of a whole tensor that nobody else reads: the tensor itself is written there, if its own layout is what the part wants."""
        chain: list[Node] = []
        made, maker = value, self.graph.producer.get(value)
        while maker is not None and maker.op in _WHOLE:
            source = maker.inputs[0]
            if source is None or source in self.at or source in self.graph.outputs or self.graph.uses(source) != 1:
                return
            chain.append(maker)
            made, maker = source, self.graph.producer.get(source)
        if maker is None or maker.op in VIEW_OPS or maker.op == "Concat" or maker.device != device:
            return
        view: View | None = made.tensor.view
        for node in reversed(chain):
            view = view and _moved(node, view)
        if view is not None and Place(part.root, part.offset, view).same(part):
            self.at[made] = Place(part.root, part.offset, made.tensor.view)

    def _copy_rest(self, node: Node) -> None:
        for value, part in _parts(node, self.at[node.outputs[0]]):
            if not value.tensor.elements:
                continue
            if part is None:
                raise UnsupportedModel(f"{node.label} cuts a block of its layout", [node.label])
            if not self.at[value].same(part):
                self.copied.setdefault(node, []).append(Copy(value, self.at[value], part))


def _own(value: Value) -> Place:
    """A value in memory of its own."""
    return Place(value, 0, value.tensor.view)


def _moved(node: Node, view: View) -> View | None:
    """A view of a whole tensor, as a node of _WHOLE changes it; None when strides cannot say it."""
    if node.op == "Identity":
        return view
    if node.op == "Transpose":
        return view.transpose(node.attrs.get("perm") or range(len(view.axes))[::-1])
    return view.reshape(node.outputs[0].dims)


def _parts(node: Node, whole: Place) -> list[tuple[Value, Place | None]]:
    """Each operand of a Concat with its part of the result."""
    axis, start, made = int(node.attrs["axis"]) % len(whole.view.axes), 0, []
    for value in node.inputs:
        if value is not None:
            made.append((value, whole.part(axis, start, 1, value.dims[axis])))
            start += value.dims[axis]
    return made
