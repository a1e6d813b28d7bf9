"""Sliding windows along one spatial axis: which input positions an output reads, and which outputs read alike.

Padding is never stored. An output near an edge simply has fewer taps, and these functions say which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

_T = TypeVar("_T")
TapRun = tuple[range, tuple[int, ...]]
"""Neighboring taps, and the numbers of the outputs in a tile for which all of these are inside the input."""


@dataclass(frozen=True)
class Taps:
    """One spatial axis of one output phase: output o reads, for tap i, input o*step + first + i*pitch.

    The tap's index in the kernel is kernel + i*kernel_step, the output's position out_begin + o*out_step. A convolution has one phase, a
    transposed one `stride` of them.
    """

    step: int
    count: int
    first: int
    pitch: int
    kernel: int
    kernel_step: int
    out_begin: int
    out_step: int
    out_count: int

    @classmethod
    def pointwise(cls, count: int) -> "Taps":
        """Each of `count` outputs reads the input at its own position."""
        return cls(1, 1, 0, 1, 0, 1, 0, 1, count)

    def reads(self, o: int, tap: int) -> int:
        """The input position."""
        return o * self.step + self.first + tap * self.pitch

    def clipped(self, size: int) -> bool:
        """Whether some output reads outside an input of `size`."""
        return any(not 0 <= self.reads(o, t) < size for o in (0, self.out_count - 1) for t in (0, self.count - 1))

    def runs(self, outputs: range, size: int) -> tuple[TapRun, ...]:
        """The taps of a tile that are inside an input of `size`."""
        inside = [tuple(j for j, o in enumerate(outputs) if 0 <= self.reads(o, t) < size) for t in range(self.count)]
        return tuple((taps, columns) for taps, columns in ranges(inside) if columns)

    def tiles(self, columns: int, size: int) -> list["Tiles"]:
        """All outputs as tiles of `columns` (the last may be narrower): those that are alike together, those at an edge each on its own."""
        made, start = [], 0
        while start < self.out_count:
            width = min(columns, self.out_count - start)
            runs, stop = self.runs(range(start, start + width), size), start + width
            while stop + width <= self.out_count and self.runs(range(stop, stop + width), size) == runs:
                stop += width
            made.append(Tiles(start, width, (stop - start) // width, runs))
            start = stop
        return made

    def classes(self, size: int) -> list[tuple[range, range]]:
        """Neighboring outputs with the same taps inside an input of `size`: (outputs, taps)."""
        inside = []
        for o in range(self.out_count):
            valid = [t for t in range(self.count) if 0 <= self.reads(o, t) < size]
            inside.append(range(valid[0], valid[-1] + 1) if valid else range(0))
        return ranges(inside)


@dataclass(frozen=True)
class Tiles:
    """`count` neighboring tiles of `columns` outputs, the first from output `start`, all of which have the same taps `runs`."""

    start: int
    columns: int
    count: int
    runs: tuple[TapRun, ...]


def phases(out: int, kernel: int, stride: int, dilation: int, pad: int, *, transposed: bool) -> tuple[Taps, ...]:
    """The phases of one spatial axis of `out` outputs (ONNX Conv and ConvTranspose; `pad` is the pad at the begin)."""
    if not transposed:
        return (Taps(stride, kernel, -pad, dilation, 0, 1, 0, 1, out),)
    made = []
    for p in range(min(stride, out)):
        taps = [k for k in range(kernel) if (p + pad - k * dilation) % stride == 0]
        offsets = [(p + pad - k * dilation) // stride for k in taps]
        pitch = offsets[1] - offsets[0] if len(taps) > 1 else 1
        kernel_step = taps[1] - taps[0] if len(taps) > 1 else 1
        first, index = (offsets[0], taps[0]) if taps else (0, 0)
        made.append(Taps(1, len(taps), first, pitch, index, kernel_step, p, stride, -(-(out - p) // stride)))
    return tuple(made)


@dataclass(frozen=True)
class Geometry:
    """Kernel size, strides, dilations and pads (begins, then ends) of a window over rows and columns."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @classmethod
    def of(cls, attrs: Mapping[str, Any], kernel: Sequence[int]) -> "Geometry":
        """What the attributes of an ONNX operator with one or two spatial axes say; one axis lies along x."""
        spatial = len(kernel)
        strides, dilations = (attrs.get(name, [1] * spatial) for name in ("strides", "dilations"))
        pads = attrs.get("pads", [0] * (2 * spatial))
        if spatial == 1:
            return cls((1, kernel[0]), (1, strides[0]), (1, dilations[0]), (0, pads[0], 0, pads[1]))
        return cls((kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1]), (pads[0], pads[1], pads[2], pads[3]))

    @property
    def turned(self) -> "Geometry":
        """Rows and columns exchanged."""
        top, left, bottom, right = self.pads
        return Geometry(self.kernel[::-1], self.strides[::-1], self.dilations[::-1], (left, top, right, bottom))

    @property
    def pointwise(self) -> bool:
        """Whether it is a 1x1 window that moves by one and is not padded at the begin."""
        return self.kernel == self.strides == (1, 1) and not any(self.pads[:2])

    def taps(self, axis: int, out: int, *, transposed: bool = False) -> tuple[Taps, ...]:
        """The phases along y (axis 0) or x (axis 1) of `out` outputs."""
        return phases(out, self.kernel[axis], self.strides[axis], self.dilations[axis], self.pads[axis], transposed=transposed)


def ranges(items: Sequence[_T]) -> list[tuple[range, _T]]:
    """Equal neighbors together: (their numbers, the item)."""
    made, start = [], 0
    for item, group in groupby(items):
        stop = start + len(list(group))
        made.append((range(start, stop), item))
        start = stop
    return made
