"""Quantized models as bundles: bit for bit what ONNX Runtime computes with integers, here and under the emulator of a Cortex-A72."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import edgec
from edgec.build import build
from edgec.bundle import Bundle
from edgec.cli import main
from edgec.errors import BadInput
from edgec.ir.graph import Array
from edgec.onnx import import_model
from edgec.onnx_saturation import exact
from edgec.verify import integer_form, per_kernel, reference
from tests.bundles import ROOT, bundle
from tests.exact import dequantized, load, quantized
from tests.shared import SHARED, model

KWS, RESNET, MOBILENET = "mlperf_kws_dscnn_qdq_s8", "mlperf_ic_resnet8_qdq_s8", "mobilenetv2_qdq_s8_nchw"
EMULATED = pytest.mark.device("qemu-aarch64")
TARGETS = ["host", pytest.param("cortex-a72", marks=EMULATED)]


def smooth(dims: tuple[int, ...], seed: int) -> Array:
    """An image in i8 with large areas of one color, as photographs have them."""
    random, image = np.random.default_rng(seed), [i for i, d in enumerate(dims) if d > 4]
    coarse = [d // 8 + 2 if i in image else d for i, d in enumerate(dims)]
    made = random.uniform(-150, 150, coarse)
    for axis in image:
        made = np.take(made, np.arange(dims[axis]) * coarse[axis] // dims[axis], axis)
    return np.clip(np.rint(made + random.normal(0, 6, dims)), -128, 127).astype(np.int8)


def share_of_integers(made: Bundle) -> float:
    report = made.manifest["report"]
    return float(report["integer_macs"] / report["macs"])


def unfused(name: str) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """The integer form of a model in ONNX Runtime, node by node.

    Sums of two quantized tensors that it fuses are rounded otherwise than an Add between DequantizeLinear and QuantizeLinear: in a net
    with ten of them one byte in some ten million, which then changes many of the last layer.
    """
    whole = integer_form(import_model(model(name), static=True))
    assert whole is not None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exact(whole.to_onnx().SerializeToString()), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))


@pytest.mark.parametrize(("name", "target", "count"), [
    (KWS, "host", 20), pytest.param(KWS, "cortex-a72", 20, marks=EMULATED), (RESNET, "host", 20),
    *(pytest.param(name, "cortex-a72", n, marks=[EMULATED, pytest.mark.slow]) for name, n in ((RESNET, 20), (MOBILENET, 4))),
    pytest.param(MOBILENET, "host", 20, marks=pytest.mark.slow)])
def test_every_result_is_that_of_onnx_runtime(name: str, target: str, count: int) -> None:
    made = bundle(name, target)
    assert share_of_integers(made) >= 0.95
    expect, who = reference(made, model(name))
    assert "convolutions as QLinearConv" in who
    if name == MOBILENET:
        expect = unfused(name)
    session, (port,) = made.load(poison=True), made.manifest["inputs"]
    classes = set()
    for seed in range(count):
        feeds = {port["name"]: smooth(tuple(port["shape"]), seed)}
        y, wanted = (next(iter(r.values())) for r in (session.run(feeds), expect(feeds)))
        assert np.array_equal(y, wanted)
        classes.add(int(y.argmax()))
    assert len(classes) > 1


@pytest.mark.parametrize("target", TARGETS)
def test_keywords_are_recognized_as_before(target: str) -> None:
    data = SHARED / "models" / "data" / "kws01_mfcc.npz"
    if not data.exists():
        pytest.skip(f"no {data}: set EDGEC_SHARED to the folder that has it")
    count = 1000 if target == "host" else 200
    with np.load(data) as found:
        x, labels = found["x"][:count], found["y"][:count]
    session = bundle(KWS, target).load()
    theirs = onnxruntime.InferenceSession(exact(model(KWS)), providers=["CPUExecutionProvider"])
    ours = np.array([next(iter(session.run({"input_1": i[None]}).values())).argmax() for i in x])
    wanted = np.array([theirs.run(None, {"input_1": i[None]})[0].argmax() for i in x])
    assert (ours == wanted).mean() >= 0.995
    assert (ours == labels).mean() == pytest.approx((wanted == labels).mean())


@pytest.mark.parametrize("name", [KWS, RESNET])
def test_the_written_graph_in_real_numbers_gives_the_same(name: str) -> None:
    """One sum in some millions lies so near the middle between two bytes that the f32 factor of ONNX Runtime rounds it the other way."""
    made = bundle(name)
    session, (port,), exact = made.load(), made.manifest["inputs"], load(model(name))
    feeds = [{port["name"]: smooth(tuple(port["shape"]), seed)} for seed in range(60)]
    pairs = [tuple(next(iter(run(f).values())) for run in (session.run, exact)) for f in feeds]
    assert all(y.argmax() == r.argmax() for y, r in pairs)
    assert np.mean([np.array_equal(y, r) for y, r in pairs]) >= 0.95


def test_ties_go_to_the_even_integer() -> None:
    scale, zero = np.array(0.1, np.float32), np.array(-3, np.int8)
    reals = dequantized(np.arange(-10, 11), scale) / 2
    assert quantized(reals, scale, zero).tolist() == [round(i / 2) - 3 for i in range(-10, 11)]
    assert quantized(np.array([1e3, -1e3]), scale, zero).tolist() == [127, -128]


def test_every_kernel_leaves_what_the_evaluator_computes() -> None:
    made = bundle(RESNET)
    feeds = [{made.manifest["inputs"][0]["name"]: smooth((1, 32, 32, 3), seed)} for seed in range(2)]
    found = list(per_kernel(made, model(RESNET), feeds))
    assert found
    assert not [k for k in found if not k.agreement.ok]


def test_no_tensor_is_wider_than_a_byte() -> None:
    """Neither reals nor sums lie between two layers: the arena is what the bytes of its tensors take."""
    sizes = bundle(KWS, "cortex-a72").manifest["sizes"]
    assert sizes["arena_bytes"] <= 2 * 25 * 5 * 64 + 64


def test_the_form_of_a_model_in_reals_is_none() -> None:
    assert integer_form(import_model(model("mnist_opset8"), static=True)) is None


def test_int8_by_flags(tmp_path: Path) -> None:
    data = SHARED / "models" / "data" / "mnist_t10k_2000.npz"
    if not data.exists():
        pytest.skip(f"no {data}: set EDGEC_SHARED to the folder that has it")
    with np.load(data) as found:
        images, labels = found["x"].astype(np.float32)[:, None], found["y"]
    name = import_model(model("mnist_opset8"), static=True).inputs[0].name
    notes = list[str]()
    made = build(model("mnist_opset8"), "host", tmp_path / "m.edgec", int8=True, calibrate={name: images[:64]}, notes=notes)
    assert made.manifest["options"]["int8"] is True
    assert share_of_integers(made) >= 0.95
    assert "on integers" in made.summary()
    assert any(n.startswith("int8: 3 of 3 layers are quantized") for n in notes)
    session = made.load()

    def right(run: Any) -> float:
        made = [next(iter(run({name: i[None]}).values())).argmax() for i in images]
        return float((np.array(made) == labels).mean())

    plain = bundle("mnist_opset8").load()
    assert right(session.run) >= right(plain.run) - 0.002
    with pytest.raises(BadInput, match="was built with --int8"):
        list(per_kernel(made, model("mnist_opset8"), []))


def test_the_exported_model_is_the_same_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--emit onnx --int8` is plain ONNX with QuantizeLinear and DequantizeLinear: ONNX Runtime gives the classes that the bundle gives."""
    with np.load(ROOT / "examples" / "models" / "digits_test.npz") as data:
        images = data["images"].astype(np.float32) / 255
    np.savez(tmp_path / "s.npz", image=images[:64])
    path, flags = ROOT / "examples" / "models" / "digits_cnn.onnx", ["--int8", "--calibrate", str(tmp_path / "s.npz")]
    assert main(["build", str(path), *flags, "--emit", "onnx", "-o", str(tmp_path / "q.onnx")]) == 0
    assert main(["build", str(path), *flags, "-o", str(tmp_path / "m.edgec")]) == 0
    session = onnxruntime.InferenceSession(exact(tmp_path / "q.onnx"), providers=["CPUExecutionProvider"])
    ours = edgec.load(tmp_path / "m.edgec")
    graph = import_model(tmp_path / "q.onnx")
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= {n.op for n in graph.nodes}
    assert not {n.op for n in graph.nodes if n.op.endswith("Integer") or "." in n.op}
    pairs = [(ours.run({"image": i[None]})["logits"], session.run(None, {"image": i[None]})[0]) for i in images[64:264]]
    assert np.mean([y.argmax() == r.argmax() for y, r in pairs]) >= 0.98
    assert np.median([np.abs(y - r).max() for y, r in pairs]) <= 0.02 * np.ptp([r for _, r in pairs])
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "m.edgec"), "--model", str(tmp_path / "q.onnx")]) == 0
    assert "logits  0.00e+00" in capsys.readouterr().out
    main(["verify", str(tmp_path / "m.edgec"), "--model", str(path)])
    assert "the bundle was built with --int8, and the model computes with reals" in capsys.readouterr().err


@pytest.mark.slow
def test_photographs_are_told_apart_as_before() -> None:
    """ImageNet's classes of real photographs, when Pillow is there to read them."""
    folder = SHARED / "models" / "data" / "photos"
    if not folder.exists() or importlib.util.find_spec("PIL") is None:
        pytest.skip(f"no Pillow, or no {folder}: set EDGEC_SHARED to the folder that has it")
    from PIL import Image  # noqa: PLC0415

    session = bundle(MOBILENET).load()
    expect, _ = reference(bundle(MOBILENET), model(MOBILENET))
    for path in sorted(folder.glob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB").resize((224, 224))) / 255
        real = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        feeds = {"input.5": np.clip(np.rint(real.transpose(2, 0, 1)[None] / 0.01863) - 14, -128, 127).astype(np.int8)}
        assert np.array_equal(session.run(feeds)["Xq.1"], expect(feeds)["Xq.1"])
