"""How a Resize becomes one kernel."""

from edgec.isa import Isa
from edgec.kernels.base import Epilogue, Operands, Planned, loads_of
from edgec.kernels.region import Region
from edgec.kernels.resize import plan_resize


def resize(region: Region, isa: Isa, operands: Operands) -> Planned | str:
    """Resize with scales or sizes that are known when the model is built."""
    node = region.anchor
    if node is None or region.anchor_inputs[0] is None:
        return "nothing to resize"
    source, roi, scales = (*region.anchor_inputs, None, None)[:3]
    if source is None or node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "Resize is written for sizes that are taken as they are"
    rank = len(source.dims)
    axes = [int(a) % rank for a in node.attrs.get("axes", range(rank))]
    given = operands.floats(scales) if scales is not None and scales.tensor.elements else None
    if scales is not None and scales.tensor.elements and given is None:
        return "the scales of Resize are not known when the model is built"
    factors = [1.0] * rank if given is not None else None
    for axis, factor in zip(axes, given or (), strict=False):
        if factors is not None:
            factors[axis] = factor
    region_of_interest = operands.floats(roi) if roi is not None and roi.tensor.elements and len(axes) == rank else None
    inputs = (source, *region.operands)
    loads = loads_of(region.operands, 1, operands, region.result.dims)
    made = plan_resize(node.attrs, factors, operands.view(source), operands.view(region.output),
                       [*(v.tensor.dtype for v in inputs), region.result.dtype], isa, Epilogue(region.expr, loads), region_of_interest)
    return made if isinstance(made, str) else Planned(made, inputs)
