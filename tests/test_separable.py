"""Depthwise and 1x1 convolutions in one kernel: between guard pages against the evaluator in float64, and when they become one."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edgec.access import module
from edgec.build import build, compile_graph
from edgec.codegen.schedule import schedule
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Layout, View
from edgec.isa import Isa, cpu_isa
from edgec.kernels.base import Operands, Planned
from edgec.kernels.contract import ContractPlan
from edgec.kernels.emit.separable import emit
from edgec.kernels.plan import packed, plan
from edgec.kernels.plan_separable import Chain, chain
from edgec.kernels.separable import SeparablePlan
from edgec.lang.text import parse
from edgec.pipeline import Context, run_passes
from edgec.target import find, scalar
from edgec.why import why
from tests import c_programs
from tests.bundles import feeds
from tests.kernel_harness import A72, AVX2, AVX512, HOST, gathered, on, run, scatter

catalog = module("passes.catalog")

NHWC = Layout((0, 2, 3, 1))
ACTIVATIONS = {"none": "Identity(%{})", "relu": "Relu(%{})", "relu6": "Clip(%{}, %zero, %six)", "hswish": "HardSwish(%{})"}


def window(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int]) -> int:
    return (size + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1


def text(case: Mapping[str, Any]) -> str:
    """Up to three convolutions with activations, and a residual: as a graph."""
    n, c, h, w = case["x"]
    parts, act = case.get("parts", "edp"), case.get("act", "relu6")
    middle = case.get("c", c) if parts[0] in "ef" else c
    k, stride, dilation, pads = case.get("k", (3, 3)), case.get("s", (1, 1)), case.get("d", (1, 1)), case.get("pads", (1, 1, 1, 1))
    out = case.get("m", 24)
    lines, last = ["%zero: f32[] = splat 0.0", "%six: f32[] = splat 6.0"], "x"

    def conv(name: str, dims: str, weight: str, attrs: str, seed: int) -> None:
        nonlocal last
        bias = f"%{name}b: f32[{dims.split(',')[1]}] = random {seed + 20}"
        one = "kernel_shape=[1, 1], strides=[1, 1], dilations=[1, 1], group=1, pads=[0, 0, 0, 0]"
        lines.extend([f"%{name}w: f32[{weight}] = random {seed}"] + ([bias] if case.get("bias", True) else []))
        lines.append(f"%{name}: f32[{dims}] = Conv(%{last}, %{name}w{f', %{name}b' if case.get('bias', True) else ''}) {{{attrs or one}}}")
        lines.append(f"%{name}a: f32[{dims}] = {ACTIVATIONS[act].format(name)}")
        last = f"{name}a"

    if "f" in parts:                                                  # a first layer: 3x3, every other pixel
        h, w = (window(size, 3, 2, 1, (1, 1)) for size in (h, w))
        conv("e", f"{n},{middle},{h},{w}", f"{middle},{c},3,3",
             "kernel_shape=[3, 3], strides=[2, 2], dilations=[1, 1], group=1, pads=[1, 1, 1, 1]", 1)
    elif "e" in parts:
        conv("e", f"{n},{middle},{h},{w}", f"{middle},{c},1,1", "", 1)
    oh, ow = (window((h, w)[i], k[i], stride[i], dilation[i], (pads[i], pads[i + 2])) for i in (0, 1))
    conv("d", f"{n},{middle},{oh},{ow}", f"{middle},1,{k[0]},{k[1]}",
         f"kernel_shape={list(k)}, strides={list(stride)}, dilations={list(dilation)}, group={middle}, pads={list(pads)}", 2)
    if "p" in parts:
        conv("p", f"{n},{out},{oh},{ow}", f"{out},{middle},1,1", "", 3)
    result = f"{n},{out if 'p' in parts else middle},{oh},{ow}"
    extra = ""
    if case.get("residual"):
        extra, last = f", %r: f32[{result}]", f"{last}, %r"
        lines.append(f"%y: f32[{result}] = Add(%{last})")
    else:
        lines.append(f"%y: f32[{result}] = Relu(%{last})")
    return f"graph @g(%x: f32[{','.join(map(str, case['x']))}]{extra}) {{\n" + "\n".join(lines) + "\nreturn %y\n}"


def fused(given: Graph) -> Node:
    """The whole graph as one node."""
    outer = (*given.inputs, *given.weights)
    body = Graph("region", outer, given.outputs, given.nodes)
    return Node("edgec.Fused", outer, (Value("out", given.outputs[0].type),), MappingProxyType({"kind": "separable", "body": body}))


def layout(value: Value, isa: Isa, how: str) -> Layout | None:
    if how == "rows" or len(value.dims) != 4:
        return None
    c = value.dims[1]
    return Layout((0, 1, 2, 3), ((1, isa.lanes),)) if c % isa.lanes == 0 and c > isa.lanes and how == "blocks" else NHWC


def parts(given: Graph, isa: Isa, how: str) -> Chain:
    made = chain(fused(given), isa, Operands.of(given.weights, lambda v: View.of(v.dims, layout(v, isa, how))))
    assert isinstance(made, Chain), made
    return made


def results(planned: Planned, given: Graph, feeds: Mapping[str, Any], how: str) -> Any:
    isa, weights = planned.plan.isa, {v.name: a for v, a in given.weights.items()}
    arrays = []
    for i, (arg, value) in enumerate(zip(planned.plan.args, planned.inputs, strict=False)):
        if value.name in weights:
            arrays.append(packed(planned.plan, i, weights[value.name]) if arg.role == "weight" else weights[value.name].reshape(-1))
        else:
            arrays.append(scatter(np.asarray(feeds[value.name]), layout(value, isa, how)))
    outcome = run(planned.plan, emit, arrays)
    assert outcome.code == 0
    y = given.outputs[0]
    return gathered(outcome.outputs[0], View.of(y.dims, layout(y, isa, how)))


def feeds_of(given: Graph) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {v.name: rng.standard_normal(v.dims).astype(np.float32) for v in given.inputs}


CASES: list[dict[str, Any]] = [
    {"x": (1, 32, 12, 12), "parts": "dp", "m": 32, "rows": (4, 5)},
    {"x": (2, 17, 9, 7), "parts": "dp", "m": 13, "s": (2, 2), "rows": (2,), "residual": True, "act": "hswish"},
    {"x": (1, 16, 8, 8), "parts": "dp", "m": 24, "k": (5, 5), "pads": (2, 2, 2, 2), "rows": (4,), "residual": True},
    {"x": (3, 48, 1, 1), "parts": "dp", "m": 20, "rows": (1,)},
    {"x": (1, 16, 11, 13), "parts": "dp", "m": 16, "k": (3, 5), "s": (1, 2), "d": (2, 1), "pads": (0, 3, 2, 1), "rows": (4,),
     "bias": False},
    {"x": (1, 8, 12, 12), "c": 48, "m": 16, "rows": (1, 5), "residual": True},
    {"x": (2, 7, 13, 10), "c": 13, "m": 10, "s": (2, 2), "rows": (3,), "act": "relu"},
    {"x": (1, 16, 17, 9), "c": 32, "m": 24, "k": (5, 5), "s": (2, 2), "pads": (2, 2, 2, 2), "rows": (4,)},
    {"x": (1, 6, 20, 6), "c": 16, "m": 8, "d": (3, 2), "pads": (3, 2, 3, 2), "rows": (4,)},
    {"x": (1, 5, 9, 9), "c": 20, "m": 4, "k": (2, 2), "s": (3, 3), "pads": (0, 0, 0, 0), "rows": (2,)},
    {"x": (1, 6, 4, 4), "c": 20, "m": 4, "pads": (4, 4, 4, 4), "rows": (3,), "act": "none"},
    {"x": (2, 12, 10, 8), "c": 32, "parts": "ed", "rows": (3,)},
    {"x": (1, 3, 18, 13), "c": 32, "parts": "fdp", "m": 16, "rows": (1, 5)},
    {"x": (2, 3, 11, 9), "c": 24, "parts": "fd", "s": (2, 2), "rows": (2,)},
    {"x": (1, 10, 9, 9), "c": 13, "parts": "ed", "s": (2, 2), "rows": (2,), "residual": True, "act": "none"},
]


@pytest.mark.parametrize("isa", on(HOST, A72))
@pytest.mark.parametrize(("case", "how"), [(c, ("blocks", "last", "rows")[i % 3]) for i, c in enumerate(CASES)],
                         ids=lambda c: c if isinstance(c, str) else f"{c.get('parts', 'edp')}-{c['x']}")
def test_any_height_of_band_gives_the_results_of_the_graph(case: dict[str, Any], how: str, isa: Isa) -> None:
    given = parse(text(case))
    feeds = feeds_of(given)
    exact, plain = evaluate(given, feeds, precise=True)["y"], evaluate(given, feeds)["y"]
    allowed = max(4 * np.abs(plain - exact).max(), 1e-6 * np.abs(exact).max())
    found = parts(given, isa, how)
    for planned in (found.of(rows) for rows in case["rows"]):
        assert isinstance(planned, Planned), planned
        assert np.abs(results(planned, given, feeds, how) - exact).max() <= allowed, planned.plan


@pytest.mark.parametrize("isa", on(AVX2))
def test_tiles_of_the_first_convolution_may_take_turns(isa: Isa) -> None:
    """Their totals lie in the ring of rows meanwhile."""
    given = parse(text({"x": (1, 64, 8, 56), "c": 32, "parts": "fdp", "m": 16}))
    lying = Operands.of(given.weights, lambda v: View.of(v.dims, layout(v, isa, "blocks")))
    alone = plan(given.nodes[0], isa, lying)
    assert isinstance(alone, Planned)
    assert isinstance(alone.plan, ContractPlan)
    assert alone.plan.turns
    planned, feeds = parts(given, isa, "blocks").of(2), feeds_of(given)
    assert isinstance(planned, Planned)
    exact = evaluate(given, feeds, precise=True)["y"]
    assert np.abs(results(planned, given, feeds, "blocks") - exact).max() <= 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("isa", on(HOST))
@pytest.mark.parametrize("how", ["blocks", "last", "rows"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_no_number_stays_where_the_windows_are(number: float, how: str, isa: Isa) -> None:
    given = parse(text({"x": (1, 8, 12, 12), "c": 48, "m": 32, "act": "none"}))
    feeds = feeds_of(given)
    feeds["x"][0, 3, 5, 6] = number
    with np.errstate(invalid="ignore"):
        exact = evaluate(given, feeds)["y"]
    planned = parts(given, isa, how).of(3)
    assert isinstance(planned, Planned)
    found = results(planned, given, feeds, how)
    assert {tuple(i) for i in np.argwhere(~np.isfinite(found).all(axis=1))[:, 1:]} == {(y, x) for y in (4, 5, 6) for x in (5, 6, 7)}
    assert (np.isnan(found) == np.isnan(exact)).all()


def test_scratch_memory_is_a_ring_of_rows_and_a_band() -> None:
    given = parse(text({"x": (1, 16, 112, 112), "c": 96, "m": 24, "s": (2, 2), "pads": (0, 0, 1, 1)}))
    planned = parts(given, AVX512, "blocks").best()
    assert isinstance(planned, Planned)
    assert isinstance(planned.plan, SeparablePlan)
    rows = planned.plan.rows
    assert planned.plan.scratch == 96 * 112 * (2 * rows + 1) + 96 * 56 * rows
    assert planned.plan.scratch * 4 <= AVX512.l2_bytes / 2
    assert 2 <= planned.plan.tasks <= 4
    assert planned.plan.macs == 112 * 112 * 16 * 96 + 56 * 56 * 96 * (9 + 24)


@pytest.mark.parametrize(("change", "reason"), [
    (("Relu(%pa)", "Add(%pa, %x)"), "nothing else joins them"),
    (("f32[16,16,1,1] = random 3", "f16[16,16,1,1] = random 3"), "are written for f32"),
    (("group=16", "group=1"), "a depthwise convolution with at most one other on either side")])
def test_reasons(change: tuple[str, str], reason: str) -> None:
    before = text({"x": (1, 16, 8, 8), "m": 16, "parts": "dp"})
    made = before.replace(*change).replace("f32[16,1,3,3]", "f32[16,16,3,3]" if "group" in change[0] else "f32[16,1,3,3]")
    assert made != before
    given = parse(made)
    answer = plan(fused(given), A72, Operands.of(given.weights, lambda v: View.of(v.dims)))
    if "nothing" in reason:                                            # the second part may read what the kernel reads: it is a residual
        assert isinstance(answer, Planned)
    else:
        assert isinstance(answer, str)
        assert reason in answer


WIDE = text({"x": (1, 64, 112, 112), "m": 24, "c": 96, "s": (2, 2)})


def clustered(given: str, **said: Any) -> tuple[list[str], Context]:
    context = Context(find("cortex-a72"), **said)
    made = run_passes(parse(given), "cluster", catalog.CATALOG, context)
    return [n.attrs["kind"] for n in made.nodes if n.op == "edgec.Fused"], context


def test_it_is_found_once_and_can_be_forbidden() -> None:
    kinds, context = clustered(WIDE)
    assert sorted(kinds) in (["separable"], ["conv", "separable"])
    assert [r.name for r in context.trace] == ["separable"]
    assert clustered(WIDE, disabled=frozenset({"separable"}))[0] == ["conv", "conv", "conv"]


def test_what_is_not_faster_stays_apart_and_why_says_so() -> None:
    small = text({"x": (1, 512, 14, 14), "m": 512, "parts": "dp"})
    assert clustered(small)[0] == ["conv", "conv"]
    apart = why(parse(small), "p", find("cortex-a72")).apart
    assert [a for a in apart if "us are predicted for one kernel" in a and "for 2" in a]


@pytest.mark.parametrize("returns", ["%y, %da", "%y, %ea"])
def test_what_others_read_is_stored(returns: str) -> None:
    kinds, _ = clustered(WIDE.replace("return %y", f"return {returns}"))
    assert len(kinds) > 1
    read = {"%y, %da": ["separable", "conv"], "%y, %ea": ["conv", "separable"]}[returns]
    assert kinds in (read, ["conv", "conv", "conv"])


SMALL = text({"x": (1, 8, 24, 24), "m": 8, "c": 48})
"""All of it lies in the second cache: nothing is gained but memory."""


def test_the_largest_moment_of_the_arena_is_put_together_at_almost_no_cost() -> None:
    arenas = {}
    for name in ("attention", "separable"):
        context = Context(find("cortex-a72"), disabled=frozenset({name}))
        final = run_passes(parse(SMALL), catalog.DEFAULT, catalog.CATALOG, context)
        made = schedule(final, cpu_isa(find("cortex-a72")), "m").program
        arenas[name] = made.arena_bytes, sum(made.kernels[c.kernel].cycles for c in made.calls)
    assert arenas["attention"][0] < 0.6 * arenas["separable"][0]
    assert arenas["attention"][1] < 1.01 * arenas["separable"][1]


def test_memory_that_makes_the_arena_no_smaller_is_not_saved() -> None:
    """A map in front of the chain has operands that are larger than all that lies inside of it."""
    inputs = ", ".join(["%x"] * 100)
    before = ("%from: i64[1] = dense [0]", "%to: i64[1] = dense [24]", "%axis: i64[1] = dense [3]", "%step: i64[1] = dense [1]",
              f"%big: f32[1,8,24,2400] = Concat({inputs}) {{axis=3}}", "%more: f32[1,8,24,2400] = Exp(%big)",
              "%part: f32[1,8,24,24] = Slice(%more, %from, %to, %axis, %step)")
    wide = SMALL.replace("= Conv(%x,", "= Conv(%part,").replace("%ew: ", "\n".join(before) + "\n%ew: ")
    assert "separable" in clustered(SMALL)[0]
    assert "separable" not in clustered(wide)[0]


@pytest.mark.parametrize("target", ["host", "cortex-a72"])
def test_any_number_of_threads_gives_the_same_bits(target: str, tmp_path: Path) -> None:
    """Tasks of a call follow one another in one ring of rows, and which tasks are in a call is up to the threads."""
    if target != "host" and not shutil.which("qemu-aarch64"):
        pytest.skip("qemu-aarch64 is not installed")
    source = tmp_path / "m.edge"
    source.write_text(text({"x": (1, 8, 64, 64), "m": 16, "c": 48, "residual": True}))
    made = build(source, target, tmp_path / "m.edgec")
    assert "separable" in {k["kind"] for k in made.manifest["kernels"].values()}
    given = feeds(made, 1)
    wanted = evaluate(parse(source.read_text()), given, precise=True)["y"]
    first = made.load(poison=True).run(given)["y"]
    assert np.abs(first - wanted).max() <= 1e-5 * np.abs(wanted).max()
    for threads in (2, 3):
        assert made.load(threads=threads, poison=True).run(given)["y"].tobytes() == first.tobytes()


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_it_can_be_printed_as_c(tmp_path: Path) -> None:
    given = parse(SMALL)
    made = compile_graph(given, scalar(find("host")), "m")
    assert "separable" in {k.kind for k in made.schedule.program.kernels.values()}
    fed = feeds_of(given)
    got = c_programs.run(made, c_programs.compiled(made, tmp_path, "gcc"), fed)["y"]
    wanted = evaluate(given, fed, precise=True)["y"]
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
