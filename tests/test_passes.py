"""Equal nodes become one, and operators without a kernel become some that have one."""

from collections import Counter

import pytest

from edgec.ir.edit import prune
from edgec.ir.verify import verify
from edgec.lang.text import parse
from edgec.testing import check_meaning
from tests.small import apply, becomes, graph, ops

LEGAL = "canonicalize,repeat(fold,canonicalize),legalize,repeat(fold,canonicalize)"

# cse

def test_equal_nodes_are_one() -> None:
    given = graph("%x: f32[2,3]", "%a: f32[2,3] = Softmax(%x) {axis=1}", "%b: f32[2,3] = Softmax(%x) {axis=1}",
                  "%c: f32[2,3] = Softmax(%x) {axis=0}",
                  "%d: f32[2,3] = Add(%a, %c)", "%e: f32[2,3] = Add(%c, %b)", "%y: f32[2,3] = Mul(%d, %e)")
    becomes(given, "cse", "Softmax Softmax Add Mul")


def test_equal_results_keep_their_names() -> None:
    given = graph("%x: f32[2]", "%a: f32[2] = Relu(%x)", "%y: f32[2] = Relu(%x)", "%z: f32[2] = Relu(%x)", "%w: f32[2] = Abs(%a)",
                  returns="%y, %z, %w")
    made = becomes(given, "cse", "Relu Relu Abs")
    assert [v.name for v in made.outputs] == ["y", "z", "w"]


def test_equal_weights_are_one() -> None:
    given = graph("%x: f32[2,3]", "%a: f32[3] = random 1", "%b: f32[3] = random 1", "%c: f32[1,3] = random 1", "%d: f32[3] = random 2",
                  "%e: f32[2,3] = Add(%x, %a)", "%f: f32[2,3] = Mul(%e, %b)", "%g: f32[2,3] = Add(%f, %c)", "%y: f32[2,3] = Sub(%g, %d)")
    made = becomes(given, "cse", "Add Mul Add Sub")
    assert Counter(v.name for v in made.weights) == Counter("acd")


def test_zero_and_negative_zero_differ() -> None:
    given = graph("%x: f32[]", "%a: f32[] = splat 0.0", "%b: f32[] = splat -0.0", "%c: f32[] = Div(%x, %a)", "%d: f32[] = Div(%x, %b)",
                  "%y: f32[] = Max(%c, %d)")
    assert apply("cse", given) is given


def test_a_body_may_use_what_is_made_around_it() -> None:
    text = """
    graph @g(%x: f32[2], %c: bool[]) {
      %w: f32[2] = random 1
      %a: f32[2] = Add(%x, %w)
      %b: f32[2] = If(%c) {then_branch=@then, else_branch=@else}
      %y: f32[2] = Mul(%a, %b)
      return %y
    }
    graph @then() { %v: f32[2] = random 1 %s: f32[2] = Add(%v, %x)  %t: f32[2] = Exp(%s)  return %t }
    graph @else() { %u: f32[2] = Tanh(%x)  %e: f32[2] = Exp(%u)  return %e }"""
    made = becomes(parse(text), "cse", "Add If Mul")
    (_, then), _ = made.nodes[1].bodies
    assert ops(then) == "Exp"
    assert not then.weights


def test_what_one_branch_makes_is_not_seen_in_the_other() -> None:
    text = """
    graph @g(%x: f32[2], %c: bool[]) {
      %y: f32[2] = If(%c) {then_branch=@then, else_branch=@else}
      return %y
    }
    graph @then() { %s: f32[2] = Tanh(%x)  %t: f32[2] = Exp(%s)  return %t }
    graph @else() { %u: f32[2] = Tanh(%x)  %e: f32[2] = Abs(%u)  return %e }"""
    given = parse(text)
    assert apply("cse", given) is given


# legalize

@pytest.mark.parametrize(("inputs", "weights", "statement", "shape", "left"), [
    ("%x: f32[2,6,3,4]", "%s: f32[6] = random 1\n%b: f32[6] = random 2", "InstanceNormalization(%x, %s, %b)", "2,6,3,4",
     "ReduceMean Sub Mul ReduceMean Add Sqrt Div Mul Add"),
    ("%x: f32[2,6,3,4]", "%s: f32[6] = random 1\n%b: f32[6] = random 2", "GroupNormalization(%x, %s, %b) {num_groups=2}", "2,6,3,4",
     "Reshape ReduceMean Sub Mul ReduceMean Add Sqrt Div Reshape Mul Add"),
    ("%x: f32[2,3,4,4]", "", "MeanVarianceNormalization(%x)", "2,3,4,4", "ReduceMean Sub Mul ReduceMean Sqrt Add Div"),
    ("%x: f32[2,5,3,3]", "", "LRN(%x) {size=3, alpha=0.5, bias=2.0}", "2,5,3,3", "Mul Reshape AveragePool Reshape Mul Add Pow Div"),
    ("%x: f32[2,5]", "", "LpNormalization(%x) {axis=1}", "2,5", "Mul ReduceSum Sqrt Equal Where Div"),
    ("%x: f32[2,5]", "", "LpNormalization(%x) {axis=0, p=1}", "2,5", "Abs ReduceSum Equal Where Div"),
    ("%x: f32[2,5]", "%k: i64[1] = dense [1]", "ReduceL1(%x, %k)", "2,1", "Abs ReduceSum"),
    ("%x: f32[2,5]", "%k: i64[1] = dense [1]", "ReduceL2(%x, %k) {keepdims=0}", "2", "Mul ReduceSum Sqrt"),
    ("%x: f32[2,5]", "%k: i64[1] = dense [1]", "ReduceSumSquare(%x, %k)", "2,1", "Mul ReduceSum"),
    ("%x: f32[2,5]", "%k: i64[1] = dense [1]", "ReduceLogSumExp(%x, %k) {keepdims=0}", "2",
     "ReduceMax Max Min Sub Exp ReduceSum Log Add Reshape"),
    ("%x: f32[2,5], %z: f32[5]", "", "Sum(%x, %z, %x)", "2,5", "Add Add"),
    ("%x: f32[2,5], %z: f32[5]", "", "Mean(%x, %z, %x)", "2,5", "Add Add Div"),
    ("%x: f32[2,5], %z: f32[5]", "", "Max(%x, %z, %x)", "2,5", "Max Max"),
    ("%x: f32[2,5], %z: f32[5]", "", "Min(%x, %z)", "2,5", "Min"),
    ("%x: f32[1,8,2,3]", "", "DepthToSpace(%x) {blocksize=2}", "1,2,4,6", "Reshape Transpose Reshape"),
    ("%x: f32[1,8,2,3]", "", 'DepthToSpace(%x) {blocksize=2, mode="CRD"}', "1,2,4,6", "Reshape Transpose Reshape"),
    ("%x: f32[1,2,4,6]", "", "SpaceToDepth(%x) {blocksize=2}", "1,8,2,3", "Reshape Transpose Reshape"),
    ("%x: f32[1,2,4,6]", "", 'SpaceToDepth(%x) {blocksize=2, mode="CRD"}', "1,8,2,3", "Reshape Transpose Reshape"),
    ("%x: f32[2,5]", "%i: i64[] = splat -2", "Gather(%x, %i) {axis=1}", "2", "Slice Reshape"),
    ("%x: f32[2,5]", "%i: i64[2] = dense [1, 3]", "Gather(%x, %i) {axis=1}", "2,2", "Slice"),
    ("%x: f32[2,5]", "%i: i64[2] = dense [3, 1]", "Gather(%x, %i) {axis=1}", "2,2", "Gather"),
    ("%a: f32[2,3], %b: f32[3,4]", "", "Gemm(%a, %b)", "2,4", "MatMul"),
    ("%a: f32[3,2], %b: f32[4,3], %c: f32[4]", "", "Gemm(%a, %b, %c) {transA=1, transB=1, alpha=0.5, beta=2.0}", "2,4",
     "Transpose Transpose MatMul Mul Mul Add"),
    ("%a: f32[2,3]", "%b: f32[4,3] = random 1\n%c: f32[4] = random 2", "Gemm(%a, %b, %c) {transB=1}", "2,4", "Gemm"),
    ("%a: f32[2,3], %b: f32[3,4]", "", 'Einsum(%a, %b) {equation="ij,jk->ik"}', "2,4", "MatMul"),
    ("%a: f32[2,5,3], %b: f32[2,7,3]", "", 'Einsum(%a, %b) {equation="bqd, bkd -> bqk"}', "2,5,7", "Transpose MatMul"),
    ("%a: f32[2,5,3,4], %b: f32[2,7,3,4]", "", 'Einsum(%a, %b) {equation="bqhd,bkhd->bhqk"}', "2,3,5,7", "Transpose Transpose MatMul"),
    ("%a: f32[2,3], %b: f32[4]", "", 'Einsum(%a, %b) {equation="ij,k->kji"}', "4,3,2", "Reshape Reshape MatMul Reshape Transpose"),
    ("%a: f32[2,3], %b: f32[3,2]", "", 'Einsum(%a, %b) {equation="ij,ji->ij"}', "2,3", "Transpose Mul"),
    ("%a: f32[2,3,4]", "", 'Einsum(%a) {equation="ijk->ki"}', "4,2", "ReduceSum Transpose"),
    ("%a: f32[2,3], %b: f32[3,4]", "", 'Einsum(%a, %b) {equation="ij,jk"}', "2,4", "MatMul"),
    ("%a: f32[2,2]", "", 'Einsum(%a) {equation="ii->i"}', "2", "Einsum"),
])
def test_operators_are_taken_apart(inputs: str, weights: str, statement: str, shape: str, left: str) -> None:
    becomes(graph(inputs, weights, f"%y: f32[{shape}] = {statement}"), LEGAL, left)


def test_a_split_is_slices() -> None:
    given = graph("%x: f32[2,7]", "%k: i64[3] = dense [1, 4, 2]", "%a: f32[2,1], %b: f32[2,4], %c: f32[2,2] = Split(%x, %k) {axis=-1}",
                  "%y: f32[2,6] = Concat(%b, %c) {axis=1}")
    becomes(given, LEGAL, "Slice Slice Concat")
    equal = graph("%x: f32[6,2]", "%a: f32[3,2], %b: f32[3,2] = Split(%x) {num_outputs=2}", "%y: f32[3,2] = Sub(%a, %b)", returns="%y, %b")
    becomes(equal, LEGAL, "Slice Slice Sub")


def test_the_log_of_a_sum_of_exponents_does_not_overflow() -> None:
    given = graph("%x: f32[2,3]", "%k: i64[1] = dense [1]", "%s: f32[] = splat 1000.0", "%a: f32[2,3] = Mul(%x, %s)",
                  "%y: f32[2,1] = ReduceLogSumExp(%a, %k)")
    check_meaning(given, apply(LEGAL, given))


def test_narrow_norms_are_computed_in_f32() -> None:
    given = graph("%x: f16[1,2,4,4]", "%s: f16[2] = random 1", "%b: f16[2] = random 2",
                  "%y: f16[1,2,4,4] = InstanceNormalization(%x, %s, %b)")
    made = apply(LEGAL, given)
    assert ops(made) == "Cast ReduceMean Sub Mul ReduceMean Add Sqrt Div Cast Mul Add"
    check_meaning(given, made, 4e-3)


def test_unknown_shapes_are_left_alone() -> None:
    given = graph("%x: f32[N,M]", "%a: f32[N,K], %b: f32[N,L] = Split(%x) {num_outputs=2, axis=1}", "%y: f32[N,K] = Relu(%a)")
    made = apply(LEGAL, given)
    assert ops(made) == "Split Relu"
    assert not verify(made)


def test_pruning_keeps_what_bodies_capture() -> None:
    text = """
    graph @g(%x: f32[2], %c: bool[]) {
      %w: f32[2] = random 1
      %d: f32[2] = random 2
      %a: f32[2] = Relu(%x)
      %y: f32[2] = If(%c) {then_branch=@then, else_branch=@else}
      return %y
    }
    graph @then() { %t: f32[2] = Add(%a, %w)  return %t }
    graph @else() { %e: f32[2] = Neg(%x)  return %e }"""
    made = prune(parse(text))
    assert [n.op for n in made.nodes] == ["Relu", "If"]
    assert [v.name for v in made.weights] == ["w"]


# promote

def test_half_precision_is_computed_in_f32() -> None:
    given = graph("%x: f16[2,40]", "%w: f16[40,30] = random 1", "%b: f16[30] = random 2", "%m: f16[2,30] = MatMul(%x, %w)",
                  "%s: f16[2,30] = Add(%m, %b)", "%y: f16[2,30] = Softmax(%s) {axis=1}")
    made = apply("promote,canonicalize,fold", given)
    assert ops(made) == "Cast Cast MatMul Add Softmax Cast"
    check_meaning(given, made, 2e-2)
    assert [v.tensor.dtype for v in (*made.inputs, *made.outputs)] == ["f16", "f16"]
    assert sorted(a.dtype.name for a in made.weights.values()) == ["float16", "float32"]  # the bias is small
