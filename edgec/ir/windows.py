"""Convolution and pooling in numpy, for any number of spatial axes, in the dtype of the operands."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import numpy as np

from edgec.ir.graph import Array

Pads = list[tuple[int, int]]


def geometry(attrs: Mapping[str, Any], size: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int], Pads, list[int]]:
    """Strides, dilations, pads and result extents of a window that slides; pads are negative where the image is cut."""
    n = len(kernel)
    strides, dilations = list(attrs.get("strides") or [1] * n), list(attrs.get("dilations") or [1] * n)
    auto, given = attrs.get("auto_pad", "NOTSET"), list(attrs.get("pads") or [0] * 2 * n)
    pads, out = list[tuple[int, int]](), list[int]()
    for i, (d, k, s, dilation) in enumerate(zip(size, kernel, strides, dilations, strict=True)):
        reach = (k - 1) * dilation + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-d // s)
            total = max((count - 1) * s + reach - d, 0)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads.append((begin, total - begin))
        else:
            pads.append((given[i], given[i + n]) if auto == "NOTSET" else (0, 0))
            span = d + sum(pads[-1]) - reach
            count = span // s + 1
            if attrs.get("ceil_mode", 0):
                count = -(-span // s) + 1
                count -= (count - 1) * s >= d + pads[-1][0]  # the last window starts inside the image or its left border
        out.append(max(count, 0))
    return strides, dilations, pads, out


def padded(x: Array, pads: Pads, fill: Any) -> Array:
    """The array with borders along its last axes; negative pads cut."""
    lead = x.ndim - len(pads)
    cut = [slice(None)] * lead + [slice(max(-b, 0), x.shape[lead + i] - max(-e, 0)) for i, (b, e) in enumerate(pads)]
    wide = [(0, 0)] * lead + [(max(b, 0), max(e, 0)) for b, e in pads]
    return np.pad(x[tuple(cut)], wide, constant_values=fill)


def taps(x: Array, kernel: Sequence[int], attrs: Mapping[str, Any], fill: Any) -> tuple[Array, list[int]]:
    """A view [N, C, *out, *kernel] of what each window sees, with `fill` outside of the image, and the result extents."""
    n = len(kernel)
    strides, dilations, pads, out = geometry(attrs, x.shape[2:], kernel)
    need = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, strides, kernel, dilations, strict=True)]
    room = [(b, e + max(need[i] - (x.shape[2 + i] + b + e), 0)) for i, (b, e) in enumerate(pads)]  # ceil_mode looks further
    image = padded(x, room, fill)
    step = image.strides
    spread = [step[2 + i] * s for i, s in enumerate(strides)] + [step[2 + i] * d for i, d in enumerate(dilations)]
    shape = (*image.shape[:2], *out, *kernel)
    return np.lib.stride_tricks.as_strided(image, shape, (*step[:2], *spread), writeable=False) if n else image, out


def convolve(x: Array, w: Array, bias: Array | None, attrs: Mapping[str, Any]) -> Array:
    """ONNX Conv."""
    groups, kernel = attrs.get("group", 1), w.shape[2:]
    view, out = taps(x, kernel, attrs, 0)
    n = len(kernel)
    columns = prod(out)
    weights = w.reshape(groups, w.shape[0] // groups, -1)
    made = np.empty((x.shape[0], w.shape[0], columns), np.result_type(x, w))
    for item, image in zip(made, view, strict=True):
        seen = image.reshape(groups, x.shape[1] // groups, *out, *kernel)
        seen = np.moveaxis(seen, range(2, 2 + n), range(2 + n, 2 + 2 * n)).reshape(groups, -1, columns)
        item[...] = (weights @ seen).reshape(w.shape[0], columns)
    if bias is not None:
        made += bias[:, None]
    return made.reshape(x.shape[0], w.shape[0], *out)


def transposed(x: Array, w: Array, bias: Array | None, attrs: Mapping[str, Any]) -> Array:
    """ONNX ConvTranspose: each element of x adds a scaled kernel to the result."""
    kernel, groups = w.shape[2:], attrs.get("group", 1)
    n = len(kernel)
    strides, dilations = list(attrs.get("strides") or [1] * n), list(attrs.get("dilations") or [1] * n)
    extra, given = list(attrs.get("output_padding") or [0] * n), list(attrs.get("pads") or [0] * 2 * n)
    auto, wanted = attrs.get("auto_pad", "NOTSET"), attrs.get("output_shape")
    full = [(d - 1) * s + (k - 1) * dil + 1 + e for d, s, k, dil, e in zip(x.shape[2:], strides, kernel, dilations, extra, strict=True)]
    if auto.startswith("SAME") and not wanted:
        wanted = [d * s for d, s in zip(x.shape[2:], strides, strict=True)]
    if wanted:
        cut = [f - t for f, t in zip(full, wanted[-n:], strict=True)]
        low = [c // 2 if auto == "SAME_UPPER" else c - c // 2 for c in cut]
        edges = [(b, c - b) for b, c in zip(low, cut, strict=True)]
    else:
        edges = [(given[i], given[i + n]) if auto == "NOTSET" else (0, 0) for i in range(n)]
    batch, channels = x.shape[:2]
    per = w.shape[1]
    room = [f + max(-b, 0) + max(-e, 0) for f, (b, e) in zip(full, edges, strict=True)]
    made = np.zeros((batch, groups, per, *room), np.result_type(x, w))
    source = x.reshape(batch, groups, channels // groups, -1)
    weights = w.reshape(groups, channels // groups, per, -1)
    for i, at in enumerate(product(*map(range, kernel))):
        part = np.swapaxes(weights[..., i], 1, 2)[None] @ source
        place = [slice(a * d + max(-b, 0), a * d + max(-b, 0) + (size - 1) * s + 1, s)
                 for a, d, s, size, (b, _) in zip(at, dilations, strides, x.shape[2:], edges, strict=True)]
        made[(slice(None),) * 3 + tuple(place)] += part.reshape(batch, groups, per, *x.shape[2:])
    inner = [slice(max(b, 0), size - max(e, 0)) for size, (b, e) in zip(room, edges, strict=True)]
    result = made[(slice(None),) * 3 + tuple(inner)]
    result = result.reshape(batch, groups * per, *result.shape[3:])
    return result if bias is None else result + bias.reshape(-1, *[1] * n)


def max_pool(x: Array, attrs: Mapping[str, Any], *, indices: bool) -> list[Array]:
    """ONNX MaxPool; NaN wins. The indices are flat, over the whole tensor."""
    kernel = attrs["kernel_shape"]
    n = len(kernel)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    view, _ = taps(x, kernel, attrs, lowest)
    every: Iterator[tuple[Any, ...]] = product([...], *map(range, kernel))
    made = [np.array(reduce(np.maximum, (view[at] for at in every)))]            # tap by tap: the windows are not copied
    if indices:
        flat = view.reshape(*view.shape[:2 + n], -1)
        size = x.shape[2:]
        weight = np.ones(n, np.int64)
        order = range(n) if attrs.get("storage_order", 0) else range(n - 1, -1, -1)
        step = 1
        for axis in order:
            weight[axis], step = step, step * size[axis]
        planes = np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2] + (1,) * n) * step
        coordinates = sum(np.arange(d).reshape([-1 if a == i else 1 for a in range(n)]) * weight[i] for i, d in enumerate(size))
        where, _ = taps(np.broadcast_to(planes + coordinates, x.shape).astype(np.int64), kernel, attrs, -1)
        places = where.reshape(flat.shape)
        inside = np.where(places >= 0, flat, lowest) if x.dtype.kind != "f" else flat
        best = np.argmax(np.where(places >= 0, inside, lowest), -1)
        made.append(np.take_along_axis(places, best[..., None], -1)[..., 0])
    return made


def average_pool(x: Array, attrs: Mapping[str, Any]) -> Array:
    """ONNX AveragePool; padding counts only when count_include_pad says so, and what ceil_mode adds never does."""
    kernel = attrs["kernel_shape"]
    last = tuple(range(-len(kernel), 0))
    strides, dilations, pads, _ = geometry(attrs, x.shape[2:], kernel)
    inside = np.ones((1, 1, *x.shape[2:]), x.dtype)
    total = taps(x, kernel, attrs, 0)[0].sum(last)
    if attrs.get("count_include_pad", 0):
        inside = padded(inside, pads, 1)
        plain = {"strides": strides, "dilations": dilations, "ceil_mode": attrs.get("ceil_mode", 0)}
        count = taps(inside, kernel, plain, 0)[0].sum(last)
        count = count[(slice(None), slice(None), *(slice(s) for s in total.shape[2:]))]
    else:
        count = taps(inside, kernel, attrs, 0)[0].sum(last)
    return np.asarray(total / count, x.dtype)


def lp_pool(x: Array, attrs: Mapping[str, Any]) -> Array:
    """ONNX LpPool."""
    kernel, p = attrs["kernel_shape"], attrs.get("p", 2)
    total = (np.abs(taps(x, kernel, attrs, 0)[0]) ** p).sum(tuple(range(-len(kernel), 0)))
    return np.asarray(total ** (1 / p), x.dtype)
