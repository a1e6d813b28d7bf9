"""What edgec offers to tests of passes: golden cases, numbers, random graphs."""

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgec.errors import SourceError, UsageError
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.ir.verify import verify
from edgec.lang.text import parse, show
from edgec.pipeline import Pass
from edgec.testing import check, check_meaning, difference, error, feeds, numeric_difference, random_graph
from edgec.testing.golden import cases, outcome, replaced

BEFORE = """
graph @g(%x: f32[2,3]) {
  %w: f32[3] = random 7
  %big: f32[40,3] = random 8
  %a: f32[2,3] = Add(%x, %w)
  %i: f32[2,3] = Identity(%a)
  %y: f32[2,40] = Gemm(%i, %big) {transB=1}
  return %y
}
"""
AFTER = """
graph @g(%x: f32[2,3]) {
  %w: f32[3] = random 7   ; spaces and comments do not count
  %big: f32[40,3] = random 8

  %a:f32[2,3]=Add(%x,%w)
  %y: f32[2,40] = Gemm(%a, %big) {transB=1}
  return %y
}
"""


def without_identity(graph: Graph) -> Graph:
    forward = {n.output: n.inputs[0] for n in graph.nodes if n.op == "Identity"}
    if not forward:
        return graph
    kept = (n for n in graph.nodes if n.op != "Identity")
    return replace(graph, nodes=tuple(replace(n, inputs=tuple(v and forward.get(v, v) for v in n.inputs)) for n in kept))


def doubled(graph: Graph) -> Graph:
    return replace(graph, weights={v: a * 2 for v, a in graph.weights.items()})


def same(graph: Graph) -> Graph:
    return graph


def test_check_accepts_what_a_pass_makes() -> None:
    check(without_identity, before=BEFORE, after=AFTER)
    check(without_identity, before=BEFORE)
    check(without_identity, before=AFTER, after="same")
    check(same, before=BEFORE, after=BEFORE)
    check(Pass("drop", "", lambda graph, _: without_identity(graph)), before=BEFORE, after=AFTER)


def test_check_takes_rules_and_pipelines(tmp_path: Path) -> None:
    rules = tmp_path / "mine.rules"
    rules.write_text('rule drop-identity "An identity is its operand"\n  Identity(x)\n  => x\n  example x: f32[2,3]\n')
    check(rules, before=BEFORE, after=AFTER)
    check(str(rules), before=BEFORE, after=AFTER)
    twice = "graph @g(%x: f32[2]) { %a = Relu(%x) %b = Relu(%x) %y = Add(%a, %b) return %y }"
    once = "graph @g(%x: f32[2]) { %a: f32[2] = Relu(%x) %y: f32[2] = Add(%a, %a) return %y }"
    check("cse", before=twice, after=once, target="cortex-a72")
    check("repeat(cse)", before=once, after="same")
    with pytest.raises(UsageError, match="no pass is called csee; did you mean cse"):
        check("csee", before=once)
    with pytest.raises(UsageError, match=r"no\.rules cannot be read"):
        check(tmp_path / "no.rules", before=BEFORE)


def test_check_shows_the_difference() -> None:
    with pytest.raises(AssertionError) as caught:
        check(same, before=BEFORE, after=AFTER)
    shown = str(caught.value)
    assert shown.startswith("the pass makes another graph:\n--- expected\n+++ made\n")
    assert "\n+  %i: f32[2,3] = Identity(%a)\n" in shown
    assert "random 8" in shown
    with pytest.raises(AssertionError, match=r"\n-  %i: f32\[2,3\] = Identity"):
        check(without_identity, before=BEFORE, after="same")


def test_check_sees_numbers_that_changed_without_a_trace_in_the_text() -> None:
    with pytest.raises(AssertionError, match="the pass makes another graph"):
        check(doubled, before=BEFORE, after="same")
    with pytest.raises(AssertionError, match="the pass changes what the graph computes: the output y is off by"):
        check(doubled, before=BEFORE)
    check(doubled, before=BEFORE, tolerance=None)


def test_check_sees_graphs_that_are_wrong() -> None:
    def cut(graph: Graph) -> Graph:
        return replace(graph, nodes=graph.nodes[1:])

    def renamed(graph: Graph) -> Graph:
        y = Value("z", graph.outputs[0].type)
        return replace(graph, nodes=(*graph.nodes[:-1], replace(graph.nodes[-1], outputs=(y,))), outputs=(y,))

    with pytest.raises(AssertionError, match="the pass makes a wrong graph: Identity that makes %i reads %a before it is made"):
        check(cut, before=BEFORE)
    with pytest.raises(AssertionError, match=r"the interface was \(x\) -> \(y\) and is \(x\) -> \(z\)"):
        check(renamed, before=BEFORE)
    with pytest.raises(SourceError, match="before:1:21: %x is read before"):
        check(same, before="graph @g() { return %x }")


GOLDEN = """; rules: mine.rules

graph @one(%x: f32[2]) {
  %a = Identity(%x)
  %b = Identity(%a)
  %y = Relu(%b)
  return %y
}
=>
graph @one(%x: f32[2]) {
  %y: f32[2] = Relu(%x)
  return %y
}
----
graph @two(%x: f32[2]) {
  %y = Relu(%x)
  return %y
}
=> same
----
graph @two(%x: f32[2]) {
  %y = Relu(%z)
  return %y
}
=> same
"""


def test_golden_cases_are_found_and_replaced() -> None:
    found = list(cases(GOLDEN))
    assert [(c.title, c.line) for c in found] == [("one", 0), ("two", 14), ("two", 20)]
    assert found[1].after == "same"
    assert replaced(GOLDEN, 1, "same") == GOLDEN
    assert list(cases(replaced(GOLDEN, 1, "graph @z() {\n}")))[1].after == "graph @z() {\n}"
    assert replaced(replaced(GOLDEN, 0, "same"), 0, found[0].after) == GOLDEN


def run_pytest(folder: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *flags, "tests"]
    path = str(Path(__file__).resolve().parents[1])
    environment = {"PYTHONPATH": path, "PATH": "/usr/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout


def test_golden_files_are_collected_compared_and_updated(tmp_path: Path) -> None:
    (tmp_path / "tests" / "golden").mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path / "tests")
    (tmp_path / "mine.rules").write_text("rule drop-identity Identity(x) => x example x: f32[2,3]")
    file = tmp_path / "tests" / "golden" / "mine.edge"
    file.write_text(GOLDEN.replace("%y: f32[2] = Relu(%x)\n", "%y: f32[2] = Relu(%q)\n"))
    shown = run_pytest(tmp_path)
    assert "2 failed, 1 passed" in shown
    assert "tests/golden/mine.edge:1: the pass makes another graph\n--- expected\n+++ made\n" in shown
    assert "-  %y: f32[2] = Relu(%q)\n+  %y: f32[2] = Relu(%x)\n" in shown
    assert "pytest --update tests/golden/mine.edge" in shown
    assert "tests/golden/mine.edge:22:13: %z is read before it is defined\n    %y = Relu(%z)\n" in shown
    assert "Traceback" not in shown
    run_pytest(tmp_path, "--update")
    assert file.read_text() == GOLDEN


def test_a_golden_file_says_what_it_tests(tmp_path: Path) -> None:
    (case, *_) = cases(GOLDEN)
    with pytest.raises(UsageError, match=r"g\.edge begins with one line such as `; pass: fold`"):
        outcome(case, GOLDEN.replace("; rules: mine.rules", "; nothing"), "g.edge", tmp_path)


def test_the_error_is_measured_against_the_spread() -> None:
    ref, other = np.array([1.0, 2.0, np.nan, np.inf]), np.array([1.5, 4.0, np.nan, 1.0])
    assert error(ref, ref, other) == 0
    assert error(np.array([1.0, 2.5, np.nan, np.inf]), ref, other) == 0.25
    assert error(np.array([1.0, 2.0, 0.0, np.inf]), ref, other) == np.inf
    assert error(np.array([1.0, 2.0, np.nan, -np.inf]), ref, other) == np.inf
    assert error(np.array([1, 2]), np.array([1, 2]), np.array([1, 2])) == 0
    assert error(np.array([1, 3]), np.array([1, 2]), np.array([0, 0])) == np.inf
    assert error(np.array(["a"], object), np.array(["a"], object), np.array(["b"], object)) == 0
    for flat in (np.array([100.0, 100.5]), np.zeros(2)):
        with pytest.raises(ValueError, match="the reference changes by"):
            error(flat, flat, flat + (0.5 if flat.any() else 0))


def test_feeds_fit_their_inputs() -> None:
    graph = parse("graph @g(%a: f16[N,3,(H+1)//2,?], %b: u2[N], %c: bool[H,H], %d: i64[], %e: bf16[2,2]) where 9 <= H <= 9 { return }")
    made = feeds(graph, 0)
    assert [(a.dtype.name, a.shape) for a in made.values()] == [
        ("float16", (3, 3, 5, 2)), ("uint2", (3,)), ("bool", (9, 9)), ("int64", ()), ("bfloat16", (2, 2))]
    assert feeds(graph, 0, {"N": 1})["b"].shape == (1,)
    assert all(np.array_equal(a, b) for a, b in zip(made.values(), feeds(graph, 0).values(), strict=True))
    assert not np.array_equal(made["a"], feeds(graph, 1)["a"])
    with pytest.raises(ValueError, match=r"no random numbers for the input %s, which is seq\(f32\): give them yourself"):
        feeds(parse("graph @g(%s: seq(f32)) { return }"), 0)


def test_numeric_difference_names_the_output() -> None:
    def graph(body: str) -> Graph:
        return parse(f"graph @g(%x: f32[2,3]) {{ {body} }}")

    one = graph("%y: f32[2,3] = Relu(%x) return %y")
    assert numeric_difference(one, graph("%t: f32[2,3] = Neg(%x) %u: f32[2,3] = Neg(%t) %y: f32[2,3] = Relu(%u) return %y")) is None
    assert "the output y is off by" in str(numeric_difference(one, graph("%y: f32[2,3] = Abs(%x) return %y")))
    assert numeric_difference(one, graph("%a: i64[2] = dense [3, 2] %t: f32[2,3] = Relu(%x) %y: f32[3,2] = Reshape(%t, %a) return %y")) == (
        "the output y was f32[2, 3] and is f32[3, 2]")
    whole = graph("%s: i64[2] = Shape(%x) return %s")
    assert numeric_difference(whole, graph("%s: i64[2] = dense [2, 4] return %s")) == "the output s has other elements"


def test_differences_between_graphs_are_found() -> None:
    text = 'graph @g(%x: f32[2]) { %w: f32[1] = splat 1.0 %y: f32[2] = Add(%x, %w) {a=[1, 2.0]} on cpu at "n" return %y }'
    changes = [
        ("@g", "@h"), ("%x: f32[2]", "%x: f32[3]"), ("splat 1.0", "splat 2.0"), ("Add", "Sub"), ("(%x, %w)", "(%w, %x)"),
        ("[1, 2.0]", "[1, 2]"), ("{a=", "{b="), ("on cpu", "on gpu"), ('at "n"', ""), ("return %y", "return %x"), ("return %y", "return"),
        ("(%x, %w)", "(%x)"), ("%y: f32[2]", "%y: f32[?]"), ("%x: f32[2])", "%x: f32[2]) where 1 <= H <= 2"),
    ]
    assert difference(parse(text), parse(text)) is None
    for old, new in changes:
        assert old in text
        assert difference(parse(text), parse(text.replace(old, new))), (old, new)
    assert difference(parse(text), parse(text.replace("%w", "%v")))
    assert difference(parse(text), parse(text.replace("%w", "%v")), names=False) is None
    assert difference(parse(text), parse(text.replace("%y", "%z")), names=False)


def runs(graph: Graph) -> None:
    """The graph runs, and every inner value has the type that it says."""
    every = replace(graph, outputs=tuple(dict.fromkeys((*graph.outputs, *(v for n in graph.nodes for v in n.outputs)))))
    for value, array in zip(every.outputs, evaluate(every, feeds(graph, 0)).values(), strict=True):
        assert array.shape == value.dims, value
        assert value.tensor.dtype == "f32"
        assert not np.isnan(array).any(), value
        assert np.abs(array[np.isfinite(array)]).max(initial=0) < 1e5, value


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_are_valid_and_always_the_same(seed: int) -> None:
    graph = random_graph(seed, 1 + seed)
    assert 1 + seed <= len(graph.nodes) <= 1 + seed + 30
    assert not verify(graph)
    assert difference(graph, random_graph(seed, 1 + seed)) is None
    blobs: dict[str, Array] = {}
    text = show(graph, blobs)
    assert difference(graph, parse(text, "random", blobs)) is None
    runs(graph)


def test_random_graphs_hold_what_passes_look_for() -> None:
    graphs = [random_graph(seed, 20) for seed in range(100)]
    ops = Counter(n.op for g in graphs for n in g.nodes)
    assert len(ops) >= 35
    pairs = Counter((n.op, r.op) for g in graphs for n in g.nodes for v in n.outputs for r in g.consumers.get(v, ()))
    for first, *seconds in [
        ("Conv", "BatchNormalization", "Relu", "Clip", "Add", "Mul"), ("BatchNormalization", "Relu"), ("Pad", "Conv", "MaxPool"),
        ("Add", "Add"), ("Transpose", "Transpose"), ("Mul", "Add"), ("MatMul", "Add"), ("Sigmoid", "Mul"),
        ("Softmax", "MatMul"), ("Reshape", "Transpose"),
    ]:
        for second in seconds:
            assert pairs[first, second] >= 3, (first, second)
    assert any(g.uses(v) > 1 for g in graphs for n in g.nodes for v in n.outputs)
    assert any(v in g.outputs and v in g.consumers for g in graphs for n in g.nodes for v in n.outputs)
    assert any(not g.uses(v) for g in graphs for n in g.nodes for v in n.outputs)
    assert {g.inputs[0].dims[0] for g in graphs} == {1, 2}
    assert any(g.inputs[0].dims[1] % 2 for g in graphs)


def test_random_graphs_of_few_operators() -> None:
    for seed in range(20):
        for ops in (("Conv", "Relu", "Add"), ("MatMul", "Add"), ("Identity",), ("Concat", "Split")):
            assert {n.op for n in random_graph(seed, 10, ops).nodes} <= set(ops)
    with pytest.raises(ValueError, match="no pattern is made of Where alone"):
        random_graph(0, 5, ["Where"])


def test_check_meaning_is_silent_about_the_same_graph() -> None:
    x = Value("x", Tensor("string", (1,)))  # no random numbers for it, and none needed
    graph = Graph("g", (x,), (x,), ())
    check_meaning(graph, graph)
    with pytest.raises(ValueError, match="no random numbers"):
        check_meaning(graph, replace(graph, nodes=(Node("Identity", (x,), (Value("y"),)),)))
