"""factorize: a matrix product or a convolution becomes two or three smaller ones, where that saves weights or time.

Products and 1x1 convolutions are cut in two (SVD), larger windows in two or three (Tucker-2); `changes/low_rank.py` has the algebra.
Layers are fitted one after the other, each to what it reads in the net that is already compressed, so that it makes what it made before.
What comes out are ordinary nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edgec.cost import kernel_cycles
from edgec.errors import UsageError
from edgec.ir.edit import Namer, attributes, prune, splice
from edgec.ir.evaluate import evaluate, evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value, captured
from edgec.ir.layout import View
from edgec.ir.types import Tensor
from edgec.ir.windows import taps
from edgec.isa import Isa, cpu_isa
from edgec.kernels.base import Operands
from edgec.kernels.plan import plan
from edgec.pipeline import Context
from passes.changes.low_rank import Factors, Layer, Shape, best, curve, share
from passes.changes.ranks import Wanted, read
from passes.cluster import assumed_view

NAME = "factor-low-rank"
_LOSS = 0.005           # in `auto`, how much of the variance of its results a layer may lose
_GAIN = 0.75            # in `auto`, the share of the time that parts may be expected to take: less is no reason to lose anything
_SMALL = 0.01           # with a ratio, a layer of a smaller share of the weights stays: it saves nothing
_ROWS = 1 << 22         # numbers that are kept of what a layer reads
_HELD_OUT = 4           # in `auto`, one sample in so many judges what the others have fitted
_TRIED = 3              # in `auto`, shapes that are fitted before a layer is left alone
_PROBES = 32            # samples that show how much of what a layer loses arrives at the outputs
_NOTHING = 1e-30
_PRIME = 7919
_WINDOW = 2             # axes of a weight that are no window


@dataclass(frozen=True)
class _Site:
    """A node that could be factored: its weight as [O,I,T], and its bias."""

    node: Node
    weight: Array
    bias: Array | None

    @property
    def name(self) -> str:
        return self.node.origin or self.node.output.name


def run(graph: Graph, context: Context) -> Graph:
    """The graph with factored layers; UsageError when `rank` names no layer, or is `auto` without a target."""
    wanted = read(str(context.options.get("rank", "auto")))
    sites = {n: _site(graph, n) for n in graph.nodes if n.op in ("MatMul", "Gemm", "Conv")}
    wanted.check([s.name if isinstance(s, _Site) else (n.origin or n.output.name) for n, s in sites.items()])
    if not any(isinstance(s, _Site) for s in sites.values()):
        _tell(sites, context)
        return graph
    if wanted.auto and context.target is None:
        raise UsageError("rank auto compares the times of kernels, so factorize needs a target; without one, say a ratio or ranks")
    if not context.samples:
        context.note("low rank: there are no samples, so weights are fitted by themselves, which loses more: give --calibrate")
    _tell(sites, context)
    return _Factorize(graph, context, wanted, sites).run()


def _tell(sites: Mapping[Node, _Site | str], context: Context) -> None:
    for node, site in sites.items():
        if isinstance(site, str):
            _stays(context, node.origin or node.output.name, site)


def _stays(context: Context, name: str, reason: str) -> None:
    context.note(f"low rank: {name} stays as it is: {reason}")


class _Walk:
    """The values of a net for all samples, as far as they are still read, while its nodes are computed one after the other."""

    def __init__(self, graph: Graph, samples: Sequence[Mapping[str, Any]]) -> None:
        self.known = [{**graph.weights} | {v: f[v.name] for v in graph.inputs} for f in samples]
        self.last = {v: n for n in graph.nodes for v in (*n.inputs, *(c for _, body in n.bodies for c in captured(body))) if v is not None}

    def read(self, node: Node) -> list[Array]:
        """What a node reads first, sample by sample."""
        return [values[v] for values in self.known if (v := node.inputs[0]) is not None]

    def go(self, node: Node, nodes: Sequence[Node], weights: Mapping[Value, Array]) -> None:
        """Compute what a node makes by the nodes that stand for it."""
        for values in self.known:
            values.update(weights)
            for n in nodes:
                values.update(zip(n.outputs, evaluate_node(n, [None if v is None else values[v] for v in n.inputs], values), strict=False))
            for v in [v for v in values if self.last.get(v) is node]:
                del values[v]


class _Factorize:
    def __init__(self, graph: Graph, context: Context, wanted: Wanted, sites: Mapping[Node, _Site | str]) -> None:
        self.graph, self.context, self.wanted = graph, context, wanted
        self.layers = len(sites)
        self.sites = {n: s for n, s in sites.items() if isinstance(s, _Site)}
        self.name = Namer(graph)
        self.isa = cpu_isa(context.target) if context.target is not None else None
        self.footprint = sum(a.nbytes for a in graph.weights.values())
        self.costs: dict[Any, float] = {}
        self.results: dict[Node, list[Array]] = {}
        self.budgets: Mapping[Node, int] = {}
        self.reference: list[list[Array]] = []

    def run(self) -> Graph:
        """Two walks over the net with all samples: the first sees what its layers make, in the second they are fitted."""
        nodes = self.graph.nodes[:1 + max(i for i, n in enumerate(self.graph.nodes) if n in self.sites)]
        walk, curves = _Walk(self.graph, self.context.samples), dict[Node, list[tuple[int, float]]]()
        for node in nodes:
            if node in self.sites:
                layer = self._layer(node, walk.read(node))
                self.results[node] = layer.split(layer.results, len(walk.known)) if walk.known else []
                if isinstance(self.wanted.every, float):
                    curves[node] = self._curve(node, layer, self.wanted.every)
            if node is not nodes[-1]:
                walk.go(node, (node,), {})
        if isinstance(self.wanted.every, float):
            self.budgets = share(curves, self.wanted.every, _SMALL)
        walk = _Walk(self.graph, self.context.samples)
        instead, weights = dict[Node, tuple[Node, ...]](), dict[Value, Array]()
        for node in nodes:
            found = self._factored(node, walk.read(node)) if node in self.sites and self.context.may(NAME) else None
            if found is not None:
                self.context.did(NAME, node)
                instead[node] = found[0]
                weights.update(found[1])
            if node is not nodes[-1]:                                   # nobody is fitted behind the last one
                walk.go(node, *(found or ((node,), {})))
        if not instead:
            return self.graph
        before, after = sum(self.sites[n].weight.size for n in instead), sum(a.size for a in weights.values() if a.ndim > 1)
        self.context.note(f"low rank: {len(instead)} of {self.layers} layers are factored, with {before / after:.2f} times fewer weights")
        return prune(splice(self.graph, instead, weights))

    def _curve(self, node: Node, layer: Layer, ratio: float) -> list[tuple[int, float]]:
        """What a layer loses with fewer weights, counted by what of that arrives at the outputs of the net."""
        points, shape = curve(layer), best(layer, int(layer.weight.size / ratio))
        feeds = self.context.samples[:-(-_PROBES // _batch(self.graph))]
        if shape is None or not feeds:
            return points
        factors = layer.fit(shape)
        nodes, holes = _nodes(self.sites[node], shape, str)
        changed = splice(self.graph, {node: nodes}, dict(zip(holes, _arrays(self.sites[node], factors), strict=True)))
        if not self.reference:
            self.reference.extend(_reals(evaluate(self.graph, f)) for f in feeds)
        arrived = _distance(self.reference, [_reals(evaluate(changed, f)) for f in feeds])
        return [(size, loss * arrived / max(layer.loss(factors), _NOTHING)) for size, loss in points]

    def _layer(self, node: Node, read: Sequence[Array], chosen: Sequence[int] | None = None) -> Layer:
        """A layer with what it reads in some of the samples, and what it made of them in the net as it was."""
        site = self.sites[node]
        o, i, window = site.weight.shape
        if not read:
            return Layer(site.weight, None, node.op != "MatMul")
        chosen = range(len(read)) if chosen is None else chosen
        most = max(1, _ROWS // (i * window * len(read)), 2 * o // len(read))
        rows = np.concatenate([_rows(node, read[s], most, s) for s in chosen]).reshape(-1, i, window)
        wanted = np.concatenate([self.results[node][s] for s in chosen]) if node in self.results else None
        return Layer(site.weight, rows, node.op != "MatMul", wanted)

    def _factored(self, node: Node, read: Sequence[Array]) -> tuple[tuple[Node, ...], dict[Value, Array]] | None:
        """The nodes that stand for a layer and their weights, None (and a note) when it stays."""
        site = self.sites[node]
        asked = self.wanted.of(site.name)
        if asked is None:
            return None
        found: tuple[Shape, Factors] | str
        if isinstance(asked, str):
            found = self._auto(site, read)
        else:
            layer = self._layer(node, read)
            shape = self._ratio(node, layer) if isinstance(asked, float) else asked.shape(layer)
            found = shape if isinstance(shape, str) else (shape, layer.fit(shape))
        if isinstance(found, str):
            _stays(self.context, site.name, found)
            return None
        nodes, holes = _nodes(site, found[0], self.name)
        return nodes, dict(zip(holes, _arrays(site, found[1]), strict=True))

    def _ratio(self, node: Node, layer: Layer) -> Shape | str:
        size, budget = layer.weight.size, self.budgets[node]
        if size < _SMALL * sum(s.weight.size for s in self.sites.values()):
            return f"it holds {size / sum(s.weight.size for s in self.sites.values()):.1%} of the weights"
        if budget >= size:
            return "the other layers can do without weights more easily"
        return best(layer, budget) or f"{budget} of its {size} weights are not enough for rank 1"

    def _auto(self, site: _Site, read: Sequence[Array]) -> tuple[Shape, Factors] | str:
        """The fastest shape that loses little, or why there is none."""
        if self.isa is None:
            raise UsageError("rank auto needs a target")
        now = self._cycles(self.isa, (site.node,))
        costs = {shape: self._cycles(self.isa, _nodes(site, shape, str)[0]) for shape in _grid(site.weight, self.isa.lanes)}
        faster = sorted((s for s, c in costs.items() if c <= _GAIN * now), key=lambda s: costs[s])
        if not faster:
            least = f"at least {min(costs.values()):,.0f} in parts" if costs else "and has no parts that fill vectors"
            return f"it takes {now:,.0f} cycles now, {least}, by prediction"
        held = range(_HELD_OUT - 1, len(read), _HELD_OUT)
        fitted = self._layer(site.node, read, [i for i in range(len(read)) if i not in held])
        judge = self._layer(site.node, read, held) if held else fitted
        near = [s for s in faster if fitted.expected(s) <= _LOSS][:_TRIED]
        for shape in near:
            if judge.loss(fitted.fit(shape)) <= _LOSS:
                return shape, self._layer(site.node, read).fit(shape)
        tried = near or [min(faster, key=fitted.expected)]
        lost = min(judge.loss(fitted.fit(s)) for s in tried)
        return f"parts that are faster ({tried[-1]}) lose {lost:.1%} of the variance of its results, {_LOSS:.1%} is allowed"

    def _cycles(self, isa: Isa, nodes: Sequence[Node]) -> float:
        """What kernels for these nodes are expected to take, calls and memory included; infinite when there is no kernel."""
        total = 0.0
        for node in nodes:
            key = (node.op, tuple(v.dims for v in node.inputs if v is not None), node.output.dims,
                   *(tuple(node.attrs.get(k, ())) for k in ("strides", "pads", "dilations")))
            if key not in self.costs:
                self.costs[key] = self._cost(isa, node)
            total += self.costs[key]
        return total

    def _cost(self, isa: Isa, node: Node) -> float:
        image = node.op == "Conv"
        operands = Operands(lambda v: assumed_view(v, isa) if image else View.of(v.dims), lambda v: v is not node.inputs[0], lambda _: None)
        made = plan(node, isa, operands)
        if isinstance(made, str):
            return float("inf")
        what = made.plan
        return kernel_cycles(isa, what.macs, what.bytes, footprint=max(what.bytes, self.footprint), computing=what.cycles)


def _batch(graph: Graph) -> int:
    return max(1, min((v.dims[0] for v in graph.inputs if isinstance(v.type, Tensor) and v.type.is_static and v.dims), default=1))


def _reals(results: Mapping[str, Any]) -> list[Array]:
    return [np.asarray(a, np.float64) for a in results.values() if isinstance(a, np.ndarray) and a.dtype.kind == "f"]


def _distance(wanted: Sequence[Sequence[Array]], made: Sequence[Sequence[Array]]) -> float:
    """How far results are off, as a share of how much they differ from their mean: the sum over the outputs."""
    total = 0.0
    for ours, theirs in zip(zip(*wanted, strict=True), zip(*made, strict=True), strict=True):
        first, second = np.concatenate([a.reshape(-1) for a in ours]), np.concatenate([a.reshape(-1) for a in theirs])
        total += float(np.square(first - second).sum()) / max(float(np.square(first - first.mean()).sum()), _NOTHING)
    return total


def _site(graph: Graph, node: Node) -> _Site | str:
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
        return _Site(node, weight.reshape(*weight.shape[:_WINDOW], -1), None if bias is None else graph.weights[bias])
    if weight.ndim != _WINDOW:
        return "its weight is no matrix"
    if node.attrs.get("transA") or node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0:
        return "it is a Gemm with factors or with a transposed left operand"
    if bias is not None and graph.weights[bias].shape != node.output.dims[-1:]:
        return "its bias is no vector"
    matrix = weight if node.attrs.get("transB") else weight.T
    return _Site(node, np.ascontiguousarray(matrix)[:, :, None], None if bias is None else graph.weights[bias])


def _rows(node: Node, x: Array, most: int, sample: int) -> Array:
    """At most so many of the vectors that a weight is multiplied by, spread evenly, and not at the same places in each sample."""
    if node.op != "Conv":
        rows = x.reshape(-1, x.shape[-1])
        return np.asarray(rows[_places(len(rows), most, sample)])
    view, out = taps(x, _dims(node, 1)[_WINDOW:], node.attrs, 0)
    image, *where = np.unravel_index(_places(len(x) * prod(out), most, sample), (len(x), *out))
    index: tuple[Any, ...] = (image, slice(None), *where)
    return np.asarray(view[index])


def _places(count: int, most: int, sample: int) -> Array:
    return np.asarray((np.linspace(0, count, min(most, count), endpoint=False).astype(int) + _PRIME * sample) % count)


def _dims(node: Node, i: int) -> tuple[int, ...]:
    value = node.inputs[i]
    return () if value is None else value.dims


def _grid(weight: Array, lanes: int) -> list[Shape]:
    """Shapes whose ranks fill vectors and which have fewer weights than the layer."""
    o, i, window = weight.shape

    def ranks(most: int) -> list[int]:
        step = lanes if most > lanes else max(1, lanes // 4)
        every = range(step, most, step)
        return sorted({every[k * len(every) // 12] for k in range(12)}) if every else []

    if window == 1:
        shapes = [Shape(None, r) for r in ranks(min(o, i))]
    else:
        shapes = [Shape(a, b) for a in (*ranks(i), None) for b in (*ranks(min(o, i * window)), None) if a or b]
    return [s for s in shapes if s.weights(weight) < weight.size]


def _nodes(site: _Site, shape: Shape, name: Any) -> tuple[tuple[Node, ...], tuple[Value, ...]]:
    """The parts of a layer, and the values of their weights in the order of `_arrays`."""
    node, x, base = site.node, site.node.inputs[0], site.node.output.name
    o, i, _ = site.weight.shape
    window, image = _dims(node, 1)[_WINDOW:], node.op == "Conv"
    holes: list[Value] = []
    nodes: list[Node] = []

    def hole(what: str, *dims: int) -> Value:
        holes.append(Value(name(f"{base}.{what}"), Tensor("f32", dims)))
        return holes[-1]

    def middle(what: str, size: int, like: tuple[int, ...]) -> Value:
        dims = (like[0], size, *like[2:]) if image else (*like[:-1], size)
        return Value(name(f"{base}.{what}"), Tensor("f32", dims))

    one = [1] * len(window)
    plain = attributes(kernel_shape=one, strides=one, pads=one and [0] * (2 * len(one)), dilations=one, group=1)
    r1, r2 = shape.inputs or i, shape.results or o
    current = x
    if shape.inputs is not None:
        made = middle("into", r1, _dims(node, 0))
        nodes.append(Node("Conv", (current, hole("into.weight", r1, i, *one)), (made,), plain, node.device, node.origin))
        current = made
    ends = shape.results is None
    made = node.output if ends else middle("core", r2, node.output.dims)
    core = hole("core.weight", *((r2, r1, *window) if image else (r1, r2)))
    bias = (hole("core.bias", o),) if ends else ()
    op, attrs = ("Conv", node.attrs) if image else ("MatMul", attributes())
    nodes.append(Node(op, (current, core, *bias), (made,), attrs, node.device, node.origin))
    if not ends:
        weight = hole("last.weight", *((o, r2, *one) if image else (r2, o)))
        add = () if node.op == "MatMul" else (hole("last.bias", o),)
        nodes.append(Node(node.op, (made, weight, *add), node.outputs, plain if image else attributes(), node.device, node.origin))
    return tuple(nodes), tuple(holes)


def _arrays(site: _Site, factors: Factors) -> list[Array]:
    """The weights of the parts, in the order of `_nodes`."""
    image, window = site.node.op == "Conv", _dims(site.node, 1)[_WINDOW:]
    one = [1] * len(window)
    made: list[Array] = []
    if factors.first is not None:
        made.append(factors.first.reshape(*factors.first.shape, *one))
    made.append(factors.core.reshape(*factors.core.shape[:2], *window) if image else factors.core[:, :, 0].T)
    if factors.last is not None:
        made.append(factors.last.reshape(*factors.last.shape, *one) if image else factors.last.T)
    if site.node.op != "MatMul":
        made.append(factors.shift if site.bias is None else site.bias + factors.shift)
    return [np.ascontiguousarray(a, np.float32) for a in made]


