"""What every kernel plan says: its pointer arguments, its tasks, and what it costs.

A plan is pure data (frozen, hashable, printable): its repr is the kernel's identity, from it alone the code is written, and
no weight value is part of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal, Self

from edgec.cost import Tile, kernel_cycles
from edgec.ir.graph import Array, Value
from edgec.ir.layout import Axis, View
from edgec.ir.types import dtype_bits
from edgec.isa import Isa
from edgec.kernels.choice import Choice
from edgec.kernels.expr import Expr

_STRUCTURE = 256
"""Elements that an operand may have which says how an operator works; larger ones are data."""
Role = Literal["input", "weight", "prepared", "output", "scratch"]


@dataclass(frozen=True)
class Arg:
    """One pointer parameter: what it is for, its element type and the number of elements it may touch from its base.

    `elements` of a scratch argument count one task slot; each running task has its own slot.
    """

    role: Role
    dtype: str
    elements: int


@dataclass(frozen=True)
class Load:
    """An extra operand of an elementwise expression: argument number and where it lies for each point of the output's index space.

    Axes along which the operand is broadcast have stride 0.
    """

    arg: int
    view: View


@dataclass(frozen=True)
class Epilogue:
    """What happens to each result before it is stored. `expr` argument 0 is the anchor's result, argument i+1 is `loads[i]`."""

    expr: Expr
    loads: tuple[Load, ...] = ()


@dataclass(frozen=True)
class KernelPlan:
    """One kernel: everything its code depends on, and what it is expected to cost.

    `macs` are multiply-accumulates, `bytes` what it reads and writes once. `computing` are the cycles of its work on one core with all
    operands in a cache nearby, `passes` how often that work goes through the weights; `cycles` is what it is expected to take in a net,
    with memory (see `timed`). `prepare`: for each argument of the role "prepared" its number and the kernel that makes it, once, from the
    weight that stands there. `others`: the tiles that come next after the one that it has, best first.
    """

    isa: Isa
    args: tuple[Arg, ...]
    tasks: int
    macs: int = field(default=0, kw_only=True, repr=False)
    bytes: int = field(default=0, kw_only=True, repr=False)
    computing: float = field(default=0.0, kw_only=True, repr=False)
    passes: float = field(default=1.0, kw_only=True, repr=False)
    cycles: float = field(default=0.0, kw_only=True, repr=False)
    prepare: tuple[tuple[int, "KernelPlan"], ...] = field(default=(), kw_only=True, repr=False)
    others: tuple[Tile, ...] = field(default=(), kw_only=True, repr=False, compare=False)

    kind = "kernel"
    generic = False

    @property
    def rounds(self) -> int:
        """Of a kernel with one task that other kernels may run beside: the pieces of that task, each of which needs those before it."""
        return 1

    @property
    def asks(self) -> bool:
        """Whether it asks for weights before it needs them."""
        return False

    @property
    def span(self) -> int:
        """Where the range of a call ends that runs all of the kernel: it counts tasks, or the rounds of its only one."""
        return self.tasks * self.rounds

    @property
    def algo(self) -> str:
        """A word for the algorithm, for reports."""
        return self.kind

    @property
    def choice(self) -> Choice | None:
        """What was chosen for this kernel, None where there is no choice."""
        return None

    @property
    def open(self) -> Self:
        """The plan without what was chosen: no kernel, but the same for all of those between which there is a choice of tiles."""
        return self

    @property
    def scratch(self) -> int:
        """Elements of scratch a task needs."""
        return sum(a.elements for a in self.args if a.role == "scratch")


def vectors(count: int, lanes: int) -> tuple[int, ...]:
    """`count` elements as vector widths: as many full vectors as fit, then smaller powers of two: 24 of 16 lanes are (16, 8)."""
    made = [lanes] * (count // lanes)
    rest = count % lanes
    while rest:
        width = 1 << (rest.bit_length() - 1)
        made.append(width)
        rest -= width
    return tuple(made)


def broadcast(view: View, shape: tuple[int, ...]) -> View:
    """An operand as seen from an output of `shape`, by ONNX's multidirectional rule: missing and unit axes get stride 0."""
    missing = len(shape) - len(view.axes)
    axes = [Axis(n, 0) for n in shape[:missing]]
    for axis, n in zip(view.axes, shape[missing:], strict=True):
        axes.append(Axis(n, 0) if axis.extent == 1 and n != 1 else axis)
    return View(tuple(axes))


def extent(view: View) -> int:
    """One more than the largest offset a view reaches from its base, in elements; 0 when it is empty."""
    if not prod(view.shape):
        return 0
    return 1 + sum(max(a.at(0), a.at(a.extent - 1), *(a.at(i) for i in range(min(a.block, a.extent)))) for a in view.axes)


@dataclass(frozen=True)
class Operands:
    """What a planner may ask about the values that a region touches: where they lie, and what is known of them when the model is built.

    `ints` answers the elements of a constant integer tensor (pads, axes: structure, not weights), None for all others; `floats` those of
    a constant f32 vector that is short enough for one number an axis (the scales of Resize). `weight` answers any constant: code may
    depend on its numbers only as far as sums of products in 16 or 32 bits could overflow.
    `footprint` counts the bytes of all weights of the net, which pass through the caches between two uses of one of them. A planner grants
    a `choice` where there is such a plan; else, and where it is None, the cost model chooses.
    """

    view: Callable[[Value], View]
    constant: Callable[[Value], bool]
    ints: Callable[[Value], tuple[int, ...] | None]
    floats: Callable[[Value], tuple[float, ...] | None] = lambda _: None
    weight: Callable[[Value], Array | None] = lambda _: None
    footprint: float = 0.0
    choice: Choice | None = None

    @property
    def tile(self) -> tuple[int, int] | None:
        """The tile that is wished for."""
        return self.choice.tile if self.choice is not None else None

    @classmethod
    def of(cls, weights: Mapping[Value, Array], view: Callable[[Value], View]) -> "Operands":
        """The operands of a graph with these weights."""

        def elements(value: Value, kind: str) -> tuple[Any, ...] | None:
            array = weights.get(value)
            known = array is not None and array.dtype.kind in kind and array.size <= _STRUCTURE
            return tuple(array.reshape(-1).tolist()) if array is not None and known else None

        return cls(view, lambda v: v in weights, lambda v: elements(v, "iu"), lambda v: elements(v, "f"), weights.get,
                   float(sum(a.nbytes for a in weights.values())))


@dataclass(frozen=True)
class Planned:
    """A plan and the graph values of its arguments, in order, scratch left out; `outputs` are named only where a node makes several."""

    plan: KernelPlan
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...] = ()


def fuse_axes(outer: Axis, inner: Axis) -> Axis | None:
    """Two neighboring axes as one, in row-major order; None when no Axis can say it."""
    if outer.extent == 1:
        return inner
    if inner.extent == 1:
        return outer
    if outer.block or inner.block:
        return None
    total = outer.extent * inner.extent
    if outer.stride == inner.extent * inner.stride:
        return Axis(total, inner.stride)
    return Axis(total, outer.stride, inner.extent, inner.stride)


def loads_of(region_operands: Sequence[Value], first_arg: int, operands: Operands, shape: tuple[int, ...]) -> tuple[Load, ...]:
    """The extra operands of an epilogue, broadcast to the output's shape."""
    return tuple(Load(first_arg + i, broadcast(operands.view(v), shape)) for i, v in enumerate(region_operands))


def traffic(args: Sequence[Arg]) -> int:
    """Bytes that a kernel reads and writes when it touches each operand once."""
    return sum(a.elements * dtype_bits(a.dtype) // 8 for a in args if a.role != "scratch")


def timed(plan: KernelPlan, footprint: float) -> KernelPlan:
    """A plan for the CPU with the cycles that it is expected to take in a net with so many bytes of weights."""
    stored = traffic([a for a in plan.args if a.role in ("weight", "prepared")])
    return replace(plan, cycles=kernel_cycles(plan.isa, plan.macs, max(0, plan.bytes - stored), computing=plan.computing, weights=stored,
                                              passes=plan.passes, footprint=footprint, asked=plan.asks))


def chunks(rows: int, wanted: int) -> int:
    """How many equal chunks of rows there are when about `wanted` are asked for, none of them empty."""
    height = -(-rows // max(1, min(rows, wanted)))
    return -(-rows // height)
