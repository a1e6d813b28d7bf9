"""Weights of which no pair saturates 16 bits (`edgec/kernels/pairs.py`), in the pairs in which kernels most likely meet them.

A kernel is chosen by the weights as it packs them, wherever these come from: a wrong guess here costs time, and nothing else.
"""

import numpy as np

from edgec.ir.graph import Array, Node
from edgec.kernels import pairs
from edgec.kernels.dot import MERGED


def rows(node: Node, weight: Array) -> Array:
    """The weight of a layer as [output channels, …, bytes that lie side by side]: input channels of a tap, or the rows of a matrix.

    Of an odd number of channels all taps of a row lie side by side. Of a depthwise convolution it is the rows of taps.
    """
    if node.op != "Conv":
        return weight if weight.ndim < 2 or (node.op == "Gemm" and node.attrs.get("transB", 0)) else weight.swapaxes(-1, -2)  # noqa: PLR2004
    if weight.ndim > 4:                                                # noqa: PLR2004  no kernel is written for volumes: any rows will do
        weight = weight.reshape(*weight.shape[:2], -1, weight.shape[-1])
    c = weight.shape[1]
    image = weight[:, :, None] if weight.ndim == 3 else weight        # noqa: PLR2004  a 1-D convolution is a row
    if is_depthwise(node, weight):
        return image[:, 0].swapaxes(1, 2)
    if image.shape[3] == 1:
        image = image.swapaxes(2, 3)
    return pairs.runs(image, c, merged=bool(c % 2) and c * image.shape[3] <= MERGED)


def is_depthwise(node: Node, weight: Array) -> bool:
    """Whether a layer is a convolution with one input channel for each output channel."""
    return node.op == "Conv" and bool(node.attrs.get("group", 1) == weight.shape[0] > 1 == weight.shape[1])


def largest(node: Node, weight: Array) -> Array:
    """The largest sum of one sign in a pair, for each output channel."""
    return np.array([pairs.sums(channel).max() for channel in rows(node, weight)])


def mended(node: Node, whole: Array, exact: Array) -> Array:
    """Integers in which no pair is too large: one step less where that adds least to the error, as often as needed.

    `whole` are the rounded numbers, `exact` those before, of the same shape.
    """
    if pairs.fit(rows(node, whole)):
        return whole
    flat, reals = whole.reshape(-1).copy(), exact.reshape(-1)
    places = rows(node, np.arange(flat.size, dtype=np.int32).reshape(whole.shape))
    if places.shape[-1] % 2:
        places = np.pad(places, [(0, 0)] * (places.ndim - 1) + [(0, 1)], mode="edge")
    places = places.reshape(-1, 2)
    places = places[places[:, 0] != places[:, 1]]
    while True:
        both = np.add(flat[places[:, 0]], flat[places[:, 1]], dtype=np.int16)
        places = places[np.abs(both) > pairs.MOST]                     # a weight is in one pair, so no other one becomes too large
        if not len(places):
            return flat.reshape(whole.shape)
        up = np.abs(flat[places].astype(np.int32)) - np.abs(reals[places])
        which = places[np.arange(len(places)), up.argmax(1)]
        flat[which] -= np.sign(flat[which])
