"""`edgec build`: from a model to a bundle, or to one of the things that are made on the way."""

import argparse
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.commands import options
from edgec.commands.console import Console
from edgec.commands.files import write, write_folder
from edgec.errors import UsageError
from edgec.isa import AIMS

if TYPE_CHECKING:
    from edgec.build import Built
    from edgec.bundle import Bundle
    from edgec.fitting import Fitted
    from edgec.ir.graph import Graph
    from edgec.target import Target

HELP = "compile a model into a bundle: code, weights and everything to run it on a target"
_SUFFIX = {"ir": "edge", "onnx": "onnx", "asm": "s", "obj": "o", "c": "src"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec build` takes."""
    parser.add_argument("model", type=Path, help="an ONNX model, or a graph as text (*.edge)")
    parser.add_argument("--target", "-t", default="host", help="a name, an alias, or a file ./my.target (default: host)")
    parser.add_argument("-o", "--output", type=Path, help="where to write (default: MODEL.TARGET.edgec)")
    parser.add_argument("--name", help="what the model is called in C (default: the name of the file)")
    parser.add_argument("--threads", type=options.positive, default=1, metavar="N", help="what the bundle uses unless told otherwise")
    parser.add_argument("-O", dest="optimize", choices=AIMS, default=AIMS[0],
                        help="what to optimize for; start: speed, and a first run without preparations, for a larger file")
    parser.add_argument("--exact", action="store_true", help="no algorithm that changes results by more than rounding")
    parser.add_argument("--measure", type=options.budget, nargs="?", const=60.0, metavar="SECONDS", help="time kernels on this machine for "
                        "at most so long (60), where the cost model may be wrong, and remember what was faster; 0 only uses what is known")
    parser.add_argument("--emit", choices=tuple(_SUFFIX), help="write this instead of a bundle: the final graph as text or as ONNX (with "
                        "--int8 its Q/DQ form), the kernels as assembler, the object, or all of it as a folder of C99 (scalar code)")
    parser.add_argument("--weights", choices=("array", "incbin"), help="for --emit c: weights as an array in C, or for an assembler "
                        "(default: an array up to 1 MiB)")
    parser.add_argument("--cc", metavar="COMMAND", help="the C compiler and linker to use")
    parser.add_argument("--jobs", type=options.positive, metavar="N", help="how many kernels to compile at once (default: one a core)")
    options.model_options(parser)
    options.interface_options(parser)
    options.unit_options(parser)
    options.fitting_options(parser)
    debug = parser.add_argument_group("to look inside")
    debug.add_argument("--dump", type=Path, metavar="DIR", help="write the graph after each pass, as 03-absorb.edge")
    debug.add_argument("--time", action="store_true", help="print how long each step took")
    debug.add_argument("--stop-after", metavar="PASS", help="stop after this pass and print its graph (or --emit ir, onnx)")
    debug.add_argument("--disable", type=options.names, action="append", default=[], metavar="NAME", help="leave out passes or rules")
    debug.add_argument("--limit", type=int, metavar="N", help="do only the first N rewrites")


def run(args: argparse.Namespace, console: Console) -> int:
    """Build, and tell what was made and what to type next."""
    if args.stop_after and args.emit not in (None, "ir", "onnx"):
        raise UsageError(f"--stop-after leaves a graph behind, of which --emit {args.emit} cannot be made")
    if args.limit is not None and args.limit < 0:
        raise UsageError(f"--limit {args.limit}: a number of rewrites is not negative")
    if args.weights and args.emit != "c":
        raise UsageError("--weights says how the weights of --emit c are written")
    if args.measure is not None and (args.emit not in (None, "obj") or args.stop_after):
        raise UsageError("--measure chooses between kernels of a bundle: it goes with no --stop-after, and with no --emit but obj")
    if args.emit or args.stop_after:
        _emit(args, console)
    else:
        _bundle(args, console)
    if args.time:
        console.show_times()
    return 0


def _bundle(args: argparse.Namespace, console: Console) -> None:
    made, notes = _build(args, args.output, console)
    following = f"edgec run {shlex.quote(str(made.path))}"
    console.result(f"{made.summary()}\nnext: {following}")
    console.data(facts(made) | {"notes": notes, "next": following})


def _build(args: argparse.Namespace, output: Path | None, console: Console) -> tuple["Bundle", list[str]]:
    """The bundle, and what was worth a note."""
    from edgec.build import build  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.pipeline import Watch  # noqa: PLC0415

    notes: list[str] = []
    made = build(args.model, args.target, output, **options.binding(args), threads=args.threads, optimize_for=args.optimize,
                 exact=args.exact, name=args.name, cc=args.cc, jobs=args.jobs, progress=console.progress, watch=Watch(dump=args.dump),
                 disabled=_disabled(args), limit=args.limit, notes=notes, interface=options.interface(args),
                 rank=args.rank, calibrate=args.calibrate, int8=args.int8, max_drop=args.max_drop, min_cosine=args.min_cosine,
                 labels=args.labels, metric=args.metric, evaluate=args.eval, units=args.units, place=options.place(args),
                 measure=args.measure)
    console.end()
    for note in notes:
        console.note(note)
    return made, notes


def facts(bundle: "Bundle") -> dict[str, Any]:
    """What a build tells as JSON."""
    manifest = bundle.manifest
    return {"bundle": str(bundle.path), "target": manifest["target"]["name"], "kernels": manifest["report"]["kernels"],
            "macs": manifest["report"]["macs"], "predicted_ms": manifest["report"]["predicted_ms"], **manifest["sizes"],
            **{key: manifest[key] for key in ("npus", "measured") if manifest.get(key)}}


def _disabled(args: argparse.Namespace) -> list[str]:
    return [name for group in args.disable for name in group]


def _emit(args: argparse.Namespace, console: Console) -> None:
    from edgec.lang.text import save, show  # noqa: PLC0415
    from edgec.target import find  # noqa: PLC0415

    machine = find(args.target)
    place = args.output or Path(f"{args.name or args.model.stem}.{machine.name}.{_SUFFIX[args.emit or 'ir']}")
    if args.emit == "asm":
        write(place, _assembler(_compiled(args, machine, console), args, console))
    elif args.emit == "c":
        _sources(place, machine, args, console)
    elif args.emit == "obj":
        write(place, _object(args, console))
    else:
        final = _final(args, machine, console)
        if args.emit is None and args.output is None:
            console.end()
            console.result(show(final, {}).rstrip("\n"))
            console.data({"ir": show(final, {})})
            return
        if args.emit == "onnx":
            write(place, final.to_onnx().SerializeToString(deterministic=True))
        else:
            save(final, place)
    console.end()
    console.result(str(place))
    console.data({"emitted": args.emit or "ir", "path": str(place), "target": machine.name})


def _imported(args: argparse.Namespace, console: Console) -> "Graph":
    from edgec.build import read  # noqa: PLC0415

    notes: list[str] = []
    console.progress("import", 0, 1)
    graph = read(args.model, **options.binding(args), static=True, notes=notes)
    for note in notes:
        console.note(note)
    return graph


def _compiled(args: argparse.Namespace, machine: "Target", console: Console) -> "Built":
    from edgec.build import compile_graph  # noqa: PLC0415
    from edgec.pipeline import Watch  # noqa: PLC0415

    graph = _imported(args, console)
    return compile_graph(graph, machine, args.name or args.model.stem, progress=console.progress,
                         watch=Watch(dump=args.dump), disabled=_disabled(args), limit=args.limit, optimize_for=args.optimize,
                         exact=args.exact, interface=options.interface(args), fitted=_fitted(graph, machine, args, console),
                         units=args.units, place=options.place(args))


def _fitted(graph: "Graph", machine: "Target", args: argparse.Namespace, console: Console) -> "Fitted":
    notes: list[str] = []
    found = options.fitting(args).resolve(graph, machine, notes, interface=options.interface(args), optimize_for=args.optimize,
                                          progress=console.progress)
    for note in notes:
        console.note(note)
    return found


def _final(args: argparse.Namespace, machine: "Target", console: Console) -> "Graph":
    """The graph of kernels, or the one after --stop-after; as ONNX, a graph with --int8 between QuantizeLinear and DequantizeLinear."""
    from edgec import access  # noqa: PLC0415
    from edgec.build import placing  # noqa: PLC0415
    from edgec.pipeline import Context, Watch, run_passes  # noqa: PLC0415

    known = access.module("passes.catalog")
    stop_after = args.stop_after or ("quantize" if args.int8 and args.emit == "onnx" else None)
    watch = Watch(dump=args.dump, stop_after=stop_after, progress=lambda step: console.progress(step, 0, 1))
    graph = _imported(args, console)
    fitted = _fitted(graph, machine, args, console)
    context = Context(machine, frozenset(_disabled(args)), args.limit, samples=fitted.samples)
    steps = known.pipeline(fitted.rank, options.interface(args).options(), placing(args.units, options.place(args)), int8=fitted.int8,
                           keep=fitted.keep)
    final = run_passes(graph, steps, known.CATALOG, context, watch)
    for note in context.notes if args.rank is not None or args.int8 else ():
        console.note(note)
    return final


def _assembler(made: "Built", args: argparse.Namespace, _: Console) -> bytes:
    from edgec.codegen.object import kernel_texts  # noqa: PLC0415

    texts = kernel_texts(made.schedule.plans, made.isa, "asm", jobs=args.jobs)
    origins = {s.kernel: s.origin for s in reversed(made.schedule.program.calls)}
    return "".join(f"# {key}: {origins.get(key, '')}\n{text}\n" for key, text in texts.items()).encode()


def _sources(place: Path, machine: "Target", args: argparse.Namespace, console: Console) -> None:
    """The model as C99, for a core without vectors."""
    from edgec.build import sources  # noqa: PLC0415
    from edgec.codegen.c_source import identifier  # noqa: PLC0415
    from edgec.target import scalar  # noqa: PLC0415

    made = _compiled(args, scalar(machine), console)
    lanes = machine.cpu.facts.get("vector", 4) // 4
    if lanes > 1:
        console.note(f"{machine.name} computes {lanes} numbers at once: C has no words for that, so this code is scalar")
    array = None if args.weights is None else args.weights == "array"
    write_folder(place, sources(made, jobs=args.jobs, array=array), f"{identifier(made.schedule.program.name)}.c")


def _object(args: argparse.Namespace, console: Console) -> bytes:
    """The object of a bundle that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        made, _ = _build(args, Path(folder) / "made.edgec", console)
        return (made.path / f"{made.manifest['c_name']}.o").read_bytes()
