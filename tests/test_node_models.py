"""ONNX's node tests as whole models: built for this machine, run, and compared with what ONNX expects."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgec.build import build
from edgec.errors import BadInput, EdgecError, UnsupportedModel
from edgec.session import load
from tests.nodes import arrays, cases, feeds_of, same

COUNT = 1884
AS_THEY_ARE, WITH_KNOWN_OPERANDS = 950, 1100
SMALL = 64
"""Elements of an operand that a real model would hold as a constant: axes, shapes, pads, scales."""
WRONG = {
    "test_bitshift_right_int8_shift_ge_width": "BitShift of negative numbers by more bits than they have",
}
"""Results that differ from ONNX's, and in what."""


def with_known_operands(case: Any) -> tuple[onnx.ModelProto, dict[str, Any]] | None:
    """The model whose small operands, but for the first, are constants; None when it has none."""
    model, feeds = onnx.ModelProto(), feeds_of(case)
    model.CopyFrom(case.model)
    for info in list(model.graph.input)[1:]:
        given = feeds.get(info.name)
        if isinstance(given, np.ndarray | np.generic) and 0 < given.size <= SMALL and given.dtype != object:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(feeds.pop(info.name)), info.name))
            model.graph.input.remove(info)
    return (model, feeds) if len(model.graph.initializer) > len(case.model.graph.initializer) else None


def variants(case: Any) -> Iterator[tuple[onnx.ModelProto, dict[str, Any]]]:
    yield case.model, feeds_of(case)
    if known := with_known_operands(case):
        yield known


def outcome(case: Any, model: onnx.ModelProto, feeds: dict[str, Any], place: Path) -> str:
    """`agrees`, or why not, in a word and a sentence."""
    try:
        bundle = build(model.SerializeToString(), "host", place, jobs=1)
    except (UnsupportedModel, BadInput) as error:
        return f"refused: {error}"
    except EdgecError as error:
        return f"failed: {error}"
    found = load(bundle.path, poison=True).run(feeds)
    try:
        for output, expected in zip(model.graph.output, arrays(case.data_sets[0][1]), strict=True):
            same(expected, found[output.name], tolerance(np.asarray(expected).dtype))
    except AssertionError:
        return "wrong: the results differ"
    return "agrees"


def tolerance(kind: np.dtype[Any]) -> float:
    """That of ONNX's own runner, or two units of the last place where these are larger."""
    return {"float16": 2e-3, "bfloat16": 1.6e-2}.get(kind.name, 1e-3)


def reason(answer: str) -> str:
    """A refusal without names and numbers, to count by."""
    lines = [line for line in answer.splitlines() if line.startswith("  ")] or [answer]
    return re.sub(r"%\S+|'[^']*'|\d+", "_", lines[0].strip())


SOME = ("test_gridsample", "test_dynamicquantizelinear", "test_averagepool_3d_default", "test_det_2d", "test_identity_sequence")


@pytest.mark.parametrize("name", SOME)
def test_some(name: str, tmp_path: Path) -> None:
    case = next(c for c in cases(0, 1) if c.name == name)
    answer = outcome(case, case.model, feeds_of(case), tmp_path / "model.edgec")
    if name in ("test_det_2d", "test_identity_sequence"):
        assert answer.startswith("refused: no kernel can be made for 1 node")
    else:
        assert answer == "agrees"


@pytest.mark.slow
def test_all(tmp_path: Path) -> None:
    """About a quarter of an hour: each case is built as it is, and once more with its small operands known when it does not agree."""
    every = cases(0, 1)

    def answers(case: Any) -> list[str]:
        made: list[str] = []
        for i, (model, feeds) in enumerate(variants(case)):
            made.append(outcome(case, model, feeds, tmp_path / f"{case.name}.{i}.edgec"))
            if made[-1] == "agrees":
                break
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip((c.name for c in every), pool.map(answers, every), strict=True))
    first, last = (Counter(a[i].partition(":")[0] for a in results.values()) for i in (0, -1))
    for why, count in Counter(reason(a[-1]) for a in results.values() if a[-1] != "agrees").most_common():
        print(f"{count:4} {why}")  # noqa: T201  the list is for whoever wants to know, with -s
    print(f"of {len(every)} as they are: {dict(first)}; with known operands: {dict(last)}")  # noqa: T201
    faults = {n: a for n, a in results.items() if any(x.startswith(("wrong", "failed")) for x in a) and n not in WRONG}
    assert faults == {}
    assert len(every) >= COUNT
    assert first["agrees"] >= AS_THEY_ARE
    assert last["agrees"] >= WITH_KNOWN_OPERANDS
