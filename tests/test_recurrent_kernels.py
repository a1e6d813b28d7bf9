"""Kernels of LSTM, GRU and RNN between guard pages, against the evaluator in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.isa import Isa
from edgec.kernels.base import Operands, Planned
from edgec.kernels.emit.recurrent import emit
from edgec.kernels.plan import packed, plan
from edgec.kernels.recurrent import RecurrentPlan
from edgec.onnx import import_model
from tests.kernel_harness import AVX2, AVX512, ISAS, on, run
from tests.nodes import one

RESET: dict[str, Any] = {"linear_before_reset": 0}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CASES: list[tuple[str, str, tuple[int, int, int, int], str, dict[str, Any]]] = [
    ("LSTM", "forward", (20, 1, 12, 32), "b", {}), ("LSTM", "reverse", (5, 2, 7, 20), "bh", {}),
    ("LSTM", "bidirectional", (33, 3, 5, 7), "bh", {}), ("LSTM", "bidirectional", (1, 6, 40, 48), "", {"layout": 1}),
    ("GRU", "forward", (20, 1, 28, 64), "b", {}), ("GRU", "bidirectional", (3, 4, 3, 17), "h", {"layout": 1}),
    ("GRU", "reverse", (17, 5, 16, 16), "bh", {}), ("RNN", "forward", (9, 1, 4, 6), "b", {}),
    ("GRU", "forward", (20, 1, 28, 64), "b", RESET), ("GRU", "reverse", (17, 5, 16, 21), "h", RESET),
    ("GRU", "bidirectional", (5, 4, 7, 33), "bh", RESET | {"layout": 1, "activations": ["Sigmoid", "Relu", "Sigmoid", "Relu"]}),
    *(AHEAD := [
        ("LSTM", "forward", (21, 1, 32, 80), "b", {}), ("LSTM", "bidirectional", (24, 5, 32, 80), "bh", {}),
        ("LSTM", "reverse", (19, 1, 64, 96), "h", {"layout": 1}), ("GRU", "forward", (26, 1, 48, 96), "bh", {}),
        ("RNN", "bidirectional", (20, 1, 96, 192), "b", {})]),
    ("RNN", "bidirectional", (4, 8, 3, 70), "bh", {"activations": ["Relu", "Relu"]}), ("LSTM", "forward", (2, 1, 1, 1), "b", {}),
]


def layer(op: str, direction: str, sizes: tuple[int, int, int, int], given: str, attrs: dict[str, Any], outputs: int = 0
          ) -> tuple[Graph, dict[str, Any]]:
    """A graph of one layer whose weights are constants, and its inputs."""
    steps, batch, size, hidden = sizes
    rng, sides = np.random.default_rng(4), 2 if direction == "bidirectional" else 1

    def draw(*shape: int) -> Any:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    first = attrs.get("layout", 0)
    feeds = {"x": draw(batch, steps, size) if first else draw(steps, batch, size)}
    weights = {"w": draw(sides, GATES[op] * hidden, size), "r": draw(sides, GATES[op] * hidden, hidden)}
    if "b" in given:
        weights["b"] = draw(sides, 2 * GATES[op] * hidden)
    for state in ("hc" if op == "LSTM" else "h") if "h" in given else "":
        feeds[state] = draw(batch, sides, hidden) if first else draw(sides, batch, hidden)
    order = " ".join(n if n in feeds | weights else "-" for n in ("xwrblhc" if op == "LSTM" else "xwrblh")).rstrip(" -")
    attrs = ({"linear_before_reset": 1} if op == "GRU" else {}) | attrs
    proto = one(op, 22, feeds, outputs or (3 if op == "LSTM" else 2), weights, order, hidden_size=hidden, direction=direction, **attrs)
    return import_model(proto), feeds


def made(graph: Graph, isa: Isa) -> Planned | str:
    return plan(graph.nodes[0], isa, Operands.of(graph.weights, lambda v: v.tensor.view))


@pytest.mark.parametrize(("op", "direction", "sizes", "given", "attrs"), AHEAD)
def test_large_layers_compute_products_of_the_next_inputs_between_steps(op: str, direction: str, sizes: tuple[int, int, int, int],
                                                                         given: str, attrs: dict[str, Any]) -> None:
    planned = made(layer(op, direction, sizes, given, attrs)[0], AVX512)
    assert isinstance(planned, Planned)
    assert isinstance(planned.plan, RecurrentPlan)
    assert planned.plan.ahead
    assert planned.plan.share * planned.plan.chunk * len(planned.plan.widths) >= sizes[2]
    small = made(layer(op, direction, (*sizes[:2], sizes[2] + 1, sizes[3]), given, attrs)[0], AVX512)        # nothing divides it
    assert isinstance(small, Planned)
    assert isinstance(small.plan, RecurrentPlan)
    assert not small.plan.ahead


@pytest.mark.parametrize("isa", on(replace(AVX2, registers=32)))
@pytest.mark.parametrize(("op", "direction", "sizes", "given", "attrs"), AHEAD)
def test_products_of_the_next_inputs_on_machines_without_avx512(op: str, direction: str, sizes: tuple[int, int, int, int], given: str,
                                                                attrs: dict[str, Any], isa: Isa) -> None:
    planned = made(layer(op, direction, sizes, given, attrs)[0], isa)
    assert isinstance(planned, Planned)
    assert isinstance(planned.plan, RecurrentPlan)
    assert planned.plan.ahead
    test_layers(op, direction, sizes, given, attrs, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("op", "direction", "sizes", "given", "attrs"), CASES)
def test_layers(op: str, direction: str, sizes: tuple[int, int, int, int], given: str, attrs: dict[str, Any], isa: Isa) -> None:
    graph, feeds = layer(op, direction, sizes, given, attrs)
    planned = made(graph, isa)
    assert isinstance(planned, Planned), planned
    arrays = [packed(planned.plan, i, graph.weights[v]) if v in graph.weights else feeds[v.name] for i, v in enumerate(planned.inputs)]
    outcome = run(planned.plan, emit, arrays)
    assert outcome.code == 0
    for got, wanted in zip(outcome.outputs, evaluate(graph, feeds, precise=True).values(), strict=False):
        assert np.abs(got - wanted.reshape(-1)).max() < 5e-6 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize(("op", "attrs", "reason"), [
    ("LSTM", {"clip": 1.0}, "a clip"), ("LSTM", {"activations": ["Affine", "Tanh", "Tanh"]}, "the activations affine, tanh, tanh"),
    ("GRU", {"activations": ["HardSigmoid", "Tanh"]}, "the activations hardsigmoid, tanh")])
def test_what_is_not_written_says_so(op: str, attrs: dict[str, Any], reason: str) -> None:
    graph, _ = layer(op, "forward", (3, 1, 4, 8), "b", attrs)
    answer = made(graph, AVX512)
    assert isinstance(answer, str)
    assert reason in answer
