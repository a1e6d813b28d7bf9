"""Models of a few kilobytes, and bundles of them, for tests that want some model and do not care which."""

import os
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def model(seed: int = 0, batch: int | str = 1) -> ModelProto:
    """x f32[batch,3,12,12] -> y f32[batch,5]: a convolution, a pool, a fully connected layer."""
    random = np.random.default_rng(seed)
    weights = {"w": random.standard_normal((8, 3, 3, 3)) / 5, "b": random.standard_normal(8), "v": random.standard_normal((288, 5)) / 17,
               "c": random.standard_normal(5)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], "conv", pads=[1, 1, 1, 1]), helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flat"), helper.make_node("Gemm", ["f", "v", "c"], ["y"], "dense"),
    ]
    return of(nodes, {"x": [batch, 3, 12, 12]}, {"y": [batch, 5]}, {k: v.astype(np.float32) for k, v in weights.items()})


def of(nodes: list[NodeProto], inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]],
       weights: dict[str, np.ndarray] | None = None) -> ModelProto:
    """A model of f32 values; nothing is checked, because some tests want a wrong one."""
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(made: ModelProto, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def files(folder: Path) -> set[str]:
    """Everything below a folder, whatever its name begins with."""
    return {os.path.relpath(Path(root) / name, folder) for root, _, names in os.walk(folder) for name in names}
