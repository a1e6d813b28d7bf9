# ruff: noqa: T201
"""What low-rank layers cost in accuracy and gain in time: python -m tests.benchmarks.low_rank [MODEL ...].

Without a model, the digits CNN of examples/models is factored with samples and without (low_rank_accuracy.py). With models, each is built
for this machine, dense and with half of its weights (not fitted to samples, which changes no time), and both run in turns on one thread.
`--rank auto` fits to 64 random images and lists the layers that became smaller. `--folder` keeps models and bundles; what is there is not
built again, and `--build` stops before anything is timed.
"""

import argparse
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from edgec.access import module
from edgec.build import build, read
from edgec.bundle import Bundle
from edgec.ir.graph import Array, Graph
from edgec.measure import pinned, race, ratio
from edgec.samples import draw
from edgec.session import Port
from tests.benchmarks.low_rank_accuracy import digits
from tests.benchmarks.models import find, flags, table

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
BATCH = 50
SAMPLES = 64
CATALOG, PORTABLE = module("passes.catalog").CATALOG, module("passes.catalog").PORTABLE


def bundles(name: str, folder: Path, rank: str) -> tuple[Bundle, Bundle]:
    """A model dense and factored; what the folder holds is not built again."""
    if flags(name):
        sys.exit(f"{name} has open dimensions; choose a model without")
    made = list[Bundle]()
    for kind in (None, rank):
        place = folder / f"{name}-{kind or 'dense'}.edgec"
        if not place.exists():
            model = find(name, folder)
            given = samples(read(model, static=True)) if kind == "auto" else None
            build(model, "host", place, name=name, rank=kind, calibrate=given)
        made.append(Bundle(place))
    return made[0], made[1]


def samples(graph: Graph) -> dict[str, Array]:
    """Random images for a model."""
    drawn = [draw([Port(v.name, v.dims, np.dtype(np.float32)) for v in graph.inputs], seed, {}) for seed in range(SAMPLES)]
    return {v.name: np.concatenate([d[v.name] for d in drawn]) for v in graph.inputs}


def speed(dense: Bundle, small: Bundle, seconds: float) -> tuple[str, str, str]:
    """How many times as fast the factored bundle is: predicted, measured, and how many of its layers are factored."""
    before, after = (b.manifest["report"]["predicted_ms"] for b in (dense, small))
    factored = next((m[1] for n in small.manifest["notes"] if (m := re.search(r"low rank: (\d+ of \d+) layers", n))), "none")
    with pinned(1):
        sessions = {name: b.load(threads=1) for name, b in (("dense", dense), ("small", small))}
        feeds = draw(sessions["dense"].inputs, 1, {})
        times = race({name: partial(s.run, feeds) for name, s in sessions.items()}, duration=seconds)
    found = ratio(times["dense"], times["small"])
    return f"{before / after:.2f}", f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})", factored


def main() -> None:
    """Accuracy without models, speed with some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--rank", default="2.0", help="as in edgec build (default: 2.0)")
    parser.add_argument("--folder", type=Path, help="where models and bundles stay")
    parser.add_argument("--build", action="store_true", help="build only, and time nothing")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring each model (default: 10)")
    args = parser.parse_args()
    if not args.models:
        digits()
        return
    with tempfile.TemporaryDirectory() as place:
        folder = args.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        made = {name: bundles(name, folder, args.rank) for name in args.models}
        if not args.build:
            rows = [(name, *speed(*both, args.seconds)) for name, both in made.items()]
            print(table((f"model, --rank {args.rank}", "predicted", "measured (95 % interval)", "layers factored"), list(rows)))


if __name__ == "__main__":
    main()
