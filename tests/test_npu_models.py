"""Quantized models on boards with an Ethos-U: built by the one command, almost all of the arithmetic on the NPU, and what that computes."""

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec import cli
from edgec.build import build
from edgec.codegen.npu import tflite
from edgec.errors import DeviceError
from edgec.ir.evaluate import run as evaluate
from edgec.ir.graph import Array, Graph
from edgec.lang.text import load as load_text
from edgec.onnx_saturation import exact
from edgec.session import load
from tests import litert
from tests.litert import needs_litert
from tests.shared import SHARED, model, needs_models
from tests.test_vela import needs_vela

pytestmark = [needs_models, needs_vela]
needs_aarch64 = pytest.mark.skipif(platform.machine() != "aarch64" and not shutil.which("qemu-aarch64"), reason="no qemu-aarch64")
needs_board = pytest.mark.skipif(not shutil.which("qemu-system-arm") or not shutil.which("arm-none-eabi-gcc"),
                                 reason="qemu-system-arm and arm-none-eabi-gcc are not both installed")
KWS, MOBILENET = "mlperf_kws_dscnn_qdq_s8", "mobilenetv2_qdq_s8_nchw"


def made(name: str, board: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    path = build(model(name), board, folder / f"{name}.edgec", notes=[]).path
    return path, json.loads((path / "manifest.json").read_text())


@pytest.fixture(scope="module")
def kws(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return made(KWS, "imx93", tmp_path_factory.mktemp("kws"))


def share(manifest: dict[str, Any]) -> float:
    return float(sum(r["macs"] for r in manifest["npus"]["npu"]["regions"]) / manifest["report"]["macs"])


def bodies(path: Path, manifest: dict[str, Any]) -> list[Graph]:
    return [load_text(path / f"{manifest['c_name']}.npu.{r['number']}.edge") for r in manifest["npus"]["npu"]["regions"]]


def random(body: Graph, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.integers(-128, 128, v.dims, dtype=np.int8) for v in body.inputs]


def agrees_with_litert(body: Graph, seeds: int) -> bool:
    data = tflite.model(body)
    return all(all(np.array_equal(a, b) for a, b in zip(evaluate(body, x), litert.run_model(data, x), strict=True))
               for x in (random(body, s) for s in range(seeds)))


@needs_litert
def test_keyword_spotting_on_imx93(kws: tuple[Path, dict[str, Any]]) -> None:
    path, manifest = kws
    assert share(manifest) >= 0.95
    (region,) = manifest["npus"]["npu"]["regions"]
    assert 40_000 < region["figures"]["cycles"] < 80_000
    assert 0 < region["figures"]["sram_bytes"] <= 384 * 1024
    assert manifest["npus"]["npu"]["executed"] is False
    (body,) = bodies(path, manifest)
    assert agrees_with_litert(body, 50)
    with pytest.raises(DeviceError, match="can be executed nowhere but on the NPU itself"):
        load(path)


@needs_aarch64
def test_keyword_spotting_is_as_accurate_as_onnxruntime(kws: tuple[Path, dict[str, Any]]) -> None:
    import onnxruntime  # noqa: PLC0415  it takes long to load

    samples = SHARED / "models" / "data" / "kws01_mfcc.npz"
    if not samples.exists():
        pytest.skip(f"no {samples}")
    data = np.load(samples)
    x, y = (data[k] for k in data.files[:2])
    count = 100
    session, peer = load(kws[0], simulate_npu=True), onnxruntime.InferenceSession(exact(model(KWS)))
    (port,) = session.inputs
    ours, theirs = [], []
    for sample in x[:count]:
        image = sample.reshape(port.shape).astype(np.int8)
        ours.append(int(next(iter(session.run(image).values())).argmax()))
        theirs.append(int(peer.run(None, {port.name: image})[0].argmax()))
    labels = np.asarray(y[:count]).reshape(-1)
    assert abs((np.array(ours) == labels).mean() - (np.array(theirs) == labels).mean()) <= 0.01
    assert (np.array(ours) == np.array(theirs)).mean() >= 0.98


@needs_aarch64
def test_verify_runs_it_under_the_emulator(kws: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(kws[0]), "--model", str(model(KWS)), "--simulate-npu"]) == 0
    said = capsys.readouterr()
    assert "with the rounding of the NPU" in said.out
    assert "no NPU executed its commands" in said.err


@needs_board
@needs_litert
def test_keyword_spotting_on_corstone_320(tmp_path: Path) -> None:
    path, manifest = made(KWS, "corstone-320", tmp_path)
    assert manifest["target"]["cpu"] == "cortex-m85"
    assert share(manifest) >= 0.95
    assert manifest["npus"]["npu"]["accelerator"] == "ethos-u85-256"
    assert all(agrees_with_litert(body, 5) for body in bodies(path, manifest))
    session = load(path, simulate_npu=True, poison=True)
    (port,) = session.inputs
    rng = np.random.default_rng(1)
    seen = {next(iter(session.run(rng.integers(-128, 128, port.shape, dtype=np.int8)).values())).tobytes() for _ in range(5)}
    assert len(seen) > 1


@pytest.mark.slow
@needs_litert
def test_mobilenet_on_imx93(tmp_path: Path) -> None:
    path, manifest = made(MOBILENET, "imx93", tmp_path)
    assert share(manifest) >= 0.95
    assert sum(r["figures"]["cycles"] for r in manifest["npus"]["npu"]["regions"]) < 6_000_000
    assert all(agrees_with_litert(body, 2) for body in bodies(path, manifest))
