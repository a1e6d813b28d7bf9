"""Which steps one thread does, though several could share them out: runs of short kernels, where sharing costs more than it saves."""

from collections.abc import Sequence
from itertools import groupby

from edgec.codegen.program import HOST
from edgec.codegen.transfer import Move, Work
from edgec.cost import shared, short
from edgec.isa import Isa


def alone(steps: Sequence[Work | Move], cpu: Isa) -> frozenset[int]:
    """The numbers of such steps; none for a core whose target names no cost of sharing (`fork`)."""
    cycles = [step.planned.plan.cycles if isinstance(step, Work) and step.unit == HOST else 0.0 for step in steps]
    found: list[int] = []
    for few, numbers in groupby(range(len(steps)), lambda i: short(cpu, cycles[i])):
        run = list(numbers)
        if few and not shared(cpu, [cycles[i] for i in run], whole=len(run) == len(steps)):
            found += run
    return frozenset(found)
