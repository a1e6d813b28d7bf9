# ruff: noqa: T201 - it is a program
"""How many times as long as another runtime each model takes: python -m tests.benchmarks.ratios [MODEL ...]."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgec.peers import PEERS
from tests.benchmarks.models import ALL, find, flags, table
from tests.bundles import ROOT

_LONG = 160


def measured(name: str, folder: Path, *words: str) -> dict[str, Any] | str:
    """What `edgec bench --json` says, or why it says nothing."""
    done = subprocess.run([sys.executable, "-m", "edgec", "bench", str(find(name, folder)), "--json", *flags(name), *words],
                          capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    facts: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return facts or " ".join(done.stderr.split())[:_LONG] or "nothing was said"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=ALL, metavar="MODEL")
    parser.add_argument("--vs", default="onnxruntime", choices=tuple(PEERS))
    parser.add_argument("--threads", default="1")
    parser.add_argument("--duration", default="5", help="seconds for each model")
    args = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            found = measured(name, Path(folder), "--vs", args.vs, "--threads", args.threads, "--duration", args.duration)
            if isinstance(found, str):
                rows.append((name, "", "", "", "", found.replace("|", "/")))
            else:
                peer = found["peers"][args.vs]
                low, high = peer["interval"]
                rows.append((name, f"{found['ms']:.3f}", f"{peer['ms']:.3f}", f"{peer['ratio']:.2f}", f"{low:.2f} to {high:.2f}",
                             "" if peer["error"] is None else f"{peer['error']:.1e}"))
            print(*rows[-1], flush=True)
    print(table(("model", "edgec, ms", f"{args.vs}, ms", "ratio", "95 % interval", "error"), rows))


if __name__ == "__main__":
    main()
