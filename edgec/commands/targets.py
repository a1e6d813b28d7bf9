"""`edgec targets`: the machines that edgec knows, or all about one of them."""

import argparse

from edgec.commands.console import Console

HELP = "list the targets, or show one with the source of each figure"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec targets` takes."""
    parser.add_argument("target", nargs="?", help="a name, an alias, host, or a file ./my.target")


def run(args: argparse.Namespace, console: Console) -> int:
    """Print a list, or one target."""
    from edgec import target  # noqa: PLC0415 - slow to load

    if args.target is None:
        console.result(target.listing())
        further: dict[str, list[str]] = {}
        for alias, name in target.aliases().items():
            further.setdefault(name, []).append(alias)
        if console.as_json:
            console.data([{"name": t.name, "aliases": further.get(t.name, []), "doc": t.doc} for t in target.known().values()])
        return 0
    found = target.find(args.target)
    console.result(target.describe(found))
    console.data({"name": found.name, "doc": found.doc, "parents": list(found.parents), "facts": dict(found.facts), "text": found.text(),
                  "units": {n: {"kind": u.kind, **u.facts} for n, u in found.units.items()},
                  "memories": {n: dict(m) for n, m in found.memories.items()}})
    return 0
