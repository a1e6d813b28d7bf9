"""Layout: how each value lies in memory, decided backwards from who reads it.

Kernels on images want their vectors along the channels (NCHWc or NHWC); products, reshapes and the model's interface want row-major; a
transpose wants whatever makes it free. Values that share memory (concatenations, slices, residuals) agree on their blocks. Where kernels
still disagree, the layouts and copies around them are chosen together, by what they cost (`changes/reorders.py`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from edgec.codegen.place import VIEW_OPS, Places
from edgec.errors import BadInput, UsageError
from edgec.ir.edit import Namer, retype, splice
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Layout, View
from edgec.ir.types import Tensor
from edgec.isa import Device, Isa, Npu, cpu_isa, devices
from edgec.kernels.base import Operands
from edgec.kernels.functions import BYTES
from edgec.kernels.plan import plan, unknown
from edgec.kernels.plan_separable import KIND as SEPARABLE
from edgec.lang.text import show_type
from edgec.pipeline import Context
from passes.changes.reorders import settle
from passes.cluster import image_layout

_IMAGE_KINDS = frozenset({"conv", "pool", "resize", SEPARABLE})
_IMAGE_RANKS = (3, 4)
_Want = Layout | str | None


def run(graph: Graph, context: Context) -> Graph:
    """The graph whose values carry their layouts (None is row-major)."""
    if context.target is None:
        raise UsageError("layout needs a target")
    for value in graph.inputs:
        if isinstance(value.type, Tensor) and not value.type.is_static:
            raise BadInput(f"the input %{value.name} is {show_type(value.type)}: shapes have to be numbers before memory is laid out")
    if any(unknown(n) for n in graph.nodes):
        return graph                                          # the schedule says which nodes these are, and which others cannot be built
    isa = cpu_isa(context.target)
    layouts = _Layouts(graph, isa).run()
    types = {v: replace(v.tensor, layout=layout) for v, layout in layouts.items() if v.tensor.layout != layout}
    return settle(_settle(retype(graph, types)[0] if types else graph, isa, devices(context.target)), isa)


def _settle(graph: Graph, cpu: Isa, units: Mapping[str, Device]) -> Graph:
    """Copies around kernels that cannot read an operand where it lies, such as a transposed right factor, or write a part of a Concat."""
    places = Places(graph)
    operands = Operands.of(graph.weights, lambda v: places[v].view)
    name = Namer(graph)
    made: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        isa = units.get(node.device or "", cpu)
        copier = None if isinstance(isa, Npu) else node.device    # an NPU runs its commands and nothing else
        if node.op in VIEW_OPS or node.op == "Concat" or not isinstance(plan(node, isa, operands), str):
            continue
        loose = [v for v in dict.fromkeys(node.inputs) if v is not None and v not in graph.weights and not places[v].view.dense]
        parts = [v for v in node.outputs if not places[v].view.dense]
        for group in (*([v] for v in loose), loose, [*loose, *parts]):
            straight = replace(operands, view=partial(_straight, places, frozenset(group)))
            if group and not isinstance(plan(node, isa, straight), str):
                fresh = {v: Value(name(f"{v.name}.copy"), replace(v.tensor, layout=None)) for v in group}
                before = [Node("edgec.Reorder", (v,), (new,), device=copier, origin=node.origin)
                          for v, new in fresh.items() if v not in parts]
                after = [Node("Identity", (new,), (v,), device=copier, origin=node.origin)
                         for v, new in fresh.items() if v in parts]
                inputs, outputs = tuple(v and fresh.get(v, v) for v in node.inputs), tuple(fresh.get(v, v) for v in node.outputs)
                made[node] = [*before, replace(node, inputs=inputs, outputs=outputs), *after]
                break
    return splice(graph, made)


def _straight(places: Places, copied: frozenset[Value], value: Value) -> View:
    """Where a value lies once some are copied to row-major memory of their own."""
    return View.of(value.dims) if value in copied else places[value].view


class _Layouts:
    def __init__(self, graph: Graph, isa: Isa) -> None:
        self.graph, self.lanes = graph, isa.lanes
        self.chosen: dict[Value, Layout | None] = {}
        self.parent: dict[Value, Value] = {}
        self.blocked: dict[Value, bool] = {}

    def run(self) -> dict[Value, Layout | None]:
        """The layout of each value that a node makes."""
        self._tie()
        for node in reversed(self.graph.nodes):
            for value in node.outputs:
                if isinstance(value.type, Tensor) and value.type.is_static:
                    self.chosen[value] = self._choose(node, value)
        return self.chosen

    def _find(self, value: Value) -> Value:
        while (up := self.parent.get(value, value)) is not value:
            value = up
        return value

    def _tie(self) -> None:
        """Values that share memory or are read at the same index use the same blocks; a group that cannot be blocked is channels-last."""
        members: set[Value] = set()
        narrow: set[Value] = set()
        for node in self.graph.nodes:
            images = [v for v in (*node.inputs, *node.outputs) if v is not None and _is_image(v) and v not in self.graph.weights]
            members.update(images)
            narrow.update(v for v in images if v.tensor.dtype in BYTES)
            if node.op in ("Concat", "Slice", "Split") or (node.op == "edgec.Fused" and images):
                spatial = node.outputs[0].dims[2:] if node.outputs and _is_image(node.outputs[0]) else ()
                anchor = _anchor(node)
                tied = [v for v in images if node.op != "edgec.Fused" or (v.dims[2:] == spatial and v.dims[1] == node.outputs[0].dims[1])]
                for v in tied[1:]:
                    self.parent[self._find(v)] = self._find(tied[0])
                if anchor is not None and int(anchor.attrs.get("group", 1)) > 1:
                    group = int(anchor.attrs["group"])
                    narrow.update(v for v in images if group != v.dims[1] and (v.dims[1] // group) % self.lanes)
            if node.op == "Slice" and self._cuts(node):
                narrow.update(images)
        bad = {self._find(v) for v in members if v.dims[1] % self.lanes} | {self._find(v) for v in narrow}
        self.blocked = {v: self._find(v) not in bad for v in members}

    def _cuts(self, node: Node) -> bool:
        """Whether a Slice takes channels that are no whole blocks."""
        given = (self.graph.weights.get(v) if v is not None else None for v in map(node.input, (1, 3, 4)))
        starts, axes, steps = ([] if array is None else array.reshape(-1).tolist() for array in given)
        cuts = zip(starts, axes or range(len(starts)), steps or [1] * len(starts), strict=True)
        return any(axis % len(node.output.dims) == 1 and (step != 1 or start % self.lanes) for start, axis, step in cuts)

    def _choose(self, node: Node, value: Value) -> Layout | None:
        if value in self.graph.outputs or not (_kind(node) or node.op in VIEW_OPS or node.op == "Concat"):
            return None                                       # the interface, and what kernels through TVM write
        wants = Counter[_Want](w for consumer in self.graph.consumers.get(value, ()) for w in self._wants(consumer, value))
        asked = [w for w, _ in wants.most_common() if w is not None]
        if _is_image(value) and ("image" in asked or (not asked and _kind(node) in _IMAGE_KINDS)):
            return self._image(value)
        layouts = [w for w in asked if isinstance(w, Layout)]
        if layouts and (_kind(node) or node.op == "Concat"):
            return layouts[0]
        return None

    def _image(self, value: Value) -> Layout | None:
        if self.blocked.get(value):
            return _simple(image_layout(value.tensor, self.lanes))
        return _simple(Layout((0, *range(2, len(value.dims)), 1)))

    def _wants(self, node: Node, value: Value) -> Iterable[_Want]:
        """What a reader would like a value to be."""
        output = node.outputs[0]
        kind = _kind(node)
        if kind in _IMAGE_KINDS and _is_image(value) and len(output.dims) == len(value.dims):
            return ("image",)
        if kind == "map" or node.op in ("Concat", "Slice", "Split"):
            same = self.chosen.get(output)
            if len(value.dims) != len(output.dims) or (kind == "map" and value.dims != output.dims):
                return (None,)
            if same is None:
                return ("row",)
            return ("image",) if _is_image(value) and same in (self._image(output), self._image(value)) else (same,)
        if node.op == "Transpose":
            perm = list(node.attrs.get("perm", range(len(value.dims))[::-1]))
            inner = self.chosen.get(output) or Layout.row_major(len(perm))
            return (_simple(Layout(tuple(perm[a] for a in inner.order), tuple((perm[a], b) for a, b in inner.blocks))) or "row",)
        if node.op == "Reshape" and _is_image(value) and all(d == 1 for d in value.dims[2:]):
            return (None,)
        return ("row",)


def _simple(layout: Layout) -> Layout | None:
    return None if layout.is_row_major else layout


def _is_image(value: Value) -> bool:
    return isinstance(value.type, Tensor) and value.type.is_static and len(value.dims) in _IMAGE_RANKS


def _kind(node: Node) -> str:
    return str(node.attrs["kind"]) if node.op == "edgec.Fused" else ""


def _anchor(node: Node) -> Node | None:
    if node.op != "edgec.Fused" or node.attrs["kind"] == SEPARABLE:     # whose second convolution, which makes its result, has no groups
        return None
    nodes: Sequence[Node] = node.attrs["body"].nodes
    return next((n for n in nodes if n.op in ("Conv", "ConvTranspose", "ConvInteger")), None)
