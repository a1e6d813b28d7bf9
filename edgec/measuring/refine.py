"""The budget of `edgec build --measure`: which kernels are tried, most promising first, and what the build takes over."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgec.codegen import toolchain
from edgec.codegen.object import cache_home, compile_kernels, maker
from edgec.cost import predicted_us
from edgec.errors import Cancelled, DeviceError, EdgecError, UsageError
from edgec.ir.graph import Node
from edgec.isa import Isa
from edgec.kernels.base import KernelPlan, Operands, Planned
from edgec.kernels.choice import read
from edgec.machine import Target
from edgec.measuring.candidates import ask, candidates, with_choice
from edgec.measuring.database import Database, Finding
from edgec.measuring.trial import Bench, Contest
from edgec.target_host import identity, lacks

FILE = "measured.sqlite"
_MARGIN = 0.02          # of the default's time, by how much another kernel must be faster
_ROUNDING = 0.1         # the same of a form of Winograd's instead of a direct one: it rounds more
_SURE = 0.01            # by how much the upper bound of the ratio must stay below 1
_LEAST = 0.1            # seconds that must be left to begin with one more kernel


class _TimeIsUp(Exception):
    """The budget is spent."""


def check(target: Target, seconds: float) -> None:
    """Tell before anything is made that nothing can be measured: DeviceError (exit code 6) for another machine's target."""
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"{seconds} is no number of seconds to measure for")
    triple = str({**target.facts, **target.cpu.facts}.get("triple", ""))
    here = toolchain.is_host(triple)
    missing = lacks(target.requires) if here else [f"a machine for {triple}"]
    if missing:
        why = ", which this processor lacks" if here else ""
        raise DeviceError(f"kernels for {target.name} cannot be measured on this machine: they need {', '.join(missing)}{why}; "
                          "build without --measure, or on that machine")


@dataclass
class _Kernel:
    """What several steps may run: the node and plan of the first, and the origins of all."""

    node: Node
    operands: Operands
    default: Planned
    origins: list[str] = field(default_factory=list)
    finding: Finding | None = None
    chosen: KernelPlan | None = None

    @property
    def cycles(self) -> float:
        """What it is predicted to take in all of its steps."""
        return self.default.plan.cycles * len(self.origins)


class Refinement:
    """Hears of the kernels of a first schedule (`hear`), measures (`measure`), and gives a second one what was found faster (`take`)."""

    def __init__(self, isa: Isa, *, cache: Path | None, note: Callable[[str], None]) -> None:
        self._isa, self._cache, self._note = isa, cache, note
        self._kernels: dict[str, _Kernel] = {}
        self._database = Database((cache or cache_home()) / FILE, note)

    def hear(self, node: Node, isa: Isa, operands: Operands, made: Planned) -> Planned:
        """A kernel of the first schedule, which stays as it is."""
        question = ask(node, isa, operands, made)
        if question is not None:
            self._kernels.setdefault(question, _Kernel(node, operands, made)).origins.append(node.origin or node.label)
        return made

    def take(self, node: Node, isa: Isa, operands: Operands, made: Planned) -> Planned:
        """The kernel that was found to be faster, in the place of the default."""
        question = ask(node, isa, operands, made)
        kernel = self._kernels.get(question) if question is not None else None
        if kernel is None or kernel.chosen is None or kernel.chosen.choice is None:
            return made
        return with_choice(node, isa, operands, kernel.chosen.choice) or made

    def measure(self, seconds: float, footprint: int, chain: toolchain.ToolChain, *, jobs: int | None = None,
                progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None) -> bool:
        """Look up what is known, try the rest for so many seconds, and tell whether any kernel changes.

        `footprint`: bytes of all weights of the net. `progress` may raise Cancelled.
        """
        end = time.monotonic() + seconds
        unit, level = f"{identity()}; kernels by {maker()}", _level(self._isa, footprint)
        kernels = {f"{hashlib.sha256(question.encode()).hexdigest()} {level}": k for question, k in self._kernels.items()}
        for key, kernel in kernels.items():
            kernel.finding = self._database.get(key, unit, str(kernel.default.plan.choice))
        left = sorted((key for key, k in kernels.items() if k.finding is None), key=lambda key: -kernels[key].cycles)
        known, bench, unknown = len(kernels) - len(left), Bench(self._isa, chain, footprint), len(left)
        for done, key in enumerate(left):
            progress("measure", done, len(left))
            if time.monotonic() + _LEAST > end:
                break
            kernel = kernels[key]
            try:
                kernel.finding = self._try(kernel, bench, end, jobs)
            except _TimeIsUp:
                break
            except Cancelled:
                raise
            except EdgecError as error:
                self._note(f"kernels for {kernel.origins[0]} were not measured: {error}")
                continue
            unknown -= 1
            self._database.put(key, unit, kernel.finding)
        self._note(f"measured: {known} of {len(kernels)} kernels that leave a choice were known, {len(left) - unknown} were tried"
                   + (f", {unknown} wait for more time (--measure SECONDS)" if unknown else ""))
        for kernel in kernels.values():
            self._decide(kernel)
        return any(k.chosen is not None for k in kernels.values())

    def _decide(self, kernel: _Kernel) -> None:
        """Take over a finding, if its choice can be had: the file it comes from is anybody's."""
        finding = kernel.finding
        if finding is None or finding.chosen == finding.default_choice:
            return
        wish = read(finding.chosen)
        made = with_choice(kernel.node, self._isa, kernel.operands, wish) if wish is not None else None
        if made is None:
            self._note(f"{finding.chosen}, which {self._database.path} names for {kernel.origins[0]}, is none for it: the default stays")
            kernel.finding = None
        else:
            kernel.chosen = made.plan

    def _try(self, kernel: _Kernel, bench: Bench, end: float, jobs: int | None) -> Finding:
        """The fastest of the default and its candidates, and how sure that is."""
        def late() -> bool:
            return time.monotonic() > end

        def stop() -> None:
            if late():
                raise _TimeIsUp

        default = kernel.default.plan
        name = str(default.choice)
        others = candidates(kernel.node, self._isa, kernel.operands, kernel.default)
        plans = {name: default, **{str(p.plan.choice): p.plan for p in others}}
        if len(plans) == 1:
            return Finding(name, name, 0.0, 0.0, 1.0, 1.0, 0)
        try:
            objects = compile_kernels(plans, self._isa, jobs=jobs, cache_dir=self._cache, cancelled=late, note=self._note)
        except Cancelled as error:
            raise _TimeIsUp from error
        contest = Contest(bench.timers(plans, objects), stop)
        best = contest.fastest(name)
        if best == name:
            us = contest.seconds(name) * 1e6
            return Finding(name, name, us, us, 1.0, 1.0, len(plans) - 1)
        ratio, ours, theirs = contest.compare(best, name)
        most = 1 - (_ROUNDING if default.kind != "winograd" and plans[best].kind == "winograd" else _MARGIN)
        better = ratio.value <= most and ratio.high <= 1 - _SURE
        return Finding(name, best if better else name, theirs * 1e6, ours * 1e6, ratio.value, ratio.high, len(plans) - 1)

    def facts(self) -> dict[str, Any]:
        """What a manifest tells: for each kernel that was measured its nodes, both choices, what was predicted of them and measured."""
        found = [(k, k.finding) for k in self._kernels.values() if k.finding is not None]
        return {"measured": {"unit": identity(), "unknown": len(self._kernels) - len(found), "kernels": [
            {"origins": k.origins, "tried": f.tried, "default": f.default_choice, "chosen": str((k.chosen or k.default.plan).choice),
             "fastest": f.chosen,
             "predicted_us": {"default": self._us(k.default.plan), "chosen": self._us(k.chosen or k.default.plan)},
             "measured_us": {"default": f.default_us, "other": f.us}, "ratio": f.ratio, "ratio_high": f.high} for k, f in found]}}

    def _us(self, plan: KernelPlan) -> float:
        return predicted_us(self._isa, plan.cycles)


def _level(isa: Isa, footprint: int) -> str:
    """The nearest memory that holds all weights of a net: from there a kernel's come, and so this belongs to what was measured."""
    levels: Mapping[str, int] = {"l1": isa.l1_bytes, "l2": isa.l2_bytes, "l3": isa.l3_bytes}
    return next((name for name, size in levels.items() if footprint <= size), "dram")
