"""Random one-node models, and models with odd interfaces, through whole builds and against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec
from edgec.errors import UnsupportedModel
from edgec.testing.numeric import equal
from tests.stress import Case, model

UNSUPPORTED = {"EyeLike", "GlobalLpPool", "OneHot", "ReduceMean", "Resize", "Slice", "TopK"}
"""Operators of which some or all forms are refused: ReduceMean of integers, Resize that rounds halves up, Slice of scalars in f16."""
TOLERANCE = {"float16": 2e-3, "float32": 2e-5, "float64": 1e-6}
SUMS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"}
"""Sums of products, in which large terms may cancel: they may be off by two roundings of the sum of magnitudes."""


def reference(proto: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """What ONNX Runtime makes of a model, without its own fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in proto.graph.output], session.run(None, feeds), strict=True))


def difference(got: Any, wanted: Any, magnitude: Any = 0.0) -> str | None:
    """How a result differs: integers have to be equal, reals within a few roundings of the largest, or of the sum of magnitudes."""
    wanted = np.asarray(wanted)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"is {got.dtype}{list(got.shape)}, not {wanted.dtype}{list(wanted.shape)}"
    if wanted.dtype.kind in "iub":
        return None if equal(got, wanted) else f"differs in {int((got != wanted).sum())} of {wanted.size} elements"
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not (same | finite).all():
        return f"has {a[~(same | finite)][:4]} where {b[~(same | finite)][:4]} should be"
    size = np.abs(b[finite & (np.abs(b) < 1e30)]).max(initial=1e-3)
    allowed = np.maximum(TOLERANCE[got.dtype.name] * np.maximum(np.abs(b), size), 2 * np.finfo(got.dtype).eps * magnitude)
    wrong = finite & ~same & (np.abs(a - b) > allowed)
    return f"is {a[wrong][:4]} instead of {b[wrong][:4]}" if wrong.any() else None


def drawn(seeds: range) -> dict[int, tuple[Case, dict[str, Any]]]:
    """The cases that ONNX Runtime can run, with what it makes of them."""
    made = {}
    for seed in seeds:
        case = Case(seed)
        try:
            made[seed] = case, reference(model([case]), case.feeds)
        except (onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented, onnxruntime.capi.onnxruntime_pybind11_state.Fail,
                onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph, onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
                onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException):
            continue
    return made


def check(seeds: range, place: Path) -> None:
    """Build all these cases as one model, run it, and compare each result; what is refused must be known to be."""
    cases = drawn(seeds)
    assert len(cases) > len(seeds) * 0.8
    while True:
        chosen = [case for case, _ in cases.values()]
        try:
            session = edgec.build(model(chosen), "host", place).load(poison=True)
            break
        except UnsupportedModel as error:
            for c in chosen:
                if c.op in UNSUPPORTED and any(f"'{c.node.name}'" in label for label in error.nodes):
                    del cases[c.seed]
            if len(cases) == len(chosen):
                raise
    got = session.run({name: array for case in chosen for name, array in case.feeds.items()})
    wrong = []
    for case, wanted in cases.values():
        sizes = reference(model([case.magnitude]), case.magnitude.feeds) if case.op in SUMS else {}
        wrong += [f"{case}: {n} {why}" for n in wanted if (why := difference(got[n], wanted[n], sizes.get(n, 0.0)))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("seed", [400])
def test_random_nodes(seed: int, tmp_path: Path) -> None:
    with np.errstate(all="ignore"):
        check(range(seed, seed + 60), tmp_path / "m.edgec")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10_000, 14_000, 80))
def test_many_random_nodes(seed: int, tmp_path: Path) -> None:
    with np.errstate(all="ignore"):
        check(range(seed, seed + 80), tmp_path / "m.edgec")


def proto(nodes: list[Any], inputs: dict[str, tuple[int, ...]], outputs: str, weights: dict[str, Any] | None = None) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()]
    results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs.split()]
    graph = helper.make_graph(nodes, "odd", infos, results, stored)
    for info in graph.output:
        known = next((tuple(a.shape) for n, a in (weights or {}).items() if n == info.name), inputs.get(info.name))
        if known is not None:
            info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, known))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


NODE = helper.make_node
W = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
STACK = np.sin(np.arange(3 * 8 * 7, dtype=np.float32)).reshape(3, 8, 7)
ODD = {
    "an input is an output": proto([], {"x": (2, 3)}, "x"),
    "a weight is an output": proto([NODE("MatMul", ["x", "w"], ["y"])], {"x": (2, 3)}, "y w", {"w": W}),
    "an output is given twice": proto([NODE("Relu", ["x"], ["y"])], {"x": (2, 3)}, "y y"),
    "views of one input": proto([NODE("Transpose", ["x"], ["y"]), NODE("Reshape", ["x", "s"], ["z"]), NODE("Identity", ["y"], ["u"])],
                                {"x": (2, 3)}, "y z u", {"s": np.array([3, 2])}),
    "concatenated with itself": proto([NODE("Relu", ["x"], ["a"]), NODE("Concat", ["a", "a"], ["y"], axis=1),
                                       NODE("Concat", ["a", "y"], ["z"], axis=1)], {"x": (2, 3)}, "y a z"),
    "names alike in C": proto([NODE("Relu", ["a/b"], ["y:0"]), NODE("Exp", ["a_b"], ["int"]), NODE("Neg", ["a.b"], ["y.0"])],
                              {"a/b": (2,), "a_b": (2,), "a.b": (2,)}, "y:0 int y.0"),
    "a name of an input and an output": proto([NODE("Relu", ["a/b"], ["a.b"])], {"a/b": (2,)}, "a.b"),
    "nothing comes in": proto([NODE("Exp", ["x"], ["y"])], {"x": (0, 3)}, "y"),
    "nothing is added": proto([NODE("ReduceSum", ["x", "a"], ["y"], keepdims=0)], {"x": (0, 3)}, "y", {"a": np.array([0])}),
    "nothing is multiplied": proto([NODE("MatMul", ["x", "u"], ["y"])], {"x": (2, 0), "u": (0, 3)}, "y"),
    "nothing is left": proto([NODE("Slice", ["x", "s", "e"], ["y"]), NODE("Relu", ["x"], ["z"])], {"x": (5, 3)}, "y z",
                             {"s": np.array([4]), "e": np.array([2])}),
    "one left factor": proto([NODE("MatMul", ["x", "w"], ["y"])], {"x": (5, 8)}, "y", {"w": STACK}),
    "some left factors": proto([NODE("MatMul", ["x", "w"], ["y"])], {"x": (2, 1, 5, 8)}, "y", {"w": np.stack([STACK, -STACK])}),
    "no axes": proto([NODE("ReduceMax", ["x"], ["y"], noop_with_empty_axes=1), NODE("ReduceL1", ["x"], ["z"], noop_with_empty_axes=1)],
                     {"x": (2, 3)}, "y z"),
    "a size that stays": proto([NODE("Resize", ["x", "", "", "s"], ["y"], coordinate_transformation_mode="align_corners")],
                               {"x": (1, 4, 1)}, "y", {"s": np.array([1, 4, 1])}),
    "groups have norms": proto(
        [NODE("GroupNormalization", ["x", "w", "b"], ["y"], num_groups=2), NODE("MeanVarianceNormalization", ["x"], ["z"])],
        {"x": (2, 4, 3, 5)}, "y z", {"w": np.array([1, 2], np.float32), "b": np.array([0.5, 1], np.float32)}),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_models(what: str, tmp_path: Path) -> None:
    given = ODD[what]
    random = np.random.default_rng(1)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in given.graph.input}
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    wanted = reference(given, feeds)
    got = edgec.build(given, "host", tmp_path / "m.edgec").load(poison=True).run(feeds)
    assert {n: why for n in wanted if (why := difference(got[n], wanted[n]))} == {}


def test_what_no_kernel_computes_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    power = helper.make_model(helper.make_graph(
        [NODE("Pow", ["x", "y"], ["z"])], "g", [helper.make_tensor_value_info(n, TensorProto.INT32, [3]) for n in "xy"],
        [helper.make_tensor_value_info("z", TensorProto.INT32, [3])]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(UnsupportedModel, match="Pow of i32 is written for constant exponents"):
        edgec.build(power, "host", tmp_path / "m.edgec")


def test_a_bundle_that_is_built_anew_is_loaded_anew(tmp_path: Path) -> None:
    x = np.array([-1, 0, 2], np.float32)
    for op, wanted in (("Relu", [0, 0, 2]), ("Neg", [1, 0, -2]), ("Abs", [1, 0, 2])):
        edgec.build(proto([NODE(op, ["x"], ["y"])], {"x": (3,)}, "y"), "host", tmp_path / "m.edgec")
        assert edgec.load(tmp_path / "m.edgec").run(x)["y"].tolist() == wanted
