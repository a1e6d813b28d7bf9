"""The register tile of a contraction, chosen from a unit's facts: no tuning (rule and measurements: edgec/README.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.isa import Isa
from edgec.kernels.base import vectors


@dataclass(frozen=True)
class Tile:
    """`columns` output columns x `vectors` vectors of output channels; `cycles` for the whole contraction."""

    columns: int
    vectors: int
    cycles: float


def groups_of(channels: int, lanes: int, count: int) -> tuple[tuple[int, ...], ...]:
    """The vectors of `channels` output channels in groups of at most `count`."""
    widths = vectors(channels, lanes)
    return tuple(widths[i:i + count] for i in range(0, len(widths), count))


def _per_step(isa: Isa, columns: int, count: int, *, lane: bool) -> float:
    """Cycles of one step of the reduction."""
    acc = columns * count
    loads = (columns / isa.lanes if lane else columns) + count
    cycles = max(acc / isa.fma_ports, float(isa.fma_latency), loads / isa.load_ports)
    registers = acc + count + (columns if lane else 1)
    if registers > isa.registers - (1 if lane else 0):
        cycles *= 2.0                                          # spills: measured to halve the speed
    wanted = 2 * isa.fma_latency * isa.fma_ports
    if acc < wanted:
        cycles *= 1.03
    return cycles * (1 + 0.01 * max(0, acc - wanted) / wanted)


def choose(isa: Isa, rows: int, width: int, channels: int, reduction: int, *, lane: bool, lanes: int) -> Tile:
    """The best tile for `rows` rows of `width` outputs, `channels` channels (of one group), each a sum of `reduction` products."""
    best: Tile | None = None
    for count in range(1, 9):
        groups = groups_of(channels, lanes, count)
        if count > 1 and count > len(groups[0]):
            break
        for columns in range(1, min(width, isa.registers) + 1):
            if columns * count + count > isa.registers:
                break
            pieces = [(width // columns, columns), (1, width % columns)] if width % columns else [(width // columns, columns)]
            cycles = sum(times * (_per_step(isa, c, len(g), lane=lane) * reduction + c * len(g) * 1.5 + 8) for g in groups for times, c in pieces)
            cycles *= rows * (1 + 0.003 * (len(pieces) - 1))
            if best is None or cycles < best.cycles:
                best = Tile(columns, count, cycles)
    if best is None:
        raise ValueError("a contraction needs at least one output channel and column")
    return best
