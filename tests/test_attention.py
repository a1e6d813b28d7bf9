"""Attention as one kernel: between guard pages against the evaluator in float64, masks of every kind, and what becomes one."""

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edgec.access import module
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import View
from edgec.isa import Isa
from edgec.kernels.attention import AttentionPlan
from edgec.kernels.base import Operands, Planned
from edgec.kernels.emit.attention import emit
from edgec.kernels.plan import plan
from edgec.pipeline import Context, run_passes
from edgec.target import find
from tests.kernel_harness import AVX512, HOST, ISAS, offsets, run
from tests.small import graph

catalog = module("passes.catalog")

Sizes = tuple[int, int, int, int, int, int]
"""Batch, heads, rows, columns, depth, width."""
CASES: list[tuple[Sizes, str, str]] = [
    ((1, 2, 16, 16, 16, 16), "none", "turned"), ((2, 3, 13, 21, 8, 12), "scale", "turned"), ((1, 1, 1, 33, 5, 7), "bias", "turned"),
    ((2, 2, 35, 40, 32, 32), "both", "turned"), ((1, 2, 9, 300, 16, 24), "both", "straight"), ((1, 4, 70, 64, 20, 48), "causal", "turned"),
    ((3, 1, 5, 3, 2, 1), "each", "straight"), ((1, 1, 64, 48, 40, 40), "where", "turned"), ((1, 1, 100, 128, 64, 64), "scale", "turned"),
    ((5, 2, 4, 17, 3, 33), "none", "straight"),
]


def attend(sizes: Sizes, arithmetic: str) -> tuple[Node, Graph, dict[str, Any]]:
    """The node, its body as a graph, and operands for it."""
    b, h, m, n, d, e = sizes
    rng = np.random.default_rng(7)
    feeds: dict[str, Any] = {"q": rng.standard_normal((b, h, m, d)), "k": rng.standard_normal((b, h, d, n)),
                             "v": rng.standard_normal((b, h, n, e))}
    steps = [f"%s: f32[{b},{h},{m},{n}] = MatMul(%q, %k)"]
    masks = {"bias": ("b", (b, 1, 1, n)), "both": ("b", (b, 1, 1, n)), "causal": ("b", (m, n)), "each": ("b", (b, h, m, n))}
    if arithmetic in ("scale", "both"):
        feeds["c"] = np.array(2.5)
        steps.append(f"%s2: f32[{b},{h},{m},{n}] = Div(%s, %c)")
    last = "%s2" if "c" in feeds else "%s"
    if arithmetic in masks:
        name, shape = masks[arithmetic]
        feeds[name] = np.triu(np.full((m, n), -np.inf), 1) if arithmetic == "causal" else rng.standard_normal(shape) * 3
        steps.append(f"%a: f32[{b},{h},{m},{n}] = Add({last}, %b)")
        last = "%a"
    feeds = {k: v.astype(np.float32) for k, v in feeds.items()}
    if arithmetic == "where":
        feeds |= {"t": rng.random((b, 1, m, n)) < 0.7, "l": np.float32(-1e9)}
        steps.append(f"%a: f32[{b},{h},{m},{n}] = Where(%t, %s, %l)")
        last = "%a"
    inputs = ", ".join(f"%{k}: {'bool' if k == 't' else 'f32'}[{','.join(map(str, np.shape(v)))}]" for k, v in feeds.items())
    body = graph(inputs, *steps, f"%p: f32[{b},{h},{m},{n}] = Softmax({last}) {{axis=-1}}", f"%y: f32[{b},{h},{m},{e}] = MatMul(%p, %v)")
    outer = tuple(Value(v.name, v.type) for v in body.inputs)
    node = Node("edgec.Fused", outer, (Value("out", body.outputs[0].type),), MappingProxyType({"kind": "attention", "body": body}))
    return node, body, feeds


def lies(value: Value, how: str) -> View:
    """Heads side by side in a row, as projections write them: K is turned then; or all row-major."""
    order = {"q": (0, 2, 1, 3), "v": (0, 2, 1, 3), "out": (0, 2, 1, 3), "k": (0, 3, 1, 2)}.get(value.name)
    if how == "straight" or order is None:
        return View.of(value.dims)
    back = [order.index(i) for i in range(4)]
    return View.of([value.dims[i] for i in order]).transpose(back)


def made(node: Node, isa: Isa, how: str) -> Planned | str:
    return plan(node, isa, Operands(lambda v: lies(v, how), lambda _: False, lambda _: None))


def results(isa: Isa, node: Node, feeds: dict[str, Any], how: str) -> Any:
    """What the kernel makes of operands that lie so."""
    planned = made(node, isa, how)
    assert isinstance(planned, Planned), planned
    arrays = []
    for v in planned.inputs:
        view = lies(v, how)
        flat: Any = np.zeros(max(int(np.prod(v.dims)), 1), np.bool_ if v.tensor.dtype == "bool" else np.float32)
        flat[offsets(view)] = np.asarray(feeds[v.name]).reshape(-1)
        arrays.append(flat)
    outcome = run(planned.plan, emit, arrays)
    assert outcome.code == 0
    return outcome.outputs[0][offsets(lies(node.outputs[0], how))].reshape(node.output.dims)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("sizes", "arithmetic", "how"), CASES)
def test_heads(sizes: Sizes, arithmetic: str, how: str, isa: Isa) -> None:
    node, body, feeds = attend(sizes, arithmetic)
    exact = evaluate(body, feeds, precise=True)["y"]
    plain = evaluate(body, feeds)["y"]
    error = np.abs(results(isa, node, feeds, how) - exact).max()
    assert error <= max(3 * np.abs(plain - exact).max(), 4e-7 * np.abs(exact).max())


@pytest.mark.parametrize("isa", ISAS)
def test_masks_that_leave_nothing_and_numbers_that_are_none(isa: Isa) -> None:
    node, body, feeds = attend((1, 2, 12, 40, 8, 16), "each")
    feeds["b"][0, 0, 3] = -np.inf                              # no column is left for this row
    feeds["b"][0, 0, 4, 7:] = -np.inf
    feeds["b"][0, 1, 5, 20] = np.nan
    feeds["b"][0, 1, 6, 1] = np.inf
    feeds["b"][0, 1, 7] = -1e9
    feeds["q"][0, 1, 8, 2] = np.nan
    with np.errstate(invalid="ignore"):
        exact = evaluate(body, feeds)["y"]                     # in f32, where all scores of row 7 round to a few
    found = results(isa, node, feeds, "turned")
    lost = np.isnan(exact)
    assert {tuple(i) for i in np.argwhere(lost)[:, 1:3]} == {(0, 3), (1, 5), (1, 6), (1, 8)}
    assert (np.isnan(found) == lost).all()
    assert np.abs(found - exact)[~lost].max() < 1e-6


def test_what_is_far_below_the_largest_score_counts_as_nothing() -> None:
    node, body, feeds = attend((1, 1, 4, 20, 4, 5), "each")
    feeds["b"][..., 1:] = -86.0 - np.arange(19)                # around the smallest normal number
    feeds["q"][:] = 0
    found = results(HOST, node, feeds, "straight")
    assert np.abs(found - evaluate(body, feeds, precise=True)["y"]).max() < 1e-6


def test_scratch_memory_is_a_few_rows_of_scores_and_one_head_of_keys() -> None:
    node, *_ = attend((1, 12, 512, 512, 32, 32), "both")
    planned = made(node, AVX512, "turned")
    assert isinstance(planned, Planned)
    assert isinstance(planned.plan, AttentionPlan)
    assert planned.plan.scratch < 512 * (32 + 32)
    assert planned.plan.tasks <= 8
    assert planned.plan.macs == 12 * 512 * 512 * 64


@pytest.mark.parametrize(("change", "reason"), [
    (("{axis=-1}", "{axis=1}"), "along its last axis"), (("f32[1,2,8,4]", "f64[1,2,8,4]"), "written for f32")])
def test_reasons(change: tuple[str, str], reason: str) -> None:
    text = ["%q: f32[1,2,8,4], %k: f32[1,2,4,6], %v: f32[1,2,6,4]", "%s: f32[1,2,8,6] = MatMul(%q, %k)",
            "%p: f32[1,2,8,6] = Softmax(%s) {axis=-1}", "%y: f32[1,2,8,4] = MatMul(%p, %v)"]
    body = graph(*(t.replace(*change) for t in text))
    outer = tuple(Value(v.name, v.type) for v in body.inputs)
    node = Node("edgec.Fused", outer, (Value("out", body.outputs[0].type),), MappingProxyType({"kind": "attention", "body": body}))
    answer = made(node, AVX512, "straight")
    assert isinstance(answer, str)
    assert reason in answer


def test_v_that_lies_in_columns_is_copied_first() -> None:
    node, *_ = attend((1, 2, 8, 8, 4, 4), "none")
    across = View.of((1, 2, 4, 8)).transpose((0, 1, 3, 2))
    answer = plan(node, AVX512, Operands(lambda v: across if v.name == "v" else View.of(v.dims), lambda _: False, lambda _: None))
    assert answer == "V is not contiguous along its columns"


PLAIN = ("%q: f32[1,2,8,4], %k: f32[1,2,4,6], %v: f32[1,2,6,4], %b: f32[6]", "%s: f32[1,2,8,6] = MatMul(%q, %k)",
         "%a: f32[1,2,8,6] = Add(%s, %b)", "%p: f32[1,2,8,6] = Softmax(%a) {axis=-1}", "%y: f32[1,2,8,4] = MatMul(%p, %v)")


def test_it_is_found_once_and_can_be_forbidden() -> None:
    given = graph(*PLAIN)
    context = Context(find("host"))
    clustered = run_passes(given, "cluster", catalog.CATALOG, context)
    assert [(n.op, n.attrs["kind"]) for n in clustered.nodes] == [("edgec.Fused", "attention")]
    assert [r.name for r in context.trace] == ["attention"]
    apart = run_passes(given, "cluster", catalog.CATALOG, Context(find("host"), disabled=frozenset({"attention"})))
    assert [n.attrs["kind"] for n in apart.nodes] == ["gemm", "softmax", "gemm"]


@pytest.mark.parametrize("returns", ["%y, %p", "%y, %a", "%y, %s"])
def test_scores_that_others_read_are_stored(returns: str) -> None:
    clustered = run_passes(graph(*PLAIN, returns=returns), "cluster", catalog.CATALOG, Context(find("host")))
    assert "attention" not in {n.attrs["kind"] for n in clustered.nodes}
