# ruff: noqa: T201
"""What low-rank layers cost the digits CNN of examples/models in accuracy: a part of python -m tests.benchmarks.low_rank.

It is factored five times, with 500 other unlabelled images like those it was trained on (scikit-learn makes them), and by plain SVD of each
weight [O,I*taps], with no data. Counted are its 1000 held-out images, and 10000 more like them, where less is a matter of chance.
"""

import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgec import calibrate
from edgec.access import module
from edgec.build import read
from edgec.ir.edit import prune, splice
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.onnx_write import export_model
from edgec.pipeline import Context, run_passes

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
BATCH, DRAWS = 50, range(7, 12)
RATIOS = {"2.0": 0.5, "2.9": 1.5}       # times fewer weights, and points that may be lost
SMALL = 0.01                            # of the weights: smaller layers stay
CATALOG, PORTABLE = module("passes.catalog").CATALOG, module("passes.catalog").PORTABLE
low_rank, parts = (module(f"passes.changes.{name}") for name in ("low_rank", "parts"))
Answers = list[float]                   # right ones in percent: of the held-out images, of more like them


def digits() -> None:
    """Points that the digits CNN loses, by ratio and draw of samples, and by plain SVD."""
    whole = dense()
    right = accuracy(whole)
    print(f"digits_cnn: {right[0]:.1f} % of its 1000 held-out images right, {right[1]:.2f} % of 10000 more; {weights(whole)} weights")
    print("points lost, five draws of 500 unlabelled images:")
    print("| weights | fitted | median | worst | may be lost | plain SVD | of 10000: fitted | median | worst | plain SVD |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")                 # threads that wait for each other take much longer
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        asked = {ratio: [pool.submit(one, ratio, seed) for seed in DRAWS] for ratio in RATIOS}
        for ratio, most in RATIOS.items():
            found = [f.result() for f in asked[ratio]]
            simple, size = plain(whole, float(ratio))
            fewer = f"{statistics.median(weights(whole) / n for _, n in found):.2f} times fewer, SVD {weights(whole) / size:.2f}"
            cells = list[str]()
            for k in (0, 1):
                lost = [right[k] - made[k] for made, _ in found]
                some = " ".join(f"{p:.{k + 1}f}" for p in lost)
                cells += [some, f"{statistics.median(lost):.{k + 1}f}", f"{max(lost):.{k + 1}f}", *([str(most)] if k == 0 else []),
                          f"{right[k] - simple[k]:.{k + 1}f}"]
            print(f"| {fewer} | {' | '.join(cells)} |", flush=True)


def dense() -> Graph:
    """The net as it is."""
    return run_passes(read(MODELS / "digits_cnn.onnx", dims={"batch": BATCH}, static=True), PORTABLE, CATALOG)


def one(ratio: str, seed: int) -> tuple[Answers, int]:
    """Right answers with so many times fewer weights, fitted to one draw of samples, and how many weights are left."""
    train, labels, _, _ = images().originals()
    seen, _ = images().hard_digits(train, labels, 10 * BATCH, seed=seed)
    whole = dense()
    given = calibrate.load({"image": seen.astype(np.float32) / 255}, whole.inputs).feeds
    made = run_passes(whole, f'factorize{{rank="{ratio}"}}', CATALOG, Context(samples=given))
    return accuracy(made), weights(made)


def plain(graph: Graph, ratio: float) -> tuple[Answers, int]:
    """Right answers with each weight cut off by its own SVD, all to the same share, and how many weights are left."""
    instead, arrays = dict[Node, tuple[Node, ...]](), dict[Value, Array]()
    for node in (n for n in graph.nodes if n.op in ("Conv", "Gemm", "MatMul")):
        of = parts.site(graph, node)
        if of.weight.size < SMALL * weights(graph):
            continue
        o, n = len(of.weight), of.weight[0].size
        shape = low_rank.Shape(results=max(1, int(o * n / ratio / (o + n))))
        instead[node], holes = parts.nodes(of, shape, str)
        factors = low_rank.Layer(of.weight, None, centered=False).fit(shape)
        arrays.update(zip(holes, parts.arrays(of, shape, factors), strict=True))
    made = prune(splice(graph, instead, arrays))
    return accuracy(made), weights(made)


def images() -> Any:
    """What makes the images of the example models."""
    if str(MODELS) not in sys.path:
        sys.path.insert(0, str(MODELS))
    import digits as made  # type: ignore[import-not-found]  # noqa: PLC0415

    return made


def weights(graph: Graph) -> int:
    """How many weights layers have."""
    return sum(a.size for a in graph.weights.values() if a.ndim > 1)


def accuracy(graph: Graph) -> Answers:
    """The percentage of images whose digit is right: of those that come with the net, and of more from the same originals."""
    with np.load(MODELS / "digits_test.npz") as data:
        sets = [(data["images"], data["labels"]), more()]
    session = onnxruntime.InferenceSession(export_model(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    made = list[float]()
    for seen, labels in sets:
        some = [seen[i:i + BATCH].astype(np.float32) / 255 for i in range(0, len(seen), BATCH)]
        made.append(100 * calibrate.top1(np.concatenate([session.run(None, {"image": s})[0] for s in some]), labels))
    return made


@cache
def more() -> tuple[Array, Array]:
    """10000 images made of originals that the net was not trained on."""
    _, _, test, labels = images().originals()
    seen, digits = images().hard_digits(test, labels, 10000, seed=987)
    return seen, digits
