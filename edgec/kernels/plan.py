"""Can this region be ONE kernel on this unit, and how? Pure: no TVM, no weight values.

`plan(node, isa, operands)` answers a `Planned` or a sentence that says why not.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from edgec.ir.graph import Array, Node, Value
from edgec.ir.layout import View
from edgec.ir.types import Tensor
from edgec.isa import Device, Gpu, Isa, Npu
from edgec.kernels import (
    command,
    contract,
    depth,
    dot,
    pad,
    plan_attention,
    plan_contract,
    plan_dot,
    plan_gather,
    plan_generic,
    plan_map,
    plan_recurrent,
    plan_reduce,
    plan_resize,
    plan_separable,
    plan_window,
    plan_winograd,
    plan_winograd_dot,
    recurrent,
    separable,
    window,
    winograd,
    winograd_dot,
)
from edgec.kernels.base import KernelPlan, Operands, Planned, timed
from edgec.kernels.gpu import plan as gpu_plan
from edgec.kernels.region import Region, region, unscaled

_LEAST = np.float32(2.0**-126)   # the smallest normal number
_PART = 1 << 16                  # elements that stay in a cache while they are looked through
_Planner = Callable[[Region, Isa, Operands], Planned | str]
_ANCHORS: Mapping[str, _Planner] = {
    "Conv": plan_winograd.convolution, "ConvTranspose": plan_contract.convolution,
    **dict.fromkeys(("MatMul", "Gemm"), plan_contract.product),
    "ConvInteger": plan_winograd_dot.convolution, "MatMulInteger": plan_dot.product,
    **dict.fromkeys(("MaxPool", "AveragePool", "edgec.SumPool"), plan_window.pool), "Pad": pad.pad, "Resize": plan_resize.resize,
    "edgec.Lookup": plan_map.lookup,
    **dict.fromkeys(plan_reduce.OPERATORS, plan_reduce.reduction),
    **dict.fromkeys(plan_gather.GATHERS | plan_gather.SCATTERS, plan_gather.gather),
}
ALONE = plan_recurrent.OPERATORS
"""Operators that are a kernel by themselves: nothing is fused behind them."""


def unknown(node: Node) -> str | None:
    """Which value of a node is no tensor of a known shape, so that nothing can be planned for it; None when all are."""
    for v in (*node.inputs, *node.outputs):
        if v is not None and not (isinstance(v.type, Tensor) and v.type.is_static):
            return f"the shape of %{v.name} is not known" if isinstance(v.type, Tensor) else f"%{v.name} is no tensor"
    return None


def plan(node: Node, isa: Isa, operands: Operands) -> Planned | str:
    """A kernel for a node (fused or not), or the reason why there is none; TVM's for a plain node that no kernel of our own takes."""
    if reason := unknown(node):
        return reason
    if isinstance(isa, Npu):
        return command.commands(node, isa, operands)
    if isinstance(isa, Gpu):
        return gpu_plan.plan(node, isa, operands)
    if isinstance(isa, Device):
        return f"no kernel is written for a unit that is driven through {isa.driver}"
    made = _own(node, isa, operands)
    if isinstance(made, str) and node.op in plan_generic.TABLE:
        generic = plan_generic.generic(node, isa, operands)
        made = f"{made}; through TVM: {generic}" if isinstance(generic, str) else generic
    return made if isinstance(made, str) else _timed(made, operands.footprint)


def _timed(made: Planned, footprint: float) -> Planned:
    return replace(made, plan=timed(made.plan, footprint))


def copy(source: Value, read: View, write: View, isa: Isa) -> Planned | str:
    """A kernel that moves elements from one place and layout to another, or the reason why there is none."""
    if isinstance(isa, Gpu):
        return gpu_plan.copy(source, read, write, isa)
    if isinstance(isa, Device):
        return f"no copy is written for a unit that is driven through {isa.driver}"
    made = plan_map.copy(source, read, write, isa)
    return made if isinstance(made, str) else _timed(made, 0)


def why_generic(node: Node, isa: Isa, operands: Operands) -> str | None:
    """Why no kernel of our own takes a node, so that it is TVM's or nobody's; None when one does."""
    made = _own(node, isa, operands)
    return made if isinstance(made, str) else None


def _own(node: Node, isa: Isa, operands: Operands) -> Planned | str:
    if node.op in ALONE:
        return plan_recurrent.recurrent(node, isa, operands)
    if node.op == "edgec.Fused" and node.attrs["kind"] == plan_attention.KIND:
        return plan_attention.attention(node, isa, operands)
    if node.op == "edgec.Fused" and node.attrs["kind"] == plan_separable.KIND:
        return plan_separable.separable(node, isa, operands)
    what = region(node)
    if isinstance(what, str):
        return what
    what = unscaled(what, operands.floats)
    if what.anchor is None:
        return plan_map.elementwise(what, isa, operands)
    if what.anchor.op in _ANCHORS:
        return _ANCHORS[what.anchor.op](what, isa, operands)
    return f"no kernel is written for {what.anchor.op}"


def packed(plan: KernelPlan, arg: int, array: Array) -> Array:
    """A constant operand as the kernel reads it: flat, in the storage dtype it came in. Denormal weights are zero there."""
    if isinstance(plan, gpu_plan.GpuPlan):
        return gpu_plan.packed(plan, arg, array)
    made = _packed(plan, arg, array).reshape(-1)
    return _normal(made) if plan.args[arg].role == "weight" else made


def _packed(plan: KernelPlan, arg: int, array: Array) -> Array:
    """Weights in the order in which the kernel reads them, any other operand as it is."""
    if isinstance(plan, contract.ContractPlan) and arg == 1 and plan.w is None:
        return contract.pack(plan, array)
    if isinstance(plan, dot.DotPlan) and arg == 1:
        return dot.pack(plan, array)
    if isinstance(plan, depth.DepthPlan) and arg == 1:
        return depth.pack(plan, array)
    if isinstance(plan, window.WindowPlan) and arg == 1 and plan.op == "depthwise":
        return window.pack(plan, array)
    if isinstance(plan, separable.SeparablePlan):
        return separable.pack(plan, arg, array)
    if isinstance(plan, winograd.FiltersPlan):
        return winograd.pack(plan, winograd_dot.paired(array) if plan.args[0].dtype == "i8" else array)
    if isinstance(plan, winograd_dot.DotWinogradPlan) and arg == 1:
        return winograd_dot.filters(plan, array)
    if isinstance(plan, winograd.WinogradPlan) and arg == 1:
        return winograd.filters(plan, array)
    if isinstance(plan, recurrent.RecurrentPlan):
        return recurrent.pack(plan, arg, array)
    return array


def _normal(array: Array) -> Array:
    """An array of f32 without denormal numbers.

    Channels that training has switched off are full of them. What they contribute to a sum is below 2^-126 times an input, or below
    2^-126, and cores of Intel take some 150 cycles for each operation on them.
    """
    if array.dtype != np.float32:
        return array
    made = None
    for start in range(0, array.size, _PART):
        size = np.abs(array[start:start + _PART])
        denormal = (size < _LEAST) & (size > 0)
        if denormal.any():
            made = array.copy() if made is None else made
            made[start:start + _PART][denormal] = 0
    return array if made is None else made


__all__ = ["ALONE", "Isa", "Operands", "Planned", "Value", "View", "copy", "packed", "plan", "unknown", "why_generic"]
