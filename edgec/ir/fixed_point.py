"""Integers that are multiplied by reals without reals: a multiplier of 31 bits and a shift, rounded as gemmlowp and TFLite do.

All arrays are int64 inside; results fit in int32 where the operands are what TFLite lets them be. A number in "Qm" has m bits before
the point and 31 - m behind it, as gemmlowp's FixedPoint<int32, m>.
"""

from math import frexp

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
_TOP = 1 << 31
_LEAST = -31


def multiplier(real: float) -> tuple[int, int]:
    """The integer q and the exponent e with real ≈ q * 2**(e - 31), 2**30 <= q < 2**31; (0, 0) for what is too small."""
    if real == 0:
        return 0, 0
    fraction, exponent = frexp(real)
    q = int(np.floor(fraction * _TOP + 0.5))
    if q == _TOP:
        q, exponent = q // 2, exponent + 1
    return (0, 0) if exponent < _LEAST else (q, exponent)


def multipliers(reals: npt.ArrayLike) -> tuple[Ints, Ints]:
    """Multipliers of several reals."""
    pairs = [multiplier(float(r)) for r in np.asarray(reals, np.float64).reshape(-1)]
    return np.array([q for q, _ in pairs], np.int64), np.array([e for _, e in pairs], np.int64)


def high_product(a: npt.ArrayLike, b: npt.ArrayLike, bits: int = 31) -> Ints:
    """Return a * b / 2**bits, rounded half away from zero; the one product that overflows saturates."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    nudged = product + np.where(product >= 0, 1 << (bits - 1), 1 - (1 << (bits - 1)))
    halves = np.where(nudged >= 0, nudged >> bits, -((-nudged) >> bits))
    return np.minimum(halves, (1 << bits) - 1)


def shift_right(x: npt.ArrayLike, bits: npt.ArrayLike) -> Ints:
    """Return x / 2**bits, rounded half away from zero."""
    x, bits = np.asarray(x, np.int64), np.asarray(bits, np.int64)
    mask = (np.int64(1) << bits) - 1
    rest = x & mask
    return np.asarray((x >> bits) + (rest > (mask >> 1) + (x < 0)), np.int64)


def scaled(x: npt.ArrayLike, q: npt.ArrayLike, exponent: npt.ArrayLike) -> Ints:
    """Return x * q * 2**(exponent - 31), rounded twice: as a high product, then as a shift. This is what TFLite's reference kernels do."""
    left, right = np.maximum(exponent, 0), np.maximum(np.negative(exponent), 0)
    return shift_right(high_product(np.asarray(x, np.int64) << left, q), right)


def rescale(x: Ints, bits: int) -> Ints:
    """Return x * 2**bits in 32 bits: to the left with saturation, to the right with rounding."""
    return shift_right(x, -bits) if bits < 0 else np.clip(x << bits, -_TOP, _TOP - 1)


_EIGHTH, _QUARTER = 1 << 28, 1 << 24       # 1/8 in Q0, 1/4 in Q5
_EXP_EIGHTH, _THIRD = 1895147668, 715827883
_EXP = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242))
"""exp(-2**k) in Q0."""
_48_17, _32_17 = 1515870810, -1010580540   # 48/17 and -32/17 in Q2


def exp_negative(x: Ints) -> Ints:
    """Compute exp of a Q5 that is not positive, as a Q0: a polynomial below 1/4, and a factor for each further bit."""
    part = (x & (_QUARTER - 1)) - _QUARTER
    a = rescale(part, 5) + _EIGHTH
    square = high_product(a, a)
    cube, fourth = high_product(square, a), high_product(square, square)
    series = shift_right(high_product(shift_right(fourth, 2) + cube, _THIRD) + square, 1)
    made = _EXP_EIGHTH + high_product(_EXP_EIGHTH, a + series)
    rest = part - x
    for exponent, factor in _EXP:
        made = np.where(rest & (1 << (26 + exponent)), high_product(made, factor), made)
    return np.where(x == 0, _TOP - 1, made)


def reciprocal(x: Ints, integer_bits: int) -> tuple[Ints, Ints]:
    """(y, n) with 1 / x = y * 2**-n in Q0, for a positive x with that many bits before the point: three steps of Newton's."""
    zeros = 31 - np.floor(np.log2(x)).astype(np.int64)
    part = (x << zeros) - _TOP
    half = (part + _TOP - 1 + (part + _TOP - 1 >= 0)) >> 1      # (part + 1) / 2, rounded
    y = _48_17 + high_product(half, _32_17)
    for _ in range(3):
        y = y + rescale(high_product(y, (1 << 29) - high_product(half, y)), 2)
    return rescale(y, 1), integer_bits - zeros


def away(x: npt.ArrayLike) -> Ints:
    """Reals as integers, halves away from zero: C's round."""
    x = np.asarray(x)
    whole = np.trunc(x)
    return np.asarray(whole + np.sign(x) * (np.abs(x - whole) >= x.dtype.type(0.5)), np.int64)
