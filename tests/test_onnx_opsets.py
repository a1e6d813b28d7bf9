"""Operators of every opset that a model may be written in, brought to the one normalized opset."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from edgec.errors import UnsupportedModel
from edgec.ir.evaluate import evaluate
from edgec.onnx import export_model, import_model
from tests.nodes import X, one, run, same

I64 = np.int64


def _old(op: str, opset: int, *others: Any, x: Any = X, outputs: int = 1, **attrs: Any) -> Any:
    weights = {f"w{i}": np.asarray(w) for i, w in enumerate(others)}
    label = f"{op}-{opset}" + "".join(f"-{k}={v}" for k, v in attrs.items())[:50]
    return pytest.param(one(op, opset, {"x": x}, outputs, weights, **attrs), x, outputs, id=label)


C4 = [np.arange(1, 5, dtype=np.float32) / 4 for _ in range(4)]
NONE = np.array([], np.float32)
GRID = np.random.default_rng(2).uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)
REDUCTIONS = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
OLD = [
    _old("Softmax", 11), _old("Softmax", 9, axis=2), _old("Softmax", 12, axis=-1), _old("LogSoftmax", 11, axis=2),
    _old("Hardmax", 11, axis=0),
    _old("Softmax", 7, x=X[:, :, :1, :1]), _old("Clip", 6, min=-0.5, max=0.25), _old("Clip", 6, min=0.1), _old("Clip", 10),
    _old("Pad", 2, pads=[0, 0, 1, 2, 0, 0, 0, 1], value=2.5), _old("Pad", 2, pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect"),
    _old("Slice", 1, starts=[1, -3], ends=[9, -1], axes=[1, 2]), _old("Slice", 9, starts=[0, 1], ends=[1, 3]),
    _old("Squeeze", 11, x=X[:, :1], axes=[1]), _old("Unsqueeze", 11, axes=[0, 2]),
    *(_old(f"Reduce{r}", 11, axes=[1, -1], keepdims=0) for r in REDUCTIONS),
    _old("ReduceMean", 13), _old("ReduceSum", 11, keepdims=0),
    _old("Split", 2, outputs=2, axis=1), _old("Split", 11, outputs=2, axis=2, split=[1, 5]),
    _old("Split", 13, np.array([1, 3], I64), outputs=2, axis=1), _old("Upsample", 7, scales=[1.0, 1.0, 2.0, 3.0]),
    _old("Upsample", 9, np.array([1, 1, 2, 2], np.float32), mode="linear"), _old("Resize", 10, np.array([1, 1, 2, 2.5], np.float32)),
    _old("Resize", 10, np.array([1, 1, 0.5, 0.6], np.float32)), _old("Resize", 10, np.array([1, 1, 0.5, 2], np.float32)),
    _old("Resize", 10, np.array([1, 1, 2, 0.5], np.float32), mode="linear"),
    _old("Resize", 11, NONE, np.array([1, 1, 0.5, 1.5], np.float32), coordinate_transformation_mode="tf_half_pixel_for_nn",
         nearest_mode="floor"),
    _old("Resize", 11, NONE, np.array([1, 1, 2, 1.5], np.float32), mode="cubic"),
    _old("BatchNormalization", 7, *C4, epsilon=1e-3), _old("BatchNormalization", 9, *C4, momentum=0.5),
    _old("Dropout", 7, ratio=0.3), _old("Dropout", 10, ratio=0.3), _old("TopK", 1, outputs=2, k=3, axis=1),
    _old("TopK", 10, np.array([2], I64), outputs=2), _old("GridSample", 16, GRID), _old("GridSample", 16, GRID, mode="bicubic"),
    _old("GroupNormalization", 18, C4[0][:2], C4[1][:2], num_groups=2),
    _old("RoiAlign", 10, np.array([[0, 0, 4, 4]], np.float32), np.array([1], I64), output_height=2, output_width=2, spatial_scale=0.7),
    _old("Scatter", 9, np.array([[[[0, 1, 0, 1, 0]]]], I64), np.ones((1, 1, 1, 5), np.float32), axis=2),
    _old("DFT", 17, x=X[..., None], axis=2), _old("DFT", 17, x=X[..., None]), _old("Cast", 9, to=TensorProto.INT32),
    _old("Gemm", 7, X[0, 0], X[0, 0, :1, :5], x=X[0, 0, :, :].T.copy(), alpha=0.5), _old("MaxPool", 8, kernel_shape=[2, 3], outputs=2),
    _old("AveragePool", 7, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]), _old("MeanVarianceNormalization", 9),
]


@pytest.mark.parametrize(("proto", "x", "outputs"), OLD)
def test_old_operators_mean_what_they_meant(proto: ModelProto, x: Any, outputs: int) -> None:
    inferred = onnx.shape_inference.infer_shapes(proto)
    before = run(inferred, {"x": x})
    graph = import_model(proto)
    same(before, list(evaluate(graph, {"x": x}).values()))
    same(before, run(export_model(graph), {"x": x}))
    assert len(before) == outputs


ONES = np.ones((2, 3, 4), np.float32)
ANCIENT = [
    ("Add", 6, [np.arange(3, dtype=np.float32)], {"broadcast": 1, "axis": 1}, ONES + np.arange(3, dtype=np.float32)[:, None]),
    ("Mul", 6, [np.arange(4, dtype=np.float32)], {"broadcast": 1}, ONES * np.arange(4)),
    ("Pow", 6, [np.full(2, 3.0, np.float32)], {"broadcast": 1, "axis": 0}, ONES),
    ("PRelu", 6, [np.array([1, 2, 3], np.float32)], {}, -ONES * np.array([1, 2, 3])[:, None]),
    ("Reshape", 1, [], {"shape": [0, -1]}, ONES.reshape(2, 12)),
    ("Tile", 1, [np.array([2], I64), np.array([1], I64)], {}, np.tile(ONES, (1, 2, 1))),
    ("Selu", 1, [], {}, ONES * np.float32(1.0507)), ("Cast", 1, [], {"to": "INT64"}, ONES.astype(I64)),
    ("Cast", 5, [], {"to": "FLOAT16"}, ONES.astype(np.float16)), ("Sqrt", 1, [], {"consumed_inputs": [0]}, ONES),
    ("Pad", 1, [], {"paddings": [0, 0, 1, 0, 0, 0], "value": 4.0}, np.pad(ONES, ((0, 0), (0, 0), (1, 0)), constant_values=4)),
    ("Dropout", 6, [], {"is_test": 1}, ONES),
    ("BatchNormalization", 7, [np.full((3, 4), 2.0, np.float32), ONES[0], ONES[0] * 0, ONES[0] * 4 - 1e-5], {"spatial": 0}, ONES * 2),
    ("Concat", 3, [ONES], {}, np.concatenate([ONES, ONES], 1)),
]


@pytest.mark.parametrize(("op", "opset", "others", "attrs", "want"), ANCIENT, ids=[f"{a[0]}-{a[1]}" for a in ANCIENT])
def test_operators_that_no_runtime_knows_any_more(op: str, opset: int, others: list[Any], attrs: dict[str, Any], want: Any) -> None:
    x = -ONES if op == "PRelu" else ONES
    graph = import_model(one(op, opset, {"x": x}, weights={f"w{i}": w for i, w in enumerate(others)}, **attrs))
    same(want, evaluate(graph, {"x": x})["y0"], 1e-4)
    onnx.checker.check_model(export_model(graph), full_check=True)


def test_label_encoder_of_the_first_version() -> None:
    proto = one("LabelEncoder", 9, {"x": np.array(["b", "z"], object)}, classes_strings=["a", "b"], default_int64=-7, domain="ai.onnx.ml")
    assert evaluate(import_model(proto), {"x": np.array(["b", "z"], object)})["y0"].tolist() == [1, -7]


def test_statistics_of_training_are_refused() -> None:
    proto = one("BatchNormalization", 9, {"x": X}, 3, {f"w{i}": c for i, c in enumerate(C4)})
    with pytest.raises(UnsupportedModel, match="statistics are read") as caught:
        import_model(proto)
    assert caught.value.nodes == ("node",)


def test_an_opset_from_the_future_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="opset 99"):
        import_model(one("Relu", 99, {"x": X}))
