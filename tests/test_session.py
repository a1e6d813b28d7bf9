"""Sessions: right results, from any thread, polite refusals, other processors under an emulator, and run.py without edgec."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.codegen.manifest import read_manifest, write_manifest
from edgec.emulator import EmulatedDevice
from edgec.errors import BadInput, DeviceError, ToolMissing
from edgec.ir.graph import Array
from edgec.session import load
from tests.toybundle import A72, A76, BYTES, HOST, SHAPE, TASKS, expected, isa, make, needs_qemu, overrun, tensor


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("a72"), cpu=A72)


def close(made: Array, wanted: Array) -> None:
    np.testing.assert_allclose(made, wanted, rtol=1e-6, atol=1e-6)


def change(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Change a manifest so that it stays valid."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["manifest_sha256"]
    edit(manifest)
    write_manifest(bundle, manifest)
    return bundle


def test_run(toy: Path) -> None:
    session = load(toy, poison=True)
    assert [str(p) for p in session.inputs] == ["x float32[8, 32]"]
    assert [str(p) for p in session.outputs] == ["y:0 float32[8, 32]"]
    assert session.emulator == ""
    for seed in range(3):
        x = tensor(seed)
        close(session.run({"x": x})["y:0"], expected(x))
        close(session.run(x)["y:0"], expected(x))
        close(session.run(x.tolist())["y:0"], expected(x))
        close(session.run(np.asfortranarray(x))["y:0"], expected(x))
        close(session.run(np.repeat(x, 2, 1)[:, ::2])["y:0"], expected(x))
    out = np.full(SHAPE, np.nan, np.float32)
    assert session.run(x, out={"y:0": out})["y:0"] is out
    close(out, expected(x))


@pytest.mark.parametrize(("feeds", "sentence"), [
    ({}, "there is no array for the input x float32"),
    ({"z": tensor(0)}, "there is no array for the input x"),
    ({"x": tensor(0), "z": 1}, "the model has no input z; it has x"),
    ({"x": tensor(0).astype(np.float64)}, r"must be float32\[8, 32\], not float64"),
    ({"x": tensor(0).T}, r"not float32\[32, 8\]"),
    ({"x": tensor(0).astype(">f4")}, "not >f4"),
    ({"x": "text"}, "cannot be made an array of float32"),
    ({"x": [[1.0, 2.0], [3.0]]}, "cannot be made an array of float32"),
    (1.0, r"not float32\[\]"),
])
def test_arrays_that_do_not_fit(toy: Path, feeds: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        load(toy).run(feeds)


def test_out_that_does_not_fit(toy: Path) -> None:
    session, x = load(toy), tensor(0)
    frozen = np.empty(SHAPE, np.float32)
    frozen.flags.writeable = False
    for out in (np.empty((8, 31), np.float32), frozen, np.empty(SHAPE, np.float64), np.empty((32, 8), np.float32).T):
        with pytest.raises(BadInput, match=r"out\[y:0\] must be a writable"):
            session.run(x, out={"y:0": out})
    with pytest.raises(BadInput, match="shares memory with an input"):
        session.run(x, out={"y:0": x})
    with pytest.raises(BadInput, match="no output y; it has y:0"):
        session.run(x, out={"y": x})


def test_the_model_can_refuse_data(toy: Path) -> None:
    session, x = load(toy), np.full(SHAPE, 1e9, np.float32)
    with pytest.raises(DeviceError, match="a value in the data points outside"):
        session.run(x)
    close(session.run(tensor(1))["y:0"], expected(tensor(1)))


def test_threads_give_the_same_bits(toy: Path) -> None:
    one, x = load(toy).run(tensor(5))["y:0"], tensor(5)
    for threads in (2, 3, 4, 9):
        session = load(toy, threads=threads, poison=True)
        for _ in range(20):
            assert session.run(x)["y:0"].tobytes() == one.tobytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_many_threads_may_run_one_session(toy: Path, threads: int) -> None:
    session = load(toy, threads=threads)
    xs = [tensor(i) for i in range(16)]
    wanted = [session.run(x)["y:0"] for x in xs]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            for made, right in zip(pool.map(lambda x: session.run(x)["y:0"], xs), wanted, strict=True):
                assert made.tobytes() == right.tobytes()


def test_steps(toy: Path) -> None:
    x, w = tensor(2), tensor(1)
    wanted = [x * w, x * w, np.exp(x * w), expected(x)]
    seen = []
    for step in load(toy, poison=True).steps(x):
        seen.append((step.number, step.call["origin"], step.call["result"]))
        written = next(i for i, o in enumerate(step.call["operands"]) if o["write"])
        close(np.frombuffer(step.read(written), np.float32).reshape(SHAPE), wanted[step.number])
        if step.number == 0:
            with pytest.raises(BadInput, match="operand 1 of step 0 lies in the region weights"):
                step.read(1)
    assert seen == [(0, "mul", "scaled"), (1, "check/*1*/", "passed"), (2, "exp", "raised"), (3, "add", "y")]


def test_poison_finds_writes_outside_the_arena(tmp_path: Path) -> None:
    bundle = overrun(tmp_path)
    with pytest.raises(DeviceError, match="the model wrote outside its arena"):
        load(bundle, poison=True).run(tensor(0))
    with pytest.raises(DeviceError, match="step 0 wrote outside the arena"):
        list(load(bundle).steps(tensor(0)))


@pytest.mark.parametrize("file", ["libtoy.so", "toy.weights.bin", "toy.h", "run.py", "NOTICE"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damaged_files_are_named(tmp_path: Path, file: str, damage: str) -> None:
    path = make(tmp_path) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[:-1] if damage == "truncated" else data)
    if damage == "missing":
        path.unlink()
    with pytest.raises(BadInput, match=f"{file} (is damaged|cannot be read: No such file)"):
        load(path.parent)


def test_what_is_no_bundle(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(BadInput, match=r"is not a bundle: manifest\.json cannot be read"):
        load(tmp_path)
    with pytest.raises(BadInput, match="is not a bundle"):
        load(toy / "toy.h")
    for text in ("", "[]", "{", "{}", '{"schema": null}', "\xff"):
        (tmp_path / "manifest.json").write_bytes(text.encode("latin1"))
        with pytest.raises(BadInput, match=r"manifest\.json is damaged"):
            load(tmp_path)


def test_versions_and_damage_of_the_manifest(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace('"tasks": 8', '"tasks": 9', 1))
    with pytest.raises(BadInput, match=r"manifest\.json is damaged: its checksum"):
        load(bundle)
    for key in ("schema", "abi"):
        (bundle / "manifest.json").write_text(text.replace(f'"{key}": 1', f'"{key}": 3'))
        with pytest.raises(BadInput, match=f"made by a newer edgec.*{'schema 3' if key == 'schema' else 'ABI 3'}"):
            load(bundle)


def test_a_processor_without_a_feature(tmp_path: Path) -> None:
    cpu = isa("x86_64-linux-gnu", "bdver4") if HOST.arch == "x86_64" else replace(HOST, mattr=("+sme",))
    bundle = make(tmp_path, cpu=cpu)
    with pytest.raises(DeviceError, match=r"toy\.edgec needs (sse4a|xop|fma4|sme), which this processor lacks"):
        load(bundle)
    done = subprocess.run([sys.executable, bundle / "run.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("run.py: this processor lacks ")
    assert "Traceback" not in done.stderr


@needs_qemu
def test_another_processor(foreign: Path) -> None:
    session = load(foreign, poison=True, threads=2)
    assert session.emulator == "qemu-aarch64 -cpu cortex-a72"
    for seed in range(3):
        close(session.run(tensor(seed))["y:0"], expected(tensor(seed)))
    with pytest.raises(DeviceError, match="refused to run: a value in the data points outside"):
        session.run(np.full(SHAPE, 1e9, np.float32))
    with ThreadPoolExecutor(3) as pool:
        for x, y in zip(map(tensor, range(8)), pool.map(lambda i: session.run(tensor(i))["y:0"], range(8)), strict=True):
            close(y, expected(x))
    for step in session.steps(tensor(4)):
        written = next(i for i, o in enumerate(step.call["operands"]) if o["write"])
        if step.number == 2:
            close(np.frombuffer(step.read(written), np.float32).reshape(SHAPE), np.exp(tensor(4) * tensor(1)))
    close(np.frombuffer(step.read(written), np.float32).reshape(SHAPE), expected(tensor(4)))


@needs_qemu
def test_another_processor_without_any_library(tmp_path: Path) -> None:
    session = load(make(tmp_path, cpu=A72, libm=False), poison=True)
    for seed in range(3):
        close(session.run(tensor(seed))["y:0"], expected(tensor(seed), libm=False))
    with pytest.raises(DeviceError, match="refused to run: a value in the data points outside"):
        session.run(np.full(SHAPE, 1e9, np.float32))


@pytest.mark.skipif(not shutil.which("env"), reason="needs env")
@pytest.mark.parametrize("libm", [False, True])
def test_the_emulators_side_on_this_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libm: bool) -> None:  # noqa: FBT001
    monkeypatch.setenv("EDGEC_EMULATOR", "env")  # which simply starts the program
    bundle = make(tmp_path, libm=libm)
    device, made = EmulatedDevice(bundle, read_manifest(bundle), 1), np.empty(SHAPE, np.float32)
    device.run([tensor(1)], [made], poison=True)
    close(made, expected(tensor(1), libm=libm))
    bad = overrun(tmp_path)
    with pytest.raises(DeviceError, match="wrote outside its arena"):
        EmulatedDevice(bad, read_manifest(bad), 1).run([tensor(1)], [made], poison=True)
    device._process.kill()
    with pytest.raises(DeviceError, match="the model under env ended"):
        device.run([tensor(1)], [made], poison=True)


@needs_qemu
def test_another_processor_without_a_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make(tmp_path, cpu=A76)
    monkeypatch.setenv("EDGEC_EMULATOR", "qemu-aarch64 -cpu cortex-a72")
    with pytest.raises(DeviceError, match=r"needs \w+, which the processor that qemu-aarch64 -cpu cortex-a72 emulates lacks"):
        load(bundle)
    monkeypatch.setenv("EDGEC_EMULATOR", "qemu-aarch64 -cpu max")
    close(load(bundle).run(tensor(0))["y:0"], expected(tensor(0)))


def test_no_emulator(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolMissing, match=r"for aarch64 and there is no emulator.*apt-get install qemu-user"):
        load(foreign)


def test_no_operating_system(tmp_path: Path) -> None:
    bundle = change(make(tmp_path), lambda m: m["target"].update(triple="thumbv7em-none-eabihf"))
    with pytest.raises(DeviceError, match="no operating system"):
        load(bundle)


def test_loading_and_running_needs_no_compiler_libraries(toy: Path) -> None:
    source = """if True:
        import sys
        import numpy as np
        from edgec.session import load
        made = load(sys.argv[1]).run(np.zeros((8, 32), np.float32))
        assert (made["y:0"] == 1).all()
        print([m for m in ("tvm", "onnx", "lark", "scipy", "edgec.codegen.toolchain") if m in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", source, toy], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    assert done.stdout == "[]\n"


def run_py(bundle: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Start a bundle's run.py as on a device: in isolation from everything but numpy."""
    return subprocess.run([sys.executable, "-E", bundle / "run.py", *words], cwd=folder, capture_output=True, text=True, check=False)


def test_run_py(toy: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", tensor(3))
    np.save(tmp_path / "wrong.npy", tensor(3)[1:])
    for words in (["x.npy"], ["x=x.npy"], ["x=@x.npy", "--threads", "3"]):
        done = run_py(toy, tmp_path, *words, "--out", "made")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("y:0: f32[8, 32] min ")
        close(np.load(tmp_path / "made" / "y_0.npy"), expected(tensor(3)))
    assert run_py(toy, tmp_path).returncode == 0
    for words, sentence in ((["z=x.npy"], "run.py: there is no input for z=x.npy; the inputs are x"),
                            (["none.npy"], "run.py: none.npy cannot be read as an array: No such file"),
                            (["wrong.npy"], "run.py: the input x must be f32[8, 32], not float32[7, 32]")):
        done = run_py(toy, tmp_path, *words)
        assert done.returncode == 1
        assert done.stderr.startswith(sentence)


def test_run_py_as_a_module(toy: Path, tmp_path: Path) -> None:
    source = """if True:
        import sys
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        sys.path.insert(0, sys.argv[1])
        from run import Model
        model = Model(sys.argv[1], threads=2)
        with ThreadPoolExecutor(4) as pool:
            for made in pool.map(model.run, [{"x": np.zeros((8, 32), np.float32)}] * 40):
                assert (made["y:0"] == 1).all()
        assert (model.run(np.zeros((8, 32), np.float32))["y:0"] == 1).all()
        try:
            model.run(np.full((8, 32), 1e9, np.float32))
        except RuntimeError as error:
            print(error)"""
    done = subprocess.run([sys.executable, "-E", "-c", source, toy], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a value in the data points outside")


def test_run_py_refuses(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    for edit, sentence in ((lambda m: m.update(schema=3), "this model was made by a newer edgec"),
                           (lambda m: m.update(schema=1, requires={"machine": "pdp11"}), "this model is for pdp11 and this")):
        done = run_py(change(bundle, edit), tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"run.py: {sentence}")
    change(bundle, lambda m: m.update(requires={"machine": HOST.arch}))
    data = bytearray((bundle / "toy.weights.bin").read_bytes())
    data[BYTES // TASKS] ^= 1
    (bundle / "toy.weights.bin").write_bytes(data)
    assert "toy.weights.bin is damaged" in run_py(bundle, tmp_path).stderr
