"""What a layer costs alone, by the cost model and the plans of its kernels: time, bytes of weights, energy."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgec import access
from edgec.cost import energy, kernel_cycles, predicted_us
from edgec.errors import UnsupportedModel
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.isa import Isa, cpu_isa
from edgec.kernels.base import KernelPlan, Operands, traffic
from edgec.kernels.plan import plan
from edgec.pipeline import Context, run_passes
from edgec.study.edits import Edited
from edgec.study.layers import Layer
from edgec.target import Target

TABLE = "45nm"
_KERNELS = "integers,promote,canonicalize,cluster"
_SCATTERED = {"memory": 2.2, "lane": 1.3}
"""How much longer a weight takes in a sparse kernel than in a dense one: both take as long at 55 % zeros (x86) and 22 % (aarch64)."""
_REAL, _PLACE = 4.0, 1.0
"""Bytes of a weight, and of what tells where it stands in a sparse matrix."""


@dataclass(frozen=True)
class Cost:
    """Time in microseconds on one core, bytes of stored weights, energy of a run in joules by the table TABLE."""

    us: float
    bytes: float
    energy: float


class Prices:
    """What layers cost on a target. `footprint` counts the bytes of all weights, which pass through the caches between two runs."""

    def __init__(self, target: Target, footprint: float) -> None:
        self.target, self.isa, self.footprint = target, cpu_isa(target), footprint

    def of(self, layer: Layer, edited: Edited | None = None) -> Cost:
        """The cost of a layer as it is, or after an edit; UnsupportedModel when there is no kernel for it."""
        graph = layer.stored if edited is None else layer.alone if edited.guessed else edited.graph
        if edited is not None and edited.dtype == "i8":
            graph = _closed(graph)
        plans = list(_plans(graph, self.target, self.isa, self.footprint))
        stored = float(sum(a.nbytes for a in graph.weights.values()))
        moved, cycles, macs = (float(sum(getattr(p, what) for p in plans)) for what in ("bytes", "cycles", "macs"))
        dtype, density = ("f32", 1.0) if edited is None else (edited.dtype, edited.density)
        if density < 1:
            weights = layer.weight.nbytes
            kept = density * (weights + _PLACE * layer.weight.size)
            stored, moved = stored - weights + kept, moved - weights + kept
            cycles = sum(self._sparse(p, density) if p.macs else p.cycles for p in plans)
        return Cost(predicted_us(self.isa, cycles), stored, energy(macs * density, stored, dtype, TABLE, sram=moved).value)

    def _sparse(self, plan: KernelPlan, density: float) -> float:
        """The cycles of a kernel that leaves zeros out, taken from the dense one."""
        weights = traffic([a for a in plan.args if a.role in ("weight", "prepared")])
        each = (_REAL + _PLACE) / _REAL
        return kernel_cycles(self.isa, 0, plan.bytes - weights, computing=plan.computing * density * _SCATTERED[self.isa.broadcast],
                             weights=weights * density * each, passes=plan.passes, footprint=self.footprint)


def _plans(graph: Graph, target: Target, isa: Isa, footprint: float) -> Iterator[KernelPlan]:
    """The kernels of a layer alone, as its values will probably lie in the net, whose weights are so many bytes."""
    cluster = access.module("passes.cluster")
    made = run_passes(graph, _KERNELS, access.module("passes.catalog").CATALOG, Context(target))
    operands = replace(Operands.of(made.weights, lambda v: cluster.assumed_view(v, isa)), footprint=footprint)
    for node in made.nodes:
        known = all(v in made.weights for v in node.inputs)
        if known or node.op in cluster.VIEWS or _is_border(node, made):
            continue
        found = plan(node, isa, operands)
        if isinstance(found, str):
            raise UnsupportedModel(f"no kernel can be made for {node.label}: {found}", [node.label])
        yield found.plan


def _closed(graph: Graph) -> Graph:
    """The graph of a quantized layer whose result is stored in bytes too, as most are in a net."""
    real = graph.outputs[0]
    scale, zero = Value(f"{real.name}.scale", Tensor("f32", ())), Value(f"{real.name}.zero", Tensor("i8", ()))
    stored = Value(f"{real.name}.i8", Tensor("i8", real.dims))
    nodes = (*graph.nodes, Node("QuantizeLinear", (real, scale, zero), (stored,)))
    weights = {**graph.weights, scale: np.array(1, np.float32), zero: np.array(0, np.int8)}
    return replace(graph, nodes=nodes, weights=weights, outputs=(stored,))


def _is_border(node: Node, graph: Graph) -> bool:
    """Whether a kernel makes bytes of what the layer reads, which in a net comes in bytes."""
    nodes = node.attrs["body"].nodes if node.op == "edgec.Fused" else (node,)
    return node.inputs[0] in graph.inputs and all(n.op in ("QuantizeLinear", "Cast", "BitwiseXor") for n in nodes)
