"""Convolutions and pools with every attribute of their windows written out."""

from collections.abc import Sequence

from edgec.ir.graph import Node, Value
from edgec.ir.sweep import Changes, Sweep
from passes.changes.facts import dims


def explicit_window(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """The kernel's shape, strides, dilations, group and pads as numbers; `auto_pad`, `output_shape` and `ceil_mode` become pads."""
    known, result = dims(node.inputs[0]), dims(node.output)
    kernel = node.attrs.get("kernel_shape")
    if kernel is None:
        weight = dims(node.input(1))
        if weight is None:
            return None
        kernel = weight[2:]
    count, old = len(kernel), node.attrs
    attrs = {k: a for k, a in old.items() if k not in ("auto_pad", "output_shape")}
    attrs["kernel_shape"] = list(kernel)
    strides = attrs["strides"] = list(old.get("strides") or [1] * count)
    dilations = [1] * count if node.op == "LpPool" and not old.get("dilations") else list(old.get("dilations") or [1] * count)
    attrs["dilations"] = dilations
    if node.op in ("Conv", "ConvTranspose"):
        attrs["group"] = old.get("group", 1)
    if node.op == "ConvTranspose":
        attrs["output_padding"] = list(old.get("output_padding") or [0] * count)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto = old.get("auto_pad", "NOTSET")
    if auto == "VALID" or (auto == "NOTSET" and not old.get("pads")):
        attrs["pads"] = [0] * (2 * count)
    if auto.startswith("SAME") or old.get("output_shape"):
        if known is None or result is None:
            return None
        if node.op == "ConvTranspose":
            total = [s * (i - 1) + p + e - o for s, i, p, e, o in
                     zip(strides, known[2:], attrs["output_padding"], extents, result[2:], strict=True)]
        else:
            total = [max((-(-i // s) - 1) * s + e - i, 0) for s, i, e in zip(strides, known[2:], extents, strict=True)]
        if min(total) < 0:
            return None
        upper = auto == "SAME_UPPER"
        begin = [t // 2 if upper else t - t // 2 for t in total]
        attrs["pads"] = [*begin, *(t - b for t, b in zip(total, begin, strict=True))]
    if old.get("ceil_mode") and _skips_padding(node) and known is not None and result is not None:
        begin = attrs["pads"][:count]
        end = [max((o - 1) * s + e - i - b, 0) for o, s, e, i, b in zip(result[2:], strides, extents, known[2:], begin, strict=True)]
        if all(p < e for p, e in zip(end, extents, strict=True)):
            attrs["pads"], attrs["ceil_mode"] = [*begin, *end], 0
    attrs = {k: a for k, a in attrs.items() if (k, a) not in (("ceil_mode", 0), ("storage_order", 0), ("count_include_pad", 0))}
    if {k: list(a) if isinstance(a, tuple) else a for k, a in old.items()} == attrs:
        return None
    return edit.remake(node, attrs=attrs)


def _skips_padding(node: Node) -> bool:
    """Whether padding does not count, so that windows which rounding up adds may see more of it."""
    return node.op == "MaxPool" or (node.op == "AveragePool" and not node.attrs.get("count_include_pad"))


CHANGES: Changes = dict.fromkeys(("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"), (explicit_window,))
