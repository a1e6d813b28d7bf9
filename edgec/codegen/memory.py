"""Where buffers lie in the arena: two that are alive at the same step must not overlap, and the whole should be small.

Finding the smallest arena is hard (it is NP-complete), but greedy placement in a good order nearly always reaches the
lower bound. So: several orders, then a search around the best one, with an effort that is fixed by the problem's size.
"""

import random
from collections.abc import Sequence

Lifetime = tuple[int, int, int]
"""Bytes, first step and last step of a buffer; it is alive in both and between."""

_EFFORT = 6_000_000  # pairs of buffers looked at: a second or two at most
_MOST_ROUNDS = 10_000
_PATIENCE = 60


def lower_bound(lifetimes: Sequence[Lifetime], align: int = 1) -> int:
    """The most bytes that are alive at one step, each buffer rounded up to `align`: no plan can be smaller."""
    changes: dict[int, int] = {}
    for size, first, last in lifetimes:
        changes[first] = changes.get(first, 0) + _round(size, align)
        changes[last + 1] = changes.get(last + 1, 0) - _round(size, align)
    most = now = 0
    for step in sorted(changes):
        now += changes[step]
        most = max(most, now)
    return most


def plan(lifetimes: Sequence[Lifetime], align: int = 64) -> tuple[tuple[int, ...], int]:
    """Offsets of all buffers, multiples of `align`, and the size of the arena. The same lifetimes always give the same plan."""
    sizes = [_round(size, align) for size, _, _ in lifetimes]
    rivals = _rivals(lifetimes, sizes)
    bound = lower_bound(lifetimes, align)
    items = [i for i, size in enumerate(sizes) if size]
    lengths = [last - first + 1 for _, first, last in lifetimes]
    orders = [
        sorted(items, key=lambda i: (-sizes[i], i)),
        sorted(items, key=lambda i: (-sizes[i] * lengths[i], i)),
        sorted(items, key=lambda i: (-lengths[i], -sizes[i], i)),
        sorted(items, key=lambda i: (lifetimes[i][1], -sizes[i], i)),
    ]
    best: tuple[int, list[int]] | None = None
    best_order, best_tight = orders[0], False
    for order in orders:
        for tight in (False, True):
            total, offsets = _place(order, sizes, rivals, tight=tight)
            if best is None or total < best[0]:
                best, best_order, best_tight = (total, offsets), order, tight
            if total == bound:
                return tuple(offsets), total
    if best is None:
        return tuple(0 for _ in sizes), 0
    total, offsets = _search(best, best_order, sizes, rivals, bound, tight=best_tight)
    return tuple(offsets), total


def _round(size: int, align: int) -> int:
    return -(-size // align) * align


def _rivals(lifetimes: Sequence[Lifetime], sizes: Sequence[int]) -> list[list[int]]:
    """For each buffer, those that are alive together with it."""
    rivals: list[list[int]] = [[] for _ in lifetimes]
    alive: list[int] = []
    for i in sorted((i for i, size in enumerate(sizes) if size), key=lambda i: lifetimes[i][1]):
        alive = [j for j in alive if lifetimes[j][2] >= lifetimes[i][1]]
        for j in alive:
            rivals[i].append(j)
            rivals[j].append(i)
        alive.append(i)
    return rivals


def _place(order: Sequence[int], sizes: Sequence[int], rivals: Sequence[Sequence[int]], *, tight: bool) -> tuple[int, list[int]]:
    """Put each buffer into the lowest gap between its rivals that holds it, or (`tight`) into the smallest such gap."""
    offsets = [-1] * len(sizes)
    total = 0
    for i in order:
        size, at, found, room = sizes[i], 0, -1, 0
        for begin, end in sorted((offsets[j], offsets[j] + sizes[j]) for j in rivals[i] if offsets[j] >= 0):
            if begin - at >= size and (found < 0 or begin - at < room):
                found, room = at, begin - at
                if not tight:
                    break
            at = max(at, end)
        offsets[i] = at if found < 0 else found
        total = max(total, offsets[i] + size)
    return total, [max(0, o) for o in offsets]


def _search(
    best: tuple[int, list[int]], order: list[int], sizes: Sequence[int], rivals: Sequence[Sequence[int]], bound: int, *, tight: bool,
) -> tuple[int, list[int]]:
    """Move a buffer that reaches above the bound to an earlier place in the order, as long as that does no harm.

    When nothing has become better for a while, go on from near the best order.
    """
    rounds = min(_MOST_ROUNDS, _EFFORT // (sum(map(len, rivals)) + len(order)))
    dice = random.Random(0)  # noqa: S311 - the same throws every time
    now, offsets = best
    best_order, idle = order, 0
    for _ in range(rounds):
        if idle == _PATIENCE:  # start again near the best order
            moved = list(best_order)
            for _ in range(3):
                moved.insert(dice.randrange(len(moved)), moved.pop(dice.randrange(len(moved))))
        else:
            k = dice.choice([k for k, i in enumerate(order) if offsets[i] + sizes[i] > bound])
            moved = list(order)
            moved.insert(dice.randrange(k + 1), moved.pop(k))
        total, places = _place(moved, sizes, rivals, tight=tight)
        if total <= now or idle == _PATIENCE:
            idle = 0 if total < now or idle == _PATIENCE else idle + 1
            now, offsets, order = total, places, moved
        else:
            idle += 1
        if total < best[0]:
            best, best_order = (total, places), moved
        if total == bound:
            break
    return best
