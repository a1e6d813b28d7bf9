# ruff: noqa: T201 - it is a program
"""What each kernel of a bundle takes, beside what was predicted: python -m tests.benchmarks.kernels BUNDLE [BUNDLE …].

A run goes step by step, so every kernel finds caches as in a whole run. Times are those of the thread, not of the clock on the wall.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from edgec.bundle import Bundle
from edgec.measure import pinned
from edgec.samples import draw
from tests.benchmarks.models import table


def steps_us(bundle: Bundle, seconds: float) -> list[float]:
    """The median time of each step, in microseconds."""
    session = bundle.load(threads=1)
    feeds = draw(session.inputs, 1, bundle.manifest.get("input_ranges", {}))
    first = list(session.steps(feeds))                          # touches all memory once, for its pages come with the first touch
    rounds = list[list[float]]()
    end = time.monotonic() + seconds
    while len(rounds) < 4 or time.monotonic() < end:
        times = list[float]()
        for step in first:
            start = time.thread_time()
            step.memory.step(step.number)
            times.append(time.thread_time() - start)
        rounds.append(times)
    return list(np.median(rounds[1:], 0) * 1e6)


def rows(bundle: Bundle, seconds: float) -> list[dict[str, Any]]:
    """Kernel, what was predicted of it, what it took."""
    m = bundle.manifest
    ms, cycles = m["report"]["predicted_ms"], sum(m["kernels"][s["kernel"]]["cycles"] for s in m["steps"])
    made = list[dict[str, Any]]()
    for step, took in zip(m["steps"], steps_us(bundle, seconds), strict=True):
        kernel = m["kernels"][step["kernel"]]
        made.append({"origin": step["origin"], **kernel, "predicted": kernel["cycles"] / cycles * ms * 1e3, "took": took})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring each bundle (default: 5)")
    args = parser.parse_args()
    with pinned(1):
        for path in args.bundles:
            found = rows(Bundle(path), args.seconds)
            took, said = (sum(r[k] for r in found) for k in ("took", "predicted"))
            print(f"{path.name}: {said / took:.2f} of the time was predicted")
            print(table(("layer", "kernel", "M products", "KB", "share of the time", "predicted / measured"), [
                (r["origin"][:40], r["algo"], f"{r['macs'] / 1e6:.2f}", f"{r['bytes'] / 1024:.0f}", f"{r['took'] / took:.1%}",
                 f"{r['predicted'] / r['took']:.2f}") for r in found]))
            each = defaultdict[str, list[float]](lambda: [0.0, 0.0])
            for r in found:
                each[r["algo"].rpartition("_")[0] or r["algo"]][0] += r["predicted"]
                each[r["algo"].rpartition("_")[0] or r["algo"]][1] += r["took"]
            print(table(("algorithm", "share of the time", "predicted / measured"), [
                (k, f"{t / took:.1%}", f"{p / t:.2f}") for k, (p, t) in sorted(each.items(), key=lambda e: -e[1][1])]), flush=True)


if __name__ == "__main__":
    main()
