"""How a convolution or a matrix product becomes one contraction kernel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from edgec.cost import Tile, ahead, choose_tile, streams
from edgec.ir.layout import Axis, View
from edgec.ir.types import dtype_bits
from edgec.isa import Device, Isa
from edgec.kernels import plan_window
from edgec.kernels.base import Arg, Operands, Planned, chunks, fuse_axes, traffic, vectors
from edgec.kernels.contract import PARTIAL, ContractPlan, run_length
from edgec.kernels.image import Images, epilogue_views
from edgec.kernels.region import Region
from edgec.kernels.taps import Geometry, Taps

_TASKS = 16
"""Tasks that a kernel offers to threads when it is large enough."""
_TASK_MACS = 100_000
"""Multiply-accumulates below which a task is not worth its launch."""
_FLOATS = ("f32", "f16", "bf16")
_BODY, _LANE_BODY = 128, 192
"""FMA instructions that the innermost loop may hold; in the lane form, twice four channels save one instruction in forty."""
_WIDE = 4
"""Bytes of an element of f32."""
_READERS = 8
"""Tiles that read the same weights, from which on it is worth to widen these before."""
_LEAD = 4096
"""Bytes from a load of weights to the line that is asked for meanwhile: a page, where what a core asks for by itself ends."""
_ANEW = 2
"""How many times as many bytes may come from beyond the second level before a kernel goes through rows first."""
_STREAMING = 0.25
"""Of the second level's speed, how much weights take that a core notices."""
_PIECES, _PIECE = 16, 128
"""At most so many rows, each of at least so many pixels, when an image is cut anew for a 1x1 convolution."""


@dataclass(frozen=True)
class Nest:
    """What a contraction is beside its operands: see ContractPlan for `form` and `w`."""

    name: str
    form: str
    ys: tuple[Taps, ...]
    xs: tuple[Taps, ...]
    kernel: tuple[int, int] = (1, 1)
    groups: int = 1
    w: View | None = None


def convolution(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """Conv and ConvTranspose of rank 3 and 4 with a constant weight."""
    node = region.anchor
    if node is None or region.anchor_output is None:
        return "nothing to convolve"
    x, w = region.anchor_inputs[:2]
    inputs = tuple(v for v in region.anchor_inputs if v is not None)
    if x is None or w is None or not all(operands.constant(v) for v in inputs[1:]):
        return f"{node.op} is written for constant weights"
    if any(t.dtype not in _FLOATS for t in (x.tensor, region.anchor_output)) or w.tensor.dtype not in (*_FLOATS, "i8", "u8"):
        return f"{node.op} is written for floating point, not {x.tensor.dtype} with {w.tensor.dtype} weights"
    spatial = len(x.dims) - 2
    if spatial not in (1, 2):
        return f"{node.op} is written for one and two spatial axes, not {spatial}"
    transposed, groups = node.op == "ConvTranspose", int(node.attrs.get("group", 1))
    form = "iohw" if transposed else "oihw"
    images, geometry = Images.of(inputs, region, operands), Geometry.of(node.attrs, w.dims[2:])
    if transposed and isa.lanes > 1 and not isinstance(isa, Device) and (windows := _windows(images, geometry)) is not None:
        rows, columns = ((Taps.pointwise(windows.y.axes[axis].extent),) for axis in (2, 3))
        return contraction(region, isa, windows, Nest("conv_transpose_windows", "windows", rows, columns), operands.tile)
    depthwise = not transposed and groups == images.x.axes[1].extent == images.y.axes[1].extent > 1
    # a depthwise kernel packs its taps as they are stored, which turning changes unless they lie in a line
    if images.column and images.x.axes[3].extent == geometry.kernel[1] and not (depthwise and 1 not in geometry.kernel):
        images, geometry, form = images.turned, geometry.turned, form[:2] + "wh"
    if geometry.pointwise and images.x.shape[2:] == images.y.shape[2:]:
        images = flatten(images)
    ys, xs = (geometry.taps(axis, images.y.axes[2 + axis].extent, transposed=transposed) for axis in (0, 1))
    if depthwise:
        return plan_window.depthwise(region, isa, images, ys[0], xs[0])
    nest = Nest("conv_transpose" if transposed else "conv", form, ys, xs, geometry.kernel, groups)
    return contraction(region, isa, images, nest, operands.tile)


def _windows(images: Images, geometry: Geometry) -> Images | None:
    """Images in which each window of a transposed convolution of one channel is a pixel of as many channels, or None where windows overlap.

    One channel fills a lane, a window of 2x2 fills four.
    """
    (height, width), y = geometry.kernel, images.y
    apart = geometry.strides == geometry.kernel and not any(geometry.pads) and width & (width - 1) == 0
    rows, columns = y.axes[2:]
    whole = (rows.extent, columns.extent) == tuple(k * a.extent for k, a in zip(geometry.kernel, images.x.axes[2:], strict=True))
    if images.loads or images.cut or y.axes[1].extent != 1 or not apart or not whole or columns.stride != 1:
        return None
    window = Axis(height * width, rows.stride, width, 1)
    pixels = (Axis(rows.extent // height, rows.stride * height), Axis(columns.extent // width, width))
    return replace(images, views=(images.x, View((y.axes[0], window, *pixels))))


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
    bias, out_shape = rest[0] if rest else None, region.result.dims
    if bias is not None and not (operands.constant(bias) and bias.dims in ((out_shape[-1],), (1, out_shape[-1]))):
        return "Gemm adds something that is no vector of its columns"
    left = operands.view(a)
    if node.attrs.get("transA"):
        left = left.transpose((1, 0))
    if left.shape[:-2] != out_shape[:-2]:
        return "the left operand is broadcast over the batches of the right one"
    views = matrices([left, operands.view(region.output), *epilogue_views(region, operands)])
    if views is None:
        return "the rows of these operands do not lie at one step"
    w: View | None = None
    if not operands.constant(b) or len(b.dims) != 2:            # noqa: PLR2004
        right = operands.view(b)
        if node.attrs.get("transB"):
            right = right.transpose((1, 0))
        seen = _right(right, out_shape)
        if isinstance(seen, str):
            return seen
        w, batches = seen, seen.axes[0].extent
        if views[1].axes[2].extent != 1 and batches > 1:
            return "the rows of these operands do not lie at one step"
        if batches not in (1, views[1].axes[0].extent):
            views = [_batched(v, batches) for v in views]
    inputs = (a, b, *((bias,) if bias is not None else ()))
    images = Images(inputs, tuple(views))
    ys, xs = ((Taps.pointwise(images.y.axes[axis].extent),) for axis in (2, 3))
    return contraction(region, isa, images, Nest("gemm", "oi" if node.attrs.get("transB") else "io", ys, xs, w=w), operands.tile)


def _right(view: View, out_shape: tuple[int, ...]) -> View | str:
    """The right factor as [batch, k, columns], its batches those of the output or one; or why it cannot be read so."""
    batches = view.axes[:-2]
    if batches and view.shape[:-2] != out_shape[:-2]:
        batches = tuple(Axis(n, 0) if a.extent == 1 else a for a, n in zip(view.axes[-len(out_shape):-2], out_shape[:-2], strict=False))
        if tuple(a.extent for a in batches) != out_shape[:-2]:
            return "the left operand is broadcast over the batches of the right one"
    batch, (row, column) = _merge(batches), view.axes[-2:]
    if batch is None or (column.extent > 1 and (column.block or column.stride != 1)) or row.block:
        return "the right operand is not contiguous along its columns"
    return View((batch, row, column))


def contraction(region: Region, isa: Isa, images: Images, nest: Nest, wish: tuple[int, int] | None = None) -> Planned | str:
    """The plan of a nest with the register tile that is wished for, or else the one that the cost model likes best."""
    x, y, groups, (ky, kx) = images.x, images.y, nest.groups, nest.kernel
    if not prod(y.shape):
        return "there is nothing to compute"
    if images.cut:
        return "a layout with blocked rows or columns"
    n, channels = y.axes[0].extent, y.axes[1].extent // groups
    lanes = lanes_for(isa.lanes, (y, *images.loads) if nest.form != "windows" else (), channels, groups)
    chunk = run_length(x.axes[1], x.axes[1].extent // groups, groups)
    step = x.axes[1].inner if x.axes[1].block else x.axes[1].stride
    lane = isa.broadcast == "lane" and step == 1 and chunk % isa.lanes == 0
    reduction = (x.axes[1].extent // groups) * ky * kx // max(1, len(nest.ys) * len(nest.xs))
    count = sum(t.out_count for t in nest.ys)
    along = vectors(channels, lanes)
    pieces = sum(t.out_count for t in nest.xs)
    stored = dtype_bits(images.inputs[1].tensor.dtype) // 8

    def best(stored: int) -> Tile:
        return choose_tile(isa, along, max(t.out_count for t in nest.xs), max(1, reduction), rows=count * len(nest.xs), lane=lane,
                           strided=any(t.step != t.pitch and t.count > 1 for t in nest.xs), stored=stored,
                           inputs=prod(x.shape) // n // groups * dtype_bits(images.inputs[0].tensor.dtype) // 8, wish=wish)

    tile, total = best(_WIDE), (x.axes[1].extent // groups) * ky * kx
    folded = isa.broadcast == "memory" and images.inputs[1].tensor.dtype == "f16"      # x86 converts halves as it loads them
    widen = not folded and _widens(isa, nest, stored, tile, total, count * pieces)
    tile = tile if widen else best(stored)
    once = nest.w is None and count * n == 1 and pieces <= tile.tw
    widths = tuple(along[i:i + tile.nb] for i in range(0, len(along), tile.nb))
    unroll = _unroll(chunk, isa.lanes if lane else 1, tile.tw * tile.nb if isa.fact("optimize") != "size" else _BODY)
    macs = n * groups * channels * reduction * count * sum(t.out_count for t in nest.xs)
    together = max(1, n * groups * len(widths) // _TASKS) if widen else 1
    fixed = n * groups * -(-len(widths) // together)
    row_chunks = chunks(min(t.out_count for t in nest.ys), min(-(-_TASKS // fixed), macs // (_TASK_MACS * fixed)))
    args = images.args(region, nest.w)
    passes = count * sum(-(-t.out_count // tile.tw) for t in nest.xs)
    near = _ahead(isa, args[1], tile, (unroll, chunk), total, 1 if nest.w is not None or widen else passes, groups)
    args += (Arg("scratch", "f32", max(map(sum, widths)) * total),) if widen else ()
    turns = args[-1].dtype == "f32" and _takes_turns(isa, nest, tile, total, widen=widen)
    rows_first = False
    if not near[0] and not widen and groups * len(widths) > 1:
        row_chunks, rows_first = _order(isa, args, (n * groups, groups, len(widths)), (row_chunks, min(t.out_count for t in nest.ys)))
    plan = ContractPlan(
        isa, args, fixed * row_chunks, x=x, y=y, ys=nest.ys, xs=nest.xs, kernel=nest.kernel, groups=groups, widths=widths, columns=tile.tw,
        unroll=unroll, chunk=chunk, row_chunks=row_chunks, partial=max(1, PARTIAL // (chunk * ky * kx)), bias=images.bias,
        epilogue=images.epilogue(region), w=nest.w, name=nest.name, form=nest.form,
        streams=min(tile.nb, streams(isa, args[1].elements * dtype_bits(args[1].dtype) // 8)) if once else 1,
        together=together, widen=widen, ahead=near[0], seldom=near[1], lead=near[2], turns=turns,
        rows_first=rows_first, macs=macs, bytes=traffic(args), computing=tile.cycles * n * groups,
        passes=passes if not near[0] else 1, others=tile.others)
    return Planned(plan, (*images.inputs, *region.operands))


def _ahead(
    isa: Isa, weight: Arg, tile: Tile, steps: tuple[int, int], total: int, passes: int, groups: int,
) -> tuple[int, bool, int]:
    """Lines of the next vector group's weights that are asked for at a time, whether seldom, and the lead; see ContractPlan.

    `steps`: channels of a body and of a chunk. The weights that are read once have no work in front of them. Two groups' weights share
    the second level with inputs and results.
    """
    stored = dtype_bits(weight.dtype) // 8
    if isinstance(isa, Device) or passes == 1 or not ahead(isa, weight.elements * stored, tile.cycles * groups):
        return 0, False, 0
    step = tile.nb * isa.lanes * stored
    seldom = steps[0] * step < isa.line_bytes * passes
    lines = -(-steps[seldom] * step // (isa.line_bytes * passes))
    return lines, seldom, _LEAD if 2 * step * total > (isa.l2_bytes or isa.l1_bytes) else 0


def _order(isa: Isa, args: Sequence[Arg], groups: tuple[int, int, int], rows: tuple[int, int]) -> tuple[int, bool]:
    """In how many chunks rows are cut, and whether tasks that follow each other are vector groups of the same chunk.

    `groups`: convolution groups of all images and of one, vector groups; `rows`: chunks that threads want, and how many rows there are.
    Vector group after vector group reads all inputs anew, from beyond the second level where they do not fit there; chunk after chunk reads
    all weights anew.
    """
    (all_groups, own, count), (made, most) = groups, rows
    inputs, weights = (arg.elements * dtype_bits(arg.dtype) // 8 // part for arg, part in zip(args, (all_groups, own), strict=False))
    if not isinstance(isa, Device) and isa.l2_bytes_per_cycle and inputs > isa.l2_bytes // 2:
        fitting = max(made, chunks(most, -(-inputs // (isa.l2_bytes // 4))))
        made = fitting if inputs * count > _ANEW * (inputs + weights * fitting) else made
    return made, made > 1 and weights * made < inputs * count


def _takes_turns(isa: Isa, nest: Nest, tile: Tile, reduction: int, *, widen: bool) -> bool:
    """Whether the tiles of a row take turns: where they would read much from the second level, as each reads all weights of a group anew.

    Measured with AVX2 on 3x3 convolutions; 1x1 convolutions gain nothing.
    """
    if widen or isinstance(isa, Device) or isa.broadcast != "memory" or nest.kernel == (1, 1) or isa.fact("optimize") == "size":
        return False
    if isa.lanes == 1 or not isa.l2_bytes_per_cycle:                            # a microcontroller
        return False
    rate = isa.lanes * _WIDE * isa.fma_ports / tile.tw                          # bytes of weights a cycle
    several = reduction >= 2 * PARTIAL and sum(t.out_count for t in nest.xs) >= 2 * tile.tw
    return several and tile.nb * isa.lanes * reduction * _WIDE > isa.l1_bytes and rate > _STREAMING * isa.l2_bytes_per_cycle


def _widens(isa: Isa, nest: Nest, stored: int, tile: Tile, reduction: int, outputs: int) -> bool:
    """Whether to widen the weights of a vector group before its tiles, which needs memory for them, instead of in each tile."""
    if nest.w is not None or stored == _WIDE or isa.lanes == 1 or isa.fact("optimize") == "size" or isinstance(isa, Device):
        return False
    panel = tile.nb * isa.lanes * reduction * _WIDE
    return outputs >= _READERS * tile.tw and panel <= (isa.l2_bytes or isa.l1_bytes) / 4


def lanes_for(lanes: int, views: Sequence[View], channels: int, groups: int) -> int:
    """The widest vectors whose every piece stays within a block of every view."""
    blocked = [a for a in (v.axes[1] for v in views) if a.block and a.block < a.extent]
    while lanes > 1:
        fits = all(a.inner != 1 or a.block % lanes == 0 for a in blocked)
        if fits and (groups == 1 or channels % lanes == 0 or not blocked):
            return lanes
        lanes //= 2
    return 1


def _unroll(chunk: int, multiple: int, tile: int) -> int:
    """Channels in the innermost body: a divisor of the chunk, so that the body stays within what the front end of a core holds."""
    best = multiple
    for u in range(multiple, min(chunk, 16) + 1, multiple):
        if chunk % u == 0 and u * tile <= (_LANE_BODY if multiple > 1 else _BODY):
            best = u
    return best


def flatten(images: Images) -> Images:
    """Rows and columns as one long row cut into equal pieces, where all views allow it: tiles then ignore the image's width."""
    merged = [fuse_axes(v.axes[2], v.axes[3]) for v in images.views]
    if any(m is None or m.block for m in merged):
        return images
    size = images.x.axes[2].extent * images.x.axes[3].extent
    pieces = max((d for d in range(1, _PIECES + 1) if size % d == 0 and size // d >= _PIECE), default=1)
    length = size // pieces
    views = [View((*v.axes[:2], Axis(pieces, m.stride * length), Axis(length, m.stride)))
             for v, m in zip(images.views, merged, strict=True) if m is not None]
    return replace(images, views=tuple(views))


def _merge(axes: Sequence[Axis]) -> Axis | None:
    merged: Axis | None = Axis(1, 0)
    for axis in axes:
        merged = fuse_axes(merged, axis) if merged is not None else None
    return merged


def matrices(views: Sequence[View]) -> list[View] | None:
    """Views [..., rows, columns] as [n, columns, 1, rows]: all leading axes and rows as one where that is possible, else n is the rest."""
    lead = [_merge(v.axes[:-1]) for v in views]
    if all(m is not None and not m.block for m in lead):
        return [View((Axis(1, 0), v.axes[-1], Axis(1, 0), m)) for v, m in zip(views, lead, strict=True) if m is not None]
    batch = [_merge(v.axes[:-2]) for v in views]
    if any(m is None for m in batch):
        return None
    return [View((m, v.axes[-1], Axis(1, 0), v.axes[-2])) for v, m in zip(views, batch, strict=True) if m is not None]


def _batched(view: View, batch: int) -> View:
    """Rows merged with batches, taken apart again."""
    _, c, h, w = view.axes
    rows = w.extent // batch
    return View((Axis(batch, w.stride * rows), c, h, replace(w, extent=rows)))
