"""Integer convolutions and products: each form alone, exact, between guard pages."""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest

from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.layout import Layout
from edgec.ir.types import Tensor, numpy_dtype
from edgec.isa import Isa, cpu_isa
from edgec.kernels.base import Operands
from edgec.kernels.choice import Choice
from edgec.kernels.emit import emit
from edgec.kernels.plan import packed, plan
from edgec.onnx_saturation import exact
from edgec.target import find
from tests.kernel_harness import A72, AVX2, AVX512, gathered, on, run, scatter

NHWC = Layout((0, 2, 3, 1))


def form(isa: Isa, name: str, *mattr: str, mcpu: str = "") -> Isa:
    """An ISA whose integer kernels are made with another instruction."""
    extra = (("int8_form", name), ("integer_mattr", (*isa.mattr, *mattr)), *((("integer_mcpu", mcpu),) if mcpu else ()))
    return replace(isa, extra=extra)


VNNI = form(AVX512, "vpdpbusd", "+avx512vnni")
MADDUBS = form(AVX2, "vpmaddubsw")
FORMS = {
    "vnni": VNNI, "madd512": form(AVX512, "pmaddwd"), "madd": form(AVX2, "pmaddwd"), "signb": MADDUBS, "portable": AVX2,
    "smlal": form(A72, "smlal"), "sdot": form(A72, "sdot", mcpu="cortex-a76"), "portable-arm": A72,
    "avxvnni": form(AVX2, "vpdpbusd", "+avxvnni"),
}
EACH = [pytest.param(isa, id=name, marks=param.marks) for name, isa in FORMS.items() for param in on(isa.integer)]


def some(cases: Sequence[Any], each: int = 1) -> list[Any]:
    """Cases with forms: every form meets some of them, every case `each` of the forms; the rest of all pairs is slow."""
    made = []
    for i, case in enumerate(cases):
        for j, isa in enumerate(EACH):
            slow = [] if (j - i * each) % len(EACH) < each else [pytest.mark.slow]
            made.append(pytest.param(case, isa.values[0], id=f"{i}-{isa.id}", marks=[*isa.marks, *slow]))
    return made


def tensor(name: str, shape: Sequence[int], dtype: str, layout: Layout | None = None) -> Value:
    return Value(name, Tensor(dtype, tuple(shape), layout))


def numbers(rng: np.random.Generator, value: Value, low: int | None = None) -> Array:
    dtype = numpy_dtype(value.tensor.dtype)
    info = np.iinfo(dtype)
    made = rng.integers(info.min if low is None else low, info.max + 1, value.dims)
    made[rng.random(value.dims) < 0.2] = info.min if low is None else low          # extremes, which overflow first
    return made.astype(dtype)


def check(isa: Isa, nodes: Sequence[Node], inputs: dict[Value, Array], weights: dict[Value, Array]) -> str:
    """Plan and run the nodes as one kernel; the algorithm's name, once it equals the evaluator in every bit."""
    known: dict[Value, Any] = {**inputs, **weights}
    for node in nodes:
        known.update(zip(node.outputs, evaluate_node(node, [None if v is None else known[v] for v in node.inputs]), strict=True))
    output = nodes[-1].outputs[0]
    outer = tuple(dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v in {**inputs, **weights}))
    body = Graph("body", outer, (output,), tuple(nodes))
    node = nodes[0] if len(nodes) == 1 else Node("edgec.Fused", outer, (output,), MappingProxyType({"kind": "test", "body": body}))
    planned = plan(node, isa, replace(Operands.of(weights, lambda v: v.tensor.view), choice=Choice("direct", 0, 0)))
    assert not isinstance(planned, str), planned
    arrays = []
    for i, (arg, value) in enumerate(zip(planned.plan.args, planned.inputs, strict=False)):
        given = {**inputs, **weights}[value]
        arrays.append(packed(planned.plan, i, given) if arg.role == "weight" else scatter(given, value.tensor.layout))
    outcome = run(planned.plan, emit, arrays)
    np.testing.assert_array_equal(gathered(outcome.outputs[0], output.tensor.view), known[output])
    return planned.plan.algo


def requantized(y: Value, out: Value, channels: Sequence[int], rng: np.random.Generator, scale: float,
                residual: Value | None = None) -> tuple[list[Node], dict[Value, Array]]:
    """Bias, Cast, Mul, [Add,] Relu and QuantizeLinear from the sums `y` to the bytes `out`; and their constants."""
    kinds = {"i32": "i32", "f32": "f32"}
    values = {name: tensor(name, y.dims, kinds[kind]) for name, kind in
              {"biased": "i32", "cast": "f32", "scaled": "f32", "added": "f32", "relu": "f32"}.items()}
    bias, m = tensor("bias", channels, "i32"), tensor("m", channels, "f32")
    one, zero = tensor("one", (), "f32"), tensor("zp", (), out.tensor.dtype)
    constants: dict[Value, Array] = {
        bias: rng.integers(-5000, 5000, channels).astype(np.int32), m: (rng.uniform(0.5, 1.5, channels) * scale).astype(np.float32),
        one: np.array(1.0, np.float32), zero: np.array(7, numpy_dtype(out.tensor.dtype))}
    nodes = [Node("Add", (y, bias), (values["biased"],)), Node("Cast", (values["biased"],), (values["cast"],), MappingProxyType({"to": 1})),
             Node("Mul", (values["cast"], m), (values["scaled"],))]
    last = values["scaled"]
    if residual is not None:
        nodes.append(Node("Add", (last, residual), (values["added"],)))
        last = values["added"]
    nodes += [Node("LeakyRelu", (last,), (values["relu"],), MappingProxyType({"alpha": 0.5})),
              Node("QuantizeLinear", (values["relu"], one, zero), (out,))]
    return nodes, constants


def window(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int]) -> int:
    return (size + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1


CONVOLUTIONS: list[dict[str, Any]] = [
    {"x": (1, 32, 9, 30), "m": 64, "k": (3, 3), "pads": (1, 1, 1, 1)},
    {"x": (1, 3, 19, 17), "m": 24, "k": (3, 3), "strides": (2, 2), "pads": (0, 0, 1, 1)},
    {"x": (2, 3, 19, 17), "m": 21, "k": (7, 5), "strides": (2, 3), "pads": (3, 2, 2, 1)},
    {"x": (1, 3, 8, 9), "m": 16, "k": (3, 3), "pads": (1, 1, 1, 1), "lx": 0, "ly": 0},
    {"x": (1, 24, 7, 7), "m": 40, "k": (1, 1)},
    {"x": (1, 16, 1, 1), "m": 10, "k": (1, 1), "lx": 0, "ly": 0},
    {"x": (1, 13, 20, 20), "m": 5, "k": (3, 3), "dilations": (4, 5), "pads": (4, 5, 4, 5)},
    {"x": (2, 18, 5, 6), "m": 36, "k": (3, 3), "group": 3, "pads": (1, 1, 1, 1)},
    {"x": (1, 64, 6, 6), "m": 64, "k": (3, 3), "group": 2, "strides": (2, 2), "pads": (0, 1, 1, 0), "lx": 16, "ly": 16},
    {"x": (1, 1, 200, 1), "m": 16, "k": (22, 1), "strides": (4, 1), "pads": (7, 0, 9, 0), "lx": 0},
    {"x": (1, 14, 30), "m": 6, "k": (3,), "pads": (1, 2), "strides": (1,), "lx": 0, "ly": 0},
    {"x": (1, 8, 3, 3), "m": 8, "k": (3, 3), "pads": (5, 5, 5, 5)},
    {"x": (1, 17, 8, 9), "m": 17, "k": (3, 3), "group": 17, "pads": (1, 1, 1, 1)},
    {"x": (2, 38, 11, 13), "m": 38, "k": (5, 3), "group": 38, "strides": (2, 2), "pads": (2, 1, 1, 1)},
    {"x": (1, 32, 9, 9), "m": 32, "k": (3, 2), "group": 32, "dilations": (2, 3), "pads": (1, 3, 2, 0), "lx": 16, "ly": 16},
    {"x": (1, 11, 20), "m": 11, "k": (5,), "group": 11, "strides": (1,), "pads": (2, 2), "lx": 0, "ly": 0},
]


def layout_of(code: int) -> Layout | None:
    return None if code == 0 else NHWC if code < 0 else Layout((0, 1, 2, 3), ((1, code),))


@pytest.mark.parametrize(("case", "isa"), some(CONVOLUTIONS))
def test_convolution(case: dict[str, Any], isa: Isa) -> None:
    convolution(case, isa, 127)


@pytest.mark.parametrize("isa", on(MADDUBS))
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_of_unsigned_bytes_with_small_weights(case: dict[str, Any], isa: Isa) -> None:
    assert "_maddubs_" in convolution(case, isa, 64)


def convolution(case: dict[str, Any], isa: Isa, most: int) -> str:
    """Run a convolution whose weights lie between -most and most, for data of both signs where channels are few; the algorithm's name."""
    rng, algo = np.random.default_rng(1), ""
    spatial = len(case["k"])
    attrs: dict[str, Any] = {"kernel_shape": list(case["k"]), "group": case.get("group", 1)}
    for name, value in (("strides", (1,) * spatial), ("dilations", (1,) * spatial), ("pads", (0,) * 2 * spatial)):
        attrs[name] = list(case.get(name, value))
    n, c, *size = case["x"]
    out = [window(s, case["k"][i], attrs["strides"][i], attrs["dilations"][i], (attrs["pads"][i], attrs["pads"][i + spatial]))
           for i, s in enumerate(size)]
    data = "i8" if (n + c + case["m"]) % 2 else "u8"
    for dtype, result in ((data, "i8"), ("u8" if data == "i8" else "i8", "u8"))[:2 if c < 4 else 1]:
        x, w = tensor("x", case["x"], dtype, layout_of(case.get("lx", -1))), tensor("w", (case["m"], c // attrs["group"], *case["k"]), "i8")
        zero, shape = tensor("x_zero", (), dtype), (n, case["m"], *out)
        y, z = tensor("y", shape, "i32"), tensor("z", shape, result, layout_of(case.get("ly", -1)))
        residual = tensor("r", shape, "f32", layout_of(case.get("ly", -1))) if c > 8 else None
        reduction = c // attrs["group"] * np.prod(case["k"])
        nodes, constants = requantized(y, z, (case["m"], *[1] * spatial), rng, float(0.01 / np.sqrt(reduction)), residual)
        inputs = {x: numbers(rng, x)}
        if residual is not None:
            inputs[residual] = rng.uniform(-9, 9, shape).astype(np.float32)
        constants[zero] = np.array(-11 if dtype == "i8" else 131, numpy_dtype(dtype))
        weights = {w: numbers(rng, w, -127).clip(-most, most), **constants}
        algo = check(isa, [Node("ConvInteger", (x, w, zero), (y,), MappingProxyType(attrs)), *nodes], inputs, weights)
        assert algo.startswith("depthwise_" if attrs["group"] == c > 1 else "conv_")
    return algo


@pytest.mark.parametrize(("case", "isa"), some([
    ((1, 70), (70, 33), "i8"), ((5, 64), (64, 10), "u8"), ((2, 7, 24), (24, 40), "i8"), ((17, 3), (3, 1), "u8")]))
def test_product(case: tuple[tuple[int, ...], tuple[int, int], str], isa: Isa) -> None:
    rng, (a, b, dtype) = np.random.default_rng(3), case
    x, w, y, z = tensor("x", a, dtype), tensor("w", b, "i8"), tensor("y", (*a[:-1], b[1]), "i32"), tensor("z", (*a[:-1], b[1]), dtype)
    zero = tensor("x_zero", (1,), dtype)
    nodes, constants = requantized(y, z, (b[1],), rng, 0.001)
    inputs = {x: numbers(rng, x), zero: np.array([5], numpy_dtype(dtype))}                # an activation, too, can be a zero point
    algo = check(isa, [Node("MatMulInteger", (x, w, zero), (y,)), *nodes], inputs, {w: numbers(rng, w, -127), **constants})
    assert algo.startswith("gemm_")


@pytest.mark.parametrize("isa", EACH[:1])
def test_no_zero_point_and_bare_sums(isa: Isa) -> None:
    rng = np.random.default_rng(5)
    x, w, y = tensor("x", (1, 20, 6, 7), "i8", NHWC), tensor("w", (9, 20, 3, 3), "i8"), tensor("y", (1, 9, 6, 7), "i32", NHWC)
    attrs = MappingProxyType({"pads": [1, 1, 1, 1]})
    check(isa, [Node("ConvInteger", (x, w), (y,), attrs)], {x: numbers(rng, x)}, {w: numbers(rng, w, -127)})


@pytest.mark.parametrize("isa", on(form(A72, "smlal")))
def test_weights_of_minus_128_are_not_summed_in_16_bits(isa: Isa) -> None:
    x, w, y = tensor("x", (1, 16, 4, 4), "i8", NHWC), tensor("w", (8, 16, 1, 1), "i8"), tensor("y", (1, 8, 4, 4), "i32", NHWC)
    for low, word in ((-127, "smlal"), (-128, "smull")):
        weights = {w: np.full((8, 16, 1, 1), low, np.int8)}
        assert f"_{word}_" in check(isa, [Node("ConvInteger", (x, w), (y,))], {x: np.full(x.dims, -128, np.int8)}, weights)


@pytest.mark.parametrize("isa", on(MADDUBS))
@pytest.mark.parametrize(("pair", "word"), [
    ((64, 64), "maddubs"), ((1, 127), "maddubs"), ((-64, -64), "maddubs"), ((-127, -1), "maddubs"), ((127, -127), "maddubs"),
    ((64, 65), "signb"), ((-64, -65), "signb"), ((127, 127), "signb"), ((0, -128), "maddubs"), ((-1, -128), "madd")])
def test_pairs_of_weights_that_could_saturate_16_bits_meet_no_unsigned_bytes(pair: tuple[int, int], word: str, isa: Isa) -> None:
    """Two channels of a tap are such a pair (the last one may be alone), two rows of a matrix, and two of a depthwise convolution."""
    attrs = MappingProxyType({"kernel_shape": [3, 1], "pads": [1, 0, 1, 0], "group": 1})
    for dtype, pixel in (("u8", 255), ("u8", 0), ("i8", -128), ("i8", 127)):
        x, w, y = tensor("x", (1, 5, 4, 4), dtype, NHWC), tensor("w", (9, 5, 3, 1), "i8"), tensor("y", (1, 9, 4, 4), "i32", NHWC)
        weight = np.zeros(w.dims, np.int8)
        weight[3, 2:4, 1, 0], weight[4, 3, 1, 0], weight[4, 4, 1, 0] = pair, 127, 127         # neighbors, but no pair
        inputs = {x: np.full(x.dims, pixel, numpy_dtype(dtype))}
        assert f"conv_{word}_" in check(isa, [Node("ConvInteger", (x, w), (y,), attrs)], inputs, {w: weight})
        w = tensor("w", (5, 1, 3, 1), "i8")
        z = tensor("z", (1, 5, 4, 4), "i32", NHWC)
        weight = np.zeros(w.dims, np.int8)
        weight[1, 0, 0:2, 0], weight[2, 0, 1:3, 0] = pair, 127
        node = Node("ConvInteger", (x, w), (z,), MappingProxyType({**attrs, "group": 5}))
        assert f"depthwise_{word}_" in check(isa, [node], inputs, {w: weight})
        a, b, c = tensor("a", (3, 5), dtype), tensor("b", (5, 9), "i8"), tensor("c", (3, 9), "i32")
        weight = np.zeros(b.dims, np.int8)
        weight[2:4, 8], weight[3:5, 7] = pair, 127
        given = {a: np.full(a.dims, pixel, numpy_dtype(dtype))}
        assert f"gemm_{word}_" in check(isa, [Node("MatMulInteger", (a, b), (c,))], given, {b: weight})


@pytest.mark.parametrize("isa", on(MADDUBS))
def test_taps_of_three_channels_that_lie_side_by_side_pair_across_taps(isa: Isa) -> None:
    x, w, y = tensor("x", (1, 3, 5, 5), "u8", NHWC), tensor("w", (8, 3, 3, 3), "i8"), tensor("y", (1, 8, 3, 3), "i32", NHWC)
    for pair, word in (((0, 1), "maddubs"), ((2, 3), "signb"), ((3, 4), "maddubs")):
        weight = np.zeros((8, 3, 9), np.int8)
        weight[5, 1, pair] = 127
        stored = (weight // (2 if pair == (0, 1) else 1)).reshape(8, 3, 3, 3).transpose(0, 3, 1, 2)           # from [M, KH, KW, C]
        made = check(isa, [Node("ConvInteger", (x, w), (y,))], {x: np.full(x.dims, 255, np.uint8)}, {w: stored})
        assert f"conv_{word}_" in made


@pytest.mark.parametrize(("change", "reason"), [
    ({"w": "u8"}, "i8 weights on bytes, not for u8 on i8"), ({"x": "i32"}, "i8 weights on bytes, not for i8 on i32"),
    ({"zero": (3,)}, "one zero point for all of its data"), ({"w_zero": 1}, "weights whose zero point is 0")])
def test_what_is_refused(change: dict[str, Any], reason: str) -> None:
    x, w = tensor("x", (1, 3, 4, 4), change.get("x", "i8")), tensor("w", (8, 3, 1, 1), change.get("w", "i8"))
    zero, w_zero = tensor("zero", change.get("zero", ()), "i8"), tensor("w_zero", (), "i8")
    weights = {w: np.zeros(w.dims, numpy_dtype(w.tensor.dtype)), w_zero: np.array(change.get("w_zero", 0), np.int8)}
    node = Node("ConvInteger", (x, w, zero, w_zero), (tensor("y", (1, 8, 4, 4), "i32"),))
    answer = plan(node, VNNI, Operands.of(weights, lambda v: v.tensor.view))
    assert isinstance(answer, str)
    assert reason in answer


@pytest.mark.parametrize(("name", "word"), [
    pytest.param(name, word, marks=on(cpu_isa(find(name)).integer)[0].marks) for name, word in [
        ("zen4", "vnni"), ("alderlake", "vnni"), ("x86-64-v3", "signb"), ("cortex-a72", "smlal"), ("cortex-a53", "smlal"),
        ("cortex-a76", "sdot")]])
def test_onnx_runtime_makes_the_same_of_qlinearconv(name: str, word: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    isa, rng = cpu_isa(find(name)), np.random.default_rng(8)
    x, w, zero = tensor("x", (1, 35, 13, 17), "u8", NHWC), tensor("w", (27, 35, 3, 3), "i8"), tensor("xz", (), "u8")
    y, z = tensor("y", (1, 27, 7, 9), "i32", NHWC), tensor("z", (1, 27, 7, 9), "u8", NHWC)
    attrs: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    scales = np.float32(0.017), rng.uniform(0.002, 0.009, 27).astype(np.float32), np.float32(0.11)
    bias, point = rng.integers(-9000, 9000, 27).astype(np.int32), np.array(118, np.uint8)
    values, weights = numbers(rng, x), numbers(rng, w, -127)
    nodes, constants = requantized(y, z, (27, 1, 1), rng, 1.0)
    nodes = [n for n in nodes if n.op != "LeakyRelu"]
    nodes[-1] = replace(nodes[-1], inputs=(nodes[-2].output, *nodes[-1].inputs[1:]))
    own = {"bias": bias.reshape(27, 1, 1), "m": (scales[0] * scales[1] / scales[2]).reshape(27, 1, 1), "zp": np.array(131, np.uint8)}
    constants = {v: own.get(v.name, a) for v, a in constants.items()}
    algo = check(isa, [Node("ConvInteger", (x, w, zero), (y,), MappingProxyType(attrs)), *nodes], {x: values},
                 {w: weights, zero: point, **constants})
    assert f"conv_{word}" in algo
    known: dict[Value, Any] = {x: values, w: weights, zero: point, **constants}
    for node in (Node("ConvInteger", (x, w, zero), (y,), MappingProxyType(attrs)), *nodes):
        known.update(zip(node.outputs, evaluate_node(node, [known[v] for v in node.inputs if v is not None]), strict=True))
    given = {"x": values, "xs": scales[0], "xz": point, "w": weights, "ws": scales[1], "wz": np.zeros(27, np.int8), "ys": scales[2],
             "yz": own["zp"], "b": bias}
    np.testing.assert_array_equal(_qlinear_conv(onnxruntime, given, attrs), known[z])


def _qlinear_conv(onnxruntime: Any, given: dict[str, Any], attrs: dict[str, Any]) -> Array:
    """What ONNX Runtime makes of a QLinearConv."""
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, given["x"].shape)]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, None)
    weights = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in given.items() if n != "x"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("QLinearConv", list(given), ["y"], **attrs)], "g", inputs, [output], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(exact(model.SerializeToString()), providers=["CPUExecutionProvider"])
    made: Array = session.run(None, {"x": given["x"]})[0]
    return made
