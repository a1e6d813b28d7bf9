"""quantize: quantized operators in one form, DequantizeLinear, an operator of reals and QuantizeLinear, however a model writes them.

The result is plain ONNX that any runtime runs. What changes stands in `changes/qlinear.py`; `changes/qdq.py` reads the result.
"""

from collections.abc import Iterable

from edgec.ir.edit import prune
from edgec.ir.graph import Graph
from edgec.ir.sweep import sweep
from edgec.pipeline import Context
from passes.changes import qlinear, rulebook
from passes.changes.qdq import separate


def run(graph: Graph, context: Context) -> Graph:
    """The graph with its quantized operators in one form, each with borders of its own."""
    while True:
        made = sweep(graph, qlinear.CHANGES, context)
        if made is graph:
            break
        graph = prune(made)
    return separate(graph)


def rewrites() -> Iterable[str]:
    """The names of everything it does."""
    return rulebook.names(qlinear.CHANGES)
