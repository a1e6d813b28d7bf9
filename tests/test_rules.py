"""Rules: their language, their checks, one rule at one node, and many over a graph."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgec.errors import BadInput, EdgecError, SourceError
from edgec.ir.graph import REGIONS, Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.ir.verify import verify
from edgec.lang import expr, syntax
from edgec.rules import fires, load, load_files, rewrite, try_rule, why_not
from edgec.rules.match import Rule
from edgec.rules.site import NoMatch
from edgec.testing.golden import check_meaning, typed

FOLD = """rule fold "A batch norm goes into its convolution"
  BatchNormalization(c: Conv(x, const w, const b?), const scale, const bias, const mean, const var) {epsilon=e, training_mode=0}
  where uses(c) == 1
  let   k = scale / sqrt(var + e)
  =>    Conv(x, w * column(k, ndim(w)), (b - mean) * k + bias) {*c}
  example x: f32[1,2,4,4], w: f32[4,2,3,3], scale: f32[4], bias: f32[4], mean: f32[4], var: f32[4]
"""
PRODUCT = "rule product Mul(m: Mul(x, const a), const b) where uses(m) == 1 => Mul(x, a * b) example x: f32[2], a: f32[], b: f32[]\n"
NEGATIVES = "rule negatives Neg(Neg(x)) => x example x: f32[2]\n"


def graph(text: str) -> Graph:
    return typed(text if text.lstrip().startswith("graph") else f"graph @g{text}", "test")


def ops(made: Graph) -> str:
    return " ".join(n.op for n in made.nodes)


def reason(text: str, body: str) -> str:
    """Why a rule does not hold at the last node that it might look up on."""
    (rule,), given = load(text), graph(body)
    said = why_not(rule, given, next((n for n in reversed(given.nodes) if n.op in rule.roots), given.nodes[-1]))
    assert said is not None
    return said


def names(rules: Sequence[Rule], given: Graph) -> Counter[str]:
    return Counter({k: n for k, n in fires(rules, given).items() if n})


# expressions

@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("1.5", 1.5), ("2e-3", 0.002), ("32 KiB", 32768), ("1.5 GHz", 1_500_000_000), ("4.2 GB/s", 4_200_000_000), ("4 cycles", 4),
    ("2 ms", 0.002), ("3 pJ", 3e-12), ("16 B/cycle", 16), ("1 MiB", 2**20), ("250 mW", 0.25), ("inf", float("inf")),
    ("100 GFLOP/s", 10**11)])
def test_a_quantity_is_a_number_in_its_base_unit(text: str, value: float) -> None:
    found = expr.quantity(text)
    assert found == pytest.approx(value, rel=1e-12)
    assert type(found) is type(value)


def test_an_unknown_unit_is_named() -> None:
    with pytest.raises(ValueError, match="no unit is called furlongs"):
        expr.quantity("3 furlongs")


@pytest.mark.parametrize(("text", "value"), [
    ("1 + 2 * 3 - 4", 3), ("-(1 + 2)", -3), ("2 * (3 + 4) % 5", 4), ("7 // 2 / 2", 1.5), ("not 1 == 2 and 3 < 4", True),
    ("1 in [1, 2] or x", True), ('"a" == "b"', False), ("[1, 2][1]", 2), ("max(1, 2, 3) - min(4, 5)", -1), ("choose(2 > 1, 10, 20)", 10),
    ("[1, [2]] == [1, [2]]", True), ("a == 1", True), ("b == 1", False), ("b != 1", True), ("b > 0", True), ("b >= 2", False), ("m.n", 5)])
def test_expressions_have_values_and_texts(text: str, value: object) -> None:
    run, = syntax.read_pipeline(f"p{{o={text}}}")
    assert isinstance(run, syntax.Run)
    (_, made), = run.options
    assert made is not None
    found = expr.evaluate(made, {"x": False, "a": np.ones(3), "b": np.array([1, 2]), "m": {"n": 5}})
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)
    again, = syntax.read_pipeline(f"p{{o={expr.text(made)}}}")
    assert again == run


@pytest.mark.parametrize(("text", "why"), [
    ("y + 1", "y means nothing here"), ("1 / 0", "1 / 0 has no value"), ("nobody(1)", "no function is called nobody"),
    ("[1][3]", "has no value"), ("x.y", "x has no y")])
def test_an_expression_without_a_value_says_why(text: str, why: str) -> None:
    run, = syntax.read_pipeline(f"p{{o={text}}}")
    assert isinstance(run, syntax.Run)
    (_, made), = run.options
    assert made is not None
    with pytest.raises(expr.CannotEvaluate, match=why):
        expr.evaluate(made, {"x": {}})


# what is wrong before anything is tried

CHECKS = [
    ("rule r Relu(x) => y\n example x: f32[2]", "1:19: y is no operand and no node of the pattern"),
    ("rule r Relu(x) where z == 1 => x\n example x: f32[2]", "1:22: z is bound by nothing before it"),
    ("rule r Relu(x) let k = z => x\n example x: f32[2]", "1:24: z is bound by nothing before it"),
    ("rule r Relu(x) let k = 1 => x\n example x: f32[2]", "1:20: k is computed and never used"),
    ("rule r Relu(x) let x = 1 => Add(x, x)\n example x: f32[2]", "1:20: x already stands for something else"),
    ("rule r Rely(x) => x\n example x: f32[2]", "1:8: ONNX has no operator Rely"),
    ("rule r Relu(x) => com.nobody.Relu(x)\n example x: f32[2]", "1:19: ONNX has no operator com.nobody.Relu"),
    ("rule r Relu(x, y) => x\n example x: f32[2], y: f32[2]", "1:8: Relu has at most 1 operand, not 2"),
    ("rule r Relu(x) => Conv(x)\n example x: f32[2]", "1:19: Conv has at least 2 operands, not 1"),
    ("rule r Relu(x) {slope=1} => x\n example x: f32[2]", "1:17: Relu has no attribute slope"),
    ("rule r Relu(x) => Relu(x) {slope=1}\n example x: f32[2]", "1:28: Relu has no attribute slope"),
    ("rule r Relu(x) where user(x) == 1 => x\n example x: f32[2]", "1:22: no helper is called user, did you mean uses?"),
    ("rule r Relu(x) where uses(x, 1) == 1 => x\n example x: f32[2]", "1:22: uses does not take 2 arguments"),
    ("rule r Relu(x) => Relu(x) {*x}\n example x: f32[2]", "1:28: x is no node of the pattern"),
    ("rule r Relu(x) => Concat(*x) {axis=0}\n example x: f32[2]", "1:26: the pattern has no *x"),
    ("rule r Concat(*x, y) => y\n example y: f32[2]", "1:15: *x takes all operands, so none can follow"),
    ("rule r n: Neg(n: Neg(x)) => x\n example x: f32[2]", "1:18: n already stands for something else"),
    ("rule r Relu(x) => x", "1:6: r has no example, so nothing can prove it"),
    ("rule r Add(x, y) => x\n example x: f32[2]", "2:10: an example says nothing of y"),
    ("rule r Relu(x) => x\n example x: f32[2], y: f32[2]", "2:21: the pattern has no operand and no attribute y"),
    ("rule r Relu(x) => x\n example x: f33[2]", "2:10: there is no element type f33"),
    ("rule r Relu(x) => x\n example x = 3", "2:10: the operand x needs a type, such as f32[2,3]"),
    ("rule r Add(x, const c) => Add(x, c * 1)\n example x: f32[2], c: f32[]", "1:27: the result of r matches its own pattern"),
    ("rule r Add(x, y) => Add(y, x)\n example x: f32[2], y: f32[2]", "1:21: the result of r matches its own pattern"),
    ("rule r Relu(n: Relu(x)) => Relu(n)\n example x: f32[2]", "1:28: the result of r matches its own pattern"),
    ("rule r Softmax(x) {axis=1} => Softmax(x) {axis=1}\n example x: f32[2,2]", "1:31: the result of r matches its own pattern"),
    (NEGATIVES + NEGATIVES, "2:6: another rule is called negatives"),
    ("rule a Neg(x) => Sub(0, x) example x: f32[2]\n" + NEGATIVES, "2:6: this rule never gets its turn: a (my.rules:1) holds wherever"),
    ("rule a Add(x, const c?) => x example x: f32[2]\nrule b Add(x, 0) => x example x: f32[2]", "2:6: this rule never gets its turn"),
    ("rule r Relu(x =>", '1:15: found "=>", wanted'),
    ("rule r Relu(x)", "1:15: the text ends here, wanted"),
    ("rule r Relu(x) => Neg|Abs(x)", "1:19: a result is one operator, not a choice"),
    ("rule r Mul(x, 3 Kib) => x", "1:17: "),
]


@pytest.mark.parametrize(("text", "message"), CHECKS, ids=[m[:60] for _, m in CHECKS])
def test_every_mistake_is_pointed_at(text: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        load(text, "my.rules")
    place, source, caret = str(caught.value).split("\n")
    assert place.startswith(f"my.rules:{message}")
    line, column = map(int, message.split(":")[:2])
    assert source == "  " + text.split("\n")[line - 1]
    assert caret == "  " + " " * (column - 1) + "^"


@pytest.mark.parametrize("text", [
    "rule a Neg(x) where uses(x) == 1 => Sub(0, x) example x: f32[2]\n" + NEGATIVES,  # the first asks for more
    "rule a Softmax(x) {axis=1} => Exp(x) example x: f32[2,2]\nrule b Softmax(x) {axis=0} => Exp(x) example x: f32[2,2]",
    "rule a Add(x, x) => Mul(2, x) example x: f32[2]\nrule b Add(x, y) => Sub(x, y) example x: f32[2], y: f32[2]",
    "rule a Transpose(Transpose(x) {perm=p}) {perm=q} => Transpose(x) {perm=compose(p, q, rank(x))} example x: f32[2,2]",
    "rule a Softmax(x) {axis=1} => Softmax(x) {axis=0} example x: f32[2,2]"])
def test_what_only_looks_wrong_is_not(text: str) -> None:
    assert load(text)


def test_names_are_told_apart_across_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.rules", tmp_path / "two.rules"
    one.write_text(NEGATIVES)
    two.write_text("\n" + NEGATIVES)
    with pytest.raises(SourceError, match=f"^{two}:2:6: another rule is called negatives: {one}:1"):
        load_files([one, two])
    with pytest.raises(BadInput, match="cannot be read"):
        load_files([tmp_path / "none.rules"])


# one rule at one node

BN = "(%x: f32[1,2,4,4]) { %w: f32[4,2,3,3] = random 1  %s: f32[4] = splat 2.0  %o: f32[4] = splat 1.0  %c = Conv(%x, %w) "
NORM = "%y = BatchNormalization(%c, %s, %o, %o, %s) "
TRAIN = "%y, %m, %v = BatchNormalization(%c, %s, %o, %o, %s) {training_mode=1} "
ONE, RELU = "rule one Mul(x, 1) => x example x: f32[2]", "(%x: f32[2]) { %y = Relu(%x)  return %y }"
REASONS = [
    (FOLD, BN + NORM + "return %y, %c }", "uses(c) == 1 does not hold: uses(c) is 2"),
    (FOLD, BN + TRAIN + "return %y }", "training_mode of BatchNormalization that makes %y is 1, not 0"),
    (FOLD, BN + TRAIN + "return %y, %m }", "another output of BatchNormalization that makes %y is read than the first"),
    (FOLD, BN.replace("%c =", "%d =") + "%c = Relu(%d) " + NORM + "return %y }", "Relu that makes %c is no Conv"),
    (FOLD, BN + "%y = Relu(%c)  return %y }", "Relu that makes %y is no BatchNormalization"),
    (FOLD, BN.replace("4,4]) {", "4,4], %u: f32[4,2,3,3]) {").replace("%w)", "%u)") + NORM + "return %y }", "w, %u, is no constant"),
    (PRODUCT, "(%x: f32[3]) { %a: f32[3] = random 1  %y = Mul(%x, %a)  return %y }", "%x is not made by Mul"),
    (PRODUCT, "(%x: f32[2]) { %a: f32[] = splat 1e30  %m = Mul(%x, %a)  %y = Mul(%m, %a)  return %y }", "is no finite number in f32"),
    (PRODUCT, "(%x: f32[2]) { %a: f32[3,1] = random 1  %b: f32[40,1,1] = random 1  %m = Mul(%x, %a)  %y = Mul(%m, %b)  return %y }",
     "480 bytes of weights would be stored instead of 172"),
    (NEGATIVES, "(%x: f32[2]) { %n = Neg(%x)  %y = Abs(%n)  %z = Neg(%y)  return %z }", "Abs that makes %y is no Neg"),
    (ONE, "(%x: f32[2]) { %c: f32[] = splat 1.0000001  %y = Mul(%x, %c)  %z = Neg(%y)  return %z }", "%c is not the constant 1"),
    (ONE, "(%x: f32[2]) { %c: f32[3,1] = splat 1.0  %y = Mul(%x, %c)  %z = Neg(%y)  return %z }", "not known to have one shape"),
    ("rule r Add(x, x) => Mul(2, x) example x: f32[2]", "(%x: f32[2], %z: f32[2]) { %y = Add(%x, %z)  return %y }", "x would be two"),
    ("rule r Relu(x) where rank(x) == 2 => x example x: f32[2,2]", "(%x: f32) { %y = Relu(%x)  return %y }", "the rank of %x is not known"),
    ("rule r Clip(x, l) => Max(x, l) example x: f32[2], l: f32[]", "(%x: f32[2]) { %y = Clip(%x)  return %y }", "the operand l is absent"),
    ("rule r Relu(x) where [1][uses(x)] == 1 => x example x: f32[2]", RELU, "[1][uses(x)] == 1 has no value"),
    ("rule r Relu(x) => Cast(x) {to=11} example x: f32[2]", RELU, "the result would be f64, not f32"),
    ("rule r Relu(x) => MatMul(x, x) example x: f32[2,2]", RELU, "the result would have the shape [], not [2]"),
    ("rule r Relu(x) => MatMul(x, x) example x: f32[2,2]", RELU.replace("[2]", "[2,3]"), "the result would be wrong"),
]


@pytest.mark.parametrize(("rule", "text", "why"), REASONS, ids=[w for *_, w in REASONS])
def test_a_rule_that_does_not_hold_says_why(rule: str, text: str, why: str) -> None:
    assert why in reason(rule, text)


def test_a_rule_is_tried_at_one_node() -> None:
    given = graph(BN + 'at "a" ' + NORM + '{epsilon=0.5} at "b"  return %y }')
    made = try_rule(load(FOLD)[0], given, given.nodes[1])
    assert ops(made) == "Conv"
    assert made.nodes[0].origin == "a+b"
    assert made.nodes[0].output is given.outputs[0]
    check_meaning(given, made)
    with pytest.raises(NoMatch, match="is no BatchNormalization"):
        try_rule(load(FOLD)[0], given, given.nodes[0])


def test_operands_that_commute_are_tried_both_ways() -> None:
    rule = load("rule r Add(Mul(x, const a), Mul(const b, y)) => Sub(y, Mul(x, a * b)) example x: f32[2], y: f32[2], a: f32[], b: f32[]")
    given = graph("(%x: f32[2]) { %a: f32[] = splat 2.0  %b: f32[] = splat 3.0 "
                  "%m = Mul(%x, %a)  %n = Mul(%b, %m)  %y = Add(%m, %n)  return %y }")
    assert names(rule, given) == {"r": 1}
    other = graph("(%x: f32[2]) { %a: f32[] = splat 2.0  %m = Mul(%x, %a)  %n = Sub(%a, %m)  %y = Add(%n, %m)  return %y }")
    assert not names(rule, other)


def test_a_rest_takes_all_operands() -> None:
    rule = load("rule r Max(x, *more) where len(more) == 2 => Min(*more) example x: f32[2]".replace("len(more) == 2", "rank(x) == 1"))
    made = rewrite(graph("(%x: f32[2], %z: f32[2], %u: f32[2]) { %y = Max(%x, %z, %u)  return %y }"), rule)
    assert [v.name for v in made.nodes[0].inputs if v] == ["z", "u"]


def test_optional_operands_may_be_absent() -> None:
    rule = load("rule r Clip(x, const lo?, const hi?) where not given(lo) => Clip(Neg(x), lo, hi + 1) example x: f32[2], hi: f32[]")
    given = graph("(%x: f32[2]) { %h: f32[] = splat 2.0  %y = Clip(%x, _, %h)  return %y }")
    made = try_rule(rule[0], given, given.nodes[0])
    clip = made.nodes[1]
    assert clip.inputs[1] is None
    assert clip.inputs[2] is not None
    assert made.weights[clip.inputs[2]] == 3


def test_constants_keep_the_type_that_they_are_for() -> None:
    rule = load("rule r Gather(x, const i) where size(i) == 2 => Gather(x, like(i + 1, i)) example x: f16[4,2], i: i32[2]\n"
                "rule s Mul(x, const c) => Div(x, 1 / c) example x: f32[2], c: f32[]\n")
    given = graph("(%x: f16[4,2]) { %i: i32[2] = dense [0, 2]  %c: f16[] = splat 3.0  %g = Gather(%x, %i)  %y = Mul(%g, %c)  return %y }")
    made = try_rule(rule[1], try_rule(rule[0], given, given.nodes[0]), given.nodes[1])
    assert {a.dtype for a in made.weights.values()} == {np.dtype(np.int32), np.dtype(np.float16)}
    assert any(a.shape == () and a == np.float16(1 / 3) for a in made.weights.values())


def test_numbers_are_rounded_once() -> None:
    """(0.1f * 3f) * (1/3)f in float64 and then in f32, not in f32 all along."""
    given = graph("(%x: f32[1]) { %a: f32[] = splat 0.1  %b: f32[] = splat 0.3  %m = Mul(%x, %a)  %y = Mul(%m, %b)  return %y }")
    made = rewrite(given, load(PRODUCT))
    exact = np.float64(np.float32(0.1)) * np.float64(np.float32(0.3))
    assert list(made.weights.values()) == [np.float32(exact)]


@pytest.mark.parametrize("condition", [
    "rank(x) == 3", "dims(x) == [2, 3, 4]", 'dtype(x) == "f32"', "floating(x)", "static(x)", "uses(x) == 3", "dtype(r) == dtype(x)",
    "shape_of(x) == [2, 3, 4]", "axes(a, x) == [0, 2]", "kept(x, a) == [1, 3, 1]", "channels(v, x) == [1, 2, 4]",
    "channels(2, x, -1) == [2, 2, 2, 2]",
    "per_channel(v, x)", "not per_channel(v, x, 2)", "not per_channel(m, x)", "ndim(v) == 2", "size(v) == 3", "scalar(size(v)) == 3",
    "column(channels(v, x), 3, 1) == [[[1], [2], [4]]]", "power_of_two(v)", "not power_of_two(v + 1)", "nonzero(v)", "not nonzero(v - 1)",
    "compose([1, 0, 2], [2, 1, 0], 3) == [2, 0, 1]", "perm([1, 0], 2) == [1, 0]", "identity(3) == [0, 1, 2]",
    "padding([0, 0, 1, 0, 0, 2], 3) == [1, 2]", "sum_pads([1, 2], [3, 4]) == [4, 6]", "insert([1, 3], 1, 2) == [1, 2, 3]",
    "sqrt(v)[1] * sqrt(v)[1] - v[1] < 0.001", "max(v, 3) == [[3], [3], [4]]", "len(v) == 3", "given(v)"])
def test_helpers(condition: str) -> None:
    """Each holds for x of 2 by 3 by 4 elements, v a column of 1, 2 and 4, and a the axes -1 and 0."""
    text = (f"rule r Sum(r: Relu(x), Mul(x, const v), Add(x, const m), Cast(const a)) where {condition} => Neg(x) "
            "example x: f32[2,3,4], v: f32[3,1], m: f32[3,4], a: i64[2]")
    given = graph("(%x: f32[2,3,4]) { %v: f32[3,1] = dense [[1.0], [2.0], [4.0]]  %m: f32[3,4] = random 1 "
                  "%a: i64[2,1,1] = dense [[[-1]], [[0]]]  %r = Relu(%x)  %p = Mul(%x, %v)  %q = Add(%x, %m)  %c = Cast(%a) {to=1} "
                  "%u: f32[2,3,4] = Sum(%r, %p, %q, %c)  return %u }")
    assert why_not(load(text)[0], given, given.nodes[-1]) is None


@pytest.mark.parametrize(("condition", "why"), [
    ("padding([1, 0, 0, 0, 0, 0], 3) == [0]", "the padding reaches beyond the spatial axes, or crops"),
    ("padding([0, 0, -1, 0, 0, 0], 3) == [0]", "the padding reaches beyond the spatial axes, or crops"),
    ("scalar([1, 2]) == 1", "the constant has more than one element"),
    ("channels([[[1, 2]]], x) == 1", "the constant varies along more than axis 1"),
    ("channels([[[[1]]]], x) == 1", "the constant has 4 axes, the tensor 3")])
def test_helpers_without_an_answer_say_why(condition: str, why: str) -> None:
    text = f"rule r Relu(x) where {condition} => Neg(x) example x: f32[2,3,4]"
    assert reason(text, "(%x: f32[2,3,4]) { %y = Relu(%x)  return %y }") == why


def test_alternatives() -> None:
    rule = load("rule r n: Neg|Abs(Relu(x)) where rank(n) == 1 => Exp(x) example x: f32[2]")
    made = rewrite(graph("(%x: f32[2]) { %a = Relu(%x)  %b = Neg(%a)  %c = Abs(%a)  %y = Add(%b, %c)  return %y }"), rule)
    assert ops(made) == "Exp Exp Add"


def test_nodes_on_two_units_are_left_alone() -> None:
    given = graph("(%x: f32[2]) { %a = Neg(%x) on core  %b = Neg(%a) on npu  %y = Abs(%b)  return %y }")
    assert why_not(load(NEGATIVES)[0], given, given.nodes[1]) == "its nodes run on different units"


# many rules over a graph

def test_nothing_to_do_is_the_same_graph() -> None:
    given = graph("(%x: f32[2]) { %y = Neg(%x)  return %y }")
    assert rewrite(given, load(NEGATIVES)) is given


def test_results_keep_their_names() -> None:
    given = graph("(%x: f32[2]) { %a = Abs(%x)  %b = Neg(%a)  %y = Neg(%b)  %z = Exp(%a)  return %y, %z }")
    made = rewrite(given, load(NEGATIVES))
    assert made.outputs == given.outputs
    assert ops(made) == "Abs Exp"
    assert [v.name for v in made.nodes[0].outputs] == ["y"]
    check_meaning(given, made)


def test_an_input_or_another_result_cannot_be_a_result_by_another_name() -> None:
    for text in ("(%x: f32[2]) { %b = Neg(%x)  %y = Neg(%b)  return %y }",
                 "(%x: f32[2]) { %a = Abs(%x)  %b = Neg(%a)  %y = Neg(%b)  return %a, %y }"):
        given = graph(text)
        made = rewrite(given, load(NEGATIVES))
        assert ops(made).endswith("Identity")
        assert made.outputs == given.outputs
        check_meaning(given, made)


def test_chains_are_rewritten_to_the_end() -> None:
    """Ten thousand nodes, of which nearly all go: the cost of one change must not depend on the size of the graph."""
    values = [Value(f"v{i}", Tensor("f32", (2,))) for i in range(10_001)]
    nodes = [Node("Neg", (values[i],), (values[i + 1],), origin=f"n{i}") for i in range(10_000)]
    given = Graph("chain", (values[0],), (values[-1],), tuple(nodes))
    looked = Counter[str]()
    made = rewrite(given, load(NEGATIVES), may=lambda name: not looked.update([name]))
    assert len(made.nodes) <= 2
    assert not verify(made)
    assert looked["negatives"] < 60_000


def test_products_meet_in_any_number() -> None:
    text = " ".join(f"%m{i + 1} = Mul(%m{i}, %w)" for i in range(50))
    given = graph(f"(%m0: f32[2]) {{ %w: f32[] = splat 1.1 {text} return %m50 }}")
    made = rewrite(given, load(PRODUCT))
    assert ops(made) == "Mul"
    check_meaning(given, made)


def test_bodies_are_rewritten_and_regions_are_not() -> None:
    given = graph("""graph @g(%x: f32[2], %c: bool[]) {
      %a = Neg(%x)  %y: f32[2] = If(%c) {then_branch=@1, else_branch=@2}  return %y }
    graph @1() { %b = Neg(%a)  %d = Neg(%b)  %e = Exp(%d)  return %e }
    graph @2() { %f = Abs(%a)  return %f }""")
    made = rewrite(given, load(NEGATIVES))
    assert [ops(b) for _, b in made.nodes[1].bodies] == ["Exp", "Abs"]
    assert not verify(made)
    check_meaning(given, made)
    x, y, z = (Value(n, Tensor("f32", (2,))) for n in "xyz")
    body = Graph("body", (x,), (z,), (Node("Neg", (x,), (y,)), Node("Neg", (y,), (z,))))
    p, q = (Value(n, Tensor("f32", (2,))) for n in "pq")
    for op in REGIONS:
        region = Graph("g", (p,), (q,), (Node(op, (p,), (q,), {"kind": "map", "body": body}),))
        assert rewrite(region, load(NEGATIVES)) is region


def test_what_a_body_captures_counts_as_read() -> None:
    given = graph("""graph @g(%x: f32[2], %c: bool[]) {
      %a: f32[] = splat 2.0  %m = Mul(%x, %a)  %n = Mul(%m, %a)
      %y: f32[2] = If(%c) {then_branch=@1, else_branch=@2}  %z = Add(%n, %y)  return %z }
    graph @1() { %b = Neg(%m)  return %b }
    graph @2() { %d = Mul(%x, %a)  %e = Mul(%d, %a)  return %e }""")
    made = rewrite(given, load(PRODUCT))
    assert ops(made) == "Mul Mul If Add"
    assert [ops(b) for _, b in made.nodes[2].bodies] == ["Neg", "Mul"]
    check_meaning(given, made)


def test_stored_weights_do_not_grow() -> None:
    """The weight of one convolution is read by another, so a folded copy would be a second one."""
    text = BN + NORM + "%z = Conv(%x, %w)  return %y, %z }"
    given = graph(text.replace("4,2,3,3", "40,2,3,3").replace("f32[4]", "f32[40]"))
    assert rewrite(given, load(FOLD)) is given
    assert "bytes of weights would be stored" in (why_not(load(FOLD)[0], given, given.nodes[1]) or "")


def test_norms_that_share_their_vectors_are_folded() -> None:
    """Exporters store equal vectors once. No single norm frees any of them, all norms together do."""
    given = graph("""(%x: f32[1,512,4,4]) {
      %v: f32[512,1,3,3] = random 1  %w: f32[512,1,3,3] = random 2  %s: f32[512] = splat 2.0  %m: f32[512] = random 3
      %c = Conv(%x, %v) {group=512}  %d = Conv(%x, %w) {group=512}
      %a = BatchNormalization(%c, %s, %m, %m, %s)  %b = BatchNormalization(%d, %s, %m, %m, %s)  return %a, %b }""")
    made = rewrite(given, load(FOLD))
    assert ops(made) == "Conv Conv"
    assert sum(a.nbytes for a in made.weights.values()) <= sum(a.nbytes for a in given.weights.values())
    check_meaning(given, made)


def test_rules_can_be_disabled_and_limited() -> None:
    given = graph("(%x: f32[2]) { %a = Neg(%x)  %b = Neg(%a)  %c = Neg(%b)  %d = Neg(%c)  %y = Abs(%d)  return %y }")
    rules, used = load(NEGATIVES), list[str]()
    assert rewrite(given, rules, may=lambda name: name != "negatives") is given
    made = rewrite(given, rules, may=lambda _: len(used) < 1, did=lambda name, node: used.append(f"{name} {node.output.name}"))
    assert used == ["negatives b"]
    assert ops(made) == "Neg Neg Abs"


def test_rules_that_undo_each_other_are_named() -> None:
    rules = load("rule there Neg(x) where uses(x) > 0 => Sub(0, x) example x: f32[2]\n"
                 "rule back Sub(0, x) where uses(x) > 0 => Neg(x) example x: f32[2]")
    with pytest.raises(EdgecError, match="the rules do not end on g: back, there undo each other"):
        rewrite(graph("(%x: f32[2]) { %y = Neg(%x)  return %y }"), rules)


def test_earlier_rules_come_first() -> None:
    rules = load("rule first Neg(Abs(x)) => Exp(x) example x: f32[2]\nrule second Neg(x) where uses(x) > 0 => Abs(x) example x: f32[2]")
    given = graph("(%x: f32[2]) { %a = Abs(%x)  %b = Neg(%a)  %y = Neg(%b)  return %y }")
    assert names(rules, given) == {"first": 1, "second": 1}


def test_symbolic_shapes_are_no_obstacle() -> None:
    given = graph("(%x: f32[N,2,H,W]) { %w: f32[4,2,3,3] = random 1  %s: f32[4] = splat 2.0 "
                  "%c = Conv(%x, %w)  %y = BatchNormalization(%c, %s, %s, %s, %s)  return %y }")
    made = rewrite(given, load(FOLD))
    assert ops(made) == "Conv"
    assert made.outputs == given.outputs
