"""Kernels compiled by workers: remembered by content, the same bytes always, errors that say which kernel."""

from pathlib import Path

import pytest

from edgec.codegen import elf
from edgec.codegen import object as object_module
from edgec.codegen.object import compile_kernels, cpu_features, kernel_symbol, kernel_texts, prestart, remember, stop_workers
from edgec.errors import Cancelled, EdgecError
from tests.toybundle import A72, A76, EMITTER, HOST, PLANS
from tests.toykernels import Toy

Seen = list[tuple[int, int, str]]


def compiled(folder: Path, plans: dict[str, Toy], notes: list[str] | None = None, seen: Seen | None = None) -> dict[str, bytes]:
    return compile_kernels(plans, HOST, cache_dir=folder, emitter=EMITTER, jobs=2,
                           note=None if notes is None else notes.append,
                           progress=None if seen is None else lambda done, total, key: seen.append((done, total, key)))


def test_one_function_with_a_name_made_of_its_content(tmp_path: Path) -> None:
    objects = compiled(tmp_path, {**PLANS, "again": PLANS["add"]})
    assert list(objects) == [*PLANS, "again"]
    assert objects["again"] == objects["add"]
    for key, plan in PLANS.items():
        file = elf.read(objects[key])
        assert [e for e in file.exports if not e.startswith("__")] == [kernel_symbol(plan, HOST)]
        assert file.imports == (("expf",) if key == "exp" else ())
    assert len({kernel_symbol(p, i) for p in PLANS.values() for i in (HOST, A72, A76)}) == 3 * len(PLANS)


def test_cache(tmp_path: Path) -> None:
    seen: Seen = []
    first = compiled(tmp_path, PLANS, seen=seen)
    assert [done for done, _, _ in seen] == [1, 2, 3, 4]
    seen.clear()
    assert compiled(tmp_path, PLANS, seen=seen) == first
    assert seen == [(4, 4, "cached")]
    entries = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(entries) == 4


def test_workers_start_ahead_only_for_what_was_not_built_before(tmp_path: Path) -> None:
    def waiting() -> int:
        stop_workers()
        prestart("a model for a machine", jobs=1, cache_dir=tmp_path)
        return len(object_module._idle)

    assert waiting() == 1
    assert list(compiled(tmp_path, PLANS)) == list(PLANS)      # by the worker that waits, and another one
    remember("a model for a machine", cache_dir=tmp_path)
    assert waiting() == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "swapped"])
def test_damaged_cache_entries_are_made_again(tmp_path: Path, damage: str) -> None:
    first = compiled(tmp_path, PLANS)
    for path in [p for p in tmp_path.rglob("*.o") if p.is_file()]:
        data = bytearray(path.read_bytes())
        if damage == "flipped":
            data[-100] ^= 1
        other = next(p for p in tmp_path.rglob("*.o") if p != path)
        path.write_bytes({"truncated": bytes(data[:-1]), "empty": b"", "flipped": bytes(data), "swapped": other.read_bytes()}[damage])
    notes: list[str] = []
    assert compiled(tmp_path, PLANS, notes) == first
    assert len(notes) == 1
    assert "damaged" in notes[0]
    notes.clear()
    assert compiled(tmp_path, PLANS, notes) == first
    assert notes == []


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    notes: list[str] = []
    assert compiled(tmp_path / "file", {"add": PLANS["add"]}, notes)
    assert len(notes) == 1
    assert "cannot be written" in notes[0]


def test_errors_name_the_kernel_and_its_plan(tmp_path: Path) -> None:
    with pytest.raises(EdgecError, match=r"the kernel of conv1\+relu1 cannot be compiled for .*cannot be a kernel.*plan is Toy\("):
        compile_kernels({"k": Toy("broken", 1, 1)}, HOST, cache_dir=tmp_path, emitter=EMITTER, origins={"k": "conv1+relu1"})
    with pytest.raises(EdgecError) as caught:
        compiled(tmp_path, {"k": Toy("broken", 1, 1)})
    assert "Traceback" in caught.value.__notes__[0]
    with pytest.raises(EdgecError, match="the kernel of k needs elsewhere, which no device has"):
        compiled(tmp_path, {"k": Toy("foreign", 1, 1)})
    with pytest.raises(EdgecError, match=r"the kernel of k cannot be compiled.*died"):
        compiled(tmp_path, {"k": Toy("crash", 1, 1)})
    assert not list(tmp_path.rglob("*.o"))


def test_cancel(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        compile_kernels(PLANS, HOST, cache_dir=tmp_path, emitter=EMITTER, cancelled=lambda: True)
    assert compiled(tmp_path, PLANS)


def test_texts() -> None:
    plans = {"add": PLANS["add"]}
    assert "T.prim_func" in kernel_texts(plans, A72, "tir", emitter=EMITTER)["add"]
    assert "define" in kernel_texts(plans, A72, "ll", emitter=EMITTER)["add"]
    assert "fadd" in kernel_texts(plans, A72, "asm", emitter=EMITTER)["add"]


def test_cpu_features() -> None:
    assert "dotprod" in cpu_features(A76)
    assert "dotprod" not in cpu_features(A72)


def test_workers_leave_the_terminal_alone(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    compiled(tmp_path, PLANS)
    assert capfd.readouterr() == ("", "")
