"""The arena planner: never an overlap, nearly always the lower bound, always the same."""

import random
from itertools import pairwise

import pytest

from edgec.codegen.memory import Lifetime, lower_bound, plan


def dice_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same throws every time


def check(lifetimes: list[Lifetime], align: int = 64, every: int = 1) -> float:
    """Check a plan and return how much larger it is than it would have to be."""
    offsets, total = plan(lifetimes, align)
    steps = sorted({step for _, first, last in lifetimes for step in (first, last)})
    for step in steps[::every]:
        alive = sorted((o, o + size) for o, (size, first, last) in zip(offsets, lifetimes, strict=True) if first <= step <= last and size)
        assert all(o % align == 0 for o, _ in alive)
        assert all(end <= total for _, end in alive)
        assert all(a[1] <= b[0] for a, b in pairwise(alive)), f"buffers overlap at step {step}"
    bound = lower_bound(lifetimes, align)
    assert total >= bound
    return total / max(1, bound)


def chain(sizes: list[int]) -> list[Lifetime]:
    """Each buffer is read by the next step only."""
    return [(size, i, i + 1) for i, size in enumerate(sizes)]


def test_small_cases() -> None:
    assert plan([]) == ((), 0)
    assert plan([(0, 0, 5)]) == ((0,), 0)
    assert plan([(1, 0, 0)]) == ((0,), 64)
    assert plan([(100, 0, 0), (100, 1, 1)]) == ((0, 0), 128)
    offsets, total = plan([(100, 0, 1), (100, 1, 2)])
    assert sorted(offsets) == [0, 128]
    assert total == 256
    assert lower_bound([(100, 0, 1), (100, 1, 2)]) == 200
    assert lower_bound([]) == 0


def test_chain_reaches_the_bound() -> None:
    dice = dice_of(1)
    assert check(chain([dice.randrange(1, 1 << 20) for _ in range(100)])) == 1.0


def test_fire_modules_and_residuals() -> None:
    # SqueezeNet-like: squeeze feeds two expands that end in one buffer; a residual stays alive over a block.
    lifetimes: list[Lifetime] = []
    for block in range(12):
        base = 4 * block
        lifetimes += [((12 - block) * 50_000, base, base + 2), ((12 - block) * 200_000, base + 1, base + 4)]
        lifetimes += [(300_000 - block * 1000, base, base + 5)]
    assert check(lifetimes) <= 1.02


@pytest.mark.parametrize("seed", range(25))
def test_random_lifetimes_are_near_the_bound(seed: int) -> None:
    dice = dice_of(seed)
    lifetimes = []
    for i in range(dice.randrange(2, 120)):
        length = dice.choice((1, 1, 1, 2, 2, 3, 5, 12))
        lifetimes.append((dice.choice((1, 3, 7, 16, 50)) * dice.choice((64, 1000, 4096)), i, i + length))
    assert check(lifetimes, dice.choice((1, 16, 64))) <= 1.02


@pytest.mark.parametrize("seed", range(5))
def test_search_closes_the_gaps_that_greedy_orders_leave(seed: int) -> None:
    dice = dice_of(seed)
    assert check([(dice.randrange(1, 100_000), i, i + dice.choice((1, 2, 3, 5, 12, 30))) for i in range(60)]) <= 1.03


def test_it_is_deterministic() -> None:
    dice = dice_of(7)
    lifetimes = [(dice.randrange(1, 10_000), i, i + dice.randrange(1, 9)) for i in range(150)]
    assert plan(lifetimes) == plan(list(lifetimes))


def test_ten_thousand_buffers() -> None:
    dice = dice_of(3)
    lifetimes = [(dice.randrange(1, 1 << 16), i, i + dice.choice((1, 1, 2, 3))) for i in range(10_000)]
    lifetimes.append((1000, 0, 10_000))
    assert check(lifetimes, every=50) <= 1.1
