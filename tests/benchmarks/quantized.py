# ruff: noqa: T201 - it is a program
"""Who is right about quantized models: python -m tests.benchmarks.quantized MODEL FOLDER [--count N].

MODEL is mobilenetv2_qdq_s8_nchw, mlperf_ic_resnet8_qdq_s8 or mlperf_kws_dscnn_qdq_s8. The graph as it is written, computed in float64
(tests/exact.py), is what the others are compared with: a bundle of edgec's, and ONNX Runtime as it is, with its optimizations off, and
with convolutions as QLinearConv (each with weights in u8 where this machine's sums of u8 times i8 saturate). FOLDER holds pictures; those
in folders of their own, one for each class in order of name, or one picture of each class, give the share of right answers too (for
keywords, FOLDER is an .npz file with x and y).
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from edgec.ir.graph import Array
from edgec.onnx_saturation import exact
from edgec.verify import reference
from tests.benchmarks.models import table
from tests.bundles import bundle
from tests.exact import load
from tests.shared import model

Run = Callable[[Array], Array]
EXACT = "written graph, float64"
_RESIZED, _CROP = 256, 224
_SCALE, _ZERO = 0.018631115555763245, -14
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_SUFFIXES = (".jpeg", ".jpg", ".png")


def photograph(path: Path) -> Array:
    """A picture as MobileNetV2 wants it: the short side 256, the middle 224x224, normalized, i8 [1, 3, 224, 224]."""
    from PIL import Image  # noqa: PLC0415  optional

    with Image.open(path) as image:
        rgb = image.convert("RGB")
        scale = _RESIZED / min(rgb.size)
        width, height = (round(s * scale) for s in rgb.size)
        left, top = (width - _CROP) // 2, (height - _CROP) // 2
        pixels = np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + _CROP, top + _CROP)))
    real = (pixels / 255 - _MEAN) / _DEVIATION
    return np.asarray(np.clip(np.rint(real.transpose(2, 0, 1)[None] / _SCALE) + _ZERO, -128, 127).astype(np.int8))


def thumbnail(path: Path) -> Array:
    """A picture as ResNet-8 wants it: 32x32 pixels less 128, i8 [1, 32, 32, 3]."""
    from PIL import Image  # noqa: PLC0415  optional

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX))
    return (pixels.astype(np.int16) - 128).astype(np.int8)[None]


def pictures(folder: Path, count: int) -> Iterator[tuple[Path, int]]:
    """So many pictures, evenly from all, and the class of each: its folder's number, or its own."""
    folders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [sorted(p for p in f.iterdir() if p.suffix.lower() in _SUFFIXES) for f in folders or [folder]]
    named = [(p, i if folders else j) for i, files in enumerate(found) for j, p in enumerate(files)]
    if not named:
        sys.exit(f"{folder} holds no pictures")
    return (named[i * len(named) // count] for i in range(min(count, len(named)))) if count < len(named) else iter(named)


def inputs(name: str, source: Path, count: int) -> Iterator[tuple[Array, int]]:
    """What a model reads, and the right answers."""
    if source.suffix == ".npz":
        with np.load(source) as data:
            yield from zip(data["x"][:count, None], map(int, data["y"]), strict=False)
        return
    read = photograph if name.startswith("mobilenet") else thumbnail
    for path, label in pictures(source, count):
        yield read(path), label


def contestants(name: str) -> Mapping[str, Run]:
    """Who computes the model, and how."""
    made, path = bundle(name), model(name)
    port = made.manifest["inputs"][0]["name"]
    session, (integers, who) = made.load(), reference(made, path)
    plain, off = onnxruntime.SessionOptions(), onnxruntime.SessionOptions()
    off.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain.intra_op_num_threads = off.intra_op_num_threads = 1

    def runtime(options: onnxruntime.SessionOptions) -> Run:
        theirs = onnxruntime.InferenceSession(exact(path), options, providers=["CPUExecutionProvider"])
        return lambda x: theirs.run(None, {port: x})[0]

    def first(call: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> Run:
        return lambda x: next(iter(call({port: x}).values()))

    version = who.partition(",")[0]
    return {EXACT: first(load(path)), "edgec": first(session.run), f"{version}, convolutions as QLinearConv": first(integers),
            f"{version}, as it is": runtime(plain), f"{version}, optimizations off": runtime(off)}


@dataclass
class Tally:
    """What one of them did on all inputs, beside the exact results."""

    same: list[bool] = field(default_factory=list)
    best: list[bool] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    equal: list[bool] = field(default_factory=list)
    off: list[float] = field(default_factory=list)

    def add(self, made: Array, exact: Array, label: int) -> None:
        """Results of one input, in steps of the output's scale."""
        top = int(made.argmax())
        self.same.append(top == int(exact.argmax()))
        self.best.append(bool(exact.ravel()[top] == exact.max()))
        self.right.append(top == label)
        self.equal.append(np.array_equal(made, exact))
        self.off.append(float(np.abs(made.astype(int) - exact.astype(int)).mean()))

    def row(self) -> tuple[str, ...]:
        """Shares of inputs, and the mean deviation."""
        return (*(f"{np.mean(s):.2%}" for s in (self.same, self.best, self.equal, self.right)), f"{np.mean(self.off):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a quantized image or keyword classifier among the shared models")
    parser.add_argument("source", type=Path, metavar="FOLDER", help="pictures, or an .npz file with x and y")
    parser.add_argument("--count", type=int, default=1000, help="inputs, evenly from all (default: 1000)")
    args = parser.parse_args()
    runs = contestants(args.model)
    tallies = {name: Tally() for name in runs}
    between: dict[tuple[str, str], list[bool]] = {}
    ties, count = 0, 0
    for x, label in inputs(args.model, args.source, args.count):
        made = {name: run(x) for name, run in runs.items()}
        exact = made[EXACT]
        ties += int((exact == exact.max()).sum() > 1)
        count += 1
        for name, y in made.items():
            tallies[name].add(y, exact, label)
            for other, z in made.items():
                between.setdefault((name, other), []).append(int(y.argmax()) == int(z.argmax()))
    print(f"{args.model}, {count} inputs; {ties / count:.1%} of them have two best classes in the exact result\n")
    print(table(("", "same class", "a best class", "equal results", "right", "mean deviation, steps"),
                [(name, *t.row()) for name, t in tallies.items()]))
    print("\nsame class, one beside another:\n")
    print(table(("", *(f"{i}" for i in range(1, len(runs) + 1))),
                [(f"{i} {a}", *(f"{np.mean(between[a, b]):.2%}" for b in runs)) for i, a in enumerate(runs, 1)]))


if __name__ == "__main__":
    main()
