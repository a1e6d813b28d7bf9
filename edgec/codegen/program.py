"""The schedule as data: buffers with offsets, and steps in order.

Code generators (the C main, drivers of other units), the manifest, profiling and per-kernel checks all read this and nothing else.
Offsets and sizes are bytes. What lies in the memory of the CPU says so with `HOST`; units with a memory of their own have an arena and
a part of the weights there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Region = Literal["weights", "arena", "input", "output", "state", "prepared"]
HOST = "cpu"
"""The memory in which the CPU works, whatever the target calls its units."""


@dataclass(frozen=True)
class Buffer:
    """A piece of memory. `offset` counts from the region's start; of an input or output it is the position in the interface.

    `unit` says in whose memory it lies. Weights of all units lie in one file: theirs is an offset in that.
    """

    name: str
    region: Region
    offset: int
    bytes: int
    unit: str = HOST


@dataclass(frozen=True)
class Operand:
    """What a kernel's pointer points to: a buffer's start plus `offset`; `write` when the kernel writes there."""

    buffer: int
    offset: int = 0
    write: bool = False


@dataclass(frozen=True)
class Call:
    """Run a kernel over `tasks` independent tasks; `kernel` is a key of Program.kernels; `result` names the graph value it makes.

    `op` is the operator that it is about, `fused` are those that were taken into it. A call of one task may do that in `rounds`, one after
    the other. With `behind` it need not wait for the call in front of it, which has as many rounds: a round may begin when that call has
    done the one with the same number and the `behind` - 1 that follow.
    """

    kernel: str
    operands: tuple[Operand, ...]
    tasks: int
    origin: str = ""
    result: str = ""
    op: str = ""
    fused: tuple[str, ...] = ()
    rounds: int = field(default=1, kw_only=True)
    behind: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Launch(Call):
    """The same on another unit, whose driver starts it: `tasks` groups of `group` work items (one of one where there is no such thing)."""

    unit: str = ""
    group: int = 1


@dataclass(frozen=True)
class Copy:
    """Move the first `bytes` of a buffer to another memory: `operands` are where from and where to, one of them with `unit`."""

    operands: tuple[Operand, Operand]
    bytes: int
    unit: str
    origin: str = ""
    result: str = ""


@dataclass(frozen=True)
class Wait:
    """Wait until a unit that works in the CPU's memory has done what was launched."""

    unit: str
    origin: str = ""
    result: str = ""
    operands: tuple[Operand, ...] = ()


Step = Call | Copy | Wait


@dataclass(frozen=True)
class Unit:
    """A unit beside the CPU, as its driver sees it: `driver` says which one that is; its arena, and its part of the file of weights.

    A unit that works in the CPU's memory has neither.
    """

    name: str
    driver: str
    arena_bytes: int = 0
    weights_offset: int = 0
    weights_bytes: int = 0


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
    """Facts of one compiled function, for reports: what it computes, how, on which unit, and the CPU cycles that it should take."""

    symbol: str
    kind: str
    algo: str
    generic: bool
    macs: int
    bytes: int
    scratch_bytes: int
    cycles: float
    parameters: int
    unit: str = HOST


@dataclass(frozen=True)
class Program:
    """A whole schedule: symbol `prefix` for everything public, buffers, steps, interface, kernels by content key.

    `prepare` are the steps that fill the region "prepared" from the weights, once, before the first run.
    """

    name: str
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    weights_bytes: int = 0
    arena_bytes: int = 0
    arena_lower_bound: int = 0
    state_bytes: int = 0
    prepared_bytes: int = 0
    alignment: int = 64
    units: tuple[Unit, ...] = ()
    prepare: tuple[Call, ...] = ()

    @property
    def calls(self) -> tuple[Call, ...]:
        """The steps that run a kernel, on whatever unit."""
        return tuple(s for s in self.steps if isinstance(s, Call))

    @property
    def functions(self) -> tuple[str, ...]:
        """The kernels that are functions of the CPU's object, each once."""
        return tuple(dict.fromkeys(s.kernel for s in (*self.prepare, *self.calls) if self.kernels[s.kernel].unit == HOST))

    @property
    def spent(self) -> tuple[int, tuple[int, ...]]:
        """Where weights begin that only `prepare` reads, and how many bytes from there nobody reads any more after each of its steps.

        They are the last of the CPU's weights, in the order in which they are needed.
        """
        read = {o.buffer for s in self.steps for o in s.operands}
        last = {o.buffer: i for i, s in enumerate(self.prepare) for o in s.operands if not o.write and o.buffer not in read}
        begin = min((self.buffers[b].offset for b in last), default=self.weights_bytes)
        ends = [max((self.buffers[b].offset + self.buffers[b].bytes for b, at in last.items() if at <= i), default=begin)
                for i in range(len(self.prepare))]
        return begin, tuple(end - begin for end in ends)

    def unit(self, name: str) -> int:
        """The number of a unit."""
        return next(i for i, u in enumerate(self.units) if u.name == name)

    def __str__(self) -> str:
        arena = f"arena {self.arena_bytes} bytes (bound {self.arena_lower_bound})"
        lines = [f"program {self.name}: {arena}, weights {self.weights_bytes} bytes"]
        lines += [f"  unit {u.name}: {u.driver}, arena {u.arena_bytes} bytes, weights {u.weights_bytes} bytes" for u in self.units]
        lines += [f"  b{i} {_where(b)}+{b.offset} {b.bytes} bytes ; {b.name}" for i, b in enumerate(self.buffers)]
        lines += [f"  prepare {self._step(s)}" for s in self.prepare]
        lines += [f"  {i:3d} {self._step(s)}" for i, s in enumerate(self.steps)]
        return "\n".join(lines)

    def _step(self, step: Step) -> str:
        args = [f"{'&' if o.write else ''}b{o.buffer}" + (f"+{o.offset}" if o.offset else "") for o in step.operands]
        match step:
            case Copy():
                return f"copy {args[0]} -> {args[1]} {step.bytes} bytes ; {step.result}"
            case Wait():
                return f"wait for {step.unit}"
            case Call():
                on = f" on {step.unit}" if isinstance(step, Launch) else f" in {step.rounds} rounds" if step.rounds > 1 else ""
                on += f", {step.behind} behind" if step.behind else ""
                return f"{self.kernels[step.kernel].symbol}({', '.join(args)}) x{step.tasks}{on} ; {step.result} <- {step.origin}"


def _where(buffer: Buffer) -> str:
    return buffer.region if buffer.unit == HOST else f"{buffer.region}@{buffer.unit}"
