"""What tests need from outside, shared models and tools: those that miss one are skipped, and say which."""

import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("EDGEC_SHARED") or Path(__file__).resolve().parents[2] / "shared")
MODELS = sorted((SHARED / "models").glob("*.onnx"))

needs_models = pytest.mark.skipif(not MODELS, reason="no shared models: set EDGEC_SHARED to their folder")


def model(name: str) -> Path:
    """The file of a shared model; the test is skipped when it is absent."""
    path = SHARED / "models" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"no shared model {name}: set EDGEC_SHARED to the folder that has it")
    return path


def light(name: str, seed: int = 0) -> Any:
    """The ModelProto of light_<name> with weights that make its outputs depend on its inputs; skipped when its maker is absent."""
    path = SHARED / "models" / "light.py"
    if not path.exists():
        pytest.skip(f"no {path}: set EDGEC_SHARED to the folder that has it")
    spec = importlib.util.spec_from_file_location("light", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.light(name, seed)


def sanitizing(compiler: str) -> str:
    """A compiler that links programs with sanitizers; the test is skipped without it, or when clang lacks its library of them."""
    path = shutil.which(compiler) or pytest.skip(f"needs {compiler}")
    if "clang" in compiler:
        library = f"libclang_rt.asan-{platform.machine()}.a"
        found = subprocess.run([path, f"--print-file-name={library}"], capture_output=True, text=True, check=True).stdout.strip()
        if not Path(found).is_absolute():
            pytest.skip(f"{compiler} has no {library} (Debian package libclang-rt-dev)")
    return path
