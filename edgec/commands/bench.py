"""`edgec bench`: how long a run takes here, alone or against other runtimes."""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edgec.commands import options
from edgec.commands.console import Console, table
from edgec.commands.files import is_bundle, write
from edgec.commands.verify import same_model
from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.bundle import Bundle
    from edgec.contest import Rules

HELP = "measure the time of a run, here, or on another machine, alone or in turns with other runtimes and bundles"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec bench` takes."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE|MODEL", help="a bundle, or a model, which is built first")
    parser.add_argument("--target", "-t", default="host", help="what to build a model for (default: host)")
    parser.add_argument("--vs", type=options.names, default=(), metavar="PEER,PEER",
                        help="compare with onnxruntime, openvino, litert, ncnn, in f32, and with other bundles of the model (OTHER.edgec)")
    parser.add_argument("--model", type=Path, help="the model of the bundle, for the other runtimes")
    parser.add_argument("--from-c", action="store_true", help="also let the bundle run in a loop of C, against runtimes whose arrays are "
                        "bound once: in microseconds, what Python's calls cost hides the rest")
    parser.add_argument("--threads", type=options.positive, metavar="N", help="of every contestant (default: the bundle's)")
    parser.add_argument("--warmup", type=int, default=3, metavar="N", help="runs before the clock starts (default: 3)")
    parser.add_argument("--iters", type=options.positive, metavar="N", help="measure this many runs of each, however long it takes")
    parser.add_argument("--duration", type=float, default=3.0, metavar="S", help="measure for so many seconds in all (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="of the random inputs (default: 1)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the times of all blocks")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1,3,224,224", help="the shape of an input of a model")
    parser.add_argument("--dim", action="append", default=[], metavar="SYMBOL=N", help="the size of a symbolic dimension of a model")
    options.remote_options(parser)
    parser.add_argument("--exact", action="store_true", help="build a model without Winograd's short cut")


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure, and print times and ratios."""
    from edgec.contest import Rules, hold  # noqa: PLC0415 - slow to load, like everything heavy in commands

    if args.warmup < 0 or args.duration <= 0:
        raise UsageError("--warmup must not be negative, and --duration must be more than 0 seconds")
    if args.on is not None and (args.vs or args.from_c or args.plot):
        raise UsageError("--on measures on another machine, where no other runtime is: leave out --vs, --from-c and --plot")
    with ExitStack() as stack:
        others = {word: _other(Path(word)) for word in args.vs if Path(word).suffix == ".edgec" or Path(word).is_dir()}
        args.vs = [word for word in args.vs if word not in others]
        bundle, model = _bundle(args, stack, console)
        for word, other in others.items():
            _same_ports(bundle, other, word)
        threads = args.threads or int(bundle.manifest["options"].get("threads", 1))
        rules = Rules(threads, args.warmup, args.iters, args.duration, args.seed, args.from_c)
        if args.on is not None:
            return _elsewhere(bundle, rules, args, console)
        held = hold({"edgec": bundle, **others}, model, args.vs, rules)
    if held.emulator:
        console.warn(f"{held.emulator} runs this bundle: its times say nothing about the device")
    facts = {"threads": threads, **held.facts("edgec", bundle)}
    console.result(_shown(facts))
    for reason in held.refused.values():
        console.warn(f"left out: {reason}")
    for name in (*others, *held.peers):
        error = held.errors[name]
        if error is None or error > 1e-3:  # noqa: PLR2004 - far beyond what `verify` allows
            peer = held.peers.get(name)
            who = f"{name}, {peer.remark}," if peer and peer.remark else name
            console.warn(f"edgec and {who} do not compute the same (error {error}): see edgec verify")
    if args.plot:
        from edgec.report.times import lines  # noqa: PLC0415

        medians = {held.shown(name): [median(block) * 1e3 for block in t.blocks] for name, t in held.times.items()}
        title = f"{facts['model']} for {facts['target']}, {threads} thread{'s' * (threads > 1)}"
        write(args.plot, lines(title, medians).encode())
    console.data(facts)
    return 0


def _other(path: Path) -> "Bundle":
    """A bundle that takes part."""
    from edgec.bundle import Bundle  # noqa: PLC0415

    is_bundle(path)
    return Bundle(path)


def _same_ports(bundle: "Bundle", other: "Bundle", name: str) -> None:
    """UsageError when bundles cannot be fed the same."""
    for side in ("inputs", "outputs"):
        ours, theirs = ([(p["name"], p["dtype"], tuple(p["shape"])) for p in b.manifest[side]] for b in (bundle, other))
        if ours != theirs:
            raise UsageError(f"{name} has other {side} than the bundle that it is compared with: {_ports(theirs)} beside {_ports(ours)}")


def _ports(ports: Iterable[tuple[str, str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name}: {dtype}{list(shape)}" for name, dtype, shape in ports)


def _elsewhere(bundle: "Bundle", rules: "Rules", args: argparse.Namespace, console: Console) -> int:
    """Measure on another machine, by its own clock."""
    from edgec.contest import timed  # noqa: PLC0415
    from edgec.samples import draw  # noqa: PLC0415

    manifest = bundle.manifest
    session = bundle.load(threads=rules.threads, on=args.on, timeout=args.timeout)
    times = timed(session, draw(session.inputs, abs(rules.seed), manifest.get("input_ranges", {})), rules)
    facts = {"threads": rules.threads, "model": manifest["name"], "target": manifest["target"]["name"], "on": args.on, "emulator": None,
             **times.summary(), "predicted_ms": manifest["report"]["predicted_ms"], "bundles": {}, "peers": {}, "best": None}
    console.result(_shown(facts))
    console.data(facts)
    return 0


def _bundle(args: argparse.Namespace, stack: ExitStack, console: Console) -> tuple["Bundle", Path | None]:
    """The bundle, built into a folder that is thrown away when a model is given, and the model if it is known."""
    from edgec.bundle import Bundle  # noqa: PLC0415

    if is_bundle(args.bundle):
        if args.shape or args.dim or args.exact:
            raise UsageError("a bundle is what it was built as: --shape, --dim and --exact belong to models")
        made = Bundle(args.bundle)
        if args.vs and args.model is None:
            raise UsageError(f"--vs {','.join(args.vs)} needs the model of the bundle: add --model MODEL.onnx")
        if args.model is not None:
            same_model(made, args.model, console)
        return made, args.model
    from edgec.build import build  # noqa: PLC0415

    notes: list[str] = []
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgec-bench-")))
    made = build(args.bundle, args.target, folder / "made.edgec", name=args.bundle.stem, threads=args.threads or 1, exact=args.exact,
                 shapes=options.shapes(args.shape, args.bundle), dims=options.dims(args.dim), progress=console.progress, notes=notes)
    console.end()
    for note in notes:
        console.note(note)
    return made, args.bundle


def _shown(facts: Mapping[str, Any]) -> str:
    others = {**facts["bundles"], **facts["peers"]}
    rows = list(_rows("", facts, others))
    if "from_c" in facts:
        rows += _rows(" from C", facts["from_c"], {name: p["from_c"] for name, p in others.items()}, facts["bundles"])
    on = f" on {facts['on']}" if facts.get("on") else ""
    head = f"{facts['model']} for {facts['target']}{on}, {facts['threads']} thread{'s' * (facts['threads'] > 1)}, milliseconds"
    columns = ("", "median", "p90", "p99", "min", "runs", "edgec / other" if others else "")
    rows += [(name, *[""] * 5, "refused") for name in facts.get("refused", ())]
    return f"{head}\n{table(rows, columns, right=(1, 2, 3, 4, 5))}"


def _rows(how: str, ours: Mapping[str, Any], theirs: Mapping[str, Mapping[str, Any]],
          bundles: Iterable[str] = ()) -> Iterator[tuple[object, ...]]:
    """The bundle, then each other one and each peer; a peer's arrays are bound where the bundle runs in C."""
    for name, f in {"edgec": ours, **theirs}.items():
        ratio = f"{f['ratio']:.3f}  ({f['interval'][0]:.3f} to {f['interval'][1]:.3f})" if f is not ours else ""
        way = how if f is ours or name in bundles or not how else " bound"
        yield name + way, *(f"{f[k]:.3f}" if f[k] >= 0.1 else f"{f[k]:.5f}" for k in ("ms", "p90_ms", "p99_ms", "min_ms")), f["runs"], ratio  # noqa: PLR2004
