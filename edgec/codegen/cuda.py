"""CUDA C++ to machine code of a GPU, by NVIDIA's compiler: it needs no GPU, and its output depends on text and architecture alone."""

import os
import shutil
import tempfile
from pathlib import Path

from edgec.codegen.toolchain import run
from edgec.errors import ToolMissing, UsageError

INSTALL = "apt install nvidia-cuda-toolkit"
_PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin")


def compiler() -> str | None:
    """Where nvcc is: in PATH, in CUDA_HOME, or where its installer puts it."""
    home = os.environ.get("CUDA_HOME")
    folders = (*([f"{home}/bin"] if home else ()), *_PLACES)
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(folders))


def cubin(source: str, arch: str) -> bytes:
    """The machine code of a program for an architecture such as sm_87."""
    nvcc = compiler()
    if nvcc is None:
        raise ToolMissing("nvcc, which makes machine code of CUDA kernels, was not found", INSTALL)
    if not arch.startswith("sm_"):
        raise UsageError(f"a CUDA GPU needs a fact `arch` such as \"sm_87\", not {arch or 'nothing'}")
    with tempfile.TemporaryDirectory(prefix="edgec-cuda-") as folder:
        (Path(folder) / "kernels.cu").write_text(source)
        run([nvcc, "-cubin", f"-arch={arch}", "-O3", "--fmad=true", "kernels.cu", "-o", "kernels.cubin"], "compiling CUDA kernels",
            Path(folder))
        return (Path(folder) / "kernels.cubin").read_bytes()
