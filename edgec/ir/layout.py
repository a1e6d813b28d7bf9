"""How the elements of a tensor lie in memory.

A layout permutes the axes and may split one or more of them into blocks whose offset within the block
becomes innermost. The shape of a tensor stays logical whatever its layout is:

    row-major            Layout(order=(0, 1, 2, 3))
    NHWC                 Layout(order=(0, 2, 3, 1))
    NCHW16c              Layout(order=(0, 1, 2, 3), blocks=((1, 16),))

Convolutions here clip their windows instead of reading a border (see README.md, decisions), so a layout has no halo.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod


@dataclass(frozen=True)
class Layout:
    """`order`: logical axes from outermost to innermost; `blocks`: (axis, size) pairs, block offsets innermost in that order."""

    order: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...] = ()

    @classmethod
    def row_major(cls, rank: int) -> "Layout":
        """Axes in their logical order, nothing blocked."""
        return cls(tuple(range(rank)))

    @property
    def is_row_major(self) -> bool:
        """Whether this is the plain C order."""
        return not self.blocks and self.order == tuple(range(len(self.order)))

    @property
    def name(self) -> str:
        """The field's name for it where there is one: NCHW, NHWC, NCHW16c; else the axes as numbers: 0-2-1."""
        letters = {3: "NCW", 4: "NCHW", 5: "NCDHW"}.get(len(self.order))
        if letters is None:
            return "-".join(map(str, self.order)) + "".join(f"+{a}x{b}" for a, b in self.blocks)
        return "".join(letters[a] for a in self.order) + "".join(f"{b}{letters[a].lower()}" for a, b in self.blocks)

    def physical(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The extents of the memory array, outermost first, block extents last."""
        size = dict(self.blocks)
        return (*(-(-shape[a] // size.get(a, 1)) for a in self.order), *(b for _, b in self.blocks))

    def elements(self, shape: Sequence[int]) -> int:
        """How many elements the tensor takes, padding of incomplete blocks included."""
        return prod(self.physical(shape))


@dataclass(frozen=True)
class Axis:
    """One logical axis of a view: index i lies at (i // block) * stride + (i % block) * inner; block 0 means unblocked."""

    extent: int
    stride: int
    block: int = 0
    inner: int = 1

    @classmethod
    def of(cls, extent: int, stride: int, block: int = 0, inner: int = 1) -> "Axis":
        """The simplest axis with these offsets: no block where there is just one, or where blocks follow one another."""
        if block and (block >= extent or stride == block * inner):
            return cls(extent, inner)
        return cls(extent, stride, block, inner) if block > 1 else cls(extent, stride)

    def at(self, i: int) -> int:
        """The offset of index i along this axis, in elements."""
        return i * self.stride if not self.block else i // self.block * self.stride + i % self.block * self.inner

    @property
    def run(self) -> int:
        """How many neighbors lie at stride one, counted from a block's start: the longest vector that can be read."""
        if self.block:
            return self.block if self.inner == 1 else 1
        return self.extent if self.stride == 1 else 1


@dataclass(frozen=True)
class View:
    """A tensor, or a part of one, in memory: one Axis for each logical axis. The base offset belongs to whoever holds the buffer."""

    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, shape: Sequence[int], layout: Layout | None = None) -> "View":
        """The view of a whole tensor in a layout."""
        layout = layout or Layout.row_major(len(shape))
        size, step, inner = dict(layout.blocks), 1, dict[int, int]()
        for axis, block in reversed(layout.blocks):
            inner[axis] = step
            step *= block
        made: dict[int, Axis] = {}
        for axis in reversed(layout.order):
            block = size.get(axis, 0)
            count = -(-shape[axis] // block) if block else shape[axis]
            made[axis] = Axis.of(shape[axis], step, block, inner.get(axis, 1))
            step *= count
        return cls(tuple(made[a] for a in range(len(shape))))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The logical shape."""
        return tuple(a.extent for a in self.axes)

    def offset(self, index: Sequence[int]) -> int:
        """The offset of one element, in elements."""
        return sum(a.at(i) for a, i in zip(self.axes, index, strict=True))

    def transpose(self, perm: Sequence[int]) -> "View":
        """The view whose axis k is this one's axis perm[k]."""
        return View(tuple(self.axes[p] for p in perm))

    @property
    def dense(self) -> bool:
        """Whether it is plain row-major memory without gaps."""
        step = 1
        for a in reversed(self.axes):
            if a.extent != 1 and (a.block or a.stride != step):
                return False
            step *= a.extent
        return True

    def reshape(self, shape: Sequence[int]) -> "View | None":
        """The same memory in another shape, None when strides and blocks cannot say it."""
        if 0 in shape or 0 in self.shape:
            return View.of(shape)
        mine, wanted = [a for a in self.axes if a.extent != 1], [d for d in shape if d != 1]
        found: list[Axis] = []
        while wanted:
            group, take = [mine.pop(0)], [wanted.pop(0)]
            have, want = group[0].extent, take[0]
            while have != want:
                if have < want:
                    group.append(mine.pop(0))
                    have *= group[-1].extent
                else:
                    take.append(wanted.pop(0))
                    want *= take[-1]
            whole = _merge(group)
            parts = _split(whole, take) if whole is not None else None
            if parts is None:
                return None
            found += parts
        return View(tuple(found.pop(0) if d != 1 else Axis(1, 0) for d in shape))

    def slice(self, axis: int, start: int, step: int, count: int) -> "tuple[View, int] | None":
        """Every step-th element from `start` along an axis, as (view, offset of its base); None where a block is cut."""
        a = self.axes[axis]
        if not a.block:
            new, offset = Axis(count, a.stride * step), start * a.stride
        elif step == 1 and start % a.block == 0 and (count % a.block == 0 or count < a.block):
            new, offset = Axis.of(count, a.stride, a.block, a.inner), a.at(start)
        else:
            return None
        return View((*self.axes[:axis], new, *self.axes[axis + 1:])), offset


def _merge(axes: Sequence[Axis]) -> Axis | None:
    """Neighboring axes as one in row-major order, where one Axis can say it."""
    whole = axes[-1]
    for a in reversed(axes[:-1]):
        n = a.extent * whole.extent
        if not whole.block and not a.block and a.stride == whole.extent * whole.stride:
            whole = Axis(n, whole.stride)
        elif not whole.block and a.block and a.inner == whole.extent * whole.stride:
            whole = Axis.of(n, a.stride, a.block * whole.extent, whole.stride)
        elif whole.block and not a.block and whole.extent % whole.block == 0 and a.stride == whole.extent // whole.block * whole.stride:
            whole = Axis.of(n, whole.stride, whole.block, whole.inner)
        else:
            return None
    return whole


def _split(axis: Axis, extents: Sequence[int]) -> list[Axis] | None:
    """One axis as several in row-major order, where strides and blocks allow it."""
    parts: list[Axis] = []
    for n in reversed(extents[1:]):
        outer = axis.extent // n
        if not axis.block:
            parts.append(Axis(n, axis.stride))
            axis = Axis(outer, axis.stride * n)
        elif axis.block % n == 0:
            parts.append(Axis(n, axis.inner))
            axis = Axis.of(outer, axis.stride, axis.block // n, axis.inner * n)
        elif n % axis.block == 0:
            parts.append(Axis(n, axis.stride, axis.block, axis.inner))
            axis = Axis(outer, axis.stride * (n // axis.block))
        else:
            return None
    return [axis, *reversed(parts)]
