"""Plans for recurrent layers: LSTM, GRU and RNN over a whole sequence (ONNX operators of these names).

A task runs one direction for a few images of the batch. The steps are cut into chunks: first the products of a chunk's inputs with W are
computed, as a matrix product of `columns` steps at a time, into scratch memory; then step follows step, each adding the products of the
last state with R and applying the cell's arithmetic to vectors of hidden units. W and R are packed so that both are read in order.

R of a layer that is not tiny comes from the second cache in each step, which takes twice as long as its multiplications. Where sizes allow
it (`ahead`), the products of the next chunk's inputs are computed in between: while step follows step in one half of the sums, each vector
group of a step does its share of the other half.

A layer that is one task is computed in rounds, one for each chunk, and carries sums and states in scratch memory from one to the next: so
the layer behind it can follow some rounds later on another thread (`codegen/pipelines.py`). Several directions or parts of a batch are
tasks of their own, which keep as many threads busy without that, and the layer behind two directions needs the ends of both.
"""

from dataclasses import dataclass

import numpy as np

from edgec.ir.graph import Array
from edgec.ir.layout import View
from edgec.kernels.base import KernelPlan
from edgec.kernels.expr import Expr

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class RecurrentPlan(KernelPlan):
    """args: X, W, R, [B], [initial state]…, Y, final states…, scratch.

    `x` is a view [t, n, i], `y` one [t, d, n, h], `first` and `last` views [d, n, h] of the states, h before c. `widths`: the vectors of
    hidden units that are computed together. `rows` images of a batch make a task, `chunk` steps a chunk, and the products of the last
    state are summed in `chains` sums. `cell` takes what the gates sum up to (of a GRU also what its hidden gate gets from X alone) and
    the old states, and makes the new ones. `reset`, of a GRU that resets before its last product: of the sums of its two other gates and
    the old state it makes the update gate and the state that this product reads; `cell` then takes the hidden gate's sum, the update gate
    and the old state. `ahead`: vectors of a tile of the next chunk's products, 0 where they are computed before
    the steps of their chunk. `backward`: the direction 0 goes from the last step to the first (direction 1 always does).
    """

    op: str
    x: View
    y: View
    first: tuple[View, ...]
    last: tuple[View, ...]
    hidden: int
    widths: tuple[tuple[int, ...], ...]
    columns: int
    rows: int
    chunk: int
    chains: int
    bias: bool
    backward: bool
    cell: Expr
    reset: Expr | None = None
    ahead: int = 0

    kind = "recurrent"

    @property
    def algo(self) -> str:
        """The cell, with the register tile of the input's product: steps x vectors of hidden units."""
        return f"{self.op.lower()}_{self.columns}x{max(map(len, self.widths))}"

    @property
    def gates(self) -> int:
        """Sums of products for each hidden unit."""
        return GATES[self.op]

    @property
    def steps(self) -> int:
        """The length of the sequence."""
        return self.x.axes[0].extent

    @property
    def rounds(self) -> int:
        """The chunks, where there is one task."""
        return -(-self.steps // self.chunk) if self.tasks == 1 else 1

    @property
    def behind(self) -> int:
        """By how many rounds it has to follow the kernel that makes its X: with `ahead` it reads the inputs of the next chunk, too."""
        return 2 if self.ahead else 1

    @property
    def apart(self) -> bool:
        """Whether the hidden gate of a GRU keeps what it gets from X apart from what it gets from the state, and has a bias for each."""
        return self.op == "GRU" and self.reset is None

    @property
    def share(self) -> int:
        """Inputs that each vector group of a step multiplies for the next chunk."""
        return self.x.axes[2].extent * (self.gates * len(self.widths[0]) // self.ahead) // self.chunk if self.ahead else 0

    @property
    def states(self) -> int:
        """What is carried from step to step: h, and c of an LSTM."""
        return 2 if self.op == "LSTM" else 1


def scratch_elements(gates: int, states: int, hidden: int, rows: int, chunk: int, *, reset: bool) -> int:
    """What a task needs: the sums of `chunk` steps, h twice, c once; of a GRU that resets first the update gate and the state it reads."""
    return rows * hidden * (chunk * gates + states + 1 + 2 * reset)


def pack(plan: RecurrentPlan, arg: int, array: Array) -> Array:
    """W, R (arguments 1 and 2) as [direction][vector group][input][gate][lane], B (argument 3) as [direction][vector group][gate][lane].

    The two halves of B are added, except where a GRU's hidden gate keeps them apart: it has both, that of X before that of h.
    """
    gates, hidden, sides = plan.gates, plan.hidden, array.shape[0]
    if arg == 3:                                                       # noqa: PLR2004
        of_x, of_h = np.split(array.reshape(sides, 2 * gates, hidden), 2, 1)
        both = 2 if plan.apart else gates
        table = np.concatenate([of_x[:, :both] + of_h[:, :both], of_x[:, both:], of_h[:, both:]], 1)[:, :, :, None]
    else:
        table = array.reshape(sides, gates, hidden, -1)
    groups, start = [], 0
    for widths in plan.widths:
        size = sum(widths)
        groups.append(table[:, :, start:start + size].transpose(0, 3, 1, 2).reshape(sides, -1))
        start += size
    return np.ascontiguousarray(np.concatenate(groups, 1)).reshape(-1)
