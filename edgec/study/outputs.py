"""The results of a net on some samples, and what noise in them would change: agreement, cosine, signal-to-noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10, sqrt

import numpy as np

from edgec.calibrate import cosine
from edgec.ir.graph import Array

_NOTHING = 1e-30
_CLASSES = 2


@dataclass(frozen=True)
class Outputs:
    """Results of a net in so many runs: for each output an array [rows, elements] in f64, a row for each element of its first axis."""

    names: tuple[str, ...]
    arrays: tuple[Array, ...]
    runs: int

    @classmethod
    def of(cls, names: Sequence[str], runs: Sequence[Sequence[Array]]) -> "Outputs":
        """The results of several runs one below the other."""
        stacked = (np.concatenate([_rows(r[o]) for r in runs]).astype(np.float64) for o in range(len(names)))
        return cls(tuple(names), tuple(stacked), len(runs))

    def noise(self, runs: Sequence[Sequence[Array]]) -> tuple[float, ...]:
        """The power, over all elements, of what separates the results of other runs on the same samples from these."""
        other = Outputs.of(self.names, runs)
        return tuple(float(np.square(a - b).sum()) for a, b in zip(other.arrays, self.arrays, strict=True))

    def first(self, count: int) -> "Outputs":
        """Those of the first runs."""
        return Outputs(self.names, tuple(a[:len(a) // self.runs * count] for a in self.arrays), count)

    @property
    def signal(self) -> tuple[float, ...]:
        """The power of each output."""
        return tuple(max(float(np.square(a).sum()), _NOTHING) for a in self.arrays)

    @property
    def spread(self) -> tuple[float, ...]:
        """The power of what distinguishes the rows; of a single row, of what distinguishes its elements."""
        return tuple(max(float(np.square(a - a.mean(0 if len(a) > 1 else None)).sum()), _NOTHING) for a in self.arrays)

    def changed(self, other: "Outputs") -> float:
        """The share of rows whose largest element is another one in other results, of the output where that is most."""
        return max((float((a.argmax(1) != b.argmax(1)).mean()) for a, b in zip(self.arrays, other.arrays, strict=True)), default=0.0)

    def alike(self, other: "Outputs") -> float:
        """The cosine between these and other results, of the output where it is least."""
        return min((cosine(a, b) for a, b in zip(self.arrays, other.arrays, strict=True)), default=1.0)

    def lost(self, noise: Sequence[float]) -> float:
        """The share of what distinguishes the rows that noise is as large as, summed over the outputs."""
        return sum(n / s for n, s in zip(noise, self.spread, strict=True))

    def decibels(self, noise: Sequence[float]) -> float:
        """The signal-to-noise ratio of the output that suffers most."""
        worst = max((n / s for n, s in zip(noise, self.signal, strict=True)), default=0.0)
        return -10 * log10(worst) if worst else inf

    def cosine(self, noise: Sequence[float]) -> float:
        """The cosine between results with noise of this power and without, of the output that suffers most; noise has no direction."""
        return min((1 / sqrt(1 + n / s) for n, s in zip(noise, self.signal, strict=True)), default=1.0)

    def flips(self, noise: Sequence[float]) -> float:
        """The share of rows whose largest element is expected to be another one, of the output that suffers most.

        Noise of the same power in each element moves the difference of two by a normal variable.
        """
        return max(map(_flips, self.arrays, noise), default=0.0)


def _rows(array: Array) -> Array:
    return array.reshape(len(array) if array.ndim > 1 else 1, -1)


def _flips(array: Array, noise: float) -> float:
    from scipy.special import erfc  # noqa: PLC0415  slow to load, and most builds study nothing

    if array.shape[1] < _CLASSES or not noise:
        return 0.0
    top = array.argmax(1)
    ahead = _ahead(array, top)
    stays = 1 - erfc(ahead / (2 * sqrt(noise / array.size))) / 2    # as if the differences were independent
    return float(1 - stays.prod(1).mean())


def _ahead(array: Array, top: Array) -> Array:
    """How far the largest element of each row is ahead of the others."""
    others = np.arange(array.shape[1])[None] != top[:, None]
    return np.asarray((array.max(1, keepdims=True) - array)[others].reshape(len(array), -1))
