"""Low-rank parts of a layer's weight W[O,I,*window], fitted to what the layer reads and to what its results are worth.

With the covariance G of what W is multiplied by, and R of which RᵀR says what an error of the results does to the outputs of the net, parts
that make W' lose tr(R(W-W')G(W-W')ᵀRᵀ). Two parts without a window are the cut-off SVD of R·W·chol(G): its left factor U are the main
directions of the weighted results, and R·W' = U·Uᵀ·R·W, for which no factor of G need be formed. A window is also cut on the side of its
inputs (Tucker-2), or into one along each axis; there the SVD only says where to begin, and all parts are improved together (L-BFGS).
LAPACK does the work: the same numbers give the same parts on one machine, and nearly the same on others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from edgec.ir.graph import Array

_RIDGE = 1e-4       # of the mean variance, added to covariances: what samples do not show is not worth nothing
_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of which one is chosen by samples left out, where there are few
_FOLDS = 4
_FLOOR = 0.02       # of its mean worth, what each result is worth at least
_TINY = 1e-9        # keeps equations solvable
_ENOUGH = 4         # rows for each input, to fit a weight again without asking whether that helps others
_STEPS = 150        # of L-BFGS, at most
_WORK = 1.5e10       # multiply-accumulates of all these steps, about
_NONE = 1e-30
_PLANE = 2          # axes of a window that can be cut into two
_QUICK = 1024       # rows or inputs above which ridges are compared in f32
_LARGE = 1 << 22    # numbers of a weight above which f32 has to be enough: twice as fast, and half the memory


@dataclass(frozen=True)
class Shape:
    """The ranks of a factored layer: of its inputs and of its results, None leaves that side whole; or that between two windows.

    These have one axis each: `lines` is how many lines the first makes for the second.
    """

    inputs: int | None = None
    results: int | None = None
    lines: int | None = None

    def parts(self, o: int, i: int, axes: int) -> tuple["Part", ...]:
        """The parts of a weight with so many results, inputs and axes of its window, in the order of work."""
        if self.lines is not None:
            return Part(self.lines, i, (0,)), Part(o, self.lines, (1,))
        r1, r2 = self.inputs or i, self.results or o
        first = (Part(r1, i, ()),) if self.inputs else ()
        return (*first, Part(r2, r1, tuple(range(axes))), *((Part(o, r2, ()),) if self.results else ()))

    def weights(self, dims: Sequence[int]) -> int:
        """How many weights the parts of W[O,I,*window] have together."""
        o, i, *window = dims
        return sum(p.results * p.inputs * prod(window[a] for a in p.axes) for p in self.parts(o, i, len(window)))

    def __str__(self) -> str:
        if self.lines is not None:
            return f"rank {self.lines} between windows along each axis"
        return f"rank {self.results}" if self.inputs is None else f"ranks {self.inputs} and {self.results or 'all'}"


@dataclass(frozen=True)
class Part:
    """A smaller layer: its results and inputs, and the axes of the window that it has."""

    results: int
    inputs: int
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Factors:
    """The weights of the parts, each [results,inputs,taps], and what to add to the results so that their mean stays."""

    parts: tuple[Array, ...]
    shift: Array

    @cached_property
    def matrix(self) -> Array:
        """The weight [O,I*T] that the parts make together."""
        return _composed(self.parts)

    def apply(self, rows: Array) -> Array:
        """The results for rows [N,I,T]."""
        if all(p.shape[2] == 1 for p in self.parts):
            made = rows.reshape(len(rows), -1)
            for part in self.parts:
                made = made @ part[:, :, 0].T
            return np.asarray(made + self.shift)
        return np.asarray(rows.reshape(len(rows), -1) @ self.matrix.T + self.shift)


@dataclass(frozen=True)
class _Side:
    """A weight seen as a matrix [O*taps,inputs]: the main directions of its inputs, as rows, and the variance along each.

    `weighted` [O,inputs*taps] and `covariance` are those of the layer in these directions, in which steps downhill go straight; `seen` is
    the layer's own covariance, and `back` leads from directions to inputs.
    """

    into: Array
    back: Array
    variance: Array
    seen: Array
    given: Array
    taps: int

    @cached_property
    def weighted(self) -> Array:
        """The weight in these directions."""
        turned = np.einsum("oit,ij->ojt", self.given.reshape(len(self.given), -1, self.taps), self.back, optimize=True)
        return np.asarray(turned.reshape(len(self.given), -1))

    @cached_property
    def covariance(self) -> Array:
        """That of what the weight is multiplied by, in these directions."""
        inputs, taps = len(self.into), self.taps
        half = np.tensordot(self.into, self.seen.reshape(inputs, taps, -1), 1).reshape(inputs * taps, inputs, taps)
        return np.asarray(np.tensordot(self.into, half, (1, 1)).transpose(1, 0, 2).reshape(inputs * taps, -1))


@dataclass(frozen=True)
class Layer:
    """A weight [O,I,*window], rows [N,I,T] of what it is multiplied by, None when nothing is known of that, and results [N,O] to make.

    Without `wanted` these are the layer's own results. `centered` layers have a bias, which can take up a shift. `worth` [O,O] is what an
    error of the results does to the outputs of the net: eᵀ·worth·e; without it all results are worth the same.
    """

    weight: Array
    rows: Array | None
    centered: bool
    wanted: Array | None = None
    worth: Array | None = None

    @cached_property
    def taps(self) -> int:
        """How many taps the window has."""
        return prod(self.weight.shape[2:])

    @cached_property
    def matrix(self) -> Array:
        """The weight as a matrix, in f64 unless it is large; fitted again when other results are wanted."""
        plain = np.asarray(self.weight.reshape(len(self.weight), -1), self._real)
        if self.rows is None or self.wanted is None:
            return plain
        rows = self._middle(self._flat)
        return plain + _regression(rows, self._middle(self.wanted - self._flat @ plain.T), self.root)

    @cached_property
    def target(self) -> Array:
        """The results that are wanted."""
        return self._flat @ self.matrix.T if self.wanted is None else self.wanted

    @cached_property
    def covariance(self) -> Array:
        """That of what the weight is multiplied by [I*T,I*T]; the identity when nothing is known."""
        if self.rows is None:
            return np.eye(self.weight[0].size)
        rows = self._middle(self._flat)
        return _ridged(rows.T @ rows / len(rows))

    @cached_property
    def root(self) -> Array | None:
        """The symmetric root of what results are worth; None for the identity."""
        if self.worth is None or not np.trace(self.worth) > 0:
            return None
        values, vectors = np.linalg.eigh((self.worth + self.worth.T) / 2)
        values = np.sqrt(np.maximum(values, 0) / max(values.mean(), 1e-30) + _FLOOR)
        return np.asarray((vectors * values) @ vectors.T)

    @cached_property
    def weighted(self) -> Array:
        """The weight by what its results are worth."""
        return self.matrix if self.root is None else np.asarray(self.root @ self.matrix, self._real)

    @cached_property
    def output(self) -> tuple[Array, Array]:
        """The directions of the weighted results, the main one first, as columns, and the variance along each."""
        weighted = self.weighted
        if self.rows is None:
            return _directions(weighted @ weighted.T)
        made = self._middle(self._flat) @ weighted.T      # not the covariance of the inputs: there may be tens of thousands of these
        return _directions(made.T @ made / len(made) + self._ridge * (weighted @ weighted.T))

    @cached_property
    def sides(self) -> dict[bool, _Side]:
        """The weight from the side of its inputs; True: lines of the window count as inputs."""
        return {lines: self._side(lines=lines) for lines in ((False, True) if self.weight.ndim == _PLANE + 2 else (False,))}

    def fit(self, shape: Shape, effort: float = 1.0) -> Factors:
        """The parts of a shape; less `effort` is quicker and loses a little more."""
        weighted = self.weighted
        if shape.inputs is None and shape.lines is None:
            axes = self.output[0][:, :shape.results]
            parts = [(axes.T @ weighted).reshape(-1, self.weight.shape[1], self.taps), axes[:, :, None]]
        else:
            side = self.sides[shape.lines is not None]
            parts = _start(shape, side)
            steps = int(effort * min(_STEPS, _WORK / (2.0 * len(weighted) * weighted.shape[1] ** 2)))
            if steps:
                parts = _improved(parts, side.weighted, side.covariance, steps)
            parts[0] = (parts[0][:, :, 0] @ side.into).reshape(len(parts[0]), self.weight.shape[1], -1)
        if self.root is not None:
            parts[-1] = np.linalg.solve(self.root, parts[-1].reshape(len(self.root), -1)).reshape(parts[-1].shape)
        made = Factors(_balanced(parts), np.zeros(len(self.weight)))
        if not self.centered or self.rows is None:
            return made
        return Factors(made.parts, self.target.mean(0) - made.apply(self.rows.mean(0, keepdims=True))[0])

    def loss(self, factors: Factors) -> float:
        """How much of the variance of the results the factors lose, on these rows; without rows, of the weight itself."""
        if self.rows is None:
            return _share(self.matrix, factors.matrix)
        return _share(self.target, factors.apply(self.rows), centered=self.centered)

    def cost(self, factors: Factors) -> float:
        """How much of what the results are worth the factors lose, by covariances."""
        made = factors.matrix if self.root is None else self.root @ factors.matrix
        whole = self._power(self.weighted)
        return self._power(made - self.weighted) / whole if whole else 0.0

    def _power(self, weight: Array) -> float:
        """The variance of what a matrix makes of the rows, or of anything when there are none."""
        if self.rows is None or len(self.rows) >= weight.shape[1]:
            return float(((weight @ self.covariance) * weight).sum())
        made = weight @ self._middle(self._flat).T            # the same without the covariance, which is larger
        return float(np.square(made).sum()) / len(self.rows) + self._ridge * float(np.square(weight).sum())

    def expected(self, shape: Shape) -> float:
        """About how much a shape costs, from the variances alone."""
        if shape.lines is not None:
            return _tail(self.sides[True].variance, shape.lines)
        lost = _tail(self.output[1], shape.results) if shape.results is not None else 0.0
        return lost + (_tail(self.sides[False].variance, shape.inputs) if shape.inputs is not None else 0.0)

    @property
    def _real(self) -> type[np.floating[Any]]:
        return np.float32 if self.weight.size > _LARGE else np.float64

    @cached_property
    def _ridge(self) -> float:
        """What is added to each variance of the inputs."""
        return max(_RIDGE * float(np.square(self._middle(self._flat)).mean()), 1e-30)

    @cached_property
    def _flat(self) -> Array:
        assert self.rows is not None  # noqa: S101  asked only where there are rows
        return np.asarray(self.rows.reshape(len(self.rows), -1), self._real)

    def _middle(self, rows: Array) -> Array:
        return rows - rows.mean(0) if self.centered else rows

    def _side(self, *, lines: bool) -> _Side:
        taps = self.weight.shape[-1] if lines else self.taps
        inputs, weighted = len(self.covariance) // taps, self.weighted
        seen = np.einsum("itIt->iI", self.covariance.reshape(inputs, taps, inputs, taps)) / taps
        root = np.linalg.cholesky(_ridged(seen, _TINY))
        by_input = weighted.reshape(-1, inputs, taps).transpose(0, 2, 1).reshape(-1, inputs)
        axes, variance = _directions(root.T @ (by_input.T @ by_input) @ root)
        into, back = np.linalg.solve(root.T, axes).T, root @ axes
        return _Side(into, back, variance, self.covariance, weighted, taps)


def _start(shape: Shape, side: _Side) -> list[Array]:
    """Parts to begin with: main directions of the inputs, and the best that can stand behind them."""
    rank = shape.lines or shape.inputs or len(side.into)
    some = rank * side.taps
    inner = side.covariance[:some, :some]
    core = np.linalg.solve(_ridged(inner, _TINY), side.covariance[:some] @ side.weighted.T).T
    parts: list[Array] = [np.eye(rank, len(side.into))[:, :, None]]
    if shape.results is not None:
        axes = _directions(core @ inner @ core.T)[0][:, :shape.results]
        return [*parts, np.asarray(axes.T @ core).reshape(-1, rank, side.taps), axes[:, :, None]]
    return [*parts, core.reshape(-1, rank, side.taps)]


def _balanced(parts: Sequence[Array]) -> tuple[Array, ...]:
    """The same weight by parts of which each direction has the same size on both sides: steps and roundings then count alike."""
    made = list(parts)
    for k in range(len(made) - 1):
        before, behind = np.sqrt(np.square(made[k]).sum((1, 2))), np.sqrt(np.square(made[k + 1]).sum((0, 2)))
        scale = np.sqrt(np.where((before > _NONE) & (behind > _NONE), behind / np.maximum(before, _NONE), 1))
        made[k], made[k + 1] = made[k] * scale[:, None, None], made[k + 1] / scale[:, None]
    return tuple(made)


def _composed(parts: Sequence[Array]) -> Array:
    """The weight [O,I*T] of parts [results,inputs,taps], each with other axes of the window."""
    made = parts[0]
    for part in parts[1:]:
        (results, rank, here), (inputs, before) = part.shape, made.shape[1:]
        if here == 1:
            made = (part[:, :, 0] @ made.reshape(rank, -1)).reshape(results, inputs, before)
        else:                                                           # mjb,jia->miab
            wide = part.transpose(0, 2, 1).reshape(-1, rank) @ made.reshape(rank, -1)
            made = wide.reshape(results, here, -1).swapaxes(1, 2).reshape(results, inputs, -1)
    return made.reshape(len(made), -1)


def _improved(parts: Sequence[Array], wanted: Array, covariance: Array, steps: int) -> list[Array]:
    """Parts that together come nearer to a weight: steps of L-BFGS over all of them."""
    from scipy.optimize import minimize  # noqa: PLC0415  slow to load

    ends = np.cumsum([p.size for p in parts])[:-1]
    scale = max(float(((wanted @ covariance) * wanted).sum()), 1e-30)

    def split(numbers: Array) -> list[Array]:
        return [a.reshape(p.shape) for a, p in zip(np.split(numbers, ends), parts, strict=True)]

    def value(numbers: Array) -> tuple[float, Array]:
        now = split(numbers)
        missing = _composed(now) - wanted
        pull = missing @ covariance
        slopes = [_slope(now, k, pull) for k in range(len(now))]
        return float((missing * pull).sum()) / scale, np.concatenate([s.reshape(-1) for s in slopes]) * (2 / scale)

    start = np.concatenate([p.reshape(-1) for p in parts])
    found = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": steps, "maxcor": 20, "ftol": 1e-10, "gtol": 1e-12})
    return split(np.asarray(found.x))


def _slope(parts: Sequence[Array], k: int, pull: Array) -> Array:
    """How the error changes with one of the parts, from how it changes with the weight they make."""
    o, inputs = len(parts[-1]), parts[0].shape[1]
    before, here, behind = (prod(p.shape[2] for p in some) for some in (parts[:k], parts[k:k + 1], parts[k + 1:]))
    made = pull.reshape(o, inputs, before, here, behind)
    if parts[k + 1:]:
        later = _composed(parts[k + 1:]).reshape(o, -1, behind)
        made = np.tensordot(later, made, ((0, 2), (0, 4)))[..., None]  # omc,oiabc->miab
    if parts[:k]:
        earlier = _composed(parts[:k]).reshape(-1, inputs, before)
        made = (earlier.reshape(len(earlier), -1) @ made.reshape(len(made), inputs * before, -1))[:, :, None]     # jia,miabc->mjbc
    return np.asarray(made.reshape(parts[k].shape))


def _regression(rows: Array, missing: Array, root: Array | None) -> Array:
    """The matrix that makes of rows what is missing; where rows are few, as much of it as helps rows that were left out.

    With fewer rows than inputs, products of rows stand for those of inputs: the same fit from a smaller matrix.
    """
    few, ridge = len(rows) < rows.shape[1], _RIDGE
    gram = rows @ rows.T if few else rows.T @ rows
    if len(rows) < _ENOUGH * rows.shape[1]:
        lost = _left_out(rows, missing, gram, root)
        best = min(lost, key=lambda r: lost[r])
        if best is None:
            return np.zeros((missing.shape[1], rows.shape[1]))
        ridge = best
    solved = np.linalg.solve(_ridged(gram, ridge), missing if few else rows.T @ missing)
    return np.asarray(solved.T @ rows if few else solved.T)


def _left_out(rows: Array, missing: Array, gram: Array, root: Array | None) -> dict[float | None, float]:
    """How far fits with each ridge are off for rows that they have not seen, and (None) how far nothing at all is."""
    few = len(gram) == len(rows)
    if len(gram) > _QUICK:                                          # these ridges are large: f32 is enough to compare them
        rows, missing, gram = (a.astype(np.float32) for a in (rows, missing, gram))
    given = rows.T @ missing
    lost = {None: _far(missing, root)} | dict.fromkeys(_RIDGES, 0.0)
    for begin, end in pairwise(np.linspace(0, len(rows), _FOLDS + 1).astype(int)):
        out, kept = rows[begin:end], np.r_[0:begin, end:len(rows)]
        inner = gram[np.ix_(kept, kept)] if few else gram - out.T @ out
        across = gram[begin:end, kept] if few else out
        wanted = missing[kept] if few else given - out.T @ missing[begin:end]
        for r in _RIDGES:
            lost[r] += _far(missing[begin:end] - across @ np.linalg.solve(_ridged(inner, r), wanted), root)
    return lost


def _far(missing: Array, root: Array | None) -> float:
    return float(np.square(missing if root is None else missing @ root).sum())


def _directions(covariance: Array) -> tuple[Array, Array]:
    """Eigenvectors as columns, the largest value first; the largest element of each is positive, so that there is one answer."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    vectors = vectors[:, ::-1]
    signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0))
    return vectors * np.where(signs == 0, 1, signs), np.maximum(values[::-1], 0)


def _ridged(covariance: Array, ridge: float = _RIDGE) -> Array:
    size = len(covariance)
    made = covariance.copy()
    made[np.diag_indices(size)] += max(ridge * float(np.trace(covariance)) / size, 1e-30)
    return made


def _tail(variance: Array, rank: int) -> float:
    total = float(variance.sum())
    return float(variance[rank:].sum()) / total if total else 0.0


def _share(wanted: Array, made: Array, *, centered: bool = False) -> float:
    spread = float(np.square(wanted - wanted.mean(0) if centered else wanted).sum())
    return float(np.square(wanted - made).sum()) / spread if spread else 0.0
