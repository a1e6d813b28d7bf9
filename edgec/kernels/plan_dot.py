"""How an integer convolution or product becomes one kernel that multiplies bytes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import cast

import numpy as np

from edgec.cost import choose_dot_tile, depth_cycles
from edgec.ir.graph import Array, Value
from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels import pairs
from edgec.kernels.base import Arg, Epilogue, Load, Operands, Planned, chunks, extent, traffic, vectors
from edgec.kernels.contract import run_length
from edgec.kernels.depth import DepthPlan
from edgec.kernels.dot import MERGED, DotPlan, Form, computed, oihw
from edgec.kernels.functions import BYTES, refusal
from edgec.kernels.image import Images
from edgec.kernels.plan_contract import flatten, lanes_for, matrices
from edgec.kernels.region import Region
from edgec.kernels.taps import Geometry, Taps

_TASKS = 16
"""Tasks that a kernel offers to threads when it is large enough."""
_TASK_MACS = 400_000
"""Multiply-accumulates below which a task is not worth its launch."""
_BODY = 112
"""Vector products that the innermost loop may hold."""
_UNROLLED, _COLUMNS = 220, 8
"""Products that a fully unrolled tile of a depthwise convolution may hold, and its widest."""
_WIDENED: dict[Form, Form] = {"smlal": "smull", "vpsignb": "pmaddwd"}
"""What takes the place of a form that sums two products in 16 bits, where weights may be -128."""


def convolution(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """ConvInteger of rank 3 and 4."""
    node = region.anchor
    found = read(region, operands)
    if isinstance(found, str) or node is None:
        return str(found)
    x, w, zero = found
    spatial = len(x.dims) - 2
    if spatial not in (1, 2):
        return f"{node.op} is written for one and two spatial axes, not {spatial}"
    groups, stored = int(node.attrs.get("group", 1)), "oihw"
    images, geometry = Images.of((x, w), region, operands), Geometry.of(node.attrs, w.dims[2:])
    if images.column and images.x.axes[3].extent == geometry.kernel[1]:
        images, geometry, stored = images.turned, geometry.turned, "oiwh"
    if geometry.pointwise and images.x.shape[2:] == images.y.shape[2:]:
        images = flatten(images)
    ys, xs = (geometry.taps(axis, images.y.axes[2 + axis].extent)[0] for axis in (0, 1))
    nest = _Nest(region, isa, operands, images, zero)
    if groups == images.x.axes[1].extent == images.y.axes[1].extent > 1 and stored == "oihw":
        return nest.depthwise(ys, xs)
    return nest.plan("conv", stored, (ys, xs), geometry.kernel, groups)


def product(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """MatMulInteger whose right operand is a constant matrix."""
    node = region.anchor
    found = read(region, operands)
    if isinstance(found, str) or node is None:
        return str(found)
    a, b, zero = found
    if len(a.dims) < 2 or len(b.dims) != 2:                     # noqa: PLR2004
        return f"{node.op} is written for a matrix on the right side, and at least one on the left"
    images = Images.of((a, b), region, operands, image=False)
    seen = matrices(list(images.views))
    if seen is None:
        return "the rows of these operands do not lie at one step"
    images = replace(images, views=tuple(seen))
    ys, xs = (Taps.pointwise(images.y.axes[axis].extent) for axis in (2, 3))
    return _Nest(region, isa, operands, images, zero).plan("gemm", "io", (ys, xs))


def read(region: Region, operands: Operands) -> tuple[Value, Value, Value | None] | str:
    """Data, stored weights and the zero point of an anchor, or why it is none of those that are written."""
    node = region.anchor
    if node is None or region.anchor_output is None:
        return "nothing to multiply"
    x, w, zero, w_zero = (*region.anchor_inputs, None, None)[:4]
    if x is None or w is None or not operands.constant(w):
        return f"{node.op} is written for constant weights"
    if x.tensor.dtype not in BYTES or w.tensor.dtype != "i8":
        return f"{node.op} is written for i8 weights on bytes, not for {w.tensor.dtype} on {x.tensor.dtype}"
    if zero is not None and prod(zero.dims) != 1:
        return f"{node.op} is written for one zero point for all of its data"
    if w_zero is not None and any(operands.ints(w_zero) or (1,)):
        return f"{node.op} is written for weights whose zero point is 0"
    return refusal(region.expr) or (x, w, zero)


class _Nest:
    """A contraction of bytes whose operands are known."""

    def __init__(self, region: Region, isa: Isa, operands: Operands, images: Images, zero: Value | None) -> None:
        self.region, self.isa, self.operands, self.images = region, isa.integer, operands, images
        self.zeros = () if zero is None else (zero,)

    def plan(self, name: str, stored: str, taps: tuple[Taps, Taps], kernel: tuple[int, int] = (1, 1), groups: int = 1) -> Planned | str:
        """The plan with the register tile that the cost model likes best."""
        isa, images, (ys, xs) = self.isa, self.images, taps
        x, y = images.x, images.y
        if not prod(y.shape):
            return "there is nothing to compute"
        if images.cut:
            return "a layout with blocked rows or columns"
        n, channels = y.axes[0].extent, y.axes[1].extent // groups
        lanes = lanes_for(isa.lanes, (y, *images.loads), channels, groups)
        chunk = _chunk(x.axes[1], x.axes[1].extent // groups, groups)
        merged = groups == 1 and chunk % 4 != 0 and 1 < xs.count * chunk <= MERGED and _one_run(x, xs, chunk)
        form = self._form(lambda w: pairs.runs(oihw(w, stored), chunk, merged=merged))
        per_row = -(-xs.count * chunk // 4) if merged else xs.count * -(-chunk // 4)
        steps = (x.axes[1].extent // groups // chunk) * ys.count * per_row
        along = vectors(channels, lanes)
        tile = choose_dot_tile(isa, form, tuple(computed(form, v) for v in along), xs.out_count, steps, rows=ys.out_count,
                               wish=self.operands.tile)
        widths = tuple(along[i:i + tile.nb] for i in range(0, len(along), tile.nb))
        macs = prod(y.shape) * (x.axes[1].extent // groups) * ys.count * xs.count
        fixed = n * groups * len(widths)
        row_chunks = chunks(ys.out_count, min(-(-_TASKS // fixed), macs // (_TASK_MACS * fixed)))
        bias, epilogue = with_bias(self.region, images, 2 + len(self.zeros))
        unroll = _unroll(form, tile.tw * tile.nb if isa.fact("optimize") != "size" else _BODY, (xs.count if merged else 1) * chunk // 4)
        plan = DotPlan(
            isa, (), fixed * row_chunks, x=x, y=y, ys=ys, xs=xs, kernel=kernel, groups=groups, widths=widths, columns=tile.tw, chunk=chunk,
            merged=merged, unroll=unroll, row_chunks=row_chunks, form=form, zero=bool(self.zeros), bias=bias,
            epilogue=epilogue, name=name, stored=stored, macs=macs, computing=tile.cycles * n * groups,
            passes=ys.out_count * -(-xs.out_count // tile.tw), others=tile.others)
        args = arguments(self.region, images, self.zeros, plan.groups * plan.group_bytes + 4 * y.axes[1].extent)
        return Planned(replace(plan, args=args, bytes=traffic(args)), (*images.inputs, *self.zeros, *self.region.operands))

    def depthwise(self, ys: Taps, xs: Taps) -> Planned | str:
        """The plan of a convolution with as many groups as channels."""
        isa, images = self.isa, self.images
        x, y = images.x, images.y
        if not prod(y.shape):
            return "there is nothing to compute"
        if images.cut:
            return "a layout with blocked rows or columns"
        window = ys.count * xs.count
        form = self._form(lambda w: w.reshape(w.shape[0], ys.count, xs.count).swapaxes(1, 2))
        if form == "sdot":                                     # interleaving rows takes more than it gains where vectors are short
            form = "smlal" if self._narrow() else "smull"
        if window > _UNROLLED:
            return self.plan("conv", "oihw", (ys, xs), (ys.count, xs.count), x.axes[1].extent)
        lanes = lanes_for(isa.lanes * (2 if form in ("smlal", "smull") else 1), (x, y, *images.loads), y.axes[1].extent, 1)
        columns = max(1, min(xs.out_count, _COLUMNS, _UNROLLED // window))
        columns = -(-xs.out_count // -(-xs.out_count // columns))
        n, channels = y.axes[0].extent, y.axes[1].extent
        widths = vectors(channels, lanes)
        fixed = n * len(widths)
        macs = prod(y.shape) * window
        row_chunks = chunks(ys.out_count, min(-(-_TASKS // fixed), macs // (_TASK_MACS * fixed)))
        bias, epilogue = with_bias(self.region, images, 2 + len(self.zeros))
        plan = DepthPlan(
            isa, (), fixed * row_chunks, x=x, y=y, ys=ys, xs=xs, widths=widths, columns=columns, row_chunks=row_chunks, form=form,
            zero=bool(self.zeros), bias=bias, epilogue=epilogue, macs=macs,
            computing=depth_cycles(isa, form, (ys.count, xs.count), fixed * ys.out_count * xs.out_count, xs.step))
        args = arguments(self.region, images, self.zeros, plan.weight_bytes + 4 * channels)
        return Planned(replace(plan, args=args, bytes=traffic(args)), (*images.inputs, *self.zeros, *self.region.operands))

    def _form(self, rows: Callable[[Array], Array]) -> Form:
        """What the unit has, as far as sums of two products in 16 bits keep within them; `rows` are the weights as bytes meet pixels.

        Unsigned pixels need pairs of small weights, |pixels| weights that are not -128; others are widened one by one.
        """
        form, weight = cast("Form", self.isa.int8_form), self.operands.weight(self.images.inputs[1])
        if form == "vpmaddubsw" and (weight is None or not pairs.fit(rows(weight))):
            form = "vpsignb"
        return form if form == "vpmaddubsw" or self._narrow() else _WIDENED.get(form, form)

    def _narrow(self) -> bool:
        """Whether all weights keep within -127 and 127, as quantization for sums in 16 bits makes them."""
        weight = self.operands.weight(self.images.inputs[1])
        return weight is not None and bool((weight != np.iinfo(np.int8).min).all())


def arguments(region: Region, images: Images, zeros: Sequence[Value], weights: int) -> tuple[Arg, ...]:
    """The arguments of a kernel whose packed weight has so many bytes."""
    made = [Arg("input", images.inputs[0].tensor.dtype, extent(images.x)), Arg("weight", "i8", weights)]
    made += [Arg("input", zero.tensor.dtype, 1) for zero in zeros]
    made += [Arg("input", v.tensor.dtype, extent(view)) for v, view in zip(region.operands, images.loads, strict=True)]
    return (*made, Arg("output", region.result.dtype, extent(images.y)))


def with_bias(region: Region, images: Images, first: int) -> tuple[Load | None, Epilogue]:
    """The bias, when adding it is the first thing that happens to the sums, and the rest; operands are arguments from `first` on."""
    expr = region.expr
    loads = tuple(Load(i, v) for i, v in enumerate(images.loads, first))
    number = _bias(region, loads)
    if number is None:
        return None, Epilogue(expr, loads)
    # the sum takes the place of the anchor's result
    added = len(expr.arguments)
    instrs = tuple(replace(i, args=tuple(0 if a == added else a for a in i.args)) for i in expr.instrs)
    instrs = (replace(instrs[0], op="Identity", args=(0,)), *instrs[1:])
    results = tuple(0 if r == added else r for r in expr.results)
    return loads[number - 1], Epilogue(replace(expr, instrs=instrs, results=results), loads)


def _bias(region: Region, loads: Sequence[Load]) -> int | None:
    """The number of the argument that is added to the sums at first and lies along the channels alone; None when there is none."""
    expr = region.expr
    if not expr.instrs or expr.instrs[0].op != "Add" or 0 not in expr.instrs[0].args or expr.instrs[0].args == (0, 0):
        return None
    number = next(a for a in expr.instrs[0].args if a)
    others = [a for i in expr.instrs[1:] for a in i.args]
    if number >= len(expr.arguments) or 0 in (*others, *expr.results) or number in (*others, *expr.results):
        return None
    along = [a.stride or a.block for i, a in enumerate(loads[number - 1].view.axes) if i != 1 and a.extent > 1]
    return number if not any(along) else None


def _chunk(axis: Axis, count: int, groups: int) -> int:
    """The longest run of channels at one step into which the `count` channels of each group split."""
    return count if not axis.block or axis.block >= axis.extent else run_length(axis, count, groups)


def _one_run(x: View, xs: Taps, chunk: int) -> bool:
    """Whether the taps of a row lie behind one another in memory."""
    channels, columns = x.axes[1], x.axes[3]
    packed = channels.extent == 1 or (channels.stride == 1 and not channels.block)
    return packed and xs.pitch == 1 and columns.stride == chunk and not columns.block


def _unroll(form: Form, tile: int, steps: int) -> int:
    """Steps in the innermost body: a divisor of all where there is one, in fours where one load of pixels serves four."""
    most = max(1, min(8, _BODY // tile))
    if form == "sdot":
        return 4
    return max(u for u in range(1, most + 1) if steps % u == 0)
