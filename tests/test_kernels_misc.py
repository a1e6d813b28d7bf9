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
from edgec.kernels.resize import ResizePlan, plan_resize
from tests.kernel_harness import A72, AVX2, AVX512, ISAS, gathered, on, run, scatter

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
