"""The examples do what they say; examples/run.sh itself is run by tests/run.sh."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import edgec

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
MODELS = EXAMPLES / "models"
NAMES = ("digits_cnn", "digits_mobilenet")
STRICT = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"there is no {tool}")
    return found


def digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(MODELS / "digits_test.npz") as data:
        return data["images"], data["labels"]


@pytest.fixture(scope="module", params=["host", "cortex-a72"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both bundles for a target, and some held-out digits as raw bytes: few where an emulator starts anew for each."""
    made = tmp_path_factory.mktemp(request.param)
    for name in NAMES:
        edgec.build(MODELS / f"{name}.onnx", target=request.param, output=made / f"{name}.edgec")
    images, labels = digits()
    count = 200 if request.param == "host" else 40
    images[:count].tofile(made / "images.u8")
    labels[:count].tofile(made / "labels.u8")
    return made


def counted(folder: Path) -> dict[str, int]:
    """How many images each model, and both together, classify right, by edgec's own Session."""
    images, labels = digits()
    labels = labels[:(folder / "labels.u8").stat().st_size // labels.itemsize]
    inputs = images[:len(labels)].astype(np.float32) / 255
    sessions = [edgec.load(folder / f"{name}.edgec") for name in NAMES]
    logits = np.array([[session.run(image[None])["logits"][0] for image in inputs] for session in sessions])
    right = (np.concatenate([logits, logits.sum(0, keepdims=True)]).argmax(2) == labels).sum(1)
    return dict(zip((*NAMES, "both", "of"), (*map(int, right), len(labels)), strict=True))


def printed(text: str) -> dict[str, int]:
    return {name: int(count) for name, count in (line.split() for line in text.splitlines())}


def emulator(folder: Path) -> list[str]:
    return [] if folder.name.startswith("host") else [needs("qemu-aarch64"), "-cpu", "cortex-a72"]


def compilers(folder: Path) -> Sequence[str]:
    return ("g++", "clang++") if folder.name.startswith("host") else ("aarch64-linux-gnu-g++",)


def test_two_models_in_one_program(folder: Path) -> None:
    emulated, expected = emulator(folder), counted(folder)
    static = ["-static"] if emulated else []
    parts = [f"{name}.edgec/{name}{end}" for name in NAMES for end in (".o", "_weights.S")]
    includes = [f"-I{name}.edgec" for name in NAMES]
    for compiler in compilers(folder):
        run(needs(compiler), *STRICT, *static, *includes, "-o", compiler, EXAMPLES / "cpp" / "main.cpp", *parts, "-lm", cwd=folder)
        assert printed(run(*emulated, folder / compiler, "images.u8", "labels.u8", cwd=folder)) == expected
    assert expected["both"] > 0.85 * expected["of"]


@pytest.mark.parametrize("folder", ["host"], indirect=True)
def test_the_cmake_project_builds_and_runs(folder: Path) -> None:
    cmake = needs("cmake")
    run(cmake, "-S", EXAMPLES / "cpp", "-B", folder / "cmake", f"-DBUNDLES={folder}")
    run(cmake, "--build", folder / "cmake")
    assert printed(run(folder / "cmake" / "two_models", "images.u8", "labels.u8", cwd=folder)) == counted(folder)


def test_quickstart() -> None:
    lines = run(sys.executable, EXAMPLES / "quickstart.py").splitlines()
    labels, guesses = (line.split()[1:] for line in lines[-2:])
    assert len(labels) == len(guesses) == 10
    assert sum(a == b for a, b in zip(labels, guesses, strict=True)) >= 8


@pytest.mark.parametrize("name", [*NAMES, "digits_transformer"])
def test_a_bundle_is_as_accurate_as_onnx_runtime(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = MODELS / f"{name}.onnx"
    edgec.build(model, output=tmp_path / "bundle")
    lines = run(sys.executable, EXAMPLES / "accuracy.py", tmp_path / "bundle", model, MODELS / "digits_test.npz").splitlines()
    ours, theirs = (float(re.search(r"([\d.]+)%", line)[1]) for line in lines)  # type: ignore[index]
    assert ours == pytest.approx(theirs, abs=0.2)


@pytest.mark.parametrize("model", sorted(MODELS.glob("*.onnx")), ids=lambda p: p.stem)
def test_the_models_are_as_accurate_as_their_readme_says(model: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    row = next(line for line in (MODELS / "README.md").read_text().splitlines() if line.startswith(f"| `{model.name}`"))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images, labels = digits()
    right = (session.run(None, {"image": images.astype(np.float32) / 255})[0].argmax(1) == labels).mean()
    said = float(row.split("|")[-2].strip(" %")) / 100
    assert right == pytest.approx(said, abs=0.002)
    assert model.stat().st_size < 1_000_000
