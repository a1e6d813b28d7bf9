"""edgec measure: right answers, own functions and agreement, of bundles and models."""

import json
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.cli import main
from edgec.errors import BadInput, UsageError
from edgec.score import compared, scorer, stacked
from tests import tiny

RIGHT = np.array([2, 0, 1, 4, 3, 1, 0, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its bundle, samples, the classes that it finds for them, and a module with functions."""
    place = tmp_path_factory.mktemp("score")
    model = tiny.save(tiny.model(), place / "m.onnx")
    edgec.build(model, output=place / "m.edgec")
    x = np.random.default_rng(3).standard_normal((8, 3, 12, 12)).astype(np.float32)
    np.savez(place / "x.npz", x=x)
    session = edgec.load(place / "m.edgec")
    made = np.concatenate([session.run(i[None])["y"] for i in x])
    labels = made.argmax(1)
    labels[:2] = (labels[:2] + 1) % 5
    np.save(place / "labels.npy", labels)
    (place / "mine.py").write_text("import numpy as np\n\ndef share(results, which):\n    y = np.load('labels.npy')[which]\n"
                                   "    return float((results['y'].argmax(1) == y).mean())\n\ndef broken(results, which):\n"
                                   "    raise ValueError('no')\n\ndef nothing(results, which):\n    return float('nan')\n")
    return place


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["measure", *arguments, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("what", ["m.onnx", "m.edgec"])
def test_labels_and_functions_score(folder: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    assert measured(capsys, what, "--samples", "x.npz", "--labels", "labels.npy")["score"] == {"name": "top1", "value": 0.75}
    assert measured(capsys, what, "--samples", "x.npz", "--eval", "mine:share")["score"] == {"name": "mine:share", "value": 0.75}
    facts = measured(capsys, what, "--samples", "x.npz", "--labels", "labels.npy", "--reference", "m.onnx")
    assert facts["reference_score"] == facts["score"]
    outputs = facts["outputs"]
    assert isinstance(outputs, dict)
    assert outputs["y"]["agreement"] == 1
    assert outputs["y"]["cosine"] == pytest.approx(1)


def test_what_is_told_is_read_by_people(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    other = tiny.save(tiny.model(seed=1), folder / "other.onnx")
    assert main(["measure", "m.edgec", "--samples", "x.npz", "--labels", "labels.npy", "--reference", str(other)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("top1 0.75 on 8 samples; the reference has ")
    assert "agreement" in said.out
    assert "8 samples; with fewer than 32" in said.err


@pytest.mark.parametrize(("arguments", "code", "message"), [
    ((), 2, "nothing to measure by"), (("--labels", "x.npz"), 3, "does not hold labels"),
    (("--labels", "labels.npy", "--eval", "mine:share"), 2, "two scores"), (("--eval", "mine:none"), 2, "no function none"),
    (("--eval", "mine"), 2, "is not module:function"), (("--metric", "top1", "--reference", "m.onnx"), 2, "needs labels"),
    (("--eval", "mine:broken"), 3, "mine:broken fails with ValueError: no"), (("--eval", "mine:nothing"), 3, "which is no score")])
def test_what_cannot_be_measured_is_told(folder: Path, arguments: tuple[str, ...], code: int, message: str, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    assert main(["measure", "m.onnx", "--samples", "x.npz", *arguments]) == code
    assert message in capsys.readouterr().err


def test_scores_are_of_the_samples_that_are_named() -> None:
    score = scorer(RIGHT, None, None, 8)
    assert score is not None
    results = {"y": np.eye(5)[RIGHT[[1, 3, 5]]]}
    assert score.of(results, np.array([1, 3, 5])) == 1
    assert score.of(results, np.array([0, 3, 5])) == pytest.approx(2 / 3)
    assert scorer(None, None, None, 8) is None
    with pytest.raises(BadInput, match="8 labels for 9 samples"):
        scorer(RIGHT, None, None, 9)
    with pytest.raises(UsageError, match="no metric is called top9"):
        scorer(RIGHT, "top9", None, 8)
    own = scorer(None, None, lambda _, which: len(which), 8)
    assert own is not None
    assert own.of(results, np.arange(3)) == 3


def test_runs_are_put_together() -> None:
    runs = [{"y": np.full((2, 3), i), "n": np.array(i), "s": [1]} for i in range(4)]
    made = stacked(runs, 2)
    assert {n: a.shape for n, a in made.items()} == {"y": (8, 3), "n": (4,)}
    real = {"y": made["y"].astype(np.float32), "i": made["n"]}
    assert compared(real, real) == {"y": {"agreement": 1.0, "cosine": pytest.approx(1.0), "signal_to_noise_db": float("inf")}}
