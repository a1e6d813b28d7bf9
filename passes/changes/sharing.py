"""Which shapes a layer may take, what each costs, and how layers share the weights that a net may keep."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from edgec.ir.graph import Node
from passes.changes.low_rank import Layer, Shape

Point = tuple[int, float]

_STEPS = 20         # numbers of weights that are looked at
_FINER = 8          # times as many that costs are guessed for
_NOTHING = 1e-30
_SPLITS = 10        # ranks of the inputs that are looked at, where the results have one too
_TRIED = 3          # shapes that are fitted, of those that look best
_EFFORT = 0.1       # of a full fit, to compare shapes
_QUICK = 1e8        # multiply-accumulates of one step of fitting up to which shapes are fitted to draw a curve
_DEEPEST = 3        # how many times more weights than asked a single layer may lose


def curve(layer: Layer, ratio: float, known: dict[int, float]) -> list[Point]:
    """What a layer costs with fewer and fewer weights: (weights, cost), all of them first.

    `known` are costs of this layer that were found before, by weights; those that are found now are added.
    """
    size = layer.weight.size
    points = [(size, 0.0)]
    quick = layer.taps > 1 and _quick(layer)
    for step in range(_STEPS - 1, 0, -1):
        budget = size * step // _STEPS
        found = sorted((layer.expected(s), k, s) for k, s in enumerate(within(layer.weight.shape, budget)))[:_TRIED]
        if found and budget * ratio * _DEEPEST >= size:
            if budget not in known:
                lost = min(layer.cost(layer.fit(s, _EFFORT)) for _, _, s in found) if quick else found[0][0]
                known[budget] = min(lost, found[0][0])
            points.append((budget, known[budget]))
    return _finer(points)


def _finer(points: Sequence[Point]) -> list[Point]:
    """The points of a curve and some between them, on straight lines between the logarithms of the costs."""
    sizes, costs = (np.asarray(a[:0:-1], np.float64) for a in zip(*points, strict=True))
    if not len(sizes):
        return list(points)
    between = np.linspace(sizes[0], sizes[-1], (len(sizes) - 1) * _FINER + 1)
    made = np.exp(np.interp(between, sizes, np.log(np.maximum(costs, _NOTHING))))
    return [points[0], *zip(between[::-1].astype(int).tolist(), made[::-1].tolist(), strict=True)]


def share(curves: Mapping[Node, Sequence[Point]], ratio: float, small: float) -> dict[Node, int]:
    """Weights for each layer, `ratio` times fewer in all, so that the costs add up to as little as possible.

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
    """The shape of at most `budget` weights that costs least; None when there is none."""
    found = sorted(within(layer.weight.shape, budget), key=lambda s: (layer.expected(s), s.inputs or 0))[:2 * _TRIED]
    if len(found) < 2 or not _quick(layer):  # noqa: PLR2004  nothing to choose from
        return found[0] if found else None
    return min(found, key=lambda s: layer.cost(layer.fit(s, _EFFORT)))


def _quick(layer: Layer) -> bool:
    o, *inputs = layer.weight.shape
    work: int = o * prod(inputs) ** 2
    return work <= _QUICK


def within(dims: Sequence[int], budget: int) -> Iterator[Shape]:
    """The largest ranks that a budget allows: of the results, of the inputs, of both in some proportions, of lines of the window."""
    o, i, *window = dims
    taps = prod(window)
    rank = budget // (i * taps + o)
    if 1 <= rank < min(o, i * taps):
        yield Shape(results=rank)
    if taps == 1:
        return
    rank = budget // (i + o * taps)
    if 1 <= rank < i:
        yield Shape(inputs=rank)
    for r1 in sorted({i * step // _SPLITS for step in range(2, _SPLITS)} - {0}):
        if 1 <= (rank := (budget - r1 * i) // (r1 * taps + o)) < o:
            yield Shape(r1, rank)
    if flat(window):
        rank = budget // (i * window[0] + o * window[1])
        if 1 <= rank < min(i * window[0], o * window[1]):
            yield Shape(lines=rank)


def flat(window: Sequence[int]) -> bool:
    """Whether a window can be cut into one along each of its axes."""
    return len(window) == 2 and min(window) > 1  # noqa: PLR2004
