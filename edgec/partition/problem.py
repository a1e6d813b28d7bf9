"""The question of partitioning, in numbers: what each group of nodes costs on each unit, and what moves between them.

The price of an answer is what a run takes when one thing happens after the other: every group on its unit, and every copy. A tensor lies
in the memory of the unit that makes it; inputs and outputs of the model lie in that of the CPU, unit 0. Who reads a tensor elsewhere needs
a copy, which is made once for each destination, and from one unit to another goes through the memory of the CPU.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf

HOST = 0
"""The unit of the CPU, which can run everything and whose memory all copies start from or end in."""
Assignment = Sequence[int]
"""The unit of each group."""


@dataclass(frozen=True)
class Link:
    """A unit as partitioning sees it: what copies between its memory and the CPU's cost, and what it asks for. Times in microseconds.

    `start` is what it costs to start a region on a unit that runs regions, paid with each tensor that enters one; `capacity` limits the
    bytes of all weights on the unit, and `min_region` asks connected parts on it to have this many operators.
    """

    name: str
    latency: float = 0.0
    bytes_per_us: float = inf
    start: float = 0.0
    capacity: float = inf
    min_region: int = 1
    runs_regions: bool = False

    def into(self, size: int) -> float:
        """The time that a tensor takes to this unit."""
        return self.start + self.out(size)

    def out(self, size: int) -> float:
        """The time that a tensor takes from this unit to the CPU."""
        return self.latency + size / self.bytes_per_us


@dataclass(frozen=True)
class Flow:
    """A tensor of `size` bytes that one group makes and others read; None stands for the caller, who gives inputs and takes outputs."""

    size: int
    producer: int | None
    readers: tuple[int | None, ...]
    name: str = ""


@dataclass(frozen=True)
class Stored:
    """Weights of `size` bytes, and the groups that read them."""

    size: int
    readers: tuple[int, ...]


@dataclass(frozen=True)
class Copy:
    """A tensor (its number among the flows) that goes to a unit, or from it to the CPU, and the time it takes."""

    flow: int
    unit: int
    into: bool
    us: float


@dataclass(frozen=True)
class Problem:
    """Groups in an order of use, and what each costs on each unit: infinity where it cannot run. Everybody can run on the CPU.

    `sizes` count the operators of a group, as `min_region` does.
    """

    units: tuple[Link, ...]
    costs: Sequence[Sequence[float]]
    flows: tuple[Flow, ...] = ()
    stored: tuple[Stored, ...] = ()
    sizes: tuple[int, ...] = field(default=())

    def size(self, group: int) -> int:
        """How many operators a group counts for."""
        return self.sizes[group] if self.sizes else 1

    def copies(self, on: Assignment, flows: Iterable[int] | None = None) -> Iterator[Copy]:
        """All copies that an assignment asks for, in the order of the tensors, or those of some tensors."""
        for i in range(len(self.flows)) if flows is None else flows:
            flow = self.flows[i]
            home = HOST if flow.producer is None else on[flow.producer]
            readers = {HOST if r is None else on[r] for r in flow.readers}
            if home != HOST and readers - {home}:
                yield Copy(i, home, into=False, us=self.units[home].out(flow.size))
            for unit in sorted(readers - {home, HOST}):
                yield Copy(i, unit, into=True, us=self.units[unit].into(flow.size))

    def price(self, on: Assignment) -> float:
        """What a run takes, in microseconds; infinite where something cannot run."""
        return sum(row[unit] for row, unit in zip(self.costs, on, strict=True)) + sum(copy.us for copy in self.copies(on))

    def instead(self, on: Assignment, group: int, unit: int) -> float:
        """By how much the price grows when one group runs on another unit, with the copies that this adds and saves."""
        touched = self.touched.get(group, ())
        other = list(on)
        other[group] = unit
        before, after = (sum(c.us for c in self.copies(a, touched)) for a in (on, other))
        return self.costs[group][unit] - self.costs[group][on[group]] + after - before

    @cached_property
    def touched(self) -> Mapping[int, Sequence[int]]:
        """The tensors that each group makes or reads, by their numbers."""
        table: dict[int, list[int]] = {}
        for i, flow in enumerate(self.flows):
            for group in dict.fromkeys((flow.producer, *flow.readers)):
                if group is not None:
                    table.setdefault(group, []).append(i)
        return table

    def single(self, unit: int) -> list[int]:
        """The assignment of everything that a unit can run to it, and of the rest to the CPU."""
        return [unit if row[unit] < inf else HOST for row in self.costs]
