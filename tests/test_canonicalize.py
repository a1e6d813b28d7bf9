"""One way to say each thing: what canonicalize leaves of small graphs."""

import pytest

from edgec.lang.text import parse
from tests.small import apply, becomes, graph, numbers, ops


@pytest.mark.parametrize("statement", [
    "Identity(%a)", "Dropout(%a)", "Cast(%a) {to=1}", "Transpose(%a) {perm=[0, 1]}", "Concat(%a) {axis=-1}", "Sum(%a)", "Max(%a)",
    "Mean(%a)",
])
def test_what_changes_nothing_goes(statement: str) -> None:
    becomes(graph("%x: f32[2,3]", "%a: f32[2,3] = Relu(%x)", f"%b: f32[2,3] = {statement}", "%y: f32[2,3] = Abs(%b)"), "canonicalize",
            "Relu Abs")


@pytest.mark.parametrize(("weights", "statement"), [
    ("%k: i64[2] = dense [2, 3]", "Reshape(%a, %k)"), ("%k: i64[2] = dense [1, 3]", "Expand(%a, %k)"), ("%k: i64[2] = dense [1, 1]",
        "Tile(%a, %k)"),
    ("%k: i64[4] = dense [0, 0, 0, 0]", "Pad(%a, %k)"),
    ("%k: i64[1] = dense [0]\n%e: i64[1] = dense [9]", "Slice(%a, %k, %e)"),
    ("%r: f32[0] = dense []\n%k: f32[2] = dense [1.0, 1.0]", "Resize(%a, %r, %k)"),
    ("%k: i64[1] = dense [0]\n%n: bool[] = dense [false]", "Dropout(%a, _, %n)"),
])
def test_what_changes_nothing_goes_with_its_operands(weights: str, statement: str) -> None:
    made = becomes(graph("%x: f32[2,3]", weights, "%a: f32[2,3] = Relu(%x)", f"%b: f32[2,3] = {statement}", "%y: f32[2,3] = Abs(%b)"),
                   "canonicalize", "Relu Abs")
    assert not made.weights


@pytest.mark.parametrize(("weights", "statement", "left"), [
    ("%k: i64[4] = dense [1, 0, -1, 0]", "Pad(%a, %k)", "Slice Pad"),
    ("%s: i64[1] = dense [-1]\n%e: i64[1] = dense [-9]\n%k: i64[1] = dense [1]", "Slice(%a, %s, %e, %k, %s)", "Slice"),
])
def test_what_only_looks_like_nothing_stays(weights: str, statement: str, left: str) -> None:
    becomes(graph("%x: f32[2,3]", weights, "%a: f32[2,3] = Relu(%x)", f"%y: f32[2,3] = {statement}"), "canonicalize", f"Relu {left}")


def test_results_keep_their_names() -> None:
    given = graph("%x: f32[2]", "%a: f32[2] = Relu(%x)", "%y: f32[2] = Identity(%a)", "%z: f32[2] = Identity(%a)",
                  "%w: f32[2] = Identity(%x)",
                  returns="%y, %z, %w")
    made = becomes(given, "canonicalize", "Relu Identity Identity")
    assert [v.name for v in made.outputs] == ["y", "z", "w"]


def test_a_mask_that_is_read_is_constant() -> None:
    made = becomes(graph("%x: f32[2]", "%a: f32[2], %m: bool[2] = Dropout(%x)", "%y: f32[2] = Relu(%a)", returns="%y, %m"),
                   "canonicalize", "Relu Identity")
    assert numbers(made, "m").tolist() == [True, True]


def test_a_dropout_that_trains_stays() -> None:
    given = graph("%x: f32[2]", "%r: f32[] = splat 0.5", "%t: bool[] = splat true", "%a: f32[2] = Dropout(%x, %r, %t)",
                  "%y: f32[2] = Relu(%a)")
    assert ops(apply("canonicalize", given)) == "Dropout Relu"


def test_dead_nodes_and_unread_results_go() -> None:
    made = becomes(graph("%x: f32[1,1,4,4]", "%d: f32[1,1,4,4] = Relu(%x)",
                         "%y: f32[1,1,2,2], %i: i64[1,1,2,2] = MaxPool(%x) {kernel_shape=[3, 3]}"),
                   "canonicalize", "MaxPool")
    assert len(made.nodes[0].outputs) == 1


@pytest.mark.parametrize(("statement", "pads"), [
    ('Conv(%x, %w) {auto_pad="SAME_UPPER", strides=[2, 2]}', [1, 0, 1, 1]), ('Conv(%x, %w) {auto_pad="SAME_LOWER", strides=[2, 2]}', [1,
        1, 1, 0]),
])
def test_auto_pads_become_pads(statement: str, pads: list[int]) -> None:
    made = becomes(graph("%x: f32[1,2,5,4]", "%w: f32[3,2,3,3] = random 1", f"%y: f32[1,3,3,2] = {statement}"), "canonicalize", "Conv")
    assert dict(made.nodes[0].attrs) == {"kernel_shape": [3, 3], "strides": [2, 2], "dilations": [1, 1], "group": 1, "pads": pads}


def test_ceil_mode_becomes_pads() -> None:
    given = graph("%x: f32[1,2,6,5]", "%y: f32[1,2,3,2] = MaxPool(%x) {kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1}")
    made = becomes(given, "canonicalize", "MaxPool")
    assert made.nodes[0].attrs["pads"] == [0, 0, 1, 0]
    assert "ceil_mode" not in made.nodes[0].attrs


def test_ceil_mode_stays_where_padding_counts() -> None:
    given = graph("%x: f32[1,2,6,6]",
                  "%y: f32[1,2,3,3] = AveragePool(%x) {kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, count_include_pad=1}")
    assert becomes(given, "canonicalize", "AveragePool").nodes[0].attrs["ceil_mode"] == 1


@pytest.mark.parametrize(("attrs", "shape", "pads"), [
    ("{strides=[2, 2], output_shape=[9, 8]}", "9,8", [0, 1, 0, 0]), ('{strides=[2, 2], auto_pad="SAME_UPPER"}', "8,8", [0, 0, 1,
        1]), ("", "6,6", [0, 0, 0, 0]),
])
def test_transposed_convolutions_have_pads(attrs: str, shape: str, pads: list[int]) -> None:
    given = graph("%x: f32[1,2,4,4]", "%w: f32[2,3,3,3] = random 1", f"%y: f32[1,3,{shape}] = ConvTranspose(%x, %w) {attrs}")
    made = becomes(given, "canonicalize", "ConvTranspose")
    assert made.nodes[0].attrs["pads"] == pads
    assert not {"output_shape", "auto_pad"} & set(made.nodes[0].attrs)


@pytest.mark.parametrize(("weights", "statement", "shape"), [
    ("", "Flatten(%x) {axis=2}", "2,12"), ("%k: i64[1] = dense [1]", "Squeeze(%x, %k)", "2,3,4"), ("", "Squeeze(%x)", "2,3,4"),
    ("%k: i64[2] = dense [0, -1]", "Unsqueeze(%x, %k)", "1,2,1,3,4,1"), ("%k: i64[3] = dense [0, -1, 2]", "Reshape(%x, %k)", "2,6,2"),
])
def test_reshapes_are_one_operator(weights: str, statement: str, shape: str) -> None:
    made = becomes(graph("%x: f32[2,1,3,4]", weights, f"%a: f32[{shape}] = {statement}", f"%y: f32[{shape}] = Relu(%a)"), "canonicalize",
                   "Reshape Relu")
    assert [list(map(int, a)) for a in made.weights.values()] == [list(map(int, shape.split(",")))]


def test_one_open_dim_can_be_reshaped() -> None:
    made = apply("canonicalize", graph("%x: f32[N,3,4]", "%a: f32[N,12] = Flatten(%x)", "%y: f32[N,12] = Relu(%a)"))
    assert ops(made) == "Reshape Relu"
    assert [a.tolist() for a in made.weights.values()] == [[-1, 12]]


def test_reshapes_in_a_row_are_one() -> None:
    becomes(graph("%x: f32[2,3,4]", "%a: f32[6,4] = Flatten(%x) {axis=2}", "%k: i64[2] = dense [3, 8]", "%b: f32[3,8] = Reshape(%a, %k)",
                  "%y: f32[3,8] = Relu(%b)"), "canonicalize", "Reshape Relu")


def test_an_empty_tensor_is_reshaped_as_it_is() -> None:
    made = becomes(graph("%x: f32[0,3]", "%k: i64[1] = dense [0]", "%a: f32[3,0] = Transpose(%x)",
                         "%y: f32[0] = Reshape(%a, %k) {allowzero=1}"),
                   "canonicalize", "Transpose Reshape")
    assert made.nodes[1].attrs["allowzero"] == 1


def test_transposes_of_unit_axes_are_reshapes() -> None:
    becomes(graph("%x: f32[1,3,4,1]", "%a: f32[1,1,3,4] = Transpose(%x) {perm=[0, 3, 1, 2]}", "%y: f32[1,1,3,4] = Relu(%a)"),
            "canonicalize", "Reshape Relu")
    made = becomes(graph("%x: f32[2,3]", "%y: f32[3,2] = Transpose(%x)"), "canonicalize", "Transpose")
    assert made.nodes[0].attrs["perm"] == [1, 0]


@pytest.mark.parametrize(("a", "b", "y", "left"), [
    ("3", "3,4", "4", "Reshape MatMul Reshape"), ("2,3", "3", "2", "Reshape MatMul Reshape"), ("3", "3", "",
        "Reshape Reshape MatMul Reshape"),
    ("5,2,3", "3", "5,2", "Reshape MatMul Reshape"),
])
def test_products_with_vectors_are_products_of_matrices(a: str, b: str, y: str, left: str) -> None:
    becomes(graph(f"%a: f32[{a}], %b: f32[{b}]", f"%y: f32[{y}] = MatMul(%a, %b)"), "canonicalize", left)


@pytest.mark.parametrize(("statement", "axis"), [
    ("Softmax(%x)", 2), ("LogSoftmax(%x) {axis=-2}", 1), ("Concat(%x, %x) {axis=-2}", 1), ("LayerNormalization(%x, %s)", 2)])
def test_axes_count_from_the_front(statement: str, axis: int) -> None:
    shape = "2,6,4" if "Concat" in statement else "2,3,4"
    made = becomes(graph("%x: f32[2,3,4]", "%s: f32[4] = random 1", f"%y: f32[{shape}] = {statement}"), "canonicalize",
                   statement.partition("(")[0])
    assert made.nodes[0].attrs["axis"] == axis


def test_axes_of_reductions_are_there() -> None:
    for weights, statement, axes, shape in (("", "ReduceSum(%x)", [0, 1, 2], "1,1,1"), ("%k: i64[2] = dense [-1, 0]",
        "ReduceMean(%x, %k)", [0, 2], "1,3,1")):
        made = becomes(graph("%x: f32[2,3,4]", weights, f"%y: f32[{shape}] = {statement}"), "canonicalize", statement.partition("(")[0])
        assert [a.tolist() for a in made.weights.values()] == [axes]


def test_reductions_of_nothing_go() -> None:
    becomes(graph("%x: f32[2,1,4]", "%k: i64[1] = dense [1]", "%a: f32[2,4] = ReduceMean(%x, %k) {keepdims=0}", "%y: f32[2,4] = Relu(%a)"),
            "canonicalize", "Reshape Relu")


@pytest.mark.parametrize(("statement", "shape", "ranges"), [
    ("Slice(%x, %s, %e)", "4,5", [[1, 0], [5, 5], [0, 1], [1, 1]]),
    ("Slice(%x, %s, %e, %a)", "5,3", [[0, 1], [5, 4], [0, 1], [1, 1]]),
    ("Slice(%x, %s, %e, %a, %p)", "5,2", [[0, 1], [5, 4], [0, 1], [1, 2]]),
    ("Slice(%x, %e, %t, %a, %m)", "5,5", [[0, 4], [5, -6], [0, 1], [1, -1]]),
])
def test_slices_name_every_axis(statement: str, shape: str, ranges: list[list[int]]) -> None:
    s = "%s: i64[1] = dense [-4]" if shape != "4,5" else "%s: i64[1] = dense [1]"
    e = "%e: i64[1] = dense [9]" if shape in ("4,5", "5,5") else "%e: i64[1] = dense [-1]"
    given = graph("%x: f32[5,5]", s, e, "%a: i64[1] = dense [-1]", "%p: i64[1] = dense [2]", "%m: i64[1] = dense [-1]",
                  "%t: i64[1] = dense [-99]",
                  f"%y: f32[{shape}] = {statement}")
    made = becomes(given, "canonicalize", "Slice")
    assert [made.weights[v].tolist() for v in made.nodes[0].inputs[1:] if v is not None] == ranges


def test_pads_name_every_axis() -> None:
    given = graph("%x: f32[2,3]", "%k: i64[2] = dense [1, 2]", "%v: f32[] = splat 0.0", "%a: i64[1] = dense [-1]",
                  "%y: f32[2,6] = Pad(%x, %k, %v, %a)")
    made = becomes(given, "canonicalize", "Pad")
    assert [a.tolist() for a in made.weights.values()] == [[0, 1, 0, 2]]
    assert dict(made.nodes[0].attrs) == {"mode": "constant"}


def test_broadcasting_needs_no_expand() -> None:
    becomes(graph("%x: f32[2,1], %z: f32[2,3]", "%k: i64[2] = dense [2, 3]", "%a: f32[2,3] = Expand(%x, %k)", "%y: f32[2,3] = Add(%a, %z)"),
            "canonicalize", "Add")
    becomes(graph("%x: f32[2,1], %z: f32[2,1]", "%k: i64[2] = dense [2, 3]", "%a: f32[2,3] = Expand(%x, %k)", "%y: f32[2,3] = Add(%a, %z)"),
            "canonicalize", "Expand Add")


def test_the_branch_of_a_known_condition_is_inlined() -> None:
    text = """
    graph @g(%x: f32[2]) {
      %c: bool[] = splat false
      %a: f32[2] = Relu(%x)
      %y: f32[2] = If(%c) {then_branch=@then, else_branch=@else}
      return %y, %a
    }
    graph @then() { %t: f32[2] = Neg(%a)  return %t }
    graph @else() {
      %w: f32[2] = random 3
      %a: f32[2] = Add(%x, %w)
      %e: f32[2] = Mul(%a, %a)
      return %e
    }"""
    becomes(parse(text), "canonicalize", "Relu Add Mul")


def test_bodies_are_canonical_too() -> None:
    text = """
    graph @g(%x: f32[2,3], %c: bool[]) {
      %a: f32[2,3] = Identity(%x)
      %y: f32[3,2] = If(%c) {then_branch=@then, else_branch=@else}
      return %y
    }
    graph @then() { %i: f32[2,3] = Identity(%a) %t: f32[3,2] = Transpose(%i)  return %t }
    graph @else() { %k: i64[2] = dense [3, -1] %e: f32[3,2] = Reshape(%a, %k)  return %e }"""
    made = becomes(parse(text), "canonicalize", "If")
    (_, then), (_, other) = made.nodes[0].bodies
    assert (ops(then), ops(other)) == ("Transpose", "Reshape")
    assert then.nodes[0].inputs == made.inputs[:1]


def test_weights_that_are_stored_narrow_are_moved_before_they_are_widened() -> None:
    given = graph("%x: f32[5,40]", "%h: f16[40,30] = random 1", "%w: f32[40,30] = Cast(%h) {to=1}",
                  "%t: f32[30,40] = Transpose(%w) {perm=[1, 0]}",
                  "%k: i64[2] = dense [40, 30]", "%r: f32[40,30] = Reshape(%t, %k)", "%y: f32[5,30] = MatMul(%x, %r)")
    made = becomes(given, "repeat(canonicalize,fold)", "Cast MatMul")
    assert sorted(a.dtype.name for a in made.weights.values()) == ["float16"]


def test_rows_of_a_narrow_table_are_widened_when_they_are_read() -> None:
    given = graph("%i: i64[2]", "%h: f16[40,30] = random 1", "%w: f32[40,30] = Cast(%h) {to=1}", "%y: f32[2,30] = Gather(%w, %i)")
    becomes(given, "canonicalize", "Gather Cast")


