"""Quantized operators in one form, however a model writes them."""

import numpy as np
import pytest

from edgec.access import module
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.pipeline import run_passes
from edgec.testing import check_meaning
from tests.small import catalog, graph, ops

qdq = module("passes.changes.qdq")
BORDERS = ("%s: f32[1] = splat 0.05", "%z: i8[1] = splat 3")


def formed(given: Graph) -> Graph:
    """The graph behind the portable passes, the last of which is quantize, twice to the same effect."""
    made = run_passes(given, catalog.PORTABLE, catalog.CATALOG)
    assert run_passes(made, "quantize", catalog.CATALOG) is made
    return made


def test_weights_that_are_quantized_when_the_model_runs_are_stored_as_integers() -> None:
    """As PyTorch exports them, with a bias in f32."""
    given = graph(
        "%x: i8[1,2,4,4]", *BORDERS, "%w: f32[4,2,1,1] = random 1", "%b: f32[4] = dense [0.5, -0.2, 0.1, 1.0]",
        "%t: f32[4] = dense [0.02, 0.03, 0.04, 0.05]", "%n: i8[4] = splat 0", "%d: f32[1,2,4,4] = DequantizeLinear(%x, %s, %z)",
        "%wq: i8[4,2,1,1] = QuantizeLinear(%w, %t, %n) {axis=0}", "%wd: f32[4,2,1,1] = DequantizeLinear(%wq, %t, %n) {axis=0}",
        "%c: f32[1,4,4,4] = Conv(%d, %wd, %b)", "%r: f32[1,4,4,4] = Relu(%c)", "%y: i8[1,4,4,4] = QuantizeLinear(%r, %s, %z)")
    made = formed(given)
    (group,) = qdq.groups(made)
    weight, bias = group.inputs[1:]
    assert (weight.dtype, weight.axis, bias.dtype, bias.axis) == ("i8", 0, "i32", 0)
    assert np.allclose(bias.array * bias.scale, [0.5, -0.2, 0.1, 1.0], atol=0.002)
    assert set(group.nodes) == set(made.nodes)


def test_a_qlinear_product_is_a_group() -> None:
    given = graph("%x: u8[2,3]", "%s: f32[] = splat 0.05", "%z: u8[] = splat 3", "%w: i8[3,4] = splat 2", "%n: i8[] = splat 0",
                  "%y: u8[2,4] = QLinearMatMul(%x, %s, %z, %w, %s, %n, %s, %z)")
    made = formed(given)
    assert ops(made) == "DequantizeLinear DequantizeLinear MatMul QuantizeLinear"
    assert len(qdq.groups(made)) == 1


def test_scales_that_are_computed_stay() -> None:
    given = graph("%x: u8[2,3], %s: f32[]", "%z: u8[] = splat 3", "%w: i8[3,4] = splat 2", "%n: i8[] = splat 0",
                  "%y: u8[2,4] = QLinearMatMul(%x, %s, %z, %w, %s, %n, %s, %z)")
    assert ops(formed(given)) == "QLinearMatMul"


def test_moves_of_integers_between_a_result_and_its_readers_are_groups() -> None:
    given = graph("%x: f32[1,2,4,4]", *BORDERS, "%k: i64[2] = dense [1, 32]", "%p: i64[2] = dense [1, 2]", "%e: i64[2] = dense [2, 2]",
                  "%q: i8[1,2,4,4] = QuantizeLinear(%x, %s, %z)", "%m: i8[1,2,2,2] = MaxPool(%q) {kernel_shape=[2, 2], strides=[2, 2]}",
                  "%l: i8[] = splat 5", "%h: i8[] = splat 100", "%c: i8[1,2,2,2] = Clip(%m, %l, %h)",
                  "%t: i8[1,2,2,2] = Transpose(%c) {perm=[0, 2, 3, 1]}", "%y: f32[1,2,2,2] = DequantizeLinear(%t, %s, %z)")
    made = formed(given)
    assert [g.anchor.op for g in qdq.groups(made)] == ["MaxPool", "Clip", "Transpose"]
    check_meaning(given, made, 1e-6)


def test_a_move_of_integers_that_mean_nothing_known_stays() -> None:
    given = graph("%x: i8[2,3]", "%y: i8[3,2] = Transpose(%x) {perm=[1, 0]}")
    assert formed(given) is given


@pytest.mark.parametrize("zero", [0, 120, 128, 200])
@pytest.mark.parametrize("op", ["MatMulInteger", "ConvInteger"])
def test_products_with_unsigned_weights_are_signed_ones(op: str, zero: int) -> None:
    shape, weight, out = ("[1,3,5,5]", "[4,3,3,3]", "[1,4,5,5]") if op == "ConvInteger" else ("[5,6]", "[6,4]", "[5,4]")
    attrs = " {pads=[1, 1, 1, 1]}" if op == "ConvInteger" else ""
    given = graph(f"%x: u8{shape}, %p: u8[]", f"%f: f32{weight} = random 1", "%s: f32[] = splat 0.02", "%m: u8[] = splat 128",
                  f"%w: u8{weight} = QuantizeLinear(%f, %s, %m)", f"%z: u8[] = splat {zero}", f"%y: i32{out} = {op}(%x, %w, %p, %z){attrs}")
    made = formed(given)
    assert all(a.dtype == np.int8 for a in made.weights.values() if a.ndim > 1)
    assert all(len(n.inputs) == 3 for n in made.nodes if n.op == op)
    for seed in range(3):
        draw = np.random.default_rng(seed)
        feeds = {"x": draw.integers(0, 256, made.inputs[0].dims).astype(np.uint8), "p": np.array(draw.integers(0, 256), np.uint8)}
        assert np.array_equal(evaluate(made, feeds)["y"], evaluate(given, feeds)["y"])
