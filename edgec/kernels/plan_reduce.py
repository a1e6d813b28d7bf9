"""How a reduction, softmax or normalization becomes one kernel."""

from collections.abc import Mapping
from typing import Any

from edgec.ir.graph import Node
from edgec.isa import Isa
from edgec.kernels.base import Epilogue, Operands, Planned, loads_of
from edgec.kernels.expr import Expr
from edgec.kernels.reduce import NORMALIZATIONS, REDUCTIONS, plan_reduce
from edgec.kernels.region import Region

OPERATORS = frozenset({*REDUCTIONS, *NORMALIZATIONS})
_AXES_INPUT = frozenset(op for op in REDUCTIONS if op.startswith("Reduce")) | {"CumSum"}


def reduction(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """Any operator of OPERATORS, whatever layout its operand lies in."""
    node = region.anchor
    if node is None or region.anchor_output is None or region.anchor_inputs[0] is None:
        return "nothing to reduce"
    attrs = _attributes(node, region, operands)
    if isinstance(attrs, str):
        return attrs
    source = region.anchor_inputs[0]
    params = [v for v in region.anchor_inputs[1:] if v is not None] if node.op not in _AXES_INPUT else []
    inputs = (source, *params, *region.operands)
    loads = loads_of(region.operands, 1 + len(params), operands, region.result.dims)
    views, dtypes = [operands.view(v) for v in (source, *params)], [*(v.tensor.dtype for v in inputs), region.result.dtype]
    prologue, epilogue = Expr((source.tensor.dtype,)), Epilogue(region.expr, loads)
    made = plan_reduce(node.op, attrs, views, operands.view(region.output), dtypes, isa, prologue, epilogue)
    return made if isinstance(made, str) else Planned(made, inputs)


def _attributes(node: Node, region: Region, operands: Operands) -> Mapping[str, Any] | str:
    """The attributes, with axes that ONNX gives as an operand among them."""
    given = region.anchor_inputs[1] if len(region.anchor_inputs) > 1 and node.op in _AXES_INPUT else None
    if given is None:
        return {**node.attrs, "axes": []} if node.op in _AXES_INPUT and "axes" not in node.attrs else node.attrs
    axes = operands.ints(given)
    if axes is None:
        return f"the axes of {node.op} are not known when the model is built"
    if not axes and node.attrs.get("noop_with_empty_axes"):
        return f"{node.op} of no axes"
    return {**node.attrs, "axes": list(axes), **({"axis": axes[0]} if node.op == "CumSum" else {})}
