"""Winograd's convolutions of bytes: equal to the direct sums in every bit, between guard pages, whatever the bytes are."""

import re
import subprocess
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.layout import Layout
from edgec.ir.types import numpy_dtype
from edgec.isa import Isa
from edgec.kernels import plan_winograd_dot
from edgec.kernels.base import Operands, Planned
from edgec.kernels.emit import emit
from edgec.kernels.plan import packed, plan
from edgec.kernels.region import Region, region
from edgec.kernels.winograd_dot import DotWinogradPlan, fits
from tests.kernel_harness import AVX2, AVX512, gathered, object_file, on, run, scatter
from tests.test_dot import form, requantized, tensor

MADD512, MADD, MADDUBS = form(AVX512, "pmaddwd"), form(AVX2, "pmaddwd"), form(AVX2, "vpmaddubsw")
EACH = on(MADD512, MADDUBS)
NHWC = Layout((0, 2, 3, 1))
CASES = [((1, 32, 12, 12), 32, (1, 1, 1, 1)), ((2, 64, 7, 9), 48, (1, 1, 1, 1)), ((1, 96, 5, 14), 32, (0, 0, 0, 0)),
         ((1, 64, 6, 6), 64, (2, 0, 1, 1)), ((3, 32, 4, 3), 32, (1, 1, 1, 1)), ((1, 32, 1, 1), 32, (1, 1, 1, 1)),
         ((1, 64, 31, 21), 64, (1, 1, 1, 1))]
KINDS = ["u8", "i8"]


def conv(shape: tuple[int, ...], out: int, pads: tuple[int, ...], dtype: str, weight: Array, point: int | None,
         layout: Layout | None = NHWC) -> tuple[Graph, dict[Value, Array]]:
    """A convolution of bytes, a bias, a residual, and bytes again, as one region; and its inputs."""
    n, c, h, w = shape
    rng = np.random.default_rng(5)
    x, k = tensor("x", shape, dtype, layout), tensor("w", weight.shape, "i8")
    dims = (n, out, h + pads[0] + pads[2] - 2, w + pads[1] + pads[3] - 2)
    y, o, r = tensor("y", dims, "i32"), tensor("o", dims, "u8", layout), tensor("r", dims, "f32", layout)
    info = np.iinfo(numpy_dtype(dtype))
    pixels = rng.integers(info.min, info.max + 1, shape)
    pixels[rng.random(shape) < 0.3] = info.max
    pixels[rng.random(shape) < 0.3] = info.min
    tail, constants = requantized(y, o, (out, 1, 1), rng, 64 / (127 * 255 * c), r)
    zero = tensor("z", (), dtype)
    attrs = MappingProxyType({"pads": list(pads), "strides": [1, 1], "dilations": [1, 1], "group": 1, "kernel_shape": [3, 3]})
    given = (x, k) if point is None else (x, k, zero)
    weights = {k: weight, **constants, **({} if point is None else {zero: np.array(point, numpy_dtype(dtype))})}
    outer = (x, r, *weights)
    body = Graph("region", outer, (o,), (Node("ConvInteger", given, (y,), attrs), *tail))
    fused = Node("edgec.Fused", outer, (o,), MappingProxyType({"kind": "conv", "body": body}))
    feeds = {x: pixels.astype(numpy_dtype(dtype)), r: rng.standard_normal(dims).astype(np.float32)}
    return Graph("g", (x, r), (o,), (fused,), weights), feeds


def operands(graph: Graph) -> Operands:
    return Operands.of(graph.weights, lambda v: v.tensor.view)


def formed(graph: Graph, isa: Isa) -> Planned | None:
    what = region(graph.nodes[0])
    assert isinstance(what, Region)
    return plan_winograd_dot._form(what, isa, operands(graph))


def bytes_of(shape: tuple[int, ...], *, extreme: bool) -> Array:
    rng = np.random.default_rng(1)
    return rng.choice([-128, 127], shape).astype(np.int8) if extreme else rng.integers(-128, 128, shape).astype(np.int8)


def computed(graph: Graph, planned: Planned, feeds: dict[Value, Array]) -> Array:
    (position, filters), = planned.plan.prepare or ((None, None),)
    arrays = []
    for i, v in enumerate(planned.inputs):
        if i == position and filters is not None:
            arrays.append(run(filters, emit, [packed(filters, 0, graph.weights[v])]).outputs[0])
        elif v in feeds:
            arrays.append(scatter(feeds[v], v.tensor.layout))
        else:
            arrays.append(packed(planned.plan, i, graph.weights[v]))
    outcome = run(planned.plan, emit, arrays)
    assert outcome.code == 0
    return gathered(outcome.outputs[0], graph.outputs[0].tensor.view)


def wanted(graph: Graph, feeds: dict[Value, Array]) -> Array:
    known: dict[Value, Array] = {**feeds, **graph.weights}
    for node in graph.nodes[0].attrs["body"].nodes:
        known.update(zip(node.outputs, evaluate_node(node, [None if v is None else known[v] for v in node.inputs]), strict=True))
    return known[graph.outputs[0]]


@pytest.mark.parametrize("isa", EACH)
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(("shape", "out", "pads"), CASES)
def test_results(shape: tuple[int, ...], out: int, pads: tuple[int, ...], dtype: str, isa: Isa) -> None:
    """Weights and pixels at their extremes, the zero point at an end: sums that are as large as they get."""
    extreme = shape[1] * 9 <= 576                               # larger sums of extremes are refused
    weight = bytes_of((out, shape[1], 3, 3), extreme=extreme)
    point = {"u8": 255, "i8": -128}[dtype] if shape[2] % 2 else 3
    graph, feeds = conv(shape, out, pads, dtype, weight, point)
    planned = formed(graph, isa)
    assert planned is not None
    np.testing.assert_array_equal(computed(graph, planned, feeds), wanted(graph, feeds))


def test_filters_that_are_stored_are_those_that_are_made_at_start() -> None:
    weight = bytes_of((48, 64, 3, 3), extreme=False)
    graph, feeds = conv((1, 64, 9, 9), 48, (1, 1, 1, 1), "u8", weight, None)
    made, stored = (formed(graph, replace(MADDUBS, extra=(*MADDUBS.extra, *extra))) for extra in ((), (("optimize", "start"),)))
    assert made is not None
    assert stored is not None
    (_, filters), = made.plan.prepare
    assert not stored.plan.prepare
    np.testing.assert_array_equal(run(filters, emit, [packed(filters, 0, weight)]).outputs[0], packed(stored.plan, 1, weight))
    np.testing.assert_array_equal(computed(graph, stored, feeds), wanted(graph, feeds))


@pytest.mark.parametrize(("channels", "value", "possible"), [(512, 20, True), (512, 127, False), (96, 127, True)])
def test_it_is_refused_where_a_sum_could_overflow(channels: int, value: int, possible: bool) -> None:  # noqa: FBT001
    weight = np.full((32, channels, 3, 3), value, np.int8)
    assert fits(weight) == possible
    graph, _ = conv((1, channels, 6, 6), 32, (1, 1, 1, 1), "u8", weight, 0)
    assert (formed(graph, MADDUBS) is not None) == possible


def test_random_weights_of_wide_layers_fit() -> None:
    rng = np.random.default_rng(0)
    weight = np.clip(np.rint(rng.standard_normal((64, 512, 3, 3)) * 48), -127, 127).astype(np.int8)
    assert fits(weight)


def test_it_is_chosen_where_it_is_fast_and_allowed() -> None:
    graph, _ = conv((1, 64, 56, 56), 64, (1, 1, 1, 1), "u8", bytes_of((64, 64, 3, 3), extreme=False) // 3, 0)

    def chosen(isa: Isa, *extra: tuple[str, object]) -> str:
        made = plan(graph.nodes[0], replace(isa, extra=(*isa.extra, *extra)), operands(graph))
        assert isinstance(made, Planned)
        return made.plan.kind

    assert chosen(MADDUBS) == chosen(MADD) == chosen(MADDUBS, ("exact", True)) == "winograd_dot"
    assert chosen(MADDUBS, ("optimize", "size")) == chosen(form(AVX512, "vpdpbusd", "+avx512vnni")) == "dot"


@pytest.mark.parametrize("change", [
    {"shape": (1, 24, 8, 8)}, {"out": 36}, {"layout": None}, {"shape": (1, 16, 8, 8)}])
def test_other_shapes_and_layouts_keep_the_direct_form(change: dict[str, object]) -> None:
    shape, out = change.get("shape", (1, 32, 8, 8)), change.get("out", 32)
    layout = change.get("layout", NHWC)
    assert isinstance(shape, tuple)
    assert isinstance(out, int)
    assert layout is None or isinstance(layout, Layout)
    graph, _ = conv(shape, out, (1, 1, 1, 1), "u8", bytes_of((out, shape[1], 3, 3), extreme=False), 0, layout)
    assert formed(graph, MADDUBS) is None
    made = plan(graph.nodes[0], MADDUBS, operands(graph))
    assert isinstance(made, Planned)
    assert not isinstance(made.plan, DotWinogradPlan)


def test_the_innermost_loop_keeps_its_sums_in_registers() -> None:
    weight = bytes_of((64, 64, 3, 3), extreme=False) // 3
    planned = formed(conv((1, 64, 56, 56), 64, (1, 1, 1, 1), "u8", weight, 3)[0], MADDUBS)
    assert planned is not None
    command = ["objdump", "-d", "--no-show-raw-insn", str(object_file(planned.plan, emit))]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    longest = max(re.split(r"\tj\w+ .*", told.stdout), key=lambda block: block.count("vpmaddwd"))
    assert longest.count("vpmaddwd") >= 4 * 8                   # a body of the loop: four pairs of channels
    assert not re.search(r"%ymm.*\(%rsp|\(%rsp.*%ymm", longest[longest.index("vpmaddwd"):longest.rindex("vpmaddwd")])
