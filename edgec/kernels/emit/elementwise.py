"""Elementwise expressions on vectors: what an Expr means in TIR."""

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.base import Epilogue
from edgec.kernels.emit import functions as f
from edgec.kernels.emit.core import Index, Kernel, Vector, cast, compute_dtype, const
from edgec.kernels.expr import Expr, Instr


def epilogue(kernel: Kernel, what: Epilogue, value: Vector, at: Sequence[Index], axis: int, lanes: int) -> Vector:
    """The result for `lanes` neighbors along logical `axis` from output index `at`, with extra operands read where they lie."""
    loads = [kernel.read(load.arg, load.view, at, axis, lanes) for load in what.loads]
    return evaluate(what.expr, [value, *loads], lanes)[0]


def evaluate(expr: Expr, arguments: Sequence[Vector], lanes: int) -> list[Vector]:
    """The results of an expression for vector arguments."""
    values = list(arguments)
    for instr in expr.instrs:
        values.append(T.bind(_apply(instr, [values[i] for i in instr.args], [compute_dtype(expr.dtype(i)) for i in instr.args], lanes)))
    return [values[i] for i in expr.results]


def _apply(instr: Instr, args: list[Vector], dtypes: list[str], lanes: int) -> Vector:
    if instr.op == "Const":
        return const(instr.attr("value"), compute_dtype(instr.dtype), lanes)
    if instr.op == "Cast":
        return f.convert(args[0], dtypes[0], compute_dtype(instr.dtype), lanes)
    if instr.op in _BINARY:
        return _BINARY[instr.op](args[0], args[1])
    return f.OPERATIONS[instr.op](instr, args, dtypes, lanes)


_BINARY: dict[str, Callable[[Vector, Vector], Vector]] = {
    "Add": lambda a, b: a + b, "Sub": lambda a, b: a - b, "Mul": lambda a, b: a * b,
    "Equal": lambda a, b: tirx.EQ(a, b), "Less": lambda a, b: tirx.LT(a, b), "Greater": lambda a, b: tirx.GT(a, b),
    "LessOrEqual": lambda a, b: tirx.LE(a, b), "GreaterOrEqual": lambda a, b: tirx.GE(a, b),
    "And": lambda a, b: tirx.And(a, b), "Or": lambda a, b: tirx.Or(a, b),
}

__all__ = ["cast", "epilogue", "evaluate"]
