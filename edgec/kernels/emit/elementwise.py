"""Elementwise expressions on vectors: what an Expr means in TIR."""

from collections.abc import Sequence

from edgec.kernels.base import Epilogue
from edgec.kernels.emit.core import Index, Kernel, Vector, compute_dtype, hold
from edgec.kernels.emit.functions import OPERATIONS, centered
from edgec.kernels.expr import Expr


def epilogue(kernel: Kernel, what: Epilogue, value: Vector, at: Sequence[Index], axis: int, lanes: int) -> Vector:
    """The result for `lanes` neighbors along logical `axis` from output index `at`, with extra operands read where they lie."""
    loads = [kernel.read(load.arg, load.view, at, axis, lanes) for load in what.loads]
    return evaluate(what.expr, [value, *loads], lanes)[0]


def evaluate(expr: Expr, arguments: Sequence[Vector], lanes: int) -> list[Vector]:
    """The results of an expression for vector arguments, which come and go in the compute dtypes of their dtypes."""
    values, between = list(arguments), _between(expr)
    if expr.instrs:                                                    # each is computed once, however often it is read
        values = [hold(v, compute_dtype(d), lanes) for v, d in zip(values, expr.arguments, strict=True)]
    for number, instr in enumerate(expr.instrs, len(arguments)):
        dtypes, given = [compute_dtype(expr.dtype(i)) for i in instr.args], [values[i] for i in instr.args]
        if number in between:
            values.append(hold(centered(instr, given, lanes), "f32", lanes))
            continue
        value = given[0] * given[1] if instr.args[:1] and instr.args[0] in between else OPERATIONS[instr.op](instr, given, dtypes, lanes)
        values.append(value if instr.op == "Const" else hold(value, compute_dtype(instr.dtype), lanes))
    return [values[i] for i in expr.results]


def _between(expr: Expr) -> frozenset[int]:
    """The bytes that only DequantizeLinear reads, with their own zero point: they stay reals, less that, as DequantizeLinear wants them."""
    begin = len(expr.arguments)
    readers = {n: [i for i in expr.instrs if n in i.args] for n, q in enumerate(expr.instrs, begin) if q.op == "QuantizeLinear"}

    def fits(n: int) -> bool:
        zero = expr.instrs[n - begin].args[2:3]
        return n not in expr.results and all(r.op == "DequantizeLinear" and r.args[0] == n and r.args[2:] == zero for r in readers[n])

    return frozenset(filter(fits, readers))
