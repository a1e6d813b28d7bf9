"""The schedule as data: buffers with offsets, and steps in order.

Code generators (the C main, later GPU drivers), the manifest, profiling and per-kernel checks all read this and nothing else.
Offsets and sizes are bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Region = Literal["weights", "arena", "input", "output", "state", "prepared"]


@dataclass(frozen=True)
class Buffer:
    """A piece of memory. `offset` counts from the region's start; of an input or output it is the position in the interface."""

    name: str
    region: Region
    offset: int
    bytes: int
    unit: str = "cpu"


@dataclass(frozen=True)
class Operand:
    """What a kernel's pointer points to: a buffer's start plus `offset`; `write` when the kernel writes there."""

    buffer: int
    offset: int = 0
    write: bool = False


@dataclass(frozen=True)
class Call:
    """Run a kernel over `tasks` independent tasks; `kernel` is a key of Program.kernels; `result` names the graph value it makes.

    `op` is the operator that it is about, `fused` are those that were taken into it.
    """

    kernel: str
    operands: tuple[Operand, ...]
    tasks: int
    origin: str = ""
    result: str = ""
    op: str = ""
    fused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """An input or output of the model as its user sees it; `c_name` is a C identifier unique among all ports."""

    name: str
    c_name: str
    dtype: str
    shape: tuple[int, ...]
    buffer: int


@dataclass(frozen=True)
class Kernel:
    """Facts of one compiled function, for reports: what it computes, how, and what the cost model expects."""

    symbol: str
    kind: str
    algo: str
    generic: bool
    macs: int
    bytes: int
    scratch_bytes: int
    cycles: float
    parameters: int


@dataclass(frozen=True)
class Program:
    """A whole schedule: symbol `prefix` for everything public, buffers, steps, interface, kernels by content key."""

    name: str
    buffers: tuple[Buffer, ...]
    steps: tuple[Call, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    weights_bytes: int = 0
    arena_bytes: int = 0
    arena_lower_bound: int = 0
    state_bytes: int = 0
    prepared_bytes: int = 0
    alignment: int = 64

    def __str__(self) -> str:
        arena = f"arena {self.arena_bytes} bytes (bound {self.arena_lower_bound})"
        lines = [f"program {self.name}: {arena}, weights {self.weights_bytes} bytes"]
        lines += [f"  b{i} {b.region}+{b.offset} {b.bytes} bytes ; {b.name}" for i, b in enumerate(self.buffers)]
        for i, s in enumerate(self.steps):
            args = ", ".join(f"{'&' if o.write else ''}b{o.buffer}" + (f"+{o.offset}" if o.offset else "") for o in s.operands)
            lines.append(f"  {i:3d} {self.kernels[s.kernel].symbol}({args}) x{s.tasks} ; {s.result} <- {s.origin}")
        return "\n".join(lines)
