"""`edgec report`: a bundle as one page to look at in a browser."""

import argparse
import json
from pathlib import Path
from typing import Any

from edgec.commands.console import Console
from edgec.commands.files import write
from edgec.errors import BadInput

HELP = "write a page about a bundle: kernels, memory, graph, study, sizes, energy"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec report` takes."""
    parser.add_argument("bundle", type=Path, help="what `edgec build` made")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", help="where to write (default: BUNDLE.html, in this folder)")
    parser.add_argument("--study", type=Path, metavar="FILE.json", help="put this study on the page, which `edgec study -o` wrote")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the page."""
    from edgec.codegen.manifest import read_manifest  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.report.page import page  # noqa: PLC0415

    manifest = read_manifest(args.bundle)
    text = page({**manifest, "study": _study(args.study)} if args.study else manifest).encode()
    place = args.output or Path(f"{args.bundle.resolve().name.removesuffix('.edgec')}.html")
    write(place, text)
    console.result(str(place))
    console.data({"path": str(place), "bytes": len(text)})
    return 0


def _study(path: Path) -> dict[str, Any]:
    """The facts of a study; BadInput for a file that is none."""
    try:
        facts = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(facts, dict) or not {"layers", "ranking", "edits", "energy_table"} <= facts.keys():
        raise BadInput(f"{path} is no study: `edgec study MODEL -o {path}` writes one")
    return facts
