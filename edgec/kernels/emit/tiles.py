"""How kernels on images walk over their output: tasks to rows and vectors of channels, rows to tiles, the same for every kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.isa import Isa
from edgec.kernels.emit.core import Index, loop, when
from edgec.kernels.taps import Taps, Tiles


def indices(task: Index, *counts: int) -> tuple[Index, ...]:
    """A task's number taken apart: its place among each of `counts`, the one that changes fastest first, and what is left."""
    found: list[Index] = []
    for count in counts:
        found.append(T.bind(tirx.truncmod(task, count)) if count > 1 else 0)
        task = T.bind(tirx.truncdiv(task, count)) if count > 1 else task
    return (*found, task)


def parts(task: Index, rows: int, *groups: int, rows_first: bool) -> tuple[Index, ...]:
    """A task's number as its chunk of `rows`, its place among each of `groups`, and the image.

    With `rows_first` tasks that follow each other are groups of the same rows.
    """
    if not rows_first:
        return indices(task, rows, *groups)
    *found, chunk, image = indices(task, *groups, rows)
    return (chunk, *found, image)


def channels(number: Index, groups: Sequence[tuple[int, ...]], body: Callable[[tuple[int, ...], Index], None]) -> None:
    """Run `body(widths, first channel)` for one group of vectors of channels: one code for the widest kind, one for each other group."""
    size, full = sum(groups[0]), sum(1 for g in groups if g == groups[0])
    rest = groups[full:]
    when(number < full if rest else True, lambda: body(groups[0], number * size))
    start = full * size
    for i, widths in enumerate(rest, full):
        when(number == i, partial(body, widths, start))
        start += sum(widths)


def rows(number: Index, chunks: int, count: int, part: range, body: Callable[[Index], None]) -> None:
    """Run `body(row)` for those rows of `part` that lie in one of `chunks` equal chunks of `count` rows."""
    if chunks == 1:
        loop(part.start, part.stop, body)
        return
    height = -(-count // chunks)
    low, high = number * height, number * height + height
    if part.start > 0:
        low = T.bind(T.max(low, part.start))
    if part.stop < count or count % chunks:
        high = T.bind(T.min(high, part.stop))
    loop(low, high, body)


@dataclass(frozen=True)
class Output:
    """An output along one axis, by its number among those of its phase."""

    taps: Taps
    number: Index

    @property
    def position(self) -> Index:
        """Where it lies in the output."""
        return self.taps.out_begin + self.number * self.taps.out_step

    def reads(self, tap: Index, ahead: int = 0) -> Index:
        """The input position that it reads for a tap, or that the output `ahead` places behind it reads."""
        return self.taps.reads(self.number + ahead if ahead else self.number, tap)

    def kernel(self, tap: Index) -> Index:
        """The index of a tap in the kernel."""
        return self.taps.kernel + tap * self.taps.kernel_step


def clip(output: Output, size: int) -> tuple[Index, Index]:
    """The taps, from and to, that an output reads inside an input of `size`."""
    taps = output.taps
    if not taps.clipped(size):
        return 0, taps.count
    base = output.number * taps.step + taps.first
    p = abs(taps.pitch)
    # floor division of possibly negative numbers: shift by a multiple of the pitch that makes them positive
    shift = (abs(taps.first) + taps.count * p) * p + p
    above = -base if taps.pitch > 0 else base - (size - 1)                 # taps before this many pitches are outside
    below = (size - 1) - base if taps.pitch > 0 else base
    if isinstance(output.number, int):
        return max(0, -(-above // p)), min(taps.count, below // p + 1)
    low = T.max(0, tirx.truncdiv(above + p - 1 + shift * p, p) - shift)
    high = T.min(taps.count, tirx.truncdiv(below + shift * p, p) - shift + 1)
    return T.bind(low), T.bind(high)


def steps_at_once(isa: Isa, columns: int, count: int) -> int:
    """How many steps of a reduction have their `count` vectors of weights loaded at once in the lane form, before they multiply.

    A core that works in order waits for each row of loads; two steps share one where that is short and there are registers.
    """
    return 2 if isa.in_order and count == 2 and 3 * columns + 2 * count < isa.registers else 1  # noqa: PLR2004 - one load of a pair


def tiles(xs: Sequence[Taps], columns: int, size: int, body: Callable[[Output, Tiles], None]) -> None:
    """Run `body(first output, tiles)` for each tile of a row that reads rows of `size`; tiles that are alike in a loop."""
    for taps in xs:
        for alike in taps.tiles(columns, size):
            loop(0, alike.count, partial(_tile, body, taps, alike))


def _tile(body: Callable[[Output, Tiles], None], taps: Taps, alike: Tiles, i: Index) -> None:
    body(Output(taps, alike.start + i * alike.columns), alike)
