"""Where values lie: graphs are run in memory as the places say, one numpy operation a node, and must give what the evaluator gives.

Memory starts as NaN, and a node that writes over what another still needs, or reads what nobody has written, gives other numbers.
"""

import numpy as np
import pytest

from edgec.codegen.place import VIEW_OPS, Place, Places
from edgec.errors import UnsupportedModel
from edgec.ir.evaluate import evaluate, evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.testing import feeds
from tests.kernel_harness import offsets
from tests.small import graph


def simulate(given: Graph) -> Places:
    """The places, once the graph has been run in them."""
    places, memory = Places(given), dict[Value, Array]()
    inputs = feeds(given, 1)

    def storage(place: Place, like: Array) -> Array:
        fill = np.nan if like.dtype.kind == "f" else 0
        return memory.setdefault(place.root, np.full(place.root.tensor.elements, fill, like.dtype))

    def read(place: Place) -> Array:
        found: Array = memory[place.root][offsets(place.view) + place.offset].reshape(place.view.shape)
        return found

    def write(place: Place, array: Array) -> None:
        storage(place, array)[offsets(place.view) + place.offset] = array.reshape(-1)

    for value in given.inputs:
        write(places[value], inputs[value.name])
    for value, array in given.weights.items():
        write(places[value], array)
    for node in given.nodes:
        if node.op in VIEW_OPS or node.op == "Concat":
            for copy in places.copied.get(node, ()):
                assert copy.read.view.shape == copy.write.view.shape
                write(copy.write, read(copy.read))
        else:
            for value, array in zip(node.outputs, evaluate_node(node, [v and read(places[v]) for v in node.inputs]), strict=True):
                write(places[value], array)
    for name, array in evaluate(given, inputs).items():
        value = next(v for v in given.outputs if v.name == name)
        assert np.array_equal(read(places[value]), array), f"%{name} is wrong"
        assert places[value].root is value or value in given.inputs, "the caller's memory is written"
    return places


def copies(places: Places) -> list[str]:
    """The nodes that copy, once for each copy."""
    return [node.outputs[0].name for node, made in places.copied.items() for _ in made]


def place(places: Places, name: str) -> Place:
    return next(p for v, p in places.at.items() if v.name == name)


NHWC, BLOCKED = "NHWC", "NCHW4c"


def test_a_concat_is_written_by_its_operands() -> None:
    made = simulate(graph("%x: f32[1,8,3,5]", f"%a: f32[1,8,3,5]/{NHWC} = Relu(%x)", f"%b: f32[1,8,3,5]/{NHWC} = Abs(%x)",
                          f"%c: f32[1,16,3,5]/{NHWC} = Concat(%a, %b) {{axis=1}}", "%y: f32[1,16,3,5] = Neg(%c)"))
    assert copies(made) == []
    assert place(made, "b").root is place(made, "c").root
    assert place(made, "b").offset == 8
    assert place(made, "b").view.axes[3].stride == 16


def test_blocks_are_written_in_place() -> None:
    made = simulate(graph("%x: f32[1,8,3,5]", f"%a: f32[1,8,3,5]/{BLOCKED} = Relu(%x)", f"%b: f32[1,8,3,5]/{BLOCKED} = Abs(%x)",
                          f"%c: f32[1,16,3,5]/{BLOCKED} = Concat(%a, %b) {{axis=1}}", "%y: f32[1,16,3,5] = Neg(%c)"))
    assert copies(made) == []
    assert place(made, "b").offset == 8 * 3 * 5


def test_what_a_concat_cannot_own_is_copied() -> None:
    """Inputs, weights, results, operands that come twice, and operands of another Concat."""
    made = simulate(graph("%x: f32[2,3]", "%w: f32[2,3] = random 1", "%a: f32[2,3] = Relu(%x)", "%b: f32[2,3] = Abs(%x)",
                          "%r: f32[2,3] = Neg(%x)",
                          "%c: f32[2,18] = Concat(%x, %w, %a, %a, %b, %r) {axis=1}", "%d: f32[4,3] = Concat(%b, %x) {axis=0}",
                          "%y: f32[2,18] = Exp(%c)", "%z: f32[4,3] = Exp(%d)", returns="%y, %z, %r"))
    assert copies(made) == ["c"] * 6 + ["d"]                   # %b lies in the later Concat


def test_a_result_may_be_a_concat() -> None:
    made = simulate(graph("%x: f32[2,3]", "%a: f32[2,3] = Relu(%x)", "%b: f32[2,3] = Abs(%x)", "%y: f32[2,6] = Concat(%a, %b) {axis=1}"))
    assert copies(made) == []
    assert place(made, "a").root.name == "y"


def test_concats_in_concats() -> None:
    made = simulate(graph("%x: f32[2,3]", "%a: f32[2,3] = Relu(%x)", "%b: f32[2,3] = Abs(%x)", "%c: f32[4,3] = Concat(%a, %b) {axis=0}",
                          "%d: f32[4,2] = random 1", "%e: f32[4,2] = Exp(%d)", "%f: f32[4,5] = Concat(%c, %e) {axis=1}",
                          "%y: f32[4,5] = Neg(%f)"))
    assert copies(made) == []
    assert place(made, "b").offset == 10
    assert place(made, "b").view.axes[0].stride == 5


def test_views_on_the_way_to_a_concat() -> None:
    """A tensor whose own layout makes the view plain is written into its part; when the part has gaps, it is copied."""
    text = (f"%a: f32[1,4,3,5]/{NHWC} = Relu(%x)", "%t: f32[1,3,5,4] = Transpose(%a) {perm=[0, 2, 3, 1]}", "%k: i64[2] = dense [1, 60]",
            "%r: f32[1,60] = Reshape(%t, %k)", "%b: f32[1,7] = random 1", "%e: f32[1,7] = Exp(%b)")
    made = simulate(graph("%x: f32[1,4,3,5]", *text, "%c: f32[1,67] = Concat(%e, %r) {axis=1}", "%y: f32[1,67] = Neg(%c)"))
    assert copies(made) == []
    assert place(made, "a").root.name == "c"
    assert place(made, "a").offset == 7
    rows = simulate(graph("%x: f32[2,2,3]", "%a: f32[2,2,3] = Relu(%x)", "%k: i64[2] = dense [2, 6]", "%r: f32[2,6] = Reshape(%a, %k)",
                          "%e: f32[2,6] = Exp(%r)", "%c: f32[2,12] = Concat(%e, %r) {axis=1}", "%y: f32[2,12] = Neg(%c)"))
    assert copies(rows) == ["c"]


def test_views_on_the_way_to_a_concat_in_a_concat() -> None:
    """The inner Concat's rows have gaps, whatever it looks like on its own."""
    made = simulate(graph("%x: f32[4,5], %z: f32[1,4,5]", "%a: f32[4,5] = Relu(%x)", "%k: i64[3] = dense [1, 4, 5]",
                          "%r: f32[1,4,5] = Reshape(%a, %k)",
                          "%b: f32[1,4,5] = Abs(%z)", "%c: f32[1,8,5] = Concat(%r, %b) {axis=1}", "%d: f32[1,8,5] = Exp(%c)",
                          "%e: f32[1,8,10] = Concat(%d, %c) {axis=2}", "%y: f32[1,8,10] = Neg(%e)"))
    assert copies(made) == ["c"]


def test_a_view_that_others_read_too_stays_where_it_is() -> None:
    made = simulate(graph("%x: f32[2,3]", "%a: f32[2,3] = Relu(%x)", "%k: i64[1] = dense [6]", "%r: f32[6] = Reshape(%a, %k)",
                          "%s: f32[2,3] = Exp(%a)", "%q: f32[6] = Reshape(%s, %k)", "%c: f32[12] = Concat(%r, %q) {axis=0}",
                          "%y: f32[12] = Neg(%c)", "%z: f32[2,3] = Abs(%a)", returns="%y, %z"))
    assert copies(made) == ["c"]
    assert place(made, "s").root.name == "c"


def test_a_slice_of_what_lies_in_a_concat() -> None:
    made = simulate(graph("%x: f32[2,6]", "%a: f32[2,6] = Relu(%x)", "%b: f32[2,1] = random 1", "%e: f32[2,1] = Exp(%b)",
                          "%c: f32[2,7] = Concat(%e, %a) {axis=1}", "%i: i64[1] = dense [-1]", "%j: i64[1] = dense [-9]",
                          "%n: i64[1] = dense [1]",
                          "%m: i64[1] = dense [-2]", "%s: f32[2,3] = Slice(%a, %i, %j, %n, %m)", "%y: f32[2,3] = Neg(%s)",
                          "%z: f32[2,7] = Exp(%c)",
                          returns="%y, %z"))
    assert copies(made) == []
    found = place(made, "s")
    assert (found.root.name, found.offset, found.view.axes[1].stride) == ("c", 6, -2)


def test_expand_and_transpose_are_strides() -> None:
    made = simulate(graph("%x: f32[3,1]", "%a: f32[3,1] = Relu(%x)", "%k: i64[3] = dense [2, 3, 4]", "%e: f32[2,3,4] = Expand(%a, %k)",
                          "%t: f32[4,2,3] = Transpose(%e) {perm=[2, 0, 1]}", "%y: f32[4,2,3] = Neg(%t)"))
    assert copies(made) == []
    assert [a.stride for a in place(made, "t").view.axes] == [0, 0, 1]


@pytest.mark.parametrize(("statement", "shape"), [
    ("Reshape(%x, %k)", "6"), ("Transpose(%x)", "3,2"), ("Identity(%x)", "2,3"),
    ("Slice(%x, %z, %o, %o)", "2,1"), ("Expand(%x, %e)", "4,2,3")])
def test_a_result_that_is_a_view_of_an_input_is_copied(statement: str, shape: str) -> None:
    made = simulate(graph("%x: f32[2,3]", "%k: i64[1] = dense [6]", "%e: i64[3] = dense [4, 2, 3]", "%z: i64[1] = dense [0]",
                          "%o: i64[1] = dense [1]",
                          f"%y: f32[{shape}] = {statement}"))
    assert copies(made) == ["y"]


def test_a_reshape_that_strides_cannot_say_is_copied() -> None:
    """From blocks to row-major in the index space of the result, and of a transposed tensor in that of the operand."""
    made = simulate(graph("%x: f32[2,3]", "%t: f32[3,2] = Transpose(%x)", "%k: i64[1] = dense [6]", "%r: f32[6] = Reshape(%t, %k)",
                          "%y: f32[6] = Neg(%r)"))
    assert copies(made) == ["r"]
    assert made.copied[next(iter(made.copied))][0].read.view.shape == (3, 2)


def test_a_reorder_is_a_copy() -> None:
    made = simulate_reorder(graph("%x: f32[1,8,3,5]", f"%a: f32[1,8,3,5]/{BLOCKED} = Relu(%x)", "%b: f32[1,8,3,5] = Identity(%a)",
                                  "%y: f32[1,8,3,5] = Neg(%b)"))
    assert copies(made) == ["b"]


def simulate_reorder(given: Graph) -> Places:
    """Identity of a tensor as edgec.Reorder: no text says it, and no evaluator needs it, because nobody computes."""
    nodes = tuple(Node("edgec.Reorder", n.inputs, n.outputs) if n.op == "Identity" else n for n in given.nodes)
    return Places(Graph(given.name, given.inputs, given.outputs, nodes, given.weights))


def test_refusals() -> None:
    cut = graph("%x: f32[1,8,3,5]", f"%a: f32[1,8,3,5]/{BLOCKED} = Relu(%x)", "%z: i64[1] = dense [2]", "%e: i64[1] = dense [6]",
                "%o: i64[1] = dense [1]",
                "%s: f32[1,4,3,5] = Slice(%a, %z, %e, %o)", "%y: f32[1,4,3,5] = Neg(%s)")
    with pytest.raises(UnsupportedModel, match="Slice that makes %s cannot be copied"):
        Places(cut)
    unknown = graph("%x: f32[8], %z: i64[1]", "%e: i64[1] = dense [6]", "%s: f32[4] = Slice(%x, %z, %e)", "%y: f32[4] = Neg(%s)")
    with pytest.raises(UnsupportedModel, match="bounds that are not known"):
        Places(unknown)
    blocks = graph("%x: f32[1,2,3,5]", "%a: f32[1,2,3,5] = Relu(%x)", f"%b: f32[1,4,3,5]/{BLOCKED} = Concat(%a, %a) {{axis=1}}",
                   "%d: f32[1,8,3,5] = random 1",
                   f"%c: f32[1,12,3,5]/{BLOCKED} = Concat(%a, %b, %a, %b) {{axis=1}}", "%y: f32[1,12,3,5] = Neg(%c)")
    with pytest.raises(UnsupportedModel, match="cuts a block"):
        Places(blocks)
