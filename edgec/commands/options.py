"""Arguments that several commands take, and their texts as values."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.fitting import Fitting
    from edgec.interface import Interface


def model_options(parser: argparse.ArgumentParser) -> None:
    """What binds and cuts a model."""
    group = parser.add_argument_group("model")
    group.add_argument("--shape", action="append", default=[], metavar="NAME=1,3,224,224",
                       help="the shape of an input, also written 1x3x224x224; without NAME= that of the only input")
    group.add_argument("--dim", action="append", default=[], metavar="SYMBOL=N", help="the size of a symbolic dimension")
    group.add_argument("--inputs", type=names, default=(), metavar="A,B", help="start at these values instead of the model's inputs")
    group.add_argument("--outputs", type=names, default=(), metavar="C,D", help="end at these values instead of the model's outputs")


def interface_options(parser: argparse.ArgumentParser) -> None:
    """What says how callers see inputs and outputs."""
    group = parser.add_argument_group("interface", "What the model reads is (x - mean) * scale, in the model's own order of channels.")
    for flag, shown, what in (
        ("input-type", "NAME=u8", "what callers give: u8, i8, u16, i16, f16, f32; i32 for indices"),
        ("input-layout", "NAME=NHWC", "callers give channels last"),
        ("mean", "NAME=123.7,116.3,103.5", "subtracted from what callers give: one number, or one for each channel"),
        ("scale", "NAME=0.0171,0.0175,0.0174", "the factor of the difference: one number, or one for each channel"),
        ("swap-channels", "NAME", "callers give RGB where the model has BGR, or the other way around"),
        ("output-type", "NAME=f16", "what callers get: f16 or f32; i32 for indices"),
        ("output-layout", "NAME=NHWC", "callers get channels last"),
    ):
        group.add_argument(f"--{flag}", action="append", default=[], metavar=shown, help=what)


def unit_options(parser: argparse.ArgumentParser) -> None:
    """What says which unit of the target runs what."""
    group = parser.add_argument_group("units", "Where the target has more than the CPU, each part runs where all together takes least.")
    group.add_argument("--units", type=names, default=(), metavar="CPU,GPU", help="use these units only; when the CPU is not among them, "
                       "it runs only what the others cannot")
    group.add_argument("--place", action="append", default=[], metavar="NODE=UNIT", help="run a node there, or with a pattern such as "
                       "'layer4*' all nodes that can")


def place(args: argparse.Namespace) -> dict[str, str]:
    """What `--place` was given; UsageError when it names no unit."""
    made: dict[str, str] = {}
    for text in args.place:
        node, _, unit = text.rpartition("=")
        if not node or not unit:
            raise UsageError(f"--place {text}: write NODE=UNIT, such as conv1=cpu or 'layer4*=gpu'")
        made[node] = unit
    return made


def interface(args: argparse.Namespace) -> "Interface":
    """What `interface_options` were given."""
    from edgec.interface import FLAGS, read  # noqa: PLC0415 - brings numpy along

    return read({flag: getattr(args, flag) for flag in FLAGS})


def fitting_options(parser: argparse.ArgumentParser) -> None:
    """What makes layers smaller, by samples, and what that may cost."""
    group = parser.add_argument_group("compression")
    group.add_argument("--rank", metavar="auto|RATIO|LAYER=R,...", help="make layers low-rank: those where it pays on the target and "
                       "loses little, RATIO times fewer weights in all, or these ranks (/2: half of the weights)")
    group.add_argument("--int8", action="store_true", help="quantize layers: weights and activations become bytes, sums are integers")
    group.add_argument("--calibrate", metavar="SAMPLES", help="fit both to these inputs, as callers will give them or as the model reads "
                       "them: a .npz, a folder, or module:function")
    group.add_argument("--max-drop", type=share, metavar="X", help="keep layers as they are so that at most this share of the score (0.01 "
                       "or 1%%) is lost on samples held out; without a score, of agreement with the model; exit code 4 when that cannot be")
    group.add_argument("--min-cosine", type=float, metavar="C", help="the same for the cosine between results with and without (0.999)")
    score_options(group)


def score_options(group: "argparse._ArgumentGroup") -> None:
    """What says how good results are."""
    group.add_argument("--labels", type=Path, metavar="y.npy", help="the right class of each sample: integers [N]")
    group.add_argument("--metric", choices=("top1",), help="what is counted with labels (default: top1)")
    group.add_argument("--eval", metavar="MODULE:FUNCTION", help="a score of your own: called with the results by output, [N, ...], and "
                       "the numbers of their samples, it returns a number that is larger the better they are")


def fitting(args: argparse.Namespace) -> "Fitting":
    """What `fitting_options` were given."""
    from edgec.fitting import Fitting  # noqa: PLC0415 - slow to load

    return Fitting(args.rank, args.int8, (), args.calibrate, args.max_drop, args.min_cosine, args.labels, args.metric, args.eval)


def share(text: str) -> float:
    """A share such as 0.01 or 1%."""
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def binding(args: argparse.Namespace) -> dict[str, Any]:
    """What `model_options` were given, as keywords of edgec.build."""
    return {"shapes": shapes(args.shape, args.model), "dims": dims(args.dim), "inputs": list(args.inputs), "outputs": list(args.outputs)}


def names(text: str) -> tuple[str, ...]:
    """The words of a list with commas."""
    return tuple(filter(None, text.split(",")))


def simulate_option(parser: argparse.ArgumentParser) -> None:
    """What commands that run a bundle take for one with commands of an NPU."""
    parser.add_argument("--simulate-npu", action="store_true", help="compute regions of an NPU from what their operators mean, because "
                        "its commands can be executed on the NPU alone")


def remote_options(parser: argparse.ArgumentParser) -> None:
    """What commands that run a bundle take to run it elsewhere."""
    group = parser.add_argument_group("another machine")
    group.add_argument("--on", metavar="USER@HOST", help="run there by ssh: what ~/.ssh/config knows, or ssh://user@host:port; nothing is "
                       "left there afterwards")
    group.add_argument("--timeout", type=seconds, default=300.0, metavar="S", help="give up when a request has no answer by then "
                       "(default: 300)")


def seconds(text: str) -> float:
    """A time of more than nothing."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return number


def budget(text: str) -> float:
    """A time, which may be none at all."""
    return 0.0 if text.strip() in ("0", "0.0") else seconds(text)


def positive(text: str) -> int:
    """A whole number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def shapes(texts: Sequence[str], model: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by input from `NAME=1,3,224,224`, `NAME=1x3x224x224`, or just numbers for a model with one input; UsageError otherwise."""
    made: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, separator, numbers = text.rpartition("=")
        words = numbers.strip("[] ").replace("x", ",").split(",") if numbers.strip("[] ") else []
        if not all(w.strip().isdecimal() for w in words) or (separator and not name):
            raise UsageError(f"--shape {text}: write NAME=1,3,224,224 or NAME=1x3x224x224")
        name = name if separator else _only_input(model, text)
        if name in made:
            raise UsageError(f"--shape {text}: the input {name} has two shapes")
        made[name] = tuple(map(int, words))
    return made


def _only_input(model: Path, text: str) -> str:
    from edgec.build import read  # noqa: PLC0415 - slow to load

    inputs = [v.name for v in read(model).inputs]
    if len(inputs) != 1:
        raise UsageError(f"--shape {text}: the model has {len(inputs)} inputs, so write {' or '.join(f'{n}={text}' for n in inputs[:3])}")
    return inputs[0]


def dims(texts: Sequence[str]) -> dict[str, int]:
    """Sizes by symbol from `SYMBOL=N`; UsageError otherwise."""
    made: dict[str, int] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            raise UsageError(f"--dim {text}: write SYMBOL=N with a whole number of at least 1")
        if made.setdefault(name, int(number)) != int(number):
            raise UsageError(f"--dim {text}: the symbol {name} has two sizes")
    return made


