"""`edgec why`: what became of a node, and the reasons for what did not happen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from edgec.build import compile_graph, read
from edgec.cli import main
from edgec.target import find
from edgec.why import Story, why
from tests import tiny


def node(op: str, reads: str, makes: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, reads.split(), makes.split(), f"{op.lower()}_{makes.split(maxsplit=1)[0]}", **attributes)


def model() -> ModelProto:
    """A convolution with a batch norm, a sum of two branches, a constant branch, and a tail."""
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((8, 3, 3, 3)), "g": random.random(8) + 1, "b": random.standard_normal(8),
               "m": random.standard_normal(8), "v": random.random(8) + 1, "k": np.full(8, 4.0).reshape(8, 1, 1)}
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("BatchNormalization", "c g b m v", "n"), node("Relu", "n", "r"),
        node("Sqrt", "k", "root"), node("Mul", "r root", "h"), node("Sigmoid", "r", "s"), node("MaxPool", "h", "p", kernel_shape=[2, 2]),
        node("Flatten", "p", "f"), node("GlobalAveragePool", "s", "z"),
    ]
    return tiny.of(nodes, {"x": [1, 3, 8, 8]}, {"f": [1, 392], "z": [1, 8, 1, 1]}, {k: a.astype(np.float32) for k, a in weights.items()})


def story(made: ModelProto, name: str, target: str = "cortex-a72") -> Story:
    return why(read(made.SerializeToString(), static=True), name, find(target))


def test_an_absorbed_node_names_the_rule_and_its_kernel() -> None:
    for name in ("batchnormalization_n", "conv_c"):
        told = story(model(), name)
        absorbed = next(e for e in told.events if e.step == "absorb")
        assert any("batchnormalization_n" in r for r in absorbed.rewrites)
        kernel, = told.kernels
        assert kernel.ops[0] == "Conv"
        assert {"conv_c", "batchnormalization_n"} <= set(kernel.origin.split("+"))
        assert kernel.algo.startswith("conv_")
        assert {"columns", "unroll"} <= set(kernel.details)
        assert "NHWC" in kernel.result or "NCHW" in kernel.result
        assert kernel.generic is None


def test_times_and_places_are_those_of_the_build() -> None:
    graph = read(model().SerializeToString(), static=True)
    made = compile_graph(graph, "cortex-a72", "m")
    told = [why(graph, n.origin, find("cortex-a72")) for n in graph.nodes]
    assert {k.step for t in told for k in t.kernels} == set(range(len(made.schedule.program.steps)))
    kernels = {k.step: k for t in told for k in t.kernels}
    assert sum(k.share for k in kernels.values()) == pytest.approx(1)
    assert sum(k.predicted_us for k in kernels.values()) == pytest.approx(told[0].total_us)
    for i, step in enumerate(made.schedule.program.calls):
        assert (kernels[i].symbol, kernels[i].tasks) == (made.schedule.program.kernels[step.kernel].symbol, step.tasks)


def test_a_folded_node_has_no_kernel() -> None:
    told = story(model(), "sqrt_root")
    assert any(r.startswith("fold at") for e in told.events for r in e.rewrites)
    assert not told.events[-1].after
    assert not told.kernels
    assert not told.views


def test_a_view_has_no_kernel_but_a_place() -> None:
    told = story(model(), "flatten_f")
    assert "as-reshape at flatten_f" in told.events[0].rewrites
    assert told.kernels or told.views


def test_neighbors_in_other_kernels_have_a_reason() -> None:
    apart = "\n".join(story(model(), "relu_r").apart)
    assert "is also read by" in apart
    assert "is not elementwise: it begins a kernel of its own" in "\n".join(story(model(), "mul_h").apart)


def test_rules_that_do_not_hold_have_a_reason() -> None:
    rules = {r.name: r.reason for r in story(model(), "mul_h").rules}
    assert len(rules) > 2
    assert all(rules.values())


def test_a_generic_kernel_says_why() -> None:
    made = tiny.of([node("Relu", "x", "r"), node("Hardmax", "r", "y")], {"x": [4, 9]}, {"y": [4, 9]})
    kernel, = story(made, "hardmax_y").kernels
    assert kernel.generic is not None
    assert "Hardmax" in kernel.generic


def test_a_refused_node_says_why_and_others_still_have_a_story() -> None:
    made = tiny.of([node("Relu", "x", "r"), node("Det", "r", "d")], {"x": [2, 3, 3]}, {"d": [2]})
    told = story(made, "det_d")
    assert told.steps is None
    assert "det_d" in told.refused[0]
    other = story(made, "relu_r")
    assert other.refused == ()
    assert "det_d" in str(other.problem)


def test_units_that_do_not_run_it_say_why(tmp_path: Path) -> None:
    file = tmp_path / "picky.target"
    file.write_text('target picky : cortex-a72 "no sigmoids" {\n  unit cpu cpu {\n    never Sigmoid because "it burns"\n  }\n}\n')
    told = why(read(model().SerializeToString(), static=True), "sigmoid_s", find(file))
    assert any("it burns" in u.reason for u in told.units)
    assert {u.reason for u in why(read(model().SerializeToString(), static=True), "relu_r", find(file)).units} == {""}


@pytest.fixture
def saved(tmp_path: Path) -> str:
    return str(tiny.save(model(), tmp_path / "m.onnx"))


def test_the_command_prints_and_suggests(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", saved, "%h", "-t", "cortex-a72"]) == 0
    text = capsys.readouterr().out
    assert "Mul 'mul_h' on cortex-a72" in text
    assert "step 0 of" in text or "step 1 of" in text
    assert "rules that do not hold at it:" in text
    assert main(["why", saved, "mul_k"]) == 2
    assert "did you mean mul_h?" in capsys.readouterr().err


def test_the_command_knows_json(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    import json  # noqa: PLC0415

    assert main(["why", saved, "conv_c", "-t", "cortex-a72", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["op"] == "Conv"
    assert facts["kernels"][0]["step"] == 0
    assert facts["rules"]
