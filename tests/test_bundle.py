"""Bundles: complete, the same bytes every time, code apart from weights, and never half written."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgec.codegen import bundle, elf, toolchain, weights
from edgec.errors import BadInput, EdgecError, ToolMissing
from edgec.isa import Isa
from edgec.session import load
from tests.toybundle import A72, BYTES, HOST, PLANS, expected, make, objects, program, tensor

HAS_ZIG = importlib.util.find_spec("ziglang") is not None


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def fresh_tools() -> Iterator[None]:
    """Forget which tool chains work, before and after."""
    toolchain.forget()
    yield
    toolchain.forget()


def test_files_and_manifest(tmp_path: Path) -> None:
    made = make(tmp_path)
    files = contents(made)
    assert set(files) == {
        "manifest.json", "toy.h", "toy.o", "libtoy.so", "toy.weights.bin", "toy_weights.S", "edgec_rt.c", "edgec_rt.h", "libedgec_rt.so",
        "run.py", "main.c", "CMakeLists.txt", "NOTICE"}
    manifest = json.loads(files["manifest.json"])
    assert manifest["files"] == {n: hashlib.sha256(d).hexdigest() for n, d in files.items() if n != "manifest.json"}
    assert (manifest["schema"], manifest["abi"], manifest["name"], manifest["target"]["cpu"]) == (1, 1, "toy", HOST.mcpu)
    assert [s["origin"] for s in manifest["steps"]] == ["mul", "check/*1*/", "exp", "add"]
    assert manifest["kernels"]["exp"]["function"].startswith("toy_k_")
    assert manifest["imports"] == (["expf"] if HOST.arch == "x86_64" else ["expf", "getauxval"])
    assert not [n for n, d in files.items() if b"@NAME@" in d or str(tmp_path).encode() in d or str(Path.home()).encode() + b"/" in d]
    assert all(b"0BSD" in files[n] or b"Zero Clause" in files[n] for n in (
        "toy.h", "toy_weights.S", "edgec_rt.c", "edgec_rt.h", "run.py", "main.c", "CMakeLists.txt", "NOTICE"))
    assert len(files["run.py"].splitlines()) <= 200
    assert len(files["toy.weights.bin"]) == 64 + BYTES
    assert files["toy.weights.bin"][64:] == tensor(1).tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["toy.edgec"]


@pytest.mark.parametrize("cpu", [HOST, A72])
def test_only_the_public_names_are_visible(tmp_path: Path, cpu: Isa) -> None:
    made = make(tmp_path, cpu=cpu)
    file = elf.read((made / "toy.o").read_bytes())
    assert sorted(file.exports) == ["toy_check_cpu", "toy_info", "toy_prepare", "toy_run_args", "toy_strerror"]
    assert set(file.imports) <= {"expf", "getauxval"}
    functions = {s.name for s in file.symbols if s.type == 2}
    assert len([f for f in functions if f.startswith("toy_k_")]) == len(PLANS)


def test_rebuild_is_byte_identical_anywhere(tmp_path: Path) -> None:
    first = contents(make(tmp_path / "here"))
    assert contents(make(tmp_path / "there" / "deeper")) == first
    source = "from pathlib import Path; from tests.toybundle import make; make(Path('.'))"
    (tmp_path / "process").mkdir()
    root = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", source], cwd=tmp_path / "process", check=True,
                   env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LANG": "tr_TR.UTF-8"})
    assert contents(tmp_path / "process" / "toy.edgec") == first


def test_other_weights_leave_the_code_alone(tmp_path: Path) -> None:
    first, second = contents(make(tmp_path / "1", seed=1)), contents(make(tmp_path / "2", seed=2))
    assert {n for n in first if first[n] != second[n]} == {"toy.weights.bin", "manifest.json"}
    assert first["toy.weights.bin"][:40] == second["toy.weights.bin"][:40]
    assert first["toy.weights.bin"][40:56] != second["toy.weights.bin"][40:56]


def test_a_bundle_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    made = make(tmp_path, seed=1)
    (made / "left over").write_text("")
    assert make(tmp_path, seed=2) == made
    assert not (made / "left over").exists()
    np.testing.assert_allclose(load(made).run(tensor(3))["y:0"], expected(tensor(3), 2), rtol=1e-6, atol=1e-6)
    shutil.rmtree(made)
    made.mkdir()
    (made / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="which holds other files"):
        make(tmp_path)
    assert [p.name for p in made.iterdir()] == ["thesis.txt"]
    shutil.rmtree(made)
    made.write_text("a file")
    with pytest.raises(BadInput, match="which is not a folder"):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["toy.edgec"]


def test_a_failed_build_leaves_the_old_bundle(tmp_path: Path) -> None:
    before = contents(make(tmp_path))
    model = program("toy", HOST)
    with pytest.raises(EdgecError, match="the weights w have 8 bytes for 1024"):
        bundle.write_bundle(tmp_path / "toy.edgec", model, {1: bytes(8)}, objects(HOST), isa=HOST, target="toy")
    assert contents(tmp_path / "toy.edgec") == before
    assert [p.name for p in tmp_path.iterdir()] == ["toy.edgec"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot be written to .*toy\.edgec"):
        make(tmp_path / "file")


def test_wrong_programs_are_refused(tmp_path: Path) -> None:
    model, data = program("toy", HOST), {1: tensor(1).tobytes()}
    kernels = {k: replace(v, symbol="same") for k, v in model.kernels.items()}
    with pytest.raises(EdgecError, match="two different kernels have the same symbol same"):
        bundle.write_bundle(tmp_path / "x", replace(model, kernels=kernels), data, objects(HOST), isa=HOST, target="toy")
    moved = (*model.buffers[:1], replace(model.buffers[1], offset=32), *model.buffers[2:])
    with pytest.raises(EdgecError, match="multiples of 64"):
        bundle.write_bundle(tmp_path / "x", replace(model, buffers=moved), data, objects(HOST), isa=HOST, target="toy")
    with pytest.raises(EdgecError, match="different machines"):
        bundle.write_bundle(tmp_path / "x", model, data, objects(A72), isa=HOST, target="toy")
    assert not list(tmp_path.iterdir())


def test_gaps_between_weights_are_zero(tmp_path: Path) -> None:
    model = program("toy", HOST)
    buffers = (*model.buffers, replace(model.buffers[1], name="w2", offset=BYTES + 128))
    wide = replace(model, buffers=buffers, weights_bytes=2 * BYTES + 256)
    one = tensor(1).tobytes()
    weights.write(tmp_path / "w.bin", wide, {1: one, 6: memoryview(tensor(2).data)}, bytes(16))
    assert (tmp_path / "w.bin").read_bytes()[64:] == one + bytes(128) + tensor(2).tobytes() + bytes(128)


def test_no_tool_chain_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolMissing, match="no C compiler and linker for x86_64-linux-gnu") as caught:
        toolchain.find("x86_64-linux-gnu")
    assert caught.value.install == "pip install ziglang"
    assert "pip install ziglang" in toolchain.describe(["aarch64-linux-gnu"])[0]


@pytest.mark.skipif(not HAS_ZIG, reason="needs the package ziglang")
@pytest.mark.parametrize("cpu", [HOST, A72])
def test_with_zig_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: Isa) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    first = make(tmp_path / "1", cpu=cpu)
    assert json.loads((first / "manifest.json").read_text())["tools"]["c"].startswith("zig ")
    assert contents(make(tmp_path / "2", cpu=cpu)) == contents(first)
    if cpu is HOST:
        np.testing.assert_allclose(load(first, threads=2).run(tensor(3))["y:0"], expected(tensor(3)), rtol=1e-6, atol=1e-6)


def test_a_compiler_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(EdgecError, match="the compiler /no/such/cc cannot make files"):
        make(tmp_path, cc="/no/such/cc")
    if shutil.which("clang"):
        made = make(tmp_path, cc="clang")
        assert "clang" in json.loads((made / "manifest.json").read_text())["tools"]["c"]


def test_tool_chains_are_described() -> None:
    (line,) = toolchain.describe([HOST.triple])
    assert line.startswith(f"{HOST.triple}: ")


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_large_weights_begin_where_a_large_page_can(tmp_path: Path) -> None:
    (tmp_path / "big.weights.bin").write_bytes(bytes(range(256)))
    (tmp_path / "main.c").write_text("""#include <stdint.h>
extern const unsigned char big_weights[];
int main(void) { return (uintptr_t)big_weights % ((uintptr_t)2 << 20) == 0 && big_weights[7] == 7 ? 0 : 1; }
""")
    (tmp_path / "big_weights.S").write_text(weights.assembler("big", large_pages=True))
    subprocess.run(["gcc", "main.c", "big_weights.S", "-o", "main"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0
    assert ".balign 64" in (make(tmp_path) / "toy_weights.S").read_text()           # a small file is not worth the gap
