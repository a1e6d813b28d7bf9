"""Where buffers lie in the arena: two that live at the same step must not overlap, and the whole should be small."""

from collections.abc import Sequence

Lifetime = tuple[int, int, int]
"""Bytes, first step and last step of a buffer; it is alive in both and between."""


def lower_bound(lifetimes: Sequence[Lifetime], align: int = 1) -> int:
    """The most bytes that are alive at one step: no plan can be smaller."""
    changes: dict[int, int] = {}
    for size, first, last in lifetimes:
        padded = -(-size // align) * align
        changes[first] = changes.get(first, 0) + padded
        changes[last + 1] = changes.get(last + 1, 0) - padded
    most = now = 0
    for step in sorted(changes):
        now += changes[step]
        most = max(most, now)
    return most


def plan(lifetimes: Sequence[Lifetime], align: int = 64) -> tuple[tuple[int, ...], int]:
    """Offsets of all buffers, multiples of `align`, and the size of the arena."""
    sizes = [-(-size // align) * align for size, _, _ in lifetimes]
    offsets = [0] * len(sizes)
    placed: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        _, first, last = lifetimes[i]
        at = 0
        for begin, end in sorted((offsets[j], offsets[j] + sizes[j]) for j in placed if lifetimes[j][1] <= last and first <= lifetimes[j][2]):
            if at + sizes[i] <= begin:
                break
            at = max(at, end)
        offsets[i] = at
        placed.append(i)
    return tuple(offsets), max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0)
