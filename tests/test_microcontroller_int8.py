"""Quantized models on microcontrollers: no floating point between the borders where the core has none, in C and in the object."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edgec.build import Built, compile_graph, read, sources
from edgec.codegen import elf
from edgec.ir.graph import Array
from edgec.onnx_saturation import exact
from edgec.target import find, scalar
from tests import c_programs
from tests.bundles import bundle, feeds, source
from tests.shared import SHARED
from tests.test_microcontroller import needs_board, needs_gcc

KWS, RESNET = "mlperf_kws_dscnn_qdq_s8", "mlperf_ic_resnet8_qdq_s8"
BOTH = [KWS, pytest.param(RESNET, marks=pytest.mark.slow)]
FLOAT = re.compile(r"\b(?:float|double)\b|\b\d+\.\d|math\.h|INFINITY|NAN|_f32|\bf32")


@cache
def made(name: str, core: str) -> Built:
    """A model as far as it is made before there is code."""
    return compile_graph(read(source(name), static=True), scalar(find(core)), name)


def spoken(count: int | None = None) -> tuple[Array, Array]:
    """Commands as spectra, and which they are; skipped when the shared models are absent."""
    path = SHARED / "models" / "data" / "kws01_mfcc.npz"
    if not path.exists():
        pytest.skip(f"no {path}: set EDGEC_SHARED to the folder that has it")
    with np.load(path) as data:
        return data["x"][:count], data["y"][:count]


def reference(name: str, xs: Array) -> Array:
    """ONNX Runtime's results for some inputs, one row each."""
    session: Any = ort.InferenceSession(exact(source(name)), providers=["CPUExecutionProvider"])
    key = session.get_inputs()[0].name
    return np.stack([session.run(None, {key: x[None]})[0].reshape(-1) for x in xs])


def near(got: Array, wanted: Array) -> None:
    """No further than a step, and the same class for each row (or one whose score is the same)."""
    assert int(np.abs(got.astype(np.int32) - wanted.astype(np.int32)).max()) <= 1
    best = wanted.argmax(1)
    rows = np.arange(len(best))
    assert np.all((got.argmax(1) == best) | (got[rows, best] == got.max(1)))


@pytest.mark.parametrize("name", BOTH)
def test_c_without_a_unit_for_floats_has_no_floats(name: str) -> None:
    files = sources(made(name, "cortex-m4-nofpu"), jobs=1)
    for file in (f"{name}.c", f"{name}.h"):
        code = re.sub(r"/\*.*?\*/|//[^\n]*", "", files[file].decode(), flags=re.DOTALL)
        assert FLOAT.findall(code) == [], file
    assert FLOAT.findall(sources(made(name, "cortex-m4"), jobs=1)[f"{name}.c"].decode()), "where there is such a unit it is used"


@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4-nofpu"])
@pytest.mark.parametrize("name", BOTH)
def test_the_object_calls_nothing(name: str, core: str) -> None:
    built = bundle(name, core)
    file = elf.read((built.path / f"{name}.o").read_bytes())
    assert set(file.imports) <= {"memcpy", "memset", "__aeabi_memcpy", "__aeabi_memset"}
    dtypes = {k["kind"]: k["macs"] for k in built.manifest["kernels"].values() if k["generic"]}
    assert dtypes == {}


@needs_gcc
@pytest.mark.parametrize("name", BOTH)
def test_a_compiler_makes_no_float_of_it(name: str, tmp_path: Path) -> None:
    folder = c_programs.write(made(name, "cortex-m3"), tmp_path / "c")
    subprocess.run(["arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb", *c_programs.STRICT, "-O2", "-c", f"{name}.c", "-o", "model.o"],
                   cwd=folder, check=True)
    file = elf.read((folder / "model.o").read_bytes())
    helpers = [n for n in file.imports if re.fullmatch(r"__aeabi_(?:[fd]\w+|\w+2[fd]|u?l2[fd])|__\w*[sd]f\w*", n)]
    assert helpers == []
    assert set(file.imports) <= {"memcpy", "memset", "__aeabi_lmul", "__aeabi_ldivmod", "__aeabi_uldivmod"}


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_accuracy_of_keyword_spotting_in_c_is_that_of_onnxruntime(tmp_path: Path) -> None:
    xs, labels = spoken()
    model = made(KWS, "cortex-m3")
    library = c_programs.compiled(model, tmp_path / "c")
    key = model.schedule.program.inputs[0].name
    got = np.stack([next(iter(c_programs.run(model, library, {key: x[None]}).values())).reshape(-1) for x in xs])
    wanted = reference(KWS, xs)
    near(got, wanted)
    assert (got.argmax(1) == labels).mean() >= (wanted.argmax(1) == labels).mean()


@needs_board
@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4-nofpu", "cortex-m4", "cortex-m7"])
def test_keyword_spotting_on_a_board(core: str) -> None:
    xs, labels = spoken(48)
    built = bundle(KWS, core)
    session = built.load(poison=True)
    got = np.stack([next(iter(session.run(x[None]).values())).reshape(-1) for x in xs])
    wanted = reference(KWS, xs)
    near(got, wanted)
    assert (got.argmax(1) == labels).mean() >= (wanted.argmax(1) == labels).mean() > 0.8


@needs_board
@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m4-nofpu"])
def test_pictures_on_a_board(core: str) -> None:
    built = bundle(RESNET, core)
    session = built.load(poison=True)
    given = [next(iter(feeds(built, seed).values())) for seed in range(4)]
    got = np.stack([next(iter(session.run(x).values())).reshape(-1) for x in given])
    near(got, reference(RESNET, np.concatenate(given)))
