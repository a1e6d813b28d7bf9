"""Reductions and normalizations: every operator, layouts, vectors along and across rows, special values, against numpy."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.special

from edgec.ir.graph import Array
from edgec.ir.layout import Axis, Layout, View
from edgec.ir.types import dtype_name, numpy_dtype
from edgec.isa import Isa
from edgec.kernels.base import Epilogue, Load, broadcast
from edgec.kernels.expr import Expr, Instr
from edgec.kernels.reduce import ReducePlan, plan_reduce
from tests.kernel_harness import A72, AVX2, AVX512, ISAS, OPENCL, gathered, on, run, scatter, slow

pytestmark = pytest.mark.slow
HOST = next((p.values[0] for p in on(AVX512, AVX2) if not p.marks), AVX2)
NCHW16C, NCHW8C, NHWC = Layout((0, 1, 2, 3), ((1, 16),)), Layout((0, 1, 2, 3), ((1, 8),)), Layout((0, 2, 3, 1))
INF, NAN = math.inf, math.nan


def reduce(isa: Isa, op: str, x: Array, shape: Sequence[int], *params: Array, layout: Layout | None = None,  # noqa: PLR0913
           out_layout: Layout | None = None, out: str = "", prologue: Expr | None = None, others: Sequence[Array] = (),
           epilogue: Expr | None = None, extras: Sequence[Array] = (), **attrs: Any) -> Array:
    """Run one operator; `others` are further operands of the prologue, `extras` of the epilogue, all row-major and broadcast."""
    y_type = out or ("i64" if op.startswith("Arg") else dtype_name(x.dtype))
    x_views = [View.of(x.shape, layout), *(broadcast(View.of(o.shape), x.shape) for o in others)]
    p_views = [View.of(p.shape) for p in params]
    y_view = View.of(shape, out_layout)
    loads = tuple(Load(len(x_views) + len(p_views) + i, broadcast(View.of(e.shape), tuple(shape))) for i, e in enumerate(extras))
    dtypes = [*(dtype_name(a.dtype) for a in (x, *others, *params, *extras)), y_type]
    plan = plan_reduce(op, attrs, [*x_views, *p_views], y_view, dtypes, isa, prologue, Epilogue(epilogue, loads) if epilogue else None)
    assert isinstance(plan, ReducePlan), plan
    from edgec.kernels.emit.reduce import emit  # noqa: PLC0415
    flat = scatter(x, layout)[:plan.args[0].elements]
    outcome = run(plan, emit, [flat, *(a.reshape(-1) for a in (*others, *params, *extras))])
    assert outcome.code == 0
    return gathered(outcome.outputs[0], y_view)


def close(found: Array, expected: Array, tolerance: float = 2e-6) -> None:
    """Equal to within a part of the largest magnitude, NaN and infinities exactly."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    finite = np.isfinite(expected)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.array_equal(found[~finite & ~np.isnan(expected)], expected[~finite & ~np.isnan(expected)].astype(found.dtype))
    if finite.any():
        error = np.abs(found[finite].astype(np.float64) - expected[finite]).max() / max(1e-30, np.abs(expected[finite]).max())
        assert error <= tolerance, error


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


REFERENCE: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "ReduceSum": lambda x, a: x.sum(a, keepdims=True), "ReduceMean": lambda x, a: x.mean(a, keepdims=True),
    "ReduceMax": lambda x, a: x.max(a, keepdims=True), "ReduceMin": lambda x, a: x.min(a, keepdims=True),
    "ReduceProd": lambda x, a: x.prod(a, keepdims=True), "ReduceL1": lambda x, a: np.abs(x).sum(a, keepdims=True),
    "ReduceL2": lambda x, a: np.sqrt((x * x).sum(a, keepdims=True)), "ReduceSumSquare": lambda x, a: (x * x).sum(a, keepdims=True),
    "ReduceLogSum": lambda x, a: np.log(x.sum(a, keepdims=True)),
    "ReduceLogSumExp": lambda x, a: scipy.special.logsumexp(x, a, keepdims=True),
}


@pytest.mark.parametrize("isa", [*on(HOST, A72), *slow(OPENCL)])
@pytest.mark.parametrize("op", REFERENCE)
def test_reductions_over_any_axes(isa: Isa, op: str) -> None:
    x = np.abs(normal(2, 3, 5, 37)) * 0.5 + 0.2
    with np.errstate(all="ignore"):
        for axes in ((3,), (1,), (0, 2), (2, 3), (0, 1, 2, 3)) if isa == HOST else ((3,), (1, 2)):
            expected = REFERENCE[op](x.astype(np.float64), axes)
            close(reduce(isa, op, x, expected.shape, axes=axes), expected)
            dropped = expected.squeeze(axes)
            if dropped.ndim and isa == HOST:
                close(reduce(isa, op, x, dropped.shape, axes=axes, keepdims=0), dropped)


def test_without_axes_everything_is_reduced() -> None:
    x = normal(3, 4, 21)
    close(reduce(HOST, "ReduceSum", x, (1, 1, 1)), x.astype(np.float64).sum(keepdims=True))
    close(reduce(HOST, "ReduceSum", x, ()), x.astype(np.float64).sum())


@pytest.mark.parametrize("isa", [*ISAS, *slow(OPENCL)])
@pytest.mark.parametrize(("layout", "channels"), [(None, 5), (NHWC, 37), (NHWC, 150), (NCHW16C, 32), (NCHW8C, 24)])
def test_global_pooling_in_each_layout(isa: Isa, layout: Layout | None, channels: int) -> None:
    x = normal(2, channels, 7, 6)
    shape, mean = (2, channels, 1, 1), x.astype(np.float64).mean((2, 3), keepdims=True)
    for out_layout in {layout, None}:
        close(reduce(isa, "GlobalAveragePool", x, shape, layout=layout, out_layout=out_layout), mean)
    close(reduce(isa, "GlobalMaxPool", x, shape, layout=layout, out_layout=layout), x.max((2, 3), keepdims=True))


@pytest.mark.parametrize("layout", [NHWC, NCHW16C])
def test_axes_of_a_layout_that_is_not_row_major(layout: Layout) -> None:
    x = normal(2, 32, 5, 6)
    for axes in ((1,), (0, 1), (3,), (1, 2), (0, 1, 2, 3)):
        expected = x.astype(np.float64).sum(axes, keepdims=True)
        close(reduce(HOST, "ReduceSum", x, expected.shape, layout=layout, axes=axes), expected)


@pytest.mark.parametrize("dtype", ["i32", "i64", "i8", "u8", "f64", "f16"])
def test_dtypes(dtype: str) -> None:
    x = np.random.default_rng(4).integers(1 if dtype[0] == "u" else -9, 10, (3, 41)).astype(numpy_dtype(dtype))
    for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceSumSquare"):
        with np.errstate(all="ignore"):
            expected = REFERENCE[op](x.astype(np.int64), (1,)).astype(numpy_dtype(dtype))
        assert np.array_equal(reduce(HOST, op, x, (3, 1), axes=(1,)), expected), op
    assert isinstance(plan_reduce("ReduceMean", {"axes": (1,)}, [View.of((3, 4))], View.of((3, 1)), ["i32", "i32"], HOST), str)


@pytest.mark.parametrize("isa", [*ISAS, *slow(OPENCL)])
def test_nan_and_infinities(isa: Isa) -> None:
    """A NaN anywhere in a row makes its maximum, minimum, sum and softmax NaN, as in ONNX Runtime."""
    for n in (37, 5):
        x = normal(n + 3, n)
        x[np.arange(n), np.arange(n)] = NAN
        x[n, 2], x[n + 1, 3], x[n + 2, :] = INF, -INF, -INF
        with np.errstate(all="ignore"):
            for op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceLogSumExp"):
                close(reduce(isa, op, x, (n + 3, 1), axes=(1,)), REFERENCE[op](x.astype(np.float64), (1,)))
                close(reduce(isa, op, np.ascontiguousarray(x.T), (1, n + 3), axes=(0,)), REFERENCE[op](x.T.astype(np.float64), (0,)))
            close(reduce(isa, "Softmax", x, x.shape), scipy.special.softmax(x.astype(np.float64), 1))


@pytest.mark.parametrize("isa", [*ISAS, *slow(OPENCL)])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(isa: Isa, op: str) -> None:
    reference = {"Softmax": scipy.special.softmax, "LogSoftmax": scipy.special.log_softmax}[op]
    for shape, axis in (((6, 197), -1), ((3, 1000), 1), ((2, 3, 1), 1), ((40, 3), 1), ((5, 21, 37), 1), ((7, 19), 0)):
        x = normal(*shape) * 10
        close(reduce(isa, op, x, shape, axis=axis), reference(x.astype(np.float64), axis))
    if isa == HOST:
        x = normal(2, 32, 5, 6) * 100
        for layout in (NHWC, NCHW16C):
            for axis in (1, 3):
                close(reduce(isa, op, x, x.shape, layout=layout, out_layout=layout, axis=axis), reference(x.astype(np.float64), axis))
        close(reduce(isa, op, x, x.shape, layout=NHWC, axis=1), reference(x.astype(np.float64), 1))
        half = x.astype(np.float16)
        close(reduce(isa, op, half, x.shape, axis=1), reference(half.astype(np.float64), 1), 1e-3)


@pytest.mark.parametrize("isa", [*ISAS, *slow(OPENCL)])
def test_softmax_of_a_scaled_and_masked_row(isa: Isa) -> None:
    x, scale = normal(2, 3, 5, 37), np.full((1,), 0.125, np.float32)
    mask = np.where(normal(2, 1, 1, 37, seed=5) > 0, 0, -1e9).astype(np.float32)
    prologue = Expr(("f32", "f32", "f32"), (Instr("Mul", (0, 1)), Instr("Add", (3, 2))), (4,))
    exact = x.astype(np.float64) * 0.125 + mask
    expected = scipy.special.softmax(exact, -1)
    close(reduce(isa, "Softmax", x, x.shape, prologue=prologue, others=(scale, mask)), expected)
    close(reduce(isa, "Softmax", x, x.shape, prologue=prologue, others=(scale, mask), out="f16",
                 epilogue=Expr(("f32",), (Instr("Cast", (0,), (), "f16"),), (1,))), expected, 1e-3)
    close(reduce(isa, "LogSoftmax", x, x.shape, prologue=prologue, others=(scale, mask)),
          scipy.special.log_softmax(exact, -1))


def normalized(x: Array, axes: tuple[int, ...], scale: Array | float, bias: Array | float, eps: float = 1e-5) -> Array:
    x = x.astype(np.float64)
    made: Array = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps) * scale + bias
    return made


@pytest.mark.parametrize("isa", [*ISAS, *slow(OPENCL)])
def test_layer_normalization(isa: Isa) -> None:
    for shape, axis in (((3, 5, 384), -1), ((4, 37), 1), ((2, 6, 5), 1)):
        x, inner = normal(*shape) + 3, shape[axis:] if axis != -1 else shape[-1:]
        scale, bias = normal(*inner, seed=1), normal(*inner, seed=2)
        axes = tuple(range(len(shape) - len(inner), len(shape)))
        close(reduce(isa, "LayerNormalization", x, shape, scale, bias, axis=axis, epsilon=1e-3), normalized(x, axes, scale, bias, 1e-3))
        close(reduce(isa, "LayerNormalization", x, shape, scale, axis=axis), normalized(x, axes, scale, 0))
        rms = x.astype(np.float64) / np.sqrt((x.astype(np.float64) ** 2).mean(axes, keepdims=True) + 1e-5) * scale
        for op in ("RMSNormalization", "SimplifiedLayerNormalization"):
            close(reduce(isa, op, x, shape, scale, axis=axis), rms)


@pytest.mark.parametrize("isa", [*ISAS, *slow(OPENCL)])
def test_layer_normalization_of_a_sum(isa: Isa) -> None:
    """A residual before, an activation and another operand after."""
    x, y, z = normal(3, 5, 100), normal(3, 5, 100, seed=1), normal(3, 5, 1, seed=2)
    scale, bias = normal(100, seed=3), normal(100, seed=4)
    prologue = Expr(("f32", "f32"), (Instr("Add", (0, 1)),), (2,))
    epilogue = Expr(("f32", "f32"), (Instr("Relu", (0,)), Instr("Add", (2, 1))), (3,))
    found = reduce(isa, "LayerNormalization", x, x.shape, scale, bias, prologue=prologue, others=(y,), epilogue=epilogue, extras=(z,))
    close(found, np.maximum(normalized(x.astype(np.float64) + y, (2,), scale, bias), 0) + z)


@pytest.mark.parametrize("layout", [None, NHWC, NCHW16C])
@pytest.mark.parametrize("isa", [*on(HOST, A72), *slow(OPENCL)])
def test_instance_and_group_normalization(isa: Isa, layout: Layout | None) -> None:
    x, scale, bias = normal(2, 64, 5, 6) + 1, normal(64, seed=1), normal(64, seed=2)
    a, b = (p.reshape(1, 64, 1, 1) for p in (scale, bias))
    close(reduce(isa, "InstanceNormalization", x, x.shape, scale, bias, layout=layout, out_layout=layout), normalized(x, (2, 3), a, b))
    for groups in (2, 4):
        grouped = normalized(x.reshape(2, groups, -1), (2,), 1, 0).reshape(x.shape) * a + b
        close(reduce(isa, "GroupNormalization", x, x.shape, scale, bias, layout=layout, out_layout=layout, num_groups=groups), grouped)


def test_a_group_smaller_than_a_block_is_refused() -> None:
    view = View.of((1, 32, 4, 4), NCHW16C)
    one = View.of((32,))
    made = plan_reduce("GroupNormalization", {"num_groups": 4}, [view, one, one], view, ["f32"] * 4, HOST)
    assert made == "GroupNormalization over groups that split a block of the layout is not written"


@pytest.mark.parametrize("isa", [*on(HOST, A72), *slow(OPENCL)])
def test_lp_normalization(isa: Isa) -> None:
    x = normal(4, 19, 7)
    x[1, :, 2] = 0
    for axis, p in ((1, 1), (2, 2), (0, 2)):
        norm = np.linalg.norm(x.astype(np.float64), p, axis, keepdims=True)
        close(reduce(isa, "LpNormalization", x, x.shape, axis=axis, p=p), np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)))


@pytest.mark.parametrize("isa", [*on(HOST, A72), *slow(OPENCL)])
def test_cumulative_sums(isa: Isa) -> None:
    x = normal(4, 19, 7)
    for axis in (0, 1, 2):
        for exclusive, reverse in ((0, 0), (1, 0), (0, 1), (1, 1)):
            y = np.flip(x, axis) if reverse else x
            total = np.cumsum(y.astype(np.float64), axis)
            total = total - y if exclusive else total
            found = reduce(isa, "CumSum", x, x.shape, axis=axis, exclusive=exclusive, reverse=reverse)
            close(found, np.flip(total, axis) if reverse else total)
    assert np.array_equal(reduce(isa, "CumSum", np.arange(20), (20,), axis=0), np.cumsum(np.arange(20)))


@pytest.mark.parametrize("isa", [*on(HOST, A72), *slow(OPENCL)])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_arg_max_and_min(isa: Isa, op: str) -> None:
    pick = {"ArgMax": np.argmax, "ArgMin": np.argmin}[op]
    rng = np.random.default_rng(6)
    for shape, axis in (((5, 1000), 1), ((3, 21, 37), 1), ((40, 3), 1), ((3, 5, 7), 0), ((2, 5), 1)):
        ties = rng.integers(-3, 4, shape).astype(np.float32)
        for x in (ties, rng.standard_normal(shape).astype(np.float32), ties.astype(np.int32), np.full(shape, -INF, np.float32)):
            first = np.expand_dims(pick(x, axis), axis)
            assert np.array_equal(reduce(isa, op, x, first.shape, axis=axis), first)
            final = shape[axis] - 1 - np.expand_dims(pick(np.flip(x, axis), axis), axis)
            assert np.array_equal(reduce(isa, op, x, first.shape, axis=axis, select_last_index=1), final)
    x = rng.integers(0, 9, (2, 32, 3, 5)).astype(np.float32)
    for layout in (NHWC, NCHW16C):
        assert np.array_equal(reduce(isa, op, x, (2, 1, 3, 5), layout=layout, axis=1), np.expand_dims(pick(x, 1), 1))
    wide = reduce(isa, op, x, (2, 1, 3, 5), axis=1, out="i32", epilogue=Expr(("i64",), (Instr("Cast", (0,), (), "i32"),), (1,)))
    assert np.array_equal(wide, np.expand_dims(pick(x, 1), 1))


def test_epilogue_of_a_reduction() -> None:
    x, bias = normal(3, 40, 50), normal(3, 1, 50, seed=1)
    epilogue = Expr(("f32", "f32"), (Instr("Add", (0, 1)), Instr("Tanh", (2,))), (3,))
    row = bias.reshape(3, 50, 1)[:, :40].copy()
    for axis, shape, other in ((1, (3, 1, 50), bias), (2, (3, 40, 1), row)):
        expected = np.tanh(x.astype(np.float64).mean(axis, keepdims=True) + other)
        close(reduce(HOST, "ReduceMean", x, shape, axes=(axis,), epilogue=epilogue, extras=(other,)), expected)


def test_a_view_with_gaps() -> None:
    """Every second row of a larger tensor."""
    whole = normal(6, 40)
    view = View((Axis(3, 80), Axis(40, 1)))
    plan = plan_reduce("ReduceSum", {"axes": [-1]}, [view], View.of((3,)), ["f32", "f32"], HOST)
    assert isinstance(plan, ReducePlan)
    from edgec.kernels.emit.reduce import emit  # noqa: PLC0415
    close(run(plan, emit, [whole.reshape(-1)[:plan.args[0].elements]]).outputs[0], whole[::2].astype(np.float64).sum(1))


@pytest.mark.parametrize("isa", on(HOST, A72))
def test_the_harness_sees_an_access_outside(isa: Isa) -> None:
    """A plan that says one element less than it touches."""
    from edgec.kernels.emit.reduce import emit  # noqa: PLC0415
    x = normal(3, 40)
    plan = plan_reduce("Softmax", {}, [View.of(x.shape)], View.of(x.shape), ["f32", "f32"], isa)
    assert isinstance(plan, ReducePlan)
    for number in (0, 1):
        args = tuple(replace(a, elements=a.elements - 1) if i == number else a for i, a in enumerate(plan.args))
        with pytest.raises(AssertionError, match="crashed"):
            run(replace(plan, args=args), emit, [x.reshape(-1)[:args[0].elements]])


def test_vectors_lie_where_memory_is_contiguous() -> None:
    def choice(shape: tuple[int, ...], axes: tuple[int, ...], layout: Layout | None = None) -> str:
        out = tuple(1 if a in axes else n for a, n in enumerate(shape))
        plan = plan_reduce("ReduceSum", {"axes": axes}, [View.of(shape, layout)], View.of(out, layout), ["f32", "f32"], AVX512)
        return plan.algo if isinstance(plan, ReducePlan) else plan
    assert choice((8, 1000), (1,)) == "sum_along"
    assert choice((1000, 64), (0,)) == "sum_across_4"
    assert choice((1, 512, 7, 7), (2, 3), NCHW16C) == "sum_across_1"
    assert choice((1, 512, 7, 7), (2, 3)) == "sum_along"
    assert choice((100, 3), (1,)) == "sum_across_4"


def test_refusals() -> None:
    x, y = View.of((2, 3)), View.of((2, 1))
    assert plan_reduce("Conv", {}, [x], y, ["f32", "f32"], HOST) == "Conv is no reduction"
    assert plan_reduce("Softmax", {}, [x], x, ["i32", "i32"], HOST) == "Softmax is not written for i32"
    assert plan_reduce("ReduceSum", {"axes": (1,)}, [View.of((2, 0))], y, ["f32", "f32"], HOST) == "ReduceSum of nothing is not written"
    answer = plan_reduce("LayerNormalization", {}, [x, x], x, ["f32"] * 3, HOST)
    assert answer == "LayerNormalization needs a scale of the shape of the normalized axes"
