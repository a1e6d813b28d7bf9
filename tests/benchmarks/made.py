"""Models that are made here layer by layer, with seeded weights: MobileNets, a GRU, an LSTM of two layers."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

V1 = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *((1, 512),) * 5, (2, 1024), (1, 1024))
"""Stride and output channels of each depthwise separable block: A. Howard et al., MobileNets, 2017, table 1."""
V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, repetitions, stride: M. Sandler et al., MobileNetV2, 2018, table 2."""


class Layers:
    """A model in the making; `last` is the name of the newest value, f32."""

    def __init__(self, seed: int) -> None:
        self.nodes, self.weights, self.last = list[NodeProto](), dict[str, np.ndarray](), "x"
        self._random = np.random.default_rng(seed)

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = (self._random.standard_normal(shape) * scale).astype(np.float32)
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.last = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [self.last], f"{op.lower()}{len(self.nodes)}", **attributes))
        return self.last

    def conv(self, into: int, out: int, size: int, *, stride: int = 1, group: int = 1, clip: bool = True) -> None:
        """A convolution with its normalization folded in, and a clip to 0 … 6."""
        shape = (out, into // group, size, size)
        weight, bias = self.weight(*shape, scale=(2 / prod(shape[1:])) ** 0.5), self.weight(out, scale=0.1)
        self.node("Conv", self.last, weight, bias, strides=[stride, stride], pads=[size // 2] * 4, group=group, kernel_shape=[size, size])
        if clip:
            self.weights |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
            self.node("Clip", self.last, "low", "high")

    def classify(self, channels: int) -> None:
        self.node("GlobalAveragePool", self.last)
        self.node("Flatten", self.last)
        self.node("Gemm", self.last, self.weight(channels, 1000, scale=channels**-0.5), self.weight(1000, scale=0.1))

    def model(self, x: list[int], y: list[int]) -> ModelProto:
        self.nodes[-1].output[0] = "y"
        tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in (("x", x), ("y", y))]
        weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in self.weights.items()]
        graph = helper.make_graph(self.nodes, "made", tensors[:1], tensors[1:], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mobilenet_v1() -> ModelProto:
    """MobileNetV1 1.0, x f32[1,3,224,224] to logits f32[1,1000]."""
    made, channels = Layers(1), 32
    made.conv(3, channels, 3, stride=2)
    for stride, out in V1:
        made.conv(channels, channels, 3, stride=stride, group=channels)
        made.conv(channels, out, 1)
        channels = out
    made.classify(channels)
    return made.model([1, 3, 224, 224], [1, 1000])


def mobilenet_v2() -> ModelProto:
    """MobileNetV2 1.0, x f32[1,3,224,224] to logits f32[1,1000]."""
    made, channels = Layers(2), 32
    made.conv(3, channels, 3, stride=2)
    for expansion, out, repetitions, first in V2:
        for stride in (first, *(1,) * (repetitions - 1)):
            before, wide = made.last, channels * expansion
            if expansion > 1:
                made.conv(channels, wide, 1)
            made.conv(wide, wide, 3, stride=stride, group=wide)
            made.conv(wide, out, 1, clip=False)
            if stride == 1 and channels == out:
                made.node("Add", made.last, before)
            channels = out
    made.conv(channels, 1280, 1)
    made.classify(1280)
    return made.model([1, 3, 224, 224], [1, 1000])


def recurrent(op: str, sizes: tuple[int, ...], steps: int, **attributes: Any) -> ModelProto:
    """Layers of GRU or LSTM, batch 1: x f32[steps, 1, sizes[0]] to y f32[steps, 1, sizes[-1]]."""
    made, gates = Layers(3), 3 if op == "GRU" else 4
    for width, hidden in pairwise(sizes):
        weights = (made.weight(1, gates * hidden, width, scale=width**-0.5), made.weight(1, gates * hidden, hidden, scale=hidden**-0.5),
                   made.weight(1, 2 * gates * hidden, scale=0.1))
        made.node(op, made.last, *weights, hidden_size=hidden, **attributes)
        made.weights["axis"] = np.array([1])
        made.node("Squeeze", made.last, "axis")
    return made.model([steps, 1, sizes[0]], [steps, 1, sizes[-1]])


MADE: Mapping[str, Callable[[], ModelProto]] = {
    "mobilenet_v1_224": mobilenet_v1, "mobilenet_v2_224": mobilenet_v2,
    "gru_64": lambda: recurrent("GRU", (40, 64), 50, linear_before_reset=1), "lstm_128x2": lambda: recurrent("LSTM", (128, 128, 128), 100)}
"""By name. The GRU has 64 units and makes 50 steps on 40 features; the LSTM 100 steps."""
