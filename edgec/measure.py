"""How long things take: contestants take turns in short blocks, and what is told are medians, and an interval for each ratio.

A machine's clock drifts, and other programs come and go. In alternated blocks both contestants suffer the same, so the ratio of
two blocks that follow one another says more than two long measurements.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, comb
from statistics import median

BLOCK_SECONDS = 0.02
_DOUBT = 20  # one measurement in so many may have its true ratio outside of the interval


@dataclass
class Times:
    """The seconds of one contestant's runs, block by block."""

    blocks: list[list[float]] = field(default_factory=list)

    @property
    def runs(self) -> list[float]:
        """All of them, in the order of measuring."""
        return [t for block in self.blocks for t in block]

    def quantile(self, share: float) -> float:
        """The time that this share of the runs does not exceed."""
        ordered = sorted(self.runs)
        return ordered[min(len(ordered) - 1, max(0, ceil(share * len(ordered)) - 1))]

    def summary(self) -> dict[str, float]:
        """Median, 90th and 99th percentile and minimum, in milliseconds, and the number of runs."""
        return {"ms": median(self.runs) * 1e3, "p90_ms": self.quantile(0.9) * 1e3, "p99_ms": self.quantile(0.99) * 1e3,
                "min_ms": min(self.runs) * 1e3, "runs": len(self.runs)}


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of neighboring blocks, and the interval that holds the true one in 95 of 100 measurements."""

    value: float
    low: float
    high: float


def ratio(ours: Times, theirs: Times) -> Ratio:
    """How many times as long we take. The interval comes from order statistics, so it assumes nothing about how times scatter."""
    ratios = sorted(median(a) / median(b) for a, b in zip(ours.blocks, theirs.blocks, strict=True))
    low = _rank(len(ratios))
    return Ratio(median(ratios), ratios[low], ratios[-1 - low])


def _rank(n: int) -> int:
    """How many of n ordered numbers lie below an interval that holds the median with 95 %, and as many above; 0 when n is too small."""
    k = below = 0
    while (n + 1) // 2 > k and 2 * (below := below + comb(n, k)) * _DOUBT <= 2**n:
        k += 1
    return max(0, k - 1)


def race(contestants: Mapping[str, Callable[[], object]], *, warmup: int = 3, iterations: int | None = None, duration: float = 3.0,
         block: float = BLOCK_SECONDS, clock: Callable[[], float] = time.perf_counter, settle: float = 0.0) -> dict[str, Times]:
    """Let contestants take turns until `duration` seconds have passed, or each has run `iterations` times if that is given.

    Each turn lasts at least `block` seconds and one run. A turn's first run is not counted: it finds the other's data in the caches,
    and the other's threads still waiting for work. For threads that wait longer than that, each turn begins with `settle` seconds of rest.
    """
    for run in contestants.values():
        for _ in range(warmup):
            run()
    times = {name: Times() for name in contestants}
    alone, end = len(contestants) == 1, clock() + duration
    while True:
        for name, run in contestants.items():
            if not alone:
                if settle:
                    time.sleep(settle)
                run()
            times[name].blocks.append(_turn(run, block, clock, iterations))
        done = min(len(t.runs) for t in times.values())
        if done >= iterations if iterations is not None else clock() >= end:
            return times


def _turn(run: Callable[[], object], seconds: float, clock: Callable[[], float], most: int | None) -> list[float]:
    made: list[float] = []
    start = now = clock()
    while not made or (now - start < seconds and (most is None or len(made) < most)):
        before = now
        run()
        now = clock()
        made.append(now - before)
    return made


@contextmanager
def pinned(threads: int) -> Iterator[Sequence[int]]:
    """Keep this process, and the threads that it starts meanwhile, on as many of its processors as there are threads; yields which."""
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    allowed = os.sched_getaffinity(0)
    chosen = sorted(allowed)[:max(threads, 1)]
    os.sched_setaffinity(0, chosen)
    try:
        yield tuple(chosen)
    finally:
        os.sched_setaffinity(0, allowed)
