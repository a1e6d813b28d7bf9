"""A model on two units: its steps, its C, the driver of the second unit, and everything that may be missing or wrong."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.codegen import c_source, toolchain
from edgec.codegen.bundle import UnitCode, write_bundle
from edgec.codegen.manifest import read_manifest
from edgec.codegen.program import Buffer, Call, Copy, Kernel, Launch, Operand, Port, Program, Unit, Wait
from edgec.codegen.runtime import units
from edgec.errors import DeviceError, ToolMissing
from edgec.session import load
from tests.opencl import needs_opencl
from tests.toybundle import BYTES, HOST, SHAPE, TASKS, objects, program, tensor

SOURCE = """
kernel void edgec_k_square(global const uchar* b0, ulong o0, global const uchar* b1, ulong o1, global uchar* b2, ulong o2) {
  const size_t i = get_global_id(0);
  const float x = ((global const float*)(b0 + o0))[i];
  ((global float*)(b2 + o2))[i] = x * x + ((global const float*)(b1 + o1))[i];
}
"""


def model(driver: str = "opencl", kernel: str = "edgec_k_square") -> Program:
    """y = x + ((x * w)² + v): the square and the sum with v on the unit `gpu`."""
    toy = program("two", HOST)
    size = BYTES
    buffers = (*toy.buffers[:3], Buffer("raised", "arena", size, size), Buffer("y", "output", 0, size),
               Buffer("scaled", "arena", size, size, "gpu"), Buffer("squared", "arena", 0, size, "gpu"),
               Buffer("v", "weights", size, size, "gpu"))
    steps = (toy.steps[0], Copy((Operand(2), Operand(5, 0, write=True)), size, "gpu", result="scaled"),
             Launch("square", (Operand(5), Operand(7), Operand(6, write=True)), SHAPE[0] * SHAPE[1] // 64, "sq", "squared",
                    unit="gpu", group=64),
             Copy((Operand(6), Operand(3, 0, write=True)), size, "gpu", result="squared"),
             Call("add", (Operand(0), Operand(3), Operand(4, write=True)), TASKS, "add", "y"))
    kernels = {**toy.kernels, "square": Kernel(kernel, "map", "map", False, 0, 3 * size, 0, 1.0, 3, "gpu")}  # noqa: FBT003
    return replace(toy, buffers=buffers, steps=steps, kernels=kernels, outputs=(Port("y", "y", "f32", SHAPE, 4),), weights_bytes=2 * size,
                   units=(Unit("gpu", driver, 2 * size, size, size),))


def make(folder: Path, made: Program | None = None, source: str = SOURCE) -> Path:
    weights = {1: tensor(1).tobytes(), 7: tensor(2).tobytes()}
    return write_bundle(folder / "two.edgec", made or model(), weights, objects(HOST), isa=HOST, target="toy",
                        codes={"gpu": UnitCode("cl", source.encode())})


def expected(x: Any) -> Any:
    return x + (x * tensor(1)) ** 2 + tensor(2)


def test_how_a_program_on_two_units_reads() -> None:
    text = str(replace(model(), steps=(*model().steps, Wait("gpu"))))
    assert "  unit gpu: opencl, arena 2048 bytes, weights 1024 bytes" in text
    assert "  b5 arena@gpu+1024 1024 bytes ; scaled" in text
    assert "    1 copy b2 -> &b5 1024 bytes ; scaled" in text
    assert "    2 edgec_k_square(b5, b7, &b6) x4 on gpu ; squared <- sq" in text
    assert text.endswith("    5 wait for gpu")


def test_the_manifest_tells_of_units_and_copies(tmp_path: Path) -> None:
    manifest = read_manifest(make(tmp_path))
    assert manifest["schema"] == 2
    assert manifest["units"] == [{"name": "gpu", "driver": "opencl", "arena_bytes": 2048, "weights_offset": 1024, "weights_bytes": 1024,
                                  "code": "two.gpu.cl"}]
    assert [s.get("step", "call") for s in manifest["steps"]] == ["call", "copy", "call", "copy", "call"]
    assert {"two.gpu.cl", "edgec_opencl.c", "edgec_opencl.h", "libedgec_opencl.so", "units.py"} <= manifest["files"].keys()


def test_a_bundle_for_the_cpu_alone_knows_nothing_of_units() -> None:
    toy = program("one", HOST)
    text = c_source.header(toy, "toy") + c_source.main(toy, bytes(16), HOST.triple, []) + c_source.example(toy)
    assert "device" not in text.lower().replace("no_device", "").replace("_device =", "").replace("_device:", "")


@needs_opencl
def test_it_runs(tmp_path: Path) -> None:
    session = load(make(tmp_path), poison=True)
    for seed in range(3):
        np.testing.assert_allclose(session.run(tensor(seed))["y"], expected(tensor(seed)), rtol=1e-6, atol=1e-6)
    seen = {s.number: s.read(-1) for s in session.steps(tensor(5))}
    np.testing.assert_allclose(np.frombuffer(seen[1], np.float32).reshape(SHAPE), tensor(5) * tensor(1), rtol=1e-6)
    assert seen[2] == seen[3]


@needs_opencl
def test_run_py_runs_it(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    np.save(tmp_path / "x.npy", tensor(3))
    subprocess.run([sys.executable, bundle / "run.py", "x.npy", "--out", "made"], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "made" / "y.npy"), expected(tensor(3)), rtol=1e-6, atol=1e-6)


@needs_opencl
def test_the_example_in_c_runs_it_and_warns_of_nothing(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    chain = toolchain.find(HOST.triple)
    files = ["main.c", "two.o", "two_weights.S", "edgec_rt.c", "edgec_opencl.c", "-o", "two", "-lpthread", "-ldl", "-lm"]
    subprocess.run([*chain.command, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", *files], cwd=bundle, check=True)
    tensor(4).tofile(tmp_path / "x.bin")
    subprocess.run([bundle / "two", "-n", "2", tmp_path / "x.bin", tmp_path / "y.bin"], check=True, stdout=subprocess.DEVNULL)
    np.testing.assert_allclose(np.fromfile(tmp_path / "y.bin", np.float32).reshape(SHAPE), expected(tensor(4)), rtol=1e-6, atol=1e-6)
    env = {**os.environ, "EDGEC_OPENCL_DEVICE": "no such"}
    failing = subprocess.run([bundle / "two"], env=env, capture_output=True, text=True, check=False)
    assert failing.returncode == 1
    assert failing.stderr == "gpu: OpenCL knows no device with the name that EDGEC_OPENCL_DEVICE says\n"


@needs_opencl
@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")
def test_cmake_makes_the_example_with_its_driver(tmp_path: Path) -> None:
    bundle, made = make(tmp_path), tmp_path / "made"
    for words in (["-S", str(bundle), "-B", str(made)], ["--build", str(made)]):
        subprocess.run(["cmake", *words], check=True, stdout=subprocess.DEVNULL)
    tensor(4).tofile(tmp_path / "x.bin")
    subprocess.run([made / "two", tmp_path / "x.bin", tmp_path / "y.bin"], check=True, stdout=subprocess.DEVNULL)
    np.testing.assert_allclose(np.fromfile(tmp_path / "y.bin", np.float32).reshape(SHAPE), expected(tensor(4)), rtol=1e-6, atol=1e-6)


def test_without_the_library_the_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(units.LIBRARIES, "opencl", ("libNoSuchLibrary.so.1",))
    with pytest.raises(ToolMissing, match=r"the unit gpu needs libNoSuchLibrary.so.1, which is not on this machine; install it with: apt"):
        load(make(tmp_path))


def test_a_driver_that_a_bundle_does_not_bring(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="the unit gpu needs a driver for strange, and this bundle brings none"):
        load(make(tmp_path, model("strange")))


@needs_opencl
@pytest.mark.parametrize(("change", "sentence"), [
    (lambda p: make(p, source="kernel void edgec_k_square("), "unit gpu cannot be used: clBuildProgram failed with the OpenCL error -11"),
    (lambda p: make(p, model(kernel="edgec_k_other")), "unit gpu cannot be used: edgec_k_other failed with the OpenCL error"),
])
def test_code_that_cannot_be_used(change: Callable[[Path], Path], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=sentence):
        load(change(tmp_path))


class _Fake:
    """A device in Python, which refuses from a step on."""

    def __init__(self, fails: str = "", version: int = 1) -> None:
        self.arena, self.fails, self.seen = bytearray(2 * BYTES), fails, list[str]()
        launch = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        move, finish = units._MOVE, ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
        self.hooks = (move(self.write), move(self.read), launch(self.launch), finish(lambda _: 0))
        self.device = units.Device(ctypes.sizeof(units.Device), version, None, self.hooks[0], self.hooks[1],
                                   ctypes.cast(self.hooks[2], ctypes.c_void_p), self.hooks[3])

    def write(self, _: int, offset: int, source: int, size: int) -> int:
        self.seen.append("write")
        self.arena[offset:offset + size] = ctypes.string_at(source, size)
        return int(self.fails == "write")

    def read(self, _: int, offset: int, target: int, size: int) -> int:
        self.seen.append("read")
        ctypes.memmove(target, bytes(self.arena[offset:offset + size]), size)
        return int(self.fails == "read")

    def launch(self, _: int, what: int, operands: int) -> int:
        self.seen.append("launch")
        assert ctypes.string_at(ctypes.cast(what, ctypes.POINTER(ctypes.c_char_p))[0]) == b"edgec_k_square"
        fields = np.frombuffer(ctypes.string_at(operands, 3 * 32), np.uint64).reshape(3, 4)
        assert fields[:, 0].tolist() == [0, 0, 0]                       # no memory of the CPU
        assert fields[:, 1].tolist() == [BYTES, 0, 0]                   # offsets within arena, weights, arena
        scaled = np.frombuffer(bytes(self.arena[BYTES:]), np.float32)
        self.arena[:BYTES] = (scaled ** 2 + tensor(2).reshape(-1)).astype(np.float32).tobytes()
        return int(self.fails == "launch")


def run_with(bundle: Path, devices: list[_Fake | None] | None) -> tuple[int, Any]:
    """The code of NAME_run_args with devices of our own, and y."""
    from edgec.native import Memory, _Args  # noqa: PLC0415

    library = ctypes.CDLL(str(bundle / "libtwo.so"))
    memory = {"weights": Memory.of(bundle / "two.weights.bin"), "arena": Memory(2 * BYTES)}
    x, y = tensor(6), np.zeros(SHAPE, np.float32)
    ins, outs = (ctypes.c_void_p * 1)(x.ctypes.data), (ctypes.c_void_p * 1)(y.ctypes.data)
    table = None if devices is None else (ctypes.c_void_p * 1)(*(None if d is None else ctypes.addressof(d.device) for d in devices))
    args = _Args(size=ctypes.sizeof(_Args), abi=1, inputs=ctypes.addressof(ins), outputs=ctypes.addressof(outs),
                 devices=ctypes.addressof(table) if table is not None else None, **{k: m.address for k, m in memory.items()})
    return library.two_run_args(ctypes.byref(args)), y


def test_devices_are_checked_and_their_errors_told(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    names = [line.split("_", 1)[1].split(" ")[0] for line in (bundle / "two.h").read_text().splitlines() if line.startswith("  two_")]
    code = {n: i for i, n in enumerate(names)}
    good = _Fake()
    assert run_with(bundle, [good])[0] == code["OK"]
    assert good.seen == ["write", "launch", "read"]
    np.testing.assert_allclose(run_with(bundle, [_Fake()])[1], expected(tensor(6)), rtol=1e-6, atol=1e-6)
    assert run_with(bundle, None)[0] == code["NO_DEVICE"]
    assert run_with(bundle, [None])[0] == code["NO_DEVICE"]
    assert run_with(bundle, [_Fake(version=2)])[0] == code["ABI"]
    for which in ("write", "launch", "read"):
        broken = _Fake(which)
        assert run_with(bundle, [broken])[0] == code["DEVICE"]
        assert broken.seen[-1] == which
