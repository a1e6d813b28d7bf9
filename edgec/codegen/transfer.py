"""Which memory each tensor lies in, and what must be copied to another before a kernel can run there.

A tensor lives where its kernels write it. Whoever reads it elsewhere gets a copy, which is made once for each destination, right before
it is read first; from one unit to another it goes through the CPU's memory. Results end in the CPU's memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgec.codegen.place import Place, Places
from edgec.codegen.program import HOST
from edgec.errors import EdgecError
from edgec.ir.graph import Graph, Node, Value
from edgec.isa import Isa
from edgec.kernels.base import Planned


@dataclass(frozen=True)
class Work:
    """A kernel that makes `values` at `writes`; `unit` runs it (HOST: the CPU) on what lies in `memory`.

    `views` are other places from which it reads some of its operands.
    """

    planned: Planned
    node: Node
    values: tuple[Value, ...]
    writes: tuple[Place, ...]
    isa: Isa
    unit: str = HOST
    memory: str = HOST
    views: Mapping[Value, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class Move:
    """All bytes of a storage go from one memory to another; `unit` is the one of the two that is not the CPU's."""

    root: Value
    source: str
    target: str

    @property
    def unit(self) -> str:
        """The unit whose driver does it."""
        return self.target if self.source == HOST else self.source


def transfers(graph: Graph, places: Places, steps: Sequence[Work]) -> list[Work | Move]:
    """The steps with all copies between memories."""
    if all(s.memory == HOST for s in steps):
        return list(steps)
    return list(_Transfers(graph, places).run(steps))


class _Transfers:
    def __init__(self, graph: Graph, places: Places) -> None:
        self.graph, self.places = graph, places
        self.home: dict[Value, str] = dict.fromkeys(graph.inputs, HOST)
        self.version: dict[Value, int] = {}
        self.held: dict[tuple[Value, str], int] = {}

    def run(self, steps: Sequence[Work]) -> Iterable[Work | Move]:
        for step in steps:
            for value in step.planned.inputs:
                yield from self._bring(step.views.get(value, self.places[value]).root, step.memory)
            yield step
            for place in step.writes:
                root = place.root
                if self.home.setdefault(root, step.memory) != step.memory:
                    raise EdgecError(f"%{root.name} would be written in two memories: {self.home[root]} and {step.memory}")
                self.version[root] = self.version.get(root, 0) + 1
                self.held[root, step.memory] = self.version[root]
        for value in self.graph.outputs:
            yield from self._bring(self.places[value].root, HOST)

    def _bring(self, root: Value, memory: str) -> Iterable[Move]:
        """What must be moved so that a storage is there as it was written last: parts of a Concat may come one after the other."""
        home = self.home.get(root)
        if home is None or memory == home or self.held.get((root, memory)) == self.version.get(root, 0):
            return                                             # a weight, or there already
        if HOST not in (home, memory):
            yield from self._bring(root, HOST)
            home = HOST
        yield Move(root, home, memory)
        self.held[root, memory] = self.version.get(root, 0)


__all__ = ["Move", "Work", "transfers"]
