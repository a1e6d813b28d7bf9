"""`edgec bisect`: which rewrite or kernel makes a result differ from the model's."""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.commands import options
from edgec.commands.console import Console
from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.blame import Culprit, Judge
    from edgec.ir.graph import Graph
    from edgec.session import Array
    from edgec.target import Target

HELP = "find the first rewrite or kernel that makes a result differ; exit code 4 when there is one"
_INPUTS = 2
_MISSED = 4


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec bisect` takes."""
    parser.add_argument("model", type=Path, help="an ONNX model, or a graph as text (*.edge)")
    parser.add_argument("--target", "-t", default="host", help="what to build for (default: host)")
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays by input, each of its shape, or with one more axis in "
                        "front that counts samples (default: random numbers)")
    parser.add_argument("--tolerance", type=float, default=1e-4, metavar="E", help="the largest error that is allowed (default: 1e-4)")
    parser.add_argument("--seed", type=int, default=1, help="of the random inputs (default: 1)")
    parser.add_argument("--passes-only", action="store_true", help="do not build and run the kernels, only evaluate what the passes make")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1,3,224,224", help="the shape of an input")
    parser.add_argument("--dim", action="append", default=[], metavar="SYMBOL=N", help="the size of a symbolic dimension")


def run(args: argparse.Namespace, console: Console) -> int:
    """Find what is to blame; 0 when nothing is."""
    from edgec import access  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.blame import Judge, blame_kernels, blame_passes  # noqa: PLC0415
    from edgec.build import build, read  # noqa: PLC0415
    from edgec.pipeline import Context  # noqa: PLC0415
    from edgec.target import find  # noqa: PLC0415

    if args.tolerance < 0:
        raise UsageError(f"--tolerance {args.tolerance:g}: an error is not negative")
    machine, shapes, dims = find(args.target), options.shapes(args.shape, args.model), options.dims(args.dim)
    console.progress("import", 0, 1)
    graph = read(args.model, shapes=shapes, dims=dims, static=True)
    judge = Judge(graph, _feeds(graph, args), args.tolerance)
    if not judge.checks:
        console.warn("no result changes by 1 % of its size between these inputs, so little is checked; give others with --inputs")
    known, context = access.module("passes.catalog"), Context(machine)
    console.progress("passes", 0, 1)
    found = blame_passes(graph, known.DEFAULT, known.CATALOG, context, judge)
    if found is None and not args.passes_only:
        with tempfile.TemporaryDirectory(prefix="edgec-bisect-") as folder:
            bundle = build(args.model, args.target, Path(folder) / "made.edgec", name=args.model.stem, shapes=shapes, dims=dims,
                           progress=console.progress)
            console.progress("kernels", 0, 1)
            found = blame_kernels(bundle, args.model, judge)
    console.end()
    return _tell(found, args, machine, judge, console, rewrites=len(context.trace))


def _feeds(graph: "Graph", args: argparse.Namespace) -> list[dict[str, "Array"]]:
    """The given samples and random ones: at least two, because an error needs two."""
    import numpy as np  # noqa: PLC0415

    from edgec.commands.verify import read_samples  # noqa: PLC0415
    from edgec.ir.types import numpy_dtype  # noqa: PLC0415
    from edgec.samples import draw, ranges  # noqa: PLC0415
    from edgec.session import Port  # noqa: PLC0415

    ports = [Port(v.name, v.dims, np.dtype(numpy_dtype(v.tensor.dtype))) for v in graph.inputs]
    given = [dict(s) for s in read_samples(args.inputs, ports)] if args.inputs else []
    return given + [draw(ports, abs(args.seed) + i, ranges(graph)) for i in range(max(0, _INPUTS - len(given)))]


def _tell(found: "Culprit | None", args: argparse.Namespace, machine: "Target", judge: "Judge", console: Console, *, rewrites: int) -> int:
    facts = {"ok": found is None, "target": machine.name, "rewrites": rewrites, "inputs": len(judge.feeds), "tolerance": args.tolerance,
             "kernels": not args.passes_only, "culprit": asdict(found) if found else None}
    console.data(facts)
    if found is None:
        what = f"{rewrites} rewrites" + ("" if args.passes_only else " and all kernels")
        console.result(f"nothing differs: {what} for {machine.name} leave the results as they are, on {len(judge.feeds)} inputs")
        return 0
    if found.limit is not None:
        console.result(f"the pass {found.step} errs with {found.rewrite} at {found.node}\n"
                       f"it is rewrite {found.limit} of {rewrites}: --limit {found.limit - 1} is right, --limit {found.limit} is not")
    elif found.step == "kernel":
        console.result(f"the kernel {found.rewrite} errs, which is made of {found.node}; what the passes made of the model is right")
    elif found.step == "bundle":
        console.result(f"the bundle errs: {found.node}")
    else:
        console.result(f"the pass {found.step} errs without any rewrite, at {found.node}")
    console.result(f"the first value that differs is %{found.value}: it {found.why}")
    return _MISSED
