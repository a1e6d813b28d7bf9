"""Quantization after training: what it costs on labelled data, what stays in reals and why, and that the exported net is the same net."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import edgec
from edgec.access import module
from edgec.cli import main
from edgec.errors import UsageError
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.ir.verify import verify
from edgec.lang.text import load
from edgec.onnx import import_model
from edgec.onnx_saturation import exact
from edgec.pipeline import Context, run_passes
from edgec.target import find
from edgec.testing import random_graph
from tests.shared import SHARED, model
from tests.small import catalog, graph, ops

qdq = module("passes.changes.qdq")
A72 = find("cortex-a72")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "models"
Feeds = Sequence[Mapping[str, Any]]


def quantized(given: Graph, samples: Feeds, *disabled: str) -> tuple[Graph, Context]:
    """The graph behind what comes before and the pass itself, and what was told."""
    context = Context(A72, frozenset(disabled), samples=samples)
    before = run_passes(given, catalog.PORTABLE.removesuffix(",quantize"), catalog.CATALOG)
    made = run_passes(before, "quantize{int8=true}", catalog.CATALOG, context)
    assert verify(made) == []
    return made, context


def right(given: Graph, images: Any, labels: Any) -> float:
    """The share of images that ONNX Runtime gives the label of."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(exact(given.to_onnx().SerializeToString()), options, providers=["CPUExecutionProvider"])
    (port,) = given.inputs
    made = [session.run(None, {port.name: x.reshape(port.dims)})[0].argmax() for x in images]
    return float(np.mean(np.array(made) == labels))


def data(name: str) -> tuple[Graph, Any, Any]:
    """A trained net, and images with labels as it takes them."""
    if name.startswith("digits"):
        with np.load(EXAMPLES / "digits_test.npz") as found:
            images, labels = found["images"].astype(np.float32) / 255, found["labels"]
        return import_model(EXAMPLES / f"{name}.onnx", static=True, shapes={"image": (1, 1, 28, 28)}), images, labels
    given = import_model(model(name), static=True)
    file = {"mlperf_kws_dscnn_fp32": "kws01_mfcc", "mnist_opset8": "mnist_t10k_2000"}[name]
    with np.load(SHARED / "models" / "data" / f"{file}.npz") as found:
        x, labels = found["x"].astype(np.float32), found["y"]
    return given, (x - 83) * np.float32(0.5847029089927673) if "kws" in name else x, labels


@pytest.mark.parametrize(("name", "count", "lost"), [
    ("mlperf_kws_dscnn_fp32", 64, 0.005), ("mnist_opset8", 64, 0.002), ("digits_cnn", 64, 0.005),
    pytest.param("digits_mobilenet", 128, 0.005, marks=pytest.mark.slow),
    pytest.param("digits_transformer", 64, 0.005, marks=pytest.mark.slow)])
def test_labelled_data_are_recognized_as_before(name: str, count: int, lost: float) -> None:
    given, images, labels = data(name)
    chosen = np.random.default_rng(1).permutation(len(images))[:count]
    made, context = quantized(given, [{given.inputs[0].name: images[i].reshape(given.inputs[0].dims)} for i in chosen])
    whole = run_passes(made, "integers,canonicalize", catalog.CATALOG, Context(A72))
    assert not {"Conv", "Gemm"} & set(ops(whole).split())
    before = right(given, images, labels)
    assert right(made, images, labels) >= before - lost, context.notes
    assert right(whole, images, labels) >= before - lost


def tower(imbalance: float) -> tuple[Graph, Feeds]:
    """Three convolutions; the channels between the first two differ in range by factors e**imbalance, which the second takes back."""
    random = np.random.default_rng(0)
    spread = np.exp(random.standard_normal(16) * imbalance)
    first, second = random.standard_normal((16, 3, 3, 3)), random.standard_normal((8, 16, 3, 3)) * 0.2
    given = graph("%x: f32[1,3,12,12]", "%w: f32[16,3,3,3] = splat 0.5", "%b: f32[16] = splat 0.0", "%v: f32[8,16,3,3] = splat 0.5",
                  "%u: f32[4,8,1,1] = random 5", '%c: f32[1,16,10,10] = Conv(%x, %w, %b) at "first"', "%r: f32[1,16,10,10] = Relu(%c)",
                  '%d: f32[1,8,8,8] = Conv(%r, %v) at "second"', "%e: f32[1,8,8,8] = Relu(%d)", "%y: f32[1,4,8,8] = Conv(%e, %u)")
    numbers = {"w": first * spread[:, None, None, None], "v": second / spread[:, None, None]}
    weights = {v: np.asarray(numbers.get(v.name, a)).astype(np.float32) for v, a in given.weights.items()}
    samples = [{"x": random.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(24)]
    return Graph(given.name, given.inputs, given.outputs, given.nodes, weights), samples


def noise(given: Graph, made: Graph, samples: Feeds) -> float:
    """The power of what is lost over that of the results."""
    lost, power = 0.0, 0.0
    for feeds in samples:
        y, wanted = evaluate(made, feeds)["y"], evaluate(given, feeds)["y"]
        lost, power = lost + float(np.square(y - wanted).sum()), power + float(np.square(wanted).sum())
    return lost / power


def test_channels_of_different_range_are_equalized() -> None:
    given, samples = tower(1.8)
    made, context = quantized(given, samples[:16])
    plain, _ = quantized(given, samples[:16], "equalize-channels")
    assert [r.origin for r in context.trace if r.name == "equalize-channels"] == ["first"]
    assert "int8: the channels of first are equalized" in context.notes
    assert noise(given, made, samples[16:]) < 0.3 * noise(given, plain, samples[16:])
    assert noise(given, made, samples[16:]) < 1e-3


def test_channels_of_one_range_are_left_alone() -> None:
    given, samples = tower(0.0)
    _, context = quantized(given, samples[:16])
    assert "equalize-channels" not in {r.name for r in context.trace}


def test_biases_keep_the_mean_of_each_channel() -> None:
    """Coarse weights shift means, which the biases take back."""
    given, samples = tower(2.5)

    def shift(made: Graph) -> float:
        means = [(evaluate(made, f)["y"] - evaluate(given, f)["y"]).mean((0, 2, 3)) for f in samples[:16]]
        return float(np.abs(np.mean(means, axis=0)).max())

    made, context = quantized(given, samples[:16], "equalize-channels")
    plain, _ = quantized(given, samples[:16], "equalize-channels", "correct-bias")
    assert "correct-bias" in {r.name for r in context.trace}
    assert shift(made) < 0.5 * shift(plain)


def test_what_stays_in_reals_is_told() -> None:
    given = graph("%x: f32[2,4], %z: f32[2,4]", "%w: f32[4,4] = random 1", '%a: f32[2,4] = MatMul(%x, %w) at "layer"',
                  "%t: f32[4,2] = Transpose(%z) {perm=[1, 0]}", '%y: f32[2,2] = MatMul(%a, %t) at "scores"')
    samples = [{n: np.random.default_rng(i).standard_normal((2, 4)).astype(np.float32) for n in "xz"} for i in range(4)]
    made, context = quantized(given, samples)
    assert "int8: scores stays in f32: its right operand is computed" in context.notes
    assert "int8: 1 of 2 layers are quantized, fitted to 4 runs of the samples" in context.notes
    whole = run_passes(made, "integers", catalog.CATALOG, Context(A72))
    assert ops(whole) == "QuantizeLinear MatMulInteger Cast Mul Transpose MatMul"


def test_a_value_that_is_read_in_both_ways() -> None:
    """A result of the model, an operand of a layer, and one of arithmetic that stays in reals."""
    given = graph("%x: f32[1,2,4,4]", "%w: f32[2,2,1,1] = random 1", "%v: f32[2,2,1,1] = random 2", "%k: f32[2,1,1] = dense [1.5, 2.0]",
                  "%a: f32[1,2,4,4] = Conv(%x, %w)", "%r: f32[1,2,4,4] = Relu(%a)", "%b: f32[1,2,4,4] = Conv(%r, %v)",
                  "%m: f32[1,2,4,4] = Mul(%r, %k)", returns="%r, %b, %m")
    samples = [{"x": np.random.default_rng(i).standard_normal((1, 2, 4, 4)).astype(np.float32)} for i in range(8)]
    made, _ = quantized(given, samples)
    assert [v.name for v in made.outputs] == ["r", "b", "m"]
    for name, array in evaluate(given, samples[0]).items():
        assert np.abs(evaluate(made, samples[0])[name] - array).max() < 0.03 * np.ptp(array)


def test_moves_keep_their_scale_and_joined_parts_have_one() -> None:
    given = graph("%x: f32[1,2,4,4]", "%w: f32[2,2,1,1] = random 1", "%v: f32[2,2,1,1] = random 2", "%u: f32[2,4,1,1] = random 3",
                  "%a: f32[1,2,4,4] = Conv(%x, %w)", "%b: f32[1,2,4,4] = Conv(%x, %v)",
                  "%c: f32[1,4,4,4] = Concat(%a, %b) {axis=1}", "%p: f32[1,4,2,2] = MaxPool(%c) {kernel_shape=[2, 2], strides=[2, 2]}",
                  "%y: f32[1,2,2,2] = Conv(%p, %u)")
    samples = [{"x": np.random.default_rng(i).standard_normal((1, 2, 4, 4)).astype(np.float32)} for i in range(8)]
    made, _ = quantized(given, samples)
    whole = run_passes(made, "integers,canonicalize", catalog.CATALOG, Context(A72))
    assert "DequantizeLinear" not in ops(whole).split()
    assert {"Concat", "MaxPool"} < set(ops(whole).split())


def test_samples_are_needed_and_quantized_models_are_left_alone() -> None:
    given = graph("%x: f32[2,4]", "%w: f32[4,4] = random 1", "%y: f32[2,4] = MatMul(%x, %w)")
    with pytest.raises(UsageError, match="int8 needs samples"):
        quantized(given, [])
    samples = [{"x": np.random.default_rng(i).standard_normal((2, 4)).astype(np.float32)} for i in range(4)]
    made, _ = quantized(given, samples)
    again, context = quantized(made, samples)
    assert ops(again) == ops(made)
    assert context.notes == ["int8: the model is quantized already, and is left as it is"]
    assert ops(edgec.optimize(given, passes="quantize{int8=true}", calibrate={"x": np.concatenate([s["x"] for s in samples])})) == ops(made)


@pytest.mark.parametrize("seed", range(24))
def test_random_nets_mean_the_same_in_integers(seed: int) -> None:
    given = random_graph(seed, 4 + seed % 20)
    if not all(v.tensor.dtype == "f32" for v in given.inputs):
        pytest.skip("it reads integers")
    draws = [np.random.default_rng((seed, i)) for i in range(6)]
    samples = [{v.name: draw.standard_normal(v.dims).astype(np.float32) for v in given.inputs} for draw in draws]
    made, _ = quantized(given, samples)
    whole = run_passes(made, "integers,canonicalize", catalog.CATALOG, Context(A72))
    assert verify(whole) == []
    for feeds in samples[:2]:
        before, after = evaluate(made, feeds), evaluate(whole, feeds)
        for name, array in before.items():
            if array.dtype.kind == "f" and np.isfinite(array).all():
                assert np.abs(after[name] - array).max() <= 0.05 * max(float(np.ptp(array)), 1e-3), name


def test_the_pass_by_itself_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(EXAMPLES / "digits_test.npz") as found:
        np.savez(tmp_path / "s.npz", image=found["images"][:32].astype(np.float32) / 255)
    path, out = EXAMPLES / "digits_cnn.onnx", tmp_path / "q.edge"
    steps = f"{catalog.PORTABLE.removesuffix(',quantize')},quantize{{int8=true}}"
    asked = ["opt", str(path), "--shape", "image=1,1,28,28", "--passes", steps, "-o", str(out)]
    assert main([*asked, "--calibrate", str(tmp_path / "s.npz")]) == 0
    assert "int8: 7 of 7 layers are quantized, fitted to 32 runs of the samples" in capsys.readouterr().err
    assert len(qdq.groups(load(out))) > 7
    assert main(asked) == 2
    assert "int8 needs samples of what the model will see: give --calibrate" in capsys.readouterr().err
    assert main(["build", str(path), "--int8", "-o", str(tmp_path / "m.edgec")]) == 2
    assert "--calibrate" in capsys.readouterr().err
    assert not (tmp_path / "m.edgec").exists()
