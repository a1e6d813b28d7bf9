"""Groups of quantized operators: what belongs to one, what keeps a node out, and readers that get a DequantizeLinear of their own."""

import numpy as np
import pytest

from edgec.access import module
from edgec.ir.graph import Graph
from edgec.ir.verify import verify
from edgec.onnx import import_model
from edgec.pipeline import run_passes
from edgec.testing import check_meaning
from tests.shared import model
from tests.small import catalog, graph, ops

qdq = module("passes.changes.qdq")
NUMBERS = ("%s: f32[] = splat 0.5", "%z: i8[] = splat 3", "%v: f32[4] = dense [0.1, 0.2, 0.3, 0.4]", "%n: i8[4] = splat 0",
           "%w: i8[4,2,1,1] = dense [1, 2, 3, 4, 5, 6, 7, 8]", "%t: f32[4] = dense [0.05, 0.1, 0.15, 0.2]",
           "%b: i32[4] = dense [1, 2, 3, 4]", "%k: i32[4] = splat 0")
WEIGHTS = ("%wd: f32[4,2,1,1] = DequantizeLinear(%w, %v, %n) {axis=0}", "%bd: f32[4] = DequantizeLinear(%b, %t, %k) {axis=0}")
CONV = (*NUMBERS, *WEIGHTS, "%xd: f32[1,2,3,3] = DequantizeLinear(%x, %s, %z)", "%c: f32[1,4,3,3] = Conv(%xd, %wd, %bd)")


def conv(*behind: str, returns: str = "%y") -> Graph:
    """A quantized convolution of i8, and what stands behind it."""
    return graph("%x: i8[1,2,3,3]", *CONV, *behind, returns=returns)


def test_a_group_has_operator_weights_activation_and_result() -> None:
    given = conv("%r: f32[1,4,3,3] = Relu(%c)", "%y: i8[1,4,3,3] = QuantizeLinear(%r, %s, %z)")
    (group,) = qdq.groups(given)
    assert group.anchor.op == "Conv"
    assert group.activation.op == "Relu"
    assert group.bias is None
    assert group.nodes == given.nodes
    x, w, b = group.inputs
    assert (x.stored.name, x.dtype, x.quant.scale, x.quant.zero, x.axis, x.array) == ("x", "i8", (0.5,), (3,), None, None)
    assert (w.axis, w.array.shape, b.dtype, b.array.tolist()) == (0, (4, 2, 1, 1), "i32", [1, 2, 3, 4])
    assert np.allclose(w.quant.scale, (0.1, 0.2, 0.3, 0.4))
    assert [v.name for v in group.reads] == ["x"]
    assert [v.name for v in group.makes] == ["y"]
    assert x.like(group.outputs[0])
    assert not x.like(w)


def test_zero_points_are_zero_when_absent() -> None:
    given = graph("%x: i8[2]", "%s: f32[1] = splat 0.5", "%a: f32[2] = DequantizeLinear(%x, %s)", "%r: f32[2] = Sigmoid(%a)",
                  "%y: u8[2] = QuantizeLinear(%r, %s)")
    (group,) = qdq.groups(given)
    assert (group.inputs[0].zero.dtype, group.outputs[0].zero.dtype) == (np.int8, np.uint8)
    assert group.inputs[0].zero.shape == group.inputs[0].scale.shape == ()


def test_a_product_takes_the_bias_behind_it() -> None:
    given = graph("%x: i8[2,3]", *NUMBERS[:2], "%w: i8[3,4] = splat 2", "%b: i32[4] = splat 7",
                  "%xd: f32[2,3] = DequantizeLinear(%x, %s, %z)", "%wd: f32[3,4] = DequantizeLinear(%w, %s)",
                  "%bd: f32[4] = DequantizeLinear(%b, %s)", "%m: f32[2,4] = MatMul(%xd, %wd)", "%a: f32[2,4] = Add(%bd, %m)",
                  "%r: f32[2,4] = Relu(%a)", "%y: i8[2,4] = QuantizeLinear(%r, %s, %z)")
    (group,) = qdq.groups(given)
    assert (group.anchor.op, group.bias.stored.name, group.activation.op) == ("MatMul", "b", "Relu")
    assert set(group.nodes) == set(given.nodes)


def test_a_relu_of_its_own_is_an_operator() -> None:
    given = graph("%x: i8[2]", *NUMBERS[:2], "%a: f32[2] = DequantizeLinear(%x, %s, %z)", "%r: f32[2] = Relu(%a)",
                  "%y: i8[2] = QuantizeLinear(%r, %s, %z)")
    (group,) = qdq.groups(given)
    assert (group.anchor.op, group.activation) == ("Relu", None)


def test_a_split_makes_several_results() -> None:
    given = graph("%x: i8[4]", *NUMBERS[:2], "%a: f32[4] = DequantizeLinear(%x, %s, %z)",
                  "%p: f32[2], %q: f32[2] = Split(%a) {axis=0, num_outputs=2}",
                  "%y: i8[2] = QuantizeLinear(%p, %s, %z)", "%u: i8[2] = QuantizeLinear(%q, %s, %z)", returns="%y, %u")
    (group,) = qdq.groups(given)
    assert [v.name for v in group.makes] == ["y", "u"]


@pytest.mark.parametrize(("behind", "returns"), [
    (("%y: i8[1,4,3,3] = QuantizeLinear(%c, %s, %z)", "%u: f32[1,4,3,3] = Sigmoid(%c)"), "%y, %u"),
    (("%y: i8[1,4,3,3] = QuantizeLinear(%c, %s, %z)",), "%y, %c"),
    (("%r: f32[1,4,3,3] = Relu(%c)", "%e: f32[1,4,3,3] = Relu(%r)", "%y: i8[1,4,3,3] = QuantizeLinear(%e, %s, %z)"), "%y"),
    (("%q: f32[] = ReduceMax(%c) {keepdims=0}", "%y: i8[1,4,3,3] = QuantizeLinear(%c, %q, %z)"), "%y"),
    (("%y: f32[1,4,3,3] = Relu(%c)",), "%y"),
], ids=["read as a real", "returned as a real", "two activations", "computed scale", "no result"])
def test_what_is_no_group(behind: tuple[str, ...], returns: str) -> None:
    assert not qdq.groups(conv(*behind, returns=returns))


def test_an_operand_that_is_a_computed_real_is_no_group() -> None:
    given = graph("%x: i8[2], %r: f32[2]", *NUMBERS[:2], "%a: f32[2] = DequantizeLinear(%x, %s, %z)", "%b: f32[2] = Add(%a, %r)",
                  "%y: i8[2] = QuantizeLinear(%b, %s, %z)")
    assert not qdq.groups(given)


def test_readers_get_a_dequantize_of_their_own() -> None:
    given = conv("%y: i8[1,4,3,3] = QuantizeLinear(%c, %s, %z)", "%d: f32[1,2,3,3] = Add(%xd, %xd)",
                 "%u: i8[1,2,3,3] = QuantizeLinear(%d, %s, %z)", returns="%y, %u")
    shared = qdq.groups(given)
    assert set(shared[0].nodes) & set(shared[1].nodes)
    made = qdq.separate(given)
    assert verify(made) == []
    assert ops(made).count("DequantizeLinear") == 4
    one, other = qdq.groups(made)
    assert not set(one.nodes) & set(other.nodes)
    assert {*one.nodes, *other.nodes} == set(made.nodes)
    check_meaning(given, made, 0)
    assert qdq.separate(made) is made


def test_a_dequantize_that_is_a_result_stays_apart() -> None:
    given = conv("%y: i8[1,4,3,3] = QuantizeLinear(%c, %s, %z)", returns="%y, %xd")
    made = qdq.separate(given)
    (group,) = qdq.groups(made)
    assert made.outputs[1].name == "xd"
    assert made.producer[made.outputs[1]] not in group.nodes
    assert len(qdq.groups(made)) == 1


@pytest.mark.parametrize(("name", "count", "rest"), [
    ("mlperf_kws_dscnn_qdq_s8", 12, {"Reshape"}), ("mlperf_ic_resnet8_qdq_s8", 15, {"Transpose", "Reshape"}),
    ("mobilenetv2_qdq_s8_nchw", 82, {"Reshape"})])
def test_models_are_groups_throughout(name: str, count: int, rest: set[str]) -> None:
    """Also behind the passes of a build that come before: none takes a group apart."""
    given = import_model(model(name), static=True)
    moved, pads = set[str](), sum(n.op == "Pad" for n in given.nodes)
    for made in (given, run_passes(given, catalog.PORTABLE, catalog.CATALOG)):
        apart = qdq.separate(made)
        found = qdq.groups(apart)
        inside = [n for g in found for n in g.nodes]
        assert len(inside) == len(set(inside))
        assert {n.op for n in apart.nodes if n not in set(inside)} == (set() if moved else rest)
        assert len(found) == count + (len(moved) - pads if moved else 0)
        moved = {n.output.name for n in given.nodes if n.op in rest}
