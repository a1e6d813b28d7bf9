"""`edgec run`: run a bundle on arrays from files, or on random ones."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.commands.console import Console, table
from edgec.commands.files import write
from edgec.commands.options import positive, remote_options, simulate_option
from edgec.errors import BadInput, UsageError

if TYPE_CHECKING:
    from edgec.session import Array, Session

HELP = "run a bundle, here, under its target's emulator, or on another machine"
_FEW = 16


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec run` takes."""
    parser.add_argument("bundle", type=Path, help="what `edgec build` made")
    parser.add_argument("arrays", nargs="*", metavar="x.npy | NAME=@x.npy | all.npz",
                        help="the inputs: in their order, by name, or all in one file (default: random numbers)")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR|FILE.npz", help="write the outputs there")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: 0)")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: what the bundle was built for")
    simulate_option(parser)
    remote_options(parser)
    parser.add_argument("--poison", action="store_true", help="fill working memory with NaN first, and look for writes outside of it")


def run(args: argparse.Namespace, console: Console) -> int:
    """Run, and print a summary of each output."""
    from edgec.bundle import Bundle  # noqa: PLC0415 - slow to load, like everything heavy in commands

    bundle = Bundle(args.bundle)
    session = bundle.load(threads=args.threads, poison=args.poison, simulate_npu=args.simulate_npu, on=args.on, timeout=args.timeout)
    if session.emulator:
        console.note(f"{args.bundle} is for another machine, so {session.emulator} runs it")
    if session.simulated:
        console.note(f"no NPU executed its commands: their place was taken by {session.simulated}")
    feeds = read_inputs(session, args.arrays)
    if not args.arrays:
        from edgec.samples import draw  # noqa: PLC0415

        console.note(f"no inputs given, so they are random (seed {args.seed})")
        feeds = draw(session.inputs, abs(args.seed), bundle.manifest.get("input_ranges", {}))
    outputs = session.run(feeds)
    if args.out:
        save(args.out, outputs)
        console.note(f"outputs written to {args.out}")
    facts = {name: describe(array) for name, array in outputs.items()}
    rows = [(name, f"{f['dtype']}{f['shape']}", *(_number(f[k]) for k in ("min", "mean", "max")),
             " ".join(map(_number, f.get("values", ())))) for name, f in facts.items()]
    console.result(table(rows, ("output", "type", "min", "mean", "max", "values"), right=(2, 3, 4)))
    console.data({"outputs": facts, "emulator": session.emulator or None, "on": session.remote or None,
                  "simulated": session.simulated or None, "random": not args.arrays})
    return 0


def read_inputs(session: "Session", arrays: Sequence[str]) -> dict[str, "Array"]:
    """The arrays of files by input; BadInput for a file that holds none, UsageError for too many, too few, or unknown names."""
    names = [p.name for p in session.inputs]
    made: dict[str, Array] = {}
    for text in arrays:
        name, path = _named(text, names)
        loaded = read_arrays(path)
        if name is None and isinstance(loaded, Mapping):
            given: Mapping[str, Array] = loaded
        else:
            if isinstance(loaded, Mapping):
                raise BadInput(f"{path} holds several arrays, and {name} is one input: write just {path}")
            if name is None and len(made) == len(names):
                raise UsageError(f"{text} is one array more than the model has inputs ({', '.join(names)})")
            given = {name if name is not None else next(n for n in names if n not in made): loaded}
        for key, array in given.items():
            if key in made:
                raise UsageError(f"the input {key} is given twice")
            made[key] = array
    for name in made:
        if name not in names:
            raise UsageError(f"the model has no input {name}; it has {', '.join(names)}")
    if arrays and (missing := [n for n in names if n not in made]):
        raise UsageError(f"no array is given for the input{'s' * (len(missing) > 1)} {', '.join(missing)}; write {missing[0]}=@x.npy")
    return made


def _named(text: str, names: Sequence[str]) -> tuple[str | None, Path]:
    name, at, path = text.partition("=@")
    if at:
        return name, Path(path)
    known = next((n for n in names if text.startswith(f"{n}=")), None)
    return (None, Path(text)) if known is None else (known, Path(text[len(known) + 1:]))


def read_arrays(path: Path) -> "Array | dict[str, Array]":
    """The array of an `.npy` file, or those of an `.npz` file by name; BadInput when it is neither. Nothing in it is executed."""
    import zipfile  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged, or of another kind"
        raise BadInput(f"{path} cannot be read as .npy or .npz: {reason}") from None


def save(place: Path, outputs: Mapping[str, "Array"]) -> None:
    """Write outputs to an `.npz` file, or as an `.npy` file each into a folder; BadInput when that cannot be written."""
    import io  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    if place.suffix == ".npz":
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **outputs)
        write(place, file.getvalue())
        return
    for name, array in outputs.items():
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        write(place / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.npy", file.getvalue())


def describe(array: "Array") -> dict[str, Any]:
    """An array in a few figures, and the whole of a small one; what is not finite is None."""
    import numpy as np  # noqa: PLC0415

    made: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    wide = array.astype(np.float64) if array.size else np.zeros(1)
    made |= {k: _finite(float(f())) for k, f in (("min", wide.min), ("mean", wide.mean), ("max", wide.max))}
    if array.size <= _FEW:
        made["values"] = [_finite(v) for v in array.reshape(-1).astype(np.float64).tolist()] if array.dtype.kind not in "iub" \
            else array.reshape(-1).tolist()
    return made


def _finite(number: float) -> float | None:
    return number if abs(number) < float("inf") else None


def _number(number: float | None) -> str:
    return "not finite" if number is None else f"{number:.5g}"
