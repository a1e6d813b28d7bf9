"""Derivatives of operators agree with differences of what the operators compute."""

import numpy as np
import pytest

from edgec.ir import gradients
from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Graph
from edgec.lang.text import parse

WINDOW = "strides=[2, 1], dilations=[1, 2]"
CASES = {
    "conv": ("%x: f32[2,4,7,8], %w: f32[6,2,3,2], %b: f32[6]",
             f"f32[2,6,4,7] = Conv(%x, %w, %b) {{kernel_shape=[3, 2], {WINDOW}, pads=[1, 0, 2, 1], group=2}}"),
    "conv that leaves a column unread": ("%x: f32[1,2,6,6], %w: f32[3,2,3,3]",
                                         "f32[1,3,2,2] = Conv(%x, %w) {kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 0, 0]}"),
    "conv of a line": ("%x: f32[2,3,9], %w: f32[4,3,3], %b: f32[4]", "f32[2,4,9] = Conv(%x, %w, %b) {kernel_shape=[3], pads=[1, 1]}"),
    "gemm": ("%x: f32[3,5], %w: f32[4,5], %b: f32[4]", "f32[3,4] = Gemm(%x, %w, %b) {transB=1, alpha=0.5, beta=2.0}"),
    "gemm turned": ("%x: f32[5,3], %w: f32[5,4]", "f32[3,4] = Gemm(%x, %w) {transA=1}"),
    "matmul": ("%x: f32[2,3,5], %w: f32[5,4]", "f32[2,3,4] = MatMul(%x, %w)"),
    "matmul in groups": ("%x: f32[2,1,3,5], %w: f32[4,5,2]", "f32[2,4,3,2] = MatMul(%x, %w)"),
    "matmul of a vector": ("%x: f32[5], %w: f32[2,5,4]", "f32[2,4] = MatMul(%x, %w)"),
    "max pool": ("%x: f32[2,3,7,8]", "f32[2,3,4,4] = MaxPool(%x) {kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]}"),
    "average pool": ("%x: f32[2,3,7,8]", "f32[2,3,4,4] = AveragePool(%x) {kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]}"),
    "average pool with its borders": (
        "%x: f32[2,3,5,5]", "f32[2,3,5,5] = AveragePool(%x) {kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1}"),
    "global mean": ("%x: f32[2,3,4,5]", "f32[2,3,1,1] = GlobalAveragePool(%x)"),
    "softmax": ("%x: f32[2,3,4]", "f32[2,3,4] = Softmax(%x) {axis=1}"),
    "layer norm": ("%x: f32[2,3,4], %w: f32[4], %b: f32[4]", "f32[2,3,4] = LayerNormalization(%x, %w, %b) {axis=-1, epsilon=0.01}"),
    "add": ("%x: f32[2,3,4], %w: f32[3,1]", "f32[2,3,4] = Add(%x, %w)"),
    "sub": ("%x: f32[3,1], %w: f32[2,3,4]", "f32[2,3,4] = Sub(%x, %w)"),
    "mul": ("%x: f32[2,3,4], %w: f32[3,1]", "f32[2,3,4] = Mul(%x, %w)"),
    "div": ("%x: f32[2,3,4], %w: f32[3,1]", "f32[2,3,4] = Div(%x, %w)"),
    "relu": ("%x: f32[2,30]", "f32[2,30] = Relu(%x)"),
    "leaky relu": ("%x: f32[2,30]", "f32[2,30] = LeakyRelu(%x) {alpha=0.1}"),
    "sigmoid": ("%x: f32[2,30]", "f32[2,30] = Sigmoid(%x)"),
    "hard swish": ("%x: f32[2,30]", "f32[2,30] = HardSwish(%x)"),
    "gelu": ("%x: f32[2,30]", "f32[2,30] = Gelu(%x)"),
    "transpose": ("%x: f32[2,3,4]", "f32[4,2,3] = Transpose(%x) {perm=[2, 0, 1]}"),
    "concat": ("%x: f32[2,3], %w: f32[2,2]", "f32[2,5] = Concat(%x, %w) {axis=1}"),
    "flatten": ("%x: f32[2,3,4]", "f32[2,12] = Flatten(%x) {axis=1}"),
    "depth to space": ("%x: f32[1,8,2,3]", "f32[1,2,4,6] = DepthToSpace(%x) {blocksize=2}"),
}


def net(header: str, node: str) -> Graph:
    return parse(f"graph @net({header}) {{\n  %y: {node}\n  return %y\n}}")


def check(graph: Graph, draw: np.random.Generator) -> None:
    (node,) = graph.nodes
    inputs = [graph.weights[v] if v in graph.weights else draw.standard_normal(v.dims) for v in node.inputs if v is not None]
    real = [a.dtype.kind == "f" for a in inputs]
    outputs = evaluate_node(node, inputs)
    by = [draw.standard_normal(o.shape) for o in outputs]
    assert gradients.differentiable(node)
    found = gradients.slopes(node, inputs, outputs, by, real)
    for i in (i for i, r in enumerate(real) if r):
        way = draw.standard_normal(inputs[i].shape)
        ends = [evaluate_node(node, [a + s * way if k == i else a for k, a in enumerate(inputs)]) for s in (1e-6, -1e-6)]
        change = sum(float(((above - below) * b).sum()) for above, below, b in zip(*ends, by, strict=True)) / 2e-6
        slope = found[i]
        assert slope is not None
        assert slope.shape == inputs[i].shape
        assert float((slope * way).sum()) == pytest.approx(change, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_agree_with_differences(case: str) -> None:
    check(net(*CASES[case]), np.random.default_rng(len(case)))


@pytest.mark.parametrize(("result", "constants", "node"), [
    ("f32[2,12]", "%s: i64[2] = dense [2, -1]", "Reshape(%x, %s)"),
    ("f32[2,2,4]", "%s: i64[1] = dense [0]\n %e: i64[1] = dense [2]\n %a: i64[1] = dense [1]", "Slice(%x, %s, %e, %a)"),
    ("f32[2,4,4]", "%s: i64[4] = dense [2, 0, 0, 2]", "Gather(%x, %s) {axis=1}"),
    ("f32[2,5,4]", "%s: i64[6] = dense [0, 1, 0, 0, 1, 0]", "Pad(%x, %s)"),
    ("f32[2,1,4]", "%s: i64[1] = dense [1]", "ReduceMean(%x, %s) {keepdims=1}"),
    ("f32[2,4]", "%s: i64[1] = dense [-2]", "ReduceSum(%x, %s) {keepdims=0}")])
def test_derivatives_of_moves_and_sums(result: str, constants: str, node: str) -> None:
    graph = parse(f"graph @net(%x: f32[2,3,4]) {{\n {constants}\n %y: {result} = {node}\n return %y\n}}")
    check(graph, np.random.default_rng(0))


def test_results_that_nobody_reads_count_for_nothing() -> None:
    graph = parse("graph @net(%x: f32[2,6]) {\n %s: i64[2] = dense [2, 4]\n %y: f32[2,2], %z: f32[2,4] = Split(%x, %s) {axis=1}\n"
                  " return %y, %z\n}")
    (node,), x = graph.nodes, np.ones((2, 6), np.float32)
    parts = list(graph.weights.values())
    slope, _ = gradients.slopes(node, [x, *parts], evaluate_node(node, [x, *parts]), [None, np.full((2, 4), 3, np.float32)], [True, False])
    assert slope is not None
    assert np.array_equal(slope, [[0, 0, 3, 3, 3, 3]] * 2)


def test_others_have_none() -> None:
    assert not gradients.differentiable(net("%x: f32[2,3]", "i64[2,1] = ArgMax(%x) {axis=1}").nodes[0])
