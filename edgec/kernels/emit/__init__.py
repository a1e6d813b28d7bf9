"""Kernels as TIR: `emit(plan, symbol)` writes the function of a plan. Imports TVM: only workers come here."""

from importlib import import_module
from typing import Any

from edgec.kernels.base import KernelPlan


def emit(plan: KernelPlan, symbol: str) -> Any:
    """The PrimFunc `int32 symbol(void* operand…, int32 begin, int32 end)` of a plan, by the module here that is called like its kind."""
    return import_module(f"{__name__}.{plan.kind}").emit(plan, symbol)
