"""Real models through the passes: what is left of them is what kernels know, and ONNX Runtime finds the same numbers."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from edgec.access import module
from edgec.ir.graph import Graph
from edgec.onnx import import_model
from edgec.pipeline import Context, run_passes
from edgec.testing import feeds
from tests.shared import SHARED, needs_models

ort = pytest.importorskip("onnxruntime")
PORTABLE, CATALOG = module("passes.catalog").PORTABLE, module("passes.catalog").CATALOG
BOUND: Mapping[str, Mapping[str, Any]] = {
    "mnist_opset8": {}, "squeezenet_fp32": {}, "resnet20_cifar10_fp32": {}, "mobilenetv1_025_128_fp32": {}, "mlperf_vww_mbv1_fp32": {},
    "mlperf_kws_dscnn_fp32": {}, "mlperf_ad_autoencoder_fp32": {}, "ultraface_rfb320": {}, "selfie_segmentation": {},
    "hand_keypoint_mlp": {},
    "crepe_tiny": {"dims": {"n": 1}}, "super_resolution_dyn": {"dims": {"batch_size": 1}}, "ppocrv3_det": {"shapes": {"x": [1, 3, 160,
        160]}},
    "yunet_n_dynamic": {"dims": {"batch": 1, "height": 320, "width": 320}}, "minilm_l6_w16": {"dims": {"batch": 1, "length": 128}},
}
GONE = {"BatchNormalization", "Dropout", "Identity", "Constant", "Shape", "Size", "ConstantOfShape", "Expand", "Squeeze", "Unsqueeze",
        "Flatten",
        "Split", "Range", "CastLike", "Sum", "Mean", "GroupNormalization", "InstanceNormalization", "LRN", "DepthToSpace", "Pow", "Where"}
LIGHT_TOO = {"Pow"}  # of LRN
QUICK, SLOW = ("squeezenet", "shufflenet"), ("resnet50", "densenet121", "inception_v1", "inception_v2", "vgg19", "zfnet512", "bvlc_alexnet")


def run(model: Any, given: Mapping[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # nobody else's folding
    options.log_severity_level = 4
    session = ort.InferenceSession(model if isinstance(model, bytes) else model.SerializeToString(), options)
    return list(session.run(None, {i.name: given[i.name] for i in session.get_inputs()}))


def images(given: dict[str, Any], seed: int) -> dict[str, Any]:
    """Inputs with low frequencies in all that looks like an image; masks that hide the end."""
    for name, array in given.items():
        if array.ndim == 4 and array.shape[3] in (1, 3):  # channels last, as their photos are: from 0 to 1
            n, h, w, c = array.shape
            given[name] = np.ascontiguousarray(0.5 + 0.2 * light().images((n, c, h, w), seed).transpose(0, 2, 3, 1))
        elif array.ndim == 4:
            given[name] = light().images(array.shape, seed)
        if "mask" in name:
            given[name] = (np.arange(array.shape[-1]) < array.shape[-1] // (seed + 1)).astype(array.dtype)[None]
    return given


def light() -> Any:
    sys.path.insert(0, str(SHARED / "models"))
    try:
        import light as made  # type: ignore[import-not-found]  # noqa: PLC0415  it lies with the models
    finally:
        sys.path.pop(0)
    return made


def check(before: Graph, original: Any, gone: set[str]) -> Graph:
    """Run all passes, and compare with the model that they began with."""
    notes = Context()
    after = run_passes(before, PORTABLE, CATALOG, notes)
    assert not {n.op for _, n in after.walk()} & gone
    first, second = (images(feeds(before, seed), seed) for seed in (1, 2))
    results, other, made = run(original, first), run(original, second), run(after.to_onnx(), first)
    for ref, another, result in zip(results, other, made, strict=True):
        spread = np.abs(ref.astype(np.float64) - another).max()
        assert spread > 0.01 * np.abs(ref).max()
        assert np.abs(result.astype(np.float64) - ref).max() <= 1e-4 * spread
    old, new = (sum(a.nbytes for a in g.weights.values()) for g in (before, after))
    assert new <= 1.02 * old
    return after


@needs_models
@pytest.mark.parametrize("name", BOUND)
def test_shared_models(name: str) -> None:
    path = SHARED / "models" / f"{name}.onnx"
    before = import_model(path, static=True, **BOUND[name])
    last = before.producer[before.outputs[0]]
    while last.op == "Reshape" and last.inputs[0] is not None:
        last = before.producer[last.inputs[0]]
    if last.op != "Sigmoid" or last.inputs[0] is None:
        check(before, path.read_bytes(), GONE)
        return
    cut = import_model(path, static=True, outputs=[last.inputs[0].name], **BOUND[name])  # a sigmoid of random images says 0, always
    check(cut, cut.to_onnx(), GONE)


@needs_models
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_light_models(name: str) -> None:
    model = light().light(name)
    after = check(import_model(model, static=True), model, GONE - LIGHT_TOO)
    if name == "resnet50":
        found = [n.op for n in after.nodes]
        assert (found.count("Conv"), found.count("Gemm"), found.count("MaxPool") + found.count("AveragePool")) == (53, 1, 2)
        assert not set(found) - {"Conv", "Gemm", "MaxPool", "AveragePool", "Relu", "Add", "Reshape"}
