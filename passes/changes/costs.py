"""What contractions are expected to take on a core, before kernels and layouts are chosen."""

from collections.abc import Sequence
from typing import Any

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import View
from edgec.isa import Isa
from edgec.kernels.base import Operands
from edgec.kernels.plan import plan
from passes.cluster import assumed_view


class Costs:
    """What kernels are expected to take on a unit, calls and memory included; infinite when there is no kernel."""

    def __init__(self, graph: Graph, isa: Isa) -> None:
        self.isa = isa
        self.footprint = sum(a.nbytes for a in graph.weights.values())
        self.known: dict[Any, float] = {}

    def of(self, some: Sequence[Node]) -> float:
        """The cycles of nodes one after the other."""
        total = 0.0
        for node in some:
            key = (node.op, tuple(v.type for v in node.inputs if v is not None), node.output.dims, node.attrs.get("group", 1),
                   *(tuple(node.attrs.get(k, ())) for k in ("strides", "pads", "dilations")))
            if key not in self.known:
                self.known[key] = self._cycles(node)
            total += self.known[key]
        return total

    def _cycles(self, node: Node) -> float:
        def view(v: Value) -> View:
            return assumed_view(v, self.isa) if node.op == "Conv" else View.of(v.dims)

        made = plan(node, self.isa, Operands(view, lambda v: v is not node.inputs[0], lambda _: None, footprint=self.footprint))
        return float("inf") if isinstance(made, str) else made.plan.cycles
