"""Where the shared models lie; tests that need them are skipped by name when they are absent."""

import importlib.util
import os
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
