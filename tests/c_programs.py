"""Models as C: compiled into a library by a compiler of this machine, and run through it."""

import ctypes
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.build import Built, sources
from edgec.codegen.c_source import identifier
from edgec.ir.graph import Array
from edgec.ir.types import numpy_dtype

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
_GLUE = """
#include "{name}.h"
int32_t go(const void* const* in, void* const* out, void* arena) {{
  {name}_args a = {{0}};
  a.size = sizeof a;
  a.abi = EDGEC_ABI;
  a.weights = {name}_weights;
  a.in = in;
  a.out = out;
  a.arena = arena;
  return {name}_run_args(&a);
}}
"""


def write(made: Built, folder: Path, *, array: bool | None = None) -> Path:
    """The files of a model in a folder, and a function that ctypes can call."""
    folder.mkdir(exist_ok=True)
    for name, data in sources(made, jobs=1, array=array).items():
        (folder / name).write_bytes(data)
    (folder / "glue.c").write_text(_GLUE.format(name=identifier(made.schedule.program.name)))
    return folder


def compiled(made: Built, folder: Path, compiler: str = "gcc", *flags: str, array: bool | None = None) -> Path:
    """The model as a shared library; no compiler has anything to complain of."""
    write(made, folder, array=array)
    files = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".c", ".S") and p.name != "main.c"]
    done = subprocess.run([compiler, *STRICT, "-O1", "-fPIC", "-shared", *flags, *files, "-o", "model.so", "-lm"], cwd=folder,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return folder / "model.so"


def run(made: Built, library: Path, given: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs, computed in an arena that is full of NaN."""
    program = made.schedule.program
    arena = np.full(program.arena_bytes + 64, 0xFF, np.uint8)
    start = -arena.ctypes.data % 64
    inputs = [np.ascontiguousarray(given[p.name], numpy_dtype(p.dtype)) for p in program.inputs]
    outputs = [np.full(p.shape, -1).astype(numpy_dtype(p.dtype)) for p in program.outputs]
    code = ctypes.CDLL(str(library)).go(_pointers(inputs), _pointers(outputs), ctypes.c_void_p(arena.ctypes.data + start))
    assert code == 0, code
    return {p.name: a for p, a in zip(program.outputs, outputs, strict=True)}


def _pointers(arrays: Sequence[Array]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
