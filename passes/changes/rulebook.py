"""The rules files that lie beside the passes, read once."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from edgec.ir.graph import Graph
from edgec.ir.sweep import Change, Changes, name_of
from edgec.pipeline import Context
from edgec.rules.apply import rewrite
from edgec.rules.check import load_files
from edgec.rules.match import Rule

FOLDER = Path(__file__).resolve().parent.parent


@cache
def rules(name: str) -> tuple[Rule, ...]:
    """The rules of a file such as `absorb.rules`, in its order."""
    return load_files([FOLDER / name])


def apply(graph: Graph, context: Context, name: str) -> Graph:
    """The graph when no rule of a file holds anywhere any more."""
    return rewrite(graph, rules(name), context.may, context.did)


def merged(*tables: Changes) -> Changes:
    """The changes of several tables by operator, those of earlier tables first."""
    made: dict[str, tuple[Change, ...]] = {}
    for table in tables:
        for op, changes in table.items():
            made[op] = (*made.get(op, ()), *changes)
    return made


def names(changes: Changes, *files: str) -> Sequence[str]:
    """How `--disable` calls the changes of a table and the rules of files."""
    return sorted({*(name_of(c) for row in changes.values() for c in row), *(r.name for f in files for r in rules(f))})
