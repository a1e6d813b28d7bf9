"""Where the shared models lie; tests that need them are skipped by name when they are absent."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("EDGEC_SHARED") or Path(__file__).resolve().parents[2] / "shared")
MODELS = sorted((SHARED / "models").glob("*.onnx"))

needs_models = pytest.mark.skipif(not MODELS, reason="no shared models: set EDGEC_SHARED to their folder")
