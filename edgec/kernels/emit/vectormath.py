"""Elementary functions on vectors of any number of lanes: polynomials on f32, calls of libm lane by lane on f64.

Whatever is used again or must be rounded on its own is held (`core.hold`).

Where constants come from: exp, log, sin and cos from Cephes (S. Moshier, single precision: expf.c, logf.c, sinf.c), erf from
N. Juffa's two-branch approximation (posted to Stack Overflow, question 35148198); the normal distribution's quotient is a least-squares
fit of our own to x*x up to NORMAL_END, weighted until its relative error is alike everywhere (1.7e-8); pow and the reduction of large
angles are series and digits of 2/pi in f64. Measured errors are in the table of functions.py.
"""

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.emit.core import TIR, Vector, cast, const, hold, type_name

MAGIC = 12582912.0                    # 1.5 * 2**23: adding it to a small float rounds that to an integer, in the low bits
MAGIC_BITS = 0x4B400000
LOG2E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
       -2.4999993993e-1, 3.3333331174e-1)
EXP_NORMAL = -87.33654                # the least f32 to which e has a normal power
SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
ERF_SMALL = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
ERF_LARGE = (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1)
NORMAL_END = 30.25                    # of x*x: from there on, the distribution is 0 or 1 in f32
NORMAL_OVER = (2.2931120e-8, 6.3015932e-6, 1.64574201e-4, 4.65148501e-3, 3.3458937e-2, 3.98942262e-1)
NORMAL_UNDER = (1.19902745e-6, 7.2167175e-5, 1.86064863e-3, 2.84161568e-2, 2.50535518e-1, 1.0)
TWO_OVER_PI = tuple(digits * 2.0 ** (-28 * (i + 1)) for i, digits in enumerate(
    (0xA2F9836, 0xE4E4415, 0x29FC275, 0x7D1F534, 0xDDC0DB6, 0x295993C, 0x439041F, 0xE5163AB)))
HALF_PI = 1.57079632679489662
EXP2_F64 = (1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158, 0.009618129107628477, 0.0013333558146428443,
            1.5403530393381609e-4, 1.5252733804059840e-5, 1.3215486790144309e-6)   # ln(2)**k / k!


def lane_by_lane(function: str, dtype: str, lanes: int, *args: Vector) -> Vector:
    """A function of libm on each lane."""
    if lanes == 1:
        return T.call_pure_extern(TIR[dtype], function, *args)
    indices = [tirx.IntImm("int32", i) for i in range(lanes)]
    return tirx.Shuffle([T.call_pure_extern(TIR[dtype], function, *(tirx.Shuffle([a], [i]) for a in args)) for i in indices], indices)


class VectorMath:
    """Functions on vectors of one float dtype (f32 or f64) and number of lanes."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        self._name = type_name(dtype, lanes)
        self._libm = dtype == "f64"

    def const(self, value: float) -> Vector:
        """A number in every lane."""
        return const(value, self.dtype, self.lanes)

    def hold(self, value: Vector) -> Vector:
        """The value, computed here and once."""
        return hold(value, self.dtype, self.lanes)

    def where(self, condition: Vector, then: Vector, otherwise: Vector) -> Vector:
        """`then` in the lanes where the condition holds."""
        return tirx.Select(condition, then, otherwise)

    def at_least(self, value: Vector, low: float) -> Vector:
        """max(value, low), NaN stays."""
        return self.hold(self.where(tirx.LT(value, self.const(low)), self.const(low), value))

    def at_most(self, value: Vector, high: float) -> Vector:
        """min(value, high), NaN stays."""
        return self.hold(self.where(tirx.GT(value, self.const(high)), self.const(high), value))

    def abs(self, value: Vector) -> Vector:
        """Magnitude: the sign bit goes away."""
        return T.call_llvm_pure_intrin(self._name, "llvm.fabs", value)

    def copysign(self, magnitude: Vector, sign: Vector) -> Vector:
        """`magnitude` with the sign bit of `sign`."""
        return T.call_llvm_pure_intrin(self._name, "llvm.copysign", magnitude, sign)

    def round(self, value: Vector) -> Vector:
        """Nearest integer, ties to even."""
        return T.call_llvm_pure_intrin(self._name, "llvm.rint", value)

    def sqrt(self, value: Vector) -> Vector:
        """Square root, correctly rounded."""
        return T.call_llvm_pure_intrin(self._name, "llvm.sqrt", value)

    def is_nan(self, value: Vector) -> Vector:
        """Lanes that hold no number."""
        return T.isnan(value)

    def exp(self, x: Vector) -> Vector:
        """e**x; results below the smallest normal number are denormal, not zero."""
        if self._libm:
            return lane_by_lane("exp", "f64", self.lanes, x)
        r, n = self._exp_minus_1(self.at_most(self.at_least(x, -104.0), 89.0))
        half = hold(n >> self._int(1), "i32", self.lanes)             # 2**n may not exist though the product does: two factors
        return (r + self.const(1.0)) * self._power_of_2(half) * self._power_of_2(n - half)

    def exp_down(self, x: Vector) -> Vector:
        """e**x for x at most 0: zero where that is no normal f32, NaN stays.

        Beside 1 such a power does not count, and where it is the result, as in Sigmoid, ONNX Runtime has given up long before: it takes
        x below -18 for -18. Cores of Intel take some 150 cycles for a product that is denormal.
        """
        if self._libm:
            return lane_by_lane("exp", "f64", self.lanes, x)
        shift = MAGIC + 127.0                                          # the low bits then are the exponent of 2**n
        t = self.hold(x * self.const(LOG2E) + self.const(shift))
        n = self.hold(t - self.const(shift))
        r = self.hold(self.hold(x - n * self.const(LN2_HIGH)) - n * self.const(LN2_LOW))
        value = self.hold(self._polynomial(r, (*EXP, 1.0, 1.0)) * self._floats(self._bits(t) << self._int(23)))
        return self.where(tirx.LT(x, self.const(EXP_NORMAL)), self.const(0.0), value)

    def expm1(self, x: Vector) -> Vector:
        """e**x - 1 for x up to 80, accurate near 0."""
        if self._libm:
            return lane_by_lane("expm1", "f64", self.lanes, x)
        r, n = self._exp_minus_1(self.at_most(self.at_least(x, -30.0), 80.0))
        scale = self.hold(self._power_of_2(n))
        return r * scale + (scale - self.const(1.0))

    def log(self, x: Vector) -> Vector:
        """Natural logarithm: -inf of 0, NaN of negative numbers."""
        if self._libm:
            return lane_by_lane("log", "f64", self.lanes, x)
        tiny = tirx.LT(x, self.const(2.0**-126))
        scaled = self.hold(self.where(tiny, x * self.const(2.0**23), x))
        offset = self._bits(scaled) - self._int(0x3F3504F3)           # sqrt(1/2)
        n = hold(offset >> self._int(23), "i32", self.lanes)
        f = self.hold(self._floats(self._bits(scaled) - (n << self._int(23))) - self.const(1.0))
        e = self.hold(cast(n, "f32", self.lanes) - self.where(tiny, self.const(23.0), self.const(0.0)))
        result = self._log_of_1_plus(f, e)
        finite = self.where(tirx.LT(x, self.const(float("inf"))), result, x)
        zero = self.where(tirx.EQ(x, self.const(0.0)), self.const(float("-inf")), self.const(float("nan")))
        return self.where(tirx.GT(x, self.const(0.0)), finite, zero)

    def log1p_of_fraction(self, x: Vector) -> Vector:
        """log(1 + x) for x in [0, 1]."""
        if self._libm:
            return lane_by_lane("log1p", "f64", self.lanes, x)
        upper = tirx.GT(x, self.const(0.41421356))                     # then 1 + x = 2 * (1 + (x-1)/2)
        f = self.hold(self.where(upper, (x - self.const(1.0)) * self.const(0.5), x))
        return self._log_of_1_plus(f, self.hold(self.where(upper, self.const(1.0), self.const(0.0))))

    def sigmoid(self, x: Vector) -> Vector:
        """1 / (1 + e**-x), relatively accurate on both sides; zero where that is no normal number."""
        e = self.hold(self.exp_down(self.const(0.0) - self.abs(x)))
        return self.where(tirx.LT(x, self.const(0.0)), e, self.const(1.0)) / (e + self.const(1.0))

    def tanh(self, x: Vector) -> Vector:
        """Hyperbolic tangent, by expm1: t / (t + 2) with t = e**2x - 1."""
        if self._libm:
            return lane_by_lane("tanh", "f64", self.lanes, x)
        t = self.hold(self.expm1(self.at_most(self.abs(x) * self.const(2.0), 40.0)))
        return self.copysign(t / (t + self.const(2.0)), x)

    def erf(self, x: Vector) -> Vector:
        """The error function: a polynomial near 0, 1 - e**polynomial beyond."""
        if self._libm:
            return lane_by_lane("erf", "f64", self.lanes, x)
        t, s = self.hold(self.abs(x)), self.hold(x * x)
        tail = self.hold(t * self.const(-1.72853470e-5) + self.const(3.83197126e-4))
        tail = self.hold(tail * s + (t * self.const(-3.88396438e-3) + self.const(2.42546219e-2)))
        for c in ERF_LARGE:
            tail = self.hold(tail * t + self.const(c))
        tail = self.hold(tail * t - t)
        large = self.copysign(self.const(1.0) - self.exp_down(tail), x)
        small = self.hold(self._polynomial(s, ERF_SMALL)) * x + x
        return self.where(tirx.GT(t, self.const(0.927734375)), large, small)

    def gelu(self, x: Vector) -> Vector:
        """Multiply x by the normal distribution function, which is 1/2 + x P(x*x)/Q(x*x): one way for all x."""
        size, square = self.hold(self.abs(x)), self.hold(x * x)
        s = self.hold(self.where(tirx.LT(square, self.const(NORMAL_END)), square, self.const(NORMAL_END)))
        over = self.hold(self.hold(self._polynomial(s, NORMAL_OVER)) * size)
        part = self.hold(over / self.hold(self._polynomial(s, NORMAL_UNDER)))
        part = self.hold(self.where(tirx.LT(part, self.const(0.5)), part, self.const(0.5)))       # what is NaN here is NaN in x, too
        return size * part + x * self.const(0.5)

    def softplus(self, x: Vector) -> Vector:
        """log(1 + e**x)."""
        return self.at_least(x, 0.0) + self.log1p_of_fraction(self.hold(self.exp(self.const(0.0) - self.abs(x))))

    def sin(self, x: Vector) -> Vector:
        """Sine of any angle."""
        return self._sin(x, 0)

    def cos(self, x: Vector) -> Vector:
        """Cosine of any angle."""
        return self._sin(x, 1)

    def pow(self, x: Vector, y: Vector) -> Vector:
        """x**y with C's rules for zeros, infinities and negative bases; both are f32 here and computed in f64."""
        if self._libm:
            return lane_by_lane("pow", "f64", self.lanes, x, y)
        wide = VectorMath("f64", self.lanes)
        base, power = wide.hold(cast(x, "f64", self.lanes)), wide.hold(cast(y, "f64", self.lanes))
        result = self.hold(cast(wide.power_of_positive(wide.hold(wide.abs(base)), power), "f32", self.lanes))
        one, zero = self.const(1.0), self.const(0.0)
        whole = tirx.EQ(self.hold(self.round(y)), y)
        half = self.hold(y * self.const(0.5))
        odd = tirx.And(whole, tirx.NE(self.hold(self.round(half)), half))
        result = self.hold(self.where(odd, self.copysign(result, x), result))
        undefined = tirx.And(tirx.And(tirx.LT(x, zero), tirx.GT(x, self.const(float("-inf")))), tirx.NE(self.hold(self.round(y)), y))
        result = self.where(undefined, self.const(float("nan")), result)
        certain = tirx.Or(tirx.Or(tirx.EQ(y, zero), tirx.EQ(x, one)),
                          tirx.And(tirx.EQ(x, self.const(-1.0)), tirx.EQ(self.abs(y), self.const(float("inf")))))
        return self.where(certain, one, result)

    def power_of_positive(self, x: Vector, y: Vector) -> Vector:
        """x**y for x >= 0, to about 35 bits; f64 values that come from f32, so that no exponent leaves the range of f64."""
        log2 = self.hold(self._log2(x))
        product = self.hold(self.at_most(self.at_least(y * log2, -200.0), 200.0))
        n = self.hold(self.round(product))
        fraction = self.hold(self._polynomial(self.hold(product - n), tuple(reversed(EXP2_F64))))
        bits = T.reinterpret(type_name("i64", self.lanes), self.hold(n + self.const(6755399441055744.0 + 1023.0)))    # 1.5 * 2**52
        return fraction * T.reinterpret(self._name, hold(bits, "i64", self.lanes) << const(52, "i64", self.lanes))

    def _log2(self, x: Vector) -> Vector:
        """log2 of a non-negative f64 that is normal, 0, infinite or NaN, by the series of atanh((m-1)/(m+1))."""
        long = type_name("i64", self.lanes)
        bits = hold(T.reinterpret(long, x), "i64", self.lanes)
        exponent = hold((bits - const(0x3FE6A09E667F3BCD, "i64", self.lanes)) >> const(52, "i64", self.lanes), "i64", self.lanes)
        m = self.hold(T.reinterpret(self._name, bits - (exponent << const(52, "i64", self.lanes))))
        s = self.hold((m - self.const(1.0)) / (m + self.const(1.0)))
        z = self.hold(s * s)
        series = self._polynomial(z, tuple(2.0 * LOG2E / k for k in range(15, 0, -2)))
        # as a double the exponent needs no instruction that only new CPUs have
        whole = T.reinterpret(self._name, hold(exponent + const(0x4338000000000000, "i64", self.lanes), "i64", self.lanes))
        result = self.hold(self.hold(series) * s + (self.hold(whole) - self.const(6755399441055744.0)))
        result = self.where(tirx.LT(x, self.const(float("inf"))), result, x)
        return self.where(tirx.EQ(x, self.const(0.0)), self.const(float("-inf")), result)

    def _sin(self, x: Vector, shift: int) -> Vector:
        """sin(x + shift*pi/2).

        The angle in quarter turns is x * 2/pi, of which only the part modulo 4 matters: 2/pi is cut into pieces of 28 bits, so that
        each product is exact in f64, and so is its remainder.
        """
        if self._libm:
            return lane_by_lane("cos" if shift else "sin", "f64", self.lanes, x)
        wide = VectorMath("f64", self.lanes)
        angle, turns = wide.hold(cast(x, "f64", self.lanes)), wide.const(0.0)
        for piece in TWO_OVER_PI:
            part = wide.hold(angle * wide.const(piece))
            whole = wide.hold(wide.round(part * wide.const(0.25)))
            turns = wide.hold(turns + wide.hold(part - whole * wide.const(4.0)))
        quarter = wide.hold(wide.round(turns))
        r = self.hold(cast((turns - quarter) * wide.const(HALF_PI), "f32", self.lanes))
        z = self.hold(r * r)
        sine = self.hold(self.hold(self._polynomial(z, SIN)) * z * r + r)
        cosine = self.hold((self.hold(self._polynomial(z, COS)) * z - self.const(0.5)) * z + self.const(1.0))
        turn = hold(self._bits(self.hold(cast(quarter, "f32", self.lanes) + self.const(MAGIC + shift))), "i32", self.lanes)
        value = self.hold(self.where(tirx.EQ(turn & self._int(1), self._int(0)), sine, cosine))
        return self._floats(self._bits(value) ^ ((turn & self._int(2)) << self._int(30)))

    def _exp_minus_1(self, x: Vector) -> tuple[Vector, Vector]:
        """(e**r - 1, n) with x = n*ln2 + r and |r| <= ln2/2; x is no larger than 2**21."""
        t = hold(self._bits(self.hold(x * self.const(LOG2E) + self.const(MAGIC))), "i32", self.lanes)
        n = self.hold(self._floats(t) - self.const(MAGIC))
        r = self.hold(x - n * self.const(LN2_HIGH))
        r = self.hold(r - n * self.const(LN2_LOW))
        value = self.hold(self.hold(self._polynomial(r, EXP)) * self.hold(r * r) + r)
        return value, hold(t - self._int(MAGIC_BITS), "i32", self.lanes)

    def _log_of_1_plus(self, f: Vector, e: Vector) -> Vector:
        """log(1 + f) + e*ln2 for 1 + f between sqrt(1/2) and sqrt(2)."""
        z = self.hold(f * f)
        y = self.hold(self.hold(self._polynomial(f, LOG)) * f * z + e * self.const(LN2_LOW))
        y = self.hold(y - z * self.const(0.5))
        return self.hold(f + y) + e * self.const(LN2_HIGH)

    def _polynomial(self, x: Vector, coefficients: Sequence[float]) -> Vector:
        """Horner's rule, highest power first."""
        value = self.const(coefficients[0])
        for c in coefficients[1:]:
            value = self.hold(value * x + self.const(c))
        return value

    def _power_of_2(self, n: Vector) -> Vector:
        """2**n as a float, for exponents of normal numbers."""
        return self._floats((n + self._int(127)) << self._int(23))

    def _int(self, value: int) -> Vector:
        return const(value, "i32", self.lanes)

    def _bits(self, value: Vector) -> Vector:
        return T.reinterpret(type_name("i32", self.lanes), value)

    def _floats(self, bits: Vector) -> Vector:
        return T.reinterpret(self._name, bits)
