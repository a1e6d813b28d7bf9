"""How good results are: right answers by labels, a function of the user's, or agreement with what the unchanged net makes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgec import calibrate
from edgec.errors import BadInput, UsageError
from edgec.ir.graph import Array

METRICS: Mapping[str, Callable[[Array, Array], float]] = {"top1": calibrate.top1}
"""What compares scores [N, classes] with labels."""
Results = Mapping[str, Array]
"""Results by output, [N, …]: the first axis counts samples."""


@dataclass(frozen=True)
class Score:
    """A figure that is larger the better results are. `of` gets results by output, and the numbers of the samples that they are of."""

    name: str
    of: Callable[[Results, Array], float]


def scorer(labels: str | Path | Array | None, metric: str | None, function: str | Callable[..., Any] | None, count: int) -> Score | None:
    """The score that is asked for: labels (top1 unless `metric` says otherwise) or a function; None when neither is given.

    The labels are those of `count` samples and of the first output. UsageError when both are given, or a metric that does not exist.
    """
    if metric is not None and metric not in METRICS:
        raise UsageError(f"no metric is called {metric}; there is {', '.join(METRICS)}")
    if function is not None and labels is not None:
        raise UsageError("labels and a function of your own (--eval) are two scores: give one of them")
    if labels is not None:
        known = np.asarray(labels) if isinstance(labels, np.ndarray) else calibrate.labels(labels, count)
        if known.shape != (count,):
            raise BadInput(f"there are {len(known)} labels for {count} samples")
        name, measure = metric or "top1", METRICS[metric or "top1"]
        return Score(name, lambda results, which: measure(next(iter(results.values())), known[which]))
    if metric is not None:
        raise UsageError(f"--metric {metric} needs labels: give --labels y.npy")
    return None if function is None else _own(function)


def _own(function: str | Callable[..., Any]) -> Score:
    name = function if isinstance(function, str) else getattr(function, "__name__", "eval")
    call = calibrate.function(function) if isinstance(function, str) else function

    def of(results: Results, which: Array) -> float:
        try:
            found = float(call(results, which))
        except Exception as error:
            raise BadInput(f"{name} fails with {type(error).__name__}: {error}") from error
        if not np.isfinite(found):
            raise BadInput(f"{name} returns {found}, which is no score")
        return found

    return Score(name, of)


def stacked(runs: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Array]:
    """The results of several runs with an axis of samples in front: the batch of each output that has one, else a new axis."""
    made = {}
    for name, first in runs[0].items():
        if isinstance(first, np.ndarray):
            arrays = [r[name] for r in runs]
            made[name] = np.concatenate(arrays) if first.ndim and len(first) == batch else np.stack(arrays)
    return made


def compared(results: Results, reference: Results) -> dict[str, dict[str, float]]:
    """Agreement, cosine and signal-to-noise ratio of each output that holds real numbers."""
    return {n: calibrate.compare(_flat(a), _flat(reference[n])) for n, a in results.items() if a.dtype.kind == "f"}


def _flat(array: Array) -> Array:
    return array.reshape(len(array), -1)
