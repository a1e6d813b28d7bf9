"""`edgec bisect`: it names the rewrite, the pass or the kernel that errs, and nobody when nothing does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgec import access
from edgec.blame import Judge, blame_passes
from edgec.build import read
from edgec.cli import main
from edgec.codegen import schedule
from edgec.ir.graph import Array, Graph, Node
from edgec.kernels import plan
from edgec.kernels.base import KernelPlan
from edgec.pipeline import Context, Pass, run_passes
from edgec.rules.check import load
from edgec.samples import draw
from edgec.session import Port
from edgec.target import find
from tests import tiny

Bisect = Callable[..., tuple[int, Any]]
catalog, rulebook = access.module("passes.catalog"), access.module("passes.changes.rulebook")
WRONG = """
rule wrong-relu "Forgets the bound below, which is a mistake on purpose"
  Relu(x)
  => LeakyRelu(x) {alpha=0.5}
  example x: f32[2,3]
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.save(tiny.model(), tmp_path / "tiny.onnx")


@pytest.fixture
def bisect(model: Path, capsys: pytest.CaptureFixture[str]) -> Bisect:
    def call(*words: str) -> tuple[int, Any]:
        code = main(["bisect", str(model), "--json", *words])
        return code, json.loads(capsys.readouterr().out)

    return call


def scaled(graph: Graph, context: Context, by: float) -> Graph:
    """Each Gemm's bias times `by`: a rewrite that keeps everything but the numbers."""
    weights = dict(graph.weights)
    for node in graph.nodes:
        bias = node.input(2)
        if node.op == "Gemm" and bias in weights and context.may("scale-bias"):
            weights[bias] = weights[bias] * np.float32(by)
            context.did("scale-bias", node)
    return replace(graph, weights=weights)


def test_nothing_differs(model: Path, bisect: Bisect, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = bisect()
    assert (code, facts["ok"], facts["culprit"], facts["kernels"]) == (0, True, None, True)
    assert facts["rewrites"] > 0
    assert main(["bisect", str(model), "--passes-only"]) == 0
    assert "nothing differs" in capsys.readouterr().out


def test_a_wrong_rule_is_named(bisect: Bisect, monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = rulebook.rules
    monkeypatch.setattr(rulebook, "rules", lambda name: (*right(name), *(load(WRONG) if name == "absorb.rules" else ())))
    code, facts = bisect()
    blamed = facts["culprit"]
    assert code == 4
    assert (blamed["step"], blamed["rewrite"], blamed["node"], blamed["value"]) == ("absorb", "wrong-relu", "relu", "r")
    limit = blamed["limit"]
    judge, graph = judged(model)
    for count, errs in ((limit - 1, False), (limit, True)):
        made = catalog_run(graph, Context(find("host"), limit=count))
        assert (judge.wrong(made) is not None) == errs
    assert main(["bisect", str(model)]) == 4
    assert f"--limit {limit - 1} is right, --limit {limit} is not" in capsys.readouterr().out


def judged(model: Path) -> tuple[Judge, Graph]:
    graph = read(model, static=True)
    ports = [Port(v.name, v.dims, np.dtype(np.float32)) for v in graph.inputs]
    return Judge(graph, [draw(ports, seed, {}) for seed in (1, 2)], 1e-4), graph


def catalog_run(graph: Graph, context: Context) -> Graph:
    return run_passes(graph, catalog.DEFAULT, catalog.CATALOG, context)


@pytest.mark.parametrize("wrong_at", [1, 2, 5, 8])
def test_the_first_wrong_rewrite_of_many_in_one_step_is_found(model: Path, wrong_at: int) -> None:
    """Each rewrite but one only replaces a weight by an equal one; `wrong_at` counts from 1."""

    def run(graph: Graph, context: Context) -> Graph:
        weights, node = dict(graph.weights), graph.nodes[-1]
        value = next(v for v in weights if v.name == "c")
        for i in range(1, 9):
            if context.may("touch"):
                weights[value] = weights[value] + np.float32(i >= wrong_at)
                context.did("touch", replace(node, origin=f"touch{i}"))
        return replace(graph, weights=weights)

    judge, graph = judged(model)
    found = blame_passes(graph, "canonicalize,broken", {**catalog.CATALOG, "broken": Pass("broken", "", run)}, Context(), judge)
    assert found is not None
    assert (found.step, found.rewrite, found.node, found.value) == ("broken", "touch", f"touch{wrong_at}", "y")


def test_a_wrong_pass_without_rewrites_is_named_with_its_node(bisect: Bisect, monkeypatch: pytest.MonkeyPatch) -> None:
    """As layout or cluster may go wrong, which take no rewrites down: here a product counts twice."""

    def run(graph: Graph, _: Context) -> Graph:
        def now(node: Node) -> Node:
            return replace(node, attrs={**node.attrs, "alpha": 2.0}) if node.op == "Gemm" else node

        return replace(graph, nodes=tuple(map(now, graph.nodes)))

    monkeypatch.setattr(catalog, "CATALOG", {**catalog.CATALOG, "broken": Pass("broken", "wrong on purpose", run)})
    monkeypatch.setattr(catalog, "DEFAULT", catalog.DEFAULT.replace("promote,", "broken,promote,"))
    code, facts = bisect()
    blamed = facts["culprit"]
    assert code == 4
    assert (blamed["step"], blamed["rewrite"], blamed["limit"], blamed["node"], blamed["value"]) == ("broken", None, None, "dense", "y")


def test_a_wrong_kernel_is_named(bisect: Bisect, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes are right, but a weight is packed wrongly on its way into the bundle."""
    right = plan.packed

    def packed(what: KernelPlan, arg: int, array: Array) -> Array:
        made = right(what, arg, array)
        return made[::-1] if made.size == 288 * 5 else made

    monkeypatch.setattr(schedule, "packed", packed)
    code, facts = bisect()
    blamed = facts["culprit"]
    assert code == 4
    assert (blamed["step"], blamed["node"], blamed["value"]) == ("kernel", "dense", "y")
    assert bisect("--passes-only")[0] == 0


def test_given_inputs_and_a_tolerance_decide(bisect: Bisect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(catalog, "CATALOG", {**catalog.CATALOG, "broken": Pass("broken", "wrong", lambda g, c: scaled(g, c, 1.01))})
    monkeypatch.setattr(catalog, "DEFAULT", catalog.DEFAULT.replace("promote,", "broken,promote,"))
    np.savez(tmp_path / "three.npz", x=np.random.default_rng(5).standard_normal((3, 1, 3, 12, 12)).astype(np.float32))
    code, facts = bisect("--inputs", str(tmp_path / "three.npz"), "--passes-only")
    assert (code, facts["inputs"], facts["culprit"]["rewrite"]) == (4, 3, "scale-bias")
    assert bisect("--inputs", str(tmp_path / "three.npz"), "--passes-only", "--tolerance", "0.5")[0] == 0
    np.savez(tmp_path / "other.npz", z=np.zeros(3, np.float32))
    assert main(["bisect", "tiny.onnx", "--inputs", "x", "--tolerance", "-1"]) == 2


def test_rounding_to_half_precision_blames_nobody(tmp_path: Path) -> None:
    """Here the passes compute in f32 what the model rounds to a multiple of 1/16 on its way."""
    nodes = [helper.make_node("Add", ["x", "c"], ["a"]), helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Sub", ["r", "c"], ["y"])]
    model = tiny.of(nodes, {"x": [1, 32]}, {"y": [1, 32]}, {"c": np.full(1, 100, np.float16)})
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = TensorProto.FLOAT16
    assert main(["bisect", str(tiny.save(model, tmp_path / "half.onnx")), "--passes-only"]) == 0
