# ruff: noqa: T201 - it is a program
"""How long the exact partition of random nets takes, and what it saves: python -m tests.benchmarks.partition."""

import argparse
import time
from math import inf

from edgec.partition import HOST, Problem, solve
from tests.benchmarks.models import table
from tests.test_partition import large


def greedy(problem: Problem) -> list[int]:
    """One group after the other goes where it and the copies of what it reads take least."""
    on: list[int] = []
    for i, costs in enumerate(problem.costs):
        read = [f for k in problem.touched.get(i, ()) if i in (f := problem.flows[k]).readers]

        def price(unit: int, costs: object = costs, read: object = read) -> float:
            own = costs[unit]                                   # type: ignore[index]
            homes = [(HOST if f.producer is None else on[f.producer], f) for f in read]  # type: ignore[attr-defined]
            return float(own + sum((problem.units[h].out(f.size) if h else 0) + (problem.units[unit].into(f.size) if unit else 0)
                                   for h, f in homes if h != unit))

        on.append(min((u for u, c in enumerate(costs) if c < inf), key=price))
    return on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="200,600,2000", help="groups, with commas between them")
    parser.add_argument("--units", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="nets of each size (default: 3)")
    args = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    for size in map(int, args.sizes.split(",")):
        for seed in range(args.seeds):
            problem = large(seed, size, args.units)
            start = time.perf_counter()
            on = solve(problem)
            took = time.perf_counter() - start
            assert on is not None
            best = problem.price(on)
            single = min(problem.price(problem.single(u)) for u in range(args.units))
            rows.append((size, seed, f"{took:.2f}", f"{single / best:.2f}", f"{problem.price(greedy(problem)) / best:.2f}"))
    print(table(("groups", "seed", "seconds", "best single unit", "greedy"), rows))


if __name__ == "__main__":
    main()
