"""`edgec measure`: how good the results of a bundle, or of a model, are on samples."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.commands import options
from edgec.commands.console import Console, table
from edgec.commands.files import is_bundle
from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.calibrate import Samples
    from edgec.ir.graph import Graph
    from edgec.score import Results, Score

    Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]

HELP = "score the results of a bundle or a model on samples: by labels, by a function, or against another model"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec measure` takes."""
    parser.add_argument("model", type=Path, metavar="BUNDLE|MODEL", help="what `edgec build` made, an ONNX model, or a graph (*.edge)")
    parser.add_argument("--samples", required=True, metavar="S", help="inputs: a .npz {input: [N, ...]}, a .npy, a folder of such or of "
                        "images, or module:function")
    parser.add_argument("--reference", type=Path, metavar="MODEL", help="compare with what this model makes of them: agreement, cosine, "
                        "signal-to-noise")
    options.score_options(parser.add_argument_group("score"))
    parser.add_argument("--threads", type=options.positive, metavar="N", help="of a bundle (default: what it was built for)")
    options.simulate_option(parser)
    options.model_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Run on all samples, and tell the score and the agreement."""
    if args.labels is None and args.eval is None and args.reference is None:
        raise UsageError("there is nothing to measure by: give --labels y.npy, --eval module:function, or --reference MODEL")
    from edgec import calibrate  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.score import compared, scorer  # noqa: PLC0415

    ports, ours, theirs, emulator = _runners(args)
    samples = calibrate.load(args.samples, ports)
    for warning in samples.warnings:
        console.warn(warning)
    score = scorer(args.labels, args.metric, args.eval, samples.count)
    results = _results(ours, samples, "run", console)
    facts: dict[str, Any] = {"samples": samples.count, "emulator": emulator or None}
    if score is not None:
        facts["score"] = _told(score, results, samples)
    if args.reference is not None:
        reference = _results(theirs(), samples, "reference", console)
        facts["outputs"] = compared(results, _same(results, reference, args))
        if score is not None:
            facts["reference_score"] = _told(score, reference, samples)
    console.end()
    _show(facts, console)
    console.data(_finite(facts))
    return 0


def _show(facts: Mapping[str, Any], console: Console) -> None:
    if "score" in facts:
        name, value = facts["score"]["name"], facts["score"]["value"]
        other = facts.get("reference_score")
        against = f"; the reference has {other['value']:.6g}, the difference is {value - other['value']:+.6g}" if other else ""
        console.result(f"{name} {value:.6g} on {facts['samples']} samples{against}")
    if "outputs" in facts:
        rows = [(n, f"{m['agreement']:.2%}", f"{m['cosine']:.6f}", f"{m['signal_to_noise_db']:.1f}") for n, m in facts["outputs"].items()]
        console.result(table(rows, ("output", "agreement", "cosine", "SNR in dB"), right=(1, 2, 3)))


def _told(score: "Score", results: "Results", samples: "Samples") -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415

    return {"name": score.name, "value": score.of(results, np.arange(len(samples.feeds) * samples.batch))}


def _runners(args: argparse.Namespace) -> "tuple[Sequence[Any], Run, Callable[[], Run], str]":
    """The inputs of a bundle or a model, what runs it on some, how to make what runs the reference, and the emulator, if there is one."""
    if not is_bundle(args.model):
        graph = _graph(args, args.model)
        return graph.inputs, _evaluator(graph), lambda: _evaluator(_graph(args, args.reference)), ""
    from edgec import verify  # noqa: PLC0415
    from edgec.bundle import Bundle  # noqa: PLC0415
    from edgec.ir.graph import Value  # noqa: PLC0415
    from edgec.ir.types import Tensor, dtype_name  # noqa: PLC0415

    bundle = Bundle(args.model)
    session = bundle.load(threads=args.threads, simulate_npu=args.simulate_npu)
    who = ", and ".join(filter(None, (session.emulator, session.simulated)))
    ports = [Value(p.name, Tensor(dtype_name(p.dtype), p.shape)) for p in session.inputs]
    return ports, session.run, lambda: verify.plain_reference(bundle, args.reference)[0], who


def _graph(args: argparse.Namespace, path: Path) -> "Graph":
    from edgec.build import read  # noqa: PLC0415

    return read(path, **options.binding(args), static=True)


def _evaluator(graph: "Graph") -> "Run":
    from edgec.ir.evaluate import evaluate  # noqa: PLC0415

    return lambda feeds: evaluate(graph, feeds)


def _results(call: "Run", samples: "Samples", what: str, console: Console) -> "Results":
    from edgec.score import stacked  # noqa: PLC0415

    made = []
    for i, feeds in enumerate(samples.feeds):
        console.progress(what, i, len(samples.feeds))
        made.append(call(feeds))
    return stacked(made, samples.batch)


def _same(results: "Results", reference: "Results", args: argparse.Namespace) -> "Results":
    from edgec.errors import BadInput  # noqa: PLC0415

    for name, array in results.items():
        if name not in reference or reference[name].shape != array.shape:
            other = f"{list(reference[name].shape)}" if name in reference else "missing"
            raise BadInput(f"the output {name} is {list(array.shape)} in {args.model}, and {other} in {args.reference}")
    return reference


def _finite(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with None where a signal-to-noise ratio is infinite, for which JSON has no word."""
    if "outputs" in facts:
        facts["outputs"] = {n: {k: v if abs(v) != float("inf") else None for k, v in m.items()} for n, m in facts["outputs"].items()}
    return facts
