"""Quantization after training: what it costs on labelled data, what stays in reals and why, and that the exported net is the same net."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import edgec
from edgec.access import module
from edgec.build import compile_graph
from edgec.cli import main
from edgec.errors import UsageError
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.ir.verify import verify
from edgec.kernels.pairs import MOST, fit
from edgec.lang.text import load
from edgec.onnx import import_model
from edgec.onnx_saturation import exact
from edgec.pipeline import Context, run_passes
from edgec.target import Target, find
from edgec.testing import random_graph
from tests.shared import SHARED, model
from tests.small import catalog, graph, ops

qdq = module("passes.changes.qdq")
pairs = module("passes.changes.pairs")
A72, V3 = find("cortex-a72"), find("x86-64-v3")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "models"
Feeds = Sequence[Mapping[str, Any]]


def quantized(given: Graph, samples: Feeds, *disabled: str, target: Target = A72) -> tuple[Graph, Context]:
    """The graph behind what comes before and the pass itself, and what was told."""
    context = Context(target, frozenset(disabled), samples=samples)
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


@cache
def at_first(name: str) -> float:
    """The share of images that a trained net gives the label of."""
    return right(*data(name))


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


@pytest.mark.parametrize("target", [A72, V3], ids=lambda t: t.name)
@pytest.mark.parametrize(("name", "count", "lost"), [
    ("mlperf_kws_dscnn_fp32", 64, 0.005), ("mnist_opset8", 64, 0.002), ("digits_cnn", 64, 0.005),
    pytest.param("digits_mobilenet", 128, 0.005, marks=pytest.mark.slow),
    pytest.param("digits_transformer", 64, 0.005, marks=pytest.mark.slow)])
def test_labelled_data_are_recognized_as_before(name: str, count: int, lost: float, target: Target) -> None:
    given, images, labels = data(name)
    chosen = np.random.default_rng(1).permutation(len(images))[:count]
    made, context = quantized(given, [{given.inputs[0].name: images[i].reshape(given.inputs[0].dims)} for i in chosen],
                              target=target)
    whole = run_passes(made, "integers,canonicalize", catalog.CATALOG, Context(target))
    assert not {"Conv", "Gemm"} & set(ops(whole).split())
    before = at_first(name)
    assert right(made, images, labels) >= before - lost, context.notes
    assert right(whole, images, labels) >= before - lost


def layers(made: Graph) -> dict[str, tuple[Any, Any, Any]]:
    """For each layer its node, the integers of its weight and their scales."""
    found = {}
    for node in made.nodes:
        if node.op in ("Conv", "Gemm", "MatMul") and (w := node.inputs[1]) is not None:
            stored, scale = made.producer[w].inputs[:2]
            assert stored is not None
            assert scale is not None
            found[node.origin] = node, made.weights[stored], made.weights[scale]
    return found


def chain() -> tuple[Graph, Feeds]:
    """A layer of each kind, one after the other."""
    given = graph("%x: f32[1,3,8,8]", "%a: f32[8,3,3,3] = random 1", "%b: f32[12,4,3,3] = random 2", "%c: f32[12,1,3,3] = random 3",
                  "%d: f32[12,768] = random 4", "%e: f32[12,6] = random 5", "%s: i64[2] = dense [1, -1]",
                  '%p: f32[1,8,8,8] = Conv(%x, %a) {pads=[1, 1, 1, 1]} at "few"',
                  '%q: f32[1,12,8,8] = Conv(%p, %b) {pads=[1, 1, 1, 1], group=2} at "groups"',
                  '%r: f32[1,12,8,8] = Conv(%q, %c) {pads=[1, 1, 1, 1], group=12} at "depthwise"', "%f: f32[1,768] = Reshape(%r, %s)",
                  '%g: f32[1,12] = Gemm(%f, %d) {transB=1} at "rows"', '%y: f32[1,6] = MatMul(%g, %e) at "columns"')
    return given, [{"x": np.random.default_rng(i).standard_normal((1, 3, 8, 8)).astype(np.float32)} for i in range(4)]


def test_pairs_of_weights_cannot_saturate_where_the_cpu_sums_their_products_in_16_bits() -> None:
    given, samples = chain()
    usual, paired = (layers(quantized(given, samples, "equalize-channels", target=t)[0]) for t in (A72, V3))
    assert list(usual) == list(paired) == ["few", "groups", "depthwise", "rows", "columns"]
    reals = {"few": "a", "groups": "b", "depthwise": "c", "rows": "d", "columns": "e"}
    for name, (node, whole, scale) in paired.items():
        real = next(a for v, a in given.weights.items() if v.name == reals[name])
        axis = 1 if name == "columns" else 0
        column = [-1 if a == axis else 1 for a in range(real.ndim)]
        most = np.abs(real).max(tuple(a for a in range(real.ndim) if a != axis))
        step = (most.astype(np.float64) / 127).astype(np.float32)
        np.testing.assert_array_equal(usual[name][2], step)
        np.testing.assert_array_equal(usual[name][1], np.rint(real.astype(np.float64) / step.reshape(column)).astype(np.int8))
        assert not (sums := pairs.largest(node, usual[name][1]) <= 128).all(), sums
        assert (pairs.largest(node, whole) <= 128).all()
        assert (scale >= step).all()
        assert (np.abs(whole * scale.reshape(column) - real) <= 0.51 * scale.reshape(column)).all()
        assert (np.maximum(pairs.largest(node, whole) / 128, np.abs(whole).max(tuple(a for a in range(real.ndim) if a != axis)) / 127)
                > 0.985).all(), "no channel is coarser than it must be"


def test_such_layers_multiply_unsigned_bytes_and_others_those_that_they_have() -> None:
    given, samples = chain()
    made = {t.name: quantized(given, samples, "equalize-channels", target=t)[0] for t in (A72, V3)}
    for quantized_for, target, dtype, form in (("x86-64-v3", V3, "u8", "maddubs"), ("cortex-a72", V3, "i8", "signb"),
                                               ("cortex-a72", A72, "i8", "smlal")):
        whole = run_passes(made[quantized_for], "integers,canonicalize", catalog.CATALOG, Context(target))
        read = [n.inputs[0].tensor.dtype for n in whole.nodes if n.op in ("ConvInteger", "MatMulInteger") and n.inputs[0] is not None]
        assert read == [dtype] * 5
        plans = compile_graph(made[quantized_for], target, "chain").schedule.plans
        algos = [p.algo for p in plans.values() if p.kind in ("dot", "depth")]
        assert len(algos) == 5
        assert all(f"_{form}_" in a for a in algos), algos


def test_a_pair_that_rounding_makes_too_large_is_mended_where_it_costs_least() -> None:
    node = graph("%x: f32[1,2,1,1]", "%w: f32[4,2,1,1] = random 1", "%y: f32[1,4,1,1] = Conv(%x, %w)").nodes[0]
    exact = np.array([[63.6, 65.4], [-64.9, -63.7], [100.0, -100.0], [64.2, 63.8]]).reshape(4, 2, 1, 1)
    made = pairs.mended(node, np.rint(exact).astype(np.int8), exact)
    np.testing.assert_array_equal(made.reshape(4, 2), [[63, 65], [-65, -63], [100, -100], [64, 64]])
    alone = np.full((4, 1, 1, 1), 127.0)
    np.testing.assert_array_equal(pairs.mended(node, alone.astype(np.int8), alone), alone)


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
    target = (A72, V3)[seed % 2]
    made, _ = quantized(given, samples, target=target)
    whole = run_passes(made, "integers,canonicalize", catalog.CATALOG, Context(target))
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


@pytest.mark.parametrize("shape", [(8, 4, 3, 3, 3), (6, 5, 2, 3, 3)])
def test_pairs_of_volumes_are_looked_at_as_those_of_images(shape: tuple[int, ...]) -> None:
    """No kernel is written for them: what says so must not stumble before."""
    dims = ",".join(map(str, shape))
    node = graph(f"%x: f32[1,{shape[1]},4,4,4]", f"%w: f32[{dims}] = random 1", f"%y: f32[1,{shape[0]},2,2,2] = Conv(%x, %w)").nodes[0]
    rng = np.random.default_rng(0)
    exact = rng.uniform(-127, 127, shape)
    whole = pairs.mended(node, np.rint(exact).astype(np.int8), exact)
    assert pairs.largest(node, whole).shape == shape[:1]
    assert pairs.largest(node, whole).max() <= MOST


def test_a_vector_of_weights_has_pairs() -> None:
    node = graph("%x: f32[3,6]", "%w: f32[6] = random 1", "%y: f32[3] = MatMul(%x, %w)").nodes[0]
    assert fit(pairs.rows(node, np.array([64, 64, 1, -2, 3, 4], np.int8)))
    assert not fit(pairs.rows(node, np.array([64, 65, 1, -2, 3, 4], np.int8)))


def test_a_convolution_of_volumes_stays_in_reals() -> None:
    given = graph("%x: f32[1,4,6,6,6]", "%w: f32[8,4,3,3,3] = random 1", '%y: f32[1,8,4,4,4] = Conv(%x, %w) at "volume"')
    samples = [{"x": np.random.default_rng(seed).standard_normal((1, 4, 6, 6, 6)).astype(np.float32)} for seed in range(4)]
    made, context = quantized(given, samples, target=V3)
    assert "QuantizeLinear" not in ops(made).split()
    assert any("volume stays in f32: no kernel computes a convolution of volumes with integers" in n for n in context.notes)
