"""Plans for reductions and normalizations: everything whose element needs a whole row, from ReduceSum to Softmax and LayerNormalization.

A row is the set of elements that are reduced together; `kept` loops choose a row, `reduced` loops walk along it. Vectors lie either
along the row (`along`), whose lanes are folded at the end, or across `group` vectors of neighboring rows. The order in which elements
meet depends on shapes and layouts alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels.base import Arg, Epilogue, KernelPlan, broadcast, extent, traffic
from edgec.kernels.expr import Expr
from edgec.kernels.functions import FLOATS, INTEGERS, refusal
from edgec.kernels.map import Loop, split

_TASK = 16384
"""Elements that are worth handing to another thread."""

REDUCTIONS: Mapping[str, str] = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod", "ReduceL1": "l1",
    "ReduceL2": "l2", "ReduceSumSquare": "sum_square", "ReduceLogSum": "log_sum", "ReduceLogSumExp": "log_sum_exp",
    "GlobalAveragePool": "mean", "GlobalMaxPool": "max", "ArgMax": "arg_max", "ArgMin": "arg_min",
}
"""Operators with one result a row."""
NORMALIZATIONS: Mapping[str, str] = {
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "LayerNormalization": "normalize", "InstanceNormalization": "normalize",
    "GroupNormalization": "normalize", "RMSNormalization": "rms", "com.microsoft.SimplifiedLayerNormalization": "rms",
    "SimplifiedLayerNormalization": "rms", "LpNormalization": "lp", "CumSum": "cumsum",
}
"""Operators with one result an element."""
_OF_INTEGERS = frozenset({"sum", "max", "min", "prod", "l1", "sum_square", "arg_max", "arg_min", "cumsum"})


@dataclass(frozen=True)
class ReducePlan(KernelPlan):
    """args: operands of the prologue, `params` parameters (scale, bias), operands of the epilogue, output.

    Strides of a loop are those of the arguments, then that of the logical index along the reduced axis. The last loop of `reduced`
    (`along`) or of `kept` is vectorized. A unit is one row, or one group of vectors of rows; a task runs `rows` units.
    `eps`, `order` and `flags` are the operator's: epsilon, p of a norm, and words: reverse, exclusive, last.
    """

    op: str
    kept: tuple[Loop, ...]
    reduced: tuple[Loop, ...]
    along: bool
    group: int
    rows: int
    prologue: Expr
    params: int
    epilogue: Expr
    eps: float = 0.0
    order: int = 2
    flags: tuple[str, ...] = ()

    kind = "reduce"

    @property
    def algo(self) -> str:
        """The operation, and where its vectors lie."""
        return f"{self.op}_{'along' if self.along else f'across_{self.group}'}"

    @property
    def size(self) -> int:
        """Elements of a row."""
        return prod(it.extent for it in self.reduced)

    @property
    def units(self) -> int:
        """Rows, or groups of rows, in all."""
        return units_of(self.kept, self.isa.lanes, self.group, along=self.along)


def plan_reduce(op: str, attrs: Mapping[str, Any], in_views: Sequence[View], out_view: View, dtypes: Sequence[str], isa: Isa,
                prologue: Expr | None = None, epilogue: Epilogue | None = None) -> ReducePlan | str:
    """The plan of an operator of REDUCTIONS or NORMALIZATIONS, or the reason why there is none.

    `in_views`: the operands of the prologue as seen from the input's index space, then the operator's own parameters as ONNX has them.
    The epilogue's loads are seen from the output's index space and follow in the order of arguments. `dtypes`: of all of these, and the
    output's. Axes are the attribute `axes` or `axis`; without one all axes are reduced.
    """
    prologue = prologue or Expr((dtypes[0],))
    inputs = len(prologue.arguments)
    kind = REDUCTIONS.get(op) or NORMALIZATIONS.get(op)
    if kind is None:
        return f"{op} is no reduction"
    computed = prologue.dtype(prologue.results[0])
    if computed not in FLOATS and not (computed in INTEGERS and kind in _OF_INTEGERS):
        return f"{op} is not written for {computed}"
    epilogue = epilogue or Epilogue(Expr((result_dtype(kind, computed),)))
    for expr in (prologue, epilogue.expr):
        if reason := refusal(expr):
            return reason
    shape = in_views[0].shape
    if not prod(shape) or not shape:
        return f"{op} of nothing is not written" if shape else f"{op} of a scalar is not written"
    axes = _axes(op, attrs, len(shape))
    if kind in ("arg_max", "arg_min", "cumsum") and len(axes) != 1:
        return f"{op} needs one axis"
    params = _parameters(op, in_views[inputs:], shape, axes)
    if isinstance(params, str):
        return params
    views = [*in_views[:inputs], *params, *(load.view for load in epilogue.loads), out_view]
    if op in REDUCTIONS:                                               # seen from the input, with nothing to move along reduced axes
        views[inputs:] = [_stretched(v, shape, axes) for v in views[inputs:]]
    if op == "GroupNormalization":
        cut = [_grouped(v, int(attrs["num_groups"])) for v in views]
        if any(v is None for v in cut):
            return f"{op} over groups that split a block of the layout is not written"
        views, axes = [v for v in cut if v is not None], tuple(range(2, len(shape) + 1))
    return _assemble(kind, attrs, views, axes, dtypes, isa, (prologue, len(params), epilogue.expr))


def result_dtype(kind: str, computed: str) -> str:
    """The dtype of what the epilogue gets."""
    return "i64" if kind.startswith("arg") else computed


def units_of(kept: Sequence[Loop], lanes: int, group: int, *, along: bool) -> int:
    """How many rows there are, or groups of `group` vectors of rows."""
    if along:
        return prod(it.extent for it in kept)
    return prod(it.extent for it in kept[:-1]) * -(-kept[-1].extent // (lanes * group))


def _assemble(kind: str, attrs: Mapping[str, Any], views: Sequence[View], axes: tuple[int, ...], dtypes: Sequence[str], isa: Isa,
              exprs: tuple[Expr, int, Expr]) -> ReducePlan | str:
    ordered = len(axes) == 1                                           # elements of a single axis meet in their logical order
    index = View(tuple(Axis(n, 1 if ordered and a in axes else 0) for a, n in enumerate(views[0].shape)))
    try:
        kept = _loops([*views, index], [a for a in range(len(index.axes)) if a not in axes], len(views) - 1)
        reduced = _loops([*views, index], axes, None if ordered else 0)
    except ValueError as error:
        return str(error)
    size = prod(it.extent for it in reduced)
    along = _along(kind, kept, reduced, isa.lanes)
    if along and not ordered:
        reduced = _last(reduced, 0)
    if not along:
        kept = _last(kept, 0)
    group = 1 if along else max(1, min(4, kept[-1].extent // isa.lanes))
    units = units_of(kept, isa.lanes, group, along=along)
    rows = max(1, _TASK // (size * (1 if along else isa.lanes * group)))
    inputs = [Arg("input", d, extent(v)) for d, v in zip(dtypes[:-1], views[:-1], strict=True)]
    args = (*inputs, Arg("output", dtypes[-1], extent(views[-1])))
    prologue, params, epilogue = exprs
    elements = size * prod(it.extent for it in kept)
    moved, work = traffic(args), 4 + len(prologue.instrs) + 20 * (kind in ("softmax", "log_softmax", "log_sum_exp"))
    flags = tuple(word for word in ("exclusive", "reverse") if attrs.get(word)) + (("last",) if attrs.get("select_last_index") else ())
    default_eps = {"normalize": 1e-5, "rms": 1e-5}.get(kind, 0.0)
    return ReducePlan(
        isa, args, -(-units // rows), op=kind, kept=kept, reduced=reduced, along=along, group=group, rows=rows, prologue=prologue,
        params=params, epilogue=epilogue, eps=float(attrs.get("epsilon", default_eps)), order=int(attrs.get("p", 2)), flags=flags,
        bytes=moved, computing=max(elements * work / isa.lanes, moved / max(1.0, isa.l2_bytes_per_cycle or 16.0)))


def _axes(op: str, attrs: Mapping[str, Any], rank: int) -> tuple[int, ...]:
    if op in ("GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization", "GroupNormalization"):
        return tuple(range(2, rank))
    if op in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "com.microsoft.SimplifiedLayerNormalization"):
        return tuple(range(int(attrs.get("axis", -1)) % rank, rank))
    if op.startswith("Reduce"):
        given = attrs.get("axes")
        return tuple(sorted({int(a) % rank for a in given})) if given is not None and len(given) else tuple(range(rank))
    return (int(attrs.get("axis", 0 if op.startswith("Arg") else -1)) % rank,)


def _parameters(op: str, given: Sequence[View], shape: tuple[int, ...], axes: Sequence[int]) -> tuple[View, ...] | str:
    """Scale and bias as seen from the input's index space."""
    if op in ("InstanceNormalization", "GroupNormalization"):
        one = [Axis(n, 0) for n in shape]
        if any(v.shape != (shape[1],) for v in given):
            return f"{op} needs a scale and a bias for each channel"
        return tuple(View((one[0], v.axes[0], *one[2:])) for v in given)
    if given and not op.endswith(("LayerNormalization", "RMSNormalization")):
        return f"{op} takes no parameters"
    if any(len(v.shape) > len(axes) for v in given):
        return f"{op} needs a scale of the shape of the normalized axes"
    return tuple(broadcast(v, shape) for v in given)


def _stretched(view: View, shape: tuple[int, ...], axes: Sequence[int]) -> View:
    """A view of the output (with the reduced axes or without) as seen from the input's index space."""
    axes_of_view, whole = iter(view.axes), len(view.axes) == len(shape)
    made = []
    for a, n in enumerate(shape):
        axis = next(axes_of_view) if whole or a not in axes else None
        made.append(Axis(n, 0) if a in axes or axis is None else axis)
    return View(tuple(made))


def _grouped(view: View, groups: int) -> View | None:
    """A view [n, c, …] as [n, groups, c/groups, …]; None when a group is no whole number of blocks."""
    axis = view.axes[1]
    size, odd = divmod(axis.extent, groups)
    if odd or (axis.block and axis.block < axis.extent and size % axis.block):
        return None
    if axis.block and axis.block < axis.extent:
        cut = (Axis(groups, size // axis.block * axis.stride), Axis(size, axis.stride, axis.block, axis.inner))
    else:
        step = axis.inner if axis.block else axis.stride
        cut = (Axis(groups, size * step), Axis(size, step))
    return View((view.axes[0], *cut, *view.axes[2:]))


def _loops(views: Sequence[View], axes: Sequence[int], by: int | None) -> tuple[Loop, ...]:
    """The loops over some axes, merged where all operands allow it; sorted by the strides of operand `by`, or in logical order."""
    loops = [Loop(n, s) for a in axes for n, s in split([v.axes[a] for v in views]) if n != 1]
    if by is not None:
        loops.sort(key=lambda it: -abs(it.strides[by]))
    merged: list[Loop] = []
    for it in loops:
        if merged and all(a == b * it.extent for a, b in zip(merged[-1].strides, it.strides, strict=True)):
            merged[-1] = Loop(merged[-1].extent * it.extent, it.strides)
        else:
            merged.append(it)
    return tuple(merged) or (Loop(1, tuple(0 for _ in views)),)


def _last(loops: tuple[Loop, ...], operand: int) -> tuple[Loop, ...]:
    """The same loops, the one along which an operand is contiguous innermost."""
    best = min(range(len(loops)), key=lambda i: (loops[i].strides[operand] != 1, -loops[i].extent, -i))
    return (*loops[:best], *loops[best + 1:], loops[best])


def _along(kind: str, kept: Sequence[Loop], reduced: Sequence[Loop], lanes: int) -> bool:
    """Whether vectors lie along the row: where the input is contiguous, unless the row is short and there are many."""
    row = reduced[-1] if reduced[-1].strides[0] == 1 else next((it for it in reduced if it.strides[0] == 1), reduced[-1])
    rows = max((it for it in kept if it.strides[0] == 1), key=lambda it: it.extent, default=kept[-1])
    if kind == "cumsum":                                               # each element needs the one before
        return rows.strides[0] != 1 and kept[-1].extent < lanes
    if rows.strides[0] == 1 and rows.extent > 1:
        return row.strides[0] == 1 and row.extent >= rows.extent
    return row.extent * 2 > lanes or kept[-1].extent < lanes
