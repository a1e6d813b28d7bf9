"""Results in every place that a graph allows: an input, a weight, twice the same value, a view, a part of a concatenation."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

import edgec
from tests.tiny import of

SHAPE: list[int | str] = [1, 4, 6, 6]
DRAW = np.random.default_rng(0)
WEIGHTS = {"w": DRAW.standard_normal((8, 4, 3, 3)).astype(np.float32), "v": DRAW.standard_normal((4, 4, 3, 3)).astype(np.float32),
           "u": DRAW.standard_normal((5, 16, 1, 1)).astype(np.float32), "three": np.arange(3, dtype=np.float32)}


def node(op: str, reads: str, makes: str, **attributes: Any) -> NodeProto:
    if op == "Conv" and reads[-1] in "wv":
        attributes["pads"] = [1, 1, 1, 1]
    return helper.make_node(op, reads.split(), makes.split(), **attributes)


CASES: dict[str, tuple[list[NodeProto], str]] = {
    "an input under another name": ([node("Identity", "x", "y")], "y"),
    "an input itself": ([node("Relu", "x", "y")], "y x"),
    "a weight under another name": ([node("Relu", "x", "y"), node("Identity", "three", "z")], "y z"),
    "a weight itself": ([node("Relu", "x", "y")], "y three"),
    "one value under two names": ([node("Relu", "x", "a"), node("Identity", "a", "y"), node("Identity", "a", "z")], "y z"),
    "a result that is read": ([node("Conv", "x w", "y"), node("Relu", "y", "z"), node("Add", "z y", "q")], "y q"),
    "a view of a result": ([node("Relu", "x", "y"), node("Flatten", "y", "z")], "y z"),
    "a transposed input": ([node("Transpose", "x", "y", perm=[0, 2, 3, 1])], "y"),
    "a concatenation of results": ([node("Relu", "x", "y"), node("Abs", "x", "a"), node("Concat", "y a x", "z", axis=1)], "y z"),
    "a concatenation that is read": (
        [node("Conv", "x w", "a"), node("Conv", "x w", "b"), node("Concat", "a b", "c", axis=1), node("Conv", "c u", "y")], "y c"),
    "the same part twice": ([node("Relu", "x", "a"), node("Concat", "a a", "y", axis=1)], "y"),
    "one weight for several shapes": (
        [node("Conv", "x v", "a"), node("MaxPool", "a", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Conv", "p v", "y")], "a y"),
}


def model(case: str) -> onnx.ModelProto:
    nodes, results = CASES[case]
    read = {i for n in nodes for i in n.input} | set(results.split())
    made = of(nodes, {"x": SHAPE}, {}, {k: v for k, v in WEIGHTS.items() if k in read})
    inferred = onnx.shape_inference.infer_shapes(made)
    known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.input)}
    for name in results.split():
        made.graph.output.append(known.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, WEIGHTS[name].shape))
    return onnx.shape_inference.infer_shapes(made)


@pytest.mark.parametrize("case", CASES)
def test_results(case: str, tmp_path: Path) -> None:
    given = {"x": DRAW.standard_normal((1, 4, 6, 6)).astype(np.float32)}
    session = edgec.build(model(case), output=tmp_path / "b", name="m").load(poison=True)
    names = CASES[case][1].split()
    assert [p.name for p in session.outputs] == names
    wanted = dict(zip(names, ReferenceEvaluator(model(case)).run(None, given), strict=True))
    for name, array in session.run(given).items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)
