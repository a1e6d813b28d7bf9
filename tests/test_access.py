"""edgec finds its own `passes` and `targets`, whatever the folder holds in which it is started."""

import subprocess
import sys
from pathlib import Path

import pytest

import edgec
from edgec import access
from edgec.errors import EdgecError

ROOT = Path(edgec.__file__).parent.parent


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder of a user who has a package `passes` and a module `targets` of their own, both of which must not even run."""
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "__init__.py").write_text("raise SystemExit('the stranger passes ran')")
    (tmp_path / "targets.py").write_text("raise SystemExit('the stranger targets ran')")
    return tmp_path


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program as `python -c` does, the folder first on the path and edgec behind it."""
    search = f"import sys; sys.path.append({str(ROOT)!r})\n"
    return subprocess.run([sys.executable, "-c", search + program], cwd=folder, capture_output=True, text=True, check=False)


def test_own_rooms_win_over_the_folder_one_is_in(foreign: Path) -> None:
    done = run(foreign, """if True:
        import edgec
        from edgec import access
        print(access.module("passes").__file__)
        print(access.module("targets").__file__)
        import targets
        print(targets.__file__)""")
    assert done.stderr == ""
    assert done.stdout.split() == [str(ROOT / r / "__init__.py") for r in ("passes", "targets", "targets")]


def test_targets_are_found_from_a_foreign_folder(foreign: Path) -> None:
    done = run(foreign, "from edgec import target\nprint(target.find('cortex-a72').name)")
    assert (done.stdout, done.stderr) == ("cortex-a72\n", "")


def test_a_module_runs_as_a_program_from_a_foreign_folder(foreign: Path) -> None:
    done = run(foreign, """if True:
        import runpy
        runpy.run_module("edgec.access", run_name="__main__")
        from edgec import access
        print(access.module("targets").__doc__)""")
    assert done.returncode == 0
    assert "what edgec knows about machines" in done.stdout


@pytest.mark.parametrize("room", ["passes", "targets"])
def test_a_stranger_that_came_first_is_refused_by_name(tmp_path: Path, room: str) -> None:
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "__init__.py").write_text("")
    (tmp_path / "targets.py").write_text("")
    done = run(tmp_path, f"""if True:
        import {room}
        from edgec import access
        from edgec.errors import UsageError
        try:
            access.module("{room}")
        except UsageError as refusal:
            print(refusal)""")
    assert done.stderr == ""
    assert f"edgec has a package called {room}, but {tmp_path / room}" in done.stdout


def test_a_stranger_without_a_file_is_refused_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "passes").mkdir()
    done = run(tmp_path, f"""if True:
        sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]
        import passes
        sys.path.append({str(ROOT)!r})
        from edgec import access
        access.module("passes")""")
    assert f"but {tmp_path / 'passes'} was imported under that name first" in done.stderr.splitlines()[-1]


def test_importing_edgec_imports_neither_room() -> None:
    done = run(ROOT, "import edgec, edgec.access\nprint(sorted({'passes', 'targets', 'tvm', 'onnx', 'lark'} & set(sys.modules)))")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_files_of_a_room_come_in_the_order_of_their_paths() -> None:
    found = access.files("targets", "**/*.target")
    assert found == sorted(found)
    assert ROOT / "targets" / "arm" / "cortex.target" in found


def test_there_are_no_other_rooms() -> None:
    with pytest.raises(EdgecError, match="package tests is missing"):
        access.folder("tests")
