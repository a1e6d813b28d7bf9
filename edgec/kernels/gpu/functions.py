"""Elementwise arithmetic as text: what each operator of an expression means, NaN and infinities included."""

from collections.abc import Callable, Sequence

from edgec.kernels.expr import Expr, Instr
from edgec.kernels.functions import FLOATS, refusal
from edgec.kernels.gpu.writer import computed, number

_Text = Callable[[Instr, Sequence[str], Sequence[str]], str]
_DTYPES = frozenset({"f32", "f16", "bf16", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64", "bool"})
_SQRT_HALF, _SQRT_2_OVER_PI = 0.70710678118654752, 0.79788456080286536
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def _infix(sign: str) -> _Text:
    return lambda i, a, _: f"({computed(i.dtype)})({a[0]} {sign} {a[1]})"


def _extreme(sign: str) -> _Text:
    def text(_: Instr, a: Sequence[str], dtypes: Sequence[str]) -> str:
        chosen = f"({a[1]} {sign} {a[0]} ? {a[1]} : {a[0]})"           # the first when either is NaN
        return f"({a[1]} != {a[1]} ? {a[1]} : {chosen})" if dtypes[0] in FLOATS else chosen
    return text


def _clip(instr: Instr, a: Sequence[str], dtypes: Sequence[str]) -> str:
    """The upper bound wins, and NaN stays in either."""
    bounds: list[str | None] = [*a[1:], *[None] * (3 - len(a))]
    given = (b if b is not None else number(v, dtypes[0]) if v is not None else None
             for b, v in zip(bounds, (instr.attr("min"), instr.attr("max")), strict=True))
    text = a[0]
    for bound, sign in zip(given, ("<", ">"), strict=True):
        text = f"({text} {sign} {bound} ? {bound} : {text})" if bound is not None else text
    return text


def _power(_: Instr, a: Sequence[str], dtypes: Sequence[str]) -> str:
    return f"pow({a[0]}, (f32){a[1]})" if dtypes[0] in FLOATS else ""


def _cast(instr: Instr, a: Sequence[str], dtypes: Sequence[str]) -> str:
    source, dtype = dtypes[0], instr.dtype
    if dtype == "bool":
        return f"({a[0]} != 0)"
    if source in FLOATS and dtype in ("i8", "i16", "u8", "u16"):
        return f"({dtype})(i32){a[0]}"
    return f"({dtype}){a[0]}" if source in FLOATS or dtype not in FLOATS else f"(f32){a[0]}"


def _sign(_: Instr, a: Sequence[str], dtypes: Sequence[str]) -> str:
    one = computed(dtypes[0])
    text = f"({a[0]} > 0 ? ({one})1 : {a[0]} < 0 ? ({one})(-1) : ({one})0)"
    return f"({a[0]} != {a[0]} ? {a[0]} : {text})" if dtypes[0] in FLOATS else text


def _infinite(instr: Instr, a: Sequence[str], _: Sequence[str]) -> str:
    found = [f"{a[0]} == {number(s * float('inf'))}" for s, n in ((1, "detect_positive"), (-1, "detect_negative")) if instr.attr(n, 1)]
    return f"({' || '.join(found)})" if found else "0"


def _of(text: str, **defaults: float) -> _Text:
    """A formula of x, y, and attributes in braces."""
    def made(instr: Instr, a: Sequence[str], _: Sequence[str]) -> str:
        values = {k: number(float(instr.attr(k, v))) for k, v in defaults.items()}
        return text.format(x=a[0], y=a[1] if len(a) > 1 else "", **values)
    return made


def _gelu(instr: Instr, a: Sequence[str], _: Sequence[str]) -> str:
    x = a[0]
    if instr.attr("approximate", "none") in ("tanh", b"tanh"):
        return f"{x} / (1.0f + exp(-{number(2 * _SQRT_2_OVER_PI)} * ({x} + 0.044715f * {x} * {x} * {x})))"
    return f"(erf({x} * {number(_SQRT_HALF)}) + 1.0f) * ({x} * 0.5f)"


_LIMIT = "({v} < 0.0f ? 0.0f : {v} > 1.0f ? 1.0f : {v})"
_TEXTS: dict[str, _Text] = {
    "Add": _infix("+"), "Sub": _infix("-"), "Mul": _infix("*"), "Div": _infix("/"),
    "Max": _extreme(">"), "Min": _extreme("<"), "Clip": _clip, "Pow": _power, "Cast": _cast, "Sign": _sign, "IsInf": _infinite,
    "Mod": _of("fmod({x}, {y})"),
    "Equal": _of("({x} == {y})"), "Less": _of("({x} < {y})"), "Greater": _of("({x} > {y})"),
    "LessOrEqual": _of("({x} <= {y})"), "GreaterOrEqual": _of("({x} >= {y})"),
    "And": _of("({x} && {y})"), "Or": _of("({x} || {y})"), "Xor": _of("({x} != {y})"), "Not": _of("(!{x})"),
    "BitwiseAnd": _infix("&"), "BitwiseOr": _infix("|"), "BitwiseXor": _infix("^"), "BitwiseNot": _of("(~{x})"),
    "Where": lambda _i, a, _d: f"({a[0]} ? {a[1]} : {a[2]})", "Identity": _of("{x}"), "IsNaN": _of("({x} != {x})"),
    "Const": lambda i, _a, _d: number(i.attr("value"), i.dtype),
    "Neg": lambda i, a, _d: f"({computed(i.dtype)})(-{a[0]})",
    "Abs": lambda _i, a, d: f"fabs({a[0]})" if d[0] in FLOATS else f"({a[0]} < 0 ? -{a[0]} : {a[0]})",
    "Relu": _of("({x} < 0 ? 0 : {x})"), "PRelu": _of("({x} < 0 ? {y} * {x} : {x})"),
    "LeakyRelu": _of("({x} < 0.0f ? {alpha} * {x} : {x})", alpha=0.01),
    "Elu": _of("({x} > 0.0f ? {x} : expm1({x}) * {alpha})", alpha=1.0),
    "Selu": _of("({x} > 0.0f ? {x} : expm1({x}) * {alpha}) * {gamma}", alpha=_SELU_ALPHA, gamma=_SELU_GAMMA),
    "Celu": _of("({x} > 0.0f ? {x} : expm1({x} / {alpha}) * {alpha})", alpha=1.0),
    "ThresholdedRelu": _of("({x} > {alpha} ? {x} : 0.0f)", alpha=1.0),
    "HardSigmoid": _of(_LIMIT.replace("{v}", "({x} * {alpha} + {beta})"), alpha=0.2, beta=0.5),
    "HardSwish": _of("{x} * " + _LIMIT.replace("{v}", "({x} * 0.16666667f + 0.5f)")),
    "Sigmoid": _of("1.0f / (1.0f + exp(-{x}))"), "Swish": _of("{x} / (1.0f + exp(-{alpha} * {x}))", alpha=1.0),
    "Tanh": _of("tanh({x})"), "Erf": _of("erf({x})"), "Exp": _of("exp({x})"), "Log": _of("log({x})"), "Sqrt": _of("sqrt({x})"),
    "Sin": _of("sin({x})"), "Cos": _of("cos({x})"), "Reciprocal": _of("1.0f / {x}"), "Round": _of("rint({x})"),
    "Floor": _of("floor({x})"), "Ceil": _of("ceil({x})"), "Softsign": _of("{x} / (1.0f + fabs({x}))"),
    "Softplus": _of("({x} > 0.0f ? {x} + log1p(exp(-{x})) : log1p(exp({x})))"), "Gelu": _gelu,
    "Mish": _of("{x} * tanh({x} > 0.0f ? {x} + log1p(exp(-{x})) : log1p(exp({x})))"),
}
_BOOL = frozenset({"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"})
_FLOAT_ONLY = frozenset({"Div", "Mod", "Pow", "BitShift"})
"""Of integers these need care (zero divisors, shifts) that no kernel here takes."""


def why_not(expr: Expr) -> str | None:
    """Why an expression cannot be written for a GPU, or None when it can."""
    if reason := refusal(expr):
        return reason
    for dtype in (*expr.arguments, *(i.dtype for i in expr.instrs)):
        if dtype not in _DTYPES:
            return f"no kernel of a GPU computes on {dtype}"
    for instr in expr.instrs:
        if instr.op not in _TEXTS:
            return f"{instr.op} is not written for GPUs"
        if instr.op in _FLOAT_ONLY and expr.dtype(instr.args[0]) not in FLOATS:
            return f"{instr.op} of {expr.dtype(instr.args[0])} is not written for GPUs"
    return None


def inline(name: str, expr: Expr) -> str:
    """A function of the arguments of an expression that gives its result."""
    parameters = ", ".join(f"{computed(d)} v{i}" for i, d in enumerate(expr.arguments))
    lines = []
    for i, instr in enumerate(expr.instrs, len(expr.arguments)):
        dtypes = [expr.dtype(a) for a in instr.args]
        kind = "bool" if instr.op in _BOOL else computed(instr.dtype)
        lines.append(f"  const {kind} v{i} = {_TEXTS[instr.op](instr, [f'v{a}' for a in instr.args], dtypes)};")
    result = expr.results[0]
    return "\n".join([f"INLINE {computed(expr.dtype(result))} {name}({parameters}) {{", *lines, f"  return v{result};", "}"])


__all__ = ["inline", "why_not"]
