"""Numbers that are computed at build time, and those that are not."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from edgec.lang.text import parse, show
from edgec.pipeline import Context, run_passes
from edgec.testing import check_meaning
from tests.small import apply, becomes, catalog, graph, numbers, ops


def test_shape_arithmetic_vanishes() -> None:
    given = graph(
        "%x: f32[2,3,4]", "%i: i64[] = splat 0", "%s: i64[3] = Shape(%x)", "%n: i64[] = Gather(%s, %i)", "%z: i64[1] = dense [0]",
        "%u: i64[1] = Unsqueeze(%n, %z)", "%m: i64[1] = dense [-1]", "%k: i64[2] = Concat(%u, %m) {axis=0}",
        "%a: f32[2,12] = Reshape(%x, %k)", "%y: f32[2,12] = Relu(%a)")
    becomes(given, "repeat(canonicalize,fold)", "Reshape Relu")


def test_shapes_that_are_computed_become_known() -> None:
    given = graph("%x: f32[6]", "%a: i64[] = splat 2", "%b: i64[] = splat 4", "%c: i64[] = splat 1", "%k: i64[?] = Range(%a, %b, %c)",
                  "%r: f32[?,?] = Reshape(%x, %k)", "%y: f32[?,?] = Relu(%r)")
    made = apply("fold", given)
    assert made.outputs[0].dims == (2, 3)


@pytest.mark.parametrize(("statement", "expected"), [
    ("Add(%a, %b)", "splat 0.3"), ("Div(%one, %three)", "splat 0.33333334"), ("Sqrt(%three)", "splat 1.7320508"), ("Exp(%one)",
        "splat 2.7182817"),
    ("Pow(%three, %a)", "splat 1.1161232"), ("Sigmoid(%one)", "splat 0.7310586"),
])
def test_reals_are_rounded_once(statement: str, expected: str) -> None:
    given = graph("%x: f32[]", "%a: f32[] = splat 0.1", "%b: f32[] = splat 0.2", "%one: f32[] = splat 1.0", "%three: f32[] = splat 3.0",
                  f"%c: f32[] = {statement}",
                  "%y: f32[] = Mul(%x, %c)")
    made = apply("fold", given)
    assert f"%c: f32[] = {expected}" in show(made)


def test_sums_add_in_order() -> None:
    array = np.array([1.0, 2.0**53, 1.0, -(2.0**53)])  # only in order the first one is lost and the second is too
    given = graph("%x: f64[]", "%w: f64[4] = dense [1.0, 9007199254740992.0, 1.0, -9007199254740992.0]", "%a: i64[1] = dense [0]",
                  "%s: f64[] = ReduceSum(%w, %a) {keepdims=0}", "%y: f64[] = Mul(%x, %s)")
    (folded,) = apply("fold", given).weights.values()
    assert folded == float(((array[0] + array[1]) + array[2]) + array[3])


def test_reductions_and_products_of_constants() -> None:
    given = graph("%x: f32[2,1]", "%w: f32[2,3,4] = random 1", "%v: f32[4,5] = random 2", "%p: f32[2,3,5] = MatMul(%w, %v)",
                  "%a: i64[2] = dense [1, -1]",
                  "%s: f32[2] = ReduceL2(%p, %a) {keepdims=0}", "%m: f32[] = ReduceMean(%s) {keepdims=0}", "%y: f32[2,1] = Mul(%x, %m)")
    becomes(given, "fold", "Mul", 1e-6)


@pytest.mark.parametrize("statements", [
    ("%h: f16[100] = random 1", "%w: f32[100] = Cast(%h) {to=1}"),
    ("%q: i8[100] = random 1", "%s: f32[] = splat 0.5", "%w: f32[100] = DequantizeLinear(%q, %s)"),
    ("%o: f32[1] = splat 2.0", "%k: i64[1] = dense [100]", "%w: f32[100] = Expand(%o, %k)"),
    ("%o: f32[10] = random 1", "%k: i64[1] = dense [10]", "%w: f32[100] = Tile(%o, %k)"),
    ("%k: i64[1] = dense [100]", "%w: f32[100] = ConstantOfShape(%k)"),
])
def test_weights_do_not_grow(statements: Sequence[str]) -> None:
    given = graph("%x: f32[100]", *statements, "%y: f32[100] = Add(%x, %w)")
    assert apply("fold", given) is given


def test_what_is_small_may_grow() -> None:
    becomes(graph("%x: f32[16]", "%h: f16[16] = random 1", "%w: f32[16] = Cast(%h) {to=1}", "%y: f32[16] = Add(%x, %w)"), "fold", "Add")


def test_weights_that_others_read_are_not_freed() -> None:
    given = graph("%x: f32[100]", "%w: f32[100] = random 1", "%s: f32[100] = Neg(%w)", "%a: f32[100] = Add(%x, %w)",
                  "%y: f32[100] = Mul(%a, %s)")
    assert apply("fold", given) is given
    both = graph("%x: f32[100]", "%w: f32[100] = random 1", "%v: f32[100] = random 2", "%s: f32[100] = Add(%v, %w)",
                 "%y: f32[100] = Mul(%x, %s)")
    becomes(both, "fold", "Mul")


@pytest.mark.parametrize("statement", ["Div(%i, %z)", "Mod(%i, %z)"])
def test_a_division_by_zero_is_left_to_the_model(statement: str) -> None:
    given = graph("%x: i32[]", "%i: i32[] = splat 7", "%z: i32[] = splat 0", f"%c: i32[] = {statement}", "%d: i32[] = Neg(%c)",
                  "%y: i32[] = Add(%x, %d)")
    assert apply("fold", given) is given


@pytest.mark.parametrize("number", ["nan", "inf", "3e9", "-1.0"])
def test_a_cast_that_has_no_meaning_is_left_to_the_model(number: str) -> None:
    given = graph("%x: u8[]", f"%f: f32[] = splat {number}", "%c: u8[] = Cast(%f) {to=2}", "%y: u8[] = Add(%x, %c)")
    assert apply("fold", given) is given


def test_random_numbers_are_left_to_the_model() -> None:
    given = graph("%x: f32[2]", "%r: f32[2] = RandomNormal() {shape=[2]}", "%y: f32[2] = Add(%x, %r)")
    assert apply("fold,cse", given) is given


def test_a_constant_result_is_a_weight_with_a_name() -> None:
    given = graph("%x: f32[2]", "%a: f32[2] = random 1", "%k: f32[2] = Neg(%a)", "%y: f32[2] = Add(%x, %k)", returns="%y, %k")
    made = becomes(given, "fold", "Identity Add")
    assert numbers(made, "k").tolist() == [-n for n in given.weights[next(iter(given.weights))].tolist()]


def test_bodies_fold_what_they_capture() -> None:
    text = """
    graph @g(%x: f32[2], %c: bool[]) {
      %w: f32[2] = random 1
      %y: f32[2] = If(%c) {then_branch=@then, else_branch=@else}
      return %y
    }
    graph @then() { %n: f32[2] = Neg(%w)  %t: f32[2] = Add(%x, %n)  return %t }
    graph @else() { %e: f32[2] = Abs(%w)  return %e }"""
    made = becomes(parse(text), "fold", "If")
    (_, then), (_, other) = made.nodes[0].bodies
    assert (ops(then), ops(other)) == ("Add", "Identity")


def test_folding_counts_and_stops_at_the_limit() -> None:
    given = graph("%x: f32[]", "%a: f32[] = splat 1.0", "%b: f32[] = Neg(%a)", "%c: f32[] = Mul(%x, %b)", "%d: f32[] = Exp(%a)",
                  "%y: f32[] = Add(%c, %d)")
    for limit, left in ((0, "Neg Mul Exp Add"), (1, "Neg Mul Add"), (2, "Mul Add")):
        context = Context(limit=limit)
        made = run_passes(given, "fold", catalog.CATALOG, context)
        assert (ops(made), len(context.trace)) == (left, limit)
        check_meaning(given, made)




PROGRAM = """
import hashlib
from edgec.access import module
from edgec.pipeline import run_passes
from edgec.testing import random_graph
from edgec.lang.text import parse, show
catalog = module("passes.catalog")
constants = '''
graph @g(%x: f32[64,64]) {
  %a: f32[64,64] = random 1
  %b: f32[64,64] = random 2
  %c: f32[64,64] = MatMul(%a, %b)
  %d: f32[64,64] = Sigmoid(%c)
  %e: f32[64,64] = Exp(%d)
  %i: i64[1] = dense [0]
  %f: f32[1,64] = ReduceMean(%e, %i)
  %g: f32[64,64] = Div(%e, %f)
  %h: f32[64,64] = Tanh(%g)
  %k: f32[64,64] = Log(%h)
  %y: f32[64,64] = Mul(%x, %k)
  return %y
}'''
for graph in (parse(constants), *(random_graph(seed, 40) for seed in range(12))):
    blobs = {}
    text = show(run_passes(graph, catalog.PORTABLE, catalog.CATALOG), blobs)
    print(hashlib.sha256(text.encode() + b"".join(a.tobytes() for a in blobs.values())).hexdigest())
"""


def test_folded_numbers_do_not_depend_on_the_machine() -> None:
    umath = import_module("numpy._core._multiarray_umath")

    found = [f for f in umath.__cpu_dispatch__ if umath.__cpu_features__[f]]
    results = [subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent,
                              env={**os.environ, **more}).stdout.split()
               for more in ({}, {"NPY_DISABLE_CPU_FEATURES": " ".join(found), "OPENBLAS_CORETYPE": "Prescott",
                                 "OPENBLAS_NUM_THREADS": "1"})]
    assert len(results[0]) == 13
    assert results[0] == results[1]
