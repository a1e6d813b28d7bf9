"""Kernels as TIR: `emit(plan, symbol)` writes the function of a plan. Imports TVM: only workers come here."""

from collections.abc import Callable
from typing import Any

from edgec.kernels.base import KernelPlan


def emit(plan: KernelPlan, symbol: str) -> Any:
    """The PrimFunc `int32 symbol(void* operand…, int32 begin, int32 end)` of a plan."""
    from edgec.kernels.emit import contract, map, pad, reduce, resize, window  # noqa: A004, PLC0415

    emitters: dict[str, Callable[[Any, str], Any]] = {"contract": contract.emit, "map": map.emit, "pad": pad.emit, "reduce": reduce.emit, "resize": resize.emit, "window": window.emit}
    return emitters[plan.kind](plan, symbol)
