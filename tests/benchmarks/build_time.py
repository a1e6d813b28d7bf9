# ruff: noqa: T201 - it is a program
"""How long a build takes, from an empty cache and again: python -m tests.benchmarks.build_time [MODEL ...]."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.models import find, table
from tests.bundles import BOUND, ROOT

BUILD = """if True:
    import json, sys
    import edgec
    model, target, output, jobs, bound = sys.argv[1:]
    edgec.build(model, target=target, output=output, jobs=int(jobs) or None, **json.loads(bound))"""


def seconds(name: str, target: str, jobs: int, folder: Path) -> tuple[float, float, int]:
    """From nothing; with every kernel in the cache; and how many kernels there are."""
    bound = json.dumps(BOUND.get(name, {}))
    command = [sys.executable, "-c", BUILD, str(find(name, folder)), target, str(folder / "bundle"), str(jobs), bound]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGEC_CACHE": str(folder / f"cache-{name}-{target}")}
    times = []
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run(command, env=environment, check=True)
        times.append(time.perf_counter() - start)
    manifest = json.loads((folder / "bundle" / "manifest.json").read_bytes())
    return times[0], times[1], len(manifest["kernels"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["light_resnet50"], metavar="MODEL")
    parser.add_argument("--target", default="host,cortex-a72", help="names with commas between them")
    parser.add_argument("--jobs", type=int, default=0, help="kernels compiled at the same time (default: one for each core)")
    args = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            for target in args.target.split(","):
                cold, warm, kernels = seconds(name, target, args.jobs, Path(folder))
                rows.append((name, target, kernels, f"{cold:.1f}", f"{warm:.1f}"))
    print(table(("model", "target", "kernels", "cold build, s", "warm build, s"), rows))


if __name__ == "__main__":
    main()
