"""Recurrent layers with all of their options, as ONNX Runtime computes them."""

from typing import Any

import numpy as np
import pytest

from edgec.ir.evaluate import evaluate
from edgec.onnx import export_model, import_model
from tests.nodes import one, run, same

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, INPUT, HIDDEN = 5, 3, 4, 6
OPTIONS: list[tuple[str, str, str, dict[str, Any]]] = [
    *((op, direction, given, {})
      for op in GATES for direction in ("forward", "reverse", "bidirectional") for given in ("", "b", "bl", "bhl")),
    *((op, "forward", "bh", {"clip": 0.3}) for op in GATES),
    ("LSTM", "bidirectional", "bhp", {}), ("LSTM", "forward", "bhp", {"input_forget": 1}),
    ("LSTM", "forward", "bh", {"activations": ["HardSigmoid", "Relu", "Tanh"]}),
    ("GRU", "bidirectional", "bh", {"linear_before_reset": 1}), ("GRU", "forward", "bh", {"activations": ["HardSigmoid", "Relu"]}),
    ("RNN", "bidirectional", "bh", {"activations": ["LeakyRelu", "Elu"], "activation_alpha": [0.3, 0.7]}),
    ("RNN", "forward", "b", {"activations": ["ScaledTanh"], "activation_alpha": [0.5], "activation_beta": [2.0]}),
]


def weights(op: str, sides: int, given: str) -> dict[str, Any]:
    """Operands in the order of the operator's inputs, some absent."""
    rng = np.random.default_rng(9)

    def draw(*shape: int) -> Any:
        return (rng.standard_normal(shape) * 0.5).astype(np.float32)

    rows = GATES[op] * HIDDEN
    operands = {"x": draw(STEPS, BATCH, INPUT), "w": draw(sides, rows, INPUT), "r": draw(sides, rows, HIDDEN), "b": draw(sides, 2 * rows),
                "l": np.array([5, 2, 4], np.int32), "h": draw(sides, BATCH, HIDDEN)}
    if op == "LSTM":
        operands |= {"c": draw(sides, BATCH, HIDDEN), "p": draw(sides, 3 * HIDDEN)}
    return {k: a for k, a in operands.items() if k in "xwr" or k in given or (k == "c" and "h" in given)}


@pytest.mark.parametrize(("op", "direction", "given", "attrs"), OPTIONS)
def test_recurrent(op: str, direction: str, given: str, attrs: dict[str, Any]) -> None:
    feeds = weights(op, 2 if direction == "bidirectional" else 1, given)
    order = " ".join(n if n in feeds else "-" for n in ("xwrblhcp" if op == "LSTM" else "xwrblh"))
    proto = one(op, 22, feeds, 3 if op == "LSTM" else 2, order=order.rstrip(" -"), hidden_size=HIDDEN, direction=direction, **attrs)
    graph = import_model(proto)
    made = list(evaluate(graph, feeds).values())
    same(run(export_model(graph), feeds), made)
    assert [v.dims for v in graph.outputs] == [m.shape for m in made]


@pytest.mark.parametrize("op", GATES)
def test_batch_first_is_the_same_turned_round(op: str) -> None:
    feeds = weights(op, 2, "bhl")
    turned = {k: a.swapaxes(0, 1).copy() if k in "xhc" else a for k, a in feeds.items()}
    order = "x w r b l h c" if op == "LSTM" else "x w r b l h"
    both = []
    for layout, given in ((0, feeds), (1, turned)):
        proto = one(op, 22, given, 2, order=order, hidden_size=HIDDEN, direction="bidirectional", layout=layout)
        both.append(list(evaluate(import_model(proto), given).values()))
    (y, last), (turned_y, turned_last) = both
    same(y.transpose(2, 0, 1, 3), turned_y)
    same(last.swapaxes(0, 1), turned_last)
