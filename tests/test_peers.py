"""Runtimes with formats of their own: what they are fed computes what the model computes, or is refused with every reason."""

import json
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

import edgec
from edgec import contest, peers
from edgec.cli import main
from edgec.contest import Rules, hold
from edgec.errors import ToolMissing, UnsupportedModel, UsageError
from edgec.onnx import import_model
from edgec.peers.channels_last import groups, moved, reduced, reshaped
from edgec.peers.feed import prepared
from edgec.peers.tflite import tflite
from edgec.verify import agreement
from tests import tiny
from tests.bundles import ROOT

EXAMPLES = ROOT / "examples" / "models"
IMAGE = [1, 8, 12, 10]
RANDOM = np.random.default_rng(7)


def needs(name: str) -> Any:
    reason = f"{name} is not installed: pip install '.[peers]'; for ncnn also pip install --no-deps pnnx"
    return pytest.param(name, marks=pytest.mark.skipif(not peers.is_installed(name), reason=reason))


BOTH = [needs("litert"), needs("ncnn")]
ONNXRUNTIME = pytest.mark.skipif(not peers.is_installed("onnxruntime"), reason="onnxruntime is not installed: pip install '.[peers]'")


def node(op: str, *inputs: str, into: str = "y", **attrs: Any) -> NodeProto:
    return helper.make_node(op, inputs, [into], **attrs)


def weight(*shape: int) -> np.ndarray:
    made: np.ndarray = (RANDOM.standard_normal(shape) / max(prod(shape[1:]), 1) ** 0.5).astype(np.float32)
    return made


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def conv(out: int, into: int, size: int, **attrs: Any) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    return [node("Conv", "x", "w", "b", **attrs)], {"w": weight(out, into, size, size), "b": weight(out)}


Case = tuple[list[NodeProto], dict[str, np.ndarray]]
COMMON: Mapping[str, Case] = {
    "same": conv(6, 8, 3, pads=[1, 1, 1, 1]), "strided": conv(6, 8, 3, pads=[1, 1, 1, 1], strides=[2, 2]),
    "valid": conv(6, 8, 5), "uneven pads": conv(6, 8, 3, pads=[0, 2, 1, 0]), "dilated": conv(6, 8, 3, dilations=[2, 2], pads=[2, 2, 2, 2]),
    "groups": conv(12, 4, 3, group=2, pads=[1, 1, 1, 1]), "depthwise": conv(8, 1, 3, group=8, pads=[1, 1, 1, 1]),
    "depthwise of two": conv(16, 1, 3, group=8, strides=[2, 2], pads=[1, 1, 1, 1]),
    "activation": ([node("Conv", "x", "w", into="h"), node("Clip", "h", "low", "high")],
                   {"w": weight(6, 8, 1, 1), "low": np.array(0, np.float32), "high": np.array(6, np.float32)}),
    "residual": ([node("Conv", "x", "w", into="h"), node("Relu", "h", into="r"), node("Add", "r", "x", into="s"), node("Relu", "s")],
                 {"w": weight(8, 8, 1, 1)}),
    "maximum": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "mean": ([node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2])], {}),
    "mean beside pads": ([node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "mean with pads": ([node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)], {}),
    "mean of all": ([node("AveragePool", "x", kernel_shape=[13, 11], pads=[0, 0, 1, 1])], {}),
    "classifier": ([node("GlobalAveragePool", "x", into="p"), node("Flatten", "p", into="f"),
                    node("Gemm", "f", "w", "b", transB=1, into="g"), node("Softmax", "g")], {"w": weight(5, 8), "b": weight(5)}),
    "flattened": ([node("Relu", "x", into="r"), node("Flatten", "r", into="f"), node("MatMul", "f", "w", into="m"), node("Add", "m", "b")],
                  {"w": weight(960, 5), "b": weight(5)}),
    "shuffled channels": ([node("Reshape", "x", "split", into="a"), node("Transpose", "a", into="t", perm=[0, 2, 1, 3, 4]),
                           node("Reshape", "t", "join", into="j"), node("Conv", "j", "w")],
                          {"split": ints(1, 2, 4, 12, 10), "join": ints(1, 8, 12, 10), "w": weight(6, 8, 1, 1)}),
    "boxes": ([node("Conv", "x", "w", into="c"), node("Transpose", "c", into="t", perm=[0, 2, 3, 1]), node("Reshape", "t", "s")],
              {"w": weight(6, 8, 1, 1), "s": ints(1, 360, 2)}),
    "every other": ([node("Slice", "x", "zero", "h", "two", "step", into="a"), node("Slice", "a", "zero", "w", "three", "step")],
                    {"zero": ints(0), "h": ints(12), "w": ints(10), "two": ints(2), "three": ints(3), "step": ints(2)}),
    "channels joined": ([node("Conv", "x", "w", into="c"), node("Relu", "c", into="a"), node("Sigmoid", "c", into="b"),
                         node("Concat", "a", "b", axis=1)], {"w": weight(6, 8, 1, 1)}),
    "enlarged": ([node("Resize", "x", "", "s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
                 {"s": np.array([1, 1, 2, 2], np.float32)}),
    "enlarged smoothly": ([node("Resize", "x", "", "s", mode="linear", coordinate_transformation_mode="half_pixel")],
                          {"s": np.array([1, 1, 2, 2], np.float32)}),
    "transposed": ([node("ConvTranspose", "x", "w", "b", strides=[2, 2])], {"w": weight(8, 6, 2, 2), "b": weight(6)}),
    "gated": ([node("GlobalAveragePool", "x", into="p"), node("Conv", "p", "w", into="c"), node("HardSigmoid", "c", into="s", alpha=0.2),
               node("Mul", "x", "s", into="m"), node("HardSwish", "m")], {"w": weight(8, 8, 1, 1)}),
    "normed by neighbors": ([node("LRN", "x", size=5, alpha=0.5, beta=0.75)], {}),
    "normed batch": ([node("Conv", "x", "w", into="c"), node("BatchNormalization", "c", "s", "b", "m", "v")],
                     {"w": weight(6, 8, 1, 1), "s": weight(6), "b": weight(6), "m": weight(6), "v": np.ones(6, np.float32)}),
    "scaled channels": ([node("MaxPool", "x", into="p", kernel_shape=[2, 2]), node("Mul", "p", "s", into="m"), node("Relu", "m")],
                        {"s": weight(8, 1, 1)}),
    "padded channels": ([node("Pad", "x", "p")], {"p": ints(0, 4, 0, 0, 0, 4, 0, 0)}),
}
TFLITE: Mapping[str, Case] = {
    "softmax of channels": ([node("Softmax", "x", axis=1)], {}),
    "first is largest": ([node("Transpose", "x", into="t", perm=[0, 2, 3, 1]), node("Softmax", "t", axis=1)], {}),
    "sums": ([node("ReduceSum", "x", "a", keepdims=0)], {"a": ints(1)}),
    "means": ([node("ReduceMean", "x", axes=[2, 3], keepdims=0)], {}),
    "a vector for the last axis": ([node("Add", "x", "v")], {"v": weight(10)}),
    "norm": ([node("LayerNormalization", "x", "s", "b", axis=-1)], {"s": weight(10), "b": weight(10)}),
    "products": ([node("Transpose", "x", into="t", perm=[0, 1, 3, 2]), node("MatMul", "x", "t")], {}),
    "padded": ([node("Pad", "x", "p", "v")], {"p": ints(0, 0, 1, 2, 0, 0, 0, 1), "v": np.array(0.5, np.float32)}),
    "cut": ([node("Slice", "x", "b", "e", "a", "s")], {"b": ints(1, -4), "e": ints(7, 100), "a": ints(1, 3), "s": ints(2, 1)}),
    "limits": ([node("Clip", "x", "low", "high")], {"low": np.array(-0.3, np.float32), "high": np.array(0.4, np.float32)}),
    "aligned corners": ([node("Resize", "x", "", "", "s", mode="linear", coordinate_transformation_mode="align_corners")],
                        {"s": ints(1, 8, 25, 17)}),
    "transposed same": ([node("ConvTranspose", "x", "w", strides=[2, 2], pads=[1, 1, 1, 1])], {"w": weight(8, 6, 4, 4)}),
}


def made(case: Case, tmp_path: Path) -> Path:
    return tiny.save(_model(*case), tmp_path / "m.onnx")


def _model(nodes: list[NodeProto], weights: dict[str, np.ndarray], inputs: dict[str, Sequence[int]] | None = None) -> ModelProto:
    """A model whose output's shape nobody says."""
    model = tiny.of(nodes, {k: list(v) for k, v in (inputs or {"x": IMAGE}).items()}, {"y": []}, weights)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def agrees(name: str, model: Path, count: int = 2, dims: Mapping[str, Sequence[int]] | None = None) -> None:
    """A peer's results are those of ONNX Runtime, called and bound."""
    graph = import_model(model, static=True, shapes=dims)
    feeds = [{v.name: RANDOM.standard_normal(v.dims).astype(np.float32) for v in graph.inputs} for _ in range(count)]
    reference, peer = (peers.load(n, model, 1, {v.name: v.dims for v in graph.inputs}) for n in ("onnxruntime", name))
    expected, found = [reference.run(f) for f in feeds], [peer.run(f) for f in feeds]
    for output in expected[0]:
        got = agreement(output, [f[output] for f in found], [e[output] for e in expected], 1e-4)
        assert got.ok, got
        assert got.error is not None
    bound = peer.bind(feeds[0])
    bound()
    bound()
    assert peer.precision == "f32"


@ONNXRUNTIME
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("case", COMMON)
def test_small_nets(name: str, case: str, tmp_path: Path) -> None:
    agrees(name, made(COMMON[case], tmp_path))


@ONNXRUNTIME
@pytest.mark.parametrize("name", BOTH[:1])
@pytest.mark.parametrize("case", TFLITE)
def test_small_nets_that_only_litert_is_asked_for(name: str, case: str, tmp_path: Path) -> None:
    agrees(name, made(TFLITE[case], tmp_path))


@ONNXRUNTIME
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("model", ["digits_cnn", "digits_mobilenet"])
def test_examples(name: str, model: str) -> None:
    agrees(name, EXAMPLES / f"{model}.onnx")


@ONNXRUNTIME
@pytest.mark.parametrize("name", BOTH[:1])
def test_a_transformer(name: str) -> None:
    agrees(name, EXAMPLES / "digits_transformer.onnx")


def test_all_that_tflite_has_no_words_for_is_named_at_once(tmp_path: Path) -> None:
    nodes = [node("Erf", "x", into="a"), node("Relu", "a", into="b"), node("Sin", "b", into="c"),
             node("MaxPool", "c", kernel_shape=[2, 2], dilations=[2, 2])]
    with pytest.raises(UnsupportedModel) as error:
        tflite(prepared(tiny.save(_model(nodes, {}), tmp_path / "m.onnx"), {}))
    assert [n.partition(" ")[0] for n in error.value.nodes] == ["Erf", "Sin", "MaxPool"]
    for word in ("Erf", "Sin", "dilations"):
        assert word in str(error.value)


@pytest.mark.parametrize("name", BOTH)
def test_recurrent_layers_are_refused(name: str, tmp_path: Path) -> None:
    model = _model([helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=4)], {"w": weight(1, 12, 6), "r": weight(1, 12, 4)},
                   {"x": [5, 1, 6]})
    with pytest.raises(UnsupportedModel, match=f"{name} cannot be fed this model"):
        peers.load(name, tiny.save(model, tmp_path / "m.onnx"))


@pytest.mark.parametrize("name", BOTH[1:])
def test_ncnn_takes_one_sample_and_names_all_layers_that_it_lacks(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="one sample at a time, without an axis for more: x"):
        peers.load(name, tiny.save(tiny.model(batch=3), tmp_path / "batch.onnx"))
    nodes = [node("Gather", "x", "i", into="a", axis=2), node("Gather", "a", "i", axis=3)]
    with pytest.raises(UnsupportedModel, match="it has no layer"):
        peers.load(name, tiny.save(_model(nodes, {"i": ints(3, 1, 2)}), tmp_path / "gather.onnx"))


def test_a_missing_package_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    for name, words in (("litert", "ai_edge_litert and flatbuffers, .*edgec.peers"), ("ncnn", "ncnn and pnnx, .*edgec.peers")):
        assert not peers.is_installed(name)
        with pytest.raises(ToolMissing, match=words):
            peers.load(name, b"")
    monkeypatch.setattr(peers, "find_spec", lambda n: None if n == "pnnx" else n)
    with pytest.raises(ToolMissing, match=r"without pnnx, .*pip install --no-deps pnnx"):
        peers.load("ncnn", b"")
    with pytest.raises(UsageError, match="onnxruntime, openvino, litert and ncnn, not with tvm"):
        peers.load("tvm", b"")


def model_and_bundle(tmp_path: Path) -> tuple[Path, Any]:
    path = tiny.save(tiny.model(), tmp_path / "tiny.onnx")
    return path, edgec.build(path, target="host", output=tmp_path / "tiny.edgec")


@ONNXRUNTIME
@pytest.mark.parametrize("name", BOTH)
def test_bench_takes_them(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, bundle = model_and_bundle(tmp_path)
    words = ["bench", str(bundle.path), "--model", str(path), "--vs", name, "--from-c", "--iters", "3"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["peers"][name]
    assert facts["interval"][0] <= facts["ratio"] <= facts["interval"][1]
    assert facts["from_c"]["ratio"] > 0
    assert facts["precision"] == "f32"
    assert facts["checked"]["by"].startswith("onnxruntime ")
    assert facts["checked"]["error"] < 1e-4
    assert facts["error"] < 1e-4
    assert facts["version"]
    assert ("pnnx" in facts["made_with"]) == (name == "ncnn")


def wrong(scale: float) -> Callable[..., peers.Peer]:
    """A runtime that computes something else."""
    def load(model: Path | bytes, threads: int, shapes: peers.Shapes) -> peers.Peer:
        real = peers.PEERS["onnxruntime"](model, threads, shapes)
        return peers.Peer("ncnn", "0", lambda f: {k: v * np.float32(scale) for k, v in real.run(f).items()}, real.bind, "f32", {})

    return load


@ONNXRUNTIME
def test_a_peer_that_is_wrong_or_refuses_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any) -> peers.Peer:
        raise UnsupportedModel("no words for Conv 'conv'", ["conv"])

    path, bundle = model_and_bundle(tmp_path)
    monkeypatch.setattr(peers, "_missing", lambda _: [])
    monkeypatch.setattr(peers, "PEERS", {**peers.PEERS, "ncnn": wrong(1.01), "litert": refuse})
    held = hold({"edgec": bundle}, path, ["onnxruntime", "litert", "ncnn"], Rules(1, iterations=2))
    assert [*held.peers] == ["onnxruntime"]
    assert held.refused["litert"] == "litert cannot be fed this model: no words for Conv 'conv'"
    assert held.refused["ncnn"].startswith("ncnn computes something else than onnxruntime: y is off by ")
    assert held.facts("edgec", bundle)["refused"] == held.refused
    words = ["bench", str(bundle.path), "--model", str(path), "--iters", "2", "--vs"]
    assert main([*words, "onnxruntime,litert"]) == 0
    said = capsys.readouterr()
    assert "refused" in said.out
    assert "no words for Conv" in said.err
    assert main([*words, "litert,ncnn"]) == UnsupportedModel.exit_code
    assert "no words for Conv" in capsys.readouterr().err
    monkeypatch.setattr(peers, "PEERS", {**peers.PEERS, "ncnn": wrong(1.0)})
    assert [*hold({"edgec": bundle}, path, ["ncnn"], Rules(1, iterations=2)).peers] == ["ncnn"]


@ONNXRUNTIME
def test_only_peers_with_formats_of_their_own_are_checked(tmp_path: Path) -> None:
    path, bundle = model_and_bundle(tmp_path)
    checked, bad = contest._check({"onnxruntime": peers.load("onnxruntime", path)}, [], path, {}, {})
    assert (checked, bad) == ({}, {})
    odd = {"ncnn": wrong(1.01)(path, 1, {})}
    feeds = [{"x": RANDOM.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(2)]
    checked, bad = contest._check(odd, feeds, path, {}, {"ncnn": 1e-6})     # it agrees with the bundle
    assert checked["ncnn"]["error"] > 1e-3
    assert not bad
    for error in (0.1, None):
        assert [*contest._check(odd, feeds, path, {}, {"ncnn": error})[1]] == ["ncnn"]
    assert "checked" not in hold({"edgec": bundle}, path, ["onnxruntime"], Rules(1, iterations=2)).against("edgec", "onnxruntime")


def test_an_order_and_a_reshape_of_any_shape() -> None:
    random = np.random.default_rng(0)
    for _ in range(500):
        factors = [int(f) for f in random.choice([1, 2, 3, 4], random.integers(1, 6))]
        old, new = split(factors, random), split(factors, random)
        order = tuple(int(i) for i in random.permutation(len(old)))
        array = random.random(old)
        before, after = reshaped(old, new, order)
        assert sorted(before) == list(range(len(old)))
        lain = array.transpose(before).reshape([new[a] for a in after])
        np.testing.assert_array_equal(lain, array.reshape(new).transpose(after))
        permutation = moved(old, order, before)
        have = array.transpose(order)
        want = have if permutation is None else have.transpose(permutation)
        np.testing.assert_array_equal(want.ravel(), array.transpose(before).ravel())


def split(factors: Sequence[int], random: np.random.Generator) -> list[int]:
    """A shape with the product of some factors, and with axes of one element."""
    cuts = sorted(int(c) for c in random.choice(len(factors) + 1, random.integers(0, 4)))
    return [prod(factors[a:b]) for a, b in zip([0, *cuts], [*cuts, len(factors)], strict=True)]


def test_channels_stay_last_through_a_shuffle() -> None:
    assert groups([1, 8, 12, 10], [1, 2, 4, 12, 10]) == [([0], [0]), ([1], [1, 2]), ([2], [3]), ([3], [4])]
    assert reshaped([1, 8, 12, 10], [1, 2, 4, 12, 10], (0, 2, 3, 1)) == ((0, 2, 3, 1), (0, 3, 4, 1, 2))
    assert moved([1, 8, 1, 1], (0, 2, 3, 1), (0, 1, 2, 3)) is None
    assert moved([1, 8, 2, 1], (0, 2, 3, 1), (0, 1, 2, 3)) == (0, 3, 1, 2)
    assert reduced((0, 2, 3, 1), [2, 3]) == (0, 1)


def test_a_net_of_images_is_transposed_once(tmp_path: Path) -> None:
    written = tflite(prepared(tiny.save(_model(*COMMON["residual"]), tmp_path / "m.onnx"), {}))
    assert [n.op for n in written.nodes] == ["tfl.Transpose", "tfl.Conv2D", "tfl.Add", "tfl.Transpose"]
    assert [n.attrs["activation"] for n in written.nodes if "activation" in n.attrs] == ["RELU", "RELU"]
