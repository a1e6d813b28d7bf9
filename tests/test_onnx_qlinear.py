"""Quantized operators of com.microsoft: imported as DequantizeLinear, an operator and QuantizeLinear, they mean what they did."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from edgec.ir.evaluate import evaluate
from edgec.onnx import import_model
from edgec.onnx_saturation import exact
from tests.small import ops

RANDOM = np.random.default_rng(0)
SCALES = {"s": np.array(0.05, np.float32), "t": np.array(0.11, np.float32), "z": np.array(120, np.uint8), "m": np.array(97, np.uint8)}


def run(op: str, inputs: list[str], shapes: dict[str, tuple[int, ...]], weights: dict[str, Any], out: tuple[str, int], **attrs: Any) -> int:
    """The largest difference from ONNX Runtime on random inputs; one is a rounding."""
    kind, rank = out
    proto = helper.make_model(helper.make_graph(
        [helper.make_node(op, inputs, ["y"], domain="com.microsoft", **attrs)], "g",
        [helper.make_tensor_value_info(n, 1 if n == "f" else 2, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info("y", 1 if kind == "f32" else 2, [f"d{i}" for i in range(rank)])],
        [onnx.numpy_helper.from_array(a, n) for n, a in {**SCALES, **weights}.items() if n in inputs]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)], ir_version=8)
    feeds = {n: RANDOM.standard_normal(s).astype(np.float32) if n == "f" else RANDOM.integers(0, 256, s).astype(np.uint8)
             for n, s in shapes.items()}
    wanted = onnxruntime.InferenceSession(exact(proto.SerializeToString()), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    made = import_model(proto)
    assert "QLinear" not in ops(made)
    y = evaluate(made, feeds)["y"]
    assert (y.dtype, y.shape) == (wanted.dtype, wanted.shape)
    assert wanted.std() > 0.1
    if kind == "f32":
        return int(np.ceil(np.abs(y - wanted).max() / max(np.abs(wanted).max() * 1e-5, 1e-6)))
    return int(np.abs(y.astype(int) - wanted.astype(int)).max())


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_of_two_operands(op: str) -> None:
    assert run(op, ["a", "s", "z", "b", "t", "m", "t", "z"], {"a": (2, 3, 4), "b": (2, 3, 4)}, {}, ("u8", 3)) <= 1


@pytest.mark.parametrize(("op", "attrs"), [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.2})])
def test_of_one_operand(op: str, attrs: dict[str, Any]) -> None:
    weights = {"t": np.array(0.01, np.float32)}
    assert run(op, ["a", "s", "z", "t", "m"], {"a": (2, 3, 4)}, weights, ("u8", 3), **attrs) <= 1


@pytest.mark.parametrize("last", [0, 1])
def test_pools(last: int) -> None:
    shape = (1, 6, 5, 3) if last else (1, 3, 6, 5)
    assert run("QLinearGlobalAveragePool", ["a", "s", "z", "s", "z"], {"a": shape}, {}, ("u8", 4), channels_last=last) <= 1
    attrs: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2], "channels_last": last}
    assert run("QLinearAveragePool", ["a", "s", "z", "s", "m"], {"a": shape}, {}, ("u8", 4), **attrs) <= 1


@pytest.mark.parametrize("last", [0, 1])
def test_convolutions(last: int) -> None:
    weights = {"w": RANDOM.integers(-90, 90, (4, 3, 3, 3)).astype(np.int8), "v": np.array([0.01, 0.02, 0.005, 0.01], np.float32),
               "n": np.zeros(4, np.int8), "b": np.array([500, -300, 0, 90], np.int32), "t": np.array(0.7, np.float32)}
    shape = (1, 6, 5, 3) if last else (1, 3, 6, 5)
    attrs: dict[str, Any] = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3], "channels_last": last}
    assert run("QLinearConv", ["a", "s", "z", "w", "v", "n", "t", "m", "b"], {"a": shape}, weights, ("u8", 4), **attrs) <= 1


@pytest.mark.parametrize("quantized", [True, False])
def test_products(quantized: bool) -> None:  # noqa: FBT001
    weights = {"w": RANDOM.integers(-90, 90, (4, 6)).astype(np.int8), "v": np.array(0.01, np.float32), "n": np.zeros((), np.int8),
               "b": np.array([500, -300, 0, 90], np.int32)}
    inputs = ["a", "s", "z", "w", "v", "n", "b", *(["t", "m"] if quantized else [])]
    assert run("QGemm", inputs, {"a": (2, 6)}, weights, ("u8" if quantized else "f32", 2), transB=1) <= 1


def test_concat() -> None:
    assert run("QLinearConcat", ["t", "m", "a", "s", "z", "b", "t", "m"], {"a": (2, 3), "b": (2, 5)}, {}, ("u8", 2), axis=1) <= 1


def test_products_that_are_quantized_when_the_model_runs() -> None:
    weights = {"w": RANDOM.integers(-90, 90, (6, 4)).astype(np.int8), "v": np.array(0.01, np.float32), "n": np.zeros((), np.int8),
               "c": np.array([0.5, -0.3, 0.0, 0.9], np.float32)}
    assert run("DynamicQuantizeMatMul", ["f", "w", "v", "n", "c"], {"f": (3, 6)}, weights, ("f32", 2)) <= 1
    assert run("MatMulIntegerToFloat", ["a", "w", "s", "v", "z", "n"], {"a": (3, 6)}, weights, ("f32", 2)) <= 1
