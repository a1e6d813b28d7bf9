"""`edgec bench`: how long a run takes here, alone or against another runtime."""

import argparse
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.commands import options
from edgec.commands.console import Console, table
from edgec.commands.files import is_bundle
from edgec.commands.verify import same_model
from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.bundle import Bundle
    from edgec.measure import Times
    from edgec.peers import Peer
    from edgec.session import Array

HELP = "measure the time of a run, alone or in turns with another runtime"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec bench` takes."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE|MODEL", help="a bundle, or a model, which is built first")
    parser.add_argument("--target", "-t", default="host", help="what to build a model for (default: host)")
    parser.add_argument("--vs", type=options.names, default=(), metavar="PEER,PEER", help="compare with onnxruntime, openvino")
    parser.add_argument("--model", type=Path, help="the model of the bundle, for the other runtimes")
    parser.add_argument("--threads", type=options.positive, metavar="N", help="of every contestant (default: the bundle's)")
    parser.add_argument("--warmup", type=int, default=3, metavar="N", help="runs before the clock starts (default: 3)")
    parser.add_argument("--iters", type=options.positive, metavar="N", help="measure this many runs of each, however long it takes")
    parser.add_argument("--duration", type=float, default=3.0, metavar="S", help="measure for so many seconds in all (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="of the random inputs (default: 1)")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1,3,224,224", help="the shape of an input of a model")
    parser.add_argument("--dim", action="append", default=[], metavar="SYMBOL=N", help="the size of a symbolic dimension of a model")


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure, and print times and ratios."""
    from edgec import measure  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.interface import recorded  # noqa: PLC0415
    from edgec.samples import draw  # noqa: PLC0415
    from edgec.verify import source  # noqa: PLC0415

    if args.warmup < 0 or args.duration <= 0:
        raise UsageError("--warmup must not be negative, and --duration must be more than 0 seconds")
    with ExitStack() as stack:
        bundle, model = _bundle(args, stack, console)
        threads = args.threads or int(bundle.manifest["options"].get("threads", 1))
        cores = stack.enter_context(measure.pinned(threads))
        session = bundle.load(threads=threads)
        if session.emulator:
            console.warn(f"{session.emulator} runs this bundle: its times say nothing about the device")
        others = _peers(args.vs, bundle, model, threads)
        feeds = [draw(session.inputs, abs(args.seed) + i, bundle.manifest.get("input_ranges", {})) for i in range(2)]
        given, errors = feeds, dict[str, float | None]()
        if others and model is not None:
            interface = recorded(bundle.manifest)
            given = [interface.prepare(f, source(bundle, model).inputs) for f in feeds]  # outside of what is timed
            errors = {p.name: _error([session.run(f) for f in feeds], [interface.deliver(p.run(f)) for f in given]) for p in others}
        contestants = {"edgec": partial(session.run, feeds[0]), **{p.name: partial(p.run, given[0]) for p in others}}
        times = measure.race(contestants, warmup=args.warmup, iterations=args.iters, duration=args.duration)
    facts = {"model": bundle.manifest["name"], "target": bundle.manifest["target"]["name"], "threads": threads, "cores": list(cores),
             "emulator": session.emulator or None, **times["edgec"].summary(), "predicted_ms": bundle.manifest["report"]["predicted_ms"],
             "peers": {p.name: _against(times["edgec"], times[p.name]) | {"version": p.version, "error": errors[p.name]} for p in others}}
    console.result(_shown(facts, times))
    for name, error in errors.items():
        if error is None or error > 1e-3:  # noqa: PLR2004 - far beyond what `verify` allows
            console.warn(f"edgec and {name} do not compute the same (error {error}): see edgec verify")
    console.data(facts)
    return 0


def _bundle(args: argparse.Namespace, stack: ExitStack, console: Console) -> tuple["Bundle", Path | None]:
    """The bundle, built into a folder that is thrown away when a model is given, and the model if it is known."""
    from edgec.bundle import Bundle  # noqa: PLC0415

    if is_bundle(args.bundle):
        if args.shape or args.dim:
            raise UsageError("a bundle has its shapes: --shape and --dim belong to models")
        made = Bundle(args.bundle)
        if args.vs and args.model is None:
            raise UsageError(f"--vs {','.join(args.vs)} needs the model of the bundle: add --model MODEL.onnx")
        if args.model is not None:
            same_model(made, args.model, console)
        return made, args.model
    from edgec.build import build  # noqa: PLC0415

    notes: list[str] = []
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgec-bench-")))
    made = build(args.bundle, args.target, folder / "made.edgec", name=args.bundle.stem, threads=args.threads or 1,
                 shapes=options.shapes(args.shape, args.bundle), dims=options.dims(args.dim), progress=console.progress, notes=notes)
    console.end()
    for note in notes:
        console.note(note)
    return made, args.bundle


def _peers(names: tuple[str, ...], bundle: "Bundle", model: Path | None, threads: int) -> list["Peer"]:
    if not names or model is None:
        return []
    from edgec import peers  # noqa: PLC0415
    from edgec.verify import onnx_model  # noqa: PLC0415

    return [peers.load(name, onnx_model(bundle, model), threads) for name in names]


def _error(ours: list[dict[str, "Array"]], theirs: list[dict[str, "Array"]]) -> float | None:
    """The largest error of any output against a peer's, None when they cannot be compared."""
    from edgec.verify import agreement  # noqa: PLC0415

    found = [agreement(name, [o[name] for o in ours], [t[name] for t in theirs]) for name in ours[0] if name in theirs[0]]
    errors = [a.error for a in found if a.error is not None]
    return max(errors) if errors and all(a.error is not None or a.ok for a in found) else None


def _against(ours: "Times", theirs: "Times") -> dict[str, Any]:
    from edgec.measure import ratio  # noqa: PLC0415

    found = ratio(ours, theirs)
    return {**theirs.summary(), "ratio": found.value, "interval": [found.low, found.high]}


def _shown(facts: Mapping[str, Any], times: Mapping[str, "Times"]) -> str:
    rows = []
    for name in times:
        f = facts if name == "edgec" else facts["peers"][name]
        ratio = "" if name == "edgec" else f"{f['ratio']:.3f}  ({f['interval'][0]:.3f} to {f['interval'][1]:.3f})"
        rows.append((name, *(f"{f[k]:.3f}" for k in ("ms", "p90_ms", "p99_ms", "min_ms")), f["runs"], ratio))
    head = f"{facts['model']} for {facts['target']}, {facts['threads']} thread{'s' * (facts['threads'] > 1)}, milliseconds"
    columns = ("", "median", "p90", "p99", "min", "runs", "edgec / peer" if len(rows) > 1 else "")
    return f"{head}\n{table(rows, columns, right=(1, 2, 3, 4, 5))}"
