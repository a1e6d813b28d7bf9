"""How a convolution or a matrix product becomes one contraction kernel."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from edgec.cost import choose_tile
from edgec.ir.graph import Value
from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels import plan_window
from edgec.kernels.base import Arg, Epilogue, Load, Operands, Planned, chunks, extent, fuse_axes, loads_of, traffic, vectors
from edgec.kernels.contract import PARTIAL, ContractPlan, Taps, phases, run_length
from edgec.kernels.region import Region

_TASKS = 16
"""Tasks that a kernel offers to threads when it is large enough."""
_TASK_MACS = 100_000
"""Multiply-accumulates below which a task is not worth its launch."""
_FLOATS = ("f32", "f16", "bf16")
_BODY = 128
"""FMA instructions that the innermost loop may hold."""


def convolution(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """Conv and ConvTranspose of rank 3 and 4 with a constant weight."""
    node = region.anchor
    if node is None or region.anchor_output is None:
        return "nothing to convolve"
    x, w, *rest = region.anchor_inputs
    bias = rest[0] if rest else None
    if x is None or w is None or not operands.constant(w) or (bias is not None and not operands.constant(bias)):
        return f"{node.op} is written for constant weights"
    if any(t.dtype not in _FLOATS for t in (x.tensor, region.anchor_output)) or w.tensor.dtype not in (*_FLOATS, "i8", "u8"):
        return f"{node.op} is written for floating point, not {x.tensor.dtype} with {w.tensor.dtype} weights"
    rank = len(x.dims)
    if rank not in (3, 4):
        return f"{node.op} is written for one and two spatial axes, not {rank - 2}"
    spatial = rank - 2
    transposed = node.op == "ConvTranspose"
    kernel = list(w.dims[2:])
    strides = list(node.attrs.get("strides", [1] * spatial))
    dilations = list(node.attrs.get("dilations", [1] * spatial))
    pads = list(node.attrs.get("pads", [0] * (2 * spatial)))[:spatial]
    groups = int(node.attrs.get("group", 1))
    out_shape = region.result.dims
    views = [operands.view(x), operands.view(region.output)]
    first_load = 2 + (bias is not None)
    loads = [load.view for load in loads_of(region.operands, first_load, operands, out_shape)]
    views, form = [_as_image(v) for v in (*views, *loads)], "iohw" if transposed else "oihw"
    if spatial == 1:
        kernel, strides, dilations, pads = [1, *kernel], [1, *strides], [1, *dilations], [0, *pads]
    elif views[1].axes[3].extent == 1 and views[1].axes[2].extent > 1 and views[0].axes[3].extent == kernel[1]:
        views = [v.transpose((0, 1, 3, 2)) for v in views]     # a column is a row that stands: tiles want length along x
        kernel, strides, dilations, pads = kernel[::-1], strides[::-1], dilations[::-1], pads[::-1]
        form = form[:2] + "wh"
    if kernel == [1, 1] and strides == [1, 1] and not any(pads) and views[0].shape[2:] == views[1].shape[2:]:
        views = _flatten(views)
    ys = phases(views[1].axes[2].extent, kernel[0], strides[0], dilations[0], pads[0], transposed=transposed)
    xs = phases(views[1].axes[3].extent, kernel[1], strides[1], dilations[1], pads[1], transposed=transposed)
    depthwise = groups == views[0].axes[1].extent == views[1].axes[1].extent and groups > 1
    if depthwise and not transposed:
        return plan_window.depthwise(region, isa, operands, views, ys[0], xs[0], (x, w, bias))
    name = "conv_transpose" if transposed else "conv"
    return _contraction(region, isa, operands, views, ys, xs, (kernel[0], kernel[1]), groups, (x, w, bias), name, form)


def product(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """MatMul and Gemm. The right operand is a constant matrix, or an activation that is contiguous along its last axis."""
    node = region.anchor
    if node is None:
        return "nothing to multiply"
    a, b, *rest = region.anchor_inputs
    if a is None or b is None or a.tensor.dtype not in _FLOATS or b.tensor.dtype not in (*_FLOATS, "i8", "u8"):
        return f"{node.op} is written for floating point"
    if len(a.dims) < 2 or len(b.dims) < 2:                      # noqa: PLR2004
        return f"{node.op} of a vector is not a contraction of matrices"
    if node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0:
        return "Gemm with factors should have been rewritten"
    bias = rest[0] if rest else None
    constant = operands.constant(b) and len(b.dims) == 2       # noqa: PLR2004
    out_shape = region.result.dims
    left, right = operands.view(a), operands.view(b)
    if node.attrs.get("transA"):
        left = left.transpose((1, 0))
    if node.attrs.get("transB") and not constant:
        right = right.transpose((1, 0))
    vector = bias is not None and operands.constant(bias) and bias.dims in ((out_shape[-1],), (1, out_shape[-1]))
    if bias is not None and not vector:
        return "Gemm adds something that is no vector of its columns"
    loads = [load.view for load in loads_of(region.operands, 2 + (bias is not None), operands, out_shape)]
    views = _matrices([left, operands.view(region.output), *loads])
    if views is None:
        return "the rows of these operands do not lie at one step"
    w = None
    if not constant:
        if len(right.axes) > 2 and right.shape[:-2] != out_shape[:-2]:   # noqa: PLR2004
            right = View((*(Axis(n, 0) if v.extent == 1 else v for v, n in zip(right.axes[-len(out_shape):-2], out_shape[:-2], strict=False)), *right.axes[-2:]))
            if right.shape[:-2] != out_shape[:-2]:
                return "the left operand is broadcast over the batches of the right one"
        batch = _merge(right.axes[:-2])
        column = right.axes[-1]
        if batch is None or (column.extent > 1 and (column.block or column.stride != 1)) or right.axes[-2].block:
            return "the right operand is not contiguous along its columns"
        if views[1].axes[2].extent != 1 and batch.extent > 1:
            return "the rows of these operands do not lie at one step"
        w = View((batch, right.axes[-2], column))
        views = views if views[1].axes[0].extent == batch.extent or batch.extent == 1 else [_batched(v, batch.extent) for v in views]
    one = (Taps(1, 1, 0, 1, 0, 1, 0, 1, views[1].axes[2].extent),)
    columns = (Taps(1, 1, 0, 1, 0, 1, 0, 1, views[1].axes[3].extent),)
    made = _contraction(region, isa, operands, views, one, columns, (1, 1), 1, (a, b, bias), "gemm", "oi" if node.attrs.get("transB") else "io", w)
    return made


def _contraction(region: Region, isa: Isa, operands: Operands, views: Sequence[View], ys: tuple[Taps, ...], xs: tuple[Taps, ...],  # noqa: PLR0913
                 kernel: tuple[int, int], groups: int, inputs: tuple[Value, Value, Value | None], name: str, form: str,
                 w: View | None = None) -> Planned | str:
    x, y, *loads = views
    value, weight, bias = inputs
    n, channels = y.axes[0].extent, y.axes[1].extent // groups
    if not prod(y.shape):
        return "there is nothing to compute"
    if any(v.axes[a].block for v in (x, y) for a in (2, 3)):
        return "a layout with blocked rows or columns"
    lanes = _lanes(isa.lanes, [y, *loads], channels, groups)
    chunk = run_length(x.axes[1], x.axes[1].extent // groups, groups)
    step = x.axes[1].inner if x.axes[1].block else x.axes[1].stride
    lane = isa.broadcast == "lane" and step == 1 and chunk % isa.lanes == 0
    reduction = (x.axes[1].extent // groups) * kernel[0] * kernel[1] // max(1, len(ys) * len(xs))
    count = sum(t.out_count for t in ys)
    width = max(t.out_count for t in xs)
    along = vectors(channels, lanes)
    tile = choose_tile(isa, along, width, max(1, reduction), rows=count * len(xs), lane=lane)
    widths = tuple(along[i:i + tile.nb] for i in range(0, len(along), tile.nb))
    unroll = _unroll(chunk, isa.lanes if lane else 1, tile.tw * tile.nb if isa.fact("optimize") != "size" else _BODY)
    macs = n * groups * channels * reduction * count * sum(t.out_count for t in xs)
    fixed = n * groups * len(widths)
    row_chunks = chunks(min(t.out_count for t in ys), min(-(-_TASKS // fixed), macs // (_TASK_MACS * fixed)))
    args = [Arg("input", value.tensor.dtype, extent(x)),
            Arg("weight" if w is None else "input", weight.tensor.dtype, weight.tensor.elements if w is None else extent(w))]
    if bias is not None:
        args.append(Arg("weight", bias.tensor.dtype, bias.tensor.elements))
    first = len(args)
    args += [Arg("input", v.tensor.dtype, extent(view)) for v, view in zip(region.operands, loads, strict=True)]
    args.append(Arg("output", region.result.dtype, extent(y)))
    plan = ContractPlan(
        isa, tuple(args), fixed * row_chunks, x=x, y=y, ys=ys, xs=xs, kernel=kernel, groups=groups, widths=widths, columns=tile.tw,
        unroll=unroll, chunk=chunk, row_chunks=row_chunks, partial=max(1, PARTIAL // (chunk * kernel[0] * kernel[1])), bias=bias is not None, w=w, name=name, form=form,
        epilogue=Epilogue(region.expr, tuple(Load(first + i, v) for i, v in enumerate(loads))),
        macs=macs, bytes=traffic(args), cycles=tile.cycles * n * groups)
    return Planned(plan, (value, weight, *((bias,) if bias is not None else ()), *region.operands))


def _lanes(lanes: int, views: Sequence[View], channels: int, groups: int) -> int:
    """The widest vectors whose every piece stays within a block of every view."""
    while lanes > 1:
        fits = all(not a.block or a.block >= a.extent or a.inner != 1 or a.block % lanes == 0 for a in (v.axes[1] for v in views))
        if fits and (groups == 1 or channels % lanes == 0 or all(not v.axes[1].block or v.axes[1].block >= v.axes[1].extent for v in views)):
            return lanes
        lanes //= 2
    return 1


def _unroll(chunk: int, multiple: int, tile: int) -> int:
    """Channels in the innermost body: a divisor of the chunk, so that the body stays within what the front end of a core holds."""
    best = multiple
    for u in range(multiple, min(chunk, 16) + 1, multiple):
        if chunk % u == 0 and u * tile <= _BODY:
            best = u
    return best


def _as_image(view: View) -> View:
    return view if len(view.axes) == 4 else View((*view.axes[:2], Axis(1, 0), view.axes[2]))   # noqa: PLR2004


def _flatten(views: Sequence[View]) -> list[View]:
    """Rows and columns as one long row cut into equal pieces, where all views allow it: tiles then ignore the image's width."""
    merged = [fuse_axes(v.axes[2], v.axes[3]) for v in views]
    if any(m is None or m.block for m in merged):
        return list(views)
    size = views[0].axes[2].extent * views[0].axes[3].extent
    pieces = max((d for d in range(1, 17) if size % d == 0 and size // d >= 128), default=1)   # noqa: PLR2004
    return [View((*v.axes[:2], Axis(pieces, m.stride * (size // pieces)), Axis(size // pieces, m.stride)))
            for v, m in zip(views, merged, strict=True) if m is not None]


def _merge(axes: Sequence[Axis]) -> Axis | None:
    merged: Axis | None = Axis(1, 0)
    for axis in axes:
        merged = fuse_axes(merged, axis) if merged is not None else None
    return merged


def _matrices(views: Sequence[View]) -> list[View] | None:
    """Views [..., rows, columns] as [n, columns, h, rows]: all leading axes and rows as one where that is possible, else n and h hold the rest."""
    lead = [_merge(v.axes[:-1]) for v in views]
    if all(m is not None and not m.block for m in lead):
        return [View((Axis(1, 0), v.axes[-1], Axis(1, 0), m)) for v, m in zip(views, lead, strict=True) if m is not None]
    batch = [_merge(v.axes[:-2]) for v in views]
    if any(m is None for m in batch):
        return None
    return [View((m, v.axes[-1], Axis(1, 0), v.axes[-2])) for v, m in zip(views, batch, strict=True) if m is not None]


def _batched(view: View, batch: int) -> View:
    """Rows merged with batches, taken apart again."""
    n, c, h, w = view.axes
    rows = w.extent // batch
    return View((Axis(batch, w.stride * rows), c, h, replace(w, extent=rows)))
