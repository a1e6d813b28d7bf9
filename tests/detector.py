"""A detector of YOLOv8's shape with seeded weights: SiLU, C2f, SPPF, Resize, three heads, distribution focal loss decoding."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class _Net:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        results = [f"{name}_{i}" for i in range(outputs)] if outputs > 1 else [name]
        self.nodes.append(helper.make_node(op, list(inputs), results, name=name, **attrs))
        return name

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, ci: int, co: int, k: int = 1, s: int = 1, *, act: bool = True) -> str:
        w = self.weight((self.rng.standard_normal((co, ci, k, k)) * np.sqrt(2.0 / (ci * k * k))).astype(np.float32))
        b = self.weight((self.rng.standard_normal(co) * 0.1).astype(np.float32))
        y = self.op("Conv", x, w, b, kernel_shape=[k, k], strides=[s, s], pads=[k // 2] * 4)
        return self.op("Mul", y, self.op("Sigmoid", y)) if act else y

    def c2f(self, x: str, ci: int, co: int, n: int, *, shortcut: bool) -> str:
        y = self.conv(x, ci, co)
        half = co // 2
        parts = self.op("Split", y, self.weight(np.array([half, half], np.int64)), outputs=2, axis=1)
        pieces, last = [f"{parts}_0", f"{parts}_1"], f"{parts}_1"
        for _ in range(n):
            made = self.conv(self.conv(last, half, half, 3), half, half, 3)
            last = self.op("Add", last, made) if shortcut else made
            pieces.append(last)
        return self.conv(self.op("Concat", *pieces, axis=1), half * (2 + n), co)

    def sppf(self, x: str, c: int) -> str:
        y = [self.conv(x, c, c // 2)]
        for _ in range(3):
            y.append(self.op("MaxPool", y[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4))
        return self.conv(self.op("Concat", *y, axis=1), 2 * c, c)

    def up(self, x: str) -> str:
        scales = self.weight(np.array([1, 1, 2, 2], np.float32))
        return self.op("Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def detector(size: int = 64, width: int = 16, classes: int = 8, seed: int = 0) -> onnx.ModelProto:
    """The model: `images` f32[1,3,size,size] to `boxes` f32[1,4,anchors] and `scores` f32[1,classes,anchors]."""
    net, w = _Net(seed), width
    x = net.conv(net.conv("images", 3, w, 3, 2), w, 2 * w, 3, 2)
    x = net.c2f(x, 2 * w, 2 * w, 1, shortcut=True)
    p3 = net.c2f(net.conv(x, 2 * w, 4 * w, 3, 2), 4 * w, 4 * w, 2, shortcut=True)
    p4 = net.c2f(net.conv(p3, 4 * w, 6 * w, 3, 2), 6 * w, 6 * w, 1, shortcut=True)
    p5 = net.sppf(net.conv(p4, 6 * w, 8 * w, 3, 2), 8 * w)
    n4 = net.c2f(net.op("Concat", net.up(p5), p4, axis=1), 14 * w, 6 * w, 1, shortcut=False)
    n3 = net.c2f(net.op("Concat", net.up(n4), p3, axis=1), 10 * w, 4 * w, 1, shortcut=False)
    bins, boxes, scores, anchors = 16, [], [], 0
    for level, (feature, channels) in enumerate(((n3, 4 * w), (n4, 6 * w), (p5, 8 * w))):
        cells = (size // (8 << level)) ** 2
        anchors += cells
        box = net.conv(net.conv(feature, channels, 4 * w, 3), 4 * w, 4 * bins, act=False)
        score = net.conv(net.conv(feature, channels, 4 * w, 3), 4 * w, classes, act=False)
        boxes.append(net.op("Reshape", box, net.weight(np.array([1, 4 * bins, cells], np.int64))))
        scores.append(net.op("Reshape", score, net.weight(np.array([1, classes, cells], np.int64))))
    spread = net.op("Reshape", net.op("Concat", *boxes, axis=2), net.weight(np.array([1, 4, bins, anchors], np.int64)))
    chances = net.op("Softmax", net.op("Transpose", spread, perm=[0, 2, 1, 3]), axis=1)
    mean = net.op("Conv", chances, net.weight(np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1)), kernel_shape=[1, 1])
    net.nodes.append(helper.make_node("Reshape", [mean, net.weight(np.array([1, 4, anchors], np.int64))], ["boxes"], name="boxes"))
    net.nodes.append(helper.make_node("Sigmoid", [net.op("Concat", *scores, axis=2)], ["scores"], name="scores"))
    graph = helper.make_graph(net.nodes, "detector", [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
                              [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 4, anchors]),
                               helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, classes, anchors])], net.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model
