"""The table of ratios: its models can be found and are what their names say, and verdicts follow from ratios. Nothing is timed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.benchmarks.made import MADE
from tests.benchmarks.models import binding, find, flags
from tests.benchmarks.table import GOALS, Goal, rows, rows_beside, verdict


def best(ratio: float, from_c: float | None = None) -> dict[str, Any]:
    return {"ratio": ratio, "interval": [ratio, ratio], "peer": "openvino"} | ({"from_c": {"ratio": from_c}} if from_c else {})


@pytest.mark.parametrize(("default", "exact", "word"), [
    (0.5, 0.9, "aim"), (0.8, 0.9, "must"), (0.95, 0.9, "missed: default"), (0.8, 1.1, "missed: exact"),
    (1.2, 1.2, "missed: default, exact")])
def test_verdicts(default: float, exact: float, word: str) -> None:
    assert verdict(Goal(0.9, 0.7), best(default), best(exact)) == word


def test_a_goal_from_c() -> None:
    goal = Goal(1.0, 1.0, 0.3)
    assert verdict(goal, best(0.9, 0.2), best(0.9)) == "aim"
    assert verdict(goal, best(0.9, 0.4), best(0.9)) == "missed: from C"


def test_rows_of_what_was_timed() -> None:
    peers = {p: {"ratio": r} for p, r in (("onnxruntime", 0.7), ("openvino", 0.8))}
    facts = {"edgec": {"best": best(0.8), "peers": peers}, "exact": {"best": best(0.85), "peers": peers}}
    made = list(rows({"light_resnet50 2": facts, "gru_64 1": facts}, 2))
    assert [row[0] for row in made] == ["light_resnet50"]
    assert made[0][-1] == "must"
    assert made[0][3:5] == ("0.70", "0.80")


def test_a_row_beside_peers_that_may_refuse() -> None:
    times = {"ratio": 0.5, "interval": [0.4, 0.6], "from_c": {"ratio": 0.3}}
    facts = {"edgec": {"peers": {"ncnn": times}}, "exact": {"peers": {"ncnn": {"ratio": 0.7, "interval": [0.6, 0.8]}}}}
    made = list(rows_beside({"light_resnet50 1": facts, "gru_64 1": {"refused": "no GRU"}}, 1, ("ncnn", "litert")))
    assert made == [("light_resnet50", "**0.50** (0.40 to 0.60)", "0.30", "0.70", "refused", "", ""),
                    ("gru_64", "refused", "", "", "refused", "", "")]


@pytest.mark.parametrize("name", MADE)
def test_made_models_are_valid_and_always_the_same(name: str, tmp_path: Path) -> None:
    model = MADE[name]()
    onnx.checker.check_model(model, full_check=True)
    assert MADE[name]().SerializeToString() == model.SerializeToString()
    assert onnx.load(find(name, tmp_path)).graph.output[0].name == "y"


def test_mobilenets_have_as_many_parameters_as_was_published() -> None:
    sizes = {n: sum(int(np.prod(w.dims)) for w in MADE[n]().graph.initializer) for n in MADE}
    assert sizes["mobilenet_v1_224"] == pytest.approx(4.2e6, rel=0.02)
    assert sizes["mobilenet_v2_224"] == pytest.approx(3.5e6, rel=0.02)


def test_every_model_with_a_goal_is_known(tmp_path: Path) -> None:
    for name in GOALS:
        if not name.startswith("light_"):
            assert find(name, tmp_path).exists()
    assert binding("minilm_l6_w16@8x32") == {"dims": {"batch": 8, "length": 32}}
    assert flags("minilm_l6_w16@8x32") == ["--dim=batch=8", "--dim=length=32"]
