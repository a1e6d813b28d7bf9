"""When a convolution becomes one by Winograd's method, and with which tiles."""

from dataclasses import replace

from edgec.cost import choose_tile, memory_cycles
from edgec.ir.layout import Axis
from edgec.ir.types import dtype_bits
from edgec.isa import Isa
from edgec.kernels.base import Arg, Operands, Planned, chunks, timed, traffic, vectors
from edgec.kernels.image import Images
from edgec.kernels.plan_contract import convolution as direct
from edgec.kernels.region import Region
from edgec.kernels.taps import Geometry
from edgec.kernels.winograd import TAPS, FiltersPlan, WinogradPlan, scratch_elements

_RUNS = 8               # runs of blocks, each with scratch memory of its own, that are offered to threads
_RUN_MACS = 2_000_000   # multiply-accumulates below which a run is not worth its memory
_GAIN = 0.9             # of the time of the direct form, below which the transformed one is worth its rounding
_LEAST = 16             # channels below which the transforms cost more than the products save
_SHARE, _SHARE_IN_ORDER = 0.5, 0.6  # of the second level, what a block may take: a core in order waits for filters that come once more
_MOST_TILES = 64        # tiles of a block: more do not make the stream of filters any cheaper
_STORED = ("f32", "f16", "bf16")
_SUMS = {2: (8, 6), 4: (14, 12)}    # operations of the transforms along one axis: of inputs, of products


def convolution(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """The direct plan of a Conv, or a form of Winograd's that is predicted to be clearly faster and worth its memory.

    `exact` and `optimize` = "size" among the further facts of the unit forbid it: it rounds more, and its filters take more memory.
    """
    made, wish = direct(region, isa, operands), operands.choice
    if isinstance(made, str) or isa.fact("exact") or isa.fact("optimize") == "size" or isa.lanes == 1:
        return made                                                    # without vectors: a microcontroller, which has no room for filters
    if wish is not None:
        return made if wish.form == "direct" else _form(region, isa, operands, int(wish.form.removeprefix("winograd"))) or made
    limit = _GAIN * timed(made.plan, operands.footprint).cycles
    forms = [f for m in _SUMS if (f := _form(region, isa, operands, m)) is not None and timed(f.plan, operands.footprint).cycles < limit]
    return min([*forms, made], key=lambda planned: _price(isa, planned))


def _price(isa: Isa, planned: Planned) -> float:
    """Cycles of a run, and those in which its weights come from main memory once: what bytes that stay in memory must be worth.

    A model with many of them is larger than the caches, so that is also what they cost when nothing hides it.
    """
    kept = sum(a.elements * dtype_bits(a.dtype) // 8 for a in planned.plan.args if a.role in ("weight", "prepared"))
    return timed(planned.plan, 0).cycles + kept / (isa.dram_bytes_per_cycle or 1.0)


def _form(region: Region, isa: Isa, operands: Operands, m: int) -> Planned | None:
    node = region.anchor
    inputs = tuple(v for v in region.anchor_inputs if v is not None)
    if node is None or len(inputs[0].dims) != 4 or int(node.attrs.get("group", 1)) != 1 or inputs[1].tensor.dtype not in _STORED:  # noqa: PLR2004
        return None
    geometry, images = Geometry.of(node.attrs, inputs[1].dims[2:]), Images.of(inputs, region, operands)
    x, y = images.x, images.y
    if (geometry.kernel, geometry.strides, geometry.dilations) != ((TAPS, TAPS), (1, 1), (1, 1)):
        return None
    if images.cut or inputs[0].tensor.dtype != "f32":
        return None
    if min(x.axes[1].extent, y.axes[1].extent) < _LEAST or not all(_contiguous(v.axes[1], isa.lanes) for v in (x, y)):
        return None
    return _plan(region, isa, images, m, geometry.pads[:2], operands.tile)


def _contiguous(axis: Axis, lanes: int) -> bool:
    """Whether vectors of channels lie in a row."""
    return axis.inner == 1 and axis.block % lanes == 0 if axis.block else axis.stride == 1


def _plan(
    region: Region, isa: Isa, images: Images, m: int, pads: tuple[int, int], wish: tuple[int, int] | None,
) -> Planned:
    x, y, side = images.x, images.y, m + TAPS - 1
    (count, ic, *_), oc = x.shape, y.axes[1].extent
    total = count * -(-y.axes[2].extent // m) * -(-y.axes[3].extent // m)
    share = _SHARE_IN_ORDER if isa.in_order else _SHARE
    room = max(4, int((isa.l2_bytes or 8 * isa.l1_bytes) * share) // (side * side * ic * 4))
    blocks = -(-total // min(room, _MOST_TILES))
    tiles = -(-total // blocks)
    lanes = vectors(oc, isa.lanes)
    tile = choose_tile(isa, lanes, tiles, ic, rows=side * side, lane=isa.broadcast == "lane" and ic % isa.lanes == 0,
                       strided=isa.in_order,                           # where LLVM loads so much ahead that 5x4 spills here, too
                       wish=wish)
    widths = tuple(lanes[i:i + tile.nb] for i in range(0, len(lanes), tile.nb))
    macs = y.axes[0].extent * oc * y.axes[2].extent * y.axes[3].extent * ic * TAPS * TAPS
    runs = chunks(blocks, min(_RUNS, max(1, macs // _RUN_MACS)))
    parts = min(len(widths), 2) if runs == 1 and macs >= _RUN_MACS else 1
    filters = side * side * ic * oc
    args = list(images.args(region))
    args[1] = Arg("prepared", "f32", filters)
    args.append(Arg("scratch", "f32", scratch_elements(side, tiles, ic, max(map(sum, widths)))))
    streamed = (blocks - 1) * memory_cycles(isa, filters * 4, filters * 4)      # again: the first time counts as that of all weights
    transforms = parts * _transform(isa, side, m, ic) + _transform(isa, side, m, oc, back=True)
    computing = max(blocks * tile.cycles, streamed) + total * transforms
    stored = Arg("weight", images.inputs[1].tensor.dtype, ic * oc * TAPS * TAPS)
    prepare = FiltersPlan(isa, (stored, Arg("output", "f32", filters)), len(widths), m=m, channels=ic, widths=widths)
    plan = WinogradPlan(isa, tuple(args), runs * parts, x=x, y=y, m=m, pads=pads, widths=widths, tiles=tiles,
                        columns=min(tile.tw, tiles), runs=runs, parts=parts, bias=images.bias, epilogue=images.epilogue(region),
                        macs=macs, bytes=traffic(args), computing=computing, passes=blocks, others=tile.others)
    return Planned(replace(plan, prepare=((1, prepare),)), (*images.inputs, *region.operands))


def _transform(isa: Isa, side: int, m: int, channels: int, *, back: bool = False) -> float:
    """Cycles of the transform of all channels of one tile: arithmetic along both axes, and each element loaded and stored."""
    sums = _SUMS[m][back] * (side + (m if back else side))
    moved = side * side + (m * m if back else side * side)
    return -(-channels // isa.lanes) * (sums / isa.fma_ports + moved / isa.load_ports)


