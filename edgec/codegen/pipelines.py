"""Which steps need not wait for each other's end: recurrent layers of which each reads what the one before it makes, step by step.

A layer alone keeps one core busy: each of its steps needs the one before it. But the second of two layers may begin as soon as the first
has done some steps. On several threads their rounds run side by side, each layer on a core whose second cache holds its weights. One
thread computes one layer after the other, as its caches want it; a round is the same code in both cases, and so are the results.
"""

from collections.abc import Mapping, Sequence

from edgec.codegen.place import Place, Places
from edgec.codegen.program import HOST
from edgec.codegen.toolchain import is_hosted
from edgec.codegen.transfer import Move, Work
from edgec.ir.layout import View
from edgec.isa import Isa
from edgec.kernels.recurrent import RecurrentPlan

_TURN_SECONDS = 2e-6    # that threads of the pool take to begin something together and to wait for the last of them
_WORTH = 0.9            # of the time of one layer after the other, at most


def pipelines(steps: Sequence[Work | Move], places: Places, cpu: Isa) -> dict[int, int]:
    """Of each step that may run beside the one before it the number of rounds by which it has to be behind.

    No step is named for a core without an operating system, which has no threads, nor where memory counts more than time: steps that run
    side by side cannot share theirs.
    """
    behind: dict[int, int] = {}
    if not is_hosted(cpu.triple) or cpu.fact("optimize") == "size":
        return behind
    at = 0
    while at < len(steps):
        chain = _chain(steps[at:], places)
        plans = [plan for _, plan in chain]
        if len(plans) > 1 and _seconds(plans) < _WORTH * sum(p.cycles for p in plans) / cpu.clock_hz:
            behind |= {at + i: plan.behind for i, plan in enumerate(plans) if i}
        at += max(1, len(plans))
    return behind


def beside(behind: Mapping[int, int], step: int) -> tuple[int, int]:
    """The first and the last of the steps that may run at the same time as a step."""
    first, last = step, step
    while first in behind:
        first -= 1
    while last + 1 in behind:
        last += 1
    return first, last


def _seconds(plans: Sequence[RecurrentPlan]) -> float:
    """What layers take side by side: as many turns of the slowest as there are rounds, and those in which not all have something to do."""
    turns = plans[0].rounds + sum(p.behind for p in plans[1:])
    return max(turns * (p.cycles / p.rounds / p.isa.clock_hz + _TURN_SECONDS) for p in plans)


def _chain(steps: Sequence[Work | Move], places: Places) -> list[tuple[Work, RecurrentPlan]]:
    """The first of some steps with those behind it that could run beside it."""
    chain: list[tuple[Work, RecurrentPlan]] = []
    for step in steps:
        plan = step.planned.plan if isinstance(step, Work) and step.unit == HOST else None
        if not isinstance(step, Work) or not isinstance(plan, RecurrentPlan) or plan.rounds == 1:
            break
        if chain and not _follows(chain, step, plan, places):
            break
        chain.append((step, plan))
    return chain


def _follows(chain: Sequence[tuple[Work, RecurrentPlan]], step: Work, plan: RecurrentPlan, places: Places) -> bool:
    """Whether a layer reads what the last of a chain makes in the order in which that makes it, and nothing else that the chain makes."""
    last, before = chain[-1]
    x, *others = (step.views.get(v, places[v]) for v in step.planned.inputs)
    made = {place.root for work, _ in chain for place in work.writes}
    steps, sides, images, units = before.y.axes
    y = Place(last.writes[0].root, last.writes[0].offset, View((steps, images, units)))
    return (sides.extent == 1 and (before.chunk, before.steps, before.backward) == (plan.chunk, plan.steps, plan.backward)
            and y.same(Place(x.root, x.offset, plan.x)) and not any(place.root in made for place in others))
