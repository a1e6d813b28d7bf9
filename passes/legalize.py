"""legalize: operators that no kernel is written for become some that have one.

First parts are put together that make up an operator with a kernel of its own (`recompose.rules`: GELU, SiLU, softmax written out by
an exporter), then whole operators are taken apart: norms into reductions and arithmetic, Split into Slices, Einsum into
products of matrices, QLinearConv into a convolution between DequantizeLinear and QuantizeLinear.
"""

from collections.abc import Iterable

from edgec.ir.edit import prune
from edgec.ir.graph import Graph
from edgec.ir.sweep import sweep
from edgec.pipeline import Context
from passes.changes import contractions, dequantize, moves, qlinear, reductions, rulebook

CHANGES = rulebook.merged(dequantize.CHANGES, reductions.CHANGES, contractions.CHANGES, moves.CHANGES, qlinear.LEGAL)
RULES = "recompose.rules"


def run(graph: Graph, context: Context) -> Graph:
    """The graph without the operators of `CHANGES`, where their shapes are known."""
    return prune(sweep(rulebook.apply(graph, context, RULES), CHANGES, context))


def rewrites() -> Iterable[str]:
    """The names of everything it does."""
    return rulebook.names(CHANGES, RULES)
