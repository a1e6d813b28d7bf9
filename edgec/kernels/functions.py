"""Which elementwise operators the emitters can write for which dtypes: the planners ask here, so that no TVM is needed to say no."""

from collections.abc import Sequence

from edgec.kernels.expr import ELEMENTWISE, Expr, Instr

FLOATS = frozenset({"f16", "bf16", "f32", "f64"})
SIGNED = frozenset({"i8", "i16", "i32", "i64"})
UNSIGNED = frozenset({"u8", "u16", "u32", "u64"})
INTEGERS = SIGNED | UNSIGNED
NUMBERS = FLOATS | INTEGERS
BOOL = frozenset({"bool"})
ANY = NUMBERS | BOOL

_BY_OP: dict[str, frozenset[str]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Clip",
                     "Relu", "Neg", "Abs", "Sign", "PRelu", "LeakyRelu"), NUMBERS),
    **dict.fromkeys(("And", "Or", "Xor", "Not"), BOOL),
    **dict.fromkeys(("Equal", "Cast", "Identity"), ANY),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift"), INTEGERS),
}
BYTES = frozenset({"i8", "u8"})
_BORDERS = ("QuantizeLinear", "DequantizeLinear")
LARGEST_WHOLE_POWER = 8


def supported(instr: Instr, dtypes: Sequence[str], second: float | None = None) -> str | None:
    """Why an instruction cannot be emitted for operands of these dtypes, None when it can. `second`: argument 1 where it is constant."""
    op = instr.op
    if op == "Const":
        return None if instr.dtype in ANY else f"there is no arithmetic on {instr.dtype}"
    if op not in ELEMENTWISE:
        return f"{op} is not elementwise arithmetic"
    if foreign := [d for d in (*dtypes, instr.dtype) if d not in ANY]:
        return f"{op} is not written for {foreign[0]}"
    if op == "Where":
        return None if dtypes[0] == "bool" else f"Where needs a condition of bool, not {dtypes[0]}"
    if op == "edgec.MultiplyShift":
        return None if {*dtypes, instr.dtype} == {"i32"} else f"{op} is written for i32, not for {', '.join((*dtypes, instr.dtype))}"
    if op in _BORDERS:
        return _border(instr, dtypes)
    if dtypes[0] not in _BY_OP.get(op, FLOATS):
        return f"{op} is not written for {dtypes[0]}"
    return _of_integers(instr, dtypes, second) if dtypes[0] in INTEGERS else _of_floats(instr, dtypes)


def _border(instr: Instr, dtypes: Sequence[str]) -> str | None:
    """Between bytes and f32, with a scale in f32 and a zero point like the bytes."""
    quantized, real = (instr.dtype, dtypes[0]) if instr.op == "QuantizeLinear" else (dtypes[0], instr.dtype)
    if quantized not in BYTES or {real, dtypes[1]} != {"f32"} or any(d != quantized for d in dtypes[2:3]) or {*dtypes[3:]} - {"f32"}:
        return f"{instr.op} is written between f32 and i8 or u8, not for {', '.join((*dtypes, instr.dtype))}"
    return None


def refusal(expr: Expr) -> str | None:
    """Why an expression cannot be emitted, or None when it can."""
    constants = {len(expr.arguments) + i: instr.attr("value") for i, instr in enumerate(expr.instrs) if instr.op == "Const"}
    for dtype in expr.arguments:
        if dtype not in ANY:
            return f"there is no arithmetic on {dtype}"
    for instr in expr.instrs:
        second = constants.get(instr.args[1]) if len(instr.args) > 1 else None
        if reason := supported(instr, [expr.dtype(i) for i in instr.args], second):
            return reason
    return None


def _of_integers(instr: Instr, dtypes: Sequence[str], second: float | None) -> str | None:
    op, dtype = instr.op, dtypes[0]
    if op == "Pow" and (second is None or second != int(second) or not 0 <= second <= LARGEST_WHOLE_POWER):
        return f"Pow of {dtype} is written for constant exponents from 0 to {LARGEST_WHOLE_POWER}"
    if op == "LeakyRelu":
        return f"LeakyRelu is not written for {dtype}"
    return None


def _of_floats(instr: Instr, dtypes: Sequence[str]) -> str | None:
    if instr.op == "Mod" and not instr.attr("fmod", 0):
        return "Mod of floating point needs fmod=1"
    if instr.op == "Pow" and dtypes[1] not in NUMBERS:
        return f"Pow is not written for exponents of {dtypes[1]}"
    return None
