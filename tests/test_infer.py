"""Inferred types: with symbols they say the same as with the numbers that the symbols stand for."""

import random
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgec.errors import BadInput
from edgec.ir.dims import Dim, Sym, bind, parse_dim, symbol
from edgec.ir.edit import retype
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import REGIONS, Graph, Node, Value
from edgec.ir.infer import infer, shape_values
from edgec.ir.types import Tensor, numpy_dtype
from edgec.ir.verify import verify
from edgec.onnx import import_model
from tests.nodes import chain
from tests.shared import model

H, W, N = symbol("H"), symbol("W"), symbol("N")


def applied(op: str, shape: tuple[Dim, ...], weights: tuple[Any, ...] = (), outputs: int = 1, dtype: str = "f32", **attrs: Any) -> Graph:
    """A graph of one node over an input and weights, with types."""
    x = Value("x", Tensor(dtype, shape))
    known = {Value(f"w{i}"): np.asarray(w) for i, w in enumerate(weights) if w is not None}
    names = {v.name: v for v in known}
    inputs = (x, *(names.get(f"w{i}") for i in range(len(weights))))
    made = tuple(Value(f"y{i}") for i in range(outputs))
    return infer(Graph("g", (x,), made, (Node(op, inputs, made, MappingProxyType(attrs)),), known))


I64 = np.int64
K = np.zeros((6, 4, 3, 2), np.float32)
SYMBOLIC: list[tuple[str, tuple[Any, ...], dict[str, Any], list[str]]] = [
    ("Conv", (K,), {"strides": [2, 2], "pads": [1, 0, 1, 0]}, ["N,6,(H+1)//2,W//2"]),
    ("Conv", (K,), {"dilations": [2, 3]}, ["N,6,H-4,W-3"]),
    ("Conv", (K,), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}, ["N,6,(H+1)//2,(W+2)//3"]),
    ("Conv", (K,), {"auto_pad": "VALID"}, ["N,6,H-2,W-1"]),
    ("MaxPool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, ["N,4,(H+1)//2,(W+1)//2"] * 2),
    ("AveragePool", (), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, ["N,4,(H+1)//2,(W+1)//2"]),
    ("ConvTranspose", (np.zeros((4, 3, 3, 3), np.float32),), {"strides": [2, 2], "output_padding": [1, 0]}, ["N,3,2*H+2,2*W+1"]),
    ("Slice", (np.array([1]), np.array([2**63 - 1]), np.array([2])), {}, ["N,4,H-1,W"]),
    ("Slice", (np.array([0, -2]), np.array([-1, 2**31]), np.array([2, 3])), {}, ["N,4,H-1,W-max(W-2,0)"]),
    ("Slice", (np.array([0]), np.array([2**31]), np.array([3]), np.array([2])), {}, ["N,4,H,(W+1)//2"]),
    ("Slice", (np.array([-1]), np.array([-2**63]), np.array([3]), np.array([-1])), {}, ["N,4,H,W"]),
    ("Pad", (np.array([0, 0, 1, 2, 0, 0, 0, -1]),), {}, ["N,4,H+1,W+1"]),
    ("Pad", (np.array([3, 4]), None, np.array([-1])), {}, ["N,4,H,W+7"]),
    ("Resize", (None, np.array([1, 1, 2, 0.5], np.float32)), {}, ["N,4,2*H,W//2"]),
    ("Resize", (None, None, np.array([5, 6])), {"axes": [2, 3]}, ["N,4,5,6"]), ("Tile", (np.array([2, 1, 1, 3]),), {}, ["2*N,4,H,3*W"]),
    ("Reshape", (np.array([0, -1, 4]),), {}, ["N,H*W,4"]), ("Reshape", (np.array([0, 0, -1]),), {}, ["N,4,H*W"]),
    ("Flatten", (), {"axis": 2}, ["4*N,H*W"]), ("Split", (), {"axis": 3, "num_outputs": 2}, ["N,4,H,(W+1)//2", "N,4,H,W-(W+1)//2"]),
    ("Split", (np.array([1, 3]),), {"axis": 1}, ["N,1,H,W", "N,3,H,W"]), ("SpaceToDepth", (), {"blocksize": 2}, ["N,16,H//2,W//2"]),
    ("DepthToSpace", (), {"blocksize": 2}, ["N,1,2*H,2*W"]), ("TopK", (np.array([3]),), {"axis": 2}, ["N,4,3,W"] * 2),
    ("Expand", (np.array([2, 1, 1, 1, 1]),), {}, ["2,N,4,H,W"]), ("Add", (np.zeros((3, 1, 4, 1, 1), np.float32),), {}, ["3,N,4,H,W"]),
    ("Transpose", (), {"perm": [3, 0, 2, 1]}, ["W,N,H,4"]), ("ReduceSum", (np.array([1, 2]),), {"keepdims": 0}, ["N,W"]),
    ("Gather", (np.array([[0, 1]]),), {"axis": 2}, ["N,4,1,2,W"]), ("GlobalAveragePool", (), {}, ["N,4,1,1"]),
]


@pytest.mark.parametrize(("op", "weights", "attrs", "want"), SYMBOLIC, ids=[f"{s[0]}-{i}" for i, s in enumerate(SYMBOLIC)])
def test_one_operator_over_symbols(op: str, weights: tuple[Any, ...], attrs: dict[str, Any], want: list[str]) -> None:
    graph = applied(op, (N, 4, H, W), weights, len(want), **attrs)
    assert [",".join(map(str, v.tensor.shape or ())) for v in graph.outputs] == want
    rng = random.Random(8)  # noqa: S311
    for _ in range(12):  # onnx says the same of numbers
        sizes = {"N": rng.randint(1, 3), "H": rng.randint(6, 13), "W": rng.randint(6, 13)}
        if op == "SpaceToDepth":
            sizes = {k: 2 * v for k, v in sizes.items()}
        numbers = applied(op, tuple(bind(d, sizes) for d in (N, 4, H, W)), weights, len(want), **attrs)
        for symbolic, number in zip(graph.outputs, numbers.outputs, strict=True):
            assert tuple(bind(d, sizes) for d in symbolic.tensor.shape or () if d is not None) == number.dims


@pytest.mark.parametrize(("name", "sizes"), [
    ("yunet_n_dynamic", {"batch": 1, "height": 96, "width": 160}), ("minilm_l6_w16", {"batch": 2, "length": 7}),
    ("ppocrv3_det", {f"p2o.DynamicDimension.{i}": s for i, s in enumerate((2, 64, 96))}), ("crepe_tiny", {"n": 3}),
    ("resnet20_cifar10_fp32", {"batch": 5}), ("super_resolution_dyn", {"batch_size": 2}), ("crnn_mnist_strings", {"batch": 4}),
    ("basic_pitch", {"unk__749": 2})])
def test_shared_models_over_symbols(name: str, sizes: dict[str, int]) -> None:
    open_, closed = import_model(model(name)), import_model(model(name), dims=sizes)
    static = {v.name: v.dims for n in closed.nodes for v in n.outputs}
    known = total = 0
    for node in open_.nodes:
        for v in node.outputs:
            shape = v.tensor.shape
            total += 1
            assert shape is not None
            assert len(shape) == len(static[v.name])
            if None not in shape:
                known += 1
                assert tuple(bind(d, sizes) for d in shape if d is not None) == static[v.name], v
    assert known == total or (name == "yunet_n_dynamic" and known > 100)  # its additions fit multiples of 32 only


def test_shapes_that_are_computed() -> None:
    i64 = helper.make_tensor
    weights = [i64("zero", 7, [], [0]), i64("two", 7, [1], [2]), i64("mone", 7, [1], [-1]), i64("one", 7, [1], [1]), i64("ax", 7, [1], [0])]
    proto = chain(("Shape", "x", "s", {}), ("Gather", "s zero", "n", {}), ("Unsqueeze", "n ax", "n1", {}), ("Mul", "n1 two", "n2", {}),
                  ("Cast", "n2", "f", {"to": 1}), ("Floor", "f", "f2", {}), ("Cast", "f2", "n3", {"to": 7}),
                  ("Concat", "n3 mone", "shape", {"axis": 0}), ("Reshape", "x shape", "y", {}), ("Slice", "s one two", "c", {}),
                  ("Equal", "n1 mone", "no", {}), ("Where", "no one n1", "same", {}), inputs=(("x", ("N", "C", 8)),),
                  outputs=("y", "c", "same"), weights=weights)
    graph = import_model(proto)
    assert str(graph.outputs[0].tensor.shape) == "(2*N, 4*C)"
    found = {v.name: k for v, k in shape_values(graph).items()}
    n, c = symbol("N"), symbol("C")
    assert found["s"] == (n, c, 8)
    assert found["n"] is n
    assert found["shape"] == (2 * n, -1)
    assert found["c"] == (c,)
    assert found["same"] == (n,)
    assert found["no"] == (False,)


def test_contents_agree_with_the_evaluator() -> None:
    for name in ("ultraface_rfb320", "yunet_n_dynamic", "minilm_l6_w16", "resnet20_cifar10_fp32", "crepe_tiny"):
        options: dict[str, Any] = {"yunet_n_dynamic": {"height": 32, "width": 64}, "minilm_l6_w16": {"length": 5}}
        graph = import_model(model(name), static=True, dims=options.get(name))
        known = shape_values(graph)
        assert known
        asked = list(known)
        feeds = {v.name: np.ones(v.dims, numpy_dtype(v.tensor.dtype)) for v in graph.inputs}
        made = evaluate(replace(graph, outputs=tuple(asked)), feeds)
        for value in asked:
            assert np.array_equal(made[value.name], np.array(known[value], numpy_dtype(value.tensor.dtype))), value


def test_integers_wrap_and_division_rounds_towards_zero() -> None:
    x, y = Value("x", Tensor("i64", (2,))), Value("y")
    a, b = Value("a"), Value("b")
    cases = (("Div", [-7, 7], [2, -2], (-3, -3)), ("Add", [2**63 - 1, 0], [1, 0], (-2**63, 0)), ("Mod", [-7, 7], [3, 3], (2, 1)))
    for op, left, right, want in cases:
        graph = infer(Graph("g", (x,), (y,), (Node(op, (a, b), (y,)),), {a: np.array(left), b: np.array(right)}))
        assert list(shape_values(graph).values()) == [want]


def test_an_untyped_graph_gets_all_of_its_types_again() -> None:
    graph = import_model(model("squeezenet_fp32"))
    inner = [v for n in graph.nodes for v in n.outputs]
    bare, _ = retype(graph, dict.fromkeys(inner))
    again = infer(bare)
    assert [v.type for n in again.nodes for v in n.outputs] == [v.type for v in inner]
    assert infer(again) is again
    assert verify(again) == []


def test_what_passes_know_of_a_value_stays() -> None:
    x, y = Value("x", Tensor("f32", (1, 4))), Value("y", Tensor("f32", (None, 4)))
    dead = Node("NonZero", (x,), (Value("z", Tensor("i64", (2, symbol("count")))),))
    graph = infer(Graph("g", (x,), (y, dead.output), (Node("Relu", (x,), (y,)), dead)))
    assert [str(v.tensor.shape) for v in graph.outputs] == ["(1, 4)", "(2, count)"]


@pytest.mark.parametrize("op", sorted(REGIONS))
def test_regions_get_types_from_their_inputs(op: str) -> None:
    x, a, k, y = Value("x", Tensor("f32", (N, 3))), Value("a"), Value("k"), Value("y")
    body = Graph("body", (a,), (k,), (Node("Neg", (a,), (k,)),))
    graph = infer(Graph("g", (x,), (y,), (Node(op, (x,), (y,), MappingProxyType({"kind": "map", "body": body})),)))
    assert graph.outputs[0].type == Tensor("f32", (N, 3))
    inner: Graph = graph.nodes[0].attrs["body"]
    assert inner.outputs[0].type == inner.inputs[0].type == Tensor("f32", (N, 3))


def test_a_loop_knows_what_stays_the_same_from_round_to_round() -> None:
    i, go, go_out, s, t, part = Value("i"), Value("go"), Value("go_out"), Value("s"), Value("t"), Value("part")
    nodes = (Node("Identity", (go,), (go_out,)), Node("Concat", (s, s), (t,), MappingProxyType({"axis": 0})), Node("Neg", (go,), (part,)))
    body = Graph("body", (i, go, s), (go_out, t, i), nodes[:2])
    count, start = Value("count"), Value("start", Tensor("f32", (2, 5)))
    y, all_ = Value("y"), Value("all")
    loop = Node("Loop", (count, None, start), (y, all_), MappingProxyType({"body": body}))
    graph = infer(Graph("g", (start,), (y, all_), (loop,), {count: np.array(4)}))
    assert graph.outputs[0].type == Tensor("f32", (None, 5))
    assert graph.outputs[1].type == Tensor("i64", (4,))
    made = evaluate(graph, {"start": np.ones((2, 5), np.float32)})
    assert (made["y"].shape, made["all"].tolist()) == ((32, 5), [0, 1, 2, 3])


def test_branches_share_what_they_agree_on() -> None:
    c, x = Value("c", Tensor("bool", ())), Value("x", Tensor("f32", (2, 3)))
    bodies = {}
    for key, op in (("then_branch", "Neg"), ("else_branch", "Transpose")):
        out = Value(key)
        bodies[key] = Graph(key, (), (out,), (Node(op, (x,), (out,)),))
    node = Node("If", (c,), (Value("y"),), MappingProxyType(bodies))
    graph = infer(Graph("g", (c, x), node.outputs, (node,)))
    assert graph.outputs[0].type == Tensor("f32", (None, None))
    fixed = Value("f")
    sure = replace(node, inputs=(fixed,), outputs=(Value("y"),))
    assert infer(Graph("g", (x,), sure.outputs, (sure,), {fixed: np.array([False]).reshape(())})).outputs[0].type == Tensor("f32", (3, 2))


def test_what_does_not_fit_names_the_node() -> None:
    x = Value("x", Tensor("f32", (2, 3)))
    node = Node("MatMul", (x, x), (Value("y"),), MappingProxyType({}), None, "proj")
    with pytest.raises(BadInput, match=r"MatMul 'proj' does not fit its inputs: .*[Ii]ncompatible dimensions"):
        infer(Graph("g", (x,), node.outputs, (node,)))


def test_ten_thousand_nodes_take_one_sweep() -> None:
    x = Value("x", Tensor("f32", (N, parse_dim("(H+1)//2"))))
    nodes, last = [], x
    for i in range(10_000):
        nodes.append(Node("Relu" if i % 2 else "Neg", (last,), (Value(f"v{i}"),)))
        last = nodes[-1].output
    graph = infer(Graph("g", (x,), (last,), tuple(nodes)))
    assert isinstance(graph.outputs[0].tensor.shape, tuple)
    assert isinstance(graph.outputs[0].tensor.shape[1], Sym)
