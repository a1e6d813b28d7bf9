"""Every model that there is, imported, printed and read back: the same graph, with nothing left out."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from onnx.backend.test.case.node import collect_testcases

from edgec.ir.graph import Array, Graph
from edgec.lang.text import load, parse, save, show
from edgec.onnx import import_model
from edgec.testing import difference
from tests.shared import MODELS, needs_models

COUNT = 1884
QUICK = ["mnist_opset8", "silero_vad_if", "yunet_n_dynamic", "logreg_wine_zipmap", "rf_digits", "mobilenetv2_qdq_s8_nchw", "squeezenet_fp16"]


def fault(graph: Graph) -> str | None:
    """How the graph differs after printing and reading it, None when it does not."""
    blobs: dict[str, Array] = {}
    text = show(graph, blobs)
    back = parse(text, "back", blobs)
    if show(back, {}) != text:
        return "its text changes"
    return difference(graph, back)


@cache
def node_tests() -> tuple[Any, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, from computing what the tests expect
        return tuple(collect_testcases(None))


def faults(cases: tuple[Any, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for case in cases:
        try:
            wrong = fault(import_model(case.model))
        except Exception as error:  # noqa: BLE001  each is a fault, and all of them are wanted
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            found[case.name] = wrong
    return found


def test_a_share_of_the_node_tests_of_onnx() -> None:
    assert faults(node_tests()[::12]) == {}


@pytest.mark.slow
def test_all_node_tests_of_onnx() -> None:
    assert len(node_tests()) >= COUNT
    assert faults(node_tests()) == {}


@needs_models
@pytest.mark.parametrize("path", [p if p.stem in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in MODELS], ids=lambda p: p.stem)
def test_shared_models(path: Path, tmp_path: Path) -> None:
    graph = import_model(path)
    assert fault(graph) is None
    save(graph, tmp_path / "model.edge")
    assert difference(graph, load(tmp_path / "model.edge")) is None
