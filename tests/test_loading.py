"""Loading and running bundles of real models: what it needs, what it refuses in which words, and the same bits from many threads."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec.codegen.manifest import write_manifest
from tests.bundles import EXAMPLES, LARGER, ROOT, SMALL, bundle, feeds, source

FOREIGN = ("tvm", "tvm_ffi", "onnx", "onnx_graphsurgeon", "onnxruntime", "lark", "scipy")
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-aarch64") or not shutil.which("aarch64-linux-gnu-gcc"),
                                reason="needs qemu-aarch64 and aarch64-linux-gnu-gcc")


Done = subprocess.CompletedProcess[str]


def python(*words: object, interpreter: object = sys.executable, folder: Path = ROOT, path: Path | None = ROOT) -> Done:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run([str(interpreter), *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False)


# What it needs


def imported(code: str, *arguments: object) -> set[str]:
    """Which of the libraries that only builds need a program has loaded."""
    done = python("-c", f"import sys\n{code}\nprint(*(m for m in {FOREIGN} if m in sys.modules))", *arguments)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_loads_no_library_at_all() -> None:
    assert imported("import edgec; edgec.__version__; dir(edgec); assert 'numpy' not in sys.modules") == set()


RUN = """import edgec, numpy as np
session = edgec.load(sys.argv[1], threads=2)
made = session.run({p.name: np.zeros(p.shape, p.dtype) for p in session.inputs})
assert made.keys() == {p.name for p in session.outputs}
list(session.steps({p.name: np.zeros(p.shape, p.dtype) for p in session.inputs}))"""


@pytest.mark.parametrize("target", ["host", pytest.param("cortex-a72", marks=needs_qemu)])
def test_loading_and_running_needs_no_library_of_the_compiler(target: str) -> None:
    assert imported(RUN, bundle("digits_cnn", target).path) == set()


def test_building_loads_some_of_them(tmp_path: Path) -> None:
    """The check sees what it looks for; and even a build keeps TVM out of this process."""
    model = ROOT / "examples" / "models" / "digits_cnn.onnx"
    found = imported("import edgec; edgec.build(sys.argv[1], output=sys.argv[2])", model, tmp_path / "b")
    assert "onnx" in found
    assert "tvm" not in found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds numpy and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    spec = importlib.util.find_spec("numpy")
    assert spec is not None
    assert spec.origin is not None
    numpy = Path(spec.origin).parent
    place = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for part in (numpy, numpy.parent / "numpy.libs"):
        if part.exists():
            (place / part.name).symlink_to(part)
    return folder / "bin" / "python3"


@pytest.mark.parametrize("name", ["digits_cnn", "mnist_opset8", "mlperf_kws_dscnn_fp32"])
def test_run_py_needs_numpy_only(name: str, bare: Path, tmp_path: Path) -> None:
    made = bundle(name)
    shutil.copytree(made.path, tmp_path / "moved.edgec")
    ((port, array),) = feeds(made, 2).items()
    np.save(tmp_path / "x.npy", array)
    found = python("-c", "import numpy, importlib.util as u; print([m for m in ('edgec', 'onnx', 'tvm', 'pip') if u.find_spec(m)])",
                   interpreter=bare, path=None, folder=tmp_path)
    assert found.stdout == "[]\n", found.stderr
    expected = made.load().run(array)
    for words in (["x.npy"], [f"{port}=x.npy", "--threads", "2"]):
        done = python("moved.edgec/run.py", *words, "--out", "made", interpreter=bare, path=None, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        for facts in made.manifest["outputs"]:
            assert np.load(tmp_path / "made" / f"{facts['c_name']}.npy").tobytes() == expected[facts["name"]].tobytes()
            assert done.stdout.startswith(f"{facts['name']}: f32[")


def test_run_py_is_short_and_old_python_reads_it() -> None:
    text = (bundle("digits_cnn").path / "run.py").read_text()
    ast.parse(text, feature_version=(3, 8))
    assert len(text.splitlines()) <= 200
    imports = {n.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for n in node.names}
    assert imports - set(sys.stdlib_module_names) == {"numpy"}


def test_a_rebuilt_bundle_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would take a library for the one that lay at its path before."""
    given = feeds(bundle("digits_cnn"), 1)
    wanted = [bundle(name).load().run(given)["logits"] for name in ("digits_cnn", "digits_mobilenet", "digits_cnn")]
    for place in (tmp_path / "one", tmp_path / "two"):
        place.mkdir()
        monkeypatch.chdir(place)  # the same relative path as before
        for name, logits in zip(("digits_cnn", "digits_mobilenet", "digits_cnn"), wanted, strict=True):
            made = edgec.build(source(name), output="m.edgec", name="m").load(threads=2)
            assert made.run(given)["logits"].tobytes() == logits.tobytes()


# Threads


@pytest.mark.parametrize("name", [*EXAMPLES, *SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGER)])
def test_threads_and_concurrent_runs_give_the_same_bits(name: str) -> None:
    made = bundle(name)
    given = [feeds(made, seed) for seed in range(6)]
    wanted = [{k: v.tobytes() for k, v in made.load().run(f).items()} for f in given]
    for threads in (1, 2, 4):
        session = made.load(threads=threads, poison=True)
        with ThreadPoolExecutor(4) as pool:
            for _ in range(3):
                found = pool.map(lambda f: {k: v.tobytes() for k, v in session.run(f).items()}, given)  # noqa: B023 - used up in the loop
                assert list(found) == wanted


@needs_qemu
def test_threads_give_the_same_bits_under_an_emulator() -> None:
    made = bundle("digits_cnn", "cortex-a72")
    given = feeds(made, 1)
    wanted = made.load().run(given)["logits"].tobytes()
    for threads in (2, 4):
        session = made.load(threads=threads, poison=True)
        with ThreadPoolExecutor(2) as pool:
            assert {a.tobytes() for a in pool.map(lambda _: session.run(given)["logits"], range(3))} == {wanted}  # noqa: B023


# What it refuses


def loaded(folder: Path) -> str:
    """What edgec.load says."""
    try:
        edgec.load(folder)
    except edgec.EdgecError as error:
        return str(error)
    return ""


def started(folder: Path) -> str:
    """What run.py says."""
    done = python(folder / "run.py", path=None)
    assert done.returncode == (1 if done.stderr else 0)
    return done.stderr.removeprefix("run.py: ").removesuffix("\n")


def rewritten(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def rewrite(path: Path) -> None:
        manifest = json.loads(path.read_text())
        del manifest["manifest_sha256"]
        change(manifest)
        write_manifest(path.parent, manifest)
    return rewrite


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "weights cut": ("digits_cnn.weights.bin", lambda p: os.truncate(p, p.stat().st_size - 1), "digits_cnn.weights.bin is damaged"),
    "weights empty": ("digits_cnn.weights.bin", lambda p: os.truncate(p, 0), "digits_cnn.weights.bin is damaged"),
    "weights flipped": ("digits_cnn.weights.bin", flip, "digits_cnn.weights.bin is damaged"),
    "weights longer": ("digits_cnn.weights.bin", lambda p: p.write_bytes(p.read_bytes() + b"x"), "digits_cnn.weights.bin is damaged"),
    "weights missing": ("digits_cnn.weights.bin", os.remove, "digits_cnn.weights.bin cannot be read: No such file or directory"),
    "library flipped": ("libdigits_cnn.so", flip, "libdigits_cnn.so is damaged"),
    "library missing": ("libdigits_cnn.so", os.remove, "libdigits_cnn.so cannot be read: No such file or directory"),
    "manifest missing": ("manifest.json", os.remove, "manifest.json cannot be read: No such file or directory"),
    "manifest cut": ("manifest.json", lambda p: os.truncate(p, 1000), "manifest.json is damaged"),
    "manifest empty": ("manifest.json", lambda p: os.truncate(p, 0), "manifest.json is damaged"),
    "manifest flipped": ("manifest.json", lambda p: p.write_text(p.read_text().replace('"arena_bytes": ', '"arena_bytes": 1')),
                         "manifest.json is damaged"),
    "manifest of something else": ("manifest.json", lambda p: p.write_text('["a", "b"]'), "manifest.json is damaged"),
    "manifest in Latin-1": ("manifest.json", lambda p: p.write_bytes(b'{"schema": 1, "name": "\xe9"}'), "manifest.json is damaged"),
    "newer schema": ("manifest.json", rewritten(lambda m: m.update(schema=99)), "newer edgec"),
    "newer interface": ("manifest.json", rewritten(lambda m: m.update(abi=99)), "newer edgec"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_said_in_one_sentence(damage: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle("digits_cnn").path, tmp_path / "b.edgec"))
    file, harm, sentence = DAMAGE[damage]
    harm(folder / file)
    for said in (loaded(folder), started(folder)):
        assert sentence in said
        assert "\n" not in said
        assert "Traceback" not in said


def test_an_intact_bundle_is_not_refused() -> None:
    assert (loaded(bundle("digits_cnn").path), started(bundle("digits_cnn").path)) == ("", "")


@needs_qemu
def test_a_bundle_for_a_newer_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle("digits_cnn", "cortex-a76")
    monkeypatch.setenv("EDGEC_EMULATOR", "qemu-aarch64 -cpu cortex-a72")
    said = loaded(made.path)
    assert "digits_cnn.edgec needs " in said
    assert said.endswith(", which the processor that qemu-aarch64 -cpu cortex-a72 emulates lacks")
    assert started(made.path) == f"this model is for aarch64 and this machine is {os.uname().machine}"
    monkeypatch.setenv("EDGEC_EMULATOR", "qemu-aarch64 -cpu max")
    assert loaded(made.path) == ""
