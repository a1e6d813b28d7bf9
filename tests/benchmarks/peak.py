# ruff: noqa: T201 - it is a program
"""How near convolutions come to the peak of an instruction set: `python -m tests.benchmarks.peak [MODEL] [--target x86-64-v3]`.

Built without Winograd's method, so that each multiply-accumulate is one. The peak is that of a loop of fused multiply-adds on registers
(edgec/clock.py), measured in the same run on the same core; layers weigh by their multiply-accumulates. `--folder` keeps model and bundle,
and `--build` stops before anything is timed: only timing needs a quiet machine.
"""

import argparse
import tempfile
from pathlib import Path

import edgec
from edgec.bundle import Bundle
from edgec.profile import profile
from tests.benchmarks.models import find, table
from tests.bundles import BOUND


def built(name: str, target: str, folder: Path) -> Bundle:
    """The bundle of a model, built once."""
    path = folder / f"{Path(name).stem}.{target}.edgec"
    return Bundle(path) if path.exists() else edgec.build(find(name, folder), target, path, exact=True, **BOUND.get(name, {}))


def main() -> None:
    """Print one line for each convolution, slowest first, and their share of the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="light_resnet50", metavar="MODEL")
    parser.add_argument("--target", default="x86-64-v3")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--build", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        made = built(args.model, args.target, folder)
        if args.build:
            return
        found = profile(made, runs=args.runs, cpu_time=True)
    layers = [k for k in found["kernels"] if k["macs"] and "Conv" in k["op"]]
    rows: list[tuple[object, ...]] = [
        (k["origin"], k["algo"], f"{k['macs'] / 1e6:.0f}", f"{k['us'] / found['us']:.1%}", f"{k['peak_share']:.1%}")
        for k in sorted(layers, key=lambda k: k["peak_share"])]
    print(table(("layer", "kernel", "million multiply-accumulates", "of the time", "of the peak"), rows))
    rate = 2e-3 * sum(k["macs"] for k in layers) / sum(k["us"] for k in layers)
    print(f"{rate / found['peak_gflops']['measured']:.1%} of the peak of {args.target} on {len(layers)} convolutions of {args.model}, "
          "weighted by multiply-accumulates")


if __name__ == "__main__":
    main()
