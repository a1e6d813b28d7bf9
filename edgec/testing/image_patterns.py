"""What image nets are made of, as patterns for random graphs: values have the axes N, C, H, W."""

from collections.abc import Sequence
from math import prod

import numpy as np

from edgec.ir.graph import Value
from edgec.testing.garden import CHANNELS, LARGEST, Garden, Pattern, activated, added, gemm, normalized, registrar, reshaped, transposed

PATTERNS: list[Pattern] = []
pattern = registrar(PATTERNS)


def _conv(
    g: Garden, x: Value, channels: int, kernel: int, *,
    pads: Sequence[int] | None = None, stride: int = 1, dilation: int = 1, group: int = 1,
) -> Value:
    n, c, *spatial = x.dims
    reach = (kernel - 1) * dilation
    pads = [reach // 2, reach // 2, reach - reach // 2, reach - reach // 2] if pads is None else list(pads)
    shape = [(s + pads[i] + pads[i + 2] - reach - 1) // stride + 1 for i, s in enumerate(spatial)]
    inputs = [x, g.normal(channels, c // group, kernel, kernel, scale=(c // group * kernel * kernel) ** -0.5)]
    if g.chance(0.5):
        inputs.append(g.normal(channels, scale=0.3))
    return g.add("Conv", inputs, [n, channels, *shape], kernel_shape=[kernel] * 2, pads=pads, strides=[stride] * 2,
                 dilations=[dilation] * 2, group=group)


@pattern(4, 6, "Conv")
def _conv_block(g: Garden, x: Value) -> Value:
    c = x.dims[1]
    kernel = g.one_of([1, 1, 3, 3, 5])
    group = g.one_of([k for k in (1, 1, 1, 2, 3, c) if c % k == 0])
    pads = [int(g.draw.integers(0, kernel)) for _ in range(4)]
    out = int(group * max(1, g.one_of(CHANNELS) // group))
    dilation = 2 if kernel == 3 and min(x.dims[2:]) > 4 and g.chance(0.2) else 1  # noqa: PLR2004  the window has to fit
    if min(x.dims[2:]) < (kernel - 1) * dilation + 1:
        return _conv(g, x, out, 1, group=group)
    y = _conv(g, x, out, kernel, pads=pads, stride=g.one_of([1, 1, 2]), dilation=dilation, group=group)
    return activated(g, normalized(g, y) if g.may("BatchNormalization") and g.chance(0.5) else y)


@pattern(4, 2, "Conv")
def _separable(g: Garden, x: Value) -> Value:
    c = x.dims[1]
    y = activated(g, _conv(g, x, c, 3, group=c))
    return activated(g, _conv(g, y, int(g.one_of(CHANNELS)), 1))


@pattern(4, 3, "Conv", "Add")
def _residual(g: Garden, x: Value) -> Value:
    y = activated(g, _conv(g, x, x.dims[1], g.one_of([1, 3])))
    return activated(g, added(g, x, _conv(g, y, x.dims[1], 3)))


@pattern(4, 2, "Pad", "Conv")
def _padded_conv(g: Garden, x: Value) -> Value:
    if min(x.dims[2:]) < 2:  # noqa: PLR2004  the window has to fit
        return x
    return activated(g, _conv(g, _pad(g, x, 0.0), int(g.one_of(CHANNELS)), 3, pads=[0, 1, 0, 0], stride=g.one_of([1, 2])))


@pattern(4, 1, "Pad", "MaxPool")
def _padded_pool(g: Garden, x: Value) -> Value:
    return _pool(g, _pad(g, x, g.one_of([0.0, -np.inf]), 1), "MaxPool", 0)  # no window lies in the padding alone


def _pad(g: Garden, x: Value, number: float, most: int = 2) -> Value:
    before, after = (int(g.draw.integers(0, most + 1)) for _ in range(2))
    n, c, h, w = x.dims
    inputs = [x, g.ints(0, 0, before, 1, 0, 0, 1, after)]
    if number or g.chance(0.5):
        inputs.append(g.scalar(number))
    mode = {} if number or g.chance(0.5) else {"mode": "constant"}
    return g.add("Pad", inputs, [n, c, h + before + 1, w + 1 + after], **mode)


def _pool(g: Garden, x: Value, op: str, most: int = 1) -> Value:
    n, c, *spatial = x.dims
    kernel = min(g.one_of([2, 3]), *spatial)
    stride, pad = g.one_of([1, 2]), int(g.draw.integers(0, min(most, kernel // 2) + 1))
    shape = [(s + 2 * pad - kernel) // stride + 1 for s in spatial]
    more = {"count_include_pad": int(g.draw.integers(2))} if op == "AveragePool" else {}
    return g.add(op, (x,), [n, c, *shape], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, **more)


@pattern(4, 1.5, "MaxPool")
def _max_pool(g: Garden, x: Value) -> Value:
    return _pool(g, x, "MaxPool")


@pattern(4, 1, "AveragePool")
def _average_pool(g: Garden, x: Value) -> Value:
    return _pool(g, x, "AveragePool")


@pattern(4, 1, "BatchNormalization")
def _batch_norm(g: Garden, x: Value) -> Value:
    return activated(g, normalized(g, x))


@pattern(4, 1, "GlobalAveragePool", "Conv", "Sigmoid", "Mul")
def _squeeze_excite(g: Garden, x: Value) -> Value:
    n, c = x.dims[:2]
    y = activated(g, _conv(g, g.add("GlobalAveragePool", (x,), [n, c, 1, 1]), max(1, c // 2), 1))
    gate = g.add("Sigmoid", (_conv(g, y, c, 1),), [n, c, 1, 1])
    return g.add("Mul", (x, gate), x.dims)


@pattern(4, 0.7, "Resize")
def _upsampled(g: Garden, x: Value) -> Value:
    n, c, h, w = x.dims
    if prod(x.dims) * 4 > LARGEST:
        return x
    scales = g.weight(np.array([1, 1, 2, 2], np.float32))
    return g.add("Resize", (x, None, scales), [n, c, 2 * h, 2 * w],
                 mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@pattern(4, 0.7, "GlobalAveragePool", "Flatten", "Gemm")
def _head(g: Garden, x: Value) -> Value:
    n, c = x.dims[:2]
    return gemm(g, g.add("Flatten", (g.add("GlobalAveragePool", (x,), [n, c, 1, 1]),), [n, c], axis=1))


@pattern(4, 0.7, "Reshape", "Transpose")
def _tokens(g: Garden, x: Value) -> Value:
    n, c, h, w = x.dims
    return transposed(g, reshaped(g, x, n, c, h * w), 0, 2, 1)


@pattern(4, 1, "Transpose")
def _channels_last_and_back(g: Garden, x: Value) -> Value:
    return transposed(g, activated(g, transposed(g, x, 0, 2, 3, 1)), 0, 3, 1, 2)
