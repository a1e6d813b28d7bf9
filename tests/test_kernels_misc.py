"""Resize and the kernels that index by data, against ONNX Runtime and numpy."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx.helper as make
import pytest

from edgec.ir.graph import Array
from edgec.ir.layout import Layout, View
from edgec.ir.types import dtype_name
from edgec.isa import Isa
from edgec.kernels.base import Epilogue, Load, broadcast
from edgec.kernels.expr import Expr, Instr
from edgec.kernels.gather import GatherPlan, plan_gather, plan_scatter
from edgec.kernels.resize import ResizePlan, plan_resize
from tests.kernel_harness import A72, AVX2, AVX512, ISAS, Outcome, gathered, on, run, scatter

pytestmark = pytest.mark.slow
HOST = next((p.values[0] for p in on(AVX512, AVX2) if not p.marks), AVX2)
NCHW16C, NHWC = Layout((0, 1, 2, 3), ((1, 16),)), Layout((0, 2, 3, 1))
LAYOUTS = (None, NHWC, NCHW16C)


def runtime(op: str, inputs: Sequence[Array | None], **attrs: Any) -> Array:
    """What ONNX Runtime answers."""
    ort = pytest.importorskip("onnxruntime")
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    given = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
    node = make.make_node(op, names, ["y"], **attrs)
    types = {n: make.np_dtype_to_tensor_dtype(a.dtype) for n, a in given.items()}
    graph = make.make_graph([node], "g", [make.make_tensor_value_info(n, types[n], a.shape) for n, a in given.items()],
                            [make.make_tensor_value_info("y", types[names[0]], None)])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 19)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answer: Array = session.run(None, given)[0]
    return answer


def resize(isa: Isa, x: Array, shape: Sequence[int], scales: Sequence[float] | None, *, layout: Layout | None = None,
           epilogue: Expr | None = None, extra: Array | None = None, roi: Sequence[float] | None = None, **attrs: Any) -> Array:
    loads = (Load(1, broadcast(View.of(extra.shape), tuple(shape))),) if extra is not None else ()
    out = View.of(shape, layout)
    dtypes = [dtype_name(x.dtype), *([dtype_name(extra.dtype)] if extra is not None else []), dtype_name(x.dtype)]
    plan = plan_resize(attrs, scales, View.of(x.shape, layout), out, dtypes, isa, Epilogue(epilogue, loads) if epilogue else None, roi)
    assert isinstance(plan, ResizePlan), plan
    from edgec.kernels.emit.resize import emit  # noqa: PLC0415
    outcome = run(plan, emit, [scatter(x, layout), *([extra] if extra is not None else [])])
    assert outcome.code == 0
    return gathered(outcome.outputs[0], out)


def image(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


SIZES = ((7, 9, 14, 18), (7, 9, 19, 22), (14, 18, 7, 6), (5, 6, 5, 13), (4, 4, 1, 1), (1, 3, 4, 9), (8, 8, 32, 32))


def agree(isa: Isa, x: Array, shape: Sequence[int], layout: Layout | None = None, tolerance: float = 1e-5, **attrs: Any) -> None:
    expected = runtime("Resize", [x, None, None, np.array(shape, np.int64)], **attrs)
    found = resize(isa, x, shape, None, layout=layout, **attrs)
    assert np.abs(found - expected).max() <= tolerance, (shape, attrs)


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"])
def test_nearest_chooses_as_onnx_runtime(coordinates: str, nearest: str) -> None:
    for h, w, oh, ow in SIZES:
        if (coordinates, nearest, ow) == ("half_pixel_symmetric", "floor", 6):
            continue                                                   # 0.5 / (1/3) - 0.5: ONNX Runtime comes out just below 1
        agree(HOST, image(1, 3, h, w), (1, 3, oh, ow), tolerance=0, mode="nearest", coordinate_transformation_mode=coordinates,
              nearest_mode=nearest)


@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation(mode: str, coordinates: str) -> None:
    for h, w, oh, ow in SIZES:
        agree(HOST, image(1, 3, h, w), (1, 3, oh, ow), mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout(isa: Isa, layout: Layout | None) -> None:
    x = image(2, 48, 5, 7)
    for mode in ("nearest", "linear", "cubic"):
        agree(isa, x, (2, 48, 10, 14), layout, mode=mode, coordinate_transformation_mode="half_pixel")
        agree(isa, x, (2, 48, 8, 7), layout, mode=mode, coordinate_transformation_mode="align_corners")
    odd = image(1, 37, 5, 7)
    if layout is not NCHW16C:
        agree(isa, odd, (1, 37, 9, 20), layout, mode="linear", coordinate_transformation_mode="half_pixel")


def test_cubic_without_what_lies_outside() -> None:
    for exclude, a in itertools.product((0, 1), (-0.75, -0.5)):
        agree(HOST, image(1, 2, 5, 6), (1, 2, 11, 9), mode="cubic", cubic_coeff_a=a, exclude_outside=exclude)


def test_given_scales_are_used_as_they_are() -> None:
    """3 * 2.6 is 7 after rounding down; the positions come from 2.6, not from 7/3."""
    x = image(1, 2, 3, 5)
    scales = np.array([1, 1, 2.6, 1.7], np.float32)
    for mode in ("nearest", "linear"):
        attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
        expected = runtime("Resize", [x, None, scales], **attrs)
        found = resize(HOST, x, expected.shape, tuple(float(s) for s in scales), **attrs)
        assert expected.shape == (1, 2, 7, 8)
        assert np.abs(found - expected).max() <= 1e-6


def test_a_region() -> None:
    x = image(1, 3, 6, 7)
    roi = (0, 0, 0.2, -0.1, 1, 1, 0.7, 0.9)
    for mode, size in itertools.product(("nearest", "linear"), ((5, 9), (1, 4))):
        attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 2.5}
        expected = runtime("Resize", [x, np.array(roi, np.float32), None, np.array((1, 3, *size), np.int64)], **attrs)
        for layout in (None, NHWC):
            assert np.abs(resize(HOST, x, (1, 3, *size), None, layout=layout, roi=roi, **attrs) - expected).max() <= 1e-5


@pytest.mark.parametrize("isa", on(HOST, A72))
def test_any_number_of_axes(isa: Isa) -> None:
    agree(isa, image(2, 3, 9), (2, 3, 20), mode="linear")
    agree(isa, image(2, 3, 4, 5, 6), (2, 3, 8, 5, 13), mode="nearest")
    agree(isa, image(1, 1, 4, 5, 6), (1, 1, 7, 6, 9), mode="linear")
    agree(isa, image(4, 6), (6, 9), mode="nearest")
    assert np.array_equal(resize(isa, image(4, 6, 5), (8, 6, 5), (2, 1, 1), mode="nearest", coordinate_transformation_mode="asymmetric",
                                 nearest_mode="floor"), np.repeat(image(4, 6, 5), 2, 0))


def test_dtypes_and_epilogue() -> None:
    for dtype in (np.uint8, np.int64, np.float16, np.float64, np.bool_):
        x = (np.random.default_rng(1).random((1, 20, 3, 4)) * 100).astype(dtype)
        for layout in (None, NHWC):
            found = resize(HOST, x, (1, 20, 6, 8), None, layout=layout, mode="nearest", coordinate_transformation_mode="asymmetric")
            assert np.array_equal(found, x.repeat(2, 2).repeat(2, 3))
    x, other = image(1, 20, 4, 4), image(1, 20, 1, 1)
    plain = resize(HOST, x, (1, 20, 9, 8), None, mode="linear")
    expr = Expr(("f32", "f32"), (Instr("Add", (0, 1)), Instr("Relu", (2,))), (3,))
    for layout in (None, NHWC):
        found = resize(HOST, x, (1, 20, 9, 8), None, layout=layout, mode="linear", epilogue=expr, extra=other)
        assert np.abs(found - np.maximum(plain + other, 0)).max() < 1e-6


def test_refusals_of_resize() -> None:
    x, y = View.of((1, 2, 3, 4)), View.of((1, 2, 6, 8))
    blocked = View.of((1, 32, 3, 4), NCHW16C), View.of((1, 64, 3, 4), NCHW16C)
    assert plan_resize({"antialias": 1, "mode": "linear"}, None, x, y, ["f32", "f32"], HOST) == "Resize is not written for antialias"
    assert plan_resize({"mode": "linear"}, None, x, y, ["u8", "u8"], HOST) == "Resize with linear interpolation is not written for u8"
    assert plan_resize({}, None, *blocked, ["f32", "f32"], HOST) == "Resize of an axis that the layout blocks is not written"
    assert plan_resize({}, None, x, x, ["f32", "f32"], HOST) == "nothing is resized"


def index(isa: Isa, op: str, inputs: Sequence[Array], shape: Sequence[int], *, layout: Layout | None = None,
          out_layout: Layout | None = None, epilogue: Expr | None = None, extra: Array | None = None,
          **attrs: Any) -> tuple[Outcome, Array]:
    """Run Gather… or Scatter…; `layout` is that of the data."""
    views = [View.of(a.shape, layout if i == 0 else None) for i, a in enumerate(inputs)]
    out = View.of(shape, out_layout)
    given = [scatter(a, layout if i == 0 else None) for i, a in enumerate(inputs)]
    dtypes = [dtype_name(a.dtype) for a in inputs]
    if op.startswith("Scatter"):
        plan = plan_scatter(op, attrs, views, out, [*dtypes, dtypes[0]], isa)
    else:
        loads = (Load(2, broadcast(View.of(extra.shape), tuple(shape))),) if extra is not None else ()
        if extra is not None:
            given.append(extra)
            dtypes.append(dtype_name(extra.dtype))
        plan = plan_gather(op, attrs, views, out, [*dtypes, dtypes[0]], isa, Epilogue(epilogue, loads) if epilogue else None)
    assert isinstance(plan, GatherPlan), plan
    from edgec.kernels.emit.gather import emit  # noqa: PLC0415
    outcome = run(plan, emit, given)
    return outcome, gathered(outcome.outputs[0], out)


@pytest.mark.parametrize("isa", ISAS)
def test_gather(isa: Isa) -> None:
    rng = np.random.default_rng(2)
    for shape, axis, indices in (((50, 37), 0, (3, 5)), ((4, 9, 20), 1, (6,)), ((4, 9, 20), 2, (2, 3)), ((7, 5), 1, ()), ((9,), 0, (2, 2))):
        for dtype, kind in ((np.float32, np.int64), (np.int64, np.int32), (np.float16, np.int64), (np.bool_, np.int64)):
            data = (rng.random(shape) * 9).astype(dtype)
            at = rng.integers(-shape[axis], shape[axis], indices).astype(kind)
            expected = np.take(data, at.astype(np.int64) % shape[axis], axis)
            outcome, found = index(isa, "Gather", [data, at], expected.shape, axis=axis)
            assert outcome.code == 0
            assert np.array_equal(found, expected)


def test_gather_in_other_layouts() -> None:
    x = image(2, 32, 5, 6)
    for axis, at in ((0, np.array([1, 0, 1])), (2, np.array([4, -1])), (3, np.array(2))):
        expected = np.take(x, at, axis)
        for layout in (NHWC, NCHW16C):
            outcome, found = index(HOST, "Gather", [x, at], expected.shape, layout=layout, axis=axis)
            assert outcome.code == 0
            assert np.array_equal(found, expected)
    expected = np.take(x, [3, 3, 30], 1)
    found = index(HOST, "Gather", [x, np.array([3, 3, 30])], expected.shape, layout=NHWC, out_layout=NHWC, axis=1)[1]
    assert np.array_equal(found, expected)
    views = [View.of(x.shape, NCHW16C), View.of((3,))]
    blocked = plan_gather("Gather", {"axis": 1}, views, View.of((2, 3, 5, 6)), ["f32", "i64", "f32"], HOST)
    assert blocked == "Gather along an axis that the layout blocks is not written"


def test_gather_with_an_epilogue() -> None:
    table, at, position = image(50, 37), np.array([[3, -1, 7]]), image(1, 3, 37)
    expr = Expr(("f32", "f32"), (Instr("Add", (0, 1)), Instr("Tanh", (2,))), (3,))
    found = index(HOST, "Gather", [table, at], (1, 3, 37), epilogue=expr, extra=position)[1]
    assert np.abs(found - np.tanh(table[at] + position)).max() < 1e-6


@pytest.mark.parametrize("isa", ISAS)
def test_gather_elements_and_gather_nd(isa: Isa) -> None:
    rng = np.random.default_rng(3)
    data = rng.standard_normal((5, 6, 7)).astype(np.float32)
    for axis in (0, 1, 2):
        shape = [4, 5, 6]
        at = rng.integers(-data.shape[axis], data.shape[axis], shape)
        expected = runtime("GatherElements", [data, at], axis=axis)
        assert np.array_equal(index(isa, "GatherElements", [data, at], shape, axis=axis)[1], expected)
    for batch, width, prefix in ((0, 1, (3,)), (0, 2, (2, 3)), (0, 3, (4,)), (1, 1, (5, 2)), (2, 1, (5, 6, 3))):
        at = np.stack([rng.integers(-data.shape[batch + j], data.shape[batch + j], prefix) for j in range(width)], -1)
        expected = runtime("GatherND", [data, at], batch_dims=batch)
        assert np.array_equal(index(isa, "GatherND", [data, at], expected.shape, batch_dims=batch)[1], expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter(isa: Isa, reduction: str) -> None:
    rng = np.random.default_rng(4)
    data = rng.standard_normal((5, 6, 20)).astype(np.float32)
    for axis in (0, 1, 2):
        at = rng.integers(-data.shape[axis], data.shape[axis], (4, 5, 17))
        if reduction == "none":                                        # each place once: the order of updates is not defined
            at = np.argsort(rng.random((5, 6, 20)), axis)[:4, :5, :17]
        updates = rng.standard_normal((4, 5, 17)).astype(np.float32)
        expected = runtime("ScatterElements", [data, at, updates], axis=axis, reduction=reduction)
        found = index(isa, "ScatterElements", [data, at, updates], data.shape, axis=axis, reduction=reduction)[1]
        assert np.abs(found - expected).max() < 1e-6
    for width, prefix in ((1, (3,)), (2, (2, 3)), (3, (4,))):
        places = int(np.prod(data.shape[:width]))
        flat = rng.choice(places, int(np.prod(prefix)), replace=reduction != "none").reshape(prefix)
        at = np.stack(np.unravel_index(flat, data.shape[:width]), -1)
        at = np.where(rng.random(at.shape) < 0.5, at, at - np.array(data.shape[:width]))
        updates = rng.standard_normal((*prefix, *data.shape[width:])).astype(np.float32)
        expected = runtime("ScatterND", [data, at, updates], reduction=reduction)
        assert np.abs(index(isa, "ScatterND", [data, at, updates], data.shape, reduction=reduction)[1] - expected).max() < 1e-6


@pytest.mark.parametrize("isa", ISAS)
def test_an_index_outside_is_an_error_and_nothing_is_touched(isa: Isa) -> None:
    """The operands lie between guard pages: a wild read or write would crash."""
    data, wild = image(5, 37), 2**40
    for bad in (5, -6, wild, -wild, np.iinfo(np.int64).min):
        for place in (0, 2):
            at = np.array([1, 2, 3])
            at[place] = bad
            assert index(isa, "Gather", [data, at], (3, 37), axis=0)[0].code == -1
            assert index(isa, "GatherND", [data, at.reshape(3, 1)], (3, 37))[0].code == -1
            assert index(isa, "ScatterND", [data, at.reshape(3, 1), image(3, 37)], data.shape)[0].code == -1
            wide = np.ones((5, 37), np.int64)
            wide[4, 36 - place] = bad
            assert index(isa, "GatherElements", [data, wide], (5, 37), axis=0)[0].code == -1


def test_refusals_of_indexing() -> None:
    x, i = View.of((4, 5)), View.of((2,))
    assert plan_gather("Gather", {}, [x, i], View.of((2, 5)), ["f32", "f32", "f32"], HOST) == "Gather needs indices of i32 or i64, not f32"
    assert plan_gather("Gather", {}, [x, i], View.of((2, 5)), ["string", "i64", "string"], HOST) == "Gather is not written for string"
    views = [x, View.of((2, 1)), View.of((2, 5))]
    answer = plan_scatter("ScatterND", {"reduction": "add"}, views, x, ["bool", "i64", "bool", "bool"], HOST)
    assert answer == "ScatterND of bool is not written for reduction add"
