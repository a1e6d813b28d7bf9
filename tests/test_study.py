"""The study: it names the layer that breaks, and its predictions rank edits as measurements do."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from edgec.access import module
from edgec.build import read
from edgec.cli import main
from edgec.errors import BadInput
from edgec.ir.edit import splice
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array, Graph
from edgec.lang.text import parse
from edgec.pipeline import run_passes
from edgec.study.edits import EDITS, Edited
from edgec.study.layers import Layer, Walk, layers
from edgec.study.model import drawn
from edgec.study.outputs import Outputs
from edgec.study.study import Study, study
from edgec.target import find
from tests.shared import model

CATALOG, PORTABLE = module("passes.catalog").CATALOG, module("passes.catalog").PORTABLE
MODELS = Path(__file__).resolve().parent.parent / "examples" / "models"
ENOUGH = 0.8


def canonical(path: Path) -> Graph:
    return run_passes(read(path, static=True), PORTABLE, CATALOG)


def digits(count: int, first: int = 0) -> list[Mapping[str, Array]]:
    with np.load(MODELS / "digits_test.npz") as data:
        images = data["images"][first:first + count].astype(np.float32) / 255
    return [{"image": i[None]} for i in images]


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Parts of layers need not be the best ones: what they lose is predicted and measured for the same parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module("passes.changes.low_rank"), "_STEPS", 30)
        yield


@pytest.fixture(scope="module")
def cnn() -> Graph:
    return canonical(MODELS / "digits_cnn.onnx")


@pytest.fixture(scope="module")
def studied(cnn: Graph) -> Study:
    return study(cnn, find("cortex-a72"), digits(16))


def measured(graph: Graph, fit: list[Mapping[str, Array]], held: list[Mapping[str, Array]]) -> dict[tuple[str, str], float]:
    """What each edit of each layer really loses: the edited net is evaluated as a whole, on samples that nothing was fitted to."""
    names = [v.name for v in graph.outputs]

    def run(net: Graph) -> list[list[Array]]:
        return [[evaluate(net, f)[n] for n in names] for f in held]

    reference, lost = Outputs.of(names, run(graph)), dict[tuple[str, str], float]()
    known = layers(graph)
    for node in (walk := Walk(graph, fit)):
        layer = known.get(node)
        if isinstance(layer, Layer):
            read_there = [values[layer.alone.inputs[0]] for values in walk.known]
            for edit in EDITS.values():
                made = edit.make(layer, read_there, find("cortex-a72"))
                if isinstance(made, Edited):
                    lost[layer.name, edit.name] = reference.lost(reference.noise(run(splice(graph, {node: made.graph.nodes},
                                                                                             made.graph.weights))))
    return lost


def agree(found: Study, wanted: Mapping[tuple[str, str], float]) -> float:
    predicted = {(s.name, e): f.lost for s in found.layers for e, f in s.effects.items()}
    assert predicted.keys() == wanted.keys()
    return float(spearmanr([predicted[k] for k in wanted], list(wanted.values()))[0])


@pytest.fixture(scope="module")
def wanted(cnn: Graph) -> dict[tuple[str, str], float]:
    return measured(cnn, digits(16), digits(16, first=500))


def test_predictions_rank_edits_as_measurements_do(studied: Study, wanted: dict[tuple[str, str], float]) -> None:
    assert len(wanted) >= 30
    assert agree(studied, wanted) >= ENOUGH
    assert min(wanted.values()) < 1e-4
    assert max(wanted.values()) > 1e-2


def test_one_error_for_each_layer_is_enough_to_rank(cnn: Graph, wanted: dict[tuple[str, str], float],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.study.study._WORK", 1.0)
    found = study(cnn, find("cortex-a72"), digits(16))
    sent = [[e for e, f in s.effects.items() if f.sent] for s in found.layers]
    assert found.probes == 4
    assert sent == [["int8"]] * len(found.layers)
    assert agree(found, wanted) >= ENOUGH


@pytest.mark.slow
def test_resnet20_is_ranked_as_measured() -> None:
    net = canonical(model("resnet20_cifar10_fp32"))
    given = list(drawn(net, 0).feeds)
    assert agree(study(net, find("cortex-a72"), given), measured(net, given, list(drawn(net, 1).feeds)[:8])) >= ENOUGH


def planted(graph: Graph, name: str, factor: float) -> Graph:
    """The same function, with one channel of what a layer reads so much larger, and the weights that read it so much smaller."""
    node = next(n for n in graph.nodes if n.origin == name)
    before = graph.producer[node.inputs[0]]              # type: ignore[index]
    while before.op != "Conv":
        assert before.op in ("Relu", "MaxPool")          # a positive factor passes through
        before = graph.producer[before.inputs[0]]        # type: ignore[index]
    weights = dict(graph.weights)
    for value, axis, by in ((before.inputs[1], 0, factor), (before.inputs[2], 0, factor), (node.inputs[1], 1, 1 / factor)):
        assert value is not None
        array = weights[value].copy()
        array.swapaxes(0, axis)[3] *= by
        weights[value] = array
    return replace(graph, weights=weights)


def test_a_layer_that_reads_one_outlier_channel_is_named_first(cnn: Graph, studied: Study) -> None:
    convolutions = [n.origin for n in cnn.nodes if n.op == "Conv"]
    net, given = planted(cnn, convolutions[1], 512.0), digits(16)
    for feeds in given[:2]:
        assert np.abs(evaluate(net, feeds)["logits"] - evaluate(cnn, feeds)["logits"]).max() < 1e-3
    found = study(net, find("cortex-a72"), given)
    assert (found.ranking[0].name, found.ranking[0].worst) == (convolutions[1], "int8")
    assert found.ranking[0].score > 5 * found.ranking[1].score
    assert studied.ranking[0].worst != "int8"


def test_figures_are_what_they_say(cnn: Graph, studied: Study) -> None:
    assert [s.name for s in studied.layers] == [n.origin for n in cnn.nodes if n.op in ("Conv", "Gemm")]
    for s in studied.layers:
        size, stored = int(np.prod(s.weight)), s.cost.bytes
        assert stored >= 4 * size
        assert s.effects["fp16"].bytes == 2 * size
        assert s.effects["rank-1/2"].bytes > 1.9 * size
        assert 0.5 * stored < s.effects["int8"].bytes <= 0.75 * stored or size < 400
        assert s.effects["sparse-80"].bytes > s.effects["sparse-50"].bytes > 0
        assert all(f.energy > 0 for f in s.effects.values())
        assert {e for e, f in s.effects.items() if "sparse kernels" in f.guessed} == {"sparse-50", "sparse-80"}
        assert s.effects["sparse-50"].lost < s.effects["sparse-80"].lost
        assert s.effects["fp16"].lost < s.effects["int8"].lost < s.effects["rank-1/4"].lost
    assert sum(s.cost.us for s in studied.layers) > 0


def test_the_effects_of_noise_are_those_of_real_noise() -> None:
    draw = np.random.default_rng(0)
    scores = draw.standard_normal((4000, 10))
    reference = Outputs.of(["y"], [[scores]])
    other = scores + 0.3 * draw.standard_normal(scores.shape)
    noise = reference.noise([[other]])
    assert noise[0] == pytest.approx(0.09 * scores.size, rel=0.05)
    assert reference.cosine(noise) == pytest.approx((scores * other).sum() / np.linalg.norm(scores) / np.linalg.norm(other), abs=2e-3)
    assert reference.flips(noise) == pytest.approx(float((scores.argmax(1) != other.argmax(1)).mean()), rel=0.15)
    assert reference.decibels(noise) == pytest.approx(10 * np.log10(1 / 0.09), abs=0.2)
    assert reference.lost(noise) == pytest.approx(0.09, rel=0.1)
    assert (reference.cosine([0.0]), reference.flips([0.0]), reference.decibels([0.0])) == (1.0, 0.0, float("inf"))


NET = """
graph @net(%x: f32[1,8,6,6], %z: f32[6,4]) {
  %w: f32[8,1,3,3] = random 1
  %m: f32[6,4] = random 2
  %c: f32[1,8,6,6] = Conv(%x, %w) {kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1], group=8} at "deep"
  %y: f32[1,8,6,4] = MatMul(%c, %m) at "fc"
  %q: f32[1,8,6,4] = MatMul(%c, %z) at "both"
  return %y, %q
}"""


def test_what_is_left_out_says_why() -> None:
    net = parse(NET)
    found = study(net, find("host"), list(drawn(net, 0).feeds))
    assert found.skipped == {"both": "its right operand is computed"}
    deep, fc = found.layers
    assert "channels are in groups" in deep.refused["rank-1/2"]
    assert fc.effects["int8"].lost > 0
    assert len(fc.effects["int8"].noise) == 2
    with pytest.raises(BadInput, match="no layer to study: both: its right operand is computed"):
        study(replace(net, nodes=net.nodes[2:], inputs=(*net.inputs, net.nodes[0].output), outputs=net.outputs[1:]), find("host"), [])


SMALL = """
graph @small(%x: f32[1,16,6,6]) {
  %i: i8[32,16,1,1] = random 1
  %w: f32[32,16,1,1] = Cast(%i) {to=1} at "w"
  %y: f32[1,32,6,6] = Conv(%x, %w) {kernel_shape=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1], group=1} at "point"
  return %y
}"""


def test_weights_that_are_stored_as_integers_are_studied_as_reals() -> None:
    net = parse(SMALL)
    found, = study(net, find("cortex-a72"), list(drawn(net, 0).feeds)).layers
    assert found.cost.bytes == 512
    assert found.effects["fp16"].bytes == -512
    assert found.effects["int8"].bytes < 0
    assert found.effects["int8"].lost < 1e-3 < found.effects["sparse-80"].lost


def test_the_command_tells_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, plot = tmp_path / "made" / "s.json", tmp_path / "s.svg"
    command = ["study", str(MODELS / "digits_cnn.onnx"), "--target", "cortex-a72", "--edits", "int8,fp16"]
    assert main([*command, "-o", str(place), "--plot", str(plot)]) == 0
    said = capsys.readouterr()
    assert "warning: there are no samples, so 32 random inputs" in said.err
    facts = json.loads(place.read_text())
    assert f"breaks first: {facts['ranking'][0]}, " in said.out
    assert "energy by the table 45nm" in said.out
    assert plot.read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert plot.read_text().count('class="layer"') == len(facts["layers"]) == 7
    np.savez(tmp_path / "x.npz", image=np.concatenate([f["image"] for f in digits(8)]))
    assert main([*command, "--calibrate", str(tmp_path / "x.npz"), "--json"]) == 0
    said = capsys.readouterr()
    assert "8 samples; with fewer than 32" in said.err
    assert json.loads(said.out)["samples"] == 8
    assert main(["study", str(MODELS / "digits_cnn.onnx"), "--edits", "int4"]) == 2
    assert "no edit is called int4; there are rank-1/2" in capsys.readouterr().err


def test_the_report_shows_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, place = tmp_path / "d.edgec", tmp_path / "s.json"
    cnn = str(MODELS / "digits_cnn.onnx")
    assert main(["build", cnn, "-o", str(bundle)]) == 0
    assert main(["study", cnn, "--edits", "fp16", "-o", str(place)]) == 0
    assert main(["report", str(bundle), "--study", str(place), "-o", str(tmp_path / "d.html")]) == 0
    text = (tmp_path / "d.html").read_text()
    facts = json.loads(place.read_text())
    assert text.count('class="layer"') == len(facts["layers"])
    assert "What edits of each layer of digits_cnn are expected to do" in text
    (tmp_path / "no.json").write_text("[]")
    for wrong, message in (("none.json", "there is no file"), ("no.json", "is no study")):
        assert main(["report", str(bundle), "--study", str(tmp_path / wrong)]) == 3
        assert message in capsys.readouterr().err
