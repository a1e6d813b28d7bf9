"""The cheapest assignment, exactly: a mixed-integer program for HiGHS.

x[i,u] = 1 when group i runs on unit u. A copy of a tensor to unit u is needed when a reader is there and its producer is not, one to the
CPU when its producer is on u and a reader is not: y ≥ x[reader,u] - x[producer,u], and the other way round. Since only x has to be whole
and these rows are those of a minimum cut, the relaxation is nearly always whole by itself. What `min_region` forbids is found in an
answer and cut off: one of the groups of a part that is too small must leave it, or a neighbor join.
"""

from collections.abc import Sequence
from math import inf

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from edgec.errors import EdgecError
from edgec.partition.problem import HOST, Problem
from edgec.partition.regions import edges, small_parts

_INFEASIBLE = 2
_ROUNDS = 500


def solve(problem: Problem) -> list[int] | None:
    """The unit of each group in an assignment of the least price; None when no assignment does what the units ask for."""
    program = _Program(problem)
    for _ in range(_ROUNDS):
        on = program.solve()
        small = small_parts(problem, on) if on is not None else []
        if on is None or not small:
            return on
        for unit, part in small:
            program.forbid(unit, part)
    raise EdgecError(f"the partition still had regions that are too small after {_ROUNDS} rounds")


class _Program:
    """Rows and columns as they are written down."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.cost: list[float] = []
        self.whole: list[int] = []
        self.entries: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []
        self.near: list[list[int]] = [[] for _ in problem.costs]
        for a, b in edges(problem):
            self.near[a].append(b)
            self.near[b].append(a)
        hopeless = self._hopeless()
        self.x = [{u: self._column(c, whole=1) for u, c in enumerate(row) if c < inf and (i, u) not in hopeless}
                  for i, row in enumerate(problem.costs)]
        for choices in self.x:
            self._row(dict.fromkeys(choices.values(), 1.0), 1.0, 1.0)
        for u in range(len(problem.units)):
            if u != HOST:
                self._copies(u)
                self._capacity(u)

    def solve(self) -> list[int] | None:
        """The unit of each group, None when there is no answer."""
        if not all(self.x):
            return None
        if not self.x:
            return []
        rows, columns, values = zip(*self.entries, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(self.low), len(self.cost)))
        found = milp(np.array(self.cost), constraints=LinearConstraint(matrix, self.low, self.high), bounds=Bounds(0, 1),
                     integrality=np.array(self.whole), options={"mip_rel_gap": 0})
        if found.status == _INFEASIBLE:
            return None
        if found.x is None:
            raise EdgecError(f"the partition was not solved: {found.message}")
        return [max(choices, key=lambda u: found.x[choices[u]]) for choices in self.x]

    def forbid(self, unit: int, part: Sequence[int]) -> None:
        """No connected part on a unit is this one: a group leaves it, or a neighbor joins."""
        near = dict.fromkeys(j for i in part for j in self.near[i] if j not in part)
        row = {self.x[i][unit]: -1.0 for i in part}
        row.update({self.x[i][unit]: 1.0 for i in near if unit in self.x[i]})
        self._row(row, 1.0 - len(part), inf)

    def _hopeless(self) -> set[tuple[int, int]]:
        """Groups whose whole neighborhood on a unit is too small for it, and the unit."""
        problem, found = self.problem, set[tuple[int, int]]()
        for u, unit in enumerate(problem.units):
            if unit.min_region > 1:
                able = [u if row[u] < inf else -1 for row in problem.costs]
                found |= {(i, v) for v, part in small_parts(problem, able) if v == u for i in part}
        return found

    def _copies(self, u: int) -> None:
        """What copies to and from a unit cost. One that a single x decides is a part of the cost of that."""
        for flow in self.problem.flows:
            home = None if flow.producer is None else self.x[flow.producer].get(u)
            there = [None if r is None else self.x[r].get(u) for r in dict.fromkeys(flow.readers)]
            inside = [r for r in there if r is not None]
            self._copy(self.problem.units[u].into(flow.size), inside, home)
            if home is None:
                continue
            if None in there:
                self.cost[home] += self.problem.units[u].out(flow.size)
            else:
                self._copy_out(self.problem.units[u].out(flow.size), home, inside)

    def _copy(self, cost: float, readers: Sequence[int], home: int | None) -> None:
        if not cost or not readers:
            return
        if home is None and len(readers) == 1:
            self.cost[readers[0]] += cost
            return
        y = self._column(cost)
        for r in readers:
            self._row({r: 1.0, y: -1.0, **({} if home is None else {home: -1.0})}, -inf, 0.0)

    def _copy_out(self, cost: float, home: int, readers: Sequence[int]) -> None:
        if not cost:
            return
        y = self._column(cost)
        for r in readers:
            self._row({home: 1.0, r: -1.0, y: -1.0}, -inf, 0.0)

    def _capacity(self, u: int) -> None:
        """All weights on a unit fit its memory; one that several groups read counts once."""
        if self.problem.units[u].capacity == inf:
            return
        row: dict[int, float] = {}
        for stored in self.problem.stored:
            readers = [self.x[r][u] for r in dict.fromkeys(stored.readers) if u in self.x[r]]
            if len(readers) == 1:
                row[readers[0]] = row.get(readers[0], 0.0) + stored.size
            elif readers:
                there = self._column(0.0)
                row[there] = stored.size
                for r in readers:
                    self._row({r: 1.0, there: -1.0}, -inf, 0.0)
        if row:
            self._row(row, -inf, self.problem.units[u].capacity)

    def _column(self, cost: float, whole: int = 0) -> int:
        self.cost.append(cost)
        self.whole.append(whole)
        return len(self.cost) - 1

    def _row(self, entries: dict[int, float], low: float, high: float) -> None:
        self.entries += [(len(self.low), column, value) for column, value in entries.items()]
        self.low.append(low)
        self.high.append(high)
