# ruff: noqa: T201 - it is a program
"""What `--measure` gains in whole nets: `python -m tests.benchmarks.measured [MODEL …] [--measure SECONDS]`.

Each model is built twice, with the choices of the cost model and with those that were found faster kernel by kernel, and the bundles take
turns in one process on one core, by the time of the thread. `--build` stops before anything is timed, and `--folder` keeps the bundles for
another call: only timing needs a quiet machine.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import edgec
from edgec.bundle import Bundle
from edgec.measure import Times, pinned, ratio
from edgec.samples import draw
from tests.benchmarks.models import binding, find, table

DEFAULT = ("resnet20_cifar10_fp32", "mobilenetv1_025_128_fp32", "squeezenet_fp32", "light_resnet50")
_BLOCK = 0.02


def built(name: str, folder: Path, seconds: float) -> tuple[Bundle, Bundle]:
    """The bundle of a model, and the one that was measured; each is built once."""
    paths = [folder / f"{name}{kind}.edgec" for kind in ("", ".measured")]
    for path, measure in zip(paths, (None, seconds), strict=True):
        if not path.exists():
            edgec.build(find(name, folder), "host", path, measure=measure, **binding(name))
    return Bundle(paths[0]), Bundle(paths[1])


def compared(pair: tuple[Bundle, Bundle], seconds: float) -> str:
    """The time of the second in terms of the first, with the interval of 95 %, and how many blocks of each that comes from."""
    loaded = [b.load(threads=1) for b in pair]
    given = draw(loaded[0].inputs, 1, pair[0].manifest["input_ranges"])
    clocks = [s.clock(given) for s in loaded]
    counts = [max(1, int(_BLOCK / min(_turn(c.repeat, 1) for _ in range(5)))) for c in clocks]
    times: tuple[list[float], list[float]] = ([], [])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for clock, count, made in zip(clocks, counts, times, strict=True):
            clock.repeat(1)                                            # finds the other's data in the caches
            made.append(_turn(clock.repeat, count))
    found = ratio(Times([[t] for t in times[1]]), Times([[t] for t in times[0]]))
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}; {len(times[0])} blocks)"


def _turn(repeat: Callable[[int], None], count: int) -> float:
    start = time.thread_time()
    repeat(count)
    return (time.thread_time() - start) / count


def main() -> None:
    """Print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=DEFAULT, metavar="MODEL")
    parser.add_argument("--measure", type=float, default=300.0, metavar="SECONDS", help="what building may spend (300)")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long the two bundles of a model take turns (6)")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--build", action="store_true")
    args = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        pairs = {name: built(name, folder, args.measure) for name in args.models}
        for name, pair in pairs.items():
            print(name, *(line for line in pair[1].summary().splitlines() if " measured " in line), flush=True)
        if args.build:
            return
        with pinned(1):
            for name, pair in pairs.items():
                known = pair[1].manifest["measured"]
                changed = sum(k["chosen"] != k["default"] for k in known["kernels"])
                rows.append((name, f"{len(known['kernels'])} of {len(known['kernels']) + known['unknown']}", changed,
                             compared(pair, args.seconds)))
    print(table(("model", "kernels measured", "changed", "time of the whole net / without --measure"), rows))


if __name__ == "__main__":
    main()
