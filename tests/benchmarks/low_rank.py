# ruff: noqa: T201
"""What low-rank layers cost in accuracy and gain in time: python -m tests.benchmarks.low_rank [MODEL ...].

Without a model, the digits CNN of examples/models is factored with 500 unlabelled images like those it was trained on (scikit-learn makes
them), and with none; the figures are those of its 1000 held-out images. With models, each is built for this machine, dense and with half of
its weights (not fitted to samples, which changes no time), and both run in turns on one thread. `--rank auto` fits to 64 random images and
lists the layers that became smaller. `--folder` keeps models and bundles; what is there is not built again, and `--build` stops before
anything is timed.
"""

import argparse
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from edgec import calibrate
from edgec.access import module
from edgec.build import build, read
from edgec.bundle import Bundle
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array, Graph
from edgec.measure import pinned, race, ratio
from edgec.pipeline import Context, run_passes
from edgec.samples import draw
from edgec.session import Port
from tests.benchmarks.models import find, flags, table

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
BATCH = 50
SAMPLES = 64
CATALOG, PORTABLE = module("passes.catalog").CATALOG, module("passes.catalog").PORTABLE


def digits() -> None:
    """Right answers of the digits CNN by ratio, with samples and without."""
    sys.path.insert(0, str(MODELS))
    from digits import hard_digits, originals  # type: ignore[import-not-found]  # noqa: PLC0415

    train, labels, _, _ = originals()
    images, _ = hard_digits(train, labels, 10 * BATCH, seed=7)
    dense = run_passes(read(MODELS / "digits_cnn.onnx", dims={"batch": BATCH}, static=True), PORTABLE, CATALOG)
    given = calibrate.load({"image": images.astype(np.float32) / 255}, dense.inputs).feeds
    print(f"digits_cnn: {accuracy(dense):.1%} right, {weights(dense)} weights of layers; {len(images)} unlabelled samples")
    print("| weights | fitted to samples | weights alone (plain) |\n|---|---|---|")
    for times in ("2.0", "2.9"):
        made = [run_passes(dense, f'factorize{{rank="{times}"}}', CATALOG, Context(samples=s)) for s in (given, ())]
        print(f"| {weights(dense) / weights(made[0]):.2f} times fewer | {accuracy(made[0]):.1%} | {accuracy(made[1]):.1%} |", flush=True)


def weights(graph: Graph) -> int:
    """How many weights layers have."""
    return sum(a.size for a in graph.weights.values() if a.ndim > 1)


def accuracy(graph: Graph) -> float:
    """The share of held-out images whose digit is right."""
    with np.load(MODELS / "digits_test.npz") as data:
        images, labels = data["images"].astype(np.float32) / 255, data["labels"]
    found = [evaluate(graph, {"image": images[i:i + BATCH]})["logits"] for i in range(0, len(images), BATCH)]
    return calibrate.top1(np.concatenate(found), labels)


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
