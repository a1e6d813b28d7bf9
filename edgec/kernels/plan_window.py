"""How a depthwise convolution or a pooling becomes one window kernel."""

from typing import Literal

from edgec.isa import Isa
from edgec.kernels.base import Operands, Planned, chunks, traffic, vectors
from edgec.kernels.functions import BYTES, refusal
from edgec.kernels.image import Images
from edgec.kernels.region import Region
from edgec.kernels.taps import Geometry, Taps
from edgec.kernels.window import WindowPlan

_FLOATS = ("f32", "f16", "bf16")
_UNROLLED = 220
"""Vector operations that a fully unrolled tile may hold."""
_LOOPED = 25
"""Taps from which on a sum over windows inside the input is looped."""
_TASKS = 16
"""Tasks that a kernel offers to threads when it is large enough."""
_TASK_STEPS = 4096
"""Vector operations below which a task is not worth its launch."""
_ROW_CHUNKS = 8
"""Chunks of rows where tasks that follow each other are vectors of the same rows, for as many threads."""
_MANY_REGISTERS = 16
_COLUMNS = (6, 8)
"""The widest tile with 16 registers, and with more."""


def depthwise(region: Region, isa: Isa, images: Images, ys: Taps, xs: Taps) -> Planned | str:
    """A convolution with as many groups as channels."""
    return _window("depthwise", region, isa, images, (ys, xs))


def pool(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """MaxPool and AveragePool over one or two spatial axes."""
    node = region.anchor
    if node is None or region.anchor_inputs[0] is None:
        return "nothing to pool"
    value, sums = region.anchor_inputs[0], node.op == "edgec.SumPool"
    if value.tensor.dtype not in (BYTES if sums else (*_FLOATS, *BYTES) if node.op == "MaxPool" else _FLOATS):
        return f"{node.op} is not written for {value.tensor.dtype}"
    if reason := refusal(region.expr):
        return reason
    spatial = len(value.dims) - 2
    if spatial not in (1, 2):
        return f"{node.op} is written for one and two spatial axes, not {spatial}"
    inputs = tuple(v for v in region.anchor_inputs if v is not None)
    images, geometry = Images.of(inputs, region, operands), Geometry.of(node.attrs, node.attrs["kernel_shape"])
    if images.column:
        images, geometry = images.turned, geometry.turned
    ys, xs = (geometry.taps(axis, images.y.axes[2 + axis].extent)[0] for axis in (0, 1))
    divisor = None
    if node.attrs.get("count_include_pad", 0):
        sizes = [images.x.axes[2 + axis].extent + geometry.pads[2 + axis] for axis in (0, 1)]
        divisor = (_counts(ys, sizes[0]), _counts(xs, sizes[1]))
    return _window("sum" if sums else "max" if node.op == "MaxPool" else "average", region, isa, images, (ys, xs), divisor)


def _counts(taps: Taps, size: int) -> tuple[int, ...]:
    """For each output, its taps that stay below `size`, the end of the padded input."""
    return tuple(sum(taps.reads(o, k) < size for k in range(taps.count)) for o in range(taps.out_count))


def _window(op: Literal["depthwise", "max", "average", "sum"], region: Region, isa: Isa, images: Images, taps: tuple[Taps, Taps],
            divisor: tuple[tuple[int, ...], tuple[int, ...]] | None = None) -> Planned | str:
    (ys, xs), y = taps, images.y
    if not region.result.elements:
        return "there is nothing to compute"
    if images.cut:
        return "a layout with blocked rows or columns"
    window = ys.count * xs.count
    clipped = ys.clipped(images.x.axes[2].extent) or xs.clipped(images.x.axes[3].extent)
    looped = op == "sum" and not clipped and window > _LOOPED
    if window > _UNROLLED and not looped:
        return f"a window of {ys.count}x{xs.count} is too large to unroll"
    dtype = images.inputs[0].tensor.dtype
    lanes = isa.lanes * (4 if op == "max" and dtype in BYTES else 1)
    while any(a.block and a.block < a.extent and a.inner == 1 and a.block % lanes for a in (v.axes[1] for v in images.views)):
        lanes //= 2
    columns = max(1, min(xs.out_count, _COLUMNS[isa.registers > _MANY_REGISTERS], _UNROLLED // (1 if looped else window)))
    if xs.out_count % columns and xs.out_count > columns:      # equal tiles beat a full one and a rest
        columns = -(-xs.out_count // -(-xs.out_count // columns))
    n, channels = y.axes[0].extent, y.axes[1].extent
    widths = vectors(channels, lanes)
    fixed = n * len(widths)
    work = y.axes[2].extent * y.axes[3].extent * window
    rows_first = bool(isa.fact("fork")) and fixed > 1
    wanted = min(_ROW_CHUNKS, fixed * work // _TASK_STEPS) if rows_first else min(-(-_TASKS // fixed), work // _TASK_STEPS)
    row_chunks = chunks(ys.out_count, wanted)
    args = images.args(region)
    plan = WindowPlan(
        isa, args, fixed * row_chunks, op=op, x=images.x, y=y, ys=ys, xs=xs, widths=widths, columns=columns, row_chunks=row_chunks,
        rows_first=rows_first, bias=images.bias, epilogue=images.epilogue(region), divisor=divisor, looped=looped,
        macs=channels * n * work if op == "depthwise" else 0, bytes=traffic(args),
        computing=fixed * work * 1.25 / isa.load_ports)
    return Planned(plan, (*images.inputs, *region.operands))
