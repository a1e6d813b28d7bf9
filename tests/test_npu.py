"""Quantized operators of ONNX on their way to an NPU: written in TFLite's operators they mean the same, and LiteRT agrees to the bit."""

import numpy as np
import pytest

from edgec.build import optimize, read
from edgec.errors import UnsupportedModel
from edgec.ir.evaluate import run as evaluate
from edgec.ir.graph import Array, Graph
from edgec.ir.infer import infer
from edgec.lang.text import parse
from passes.changes.qdq import groups, separate
from passes.tflite import refusal, written
from tests import litert
from tests.litert import needs_litert
from tests.shared import model, needs_models

_DTYPE = {"i8": np.int8, "u8": np.uint8}
_TURN, _BACK = (0, 2, 3, 1), (0, 3, 1, 2)


def quantized(line: str, x: str, y: str, *, scales: tuple[float, float] = (0.05, 0.07), zeros: tuple[int, int] = (3, -5),
              second: str = "", weights: str = "") -> Graph:
    """The operator `line` of %a (and %b), which makes %r, between DequantizeLinear and QuantizeLinear."""
    kind, result = x.partition("[")[0], y.partition("[")[0]
    more = f", %z: {second}" if second else ""
    other = "%b = DequantizeLinear(%z, %bs, %bz)\n  %bs: f32[] = splat 0.03\n  %bz: i8[] = splat 7" if second else ""
    return infer(parse(f"""edge 1
graph @g(%x: {x}{more}) {{
  %xs: f32[] = splat {scales[0]}
  %xz: {kind}[] = splat {zeros[0]}
  %ys: f32[] = splat {scales[1]}
  %yz: {result}[] = splat {zeros[1]}
  {weights}
  {"%bs: f32[] = splat 0.03" if second else ""}
  {"%bz: i8[] = splat 7" if second else ""}
  %a = DequantizeLinear(%x, %xs, %xz)
  {other.splitlines()[0] if other else ""}
  {line}
  %y: {y} = QuantizeLinear(%r, %ys, %yz)
  return %y
}}"""))


def kernel(shape: str, axis: int = 0, count: int = 1) -> str:
    scales = ", ".join(str(0.004 + 0.001 * i) for i in range(count))
    rank = f"[{count}]" if count > 1 else "[]"
    value = f"dense [{scales}]" if count > 1 else "splat 0.006"
    return f"""%w: i8{shape} = random 1
  %ws: f32{rank} = {value}
  %wz: i8{rank} = splat 0
  %k = DequantizeLinear(%w, %ws, %wz) {{axis={axis}}}"""


WINDOW = "group={group}, kernel_shape=[3, 3], pads={pads}, strides={strides}, dilations=[1, 1]"


def window(group: int = 1, pads: str = "[1, 1, 1, 1]", strides: str = "[1, 1]") -> str:
    return "{" + WINDOW.format(group=group, pads=pads, strides=strides) + "}"


IMAGE = "i8[1,4,6,6]"
CASES = {
    "conv": quantized(f"%c = Conv(%a, %k) {window()}\n%r = Relu(%c)", IMAGE, "i8[1,5,6,6]", weights=kernel("[5,4,3,3]", 0, 5)),
    "conv of bytes": quantized(f"%r = Conv(%a, %k) {window()}", "u8[1,4,6,6]", "u8[1,5,6,6]", zeros=(100, 140),
                               weights=kernel("[5,4,3,3]")),
    "conv with pads of its own": quantized(f"%r = Conv(%a, %k) {window(pads='[1, 1, 1, 1]', strides='[2, 2]')}", IMAGE, "i8[1,5,3,3]",
                                           weights=kernel("[5,4,3,3]")),
    "conv with a bias of reals": quantized(f"%c = Conv(%a, %k, %f) {window()}\n%r = Clip(%c, %lo, %hi)", IMAGE, "i8[1,5,6,6]",
                                           weights=kernel("[5,4,3,3]") + "\n%f: f32[5] = dense [1.0, -2.0, 0.5, 0.0, 3.0]\n"
                                           "%lo: f32[] = splat 0.0\n%hi: f32[] = splat 6.0"),
    "depthwise": quantized(f"%r = Conv(%a, %k) {window(4)}", IMAGE, "i8[1,8,6,6]", weights=kernel("[8,1,3,3]", 0, 8)),
    "gemm": quantized("%r = Gemm(%a, %k) {transB=1}", "i8[3,20]", "i8[3,7]", weights=kernel("[7,20]", 0, 7)),
    "matmul": quantized("%r = MatMul(%a, %k)", "i8[2,3,20]", "i8[2,3,7]", weights=kernel("[20,7]", 1, 7)),
    "add": quantized("%r = Add(%a, %b)", IMAGE, IMAGE, second=IMAGE),
    "add of rows": quantized("%r = Add(%a, %b)", "i8[3,8]", "i8[3,8]", second="i8[8]"),
    "mul by a constant": quantized("%r = Mul(%a, %k)", IMAGE, IMAGE, scales=(0.05, 0.02), weights=kernel("[4,1,1]")),
    "sub": quantized("%r = Sub(%a, %b)", "i8[3,8]", "i8[3,8]", second="i8[3,8]"),
    "max pool": quantized("%r = MaxPool(%a) {kernel_shape=[2, 2], strides=[2, 2]}", IMAGE, "i8[1,4,3,3]", scales=(0.05, 0.05),
                          zeros=(3, 3)),
    "max pool on another scale": quantized("%r = MaxPool(%a) {kernel_shape=[2, 2], strides=[2, 2]}", IMAGE, "i8[1,4,3,3]"),
    "average pool": quantized("%r = AveragePool(%a) {kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]}", IMAGE, IMAGE,
                              scales=(0.05, 0.05), zeros=(3, 3)),
    "average with counted pads": quantized("%r = AveragePool(%a) {kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], "
                                           "count_include_pad=1}", IMAGE, IMAGE),
    "mean": quantized("%r = ReduceMean(%a, %axes) {keepdims=0}", IMAGE, "i8[1,4]", scales=(0.05, 0.02),
                      weights="%axes: i64[2] = dense [2, 3]"),
    "concat": quantized("%r = Concat(%a, %b) {axis=1}", IMAGE, "i8[1,6,6,6]", second="i8[1,2,6,6]"),
    "reshape": quantized("%r = Reshape(%a, %to)", IMAGE, "i8[1,144]", scales=(0.05, 0.05), zeros=(3, 3),
                         weights="%to: i64[2] = dense [1, 144]"),
    "transpose": quantized("%r = Transpose(%a) {perm=[0, 2, 1, 3]}", IMAGE, "i8[1,6,4,6]"),
    "pad": quantized("%r = Pad(%a, %to)", IMAGE, "i8[1,4,9,8]", scales=(0.05, 0.05), zeros=(3, 3),
                     weights="%to: i64[8] = dense [0, 0, 1, 0, 0, 0, 2, 2]"),
    "resize": quantized('%r = Resize(%a, _, %by) {mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"}',
                        IMAGE, "i8[1,4,12,12]", scales=(0.05, 0.05), zeros=(3, 3), weights="%by: f32[4] = dense [1.0, 1.0, 2.0, 2.0]"),
    "resize by halves": quantized('%r = Resize(%a, _, %by) {mode="nearest", coordinate_transformation_mode="half_pixel"}',
                                  IMAGE, "i8[1,4,24,24]", scales=(0.05, 0.05), zeros=(3, 3),
                                  weights="%by: f32[4] = dense [1.0, 1.0, 4.0, 4.0]"),
    "bilinear": quantized('%r = Resize(%a, _, %by) {mode="linear", coordinate_transformation_mode="half_pixel"}',
                          IMAGE, "i8[1,4,12,12]", scales=(0.05, 0.05), zeros=(3, 3), weights="%by: f32[4] = dense [1.0, 1.0, 2.0, 2.0]"),
    "relu": quantized("%r = Relu(%a)", "i8[3,8]", "i8[3,8]"),
    "clip": quantized("%r = Clip(%a, %lo, %hi)", IMAGE, IMAGE, weights="%lo: f32[] = splat 0.0\n%hi: f32[] = splat 6.0"),
    "sigmoid": quantized("%r = Sigmoid(%a)", "i8[3,8]", "i8[3,8]", scales=(0.05, 1 / 256), zeros=(3, -128)),
    "tanh": quantized("%r = Tanh(%a)", IMAGE, IMAGE, scales=(0.05, 0.01), zeros=(3, 0)),
    "hard swish": quantized("%r = HardSwish(%a)", IMAGE, IMAGE),
    "softmax": quantized("%r = Softmax(%a) {axis=-1}", "i8[3,8]", "i8[3,8]", scales=(0.05, 1 / 256), zeros=(3, -128)),
    "softmax of channels": quantized("%r = Softmax(%a) {axis=1}", IMAGE, IMAGE, scales=(0.05, 1 / 256), zeros=(3, -128)),
}


def arrays(graph: Graph, seed: int) -> list[Array]:
    random = np.random.default_rng(seed)
    kinds = [np.iinfo(_DTYPE[v.tensor.dtype]) for v in graph.inputs]
    return [random.integers(k.min, k.max + 1, v.dims, dtype=k.dtype) for k, v in zip(kinds, graph.inputs, strict=True)]


def through(graph: Graph, inputs: list[Array]) -> tuple[Array, Array]:
    """What a graph's TFLite form makes, in ONNX's order of axes, by its meaning and by LiteRT."""
    body, enter, (leave,) = written(graph)
    turned = [np.ascontiguousarray(x.transpose(_TURN)) if image else x for x, image in zip(inputs, enter, strict=True)]
    tables = any(n.op in ("tfl.Logistic", "tfl.Tanh") for n in body.nodes)
    (made,), (other,) = evaluate(body, turned), litert.run(body, turned, reference=not tables)
    return tuple(y.transpose(_BACK) if leave else y for y in (made, other))  # type: ignore[return-value]


@needs_litert
@pytest.mark.parametrize("name", CASES)
def test_an_operator_means_the_same_up_to_rounding_and_litert_agrees(name: str) -> None:
    graph = CASES[name]
    for seed in range(3):
        inputs = arrays(graph, seed)
        (wanted,) = evaluate(graph, inputs)
        made, other = through(graph, inputs)
        assert made.dtype == wanted.dtype
        assert np.array_equal(made, other)
        assert np.abs(made.astype(int) - wanted.astype(int)).max() <= (2 if name == "hard swish" else 1)
        assert np.unique(wanted).size > 2                      # an input that shows something


@pytest.mark.parametrize(("graph", "why"), [
    (quantized(f"%r = Conv(%a, %k) {window(2)}", IMAGE, "i8[1,6,6,6]", weights=kernel("[6,2,3,3]")), "a convolution in 2 groups"),
    (quantized("%r = MatMul(%a, %b)", "i8[3,8]", "i8[3,3]", second="i8[8,3]"), "both factors are computed"),
    (quantized("%r = Clip(%a, %lo, %hi)", IMAGE, IMAGE, weights="%lo: f32[] = splat -0.2\n%hi: f32[] = splat 3.0"), "no activation"),
    (quantized("%r = Softmax(%a) {axis=0}", "i8[3,8]", "i8[3,8]"), "along axis 0 of 2"),
    (quantized("%r = MaxPool(%a) {kernel_shape=[3, 3], pads=[1, 0, 1, 0]}", IMAGE, "i8[1,4,6,4]"), "not the least value"),
    (quantized("%r = Exp(%a)", "i8[3,8]", "i8[3,8]"), "TFLite has no Exp"),
    (quantized('%r = Resize(%a, _, %by) {mode="linear"}', IMAGE, "i8[1,4,18,18]", weights="%by: f32[4] = dense [1.0, 1.0, 3.0, 3.0]"),
     "2, 4 or 8 times as large"),
])
def test_what_cannot_be_written_is_refused_in_words(graph: Graph, why: str) -> None:
    (group,) = groups(graph)
    assert why in refusal(group, graph.weights)
    with pytest.raises(UnsupportedModel, match=f"{group.anchor.op}.*cannot run on an int8 unit: .*{why}"):
        written(graph)


@pytest.mark.parametrize("name", CASES)
def test_what_can_be_written_is_not_refused(name: str) -> None:
    (group,) = groups(CASES[name])
    assert refusal(group, CASES[name].weights) == ""


@needs_litert
@needs_models
@pytest.mark.parametrize("name", ["mlperf_kws_dscnn_qdq_s8", "mlperf_ic_resnet8_qdq_s8", "mobilenetv2_qdq_s8_nchw"])
def test_whole_models_mean_what_litert_computes(name: str) -> None:
    graph = separate(optimize(read(model(name), static=True), passes="canonicalize,fold,cse"))
    for seed in range(1 if "mobilenet" in name else 20):
        made, other = through(graph, arrays(graph, seed))
        assert np.array_equal(made, other)
