"""Bundles of real models for tests that look at what a build leaves behind: each is built once per process."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgec.build import build
from edgec.bundle import Bundle
from edgec.codegen import c_source
from edgec.ir.graph import Array
from edgec.samples import draw
from edgec.session import _port
from tests.scratch import scratch
from tests.shared import model

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ("digits_cnn", "digits_mobilenet", "digits_transformer", "digits_gru")
SMALL = ("mnist_opset8", "mlperf_kws_dscnn_fp32", "hand_keypoint_mlp")
"""Shared models that take a second to build."""
LARGER = ("resnet20_cifar10_fp32", "mlperf_vww_mbv1_fp32", "mobilenetv1_025_128_fp32", "mlperf_ad_autoencoder_fp32", "squeezenet_fp16",
          "super_resolution_dyn", "ultraface_rfb320", "selfie_segmentation", "ppocrv3_det", "yunet_n_dynamic", "minilm_l6_w16")
BOUND: Mapping[str, Mapping[str, Any]] = {
    "ppocrv3_det": {"shapes": {"x": (1, 3, 320, 320)}}, "yunet_n_dynamic": {"shapes": {"input": (1, 3, 320, 320)}},
    "minilm_l6_w16": {"dims": {"batch": 1, "length": 128}}}


def source(name: str) -> Path:
    """The ONNX file of an example, or of a shared model; the test is skipped when that is absent."""
    return ROOT / "examples" / "models" / f"{name}.onnx" if name in EXAMPLES else model(name)


@cache
def bundle(name: str, target: str = "host") -> Bundle:
    """A model built for a target. Tests must not change it."""
    return build(source(name), target, scratch("tests") / target / f"{name}.edgec", **BOUND.get(name, {}))


def feeds(made: Bundle, seed: int) -> dict[str, Array]:
    """Random inputs that the model takes."""
    ranges = {k: (int(low), int(high)) for k, (low, high) in made.manifest["input_ranges"].items()}
    return draw([_port(p) for p in made.manifest["inputs"]], seed, ranges)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def write_inputs(given: Mapping[str, Array], folder: Path) -> list[Path]:
    """The inputs as raw files, in the order of the interface."""
    paths = [folder / f"in{i}.bin" for i in range(len(given))]
    for path, array in zip(paths, given.values(), strict=True):
        array.tofile(path)
    return paths


def write_header(made: Bundle, folder: Path) -> None:
    """`model.h` for the programs in tests/programs: a model's own header, its names as MODEL(x), and the sizes of its ports."""
    name = made.manifest["c_name"]

    def ports(side: str) -> str:
        sizes = [(c_source.element_bytes(p["dtype"]), int(np.prod(p["shape"]))) for p in made.manifest[side]]
        return ", ".join(f"{{{size * count}, {size}}}" for size, count in sizes)

    (folder / "model.h").write_text(f'#include "{name}.h"\n#define MODEL(x) {name}_##x\n#define IN_PORTS {ports("inputs")}\n'
                                    f'#define OUT_PORTS {ports("outputs")}\n')
