"""Plans for attention: softmax(arithmetic(Q K)) V of each head, without a matrix of scores in memory.

A block of rows of Q meets all of K; its scores wait in scratch memory of a few KiB, become powers there, and are multiplied by V. Rows are
never cut, so each is one softmax with its true maximum, as the graph says; what a row's powers sum up to divides the products with V, of
which there are fewer. K is turned once for a head when its rows lie as its projection wrote them.
"""

from dataclasses import dataclass

from edgec.ir.layout import View
from edgec.kernels.base import Epilogue, KernelPlan


@dataclass(frozen=True)
class AttentionPlan(KernelPlan):
    """args: Q, K, V, operands of the scores' arithmetic…, output, scratch.

    `q` is a view [b, h, rows, depth], `k` one [b, h, depth, columns], `v` [b, h, columns, width], `y` [b, h, rows, width]. `scores` is what
    happens to a product of Q and K before the softmax. `rows` rows make a block; `widths`: vector groups of the columns, `across` of the
    width. `turned`: K is copied so that columns lie in a row. A unit is one of `parts` equal parts of the rows of a head, a task is
    `units` units.
    """

    q: View
    k: View
    v: View
    y: View
    scores: Epilogue
    rows: int
    widths: tuple[tuple[int, ...], ...]
    across: tuple[tuple[int, ...], ...]
    turned: bool
    parts: int
    units: int

    kind = "attention"

    @property
    def algo(self) -> str:
        """The register tile: rows x vectors of columns."""
        return f"attention_{self.rows}x{max(map(len, self.widths))}"

    @property
    def columns(self) -> int:
        """Scores of a row."""
        return self.k.axes[3].extent

    @property
    def depth(self) -> int:
        """Products of a score."""
        return self.k.axes[2].extent

    @property
    def all_units(self) -> int:
        """Parts of the rows of all heads."""
        return self.y.axes[0].extent * self.y.axes[1].extent * self.parts


def scratch_elements(columns: int, depth: int, rows: int, *, turned: bool) -> int:
    """What a task needs: K of a head turned, the scores of a block, the sums of its rows; whole lines of memory."""
    line = 16
    return -(-columns * depth * turned // line) * line + -(-rows * columns // line) * line + -(-rows // line) * line
