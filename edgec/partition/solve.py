"""The cheapest assignment, exactly: a mixed-integer program for HiGHS.

x[i,u] = 1 when group i runs on unit u. A copy of a tensor to unit u is needed when a reader is there and its producer is not, one to the
CPU when its producer is on u and a reader is not: y ≥ x[reader,u] - x[producer,u], and the other way round. Since only x has to be whole
and these rows are those of a minimum cut, the relaxation is nearly always whole by itself. What `min_region` forbids is found in an
answer and cut off: one of the groups of a part that is too small must leave it, or a neighbor join.
"""

from collections.abc import Sequence
from math import inf

from edgec.errors import EdgecError
from edgec.integer_program import IntegerProgram
from edgec.partition.problem import HOST, Problem
from edgec.partition.regions import edges, small_parts

_ROUNDS = 500


def solve(problem: Problem) -> list[int] | None:
    """The unit of each group in an assignment of the least price; None when no assignment does what the units ask for."""
    program = _Program(problem)
    for _ in range(_ROUNDS):
        on = program.units()
        small = small_parts(problem, on) if on is not None else []
        if on is None or not small:
            return on
        for unit, part in small:
            program.forbid(unit, part)
    raise EdgecError(f"the partition still had regions that are too small after {_ROUNDS} rounds")


class _Program(IntegerProgram):
    def __init__(self, problem: Problem) -> None:
        super().__init__("the partition was")
        self.problem = problem
        self.near: list[list[int]] = [[] for _ in problem.costs]
        for a, b in edges(problem):
            self.near[a].append(b)
            self.near[b].append(a)
        hopeless = self._hopeless()
        self.x = [{u: self.column(c, whole=True) for u, c in enumerate(row) if c < inf and (i, u) not in hopeless}
                  for i, row in enumerate(problem.costs)]
        for choices in self.x:
            self.row(dict.fromkeys(choices.values(), 1.0), 1.0, 1.0)
        for u in range(len(problem.units)):
            if u != HOST:
                self._copies(u)
                self._capacity(u)

    def units(self) -> list[int] | None:
        """The unit of each group, None when there is no answer."""
        if not all(self.x):
            return None
        found = self.solve() if self.x else ()
        return None if found is None else [max(choices, key=lambda u: found[choices[u]]) for choices in self.x]

    def forbid(self, unit: int, part: Sequence[int]) -> None:
        """No connected part on a unit is this one: a group leaves it, or a neighbor joins."""
        near = dict.fromkeys(j for i in part for j in self.near[i] if j not in part)
        row = {self.x[i][unit]: -1.0 for i in part}
        row.update({self.x[i][unit]: 1.0 for i in near if unit in self.x[i]})
        self.row(row, 1.0 - len(part), inf)

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
        y = self.column(cost, whole=False)
        for r in readers:
            self.row({r: 1.0, y: -1.0, **({} if home is None else {home: -1.0})}, -inf, 0.0)

    def _copy_out(self, cost: float, home: int, readers: Sequence[int]) -> None:
        if not cost:
            return
        y = self.column(cost, whole=False)
        for r in readers:
            self.row({home: 1.0, r: -1.0, y: -1.0}, -inf, 0.0)

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
                there = self.column(0.0, whole=False)
                row[there] = stored.size
                for r in readers:
                    self.row({r: 1.0, there: -1.0}, -inf, 0.0)
        if row:
            self.row(row, -inf, self.problem.units[u].capacity)
