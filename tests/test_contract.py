"""Convolutions, products, windows, maps and pads: each plan alone, against float64, between guard pages."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edgec.codegen.object import kernel_texts
from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.layout import Layout
from edgec.ir.types import Tensor
from edgec.isa import Isa
from edgec.kernels.base import Operands
from edgec.kernels.contract import ContractPlan
from edgec.kernels.emit import emit
from edgec.kernels.plan import packed, plan
from tests import opencl
from tests.kernel_harness import A72, AVX2, AVX512, OPENCL, gathered, on, run, scatter

NHWC = Layout((0, 2, 3, 1))


@pytest.fixture(scope="module", autouse=True)
def one_program(request: pytest.FixtureRequest) -> None:
    """OpenCL kernels of all these tests are built together."""
    items = [i for i in request.session.items if i.path == request.path and isinstance(i, pytest.Function)]
    given = [(i.obj, i.callspec.params) for i in items if getattr(i, "callspec", None) and i.callspec.params.get("isa") is OPENCL]
    if opencl.missing() is None:
        opencl.together(partial(test, **params) for test, params in given)


def blocked(size: int) -> Layout:
    return Layout((0, 1, 2, 3), ((1, size),))


def check(isa: Isa, nodes: Sequence[Node], inputs: dict[Value, Array], weights: dict[Value, Array], tolerance: float = 1e-5) -> str:
    """Plan and run the nodes as one kernel; the algorithm's name, once it agrees with the evaluator in float64."""
    known: dict[Value, Array] = {v: a.astype(np.float64) if a.dtype.kind == "f" else a for v, a in {**inputs, **weights}.items()}
    for node in nodes:
        made = evaluate_node(node, [None if v is None else known[v] for v in node.inputs], precise=True)
        known.update(zip(node.outputs, made, strict=True))
    output = nodes[-1].outputs[0]
    if len(nodes) == 1:
        fused = nodes[0]
    else:
        outer = tuple(dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v in {**inputs, **weights}))
        body = Graph("body", outer, (output,), tuple(nodes))
        fused = Node("edgec.Fused", outer, (output,), MappingProxyType({"kind": "test", "body": body}))
    direct = replace(isa, extra=(*isa.extra, ("exact", True))) if isinstance(isa, Isa) else isa   # test_winograd.py has the other way
    planned = plan(fused, direct, Operands.of(weights, lambda v: v.tensor.view))
    assert not isinstance(planned, str), planned
    arrays = []
    for i, (arg, value) in enumerate(zip(planned.plan.args, planned.inputs, strict=False)):
        given = {**inputs, **weights}[value]
        arrays.append(packed(planned.plan, i, given) if arg.role == "weight" else scatter(given, value.tensor.layout))
    outcome = run(planned.plan, emit, arrays)
    got, want = gathered(outcome.outputs[0], output.tensor.view), known[output].astype(np.float64)
    spread = np.abs(want).max() or 1.0
    assert np.isfinite(got).all()
    assert np.abs(got - want).max() <= tolerance * spread
    return planned.plan.algo


def tensor(name: str, shape: Sequence[int], layout: Layout | None = None, dtype: str = "f32") -> Value:
    return Value(name, Tensor(dtype, tuple(shape), layout))


def numbers(rng: np.random.Generator, value: Value) -> Array:
    return rng.standard_normal(value.dims).astype(np.float32)


def window(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int]) -> int:
    return (size + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1


CONVOLUTIONS: list[dict[str, Any]] = [
    {"x": (1, 32, 9, 30), "m": 64, "k": (3, 3), "pads": (1, 1, 1, 1), "lx": 16, "ly": 16},
    {"x": (2, 3, 19, 17), "m": 21, "k": (7, 5), "strides": (2, 3), "pads": (3, 2, 2, 1), "lx": 0, "ly": -1},
    {"x": (1, 24, 7, 7), "m": 40, "k": (1, 1), "lx": -1, "ly": -1},
    {"x": (1, 16, 1, 1), "m": 10, "k": (1, 1), "lx": 0, "ly": 0},
    {"x": (1, 12, 20, 20), "m": 5, "k": (3, 3), "dilations": (4, 5), "pads": (4, 5, 4, 5), "lx": -1, "ly": 0},
    {"x": (2, 24, 5, 6), "m": 36, "k": (3, 3), "group": 3, "pads": (1, 1, 1, 1), "lx": -1, "ly": -1},
    {"x": (1, 64, 6, 6), "m": 64, "k": (3, 3), "group": 2, "strides": (2, 2), "pads": (0, 1, 1, 0), "lx": 16, "ly": 16},
    {"x": (1, 1, 200, 1), "m": 16, "k": (64, 1), "strides": (4, 1), "pads": (30, 0, 33, 0), "lx": 0, "ly": -1},
    {"x": (1, 17, 8, 9), "m": 17, "k": (3, 3), "group": 17, "pads": (1, 1, 1, 1), "lx": -1, "ly": -1},
    {"x": (2, 32, 11, 13), "m": 32, "k": (5, 3), "group": 32, "strides": (2, 2), "pads": (2, 1, 1, 1), "lx": 16, "ly": 16},
    {"x": (1, 16, 9, 3), "m": 16, "k": (4, 3), "group": 16, "lx": -1, "ly": -1},
    {"x": (1, 8, 3, 3), "m": 8, "k": (3, 3), "pads": (5, 5, 5, 5), "lx": -1, "ly": -1},
]


def layout_of(code: int) -> Layout | None:
    return None if code == 0 else NHWC if code < 0 else blocked(code)


@pytest.mark.parametrize("isa", on(AVX512, AVX2, A72, OPENCL))
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: f"{c['x']}-{c['m']}-{c['k']}")
def test_convolution(case: dict[str, Any], isa: Isa) -> None:
    rng = np.random.default_rng(1)
    strides, dilations = case.get("strides", (1, 1)), case.get("dilations", (1, 1))
    pads, group = case.get("pads", (0, 0, 0, 0)), case.get("group", 1)
    n, c, h, w = case["x"]
    out = [window(size, case["k"][i], strides[i], dilations[i], (pads[i], pads[i + 2])) for i, size in enumerate((h, w))]
    x = tensor("x", case["x"], layout_of(case["lx"]))
    weight, bias = tensor("w", (case["m"], c // group, *case["k"])), tensor("b", (case["m"],))
    shape = (n, case["m"], *out)
    y, z, r, scale = tensor("y", shape), tensor("z", shape), tensor("r", shape, layout_of(case["ly"])), tensor("s", (case["m"], 1, 1))
    result = tensor("out", shape, layout_of(case["ly"]))
    attrs = MappingProxyType({"kernel_shape": list(case["k"]), "strides": list(strides), "dilations": list(dilations), "pads": list(pads),
                              "group": group})
    nodes = [Node("Conv", (x, weight, bias), (y,), attrs), Node("Mul", (y, scale), (z,)), Node("Add", (z, r), (result,))]
    check(isa, nodes, {x: numbers(rng, x), r: numbers(rng, r)}, {v: numbers(rng, v) for v in (weight, bias, scale)})


@pytest.mark.parametrize("isa", on(AVX512, A72, OPENCL))
@pytest.mark.parametrize(("c", "m", "k", "stride", "pads", "group"), [
    (8, 12, (2, 2), 2, (0, 0, 0, 0), 1), (5, 3, (4, 4), 2, (1, 1, 1, 1), 1), (6, 4, (3, 3), 3, (1, 0, 1, 2), 2),
    (4, 4, (3, 2), 1, (1, 0, 1, 1), 1)])
def test_transposed_convolution(c: int, m: int, k: tuple[int, int], stride: int, pads: tuple[int, ...], group: int, isa: Isa) -> None:
    rng = np.random.default_rng(2)
    x = tensor("x", (2, c, 5, 6), NHWC)
    out = [stride * (s - 1) + kk - pads[i] - pads[i + 2] for i, (s, kk) in enumerate(zip((5, 6), k, strict=True))]
    weight, y = tensor("w", (c, m // group, *k)), tensor("y", (2, m, *out), NHWC)
    attrs = MappingProxyType({"kernel_shape": list(k), "strides": [stride] * 2, "dilations": [1, 1], "pads": list(pads), "group": group})
    assert check(isa, [Node("ConvTranspose", (x, weight), (y,), attrs)], {x: numbers(rng, x)}, {weight: numbers(rng, weight)})


@pytest.mark.parametrize("isa", on(AVX512, AVX2, A72))
@pytest.mark.parametrize(("c", "k", "layout"), [
    (24, (2, 2), NHWC), (16, (3, 4), blocked(16)), (5, (1, 2), NHWC), (7, (4, 4), None), (3, (2, 1), None)])
def test_windows_of_one_channel_side_by_side(c: int, k: tuple[int, int], layout: Layout | None, isa: Isa) -> None:
    """Each window is a vector, which is stored in pieces."""
    rng = np.random.default_rng(3)
    x, shape = tensor("x", (2, c, 5, 19), layout), (2, 1, 5 * k[0], 19 * k[1])
    weight, bias, y, out = tensor("w", (c, 1, *k)), tensor("b", (1,)), tensor("y", shape), tensor("out", shape)
    attrs = MappingProxyType({"kernel_shape": list(k), "strides": list(k), "dilations": [1, 1], "pads": [0] * 4, "group": 1})
    nodes = [Node("ConvTranspose", (x, weight, bias), (y,), attrs), Node("Sigmoid", (y,), (out,))]
    algo = check(isa, nodes, {x: numbers(rng, x)}, {v: numbers(rng, v) for v in (weight, bias)})
    assert algo.startswith("conv_transpose_windows")


@pytest.mark.parametrize("isa", on(AVX512, AVX2, A72, OPENCL))
@pytest.mark.parametrize(("a", "b"), [((1, 70), (70, 33)), ((5, 64), (64, 10)), ((2, 7, 24), (24, 40)), ((17, 3), (3, 1))])
def test_product_with_weights(a: tuple[int, ...], b: tuple[int, int], isa: Isa) -> None:
    rng = np.random.default_rng(3)
    x, w, y, bias, out = tensor("x", a), tensor("w", b), tensor("y", (*a[:-1], b[1])), tensor("b", (b[1],)), tensor("o", (*a[:-1], b[1]))
    nodes = [Node("MatMul", (x, w), (y,)), Node("Add", (y, bias), (out,))]
    check(isa, nodes, {x: numbers(rng, x)}, {w: numbers(rng, w), bias: numbers(rng, bias)})


@pytest.mark.parametrize("isa", on(AVX512, AVX2, A72, OPENCL))
@pytest.mark.parametrize(("rows", "columns"), [(3, 1000), (130, 45), (300, 1000)])
def test_product_with_narrow_weights(rows: int, columns: int, isa: Isa) -> None:
    """Many rows widen the weights of a vector group before the tiles that read it; with many columns a task has several groups."""
    rng = np.random.default_rng(5)
    x, y = tensor("x", (rows, 36)), tensor("y", (rows, columns))
    w = tensor("w", (36, columns), dtype="f16")
    weight = rng.standard_normal(w.dims).astype(np.float16)
    check(isa, [Node("MatMul", (x, w), (y,))], {x: numbers(rng, x)}, {w: weight})
    planned = plan(Node("MatMul", (x, w), (y,)), isa, Operands.of({w: weight}, lambda v: v.tensor.view))
    assert not isinstance(planned, str)
    if isa is not OPENCL:
        assert bool(planned.plan.scratch) == (rows > 100 and isa is A72)            # x86 converts them as it loads them


@pytest.mark.parametrize("isa", on(AVX512, AVX2, A72))
@pytest.mark.parametrize(("layout", "groups"), [(NHWC, 1), (blocked(8), 1), (NHWC, 3)])
def test_convolution_with_narrow_weights(layout: Layout, groups: int, isa: Isa) -> None:
    rng = np.random.default_rng(6)
    x, y = tensor("x", (2, 24, 15, 15), layout), tensor("y", (2, 48, 15, 15), layout)
    w = tensor("w", (48, 24 // groups, 3, 3), dtype="f16")
    attrs = MappingProxyType({"kernel_shape": [3, 3], "pads": [1] * 4, "group": groups})
    check(isa, [Node("Conv", (x, w), (y,), attrs)], {x: numbers(rng, x)}, {w: rng.standard_normal(w.dims).astype(np.float16)})


@pytest.mark.parametrize("isa", on(AVX512, A72, OPENCL))
@pytest.mark.parametrize(("a", "b"), [((3, 9, 8), (3, 8, 20)), ((2, 3, 5, 7), (2, 3, 7, 6)), ((4, 6), (6, 9))])
def test_product_of_activations(a: tuple[int, ...], b: tuple[int, ...], isa: Isa) -> None:
    rng = np.random.default_rng(4)
    x, w, y = tensor("x", a), tensor("w", b), tensor("y", (*a[:-1], b[-1]))
    check(isa, [Node("MatMul", (x, w), (y,))], {x: numbers(rng, x), w: numbers(rng, w)}, {})


@pytest.mark.parametrize("isa", on(AVX512, A72, OPENCL))
@pytest.mark.parametrize("layout", [NHWC, blocked(8)], ids=["nhwc", "blocked"])
@pytest.mark.parametrize(("op", "extra"), [("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1})])
def test_pool(op: str, extra: dict[str, int], layout: Layout, isa: Isa) -> None:
    rng = np.random.default_rng(5)
    x, y = tensor("x", (2, 24, 9, 10), layout), tensor("y", (2, 24, 5, 4), layout)
    attrs = MappingProxyType({"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 1], **extra})
    values = numbers(rng, x) - 3
    check(isa, [Node(op, (x,), (y,), attrs)], {x: values}, {})


@pytest.mark.parametrize("isa", on(AVX512, A72, OPENCL))
@pytest.mark.parametrize(("shape", "other", "layouts"), [
    ((2, 16, 5, 3), (16, 1, 1), (blocked(8), None, NHWC)), ((1, 5, 7, 9), (1, 5, 7, 9), (None, NHWC, None)),
    ((3, 1, 33), (1, 4, 33), (None, None, None)),
    ((100001,), (1,), (None, None, None))])
def test_map(shape: tuple[int, ...], other: tuple[int, ...], layouts: tuple[Layout | None, ...], isa: Isa) -> None:
    rng = np.random.default_rng(6)
    result = np.broadcast_shapes(shape, other)
    a, b, s, y = tensor("a", shape, layouts[0]), tensor("b", other, layouts[1]), tensor("s", result), tensor("y", result, layouts[2])
    check(isa, [Node("Sub", (a, b), (s,)), Node("Relu", (s,), (y,))], {a: numbers(rng, a), b: numbers(rng, b)}, {})


@pytest.mark.parametrize("isa", on(AVX512, A72, OPENCL))
@pytest.mark.parametrize(("lx", "ly"), [(None, None), (blocked(16), blocked(16)), (NHWC, blocked(8)), (blocked(8), NHWC)])
def test_pad(lx: Layout | None, ly: Layout | None, isa: Isa) -> None:
    rng = np.random.default_rng(7)
    x, pads, y = tensor("x", (2, 16, 3, 5), lx), tensor("p", (8,), dtype="i64"), tensor("y", (2, 32, 4, 8), ly)
    amounts = np.array([0, 8, 1, 0, 0, 8, 0, 3], np.int64)
    check(isa, [Node("Pad", (x, pads), (y,))], {x: numbers(rng, x)}, {pads: amounts})


@pytest.mark.parametrize("isa", on(AVX512, AVX2, A72))
@pytest.mark.parametrize("columns", [10, 100, 167])
def test_weights_that_are_read_once_lie_in_several_pieces(columns: int, isa: Isa) -> None:
    rng = np.random.default_rng(3)
    shapes = {"x": (1, 70), "w": (columns, 70), "b": (columns,), "y": (1, columns), "z": (1, columns)}
    x, w, b, y, z = (tensor(name, shape) for name, shape in shapes.items())
    nodes = [Node("Gemm", (x, w, b), (y,), MappingProxyType({"transB": 1})), Node("Relu", (y,), (z,))]
    given, weights = {x: numbers(rng, x)}, {v: numbers(rng, v) for v in (w, b)}
    many = replace(isa, l1_bytes=1 << 10, l2_bytes=2 << 10, extra=(("streams", 4),))
    check(many, nodes, given, weights)
    body = Graph("body", (x, w, b), (z,), tuple(nodes))
    fused = Node("edgec.Fused", (x, w, b), (z,), MappingProxyType({"kind": "test", "body": body}))
    one, several = (planned.plan for i in (isa, many)
                    if not isinstance(planned := plan(fused, i, Operands.of(weights, lambda v: v.tensor.view)), str))
    assert isinstance(one, ContractPlan)
    assert isinstance(several, ContractPlan)
    assert (one.streams, several.streams) == (1, min(4, max(map(len, several.widths))))
    assert sorted(packed(several, 1, weights[w])) == sorted(weights[w].reshape(-1))


@pytest.mark.parametrize("isa", [AVX512, A72], ids=["x86-64-v4", "cortex-a72"])
def test_taps_do_not_share_pixels_through_the_stack(isa: Isa) -> None:
    x, w, y = tensor("x", (1, 8, 14, 14), NHWC), tensor("w", (16, 8, 5, 5)), tensor("y", (1, 16, 14, 14), NHWC)
    node = Node("Conv", (x, w), (y,), MappingProxyType({"kernel_shape": [5, 5], "pads": [2, 2, 2, 2], "strides": [1, 1],
                                                        "dilations": [1, 1], "group": 1}))
    direct = replace(isa, extra=(("exact", True),))
    weights = {w: np.zeros(w.dims, np.float32)}
    planned = plan(node, direct, Operands.of(weights, lambda v: v.tensor.view))
    assert not isinstance(planned, str)
    text = kernel_texts({"k": planned.plan}, direct, "asm", jobs=1)["k"]
    stack = {"x86_64": r"\(%rsp\).*zmm|zmm.*\(%rsp\)", "aarch64": r"\bq\d+,.*\[sp"}[direct.arch]
    assert len(re.findall("vfmadd|fmla", text)) > 100
    assert len(re.findall(stack, text)) < 20                   # one bias, and registers that a function must save


AHEAD: list[dict[str, Any]] = [
    {"x": (1, 32, 7, 7), "m": 72, "k": (3, 3), "pads": (1, 1, 1, 1)},
    {"x": (2, 64, 14, 14), "m": 96, "k": (1, 1)},
    {"x": (1, 48, 9, 8), "m": 64, "k": (3, 3), "strides": (2, 2), "group": 2},
    {"x": (1, 32, 28, 28), "m": 256, "k": (3, 3), "pads": (1, 1, 1, 1)},
]


@pytest.mark.parametrize("case", AHEAD, ids=lambda c: f"{c['x']}_{c['k']}")
@pytest.mark.parametrize("isa", on(AVX512, AVX2, A72))
def test_weights_that_no_near_cache_holds_are_asked_for(isa: Isa, case: dict[str, Any]) -> None:
    x, m, kernel, pads, strides = (case.get(k, d) for k, d in (("x", 0), ("m", 0), ("k", 0), ("pads", (0,) * 4), ("strides", (1, 1))))
    height, width = (window(x[2 + i], kernel[i], strides[i], 1, (pads[i], pads[2 + i])) for i in (0, 1))
    image, weight = tensor("x", x, NHWC), tensor("w", (m, x[1] // case.get("group", 1), *kernel))
    bias, result = tensor("b", (m,)), tensor("y", (x[0], m, height, width), NHWC)
    node = Node("Conv", (image, weight, bias), (result,), MappingProxyType({
        "kernel_shape": list(kernel), "pads": list(pads), "strides": list(strides), "dilations": [1, 1], "group": case.get("group", 1)}))
    rng = np.random.default_rng(5)
    weights = {v: numbers(rng, v) for v in (weight, bias)}
    near, far = isa, replace(isa, l1_bytes=1 << 10, l2_bytes=8 << 10, dram_bytes_per_cycle=1e-2)
    check(far, [node], {image: numbers(rng, image)}, weights)
    direct = (("exact", True),)
    held, asked = (p.plan for i in (near, far)
                   if not isinstance(p := plan(node, replace(i, extra=direct), Operands.of(weights, lambda v: v.tensor.view)), str))
    assert isinstance(held, ContractPlan)
    assert isinstance(asked, ContractPlan)
    assert (held.ahead, held.lead) == (0, 0)
    assert asked.lead > 0
    bodies = asked.in_channels // (asked.chunk if asked.seldom else asked.unroll) * kernel[0] * kernel[1]
    bodies *= asked.ys[0].out_count * -(-asked.xs[0].out_count // asked.columns)
    panel = sum(asked.widths[0]) * asked.in_channels * kernel[0] * kernel[1] * 4
    assert asked.ahead * bodies * isa.line_bytes >= panel
    word = {"x86_64": "prefetcht1", "aarch64": r"prfm\s+pldl2keep"}[isa.arch]
    texts = [kernel_texts({"k": p}, p.isa, "asm", jobs=1)["k"] for p in (held, asked)]
    assert not re.search(word, texts[0])
    assert len(re.findall(word, texts[1])) >= asked.ahead


def test_denormal_weights_are_zero_and_the_model_keeps_its_own() -> None:
    x, w, b, y = tensor("x", (1, 16, 4, 4), NHWC), tensor("w", (20, 16, 1, 1)), tensor("b", (20,)), tensor("y", (1, 20, 4, 4), NHWC)
    rng = np.random.default_rng(4)
    weight, bias = numbers(rng, w), np.full(20, 2.0**-126, np.float32)
    weight[3], bias[5] = 2.0**-127, -(2.0**-149)
    kept = weight.copy()
    planned = plan(Node("Conv", (x, w, b), (y,), MappingProxyType({"kernel_shape": [1, 1]})), AVX2,
                   Operands.of({w: weight, b: bias}, lambda v: v.tensor.view))
    assert not isinstance(planned, str)
    stored = packed(planned.plan, 1, weight)
    assert sorted(stored) == sorted(np.where(np.arange(20) == 3, 0, weight[:, :, 0, 0].T).reshape(-1))
    assert packed(planned.plan, 2, bias).tolist() == [0.0 if i == 5 else 2.0**-126 for i in range(20)]
    assert np.array_equal(weight, kept)


@pytest.mark.parametrize(("size", "c", "m", "order"), [
    (56, 64, 256, "rows"), (128, 128, 256, "rows"), (7, 512, 2048, "groups"), (56, 64, 32, "groups")])
def test_the_order_of_tasks_reads_the_smaller_operand_anew(size: int, c: int, m: int, order: str) -> None:
    x, w, y = tensor("x", (1, c, size, size), blocked(16)), tensor("w", (m, c, 1, 1)), tensor("y", (1, m, size, size), blocked(16))
    node = Node("Conv", (x, w), (y,), MappingProxyType({"kernel_shape": [1, 1]}))
    made = plan(node, AVX512, Operands.of({w: np.zeros(w.dims, np.float32)}, lambda v: v.tensor.view))
    assert not isinstance(made, str)
    assert isinstance(made.plan, ContractPlan)
    assert ("rows" if made.plan.rows_first else "groups") == order
    if x.tensor.bytes > AVX512.l2_bytes:
        assert x.tensor.bytes // made.plan.row_chunks <= AVX512.l2_bytes // 2
