"""factorize: a matrix product or a convolution becomes two or three smaller ones, where that saves weights or time.

Products and 1x1 convolutions are cut in two (SVD), larger windows in two or three (Tucker-2), or into one window along each axis;
`changes/low_rank.py` has the algebra. Layers are fitted one after the other, each to what it reads in the net that is already compressed,
so that it makes what it made before. What comes out are ordinary nodes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from edgec.cost import node_macs
from edgec.errors import UsageError
from edgec.ir.edit import Namer, prune, splice
from edgec.ir.evaluate import evaluate, evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value, captured
from edgec.ir.types import Tensor
from edgec.isa import cpu_isa
from edgec.pipeline import Context
from passes.changes.costs import Costs
from passes.changes.low_rank import Factors, Layer, Shape
from passes.changes.parts import Site, arrays, nodes, rows, site
from passes.changes.probes import worth
from passes.changes.ranks import Rank, Share, Wanted, read
from passes.changes.sharing import best, curve, flat, share
from passes.changes.tuning import split, tune

NAME = "factor-low-rank"
_LOSS = 0.005           # in `auto`, how much of the variance of its results a layer may lose
_ARRIVES = 0.01         # in `auto`, how much of the variance of the outputs all factored layers together may lose
_GAIN = 0.75            # in `auto`, the share of the time that parts may be expected to take: less is no reason to lose anything
_WORTHWHILE = 1.1       # in `auto`, how much faster all contractions together must become: less is no reason to change any
_EVIDENCE = 64          # in `auto`, samples without which nothing is judged
_SURE = 2.0             # in `auto`, standard errors that are added to what samples say
_HELD_OUT = 4           # in `auto`, one sample in so many judges what the others have fitted
_TRIED = 3              # in `auto`, shapes that are fitted before a layer is left alone
_SMALL = 0.01           # with a ratio, a layer of a smaller share of the weights stays: it saves nothing
_ROWS = 1 << 24         # numbers that are kept of what a layer reads
_PROBES = 48            # samples that show how much of what a layer loses arrives at the outputs
_WORK = 6e9             # multiply-accumulates that may be spent on that for a layer
_NOTHING = 1e-30


def run(graph: Graph, context: Context) -> Graph:
    """The graph with factored layers; UsageError when `rank` names no layer, or is `auto` without a target.

    With `alone` each layer is fitted by itself, and what follows from changing all of them is not mended by fitting them together.
    """
    wanted = read(str(context.options.get("rank", "auto")))
    sites = {n: site(graph, n) for n in graph.nodes if n.op in ("MatMul", "Gemm", "Conv")}
    wanted.check([s.name if isinstance(s, Site) else (n.origin or n.output.name) for n, s in sites.items()])
    found = {n: s for n, s in sites.items() if isinstance(s, Site)}
    for node, other in sites.items():
        if isinstance(other, str):
            _stays(context, node.origin or node.output.name, other)
    if found and wanted.auto and context.target is None:
        raise UsageError("rank auto compares the times of kernels, so factorize needs a target; without one, say a ratio or ranks")
    if found and not context.samples and not wanted.auto:
        context.note("low rank: there are no samples, so weights are fitted by themselves, which loses more: give --calibrate")
    return _Factorize(graph, context, wanted, found).run(len(sites)) if found else graph


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

    def go(self, node: Node, instead: Sequence[Node], weights: Mapping[Value, Array]) -> None:
        """Compute what a node makes by the nodes that stand for it."""
        for values in self.known:
            values.update(weights)
            for n in instead:
                values.update(zip(n.outputs, evaluate_node(n, [None if v is None else values[v] for v in n.inputs], values), strict=False))
            for v in [v for v in values if self.last.get(v) is node]:
                del values[v]


class _Factorize:
    def __init__(self, graph: Graph, context: Context, wanted: Wanted, sites: Mapping[Node, Site]) -> None:
        self.graph, self.context, self.wanted, self.sites = graph, context, wanted, sites
        self.name = Namer(graph)
        self.costs = Costs(graph, cpu_isa(context.target)) if context.target is not None else None
        self.plain: dict[Node, Layer] = {}
        self.results: dict[Node, list[Array]] = {}
        self.worth: dict[Node, Array | None] = {}
        self.budgets: Mapping[Node, int] = {}
        self.spare = 0                                                  # weights that layers had and whose ranks did not use them
        self.faster: dict[Node, list[Shape]] = {}
        self.reference: list[list[Array]] = []
        self.outputs: dict[int, list[Array]] = {}
        self.split = split(graph, context.samples) if context.samples and len(sites) > 1 else ""       # a layer alone has nothing to tune
        self.samples = self.split[0] if isinstance(self.split, tuple) and not wanted.auto else context.samples

    def run(self, layers: int) -> Graph:
        """Two walks over the net with all samples: the first sees what its layers make, in the second they are fitted."""
        for node in self.sites:
            self._prepare(node)
        if self.wanted.auto and self.faster and self.costs is not None:
            self._together({n: self.costs.of(nodes(self.sites[n], shapes[0], str)[0]) for n, shapes in self.faster.items()})
        if not self.faster:
            return self.graph
        order = self.graph.nodes[:1 + max(i for i, n in enumerate(self.graph.nodes) if n in self.faster)]
        self._look(order)
        walk = _Walk(self.graph, self.samples)
        instead, weights = dict[Node, tuple[Node, ...]](), dict[Value, Array]()
        for node in order:
            found = self._factored(node, walk) if node in self.faster and self.context.may(NAME, len(instead)) else None
            if found is not None:
                instead[node] = found[0]
                weights.update(found[1])
            if node is not order[-1]:                                   # nobody is fitted behind the last one
                walk.go(node, *(found or ((node,), {})))
        faster = ""
        if self.costs is not None and instead:
            gain = self._together({n: self.costs.of(made) for n, made in instead.items()})
            faster = f", by prediction {gain:.2f} times the speed of all layers"
        if not instead or (self.wanted.auto and not self.faster):
            return self.graph
        for node in instead:
            self.context.did(NAME, node)
        before, after = sum(self.sites[n].weight.size for n in instead), sum(a.size for a in weights.values() if a.ndim > 1)
        fewer = f"{before / after:.2f} times fewer weights"
        self.context.note(f"low rank: {len(instead)} of {layers} layers are factored, with {fewer}{faster}")
        return prune(splice(self.graph, instead, self._tuned(instead, weights)))

    def _tuned(self, instead: Mapping[Node, Sequence[Node]], weights: Mapping[Value, Array]) -> Mapping[Value, Array]:
        """The weights of all parts after they were fitted together, where that helps."""
        if not self.split or self.context.options.get("alone"):
            return weights
        found = self.split if isinstance(self.split, str) else tune(self.graph, instead, weights, *self.split)
        if isinstance(found, str):
            self.context.note(f"low rank: parts of different layers are not fitted together: {found}")
            return weights
        if not found.after < found.before:
            self.context.note("low rank: parts of different layers stay as each was fitted: steps together do not help")
            return weights
        self.context.note(f"low rank: fitted together, all parts lose {found.after:.2%} of the variance of the outputs on samples left out,"
                          f" one by one {found.before:.2%}")
        return found.weights

    def _together(self, parts: Mapping[Node, float]) -> float:
        """How many times faster all contractions become with some in parts; in `auto` these stay when that is not worth it."""
        if self.costs is None:
            raise UsageError("rank auto needs a target")
        cycles = {n: self.costs.of((n,)) for n in self.graph.nodes if n.op in ("MatMul", "Gemm", "Conv")}
        gain = sum(cycles.values()) / sum(parts.get(n, c) for n, c in cycles.items())
        if self.wanted.auto and gain < _WORTHWHILE:
            said = f"its parts would be faster, but all layers together only {gain:.2f} times, by prediction: less than {_WORTHWHILE}"
            for node in parts:
                _stays(self.context, self.sites[node].name, said)
            self.faster = {}
        return gain

    def _prepare(self, node: Node) -> None:
        """Take down a layer that is asked for, with the shapes that are faster; in `auto` leave alone what cannot gain or be judged."""
        name = self.sites[node].name
        asked = self.wanted.of(name)
        if asked is None:
            return
        if asked != "auto":
            self.faster[node] = []
            return
        found = self._gains(node)
        if isinstance(found, str):
            _stays(self.context, name, found)
        elif (count := _batch(self.graph) * len(self.context.samples)) < _EVIDENCE:
            had = f"{count} samples cannot tell" if count else "without samples (--calibrate) nobody can tell"
            _stays(self.context, name, f"{had} what faster parts lose: at least {_EVIDENCE} are needed")
        else:
            self.faster[node] = found

    def _gains(self, node: Node) -> list[Shape] | str:
        """The shapes that are predicted to be faster, the fastest first, or why there is none."""
        if self.costs is None:
            raise UsageError("rank auto needs a target")
        now = self.costs.of((node,))
        of = self.sites[node]
        costs = {shape: self.costs.of(nodes(of, shape, str)[0]) for shape in _grid(of.weight, self.costs.isa.lanes)}
        faster = sorted((s for s, c in costs.items() if c <= _GAIN * now), key=lambda s: costs[s])
        if faster:
            return faster
        least = f"at least {min(costs.values()):,.0f} in parts" if costs else "and has no parts that fill vectors"
        return f"it takes {now:,.0f} cycles now, {least}, by prediction"

    def _look(self, order: Sequence[Node]) -> None:
        """See what layers make and what that is worth, and share out the weights of a ratio."""
        walk, curves = _Walk(self.graph, self.samples), dict[Node, list[tuple[int, float]]]()
        for node in order:
            made = None
            if node in self.faster:
                made = self._layer(node, walk.read(node))
                self.results[node] = np.split(made.target.astype(np.float32), len(walk.known)) if walk.known else []
            walk.go(node, (node,), {})
            if made is not None:
                probes = walk.known[:-(-_PROBES // _batch(self.graph))]
                self.worth[node] = self._once("worth", node, partial(worth, self.graph, node, probes, _WORK))
                if isinstance(self.wanted.every, float):
                    valued = replace(made, worth=self.worth[node]) if self.worth[node] is not None else made
                    curves[node] = self._curve(node, valued, self.wanted.every)
        if isinstance(self.wanted.every, float):
            self.budgets = share(curves, self.wanted.every, _SMALL)

    def _once(self, what: str, node: Node, find: Callable[[], Any]) -> Any:
        """What does not depend on how layers are factored, found once for all runs over the same graph and samples."""
        key = NAME, what, node, self.wanted.auto                        # `auto` fits to other samples
        if key not in self.context.again:
            self.context.again[key] = find()
        return self.context.again[key]

    def _curve(self, node: Node, layer: Layer, ratio: float) -> list[tuple[int, float]]:
        """What a layer loses with fewer weights, counted by what of that arrives at the outputs of the net."""
        costs: dict[int, float] = self._once("costs", node, dict)
        points, shape = curve(layer, ratio, costs), best(layer, int(layer.weight.size / ratio))
        work = sum(node_macs(n) for n in self.graph.nodes if n in self.sites)
        feeds = self.samples[:max(1, min(-(-_PROBES // _batch(self.graph)), int(_WORK / max(work, 1))))]
        if shape is None or not feeds:
            return points
        factors = layer.fit(shape)
        made, holes = nodes(self.sites[node], shape, str)
        changed = splice(self.graph, {node: made}, dict(zip(holes, arrays(self.sites[node], shape, factors), strict=True)))
        if not self.reference:
            self.reference.extend(_reals(evaluate(self.graph, f)) for f in feeds)
        arrived = _distance(self.reference, [_reals(evaluate(changed, f)) for f in feeds])
        return [(size, loss * arrived / max(layer.cost(factors), _NOTHING)) for size, loss in points]

    def _layer(self, node: Node, seen: Sequence[Array], chosen: Sequence[int] | None = None) -> Layer:
        """A layer with what it reads in some of the samples, and what it made of them in the net as it was."""
        weight = self.sites[node].weight
        if not seen:                                                    # always the same, so what is known of it is kept
            return self.plain.setdefault(node, Layer(weight, None, node.op != "MatMul"))
        chosen = range(len(seen)) if chosen is None else chosen
        o, i, *window = weight.shape
        most = max(1, _ROWS // (weight[0].size * len(seen)), 2 * o // len(seen))
        read_rows = np.concatenate([rows(node, seen[s], most, s) for s in chosen]).reshape(-1, i, prod(window))
        wanted = np.concatenate([self.results[node][s] for s in chosen]) if node in self.results else None
        return Layer(weight, read_rows, node.op != "MatMul", wanted, self.worth.get(node))

    def _factored(self, node: Node, walk: _Walk) -> tuple[tuple[Node, ...], dict[Value, Array]] | None:
        """The nodes that stand for a layer and their weights, None (and a note) when it stays."""
        asked = self.wanted.of(self.sites[node].name)
        found: tuple[Shape, Factors] | str
        if isinstance(asked, Rank | Share | float):
            layer = self._layer(node, walk.read(node))
            shape = self._ratio(node, layer) if isinstance(asked, float) else asked.shape(layer)
            found = shape if isinstance(shape, str) else (shape, layer.fit(shape))
        else:
            found = self._auto(node, walk)
        if isinstance(found, str):
            _stays(self.context, self.sites[node].name, found)
            return None
        return self._parts(node, *found)

    def _parts(self, node: Node, shape: Shape, factors: Factors) -> tuple[tuple[Node, ...], dict[Value, Array]]:
        made, holes = nodes(self.sites[node], shape, self.name)
        return made, dict(zip(holes, arrays(self.sites[node], shape, factors), strict=True))

    def _ratio(self, node: Node, layer: Layer) -> Shape | str:
        size, budget = layer.weight.size, self.budgets[node]
        if size < _SMALL * sum(s.weight.size for s in self.sites.values()):
            return f"it holds {size / sum(s.weight.size for s in self.sites.values()):.1%} of the weights"
        if budget >= size:
            return "the other layers can do without weights more easily"
        found = best(layer, min(budget + self.spare, size - 1))
        self.spare += budget - (found.weights(layer.weight.shape) if found else size)
        return found or f"{budget} of its {size} weights are not enough for rank 1"

    def _auto(self, node: Node, walk: _Walk) -> tuple[Shape, Factors] | str:
        """The fastest shape that loses little on samples it was not fitted to, or why there is none."""
        seen = walk.read(node)
        held = range(_HELD_OUT - 1, len(seen), _HELD_OUT)
        fitted = self._layer(node, seen, [i for i in range(len(seen)) if i not in held])
        near = [s for s in self.faster[node] if fitted.expected(s) <= _LOSS][:_TRIED]
        lost, arrives = float("inf"), float("inf")
        for shape in near or [min(self.faster[node], key=fitted.expected)]:
            factors = fitted.fit(shape)
            lost = _bound([self._layer(node, seen, [i]).loss(factors) for i in held])
            if lost <= _LOSS:
                arrives = self._arrives(node, shape, factors, [walk.known[i] for i in held], held)
                if arrives <= _ARRIVES:
                    return shape, factors
        if lost > _LOSS:
            return f"parts that are faster ({shape}) lose up to {lost:.1%} of the variance of its results, {_LOSS:.1%} is allowed"
        return f"with parts that are faster ({shape}) the outputs lose up to {arrives:.1%} of their variance, {_ARRIVES:.1%} is allowed"

    def _arrives(self, node: Node, shape: Shape, factors: Factors, known: Sequence[Mapping[Value, Any]], held: Sequence[int]) -> float:
        """How much the outputs lose on samples that were held out, with this layer in parts and those before it as they are now."""
        made, weights = self._parts(node, shape, factors)
        later = self.graph.nodes[self.graph.nodes.index(node) + 1:]
        losses = list[float]()
        for values, i in zip(known, held, strict=True):
            if i not in self.outputs:
                self.outputs[i] = _reals(evaluate(self.graph, self.context.samples[i]))
            now = {**values, **weights}
            for n in (*made, *later):
                now.update(zip(n.outputs, evaluate_node(n, [None if v is None else now[v] for v in n.inputs], now), strict=False))
            losses.append(_distance([self.outputs[i]], [_reals({v.name: now[v] for v in self.graph.outputs})]))
        return _bound(losses)


def _batch(graph: Graph) -> int:
    return max(1, min((v.dims[0] for v in graph.inputs if isinstance(v.type, Tensor) and v.type.is_static and v.dims), default=1))


def _bound(losses: Sequence[float]) -> float:
    """The mean of some losses, and as much more as so few of them leave open."""
    return float(np.mean(losses) + _SURE * np.std(losses, ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else float("inf")


def _reals(results: Mapping[str, Any]) -> list[Array]:
    return [np.asarray(a, np.float64) for a in results.values() if isinstance(a, np.ndarray) and a.dtype.kind == "f"]


def _distance(wanted: Sequence[Sequence[Array]], made: Sequence[Sequence[Array]]) -> float:
    """How far results are off, as a share of how much they differ from their mean: the sum over the outputs."""
    total = 0.0
    for ours, theirs in zip(zip(*wanted, strict=True), zip(*made, strict=True), strict=True):
        first, second = np.concatenate([a.reshape(-1) for a in ours]), np.concatenate([a.reshape(-1) for a in theirs])
        total += float(np.square(first - second).sum()) / max(float(np.square(first - first.mean()).sum()), _NOTHING)
    return total


def _grid(weight: Array, lanes: int) -> list[Shape]:
    """Shapes whose ranks fill vectors and which have fewer weights than the layer."""
    o, i, *window = weight.shape
    taps = prod(window)

    def ranks(most: int) -> list[int]:
        step = lanes if most > lanes else max(1, lanes // 4)
        every = range(step, most, step)
        return sorted({every[k * len(every) // 12] for k in range(12)}) if every else []

    shapes = [Shape(results=r) for r in ranks(min(o, i * taps))]
    if taps > 1:
        shapes += [Shape(a, b) for a in ranks(i) for b in (*ranks(min(o, i * taps)), None)]
    if flat(window):
        shapes += [Shape(lines=r) for r in ranks(min(i * window[0], o * window[1]))]
    return [s for s in shapes if s.weights(weight.shape) < weight.size]
