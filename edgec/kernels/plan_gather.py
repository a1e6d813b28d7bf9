"""How Gather, Scatter and their kin become one kernel."""

from edgec.isa import Isa
from edgec.kernels.base import Epilogue, Operands, Planned, loads_of
from edgec.kernels.gather import plan_gather, plan_scatter
from edgec.kernels.region import Region

GATHERS = frozenset({"Gather", "GatherElements", "GatherND"})
SCATTERS = frozenset({"ScatterElements", "ScatterND"})


def gather(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """Any operator of GATHERS (data, indices) or SCATTERS (data, indices, updates)."""
    node = region.anchor
    inputs = [v for v in region.anchor_inputs if v is not None]
    if node is None or len(inputs) != len(region.anchor_inputs):
        return "an operand is absent"
    views = [operands.view(v) for v in inputs]
    if node.op in SCATTERS:
        if region.expr.instrs:
            return f"nothing is fused behind {node.op}"
        dtypes = [v.tensor.dtype for v in (*inputs, region.output)]
        made = plan_scatter(node.op, node.attrs, views, operands.view(region.output), dtypes, isa)
        return made if isinstance(made, str) else Planned(made, tuple(inputs))
    loads = loads_of(region.operands, len(inputs), operands, region.result.dims)
    dtypes = [v.tensor.dtype for v in (*inputs, *region.operands, region.output)]
    made = plan_gather(node.op, node.attrs, views, operands.view(region.output), dtypes, isa, Epilogue(region.expr, loads))
    return made if isinstance(made, str) else Planned(made, (*inputs, *region.operands))
