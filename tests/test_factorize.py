"""factorize: parts mean what the layer meant, ranks are what was asked for, and layers that stay say why."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.access import module
from edgec.build import build, read
from edgec.cli import main
from edgec.errors import UsageError
from edgec.ir.edit import splice
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array, Graph
from edgec.ir.types import Tensor
from edgec.lang.text import parse, show
from edgec.pipeline import Context, run_passes
from edgec.target import find
from edgec.testing import check_meaning, random_graph
from tests.shared import model

CATALOG, PORTABLE, pipeline = module("passes.catalog").CATALOG, module("passes.catalog").PORTABLE, module("passes.catalog").pipeline
low_rank, ranks, parts, probes = (module(f"passes.changes.{name}") for name in ("low_rank", "ranks", "parts", "probes"))
MODELS = Path(__file__).resolve().parent.parent / "examples" / "models"
NET = """
graph @net(%x: f32[1,8,9,9]) {
  %w: f32[24,8,3,3] = random 1
  %b: f32[24] = random 2
  %p: f32[16,24,1,1] = random 3
  %m: f32[324,20] = random 4
  %s: i64[2] = dense [1, 400]
  %t: i64[1] = dense [0]
  %e: i64[1] = dense [324]
  %a: i64[1] = dense [1]
  %c: f32[1,24,5,5] = Conv(%x, %w, %b) {kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1], group=1} at "conv"
  %r: f32[1,24,5,5] = Relu(%c)
  %q: f32[1,16,5,5] = Conv(%r, %p) {kernel_shape=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1], group=1} at "point"
  %f: f32[1,400] = Reshape(%q, %s)
  %g: f32[1,324] = Slice(%f, %t, %e, %a)
  %y: f32[1,20] = MatMul(%g, %m) at "fc"
  return %y
}"""


def samples(graph: Graph, count: int, seed: int = 0) -> list[Mapping[str, Array]]:
    """Inputs that lie near a few directions, as those of real nets do."""
    draw = np.random.default_rng(seed)
    bases = {v.name: np.random.default_rng(9).standard_normal((6, *v.dims)) for v in graph.inputs}
    return [{n: (np.tensordot(draw.standard_normal(6), b, 1) + 0.05 * draw.standard_normal(b.shape[1:])).astype(np.float32)
             for n, b in bases.items()} for _ in range(count)]


def factored(graph: Graph, rank: str, given: Any = (), target: str | None = None) -> tuple[Graph, Context]:
    context = Context(None if target is None else find(target), samples=given)
    return run_passes(graph, f'factorize{{rank="{rank}"}}', CATALOG, context), context


def lost(before: Graph, after: Graph, feeds: list[Mapping[str, Array]]) -> float:
    wanted, made = (np.concatenate([evaluate(g, f)["y"] for f in feeds]) for g in (before, after))
    return float(np.square(wanted - made).sum() / np.square(wanted - wanted.mean(0)).sum())


def weights(graph: Graph) -> int:
    return sum(a.size for a in graph.weights.values() if a.ndim > 1)


def thin(graph: Graph) -> Graph:
    """The graph with weights of rank one wherever it multiplies by stored ones, each of a node of its own."""
    made = dict(graph.weights)
    for node in graph.nodes:
        w = node.input(1) if node.op in ("Conv", "MatMul", "Gemm") else None
        if w is not None and w in made and made[w].ndim > 1:
            axes = range(made[w].ndim)
            parts = [np.abs(made[w]).mean(tuple(a for a in axes if a != axis), keepdims=True) for axis in axes]
            product = np.prod(np.broadcast_arrays(*parts), axis=0)
            made[w] = (product / max(float(np.abs(product).max()), 1e-9)).astype(np.float32)
    return replace(graph, weights=made)


@pytest.mark.parametrize("seed", range(8))
def test_weights_of_rank_one_lose_nothing_in_random_graphs(seed: int) -> None:
    before = thin(run_passes(random_graph(seed, 12 + seed), PORTABLE, CATALOG))
    if any(v.tensor.dtype != "f32" for v in before.inputs):
        pytest.skip("inputs that are no reals")
    plain, _ = factored(before, "1.2")
    check_meaning(before, plain, 1e-3)
    given = [{v.name: np.random.default_rng(i).standard_normal(v.dims).astype(np.float32) for v in before.inputs} for i in range(2)]
    fitted, context = factored(before, "1.2", given)
    check_meaning(before, fitted, 1e-3)
    assert any(n.startswith("low rank: ") for n in context.notes) == any(n.op in ("Conv", "MatMul", "Gemm") for n in before.nodes)


def test_random_graphs_do_hold_layers_to_factor() -> None:
    made = [factored(thin(run_passes(random_graph(seed, 12 + seed), PORTABLE, CATALOG)), "1.2")[1].trace for seed in range(8)]
    assert sum(map(len, made)) > 6


def test_a_ratio_is_that_of_all_weights() -> None:
    net = parse(NET)
    made, context = factored(net, "2.0", samples(net, 20))
    assert weights(net) / weights(made) >= 2.0
    assert weights(net) / weights(made) < 2.2
    assert {r.name for r in context.trace} == {"factor-low-rank"}
    assert [v.name for v in made.outputs] == ["y"]


def test_samples_lose_less_than_weights_alone() -> None:
    net = parse(NET)
    unseen = samples(net, 20, seed=5)
    with_samples, without = (lost(net, factored(net, "conv=3x8,point=5,fc=7", given)[0], unseen) for given in (samples(net, 60), ()))
    assert with_samples < without / 2


def test_it_is_deterministic() -> None:
    net, given = parse(NET), samples(parse(NET), 10)
    blobs: list[dict[str, Array]] = [{}, {}]
    texts = [show(factored(net, "conv=3x8,point=5,fc=7", given)[0], b) for b in blobs]
    assert texts[0] == texts[1]
    assert all(np.array_equal(a, b) for a, b in zip(blobs[0].values(), blobs[1].values(), strict=True))


def test_full_directions_lose_nothing() -> None:
    draw = np.random.default_rng(0)
    weight, rows = draw.standard_normal((12, 10, 9)), draw.standard_normal((400, 10, 9)).astype(np.float32)
    layer = low_rank.Layer(weight.astype(np.float32), rows, centered=True)
    almost = layer.fit(low_rank.Shape(9, 11))
    assert 0 < layer.loss(almost) < 0.15
    axes, variance = layer.output
    assert np.allclose(axes.T @ axes, np.eye(12), atol=1e-9)
    assert (np.diff(variance) <= 1e-9).all()
    plain = low_rank.Layer(weight.astype(np.float32), None, centered=True)
    u, s, v = np.linalg.svd(weight.reshape(12, 90), full_matrices=False)
    best = np.square(weight.reshape(12, 90) - (u[:, :5] * s[:5]) @ v[:5]).sum() / np.square(weight).sum()
    assert plain.loss(plain.fit(low_rank.Shape(None, 5))) == pytest.approx(best, rel=1e-4)


def test_it_is_the_whitened_svd() -> None:
    draw = np.random.default_rng(1)
    rows = (draw.standard_normal((500, 12)) @ draw.standard_normal((12, 12))).astype(np.float32)
    weight = draw.standard_normal((8, 12)).astype(np.float32)
    layer = low_rank.Layer(weight[:, :, None], rows[:, :, None], centered=False)
    factors = layer.fit(low_rank.Shape(None, 3))
    root = np.linalg.cholesky(np.asarray(rows.T @ rows / 500, np.float64))
    u, s, v = np.linalg.svd(weight @ root, full_matrices=False)
    wanted = (u[:, :3] * s[:3]) @ v[:3] @ np.linalg.inv(root)
    assert np.allclose(factors.matrix, wanted, atol=2e-2 * np.abs(wanted).max())


def test_layers_are_named_by_their_nodes() -> None:
    net = parse(NET)
    made, context = factored(net, "fc=4,conv=3x6", samples(net, 8))
    assert {r.origin for r in context.trace} == {"fc", "conv"}
    shapes = sorted(a.shape for v, a in made.weights.items() if a.ndim > 1)
    assert shapes == sorted([(3, 8, 1, 1), (6, 3, 3, 3), (24, 6, 1, 1), (16, 24, 1, 1), (324, 4), (4, 20)])


@pytest.mark.parametrize(("rank", "message"), [
    ("cnv=4", "is called cnv; did you mean conv?"), ("fc=20", "write one number below 20"), ("conv=8x3", "write below 8 and 24"),
    ("fc=3x3", "write one number below 20"), ("0.5", "--rank 0.5: --rank is auto"), ("much", "--rank much: --rank is auto"),
    ("fc=-1", "--rank fc=-1: "), ("fc=2,fc=3", "fc has two ranks"), ("nan", "--rank nan: "), ("auto", "needs a target")])
def test_wrong_ranks_are_refused(rank: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        factored(parse(NET), rank)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_auto_takes_what_is_faster_and_loses_little() -> None:
    text = """
    graph @net(%x: f32[1,256]) {
      %a: f32[256,256] = random 1
      %b: f32[256,256] = random 2
      %h: f32[1,256] = MatMul(%x, %a) at "low"
      %y: f32[1,256] = MatMul(%h, %b) at "full"
      return %y
    }"""
    net = parse(text)
    low, full = net.weights
    draw = np.random.default_rng(0)
    thin_weight = (draw.standard_normal((256, 16)) @ draw.standard_normal((16, 256)) / 64).astype(np.float32)
    net = replace(net, weights={low: thin_weight, full: net.weights[full]})
    given: list[Mapping[str, Array]] = [{"x": np.random.default_rng(i).standard_normal((1, 256)).astype(np.float32)} for i in range(64)]
    made, context = factored(net, "auto", given, "x86-64-v3")
    assert {r.origin for r in context.trace} >= {"low"}
    assert lost(net, made, given[:10]) < 0.05
    whole = replace(net, weights={low: net.weights[full], full: net.weights[full]})
    same, context = factored(whole, "auto", given, "x86-64-v3")
    assert same is whole
    assert [n for n in context.notes if "low stays as it is: parts that are faster" in n]
    same, context = factored(net, "auto", given[:10], "x86-64-v3")
    assert same is net
    assert [n for n in context.notes if "low stays as it is: 10 samples cannot tell" in n]
    same, context = factored(net, "auto", (), "x86-64-v3")
    assert same is net
    assert [n for n in context.notes if "low stays as it is: without samples" in n]


def test_auto_does_not_trust_what_only_fits_the_samples() -> None:
    """Of 64 samples 48 are fitted to, so a matrix of any rank loses nothing on them at rank 48; the others tell."""
    net = parse("""
    graph @net(%x: f32[1,256]) {
      %a: f32[256,256] = random 1
      %y: f32[1,256] = MatMul(%x, %a) at "full"
      return %y
    }""")
    given = [{"x": np.random.default_rng(i).standard_normal((1, 256)).astype(np.float32)} for i in range(64)]
    same, context = factored(net, "auto", given, "x86-64-v3")
    assert same is net
    assert [n for n in context.notes if "full stays as it is: parts that are faster" in n]


@pytest.mark.parametrize("target", ["x86-64-v3", "cortex-a72"])
def test_auto_leaves_a_mobile_net_alone_and_says_why(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("passes.factorize"), "_WORK", 1e9)
    before = run_passes(read(MODELS / "digits_mobilenet.onnx", dims={"batch": 16}, static=True), PORTABLE, CATALOG)
    with np.load(MODELS / "digits_test.npz") as data:
        images = data["images"][:64].astype(np.float32) / 255
    made, context = factored(before, "auto", [{"image": images[i:i + 16]} for i in range(0, 64, 16)], target)
    assert made is before
    layers = [n for n in before.nodes if n.op in ("Conv", "Gemm", "MatMul")]
    assert len([n for n in context.notes if " stays as it is: " in n]) == len(layers)


@pytest.mark.parametrize("target", ["x86-64-v3", "cortex-a72"])
def test_ten_photos_change_nothing_and_each_layer_has_its_reason(target: str) -> None:
    before = run_passes(read(model("mlperf_vww_mbv1_fp32"), static=True), PORTABLE, CATALOG)
    given = [{v.name: np.random.default_rng(i).random(v.dims).astype(np.float32) for v in before.inputs} for i in range(10)]
    made, context = factored(before, "auto", given, target)
    layers = [n for n in before.nodes if n.op in ("Conv", "Gemm", "MatMul")]
    stay = [n for n in context.notes if " stays as it is: " in n]
    assert made is before
    assert len(stay) == len(layers)
    assert sum("its channels are in groups" in n for n in stay) == sum(n.attrs.get("group", 1) != 1 for n in layers) > 10
    assert any("cycles now, " in n for n in stay)


def test_windows_are_cut_along_their_axes() -> None:
    """Strides, pads and dilations that differ by axis go with the window that has the axis."""
    net = parse("""
    graph @net(%x: f32[1,6,13,17]) {
      %w: f32[8,6,3,5] = random 1
      %b: f32[8] = random 2
      %y: f32[1,8,6,8] = Conv(%x, %w, %b) {kernel_shape=[3, 5], strides=[2, 1], pads=[1, 0, 2, 3], dilations=[2, 3], group=1} at "conv"
      return %y
    }""")
    (node,), draw = net.nodes, np.random.default_rng(0)
    of = parts.site(net, node)
    for shape in (low_rank.Shape(lines=4), low_rank.Shape(3, 5), low_rank.Shape(3), low_rank.Shape(results=5)):
        factors = low_rank.Layer(of.weight, draw.standard_normal((300, 6, 15)).astype(np.float32), centered=True).fit(shape)
        made, holes = parts.nodes(of, shape, str)
        arrays = dict(zip(holes, parts.arrays(of, shape, factors), strict=True))
        assert sum(a.size for a in arrays.values() if a.ndim > 1) == shape.weights(of.weight.shape)
        composed = (factors.matrix.astype(np.float32), of.bias)
        whole = replace(net, weights={v: a.reshape(v.dims) for v, a in zip(net.weights, composed, strict=True)})
        feed = {"x": draw.standard_normal((1, 6, 13, 17)).astype(np.float32)}
        wanted = evaluate(whole, feed)["y"] + factors.shift[:, None, None]
        assert np.allclose(evaluate(splice(net, {node: made}, arrays), feed)["y"], wanted, atol=1e-4)


def test_all_parts_are_improved_together() -> None:
    """A weight that is nearly the product of two windows: the SVD says where to begin, and steps over all parts come nearer."""
    draw = np.random.default_rng(0)
    weight = np.einsum("orx,riy->oiyx", draw.standard_normal((12, 7, 3)), draw.standard_normal((7, 10, 3)))
    rows = draw.standard_normal((2000, 90)) * np.linspace(0.1, 1, 90) @ draw.standard_normal((90, 90))
    weight += 0.1 * weight.std() * draw.standard_normal(weight.shape)
    layer = low_rank.Layer(weight.astype(np.float32), rows.reshape(-1, 10, 9).astype(np.float32), centered=True)
    for shape in (low_rank.Shape(lines=7), low_rank.Shape(5, 6), low_rank.Shape(5)):
        first, last = layer.cost(layer.fit(shape, 0)), layer.cost(layer.fit(shape))
        assert 0 < last < 0.95 * first
        assert layer.loss(layer.fit(shape)) == pytest.approx(layer.cost(layer.fit(shape)), rel=0.05)


def test_results_that_matter_are_kept() -> None:
    """What results are worth is found by small changes, and results that nobody reads are what is lost."""
    net = parse("""
    graph @net(%x: f32[4,20]) {
      %w: f32[20,12] = random 1
      %m: f32[12,5] = random 2
      %h: f32[4,12] = MatMul(%x, %w) at "fc"
      %r: f32[4,12] = Relu(%h)
      %y: f32[4,5] = MatMul(%r, %m) at "head"
      return %y
    }""")
    w, m = net.weights
    net = replace(net, weights={w: net.weights[w], m: net.weights[m] * (np.arange(12) < 4).astype(np.float32)[:, None]})
    feeds = list[Mapping[str, Array]]({"x": np.random.default_rng(i).standard_normal((4, 20)).astype(np.float32)} for i in range(30))
    fc, known = net.nodes[0], [dict(net.weights) | {net.inputs[0]: f["x"], net.nodes[0].output: f["x"] @ net.weights[w]} for f in feeds]
    worth = probes.worth(net, fc, known, 1e9)
    assert worth.shape == (12, 12)
    assert np.allclose(worth[4:], 0, atol=1e-5 * worth.max())
    assert (np.diag(worth)[:4] > 0.01 * worth.max()).all()
    assert probes.worth(net, fc, known, 1) is None
    made, _ = factored(net, "fc=4", feeds)
    assert lost(net, made, feeds) < 0.01


def test_few_samples_refit_a_weight_only_as_far_as_that_helps_others() -> None:
    draw = np.random.default_rng(0)
    weight, rows = draw.standard_normal((4, 200)).astype(np.float32), draw.standard_normal((150, 200)).astype(np.float32)
    noise = draw.standard_normal((150, 4)).astype(np.float32)
    layer = low_rank.Layer(weight, rows[:, :, None], centered=True, wanted=rows @ weight.T + 5 * noise)
    assert np.linalg.norm(layer.matrix - weight) < 0.3 * np.linalg.norm(weight)
    moved = low_rank.Layer(weight, rows[:, :, None], centered=True, wanted=rows @ (1.5 * weight).T)
    assert np.linalg.norm(moved.matrix - 1.5 * weight) < 0.45 * np.linalg.norm(weight)


def test_a_build_takes_ranks_and_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str | Path) -> tuple[int, str]:
        return main([str(w) for w in words]), capsys.readouterr().err

    draw = np.random.default_rng(0)
    np.savez(tmp_path / "s.npz", image=draw.random((3, 1, 28, 28)).astype(np.float32))
    source, out = MODELS / "digits_mobilenet.onnx", tmp_path / "out.onnx"
    code, said = run("build", source, "--target", "x86-64-v3", "--rank", "1.5", "--calibrate", tmp_path / "s.npz", "--emit", "onnx",
                     "--stop-after", "factorize", "-o", out)
    assert code == 0, said
    assert "times fewer weights" in said
    assert ": 3 samples; with fewer than 32" in said
    small, whole = read(out, static=True), run_passes(read(source, static=True), PORTABLE, CATALOG)
    assert weights(small) < weights(whole) / 1.4
    assert isinstance(small.outputs[0].type, Tensor)
    code, said = run("build", source, "--calibrate", tmp_path / "s.npz", "--emit", "ir")
    assert code == 2
    assert "say --rank" in said


def test_a_factored_bundle_runs(tmp_path: Path) -> None:
    path = tmp_path / "net.edge"
    net = parse(NET)
    path.write_text(NET)
    notes: list[str] = []
    given = {"x": np.concatenate([f["x"] for f in samples(net, 8)])}
    bundle = build(path, "host", tmp_path / "net.edgec", rank=2.0, calibrate=given, notes=notes)
    graph, _ = factored(net, "2.0", [dict(f) for f in samples(net, 8)])
    unseen = samples(net, 1, seed=3)[0]
    assert np.allclose(bundle.load().run(unseen)["y"], evaluate(graph, unseen)["y"], atol=1e-3)
    assert any("times fewer weights" in n for n in notes)
    assert bundle.manifest["options"]["rank"] == "2.0"
    assert pipeline() == module("passes.catalog").DEFAULT


def test_a_layer_may_be_told_how_many_times_fewer_weights_it_has() -> None:
    net = parse(NET)
    made, context = factored(net, "conv=/2,fc=/3.5", samples(net, 40))
    sizes = {n.origin: sum(made.weights[v].size for m in made.nodes if m.origin == n.origin for v in m.inputs
                           if v is not None and v in made.weights and made.weights[v].ndim > 1) for n in made.nodes if n.origin}
    assert 0.8 * 24 * 8 * 9 / 2 < sizes["conv"] <= 24 * 8 * 9 / 2
    assert 0.8 * 324 * 20 / 3.5 < sizes["fc"] <= 324 * 20 / 3.5
    assert sizes["point"] == 16 * 24
    small, context = factored(net, "point=/300")
    assert small is net
    assert any("1 of its 384 weights are not enough for rank 1" in n for n in context.notes)
    for wrong in ("conv=/1", "conv=/x", "conv=/2,conv=3", "conv=2,conv=/2"):
        with pytest.raises(UsageError, match="--rank conv="):
            factored(net, wrong)
