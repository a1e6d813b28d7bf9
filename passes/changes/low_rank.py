"""Low-rank factors of a layer's weight W[O,I,T] (results, inputs, taps of the window), fitted to what the layer reads.

With the covariance G of what W is multiplied by, the best W' of rank r is the SVD of W·chol(G) cut off behind r, times the inverse of
chol(G). Its left factor U are the main directions of the results W·x, and W' = U·Uᵀ·W: the same matrix, for which no factor of G need be
formed. A window of several taps is also cut on the side of its inputs (Tucker-2): there chol(G) of the channels does the whitening, and
what stands before and behind is fitted again by least squares. LAPACK does the work: the same numbers give the same factors on
one machine, and nearly the same on others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgec.ir.graph import Array, Node

_RIDGE = 1e-4       # of the mean variance, added to covariances: what samples do not show is not worth nothing
_TRIED = 4          # shapes that are fitted, of those that look best
_STEPS = 32         # ranks of the inputs, and numbers of weights, that are looked at
_ROUNDS = 4         # times that the core and what goes before it are fitted in turn
_ALTERNATING = 1500 # unknowns up to which that is quick
_TINY = 1e-9        # keeps equations solvable
_ENOUGH = 4         # rows for each input, to fit a weight again


@dataclass(frozen=True)
class Shape:
    """The ranks of a factored layer: of its inputs and of its results; None leaves that side whole."""

    inputs: int | None
    results: int | None

    def weights(self, weight: Array) -> int:
        """How many weights the parts of W[O,I,T] have together."""
        o, i, taps = weight.shape
        r1, r2 = self.inputs or i, self.results or o
        return int(r1 * r2 * taps) + (r1 * i if self.inputs else 0) + (r2 * o if self.results else 0)

    def __str__(self) -> str:
        return f"rank {self.results}" if self.inputs is None else f"ranks {self.inputs} and {self.results or 'all'}"


@dataclass(frozen=True)
class Factors:
    """`first` [r1,I], `core` [r2,r1,T], `last` [O,r2], and what to add to the results so that their mean stays."""

    first: Array | None
    core: Array
    last: Array | None
    shift: Array

    def apply(self, rows: Array) -> Array:
        """The results for rows [N,I,T]."""
        seen = rows if self.first is None else _through(self.first, rows)
        made = seen.reshape(len(rows), -1) @ self.core.reshape(len(self.core), -1).T
        return (made if self.last is None else made @ self.last.T) + self.shift


@dataclass(frozen=True)
class Layer:
    """A weight [O,I,T], rows [N,I,T] of what it is multiplied by, None when nothing is known of that, and the results [N,O] wanted.

    Without `wanted` the layer's own results are wanted. `centered` layers have a bias, which can take up a shift.
    """

    weight: Array
    rows: Array | None
    centered: bool
    wanted: Array | None = None

    @cached_property
    def matrix(self) -> Array:
        """The weight as a matrix, in f64; fitted again when other results are wanted and there are rows enough to say how."""
        plain = np.asarray(self.weight.reshape(len(self.weight), -1), np.float64)
        if self.rows is None or self.wanted is None or len(self.rows) < _ENOUGH * plain.shape[1]:
            return plain
        return self._again(plain, self.rows)[0]

    @cached_property
    def results(self) -> Array:
        """What the weight makes of the rows."""
        assert self.rows is not None  # noqa: S101  asked only where there are rows
        return np.asarray(self.rows.reshape(len(self.rows), -1) @ self.matrix.T)

    @cached_property
    def target(self) -> Array:
        """The results that are wanted."""
        return self.results if self.wanted is None else self.wanted

    @cached_property
    def output(self) -> tuple[Array, Array]:
        """The directions of the results, the main one first, as columns, and the variance along each."""
        if self.rows is None:
            return _directions(self.matrix @ self.matrix.T)
        return self._basis(self.results, self.matrix)

    @cached_property
    def input(self) -> tuple[Array, Array, Array]:
        """How channels go into their main directions, how they come back, and the variance of results that rests on each."""
        o, i, taps = self.weight.shape
        by_channel = self.matrix.reshape(o, i, taps).transpose(0, 2, 1).reshape(o * taps, i)
        root = np.eye(i)
        if self.rows is not None:
            seen = self.rows.transpose(0, 2, 1).reshape(-1, i)
            root = np.linalg.cholesky(_ridged(seen.T @ seen / len(seen)))
        axes, variance = _directions(root.T @ (by_channel.T @ by_channel) @ root)
        return np.linalg.solve(root.T, axes).T, root @ axes, variance

    def fit(self, shape: Shape) -> Factors:
        """The factors of a shape."""
        first, core = None, self.matrix
        made = None if self.rows is None else self.results
        if shape.inputs is not None:
            first, core = self._window(shape.inputs)
            if self.rows is not None:
                made = _through(first, self.rows).reshape(len(self.rows), -1) @ core.T
        last = None
        if shape.results is not None:
            if shape.inputs is None:
                axes = self.output[0]
            elif made is not None:
                axes = self._basis(made, core)[0]
            else:
                axes = _directions(core @ core.T)[0]
            last = axes[:, :shape.results]
            core = last.T @ core
            made = None if made is None else made @ last @ last.T
        shift = (self.target - made).mean(0) if made is not None and self.centered else np.zeros(len(self.weight))
        return Factors(first, core.reshape(len(core), shape.inputs or self.weight.shape[1], -1), last, shift)

    def loss(self, factors: Factors) -> float:
        """How much of the variance of the results the factors lose, on these rows; without rows, of the weight itself."""
        if self.rows is None:
            core = np.asarray(factors.core)
            whole = core if factors.first is None else np.einsum("rjt,ji->rit", core, factors.first)
            made = whole.reshape(len(whole), -1)
            return _share(self.matrix, made if factors.last is None else factors.last @ made)
        return _share(self.target, factors.apply(self.rows), centered=self.centered)

    def split(self, results: Array, count: int) -> list[Array]:
        """The results of each of so many samples."""
        return np.split(results.astype(np.float32), count)

    def expected(self, shape: Shape) -> float:
        """About how much a shape loses, from the variances alone."""
        lost = 0.0
        if shape.results is not None:
            lost += _tail(self.output[1], shape.results)
        if shape.inputs is not None:
            lost += _tail(self.input[2], shape.inputs)
        return lost

    def _basis(self, made: Array, matrix: Array) -> tuple[Array, Array]:
        middle = made - made.mean(0) if self.centered else made
        covariance = middle.T @ middle / len(middle)
        return _directions(covariance + _RIDGE * np.trace(covariance) / max(float(np.square(matrix).sum()), 1e-30) * (matrix @ matrix.T))

    @cached_property
    def moments(self) -> tuple[Array, Array]:
        """The covariance [I,T,I,T] of what the weight is multiplied by, and that [O,I,T] of the wanted results with it."""
        o, i, taps = self.weight.shape
        if self.rows is None:
            return np.eye(i * taps).reshape(i, taps, i, taps), self.matrix.reshape(o, i, taps)
        flat = np.asarray(self.rows.reshape(len(self.rows), -1), np.float64)
        middle = flat - flat.mean(0) if self.centered else flat
        seen = middle.T @ middle / len(flat)
        ridge = _ridged(seen) - seen                            # what samples do not show stays as the weight has it
        cross = self.target.T @ middle / len(flat) + self.matrix @ ridge
        return (seen + ridge).reshape(i, taps, i, taps), cross.reshape(o, i, taps)

    def _window(self, rank: int) -> tuple[Array, Array]:
        """The matrix [rank,I] that goes before a window, and the core [O,rank*T] behind it: each in turn is the best for the other."""
        o, i, taps = self.weight.shape
        covariance, cross = self.moments
        first = self.input[0][:rank]
        rounds = _ROUNDS if rank * i <= _ALTERNATING else 1
        for left in reversed(range(rounds)):
            seen = np.einsum("ji,itIT->jtIT", first, covariance, optimize=True)
            inner = np.einsum("jtIT,JI->jtJT", seen, first, optimize=True).reshape(rank * taps, rank * taps)
            given = np.einsum("oit,ji->ojt", cross, first, optimize=True).reshape(o, rank * taps)
            core = np.linalg.solve(_ridged(inner, _TINY), given.T).T
            if left:
                parts = core.reshape(o, rank, taps)
                pairs = np.einsum("ojt,oJT->jJtT", parts, parts, optimize=True).reshape(rank * rank, taps * taps)
                inner = (pairs @ covariance.transpose(1, 3, 0, 2).reshape(taps * taps, i * i)).reshape(rank, rank, i, i)
                inner = inner.transpose(0, 2, 1, 3).reshape(rank * i, rank * i)
                given = np.einsum("ojt,oit->ji", parts, cross, optimize=True).reshape(-1)
                first = np.linalg.solve(_ridged(inner, _TINY), given).reshape(rank, i)
        return first, core

    def _again(self, core: Array, seen: Array) -> tuple[Array, Array]:
        """The core fitted again to all rows, from where it is, and its results."""
        flat = seen.reshape(len(seen), -1)
        wanted = self.results if self.wanted is None else self.wanted
        missing = wanted - flat @ core.T
        middle = flat - flat.mean(0) if self.centered else flat
        core = core + np.linalg.solve(_ridged(middle.T @ middle / len(flat)), middle.T @ missing / len(flat)).T
        return core, flat @ core.T


def curve(layer: Layer) -> list[tuple[int, float]]:
    """How much a layer is expected to lose with fewer and fewer weights: (weights, loss), all of them first."""
    size = layer.weight.size
    points = [(size, 0.0)]
    for step in range(_STEPS - 1, 0, -1):
        losses = [layer.expected(s) for s in _within(layer.weight, size * step // _STEPS)]
        if losses:
            points.append((size * step // _STEPS, min(losses)))
    return points


def share(curves: Mapping[Node, Sequence[tuple[int, float]]], ratio: float, small: float) -> dict[Node, int]:
    """Weights for each layer, `ratio` times fewer in all, so that the losses add up to as little as possible.

    Layers that hold less than the share `small` of the weights keep theirs, and do not count.
    """
    total = sum(points[0][0] for points in curves.values())
    sharing = {k: points for k, points in curves.items() if points[0][0] >= small * total}
    most = sum(points[0][0] for points in sharing.values()) / ratio

    def chosen(price: float) -> dict[Node, int]:
        return {k: min(points, key=lambda p: p[1] + price * p[0])[0] for k, points in sharing.items()}

    low, high = 0.0, 1.0                       # what a weight costs: as little as keeps the sum below what is wanted
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(chosen(middle).values()) <= most else (middle, high)
    found = chosen(high)
    spare = int(most) - sum(found.values())
    for k in sorted(found, key=lambda k: -found[k]):        # what is left over goes to the largest that is factored
        if found[k] < curves[k][0][0] and spare > 0:
            found[k], spare = found[k] + min(spare, curves[k][0][0] - 1 - found[k]), 0
    return {k: found.get(k, points[0][0]) for k, points in curves.items()}


def best(layer: Layer, budget: int) -> Shape | None:
    """The shape of at most `budget` weights that loses least; None when there is none."""
    found = sorted(_within(layer.weight, budget), key=lambda s: (layer.expected(s), s.inputs or 0))[:_TRIED]
    if len(found) < 2:  # noqa: PLR2004  nothing to choose from
        return found[0] if found else None
    return min(found, key=lambda s: layer.loss(layer.fit(s)))


def _within(weight: Array, budget: int) -> Iterator[Shape]:
    """For each rank of the inputs, the largest rank of the results that a budget allows."""
    o, i, taps = weight.shape
    rank = budget // (i * taps + o)
    if 1 <= rank < min(o, i * taps):
        yield Shape(None, rank)
    if taps == 1:
        return
    for r1 in sorted({max(1, i * step // _STEPS) for step in range(1, _STEPS)}):
        if Shape(r1, None).weights(weight) <= budget:
            yield Shape(r1, None)
        elif (rank := (budget - r1 * i) // (r1 * taps + o)) >= 1:
            yield Shape(r1, min(rank, o - 1))


def _through(first: Array, rows: Array) -> Array:
    return np.asarray(np.einsum("ji,nit->njt", first, rows, optimize=True))


def _directions(covariance: Array) -> tuple[Array, Array]:
    """Eigenvectors as columns, the largest value first; the largest element of each is positive, so that there is one answer."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    vectors = vectors[:, ::-1]
    signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0))
    return vectors * np.where(signs == 0, 1, signs), np.maximum(values[::-1], 0)


def _ridged(covariance: Array, ridge: float = _RIDGE) -> Array:
    size = len(covariance)
    return np.asarray(covariance + max(ridge * float(np.trace(covariance)) / size, 1e-30) * np.eye(size))


def _tail(variance: Array, rank: int) -> float:
    total = float(variance.sum())
    return float(variance[rank:].sum()) / total if total else 0.0


def _share(wanted: Array, made: Array, *, centered: bool = False) -> float:
    spread = float(np.square(wanted - wanted.mean(0) if centered else wanted).sum())
    return float(np.square(wanted - made).sum()) / spread if spread else 0.0
