"""Machines on which ONNX Runtime's sums of bytes are not those of the ONNX standard.

On x86-64 without VNNI it multiplies u8 by i8 with VPMADDUBSW, which adds two products in 16 bits and saturates
(onnxruntime.ai, Quantize ONNX models, "When should I use U8S8?"). There, it is no reference for integers.
"""

import platform
from pathlib import Path

import pytest


def saturates() -> bool:
    """Whether this is such a machine."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf8") if Path("/proc/cpuinfo").exists() else ""
    return platform.machine() == "x86_64" and "avx512_vnni" not in flags and "avx_vnni" not in flags


onnx_runtime_is_exact = pytest.mark.skipif(saturates(), reason="without VNNI, ONNX Runtime saturates sums of bytes on this machine")
