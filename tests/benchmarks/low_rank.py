# ruff: noqa: T201
"""What low-rank layers cost in accuracy: python -m tests.benchmarks.low_rank.

The digits CNN of examples/models is factored with 500 unlabelled images like those it was trained on (scikit-learn makes them), and with
none; the figures are those of its 1000 held-out images.
"""

import sys
from pathlib import Path

import numpy as np

from edgec import calibrate
from edgec.access import module
from edgec.build import read
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.pipeline import Context, run_passes

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


if __name__ == "__main__":
    digits()
