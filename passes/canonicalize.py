"""canonicalize: one way to say each thing.

Names without effect go, what is known of shapes becomes constant, attributes are written out, and dead nodes are dropped. What
needs arithmetic on shapes stands in `changes/`, algebra in `canonicalize.rules`.
"""

from collections.abc import Iterable

from edgec.ir.edit import prune
from edgec.ir.graph import Graph
from edgec.ir.sweep import sweep
from edgec.pipeline import Context
from passes.changes import drops, moves, rulebook, shapes, windows

CHANGES = rulebook.merged(drops.CHANGES, windows.CHANGES, shapes.CHANGES, moves.CANONICAL)
RULES = "canonicalize.rules"


def run(graph: Graph, context: Context) -> Graph:
    """The graph in its canonical form: nothing changes when it runs again."""
    graph = prune(graph)
    while True:
        made = rulebook.apply(sweep(graph, CHANGES, context), context, RULES)
        if made is graph:
            return graph
        graph = prune(made)


def rewrites() -> Iterable[str]:
    """The names of everything it does."""
    return rulebook.names(CHANGES, RULES)
