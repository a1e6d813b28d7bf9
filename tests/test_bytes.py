"""Kernels on bytes beside products: pools, sums over windows, tables, arithmetic between two quantizations, fixed-point rounding."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.layout import Layout
from edgec.ir.types import numpy_dtype
from edgec.isa import Isa
from edgec.kernels.base import Operands
from edgec.kernels.emit import emit
from edgec.kernels.plan import plan
from edgec.pipeline import Context
from edgec.target import find
from passes import cluster
from tests.kernel_harness import A72, AVX2, AVX512, HOST, on, run
from tests.test_dot import NHWC, check, numbers, tensor


def scalar(name: str, value: float, dtype: str) -> tuple[Value, Array]:
    return tensor(name, (), dtype), np.array(value, numpy_dtype(dtype))


@pytest.mark.parametrize("isa", on(AVX512, A72))
@pytest.mark.parametrize("layout", [NHWC, None, Layout((0, 1, 2, 3), ((1, 16),))], ids=["nhwc", "nchw", "blocked"])
@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_largest_bytes(dtype: str, layout: Layout | None, isa: Isa) -> None:
    rng = np.random.default_rng(1)
    shape, out = (2, 80, 9, 10) if layout is NHWC else (2, 32, 9, 10), (5, 4)
    x, y = tensor("x", shape, dtype, layout), tensor("y", (*shape[:2], *out), dtype, layout)
    attrs = MappingProxyType({"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 1]})
    assert check(isa, [Node("MaxPool", (x,), (y,), attrs)], {x: numbers(rng, x)}, {}).startswith("max_pool")


@pytest.mark.parametrize("isa", on(AVX512, A72))
@pytest.mark.parametrize(("size", "kernel", "pads"), [((9, 10), (3, 3), (1, 1, 1, 1)), ((7, 6), (7, 6), (0, 0, 0, 0)),
                                                     ((30, 20), (28, 9), (0, 0, 0, 0))])
def test_sums_over_windows(size: tuple[int, int], kernel: tuple[int, int], pads: tuple[int, ...], isa: Isa) -> None:
    rng = np.random.default_rng(2)
    x = tensor("x", (2, 21, *size), "i8", NHWC)
    out = [s + pads[i] + pads[i + 2] - k + 1 for i, (s, k) in enumerate(zip(size, kernel, strict=True))]
    y, real, scaled, z = (tensor(n, (2, 21, *out), d, NHWC) for n, d in (("y", "i32"), ("f", "f32"), ("m", "f32"), ("z", "i8")))
    constants = dict([scalar("zero", -7, "i8"), scalar("factor", 0.004, "f32"), scalar("one", 1.0, "f32"), scalar("zp", 5, "i8")])
    zero, factor, one, zp = constants
    attrs = MappingProxyType({"kernel_shape": list(kernel), "pads": list(pads)})
    nodes = [Node("edgec.SumPool", (x, zero), (y,), attrs), Node("Cast", (y,), (real,), MappingProxyType({"to": 1})),
             Node("Mul", (real, factor), (scaled,)), Node("QuantizeLinear", (scaled, one, zp), (z,))]
    assert check(isa, nodes, {x: numbers(rng, x)}, constants).startswith("sum_pool")


@pytest.mark.parametrize("isa", on(AVX512, A72))
@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_a_table(dtype: str, isa: Isa) -> None:
    rng = np.random.default_rng(3)
    x, table, y = tensor("x", (3, 41), dtype), tensor("t", (256,), "u8"), tensor("y", (3, 41), "u8")
    assert check(isa, [Node("edgec.Lookup", (x, table), (y,))], {x: numbers(rng, x)}, {table: numbers(rng, table)}) == "lookup"


def reals(x: Value, scale: float, zero: int) -> tuple[Node, dict[Value, Array]]:
    """A DequantizeLinear of bytes."""
    known = dict([scalar(f"{x.name}_scale", scale, "f32"), scalar(f"{x.name}_zero", zero, x.tensor.dtype)])
    return Node("DequantizeLinear", (x, *known), (tensor(f"{x.name}_real", x.dims, "f32"),)), known


def residual(layout: Layout | None, dtypes: Sequence[str] = ("i8", "u8", "u8")) -> tuple[list[Node], dict[Value, Array]]:
    """The sum of two tensors of bytes, by a Relu, as bytes."""
    a, b, y = (tensor(n, (2, 19, 5, 7), d, layout) for n, d in zip("aby", dtypes, strict=True))
    (left, known), (right, more) = reals(a, 0.031, -3), reals(b, 0.05, 90)
    total, relu = tensor("sum", a.dims, "f32"), tensor("relu", a.dims, "f32")
    ends = dict([scalar("y_scale", 0.043, "f32"), scalar("y_zero", 9, dtypes[2])])
    nodes = [left, right, Node("Add", (left.output, right.output), (total,)), Node("Relu", (total,), (relu,)),
             Node("QuantizeLinear", (relu, *ends), (y,))]
    return nodes, {**known, **more, **ends}


@pytest.mark.parametrize("isa", on(AVX512, AVX2, A72))
def test_a_sum_of_bytes_with_other_scales(isa: Isa) -> None:
    rng = np.random.default_rng(4)
    nodes, constants = residual(NHWC)
    assert check(isa, nodes, {n.inputs[0]: numbers(rng, n.inputs[0]) for n in nodes[:2] if n.inputs[0] is not None}, constants) == "map"


def test_cluster_takes_the_reals_of_a_sum_into_its_kernel() -> None:
    nodes, constants = residual(None)
    graph = Graph("g", tuple(n.inputs[0] for n in nodes[:2] if n.inputs[0] is not None), (nodes[-1].output,), tuple(nodes), constants)
    made = cluster.run(graph, Context(find("zen4")))
    assert [n.op for n in made.nodes] == ["edgec.Fused"]
    inside = sorted(n.op for n in made.nodes[0].attrs["body"].nodes)
    assert inside == ["Add", "DequantizeLinear", "DequantizeLinear", "QuantizeLinear", "Relu"]


def test_bytes_that_others_read_are_stored_as_bytes() -> None:
    nodes, constants = residual(None, ("i8", "i8", "i8"))
    again, pooled = reals(nodes[-1].output, 0.02, 1)[0], tensor("pooled", (2, 19, 1, 1), "f32")
    more = {v: np.array(0.02, np.float32) if v.tensor.dtype == "f32" else np.array(1, np.int8) for v in again.inputs[1:] if v is not None}
    last = Node("AveragePool", (again.output,), (pooled,), MappingProxyType({"kernel_shape": [5, 7]}))
    inputs = tuple(n.inputs[0] for n in nodes[:2] if n.inputs[0] is not None)
    made = cluster.run(Graph("g", inputs, (pooled,), (*nodes, again, last), {**constants, **more}), Context(find("zen4")))
    assert [n.output.tensor.dtype for n in made.nodes] == ["i8", "f32", "f32"]


@pytest.mark.parametrize("isa", on(AVX512, A72))
def test_multiplication_by_fixed_point_numbers(isa: Isa) -> None:
    rng = np.random.default_rng(5)
    x, multiplier, shift, y = (tensor(n, s, "i32") for n, s in (("x", (40, 24)), ("m", (24,)), ("s", (24,)), ("y", (40, 24))))
    known: dict[Value, Any] = {multiplier: rng.integers(1 << 30, (1 << 31) - 1, 24).astype(np.int32),
                               shift: rng.integers(32, 50, 24).astype(np.int32)}
    values = rng.integers(-2**31, 2**31, x.dims).astype(np.int32)
    check(isa, [Node("edgec.MultiplyShift", (x, multiplier, shift), (y,))], {x: values}, known)


def test_out_of_range_numbers_saturate() -> None:
    values = np.array([1e30, -1e30, np.inf, -np.inf, 3e9, -3e9, 1.25, 1.75, -1.25, 13.4, 13.6], np.float32)
    want = np.array([127, -128, 127, -128, 127, -128, 102, 104, 98, 127, 127], np.int8)
    x, y = tensor("x", values.shape, "f32"), tensor("y", values.shape, "i8")
    constants = dict([scalar("scale", 0.5, "f32"), scalar("zero", 100, "i8")])
    planned = plan(Node("QuantizeLinear", (x, *constants), (y,)), HOST, Operands.of(constants, lambda v: v.tensor.view))
    assert not isinstance(planned, str), planned
    np.testing.assert_array_equal(run(planned.plan, emit, [values, *constants.values()]).outputs[0], want)


@pytest.mark.parametrize(("low", "high", "zero"), [(-3.0, 5.0, 7), (-900.0, 900.0, 7), (120.0, 400.0, 90), (-700.0, -600.0, 0)])
def test_bounds_before_quantization(low: float, high: float, zero: int) -> None:
    rng = np.random.default_rng(7)
    x, clipped, y = tensor("x", (3, 50), "f32"), tensor("c", (3, 50), "f32"), tensor("y", (3, 50), "i8")
    constants = dict([scalar("low", low, "f32"), scalar("high", high, "f32"), scalar("one", 1.0, "f32"), scalar("zp", zero, "i8")])
    ends = list(constants)
    nodes = [Node("Clip", (x, *ends[:2]), (clipped,)), Node("QuantizeLinear", (clipped, *ends[2:]), (y,))]
    check(HOST, nodes, {x: (rng.standard_normal(x.dims) * 200).astype(np.float32)}, constants)
