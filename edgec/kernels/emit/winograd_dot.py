"""3x3 convolutions of bytes by Winograd's method: sums of products of pairs of 16-bit numbers, exact."""

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.emit.core import Index, Kernel, Vector, cast, const, function, hold, type_name
from edgec.kernels.emit.dotforms import products_of_pairs
from edgec.kernels.emit.winograd import Task
from edgec.kernels.winograd_dot import DotWinogradPlan

_IMAGE, _FILTERS, _ZERO = 0, 1, 2


def emit(plan: DotWinogradPlan, symbol: str) -> tirx.PrimFunc:
    """The kernel of a plan."""
    return function(plan, symbol, lambda kernel, task: _Task(plan, kernel, task).run())


class _Task(Task):
    """One run of blocks and one part of the vector groups. A step is a pair of channels, which scratch memory holds as one i32."""

    dtype, sums = "i16", "i32"
    plan: DotWinogradPlan

    def __init__(self, plan: DotWinogradPlan, kernel: Kernel, task: Index) -> None:
        super().__init__(plan, kernel, task)
        self.point = hold(cast(kernel.load(_ZERO, 0), "i16", 1), "i16", 1) if plan.zero else const(0, "i16")

    def pixels(self, index: Index, lanes: int) -> Vector:
        """Inputs of `lanes` steps."""
        return cast(self.k.load(_IMAGE, index, 2 * lanes), "i16", 2 * lanes)

    def outside(self, lanes: int) -> Vector:
        """The zero point."""
        return T.Broadcast(self.point, 2 * lanes)

    def kept(self, index: Index, lanes: int) -> Vector:
        """Inputs of `lanes` steps from scratch memory."""
        return T.reinterpret(type_name("i16", 2 * lanes), self.k.load(self.scratch, index, lanes))

    def keep(self, value: Vector, index: Index, lanes: int) -> None:
        """Put inputs of `lanes` steps, transformed or not, into scratch memory."""
        self.k.store(self.scratch, T.reinterpret(type_name("i32", lanes), hold(value, "i16", 2 * lanes)), index, lanes)

    def transformed_element(self, value: Vector, element: tuple[int, int], lanes: int) -> Vector:
        """An element of B' d B without the zero point of d, which one of them alone contains: four times."""
        if not self.plan.zero or element != (1, 1):
            return value
        return value - T.Broadcast(hold(self.point * const(4, "i16"), "i16", 1), lanes)

    def filters(self, index: Index, lanes: int) -> Vector:
        """Filters of one step and `lanes` output channels."""
        return self.k.load(_FILTERS, 2 * index, 2 * lanes)

    def add(self, acc: Vector, pixel: Vector, weights: Vector, lanes: int) -> Vector:
        """The accumulator plus the products of a step."""
        pair = T.reinterpret(type_name("i16", 2 * lanes), pixel)
        return acc + products_of_pairs(pair, weights, lanes)

    def bias(self, channel: Index, at: Sequence[Index], lanes: int) -> Vector | None:
        """What is added to all outputs of some channels."""
        del channel
        given = self.plan.offset
        return None if given is None else hold(self.k.read(given.arg, given.view, at, 1, lanes), "i32", lanes)

    def result(self, value: Vector, bias: Vector | None, lanes: int) -> Vector:
        """An output: filters are twice as large along each axis, so sums are divisible by four."""
        value = hold(value >> const(2, "i32", lanes), "i32", lanes)
        return value if bias is None else hold(value + bias, "i32", lanes)
