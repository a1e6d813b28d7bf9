"""Elementwise expressions on vectors: what an Expr means in TIR."""

from collections.abc import Sequence

from edgec.kernels.base import Epilogue
from edgec.kernels.emit.core import Index, Kernel, Vector, compute_dtype, hold
from edgec.kernels.emit.functions import OPERATIONS
from edgec.kernels.expr import Expr


def epilogue(kernel: Kernel, what: Epilogue, value: Vector, at: Sequence[Index], axis: int, lanes: int) -> Vector:
    """The result for `lanes` neighbors along logical `axis` from output index `at`, with extra operands read where they lie."""
    loads = [kernel.read(load.arg, load.view, at, axis, lanes) for load in what.loads]
    return evaluate(what.expr, [value, *loads], lanes)[0]


def evaluate(expr: Expr, arguments: Sequence[Vector], lanes: int) -> list[Vector]:
    """The results of an expression for vector arguments, which come and go in the compute dtypes of their dtypes."""
    values = list(arguments)
    if expr.instrs:                                                    # each is computed once, however often it is read
        values = [hold(v, compute_dtype(d), lanes) for v, d in zip(values, expr.arguments, strict=True)]
    for instr in expr.instrs:
        dtypes = [compute_dtype(expr.dtype(i)) for i in instr.args]
        value = OPERATIONS[instr.op](instr, [values[i] for i in instr.args], dtypes, lanes)
        values.append(value if instr.op == "Const" else hold(value, compute_dtype(instr.dtype), lanes))
    return [values[i] for i in expr.results]
