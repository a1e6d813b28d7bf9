"""Relocatable files: what is read, what a merge keeps, and that linkers accept it."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from edgec.codegen import elf
from edgec.codegen.object import kernel_symbol
from edgec.errors import EdgecError
from tests.toybundle import A72, HOST, PLANS, objects

needs_clang = pytest.mark.skipif(not shutil.which("clang") or not shutil.which("ld.lld"), reason="needs clang and ld.lld")


def compiled(folder: Path, source: str, *flags: str) -> elf.Elf:
    (folder / "part.c").write_text(source)
    subprocess.run(["clang", "-c", "-O1", "-g", "-fPIC", *flags, "part.c", "-o", "part.o"], cwd=folder, check=True)
    return elf.read((folder / "part.o").read_bytes(), "part")


def merged() -> elf.Elf:
    parts = [elf.rename(elf.read(data), {kernel_symbol(PLANS[k], HOST): f"toy_{k}"}) for k, data in objects(HOST).items()]
    return elf.merge(parts, ["toy_add", "toy_exp"])


def test_a_merge_exports_the_public_names_only_and_keeps_what_they_need() -> None:
    file = merged()
    assert sorted(file.exports) == ["toy_add", "toy_exp"]
    assert file.imports == ("expf",)
    assert {s.name for s in file.symbols if s.section is not None and s.size} == {"toy_add", "toy_exp"}
    assert not [s.name for s in file.sections if s.name.startswith((".debug", ".comment", ".eh_frame", ".note"))]
    assert 0 < file.code_bytes < sum(elf.read(d).code_bytes for d in objects(HOST).values())


def test_what_is_written_is_read_back() -> None:
    file = merged()
    again = elf.read(elf.write(file))
    assert again.exports == file.exports
    assert [s for s in again.sections if s.name != ".note.GNU-stack"] == list(file.sections)
    assert again.symbols == file.symbols
    assert elf.write(merged()) == elf.write(file)


@needs_clang
@pytest.mark.parametrize("triple", ["x86_64-linux-gnu", "aarch64-linux-gnu", "armv7a-linux-gnueabihf", "riscv64-linux-gnu"])
def test_linkers_take_it(tmp_path: Path, triple: str) -> None:
    source = "int hidden(int x) { return x * 3; } int unused(int x) { return x; }"
    helper = compiled(tmp_path, source, f"--target={triple}", "-ffunction-sections")
    user = compiled(tmp_path, """
        int hidden(int);
        static const int table[] = {5, 7, 11};
        static int twice(int x) { return 2 * x; }
        int (*const jump[2])(int) = {hidden, twice};
        int entry(int x) { return jump[x & 1](x) + table[x % 3]; }""", f"--target={triple}")
    file = elf.merge([helper, user], ["entry"])
    assert file.exports == ("entry",)
    assert file.imports == ()
    assert "unused" not in {s.name for s in file.symbols}
    (tmp_path / "model.o").write_bytes(elf.write(file))
    subprocess.run(["ld.lld", "-shared", "model.o", "-o", "model.so"], cwd=tmp_path, check=True)
    if triple.startswith(HOST.arch):
        entry = ctypes.CDLL(str(tmp_path / "model.so")).entry
        assert [entry(x) for x in range(4)] == [5, 9, 17, 11]


@needs_clang
def test_weak_definitions_give_way(tmp_path: Path) -> None:
    weak = compiled(tmp_path, "__attribute__((weak)) int f(void) { return 1; } int g(void) { return f(); }")
    strong = compiled(tmp_path, "int f(void) { return 2; }")
    also_weak = compiled(tmp_path, "__attribute__((weak)) int f(void) { return 3; }")
    for number, (parts, result) in enumerate([([weak, strong], 2), ([strong, weak], 2), ([weak, also_weak], 1), ([also_weak, weak], 3)]):
        (tmp_path / "model.o").write_bytes(elf.write(elf.merge(parts, ["g"])))
        subprocess.run(["ld.lld", "-shared", "model.o", "-o", f"{number}.so"], cwd=tmp_path, check=True)
        assert ctypes.CDLL(str(tmp_path / f"{number}.so")).g() == result


@needs_clang
def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    one = compiled(tmp_path, "int f(void) { return 1; }")
    with pytest.raises(EdgecError, match="two parts of model define f"):
        elf.merge([one, compiled(tmp_path, "int f(void) { return 2; }")], ["f"], "model")
    with pytest.raises(EdgecError, match="model does not define g"):
        elf.merge([one], ["f", "g"], "model")
    with pytest.raises(EdgecError, match="different machines"):
        elf.merge([one, elf.read(objects(A72)["add"])], ["f"], "model")
    with pytest.raises(EdgecError, match="common symbol c"):
        compiled(tmp_path, "int c;", "-fcommon")


@pytest.mark.parametrize("size", [0, 3, 40, 64, 200, 1000])
def test_broken_files(size: int) -> None:
    with pytest.raises(EdgecError, match="the thing is"):
        elf.read(objects(HOST)["add"][:size], "the thing")


def test_other_formats_are_refused_by_name() -> None:
    with pytest.raises(EdgecError, match="the thing is not an ELF file"):
        elf.read(b"\xcf\xfa\xed\xfe" + bytes(100), "the thing")
