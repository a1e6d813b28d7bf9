"""What a planner may choose for one kernel without changing what it computes: the algorithm, and the register tile."""

import re
from dataclasses import dataclass

_TEXT = re.compile(r"(direct|winograd[24]) (\d{1,3})x(\d{1,3})")


@dataclass(frozen=True)
class Choice:
    """`form`: direct, winograd2 or winograd4. The tile: `columns` of output, or of transformed tiles, times `vectors` of channels."""

    form: str
    columns: int
    vectors: int

    def __str__(self) -> str:
        return f"{self.form} {self.columns}x{self.vectors}"

    @property
    def tile(self) -> tuple[int, int]:
        """Columns and vectors, as the cost model is asked for them."""
        return self.columns, self.vectors


def read(text: str) -> Choice | None:
    """The choice that `str` wrote, None where a text is none."""
    found = _TEXT.fullmatch(text)
    return Choice(found[1], int(found[2]), int(found[3])) if found else None
