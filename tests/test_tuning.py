"""Parts of different layers are fitted together: the net comes nearer to what it was, on samples that nobody fitted to."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from edgec.access import module
from edgec.ir.edit import splice
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.lang.text import parse
from edgec.pipeline import Context, run_passes

CATALOG = module("passes.catalog").CATALOG
low_rank, parts, tuning = (module(f"passes.changes.{name}") for name in ("low_rank", "parts", "tuning"))
NET = """
graph @net(%x: f32[8,3,12,12]) {
  %w: f32[16,3,3,3] = random 1
  %b: f32[16] = random 2
  %v: f32[16,16,3,3] = random 3
  %c: f32[16] = random 4
  %m: f32[576,12] = random 5
  %h: f32[12,6] = random 6
  %s: i64[2] = dense [8, 576]
  %a: f32[8,16,12,12] = Conv(%x, %w, %b) {kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1], group=1} at "first"
  %r: f32[8,16,12,12] = Relu(%a)
  %d: f32[8,16,12,12] = Conv(%r, %v, %c) {kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1], group=1} at "second"
  %e: f32[8,16,12,12] = Add(%d, %r)
  %f: f32[8,16,12,12] = Relu(%e)
  %p: f32[8,16,6,6] = MaxPool(%f) {kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0]}
  %q: f32[8,576] = Reshape(%p, %s)
  %k: f32[8,12] = MatMul(%q, %m) at "third"
  %l: f32[8,12] = Tanh(%k)
  %y: f32[8,6] = MatMul(%l, %h) at "head"
  return %y
}"""


@pytest.fixture(autouse=True)
def _few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_PASSES", 12)


def images(count: int, seed: int) -> list[Mapping[str, Array]]:
    """Smooth images: few numbers, enlarged."""
    draw = np.random.default_rng(seed)
    made = np.kron(draw.standard_normal((8 * count, 3, 4, 4)), np.ones((3, 3))) + 0.1 * draw.standard_normal((8 * count, 3, 12, 12))
    return [{"x": made[8 * i:8 * i + 8].astype(np.float32)} for i in range(count)]


def net() -> Graph:
    """The net with weights of about the size that keeps the spread of values."""
    graph = parse(NET)
    return replace(graph, weights={v: a / np.float32(np.sqrt(a[0].size if a.ndim > 2 else a.shape[0])) if a.ndim > 1 else a
                                   for v, a in graph.weights.items()})


def halves(graph: Graph, names: str) -> tuple[dict[Node, tuple[Node, ...]], dict[Value, Array]]:
    """Parts of some layers by plain SVD, with about half of the weights."""
    instead, weights = dict[Node, tuple[Node, ...]](), dict[Value, Array]()
    for node in (n for n in graph.nodes if n.origin in names.split()):
        of = parts.site(graph, node)
        o, i = len(of.weight), of.weight[0].size
        shape = low_rank.Shape(results=max(1, o * i // (2 * (o + i))))
        instead[node], holes = parts.nodes(of, shape, str)
        weights.update(zip(holes, parts.arrays(of, shape, low_rank.Layer(of.weight, None, centered=True).fit(shape)), strict=True))
    return instead, weights


def lost(before: Graph, after: Graph, feeds: list[Mapping[str, Array]]) -> float:
    wanted, made = (np.concatenate([evaluate(g, f)["y"] for f in feeds]) for g in (before, after))
    return float(np.square(wanted - made).sum() / np.square(wanted - wanted.mean(0)).sum())


def test_a_net_comes_nearer_to_what_it_was_on_samples_that_it_never_saw() -> None:
    graph, unseen = net(), images(8, 5)
    instead, plain = halves(graph, "first second third")
    found = tuning.tune(graph, instead, plain, images(11, 1), images(1, 2))
    assert found.after < found.before
    assert {v: a.shape for v, a in found.weights.items()} == {v: a.shape for v, a in plain.items()}
    assert lost(graph, splice(graph, instead, found.weights), unseen) < 0.6 * lost(graph, splice(graph, instead, plain), unseen)


def test_it_is_deterministic_and_leaves_what_it_was_given() -> None:
    graph = net()
    instead, plain = halves(graph, "second third")
    kept = {v: a.copy() for v, a in plain.items()}
    one, two = (tuning.tune(graph, instead, plain, images(8, 1), images(1, 2)).weights for _ in range(2))
    assert all(np.array_equal(one[v], two[v]) for v in one)
    assert all(np.array_equal(kept[v], plain[v]) for v in plain)


def test_what_loses_nothing_stays() -> None:
    """A layer of full rank is what it was; steps could only lose."""
    graph = net()
    (node,) = (n for n in graph.nodes if n.origin == "third")
    of = parts.site(graph, node)
    instead, holes = parts.nodes(of, low_rank.Shape(results=12), str)
    weights = dict(zip(holes, parts.arrays(of, low_rank.Shape(results=12), low_rank.Layer(of.weight, None, centered=False).fit(
        low_rank.Shape(results=12))), strict=True))
    found = tuning.tune(graph, {node: instead}, weights, images(8, 1), images(1, 2))
    assert found.before < 1e-9
    assert found.after <= found.before


def test_reasons_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = net()
    given, held = tuning.split(graph, images(17, 1))
    assert (len(given), len(held)) == (14, 3)
    assert tuning.split(graph, images(2, 1)) == "16 samples are too few"
    monkeypatch.setattr(tuning, "_WORK", 1e7)
    assert tuning.split(graph, images(17, 1)) == "that would take too long"
    ranked = parse(NET.replace("Tanh(%k)", "Hardmax(%k)"))
    instead, weights = halves(ranked, "second third")
    assert tuning.tune(ranked, instead, weights, images(8, 1), images(1, 2)) == "Hardmax that makes %l has no derivative"


def test_steps_that_lead_nowhere_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = net()
    instead, weights = halves(graph, "second third")
    monkeypatch.setattr(tuning, "_RATE", 1e20)
    found = tuning.tune(graph, instead, weights, images(8, 1), images(1, 2))
    assert found.after == found.before
    assert all(np.array_equal(found.weights[v], weights[v]) for v in weights)


def test_slopes_of_a_net_agree_with_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, (feed,), draw = net(), images(1, 3), np.random.default_rng(0)
    instead, weights = halves(graph, "first second third")
    weights = {v: a.astype(np.float64) for v, a in weights.items()}
    whole = replace(graph, weights={v: a.astype(np.float64) if a.dtype == np.float32 else a for v, a in graph.weights.items()})
    small = tuning._Net(splice(whole, instead, weights), weights)
    (output,), feed = graph.outputs, {"x": feed["x"].astype(np.float64)}
    by = draw.standard_normal(output.dims)
    found = small.back(small.run(feed), {output: by})
    assert found.keys() == weights.keys()
    for v, slope in found.items():
        way, ends = draw.standard_normal(slope.shape), list[float]()
        for step in (1e-6, -1e-6):
            monkeypatch.setitem(small.weights, v, weights[v] + step * way)
            ends.append(float((small.run(feed)[output] * by).sum()))
        monkeypatch.setitem(small.weights, v, weights[v])
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float((slope * way).sum()), rel=1e-3, abs=1e-5)


def test_images_are_moved_and_other_inputs_are_mixed() -> None:
    graph = net()
    assert tuning._axes(graph, graph.inputs[0]) == [2, 3]
    last = parse("graph @net(%x: f32[1,6,6,3]) {\n %w: f32[4,3,3,3] = random 1\n %t: f32[1,3,6,6] = Transpose(%x) {perm=[0, 3, 1, 2]}\n"
                 " %y: f32[1,4,4,4] = Conv(%t, %w) {kernel_shape=[3, 3]}\n return %y\n}")
    assert tuning._axes(last, last.inputs[0]) == [1, 2]
    rows = parse("graph @net(%x: f32[1,5,6]) {\n %w: f32[6,3] = random 1\n %y: f32[1,5,3] = MatMul(%x, %w)\n return %y\n}")
    assert tuning._axes(rows, rows.inputs[0]) == []


def test_the_pass_says_what_came_of_it() -> None:
    graph, given = net(), images(9, 1)
    contexts = [Context(samples=s) for s in (given, given[:1], ())]
    made = [run_passes(graph, 'factorize{rank="first=4,third=3"}', CATALOG, c) for c in contexts]
    said = [[n for n in c.notes if "together" in n] for c in contexts]
    assert [len(s) for s in said] == [1, 1, 0]
    assert said[1] == ["low rank: parts of different layers are not fitted together: 8 samples are too few"]
    assert "fitted together, all parts lose" in said[0][0]
    unseen = images(8, 5)
    assert lost(graph, made[0], unseen) < 0.8 * lost(graph, made[2], unseen)
