"""Facts about operators are onnx's own, and a function's body computes what the operator does."""

import numpy as np
import pytest

from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Value
from edgec.ir.types import Tensor
from edgec.onnx import import_model
from edgec.schema import arity, attributes, defaults, function_body, has, is_commutative, outputs, required
from tests.nodes import cases, feeds_of, same


def test_arity_and_attributes() -> None:
    assert (arity("Conv"), arity("Relu"), arity("Clip"), outputs("BatchNormalization")) == ((2, 3), (1, 1), (1, 3), (1, 3))
    assert arity("com.microsoft.FusedMatMul") == (2, 2)
    assert required("Concat") == {"axis"}
    assert dict(defaults("Gemm")) == {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    assert "auto_pad" in attributes("Conv")


@pytest.mark.parametrize(("op", "known"), [
    ("Conv", True), ("ai.onnx.ml.Scaler", True), ("ai.onnx.ml.TreeEnsembleClassifier", True), ("com.microsoft.Gelu", True),
    ("edgec.Fused", True), ("edgec.Region", True), ("Upsample", True), ("Konv", False), ("com.acme.Conv", False)])
def test_what_is_known(op: str, known: bool) -> None:  # noqa: FBT001
    assert has(op) is known
    if not known:
        with pytest.raises(KeyError):
            arity(op)


def test_algebra() -> None:
    assert is_commutative("Add")
    assert not is_commutative("Sub")


def test_bodies_of_functions_compute_what_the_operator_does() -> None:
    seen, faults = set(), {}
    for case in cases(0, 1):
        graph = import_model(case.model)
        if len(graph.nodes) != 1 or case.name.startswith(("test_bernoulli", "test_training", "test_range_bfloat16")):
            continue
        (node,) = graph.nodes
        body = function_body(node) if not any(True for _ in node.bodies) else None
        if body is None:
            continue
        feeds = feeds_of(case)
        arguments = [feeds[v.name] if v.name in feeds else graph.weights[v] for v in node.inputs if v is not None]
        try:
            made = evaluate(body, {v.name: a for v, a in zip(body.inputs, arguments, strict=True)})
            want = [w for w, v in zip(evaluate(graph, feeds).values(), node.outputs, strict=False) if v.name]
            small = any(isinstance(a, np.ndarray) and a.dtype.itemsize <= 2 for a in arguments)
            same(want, list(made.values())[:len(want)], 2e-2 if small else 1e-3)
            seen.add(node.op)
        except Exception as error:  # noqa: BLE001  each is a fault, and all of them are wanted
            faults[case.name] = f"{type(error).__name__}: {error}"
    assert faults == {}
    assert {"LayerNormalization", "Gelu", "GroupNormalization", "SoftmaxCrossEntropyLoss", "MeanVarianceNormalization", "Clip"} <= seen


def test_a_body_leaves_out_what_the_node_leaves_out() -> None:
    graph = import_model(next(c for c in cases(0, 1) if c.name == "test_clip_default_min").model)
    body = function_body(graph.nodes[0])
    assert body is not None
    assert len(body.inputs) == 2
    assert all(isinstance(v, Value) and isinstance(v.type, Tensor) for v in body.outputs)
