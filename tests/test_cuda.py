"""CUDA: the driver and the kernels of whole models, on a GPU where there is one, and on a CPU that plays one everywhere else.

The mock is libcuda.so.1 as far as the driver needs it, compiled together with the very text that nvcc gets.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.bundle import Bundle
from edgec.codegen import cuda
from edgec.codegen.runtime import units
from edgec.errors import ToolMissing, UsageError
from tests.bundles import feeds, source
from tests.shared import light
from tests.split import Where, build, error
from tests.test_split import everything, thirds

PROGRAMS = Path(__file__).parent / "programs"
needs_gxx = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")


def devices() -> int:
    """How many GPUs CUDA knows here."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int32()
    return count.value if library.cuInit(0) == 0 and library.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


needs_gpu = pytest.mark.skipif(not devices() or cuda.compiler() is None, reason="no GPU that CUDA knows is at hand, or no nvcc")


def mock(bundle: Bundle, folder: Path) -> dict[str, str]:
    """The environment in which this bundle finds a libcuda.so.1 that runs its kernels on the CPU."""
    text = (bundle.path / "split.gpu.cu").read_text()
    rows, functions = [], []
    for symbol, parameters, body in re.findall(r"KERNEL (\w+)\(([^)]*)\) \{(.*?)\n\}", text, re.DOTALL):
        values = [f"({'u8*' if i % 2 == 0 else 'u64'})*(u64*)p[{i}]" for i in range(parameters.count(",") + 1)]
        functions.append(f"static void run_{symbol}(void** p) {{ {symbol}({', '.join(values)}); }}")
        rows.append(f'  {{"{symbol}", run_{symbol}, {str("BARRIER" in body).lower()}}},')
    (folder / "kernels.inc").write_text("\n".join([*functions, "static const kernel kernels[] = {", *rows, "};\n"]))
    (folder / "kernels.cu").write_text(text)
    subprocess.run(["g++", "-O1", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-I", PROGRAMS, "-I", ".",
                    PROGRAMS / "cuda_mock.cpp", "-o", "libcuda.so.1", "-lpthread"], cwd=folder, check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


RUN = """
import sys, numpy as np
from edgec.session import load
session = load(sys.argv[1], poison=True)
for i in range(int(sys.argv[2])):
    np.savez(f"{sys.argv[3]}/y{i}.npz", **session.run(dict(np.load(f"{sys.argv[3]}/x{i}.npz"))))
"""


def check(model: Any, reference: Any, made: Bundle, folder: Path, env: dict[str, str]) -> None:
    """Three poisoned runs in another process, against ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(reference, providers=["CPUExecutionProvider"])
    names, given = [o.name for o in session.get_outputs()], [feeds(made, seed) for seed in range(3)]
    wanted = [dict(zip(names, session.run(None, x), strict=True)) for x in given]
    for i, x in enumerate(given):
        np.savez(folder / f"x{i}.npz", **x)                    # type: ignore[arg-type] # names of inputs, no flags
    subprocess.run([sys.executable, "-c", RUN, made.path, "3", folder], env=env, check=True)
    for i in range(3):
        assert error(dict(np.load(folder / f"y{i}.npz")), wanted[i], wanted[i - 1]) <= 1e-4


@pytest.fixture
def without_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code that no machine runs, so that nvcc is not needed."""
    monkeypatch.setattr("edgec.codegen.units.cubin", lambda *_: b"\x7fELF")


@needs_gxx
@pytest.mark.usefixtures("without_nvcc")
@pytest.mark.parametrize(("name", "where"), [("mlperf_kws_dscnn_fp32", thirds), ("digits_transformer", everything)])
def test_models_on_a_cpu_that_plays_a_gpu(name: str, where: Where, tmp_path: Path) -> None:
    made = build(source(name), where, tmp_path, "desktop-cuda")
    check(name, source(name), made, tmp_path, mock(made, tmp_path))


@needs_gxx
@pytest.mark.slow
@pytest.mark.usefixtures("without_nvcc")
@pytest.mark.parametrize("name", ["squeezenet_fp32", "resnet20_cifar10_fp32", "mobilenetv1_025_128_fp32", "squeezenet_fp16"])
def test_more_models_on_a_cpu_that_plays_a_gpu(name: str, tmp_path: Path) -> None:
    made = build(source(name), everything, tmp_path, "desktop-cuda")
    check(name, source(name), made, tmp_path, mock(made, tmp_path))


@needs_gpu
@pytest.mark.parametrize("name", ["squeezenet_fp32", "light_resnet50", "mlperf_kws_dscnn_fp32", "digits_transformer"])
def test_models_on_a_gpu(name: str, tmp_path: Path) -> None:
    model = light("resnet50").SerializeToString() if name == "light_resnet50" else source(name)
    made = build(model, everything, tmp_path, "desktop-cuda")
    check(name, model, made, tmp_path, dict(os.environ))


@needs_gxx
@pytest.mark.usefixtures("without_nvcc")
def test_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build(source("digits_cnn"), thirds, tmp_path, "desktop-cuda")
    env = mock(made, tmp_path)

    def said(**more: str) -> str:
        command = [sys.executable, "-m", "edgec", "run", str(made.path), "--json"]
        done = subprocess.run(command, env={**env, **more}, capture_output=True, text=True, check=False)
        assert done.returncode == 6, done.stderr
        return done.stderr

    assert "the unit gpu cannot be used: CUDA knows no device on this machine" in said(MOCK_NO_DEVICE="1")
    assert "CUDA knows no device with the number that EDGEC_CUDA_DEVICE says" in said(EDGEC_CUDA_DEVICE="7")
    monkeypatch.setitem(units.LIBRARIES, "cuda", ("libNoSuchLibrary.so.1",))
    with pytest.raises(ToolMissing, match=r"the unit gpu needs libNoSuchLibrary.so.1, which is not on this machine; install it with"):
        made.load()


def test_without_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgec.codegen.cuda.compiler", lambda: None)
    with pytest.raises(ToolMissing, match="nvcc, which makes machine code of CUDA kernels, was not found"):
        build(source("digits_cnn"), thirds, tmp_path, "jetson-orin")
    assert not list(tmp_path.iterdir())


def test_an_architecture_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.codegen.cuda.compiler", lambda: "nvcc")
    with pytest.raises(UsageError, match='a CUDA GPU needs a fact `arch` such as "sm_87", not gfx90a'):
        cuda.cubin("", "gfx90a")
