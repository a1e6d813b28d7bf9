"""Accuracy budgets: which edits of which layers save most without losing more than is allowed, chosen exactly and then verified.

The study predicts for each edit what it costs and saves; errors of several layers add up in power, so the best choice is an integer
program. The whole result is then measured on samples that nothing was fitted to. Where it misses the budget, the choice is made again for
a smaller one, and for a larger one where there is room; what cannot be met is refused, with what could be reached and at what price.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal, NamedTuple

import numpy as np

from edgec import access
from edgec.calibrate import Samples
from edgec.errors import DoesNotFit, UsageError
from edgec.integer_program import IntegerProgram
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.pipeline import Context, run_passes
from edgec.score import Score, stacked
from edgec.study.costs import Cost
from edgec.study.edits import EDITS, Edit, low_rank
from edgec.study.layers import real_outputs
from edgec.study.outputs import Outputs
from edgec.study.study import Effect, Progress, Studied, Study, study
from edgec.target import Target

Aim = Literal["us", "bytes"]
Choice = Mapping[str, str]
"""The edit of each layer that gets one, by name."""
_HELD_OUT = 4           # one run in so many is kept to judge by
_LEAST = 8              # runs without which nothing can be judged
_TRIES = 6
_SMALLER = 3            # ratios that are tried to tell what could be met
_WORTH = 0.05           # of a layer's time or bytes, what an edit has to save to be worth an error
_FLOOR = 0.01           # of these, what int8 saves at least
_INT8, _RANK = "int8", "rank-1/"
_STEP = 4.0
_ROOM = 16.0            # times the predicted budget: beyond that predictions mean nothing
_NOTHING = 1e-30
_TENTH = 0.1            # of a sample: an expected drop that is none
_HALVINGS = 40


@dataclass(frozen=True)
class Way:
    """A way to make layers smaller: the edits to choose from. Passes do what is chosen, by options that `options` tells."""

    name: str
    edits: tuple[Edit, ...]

    def options(self, choice: Choice, layers: Sequence[str]) -> dict[str, Any]:
        """What `rank`, `int8` and `keep` are for a choice among the layers of a net."""
        ranks = {layer: edit.removeprefix(_RANK) for layer, edit in choice.items() if edit != _INT8}
        told: dict[str, Any] = {"rank": ",".join(f"{layer}=/{ratio}" for layer, ratio in ranks.items())} if ranks else {}
        if _INT8 in choice.values():
            told |= {"int8": True, "keep": [name for name in layers if choice.get(name) != _INT8]}
        return told

    def saved(self, edit: str, effect: Effect, cost: Cost, aim: Aim) -> float | None:
        """What an edit of a layer saves; None when that is too little to be worth an error.

        Whatever is predicted for the layer alone, int8 saves something: between bytes, a layer in reals costs conversions.
        """
        saved, whole = float(getattr(effect, aim)), float(getattr(cost, aim))
        return max(saved, _FLOOR * whole) if edit == _INT8 else saved if saved > _WORTH * whole else None


_HALVES = (EDITS["rank-1/2"], EDITS["rank-1/4"])
LOW_RANK = Way("low-rank", (*(Edit(f"rank-1/{r:g}", f"low rank, 1/{r:g} of the weights", low_rank(r)) for r in (1.5, 3.0)), *_HALVES))
INT8 = Way("int8", (EDITS[_INT8],))
BOTH = Way("int8 or low-rank", (EDITS[_INT8], *_HALVES))


def passes(options: Mapping[str, Any], *, tune: bool = True) -> str:
    """The steps of a pipeline that do what `rank`, `int8` and `keep` say; without `tune`, each low-rank layer is fitted by itself alone."""
    known, keep = access.module("passes.catalog"), access.module("passes.quantize").KEEP.join(options.get("keep", ()))
    steps = [known.step("factorize", {"rank": str(options["rank"]), "alone": not tune})] if "rank" in options else []
    return ",".join([*steps, *([known.step("quantize", {"int8": True, "keep": keep})] if options.get("int8") else [])])


@dataclass(frozen=True)
class Accuracy:
    """What may be lost: at most `drop` of the score (without one, of agreement with the unchanged net), down to a `cosine`."""

    drop: float | None = None
    cosine: float | None = None
    score: Score | None = None

    def __post_init__(self) -> None:
        if self.drop is not None and not 0 <= self.drop < 1:
            raise UsageError(f"--max-drop {self.drop:g}: a drop is a share from 0 to 1, such as 0.01 or 1%")
        if self.cosine is not None and not 0 < self.cosine <= 1:
            raise UsageError(f"--min-cosine {self.cosine:g}: a cosine is a number from 0 to 1, such as 0.999")

    def __str__(self) -> str:
        drop = "" if self.drop is None else f"a drop of {self.drop:.2%}"
        return " and ".join(filter(None, (drop, "" if self.cosine is None else f"a cosine of {self.cosine:.9g}")))

    def limits(self, reference: Outputs) -> tuple[float, ...]:
        """The power of noise that each output may have, by prediction."""
        allowed = [float("inf")] * len(reference.names)
        for i, (array, signal) in enumerate(zip(reference.arrays, reference.signal, strict=True)):
            if self.cosine is not None:
                allowed[i] = min(allowed[i], signal * (self.cosine**-2 - 1))
            if self.drop is not None:
                allowed[i] = min(allowed[i], _inverse(Outputs(("",), (array,), reference.runs), self.drop, signal))
        return tuple(allowed)


@dataclass(frozen=True)
class Measured:
    """What a choice costs on samples that were held out, and whether that is allowed."""

    drop: float
    cosine: float
    ok: bool

    def __str__(self) -> str:
        return f"a drop of {self.drop:.2%}, a cosine of {self.cosine:.6f}"


@dataclass(frozen=True)
class Trial:
    """A choice with what it is predicted to save, as a share of the time or bytes of the net, and what it was measured to cost."""

    choice: Choice
    saved: float
    measured: Measured


class Row(NamedTuple):
    """An edit that could be chosen: what it saves, and the noise that it makes at each output."""

    layer: str
    edit: str
    saved: float
    noise: tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """What to do to a net: `rank`, `int8` and `keep` (none when nothing is done), and the samples; and the way there."""

    options: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    trial: Trial | None
    trials: tuple[Trial, ...]
    study: Study | None
    notes: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """What a manifest says of it."""
        t = self.trial
        accuracy = {} if t is None else {"accuracy": {"chosen": dict(t.choice), "saved": t.saved, "drop": t.measured.drop,
                                                      "cosine": t.measured.cosine, "trials": len(self.trials)}}
        return accuracy | ({} if self.study is None else {"study": self.study.facts()})


def decide(graph: Graph, target: Target, samples: Samples, way: Way, accuracy: Accuracy, *, aim: Aim = "us",
           progress: Progress | None = None) -> Decision:
    """The best choice of edits of an imported graph that keeps its accuracy; DoesNotFit, with the price, when there is none."""
    plain = _plain(graph, target, samples)
    judge = _Judge(plain, target, way, samples, accuracy)
    made = study(plain, target, judge.fitted, count=len(judge.fitted) * samples.batch, edits=way.edits, progress=progress)
    return _Search(way, judge, made, aim, progress).run()


def check(graph: Graph, target: Target, samples: Samples, way: Way, options: Mapping[str, Any], accuracy: Accuracy) -> Decision:
    """What was asked for layer by layer or by a ratio, measured; DoesNotFit says what it costs, and what smaller ratios do."""
    judge = _Judge(_plain(graph, target, samples), target, way, samples, accuracy)
    found = judge.measure(options)
    said = " and ".join(k if v is True else f"{k} {v}" for k, v in options.items())
    if not found.ok:
        smaller = "".join(f"; {text}" for text in _smaller(judge, options))
        raise DoesNotFit(f"{said} costs {found} on {judge.count}, and {accuracy} is asked{smaller}; auto keeps the layers that this needs")
    return Decision(options, judge.fitted, Trial({}, 0.0, found), (), None, (f"{said} costs {found} on {judge.count}",))


def _smaller(judge: "_Judge", options: Mapping[str, Any]) -> Iterator[str]:
    """What ratios nearer to one cost, down to one that is within the budget."""
    try:
        ratio = float(options["rank"])
    except ValueError:
        return                      # ranks of single layers have nothing between them and none
    for _ in range(_SMALLER):
        ratio = 1 + (ratio - 1) / 2
        found = judge.measure({**options, "rank": f"{ratio:.3g}"}, tune=False)
        yield f"rank {ratio:.3g}, each layer fitted by itself, costs {found}{', which is within it' if found.ok else ''}"
        if found.ok:
            return


def _plain(graph: Graph, target: Target, samples: Samples) -> Graph:
    if len(samples) < _LEAST:
        raise UsageError(f"an accuracy budget is judged on samples: --calibrate gives {len(samples)} runs, at least {_LEAST} are needed")
    known = access.module("passes.catalog")
    return run_passes(graph, known.PORTABLE, known.CATALOG, Context(target))


class _Judge:
    """Measures changed nets on held-out samples."""

    def __init__(self, plain: Graph, target: Target, way: Way, samples: Samples, accuracy: Accuracy) -> None:
        held = range(_HELD_OUT - 1, len(samples), _HELD_OUT)
        self.plain, self.target, self.way, self.accuracy, self.batch = plain, target, way, accuracy, samples.batch
        self.fitted = [s for i, s in enumerate(samples.feeds) if i not in held]
        self.held = [samples.feeds[i] for i in held]
        self.which = np.concatenate([np.arange(i * samples.batch, (i + 1) * samples.batch) for i in held])
        self.count = f"{len(self.which)} held-out samples"
        self.again: dict[Any, Any] = {}
        self.names = [v.name for v in real_outputs(plain)]
        self.runs = [evaluate(plain, f) for f in self.held]
        self.reference = Outputs.of(self.names, [[np.asarray(r[n]) for n in self.names] for r in self.runs])

    def measure(self, options: Mapping[str, Any], *, tune: bool = True) -> Measured:
        """What is lost when the pass does its work with some options; see `passes` for `tune`."""
        known = access.module("passes.catalog")
        context = Context(self.target, samples=self.fitted, again=self.again)
        graph = run_passes(self.plain, passes(options, tune=tune), known.CATALOG, context)
        runs = [evaluate(graph, f) for f in self.held]
        other = Outputs.of(self.names, [[np.asarray(r[n]) for n in self.names] for r in runs])
        score, drop = self.accuracy.score, other.changed(self.reference)
        if score is not None:
            drop = score.of(stacked(self.runs, self.batch), self.which) - score.of(stacked(runs, self.batch), self.which)
        cosine = other.alike(self.reference)
        wanted = self.accuracy
        ok = (wanted.drop is None or drop <= wanted.drop) and (wanted.cosine is None or cosine >= wanted.cosine)
        return Measured(drop, cosine, ok)


def select(rows: Sequence[Row], limits: Sequence[float]) -> Choice:
    """The edits, one of a layer at most, that save most while the noise of each output stays within its limit: exact."""
    able = [r for r in rows if all(n <= limit for n, limit in zip(r.noise, limits, strict=True))]
    if not able:
        return {}
    most, program = max(r.saved for r in able), IntegerProgram("the budget was")
    columns = [program.column(-r.saved / most, whole=True) for r in able]
    for layer in dict.fromkeys(r.layer for r in able):
        program.row({c: 1.0 for c, r in zip(columns, able, strict=True) if r.layer == layer}, -inf, 1.0)
    for i, limit in enumerate(limits):
        if 0 < limit < inf:
            program.row({c: r.noise[i] / limit for c, r in zip(columns, able, strict=True)}, -inf, 1.0)
    found = program.solve()
    return {} if found is None else {r.layer: r.edit for r, x in zip(able, found, strict=True) if x > 0.5}  # noqa: PLR2004  a truth value


class _Search:
    def __init__(self, way: Way, judge: _Judge, made: Study, aim: Aim, progress: Progress | None) -> None:
        self.way, self.judge, self.study, self.aim, self.progress = way, judge, made, aim, progress
        self.what = "time" if aim == "us" else "bytes"
        self.limits = judge.accuracy.limits(made.outputs)
        self.total = max(sum(getattr(s.cost, aim) for s in made.layers), _NOTHING)
        self.rows = [Row(s.name, e, saved, f.noise) for s in made.layers for e, f in s.effects.items()
                     if (saved := way.saved(e, f, s.cost, aim)) is not None]
        self.trials: list[Trial] = []

    def run(self) -> Decision:
        """Choose, verify, and choose again within a smaller or a larger budget."""
        if not self.rows:
            return self._decision(None)
        everything, best = self.chosen(float("inf")), list[Trial]()
        low, high, slack = 0.0, 0.0, 1.0
        for _ in range(_TRIES):
            choice = self.chosen(slack)
            if choice and not (trial := self.tried(choice)).measured.ok:
                high = slack
            else:                                           # where nothing is chosen, nothing is lost
                best += [trial] if choice else []
                low = slack
            if (choice and choice == everything and low == slack) or (not high and slack > _ROOM):
                break
            slack = (low * high)**0.5 if low and high else slack * _STEP if low else slack / _STEP
        for trial in sorted(best, key=lambda t: -t.saved):  # tuning takes minutes, so only what shall be built has it
            tuned = self._tuned(trial)
            if tuned.measured.ok:
                return self._decision(tuned)
        return self._decision(self._gentlest())

    def chosen(self, slack: float) -> Choice:
        """The edits that save most while the noise of each output stays within `slack` times its limit."""
        return select(self.rows, [slack * limit if limit or slack < float("inf") else slack for limit in self.limits])

    def tried(self, choice: Choice) -> Trial:
        """A choice, done and measured, once."""
        for trial in self.trials:
            if trial.choice == choice:
                return trial
        if self.progress is not None:
            self.progress("verify", len(self.trials), _TRIES)
        saved = sum(r.saved for r in self.rows if choice.get(r.layer) == r.edit)
        measured = self.judge.measure(self._options(choice), tune=False)
        self.trials.append(Trial(choice, saved / self.total, measured))
        return self.trials[-1]

    def _tuned(self, trial: Trial) -> Trial:
        """A trial measured as it is built: where layers are low-rank, with all of them fitted together."""
        options = self._options(trial.choice)
        return replace(trial, measured=self.judge.measure(options)) if "rank" in options else trial

    def _options(self, choice: Choice) -> dict[str, Any]:
        return self.way.options(choice, [s.name for s in self.study.layers])

    def _kept(self, choice: Choice) -> tuple[str, ...]:
        return tuple(s.name for s in self.study.layers if s.name not in choice)

    def _gentlest(self) -> Trial:
        """The one edit that is expected to lose least; DoesNotFit when that is too much already."""
        row = min(self.rows, key=lambda r: max(n / max(limit, _NOTHING) for n, limit in zip(r.noise, self.limits, strict=True)))
        trial = self._tuned(self.tried({row.layer: row.edit}))
        if trial.measured.ok:
            return trial
        self.tried(self.chosen(float("inf")))
        ladder = sorted(self.trials, key=lambda t: t.saved)
        layers = len(self.study.layers)
        prices = "; ".join(f"{len(t.choice)} of {layers} layers, {t.saved:.0%} less {self.what} for {t.measured}" for t in ladder)
        report = "\n".join(f"{t.saved:.4f} {t.measured.drop:.6f} {t.measured.cosine:.8f} {dict(t.choice)}" for t in ladder)
        raise DoesNotFit(f"no layer can be made {self.way.name} within {self.judge.accuracy}, on {self.judge.count}: the gentlest edit is "
                         f"{row.edit} of {row.layer}. What could be reached, and its price: {prices}", report)

    def _decision(self, trial: Trial | None) -> Decision:
        way, judge = self.way, self.judge
        if trial is None:
            note = f"{way.name}: no edit of any layer is predicted to save {self.what}, so the model stays as it is"
            return Decision({}, judge.fitted, None, (), self.study, (note,))
        kept = self._kept(trial.choice)
        stays = [f"{s.name} ({self._why(s)})" for s in self.study.layers if s.name in kept]
        notes = [f"{way.name}: {len(trial.choice)} of {len(self.study.layers)} layers, predicted to save {trial.saved:.0%} of their "
                 f"{self.what}, cost {trial.measured} on {judge.count}" + (f"; as they are stay {', '.join(stays)}" if stays else "")]
        smallest = 1 / len(judge.reference.arrays[0])
        if judge.accuracy.drop is not None and smallest > judge.accuracy.drop:
            notes.append(f"{judge.count} tell no drop under {smallest:.2%} apart from none: give more samples")
        return Decision(self._options(trial.choice), judge.fitted, trial, tuple(self.trials), self.study, tuple(notes))

    def _why(self, layer: Studied) -> str:
        """Why a layer stays as it is."""
        rows = [r for r in self.rows if r.layer == layer.name]
        if not rows:
            return next(iter(layer.refused.values()), "nothing is saved") if not layer.effects else "nothing is saved"
        row = min(rows, key=lambda r: sum(r.noise))
        return f"{row.edit} would lose {layer.effects[row.edit].lost:.2g}"


def _inverse(reference: Outputs, drop: float, signal: float) -> float:
    """The power of noise that is expected to change so large a share of the largest elements."""
    low, high = signal * 1e-12, signal * 1e3
    wanted = max(drop, _TENTH / len(reference.arrays[0]))
    if reference.flips([high]) <= wanted:
        return float("inf")
    for _ in range(_HALVINGS):
        middle = (low * high)**0.5
        low, high = (middle, high) if reference.flips([middle]) <= wanted else (low, middle)
    return low
