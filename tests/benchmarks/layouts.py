# ruff: noqa: T201 - it is a program
"""What weighing layouts and copies against each other changes: `python -m tests.benchmarks.layouts [MODEL …] [--target host] [--time]`.

Predicted cycles of all kernels and copies with the layouts that local rules choose (see passes/layout.py), and with those that cost least
together where kernels disagree. With `--time`, models that change are built both ways, and the two bundles take turns (see measured.py).
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import edgec
from edgec.access import module
from edgec.build import read
from edgec.ir.graph import Graph
from edgec.isa import Isa, cpu_isa
from edgec.measure import pinned
from edgec.pipeline import Context, run_passes
from edgec.target import find as find_target
from tests.benchmarks.measured import compared
from tests.benchmarks.models import ALL, binding, find, table

_catalog, _layout, _reorders = module("passes.catalog"), module("passes.layout"), module("passes.changes.reorders")


@contextmanager
def greedy() -> Iterator[list[Graph]]:
    """Builds meanwhile keep the layouts of the local rules; the list gets these graphs."""
    seen: list[Graph] = []

    def keep(graph: Graph, _: Isa) -> Graph:
        seen.append(graph)
        return graph

    with patch.object(_layout, "settle", keep):
        yield seen


def weighed(name: str, folder: Path, target: str) -> tuple[float, float, int, float]:
    """Cycles before and after, copies that were added, and the CPU time that this took in milliseconds."""
    machine = find_target(target)
    graph = read(find(name, folder), static=True, **binding(name))
    with greedy() as seen:
        run_passes(graph, _catalog.DEFAULT, _catalog.CATALOG, Context(machine))
    isa, start = cpu_isa(machine), time.process_time()
    made = _reorders.settle(seen[-1], isa)
    took = time.process_time() - start
    copies = sum(n.op == "edgec.Reorder" for n in made.nodes) - sum(n.op == "edgec.Reorder" for n in seen[-1].nodes)
    return _reorders.cycles(seen[-1], isa), _reorders.cycles(made, isa), copies, took * 1e3


def timed(name: str, folder: Path, target: str) -> str:
    """The time of the whole net in terms of that with the layouts of the local rules."""
    with greedy():
        before = edgec.build(find(name, folder), target, folder / f"{name}.greedy.edgec", **binding(name))
    after = edgec.build(find(name, folder), target, folder / f"{name}.edgec", **binding(name))
    with pinned(1):
        return compared((before, after), 8.0)


def main() -> None:
    """Print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=ALL, metavar="MODEL")
    parser.add_argument("--target", default="host")
    parser.add_argument("--time", action="store_true")
    args = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            before, after, copies, took = weighed(name, Path(folder), args.target)
            measured = timed(name, Path(folder), args.target) if args.time and after < before else ""
            rows.append((name, f"{before / 1e6:.2f}", f"{after / 1e6:.2f}", f"{after / before:.3f}", copies, f"{took:.0f}", measured))
            print(*rows[-1], flush=True)
    print(table(("model", "million cycles, local rules", "weighed", "ratio", "copies added", "CPU ms", "time measured"), rows))


if __name__ == "__main__":
    main()
