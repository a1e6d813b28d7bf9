"""Every model that there is, imported, printed and read back: the same graph, with nothing left out."""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from onnx.backend.test.case.node import collect_testcases

from edgec.errors import UnsupportedModel
from edgec.ir.graph import Array, Graph
from edgec.lang.text import load, parse, save, show
from edgec.onnx import import_model
from edgec.onnx_load import load as load_proto
from edgec.onnx_read import read
from edgec.testing import difference
from tests.shared import MODELS, needs_models

COUNT = 1884


def fault(graph: Graph) -> str | None:
    """How the graph differs after printing and reading it, None when it does not."""
    blobs: dict[str, Array] = {}
    text = show(graph, blobs)
    back = parse(text, "back", blobs)
    if show(back, {}) != text:
        return "its text changes"
    return difference(graph, back)


def graphs(model: Any) -> Iterator[Graph]:
    """The graph as it stands in the file, and as it is imported, where its operators can be."""
    yield read(load_proto(model))
    with suppress(UnsupportedModel):
        yield import_model(model)


def test_all_node_tests_of_onnx() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, from computing what the tests expect
        cases = collect_testcases(None)
    faults: dict[str, str] = {}
    for case in cases:
        try:
            wrong = [w for g in graphs(case.model) if (w := fault(g))]
        except Exception as error:  # noqa: BLE001  each is a fault, and all of them are wanted
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            faults[case.name] = wrong[0]
    assert faults == {}
    assert len(cases) >= COUNT


@needs_models
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_shared_models(path: Path, tmp_path: Path) -> None:
    for graph in graphs(path):
        assert fault(graph) is None
        save(graph, tmp_path / "model.edge")
        assert difference(graph, load(tmp_path / "model.edge")) is None
