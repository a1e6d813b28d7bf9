"""What quantized operators cost on an NPU: Vela's figures, shared out among the operators, and its own words for what it leaves alone."""

from pathlib import Path

from edgec.build import optimize, read
from edgec.lang.text import parse
from passes.changes.qdq import groups, separate
from passes.changes.tflite_costs import ask
from tests.shared import model, needs_models
from tests.test_npu import CASES, IMAGE, kernel, quantized, window
from tests.test_vela import needs_vela, npu


@needs_vela
@needs_models
def test_a_model_costs_what_vela_says_and_each_operator_has_its_share(tmp_path: Path) -> None:
    graph = separate(optimize(read(model("mlperf_kws_dscnn_qdq_s8"), static=True), passes="canonicalize,fold,cse"))
    found = groups(graph)
    answer = ask(found, graph.weights, npu(), tmp_path)
    assert answer.refused == {}
    assert answer.cycles.keys() == {g.anchor for g in found}
    by_op = {op: sum(c for n, c in answer.cycles.items() if n.op == op) for op in ("Conv", "Softmax", "AveragePool")}
    assert by_op["Conv"] > by_op["AveragePool"] > by_op["Softmax"] > 0
    assert 40_000 < sum(answer.cycles.values()) < 80_000       # 56 879 for the region of all of them


@needs_vela
def test_what_cannot_run_is_told_in_whose_words_it_is(tmp_path: Path) -> None:
    far = window(4, "[1, 1, 1, 1]", "[4, 4]")
    graph = quantized(f"%r = Conv(%a, %k) {far}", IMAGE, "i8[1,4,2,2]", weights=kernel("[4,1,3,3]"))
    (group,) = groups(graph)
    answer = ask([group], graph.weights, npu(), tmp_path)
    assert answer.cycles == {}
    assert answer.refused == {group.anchor: "Unsupported kernel stride: 4, 4"}
    unwritten = CASES["conv"], quantized("%r = Exp(%a)", "i8[3,8]", "i8[3,8]")
    (good,), (bad,) = (groups(g) for g in unwritten)
    answer = ask([good, bad], {**unwritten[0].weights, **unwritten[1].weights}, npu(), tmp_path)
    assert answer.refused == {bad.anchor: "TFLite has no Exp that an int8 unit runs"}
    assert answer.cycles.keys() == {good.anchor}
    assert answer.cycles[good.anchor] > 0


def test_nothing_is_asked_about_nothing(tmp_path: Path) -> None:
    graph = parse("edge 1\ngraph @g(%x: f32[2]) {\n  %y: f32[2] = Relu(%x)\n  return %y\n}\n")
    assert ask(groups(graph), {}, npu(), tmp_path).cycles == {}
