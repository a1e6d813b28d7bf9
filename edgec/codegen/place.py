"""Where each value of a graph of kernels lies: a storage, an offset into it, and a view.

Reshape, Transpose, Slice, Expand are other views of the same storage wherever strides can say it; Concat is written in place by the
kernels that make its operands. What cannot be a view is copied by a kernel of its own.
"""

from dataclasses import dataclass
from math import prod

from edgec.errors import UnsupportedModel
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Axis, View

VIEW_OPS = frozenset({"Reshape", "Transpose", "Slice", "Identity", "Expand", "edgec.Reorder", "Unsqueeze", "Squeeze", "Flatten"})


@dataclass(frozen=True)
class Place:
    """`root` owns the memory; `offset` is in elements of the value's dtype."""

    root: Value
    offset: int
    view: View


def full(value: Value) -> View:
    """The view of a value that owns its memory."""
    return value.tensor.view


class Places:
    """The places of all values, decided in the order of the graph; `copied` are nodes that need a kernel that copies.

    `copied[node]` lists (source value, view of the source, offset, view of the destination within the node's output, offset).
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.at: dict[Value, Place] = {}
        self.copied: dict[Node, list[tuple[Value, View, Place]]] = {}
        self._inside = self._concatenations()
        for value in (*graph.inputs, *graph.weights):
            self.at[value] = Place(value, 0, View.of(value.dims))
        for node in graph.nodes:
            self._node(node)

    def __getitem__(self, value: Value) -> Place:
        return self.at[value]

    def _node(self, node: Node) -> None:
        for value in node.outputs:
            if value not in self.at:
                self.at[value] = self._owned(value)
        output = node.outputs[0]
        if node.op == "Concat":
            self._copy_rest(node)
        elif node.op in VIEW_OPS:
            source = self._source(node)
            alias = self._alias(node)
            target = self.at[output]
            if alias is not None and output not in self._inside and output not in self.graph.outputs:
                self.at[output] = alias
            elif alias is None or (alias.root, alias.offset, alias.view) != (target.root, target.offset, target.view):
                self.copied[node] = [(source, *self._read(node, alias), target)]

    def _owned(self, value: Value) -> Place:
        if value in self._inside:
            return self._inside_place(value)
        return Place(value, 0, full(value))

    @staticmethod
    def _source(node: Node) -> Value:
        source = node.inputs[0]
        if source is None:
            raise UnsupportedModel(f"{node.label} has no input", [node.label])
        return source

    def _read(self, node: Node, alias: Place | None) -> tuple[View]:
        """How a copying node sees its source, in the index space of its output."""
        source = self._source(node)
        if alias is not None:
            return (alias.view,)
        place, shape = self.at[source], node.outputs[0].dims
        target = self.at[node.outputs[0]].view
        view = place.view.reshape(shape)
        if view is None and target.reshape(source.dims) is not None:
            return (place.view,)                                  # walk in the source's index space instead
        if view is None:
            raise UnsupportedModel(f"{node.label} cannot be copied from {source.tensor.layout} to {node.outputs[0].tensor.layout}", [node.label])
        return (view,)

    def _alias(self, node: Node) -> Place | None:
        """The output as another view of the input's memory, None when strides cannot say it."""
        place, output = self.at[self._source(node)], node.outputs[0]
        match node.op:
            case "Transpose":
                perm = node.attrs.get("perm") or list(range(len(output.dims)))[::-1]
                return Place(place.root, place.offset, place.view.transpose(perm))
            case "Slice":
                return self._slice(node, place)
            case "Expand":
                missing = len(output.dims) - len(place.view.axes)
                axes = [Axis(n, 0) for n in output.dims[:missing]]
                axes += [Axis(n, 0) if a.extent == 1 != n else a for a, n in zip(place.view.axes, output.dims[missing:], strict=True)]
                return Place(place.root, place.offset, View(tuple(axes)))
            case "Identity":
                return place
            case "edgec.Reorder":
                return None                                    # it is there to be a copy
            case _:
                view = place.view.reshape(output.dims)
                return view and Place(place.root, place.offset, view)

    def _slice(self, node: Node, place: Place) -> Place | None:
        arrays = [self.graph.weights[v].reshape(-1).tolist() if v is not None and v in self.graph.weights else None for v in node.inputs[1:]]
        if len(arrays) < 2 or arrays[0] is None or arrays[1] is None:         # noqa: PLR2004
            raise UnsupportedModel(f"{node.label} has bounds that are not known when the model is built", [node.label])
        starts = arrays[0]
        axes = arrays[2] if len(arrays) > 2 and arrays[2] is not None else list(range(len(starts)))   # noqa: PLR2004
        steps = arrays[3] if len(arrays) > 3 and arrays[3] is not None else [1] * len(starts)         # noqa: PLR2004
        view, offset, shape = place.view, place.offset, node.outputs[0].dims
        for start, raw, step in zip(starts, axes, steps, strict=True):
            axis = raw % len(shape)
            size = view.axes[axis].extent
            start = start + size if start < 0 else start
            start = min(max(start, 0), size - 1 if step < 0 else size)
            made = view.slice(axis, start, step, shape[axis])
            if made is None:
                return None
            view, offset = made[0], offset + made[1]
        return Place(place.root, offset, view)

    # Concatenations

    def _concatenations(self) -> dict[Value, tuple[Value, int, int]]:
        """Values that can be written where a Concat wants them: value -> (output, axis, start)."""
        inside: dict[Value, tuple[Value, int, int]] = {}
        outputs = set(self.graph.outputs)
        for node in reversed(self.graph.nodes):
            if node.op != "Concat":
                continue
            output = node.outputs[0]
            axis, start = int(node.attrs["axis"]) % len(output.dims), 0
            for value in node.inputs:
                if value is None:
                    continue
                maker = self.graph.producer.get(value)
                once = node.inputs.count(value) == 1
                if once and maker is not None and value not in outputs and value not in inside and maker.op not in VIEW_OPS \
                        and full(output).slice(axis, start, 1, value.dims[axis]) is not None:
                    inside[value] = (output, axis, start)
                elif once and maker is not None and value not in outputs:
                    self._through(inside, value, output, axis, start)
                start += value.dims[axis]
        return inside

    def _through(self, inside: dict[Value, tuple[Value, int, int]], value: Value, output: Value, axis: int, start: int) -> None:
        """A view of a whole tensor that nobody else reads: the tensor itself can be written into its part of the Concat."""
        part = full(output).slice(axis, start, 1, value.dims[axis])
        if part is None or not part[0].dense:
            return
        chain, now = [value], value
        while (maker := self.graph.producer.get(now)) is not None and maker.op in ("Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten"):
            source = maker.inputs[0]
            if source is None or source in inside or source in self.graph.outputs or self.graph.uses(source) != 1:
                return
            now = source
            chain.append(now)
        if maker is None or maker.op in VIEW_OPS or maker.op == "Concat":
            return
        view = full(now)
        for v in reversed(chain[:-1]):
            step = self.graph.producer[v]
            moved = view.transpose(step.attrs.get("perm") or list(range(len(v.dims)))[::-1]) if step.op == "Transpose" else view.reshape(v.dims)
            if moved is None:
                return
            view = moved
        if view.dense and prod(view.shape) == now.tensor.elements:
            inside[now] = (output, -1, part[1])

    def _inside_place(self, value: Value) -> Place:
        output, axis, start = self._inside[value]
        if output not in self.at:
            self.at[output] = self._owned(output)
        place = self.at[output]
        if axis < 0:
            return Place(place.root, place.offset + start, full(value))
        made = place.view.slice(axis, start, 1, value.dims[axis])
        if made is None:
            raise UnsupportedModel(f"%{value.name} does not fit into its concatenation", [value.name])
        return Place(place.root, place.offset + made[1], made[0])

    def _copy_rest(self, node: Node) -> None:
        output = node.outputs[0]
        place, start = self.at[output], 0
        axis = int(node.attrs["axis"]) % len(output.dims)
        for value in node.inputs:
            if value is None:
                continue
            source = self.at[value]
            if value.tensor.elements and not self._in_place(source, place, axis, start, value):
                made = place.view.slice(axis, start, 1, value.dims[axis])
                if made is None:
                    raise UnsupportedModel(f"{node.label} cuts a block of its layout", [node.label])
                self.copied.setdefault(node, []).append((value, source.view, Place(place.root, place.offset + made[1], made[0])))
            start += value.dims[axis]

    @staticmethod
    def _in_place(source: Place, place: Place, axis: int, start: int, value: Value) -> bool:
        made = place.view.slice(axis, start, 1, value.dims[axis])
        return made is not None and source.root is place.root and source.offset == place.offset + made[1] and _same(source.view, made[0])


def _same(a: View, b: View) -> bool:
    return all(x.extent == y.extent and (x.extent == 1 or x == y) for x, y in zip(a.axes, b.axes, strict=True))
