"""The cheapest layouts, exactly: a mixed-integer program for HiGHS, one for each part that shares no tensor with another.

x[t,l] = 1 when tensor t has layout l; z[w,k] = 1 when work w runs with key k; y[r,l,c] = 1 when read r of a tensor in layout l is copied to
layout c. A key may read only layouts that are there, and copies that are made.
"""

from collections.abc import Mapping
from math import inf

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from edgec.errors import EdgecError
from edgec.layouts.problem import Answer, Problem


def solve(problem: Problem) -> Answer:
    """An answer of the least price; EdgecError when there is none. Tensors that no work touches have their first layout."""
    layouts = [0] * len(problem.layouts)
    keys: list[tuple[int, ...]] = [()] * len(problem.works)
    known: dict[str, Answer] = {}
    for part in problem.parts:
        text = repr(part.problem)                                      # nets repeat their blocks
        if text not in known:
            known[text] = _Program(part.problem).solve()
        found = known[text]
        for i, t in enumerate(part.tensors):
            layouts[t] = found.layouts[i]
        for i, w in enumerate(part.works):
            keys[w] = found.keys[i]
    return Answer(tuple(layouts), tuple(keys), problem.price(layouts, keys))


class _Program:
    """Rows and columns as they are written down."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.cost: list[float] = []
        self.entries: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []
        self.x = [[self._column(0.0) for _ in range(n)] for n in problem.layouts]
        for columns in self.x:
            self._row(dict.fromkeys(columns, 1.0), 1.0, 1.0)
        self.y = [[{into: self._column(c) for into, c in enumerate(row) if c < inf} for row in r.copies] for r in problem.reads]
        for r, table in zip(problem.reads, self.y, strict=True):
            for layout, row in enumerate(table):
                for y in row.values():
                    self._row({y: 1.0, self.x[r.tensor][layout]: -1.0}, -inf, 0.0)
        self.z = [{key: self._column(price) for key, price in w.price.items()} for w in problem.works]
        for i, keys in enumerate(self.z):
            self._row(dict.fromkeys(keys.values(), 1.0), 1.0, 1.0)
            self._keys(i, keys)

    def _keys(self, work: int, keys: Mapping[tuple[int, ...], int]) -> None:
        """What a work reads is there, and what it writes has the layout that it writes."""
        w, problem = self.problem.works[work], self.problem
        for place, r in enumerate(w.reads):
            tensor = problem.reads[r].tensor
            for choice in {key[place] for key in keys}:
                row = {z: 1.0 for key, z in keys.items() if key[place] == choice}
                if choice < problem.layouts[tensor]:
                    row[self.x[tensor][choice]] = -1.0
                else:
                    into = choice - problem.layouts[tensor]
                    row.update({table[into]: -1.0 for table in self.y[r] if into in table})
                self._row(row, -inf, 0.0)
        for place, tensor in enumerate(w.writes, len(w.reads)):
            for choice, x in enumerate(self.x[tensor]):
                self._row({**{z: 1.0 for key, z in keys.items() if key[place] == choice}, x: -1.0}, -inf, 0.0)

    def solve(self) -> Answer:
        """The answer of the least price."""
        if not self.cost:
            return Answer((), ((),) * len(self.z), 0.0)
        rows, columns, values = zip(*self.entries, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(self.low), len(self.cost)))
        scale = max(map(abs, self.cost)) or 1.0                        # tolerances are absolute
        found = milp(np.array(self.cost) / scale, constraints=LinearConstraint(matrix, self.low, self.high), bounds=Bounds(0, 1),
                     integrality=np.ones(len(self.cost)), options={"mip_rel_gap": 0})
        if found.x is None:
            raise EdgecError(f"the layouts were not solved: {found.message}")
        layouts = tuple(max(range(len(columns)), key=lambda i: found.x[columns[i]]) for columns in self.x)
        keys = tuple(max(z, key=lambda key: found.x[z[key]]) for z in self.z)
        return Answer(layouts, keys, self.problem.price(layouts, keys))

    def _column(self, cost: float) -> int:
        self.cost.append(cost)
        return len(self.cost) - 1

    def _row(self, entries: Mapping[int, float], low: float, high: float) -> None:
        self.entries += [(len(self.low), column, value) for column, value in entries.items()]
        self.low.append(low)
        self.high.append(high)
