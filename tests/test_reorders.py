"""Layouts where kernels disagree: what the pass `layout` makes of them costs no more, means the same, and is left alone elsewhere."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

from edgec.access import module
from edgec.build import compile_graph
from edgec.ir.graph import Array, Graph
from edgec.ir.infer import infer
from edgec.isa import Isa, cpu_isa
from edgec.lang.text import parse
from edgec.pipeline import Context, run_passes
from edgec.target import find
from edgec.testing import check_meaning, random_graph

catalog, layout, reorders = module("passes.catalog"), module("passes.layout"), module("passes.changes.reorders")
TARGETS = ["x86-64-v4", "x86-64-v3", "cortex-a72"]


def normed(between: str = "LRN(%a) {size=5, alpha=0.001, beta=0.75}", *, out: str = "%y", size: int = 26) -> Graph:
    """Two convolutions with something between them."""
    weights = ", ".join(f"%{n}: f32[{shape}]" for n, shape in (("u", "64,32,1,1"), ("v", "32,64,1,1")))
    text = f"graph @g(%x: f32[1,32,{size},{size}], {weights}) {{\n%a = Conv(%x, %u)\n%b = {between}\n%y = Conv(%b, %v)\nreturn {out}\n}}"
    graph, random = infer(parse(text)), np.random.default_rng(0)
    stored: dict[str, Array] = {v.name: (random.standard_normal(v.dims) / 8).astype(np.float32) for v in graph.inputs[1:]}
    return replace(graph, inputs=graph.inputs[:1], weights={v: stored[v.name] for v in graph.inputs[1:]})


def passes(graph: Graph, target: str, *, settle: bool = True, optimize: str = "speed") -> Graph:
    """The graph of kernels, with or without what is tested here."""
    machine = find(target)
    if optimize != "speed":
        facts = {**machine.cpu.facts, "optimize": optimize}
        machine = replace(machine, units={**machine.units, machine.cpu.name: replace(machine.cpu, facts=facts)})
    with patch.object(layout, "settle", reorders.settle if settle else lambda given, _: given):
        return run_passes(graph, catalog.DEFAULT, catalog.CATALOG, Context(machine))


def copies(graph: Graph) -> int:
    return sum(n.op == "edgec.Reorder" for n in graph.nodes)


@pytest.mark.parametrize("target", TARGETS)
def test_a_pooling_along_channels_is_fed_by_copies_where_that_is_cheaper(target: str) -> None:
    given, isa = normed(), cpu_isa(find(target))
    plain, made = passes(given, target, settle=False), passes(given, target)
    assert reorders.cycles(made, isa) < reorders.cycles(plain, isa)
    assert copies(made) >= 1
    assert copies(plain) == 0
    check_meaning(given, made)


def test_where_size_counts_nothing_is_copied() -> None:
    assert copies(passes(normed(), "x86-64-v4", optimize="size")) == 0


@pytest.mark.parametrize("between", ["Relu(%a)", "MaxPool(%a) {kernel_shape=[3, 3], pads=[1, 1, 1, 1]}", "Concat(%a, %a) {axis=2}"])
def test_where_kernels_agree_nothing_changes(between: str) -> None:
    given, isa = normed(between), cpu_isa(find("x86-64-v4"))
    plain = passes(given, "x86-64-v4", settle=False)
    assert reorders.settle(plain, isa) is plain


def test_small_tensors_and_results_stay() -> None:
    isa = cpu_isa(find("x86-64-v4"))
    for given in (normed(size=4), normed(out="%a, %y")):
        made = passes(given, "x86-64-v4")
        assert reorders.cycles(made, isa) <= reorders.cycles(passes(given, "x86-64-v4", settle=False), isa)
        assert [v.tensor.layout for v in made.outputs] == [None] * len(given.outputs)
        check_meaning(given, made)
    assert copies(passes(normed(size=4), "x86-64-v4")) == 0


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_cost_no_more_and_mean_the_same(seed: int) -> None:
    given, target = random_graph(seed, 40), TARGETS[seed % len(TARGETS)]
    isa = cpu_isa(find(target))
    made = passes(given, target)
    assert reorders.cycles(made, isa) <= reorders.cycles(passes(given, target, settle=False), isa)


def test_a_kernel_that_cannot_be_planned_is_no_reason_to_fail() -> None:
    plain, isa = passes(normed(), "x86-64-v4", settle=False), cpu_isa(find("x86-64-v4"))
    with patch.object(reorders, "plan", lambda *_: "no kernel"):
        assert reorders.settle(plain, isa) is plain


def test_what_the_program_says_is_what_the_graph_then_costs() -> None:
    given, isa = normed(), cpu_isa(find("x86-64-v4"))
    plain, answers = passes(given, "x86-64-v4", settle=False), list[float]()
    solve = reorders.solve

    def heard(problem: object) -> object:
        found = solve(problem)
        answers.append(found.price)
        answers.append(problem.price([0] * len(problem.layouts), [(0,) * (len(w.reads) + 1) for w in problem.works]))  # type: ignore[attr-defined]
        return found

    with patch.object(reorders, "solve", heard):
        made = reorders.settle(plain, isa)
    assert reorders.cycles(plain, isa) - reorders.cycles(made, isa) == pytest.approx(answers[1] - answers[0])


def test_the_schedule_takes_what_the_pass_made() -> None:
    built = compile_graph(normed(), "x86-64-v4", "g")
    assert sum(k.algo == "copy" for k in built.schedule.program.kernels.values()) == copies(built.graph) >= 1
    assert isinstance(built.isa, Isa)


def test_a_copy_gives_a_convolution_behind_the_interface_the_form_of_winograd() -> None:
    convolutions = "%a = Conv(%x, %w) {pads=[1, 1, 1, 1]}\n%y = Conv(%a, %v)"
    graph = infer(parse(f"graph @g(%x: f32[1,64,32,32], %w: f32[64,64,3,3], %v: f32[32,64,1,1]) {{\n{convolutions}\nreturn %y\n}}"))
    weights = {v: np.full(v.dims, 0.01, np.float32) for v in graph.inputs[1:]}
    built = compile_graph(replace(graph, inputs=graph.inputs[:1], weights=weights), "cortex-a72", "g")
    assert [k.algo.partition("_")[0] for k in built.schedule.program.kernels.values() if k.kind in ("conv", "edgec.reorder")] == [
        "copy", "winograd4", "conv"]
