"""Accuracy budgets: the choice is the best one, it is verified, and what cannot be met is refused with its price."""

import re
from collections.abc import Mapping
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec
from edgec.access import module
from edgec.build import read
from edgec.calibrate import cosine
from edgec.cli import main
from edgec.codegen.manifest import read_manifest
from edgec.errors import DoesNotFit, UsageError
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array
from edgec.pipeline import Context, run_passes
from edgec.study import budget
from edgec.study.budget import BOTH, Accuracy, Row, passes, select
from edgec.study.outputs import Outputs

CATALOG, PORTABLE = module("passes.catalog").CATALOG, module("passes.catalog").PORTABLE
MODEL = Path(__file__).resolve().parent.parent / "examples" / "models" / "digits_cnn.onnx"
COUNT = 16


def digits(count: int, first: int = 0) -> tuple[Array, Array]:
    with np.load(MODEL.parent / "digits_test.npz") as data:
        return data["images"][first:first + count].astype(np.float32) / 255, data["labels"][first:first + count].astype(np.int64)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget")
    images, labels = digits(COUNT)
    np.savez(folder / "x.npz", image=images)
    np.save(folder / "y.npy", labels)
    return folder


@pytest.fixture
def rough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitting low-rank layers takes most of the time here, and test_factorize.py judges it: few choices, probes and steps."""
    monkeypatch.setattr(budget, "_TRIES", 2)
    monkeypatch.setattr(budget, "_SMALLER", 2)
    monkeypatch.setattr(module("passes.factorize"), "_WORK", 1e9)
    monkeypatch.setattr(module("passes.factorize"), "_PROBES", 8)
    monkeypatch.setattr(module("passes.changes.low_rank"), "_STEPS", 30)
    monkeypatch.setattr(module("passes.changes.tuning"), "_WORK", 6e10)


def best(rows: list[Row], limits: list[float]) -> float:
    """What the best choice saves, by trying all."""
    layers = list(dict.fromkeys(r.layer for r in rows))
    found = 0.0
    for picked in product(*([None, *(r for r in rows if r.layer == layer)] for layer in layers)):
        chosen = [r for r in picked if r is not None]
        if all(sum(r.noise[i] for r in chosen) <= limit * (1 + 1e-9) for i, limit in enumerate(limits)):
            found = max(found, sum(r.saved for r in chosen))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_no_choice_saves_more(seed: int) -> None:
    draw = np.random.default_rng(seed)
    outputs = int(draw.integers(1, 3))
    rows = [Row(f"l{i}", f"e{j}", float(draw.uniform(0.1, 5)), tuple(map(float, 10 ** draw.uniform(-4, 0, outputs))))
            for i in range(int(draw.integers(1, 6))) for j in range(int(draw.integers(1, 4)))]
    limits = [float(x) for x in 10 ** draw.uniform(-4, 0.5, outputs)]
    choice = select(rows, limits)
    chosen = [r for r in rows if choice.get(r.layer) == r.edit]
    assert all(sum(r.noise[i] for r in chosen) <= limit * (1 + 1e-5) for i, limit in enumerate(limits))
    assert sum(r.saved for r in chosen) == pytest.approx(best(rows, limits), rel=1e-5)


def test_limits_are_what_noise_reaches() -> None:
    scores = np.random.default_rng(0).standard_normal((500, 10))
    reference = Outputs.of(["y"], [[scores]])
    limit, = Accuracy(cosine=0.99).limits(reference)
    assert reference.cosine([limit]) == pytest.approx(0.99)
    limit, = Accuracy(drop=0.05).limits(reference)
    assert reference.flips([limit]) == pytest.approx(0.05, rel=1e-3)
    assert Accuracy(drop=0.05, cosine=0.9999).limits(reference)[0] == pytest.approx(reference.signal[0] * (0.9999**-2 - 1))


def test_int8_keeps_the_layers_that_a_cosine_needs(samples: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    bundle = edgec.build(MODEL, "host", tmp_path / "m.edgec", int8=True, calibrate=samples / "x.npz", min_cosine=0.99993, notes=notes)
    manifest = bundle.manifest
    kept, chosen = manifest["options"]["keep"], manifest["accuracy"]["chosen"]
    assert kept
    assert chosen
    assert {*kept, *chosen} == {layer["name"] for layer in manifest["study"]["layers"]}
    assert manifest["accuracy"]["cosine"] >= 0.99993
    assert any(n.startswith(f"int8: {len(chosen)} of 7 layers, predicted to save ") and "held-out samples" in n for n in notes)
    images, _ = digits(16, first=700)
    graph, session = read(MODEL, static=True), bundle.load()
    made, wanted = (np.concatenate([run({"image": i[None]})["logits"] for i in images])
                    for run in (session.run, lambda f: evaluate(graph, f)))
    assert cosine(made, wanted) >= 0.9995                              # other images, and the machine decides which layers
    whole = edgec.build(MODEL, "host", tmp_path / "w.edgec", int8=True, calibrate=samples / "x.npz").load()
    assert cosine(np.concatenate([whole.run({"image": i[None]})["logits"] for i in images]), wanted) < cosine(made, wanted)


@pytest.mark.usefixtures("rough")
def test_a_drop_of_right_answers_is_kept(samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", str(MODEL), "-t", "cortex-a72", "-o", str(tmp_path / "m.edgec"), "--rank", "auto", "--calibrate",
               str(samples / "x.npz"), "--max-drop", "1%", "--labels", str(samples / "y.npy")]
    assert main(command) == 0
    manifest = read_manifest(tmp_path / "m.edgec")
    assert manifest["accuracy"]["drop"] <= 0.01
    assert 0 < manifest["accuracy"]["saved"] < 1
    assert {part.partition("=")[0] for part in manifest["options"]["rank"].split(",")} == set(manifest["accuracy"]["chosen"])
    assert "4 held-out samples tell no drop under 25.00% apart from none" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "m.edgec"), "-o", str(tmp_path / "m.html")]) == 0
    assert (tmp_path / "m.html").read_text().count('class="layer"') == 7


@pytest.mark.usefixtures("rough")
@pytest.mark.parametrize("how", [["--int8"], ["--rank", "auto"]])
def test_what_cannot_be_met_is_refused_with_its_price(samples: Path, tmp_path: Path, how: list[str],
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", str(MODEL), "-o", str(tmp_path / "m.edgec"), "--calibrate", str(samples / "x.npz"), *how,
               "--min-cosine", "0.99999999"]
    assert main(command) == 4
    said = capsys.readouterr().err
    assert "within a cosine of 0.99999999, on 4 held-out samples: the gentlest edit is " in said
    assert "less time for a drop of " in said
    assert "7 of 7 layers" in said or "of 7 layers, " in said
    assert list(tmp_path.iterdir()) == []


def near_ties(folder: Path) -> Path:
    """One layer with 128 classes whose scores differ by less than bytes can tell, and samples with the classes that reals tell."""
    random = np.random.default_rng(0)
    column = random.standard_normal((512, 1))
    weights = (column + 1e-4 * random.standard_normal((512, 128))).astype(np.float32)
    x = random.standard_normal((64, 512)).astype(np.float32)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "scores")], "ties",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 512])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 128])], [numpy_helper.from_array(weights, "w")])
    path = folder / "ties.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    np.savez(folder / "ties.npz", x=x)
    np.save(folder / "ties.npy", (x.astype(np.float64) @ weights).argmax(1))
    return path


@pytest.mark.parametrize("how", [["--int8"], ["--rank", "auto"]])
@pytest.mark.parametrize("score", [["--labels", "ties.npy"], []])
def test_a_drop_that_cannot_be_kept_is_refused_with_its_price(tmp_path: Path, how: list[str], score: list[str],
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    path = near_ties(tmp_path)
    before = set(tmp_path.iterdir())
    command = ["build", str(path), "-t", "cortex-a72", "-o", str(tmp_path / "m.edgec"), *how, "--calibrate", str(tmp_path / "ties.npz"),
               "--max-drop", "1%", *score[:1], *(str(tmp_path / name) for name in score[1:])]
    assert main(command) == 4
    said = capsys.readouterr().err
    assert "within a drop of 1.00%, on 16 held-out samples: the gentlest edit is " in said
    drop = re.search(r"its price: 1 of 1 layers, \d+% less time for a drop of ([\d.]+)%", said)
    assert drop is not None
    assert float(drop[1]) > 1
    assert set(tmp_path.iterdir()) == before


def test_int8_within_a_drop_of_right_answers(samples: Path, tmp_path: Path) -> None:
    """The same flags on a net that bears it: every layer is quantized, and no held-out answer is another one."""
    bundle = edgec.build(MODEL, "cortex-a72", tmp_path / "m.edgec", int8=True, calibrate=samples / "x.npz", max_drop=0.01,
                         labels=samples / "y.npy")
    assert bundle.manifest["accuracy"]["drop"] <= 0.01
    assert len(bundle.manifest["accuracy"]["chosen"]) == len(bundle.manifest["study"]["layers"])


@pytest.mark.usefixtures("rough")
def test_a_ratio_is_measured_as_it_is(tmp_path: Path) -> None:
    samples = {"image": digits(32)[0]}                                 # fewer are too few for all layers at once
    alone = "rank 2.5, each layer fitted by itself, costs a drop of"
    with pytest.raises(DoesNotFit, match=rf"rank 4.0 costs a drop of .* of 0.999 is asked; {alone} .*; auto keeps "):
        edgec.build(MODEL, output=tmp_path / "m.edgec", rank=4.0, calibrate=samples, min_cosine=0.999)
    bundle = edgec.build(MODEL, output=tmp_path / "m.edgec", rank=1.5, calibrate=samples, min_cosine=0.9)
    assert bundle.manifest["options"]["rank"] == "1.5"
    assert bundle.manifest["accuracy"]["cosine"] >= 0.9


@pytest.mark.parametrize(("more", "message"), [
    ({"max_drop": 0.01}, "one of the two is needed"),
    ({"int8": True, "max_drop": 1.5}, "a share from 0 to 1"), ({"int8": True, "min_cosine": 2.0}, "--min-cosine 2"),
    ({"int8": True, "labels": np.zeros(COUNT, int)}, "no budget that it is for")])
def test_flags_that_do_not_fit_together_are_refused(samples: Path, tmp_path: Path, more: Mapping[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edgec.build(MODEL, output=tmp_path / "m.edgec", calibrate=samples / "x.npz", **more)  # type: ignore[arg-type]


def test_each_layer_gets_its_edit() -> None:
    """One layer low-rank, one of bytes, the others as they are: the parts of the first are not quantized."""
    graph = run_passes(read(MODEL, static=True), PORTABLE, CATALOG)
    names = [n.origin for n in graph.nodes if n.op in ("Conv", "Gemm")]
    options = BOTH.options({names[2]: "rank-1/2", names[4]: "int8"}, names)
    assert options == {"rank": f"{names[2]}=/2", "int8": True, "keep": [n for n in names if n != names[4]]}
    made = run_passes(graph, passes(options), CATALOG, Context(samples=[{"image": i[None]} for i in digits(8)[0]]))
    stored = {v for v, a in made.weights.items() if a.dtype == np.int8 and prod(a.shape) > 1}
    scaled = {n.output for n in made.nodes if n.op == "DequantizeLinear" and n.inputs[0] in stored}
    found = [(n.origin, n.inputs[1] in scaled) for n in made.nodes if n.op in ("Conv", "Gemm")]
    assert len([origin for origin, _ in found if origin == names[2]]) in (2, 3)
    assert {origin for origin, is_int8 in found if is_int8} == {names[4]}
    assert {origin for origin, _ in found} == set(names)


@pytest.mark.usefixtures("rough")
def test_both_ways_share_a_budget(samples: Path, tmp_path: Path) -> None:
    bundle = edgec.build(MODEL, "cortex-a72", tmp_path / "m.edgec", int8=True, rank="auto", calibrate=samples / "x.npz", min_cosine=0.999)
    accuracy, told = bundle.manifest["accuracy"], bundle.manifest["options"]
    assert accuracy["cosine"] >= 0.999
    assert set(accuracy["chosen"].values()) <= {"int8", "rank-1/2", "rank-1/4"}
    whole = [name for name, edit in accuracy["chosen"].items() if edit == "int8"]
    assert {layer["name"] for layer in bundle.manifest["study"]["layers"]} == {*whole, *told.get("keep", ())}
    assert all(f"{name}=/" in told.get("rank", "") for name in {*accuracy["chosen"]} - {*whole})


def test_too_few_samples_judge_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gives 5 runs, at least 8 are needed"):
        edgec.build(MODEL, output=tmp_path / "m.edgec", int8=True, min_cosine=0.9, calibrate={"image": digits(5)[0]})
    with pytest.raises(UsageError, match="say --calibrate"):
        edgec.build(MODEL, output=tmp_path / "m.edgec", rank="auto", min_cosine=0.9)


def test_quantize_leaves_alone_what_it_is_told_to_keep() -> None:
    graph = run_passes(read(MODEL, static=True), PORTABLE, CATALOG)
    feeds = [{"image": i[None]} for i in digits(8)[0]]
    names = [n.origin for n in graph.nodes if n.op in ("Conv", "Gemm")]

    def quantized(keep: str) -> tuple[list[str], Context]:
        context = Context(samples=feeds)
        made = run_passes(graph, module("passes.catalog").step("quantize", {"int8": True, "keep": keep}), CATALOG, context)
        stored = {v for v, a in made.weights.items() if a.dtype == np.int8 and prod(a.shape) > 1}
        scaled = {n.output for n in made.nodes if n.op == "DequantizeLinear" and n.inputs[0] in stored}
        return [n.origin for n in made.nodes if n.op in ("Conv", "Gemm") and n.inputs[1] in scaled], context

    assert quantized("")[0] == names
    left, context = quantized(f"{names[1]}|{names[4]}")
    assert left == [n for n in names if n not in (names[1], names[4])]
    assert f"int8: {names[1]} stays in f32: it was asked for" in context.notes
    with pytest.raises(UsageError, match="no layer is called so; did you mean /9/Gemm"):
        quantized("/9/Gem")
