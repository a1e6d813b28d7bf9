"""Elementwise operators on vectors, alone in a map kernel: accuracy, special values, dtypes, widths."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx.helper as make
import pytest
import scipy.special

from edgec.ir.graph import Array, Value
from edgec.ir.layout import View
from edgec.ir.types import Tensor, dtype_name
from edgec.isa import Isa
from edgec.kernels.base import Planned
from edgec.kernels.expr import ELEMENTWISE, Expr, Instr
from edgec.kernels.functions import INTEGERS, refusal, supported
from edgec.kernels.plan_map import mapped
from tests.kernel_harness import A72, AVX2, AVX512, HOST, ISAS, emulated, on, run, ulps, undefined

pytestmark = pytest.mark.slow
INF, NAN = math.inf, math.nan
SPECIAL = np.array([NAN, -NAN, INF, -INF, 0.0, -0.0, 1, -1, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38, 0.5, -0.5, 1.5, 2.5, -2.5, 6, -3, 3,
                    100, -100, 88.8, 20, -20, 2, 10, -10], np.float32)


def compute(isa: Isa, expr: Expr, out: str, *inputs: Array) -> Array:
    """An expression on flat arrays."""
    planned = plan(isa, expr, out, *inputs)
    from edgec.kernels.emit.map import emit  # noqa: PLC0415
    return run(planned.plan, emit, inputs).outputs[0]


def plan(isa: Isa, expr: Expr, out: str, *inputs: Array) -> Planned:
    n = max(len(a) for a in inputs)
    values = [Value(f"x{i}", Tensor(dtype_name(a.dtype), (len(a),))) for i, a in enumerate(inputs)]
    assert refusal(expr) is None
    made = mapped(expr, values, [View.of((n,))] * len(inputs), (Value("y", Tensor(out, (n,))), View.of((n,))), isa)
    assert not isinstance(made, str), made
    return made


def one(op: str, dtypes: Sequence[str], out: str = "", constants: Sequence[float] = (), **attrs: Any) -> Expr:
    """The expression of one operator; `constants` follow the arguments and have the dtype of the first."""
    given = tuple(Instr("Const", (), (("value", c),), dtypes[0]) for c in constants)
    total = len(dtypes) + len(given)
    return Expr(tuple(dtypes), (*given, Instr(op, tuple(range(total)), tuple(sorted(attrs.items())), out or dtypes[0])), (total,))


def apply(isa: Isa, op: str, *inputs: Array, out: str = "", constants: Sequence[float] = (), **attrs: Any) -> Array:
    """One operator on arrays."""
    expr = one(op, [dtype_name(a.dtype) for a in inputs], out, constants, **attrs)
    return compute(isa, expr, expr.instrs[-1].dtype, *inputs)


def same(found: Array, expected: Array, tolerance: float = 0.0) -> None:
    """Equal, NaN included; `tolerance` is relative, and what is denormal may be zero."""
    with np.errstate(invalid="ignore"):
        a, b = found.astype(np.float64), np.asarray(expected).astype(np.float64)
        close = (a == b) | (np.isnan(a) & np.isnan(b)) | ((tolerance > 0) & (np.abs(a - b) <= tolerance * np.abs(b) + 2e-38))
    assert close.all(), (np.flatnonzero(~close)[:8], a[~close][:8], b[~close][:8])


def sweep() -> Array:
    """Four million floats: every exponent and sign, and the ranges where functions bend."""
    rng = np.random.default_rng(1)
    everywhere = np.arange(0, 2**32, 1174, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return np.concatenate([everywhere, *(rng.uniform(-r, r, 120_000).astype(np.float32) for r in (110, 20, 5, 1.5)), SPECIAL])


Reference = Callable[[Array], Array]
ACCURACY: dict[str, tuple[Reference, float]] = {
    "Exp": (np.exp, 1.0), "Log": (np.log, 0.8), "Tanh": (np.tanh, 2.4), "Sigmoid": (scipy.special.expit, 2.4),
    "Erf": (scipy.special.erf, 1.0), "Softplus": (lambda x: np.logaddexp(0, x), 1.7), "Sin": (np.sin, 1.6), "Cos": (np.cos, 1.6),
    "Elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), 0.9), "Softsign": (lambda x: x / (1 + np.abs(x)), 1.5),
    "Sqrt": (np.sqrt, 0.5), "Reciprocal": (lambda x: 1 / x, 0.5),
    "Floor": (np.floor, 0), "Ceil": (np.ceil, 0), "Round": (np.rint, 0), "Sign": (np.sign, 0), "Abs": (np.abs, 0), "Neg": (np.negative, 0),
}
"""Largest errors in units of the last place: the numbers of the table in edgec/kernels/emit/functions.py."""


@pytest.mark.parametrize("op", ACCURACY)
def test_accuracy(op: str) -> None:
    reference, bound = ACCURACY[op]
    x = sweep()
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
        if op == "Sigmoid":                                            # which is zero there
            exact[exact < 2.0**-126] = 0
        error = ulps(apply(HOST, op, x), exact)
    worst = int(np.argmax(error))
    assert error[worst] <= bound, (x[worst], error[worst])


COMPOSED: dict[str, tuple[Reference, dict[str, Any], float]] = {
    "Gelu": (lambda x: x * scipy.special.ndtr(x), {}, 2.1e-7),
    "Gelu tanh": (lambda x: x * scipy.special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)), {"approximate": "tanh"}, 1.5e-7),
    "Swish": (lambda x: x * scipy.special.expit(1.5 * x), {"alpha": 1.5}, 1.5e-7),
    "Mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), {}, 1.4e-7),
    "Selu": (lambda x: 1.05070102214813232421875 * np.where(x > 0, x, 1.67326319217681884765625 * np.expm1(np.minimum(x, 0))), {}, 2.8e-7),
    "Celu": (lambda x: np.where(x > 0, x, 2.5 * np.expm1(np.minimum(x, 0) / 2.5)), {"alpha": 2.5}, 1.6e-7),
}
"""Errors relative to the argument: near the zeros of 1 + erf and its like the result itself has fewer digits, in ONNX Runtime too."""


@pytest.mark.parametrize("name", COMPOSED)
def test_accuracy_relative_to_the_argument(name: str) -> None:
    reference, attrs, bound = COMPOSED[name]
    x = sweep()
    x = x[np.isfinite(x) & (np.abs(x) > 1e-30) & (np.abs(x) < 1e30)]
    with np.errstate(all="ignore"):
        error = np.abs(apply(HOST, name.partition(" ")[0], x, **attrs) - reference(x.astype(np.float64))) / np.abs(x)
    worst = int(np.argmax(error))
    assert error[worst] <= bound, (x[worst], error[worst])


def test_accuracy_of_pow() -> None:
    rng = np.random.default_rng(2)
    n = 300_000
    x = np.concatenate([np.exp(rng.uniform(-80, 80, n)), rng.uniform(0.5, 2, n), rng.uniform(-9, 9, n)]).astype(np.float32)
    y = np.concatenate([rng.uniform(-3, 3, n), rng.uniform(-140, 140, n), np.rint(rng.uniform(-9, 9, n))]).astype(np.float32)
    with np.errstate(all="ignore"):
        error = ulps(apply(HOST, "Pow", x, y), np.power(x.astype(np.float64), y.astype(np.float64)))
    assert error.max() <= 0.51


@pytest.mark.parametrize(("exponent", "bound"), [(0.25, 1.0), (0.5, 0.5), (0.75, 2.4), (1.5, 1.3)])
def test_accuracy_of_pow_by_square_roots(exponent: float, bound: float) -> None:
    x = sweep()
    with np.errstate(all="ignore"):
        exact = np.where(x == -INF, INF, np.power(x.astype(np.float64), exponent))     # numpy takes the root for exponent 1/2
        found = apply(HOST, "Pow", x, constants=(exponent,))
        error = ulps(found, exact)
    worst = int(np.argmax(error))
    assert error[worst] <= bound, (x[worst], error[worst])
    same(found, exact.astype(np.float32), 4e-7)


def runtime(op: str, out: str, inputs: Sequence[Array], attrs: dict[str, Any]) -> Array:
    """What ONNX Runtime answers."""
    ort = pytest.importorskip("onnxruntime")
    types = [make.np_dtype_to_tensor_dtype(a.dtype) for a in inputs]
    kind = {"f32": 1, "bool": 9}[out]
    node = make.make_node(op, [f"x{i}" for i in range(len(inputs))], ["y"], **attrs)
    graph = make.make_graph([node], "g", [make.make_tensor_value_info(f"x{i}", t, [None]) for i, t in enumerate(types)],
                            [make.make_tensor_value_info("y", kind, [None])])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 22)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: Array = session.run(None, {f"x{i}": a for i, a in enumerate(inputs)})[0]
    return answer


UNARY: list[tuple[str, dict[str, Any]]] = [
    ("Relu", {}), ("LeakyRelu", {"alpha": 0.1}), ("Elu", {"alpha": 1.5}), ("Selu", {}), ("Celu", {"alpha": 2.0}),
    ("ThresholdedRelu", {"alpha": 0.7}), ("Sigmoid", {}), ("HardSigmoid", {}), ("HardSwish", {}), ("Tanh", {}),
    ("Erf", {}), ("Exp", {}), ("Log", {}), ("Sqrt", {}),
    ("Reciprocal", {}), ("Neg", {}), ("Abs", {}), ("Floor", {}), ("Ceil", {}), ("Round", {}), ("Sign", {}), ("Softplus", {}),
    ("Softsign", {}), ("Gelu", {}), ("Mish", {}), ("Sin", {}), ("Cos", {}), ("IsNaN", {}), ("IsInf", {}), ("Identity", {}),
    ("IsInf", {"detect_negative": 0}), ("IsInf", {"detect_positive": 0}),
]


@pytest.mark.parametrize("isa", ISAS)
def test_special_values_are_those_of_onnx_runtime(isa: Isa) -> None:
    for op, attrs in UNARY:
        out = "bool" if op.startswith("Is") else "f32"
        x = SPECIAL[~np.isin(SPECIAL, (-10, -20, -100))] if op == "Sigmoid" else SPECIAL   # ONNX Runtime flushes these
        same(apply(isa, op, x, out=out, **attrs), runtime(op, out, [x], attrs), 3e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_special_values_of_two_operands_are_those_of_onnx_runtime(isa: Isa) -> None:
    a, b = (v.ravel() for v in np.meshgrid(SPECIAL, SPECIAL))
    for op in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu", "Equal", "Less", "Greater", "GreaterOrEqual", "LessOrEqual"):
        out = "bool" if op[0] in "EGL" else "f32"
        same(apply(isa, op, a, b, out=out), runtime(op, out, [a, b], {}), 1e-5)
    with np.errstate(invalid="ignore"):
        same(apply(isa, "Mod", a, b, fmod=1), np.fmod(a, b))


@pytest.mark.parametrize("isa", ISAS)
def test_nan_survives_constants_on_either_side(isa: Isa) -> None:
    for op, reference in (("Max", np.maximum), ("Min", np.minimum)):
        swapped = Expr(("f32",), (Instr("Const", (), (("value", 0.25),)), Instr(op, (1, 0))), (2,))
        same(apply(isa, op, SPECIAL, constants=(0.25,)), reference(SPECIAL, np.float32(0.25)))
        same(compute(isa, swapped, "f32", SPECIAL), reference(SPECIAL, np.float32(0.25)))
        same(apply(isa, op, SPECIAL, constants=(NAN,)), np.full_like(SPECIAL, NAN))
    clipped = np.minimum(np.maximum(SPECIAL, np.float32(-2)), np.float32(6))
    same(apply(isa, "Clip", SPECIAL, constants=(-2.0, 6.0)), clipped)
    same(apply(isa, "Clip", SPECIAL, min=-2.0, max=6.0), clipped)
    same(apply(isa, "Clip", SPECIAL, max=6.0), np.minimum(SPECIAL, np.float32(6)))
    same(apply(isa, "Clip", SPECIAL), SPECIAL)
    same(apply(isa, "Clip", SPECIAL, np.full_like(SPECIAL, -2), np.full_like(SPECIAL, 6)), clipped)


@pytest.mark.parametrize("isa", ISAS)
def test_an_operand_met_twice_is_not_cancelled(isa: Isa) -> None:
    """TVM's simplifier takes x - x for 0 and (x + c) - c for x."""
    with np.errstate(all="ignore"):
        for op, expected in (("Sub", SPECIAL - SPECIAL), ("Div", SPECIAL / SPECIAL), ("Mul", SPECIAL * SPECIAL)):
            same(compute(isa, Expr(("f32",), (Instr(op, (0, 0)),), (1,)), "f32", SPECIAL), expected)
        same(compute(isa, Expr(("f32",), (Instr("Equal", (0, 0), (), "bool"),), (1,)), "bool", SPECIAL), ~np.isnan(SPECIAL))
        big = Instr("Const", (), (("value", 12582912.0),))
        rounded = Expr(("f32",), (big, Instr("Add", (0, 1)), Instr("Sub", (2, 1))), (3,))
        same(compute(isa, rounded, "f32", SPECIAL), (SPECIAL + np.float32(12582912)) - np.float32(12582912))
        same(apply(isa, "Mul", SPECIAL, constants=(0.0,)), SPECIAL * np.float32(0))
        same(apply(isa, "Mul", SPECIAL[:1], constants=(0.0,)), SPECIAL[:1])


@pytest.mark.parametrize("isa", ISAS)
def test_pow_with_constant_exponents(isa: Isa) -> None:
    with np.errstate(all="ignore"):
        for exponent in (0.0, 1.0, 2.0, 3.0, 5.0, 0.5, -1.0, -2.0, 1.7):
            exact = np.array([np.power(np.float64(v), np.array([exponent]))[0] for v in SPECIAL])
            exact[SPECIAL == -INF] = math.pow(-INF, exponent)          # numpy takes the root for exponent 1/2
            same(apply(isa, "Pow", SPECIAL, constants=(exponent,)), exact.astype(np.float32), 4e-7)
        ints = np.arange(-20, 21, dtype=np.int32)
        for exponent in (0, 1, 2, 3, 8):
            same(apply(isa, "Pow", ints, constants=(exponent,)), np.power(ints, exponent))
        same(apply(isa, "Pow", SPECIAL, np.resize(ints, SPECIAL.size).astype(np.int64)),
             np.power(SPECIAL.astype(np.float64), np.resize(ints, SPECIAL.size)).astype(np.float32), 4e-7)


def numbers(dtype: str) -> Array:
    """Every corner of an integer dtype."""
    info = np.iinfo({"i": "int", "u": "uint"}[dtype[0]] + dtype[1:])
    rng = np.random.default_rng(3)
    corners = np.array([info.min, info.max, info.max - 1, 0, 1, 2, 7], info.dtype)
    return np.concatenate([corners, rng.integers(info.min, info.max, 40, info.dtype)])


@pytest.mark.parametrize("isa", on(HOST, A72))
@pytest.mark.parametrize("dtype", sorted(INTEGERS))
def test_integers(isa: Isa, dtype: str) -> None:
    values = numbers(dtype)
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        for op, reference in (("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Max", np.maximum), ("Min", np.minimum),
                              ("BitwiseAnd", np.bitwise_and), ("BitwiseOr", np.bitwise_or), ("BitwiseXor", np.bitwise_xor)):
            assert (apply(isa, op, a, b) == reference(a, b)).all(), op
        for op, compare in (("Equal", np.equal), ("Less", np.less), ("GreaterOrEqual", np.greater_equal)):
            assert (apply(isa, op, a, b, out="bool") == compare(a, b)).all(), op
        for op, unary in (("Neg", np.negative), ("Abs", np.abs), ("Sign", np.sign), ("BitwiseNot", np.bitwise_not)):
            assert (apply(isa, op, values) == unary(values)).all(), op
        assert (apply(isa, "Relu", values) == np.maximum(values, 0)).all()
        for divisor in (3, 7, -5) if dtype[0] == "i" else (3, 7):
            signs = [1 if (v < 0) == (divisor < 0) else -1 for v in values]
            quotient = np.array([s * (abs(int(v)) // abs(divisor)) for s, v in zip(signs, values, strict=True)]).astype(values.dtype)
            assert (apply(isa, "Div", values, constants=(divisor,)) == quotient).all(), divisor
            assert (apply(isa, "Mod", values, constants=(divisor,)) == np.mod(values, values.dtype.type(divisor))).all(), divisor
            assert (apply(isa, "Mod", values, constants=(divisor,), fmod=1) == np.fmod(values, values.dtype.type(divisor))).all(), divisor
    c = b[b != 0]
    d = np.resize(a, c.size)
    low = np.iinfo(values.dtype).min
    quotient = np.array([low if low < 0 and m == low and n == -1 else abs(int(m)) // abs(int(n)) * (1 if (m < 0) == (n < 0) else -1)
                         for m, n in zip(d, c, strict=True)], values.dtype)
    assert (apply(isa, "Div", d, c) == quotient).all()
    with np.errstate(all="ignore"):
        assert (apply(isa, "Mod", d, c) == np.mod(d, c)).all()
    bits = int(dtype[1:])
    counts = np.resize(np.array([0, 1, 3, bits - 1], values.dtype), values.size)
    if dtype[0] == "u":
        assert (apply(isa, "BitShift", values, counts, direction="LEFT") == np.left_shift(values, counts)).all()
        assert (apply(isa, "BitShift", values, counts, direction="RIGHT") == np.right_shift(values, counts)).all()
        assert (apply(isa, "BitShift", values, np.full_like(values, bits), direction="LEFT") == 0).all()


@pytest.mark.parametrize("isa", ISAS)
def test_integer_division_by_zero_is_an_error_and_no_trap(isa: Isa) -> None:
    from edgec.kernels.emit.map import emit  # noqa: PLC0415
    x = np.arange(37, dtype=np.int32) + 1
    for op, place in itertools.product(("Div", "Mod"), (0, 20, 36)):
        y = np.where(np.arange(37) == place, 0, x).astype(np.int32)
        assert run(plan(isa, one(op, ["i32", "i32"]), "i32", x, y).plan, emit, [x, y]).code == -1
        assert run(plan(isa, one(op, ["i32", "i32"]), "i32", x, x).plan, emit, [x, x]).code == 0


@pytest.mark.parametrize("isa", ISAS)
def test_bools(isa: Isa) -> None:
    a, b = (np.resize(np.array(v, np.bool_), 37) for v in ([0, 0, 1, 1], [0, 1, 0, 1]))
    for op, reference in (("And", a & b), ("Or", a | b), ("Xor", a ^ b), ("Equal", a == b)):
        assert (apply(isa, op, a, b) == reference).all(), op
    assert (apply(isa, "Not", a) == ~a).all()
    x, y = np.arange(37, dtype=np.float32), -np.arange(37, dtype=np.float32)
    assert (compute(isa, Expr(("bool", "f32", "f32"), (Instr("Where", (0, 1, 2)),), (3,)), "f32", a, x, y) == np.where(a, x, y)).all()
    not_less = Expr(("f32", "f32"), (Instr("Less", (0, 1), (), "bool"), Instr("Not", (2,), (), "bool")), (3,))
    u, v = (m.ravel() for m in np.meshgrid(SPECIAL, SPECIAL))
    assert (compute(isa, not_less, "bool", u, v) == ~np.less(u, v)).all()


DTYPES = ("f16", "bf16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool")


@pytest.mark.parametrize("isa", on(HOST, A72))
@pytest.mark.parametrize("source", DTYPES)
def test_casts(isa: Isa, source: str) -> None:
    from edgec.ir.types import numpy_dtype  # noqa: PLC0415
    small = np.array([0, 1, 2, 3, 7, 100, 0.5, 1.5, 2.7, 99.99, *range(27)])
    signed = np.concatenate([small, -small])
    values = (small if source[0] == "u" else signed != 0 if source == "bool" else signed).astype(numpy_dtype(source))
    for target in DTYPES:
        wanted = values if target[0] != "u" else np.abs(values)
        with np.errstate(all="ignore"):
            expected = (wanted.astype(np.float32) if target in ("f16", "bf16") else wanted).astype(numpy_dtype(target))
        same(apply(isa, "Cast", np.ascontiguousarray(wanted), out=target), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_casts_of_floats_that_no_integer_equals_do_not_trap(isa: Isa) -> None:
    for target in sorted(INTEGERS):
        assert apply(isa, "Cast", SPECIAL, out=target).shape == SPECIAL.shape
    same(apply(isa, "Cast", SPECIAL, out="bool"), SPECIAL != 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("dtype", "kind"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_every_half_precision_number(isa: Isa, dtype: str, kind: type) -> None:
    """Both ways, and the ties between neighbors; rounding is to nearest, ties to even (Bochs 2.7 goes away from zero with VCVTPS2PH)."""
    bits = np.arange(65536, dtype=np.uint16)
    wide = apply(isa, "Cast", bits.view(kind), out="f32")
    same(wide, bits.view(kind).astype(np.float32))
    ordered = np.sort(wide[np.isfinite(wide)])
    middle = ((ordered[:-1].astype(np.float64) + ordered[1:]) / 2).astype(np.float32)
    ties = middle[:0] if emulated(isa) and dtype == "f16" else middle
    around = np.concatenate([wide, ties, np.nextafter(middle, np.float32(INF)), np.nextafter(middle, np.float32(-INF))])
    with np.errstate(all="ignore"):
        same(apply(isa, "Cast", around, out=dtype), around.astype(kind))
    through = Expr(("f32",), (Instr("Cast", (0,), (), dtype), Instr("Cast", (1,), (), "f32")), (2,))
    with np.errstate(over="ignore"):
        between = np.nextafter(middle, np.float32(0)) if ties.size == 0 else ties
        same(compute(isa, through, "f32", between), between.astype(kind).astype(np.float32))


def test_half_precision_is_computed_in_f32() -> None:
    x = np.linspace(-4, 4, 77).astype(np.float16)
    same(apply(HOST, "Tanh", x), np.tanh(x.astype(np.float32)).astype(np.float16), 1e-3)
    y = x.astype(ml_dtypes.bfloat16)
    same(apply(HOST, "Mul", y, y), (y.astype(np.float32) ** 2).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("isa", ISAS)
def test_double_precision(isa: Isa) -> None:
    x = np.concatenate([np.linspace(-6, 6, 101), SPECIAL.astype(np.float64)])
    with np.errstate(all="ignore"):
        for op, reference in (("Exp", np.exp), ("Log", np.log), ("Tanh", np.tanh), ("Sqrt", np.sqrt), ("Erf", scipy.special.erf),
                              ("Floor", np.floor), ("Sigmoid", scipy.special.expit), ("Softplus", lambda v: np.logaddexp(0, v)),
                              ("Abs", np.abs), ("Relu", lambda v: np.maximum(v, 0))):
            same(apply(isa, op, x), reference(x), 1e-14)
        finite = x[np.abs(x) < 1e6]
        same(apply(isa, "Sin", finite), np.sin(finite), 1e-14)
        same(apply(isa, "Pow", np.abs(x), constants=(1.7,)), np.power(np.abs(x), 1.7), 1e-14)


@pytest.mark.parametrize("isa", ISAS)
def test_any_number_of_elements(isa: Isa) -> None:
    """The last vectors are narrower ones: 37 elements are 16 + 16 + 4 + 1."""
    whole = np.linspace(-3, 3, 37).astype(np.float32)
    expected = apply(isa, "Gelu", whole)
    for n in (1, 2, 3, 5, 9, 17, 23):
        assert np.array_equal(apply(isa, "Gelu", whole[:n]), expected[:n])


def test_nothing_of_f32_calls_a_library() -> None:
    """Not the half-precision conversions either."""
    from edgec.kernels.emit.map import emit  # noqa: PLC0415
    x = np.zeros(37, np.float32)
    for isa, (op, attrs) in itertools.product((AVX512, AVX2, HOST), UNARY):
        out = "bool" if op.startswith("Is") else "f32"
        assert not undefined(plan(isa, one(op, ["f32"], out, (), **attrs), out, x).plan, emit), op
    for dtype in ("f16", "bf16"):
        assert not undefined(plan(AVX2, one("Cast", ["f32"], dtype), dtype, x).plan, emit)
        half = x.astype(np.float16 if dtype == "f16" else ml_dtypes.bfloat16)
        assert not undefined(plan(AVX2, one("Cast", [dtype], "f32"), "f32", half).plan, emit)
    assert not undefined(plan(AVX2, one("Pow", ["f32", "f32"]), "f32", x, x).plan, emit)


def test_each_operator_is_written() -> None:
    from edgec.kernels.emit.functions import OPERATIONS  # noqa: PLC0415
    assert set(ELEMENTWISE) <= set(OPERATIONS)


def test_refusals_name_operator_and_dtype() -> None:
    assert supported(Instr("Pow", (0, 1), (), "i32"), ["i32", "i32"]) == "Pow of i32 is written for constant exponents from 0 to 8"
    assert supported(Instr("Mod", (0, 1)), ["f32", "f32"]) == "Mod of floating point needs fmod=1"
    assert supported(Instr("Exp", (0,), (), "i32"), ["i32"]) == "Exp is not written for i32"
    assert supported(Instr("Conv", (0, 1)), ["f32", "f32"]) == "Conv is not elementwise arithmetic"
    assert supported(Instr("Add", (0, 1), (), "c64"), ["c64", "c64"]) == "Add is not written for c64"
    assert refusal(one("Div", ["i64"], constants=(3,))) is None
    assert refusal(Expr(("string",))) == "there is no arithmetic on string"
