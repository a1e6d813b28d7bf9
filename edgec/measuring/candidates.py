"""Kernels that could stand in another one's place: the same node with another form or another register tile."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from edgec.ir.graph import Node
from edgec.isa import Isa
from edgec.kernels.base import Operands, Planned
from edgec.kernels.choice import Choice
from edgec.kernels.plan import plan

_FORMS = ("direct", "winograd2", "winograd4")
_NEAR, _FAR = 1.3, 3.0
"""Times the cycles of the default that another tile, or another form, may be predicted to take and is still tried."""
_TILES, _FEW = 5, 1
"""Further tiles of the form that the cost model chose, and of each other form."""


def candidates(node: Node, isa: Isa, operands: Operands, default: Planned) -> list[Planned]:
    """What could stand in the place of the plan that the cost model chose for a node, most promising first."""
    return sorted(_others(node, isa, operands, default), key=lambda p: p.plan.cycles)


def ask(node: Node, isa: Isa, operands: Operands, default: Planned) -> str | None:
    """The identity of a kernel without what was chosen for it: the text of the direct form's plan without its tile; None without choice."""
    if default.plan.choice is None:
        return None
    direct = default if default.plan.choice.form == "direct" else with_choice(node, isa, operands, Choice("direct", 0, 0))
    return None if direct is None else repr(direct.plan.open)


def with_choice(node: Node, isa: Isa, operands: Operands, choice: Choice) -> Planned | None:
    """The plan of a node with a choice; None where it cannot be had. A tile of 0x0 leaves the tile to the cost model."""
    made = plan(node, isa, replace(operands, choice=choice))
    if isinstance(made, str) or made.plan.choice is None or made.plan.choice.form != choice.form:
        return None
    return made if choice.tile in (made.plan.choice.tile, (0, 0)) else None


def _others(node: Node, isa: Isa, operands: Operands, default: Planned) -> Iterator[Planned]:
    own = default.plan.choice
    for form in _FORMS:
        mine = own is not None and form == own.form
        best = default if mine else with_choice(node, isa, operands, Choice(form, 0, 0))
        if best is None or best.plan.cycles > (inf if mine else _FAR) * default.plan.cycles:
            continue
        if not mine:
            yield best
        for tile in best.plan.others[:_TILES if mine else _FEW]:
            made = with_choice(node, isa, operands, Choice(form, tile.tw, tile.nb))
            if made is not None and made.plan.cycles <= (_NEAR if mine else _FAR) * default.plan.cycles:
                yield made
