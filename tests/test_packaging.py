"""The wheel: it holds everything, and what it installs works wherever its user stands."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("edgec", "passes", "targets")


def run(command: Sequence[str | Path], cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    done = run(["-m", "hatchling", "build", "-t", "wheel", "-d", folder], ROOT)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)  # a pure wheel is installed by unpacking it
    return folder


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {n for n in archive.namelist() if ".dist-info/" not in n}
    lying = {p.relative_to(ROOT).as_posix() for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file()}
    assert packed == {p for p in lying if "__pycache__" not in p}


def test_the_wheel_holds_license_readme_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        about = {n.rpartition(".dist-info/")[2]: archive.read(n).decode() for n in archive.namelist() if ".dist-info/" in n}
    assert about["licenses/LICENSE"] == (ROOT / "LICENSE").read_text()
    assert (ROOT / "README.md").read_text().strip() in about["METADATA"].replace("\r\n", "\n")
    assert "edgec = edgec.cli:main" in about["entry_points.txt"]


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A user's folder with a package `passes` and a module `targets` of its own."""
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "__init__.py").write_text("raise SystemExit('a stranger was run')\n")
    (tmp_path / "targets.py").write_text("raise SystemExit('a stranger was run')\n")
    return tmp_path


SCRIPT = "import sys; from edgec.cli import main; sys.exit(main())"


@pytest.mark.parametrize("command", [("-m", "edgec"), ("-c", SCRIPT)], ids=["module", "script"])
def test_commands_work_where_the_user_has_a_passes_and_a_targets(installed: Path, strange: Path, command: tuple[str, ...]) -> None:
    for arguments, expected in (("--version",), "0."), (("targets",), "cortex-a72"), (("passes",), "absorb"):
        done = run([*command, *arguments], strange, installed)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert expected in done.stdout


def test_import_works_where_the_user_has_a_passes_and_a_targets(installed: Path, strange: Path) -> None:
    done = run(["-c", "import edgec; print(*edgec.targets())"], strange, installed)
    assert done.returncode == 0, done.stderr
    assert "cortex-a72" in done.stdout
