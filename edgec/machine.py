"""What a machine is: units that run operators, memories, and facts of both, with everything inherited already in its place.

FACTS and NODE_FACTS are the vocabulary of the `.target` language; `edgec/target.py` finds targets, `edgec/target_read.py` reads them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from edgec.errors import SourceError, UsageError
from edgec.lang.expr import CannotEvaluate, Expr, evaluate, names, quantity, text, truth
from edgec.lang.syntax import Never, Runs

Scope = Literal["target", "unit", "memory"]


@dataclass(frozen=True)
class Fact:
    """A fact that edgec knows of: what kind of value it has, in which unit of measure it must be written, and what it says."""

    kind: Literal["text", "texts", "number", "count", "flag"]
    doc: str
    unit: str = ""
    choices: tuple[str, ...] = ()


_MACHINE = {
    "triple": Fact("text", "LLVM's name of architecture and system"),
    "mcpu": Fact("text", "LLVM's name of the core"),
    "mattr": Fact("texts", "instruction sets beyond those of mcpu, in LLVM's words"),
    "requires": Fact("texts", "CPU features that code for this machine may use, as /proc/cpuinfo calls them"),
    "cores": Fact("count", "cores of one kind"),
    "clock": Fact("number", "clock of a busy core", "Hz"),
}
FACTS: Mapping[Scope, Mapping[str, Fact]] = MappingProxyType({
    "target": {
        **_MACHINE,
        "aliases": Fact("texts", "further names of this target; not inherited"),
        "detect": Fact("texts", "lines of /proc/cpuinfo, `key: value`, by which `--target host` knows this machine; not inherited"),
        "emulator": Fact("texts", "the command that runs a program for this machine elsewhere"),
        "emulator_memory": Fact("texts", "where an emulated microcontroller has memory, `address bytes`: for code, for the rest"),
    },
    "unit": {
        **_MACHINE,
        "vector": Fact("count", "width of a vector register", "B"),
        "registers": Fact("count", "vector registers"),
        "core_registers": Fact("count", "registers for integers that a scalar core has besides"),
        "spare_registers": Fact("count", "vector registers that the compiler fills ahead, beside those of a tile (3 unless said)"),
        "fpu": Fact("flag", "whether instructions compute f32 (yes, unless said)"),
        "broadcast": Fact("text", "how a scalar meets a vector: from memory, or as a lane of another register", choices=("memory", "lane")),
        "fma_ports": Fact("count", "vector multiply-accumulates started in a cycle"),
        "fma_cycles": Fact("count", "how long a vector multiply-accumulate keeps its port busy (1 unless said)", "cycles"),
        "fma_latency": Fact("count", "from one multiply-accumulate to the next on the same accumulator", "cycles"),
        "issue": Fact("count", "instructions of all kinds started in a cycle, where that is what limits a core"),
        "input_wait": Fact("number", "how long a vector load of inputs keeps multiply-accumulates waiting, in a core that works in order",
                           "cycles"),
        "weight_wait": Fact("number", "the same of a vector load of weights, which is not needed at once", "cycles"),
        "load_ports": Fact("count", "vector loads started in a cycle"),
        "load_share": Fact("number", "of the cycles of vector loads, the share that multiply-accumulates do not hide (0.08 unless said)"),
        "streams": Fact("count", "from how many places at once a core reads its memory fastest (1 unless said)"),
        "prefetch_per_cycle": Fact("number", "how fast lines come that a core asked for ahead from beyond its second level, where it can "
                                             "wait for too few at once", "B/cycle"),
        "fma_per_cycle": Fact("number", "f32 multiply-accumulates of one core in a cycle"),
        "macs_per_cycle": Fact("number", "multiply-accumulates of the whole unit in a cycle"),
        "int8_dot": Fact("flag", "whether one instruction adds four products of bytes"),
        "language": Fact("text", "what the kernels of a GPU are written in", choices=("opencl", "cuda")),
        "arch": Fact("text", "the maker's name of what a unit runs, such as sm_87 (CUDA)"),
        "efficiency": Fact("number", "the share of its peak that kernels reach"),
        "group": Fact("count", "work items of a GPU that are started together"),
        "local": Fact("number", "memory that a group of work items shares, where that is faster than a cache", "B"),
        "int8_form": Fact("text", "the instruction with which int8 kernels multiply and sum",
                          choices=("vpdpbusd", "vpmaddubsw", "pmaddwd", "sdot", "smlal", "portable")),
        "int8_per_cycle": Fact("number", "int8 multiply-accumulates of one core in a cycle with that instruction"),
        "integer_mcpu": Fact("text", "LLVM's name of the core for integer kernels, where another one than mcpu serves them better"),
        "integer_mattr": Fact("texts", "instruction sets beyond those of integer_mcpu, in LLVM's words"),
        "fork": Fact("number", "what sharing a kernel out among threads costs (nothing unless said)", "cycles"),
        "launch": Fact("number", "what starting a kernel on this unit costs", "cycles"),
        "bandwidth": Fact("number", "what the whole unit reads in a second", "B/s"),
        "copy_latency": Fact("number", "what a copy between its memory and that of the CPU costs before the first byte", "cycles"),
        "copy_bandwidth": Fact("number", "what such a copy moves in a second", "B/s"),
        "capacity": Fact("number", "bytes of weights that can lie in the memory of this unit at once", "B"),
        "compiler": Fact("text", "what makes command streams for an NPU", choices=("vela",)),
        "accelerator": Fact("text", "how that compiler calls this NPU"),
        "system": Fact("text", "how that compiler calls clocks and memories around this NPU"),
        "memory_mode": Fact("text", "how that compiler calls what lies in which memory"),
        "min_region": Fact("count", "operators that a connected part of the graph must have to run on this unit"),
    },
    "memory": {
        "size": Fact("number", "how much it holds; 0 B when this machine has none", "B"),
        "line": Fact("count", "what is moved at once", "B"),
        "latency": Fact("number", "from a load to its value", "cycles"),
        "bytes_per_cycle": Fact("number", "what one core reads in a cycle", "B/cycle"),
        "bandwidth": Fact("number", "what one core reads in a second", "B/s"),
        "shared": Fact("count", "cores that share one of it"),
        "holds": Fact("texts", "what of a bundle lies here",
                      choices=("code", "weights", "arena", "state", "prepared", "inputs", "outputs")),
    },
})
"""The facts that edgec reads, by where they stand. A target may say more, for its own conditions and costs."""
OWN = ("aliases", "detect")
"""Facts that say who a target is: children do not inherit them."""
NODE_FACTS: Mapping[str, str] = MappingProxyType({
    "op": "the operator", "dtype": "element type of the first input: f32, i8 …", "macs": "multiply-accumulates",
    "bytes": "bytes read and written once", "weight_bytes": "bytes of constant inputs", "elements": "elements of the first output",
    "rank": "axes of the first input", "batch": "first axis of the first input", "channels": "second axis of the first input",
    "out_channels": "channels that a convolution makes", "group": "groups of a convolution",
    "kernel": "longest side of the window", "stride": "largest stride", "dilation": "largest dilation",
    "mode": "the operator's attribute of that name",
})
"""What conditions and costs may ask of a node; see node_facts in edgec/cost.py."""
_PREFIXES = {"B": ("Gi", "Mi", "Ki", ""), "B/s": ("G", "M", "K", ""), "Hz": ("G", "M", "k", "")}


@dataclass(frozen=True)
class Line:
    """What a unit says of some operators, and where: `runs` with conditions and a cost, or `never` with a reason."""

    said: Runs | Never
    text: str = field(default="", compare=False, repr=False)
    path: str = field(default="", compare=False, repr=False)

    def speaks_of(self, op: str) -> bool:
        """Whether this line is about an operator."""
        return self.said.operators is None or op in self.said.operators


@dataclass(frozen=True)
class Verdict:
    """Whether a unit runs an operator; the cost in cycles where the target says one; the reason why not, in the words of its text."""

    runs: bool
    cost: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Unit:
    """A part that runs operators by itself: some cores (cpu), a gpu, an npu, a dsp. The last line that speaks of an operator wins."""

    name: str
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Target:
    """A machine after inheritance. Quantities are plain numbers in base units: bytes, hertz, bytes per second, cycles.

    `parents` lists all it inherits from, the nearest last; `sources` the comment beside each fact, by scope, name of the scope, and fact.
    """

    name: str
    doc: str
    facts: Mapping[str, Any]
    units: Mapping[str, Unit]
    memories: Mapping[str, Mapping[str, Any]]
    parents: tuple[str, ...] = field(default=(), compare=False)
    path: str = field(default="", compare=False)
    sources: Mapping[tuple[Scope, str, str], str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def requires(self) -> tuple[str, ...]:
        """The CPU features that code for this machine may use, as /proc/cpuinfo calls them, in a fixed order."""
        said = (self.facts, *(u.facts for u in self.units.values()))
        return tuple(sorted({feature for facts in said for feature in facts.get("requires", ())}))

    @property
    def emulator(self) -> tuple[str, ...]:
        """The command, without the program, that runs a program for this machine elsewhere; empty when there is none."""
        return tuple(self.facts.get("emulator", ()))

    @property
    def cpu(self) -> Unit:
        """The first unit of kind cpu; UsageError when there is none."""
        for unit in self.units.values():
            if unit.kind == "cpu":
                return unit
        raise UsageError(f"target {self.name} has no unit of kind cpu")

    def clock(self, unit: Unit) -> float:
        """The clock of a unit in hertz: its own, else the target's; UsageError when neither is said."""
        clock = unit.facts.get("clock", self.facts.get("clock"))
        if clock is None:
            raise UsageError(f"target {self.name} does not say the clock of its unit {unit.name}, and its times cannot be predicted")
        return float(clock)

    def names(self, unit: str) -> dict[str, Any]:
        """What the expressions of a unit may read: the target's facts, the unit's, and each memory's as `l2.size`."""
        return {**self.facts, **self.memories, **self.units[unit].facts}

    def verdict(self, unit: str, op: str, facts: Mapping[str, Any]) -> Verdict:
        """Whether a unit runs an operator with these facts (NODE_FACTS), at what cost, or why not; UsageError when there is no unit."""
        if unit not in self.units:
            raise UsageError(f"target {self.name} has no unit {unit}; it has {', '.join(self.units) or 'none'}")
        known = {**self.names(unit), "op": op, **facts}
        reasons: list[str] = []
        for line in reversed([line for line in self.units[unit].lines if line.speaks_of(op)]):
            if isinstance(line.said, Never):
                because = f": {line.said.because}" if line.said.because else ""
                why = f"{_only(unit, op, reasons)}; else never" if reasons else f"{unit} never runs {op}"
                return Verdict(runs=False, reason=why + because)
            failed = [reason for condition in line.said.when if (reason := _unmet(condition, known))]
            if not failed:
                return Verdict(runs=True, cost=_cost(line, known))
            reasons.append(failed[0])
        if reasons:
            return Verdict(runs=False, reason=_only(unit, op, reasons))
        return Verdict(runs=False, reason=f"target {self.name} does not say that {unit} runs {op}")

    def text(self) -> str:
        """The machine as one `.target` text that needs no other: reading it gives an equal target, whatever edgec's files say by then."""
        lines = [f"target {self.name} {json.dumps(self.doc, ensure_ascii=False)} {{", *_settings("target", self.facts, "  ")]
        for unit in self.units.values():
            lines += [f"  unit {unit.name} {unit.kind} {{", *_settings("unit", unit.facts, "    ")]
            lines += [*(f"    {said_text(line.said)}" for line in unit.lines), "  }"]
        for name, facts in self.memories.items():
            lines.append(f"  memory {name} {{ {'  '.join(_settings('memory', facts, ''))} }}")
        return "\n".join([*lines, "}", ""])


def _only(unit: str, op: str, reasons: Sequence[str]) -> str:
    return f"{unit} runs {op} only when {', or when '.join(reasons)}"


def _unmet(condition: Expr, known: Mapping[str, Any]) -> str:
    """The condition and what it met instead, empty when it holds."""
    asked = list(dict.fromkeys(n.name for n in names(condition)))
    try:
        if truth(evaluate(condition, known)):
            return ""
    except CannotEvaluate as wrong:
        missing = [name for name in asked if name not in known]
        return f"{text(condition)} ({', '.join(missing)} not known here)" if missing else f"{text(condition)} ({wrong})"
    met = [f"{name} is {known[name]}" for name in asked if name in NODE_FACTS]
    return text(condition) + (f" ({', '.join(met)})" if met else "")


def _cost(line: Line, known: Mapping[str, Any]) -> float | None:
    if isinstance(line.said, Never) or line.said.cost is None:
        return None
    try:
        return float(evaluate(line.said.cost, known))
    except (CannotEvaluate, TypeError, ValueError) as wrong:
        at = line.said.cost.at
        raise SourceError(f"this cost has no value for {known['op']}: {wrong}", line.text, at.line, at.column, line.path) from wrong


def said_text(said: Runs | Never) -> str:
    """A line of a unit as one would write it."""
    ops = "*" if said.operators is None else ", ".join(said.operators)
    if isinstance(said, Never):
        return f"never {ops}" + (f" because {json.dumps(said.because, ensure_ascii=False)}" if said.because else "")
    when = f" when {', '.join(map(text, said.when))}" if said.when else ""
    return f"runs {ops}{when}" + (f" cost {text(said.cost)}" if said.cost is not None else "")


def _settings(scope: Scope, facts: Mapping[str, Any], indent: str) -> list[str]:
    return [f"{indent}{name} = {show(scope, name, value)}" for name, value in facts.items()]


def show(scope: Scope, name: str, value: Any) -> str:
    """The value of a fact as one would write it, in the unit that says it exactly with the fewest letters."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Sequence):
        return f"[{', '.join(show(scope, name, item) for item in value)}]"
    unit = FACTS[scope][name].unit if name in FACTS[scope] else ""
    scales = ((f"{prefix}{unit}", quantity(f"1 {prefix}{unit}")) for prefix in _PREFIXES.get(unit, ()))
    written = (f"{_digits(value / scale)} {name}" for name, scale in scales if value >= scale)
    return min((w for w in written if quantity(w) == value), key=len, default=f"{_digits(value)} {unit}".rstrip())


def _digits(value: float) -> str:
    """A number that reads back as the same: whole numbers without a point, others as Python writes them."""
    return re.sub(r"\.0$", "", repr(value))
