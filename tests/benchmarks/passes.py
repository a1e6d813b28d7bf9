# ruff: noqa: T201 - it is a program
"""How long all passes take on random graphs, and whether that grows with the graph: python -m tests.benchmarks.passes."""

import argparse
import time
from collections import defaultdict

from edgec.access import module
from edgec.pipeline import Context, run_passes
from edgec.target import find
from edgec.testing import random_graph
from tests.benchmarks.models import table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1000,2000,5000,10000", help="nodes, with commas between them")
    parser.add_argument("--seeds", type=int, default=2, help="graphs of each size (default: 2)")
    parser.add_argument("--target", default="cortex-a72")
    args = parser.parse_args()
    catalog, target = module("passes.catalog"), find(args.target)
    rows: list[tuple[object, ...]] = []
    for size in map(int, args.sizes.split(",")):
        for seed in range(args.seeds):
            graph = random_graph(seed, size)
            context = Context(target)
            start, busy = time.perf_counter(), time.process_time()
            made = run_passes(graph, catalog.DEFAULT, catalog.CATALOG, context)
            took, busy = time.perf_counter() - start, time.process_time() - busy
            each = defaultdict[str, float](float)
            for name, spent in context.times:
                each[name] += spent
            shares = ", ".join(f"{name} {spent:.1f}" for name, spent in sorted(each.items(), key=lambda item: -item[1])[:4])
            nodes = len(graph.nodes)
            rows.append((size, seed, nodes, len(made.nodes), f"{took:.1f}", f"{busy:.1f}", f"{busy / nodes * 1000:.2f}", shares))
            print(*rows[-1], flush=True)
    print(table(("size", "seed", "nodes", "nodes after", "s", "CPU s", "CPU s for 1000 nodes", "of the s"), rows))


if __name__ == "__main__":
    main()
