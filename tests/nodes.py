"""Models for tests: the node tests that come with onnx, models of a few nodes, and what ONNX Runtime makes of them."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from edgec.ir.graph import Graph
from edgec.ir.proto import array_of
from edgec.ir.types import DTYPES

onnxruntime.set_default_logger_severity(4)
X = np.random.default_rng(1).standard_normal((2, 4, 6, 5)).astype(np.float32)


@cache
def _all() -> tuple[Any, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, from computing what the tests expect
        return tuple(collect_testcases(None))


def cases(part: int, parts: int) -> list[Any]:
    """Every `parts`-th case, from number `part` on."""
    return list(_all()[part::parts])


def arrays(given: Any) -> Any:
    """A test's inputs or results with arrays in place of protobufs, which stand there for small dtypes."""
    if isinstance(given, list | tuple):
        return [arrays(g) for g in given]
    return array_of(given) if isinstance(given, onnx.TensorProto) else given


def feeds_of(case: Any, data: int = 0) -> dict[str, Any]:
    """The inputs of a case by name."""
    return dict(zip([i.name for i in case.model.graph.input], arrays(case.data_sets[data][0]), strict=False))


def run(proto: ModelProto | Path, feeds: dict[str, Any]) -> list[Any]:
    """ONNX Runtime's results, without its own fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    source = str(proto) if isinstance(proto, Path) else proto.SerializeToString()
    results: list[Any] = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feeds)
    return results


def same(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """Assert that two results agree: integers and text exactly."""
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y, tolerance)
    elif isinstance(a, dict):
        same([list(a), list(a.values())], [list(b), list(b.values())], tolerance)
    elif np.asarray(a).dtype.kind in "fcV":
        a, b = (np.asarray(x).astype(np.complex128 if np.asarray(x).dtype.kind == "c" else np.float64) for x in (a, b))
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(np.asarray(b).astype(str), np.asarray(a).astype(str))


def one(op: str, opset: int, inputs: dict[str, Any], outputs: int = 1, weights: dict[str, Any] | None = None, order: str = "",
        **attrs: Any) -> ModelProto:
    """A model of one node; `order` names its inputs, "-" for an absent one."""
    names = ["" if n == "-" else n for n in order.split()] if order else [*inputs, *(weights or {})]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, name="node", **attrs)
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
    graph = helper.make_graph([node], "one", infos, [helper.make_empty_tensor_value_info(r) for r in results],
                              [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)], ir_version=8)


def sample(graph: Graph) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for value in graph.inputs:
        dtype = value.tensor.dtype
        if value.name == "sr":
            feeds[value.name] = np.array(16000)
        elif dtype.startswith("f"):
            feeds[value.name] = rng.standard_normal(value.dims).astype(DTYPES[dtype])
        else:
            feeds[value.name] = rng.integers(1, 2 if "mask" in value.name else 20, value.dims).astype(DTYPES[dtype])
    return feeds


def chain(*nodes: Any, inputs: Any = (("x", (2, 3)),), outputs: Any = ("y",), weights: Any = (), ir: int = 10, **more: Any) -> ModelProto:
    """A model of nodes (op, inputs, outputs, attributes)."""
    made = [helper.make_node(op, ins.split(), outs.split(), name=f"n_{outs.split()[0]}", **attrs) for op, ins, outs, attrs in nodes]
    graph = helper.make_graph(made, "chain", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
                              [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs], list(weights))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, ir_version=ir, opset_imports=opsets, **more)
