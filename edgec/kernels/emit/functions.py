"""The elementwise operators on vectors: what each name of `edgec.kernels.expr.ELEMENTWISE` means, NaN and infinities included.

Half-precision values are f32 here. f64 functions call libm. The largest errors of f32 functions, as tests/test_functions.py measures
and bounds them on four million arguments of every magnitude, in units of the last place of the exact result:

    Exp 1.0   Log 0.8   Tanh 2.4   Sigmoid 2.4   Erf 1.0   Softplus 1.7   Sin 1.6   Cos 1.6   Elu 0.9   Softsign 1.5   Pow 0.51
    Pow with a constant exponent of 0.25: 1.0   0.5: 0.5   1.5: 1.3   0.75 (that of local response normalization): 2.4
    Sqrt, Reciprocal, Div and the rest: correctly rounded

and relative to the argument, for functions whose result has fewer digits near their zeros, in ONNX Runtime as here:

    Gelu 2.1e-7   Gelu (tanh) 1.5e-7   Swish 1.5e-7   Mish 1.4e-7   Celu 1.6e-7   Selu 2.8e-7
"""

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.emit.core import Vector, cast, compute_dtype, const, fail_when, hold, narrow, type_name, widen
from edgec.kernels.emit.lookup import gelu, permutes
from edgec.kernels.emit.vectormath import MAGIC, MAGIC_BITS, VectorMath, lane_by_lane
from edgec.kernels.expr import Instr
from edgec.kernels.functions import FLOATS, LARGEST_WHOLE_POWER, UNSIGNED

Operation = Callable[[Instr, Sequence[Vector], Sequence[str], int], Vector]
"""f(instruction, arguments, their compute dtypes, lanes) -> value in the compute dtype of the instruction's result."""

_QUARTERS = (0.25, 0.5, 0.75, 1.5)
_SQRT_HALF = 0.70710678118654752
_SQRT_2_OVER_PI = 0.79788456080286536
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def convert(value: Vector, source: str, dtype: str, lanes: int) -> Vector:
    """A value of dtype `source` as `dtype` would hold it, in the compute dtype of that: truncation toward zero, wrapping integers.

    Floats that no integer of the target equals give what C's conversion gives on the machine: some number, and never a trap.
    """
    source = compute_dtype(source)
    if dtype == "bool":
        return _not(tirx.EQ(value, const(0, source, lanes))) if source != "bool" else value
    if dtype in ("f16", "bf16"):
        return widen(narrow(convert(value, source, "f32", lanes), dtype, lanes), dtype, lanes)
    if source in FLOATS and dtype in ("i8", "i16", "u8", "u16"):       # C goes through int
        return cast(cast(value, "i32", lanes), dtype, lanes)
    if source in FLOATS and dtype in ("u32", "u64"):
        signed = cast(cast(value, "i64", lanes), dtype, lanes)
        large = tirx.GE(value, const(2.0**63, source, lanes))
        return signed if dtype == "u32" else tirx.Select(large, cast(value, dtype, lanes), signed)
    return cast(value, dtype, lanes)


def constant(value: Vector) -> float | None:
    """The number that every lane holds where that is known now."""
    if isinstance(value, tirx.Broadcast):
        value = value.value
    return value.value if isinstance(value, tirx.FloatImm | tirx.IntImm) else None


def _arithmetic(operate: Callable[[Vector, Vector], Vector], unsigned: str) -> Operation:
    """Sums and products. LLVM is told that 32-bit integers do not overflow, so these are computed in 64 bits, which it narrows again."""
    def apply(_: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
        wide = {"i32": "i64", "u32": unsigned, "u64": unsigned}.get(dtypes[0])
        if wide is None:
            return operate(*_distinct(args, dtypes[0], lanes))
        return cast(operate(*(cast(a, wide, lanes) for a in args)), dtypes[0], lanes)
    return apply


def _distinct(args: Sequence[Vector], dtype: str, lanes: int) -> tuple[Vector, Vector]:
    """Two operands that TVM's simplifier does not know: it would make x - x zero, and x * 0 too where x is one number."""
    a, b = (hold(v, dtype, lanes) if lanes == 1 and constant(v) == 0 else v for v in args)
    return a, hold(b, dtype, lanes) if a.same_as(b) else b


def _divide(_: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    if dtypes[0] in FLOATS:
        return tirx.Div(*_distinct(args, dtypes[0], lanes))
    quotient = tirx.truncdiv(args[0], _divisor(args[1], dtypes[0], lanes))
    if dtypes[0] in UNSIGNED or constant(args[1]):
        return quotient
    return tirx.Select(tirx.EQ(args[1], const(-1, dtypes[0], lanes)), _negative(args[0], dtypes[0], lanes), quotient)


def _divisor(value: Vector, dtype: str, lanes: int) -> Vector:
    """A divisor with which no CPU traps; the kernel fails if it is zero."""
    if constant(value):
        return value
    one = const(1, dtype, lanes)
    zero = hold(tirx.EQ(value, const(0, dtype, lanes)), "bool", lanes)
    fail_when(zero, lanes)
    unsafe = zero if dtype in UNSIGNED else zero | tirx.EQ(value, const(-1, dtype, lanes))   # the lowest number has no negative
    return hold(tirx.Select(unsafe, one, value), dtype, lanes)


def _modulo(instr: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    if dtypes[0] in FLOATS:
        return lane_by_lane("fmod" if dtypes[0] == "f64" else "fmodf", dtypes[0], lanes, *args)
    divisor = _divisor(args[1], dtypes[0], lanes)
    rest = hold(tirx.truncmod(args[0], divisor), dtypes[0], lanes)
    if instr.attr("fmod", 0) or dtypes[0] in UNSIGNED:
        return rest
    zero = const(0, dtypes[0], lanes)                                  # the sign of the divisor, as Python has it
    other = (tirx.LT(rest, zero) & tirx.GT(divisor, zero)) | (tirx.GT(rest, zero) & tirx.LT(divisor, zero))
    return tirx.Select(other, rest + divisor, rest)


def _larger(a: Vector, b: Vector, dtype: str, compare: Callable[[Vector, Vector], Vector]) -> Vector:
    """The one of two numbers that compares true, or NaN if either is."""
    known = constant(a)
    if known is not None and known == known:  # noqa: PLR0124  a number
        a, b = b, a
        known = constant(b)
    else:
        known = constant(b)
    chosen = tirx.Select(compare(b, a), b, a)                          # a when either is NaN
    if dtype not in FLOATS or (known is not None and known == known):  # noqa: PLR0124
        return chosen
    return tirx.Select(T.isnan(b), b, chosen)


def _extreme(compare: Callable[[Vector, Vector], Vector]) -> Operation:
    return lambda _, args, dtypes, lanes: _larger(*_distinct(args, dtypes[0], lanes), dtypes[0], compare)


def _clip(instr: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    """Bounds are arguments 1 (low) and 2 (high), or the attributes `min` and `max`. The upper bound wins, and NaN stays in either."""
    value, bounds = args[0], dict(zip(("min", "max"), args[1:], strict=False))
    for name in ("min", "max"):
        if name not in bounds and instr.attr(name) is not None:
            bounds[name] = const(instr.attr(name), dtypes[0], lanes)
    for name, compare in (("min", tirx.GT), ("max", tirx.LT)):
        if name in bounds:
            value = hold(tirx.Select(compare(bounds[name], value), bounds[name], value), dtypes[0], lanes)
    return value


def _abs(_: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    if dtypes[0] in FLOATS:
        return VectorMath(dtypes[0], lanes).abs(args[0])
    if dtypes[0] in UNSIGNED:
        return args[0]
    return tirx.Select(tirx.LT(args[0], const(0, dtypes[0], lanes)), _negative(args[0], dtypes[0], lanes), args[0])


def _negative(value: Vector, dtype: str, lanes: int) -> Vector:
    if dtype in FLOATS:
        return tirx.Mul(value, const(-1.0, dtype, lanes))              # 0 - x would lose the sign of zero
    if dtype in ("i8", "i16"):
        return const(0, dtype, lanes) - value
    return cast(const(0, "i64", lanes) - cast(value, "i64", lanes), dtype, lanes)


def _sign(_: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    x, zero, one = args[0], const(0, dtypes[0], lanes), const(1, dtypes[0], lanes)
    below = const(-1, dtypes[0], lanes) if dtypes[0] not in UNSIGNED else zero
    signed = tirx.Select(tirx.LT(x, zero), below, zero)
    value = tirx.Select(tirx.GT(x, zero), one, signed)
    return tirx.Select(T.isnan(x), x, value) if dtypes[0] in FLOATS else value


def _shift(instr: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    value, count = args
    bits = const(int(dtypes[0][1:]), dtypes[0], lanes)
    inside = tirx.And(tirx.LT(count, bits), tirx.GE(count, const(0, dtypes[0], lanes)))
    safe = hold(tirx.Select(inside, count, const(0, dtypes[0], lanes)), dtypes[0], lanes)
    left = instr.attr("direction", "LEFT") in ("LEFT", b"LEFT")
    return tirx.Select(inside, value << safe if left else value >> safe, const(0, dtypes[0], lanes))


def _power(_: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    x, exponent = args[0], constant(args[1])
    if exponent is not None and exponent == int(exponent or 0) and 0 <= exponent <= LARGEST_WHOLE_POWER:
        return _whole_power(x, int(exponent), dtypes[0], lanes)
    m = VectorMath(dtypes[0], lanes)
    if exponent == -1.0:
        return m.const(1.0) / x
    if exponent in _QUARTERS:              # where pow differs from square roots, it gives inf for -inf
        return tirx.Select(tirx.EQ(x, m.const(float("-inf"))), m.const(float("inf")), _quarters(m, x, exponent))
    return m.pow(x, convert(args[1], dtypes[1], dtypes[0], lanes))


def _quarters(m: VectorMath, x: Vector, exponent: float) -> Vector:
    """The power of x for an exponent of 0.25, 0.5, 0.75 or 1.5, by square roots, of which each is correctly rounded."""
    root = m.hold(m.sqrt(x))
    if exponent in (0.25, 0.75):
        fourth = m.hold(m.sqrt(root))
        return fourth if exponent == 0.25 else root * fourth  # noqa: PLR2004
    return root if exponent == 0.5 else x * root  # noqa: PLR2004


def _whole_power(x: Vector, exponent: int, dtype: str, lanes: int) -> Vector:
    """By squaring."""
    value, square = None, x
    while exponent:
        if exponent & 1:
            value = square if value is None else hold(value * square, dtype, lanes)
        exponent >>= 1
        if exponent:
            square = hold(square * square, dtype, lanes)
    return const(1, dtype, lanes) if value is None else value


def _not(value: Vector) -> Vector:
    return ~value


def _infinite(instr: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    wanted = [const(sign * float("inf"), dtypes[0], lanes)
              for sign, name in ((1, "detect_positive"), (-1, "detect_negative")) if instr.attr(name, 1)]
    found = [tirx.EQ(args[0], w) for w in wanted]
    return tirx.Or(*found) if len(found) > 1 else found[0] if found else const(0, "bool", lanes)


def _compare(operate: Callable[[Vector, Vector], Vector]) -> Operation:
    return lambda _, args, dtypes, lanes: operate(*_distinct(args, dtypes[0], lanes))


def _rounded(instr: Instr, args: Sequence[Vector], lanes: int) -> tuple[Vector, Vector]:
    """The nearest integer, ties to even, within the range of the result less the zero point: plus the magic number; and the zero point.

    The bounds apply before rounding: the sum with the magic number then is exact, and its low bits are the integer. No conversion is
    needed, which on some CPUs would be a call.
    """
    m, (low, high) = VectorMath("f32", lanes), (0, 255) if instr.dtype == "u8" else (-128, 127)
    value = args[0] if instr.attr("unit") else m.hold(args[0] / args[1])
    zero = hold(cast(args[2], "i32", lanes), "i32", lanes) if len(args) > 2 else const(0, "i32", lanes)     # noqa: PLR2004
    bottom, top = (m.hold(cast(const(bound, "i32", lanes) - zero, "f32", lanes)) for bound in (low, high))
    if len(args) > 3:                                                  # noqa: PLR2004  bounds of its own
        least, most = args[3], args[4]
        within = [m.hold(tirx.Select(tirx.LT(bound, bottom), bottom, bound)) for bound in (least, most)]
        bottom, top = (m.hold(tirx.Select(tirx.LT(top, bound), top, bound)) for bound in within)
    value = m.hold(tirx.Select(tirx.LT(bottom, value), value, bottom))           # NaN gives the lowest number
    value = m.hold(tirx.Select(tirx.LT(value, top), value, top))
    return m.hold(value + m.const(MAGIC)), zero


def _quantize(instr: Instr, args: Sequence[Vector], _: Sequence[str], lanes: int) -> Vector:
    """To the nearest integer plus the zero point."""
    value, zero = _rounded(instr, args, lanes)
    bits = T.reinterpret(type_name("i32", lanes), value)
    return cast(hold(bits - hold(const(MAGIC_BITS, "i32", lanes) - zero, "i32", lanes), "i32", lanes), instr.dtype, lanes)


def centered(instr: Instr, args: Sequence[Vector], lanes: int) -> Vector:
    """What a QuantizeLinear makes, less its zero point, in f32."""
    return _rounded(instr, args, lanes)[0] - const(MAGIC, "f32", lanes)


def _multiply_shift(_: Instr, args: Sequence[Vector], __: Sequence[str], lanes: int) -> Vector:
    """A multiplication by a fixed-point number: to the nearest, halves upward."""
    x, multiplier, shift = (hold(cast(a, "i64", lanes), "i64", lanes) for a in args)
    one = const(1, "i64", lanes)
    half = hold(one << hold(shift - one, "i64", lanes), "i64", lanes)
    return cast(hold(hold(x * multiplier, "i64", lanes) + half, "i64", lanes) >> shift, "i32", lanes)


def _dequantize(_: Instr, args: Sequence[Vector], __: Sequence[str], lanes: int) -> Vector:
    value = cast(args[0], "i32", lanes)
    if len(args) > 2:                                                  # noqa: PLR2004
        value = hold(value - cast(args[2], "i32", lanes), "i32", lanes)
    return cast(value, "f32", lanes) * args[1]


def _unary(function: Callable[[VectorMath, Vector], Vector]) -> Operation:
    return lambda _, args, dtypes, lanes: function(VectorMath(dtypes[0], lanes), args[0])


def _parametric(function: Callable[[VectorMath, Vector, Instr], Vector]) -> Operation:
    return lambda instr, args, dtypes, lanes: function(VectorMath(dtypes[0], lanes), args[0], instr)


def _relu(_: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    zero = const(0, dtypes[0], lanes)
    return tirx.Select(tirx.LT(args[0], zero), zero, args[0])


def _leaky(_: Instr, args: Sequence[Vector], dtypes: Sequence[str], lanes: int) -> Vector:
    x, slope = args
    return tirx.Select(tirx.LT(x, const(0, dtypes[0], lanes)), slope * x, x)


def _elu(m: VectorMath, x: Vector, alpha: float) -> Vector:
    return m.where(tirx.GT(x, m.const(0.0)), x, m.expm1(x) * m.const(alpha))


def _celu(m: VectorMath, x: Vector, instr: Instr) -> Vector:
    alpha = instr.attr("alpha", 1.0)
    return m.where(tirx.GT(x, m.const(0.0)), x, m.expm1(m.hold(x / m.const(alpha))) * m.const(alpha))


def _selu(m: VectorMath, x: Vector, instr: Instr) -> Vector:
    return _elu(m, x, instr.attr("alpha", _SELU_ALPHA)) * m.const(instr.attr("gamma", _SELU_GAMMA))


def _hard_sigmoid(m: VectorMath, x: Vector, alpha: float, beta: float) -> Vector:
    return m.at_most(m.at_least(m.hold(x * m.const(alpha) + m.const(beta)), 0.0), 1.0)


def _gelu(m: VectorMath, x: Vector, instr: Instr) -> Vector:
    if instr.attr("approximate", "none") in ("tanh", b"tanh"):
        cube = m.hold(m.hold(x * x) * x)
        return x * m.sigmoid(m.hold((cube * m.const(0.044715) + x) * m.const(2.0 * _SQRT_2_OVER_PI)))
    if m.dtype == "f32":
        return gelu(m, x) if permutes() else m.gelu(x)
    return (m.erf(m.hold(x * m.const(_SQRT_HALF))) + m.const(1.0)) * (x * m.const(0.5))


def _mish(m: VectorMath, x: Vector) -> Vector:
    """Compute x * tanh(log(1 + e**x)) = x * n / (n + 2) with n = e**x * (e**x + 2)."""
    e = m.hold(m.exp(m.at_most(x, 20.0)))
    n = m.hold(e * (e + m.const(2.0)))
    return x * (n / (n + m.const(2.0)))


OPERATIONS: dict[str, Operation] = {
    "Add": _arithmetic(tirx.Add, "i64"), "Sub": _arithmetic(tirx.Sub, "i64"), "Mul": _arithmetic(tirx.Mul, "u64"),
    "Div": _divide, "Mod": _modulo, "Pow": _power, "Max": _extreme(tirx.GT), "Min": _extreme(tirx.LT), "Clip": _clip,
    "Equal": lambda i, a, d, n: _not(a[0] ^ a[1]) if d[0] == "bool" else _compare(tirx.EQ)(i, a, d, n), "Less": _compare(tirx.LT),
    "Greater": _compare(tirx.GT), "LessOrEqual": _compare(tirx.LE), "GreaterOrEqual": _compare(tirx.GE),
    "And": lambda _i, a, _d, _l: a[0] & a[1], "Or": lambda _i, a, _d, _l: a[0] | a[1], "Xor": lambda _i, a, _d, _l: a[0] ^ a[1],
    "Not": lambda _i, a, _d, _l: _not(a[0]),
    "BitwiseAnd": lambda _i, a, _d, _l: a[0] & a[1], "BitwiseOr": lambda _i, a, _d, _l: a[0] | a[1],
    "BitwiseXor": lambda _i, a, _d, _l: a[0] ^ a[1], "BitwiseNot": lambda _i, a, _d, _l: ~a[0], "BitShift": _shift,
    "edgec.MultiplyShift": _multiply_shift, "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize,
    "Where": lambda _i, a, _d, _l: tirx.Select(*a), "Identity": lambda _i, a, _d, _l: a[0],
    "Cast": lambda i, a, d, n: convert(a[0], d[0], i.dtype, n),
    "Const": lambda i, _a, _d, n: const(i.attr("value"), compute_dtype(i.dtype), n),
    "Neg": lambda _, a, d, n: _negative(a[0], d[0], n), "Abs": _abs, "Sign": _sign,
    "Relu": _relu, "PRelu": _leaky,
    "LeakyRelu": lambda i, a, d, n: _leaky(i, (a[0], const(i.attr("alpha", 0.01), d[0], n)), d, n),
    "Elu": _parametric(lambda m, x, i: _elu(m, x, i.attr("alpha", 1.0))), "Selu": _parametric(_selu), "Celu": _parametric(_celu),
    "ThresholdedRelu": _parametric(lambda m, x, i: m.where(tirx.GT(x, m.const(i.attr("alpha", 1.0))), x, m.const(0.0))),
    "HardSigmoid": _parametric(lambda m, x, i: _hard_sigmoid(m, x, i.attr("alpha", 0.2), i.attr("beta", 0.5))),
    "HardSwish": _unary(lambda m, x: x * _hard_sigmoid(m, x, 1.0 / 6.0, 0.5)),
    "Swish": _parametric(lambda m, x, i: x * m.sigmoid(m.hold(x * m.const(i.attr("alpha", 1.0))))),
    "Gelu": _parametric(_gelu), "Mish": _unary(_mish),
    "Softsign": _unary(lambda m, x: x / (m.abs(x) + m.const(1.0))), "Softplus": _unary(VectorMath.softplus),
    "Sigmoid": _unary(VectorMath.sigmoid), "Tanh": _unary(VectorMath.tanh), "Erf": _unary(VectorMath.erf),
    "Exp": _unary(VectorMath.exp), "Log": _unary(VectorMath.log), "Sqrt": _unary(VectorMath.sqrt),
    "Sin": _unary(VectorMath.sin), "Cos": _unary(VectorMath.cos), "Reciprocal": _unary(lambda m, x: m.const(1.0) / x),
    "Round": _unary(VectorMath.round),
    "Floor": lambda _, a, _d, _l: T.floor(a[0]), "Ceil": lambda _, a, _d, _l: T.ceil(a[0]),
    "IsNaN": lambda _, a, _d, _l: T.isnan(a[0]), "IsInf": _infinite,
}

__all__ = ["OPERATIONS", "Operation", "centered", "constant", "convert"]
