"""Pairs of neighboring weights: VPMADDUBSW sums their products with two unsigned pixels in 16 bits, and saturates beyond.

255 * 128 is 32640, so nothing saturates where the weights of a pair that have one sign sum to 128 or less.
"""

from typing import Any

import numpy as np

from edgec.ir.graph import Array

MOST = 128
"""What the weights of one sign in a pair may sum to."""


def sums(rows: Array) -> Array:
    """What the weights of one sign sum to in each pair of the last axis, the larger of both: [..., n] -> [..., n / 2], rounded up.

    An element at the end that is alone counts alone. Integers come as i32, reals as f64.
    """
    count, odd = -(-rows.shape[-1] // 2), rows.shape[-1] % 2
    wide: Array = rows.astype(np.float64 if rows.dtype.kind == "f" else np.int32)
    pairs = np.pad(wide, [(0, 0)] * (rows.ndim - 1) + [(0, odd)]).reshape(*rows.shape[:-1], count, 2)
    made: Array = np.maximum(np.maximum(pairs, 0).sum(-1), np.maximum(-pairs, 0).sum(-1))
    return made


def fit(rows: Array) -> bool:
    """Whether no pair of the last axis of i8 [..., n] can saturate.

    One weight alone cannot, nor can two of different signs, so what is asked of a pair is its sum.
    """
    if rows.shape[-1] < 2 or not rows.size:                            # noqa: PLR2004
        return True
    both = np.add(rows[..., :-1:2], rows[..., 1::2], dtype=np.int16)
    return bool(both.min() >= -MOST and both.max() <= MOST)


def runs(weight: Array, chunk: int, *, merged: bool) -> Array:
    """A weight [M, C, KH, KW] in runs of bytes that meet pixels side by side: [M, C / chunk, KH, runs of a row, bytes].

    A run is a tap's `chunk` of input channels; `merged`, all taps of a row are one.
    """
    m, c, kh, kw = weight.shape
    made: Any = weight.reshape(m, c // chunk, chunk, kh, kw).transpose(0, 1, 3, 4, 2)
    rows: Array = made.reshape(m, c // chunk, kh, 1, kw * chunk) if merged else made
    return rows
