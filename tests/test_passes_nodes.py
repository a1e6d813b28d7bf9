"""Every node test of onnx through the passes: as it is, and with all operands but the first known at build time."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgec.access import module
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.ir.types import dtype_name
from edgec.onnx import import_model
from edgec.pipeline import run_passes
from tests.nodes import cases, feeds_of

catalog = module("passes.catalog")
PARTS = 4


def leaves(value: Any) -> Iterator[Any]:
    """The arrays in a result; keys and lengths of maps and sequences are some, too."""
    if isinstance(value, Mapping):
        value = [list(value), *value.values()]
    if isinstance(value, list | tuple):
        yield np.asarray(len(value))
        for element in value:
            yield from leaves(element)
    else:
        yield np.asarray(value)


def wrong(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first difference between results."""
    for name, result in old.items():
        for a, b in zip(leaves(result), leaves(new[name]), strict=True):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                return f"{name} was {a.dtype}{list(a.shape)} and is {b.dtype}{list(b.shape)}"
            kind = dtype_name(a.dtype)
            if kind[0] not in "fc" and kind != "bf16":
                same = bool(np.all(a == b))
            else:
                close = {"rtol": 1e-4, "atol": 1e-5} if a.dtype.itemsize > 2 else {"rtol": 2e-2, "atol": 1e-2}
                wide = complex if kind[0] == "c" else float
                same = bool(np.isclose(a.astype(wide), b.astype(wide), equal_nan=True, **close).all())
            if not same:
                return f"{name} has other numbers"
    return None


def known(graph: Graph, given: Mapping[str, Any]) -> Graph:
    """The graph with all inputs but the first as weights."""
    weights = {v: given[v.name] for v in graph.inputs[1:] if isinstance(given[v.name], np.ndarray)}
    return replace(graph, inputs=tuple(v for v in graph.inputs if v not in weights), weights={**graph.weights, **weights})


@pytest.mark.parametrize("constant", [False, True], ids=["computed", "known"])
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.filterwarnings("ignore")
def test_passes_keep_the_meaning_of_every_node_test(part: int, *, constant: bool) -> None:
    failed, changed = dict[str, str](), 0
    for case in cases(part, PARTS):
        graph, given = import_model(case.model), feeds_of(case)
        graph = known(graph, given) if constant else graph
        made = run_passes(graph, catalog.PORTABLE, catalog.CATALOG)
        if made is graph:
            continue
        changed += 1
        if found := wrong(evaluate(graph, given), evaluate(made, given)):
            failed[case.name] = found
        elif run_passes(made, catalog.PORTABLE, catalog.CATALOG) is not made:
            failed[case.name] = "it changes when the passes run again"
    assert not failed
    assert changed > 100
