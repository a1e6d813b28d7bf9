"""`edgec opt`: run passes over a graph and look at what comes out."""

import argparse
from pathlib import Path

from edgec.commands import options
from edgec.commands.console import Console
from edgec.commands.files import write
from edgec.errors import BadInput, UsageError

HELP = "run passes over a model, and print or write the graph"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec opt` takes."""
    parser.add_argument("model", type=Path, help="an ONNX model, or a graph as text (*.edge); the reproducer of a crash knows its passes")
    parser.add_argument("--passes", metavar="'A,repeat(B,C)'", help="the pipeline (default: what needs no target, or that of a build)")
    parser.add_argument("--target", "-t", help="the target that passes ask about")
    parser.add_argument("-o", "--output", type=Path, metavar="out.edge|out.onnx", help="where to write (default: text on stdout)")
    options.model_options(parser)
    parser.add_argument("--calibrate", metavar="SAMPLES", help="inputs for passes that fit to some, such as 'quantize{int8=true}': a .npz, "
                        "a folder, or module:function")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="write the graph after each pass, as 03-absorb.edge")
    parser.add_argument("--time", action="store_true", help="print how long each step took")
    parser.add_argument("--stop-after", metavar="PASS", help="stop after this pass")
    parser.add_argument("--disable", type=options.names, action="append", default=[], metavar="NAME", help="leave out passes or rules")
    parser.add_argument("--limit", type=int, metavar="N", help="do only the first N rewrites")


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the passes."""
    if args.output is not None and args.output.suffix not in {".edge", ".onnx"}:
        raise UsageError(f"{args.output} must end in .edge or .onnx: that says what is written")
    from edgec import access  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.build import read  # noqa: PLC0415
    from edgec.calibrate import load  # noqa: PLC0415
    from edgec.lang.text import save, show  # noqa: PLC0415
    from edgec.pipeline import Context, Watch, run_passes  # noqa: PLC0415
    from edgec.target import find  # noqa: PLC0415

    asked = _headers(args.model)
    target = args.target or asked.get("target")
    disabled = [n for group in args.disable for n in group] + [n for n in asked.get("disable", "").split(",") if n]
    known = access.module("passes.catalog")
    pipeline = args.passes if args.passes is not None else asked.get("passes") or (known.DEFAULT if target else known.PORTABLE)
    notes: list[str] = []
    console.progress("import", 0, 1)
    graph = read(args.model, **options.binding(args), static=target is not None, notes=notes)
    found = load(args.calibrate, graph.inputs) if args.calibrate is not None else None
    notes += found.warnings if found else ()
    context = Context(find(target) if target else None, frozenset(disabled), args.limit, samples=found.feeds if found else ())
    watch = Watch(dump=args.dump, stop_after=args.stop_after, progress=lambda step: console.progress(step, 0, 1))
    made = run_passes(graph, pipeline, known.CATALOG, context, watch)
    console.end()
    for note in (*notes, *context.notes):
        console.note(note)
    for rewrite in context.trace:
        console.detail(f"{rewrite.step}: {rewrite.name} at {rewrite.origin}")
    facts = {"passes": pipeline, "nodes": len(made.nodes), "nodes_before": len(graph.nodes), "rewrites": len(context.trace)}
    if args.output is None:
        text = show(made, {})
        console.result(text.rstrip("\n"))
        console.data({**facts, "ir": text})
    else:
        if args.output.suffix == ".onnx":
            write(args.output, made.to_onnx().SerializeToString(deterministic=True))
        else:
            save(made, args.output)
        console.result(f"{args.output}: {len(made.nodes)} nodes, {len(graph.nodes)} before, {len(context.trace)} rewrites")
        console.data({**facts, "path": str(args.output)})
    if args.time:
        console.show_times()
    return 0


def _headers(model: Path) -> dict[str, str]:
    """What the comments at the head of a textual graph ask for."""
    if model.suffix != ".edge":
        return {}
    from edgec.pipeline import headers  # noqa: PLC0415

    try:
        return dict(headers(model.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{model} cannot be read as a graph: {error.strerror if isinstance(error, OSError) else 'it is no text'}") from None
