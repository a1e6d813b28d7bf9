"""All parts of a net fitted together: small steps downhill, so that the net makes what it made when it was whole.

What counts are its outputs, and behind each factored layer what the next one reads. Both nets see samples, so no labels are needed; and as
the whole net answers anything, the samples are varied: images are moved a little and get patches of others, other inputs are mixed. Whether
it helped is seen on samples that are held out as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.cost import node_macs
from edgec.ir.edit import splice
from edgec.ir.evaluate import evaluate_node
from edgec.ir.gradients import differentiable, slopes
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor

Known = dict[Value, Any]
Feed = Mapping[str, Any]

_EVIDENCE = 64          # samples below which nothing is tuned
_HELD_OUT = 8           # one sample in so many judges
_TOGETHER = 32          # samples of a step, at least
_PASSES = 80            # over all samples, at most
_LEAST = 4              # and at least, else it is not begun
_WORK = 6e11            # multiply-accumulates of all steps
_BACKWARD = 3           # times the work of a net that a step through it takes
_RATE = 0.02            # the largest step of a weight, as a share of the size of its part's weights
_FEWER = 4              # times fewer and smaller steps, where those were too much
_ON_THE_WAY = 1.0       # what errors in the net count, of those of the outputs
_BIAS = 0.1             # the size of a bias, as a share of the spread of the results
_SHIFT = 0.1            # how far images move, as a share of their extent
_PATCH = (0.2, 0.6)     # extents of patches
_SECOND, _FIRST = 0.98, 0.9     # how long slopes are remembered
_NOTHING = 1e-30
_IMAGE = 3              # axes of an image, at least


@dataclass(frozen=True)
class Tuned:
    """New weights, and how much of their variance the outputs lose on held-out samples, before and after."""

    weights: Mapping[Value, Array]
    before: float
    after: float


def split(graph: Graph, samples: Sequence[Feed]) -> tuple[Sequence[Feed], Sequence[Feed]] | str:
    """The samples to fit to, and those that judge whether steps helped; or why none will be made."""
    count = _batch(graph) * len(samples)
    if count < _EVIDENCE or len(samples) < 2:  # noqa: PLR2004  one is held out
        return f"{count} samples are too few"
    held = samples[::-1][::_HELD_OUT] if len(samples) > _HELD_OUT else samples[-1:]
    given = [s for s in samples if not any(s is h for h in held)]
    return (given, held) if _passes(given, graph, graph) >= _LEAST else "that would take too long"


def tune(graph: Graph, instead: Mapping[Node, Sequence[Node]], weights: Mapping[Value, Array], given: Sequence[Feed],
         held: Sequence[Feed]) -> Tuned | str:
    """Weights that bring the nodes `instead` nearer to what `graph` makes, judged by samples `held`; or why there are none."""
    small = _Net(splice(graph, instead, weights), weights)
    if small.fixed:
        return f"{small.fixed} has no derivative"
    if not _reals(graph):
        return "no output is in f32"
    together = max(1, -(-_TOGETHER // _batch(graph)))
    return _Tuning(graph, small, _looked_at(graph, instead), given).run(held, _passes(given, graph, small.graph), together)


class _Net:
    """A net whose weights in part are changed. `fixed` names a node in between that has no derivative, if there is one."""

    def __init__(self, graph: Graph, weights: Mapping[Value, Array]) -> None:
        self.graph, self.weights = graph, dict(weights)
        self.reached, behind = set(weights), set(graph.outputs)
        for node in graph.nodes:
            if not self.reached.isdisjoint(node.inputs):
                self.reached.update(node.outputs)
        for node in reversed(graph.nodes):
            if not behind.isdisjoint(node.outputs):
                behind.update(v for v in node.inputs if v is not None)
        self.steps = [n for n in graph.nodes if not self.reached.isdisjoint(n.outputs) and not behind.isdisjoint(n.outputs)]
        self.fixed = next((n.label for n in self.steps if not differentiable(n)), "")

    def run(self, feed: Feed, already: Known | None = None) -> Known:
        """All values; those that no changed weight reaches may be known already."""
        known: Known = {**self.graph.weights, **{v: feed[v.name] for v in self.graph.inputs}, **(already or {}), **self.weights}
        for n in self.graph.nodes:
            if already is not None and self.reached.isdisjoint(n.outputs):
                continue
            known.update(zip(n.outputs, evaluate_node(n, [None if v is None else known[v] for v in n.inputs], known), strict=False))
        return known

    def back(self, known: Known, by: Mapping[Value, Array]) -> dict[Value, Array]:
        """The derivatives of a scalar by the weights, from those by some values."""
        found = dict(by)
        for n in reversed(self.steps):
            mine = [found.get(v) for v in n.outputs]
            if all(m is None for m in mine):
                continue
            inputs, outputs = ([None if v is None else known[v] for v in some] for some in (n.inputs, n.outputs))
            wanted = [v in self.reached for v in n.inputs]
            for v, w, slope in zip(n.inputs, wanted, slopes(n, inputs, outputs, mine, wanted), strict=True):
                if v is not None and w and slope is not None:
                    found[v] = found[v] + slope if v in found else slope
        return {v: found[v] for v in self.weights if v in found}


class _Tuning:
    def __init__(self, whole: Graph, small: _Net, looked_at: Sequence[Value], given: Sequence[Feed]) -> None:
        self.whole, self.small, self.given = _Net(whole, {}), small, given
        self.images = {v.name: _axes(whole, v) for v in whole.inputs}
        self.draw = np.random.default_rng(0)
        outputs = _reals(whole)
        known = [self.whole.run(f) for f in given[:_TOGETHER]]
        spread = {v: max(_spread([k[v] for k in known]), _NOTHING) for v in {*looked_at, *outputs}}
        self.shares = {v: _ON_THE_WAY / (spread[v] * len(looked_at)) for v in looked_at}
        for v in outputs:
            self.shares[v] = self.shares.get(v, 0) + 1 / (spread[v] * len(outputs))
        self.outputs = {v: spread[v] for v in outputs}

    def run(self, held: Sequence[Feed], passes: int, together: int) -> Tuned:
        """The weights after all steps; where they help nobody, after fewer and smaller ones."""
        start, wanted = dict(self.small.weights), [self.whole.run(f) for f in held]
        before = self._lost(held, wanted)
        for fewer in (1, _FEWER):
            self.small.weights = dict(start)
            with np.errstate(all="ignore"):                             # steps that lead nowhere are noticed by what they lose
                self._descend(max(1, passes // fewer), together, _RATE / fewer)
                after = self._lost(held, wanted)
            if after < before:
                return Tuned(self.small.weights, before, after)
        return Tuned(start, before, before)

    def _descend(self, passes: int, together: int, most: float) -> None:
        """Steps whose size falls to nothing along half a wave, each along a mean of slopes over the root of their mean square (Adam)."""
        first, second = ({v: np.zeros_like(a) for v, a in self.small.weights.items()} for _ in range(2))
        sizes, order, steps = self._sizes(), list[int](), passes * -(-len(self.given) // together)
        for step in range(1, steps + 1):
            if not order:
                order = self.draw.permutation(len(self.given)).tolist()
            chosen, order = order[:together], order[together:]
            found = self._slopes([self._varied(self.given[i]) for i in chosen])
            rate = most * (1 + np.cos(np.pi * step / steps)) / 2
            for v, slope in found.items():
                first[v] = first[v] * _FIRST + slope * (1 - _FIRST)
                second[v] = second[v] * _SECOND + np.square(slope) * (1 - _SECOND)
                way = first[v] / (1 - _FIRST**step) / (np.sqrt(second[v] / (1 - _SECOND**step)) + _NOTHING)
                self.small.weights[v] = np.asarray(self.small.weights[v] - rate * sizes[v] * way, np.float32)

    def _sizes(self) -> dict[Value, float]:
        """What steps are measured by: the root mean square of a weight; of biases, which may be zero, some of the spread of the results."""
        known, sizes = self.small.run(self.given[0]), dict[Value, float]()
        for n in self.small.steps:
            for v in self.small.weights.keys() & set(n.inputs):
                weight = self.small.weights[v]
                square = np.square(weight, dtype=np.float64).mean() if weight.ndim > 1 else _BIAS**2 * _spread([known[n.output]])
                sizes[v] = float(np.sqrt(square))
        return sizes

    def _slopes(self, feeds: Sequence[Feed]) -> dict[Value, Array]:
        total = dict[Value, Array]()
        for feed in feeds:
            wanted = self.whole.run(feed)
            made = self.small.run(feed, wanted)
            by = {v: (made[v] - wanted[v]) * np.float32(share / made[v].size) for v, share in self.shares.items()}
            for v, slope in self.small.back(made, by).items():
                total[v] = total[v] + slope if v in total else slope
        return total

    def _lost(self, feeds: Sequence[Feed], wanted: Sequence[Known]) -> float:
        """The share of the variance of the outputs that is lost."""
        made = [self.small.run(f, w) for f, w in zip(feeds, wanted, strict=True)]
        return sum(float(np.mean([np.square(m[v] - w[v]).mean() for m, w in zip(made, wanted, strict=True)])) / spread
                   for v, spread in self.outputs.items()) / max(len(self.outputs), 1)

    def _varied(self, feed: Feed) -> Feed:
        """A feed with each sample changed a little, as far as inputs are reals."""
        if any(np.asarray(a).dtype.kind != "f" for a in feed.values()):
            return feed
        other = self.given[int(self.draw.integers(len(self.given)))]
        return {name: self._varied_input(np.asarray(a), np.asarray(other[name]), self.images[name]) for name, a in feed.items()}

    def _varied_input(self, one: Array, other: Array, axes: Sequence[int]) -> Array:
        made = one.copy()
        for i, k in enumerate(self.draw.permutation(len(other)).tolist() if one.ndim else ()):
            if not axes:
                part = self.draw.uniform(0, 0.5)
                made[i] = one[i] * (1 - part) + other[k] * part
                continue
            image, extents = one[i], [one.shape[a] for a in axes]
            if self.draw.random() < 0.5:  # noqa: PLR2004  every other one
                moves = [int(self.draw.integers(-m, m + 1)) for m in (int(_SHIFT * d) for d in extents)]
                image = np.roll(image, moves, [a - 1 for a in axes])
            made[i] = image
            if self.draw.random() < 0.5:  # noqa: PLR2004
                place: list[Any] = [slice(None)] * image.ndim
                for a, d in zip(axes, extents, strict=True):
                    size = max(1, int(d * self.draw.uniform(*_PATCH)))
                    begin = int(self.draw.integers(d - size + 1))
                    place[a - 1] = slice(begin, begin + size)
                made[i][tuple(place)] = other[k][tuple(place)]
        return made


def _batch(graph: Graph) -> int:
    return max(1, min((v.dims[0] for v in graph.inputs if isinstance(v.type, Tensor) and v.type.is_static and v.dims), default=1))


def _reals(graph: Graph) -> list[Value]:
    return [v for v in graph.outputs if isinstance(v.type, Tensor) and v.type.dtype == "f32"]


def _passes(given: Sequence[Feed], whole: Graph, small: Graph) -> int:
    return min(_PASSES, int(_WORK / max(len(given) * (_macs(whole) + _BACKWARD * _macs(small)), 1)))


def _macs(graph: Graph) -> int:
    def static(n: Node) -> bool:
        return all(isinstance(v.type, Tensor) and v.type.is_static for v in (*n.inputs, *n.outputs) if v is not None)

    return sum(node_macs(n) for n in graph.nodes if n.op in ("Conv", "Gemm", "MatMul") and static(n))


def _spread(arrays: Sequence[Array]) -> float:
    return float(np.var(np.concatenate([a.reshape(-1) for a in arrays])))


def _looked_at(graph: Graph, factored: Mapping[Node, Any]) -> list[Value]:
    """Behind each factored layer what the next one reads: the result of the elementwise operators that follow."""
    readers = dict[Value, list[Node]]()
    for n in graph.nodes:
        for v in {v for v in n.inputs if v is not None}:
            readers.setdefault(v, []).append(n)
    found = list[Value]()
    for node in factored:
        value = node.output
        while len(after := readers.get(value, [])) == 1 and value not in graph.outputs:
            (n,) = after
            same = len(n.outputs) == 1 and isinstance(n.output.type, Tensor) and n.output.type == value.type
            if not same or n.op in ("Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "Softmax", "LayerNormalization"):
                break
            value = n.output
        if value not in found:
            found.append(value)
    return found


def _axes(graph: Graph, value: Value) -> list[int]:
    """The axes along which an input is an image: those along which a convolution slides over it; none when there is none."""
    if not isinstance(value.type, Tensor) or not value.type.is_static or len(value.dims) < _IMAGE:
        return []
    seen = {value: list(range(len(value.dims)))}
    for n in graph.nodes:
        axes = seen.get(n.inputs[0]) if n.inputs and n.inputs[0] is not None else None
        if axes is None:
            continue
        if n.op == "Conv":
            return [a for a in axes[2:] if value.dims[a] > 1]
        if n.op == "Transpose":
            seen[n.output] = [axes[p] for p in n.attrs.get("perm") or range(len(axes))[::-1]]
        elif isinstance(n.output.type, Tensor) and n.inputs[0] is not None and n.output.type == n.inputs[0].type:
            seen[n.output] = axes
    return []
