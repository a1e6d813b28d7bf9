"""Plans for operators that no kernel of our own is written for: TVM's ONNX importer and its operator library make the code.

One task, plain loops: correct before quick. Every operand and result is dense and row-major.
"""

from dataclasses import dataclass
from typing import Any

from edgec.kernels.base import KernelPlan

ALIGNMENT = 64
"""Where a buffer in scratch may begin, in bytes."""


@dataclass(frozen=True)
class Fixed:
    """An operand that is structure and no data, such as a shape: its elements are part of the plan."""

    dtype: str
    shape: tuple[int, ...]
    elements: tuple[int, ...]


@dataclass(frozen=True)
class Bounds:
    """Argument `arg` holds indices: element e is less than limits[e % len(limits)], and at least 0, or minus that limit if it `wraps`."""

    arg: int
    limits: tuple[int, ...]
    wraps: bool = True


@dataclass(frozen=True)
class GenericPlan(KernelPlan):
    """args: inputs…, outputs…, [scratch in bytes].

    `operands` are those of the operator: the number of an argument, a constant, or None for an absent one. `shapes` and `dtypes` are
    what the operator takes its arguments for, scratch left out; where it only moves bits the dtype is not the one they are stored in.
    """

    op: str
    attrs: tuple[tuple[str, Any], ...]
    operands: tuple[int | Fixed | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    bounds: tuple[Bounds, ...] = ()

    kind = "generic"
    generic = True

    @property
    def algo(self) -> str:
        """generic_ and the operator."""
        return f"generic_{self.op.replace('.', '_')}"

    @property
    def given(self) -> int:
        """How many arguments are read; results follow them."""
        return sum(a.role == "input" for a in self.args)

    @property
    def made(self) -> int:
        """How many arguments are results."""
        return sum(a.role == "output" for a in self.args)
