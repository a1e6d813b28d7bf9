"""What the rewrites ask of nodes and values."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgec.ir.dims import Dim
from edgec.ir.graph import Node, Value
from edgec.ir.sweep import Sweep
from edgec.ir.types import Tensor, numpy_dtype


def dims(value: Value | None) -> tuple[int, ...] | None:
    """The shape of a tensor when it is all numbers, None otherwise."""
    return value.type.dims if value is not None and isinstance(value.type, Tensor) and value.type.is_static else None


def shape(value: Value | None) -> tuple[Dim | None, ...] | None:
    """The shape of a tensor as far as it is known, None when not even the rank is."""
    return value.type.shape if value is not None and isinstance(value.type, Tensor) else None


def rank(value: Value | None) -> int | None:
    """The number of axes, None when unknown."""
    known = shape(value)
    return None if known is None else len(known)


def dtype(value: Value | None) -> str:
    """The element type of a tensor, empty when unknown."""
    return value.type.dtype if value is not None and isinstance(value.type, Tensor) else ""


def ints(edit: Sweep, value: Value | None) -> list[int] | None:
    """The numbers of a constant list of integers, None when it is absent or no constant."""
    array = edit.constant(value)
    return None if array is None else [int(i) for i in array.reshape(-1)]


def positive(axis: int, count: int) -> int:
    """The axis counted from the front."""
    return axis + count if axis < 0 else axis


def axes(edit: Sweep, node: Node, count: int, position: int = 1) -> list[int] | None:
    """The sorted axes that an input or the attribute `axes` of a node names, every axis when neither does; None when they are computed."""
    given = node.input(position)
    if given is not None:
        found = ints(edit, given)
        if found is None:
            return None
    else:
        found = list(node.attrs.get("axes", ()))
    if not found:
        return [] if node.attrs.get("noop_with_empty_axes", 0) else list(range(count))
    return sorted(positive(a, count) for a in found)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...] | None:
    """The common shape of operands as numpy broadcasts them, None when they have none."""
    count = max(map(len, shapes), default=0)
    made = []
    for column in zip(*((1,) * (count - len(s)) + tuple(s) for s in shapes), strict=True):
        sizes = {d for d in column if d != 1}
        if len(sizes) > 1:
            return None
        made.append(sizes.pop() if sizes else 1)
    return tuple(made)


class Draft:
    """New nodes that take the place of one, written as calls; shapes are worked out, so those of the operands have to be numbers."""

    def __init__(self, edit: Sweep, like: Node) -> None:
        self.edit, self.like = edit, like

    def __call__(self, op: str, *inputs: Value) -> Value:
        """An elementwise operator that broadcasts."""
        made = broadcast(*(v.dims for v in inputs))
        if made is None:
            raise ValueError(f"the operands of {op} for {self.like.label} have no common shape")
        return self.edit.node(self.like, op, inputs, made)

    def number(self, value: float, like: Value) -> Value:
        """A scalar with the dtype of another value."""
        return self.edit.scalar(f"{self.like.output.name}.number", value, numpy_dtype(like.tensor.dtype))

    def reduce(self, op: str, value: Value, along: Sequence[int], *, keep: bool = True) -> Value:
        """A reduction over some axes."""
        known = value.dims
        made = [1 if a in along else d for a, d in enumerate(known) if keep or a not in along]
        names = self.edit.integers(f"{self.like.output.name}.axes", along)
        return self.edit.node(self.like, op, (value, names), made, keepdims=int(keep))

    def reshape(self, value: Value, to: Sequence[int]) -> Value:
        """The value in another shape: itself when it has that shape already."""
        if value.dims == tuple(to):
            return value
        target = self.edit.integers(f"{self.like.output.name}.shape", to)
        more: dict[str, Any] = {"allowzero": 1} if 0 in to else {}
        return self.edit.node(self.like, "Reshape", (value, target), to, **more)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        """The value with its axes in another order: itself when the order is the same."""
        if list(perm) == list(range(len(perm))):
            return value
        return self.edit.node(self.like, "Transpose", (value,), [value.dims[p] for p in perm], perm=list(perm))

    def slice(self, value: Value, ranges: Mapping[int, tuple[int, int, int]]) -> Value:
        """The part of a value with these (start, end, step) along some axes, as a Slice in its canonical form; steps are positive."""
        every = [ranges.get(a, (0, d, 1)) for a, d in enumerate(value.dims)]
        if all(r == (0, d, 1) for r, d in zip(every, value.dims, strict=True)):
            return value
        return self.edit.node(self.like, "Slice", (value, *slice_operands(self.edit, self.like, every)), [len(range(*r)) for r in every])

    def matmul(self, a: Value, b: Value) -> Value:
        """The product of matrices, or of stacks of them."""
        stack = broadcast(a.dims[:-2], b.dims[:-2])
        if stack is None:
            raise ValueError(f"the operands of MatMul for {self.like.label} have no common shape")
        return self.edit.node(self.like, "MatMul", (a, b), (*stack, a.dims[-2], b.dims[-1]))


def slice_operands(edit: Sweep, like: Node, ranges: Sequence[tuple[int, int, int]]) -> tuple[Value, ...]:
    """The operands of a Slice that names every axis: starts, ends, axes, steps."""
    starts, ends, steps = ([r[i] for r in ranges] for i in range(3))
    parts = {"starts": starts, "ends": ends, "axes": range(len(ranges)), "steps": steps}
    return tuple(edit.integers(f"{like.output.name}.{part}", numbers) for part, numbers in parts.items())
