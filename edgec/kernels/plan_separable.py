"""How a depthwise convolution becomes one kernel with the convolution in front of it, the 1x1 convolution behind it, or both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType

from edgec.cost import memory_cycles, predicted_us, refetch_cycles
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Axis, View
from edgec.isa import Isa
from edgec.kernels import plan_contract
from edgec.kernels.base import Arg, KernelPlan, Operands, Planned, chunks, fuse_axes, timed, traffic
from edgec.kernels.contract import ContractPlan
from edgec.kernels.functions import refusal
from edgec.kernels.image import Images
from edgec.kernels.region import Region, region
from edgec.kernels.separable import SeparablePlan
from edgec.kernels.taps import Geometry, Taps
from edgec.kernels.window import WindowPlan

KIND = "separable"
"""The kind of an edgec.Fused node that holds a depthwise convolution and 1x1 convolutions, each with the arithmetic that follows it."""
_RANK = 4
_TASKS, _EXPANDED = 8, 4  # tasks at most, for each has scratch memory of its own; with rows that two of them may compute
_TASK_MACS = 100_000      # multiply-accumulates below which a task is not worth its memory
_TWICE = 0.16             # of the rows in front, how many may be computed by two calls
_LINE = 16                # elements of a line of memory


def is_depthwise(node: Node) -> bool:
    """Whether a node is a depthwise convolution of images."""
    x, y = node.inputs[0], node.outputs[0]
    if node.op != "Conv" or x is None or len(y.dims) != _RANK:
        return False
    return bool(int(node.attrs.get("group", 1)) == x.dims[1] == y.dims[1] > 1)


def is_pointwise(node: Node) -> bool:
    """Whether a node multiplies each pixel of an image by one matrix."""
    x, weight, y = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None, node.outputs[0]
    if node.op != "Conv" or x is None or weight is None or len(y.dims) != _RANK or int(node.attrs.get("group", 1)) != 1:
        return False
    return Geometry.of(node.attrs, weight.dims[2:]).pointwise and y.dims[2:] == x.dims[2:]


def is_dense(node: Node) -> bool:
    """Whether a node is a convolution of images without groups: it may stand in front of a depthwise one."""
    return node.op == "Conv" and len(node.outputs[0].dims) == _RANK and int(node.attrs.get("group", 1)) == 1


def slower(isa: Isa, whole: Planned | str, parts: Sequence[Planned | str]) -> str | None:
    """Why one kernel is not to be preferred to several; None when it is."""
    if isinstance(whole, str):
        return whole
    one, several = whole.plan.cycles, sum(0.0 if isinstance(p, str) else p.plan.cycles for p in parts)
    if one < several:
        return None
    return f"{predicted_us(isa, one):.2f} us are predicted for one kernel, {predicted_us(isa, several):.2f} us for {len(parts)}"


def separable(node: Node, isa: Isa, operands: Operands) -> Planned | str:
    """The plan of a Fused node of this kind, or the reason why there is none."""
    parts = chain(node, isa, operands)
    return parts if isinstance(parts, str) else parts.best()


def chain(node: Node, isa: Isa, operands: Operands) -> "Chain | str":
    """The convolutions of a Fused node of this kind, or the reason why they cannot be one kernel."""
    regions = _regions(node)
    if isinstance(regions, str):
        return regions
    anchors = [r.anchor for r in regions if r.anchor is not None]
    which = next((i for i, a in enumerate(anchors) if is_depthwise(a)), None)
    if which is None or which > 1 or len(regions) > which + 2 or len(anchors) != len(regions):
        return "this kernel is a depthwise convolution with at most one other on either side"
    if not all(map(is_dense, anchors[:which])) or not all(map(is_pointwise, anchors[which + 1:])):
        return "in front of a depthwise convolution stands one without groups, and behind it a 1x1 convolution"
    for r in regions:
        if any(v is not None and v.tensor.dtype != "f32" for v in (*r.anchor_inputs, r.output)):
            return "depthwise and 1x1 convolutions in one kernel are written for f32"
        if not all(operands.constant(v) for v in r.anchor_inputs[1:] if v is not None):
            return "Conv is written for constant weights"
        if reason := refusal(r.expr):
            return reason
    if not prod(node.outputs[0].dims):
        return "there is nothing to compute"
    behind = regions[which + 1] if len(regions) > which + 1 else None
    return Chain(regions[0] if which else None, regions[which], behind, isa, operands)


def _regions(node: Node) -> list[Region] | str:
    """The regions of all convolutions, one after the other; each one's output but the last is what the next one reads first."""
    body: Graph = node.attrs["body"]
    outer = dict(zip(body.inputs, (v for v in node.inputs if v is not None), strict=True))
    stage: dict[Node, int] = {}
    between: list[Value | None] = []
    for n in body.nodes:
        before = [stage[body.producer[v]] for v in n.inputs if v is not None and v in body.producer]
        stage[n] = max(before, default=-1 if n.op == "Conv" else 0) + (n.op == "Conv")
        if n.op == "Conv" and stage[n] > 0:
            between.append(n.inputs[0])
    results = [*between, body.outputs[0]]
    made: list[Region] = []
    for number, result in enumerate(results):
        steps = tuple(n for n in body.nodes if stage[n] == number)
        inside = {v for n in steps for v in n.outputs}
        used = tuple(dict.fromkeys(v for n in steps for v in n.inputs if v is not None and v not in inside))
        if result is None or result not in inside or any(v not in outer and (number == 0 or v is not results[number - 1]) for v in used):
            return "convolutions of one kernel follow one another, and nothing else joins them"
        inner = Node("edgec.Fused", tuple(outer.get(v, v) for v in used), (result if number + 1 < len(results) else node.outputs[0],),
                     MappingProxyType({"kind": KIND, "body": Graph("part", used, (result,), steps)}))
        part = region(inner)
        if isinstance(part, str):
            return part
        made.append(part)
    return made


@dataclass
class Chain:
    """The parts of a kernel, to be planned with bands of any height."""

    expand: Region | None
    depth: Region
    point: Region | None
    isa: Isa
    operands: Operands

    def best(self) -> Planned | str:
        """The plan that takes least, its scratch memory counted as the cycles in which that comes from main memory once."""
        first = self._first()
        if isinstance(first, str):
            return first
        found: list[Planned] = []
        for rows in self._heights(first[1].plan):
            made = self._plan(*first, rows)
            if isinstance(made, str):
                return made
            found.append(made)
        if not found:
            return "threads would compute too many rows twice"
        return min(found, key=self._price)

    def of(self, rows: int) -> Planned | str:
        """The plan with bands of so many rows."""
        first = self._first()
        return first if isinstance(first, str) else self._plan(*first, rows)

    def _price(self, planned: Planned) -> tuple[float, int]:
        plan, isa = planned.plan, self.isa
        memory = plan.scratch * plan.tasks * 4
        if isa.fact("optimize") == "size":
            return 0.0, memory
        return timed(plan, self.operands.footprint).cycles + (memory / isa.dram_bytes_per_cycle if isa.dram_bytes_per_cycle else 0), memory

    def _seen(self, rows: int) -> Operands:
        """The operands, with what lies in scratch memory as rows of whole images that begin at the base."""
        views: dict[Value, View] = {}
        if self.expand is not None:
            views[self.expand.output] = scratch_view(self.expand.output.dims, rows, self.isa.lanes)
        if self.point is not None:
            views[self.depth.output] = scratch_view(self.depth.output.dims, rows, self.isa.lanes)
        return replace(self.operands, view=lambda v: views[v] if v in views else self.operands.view(v))

    def _first(self) -> tuple[Planned | None, Planned] | str:
        """Plans of the first two parts, whose tiles do not depend on the height of a band."""
        seen = self._seen(1)
        inputs = tuple(v for v in self.depth.anchor_inputs if v is not None)
        images = Images.of(inputs, self.depth, seen)
        depth = plan_contract.convolution(self.depth, self.isa, seen)
        if isinstance(depth, str):
            return depth
        if not isinstance(depth.plan, WindowPlan) or (depth.plan.x, depth.plan.y) != (images.x, images.y):
            return "the depthwise convolution does not go row by row"
        if self.expand is None:
            return None, depth
        images = Images.of(tuple(v for v in self.expand.anchor_inputs if v is not None), self.expand, seen)
        if self.expand.anchor is not None and is_pointwise(self.expand.anchor):
            expand = self._product(self.expand, images)
        else:
            expand = plan_contract.convolution(self.expand, self.isa, seen)
        if isinstance(expand, str):
            return expand
        if not isinstance(expand.plan, ContractPlan) or (expand.plan.x, expand.plan.y) != (images.x, images.y) or expand.plan.widen:
            return "the first convolution does not go row by row"
        return expand, depth

    def _product(self, part: Region, images: Images) -> Planned | str:
        ys, xs = ((Taps.pointwise(images.y.axes[axis].extent),) for axis in (2, 3))
        made = plan_contract.contraction(part, self.isa, images, plan_contract.Nest("conv", "oihw", ys, xs))
        return made if isinstance(made, str) or isinstance(made.plan, ContractPlan) else "a 1x1 convolution has another plan"

    def _heights(self, depth: KernelPlan) -> list[int]:
        """Rows of a band that are worth a thought: equal parts of the rows that leave the second cache room for weights."""
        n, _, height, _ = self.depth.output.dims
        enough = self._macs(depth) < _EXPANDED * _TASK_MACS or self.isa.lanes == 1     # a microcontroller has no threads
        if self.expand is not None and not enough and n * self._tasks_of_an_image(depth) < _EXPANDED:
            return []
        most = height if enough else max(1, n * height // _EXPANDED)
        room = (self.isa.l2_bytes or self.isa.l1_bytes) // 2
        heights = sorted({-(-height // bands) for bands in range(1, height + 1)})
        fitting = [r for r in heights if r <= most and (not room or sum(self._sizes(depth, r)) * 4 <= room)] or heights[:1]
        even = [r for r in fitting if height % r == 0]
        return list(dict.fromkeys([*even, fitting[-1]]))

    def _macs(self, depth: KernelPlan) -> int:
        ends = [p.output.tensor.elements * prod(p.anchor_inputs[1].dims[1:]) for p in (self.expand, self.point)
                if p is not None and p.anchor_inputs[1] is not None]
        return depth.macs + sum(ends)

    def _tasks_of_an_image(self, depth: KernelPlan) -> int:
        """Into how many tasks an image may be cut. With a ring of rows each may compute some that another one computes, too."""
        if self.expand is None or not isinstance(depth, WindowPlan):
            return _TASKS
        twice = max(0, (depth.ys.count - 1) * depth.ys.pitch + 1 - depth.ys.step)
        return min(_EXPANDED, int(_TWICE * self.expand.output.dims[2] / twice)) if twice else _EXPANDED

    def _sizes(self, depth: KernelPlan, rows: int) -> tuple[int, int]:
        """Elements of the ring of rows, and of a band of depthwise rows."""
        ring = band = 0
        if self.expand is not None and isinstance(depth, WindowPlan):
            _, channels, _, width = self.expand.output.dims
            ring = -(-_ring(depth.ys, rows, self.expand.output.dims[2]) * channels * width // _LINE) * _LINE
        if self.point is not None:
            _, channels, _, width = self.depth.output.dims
            band = -(-rows * channels * width // _LINE) * _LINE
        return ring, band

    def _plan(self, expand: Planned | None, depth: Planned, rows: int) -> Planned | str:
        """The plan with bands of so many rows."""
        n, _, height, _ = self.depth.output.dims
        bands = chunks(height, -(-height // rows))
        rows = -(-height // bands)
        isa, seen, two = self.isa, self._seen(rows), depth.plan
        point: Planned | None = None
        flat = False
        if not isinstance(two, WindowPlan):
            return "the depthwise convolution has another plan"
        two = replace(two, tasks=1, row_chunks=1)
        one = expand.plan if expand else None
        if isinstance(one, ContractPlan) and self.expand is not None:
            ring = _ring(two.ys, rows, self.expand.output.dims[2])
            view = scratch_view(self.expand.output.dims, ring, isa.lanes, ring=True)
            one, two = replace(one, tasks=1, row_chunks=1, ahead=0, lead=0, y=view), replace(two, x=view)
        if self.point is not None:
            two = replace(two, y=seen.view(self.depth.output))
            images = Images.of(tuple(v for v in self.point.anchor_inputs if v is not None), self.point, seen)
            long = _flat(images, bands, rows)
            product = self._product(self.point, long or images)
            if isinstance(product, str):
                return product
            flat, point = long is not None, product
        three = replace(point.plan, tasks=1, row_chunks=1, ahead=0, lead=0) if point and isinstance(point.plan, ContractPlan) else None
        parts: list[KernelPlan] = [p for p in (one, two, three) if p is not None]
        args: list[Arg] = []
        inputs: list[Value] = []
        for part, planned in zip(parts, [p for p in (expand, depth, point) if p is not None], strict=True):
            args += part.args[bool(args):len(part.args) - 1]
            inputs += planned.inputs[bool(inputs):]
        sizes = self._sizes(two, rows)
        args += [parts[-1].args[-1], Arg("scratch", "f32", sum(sizes))]
        macs, all_bands = sum(p.macs for p in parts), n * bands
        tasks = n * self._tasks_of_an_image(two) if isa.lanes > 1 else 1
        plan = SeparablePlan(
            isa, tuple(args), chunks(all_bands, max(1, min(tasks, _TASKS, macs // _TASK_MACS))),
            expand=one if isinstance(one, ContractPlan) else None, depth=two, point=three, bands=bands, rows=rows, flat=flat, ring=sizes[0],
            macs=macs, bytes=traffic(args), passes=all_bands,
            computing=self._computing(parts, all_bands, sum(sizes) * 4))
        return Planned(plan, tuple(inputs))

    def _computing(self, parts: Sequence[KernelPlan], bands: int, scratch: int) -> float:
        """Cycles of all parts. What the first one reads, and what the last one writes, come and go while it works and no other does."""
        isa = self.isa
        each = [p.computing for p in parts]
        if isa.dram_bytes_per_cycle:
            moved = [traffic([a for a in p.args if a.role == role]) for p, role in ((parts[0], "input"), (parts[-1], "output"))]
            each[0] = max(each[0], memory_cycles(isa, moved[0], sum(moved)))
            each[-1] = max(each[-1], memory_cycles(isa, moved[1], sum(moved)))
        weights = traffic([a for p in parts for a in p.args if a.role == "weight"])
        return refetch_cycles(isa, sum(each), weights * (bands - 1), weights + scratch)


def _ring(ys: Taps, rows: int, height: int) -> int:
    """How many rows of an image so many depthwise rows read."""
    return min(height, (rows - 1) * ys.step + (ys.count - 1) * ys.pitch + 1)


def scratch_view(dims: tuple[int, ...], rows: int, lanes: int, *, ring: bool = False) -> View:
    """Where `rows` rows of images lie, all channels of them: in blocks of channels where they divide, else channels last.

    Row 0 of an image is at the base; in a `ring`, rows that are `rows` apart lie at the same place.
    """
    n, channels, height, width = dims
    if channels % lanes == 0 and channels > lanes > 1:
        along, pixel = Axis(channels, rows * width * lanes, lanes), lanes
    else:
        along, pixel = Axis(channels, 1), channels
    row = width * pixel
    down = Axis(height, 0, rows, row) if ring and 1 < rows < height else Axis(height, 0 if ring and rows == 1 else row)
    return View((Axis(n, 0), along, down, Axis(width, pixel)))


def _flat(images: Images, bands: int, rows: int) -> Images | None:
    """Bands as rows, whose pixels follow one another; None where views do not allow it."""
    height, width = images.y.shape[2:]
    merged = [fuse_axes(v.axes[2], v.axes[3]) for v in images.views[1:]]
    if bands * rows != height or any(m is None or m.block for m in merged):
        return None
    pixels, (n, channels, _, pixel) = rows * width, images.x.axes
    x = View((n, channels, Axis(bands, 0), Axis(pixels, pixel.stride)))
    return replace(images, views=(x, *(
        View((*v.axes[:2], Axis(bands, m.stride * pixels), Axis(pixels, m.stride))) for v, m in zip(images.views[1:], merged, strict=True)
        if m is not None)))
