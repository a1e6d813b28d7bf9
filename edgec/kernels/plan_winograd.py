"""When a convolution becomes one by Winograd's method, and with which tiles."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import TypeVar

from edgec.cost import ahead, choose_tile, memory_cycles
from edgec.ir.layout import Axis
from edgec.ir.types import dtype_bits
from edgec.isa import Isa
from edgec.kernels.base import Arg, Operands, Planned, chunks, timed, traffic, vectors
from edgec.kernels.image import Images
from edgec.kernels.plan_contract import convolution as direct
from edgec.kernels.region import Region
from edgec.kernels.taps import Geometry
from edgec.kernels.winograd import TAPS, UNROLL, FiltersPlan, WinogradPlan, scratch_elements

_RUNS = 8               # runs of blocks, each with scratch memory of its own, that are offered to threads
_RUN_MACS = 2_000_000   # multiply-accumulates below which a run is not worth its memory
_GAIN = 0.9             # of the time of the direct form, below which the transformed one is worth its rounding
_LEAST = 16             # channels below which the transforms cost more than the products save
_MOST_TILES, _LEAST_TILES, _FINER = 64, 8, 1.4      # tiles of a block that are weighed, and how many times as many as the next fewer
_HIDDEN = 0.3           # of the cycles in which transformed inputs come from beyond the second level, how many count; measured on Zen 3
_SCATTERED = {2: 1.0, 4: 1.5}   # times the arithmetic of a transform, fitted on Zen 3: 36 streams are many
_MEMORY = 1.02          # of the time, what blocks with less scratch memory may cost
_SEVERAL = 1.1          # the same, what blocks may cost that give work to another thread
_P = TypeVar("_P", bound=WinogradPlan)
_STORED = ("f32", "f16", "bf16")
_SUMS = {2: (8, 6), 4: (14, 12)}    # operations of the transforms along one axis: of inputs, of products


def convolution(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """The direct plan of a Conv, or a form of Winograd's that is predicted to be clearly faster and worth its memory.

    `exact` and `optimize` = "size" among the further facts of the unit forbid it: it rounds more, and its filters take more memory. With
    `optimize` = "start" the filters are stored as the kernel reads them, and nothing is made of the weights at run time.
    """
    made, wish = direct(region, isa, operands), operands.choice
    if isinstance(made, str) or isa.fact("exact") or isa.fact("optimize") == "size" or isa.lanes == 1:
        return made                                                    # without vectors: a microcontroller, which has no room for filters
    if wish is not None:
        return made if wish.form == "direct" else _form(region, isa, operands, int(wish.form.removeprefix("winograd"))) or made
    limit = _GAIN * timed(made.plan, operands.footprint).cycles
    forms = [f for m in _SUMS if (f := _form(region, isa, operands, m)) is not None and timed(f.plan, operands.footprint).cycles < limit]
    return min([*forms, made], key=lambda planned: price(isa, planned))


def price(isa: Isa, planned: Planned) -> float:
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
    if min(x.axes[1].extent, y.axes[1].extent) < _LEAST or not all(contiguous(v.axes[1], isa.lanes) for v in (x, y)):
        return None
    return _plan(region, isa, images, m, geometry.pads[:2], operands.tile)


def contiguous(axis: Axis, lanes: int) -> bool:
    """Whether vectors of channels lie in a row."""
    return axis.inner == 1 and axis.block % lanes == 0 if axis.block else axis.stride == 1


def _plan(
    region: Region, isa: Isa, images: Images, m: int, pads: tuple[int, int], wish: tuple[int, int] | None,
) -> Planned:
    x, y = images.x, images.y
    plan = shaped(WinogradPlan(isa, (), 0, x=x, y=y, m=m, pads=pads, widths=(), tiles=0, columns=0, runs=0, parts=0, bias=images.bias,
                               epilogue=images.epilogue(region), macs=prod(y.shape) * x.axes[1].extent * TAPS * TAPS), wish)
    return Planned(filtered(plan, images.args(region), "f32", "f32"), (*images.inputs, *region.operands))


def filtered(plan: _P, args: Sequence[Arg], dtype: str, sums: str) -> _P:
    """The plan with the arguments of the direct form, but filters of a dtype in the place of the weight, and scratch memory for `sums`.

    Filters are stored, or made of the weight when the net starts.
    """
    image, weight, *others = args
    channels = plan.y.axes[1].extent
    elements, stored = plan.side * plan.side * plan.channels * channels, plan.isa.fact("optimize") == "start"
    made = (image, Arg("weight" if stored else "prepared", dtype, elements), *others, Arg("scratch", sums, scratch_elements(plan)))
    plan = replace(plan, args=made, bytes=traffic(made))
    if stored:
        return plan
    widths = tuple(tuple(plan.depth * w for w in group) for group in plan.widths)
    prepare = FiltersPlan(plan.isa, (weight, Arg("output", dtype, elements)), len(widths), m=plan.m, channels=plan.steps, widths=widths)
    return replace(plan, prepare=((1, prepare),))


def shaped(template: _P, wish: tuple[int, int] | None) -> _P:
    """The plan with tiles, blocks and tasks, which a template leaves open; `wish`: the register tile that it shall have if it can."""
    isa, y, steps = template.isa, template.y, template.steps
    total = template.x.axes[0].extent * prod(template.grid)
    lanes = vectors(y.axes[1].extent, isa.lanes)
    filters = 4 * template.side * template.side * steps * y.axes[1].extent

    def of(blocks: int) -> _P:
        """The plan with so many blocks."""
        tiles = -(-total // blocks)
        tile = choose_tile(isa, lanes, tiles, steps, rows=template.side * template.side,
                           lane=isa.broadcast == "lane" and steps % isa.lanes == 0,
                           strided=isa.in_order,                       # where LLVM loads so much ahead that 5x4 spills here, too
                           spare=template.depth - 1,                   # pairs of products are not fused with the sum: they need a register
                           wish=wish)
        widths = tuple(lanes[i:i + tile.nb] for i in range(0, len(lanes), tile.nb))
        worth = template.macs >= _RUN_MACS                              # work for another thread
        runs = chunks(blocks, min(_RUNS, max(1 + worth, template.macs // _RUN_MACS)))
        parts = min(len(widths), 2) if runs == 1 and worth else 1      # each transforms all inputs
        plan = replace(template, tasks=runs * parts, widths=widths, tiles=tiles, columns=min(tile.tw, tiles), runs=runs, parts=parts,
                       passes=blocks, others=tile.others)
        return replace(plan, computing=_cycles(plan, total, blocks * tile.cycles), ahead=_lines(plan, blocks * tile.cycles, filters))

    plans = [of(blocks) for blocks in _blocks(total)]
    least = min(p.computing for p in plans)
    several = [p for p in plans if p.tasks > 1 and p.computing <= _SEVERAL * least] or plans
    least = min(p.computing for p in several)
    return min((p for p in several if p.computing <= _MEMORY * least), key=lambda p: p.tiles)


def _blocks(total: int) -> Iterable[int]:
    """Numbers of blocks that are weighed."""
    found, tiles = list[int](), float(min(total, _MOST_TILES))
    while tiles >= min(total, _LEAST_TILES):
        found.append(-(-total // int(tiles)))
        tiles /= _FINER
    return dict.fromkeys(found)


def _lines(plan: WinogradPlan, products: float, filters: int) -> int:
    """How many lines of filters are asked for in a body of the innermost loop, so that those of the next element are there in time."""
    if plan.isa.broadcast == "lane" or not ahead(plan.isa, filters, products):
        return 0
    return -(-sum(plan.widths[0]) * 4 * UNROLL // (plan.isa.line_bytes * -(-plan.tiles // plan.columns)))


def _cycles(plan: WinogradPlan, total: int, products: float) -> float:
    """The cycles of all products, of what moves meanwhile as far as they wait for it, and of the transforms of `total` tiles.

    Filters come once more for each block but the first (the first time counts as that of all weights), and transformed inputs for each
    vector group but the first.
    """
    isa, m, elements = plan.isa, plan.m, 4 * plan.side * plan.side
    oc = plan.y.axes[1].extent
    filters, inputs = elements * plan.steps * oc, 4 * scratch_elements(plan)
    again = (plan.blocks - 1) * memory_cycles(isa, filters, filters + inputs)
    if inputs > isa.l2_bytes > 0:
        again += _HIDDEN * plan.blocks * (len(plan.widths) - 1) * memory_cycles(isa, inputs, inputs + filters)
    transforms = plan.parts * _transform(isa, plan.side, m, plan.steps) + _transform(isa, plan.side, m, oc, back=True)
    return products + again + total * transforms


def _transform(isa: Isa, side: int, m: int, channels: int, *, back: bool = False) -> float:
    """Cycles of the transform of all channels of one tile: arithmetic along both axes, and each element loaded and stored."""
    sums = _SUMS[m][back] * (side + (m if back else side))
    moved = side * side + (m * m if back else side * side)
    return -(-channels // isa.lanes) * _SCATTERED[m] * (sums / isa.fma_ports + moved / isa.load_ports)


