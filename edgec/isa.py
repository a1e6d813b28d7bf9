"""The facts of a vector unit that kernels are made from: how wide, how many registers, how many operations a cycle."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.target import Target, Unit

Broadcast = Literal["memory", "lane"]
AIMS = ("speed", "size", "start")
"""What a build optimizes for; all but the first are the further fact `optimize` of the unit that kernels are made for."""


@dataclass(frozen=True)
class Isa:
    """One CPU core as a kernel sees it. Pure data and hashable, so it can be part of a kernel's identity.

    `triple`, `mcpu` and `mattr` are LLVM's words. `lanes` counts the f32 of a vector register, `registers` the vector registers.
    `broadcast` says how a scalar meets a vector: from memory (x86) or as a lane of another register (aarch64).
    `fma_ports` and `load_ports` count vector operations started in a cycle, `fma_latency` the cycles until an accumulator is ready again.
    Bytes a cycle are what one core reads; a level that the machine lacks has 0 bytes. `extra` holds further facts as (name, value) pairs.
    """

    triple: str
    mcpu: str
    mattr: tuple[str, ...]
    lanes: int
    registers: int
    broadcast: Broadcast
    fma_ports: int
    fma_latency: int
    load_ports: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    line_bytes: int
    dram_bytes_per_cycle: float
    l2_bytes_per_cycle: float
    clock_hz: float
    l3_bytes_per_cycle: float = 0.0
    extra: tuple[tuple[str, object], ...] = ()

    def llvm_target(self) -> dict[str, Any]:
        """Say it in the words of TVM's `Target`."""
        target: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.mcpu}
        if self.arch == "x86_64":      # LLVM's combiner would reorder sums of integers, and kernels then spill their accumulators
            target["cl-opt"] = ["-x86-machine-combiner:bool=false"]
        return {**target, "mattr": list(self.mattr)} if self.mattr else target

    @property
    def integer(self) -> Self:
        """The same core as LLVM should see it for integer kernels: a core without vectors has other registers for integers."""
        mattr = tuple(str(a) for a in self._texts("integer_mattr")) or self.mattr
        registers = self.fact("core_registers", self.registers)
        return replace(self, mcpu=str(self.fact("integer_mcpu", self.mcpu)), mattr=mattr,
                       registers=registers if isinstance(registers, int) else self.registers)

    @property
    def in_order(self) -> bool:
        """Whether multiplications wait for loads in front of them."""
        return bool(self.fact("input_wait"))

    @property
    def int8_form(self) -> str:
        """The instruction with which bytes are multiplied and summed, `portable` where the target names none."""
        return str(self.fact("int8_form", "portable"))

    def fact(self, name: str, default: object = None) -> object:
        """Look up a further fact from `extra`, such as int8_dot."""
        return self._facts.get(name, default)

    @cached_property
    def _facts(self) -> dict[str, object]:
        return dict(self.extra)

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, f.name) for f in fields(self)))

    def __hash__(self) -> int:
        """Find it once: the cost model looks up tiles by it."""
        return self._hash

    def __getstate__(self) -> dict[str, object]:
        """Leave the hash behind: that of a text is another in the next process."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _texts(self, name: str) -> tuple[object, ...]:
        value = self.fact(name, ())
        return tuple(value) if isinstance(value, list | tuple) else ()

    @property
    def arch(self) -> str:
        """The first part of the triple: x86_64, aarch64."""
        return self.triple.partition("-")[0]

    @classmethod
    def of(cls, unit: "Unit", target: "Target") -> Self:
        """Collect the facts of a CPU unit; UsageError names the first one that the target's text leaves out."""
        known = {**target.facts, **unit.facts}

        def need(name: str) -> Any:
            if name not in known:
                raise UsageError(f"target {target.name} does not say {name} of its unit {unit.name}, and no kernel can be made without it")
            return known[name]

        def of_memory(name: str, fact: str) -> Any:
            return target.memories.get(name, {}).get(fact, 0)

        clock = float(need("clock"))
        return cls(
            triple=need("triple"), mcpu=need("mcpu"), mattr=tuple(known.get("mattr", ())),
            lanes=need("vector") // 4, registers=need("registers"), broadcast=need("broadcast"),
            fma_ports=need("fma_ports"), fma_latency=need("fma_latency"), load_ports=need("load_ports"),
            l1_bytes=of_memory("l1d", "size"), l2_bytes=of_memory("l2", "size"), l3_bytes=of_memory("l3", "size"),
            line_bytes=of_memory("l1d", "line") or 64,
            dram_bytes_per_cycle=(of_memory("dram", "bandwidth") or of_memory("sram", "bandwidth")) / clock,
            l2_bytes_per_cycle=of_memory("l2", "bytes_per_cycle"),
            clock_hz=clock, l3_bytes_per_cycle=of_memory("l3", "bytes_per_cycle"),
            extra=tuple(sorted((k, _plain(v)) for k, v in unit.facts.items() if k not in _FIELDS)),
        )



@dataclass(frozen=True, kw_only=True)
class Device(Isa):
    """A unit beside the CPU as a kernel sees it. `driver` starts its kernels, in groups of `group` work items.

    `own_memory`: operands lie in the unit's own arena; otherwise it works where the CPU does. Multiply-accumulates and bytes a cycle are
    those of the whole unit, and `efficiency` is the share of these that kernels reach; `launch_cycles` is what starting a kernel costs.
    """

    driver: str
    own_memory: bool = True
    group: int = 1
    macs_per_cycle: float = 1.0
    efficiency: float = 1.0
    launch_cycles: float = 0.0


Language = Literal["opencl", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Gpu(Device):
    """A GPU: `driver` is also the language of its kernels; `lanes` counts the channels that a work item loads at once.

    `local_bytes` is the memory that a group shares: 0 where that is no faster than a cache.
    """

    local_bytes: int = 0

    @classmethod
    def of(cls, unit: "Unit", target: "Target") -> Self:
        """Collect the facts of a GPU; UsageError names the first one that the target's text leaves out."""
        def need(name: str) -> Any:
            if name not in unit.facts:
                raise UsageError(f"target {target.name} does not say {name} of its unit {unit.name}, and no kernel can be made without it")
            return unit.facts[name]

        clock, language = float(need("clock")), need("language")
        bandwidth = float(need("bandwidth"))
        return cls(
            triple=language, mcpu=str(unit.facts.get("arch", "")), mattr=(), lanes=4, registers=8,
            broadcast="memory", fma_ports=1, fma_latency=1, load_ports=1, l1_bytes=0, l2_bytes=0, l3_bytes=0, line_bytes=64,
            dram_bytes_per_cycle=bandwidth / clock, l2_bytes_per_cycle=bandwidth / clock, clock_hz=clock,
            driver=language, group=int(unit.facts.get("group", 64)), macs_per_cycle=float(need("macs_per_cycle")),
            efficiency=float(unit.facts.get("efficiency", 1)),
            launch_cycles=float(unit.facts.get("launch", 0)), local_bytes=int(unit.facts.get("local", 0)))


@dataclass(frozen=True, kw_only=True)
class Npu(Device):
    """An NPU that runs command streams of a compiler of its own, on memory that it shares with the CPU.

    `accelerator`, `system` and `memory_mode` are that compiler's words for the NPU, its clocks and memories, and what lies in which.
    """

    accelerator: str
    system: str
    memory_mode: str

    @classmethod
    def of(cls, unit: "Unit", target: "Target") -> Self:
        """Collect the facts of an NPU; UsageError names the first one that the target's text leaves out."""
        def need(name: str) -> Any:
            if name not in unit.facts:
                raise UsageError(f"target {target.name} does not say {name} of its unit {unit.name}, which its compiler needs")
            return unit.facts[name]

        clock = float(need("clock"))
        bandwidth = float(need("bandwidth")) / clock
        return cls(
            triple="ethosu", mcpu=need("accelerator"), mattr=(), lanes=1, registers=1, broadcast="memory", fma_ports=1, fma_latency=1,
            load_ports=1, l1_bytes=0, l2_bytes=0, l3_bytes=0, line_bytes=16, dram_bytes_per_cycle=bandwidth, l2_bytes_per_cycle=bandwidth,
            clock_hz=clock, driver="ethosu", own_memory=False, macs_per_cycle=float(need("macs_per_cycle")),
            launch_cycles=float(unit.facts.get("launch", 0)), accelerator=need("accelerator"), system=need("system"),
            memory_mode=need("memory_mode"))


def devices(target: "Target") -> Mapping[str, Device]:
    """Collect the facts of a target's units beside the CPU for which edgec can make kernels, by name."""
    made: dict[str, Device] = {u.name: Gpu.of(u, target) for u in target.units.values() if u.kind == "gpu" and "language" in u.facts}
    return made | {u.name: Npu.of(u, target) for u in target.units.values() if u.kind == "npu" and u.facts.get("compiler") == "vela"}



def _plain(value: object) -> object:
    """The same value in one form, however it was written: facts are part of a kernel's identity."""
    if isinstance(value, list):
        return tuple(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def cpu_isa(target: "Target") -> Isa:
    """Collect the facts of a target's first CPU unit; UsageError when it has none."""
    for unit in target.units.values():
        if unit.kind == "cpu":
            return Isa.of(unit, target)
    raise UsageError(f"target {target.name} has no unit of kind cpu")


_FIELDS = {"triple", "mcpu", "mattr", "vector", "registers", "broadcast", "fma_ports", "fma_latency", "load_ports", "clock"}
