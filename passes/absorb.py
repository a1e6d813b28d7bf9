"""absorb: what a neighbor can do at no cost goes into its weights and attributes.

Batch norms, biases, scales and pads vanish in convolutions and matrix products. All of it is algebra on constants: `absorb.rules`.
"""

from collections.abc import Iterable

from edgec.ir.edit import prune
from edgec.ir.graph import Graph
from edgec.pipeline import Context
from passes.changes import rulebook

RULES = "absorb.rules"


def run(graph: Graph, context: Context) -> Graph:
    """The graph in which no rule of the file holds any more."""
    return prune(rulebook.apply(graph, context, RULES))


def rewrites() -> Iterable[str]:
    """The names of its rules."""
    return rulebook.names({}, RULES)
