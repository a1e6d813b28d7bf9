"""`edgec passes`: what changes a graph, in the order of a build."""

import argparse
import textwrap

from edgec.commands.console import Console

HELP = "list the passes, their options, and why they stand where they stand"
_WIDTH = 100


def arguments(parser: argparse.ArgumentParser) -> None:
    """`edgec passes` takes nothing of its own."""


def run(_: argparse.Namespace, console: Console) -> int:
    """Print the catalog."""
    from edgec import access  # noqa: PLC0415 - slow to load

    known = access.module("passes.catalog")
    rows = list(known.CATALOG.values())
    for row in rows:
        options = "".join(f"  {{{k}={v}}}" for k, v in row.options.items())
        console.result(f"{row.name}{options}")
        reasons = [*(f"after {o}: {why}" for o, why in row.after.items()), *(f"before {o}: {why}" for o, why in row.before.items())]
        for text in (row.doc, *reasons):
            console.result(textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    "))
        if console.level > 0:
            console.result(textwrap.fill(f"rewrites: {', '.join(row.rewrites())}", _WIDTH, initial_indent="  ", subsequent_indent="    "))
    console.result(f"\na build      {known.DEFAULT}\nwithout target  {known.PORTABLE}")
    if console.as_json:
        console.data({"default": known.DEFAULT, "portable": known.PORTABLE, "passes": [
            {"name": r.name, "doc": r.doc, "options": dict(r.options), "after": dict(r.after), "before": dict(r.before),
             "rewrites": list(r.rewrites())} for r in rows]})
    return 0
