"""`edgec report`: a bundle as one page to look at in a browser."""

import argparse
from pathlib import Path

from edgec.commands.console import Console
from edgec.commands.files import write

HELP = "write a page about a bundle: kernels, memory, graph, sizes, energy"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec report` takes."""
    parser.add_argument("bundle", type=Path, help="what `edgec build` made")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", help="where to write (default: BUNDLE.html, in this folder)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the page."""
    from edgec.codegen.manifest import read_manifest  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.report.page import page  # noqa: PLC0415

    text = page(read_manifest(args.bundle)).encode()
    place = args.output or Path(f"{args.bundle.resolve().name.removesuffix('.edgec')}.html")
    write(place, text)
    console.result(str(place))
    console.data({"path": str(place), "bytes": len(text)})
    return 0
