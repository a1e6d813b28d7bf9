"""Kernels of GPUs: which there are and how they are shared out, elementwise arithmetic on all kinds of numbers, rows that groups share."""

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Node, Value
from edgec.ir.types import Tensor, numpy_dtype
from edgec.isa import devices
from edgec.kernels.base import Operands, Planned
from edgec.kernels.expr import ELEMENTWISE
from edgec.kernels.gpu.emit import kernel
from edgec.kernels.gpu.plan import GpuPlan
from edgec.kernels.plan import plan
from edgec.target import find
from tests.opencl import OPENCL, Kernels, needs_opencl

_DTYPES = {"And": "bool", "Or": "bool", "Xor": "bool", "Not": "bool", "BitwiseAnd": "i32", "BitwiseOr": "i32", "BitwiseXor": "i32",
           "BitwiseNot": "i32"}
_BOOL = {"Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "IsNaN", "IsInf"}
_ATTRS: dict[str, dict[str, Any]] = {"Mod": {"fmod": 1}, "LeakyRelu": {"alpha": 0.1}, "Celu": {"alpha": 0.7}, "Cast": {"to": 6}}
_SIZE = 1024
OPS = sorted(op for op in ELEMENTWISE if op not in {"BitShift", "QuantizeLinear", "DequantizeLinear", "edgec.MultiplyShift"})


def value(name: str, dtype: str, *shape: int) -> Value:
    return Value(name, Tensor(dtype, shape))


def node(op: str) -> Node:
    dtype = _DTYPES.get(op, "f32")
    inputs = tuple(value(f"x{i}", "bool" if op == "Where" and i == 0 else dtype, _SIZE) for i in range(ELEMENTWISE[op]))
    result = "i32" if op == "Cast" else "bool" if op in _BOOL else dtype
    return Node(op, inputs, (value("y", result, _SIZE),), MappingProxyType(_ATTRS.get(op, {})))


def numbers(v: Value, seed: int, *, special: bool) -> Array:
    dice = np.random.default_rng(seed)
    if v.tensor.dtype == "bool":
        return dice.integers(0, 2, v.dims).astype(bool)
    if v.tensor.dtype == "i32":
        return dice.integers(-2**31, 2**31, v.dims, dtype=np.int32)
    made = (dice.standard_normal(v.dims) * 3).astype(np.float32)
    if special:
        made[:8] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, 88.0, -88.0]
        made[8:16] = np.roll(made[:8], seed)
    return made


def planned(what: Node) -> Planned | str:
    return plan(what, OPENCL, Operands.of({}, lambda v: v.tensor.view))


@needs_opencl
def test_every_elementwise_operator() -> None:
    """Values as the evaluator has them in float64; NaN and infinities at the same places."""
    plans, nodes = list[GpuPlan](), [node(op) for op in OPS]
    for what in nodes:
        made = planned(what)
        assert not isinstance(made, str), made
        assert isinstance(made.plan, GpuPlan)
        plans.append(made.plan)
    kernels = Kernels(plans, 5 * (4 * _SIZE + 512))
    for i, what in enumerate(nodes):
        plain = what.op in {"Cast", "Pow", "Mod"}
        inputs = [numbers(v, k, special=not plain and (k == 0 or what.op != "PRelu")) for k, v in enumerate(what.inputs) if v is not None]
        if what.op in {"Pow", "Log", "Sqrt"}:
            inputs[0] = np.abs(inputs[0])
        if what.op == "Clip":
            inputs[1:] = [np.full(_SIZE, -1, np.float32), np.full(_SIZE, 2, np.float32)]
        with np.errstate(all="ignore"):
            wanted = evaluate_node(what, [a.astype(np.float64) if a.dtype == np.float32 else a for a in inputs], precise=True)[0]
        output = np.zeros(_SIZE, numpy_dtype(what.outputs[0].tensor.dtype))
        found = kernels.run(i, [*inputs, output])[0]
        exact = np.asarray(wanted)
        if output.dtype != np.float32:
            assert np.array_equal(found, exact.astype(output.dtype)), what.op
            continue
        with np.errstate(all="ignore"):
            rounded = exact.astype(np.float32)
            close = np.abs(found - rounded) <= 2e-6 + 4e-6 * np.abs(rounded)
        assert (close | (found == rounded) | (np.isnan(found) & np.isnan(rounded))).all(), what.op


@needs_opencl
@pytest.mark.parametrize(("op", "axis", "shape"), [
    ("Softmax", 1, (3, 1000)), ("LogSoftmax", 1, (2, 333)), ("LayerNormalization", -1, (5, 1030)), ("ReduceMean", 1, (7, 4099)),
    ("ReduceMax", 1, (4, 129)), ("ReduceLogSumExp", 1, (2, 500))])
def test_rows_that_a_group_shares(op: str, axis: int, shape: tuple[int, int]) -> None:
    x, scale = value("x", "f32", *shape), value("s", "f32", shape[1])
    attrs = {"axes": [axis], "keepdims": 1} if op.startswith("Reduce") else {"axis": axis}
    what = Node(op, (x, scale) if op == "LayerNormalization" else (x,), (value("y", "f32", shape[0], 1 if "axes" in attrs else shape[1]),),
                MappingProxyType(attrs))
    made = planned(what)
    assert not isinstance(made, str), made
    assert made.plan.algo.endswith("_shared_64")
    assert isinstance(made.plan, GpuPlan)
    dice = np.random.default_rng(3)
    inputs = [dice.standard_normal(v.dims).astype(np.float32) for v in what.inputs if v is not None]
    exact = evaluate_node(what, [a.astype(np.float64) for a in inputs], precise=True)[0]
    found = Kernels([made.plan], 400_000).run(0, [*inputs, np.zeros(what.outputs[0].dims, np.float32)])[0].reshape(np.shape(exact))
    assert np.abs(found - exact).max() <= 2e-6 * np.abs(exact).max()


def test_how_work_is_shared_out() -> None:
    gpu = devices(find("rk3588"))["gpu"]

    def algo(op: str, shape: tuple[int, ...], weight: tuple[int, ...], result: tuple[int, ...], **attrs: Any) -> str:
        x, w, y = value("x", "f32", *shape), value("w", "f32", *weight), value("y", "f32", *result)
        made = plan(Node(op, (x, w), (y,), MappingProxyType(attrs)), gpu, Operands.of({w: np.zeros(weight)}, lambda v: v.tensor.view))
        return made if isinstance(made, str) else made.plan.algo

    window = {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1], "group": 1}
    assert algo("Conv", (1, 64, 112, 112), (64, 64, 3, 3), (1, 64, 112, 112), **window) == "conv_8x4"
    assert algo("Conv", (1, 64, 7, 7), (64, 64, 3, 3), (1, 64, 7, 7), **window) == "conv_1x4"          # few columns keep it busy
    assert algo("Conv", (1, 64, 56, 56), (64, 1, 3, 3), (1, 64, 56, 56), **{**window, "group": 64}) == "depthwise"
    assert algo("MatMul", (1, 1280), (1280, 1000), (1, 1000)) == "gemm_shared_8"
    assert algo("MatMul", (1, 64), (64, 10), (1, 10)) == "gemm_1x4"


def test_what_there_is_no_kernel_for() -> None:
    x, i, y = value("x", "f32", 4, 5), value("i", "i64", 3), value("y", "f32", 3, 5)
    assert planned(Node("Gather", (x, i), (y,))) == "no kernel of a GPU is written for Gather"
    assert planned(Node("BitShift", (value("a", "u32", 4), value("b", "u32", 4)), (value("y", "u32", 4),),
                        MappingProxyType({"direction": "LEFT"}))) == "BitShift is not written for GPUs"
    assert planned(Node("Neg", (value("a", "f64", 4),), (value("y", "f64", 4),))) == "no kernel of a GPU computes f64"
    assert planned(Node("Cast", (value("a", "f32", 4),), (value("y", "f16", 4),), MappingProxyType({"to": 10}))) == \
        "no kernel of a GPU computes f16"


GOLDEN = """\
/* depthwise */
INLINE f32 k_finish(f32 v0) {
  return v0;
}
KERNEL k(GLOBAL const u8* b0, u64 o0, GLOBAL const u8* b1, u64 o1, GLOBAL u8* b2, u64 o2) {
  GLOBAL const f32* p0 = (GLOBAL const f32*)(b0 + o0);
  GLOBAL const f32* p1 = (GLOBAL const f32*)(b1 + o1);
  GLOBAL f32* p2 = (GLOBAL f32*)(b2 + o2);
"""


def test_the_text_of_a_kernel() -> None:
    x, w, y = value("x", "f32", 1, 6, 8, 8), value("w", "f32", 6, 1, 3, 3), value("y", "f32", 1, 6, 8, 8)
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1], "group": 6}
    made = plan(Node("Conv", (x, w), (y,), MappingProxyType(window)), OPENCL, Operands.of({w: np.zeros(9)}, lambda v: v.tensor.view))
    assert not isinstance(made, str)
    assert isinstance(made.plan, GpuPlan)
    assert kernel(made.plan, "k").startswith(GOLDEN)
