"""How two matrix products with a softmax between them become one kernel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType

from edgec.cost import choose_tile, fits, tile_cycles
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels.attention import AttentionPlan, scratch_elements
from edgec.kernels.base import Arg, Epilogue, Load, Operands, Planned, broadcast, extent, fuse_axes, traffic, vectors
from edgec.kernels.functions import refusal
from edgec.kernels.region import Region, region

KIND = "attention"
"""The kind of an edgec.Fused node that holds MatMul, elementwise arithmetic, Softmax, MatMul."""
_TASKS = 8              # tasks at most, for each has scratch memory of its own
_TASK_MACS = 500_000    # multiply-accumulates below which a task is not worth its memory
_EXP = 14.0             # vector operations of a power, its maximum and its sum, as counted in machine code


@dataclass(frozen=True)
class _Heads:
    """Views of Q, K, V, of what the arithmetic reads, and of the output, all as [b, h, …]."""

    q: View
    k: View
    v: View
    loads: tuple[View, ...]
    y: View


def attention(node: Node, isa: Isa, operands: Operands) -> Planned | str:
    """The plan of a Fused node of this kind, or the reason why there is none."""
    parts = _parts(node)
    if isinstance(parts, str):
        return parts
    scores, v = parts
    q, k = scores.anchor_inputs
    if q is None or k is None:
        return "attention lacks an operand"
    inputs = (q, k, v, *scores.operands)
    if any(x.tensor.dtype != "f32" for x in (q, k, v, node.outputs[0])) or scores.result.dtype != "f32":
        return "attention is written for f32"
    if reason := refusal(scores.expr):
        return reason
    if not all(prod(x.dims) for x in (*inputs, node.outputs[0])):
        return "there is nothing to compute"
    heads = _heads(scores, v, node.outputs[0], operands)
    if isinstance(heads, str):
        return heads
    return Planned(_plan(isa, heads, scores, inputs), inputs)


def _parts(node: Node) -> tuple[Region, Value] | str:
    """The region that makes the scores, and V."""
    body: Graph = node.attrs["body"]
    outer = dict(zip(body.inputs, (v for v in node.inputs if v is not None), strict=True))
    softmax = next((n for n in body.nodes if n.op == "Softmax"), None)
    second = body.producer.get(body.outputs[0])
    if softmax is None or second is None or second.op != "MatMul" or second.inputs[0] is not softmax.outputs[0]:
        return "attention is Softmax, then MatMul"
    v, score = second.inputs[1], softmax.inputs[0]
    if v not in outer or score is None or v is None:
        return "attention reads V from outside"
    rank = len(score.dims)
    if int(softmax.attrs.get("axis", -1)) % rank != rank - 1:
        return "the Softmax of attention is along its last axis"
    steps = tuple(n for n in body.nodes if n not in (softmax, second))
    used = tuple(dict.fromkeys(x for n in steps for x in n.inputs if x is not None and x in outer))
    inner = Graph("scores", used, (score,), steps)
    made = region(Node("edgec.Fused", tuple(outer[x] for x in used), (score,), MappingProxyType({"kind": KIND, "body": inner})))
    if isinstance(made, str):
        return made
    if made.anchor is None or made.anchor.op != "MatMul":
        return "the scores of attention are a product"
    return made, outer[v]


def _heads(scores: Region, v: Value, y: Value, operands: Operands) -> _Heads | str:
    q, k = (operands.view(x) for x in scores.anchor_inputs if x is not None)
    if min(len(q.axes), len(k.axes), len(v.dims)) < 2:                 # noqa: PLR2004
        return "attention of a vector is not written"
    *lead, rows, columns = scores.result.dims
    if tuple(y.dims[:-2]) != tuple(lead):
        return "the batches of V are not those of the scores"
    shapes = ((q, (rows, q.shape[-1])), (k, (k.shape[-2], columns)), (operands.view(v), (columns, y.dims[-1])),
              *((operands.view(x), (rows, columns)) for x in scores.operands))
    views = [broadcast(view, (*lead, *shape)) for view, shape in shapes]
    made = [_four(view) for view in (*views, operands.view(y))]
    found = [view for view in made if view is not None]
    if len(found) < len(made):
        return "the batches of these operands do not lie at one step"
    if any(a.block for view in found for a in view.axes):
        return "attention reads and writes tensors without blocks"
    if found[2].axes[3].extent > 1 and found[2].axes[3].stride != 1:
        return "V is not contiguous along its columns"
    return _Heads(found[0], found[1], found[2], tuple(found[3:-1]), found[-1])


def _four(view: View) -> View | None:
    """A view [..., m, n] as [b, h, m, n]; None where the leading axes do not lie at one step."""
    *lead, rows, columns = view.axes
    lead = [Axis(1, 0)] * (2 - len(lead)) + lead
    outer: Axis | None = lead[0]
    for axis in lead[1:-1]:
        outer = fuse_axes(outer, axis) if outer is not None else None
    return None if outer is None else View((outer, lead[-1], rows, columns))


def _plan(isa: Isa, heads: _Heads, scores: Region, inputs: Sequence[Value]) -> AttentionPlan:
    (b, h, rows, width), (depth, columns) = heads.y.shape, heads.k.shape[2:]
    lane = isa.broadcast == "lane" and heads.q.axes[3].stride == 1 and depth >= isa.lanes
    along, over = vectors(columns, isa.lanes), vectors(width, isa.lanes)
    tile = choose_tile(isa, over, rows, columns, lane=lane)            # the longer sums decide, the others take what fits
    most = max((n for n in range(1, len(along) + 1) if fits(isa, tile.tw, n, lane=lane)), default=1)
    count, macs = b * h, b * h * rows * columns * (depth + width)
    wanted = max(1, min(_TASKS, macs // _TASK_MACS))
    parts = max(1, min(wanted // count, rows // (2 * tile.tw)))
    units = -(-count * parts // wanted)
    turned = heads.k.axes[3].extent > 1 and heads.k.axes[3].stride != 1
    args = [Arg("input", x.tensor.dtype, extent(view))
            for x, view in zip(inputs, (heads.q, heads.k, heads.v, *heads.loads), strict=True)]
    args += [Arg("output", "f32", extent(heads.y)), Arg("scratch", "f32", scratch_elements(columns, depth, tile.tw, turned=turned))]
    epilogue = Epilogue(scores.expr, tuple(Load(i, view) for i, view in enumerate(heads.loads, 3)))
    plan = AttentionPlan(
        isa, tuple(args), -(-count * parts // units), q=heads.q, k=heads.k, v=heads.v, y=heads.y, scores=epilogue, rows=tile.tw,
        widths=tuple(along[i:i + most] for i in range(0, len(along), most)),
        across=tuple(over[i:i + tile.nb] for i in range(0, len(over), tile.nb)), turned=turned, parts=parts, units=units)
    first = len(along) / most * -(-rows // tile.tw) * tile_cycles(isa, tile.tw, most, depth, lane=lane)
    powers = rows * len(along) * (_EXP + len(scores.expr.instrs)) / isa.fma_ports
    turning = plan.parts * 2.0 * columns * -(-depth // isa.lanes) * turned
    return replace(plan, macs=macs, bytes=traffic(args), computing=count * (tile.cycles + first + powers + turning))
