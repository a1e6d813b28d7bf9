"""The study of a net: what each edit of each layer is expected to change of its results, time, bytes and energy.

The error that an edit makes at its layer's results is measured on the layer alone. How much of an error arrives at the outputs of the net
(the gain of the layer) is measured by sending errors through the rest of the net: those of as many edits as a bounded amount of
work allows, at least one for each layer. An edit whose own error was not sent takes the gain of the one that is most like it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from edgec.cost import node_macs
from edgec.errors import BadInput
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array, Graph, Node
from edgec.study.costs import TABLE, Cost, Prices
from edgec.study.edits import EDITS, Edit, Edited
from edgec.study.layers import Layer, Walk, layers, real_outputs
from edgec.study.outputs import Outputs
from edgec.target import Target

_WORK = 3e10
"""Multiply-accumulates that may be spent on sending errors through the net: some ten seconds of one core in numpy."""
_FEWEST = 4         # samples that errors are sent for, however large the net is
_SENT = ("int8", "rank-1/2", "rank-1/4", "sparse-80", "sparse-50", "fp16")
_NOTHING = 1e-30

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Effect:
    """What one edit of one layer is expected to do.

    `local` is the share of the variance of the layer's own results that is lost; `noise` the power that arrives at each output of the net,
    for `lost`, `cosine`, `decibels` and `flips` of its outputs (edgec/study/outputs.py); `us`, `bytes` and `energy` what is saved.
    `sent` tells whether the noise was measured by sending this edit's own error, `guessed` why its time is a guess, empty when it is that
    of kernels which exist.
    """

    edit: str
    local: float
    noise: tuple[float, ...]
    lost: float
    cosine: float
    decibels: float | None
    flips: float
    us: float
    bytes: float
    energy: float
    sent: bool
    guessed: str


@dataclass(frozen=True)
class Studied:
    """A layer: what it costs now, the effects of edits, and why other edits were not possible. `score` says how fragile it is."""

    name: str
    op: str
    weight: tuple[int, ...]
    cost: Cost
    effects: Mapping[str, Effect]
    refused: Mapping[str, str]
    score: float = 0.0
    worst: str = ""


@dataclass(frozen=True)
class Study:
    """Layers in the order of the net, those that were left out and why, and what the figures rest on.

    Errors were sent through the net for the first `probes` runs; `total_us` is the predicted time of the whole net as it is.
    """

    model: str
    target: str
    samples: int
    probes: int
    layers: tuple[Studied, ...]
    skipped: Mapping[str, str]
    outputs: Outputs
    edits: tuple[Edit, ...]
    warnings: tuple[str, ...] = ()
    table: str = TABLE
    total_us: float = 0.0

    @property
    def ranking(self) -> list[Studied]:
        """The layers, those that break first in front."""
        return sorted(self.layers, key=lambda s: -s.score)

    def facts(self) -> dict[str, Any]:
        """Everything as JSON knows it."""
        return {
            "model": self.model, "target": self.target, "samples": self.samples, "probes": self.probes, "total_us": self.total_us,
            "energy_table": self.table, "edits": {e.name: e.about for e in self.edits}, "outputs": list(self.outputs.names),
            "ranking": [s.name for s in self.ranking], "skipped": dict(self.skipped), "warnings": list(self.warnings),
            "layers": [{"name": s.name, "op": s.op, "weight": list(s.weight), **asdict(s.cost), "score": s.score, "worst": s.worst,
                        "edits": {e: _effect(f) for e, f in s.effects.items()}, "refused": dict(s.refused)} for s in self.layers]}


def _effect(effect: Effect) -> dict[str, Any]:
    return {k: v for k, v in asdict(effect).items() if k not in ("edit", "noise")}


def study(graph: Graph, target: Target, samples: Sequence[Mapping[str, Array]], *, model: str = "", count: int = 0,
          edits: Sequence[Edit] = tuple(EDITS.values()), warnings: Sequence[str] = (), progress: Progress | None = None) -> Study:
    """The study of a graph in canonical form on some samples, of which there are `count` when a run takes several.

    BadInput when it has no layer, or no real results; UnsupportedModel names a layer without a kernel.
    """
    found = layers(graph)
    wanted = {n: s for n, s in found.items() if isinstance(s, Layer)}
    if not wanted:
        why = "; ".join(f"{n.origin or n.output.name}: {s}" for n, s in found.items())
        raise BadInput(f"there is no layer to study: {why or 'nothing is multiplied by weights'}")
    names = [v.name for v in real_outputs(graph)]
    if not names:
        raise BadInput("the model returns no real numbers, so there is nothing that could change a little")
    probes, sent = _effort(graph, list(wanted), len(samples), len(edits))
    runs = (evaluate(graph, f) for f in samples)
    reference = Outputs.of(names, [[np.asarray(r[n]) for n in names] for r in runs])
    worker = _Worker(Prices(target, sum(a.nbytes for a in graph.weights.values())), reference.first(probes), probes, sent, edits)
    studied: list[Studied] = []
    walk = Walk(graph, samples)
    for node in walk:
        if node in wanted:
            if progress is not None:
                progress("study", len(studied), len(wanted))
            studied.append(worker.layer(wanted[node], walk))
    skipped = {n.origin or n.output.name: s for n, s in found.items() if isinstance(s, str)}
    return Study(model or graph.name, target.name, count or len(samples), probes, tuple(_scored(studied)), skipped, worker.reference,
                 tuple(edits), tuple(warnings))


def _effort(graph: Graph, wanted: Sequence[Node], count: int, edits: int) -> tuple[int, int]:
    """For how many samples, and for how many edits of each layer, errors are sent through the net."""
    macs, behind = [node_macs(n) for n in graph.nodes], 0
    place = {n: i for i, n in enumerate(graph.nodes)}
    for node in wanted:
        behind += sum(macs[place[node] + 1:])
    probes = max(min(count, _FEWEST), min(count, int(_WORK / max(behind, 1))))
    return probes, max(1, min(edits, int(_WORK / max(behind * probes, 1))))


class _Worker:
    def __init__(self, prices: Prices, reference: Outputs, probes: int, sent: int, edits: Sequence[Edit]) -> None:
        self.prices, self.reference, self.probes = prices, reference, probes
        self.sent, self.edits = sent, edits

    def layer(self, layer: Layer, walk: Walk) -> Studied:
        """The effects of all edits of the layer at which the walk stands."""
        read = [values[layer.alone.inputs[0]] for values in walk.known]
        made = [values[layer.node.output] for values in walk.known[:self.probes]]
        edited = {e.name: e.make(layer, read, self.prices.target) for e in self.edits}
        done = {name: e for name, e in edited.items() if isinstance(e, Edited)}
        cost = self.prices.of(layer)
        results = {name: [self._run(e.graph, x) for x in read[:self.probes]] for name, e in done.items()}
        local = {name: _power(made, rs) for name, rs in results.items()}
        arrived = {name: self.reference.noise([walk.outputs(i, r) for i, r in enumerate(results[name])])
                   for name in sorted(done, key=lambda e: _SENT.index(e) if e in _SENT else len(_SENT))[:self.sent]}
        spread = max(_spread(made), _NOTHING)
        effects = {}
        for name, e in done.items():
            like = name if name in arrived else _like(name, arrived)
            scale = 1.0 if like == name else local[name] / max(local[like], _NOTHING)
            noise = tuple(a * scale for a in arrived[like])
            effects[name] = self._effect(name, local[name] / spread, noise, (cost, self.prices.of(layer, e)), sent=like == name,
                                         guessed=e.guessed)
        refused = {name: e for name, e in edited.items() if isinstance(e, str)}
        return Studied(layer.name, layer.node.op, layer.weight.shape, cost, effects, refused)

    def _run(self, graph: Graph, x: Array) -> Array:
        made, = evaluate(graph, {graph.inputs[0].name: x}).values()
        return np.asarray(made)

    def _effect(self, name: str, local: float, noise: tuple[float, ...], costs: tuple[Cost, Cost], *, sent: bool,
                guessed: str) -> Effect:
        now, after = costs
        ref, decibels = self.reference, self.reference.decibels(noise)
        return Effect(name, local, noise, ref.lost(noise), ref.cosine(noise), decibels if np.isfinite(decibels) else None, ref.flips(noise),
                      now.us - after.us, now.bytes - after.bytes, now.energy - after.energy, sent, guessed)


def _like(name: str, arrived: Mapping[str, Any]) -> str:
    """The edit whose error is most like that of `name`: one of its kind, else the first."""
    return next((a for a in arrived if a.partition("-")[0] == name.partition("-")[0]), next(iter(arrived)))


def _power(made: Sequence[Array], results: Sequence[Array]) -> float:
    return sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(made, results, strict=True))


def _spread(made: Sequence[Array]) -> float:
    rows = np.stack(made).astype(np.float64)
    return float(np.square(rows - rows.mean()).sum())


def _scored(studied: Sequence[Studied]) -> list[Studied]:
    """The layers with their scores: how many times more than the median layer one loses, by the edit where that is most."""
    middle = {e: max(median(s.effects[e].lost for s in studied if e in s.effects), _NOTHING) for s in studied for e in s.effects}
    made = []
    for s in studied:
        scores = {e: f.lost / middle[e] for e, f in s.effects.items()}
        worst = max(scores, key=lambda e: scores[e], default="")
        made.append(Studied(s.name, s.op, s.weight, s.cost, s.effects, s.refused, scores.get(worst, 0.0), worst))
    return made


__all__ = ["Edit", "Effect", "Studied", "Study", "study"]
