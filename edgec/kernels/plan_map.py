"""How an elementwise region, or a copy between layouts, becomes one map kernel."""

from collections.abc import Sequence
from dataclasses import replace

from edgec.ir.graph import Value
from edgec.ir.layout import View
from edgec.ir.types import Tensor
from edgec.isa import Isa
from edgec.kernels.base import Arg, Operands, Planned, broadcast, extent, traffic
from edgec.kernels.expr import Expr
from edgec.kernels.functions import BYTES, refusal
from edgec.kernels.map import Loop, MapPlan, nest, task_rows
from edgec.kernels.region import Region

_ENTRIES = 256
_SIMPLE = 4.0       # cycles of a plain operation on a vector
_WORK = {"Pow": 60.0, **dict.fromkeys(("Exp", "Log", "Sigmoid", "Tanh", "Erf", "Elu", "Selu", "Celu", "Swish"), 25.0),
         **dict.fromkeys(("Gelu", "Mish", "Softplus", "Sin", "Cos"), 40.0), "Div": 16.0, "Sqrt": 16.0}
"""Cycles of those that take longer: Pow was measured, the others are as many times its instructions."""
_APART, _NEAR = 2.3, (0.5, 1.2)
"""Cycles to fetch or store one element alone; where a row has no more elements than a vector, which LLVM reads side by side, in a copy and
between operations. Measured on Zen 4: copies of 64 to 256 channels between rows and blocks, and the maps of LRN."""


def elementwise(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """A region without an anchor."""
    shape = region.result.dims
    views = [broadcast(operands.view(v), shape) for v in region.operands]
    return mapped(region.expr, region.operands, views, (region.output, operands.view(region.output)), isa)


def lookup(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """edgec.Lookup: a table of 256 entries for each byte. What follows is computed on the entries."""
    if region.anchor is None or region.anchor_output is None:
        return "nothing to look up"
    x, table = region.anchor_inputs
    if x is None or table is None or x.tensor.dtype not in BYTES or table.tensor.elements != _ENTRIES:
        return "a table is written for the 256 values of a byte"
    if reason := refusal(region.expr):
        return reason
    shape = region.result.dims
    views = [broadcast(operands.view(v), shape) for v in (x, *region.operands)]
    made = mapped(region.expr, (x, *region.operands), views, (region.output, operands.view(region.output)), isa, "lookup")
    if isinstance(made, str) or not isinstance(made.plan, MapPlan):
        return made
    plan = made.plan
    args = (plan.args[0], Arg("input", table.tensor.dtype, _ENTRIES), *plan.args[1:])
    loops = tuple(Loop(it.extent, (it.strides[0], 0, *it.strides[1:])) for it in plan.loops)
    computing = plan.computing + 1.5 * region.result.elements
    return Planned(replace(plan, args=args, loops=loops, table=_ENTRIES, computing=computing), (x, table, *region.operands))


def _element(expr: Expr, isa: Isa, inner: Loop) -> float:
    """The cycles of one element. Operands whose neighbors lie apart are gathered one by one."""
    computed = (1 + sum(_WORK.get(i.op, _SIMPLE) for i in expr.instrs)) / isa.lanes
    alone = _NEAR[bool(expr.instrs)] if inner.extent <= isa.lanes else _APART
    apart = sum(abs(stride) > 1 for stride in inner.strides) * alone
    return computed + (apart if isa.lanes > 1 else 0.0)


def copy(source: Value, read: View, write: View, isa: Isa) -> Planned | str:
    """Elements of a tensor moved from one place and layout to another; both views have one shape."""
    output = Value("copy", Tensor(source.tensor.dtype, write.shape))
    return mapped(Expr((source.tensor.dtype,)), (source,), (read,), (output, write), isa, "copy")


def mapped(expr: Expr, inputs: Sequence[Value], views: Sequence[View], output: tuple[Value, View], isa: Isa,
           name: str = "map") -> Planned | str:
    """The plan of an expression over the index space of an output."""
    value, out = output
    if "string" in expr.arguments or any(v.tensor.dtype.startswith("c") for v in inputs):
        return f"no kernel computes on {', '.join(sorted(set(expr.arguments)))}"
    if not value.tensor.elements:
        return "there is nothing to compute"
    if reason := refusal(expr):
        return reason
    try:
        loops = nest([*views, out])
    except ValueError as error:
        return str(error)
    rows = task_rows(loops, isa.lanes)
    read = (Arg("input", v.tensor.dtype, extent(view)) for v, view in zip(inputs, views, strict=True))
    args = (*read, Arg("output", value.tensor.dtype, extent(out)))
    moved = traffic(args)
    work = value.tensor.elements * _element(expr, isa, loops[-1])
    plan = MapPlan(isa, args, -(-loops[0].extent // rows), loops=loops, rows=rows, expr=expr, name=name, bytes=moved,
                   computing=max(work, moved / max(1.0, isa.l2_bytes_per_cycle or 16.0)))
    return Planned(plan, tuple(inputs))
