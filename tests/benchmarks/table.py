# ruff: noqa: T201 - it is a program
"""edgec against the best of ONNX Runtime and OpenVINO in f32, model by model: python -m tests.benchmarks.table [--only NAME,NAME].

With `--vs ncnn,litert`, against these, each by itself: no goal speaks of them, and each refuses some models.

Bundles are built first, with and without Winograd's method; then everything is timed, each model in a process of its own, all
contestants in alternated blocks. `--build` stops after the first half, `--built` starts behind it, so that a quiet machine only times.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgec
from edgec.bundle import Bundle
from edgec.contest import Rules, hold
from edgec.errors import UnsupportedModel
from tests.benchmarks.models import binding, find, table

PEERS = ("onnxruntime", "openvino")
SHORT = {"onnxruntime": "ORT", "openvino": "OV"}
TINY_MS = 1.0   # below, calls in Python are a part of the time, so loops in C run too


@dataclass(frozen=True)
class Goal:
    """How many times as long as the best peer a model may take, through `run` in Python and, where that is said, from C."""

    must: float
    aim: float
    from_c: float | None = None


GOALS: Mapping[str, Goal] = {
    **dict.fromkeys(("light_resnet50", "light_inception_v1", "light_inception_v2"), Goal(0.85, 0.70)),
    "light_densenet121": Goal(0.90, 0.70), "light_vgg19": Goal(0.65, 0.45),
    **dict.fromkeys(("light_zfnet512", "light_bvlc_alexnet"), Goal(0.95, 0.85)),
    **dict.fromkeys(("squeezenet_fp32", "light_shufflenet", "ppocrv3_det", "yunet_n_dynamic", "ultraface_rfb320", "selfie_segmentation"),
                    Goal(0.90, 0.70)),
    **dict.fromkeys(("mobilenetv1_025_128_fp32", "mlperf_vww_mbv1_fp32", "minilm_l6_w16", "minilm_l6_w16@8x32", "mobilenet_v1_224",
                     "mobilenet_v2_224"), Goal(0.95, 0.80)),
    **dict.fromkeys(("mlperf_kws_dscnn_fp32", "mnist_opset8"), Goal(0.60, 0.40)),
    "resnet20_cifar10_fp32": Goal(0.75, 0.75), "mlperf_ad_autoencoder_fp32": Goal(0.85, 0.85),
    "hand_keypoint_mlp": Goal(1.0, 1.0, 0.3),
    **dict.fromkeys(("gru_64", "lstm_128x2"), Goal(0.90, 0.60)),
}


def build(name: str, folder: Path) -> None:
    """Two bundles of a model: as edgec builds by default, and exact."""
    for exact in (False, True):
        edgec.build(find(name, folder), target="host", output=_bundle(name, folder, exact=exact), exact=exact, **binding(name))


def _bundle(name: str, folder: Path, *, exact: bool) -> Path:
    return folder / f"{name}{'-exact' * exact}.edgec"


def timed(name: str, folder: Path, threads: int, seconds: float, peers: Sequence[str] = PEERS, *, cpu_time: bool) -> dict[str, Any]:
    """The facts of one contest: both bundles, and the peers; no bundle's when all peers refuse the model."""
    bundles = {"edgec": Bundle(_bundle(name, folder, exact=False)), "exact": Bundle(_bundle(name, folder, exact=True))}
    predicted = bundles["edgec"].manifest["report"]["predicted_ms"]
    rules = Rules(threads, duration=max(seconds, 0.08 * predicted), from_c=predicted < TINY_MS,
                  clock=time.process_time if cpu_time else time.perf_counter)
    facts: dict[str, Any] = {"threads": threads, "clock": "cpu" if cpu_time else "wall"}
    try:
        held = hold(bundles, find(name, folder), peers, rules)
    except UnsupportedModel as error:
        return {**facts, "refused": str(error)}
    return {**facts, **{n: held.facts(n, b) for n, b in bundles.items()}}


def alone(*args: Any, **named: Any) -> dict[str, Any]:
    """`timed` in a new process, whose memory and threads are gone afterwards."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(timed, *args, **named).result()


def rows(results: Mapping[str, Any], threads: int) -> Iterator[tuple[object, ...]]:
    """A row of the table for each model that was timed with so many threads."""
    for name, goal in GOALS.items():
        facts = results.get(f"{name} {threads}")
        if facts is None:
            continue
        best, exact = facts["edgec"]["best"], facts["exact"]["best"]
        peers = (f"{facts['edgec']['peers'][p]['ratio']:.2f}" for p in PEERS)
        from_c = f"{best['from_c']['ratio']:.2f}" if "from_c" in best else ""
        yield (name, f"**{best['ratio']:.2f}** ({_interval(best)})", f"{exact['ratio']:.2f} ({_interval(exact)})", *peers, from_c,
               f"{goal.must:.2f}" + (f", {goal.from_c} from C" if goal.from_c else ""), verdict(goal, best, exact))


def rows_beside(results: Mapping[str, Any], threads: int, peers: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """A row for each model that was timed, whoever refused it: the ratio to each peer, from C where that was timed, and exact."""
    for name in GOALS:
        facts = results.get(f"{name} {threads}")
        if facts is None:
            continue
        cells = [name]
        for peer in peers:
            found = [facts[b]["peers"].get(peer) if b in facts else None for b in ("edgec", "exact")]
            if found[0] is None or found[1] is None:
                cells += ["refused", "", ""]
            else:
                from_c = f"{found[0]['from_c']['ratio']:.2f}" if "from_c" in found[0] else ""
                cells += [f"**{found[0]['ratio']:.2f}** ({_interval(found[0])})", from_c, f"{found[1]['ratio']:.2f}"]
        yield tuple(cells)


def _interval(facts: Mapping[str, Any]) -> str:
    low, high = facts["interval"]
    return f"{low:.2f} to {high:.2f}"


def verdict(goal: Goal, best: Mapping[str, Any], exact: Mapping[str, Any]) -> str:
    """What became of a goal: an exact bundle must not be slower than the best peer either."""
    missed = [*(["default"] if best["ratio"] > goal.must else ()), *(["exact"] if exact["ratio"] > 1 else ()),
              *(["from C"] if goal.from_c and best["from_c"]["ratio"] > goal.from_c else ())]
    return f"missed: {', '.join(missed)}" if missed else "aim" if best["ratio"] <= goal.aim else "must"


def main() -> None:
    """Build, time, and print what is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(GOALS), metavar="NAME,NAME", help="these models, or all whose names hold the word")
    parser.add_argument("--vs", default=",".join(PEERS), metavar="PEER,PEER", help="other peers, of edgec.peers.PEERS")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each model and number of threads")
    parser.add_argument("--quick", action="store_true", help="half a second for each model")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, by the processor's time: for a busy machine")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "edgec-table", help="where bundles and results lie")
    parser.add_argument("--build", action="store_true", help="build, and time nothing")
    parser.add_argument("--built", action="store_true", help="time what lies there, and build nothing")
    parser.add_argument("--show", action="store_true", help="print the results that lie there")
    args = parser.parse_args()
    words = args.only.split(",")
    names = [n for n in GOALS if n in words] or [n for n in GOALS if any(w in n for w in words)]
    args.folder.mkdir(parents=True, exist_ok=True)
    peers = tuple(args.vs.split(","))
    known = args.folder / f"results{'-cpu' * args.cpu_time}{f'-{args.vs}' * (peers != PEERS)}.json"
    results: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {}
    for name in names if not (args.built or args.show) else ():
        print("building", name, flush=True)
        build(name, args.folder)
    counts = [1] if args.cpu_time else [int(n) for n in args.threads.split(",")]
    for threads in counts if not (args.build or args.show) else ():
        for name in names:
            facts = alone(name, args.folder, threads, 0.5 if args.quick else args.seconds, peers, cpu_time=args.cpu_time)
            results[f"{name} {threads}"] = facts
            _tell(name, threads, facts)
            known.write_text(json.dumps(results, indent=1))
    for threads in counts if not args.build else ():
        _print(results, threads, peers)


def _tell(name: str, threads: int, facts: Mapping[str, Any]) -> None:
    """What was found of a model."""
    if "edgec" not in facts:
        print(name, threads, facts["refused"], flush=True)
        return
    ratios = (f"{p} {f['ratio']:.3f}" for p, f in facts["edgec"]["peers"].items())
    print(name, threads, *ratios, f"exact / best {facts['exact']['best']['ratio']:.3f}", *facts["edgec"]["refused"].values(), flush=True)


def _print(results: Mapping[str, Any], threads: int, peers: Sequence[str]) -> None:
    known = {k: v for k, v in results.items() if k.split()[0] in GOALS}
    made = list(rows(known, threads) if peers == PEERS else rows_beside(known, threads, peers))
    if not made:
        return
    versions = {p: f["version"] for v in results.values() if "edgec" in v for p, f in v["edgec"]["peers"].items()}
    head = ", ".join(f"{SHORT[p]} is {p} {versions.get(p, '')}" if p in SHORT else f"{p} {versions.get(p, '')}" for p in peers)
    print(f"\n{threads} thread{'s' * (threads > 1)}; {head}")
    if peers == PEERS:
        print(table(("model", "edgec / best", "exact / best", *(f"/ {SHORT[p]}" for p in PEERS), "from C", "must", ""), made))
    else:
        print(table(("model", *(c for p in peers for c in (f"edgec / {p}", "from C", "exact"))), made))


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
