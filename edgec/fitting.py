"""What is fitted to samples in a build, and how much accuracy that may cost: flags become options of passes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgec import calibrate as sampling
from edgec.calibrate import Samples
from edgec.errors import BadInput, UsageError
from edgec.interface import Interface
from edgec.ir.graph import Array, Graph
from edgec.score import scorer
from edgec.study.budget import BOTH, INT8, LOW_RANK, Accuracy, check, decide
from edgec.target import Target


@dataclass(frozen=True)
class Fitting:
    """What is asked for: `rank`, `int8` and the layers that `keep` out of it; how much may be lost, and by which score.

    `labels`, `metric` and `function` are for `edgec.score.scorer`; without them a drop is one of agreement with the unchanged model.
    """

    rank: str | None = None
    int8: bool = False
    keep: tuple[str, ...] = ()
    calibrate: sampling.Source | None = None
    max_drop: float | None = None
    min_cosine: float | None = None
    labels: str | Path | Array | None = None
    metric: str | None = None
    function: str | Callable[..., Any] | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is an accuracy budget."""
        return self.max_drop is not None or self.min_cosine is not None

    def resolve(self, graph: Graph, target: Target, notes: list[str], *, interface: Interface | None = None, optimize_for: str = "speed",
                progress: Callable[[str, int, int], None] | None = None) -> "Fitted":
        """What passes are told; UsageError for flags that do not fit together, DoesNotFit for a budget that cannot be met."""
        if (self.labels is not None or self.function is not None or self.metric is not None) and self.max_drop is None:
            raise UsageError("a score is given (--labels, --eval), but no budget that it is for: say --max-drop")
        if self.bounded and not self.int8 and self.rank is None:
            raise UsageError("an accuracy budget (--max-drop, --min-cosine) is spent by --int8 or by --rank, and one of the two is needed")
        found = self._samples(graph, interface)
        if found is None:
            return Fitted(self.rank, self.int8, self.keep)
        notes += found.warnings
        if not self.bounded:
            return Fitted(self.rank, self.int8, self.keep, found.feeds)
        faces, seen = interface or Interface(), found
        found = replace(seen, feeds=tuple(faces.prepare(f, graph.inputs) for f in seen.feeds))
        score = scorer(self.labels, self.metric, self.function, found.count)
        accuracy, way = Accuracy(self.max_drop, self.min_cosine, score), LOW_RANK if not self.int8 else INT8 if self.rank is None else BOTH
        if self.rank not in (None, "auto"):
            asked = {"rank": str(self.rank), **({"int8": True} if self.int8 else {})}
            made = check(graph, target, found, way, asked, accuracy)
        else:
            made = decide(graph, target, found, way, accuracy, aim="bytes" if optimize_for == "size" else "us", progress=progress)
        notes += made.notes
        rank = made.options.get("rank")
        return Fitted(rank, "int8" in made.options, tuple(made.options.get("keep", ())),
                      [faces.restore(f, graph.inputs) for f in made.samples], made.facts())

    def _samples(self, graph: Graph, interface: Interface | None) -> Samples | None:
        if self.calibrate is None:
            if self.int8:
                raise UsageError("--int8 takes the ranges of tensors from samples of what the model will see: say --calibrate")
            if self.bounded:
                raise UsageError("an accuracy budget (--max-drop, --min-cosine) is judged on samples: say --calibrate")
            return None
        if self.rank is None and not self.int8:
            raise UsageError("samples are given (--calibrate), but nothing that would be fitted to them: say --rank or --int8")
        return _seen(self.calibrate, graph, interface) if interface is not None and interface.inputs else \
            sampling.load(self.calibrate, graph.inputs)


def _seen(source: sampling.Source, graph: Graph, interface: Interface) -> Samples:
    """Samples as callers of the bundle will give inputs; those that fit the model's own inputs alone are brought to that form.

    BadInput when they fit neither, or stand for nothing that a caller could give.
    """
    interface.check(graph)
    try:
        found = sampling.load(source, interface.outside(graph.inputs))
    except BadInput as problem:
        try:
            own = sampling.load(source, graph.inputs)
        except BadInput as other:
            if str(other) == str(problem):
                raise
            raise BadInput(f"{problem} by --input-type and --input-layout; as samples of the model's own inputs, {other}") from None
        feeds = tuple(interface.restore(f, graph.inputs) for f in own.feeds)
        return replace(own, feeds=feeds)
    alike = [v.name for v in graph.inputs if v.name in interface.inputs and interface.inputs[v.name].tensor(v.tensor) == v.tensor]
    if alike:
        said = f"the samples of {', '.join(alike)} are taken as callers will give them, before mean and scale"
        return replace(found, warnings=(*found.warnings, said))
    return found


@dataclass(frozen=True)
class Fitted:
    """What passes are told, the samples for them, and what a manifest says of how it was decided."""

    rank: str | None = None
    int8: bool = False
    keep: tuple[str, ...] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """What of it a manifest lists as options."""
        told = {"rank": self.rank, "int8": self.int8, "keep": list(self.keep)}
        return {k: v for k, v in told.items() if v}
