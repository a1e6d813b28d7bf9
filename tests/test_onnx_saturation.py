"""Models without sums of u8 times i8: they mean what they meant, and ONNX Runtime is right about them on a machine without VNNI."""

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgec import onnx_saturation, peers
from edgec.cli import main
from edgec.errors import BadInput
from edgec.ir.evaluate import evaluate
from edgec.onnx import import_model
from edgec.onnx_saturation import exact, saturates, without_saturation
from tests.bundles import bundle, source
from tests.shared import model

KWS = "mlperf_kws_dscnn_qdq_s8"
Arrays = Mapping[str, Any]
Case = tuple[ModelProto, Arrays]
Draw = Callable[[type, tuple[int, ...]], Any]


def node(op: str, inputs: str, into: str = "y", **attrs: Any) -> NodeProto:
    """A node; `-` is an input that is left out, and a dot separates the domain."""
    domain, _, name = op.rpartition(".")
    return helper.make_node(name, ["" if i == "-" else i for i in inputs.split()], [into], domain=domain and f"com.{domain}", **attrs)


def proto(nodes: Sequence[NodeProto], inputs: Arrays, weights: Arrays, out: type, **more: Any) -> ModelProto:
    """A model whose one result is %y."""
    def code(dtype: Any) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    graph = helper.make_graph(list(nodes), "g", [helper.make_tensor_value_info(n, code(a.dtype), a.shape) for n, a in inputs.items()],
                              [helper.make_tensor_value_info("y", code(out), [f"d{i}" for i in range(more.pop("rank", 2))])],
                              [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=[*opsets, *more.pop("opsets", ())], ir_version=8, **more)


def run(given: ModelProto | Path | bytes, feeds: Arrays, *, whole: bool = True) -> Any:
    """What ONNX Runtime makes of a model as it is given."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not whole:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = given.SerializeToString() if isinstance(given, ModelProto) else given
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))[0]


def meaning(given: ModelProto, feeds: Arrays) -> Any:
    """What the standard says."""
    results: Any = ReferenceEvaluator(given).run(None, dict(feeds))
    return results[0]


def largest(dtype: type, shape: tuple[int, ...]) -> Any:
    return np.full(shape, np.iinfo(dtype).max, dtype)


def ends(dtype: type, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(1).choice([np.iinfo(dtype).min, np.iinfo(dtype).max], shape).astype(dtype)


def anything(dtype: type, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(2).integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)


def scales(per_channel: int, positive: int = 7) -> Any:
    """Powers of two, by which f32 multiplies without rounding."""
    return 2.0 ** -np.random.default_rng(3).integers(5, 8, per_channel).astype(np.float32) if per_channel else np.float32(2.0**-positive)


def quantization(x: type, channels: int) -> dict[str, Any]:
    """Scales and zero points of x, w, y; w has one for each channel unless `channels` is 0."""
    s = scales(channels)
    return {"xs": np.float32(2.0**-6), "xz": np.array(7, x), "ws": s, "wz": np.zeros(np.shape(s), np.int8), "ys": np.float32(8),
            "yz": np.array(100 if x is np.uint8 else -20, x)}


def convolution(op: str, x: type, group: int, draw: Draw, channels: int) -> Case:
    out, into, size = (24, 16, 3) if group == 1 else (16, 16, 3)
    image, w = draw(x, (2, into, 7, 6)), draw(np.int8, (out, into // group, size, size))
    known: dict[str, Any] = {**quantization(x, out if channels else 0), "w": w}
    attrs: dict[str, Any] = {"kernel_shape": [size, size], "pads": [1, 1, 0, 1], "group": group}
    if op == "QLinearConv":
        return proto([node(op, "x xs xz w ws wz ys yz", **attrs)], {"x": image}, known, x, rank=4), {"x": image}
    if op == "ConvInteger":
        known = {"w": (w.view(np.uint8) ^ 128) if x is np.int8 else w, "xz": known["xz"]}
        return proto([node(op, "x w xz", **attrs)], {"x": image}, known, np.int32, rank=4), {"x": image}
    nodes = [node("DequantizeLinear", "x xs xz", "a"), node("DequantizeLinear", "w ws wz", "b", axis=0), node("Conv", "a b", "c", **attrs),
             node("QuantizeLinear", "c ys yz")]
    return proto(nodes, {"x": image}, known, x, rank=4), {"x": image}


@pytest.mark.parametrize("draw", [largest, ends, anything])
@pytest.mark.parametrize("channels", [0, 1])
@pytest.mark.parametrize("group", [1, 4, 16])
@pytest.mark.parametrize(("op", "x"), [("QLinearConv", np.uint8), ("Conv", np.uint8), ("Conv", np.int8), ("ConvInteger", np.int8)])
def test_convolutions(op: str, x: type, group: int, channels: int, draw: Draw) -> None:
    check(*convolution(op, x, group, draw, channels))


PRODUCTS: Mapping[str, tuple[str, ...]] = {
    "QLinearMatMul": ("QLinearMatMul x xs xz w ws wz ys yz",), "MatMulInteger": ("MatMulInteger x w xz",),
    "MatMulInteger with a zero point": ("MatMulInteger x w xz wz",),
    "dequantized": ("DequantizeLinear x xs xz -> a", "DequantizeLinear w ws wz -> b", "MatMul a b -> c", "QuantizeLinear c ys yz"),
    "without a zero point": ("DequantizeLinear x xs xz -> a", "DequantizeLinear w ws -> b", "MatMul a b -> c", "QuantizeLinear c ys yz"),
    "Gemm": ("DequantizeLinear x xs xz -> a", "DequantizeLinear w ws wz -> b", "Gemm a b -> c", "QuantizeLinear c ys yz"),
    "results in f32": ("DequantizeLinear x xs xz -> a", "DequantizeLinear w ws wz -> b", "MatMul a b"),
    "transposed behind": ("DequantizeLinear x xs xz -> a", "DequantizeLinear w ws0 wz0 -> d", "Transpose d -> t", "Transpose t -> b",
                          "MatMul a b -> c", "QuantizeLinear c ys yz"),
    "transposed before": ("DequantizeLinear x xs xz -> a", "Transpose w -> t", "Transpose t -> u", "DequantizeLinear u ws wz -> b",
                          "MatMul a b -> c", "QuantizeLinear c ys yz"),
    "quantized in the graph": ("DequantizeLinear x xs xz -> a", "QuantizeLinear f ws wz -> q", "DequantizeLinear q ws wz -> b",
                               "MatMul a b -> c", "QuantizeLinear c ys yz"),
    "another tensor": ("DequantizeLinear x xs xz -> a", "DequantizeLinear v ws0 wz0 -> b", "MatMul a b -> c", "QuantizeLinear c ys yz"),
    "another tensor, moved": ("Identity v -> u", "QLinearMatMul x xs xz u ws0 wz0 ys yz"),
    "QGemm": ("microsoft.QGemm x xs xz w ws wz - ys yz",), "MatMulIntegerToFloat": ("microsoft.MatMulIntegerToFloat x w xs ws xz",),
    "DynamicQuantizeMatMul": ("microsoft.DynamicQuantizeMatMul g w ws",)}


@pytest.mark.parametrize("draw", [largest, ends, anything])
@pytest.mark.parametrize("channels", [0, 17])
@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("form", PRODUCTS)
def test_products(form: str, rows: int, channels: int, draw: Draw) -> None:
    x, w = draw(np.uint8, (rows, 64)), draw(np.int8, (64, 17))
    reals = x.astype(np.float32)
    reals[0, :2] = 0, 255                                                  # so that its scale is one
    known = {**quantization(np.uint8, channels), "w": w, "ws0": np.float32(2.0**-7), "wz0": np.int8(0)}
    nodes = []
    for text in PRODUCTS[form]:
        what, _, into = text.partition(" -> ")
        op, _, inputs = what.partition(" ")
        attrs: dict[str, Any] = {"axis": 1} if op == "DequantizeLinear" else {}
        nodes.append(node(op, inputs, into or "y", **attrs))
    fed: dict[str, Any] = {"x": x, "v": w, "g": reals}
    read = {i for n in nodes for i in n.input}
    known["f"] = w * known["ws"]
    real = form in ("results in f32", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
    out = np.float32 if real else np.int32 if form.startswith("MatMulInteger") else np.uint8
    feeds = {n: a for n, a in fed.items() if n in read}
    check(proto(nodes, feeds, {n: a for n, a in known.items() if n in read}, out), feeds)


def check(given: ModelProto, feeds: Arrays) -> None:
    """The changed model means the same, ONNX Runtime says so with and without its optimizations, and the given one stays as it was."""
    before = given.SerializeToString()
    made = without_saturation(given)
    assert made is not given
    assert given.SerializeToString() == before
    onnx.checker.check_model(made)
    assert without_saturation(made) is made
    if any(n.domain for n in given.graph.node):
        wanted = evaluate(import_model(given), feeds)["y"]
    else:
        wanted, same = (meaning(m, feeds) for m in (given, made))
        assert np.array_equal(same, wanted)
    for whole in (True, False):
        y = run(made, feeds, whole=whole)
        assert y.dtype == wanted.dtype
        assert np.array_equal(y, wanted)


@pytest.mark.skipif(not saturates(), reason="this machine has VNNI")
@pytest.mark.parametrize("given", [convolution("QLinearConv", np.uint8, 1, largest, 0), convolution("Conv", np.uint8, 4, largest, 1),
                                   convolution("ConvInteger", np.int8, 1, largest, 0)], ids=["QLinearConv", "Conv", "ConvInteger"])
def test_without_the_change_it_would_be_wrong_here(given: Case) -> None:
    wanted = meaning(*given)
    assert not np.array_equal(run(*given), wanted)


def listing(graph: onnx.GraphProto) -> list[str]:
    """A line for each node, and one for each stored weight."""
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return [*(f"{','.join(n.output)} = {n.op_type}({', '.join(n.input)})" for n in graph.node),
            *(f"{n}: {a.dtype}{list(a.shape)} = {a.ravel()[:3].tolist()}" for n, a in stored.items())]


def test_what_becomes_of_stored_and_of_computed_weights() -> None:
    weights = {"w": np.array([[-128, 127], [0, 5]], np.int8), "wz": np.int8(1), "s": np.float32(1), "z": np.uint8(0), "w_u8": np.uint8(0)}
    nodes = [node("QLinearMatMul", "x s z w s wz s z", "a"), node("QLinearMatMul", "a s z w s wz s w_u8", "b"),
             node("MatMulInteger", "b v", "y")]
    given = proto(nodes, {"x": np.zeros((3, 2), np.uint8), "v": np.zeros((2, 2), np.int8)}, weights, np.int32)
    assert listing(without_saturation(given).graph) == [
        "a = QLinearMatMul(x, s, z, w_u8_0, s, wz_u8, s, z)", "b = QLinearMatMul(a, s, z, w_u8_0, s, wz_u8, s, w_u8)",
        "v_i32 = Cast(v)", "v_moved = Add(v_i32, v_offset)", "v_u8 = Cast(v_moved)", "y = MatMulInteger(b, v_u8, , v_zero)",
        "s: float32[] = [1.0]", "z: uint8[] = [0]", "w_u8: uint8[] = [0]", "wz_u8: uint8[] = [129]", "w_u8_0: uint8[2, 2] = [0, 255, 128]",
        "v_zero: uint8[] = [128]", "v_offset: int32[] = [128]"]


def unchanged(x: type, w: type, op: str = "QLinearMatMul") -> ModelProto:
    known = {"w": ends(w, (4, 3)), "s": np.float32(1), "z": np.zeros((), x), "wz": np.zeros((), w)}
    return proto([node(op, "x s z w s wz s z")], {"x": ends(x, (2, 4))}, known, x)


@pytest.mark.parametrize("given", [
    unchanged(np.int8, np.int8), unchanged(np.uint8, np.uint8), convolution("ConvInteger", np.uint8, 1, ends, 0)[0],
    proto([node("MatMul", "x w")], {"x": np.zeros((1, 2), np.float32)}, {"w": np.zeros((2, 2), np.float32)}, np.float32),
    proto([node("DequantizeLinear", "w s", "t"), node("Gather", "t x")], {"x": np.zeros((1, 2), np.int64)},
          {"w": np.zeros((5, 2), np.int8), "s": np.float32(1)}, np.float32, rank=3),
], ids=["i8 beside i8", "u8 beside u8", "ConvInteger of u8", "reals", "a table"])
def test_other_models_are_the_same_object(given: ModelProto) -> None:
    assert without_saturation(given) is given


def branches() -> Case:
    """A product in either branch of an If, with weights of the graph around it and with its own, which have one name."""
    w, feeds = ends(np.int8, (64, 5)), {"x": largest(np.uint8, (2, 64)), "c": np.ones((), bool)}

    def branch(factor: str, *own: Any) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(f"r_{factor}", 6, [2, 5])
        return helper.make_graph([node("MatMulInteger", f"x {factor}", f"r_{factor}")], factor, [], [result],
                                 [numpy_helper.from_array(a, "own") for a in own])

    bodies = {"then_branch": branch("w"), "else_branch": branch("own", w[:, ::-1].copy())}
    return proto([node("If", "c", **bodies)], feeds, {"w": w}, np.int32), feeds


def function() -> Case:
    """The same in a function of the model's own."""
    made = helper.make_function("own", "Product", ["a", "b"], ["r"], [node("MatMulInteger", "a b", "r")], [helper.make_opsetid("", 20)])
    feeds = {"x": largest(np.uint8, (2, 64))}
    nodes = [helper.make_node("Product", ["x", "w"], ["y"], domain="own")]
    return proto(nodes, feeds, {"w": ends(np.int8, (64, 5))}, np.int32, functions=[made], opsets=[helper.make_opsetid("own", 1)]), feeds


@pytest.mark.parametrize(("make", "feeds"), [(branches, {}), (branches, {"c": np.zeros((), bool)}), (function, {})],
                         ids=["then", "else", "function"])
def test_bodies_and_functions(make: Callable[[], Case], feeds: Arrays) -> None:
    given, known = make()
    before, both = given.SerializeToString(), {**known, **feeds}
    made = without_saturation(given)
    assert given.SerializeToString() == before
    wanted = meaning(given, both)
    assert np.array_equal(meaning(made, both), wanted)
    assert np.array_equal(run(made, both), wanted)


@pytest.fixture
def saturating(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without VNNI, whatever this one is."""
    monkeypatch.setattr(onnx_saturation, "saturates", lambda: True)


def outside(folder: Path) -> tuple[Path, Case]:
    """A file whose weights are in another one."""
    given, feeds = convolution("QLinearConv", np.uint8, 1, largest, 1)
    copy = ModelProto()
    copy.CopyFrom(given)
    onnx.save(copy, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return folder / "m.onnx", (given, feeds)


@pytest.mark.usefixtures("saturating")
def test_weights_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, (given, feeds) = outside(tmp_path)
    made = exact(path)
    assert isinstance(made, bytes)
    assert np.array_equal(run(made, feeds), meaning(given, feeds))
    with pytest.raises(BadInput, match="the elements of 'wz' are in another file"):
        without_saturation(onnx.load(path, load_external_data=False))
    monkeypatch.setattr(onnx_saturation, "_MOST_BYTES", path.stat().st_size + 24 * 16 * 9)
    assert exact(path) is path                                             # what is added to the model's own bytes is too much
    monkeypatch.setattr(onnx_saturation, "_MOST_BYTES", given.ByteSize() - 1)
    assert without_saturation(given) is given


@pytest.mark.usefixtures("saturating")
def test_what_is_no_model_and_what_has_no_types(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(BadInput, match="is no ONNX model"):
        exact(tmp_path / "m.onnx")
    given = unchanged(np.uint8, np.int8)
    del given.opset_import[:]
    with pytest.raises(BadInput, match="onnx cannot tell the types"):
        exact(given.SerializeToString())


@pytest.mark.parametrize(("machine", "flags", "expected"), [
    ("x86_64", "avx2", True), ("AMD64", None, True), ("x86_64", "avx2 avx512f", True), ("x86_64", "avx2 avx_vnni", False),
    ("x86_64", "avx512f avx512_vnni", False), ("aarch64", "asimd", False)])
def test_machines(machine: str, flags: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags} clzero\n")
    assert saturates(tmp_path / "cpuinfo") is expected


def test_where_nothing_saturates_a_model_is_given_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_saturation, "saturates", lambda: False)
    given = convolution("QLinearConv", np.uint8, 1, largest, 1)[0].SerializeToString()
    assert exact(given) is given


@pytest.mark.usefixtures("saturating")
def test_verify_says_that_the_reference_was_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(bundle(KWS).path), "--model", str(model(KWS))]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(", weights in u8, because its sums of u8 times i8 saturate on this machine")
    assert main(["verify", str(bundle("digits_cnn").path), "--model", str(source("digits_cnn"))]) == 0
    assert "saturate" not in capsys.readouterr().out


@pytest.mark.usefixtures("saturating")
def test_who_is_timed_gets_the_model_as_it_is() -> None:
    given, feeds = convolution("QLinearConv", np.uint8, 1, largest, 1)
    data = given.SerializeToString()
    timed, right = peers.load("onnxruntime", data), peers.reference(data)
    assert timed.remark == "whose sums of u8 times i8 saturate on this machine"
    assert right.remark == "weights in u8, because its sums of u8 times i8 saturate on this machine"
    assert np.array_equal(right.run(feeds)["y"], meaning(given, feeds))
    assert np.array_equal(timed.run(feeds)["y"], run(given, feeds))
    reals = source("digits_cnn")
    assert peers.load("onnxruntime", reals).remark == peers.reference(reals).remark == ""
