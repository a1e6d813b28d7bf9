"""Can this region be ONE kernel of a GPU, and how? The shared planners say what is computed; here it is shared out to work items."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from edgec.ir.graph import Array, Node, Value
from edgec.ir.layout import View
from edgec.isa import Gpu
from edgec.kernels import pad, plan_contract, plan_map, plan_reduce, plan_resize, plan_window
from edgec.kernels.base import Epilogue, KernelPlan, Operands, Planned
from edgec.kernels.contract import ContractPlan, oihw
from edgec.kernels.expr import Expr
from edgec.kernels.functions import FLOATS
from edgec.kernels.gpu.functions import why_not
from edgec.kernels.gpu.writer import contiguous
from edgec.kernels.map import MapPlan
from edgec.kernels.pad import PadPlan
from edgec.kernels.reduce import ReducePlan
from edgec.kernels.region import Region, region
from edgec.kernels.resize import ResizePlan
from edgec.kernels.window import WindowPlan

QUAD = 4
"""Channels of one work item."""
SLICES = 8
"""Work items that share the sum of a product with one row."""
_LONG_SUM = 256
"""Products of one row from which its sum is shared."""
_LONG_ROW, _FEW_ROWS = 128, 1024
"""A group shares a row when it is at least so long, and there are fewer of them than this."""
_KEPT_BUSY = 2
"""Work items for each multiply-accumulate that the GPU starts in a cycle: with fewer it waits for memory. A placeholder."""
_COLUMNS = (8, 4, 2, 1)
_Planner = Callable[[Region, Gpu, Operands], Planned | str]
_ANCHORS: Mapping[str, _Planner] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), plan_contract.convolution), **dict.fromkeys(("MatMul", "Gemm"), plan_contract.product),
    "MaxPool": plan_window.pool, "AveragePool": plan_window.pool, "Pad": pad.pad, "Resize": plan_resize.resize,
    **dict.fromkeys(plan_reduce.OPERATORS, plan_reduce.reduction),
}
_STORED = frozenset({"f32", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64", "bool"})
_REDUCTIONS = frozenset({"sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square", "log_sum", "log_sum_exp", "arg_max", "arg_min",
                         "softmax", "log_softmax", "normalize", "rms", "lp"})


@dataclass(frozen=True)
class GpuPlan(KernelPlan):
    """`nest` says what is computed and where everything lies. `items` work items do it; a task is a group of them.

    A contraction gives an item `columns` columns of QUAD channels. `team` items share the sum of a row: one, or more with barriers
    between them. `wide` items take four neighboring elements at once.
    """

    nest: KernelPlan
    items: int
    columns: int = 1
    team: int = 1
    wide: bool = False

    @property
    def group(self) -> int:
        """Work items of a group."""
        return self.items // self.tasks if self.team > 1 else getattr(self.isa, "group", 1)

    @property
    def kind(self) -> str:                                     # type: ignore[override]
        """That of the nest."""
        return self.nest.kind

    @property
    def algo(self) -> str:
        """The algorithm, with its tile."""
        match self.nest:
            case ContractPlan(name=name):
                return f"{name}_shared_{self.team}" if self.team > 1 else f"{name}_{self.columns}x{QUAD}"
            case WindowPlan(op=op) | ReducePlan(op=op):
                return op + (f"_shared_{self.team}" if self.team > 1 else "")
            case _:
                return self.nest.algo.partition("_")[0]


def plan(node: Node, gpu: Gpu, operands: Operands) -> Planned | str:
    """A kernel for a node (fused or not), or the reason why there is none."""
    what = region(node)
    if isinstance(what, str):
        return what
    if what.anchor is None:
        made = plan_map.elementwise(what, gpu, operands)
    elif what.anchor.op in _ANCHORS:
        made = _ANCHORS[what.anchor.op](what, gpu, operands)
    else:
        return f"no kernel of a GPU is written for {what.anchor.op}"
    return _shared_out(made, gpu)


def copy(source: Value, read: View, write: View, gpu: Gpu) -> Planned | str:
    """A kernel that moves elements from one place and layout to another, or the reason why there is none."""
    return _shared_out(plan_map.copy(source, read, write, gpu), gpu)


def _shared_out(planned: Planned | str, gpu: Gpu) -> Planned | str:
    """The same on a GPU, or why it cannot be."""
    if isinstance(planned, str):
        return planned
    made = share(planned.plan, gpu)
    return made if isinstance(made, str) else replace(planned, plan=made)


def share(nest: KernelPlan, gpu: Gpu) -> GpuPlan | str:
    """What a plan computes, shared out to the work items of a GPU; or why it cannot be."""
    if nest.args[-1].dtype not in _STORED or any(a.dtype == "f64" for a in nest.args):
        return f"no kernel of a GPU computes {nest.args[-1].dtype}"
    for expr in _expressions(nest):
        if reason := why_not(expr):
            return reason
    made = _items(nest, gpu)
    if isinstance(made, str):
        return made
    cycles = max(nest.macs / (gpu.macs_per_cycle * gpu.efficiency), nest.bytes / max(1e-9, gpu.dram_bytes_per_cycle)) + gpu.launch_cycles
    return replace(made, macs=nest.macs, bytes=nest.bytes, cycles=cycles)


def _expressions(nest: KernelPlan) -> list[Expr]:
    parts = [getattr(nest, name, None) for name in ("expr", "prologue", "epilogue")]
    return [p.expr if isinstance(p, Epilogue) else p for p in parts if isinstance(p, Expr | Epilogue)]


def _items(nest: KernelPlan, gpu: Gpu) -> GpuPlan | str:
    match nest:
        case ContractPlan():
            return _contraction(nest, gpu)
        case WindowPlan() if nest.args[0].dtype not in FLOATS:
            return f"{nest.op} of integers is not written for GPUs"
        case WindowPlan():
            wide = all(contiguous(v.axes[1], v.axes[1].extent) for v in (nest.x, nest.y))
            return _made(nest, gpu, prod(nest.y.shape) // (QUAD if wide else 1), wide=wide)
        case MapPlan():
            last = nest.loops[-1]
            wide = last.extent % QUAD == 0 and last.strides[-1] == 1 and all(s in (0, 1) for s in last.strides)
            return _made(nest, gpu, prod(it.extent for it in nest.loops) // (QUAD if wide else 1), wide=wide)
        case ReducePlan():
            return _reduction(nest, gpu)
        case PadPlan():
            return _made(nest, gpu, prod(nest.y.shape))
        case ResizePlan(mode="nearest" | "linear"):
            inner = nest.inner.extent if nest.inner is not None else 1
            return _made(nest, gpu, prod(it.extent for it in nest.outer) * prod(a.size for a in nest.axes) * inner)
        case _:
            return f"no kernel of a GPU is written for {nest.algo}"


def _made(nest: KernelPlan, gpu: Gpu, items: int, *, team: int = 1, wide: bool = False) -> GpuPlan:
    return GpuPlan(gpu, nest.args, -(-items // gpu.group), nest=nest, items=items, team=team, wide=wide)


def _contraction(nest: ContractPlan, gpu: Gpu) -> GpuPlan | str:
    if nest.args[0].dtype not in FLOATS or nest.args[1].dtype not in {*FLOATS, "i8", "u8"}:
        return "integer products are not written for GPUs"
    n, quads = nest.y.axes[0].extent, -(-nest.out_channels // QUAD) * nest.groups
    rows = n * sum(t.out_count for t in nest.ys)
    one = rows == 1 and nest.groups == 1 and nest.kernel == (1, 1) and len(nest.xs) == 1 and nest.xs[0].out_count == 1
    args = nest.args
    if nest.w is None:
        taps = nest.kernel[0] * nest.kernel[1]
        packed = replace(args[1], elements=quads * QUAD * nest.in_channels * taps)
        args = (args[0], packed, *args[2:])
    if one and nest.w is None and nest.in_channels >= _LONG_SUM and gpu.group % SLICES == 0:
        items = -(-quads // (gpu.group // SLICES)) * gpu.group
        return GpuPlan(gpu, args, items // gpu.group, nest=nest, items=items, team=SLICES)
    tiles = {c: quads * rows * sum(-(-t.out_count // c) for t in nest.xs) for c in _COLUMNS}
    busy = [c for c in _COLUMNS if tiles[c] >= _KEPT_BUSY * gpu.macs_per_cycle] or [1]
    columns = min(busy, key=lambda c: (tiles[c] * (c * QUAD + 2 * (c + QUAD)), -c))    # multiplications, and loads twice as dear
    return GpuPlan(gpu, args, -(-tiles[columns] // gpu.group), nest=nest, items=tiles[columns], columns=columns)


def _reduction(nest: ReducePlan, gpu: Gpu) -> GpuPlan | str:
    if nest.op not in _REDUCTIONS:
        return f"no kernel of a GPU is written for {nest.op}"
    if nest.prologue.dtype(nest.prologue.results[0]) not in FLOATS:
        return f"{nest.op} of integers is not written for GPUs"
    rows = prod(it.extent for it in nest.kept)
    if nest.size >= _LONG_ROW and rows < _FEW_ROWS and not nest.op.startswith("arg") and gpu.group & (gpu.group - 1) == 0:
        return _made(nest, gpu, rows * gpu.group, team=gpu.group)
    return _made(nest, gpu, rows)


def packed(plan: GpuPlan, arg: int, array: Array) -> Array:
    """A constant operand as the kernel reads it: flat; weights of convolutions by [group][ky][kx][channel][output channel]."""
    nest = plan.nest
    if arg == 1 and isinstance(nest, ContractPlan) and nest.w is None:
        weight = oihw(nest, array).reshape(nest.groups, nest.out_channels, nest.in_channels, *nest.kernel)
        room = -(-nest.out_channels // QUAD) * QUAD
        made = np.zeros((nest.groups, *nest.kernel, nest.in_channels, room), array.dtype)
        made[..., :nest.out_channels] = weight.transpose(0, 3, 4, 2, 1)
        return made.reshape(-1)
    if arg == 1 and isinstance(nest, WindowPlan) and nest.op == "depthwise":
        return np.ascontiguousarray(np.moveaxis(array[:, 0], 0, -1)).reshape(-1)
    return array.reshape(-1)


__all__ = ["GpuPlan", "copy", "packed", "plan"]
