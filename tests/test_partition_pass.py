"""The pass that gives each part of a graph to a unit: what units ask, what users may ask for, and graphs that mean the same afterwards."""

from math import inf
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from edgec.access import module
from edgec.build import compile_graph, placing, read
from edgec.cli import main
from edgec.codegen.schedule import schedule
from edgec.cost import node_macs
from edgec.errors import UnsupportedModel, UsageError
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array, Graph, Node
from edgec.isa import cpu_isa
from edgec.lang.text import parse, show
from edgec.onnx import export_model
from edgec.pipeline import Context, run_passes
from edgec.target import Target, find, from_text
from edgec.testing import check_meaning, random_graph
from edgec.testing.golden import typed
from tests import shared
from tests.nodes import run as run_onnx

catalog = module("passes.catalog")
offers = module("passes.changes.offers")

BOARD = """
target board : cortex-a72 "a board for tests, with a GPU and an NPU that a simulator could be" {
  unit gpu gpu {
    clock = 1 GHz
    launch = 2000 cycles
    copy_latency = 3000 cycles
    copy_bandwidth = 1 GB/s
    runs * cost macs / 200 + bytes / 20
    runs Reshape, Flatten, Transpose cost 0 cycles
    never Sigmoid, Softmax because "it has no exponential"
  }
  unit npu npu {
    clock = 500 MHz
    launch = 5000 cycles
    copy_bandwidth = 500 MB/s
    runs Conv, Relu, Add, MaxPool, Clip, Gemm, MatMul when batch == 1 cost macs / 400 + bytes / 20
  }
}
"""
CHAIN = """graph @g(%x: f32[1,64,32,32]) {
  %v: f32[64,64,3,3] = random 1
  %w: f32[64,64,3,3] = random 2
  %a: f32[1,64,32,32] = Conv(%x, %v) {kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1], group=1, pads=[1, 1, 1, 1]} at "one"
  %b: f32[1,64,32,32] = Relu(%a) at "relu"
  %c: f32[1,64,32,32] = Softmax(%b) {axis=1} at "soft"
  %d: f32[1,64,32,32] = Conv(%c, %w) {kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1], group=1, pads=[1, 1, 1, 1]} at "two"
  %y: f32[1,64,32,32] = Add(%d, %b) at "add"
  return %y
}"""


def board(**also: str) -> Target:
    """The board, with further lines in its units."""
    more = "".join(f"  unit {name} {name} {{ {lines} }}\n" for name, lines in also.items())
    return from_text(f"{BOARD}target this : board {{\n{more}}}\n")


def partition(graph: Graph, target: Target, units: str = "", **place: str) -> tuple[Graph, Context]:
    context = Context(target)
    options = placing(units.split(",") if units else (), place)
    steps = f"partition{{{', '.join(f'{k}={chr(34)}{v}{chr(34)}' for k, v in options.items())}}}" if options else "partition"
    return run_passes(graph, steps, catalog.CATALOG, context), context


def devices(graph: Graph) -> dict[str, str | None]:
    """The unit of each node by its name; those in regions have that of their region."""
    inside = {n.origin: node.device for node in graph.nodes if node.op == "edgec.Region" for n in node.attrs["body"].nodes}
    return {n.origin: n.device for n in graph.nodes if n.op != "edgec.Region"} | inside


def regions(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.op == "edgec.Region"]


# ---- what becomes of a graph

def test_one_cpu_leaves_the_very_graph() -> None:
    graph = typed(CHAIN, "")
    made, context = partition(graph, find("cortex-a72"))
    assert made is graph
    assert not context.facts


def test_what_is_not_worth_a_copy_leaves_the_very_graph() -> None:
    graph = typed("graph @g(%x: f32[1,8]) {\n%y: f32[1,8] = Relu(%x)\nreturn %y\n}", "")
    made, context = partition(graph, board())
    assert made is graph
    assert [u["groups"] for u in context.facts["partition"]["units"]] == [1, 0, 0]
    assert not context.trace


def test_nodes_get_the_unit_that_is_fastest() -> None:
    graph = typed(CHAIN, "")
    made, context = partition(graph, board(), "cpu,gpu")
    assert devices(made) == {"one": "gpu", "relu": "gpu", "soft": None, "two": "gpu", "add": "gpu"}
    assert [r.name for r in context.trace] == ["assign-unit"] * 2
    check_meaning(graph, made)
    again, _ = partition(made, board(), "cpu,gpu")
    assert again is made


def test_a_region_is_one_node_with_weights_of_its_own() -> None:
    graph = typed(CHAIN, "")
    made, context = partition(graph, board(), "npu")
    first, second = regions(made)
    assert [n.op for n in made.nodes] == ["edgec.Region", "Softmax", "edgec.Region"]
    assert (first.device, first.attrs["kind"], first.origin) == ("npu", "npu", "one+relu")
    assert [[n.op for n in r.attrs["body"].nodes] for r in (first, second)] == [["Conv", "Relu"], ["Conv", "Add"]]
    assert [len(r.attrs["body"].weights) for r in (first, second)] == [1, 1]
    assert not made.weights
    assert [v.name for v in second.inputs if v] == ["c", "b"]
    assert context.facts["partition"]["regions"] == [{"unit": "npu", "groups": [0]}, {"unit": "npu", "groups": [2]}]
    check_meaning(graph, made)
    blobs: dict[str, Array] = {}
    assert parse(show(made, blobs), blobs=blobs).nodes[0].op == "edgec.Region"
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 64, 32, 32)).astype(np.float32)}
    np.testing.assert_allclose(run_onnx(export_model(made), feeds)[0], evaluate(graph, feeds)["y"], atol=2e-3)
    assert partition(made, board(), "npu")[0] is made


def test_a_stored_constant_goes_with_each_reader() -> None:
    text = """graph @g(%x: f32[1,64,32,32]) {
      %w: f16[64,64,3,3] = random 1
      %v: f32[64,64,3,3] = Cast(%w) {to=1} at "widen"
      %a: f32[1,64,32,32] = Conv(%x, %v) {kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1], group=1, pads=[1, 1, 1, 1]} at "one"
      %b: f32[1,64,32,32] = Softmax(%a) {axis=1} at "soft"
      %y: f32[1,64,32,32] = Conv(%b, %v) {kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1], group=1, pads=[1, 1, 1, 1]} at "two"
      return %y
    }"""
    graph = typed(text, "")
    made, _ = partition(graph, board(), one="gpu", two="cpu")
    assert [(n.op, n.device) for n in made.nodes] == [("Cast", None), ("Cast", "gpu"), ("Conv", "gpu"), ("Softmax", None), ("Conv", None)]
    check_meaning(graph, made)
    made, _ = partition(graph, board(), one="npu", two="gpu")
    assert [n.op for n in regions(made)[0].attrs["body"].nodes] == ["Cast", "Conv"]
    assert [n.device for n in made.nodes if n.op == "Cast"] == ["gpu"]
    check_meaning(graph, made)


# ---- what units ask

def groups(graph: Graph, target: Target) -> list[object]:
    return list(offers.groups(graph, target, list(target.units.values())))


def test_what_one_kernel_computes_is_one_group() -> None:
    target = board()
    conv, soft, last = offers.groups(typed(CHAIN, ""), target, list(target.units.values()))
    assert [[n.op for n in g.nodes] for g in (conv, soft, last)] == [["Conv", "Relu"], ["Softmax"], ["Conv", "Add"]]
    macs, bytes_ = 64 * 64 * 9 * 32 * 32, (2 * 64 * 32 * 32 + 64 * 64 * 9) * 4
    assert conv.offers["gpu"].us == pytest.approx((macs / 200 + bytes_ / 20 + 2000) / 1e3)
    assert conv.offers["npu"].us == pytest.approx((macs / 400 + bytes_ / 20) / 500)
    assert soft.offers["gpu"].us == inf
    assert soft.offers["gpu"].reason == "gpu never runs Softmax: it has no exponential"
    with patch.object(module("passes.layout"), "settle", lambda given, _: given):          # offers are made before layouts are weighed
        made = compile_graph(typed(CHAIN, ""), "cortex-a72", "chain")
    planned = [made.schedule.program.kernels[s.kernel].cycles / made.isa.clock_hz * 1e6 for s in made.schedule.program.calls]
    assert [g.offers["cpu"].us for g in (conv, soft, last)] == pytest.approx(planned, rel=0.05)


def test_a_group_that_a_unit_runs_in_part_falls_apart() -> None:
    text = CHAIN.replace('Relu(%a) at "relu"', 'Sigmoid(%a) at "relu"')
    assert len(groups(typed(text, ""), board())) == 4
    assert devices(partition(typed(text, ""), board(), "cpu,gpu")[0])["one"] == "gpu"


def test_what_is_only_another_view_is_not_launched() -> None:
    target = board()
    flat = typed('graph @g(%x: f32[1,64,2]) {\n%s: i64[2] = dense [1, 128]\n%y: f32[1,128] = Reshape(%x, %s) at "flat"\nreturn %y\n}', "")
    group, = offers.groups(flat, target, list(target.units.values()))
    assert [o.us for o in group.offers.values()] == [0, 0, inf]
    assert group.operators == 0


def test_half_precision_is_promoted_before_units_are_asked() -> None:
    text = CHAIN.replace("f32", "f16").replace("Softmax", "Identity").replace(" {axis=1}", "")
    target = from_text(BOARD.replace("runs * cost", 'runs * when dtype == "f32" cost'))
    made, _ = partition(typed(text, ""), target, "cpu,gpu")
    assert devices(made)["one"] == "gpu"
    assert made.outputs[0].tensor.dtype == "f16"
    graph = typed(text, "")
    assert partition(graph, target, "cpu")[0] is graph


def test_text_and_bodies_stay_on_the_cpu() -> None:
    text = """graph @g(%x: string[2], %c: bool[]) {
      %a: string[2] = Identity(%x) at "words"
      %y: string[2] = If(%c) {then_branch=@1, else_branch=@1} at "choice"
      return %y
    }
    graph @1() { %b = Identity(%a)  return %b }"""
    target = board()
    words, choice = offers.groups(typed(text, ""), target, list(target.units.values()))
    assert words.offers["gpu"].reason == "gpu cannot run Identity 'words': it works on text"
    assert choice.offers["gpu"].reason == "gpu cannot run If 'choice': it has a body"


def test_links_memory_and_least_sizes_come_from_the_text() -> None:
    graph = typed(CHAIN, "")
    assert set(devices(partition(graph, board(gpu="copy_bandwidth = 1 MB/s"), "cpu,gpu")[0]).values()) == {None}
    weights = 64 * 64 * 9 * 4
    assert list(devices(partition(graph, board(gpu=f"capacity = {weights} B"), "cpu,gpu")[0]).values()).count("gpu") == 2
    assert set(devices(partition(graph, board(gpu=f"capacity = {weights - 1} B"), "cpu,gpu")[0]).values()) == {None}
    assert list(devices(partition(graph, board(npu="min_region = 4"), "npu")[0]).values()).count("npu") == 4
    assert list(devices(partition(graph, board(npu="min_region = 5"), "npu")[0]).values()).count("npu") == 0


# ---- what users ask for

def test_units_that_may_be_used() -> None:
    small = typed('graph @g(%x: f32[1,8]) {\n%y: f32[1,8] = Relu(%x) at "relu"\nreturn %y\n}', "")
    assert devices(partition(small, board(), "npu")[0]) == {"relu": "npu"}
    assert devices(partition(small, board(), "gpu")[0]) == {"relu": "gpu"}
    assert devices(partition(small, board(), "cpu,gpu")[0]) == {"relu": None}
    assert devices(partition(typed(CHAIN, ""), board(), "cpu")[0]) == dict.fromkeys(("one", "relu", "soft", "two", "add"))
    with pytest.raises(UsageError, match="target this has no unit dsp to use; it has cpu, gpu, npu"):
        partition(small, board(), "dsp")
    with pytest.raises(UsageError, match="target cortex-a72 has no unit gpu to use; it has cpu"):
        partition(small, find("cortex-a72"), "gpu")


def test_nodes_are_placed_by_name_and_by_pattern() -> None:
    graph = typed(CHAIN, "")
    made, _ = partition(graph, board(), one="cpu", two="npu")
    assert devices(made) == {"one": None, "relu": None, "soft": None, "two": "npu", "add": "npu"}
    assert set(devices(partition(graph, board(), **{"*": "gpu"})[0]).values()) == {"gpu", None}
    assert devices(partition(graph, board(), **{"*": "npu", "t?o": "cpu"})[0])["two"] is None
    for place, message in (({"soft": "gpu"}, "soft cannot be placed on gpu: gpu never runs Softmax: it has no exponential"),
                           ({"sofd": "gpu"}, "there is no node sofd to place; did you mean soft?"),
                           ({"one": "dsp"}, "there is no unit dsp to place one on; there are cpu, gpu, npu")):
        with pytest.raises(UsageError) as caught:
            partition(graph, board(), **place)
        assert str(caught.value) == message
    with pytest.raises(UsageError, match="no partition does all that --place asks for"):
        partition(graph, board(npu="min_region = 5"), one="npu")
    with pytest.raises(UsageError, match=r"a place is NODE=UNIT, such as conv1=cpu or 'layer4\*=gpu', and not one"):
        run_passes(graph, 'partition{place="one"}', catalog.CATALOG, Context(board()))


def test_a_node_that_has_a_unit_keeps_it() -> None:
    graph = typed(CHAIN.replace('at "two"', 'on npu at "two"'), "")
    assert devices(partition(graph, board())[0])["two"] == "npu"


def test_a_limit_stops_on_the_way() -> None:
    context = Context(board(), limit=1)
    made = run_passes(typed(CHAIN, ""), 'partition{units="cpu,gpu"}', catalog.CATALOG, context)
    assert list(devices(made).values()) == ["gpu", "gpu", None, None, None]
    disabled = Context(board(), frozenset(["assign-unit"]))
    graph = typed(CHAIN, "")
    assert run_passes(graph, "partition", catalog.CATALOG, disabled) is graph


# ---- graphs at random

@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_mean_the_same_on_any_units(seed: int) -> None:
    graph = run_passes(random_graph(seed, 4 + seed % 30), catalog.PORTABLE, catalog.CATALOG)
    target = board(gpu="copy_latency = 10 cycles  launch = 10 cycles", npu="launch = 100 cycles  runs * when rank <= 4 cost 1 cycles")
    names = ("", "gpu", "npu", "gpu,npu")[seed % 4]
    made, context = partition(graph, target, names)
    check_meaning(graph, made)
    facts = context.facts["partition"]
    assert sum(u["nodes"] for u in facts["units"]) == len(graph.nodes)
    assert sum(u["us"] + u["copies_us"] for u in facts["units"]) == pytest.approx(facts["predicted_us"])
    if not names:
        assert facts["predicted_us"] <= min(u["alone_us"] for u in facts["units"]) + 1e-6
        assert all(o["more_us"] >= -1e-6 for g in facts["groups"] for o in g["offers"].values() if "us" in o)
    assert {n.device for n in regions(made)} <= {"npu"}


# ---- whole models

@pytest.mark.parametrize("name", ["mlperf_kws_dscnn_qdq_s8", "mobilenetv2_qdq_s8_nchw"])
def test_quantized_models_run_on_the_npu(name: str) -> None:
    graph = run_passes(read(shared.model(name), static=True), catalog.PORTABLE, catalog.CATALOG)
    made, _ = partition(graph, find("imx93"), "npu")
    inside = sum(node_macs(n) for n in regions(made))
    assert inside >= 0.95 * sum(map(node_macs, graph.nodes))
    if name.startswith("mlperf"):
        check_meaning(graph, made, 0)


# ---- builds and explanations

@pytest.fixture
def saved(tmp_path: Path) -> tuple[str, str]:
    """A model and a board as files."""
    (tmp_path / "board.target").write_text(BOARD)
    (tmp_path / "chain.onnx").write_bytes(export_model(typed(CHAIN, "")).SerializeToString())
    return str(tmp_path / "chain.onnx"), str(tmp_path / "board.target")


def test_why_tells_what_each_unit_would_have_cost(saved: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    model, target = saved
    assert main(["why", model, "soft", "-t", target, "--units", "cpu,gpu"]) == 0
    text = capsys.readouterr().out
    assert "it runs on cpu\n" in text
    assert "  gpu  cannot: gpu never runs Softmax: it has no exponential" in text
    assert "  copy %b from gpu to the CPU: 262144 bytes, 265.14 us, read by soft, two" in text
    assert main(["why", model, "one", "-t", target, "--units", "cpu,gpu"]) == 0
    text = capsys.readouterr().out
    assert "it runs on gpu, with relu" in text
    assert "; there, the whole run would take +" in text
    assert "  copy %x to gpu: 262144 bytes, 265.14 us, read by one" in text


def test_a_build_says_what_it_did_with_units(saved: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, target = saved
    text = tmp_path / "final.edge"
    assert main(["build", model, "-t", target, "--units", "cpu,npu", "--place", "two=cpu", "--emit", "ir", "-o", str(text)]) == 0
    assert 'edgec.Region(%x) {kind="npu", body=@1} on npu at "one+relu"' in text.read_text()
    assert main(["build", model, "-t", target, "--place", "two"]) == 2
    assert "--place two: write NODE=UNIT, such as conv1=cpu or 'layer4*=gpu'" in capsys.readouterr().err


def test_a_unit_without_code_is_refused_and_not_replaced_by_the_cpu() -> None:
    made, _ = partition(typed(CHAIN, ""), board(), "cpu,gpu")
    with pytest.raises(UnsupportedModel, match="Conv 'one': edgec writes no code for the unit gpu"):
        schedule(made, cpu_isa(board()), "chain")
