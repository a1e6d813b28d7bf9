"""The evaluator computes what ONNX says: on its own node tests, and as ONNX Runtime does on whole models."""

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgec.ir.evaluate import CannotEvaluate, evaluate, evaluate_node, is_pure
from edgec.ir.graph import REGIONS, Graph, Node, Value
from edgec.ir.types import Tensor, numpy_dtype
from edgec.onnx import export_model, import_model
from tests.nodes import X, arrays, cases, feeds_of, one, run, same, sample
from tests.shared import light, model

CHANCE = ("test_bernoulli",)
"""Their expected results are what a random generator happened to draw."""
PILLOW = "Pillow must be installed"


def differs(case: Any) -> str | None:
    """What is wrong with the evaluator's results of a node test."""
    graph = import_model(case.model)
    for i, (_, expected) in enumerate(case.data_sets):
        made = list(evaluate(graph, feeds_of(case, i)).values())
        for value, want, got in zip(graph.outputs, arrays(list(expected)), made, strict=True):
            if isinstance(got, np.ndarray):
                if got.dtype != (np.dtype(object) if want.dtype.kind in "UST" else want.dtype) or got.shape != want.shape:
                    return f"{value} is {got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
                if isinstance(value.type, Tensor) and numpy_dtype(value.type.dtype) != got.dtype:
                    return f"{value} is {got.dtype}, and its type says {value.type.dtype}"
            same(want, got, max(case.rtol, 1e-3) if not isinstance(want, np.ndarray) or want.dtype.itemsize > 2 else 2e-2)
    return None


@pytest.mark.parametrize("part", [pytest.param(i, marks=[] if i == 0 else pytest.mark.slow) for i in range(6)])
def test_node_tests(part: int) -> None:
    faults = {}
    for case in cases(part, 6):
        try:
            wrong = None if case.name.startswith(CHANCE) else differs(case)
        except Exception as error:  # noqa: BLE001  each is a fault, and all of them are wanted
            wrong = f"{type(error).__name__}: {error}"
        if wrong and PILLOW not in wrong:
            faults[case.name] = wrong
    assert faults == {}


@pytest.mark.parametrize(("name", "tolerance"), [
    ("mnist_opset8", 1e-5), ("crnn_mnist_strings", 1e-4), ("selfie_segmentation", 1e-4), ("resnet20_cifar10_fp32", 1e-4),
    ("mlperf_ic_resnet8_qdq_s8", 0), ("rf_digits", 1e-5), ("svc_digits", 1e-4), ("logreg_wine_zipmap", 1e-5), ("magika_v3_3", 1e-4),
    ("dtln_stage1_lstm", 1e-4), ("squeezenet_fp16", 2e-3)])
def test_shared_models_as_onnxruntime_runs_them(name: str, tolerance: float) -> None:
    path = model(name)
    graph = import_model(path, static=True)
    feeds = sample(graph)
    same(run(path, feeds), list(evaluate(graph, feeds).values()), tolerance)


@pytest.mark.parametrize("length", [3, 6])
def test_a_loop_that_runs_as_long_as_it_must(length: int) -> None:
    path = model("g2p_en_gru_loop")
    ids = np.arange(1, length + 1)[None]
    same(run(path, {"ids": ids}), [evaluate(import_model(path), {"ids": ids})["phones"]])


@pytest.mark.parametrize(("rate", "samples"), [(16000, 576), (8000, 288)])
def test_branches_inside_of_branches(rate: int, samples: int) -> None:
    path = model("silero_vad_if")
    feeds = {"input": X.ravel()[:1].repeat(samples)[None] * np.linspace(-1, 1, samples, dtype=np.float32), "sr": np.array(rate),
             "state": np.zeros((2, 1, 128), np.float32)}
    same(run(path, feeds), list(evaluate(import_model(path), feeds).values()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "densenet121"])
def test_light_models_as_onnxruntime_runs_them(name: str) -> None:
    proto = light(name)
    graph = import_model(proto)
    feeds = sample(graph)
    same(run(proto, feeds), list(evaluate(graph, feeds).values()), 2e-3)


def test_precise_means_float64_from_end_to_end() -> None:
    graph = import_model(model("mnist_opset8"))
    feeds = sample(graph)
    (plain,), (precise,) = (list(evaluate(graph, feeds, precise=p).values()) for p in (False, True))
    assert (plain.dtype, precise.dtype) == (np.float32, np.float64)
    assert 0 < np.abs(plain - precise).max() < 1e-5


def test_precise_keeps_integers_and_quantization() -> None:
    graph = import_model(model("mlperf_kws_dscnn_qdq_s8"), static=True)
    (made,) = evaluate(graph, sample(graph), precise=True).values()
    assert made.dtype == np.int8


CONVOLUTIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("Conv", (2, 4, 9), (6, 2, 3), {"group": 2, "pads": [2, 0], "dilations": [2]}),
    ("Conv", (1, 3, 7, 8), (4, 3, 3, 2), {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    ("Conv", (1, 3, 7, 8), (4, 3, 3, 2), {"auto_pad": "SAME_LOWER"}),
    ("Conv", (1, 2, 4, 5, 6), (3, 2, 2, 3, 2), {"pads": [1, 0, 1, 0, 1, 1]}),
    ("Conv", (1, 4, 5, 5), (4, 1, 3, 3), {"group": 4, "auto_pad": "VALID"}), ("Conv", (1, 1, 2, 2), (1, 1, 5, 5), {"pads": [2, 2, 2, 2]}),
    ("ConvTranspose", (1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}),
    ("ConvTranspose", (2, 4, 5), (4, 2, 3), {"group": 2, "dilations": [2]}),
    ("ConvTranspose", (1, 2, 4, 4), (2, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", (1, 2, 4, 4), (2, 3, 3, 3), {"strides": [3, 3], "output_shape": [10, 12]}),
]


@pytest.mark.parametrize(("op", "x", "w", "attrs"), CONVOLUTIONS)
def test_convolutions(op: str, x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    bias = w[0] if op == "Conv" else w[1] * attrs.get("group", 1)
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("x", x), ("w", w), ("b", (bias,)))}
    graph = import_model(one(op, 22, feeds, **attrs))
    made = evaluate(graph, feeds)["y0"]
    same(run(export_model(graph), feeds), [made], 1e-4)
    assert graph.outputs[0].dims == made.shape


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("attrs", [
    {"kernel_shape": [3, 2]}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, {"kernel_shape": [3, 2], "dilations": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 2, 1], "ceil_mode": 1}, {"kernel_shape": [3, 4], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1, "ceil_mode": 1, "strides": [2, 2]}])
def test_pooling(op: str, attrs: dict[str, Any]) -> None:
    if op == "MaxPool":
        attrs = {k: a for k, a in attrs.items() if k != "count_include_pad"}
    graph = import_model(one(op, 22, {"x": X}, 2 if op == "MaxPool" else 1, **attrs))
    made = list(evaluate(graph, {"x": X}).values())
    same(run(export_model(graph), {"x": X}), made)
    assert graph.outputs[0].dims == made[0].shape


def test_not_a_number_survives_pooling() -> None:
    x = X.copy()
    x[0, 0, 2, 2] = np.nan
    made = evaluate(import_model(one("MaxPool", 22, {"x": x}, kernel_shape=[2, 2])), {"x": x})["y0"]
    assert np.isnan(made[0, 0]).sum() == 4


@pytest.mark.parametrize("op", ["Sigmoid", "Erf", "Softmax", "Gelu", "HardSwish", "ReduceMean", "LayerNormalization", "MatMul"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_floats_are_computed_in_32_and_rounded_once(op: str, dtype: str) -> None:
    code = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.BFLOAT16
    x = X[0, 0].astype(helper.tensor_dtype_to_np_dtype(code))
    others = [x[0]] if op == "LayerNormalization" else [x.T.copy()] if op == "MatMul" else []
    values = [Value(f"i{i}", Tensor("f16" if dtype == "float16" else "bf16", a.shape)) for i, a in enumerate([x, *others])]
    node = Node(op, tuple(values), (Value("y", values[0].type),), MappingProxyType({}))
    (narrow,), (wide,) = evaluate_node(node, [x, *others]), evaluate_node(node, [x.astype("f"), *(o.astype("f") for o in others)])
    assert narrow.dtype == x.dtype
    assert (narrow == wide.astype(x.dtype)).all()


def test_random_operators_draw_the_same_on_every_run() -> None:
    node = Node("RandomNormal", (), (Value("y"),), MappingProxyType({"shape": [3]}))
    assert evaluate_node(node, [])[0].tolist() == evaluate_node(node, [])[0].tolist()
    assert not is_pure(node)


@pytest.mark.parametrize("op", sorted(REGIONS))
def test_regions_compute_what_their_body_says(op: str) -> None:
    x, a, k, y = (Value(n, Tensor("f32", (2,))) for n in "xaky")
    body = Graph("body", (a,), (k,), (Node("Neg", (a,), (k,)),))
    node = Node(op, (x,), (y,), MappingProxyType({"kind": "map", "body": body}))
    assert evaluate_node(node, [np.array([1, -2], np.float32)])[0].tolist() == [-1, 2]


MICROSOFT: list[tuple[str, list[tuple[int, ...]], dict[str, Any]]] = [
    ("Gelu", [(3, 5)], {}), ("FastGelu", [(3, 5), (5,)], {}), ("BiasGelu", [(3, 5), (5,)], {}), ("QuickGelu", [(3, 5)], {"alpha": 1.5}),
    ("FusedMatMul", [(2, 4, 3), (5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}),
    ("SkipLayerNormalization", [(2, 3, 4), (2, 3, 4), (4,), (4,), (4,)], {"epsilon": 1e-3}),
    ("SkipSimplifiedLayerNormalization", [(2, 3, 4), (2, 3, 4), (4,)], {}),
]


@pytest.mark.parametrize(("op", "shapes", "attrs"), MICROSOFT, ids=[m[0] for m in MICROSOFT])
def test_operators_of_microsoft(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    rng = np.random.default_rng(6)
    feeds = {f"x{i}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
    proto = one(op, 20, feeds, domain="com.microsoft", **attrs)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    graph = import_model(proto)
    made = evaluate(graph, feeds)["y0"]
    same(run(export_model(graph), feeds), [made], 1e-4)
    assert graph.outputs[0].dims == made.shape


def test_what_cannot_be_computed_names_the_node() -> None:
    x, i = Value("x", Tensor("f32", (2,))), Value("i", Tensor("i64", (1,)))
    node = Node("Gather", (x, i), (Value("y"),), MappingProxyType({}), None, "lookup")
    with pytest.raises(CannotEvaluate, match="Gather 'lookup' cannot be computed"):
        evaluate_node(node, [np.zeros(2, np.float32), np.array([7])])
    with pytest.raises(CannotEvaluate, match="Warp that makes %y"):
        evaluate_node(Node("Warp", (x,), (Value("y"),)), [np.zeros(2, np.float32)])
    with pytest.raises(KeyError, match="x"):
        evaluate(Graph("g", (x,), (x,), ()), {})


def test_mean_broadcasts() -> None:
    feeds = {"a": np.arange(6, dtype=np.float32).reshape(1, 3, 2), "b": np.array([10, 20], np.float32)}
    assert np.array_equal(evaluate(import_model(one("Mean", 20, feeds)), feeds)["y0"], (feeds["a"] + feeds["b"]) / 2)
