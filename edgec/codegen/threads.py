"""Which steps one thread does, though several could share them out: runs of short kernels, where sharing costs more than it saves."""

from collections.abc import Sequence
from itertools import groupby

from edgec.codegen.program import HOST
from edgec.codegen.transfer import Move, Work
from edgec.cost import shared, short
from edgec.isa import Isa


def alone(steps: Sequence[Work | Move], cpu: Isa) -> frozenset[int]:
    """The numbers of such steps; none for a core whose target names no cost of sharing (`fork`)."""
    def is_short(i: int) -> bool:
        step = steps[i]
        return isinstance(step, Work) and step.unit == HOST and short(cpu, step.planned.plan.cycles)

    found: list[int] = []
    for few, numbers in groupby(range(len(steps)), is_short):
        run = list(numbers)
        cycles = [step.planned.plan.cycles for step in (steps[i] for i in run) if isinstance(step, Work)]
        if few and not shared(cpu, cycles, whole=len(run) == len(steps)):
            found += run
    return frozenset(found)
