"""The cheapest layouts, exactly: a mixed-integer program for HiGHS, one for each part that shares no tensor with another.

x[t,l] = 1 when tensor t has layout l; z[w,k] = 1 when work w runs with key k; y[r,l,c] = 1 when read r of a tensor in layout l is copied to
layout c. A key may read only layouts that are there, and copies that are made.
"""

from collections.abc import Mapping
from math import inf

from edgec.errors import EdgecError
from edgec.integer_program import IntegerProgram
from edgec.layouts.problem import Answer, Problem


def solve(problem: Problem) -> Answer:
    """An answer of the least price; EdgecError when there is none. Tensors that no work touches have their first layout."""
    layouts = [0] * len(problem.layouts)
    keys: list[tuple[int, ...]] = [()] * len(problem.works)
    known: dict[str, Answer] = {}
    for part in problem.parts:
        text = repr(part.problem)                                      # nets repeat their blocks
        if text not in known:
            known[text] = _Program(part.problem).answer()
        found = known[text]
        for i, t in enumerate(part.tensors):
            layouts[t] = found.layouts[i]
        for i, w in enumerate(part.works):
            keys[w] = found.keys[i]
    return Answer(tuple(layouts), tuple(keys), problem.price(layouts, keys))


class _Program(IntegerProgram):
    def __init__(self, problem: Problem) -> None:
        super().__init__("the layouts were")
        self.problem = problem
        self.x = [[self.column(0.0, whole=True) for _ in range(n)] for n in problem.layouts]
        for columns in self.x:
            self.row(dict.fromkeys(columns, 1.0), 1.0, 1.0)
        self.y = [[{into: self.column(c, whole=True) for into, c in enumerate(row) if c < inf} for row in r.copies] for r in problem.reads]
        for r, table in zip(problem.reads, self.y, strict=True):
            for layout, row in enumerate(table):
                for y in row.values():
                    self.row({y: 1.0, self.x[r.tensor][layout]: -1.0}, -inf, 0.0)
        self.z = [{key: self.column(price, whole=True) for key, price in w.price.items()} for w in problem.works]
        for i, keys in enumerate(self.z):
            self.row(dict.fromkeys(keys.values(), 1.0), 1.0, 1.0)
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
                self.row(row, -inf, 0.0)
        for place, tensor in enumerate(w.writes, len(w.reads)):
            for choice, x in enumerate(self.x[tensor]):
                self.row({**{z: 1.0 for key, z in keys.items() if key[place] == choice}, x: -1.0}, -inf, 0.0)

    def answer(self) -> Answer:
        """The answer of the least price."""
        if not self.cost:
            return Answer((), ((),) * len(self.z), 0.0)
        found = self.solve(scale=max(map(abs, self.cost)) or 1.0)
        if found is None:
            raise EdgecError("no layouts satisfy every kernel")
        layouts = tuple(max(range(len(columns)), key=lambda i: found[columns[i]]) for columns in self.x)
        keys = tuple(max(z, key=lambda key: found[z[key]]) for z in self.z)
        return Answer(layouts, keys, self.problem.price(layouts, keys))
