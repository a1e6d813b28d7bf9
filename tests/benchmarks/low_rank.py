# ruff: noqa: T201
"""What low-rank layers cost in accuracy and gain in time: python -m tests.benchmarks.low_rank [MODEL ...].

Without a model, the digits CNN of examples/models is factored with 500 unlabelled images like those it was trained on (scikit-learn makes
them), and with none; the figures are those of its 1000 held-out images. With models, each is built for this machine, dense and with half of
its weights (not fitted to samples, which changes no time), and both run in turns.
"""

import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgec import calibrate
from edgec.access import module
from edgec.build import build, read
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.pipeline import Context, run_passes
from tests.benchmarks.models import find, flags

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
BATCH = 50
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
    for ratio in ("2.0", "2.9"):
        made = [run_passes(dense, f'factorize{{rank="{ratio}"}}', CATALOG, Context(samples=s)) for s in (given, ())]
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


def speed(name: str, folder: Path, seconds: float = 10.0) -> None:
    """How many times as fast a model is with half of its weights: predicted for its layers, measured as a whole, run by run in turns."""
    if flags(name):
        sys.exit(f"{name} has open dimensions; choose a model without")
    notes = list[str]()
    dense, small = (build(find(name, folder), "host", folder / f"{name}-{k}.edgec", rank=rank, notes=notes).load()
                    for k, rank in enumerate((None, 2.0)))
    said = next(m[1] for n in notes if (m := re.search(r"by prediction ([0-9.]+) times the speed", n)))
    feeds = {p.name: np.random.default_rng(0).standard_normal(p.shape).astype(p.dtype) for p in dense.inputs}
    ratios, end = list[float](), time.monotonic() + seconds
    while time.monotonic() < end or len(ratios) < 5:
        times = list[float]()
        for session in (dense, small):
            start = time.perf_counter()
            session.run(feeds)
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    print(f"| {name} | {said} | {np.median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        print("| model, half of the weights | predicted | measured |\n|---|---|---|")
        with tempfile.TemporaryDirectory() as place:
            for model in sys.argv[1:]:
                speed(model, Path(place))
    else:
        digits()
