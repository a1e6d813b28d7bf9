"""Winograd's convolutions between guard pages, against the evaluator in float64, and when they are chosen."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Layout, View
from edgec.ir.types import Tensor
from edgec.isa import Isa
from edgec.kernels import plan_winograd
from edgec.kernels.base import Operands, Planned
from edgec.kernels.emit.winograd import emit
from edgec.kernels.emit.winograd_filters import emit as emit_filters
from edgec.kernels.plan import packed, plan
from edgec.kernels.region import Region, region
from edgec.kernels.winograd import WinogradPlan
from passes.cluster import image_layout
from tests.kernel_harness import AVX512, ISAS, gathered, run, scatter

CASES = [
    ((1, 16, 12, 12), 32, (1, 1, 1, 1), True, True), ((2, 20, 7, 9), 24, (1, 1, 1, 1), True, False),
    ((1, 33, 5, 14), 17, (0, 0, 0, 0), False, True), ((1, 64, 6, 6), 48, (2, 0, 1, 1), True, True),
    ((3, 16, 4, 3), 16, (1, 1, 1, 1), True, True), ((1, 16, 1, 1), 16, (1, 1, 1, 1), False, False),
    ((1, 32, 30, 21), 64, (1, 1, 1, 1), True, True)]


def conv(shape: tuple[int, ...], out: int, pads: tuple[int, ...], *, bias: bool, residual: bool) -> tuple[Graph, dict[str, Any]]:
    """A convolution, a residual that is added and a Relu, as a region."""
    n, c, h, w = shape
    rng = np.random.default_rng(2)
    dims = (n, out, h + pads[0] + pads[2] - 2, w + pads[1] + pads[3] - 2)
    x, r, k, b = (Value(s, Tensor("f32", d)) for s, d in (("x", shape), ("r", dims), ("w", (out, c, 3, 3)), ("b", (out,))))
    y, z, o = (Value(s, Tensor("f32", dims)) for s in "yzo")
    attrs = MappingProxyType({"pads": list(pads), "strides": [1, 1], "dilations": [1, 1], "group": 1, "kernel_shape": [3, 3]})
    nodes = [Node("Conv", (x, k, b) if bias else (x, k), (y,), attrs)]
    nodes += [Node("Add", (y, r), (z,))] if residual else []
    nodes.append(Node("Relu", (nodes[-1].output,), (o,)))
    weights = {k: (rng.standard_normal((out, c, 3, 3)) / np.sqrt(9 * c)).astype(np.float32)}
    if bias:
        weights[b] = rng.standard_normal(out).astype(np.float32)
    inputs = (x, r) if residual else (x,)
    outer = (*inputs, *weights)
    fused = Node("edgec.Fused", outer, (o,), MappingProxyType({"kind": "conv", "body": Graph("region", outer, (o,), tuple(nodes))}))
    feeds = {v.name: rng.standard_normal(v.dims).astype(np.float32) for v in inputs}
    return Graph("g", inputs, (o,), (fused,), weights), feeds


def lying(value: Value, isa: Isa) -> Layout | None:
    return image_layout(value.tensor, isa.lanes) if len(value.dims) == 4 else None


def formed(graph: Graph, isa: Isa, m: int) -> Planned:
    operands = Operands.of(graph.weights, lambda v: View.of(v.dims, lying(v, isa) if v not in graph.weights else None))
    what = region(graph.nodes[0])
    assert isinstance(what, Region)
    planned = plan_winograd._form(what, isa, operands, m)
    assert planned is not None
    return planned


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("shape", "out", "pads", "bias", "residual"), CASES)
def test_results(shape: tuple[int, ...], out: int, pads: tuple[int, ...], bias: bool, residual: bool, m: int, isa: Isa) -> None:  # noqa: FBT001
    graph, feeds = conv(shape, out, pads, bias=bias, residual=residual)
    planned = formed(graph, isa, m)
    (position, filters), = planned.plan.prepare
    weight = planned.inputs[position]
    arrays = []
    for i, v in enumerate(planned.inputs):
        if i == position:
            arrays.append(run(filters, emit_filters, [packed(filters, 0, graph.weights[weight])]).outputs[0])
        else:
            arrays.append(graph.weights[v] if v in graph.weights else scatter(feeds[v.name], lying(v, isa)))
    outcome = run(planned.plan, emit, arrays)
    assert outcome.code == 0
    result = graph.outputs[0]
    got = gathered(outcome.outputs[0], View.of(result.dims, lying(result, isa)))
    wanted = evaluate(graph, feeds, precise=True)["o"]
    assert np.abs(got - wanted).max() < (1e-5 if m == 2 else 6e-5)


def test_it_is_chosen_where_it_is_fast_and_allowed() -> None:
    graph, _ = conv((1, 64, 56, 56), 64, (1, 1, 1, 1), bias=True, residual=True)
    operands = Operands.of(graph.weights, lambda v: View.of(v.dims, lying(v, AVX512) if v not in graph.weights else None))

    def chosen(isa: Isa) -> str:
        made = plan(graph.nodes[0], isa, operands)
        assert isinstance(made, Planned)
        return made.plan.kind

    assert chosen(AVX512) == "winograd"
    assert chosen(replace(AVX512, extra=(("exact", True),))) == chosen(replace(AVX512, extra=(("optimize", "size"),))) == "contract"


def test_a_run_of_blocks_has_scratch_of_its_own() -> None:
    planned = formed(conv((1, 64, 112, 112), 64, (1, 1, 1, 1), bias=True, residual=False)[0], AVX512, 4).plan
    assert isinstance(planned, WinogradPlan)
    assert planned.tasks == planned.runs * planned.parts > 1
    assert planned.args[-1].role == "scratch"
