"""Plans for kernels that go where data point: Gather, GatherElements, GatherND, ScatterElements, ScatterND.

A point is one position of the index tensor. Its index, of one or more components, moves the operand that is read (gather) or written
(scatter); the slice loops then run from there. An index outside its axis makes the kernel return -1 before it has read or written there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels.base import Arg, Epilogue, KernelPlan, extent, traffic
from edgec.kernels.expr import Expr
from edgec.kernels.functions import ANY, refusal
from edgec.kernels.map import Loop, nest, split

_TASK = 16384
"""Elements that are worth handing to another thread."""
REDUCTIONS: Mapping[str, str] = {"none": "", "add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}


@dataclass(frozen=True)
class Component:
    """One number of an index: where it lies from the point's base, the extent of the axis it points into, and the stride there."""

    offset: int
    extent: int
    stride: int


@dataclass(frozen=True)
class GatherPlan(KernelPlan):
    """args: data, indices, operands of the epilogue, output. Strides of loops are theirs; the last slice loop is vectorized.

    A scatter's arguments are data, indices, updates, output; it first copies the data by the loops `copy`, and has one task, because
    updates of one place happen in their order. A task of a gather takes `rows` points. `reduction` is the operator that joins an
    update with what is there, empty when it replaces it.
    """

    points: tuple[Loop, ...]
    slices: tuple[Loop, ...]
    components: tuple[Component, ...]
    rows: int
    epilogue: Expr
    copy: tuple[Loop, ...] = ()
    reduction: str = ""
    name: str = "gather"

    kind = "gather"

    @property
    def algo(self) -> str:
        """The operator."""
        return self.name

    @property
    def scatters(self) -> bool:
        """Whether the index moves the output."""
        return bool(self.copy)

    @property
    def units(self) -> int:
        """Points in all."""
        return prod(it.extent for it in self.points)


def plan_gather(op: str, attrs: Mapping[str, Any], in_views: Sequence[View], out_view: View, dtypes: Sequence[str], isa: Isa,
                epilogue: Epilogue | None = None) -> GatherPlan | str:
    """The plan of Gather, GatherElements or GatherND (data, indices), or the reason why there is none.

    `dtypes` are those of data, indices, the epilogue's loads and the output.
    """
    epilogue = epilogue or Epilogue(Expr((dtypes[0],)))
    if reason := _refused(op, dtypes) or refusal(epilogue.expr):
        return reason
    if not prod(out_view.shape):
        return "there is nothing to compute"
    data, indices = in_views
    outs = [*(load.view for load in epilogue.loads), out_view]
    if op == "GatherND":
        made = _of_tuples(int(attrs.get("batch_dims", 0)), data, indices, outs)
    else:
        made = (_of_elements if op == "GatherElements" else _of_axis)(int(attrs.get("axis", 0)) % len(data.axes), data, indices, outs)
    if isinstance(made, str):
        return made
    points, slices, components = made
    views = [data, indices, *outs]
    inputs = [Arg("input", d, extent(v)) for d, v in zip(dtypes[:-1], views[:-1], strict=True)]
    args = (*inputs, Arg("output", dtypes[-1], extent(out_view)))
    slices = _vector_last(slices, (0, len(args) - 1))
    size = prod(it.extent for it in slices)
    rows, units = max(1, _TASK // size), prod(it.extent for it in points)
    moved = traffic(args[1:]) + args[-1].elements
    cycles = units * (6.0 * len(components) + size / (isa.lanes if slices[-1].strides[0] == 1 else 1))
    return GatherPlan(isa, args, -(-units // rows), points=points, slices=slices, components=components, rows=rows, epilogue=epilogue.expr,
                      name=op.lower(), bytes=moved, computing=cycles)


def plan_scatter(op: str, attrs: Mapping[str, Any], in_views: Sequence[View], out_view: View, dtypes: Sequence[str],
                 isa: Isa) -> GatherPlan | str:
    """The plan of ScatterElements or ScatterND (data, indices, updates), or the reason why there is none."""
    if reason := _refused(op, dtypes):
        return reason
    word = attrs.get("reduction", "none")
    word = word.decode() if isinstance(word, bytes) else word
    if word not in REDUCTIONS or (dtypes[0] == "bool" and word != "none"):
        return f"{op} of {dtypes[0]} is not written for reduction {word}"
    data, indices, updates = in_views
    if not prod(out_view.shape) or not prod(updates.shape):
        return "there is nothing to compute"
    if op == "ScatterND":
        made = _of_tuples(0, out_view, indices, [updates])
    else:
        made = _of_elements(int(attrs.get("axis", 0)) % len(data.axes), out_view, indices, [updates])
    if isinstance(made, str):
        return made
    points, slices = (tuple(Loop(it.extent, (0, *it.strides[1:], it.strides[0])) for it in loops) for loops in made[:2])
    try:
        copy = nest([data, out_view])
    except ValueError as error:
        return str(error)
    inputs = [Arg("input", d, extent(v)) for d, v in zip(dtypes[:-1], in_views, strict=True)]
    args = (*inputs, Arg("output", dtypes[-1], extent(out_view)))
    return GatherPlan(isa, args, 1, points=points, slices=_vector_last(slices, (2, 3)), components=made[2],
                      rows=prod(it.extent for it in points), epilogue=Expr((dtypes[0],)), copy=copy, reduction=REDUCTIONS[word],
                      name=op.lower(), bytes=traffic(args), computing=float(args[-1].elements / isa.lanes + args[2].elements))


_Made = tuple[tuple[Loop, ...], tuple[Loop, ...], tuple[Component, ...]]


def _refused(op: str, dtypes: Sequence[str]) -> str | None:
    if dtypes[1] not in ("i32", "i64"):
        return f"{op} needs indices of i32 or i64, not {dtypes[1]}"
    return None if dtypes[0] in ANY else f"{op} is not written for {dtypes[0]}"


def _of_axis(axis: int, data: View, indices: View, outs: Sequence[View]) -> _Made | str:
    """Gather: the axes before, those of the indices, those after."""
    count, stride = len(indices.axes), _stride(data.axes[axis])
    if stride is None:
        return "Gather along an axis that the layout blocks is not written"
    still = [Axis(a.extent, 0) for a in data.axes]
    before = [[data.axes[a], still[a], *(o.axes[a] for o in outs)] for a in range(axis)]
    along = [[Axis(i.extent, 0), i, *(o.axes[axis + j] for o in outs)] for j, i in enumerate(indices.axes)]
    after = [[data.axes[a], still[a], *(o.axes[a - 1 + count] for o in outs)] for a in range(axis + 1, len(data.axes))]
    return _loops([*before, *along], after, len(outs) + 2, (Component(0, data.axes[axis].extent, stride),))


def _of_elements(axis: int, data: View, indices: View, outs: Sequence[View]) -> _Made | str:
    """GatherElements: every element has its own index along one axis."""
    stride = _stride(data.axes[axis])
    if stride is None:
        return "an index along an axis that the layout blocks is not written"
    axes = [[Axis(i.extent, 0) if a == axis else replace(d, extent=i.extent), i, *(replace(o.axes[a], extent=i.extent) for o in outs)]
            for a, (d, i) in enumerate(zip(data.axes, indices.axes, strict=True))]
    return _loops(axes, [], len(outs) + 2, (Component(0, data.axes[axis].extent, stride),))


def _of_tuples(batch: int, data: View, indices: View, outs: Sequence[View]) -> _Made | str:
    """GatherND: the last axis of the indices holds as many components as axes are indexed."""
    *prefix, last = indices.axes
    step, count = _stride(last), last.extent
    strides = [_stride(a) for a in data.axes[batch:batch + count]]
    if step is None or any(s is None for s in strides):
        return "an index along an axis that the layout blocks is not written"
    points = [[data.axes[a] if a < batch else Axis(i.extent, 0), i, *(o.axes[a] for o in outs)] for a, i in enumerate(prefix)]
    rest = range(batch + count, len(data.axes))
    after = [[data.axes[a], Axis(data.axes[a].extent, 0), *(o.axes[len(prefix) + j] for o in outs)] for j, a in enumerate(rest)]
    components = tuple(Component(j * step, data.axes[batch + j].extent, s) for j, s in enumerate(strides) if s is not None)
    return _loops(points, after, len(outs) + 2, components)


def _loops(points: Sequence[Sequence[Axis]], slices: Sequence[Sequence[Axis]], operands: int,
           components: tuple[Component, ...]) -> _Made | str:
    none = Loop(1, (0,) * operands)
    try:
        made = [[Loop(n, s) for axes in group for n, s in split(axes) if n != 1] for group in (points, slices)]
    except ValueError as error:
        return str(error)
    return tuple(_merged(made[0])) or (none,), tuple(_merged(made[1])) or (none,), components


def _merged(loops: Sequence[Loop]) -> list[Loop]:
    merged: list[Loop] = []
    for it in loops:
        if merged and all(a == b * it.extent for a, b in zip(merged[-1].strides, it.strides, strict=True)):
            merged[-1] = Loop(merged[-1].extent * it.extent, it.strides)
        else:
            merged.append(it)
    return merged


def _vector_last(loops: tuple[Loop, ...], operands: tuple[int, int]) -> tuple[Loop, ...]:
    """The same loops, one along which both operands are contiguous innermost where there is one."""
    best = max(range(len(loops)), key=lambda i: (sum(loops[i].strides[o] == 1 for o in operands), loops[i].extent, i))
    return (*loops[:best], *loops[best + 1:], loops[best])


def _stride(axis: Axis) -> int | None:
    """The step from one index to the next, None when the axis is blocked."""
    if axis.block and axis.block < axis.extent:
        return None
    return axis.inner if axis.block else axis.stride
