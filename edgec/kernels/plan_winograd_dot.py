"""When a convolution of bytes becomes one by Winograd's method: exact, so it is a matter of time and memory alone."""

from math import prod

from edgec.ir.graph import Value
from edgec.isa import Isa
from edgec.kernels.base import Operands, Planned, timed
from edgec.kernels.image import Images
from edgec.kernels.plan_dot import arguments, read, with_bias
from edgec.kernels.plan_dot import convolution as direct
from edgec.kernels.plan_winograd import contiguous, filtered, price, shaped
from edgec.kernels.region import Region
from edgec.kernels.taps import Geometry
from edgec.kernels.winograd import TAPS
from edgec.kernels.winograd_dot import DotWinogradPlan, fits

_FORMS = ("vpmaddubsw", "pmaddwd")      # of units whose products of bytes take at least as many instructions as those of 16 bits
_GAIN = 0.95                            # of the time of the direct form, below which its filters are worth being made
_LEAST = 32                             # channels below which the transforms cost more than the products save


def convolution(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """The direct plan of a ConvInteger, or Winograd's that is predicted to be faster and worth its memory.

    `optimize` = "size" among the further facts of the unit forbids it, whose filters take more memory; with "start" they are stored.
    """
    made, wish = direct(region, isa, operands), operands.choice
    if isinstance(made, str) or isa.int8_form not in _FORMS or isa.fact("optimize") == "size":
        return made
    if wish is not None:
        return (_form(region, isa, operands) or made) if wish.form == "winograd2" else made
    limit = _GAIN * timed(made.plan, operands.footprint).cycles
    form = _form(region, isa, operands)
    return made if form is None or timed(form.plan, operands.footprint).cycles >= limit else min(form, made, key=lambda p: price(isa, p))


def _form(region: Region, isa: Isa, operands: Operands) -> Planned | None:
    node, isa, found = region.anchor, isa.integer, read(region, operands)
    if node is None or isinstance(found, str) or len(found[0].dims) != 4 or int(node.attrs.get("group", 1)) != 1:   # noqa: PLR2004
        return None
    x, w, zero = found
    geometry, images = Geometry.of(node.attrs, w.dims[2:]), Images.of((x, w), region, operands)
    if (geometry.kernel, geometry.strides, geometry.dilations) != ((TAPS, TAPS), (1, 1), (1, 1)) or images.cut:
        return None
    channels, outputs = images.x.axes[1], images.y.axes[1]
    if min(channels.extent, outputs.extent) < _LEAST or channels.extent % (2 * isa.lanes) or outputs.extent % isa.lanes:
        return None
    weight = operands.weight(w)
    if not (contiguous(channels, 2 * isa.lanes) and contiguous(outputs, isa.lanes)) or weight is None or not fits(weight):
        return None
    return _plan(region, isa, images, zero, geometry.pads[:2], operands.tile)


def _plan(
    region: Region, isa: Isa, images: Images, zero: Value | None, pads: tuple[int, int], wish: tuple[int, int] | None,
) -> Planned:
    x, y = images.x, images.y
    zeros = () if zero is None else (zero,)
    offset, epilogue = with_bias(region, images, 2 + len(zeros))
    macs = prod(y.shape) * x.axes[1].extent * TAPS * TAPS
    plan = shaped(DotWinogradPlan(isa, (), 0, x=x, y=y, m=2, pads=pads, widths=(), tiles=0, columns=0, runs=0, parts=0, bias=False,
                                  epilogue=epilogue, zero=bool(zeros), offset=offset, macs=macs), wish)
    plan = filtered(plan, arguments(region, images, zeros, images.inputs[1].tensor.elements), "i16", "i32")
    return Planned(plan, (*images.inputs, *zeros, *region.operands))
