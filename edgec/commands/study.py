"""`edgec study`: what it would cost to make each layer of a model smaller."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.commands import options
from edgec.commands.console import Console, table
from edgec.commands.files import write
from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.study.study import Effect, Studied, Study

HELP = "predict for each layer what low rank, int8, sparsity and fp16 would cost: results, time, bytes, energy"
_NAME = 40
_HEAD = ("", "layer", "edit", "lost", "SNR", "flips", "time", "bytes", "energy", "")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec study` takes."""
    parser.add_argument("model", type=Path, help="an ONNX model, or a graph as text (*.edge)")
    parser.add_argument("--target", "-t", default="host", help="the machine whose time and energy are predicted (default: host)")
    parser.add_argument("--calibrate", metavar="SAMPLES", help="inputs such as the model will see: a .npz, a folder, or module:function "
                        "(default: random ones)")
    parser.add_argument("--edits", type=options.names, metavar="A,B",
                        help="only these: rank-1/2, rank-1/4, int8, sparse-50, sparse-80, fp16")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: 0)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="write everything there too, for `edgec report --study`")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="write a picture: what each edit of each layer loses")
    options.model_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Study, and tell: the layers that break first stand in front."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy is not loaded yet: for matrices as small as these, threads only wait
    from edgec.report.study import alone  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.study.edits import EDITS  # noqa: PLC0415
    from edgec.study.model import examine  # noqa: PLC0415

    for name in args.edits or ():
        if name not in EDITS:
            raise UsageError(f"no edit is called {name}; there are {', '.join(EDITS)}")
    made = examine(args.model, args.target, **options.binding(args), calibrate=args.calibrate, edits=args.edits or tuple(EDITS),
                   seed=args.seed, progress=console.progress)
    console.end()
    for warning in made.warnings:
        console.warn(warning)
    facts = made.facts()
    if args.output:
        write(args.output, json.dumps(facts, indent=1, allow_nan=False).encode() + b"\n")
        console.note(f"everything is in {args.output}")
    if args.plot:
        write(args.plot, alone(facts).encode())
        console.note(f"the picture is {args.plot}")
    console.result(_shown(made))
    console.data(facts)
    return 0


def _shown(made: "Study") -> str:
    rows = [row for i, s in enumerate(made.ranking, 1) for row in _rows(i, s)]
    lines = [f"{made.model} for {made.target}: {len(made.layers)} layers, {made.samples} samples, {made.total_us:.1f} us predicted in all",
             table(rows, _HEAD, right=(0, 3, 4, 5, 6, 7, 8)),
             "lost: the share of what distinguishes the results; SNR in dB; flips: results whose largest element becomes another one"]
    guesses = dict.fromkeys(f.guessed for s in made.layers for f in s.effects.values() if f.guessed)
    if guesses:
        lines.append(f"~ a predicted time that no kernel has yet: {'; '.join(guesses)}")
    lines.append(f"energy by the table {made.table}: trust ratios, not values")
    lines += [f"left out: {name}: {why}" for name, why in made.skipped.items()]
    lines += [f"all layers, {edit.name}: {_sum(made, edit.name)}" for edit in made.edits]
    first = made.ranking[0]
    if first.worst:
        lines.append(f"breaks first: {first.name}, which loses {first.score:.0f} times as much as the middle layer with {first.worst}")
    return "\n".join(lines)


def _rows(number: int, s: "Studied") -> list[tuple[object, ...]]:
    name = s.name if len(s.name) <= _NAME else f"…{s.name[1 - _NAME:]}"
    rows: list[tuple[object, ...]] = [(number, name, f"{s.op} {'x'.join(map(str, s.weight))}", "", "", "", f"{s.cost.us:.1f} us",
                                       f"{s.cost.bytes:.0f}", f"{s.cost.energy * 1e6:.3g} uJ", "")]
    rows += [("", "", e, _share(f.lost), "-" if f.decibels is None else f"{f.decibels:.1f}", f"{f.flips:.1%}", _change(f.us, s.cost.us, f),
              _change(f.bytes, s.cost.bytes), _change(f.energy, s.cost.energy), "<" if e == s.worst else "") for e, f in s.effects.items()]
    return rows + [("", "", e, "-", "", "", "", "", "", why) for e, why in s.refused.items()]


def _change(saved: float, of: float, effect: "Effect | None" = None) -> str:
    return f"{'~' if effect is not None and effect.guessed else ''}{-saved / of:+.0%}" if of else "-"


def _share(share: float) -> str:
    return f"{share:.2%}" if share >= 1e-4 else f"{share * 100:.0e}%"  # noqa: PLR2004  readable


def _sum(made: "Study", edit: str) -> str:
    effects = [(s, s.effects[edit]) for s in made.layers if edit in s.effects]
    lost, us, size = (sum(getattr(f, what) for _, f in effects) for what in ("lost", "us", "bytes"))
    time, total = sum(s.cost.us for s in made.layers), sum(s.cost.bytes for s in made.layers)
    return (f"{len(effects)} of {len(made.layers)}, {_share(lost)} lost, {-us / time:+.0%} of the time and {-size / total:+.0%} of the "
            "bytes of all layers")
