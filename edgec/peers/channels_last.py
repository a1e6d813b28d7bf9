"""Values whose axes lie in another order in memory than the model names them: what a model of images needs to become channels last.

An *order* lists for each axis in memory which axis of the model it is: `(0, 2, 3, 1)` is an image whose channels are last. A Transpose of
the model then moves nothing, and a Reshape moves only axes that it joins in another order than they lie in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.ir.graph import Value

Order = tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """A value as it lies in memory, and the order of its axes there."""

    value: Value
    order: Order


def plain(rank: int) -> Order:
    """The order of the model itself."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """The order of images whose channels are last."""
    return (0, *range(2, rank), 1) if rank > 2 else plain(rank)  # noqa: PLR2004  fewer axes have no channels between others


def moved(dims: Sequence[int], have: Order, want: Order) -> tuple[int, ...] | None:
    """The permutation of axes in memory that leads from one order to another, None when no element moves; `dims` are the model's."""
    long = [a for a in have if dims[a] != 1]
    return None if long == [a for a in want if dims[a] != 1] else tuple(have.index(a) for a in want)


def groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The least runs of axes of two shapes with equal products, in order: which axes a Reshape makes of which; sizes are not 0."""
    found, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        a, b = ([i] if i < len(old) else []), ([j] if j < len(new) else [])
        i, j = i + len(a), j + len(b)
        left, right = (old[a[0]] if a else 1), (new[b[0]] if b else 1)
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
                a.append(i - 1)
            else:
                right, j = right * new[j], j + 1
                b.append(j - 1)
        found.append((a, b))
    return found


def reshaped(old: Sequence[int], new: Sequence[int], have: Order) -> tuple[Order, Order]:
    """For a Reshape of a value that lies in the order `have`: the order that it has to be brought to, and that of the result."""
    place = {axis: i for i, axis in enumerate(have)}

    def first(part: tuple[list[int], list[int]]) -> int:
        """Where its first axis of more than one element lies, or of one when there are no others."""
        axes = part[0]
        return next((place[a] for a in axes if old[a] != 1), min((place[a] for a in axes), default=len(have)))

    parts = sorted(groups(old, new), key=first)
    return tuple(a for g in parts for a in g[0]), tuple(b for g in parts for b in g[1])


def reduced(order: Order, axes: Sequence[int]) -> Order:
    """The order of what is left without some axes."""
    kept = sorted(a for a in order if a not in axes)
    return tuple(kept.index(a) for a in order if a not in axes)
