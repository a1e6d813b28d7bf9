"""From plans to the text of one program: OpenCL C or CUDA C++."""

from collections.abc import Mapping

from edgec.kernels.contract import ContractPlan
from edgec.kernels.gpu import contract, map, reduce, window  # noqa: A004 - the module of maps
from edgec.kernels.gpu.functions import inline
from edgec.kernels.gpu.plan import GpuPlan
from edgec.kernels.gpu.writer import COMMON, PRELUDES, Writer
from edgec.kernels.map import MapPlan
from edgec.kernels.pad import PadPlan
from edgec.kernels.reduce import ReducePlan
from edgec.kernels.resize import ResizePlan
from edgec.kernels.window import WindowPlan


def source(plans: Mapping[str, GpuPlan], language: str) -> str:
    """A program with one kernel for each plan, called by its key."""
    head = "/* SPDX-License-Identifier: 0BSD. Kernels made by edgec. */\n"
    return "\n".join([head + PRELUDES[language] + COMMON, *(kernel(plan, symbol) for symbol, plan in plans.items())]) + "\n"


def kernel(plan: GpuPlan, symbol: str) -> str:
    """The text of one kernel, with the functions that it calls."""
    write, nest = Writer(plan.args), plan.nest
    finish, element = f"{symbol}_finish", f"{symbol}_element"
    functions: dict[str, str] = {}
    match nest:
        case ContractPlan():
            functions[finish] = inline(finish, nest.epilogue.expr)
            contract.emit(plan, write, finish)
        case WindowPlan():
            functions[finish] = inline(finish, nest.epilogue.expr)
            window.emit(plan, write, finish)
        case MapPlan():
            functions[finish] = inline(finish, nest.expr)
            map.emit_map(plan, write, finish)
        case ReducePlan():
            functions = {element: inline(element, nest.prologue), finish: inline(finish, nest.epilogue)}
            reduce.emit(plan, write, (element, finish))
        case ResizePlan():
            functions[finish] = inline(finish, nest.epilogue)
            map.emit_resize(plan, write, finish)
        case PadPlan():
            map.emit_pad(plan, write)
        case _:
            raise TypeError(f"no kernel of a GPU is written for {nest.kind}")
    return "\n".join([f"/* {plan.algo} */", *functions.values(), write.function(symbol)])


__all__ = ["kernel", "source"]
