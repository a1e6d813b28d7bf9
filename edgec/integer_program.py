"""A mixed-integer program as it is written down, column by column and row by row, for HiGHS."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgec.errors import EdgecError

_INFEASIBLE = 2


class IntegerProgram:
    """Columns between 0 and 1, each with a cost, and rows that bound sums of them; `what` is the name of it all in messages."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.cost: list[float] = []
        self._whole: list[bool] = []
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def column(self, cost: float, *, whole: bool) -> int:
        """The number of a new column, which is 0 or 1 where it is `whole`."""
        self.cost.append(cost)
        self._whole.append(whole)
        return len(self.cost) - 1

    def row(self, entries: Mapping[int, float], low: float, high: float) -> None:
        """A sum of columns, each times its entry, lies between `low` and `high`."""
        self._entries += [(len(self._low), column, value) for column, value in entries.items()]
        self._low.append(low)
        self._high.append(high)

    def solve(self, scale: float = 1.0) -> npt.NDArray[np.float64] | None:
        """The columns of least cost, exactly; None when the rows forbid every answer, EdgecError when HiGHS finds none.

        Costs are divided by `scale`, because HiGHS's tolerances are absolute.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415  slow to load, and most builds ask nothing
        from scipy.sparse import csr_array  # noqa: PLC0415

        rows, columns, values = zip(*self._entries, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(self._low), len(self.cost)))
        found = milp(np.array(self.cost) / scale, constraints=LinearConstraint(matrix, self._low, self._high), bounds=Bounds(0, 1),
                     integrality=np.array(self._whole, int), options={"mip_rel_gap": 0})
        if found.status == _INFEASIBLE:
            return None
        if found.x is None:
            raise EdgecError(f"{self.what} not solved: {found.message}")
        return np.asarray(found.x)
