"""Tiles of a row that take turns: the same bits as tiles that run alone, and only where weights come from far."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Layout, View
from edgec.ir.types import Tensor
from edgec.isa import Isa, cpu_isa
from edgec.kernels.base import Operands
from edgec.kernels.contract import ContractPlan
from edgec.kernels.emit import emit
from edgec.kernels.plan import packed, plan
from edgec.target import find
from tests.kernel_harness import AVX2, AVX512, gathered, on, run, scatter

BLOCKED, NHWC = Layout((0, 1, 2, 3), ((1, 8),)), Layout((0, 2, 3, 1))
CASES: list[dict[str, Any]] = [
    {"x": (1, 64, 5, 29), "m": 24},
    {"x": (2, 72, 9, 31), "m": 40, "strides": (2, 2), "pads": (1, 1, 0, 1)},
    {"x": (1, 128, 4, 26), "m": 32, "group": 2, "residual": True},
    {"x": (1, 88, 3, 27), "m": 24, "pads": (0, 0, 0, 0), "bias": False, "residual": True},
    {"x": (1, 64, 4, 30), "m": 27, "layout": NHWC, "residual": True},
    {"x": (1, 64, 3, 40), "m": 16, "dilations": (1, 4), "pads": (4, 4, 4, 4), "strides": (3, 1)},
]


def region(case: dict[str, Any]) -> tuple[Graph, dict[Value, Layout | None]]:
    """A 3x3 convolution with what follows it, as one node; and how its values lie."""
    (n, c, h, w), m, group, layout = case["x"], case["m"], case.get("group", 1), case.get("layout", BLOCKED)
    pads, strides, dilations = (case.get(k, d) for k, d in (("pads", (1, 1, 1, 1)), ("strides", (1, 1)), ("dilations", (1, 1))))
    size = [(e + pads[i] + pads[i + 2] - 2 * dilations[i] - 1) // strides[i] + 1 for i, e in enumerate((h, w))]
    x, k, b = Value("x", Tensor("f32", (n, c, h, w))), Value("w", Tensor("f32", (m, c // group, 3, 3))), Value("b", Tensor("f32", (m,)))
    r, y, z, o = (Value(name, Tensor("f32", (n, m, *size))) for name in "ryzo")
    attrs = MappingProxyType({"kernel_shape": [3, 3], "pads": list(pads), "strides": list(strides), "dilations": list(dilations),
                              "group": group})
    rng = np.random.default_rng(4)
    weights = {k: rng.standard_normal(k.dims).astype(np.float32)}
    if case.get("bias", True):
        weights[b] = rng.standard_normal(m).astype(np.float32)
    nodes = [Node("Conv", (x, *weights), (y,), attrs)]
    nodes += [Node("Add", (y, r), (z,))] if case.get("residual") else []
    nodes.append(Node("Relu", (nodes[-1].output,), (o,)))
    inputs = (x, r) if case.get("residual") else (x,)
    outer = (*inputs, *weights)
    fused = Node("edgec.Fused", outer, (o,), MappingProxyType({"kind": "conv", "body": Graph("region", outer, (o,), tuple(nodes))}))
    return Graph("g", inputs, (o,), (fused,), weights), {x: layout, r: layout, o: layout if m % 8 == 0 or layout is NHWC else NHWC}


def planned(graph: Graph, lying: dict[Value, Layout | None], isa: Isa) -> ContractPlan:
    made = plan(graph.nodes[0], isa, Operands.of(graph.weights, lambda v: View.of(v.dims, lying.get(v))))
    assert not isinstance(made, str), made
    assert isinstance(made.plan, ContractPlan)
    return made.plan


@pytest.mark.parametrize("isa", on(AVX512, AVX2))
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['x']}-{c['m']}")
def test_the_same_bits_in_turns(case: dict[str, Any], isa: Isa) -> None:
    *most, width = case["x"]
    graph, lying = region({**case, "x": (*most, width + 40 * (isa is AVX512))})      # where a tile may be as wide as the narrow rows
    rng, (output,) = np.random.default_rng(6), graph.outputs
    feeds = {v.name: rng.standard_normal(v.dims).astype(np.float32) for v in graph.inputs}
    exact = (("exact", True),)
    near, far = (planned(graph, lying, replace(isa, extra=exact, l1_bytes=1 << 10, l2_bytes_per_cycle=speed)) for speed in (1e6, 1.0))
    assert (near.turns, far.turns) == (False, True)
    assert far.in_channels > far.chunk * far.partial or lying[graph.inputs[0]] is NHWC
    results = []
    for one in (near, far):
        arrays = [packed(one, i, graph.weights[v]) if v in graph.weights else scatter(feeds[v.name], lying[v])
                  for i, v in enumerate(_order(graph))]
        outcome = run(one, emit, arrays)
        assert outcome.code == 0
        results.append(gathered(outcome.outputs[0], View.of(output.dims, lying[output])))
    np.testing.assert_array_equal(results[0], results[1])
    wanted = evaluate(graph, feeds, precise=True)["o"]
    assert np.abs(results[1] - wanted).max() <= 1e-5 * np.abs(wanted).max()


def _order(graph: Graph) -> list[Value]:
    """Operands as a plan has them: data, stored weights, the rest."""
    data, *rest = graph.inputs
    return [data, *graph.weights, *rest]


@pytest.mark.parametrize(("target", "turns"), [("zen3", True), ("x86-64-v3", True), ("zen4", False), ("zen5", False),
                                               ("cortex-a72", False), ("cortex-m7", False)])
def test_only_where_a_core_would_wait_for_weights(target: str, turns: bool) -> None:  # noqa: FBT001
    isa = cpu_isa(find(target))

    def of(case: dict[str, Any], *facts: tuple[str, object]) -> bool:
        graph, lying = region(case)
        return planned(graph, lying, replace(isa, extra=(*isa.extra, ("exact", True), *facts))).turns

    assert of({"x": (1, 128, 28, 28), "m": 128}) == turns
    assert not of({"x": (1, 32, 28, 28), "m": 128})                       # whose weights stay in the first level
    assert not of({"x": (1, 128, 7, 7), "m": 128})                        # a row is a tile or two
    assert not of({"x": (1, 128, 28, 28), "m": 128}, ("optimize", "size"))
