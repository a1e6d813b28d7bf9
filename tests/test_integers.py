"""Quantized operators in integers: bit for bit what ONNX Runtime computes, whatever form a model writes them in, and without reals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from edgec.access import module
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.ir.verify import verify
from edgec.onnx import import_model
from edgec.onnx_saturation import exact
from edgec.pipeline import Context, run_passes
from edgec.target import Target, find, from_text
from tests.shared import model
from tests.small import catalog, graph, ops

draft = module("passes.changes.integer_draft")
TYPES = {"f32": 1, "u8": 2, "i8": 3, "i32": 6, "i64": 7}
NUMPY = {"u8": np.uint8, "i8": np.int8}
UNSIGNED = from_text('target t : cortex-a72 "one that multiplies u8 with i8" {\n unit cpu cpu { int8_form = "vpdpbusd" }\n}')
NO_REALS = from_text('target t : cortex-a72 "one without reals" {\n unit cpu cpu { fpu = false }\n}')
A72 = find("cortex-a72")
Arrays = Mapping[str, Any]


def proto(nodes: Sequence[onnx.NodeProto], inputs: Arrays, weights: Arrays, output: tuple[str, Sequence[int | str]]) -> onnx.ModelProto:
    """A model whose one result is %y."""
    names = {np.dtype(v): TYPES[k] for k, v in {**NUMPY, "f32": np.float32, "i32": np.int32, "i64": np.int64}.items()}
    made = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info(n, names[a.dtype], a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info("y", TYPES[output[0]], output[1])], [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def reference(given: onnx.ModelProto, feeds: Arrays) -> Any:
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(exact(given.SerializeToString()), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))[0]


def integers(given: Graph, target: Target = A72, context: Context | None = None) -> Graph:
    """The graph behind the passes that come before and the pass itself."""
    made = run_passes(given, f"{catalog.PORTABLE},integers,canonicalize", catalog.CATALOG, context or Context(target))
    assert verify(made) == []
    return made


def whole(random: np.random.Generator, dtype: str, *shape: int) -> Any:
    limits = np.iinfo(NUMPY[dtype])
    return random.integers(limits.min, limits.max + 1, shape).astype(NUMPY[dtype])


CONVS: tuple[tuple[str, int, int, int, dict[str, Any], bool], ...] = (
    ("u8", 5, 7, 1, {"pads": [1, 1, 1, 1]}, True), ("i8", 8, 16, 1, {"pads": [0, 1, 2, 1], "strides": [2, 1]}, True),
    ("i8", 6, 6, 6, {"pads": [1, 1, 1, 1]}, True), ("u8", 8, 8, 2, {"dilations": [2, 2]}, True), ("i8", 4, 3, 1, {}, False))


@pytest.mark.parametrize("target", [A72, UNSIGNED], ids=["signed", "unsigned"])
@pytest.mark.parametrize(("dtype", "channels", "out", "groups", "attrs", "per_channel"), CONVS)
def test_convolutions_are_those_of_onnx_runtime(dtype: str, channels: int, out: int, groups: int, attrs: dict[str, Any], per_channel: bool,  # noqa: FBT001
                                                target: Target) -> None:
    random = np.random.default_rng(channels * out + groups)
    x = whole(random, dtype, 2, channels, 9, 8)
    w = random.integers(-127, 128, (out, channels // groups, 3, 3)).astype(np.int8)
    scales = random.uniform(0.001, 0.02, out if per_channel else ()).astype(np.float32)
    zero = np.array(random.integers(-20, 20) + (128 if dtype == "u8" else 0), NUMPY[dtype])
    weights = {"xs": np.array(0.037, np.float32), "xz": zero, "w": w, "ws": scales, "wz": np.zeros(scales.shape, np.int8),
               "ys": np.array(0.31, np.float32), "yz": zero, "b": random.integers(-5000, 5000, out).astype(np.int32)}
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    node = helper.make_node("QLinearConv", inputs, ["y"], group=groups, kernel_shape=[3, 3], **attrs)
    given = proto([node], {"x": x}, weights, (dtype, [2, out, "h", "w"]))
    graph_ = import_model(given)
    made = integers(graph_, target)
    assert "ConvInteger" in ops(made).split()
    assert "Conv" not in ops(made).split()
    wanted = reference(given, {"x": x})
    assert wanted.std() > 20
    assert np.array_equal(evaluate(made, {"x": x})["y"], wanted)
    assert np.array_equal(reference(made.to_onnx(), {"x": x}), wanted)


@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_products_are_those_of_onnx_runtime(dtype: str) -> None:
    random = np.random.default_rng(3)
    a, zero = whole(random, dtype, 5, 24), np.array(7, NUMPY[dtype])
    weights = {"s": np.array(0.05, np.float32), "z": zero, "b": random.integers(-127, 128, (24, 10)).astype(np.int8),
               "bs": random.uniform(0.001, 0.02, 10).astype(np.float32), "bz": np.zeros(10, np.int8), "ys": np.array(0.21, np.float32)}
    node = helper.make_node("QLinearMatMul", ["x", "s", "z", "b", "bs", "bz", "ys", "z"], ["y"])
    given = proto([node], {"x": a}, weights, (dtype, [5, 10]))
    made = integers(import_model(given))
    assert ops(made) == "MatMulInteger Cast Mul QuantizeLinear"
    assert np.array_equal(evaluate(made, {"x": a})["y"], reference(given, {"x": a}))


BORDERS = ("%s: f32[] = splat 0.05", "%z: i8[] = splat 3", "%t: f32[] = splat 0.0217", "%m: i8[] = splat -20")


def unary(statement: str, *weights: str, shape: str = "[2,3,5,6]", out: str = "[2,3,5,6]", same: bool = False) -> Graph:
    """An operator between two borders, whose scales differ unless they are the same."""
    return graph(f"%x: i8{shape}", *BORDERS, *weights, f"%d: f32{shape} = DequantizeLinear(%x, %s, %z)", f"%r: f32{out} = {statement}",
                 f"%y: i8{out} = QuantizeLinear(%r, {'%s, %z' if same else '%t, %m'})")


UNARY = {
    "Sigmoid(%d)": "edgec.Lookup", "HardSwish(%d)": "edgec.Lookup", "Tanh(%d)": "edgec.Lookup", "Relu(%d)": "edgec.Lookup",
    "LeakyRelu(%d) {alpha=0.1}": "edgec.Lookup", "Gelu(%d)": "edgec.Lookup",
    "MaxPool(%d) {kernel_shape=[3, 3], pads=[1, 1, 1, 1]}": "MaxPool",
    "AveragePool(%d) {kernel_shape=[3, 3], pads=[1, 1, 1, 1]}": "edgec.SumPool",
    "AveragePool(%d) {kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1}": "edgec.SumPool"}


@pytest.mark.parametrize("target", [A72, UNSIGNED, NO_REALS], ids=["signed", "unsigned", "without reals"])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(("statement", "op"), UNARY.items())
def test_single_operators(statement: str, op: str, same: bool, target: Target) -> None:  # noqa: FBT001
    given = unary(statement, same=same)
    made = integers(given, target)
    wanted = op if not (same and op == "edgec.Lookup" and statement.startswith("Relu")) else "Clip"
    assert wanted in ops(made).split()
    random = np.random.default_rng(0)
    worst, different, spread = 0, 0.0, 0.0
    for _ in range(3):
        x = whole(random, "i8", 2, 3, 5, 6)
        y, plain = evaluate(made, {"x": x})["y"].astype(int), evaluate(given, {"x": x})["y"].astype(int)
        worst, different, spread = max(worst, int(np.abs(y - plain).max())), different + float((y != plain).mean()), float(plain.std())
    assert spread > 5
    assert worst <= 1
    assert different <= (0.3 if op == "edgec.SumPool" else 0.03)      # means of four bytes often lie in the middle between two
    assert np.abs(reference(made.to_onnx(), {"x": x}).astype(int) - y).max() == 0


@pytest.mark.parametrize(("statement", "weights", "shape", "out"), [
    ("Pad(%d, %p)", ("%p: i64[8] = dense [0, 0, 1, 2, 0, 0, 0, 1]",), "[2,3,5,6]", "[2,3,6,9]"),
    ("Pad(%d, %p, %f)", ("%p: i64[8] = dense [0, 0, 1, 2, 0, 0, 0, 1]", "%f: f32[] = splat 1.0"), "[2,3,5,6]", "[2,3,6,9]"),
    ("Transpose(%d) {perm=[0, 2, 3, 1]}", (), "[2,3,5,6]", "[2,5,6,3]"),
    ("Reshape(%d, %p)", ("%p: i64[2] = dense [2, -1]",), "[2,3,5,6]", "[2,90]"),
    ("Slice(%d, %b, %e, %a)", ("%b: i64[1] = splat 1", "%e: i64[1] = splat 3", "%a: i64[1] = splat 2"), "[2,3,5,6]", "[2,3,2,6]"),
    ("Resize(%d, _, %k)", ("%k: f32[4] = dense [1.0, 1.0, 2.0, 2.0]",), "[2,3,5,6]", "[2,3,10,12]"),
    ("Concat(%d, %d) {axis=1}", (), "[2,3,5,6]", "[2,6,5,6]"),
])
@pytest.mark.parametrize("same", [True, False])
def test_moves_move_bytes(statement: str, weights: Sequence[str], shape: str, out: str, same: bool) -> None:  # noqa: FBT001
    given = unary(statement, *weights, shape=shape, out=out, same=same)
    made = integers(given)
    assert ("DequantizeLinear" in ops(made).split()) == (not same)
    mover = next(n for n in made.nodes if n.op == statement.split("(", maxsplit=1)[0])
    assert mover.output.tensor.dtype == "i8"
    x = whole(np.random.default_rng(0), "i8", 2, 3, 5, 6)
    assert np.array_equal(evaluate(made, {"x": x})["y"], evaluate(given, {"x": x})["y"])


def test_sums_stay_between_their_borders() -> None:
    made = integers(unary("Add(%d, %d)"))
    assert ops(made) == "DequantizeLinear Add QuantizeLinear"


def test_a_function_with_a_number_for_each_channel_is_no_table() -> None:
    given = unary("PRelu(%d, %k)", "%k: f32[3,1,1] = dense [0.1, 0.2, 0.3]")
    assert "edgec.Lookup" not in ops(integers(given))
    assert "edgec.Lookup" in ops(integers(unary("PRelu(%d, %k)", "%k: f32[] = splat 0.1")))


@pytest.mark.parametrize("zero", [100, 128])
@pytest.mark.parametrize("groups", [1, 4])
def test_weights_around_another_zero(zero: int, groups: int) -> None:
    """Such as TensorFlow's quantization-aware training makes: u8, one zero for all."""
    random = np.random.default_rng(zero + groups)
    x, w = whole(random, "u8", 1, 4, 6, 6), random.integers(0, 256, (4, 4 // groups, 3, 3)).astype(np.uint8)
    weights = {"xs": np.array(0.04, np.float32), "xz": np.array(120, np.uint8), "w": w, "ws": np.array(0.01, np.float32),
               "wz": np.array(zero, np.uint8), "ys": np.array(0.2, np.float32), "yz": np.array(130, np.uint8)}
    node = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"], group=groups, pads=[1, 1, 1, 1])
    given = proto([node], {"x": x}, weights, ("u8", [1, 4, 6, 6]))
    made = integers(import_model(given))
    assert all(a.dtype != np.uint8 or a.ndim == 0 for a in made.weights.values())
    assert np.array_equal(evaluate(made, {"x": x})["y"], reference(given, {"x": x}))


def test_a_unit_without_reals_computes_with_integers_alone() -> None:
    random = np.random.default_rng(0)
    x, w = whole(random, "i8", 1, 4, 6, 6), random.integers(-127, 128, (8, 4, 3, 3)).astype(np.int8)
    weights = {"xs": np.array(0.04, np.float32), "xz": np.array(3, np.int8), "w": w,
               "ws": random.uniform(0.005, 0.02, 8).astype(np.float32),
               "wz": np.zeros(8, np.int8), "ys": np.array(0.5, np.float32), "yz": np.array(-5, np.int8)}
    node = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])
    given = proto([node], {"x": x}, weights, ("i8", [1, 8, 4, 4]))
    made = integers(import_model(given), NO_REALS)
    assert not [v for n in made.nodes for v in (*n.inputs, *n.outputs) if v is not None and v.tensor.dtype.startswith("f")]
    y, wanted = evaluate(made, {"x": x})["y"], reference(given, {"x": x})
    assert wanted.std() > 20
    assert np.abs(y.astype(int) - wanted.astype(int)).max() <= 1
    assert np.array_equal(reference(made.to_onnx(), {"x": x}), y)


@pytest.mark.parametrize("statement", ["Add(%d, %e)", "Sub(%d, %e)", "Mul(%d, %e)", "Add(%d, %e)|Relu"])
def test_sums_and_products_without_reals(statement: str) -> None:
    op, _, behind = statement.partition("|")
    given = graph("%x: i8[1,3,5,6], %u: i8[1,1,5,6]", *BORDERS, "%v: f32[] = splat 0.031", "%k: f32[] = splat 0.09",
                  "%d: f32[1,3,5,6] = DequantizeLinear(%x, %s, %z)", "%e: f32[1,1,5,6] = DequantizeLinear(%u, %v, %m)",
                  f"%a: f32[1,3,5,6] = {op}", *(["%r: f32[1,3,5,6] = Relu(%a)"] if behind else []),
                  f"%y: i8[1,3,5,6] = QuantizeLinear(%{'r' if behind else 'a'}, %k, %m)")
    made = integers(given, NO_REALS)
    assert not [v for n in made.nodes for v in (*n.inputs, *n.outputs) if v is not None and v.tensor.dtype.startswith("f")]
    assert "Add" in ops(integers(given)).split() or "Sub" in ops(integers(given)).split() or "Mul" in ops(integers(given)).split()
    feeds = {"x": whole(np.random.default_rng(0), "i8", 1, 3, 5, 6), "u": whole(np.random.default_rng(1), "i8", 1, 1, 5, 6)}
    y, wanted = evaluate(made, feeds)["y"].astype(int), evaluate(given, feeds)["y"].astype(int)
    assert np.abs(y - wanted).max() <= 1
    assert (y != wanted).mean() < 0.03
    assert wanted.std() > 10


@pytest.mark.parametrize("count", [3, 12, 1000])
def test_softmax_without_reals(count: int) -> None:
    given = graph(f"%x: i8[2,{count}]", *BORDERS, "%k: f32[] = splat 0.00390625", "%n: i8[] = splat -128",
                  f"%d: f32[2,{count}] = DequantizeLinear(%x, %s, %z)", f"%r: f32[2,{count}] = Softmax(%d) {{axis=-1}}",
                  f"%y: i8[2,{count}] = QuantizeLinear(%r, %k, %n)")
    made = integers(given, NO_REALS)
    assert not [v for n in made.nodes for v in (*n.inputs, *n.outputs) if v is not None and v.tensor.dtype.startswith("f")]
    for seed in range(3):
        x = (whole(np.random.default_rng(seed), "i8", 2, count) // (1 if count < 100 else 2)).astype(np.int8)
        y, wanted = evaluate(made, {"x": x})["y"].astype(int), evaluate(given, {"x": x})["y"].astype(int)
        assert np.abs(y - wanted).max() <= 1
        assert (y != wanted).mean() < 0.1


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.75, 1 / 3, 1e-5, 1e-12, 3.7, 2.0**-31, 1 - 2.0**-33])
def test_fixed_point_factors(factor: float) -> None:
    multiplier, shift = draft.fixed_point(np.array(factor))
    assert 1 <= shift <= 62
    assert abs(int(multiplier) / 2.0 ** int(shift) - factor) <= max(factor * 2.0**-30, 2.0**-60)


def test_models_without_reals() -> None:
    """Nothing but integers between the borders of the model."""
    path = model("mlperf_kws_dscnn_qdq_s8")
    given = import_model(path, static=True)
    made = integers(given, NO_REALS)
    assert not [v for n in made.nodes for v in (*n.inputs, *n.outputs) if v is not None and v.tensor.dtype.startswith("f")]
    for seed in range(4):
        x = (whole(np.random.default_rng(seed), "i8", 1, 49, 10, 1) // 2).astype(np.int8)
        y, wanted = (next(iter(evaluate(g, {"input_1": x}).values())).astype(int) for g in (made, given))
        assert np.abs(y - wanted).max() <= 8
        assert y.argmax() == wanted.argmax()


def test_a_gate_keeps_changes_away() -> None:
    given = unary("Sigmoid(%d)")
    assert "edgec.Lookup" not in ops(integers(given, context=Context(A72, frozenset({"look-up"}))))
    context = Context(UNSIGNED, limit=0)
    assert run_passes(given, "integers", catalog.CATALOG, context) is given


def test_inputs_are_turned_round_where_u8_is_multiplied() -> None:
    given = graph("%x: i8[2,4]", *BORDERS, "%w: i8[4,3] = splat 5", "%d: f32[2,4] = DequantizeLinear(%x, %s, %z)",
                  "%wd: f32[4,3] = DequantizeLinear(%w, %t)", "%p: f32[2,3] = MatMul(%d, %wd)", "%q: i8[2,3] = QuantizeLinear(%p, %t, %m)",
                  "%e: f32[2,3] = DequantizeLinear(%q, %t, %m)", "%a: f32[2,3] = Add(%e, %e)", "%y: i8[2,3] = QuantizeLinear(%a, %s, %z)")
    made = integers(given, UNSIGNED)
    assert ops(made).startswith("Cast BitwiseXor MatMulInteger Cast Mul QuantizeLinear DequantizeLinear")
    between = next(n.output for n in made.nodes if n.op == "QuantizeLinear")
    assert (between.tensor.dtype, made.outputs[0].tensor.dtype) == ("u8", "i8")
    for seed in range(3):
        x = whole(np.random.default_rng(seed), "i8", 2, 4)
        assert np.array_equal(evaluate(made, {"x": x})["y"], evaluate(integers(given), {"x": x})["y"])


@pytest.mark.parametrize("target", [A72, UNSIGNED], ids=["signed", "unsigned"])
@pytest.mark.parametrize("name", ["mlperf_kws_dscnn_qdq_s8", "mlperf_ic_resnet8_qdq_s8"])
def test_models_compute_with_integers(name: str, target: Target) -> None:
    path = model(name)
    given = import_model(path, static=True)
    made = integers(given, target)
    assert not {"Conv", "Gemm", "MatMul"} & set(ops(made).split())
    random, agree = np.random.default_rng(0), 0
    session = onnxruntime.InferenceSession(exact(path.read_bytes()), providers=["CPUExecutionProvider"])
    (port,) = given.inputs
    for _ in range(10):
        rows = random.integers(-128, 128, (*port.dims[:2], 1, *port.dims[3:])) // 2 + random.integers(-60, 60, port.dims)
        x = np.clip(rows, -128, 127).astype(np.int8)
        y, wanted = next(iter(evaluate(made, {port.name: x}).values())), session.run(None, {port.name: x})[0]
        assert np.abs(y.astype(int) - wanted.astype(int)).max() <= 6           # ONNX Runtime computes a part of it in f32
        agree += int(y.argmax() == wanted.argmax())
    assert agree >= 9
