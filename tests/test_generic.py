"""Operators through TVM: each entry of the table against the evaluator, between guard pages; refusals; whole models."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from edgec.build import build
from edgec.codegen.object import compile_kernels, kernel_symbol
from edgec.errors import EdgecError
from edgec.ir.edit import attributes
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array, Node, Value
from edgec.ir.layout import View
from edgec.ir.types import Tensor, dtype_name
from edgec.isa import Isa
from edgec.kernels.base import Operands, Planned
from edgec.kernels.emit import emit
from edgec.kernels.generic import GenericPlan
from edgec.kernels.plan_generic import TABLE, generic
from edgec.onnx import import_model
from edgec.session import load
from tests.generic_cases import ADDING, CASES, IMAGE, QUANTIZED, ROWS, Case, Data, case, dtypes, ints, made
from tests.kernel_harness import A72, AVX2, Outcome, on, run
from tests.nodes import arrays, cases, chain, feeds_of, same

OUT_OF_BOUNDS = -1
AGREE, REFUSED = 213, 57
"""Of ONNX's node tests of one node, of an operator in the table, those that TVM takes, and those that the table refuses."""


def planned(node: Node, known: Mapping[Value, Array], isa: Isa = AVX2) -> Planned | str:
    """The plan, with the operands that must be constants among the weights."""
    fixed = range(1, 4) if node.op == "Resize" else TABLE[node.op].fixed if node.op in TABLE else ()
    weights = {v: known[v] for i in fixed if (v := node.input(i)) is not None}
    return generic(node, isa, Operands.of(weights, lambda v: v.tensor.view))


def plan_of(what: Case, dtype: str = "f32") -> GenericPlan:
    node, known, _ = made(what, dtype)
    plan = planned(node, known)
    assert not isinstance(plan, str), plan
    assert isinstance(plan.plan, GenericPlan)
    return plan.plan


def outcome(node: Node, known: Mapping[Value, Array], isa: Isa = AVX2) -> Outcome:
    plan = planned(node, known, isa)
    assert not isinstance(plan, str), plan
    assert (plan.plan.kind, plan.plan.algo, plan.plan.generic, plan.plan.tasks) == ("generic", f"generic_{node.op}", True, 1)
    return run(plan.plan, emit, [known[v] for v in plan.inputs])


def wrong(got: Sequence[Array], want: Sequence[Array], tolerance: float = 1e-5) -> str | None:
    """What differs, None when nothing does: floating point within the tolerance of the largest number, all else bit by bit."""
    for g, w in zip(got, want, strict=True):
        expected = np.asarray(w).reshape(-1)
        if g.dtype.kind == "f":
            spread = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
            agrees = np.allclose(g.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance * spread, equal_nan=True)
        else:
            agrees = g.tobytes() == expected.astype(g.dtype).tobytes()
        if not agrees:
            return f"{g[:8]} instead of {expected[:8]}"
    return None


def check(what: Case, dtype: str, isa: Isa = AVX2) -> None:
    node, known, want = made(what, dtype)
    result = outcome(node, known, isa)
    assert result.code == 0
    assert not (fault := wrong(result.outputs, want)), f"{what.op} {dict(what.attrs)} of {dtype}: {fault}"


EVERY = [*CASES, *ADDING, *QUANTIZED]
FIRST = {id(next(c for c in EVERY if c.op == op)) for op in TABLE}


def test_every_entry_has_a_case() -> None:
    assert {c.op for c in EVERY} == set(TABLE)


@pytest.mark.parametrize("what", [pytest.param(c, marks=() if id(c) in FIRST else pytest.mark.slow, id=c.op) for c in EVERY])
def test_one_dtype(what: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no stack: a large tensor would find no place there, so that its buffers must fit into the scratch that was planned."""
    from edgec.kernels.emit import generic as emitter  # noqa: PLC0415  TVM takes seconds to import

    monkeypatch.setattr(emitter, "ON_STACK", 64)
    check(what, "f32")


@pytest.mark.slow
@pytest.mark.parametrize("what", [*CASES, *ADDING], ids=lambda c: c.op)
def test_every_dtype(what: Case) -> None:
    for dtype in dtypes(what):
        check(what, dtype)


@pytest.mark.slow
def test_node_tests_of_onnx() -> None:
    """Every node test of an operator in the table that is not refused agrees with what ONNX expects."""
    faults, counts = dict[str, str](), Counter[str]()
    for one in cases(0, 1):
        answer = of_onnx(one)
        if answer is not None:
            counts[answer.partition(":")[0]] += 1
            if answer.startswith("wrong"):
                faults[one.name] = answer
    assert faults == {}
    assert counts["agrees"] >= AGREE
    assert counts["refused"] <= REFUSED


def of_onnx(one: Any) -> str | None:
    """agrees, refused or wrong, with a sentence; None for a case that is not one node of the table."""
    graph = import_model(one.model)
    node = graph.nodes[0] if len(graph.nodes) == 1 else None
    if node is None or node.op not in TABLE:
        return None
    feeds = feeds_of(one)
    known = {v: np.asarray(feeds.get(v.name, graph.weights.get(v))) for v in node.inputs if v is not None}
    want = dict(zip((v.name for v in graph.outputs), map(np.asarray, arrays(one.data_sets[0][1])), strict=True))
    fresh = {v: Value(v.name, Tensor(dtype_name(a.dtype), a.shape)) for v, a in known.items()}
    outputs = tuple(Value(v.name, Tensor(dtype_name(want[v.name].dtype), want[v.name].shape)) for v in node.outputs if v.name in want)
    node = replace(node, inputs=tuple(v and fresh[v] for v in node.inputs), outputs=outputs)
    plan = planned(node, {fresh[v]: a for v, a in known.items()})
    if isinstance(plan, str):
        return f"refused: {plan}"
    result = run(plan.plan, emit, [known[next(o for o, f in fresh.items() if f is v)] for v in plan.inputs])
    fault = wrong(result.outputs, [want[v.name] for v in outputs], 1e-3)
    return f"wrong: {fault}" if fault or result.code else "agrees"


@pytest.mark.parametrize("isa", on(A72))
@pytest.mark.parametrize("what", [c for c in CASES if id(c) in FIRST and c.op in ("Acos", "Gather", "LpPool", "Conv")], ids=lambda c: c.op)
def test_another_processor(what: Case, isa: Isa) -> None:
    check(what, "f32", isa)


@pytest.mark.parametrize(("what", "place", "bad"), [
    (case("Gather", ROWS, ints(1, 2, 3)), 2, 40), (case("Gather", ROWS, ints(1, 2, 3)), 0, -41),
    (case("GatherElements", ROWS, np.zeros((2, 30), np.int64)), 59, 40), (case("GatherND", ROWS, np.zeros((4, 2), np.int64)), 5, 30),
    (case("ScatterElements", ROWS, np.zeros((2, 3), np.int32), Data((2, 3)), axis=1), 4, 30),
    (case("ScatterND", ROWS, np.zeros((4, 1), np.int64), Data((4, 30))), 3, -41),
    (case("RoiAlign", IMAGE, np.zeros((2, 4), np.float32), ints(0, 0)), 1, -1),
], ids=lambda c: c.op if isinstance(c, Case) else "")
def test_an_index_outside_is_an_error(what: Case, place: int, bad: int) -> None:
    node, known, _ = made(what, "f32")
    position = next(v for v in known if v.tensor.dtype in ("i32", "i64"))
    known[position] = known[position].copy()
    known[position].reshape(-1)[place] = bad
    assert outcome(node, known).code == OUT_OF_BOUNDS


def test_a_grid_of_no_numbers_reads_nothing_else() -> None:
    for what in (c for c in CASES if c.op == "GridSample"):
        node, known, _ = made(what, "f32")
        for number in (np.nan, np.inf, -np.inf, 3e38):
            assert outcome(node, {v: np.full_like(a, number) if v.name == "i1" else a for v, a in known.items()}).code == 0


@pytest.mark.parametrize(("what", "dtype", "reason"), [
    (case("Neg", Data((2,))), "f32", "no kernel is written for Neg"),
    (case("Acos", Data((2,), 0, 1)), "f16", "Acos is not written for f16"),
    (case("Conv", Data((1, 2, 9)), Data((3, 2, 3))), "f16", "Conv is not written for f16"),
    (case("Resize", IMAGE, None, np.array([1, 1, 0.6, 0.6], np.float32)), "f32",
     "Resize is written for scales that divide the sizes without remainder"),
    (case("Resize", IMAGE, None, None, ints(2, 3, 28, 22)), "f32", "Resize is written for the axes after the first two"),
    (case("Resize", IMAGE, None, None, ints(1, 3, 5, 5), mode="linear", antialias=1), "f32", "Resize is not written for antialias=1"),
    (case("Resize", IMAGE, None, None, ints(1, 3, 28, 22), mode="linear"), "u8", "Resize of u8 is written for mode nearest"),
    (case("Pad", Data((2, 3)), ints(1, 1, 0, 0)), "i4", "Pad is not written for i4"),
    (case("LpPool", IMAGE, kernel_shape=[2, 2], ceil_mode=1), "f32", "LpPool is not written for windows that hang over the end"),
    (case("MaxPool", IMAGE, results=2, kernel_shape=[2, 2]), "f32", "MaxPool is not written with indices"),
    (case("Tile", Data((0, 3)), ints(1, 2)), "f32", "there is nothing to compute"),
    (case("Conv", Data((1, 1, 9)), Data((1, 1, 3)), odd=np.array(1)), "f32", "Conv has an attribute that is neither numbers nor a word"),
], ids=lambda c: c.op if isinstance(c, Case) else "")
def test_refusals(what: Case, dtype: str, reason: str) -> None:
    strange = {k: a for k, a in what.attrs.items() if isinstance(a, np.ndarray)}
    node, known, _ = made(replace(what, attrs={k: a for k, a in what.attrs.items() if k not in strange}), dtype)
    assert planned(replace(node, attrs=attributes(**node.attrs, **strange)), known) == reason


def test_operands_that_are_not_known_or_do_not_lie_straight() -> None:
    node, _, _ = made(case("Trilu", ROWS, ints(1)), "f32")
    assert generic(node, AVX2, Operands.of({}, lambda v: v.tensor.view)) == "operand 1 of Trilu is not known when the model is built"
    node, _, _ = made(case("Acos", Data((4, 5), 0, 1)), "f32")
    for value in (node.inputs[0], node.outputs[0]):
        assert value is not None
        views = {node.inputs[0]: View.of((4, 5)), node.outputs[0]: View.of((4, 5)), value: View.of((5, 4)).transpose((1, 0))}
        assert generic(node, AVX2, Operands.of({}, views.__getitem__)) == f"Acos needs %{value.name} in row-major order"


def test_the_kernel_does_not_depend_on_names_and_weights() -> None:
    node, known, _ = made(CASES[0], "f32")
    kind = node.outputs[0].type
    other = replace(node, inputs=(Value("x", kind),), outputs=(Value("y", kind),), origin="")
    assert planned(node, known) != planned(other, {})
    assert plan_of(CASES[0]) == planned(other, {}).plan  # type: ignore[union-attr]


def test_objects_are_reproducible_and_ask_for_nothing(tmp_path: Path) -> None:
    plans = {str(i): plan_of(c) for i, c in enumerate(c for c in CASES if c.op in ("LpPool", "AffineGrid", "Acos"))}
    first, second = (compile_kernels(plans, AVX2, cache_dir=tmp_path / folder) for folder in ("a", "b"))
    assert first == second


def test_what_tvm_makes_nothing_of_names_the_node(tmp_path: Path) -> None:
    plan = replace(plan_of(next(c for c in CASES if c.op == "AffineGrid")), op="Celu", operands=(0,), attrs=())
    with pytest.raises(EdgecError, match=r"the kernel of neck/celu cannot be compiled for x86-64-v3.*Celu"):
        compile_kernels({"k": plan}, AVX2, cache_dir=tmp_path, origins={"k": "neck/celu"})
    small = replace(plan_of(next(c for c in CASES if c.op == "Shrink")), args=plan_of(CASES[0]).args)
    with pytest.raises(EdgecError, match="it needs 4096 bytes of scratch where 0 were planned"):
        compile_kernels({"k": small}, AVX2, cache_dir=tmp_path)
    assert kernel_symbol(plan, AVX2) != kernel_symbol(small, AVX2)


def test_planning_needs_no_tvm() -> None:
    code = "import sys, edgec.kernels.plan; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_whole_models(tmp_path: Path) -> None:
    """A generic kernel behind a convolution, into a Concat, with several results, and of f16."""
    rng = np.random.default_rng(0)
    w, v = ((rng.standard_normal(shape) / 9).astype(np.float32) for shape in ((8, 3, 3, 3), (16, 8, 1, 1)))
    model = chain(
        ("Conv", "x w", "c", {"pads": [1, 1, 1, 1]}), ("Sinh", "c", "s", {}), ("Conv", "s v", "d", {}), ("Concat", "c s", "y", {"axis": 3}),
        ("DynamicQuantizeLinear", "d", "q scale zero", {}), ("Atan", "d", "t", {}), ("Transpose", "t", "u", {"perm": [0, 3, 1, 2]}),
        ("Tan", "u", "z", {}), inputs=[("x", (1, 3, 9, 7))], outputs=("y", "scale", "z"),
        weights=[numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")])
    for target in ("host", "cortex-a72"):
        bundle = build(model.SerializeToString(), target, tmp_path / f"{target}.edgec")
        kernels = load(bundle.path, poison=True).manifest["kernels"]
        through = sorted(k["algo"] for k in kernels.values() if k["generic"])
        assert through == ["generic_Atan", "generic_DynamicQuantizeLinear", "generic_Sinh", "generic_Tan"]
    feeds = {"x": rng.standard_normal((1, 3, 9, 7)).astype(np.float32)}
    found, expected = load(tmp_path / "host.edgec", poison=True).run(feeds), evaluate(import_model(model), feeds, precise=True)
    for name, result in expected.items():
        same(result, found[name], 1e-4)
