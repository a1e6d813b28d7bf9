"""Cluster: regions that become one kernel each: an anchor and the elementwise arithmetic that follows it.

A region grows forward from its anchor along values that nobody else reads, and may close over diamonds (x * sigmoid(x)). It is formed
only if `edgec.kernels.plan` answers with a plan for it: no region without an emitter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edgec.errors import UsageError
from edgec.ir.edit import attributes, origins, prune, rename, splice
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Layout, View
from edgec.ir.types import Tensor
from edgec.isa import Device, Isa, cpu_isa, devices
from edgec.kernels.base import Operands, Planned
from edgec.kernels.expr import ELEMENTWISE
from edgec.kernels.functions import BYTES
from edgec.kernels.plan import ALONE, plan
from edgec.kernels.plan_attention import KIND
from edgec.kernels.plan_separable import KIND as SEPARABLE
from edgec.kernels.plan_separable import is_dense, is_depthwise
from edgec.pipeline import Context
from passes.changes.chains import Chains

VIEWS = frozenset({"Reshape", "Transpose", "Slice", "Concat", "Identity", "Expand", "Split", "edgec.Reorder"})
"""Operators that move or rename elements: they are placed in memory, not clustered."""
_MAX_EPILOGUE = 24
_DEQUANTIZE = "DequantizeLinear"
"""It goes into every region whose arithmetic reads its result: reading bytes costs less than reading reals."""


def run(graph: Graph, context: Context) -> Graph:
    """The graph whose nodes are kernels, views of tensors, and what no kernel is written for."""
    if context.target is None:
        raise UsageError("cluster needs a target")
    isa = cpu_isa(context.target)
    return _Cluster(graph, isa, devices(context.target), int(context.options.get("max_epilogue", _MAX_EPILOGUE)), context).run()


def rewrites() -> tuple[str, ...]:
    """What `--disable` may name here."""
    return (KIND, SEPARABLE)


class _Cluster:
    def __init__(self, graph: Graph, isa: Isa, units: Mapping[str, Device], most: int, context: Context) -> None:
        self.graph, self.isa, self.units, self.most, self.context = graph, isa, units, most, context
        self.place = {n: i for i, n in enumerate(graph.nodes)}
        self.taken: dict[Node, Node] = {}
        self.regions: dict[Node, list[Node]] = {}
        self.images = Operands.of(graph.weights, assumed_views(graph, isa))
        self.rows = Operands.of(graph.weights, lambda v: View.of(v.dims))
        self.chains = Chains(graph, isa, units, self.images, context, self.taken, self.regions, self._node)

    def run(self) -> Graph:
        made: dict[Node, list[Node]] = {}
        for softmax in (n for n in self.graph.nodes if n.op == "Softmax"):
            self._attend(softmax, made)
        anchors = [n for n in reversed(self.graph.nodes) if n.op not in ELEMENTWISE and n.op not in VIEWS and n.op != "edgec.Region"]
        maps = sorted((n for n in self.graph.nodes if n.op in ELEMENTWISE), key=lambda n: n.op == _DEQUANTIZE)
        for root in (*anchors, *maps):
            if root in self.taken or len(root.outputs) != 1 or root.op in ALONE:
                continue
            if root.op == "Cast" and root.inputs[0] in self.graph.weights and self._only_weight(root):
                continue
            region = self._grow(root)
            fused = self._fused(region)
            if fused is None:
                continue
            self._take(region, fused, made)
        self.chains.run(made)
        if not made:
            return self.graph
        return prune(splice(self.graph, made))

    def _take(self, region: Sequence[Node], fused: Node, made: dict[Node, list[Node]]) -> None:
        self.regions[fused] = list(region)
        for n in region:
            self.taken[n] = fused
        made.update({n: [] for n in region})
        made[max(region, key=lambda n: self.place[n])] = [fused]

    def _attend(self, softmax: Node, made: dict[Node, list[Node]]) -> None:
        """Attention around a Softmax: the product and the arithmetic that make its scores, and the product with V that reads it."""
        readers = self.graph.consumers.get(softmax.outputs[0], ())
        if len(readers) != 1 or softmax.outputs[0] in self.graph.outputs or not _static(softmax.outputs[0]):
            return
        second, before = readers[0], self._scores(softmax.inputs[0], softmax, self.most)
        if before is None or second.op != "MatMul" or second.inputs[0] is not softmax.outputs[0] or second.device != softmax.device:
            return
        region = sorted((*before, softmax, second), key=lambda n: self.place[n])
        node = self._node(region, KIND)
        answer = plan(node, self.units.get(softmax.device or "", self.isa), self.rows)
        if isinstance(answer, str):
            self.context.note(f"{softmax.label}: {answer}")
        elif self.context.may(KIND):
            self.context.did(KIND, softmax)
            self._take(region, node, made)

    def _scores(self, value: Value | None, reader: Node, most: int) -> list[Node] | None:
        """The nodes from a MatMul to the one that makes a value which `reader` alone reads, all of one shape; None if there are none."""
        source = self.graph.producer.get(value) if value is not None else None
        if value is None or source is None or most == 0 or source.device != reader.device or value.dims != reader.outputs[0].dims:
            return None
        if self.graph.consumers.get(value, ()) != (reader,) or value in self.graph.outputs or len(source.outputs) != 1:
            return None
        if source.op == "MatMul":
            return [source]
        found = (self._scores(v, source, most - 1) for v in source.inputs) if source.op in ELEMENTWISE else ()
        first = next((nodes for nodes in found if nodes is not None), None)
        return None if first is None else [*first, source]

    def _only_weight(self, node: Node) -> bool:
        """Whether a Cast of a weight is read by anchors alone, which then widen it themselves."""
        readers = self.graph.consumers.get(node.outputs[0], ())
        anchors = all(r.op not in ELEMENTWISE and r.op not in VIEWS for r in readers)
        return bool(readers) and anchors and node.outputs[0] not in self.graph.outputs

    def _grow(self, root: Node) -> list[Node]:
        """The largest region from `root` that plans as one kernel, in graph order."""
        if len(root.outputs) != 1 or not _static(root.outputs[0]):
            return [root]
        shape = root.outputs[0].dims
        region, inside = [root], {root.outputs[0]}
        best = list(region)
        while len(region) <= self.most:
            pending = [v for v in inside if self._escapes(v, region)]
            following = [r for v in pending for r in self.graph.consumers.get(v, ())
                         if r not in region and r not in self.taken and r.device == root.device and r.op in ELEMENTWISE
                         and len(r.outputs) == 1 and _static(r.outputs[0]) and r.outputs[0].dims == shape]
            if not following or len(pending) > 3:                # noqa: PLR2004
                break
            step = min(following, key=lambda n: self.place[n])
            if any(v in self.graph.outputs for v in pending if v in step.inputs):
                break
            region.append(step)
            inside.add(step.outputs[0])
            stored = step.op != _DEQUANTIZE                      # what is stored as bytes is not stored as reals instead
            if stored and sum(self._escapes(v, region) for v in inside) == 1 and self._plans(region):
                best = list(region)
        return best

    def _plan(self, node: Node, anchor: Node) -> Planned | str:
        """The plan of a region as its operands will probably lie."""
        operands = self.rows if anchor.op in ("MatMul", "Gemm", "MatMulInteger") else self.images
        return plan(node, self.units.get(anchor.device or "", self.isa), operands)

    def _escapes(self, value: Value, region: Sequence[Node]) -> bool:
        return value in self.graph.outputs or any(r not in region for r in self.graph.consumers.get(value, ()))

    def _plans(self, region: Sequence[Node]) -> bool:
        return not isinstance(self._plan(self._node(region), region[0]), str)

    def _node(self, region: Sequence[Node], kind: str = "") -> Node:
        """The Fused node of a region, whose kind is its anchor's where none is given.

        A Cast of a weight that the anchor reads goes in with it, and so do bytes that arithmetic widens.
        """
        nodes = list(region)
        for v in dict.fromkeys(v for n in region if n.op in ELEMENTWISE for v in n.inputs if v is not None):
            source = self.graph.producer.get(v)
            if source is not None and source not in nodes and source.op == _DEQUANTIZE and source.device == region[0].device:
                nodes.insert(0, source)
        for v in (v for v in region[0].inputs if v is not None and region[0].op not in ELEMENTWISE):
            source = self.graph.producer.get(v)
            if source is not None and source.op == "Cast" and source.inputs[0] in self.graph.weights and source not in nodes:
                nodes.insert(0, source)
        made = {v for n in nodes for v in n.outputs}
        outer = tuple(dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v not in made))
        output = region[-1].outputs[0]
        body = Graph("region", outer, (output,), tuple(nodes))
        anchor = region[0].op if region[0].op not in ELEMENTWISE else "map"
        inner = {v: Value(v.name, v.type) for v in (*outer, *made)}
        return Node("edgec.Fused", outer, (output,), attributes(kind=kind or _KINDS.get(anchor, anchor.lower()), body=rename(body, inner)),
                    region[0].device, origins(region))

    def _fused(self, region: Sequence[Node]) -> Node | None:
        node = self._node(region)
        answer = self._plan(node, region[0])
        if isinstance(answer, str):
            self.context.note(f"{region[0].label}: {answer}")
            return None
        return node


def why_apart(graph: Graph, context: Context, region: Sequence[Node], reader: Node) -> str:
    """Why a node that reads what a region makes is no part of it: the first condition that it misses. A region's root comes first."""
    root, made = region[0], {v for n in region for v in n.outputs}
    if reader.op in VIEWS:
        return f"{reader.label} moves or renames elements, which is decided in memory"
    if said := _why_no_chain(graph, context, root, reader):
        return said
    if reader.op not in ELEMENTWISE:
        return f"{reader.label} is not elementwise: it begins a kernel of its own"
    if root.op in VIEWS:
        return f"{root.label} moves or renames elements, and nothing grows into that"
    if root.device != reader.device:
        return f"{reader.label} runs on {reader.device or 'the CPU'}, {root.label} on {root.device or 'the CPU'}"
    if len(root.outputs) != 1 or len(reader.outputs) != 1:
        return f"{(root if len(root.outputs) != 1 else reader).label} has several results"
    if not _static(root.outputs[0]) or not _static(reader.outputs[0]):
        return "the shapes are not known"
    if reader.outputs[0].dims != root.outputs[0].dims:
        return f"{reader.label} makes {list(reader.outputs[0].dims)}, and {root.label} {list(root.outputs[0].dims)}"
    for value in made.intersection(reader.inputs):
        others = [n.label for n in graph.consumers.get(value, ()) if n is not reader and n not in region]
        if value in graph.outputs or others:
            return f"%{value.name} is also {'an output of the model' if value in graph.outputs else f'read by {others[0]}'}"
    target = context.target
    cluster = _Cluster(graph, cpu_isa(target), devices(target), _MAX_EPILOGUE, context) if target is not None else None
    answer = cluster._plan(cluster._node([*region, reader]), root) if cluster else "there is no target"      # noqa: SLF001
    return answer if isinstance(answer, str) else f"{reader.label} went into the kernel of another operand"


def _why_no_chain(graph: Graph, context: Context, first: Node, second: Node) -> str:
    """What speaks against one kernel of two convolutions, one depthwise and one without groups; empty where they are something else."""
    depth = next((a for a, b in ((first, second), (second, first)) if is_depthwise(a) and is_dense(b)), None)
    if depth is None or context.target is None:
        return ""
    again = replace(context, trace=[], notes=[], facts={}, limit=None)
    cluster = _Cluster(graph, cpu_isa(context.target), devices(context.target), _MAX_EPILOGUE, again)
    cluster.run()
    return "; ".join(cluster.chains.reasons.get(depth, ()))


_KINDS = {"Conv": "conv", "ConvTranspose": "conv", "MatMul": "gemm", "Gemm": "gemm", "MaxPool": "pool", "AveragePool": "pool",
          "GlobalAveragePool": "pool", "GlobalMaxPool": "pool", "Resize": "resize",
          "ConvInteger": "conv", "MatMulInteger": "gemm", "edgec.SumPool": "pool"}


def _static(value: Value) -> bool:
    return isinstance(value.type, Tensor) and value.type.is_static


def image_layout(value: Tensor, lanes: int) -> Layout:
    """The layout of images whose vectors run along the channels: blocks of `lanes` where they divide the channels, else channels last.

    Bytes lie channels last: kernels read runs of them, and a row of taps of few channels is one run.
    """
    shape = value.dims
    order = tuple(range(len(shape)))
    if shape[1] % lanes == 0 and shape[1] > lanes and value.dtype not in BYTES:
        return Layout(order, ((1, lanes),))
    return Layout((0, *order[2:], 1))


def assumed_view(value: Value, isa: Isa) -> View:
    """Where a value will probably lie: images by channels, everything else row-major."""
    dims = value.dims
    return View.of(dims, image_layout(value.tensor, isa.lanes) if len(dims) == 4 else None)   # noqa: PLR2004


def assumed_views(graph: Graph, isa: Isa) -> Callable[[Value], View]:
    """Where each value of a graph will probably lie: the interface is row-major."""
    border = {*graph.inputs, *graph.outputs}
    return lambda v: View.of(v.dims) if v in border else assumed_view(v, isa)
