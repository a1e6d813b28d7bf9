"""How a depthwise convolution or a pooling becomes one window kernel."""

from collections.abc import Sequence

from edgec.ir.graph import Value
from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels.base import Arg, Epilogue, Load, Operands, Planned, chunks, extent, loads_of, traffic, vectors
from edgec.kernels.contract import Taps, phases
from edgec.kernels.region import Region
from edgec.kernels.window import WindowPlan

_FLOATS = ("f32", "f16", "bf16")
_UNROLLED = 220
"""Vector operations that a fully unrolled tile may hold."""
_TASKS = 16


def depthwise(region: Region, isa: Isa, operands: Operands, views: Sequence[View], ys: Taps, xs: Taps,
              inputs: tuple[Value, Value, Value | None]) -> Planned | str:
    """A convolution with as many groups as channels; views as convolution() has arranged them."""
    x, y, *loads = views
    value, weight, bias = inputs
    args = [Arg("input", value.tensor.dtype, extent(x)), Arg("weight", weight.tensor.dtype, weight.tensor.elements)]
    if bias is not None:
        args.append(Arg("weight", bias.tensor.dtype, bias.tensor.elements))
    named = (value, weight, *((bias,) if bias is not None else ()), *region.operands)
    return _window("depthwise", region, isa, operands, (x, y), loads, ys, xs, args, named, None)


def pool(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """MaxPool and AveragePool over one or two spatial axes."""
    node = region.anchor
    if node is None or region.anchor_inputs[0] is None:
        return "nothing to pool"
    value = region.anchor_inputs[0]
    if value.tensor.dtype not in _FLOATS:
        return f"{node.op} is written for floating point, not {value.tensor.dtype}"
    spatial = len(value.dims) - 2
    if spatial not in (1, 2):
        return f"{node.op} is written for one and two spatial axes, not {spatial}"
    kernel = list(node.attrs["kernel_shape"])
    strides = list(node.attrs.get("strides", [1] * spatial))
    dilations = list(node.attrs.get("dilations", [1] * spatial))
    pads = list(node.attrs.get("pads", [0] * (2 * spatial)))
    out_shape = region.result.dims
    views = [operands.view(value), operands.view(region.output), *(load.view for load in loads_of(region.operands, 1, operands, out_shape))]
    if spatial == 1:
        views = [View((*v.axes[:2], Axis(1, 0), v.axes[2])) for v in views]
        kernel, strides, dilations, pads = [1, *kernel], [1, *strides], [1, *dilations], [0, pads[0], 0, pads[1]]
    elif views[1].axes[3].extent == 1 and views[1].axes[2].extent > 1:
        views = [v.transpose((0, 1, 3, 2)) for v in views]
        kernel, strides, dilations, pads = kernel[::-1], strides[::-1], dilations[::-1], [pads[1], pads[0], pads[3], pads[2]]
    ys, xs = (phases(views[1].axes[2 + a].extent, kernel[a], strides[a], dilations[a], pads[a], transposed=False)[0] for a in (0, 1))
    divisor = None
    if node.attrs.get("count_include_pad", 0):
        counts = [tuple(sum(t.reads(o, k) < views[0].axes[2 + a].extent + pads[2 + a] for k in range(t.count)) for o in range(t.out_count))
                  for a, t in ((0, ys), (1, xs))]
        divisor = (counts[0], counts[1])
    args = [Arg("input", value.tensor.dtype, extent(views[0]))]
    op = "max" if node.op == "MaxPool" else "average"
    return _window(op, region, isa, operands, (views[0], views[1]), views[2:], ys, xs, args, (value, *region.operands), divisor)


def _window(op: str, region: Region, isa: Isa, operands: Operands, images: tuple[View, View], loads: Sequence[View], ys: Taps, xs: Taps,  # noqa: PLR0913
            args: list[Arg], inputs: tuple[Value, ...], divisor: tuple[tuple[int, ...], tuple[int, ...]] | None) -> Planned | str:
    x, y = images
    if not region.result.elements:
        return "there is nothing to compute"
    if any(v.axes[a].block for v in images for a in (2, 3)):
        return "a layout with blocked rows or columns"
    if ys.count * xs.count > _UNROLLED:
        return f"a window of {ys.count}x{xs.count} is too large to unroll"
    lanes = isa.lanes
    while any(a.block and a.block < a.extent and a.inner == 1 and a.block % lanes for a in (v.axes[1] for v in (x, y, *loads))):
        lanes //= 2
    channels = y.axes[1].extent
    taps = ys.count * xs.count
    columns = max(1, min(xs.out_count, 8 if isa.registers > 16 else 6, _UNROLLED // taps))   # noqa: PLR2004
    if xs.out_count % columns and xs.out_count > columns:      # equal tiles beat a full one and a rest
        columns = -(-xs.out_count // -(-xs.out_count // columns))
    widths = vectors(channels, lanes)
    fixed = y.axes[0].extent * len(widths)
    work = y.axes[2].extent * y.axes[3].extent * taps
    row_chunks = chunks(ys.out_count, min(-(-_TASKS // fixed), work // 4096))
    first = len(args)
    args += [Arg("input", v.tensor.dtype, extent(view)) for v, view in zip(region.operands, loads, strict=True)]
    args.append(Arg("output", region.result.dtype, extent(y)))
    steps = fixed * work
    moved = traffic(args)
    plan = WindowPlan(
        isa, tuple(args), fixed * row_chunks, op=op, x=x, y=y, ys=(ys,), xs=(xs,), widths=widths, columns=columns, row_chunks=row_chunks,  # type: ignore[arg-type]
        bias=op == "depthwise" and len(inputs) - len(region.operands) > 2, epilogue=Epilogue(region.expr, tuple(Load(first + i, v) for i, v in enumerate(loads))),  # noqa: PLR2004
        divisor=divisor, macs=channels * y.axes[0].extent * work if op == "depthwise" else 0, bytes=moved, cycles=steps * 1.25 / isa.load_ports)
    return Planned(plan, inputs)
