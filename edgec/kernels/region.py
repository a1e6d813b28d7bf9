"""A region that may become one kernel: an anchor node, and the elementwise arithmetic around it, as data.

Reads `edgec.Fused` nodes and plain ones alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.kernels.expr import ELEMENTWISE, Expr, Instr


@dataclass(frozen=True)
class Region:
    """`anchor` is the one node that is not elementwise (None for a map); its operands are values of the outer graph.

    `anchor_inputs`: the outer value of each anchor input, and `storage` the dtype it is stored in when the region widens it.
    `operands`: outer values that `expr` reads after its argument 0, the anchor's result (from argument 0 on when there is no anchor).
    """

    anchor: Node | None
    anchor_inputs: tuple[Value | None, ...]
    anchor_output: Tensor | None
    operands: tuple[Value, ...]
    expr: Expr
    output: Value

    @property
    def result(self) -> Tensor:
        """The type of what the region makes."""
        return self.output.tensor


def region(node: Node) -> Region | str:
    """The region of a node, or the reason why it is none."""
    if node.op != "edgec.Fused":
        body = Graph("single", tuple(dict.fromkeys(v for v in node.inputs if v is not None)), (node.outputs[0],), (node,))
        outer = {v: v for v in body.inputs}
    else:
        body = node.attrs["body"]
        outer = dict(zip(body.inputs, (v for v in node.inputs if v is not None), strict=True))
    if len(node.outputs) != 1:
        return "a kernel makes one output"
    anchors = [n for n in body.nodes if n.op not in ELEMENTWISE and not _widens(n, body, outer)]
    if len(anchors) > 1:
        return f"{anchors[0].op} and {anchors[1].op} do not fit into one kernel"
    return _read(body, outer, anchors[0] if anchors else None, node.outputs[0])


def _widens(node: Node, body: Graph, outer: Mapping[Value, Value]) -> bool:
    """Whether a node only widens a stored operand of the anchor."""
    return node.op == "Cast" and node.inputs[0] in outer and all(u.op not in ELEMENTWISE for u in body.consumers.get(node.outputs[0], ()))


def _read(body: Graph, outer: Mapping[Value, Value], anchor: Node | None, output: Value) -> Region | str:
    casts = [n for n in body.nodes if anchor and n is not anchor and _widens(n, body, outer)]
    widened = {n.outputs[0]: outer[v] for n in casts if (v := n.inputs[0]) is not None}
    anchor_inputs = tuple(v and (outer.get(v) or widened.get(v)) for v in anchor.inputs) if anchor else ()
    if anchor and any(v is not None and now is None for v, now in zip(anchor.inputs, anchor_inputs, strict=True)):
        return f"{anchor.op} reads something that is computed inside the region"
    steps = [n for n in body.nodes if n is not anchor and n.outputs[0] not in widened]
    operands: list[Value] = []
    dtypes: list[str] = [anchor.outputs[0].tensor.dtype] if anchor else []
    numbers: dict[Value, int] = {anchor.outputs[0]: 0} if anchor else {}
    for step in steps:
        for v in step.inputs:
            if v is not None and v not in numbers and v in outer:
                numbers[v] = len(dtypes)
                operands.append(outer[v])
                dtypes.append(outer[v].tensor.dtype)
    instrs: list[Instr] = []
    for step in steps:
        made = _instr(step, numbers)
        if isinstance(made, str):
            return made
        numbers[step.outputs[0]] = len(dtypes) + len(instrs)
        instrs.append(made)
    return Region(anchor, anchor_inputs, anchor.outputs[0].tensor if anchor else None, tuple(operands),
                  Expr(tuple(dtypes), tuple(instrs), (numbers[body.outputs[0]],)), output)


def _instr(node: Node, numbers: Mapping[Value, int]) -> Instr | str:
    if len(node.outputs) != 1:
        return f"{node.op} makes more than one output"
    dtype = node.outputs[0].tensor.dtype
    if node.op == "Clip":
        low, high = node.input(1), node.input(2)
        present = tuple(numbers[v] for v in node.inputs if v is not None)
        op = "Clip" if low and high else "Max" if low else "Min" if high else "Identity"
        return Instr(op, present, (), dtype)
    if node.op in ("QuantizeLinear", "DequantizeLinear") and any(v is not None and prod(v.dims) != 1 for v in node.inputs[1:]):
        return f"{node.op} with a scale for each channel is not elementwise arithmetic of one kernel"
    if any(v is None for v in node.inputs) or (node.op in ("Max", "Min") and len(node.inputs) != 2):  # noqa: PLR2004
        return f"{node.op} with these operands is not elementwise arithmetic of one kernel"
    return Instr(node.op, tuple(numbers[v] for v in node.inputs if v is not None), _plain(node.attrs), dtype)


def unscaled(what: Region, floats: Callable[[Value], tuple[float, ...] | None]) -> Region:
    """The region whose QuantizeLinear do not divide where the scale is known to be one: the arithmetic before them has scaled.

    Such a QuantizeLinear takes the bounds of a Clip before it, for it has bounds anyway.
    """
    skip = len(what.expr.arguments) - len(what.operands)
    units = {i for i, v in enumerate(what.operands, skip) if floats(v) == (1.0,)}
    instrs = tuple(replace(x, attrs=(*x.attrs, ("unit", True))) if x.op == "QuantizeLinear" and x.args[1] in units else x
                   for x in what.expr.instrs)
    first = len(what.expr.arguments)
    bounded = tuple(_bounded(x, instrs[x.args[0] - first] if x.args and x.args[0] >= first else None) for x in instrs)
    return replace(what, expr=replace(what.expr, instrs=bounded))


def _bounded(instr: Instr, source: Instr | None) -> Instr:
    """A QuantizeLinear with zero point and bounds as arguments; any other instruction as it is."""
    if source is None or source.op != "Clip" or instr.op != "QuantizeLinear" or not instr.attr("unit") or len(instr.args) != 3:  # noqa: PLR2004
        return instr
    return replace(instr, args=(source.args[0], *instr.args[1:], *source.args[1:]))


def _plain(attrs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in attrs.items()))
