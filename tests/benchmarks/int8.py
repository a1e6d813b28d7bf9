# ruff: noqa: T201
"""How long models in bytes take beside those in f32: python -m tests.benchmarks.int8 [MODEL ...].

Each model is built for this machine in f32, and, fitted to 64 random images, with `--int8`: by `--emit onnx`, so that ONNX Runtime can run
the same quantized model. All take turns, pinned. What random images cost in accuracy is no matter here. `--folder` keeps models and
bundles; what is there is not built again, and `--build` stops before anything is timed.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgec.build import build, read
from edgec.bundle import Bundle
from edgec.contest import Rules, hold
from tests.benchmarks.low_rank import samples
from tests.benchmarks.models import find, flags, table


def made(name: str, folder: Path) -> dict[str, Path]:
    """The quantized model and the bundles of a model; what the folder holds is not made again."""
    if flags(name):
        sys.exit(f"{name} has open dimensions; choose a model without")
    model, quantized = find(name, folder), folder / f"{name}-int8.onnx"
    if not quantized.exists():
        images = folder / f"{name}-images.npz"
        np.savez(images, **samples(read(model, static=True)))  # type: ignore[arg-type]
        subprocess.run([sys.executable, "-m", "edgec", "build", model, "--int8", "--calibrate", images, "--emit", "onnx", "-o", quantized],
                       check=True)
    places = {kind: folder / f"{name}-{kind}.edgec" for kind in ("int8", "f32", "exact")}
    for kind, place in places.items():
        if not place.exists():
            build(quantized if kind == "int8" else model, "host", place, name=name, exact=kind == "exact")
    return {"model": quantized, **places}


def times(name: str, places: dict[str, Path], threads: int, seconds: float) -> tuple[str, ...]:
    """The time in bytes over that in f32, without Winograd's rounding, and of ONNX Runtime in bytes: medians with 95 % intervals."""
    bundles = {kind: Bundle(places[kind]) for kind in ("int8", "f32", "exact")}
    found = hold(bundles, places["model"], ["onnxruntime"], Rules(threads=threads, duration=seconds))
    told = [*(found.beside("int8", kind) for kind in ("f32", "exact")), found.against("int8", "onnxruntime")]
    return name, str(threads), *("{:.2f} ({:.2f} to {:.2f})".format(t["ratio"], *t["interval"]) for t in told)


def main() -> None:
    """Print a row for each model and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["light_resnet50"], help="(default: light_resnet50)")
    parser.add_argument("--folder", type=Path, help="where models and bundles stay")
    parser.add_argument("--build", action="store_true", help="build only, and time nothing")
    parser.add_argument("--threads", default="1,2", help="(default: 1,2)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of measuring each model (default: 15)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = args.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        built = {name: made(name, folder) for name in args.models}
        if not args.build:
            rows = [times(name, places, int(t), args.seconds) for name, places in built.items() for t in args.threads.split(",")]
            print(table(("int8, edgec", "threads", "of edgec's f32", "of its f32 with --exact", "of ONNX Runtime's int8"), list(rows)))


if __name__ == "__main__":
    main()
