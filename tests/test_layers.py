"""The architecture, as far as a machine can see it: who may import whom, what lies where, and how long a file may get."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from edgec.access import module

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("edgec", "passes", "targets")
MAX_LINES = 450

# A module imports from lower layers and from its own; the longest prefix of a name decides. `edgec.onnx_read` is a part of `edgec.onnx`.
LAYERS = {
    "edgec.errors": 0, "edgec.access": 0,
    "edgec.ir": 1, "edgec.integer_program": 1,
    "edgec.lang": 2, "edgec.onnx": 2, "edgec.schema": 2, "edgec.cost": 2, "edgec.isa": 2, "edgec.machine": 2, "edgec.target": 2,
    "edgec.partition": 2, "edgec.layouts": 2,
    "edgec.kernels": 3, "edgec.rules": 3,
    "edgec.codegen": 4, "edgec.pipeline": 4, "edgec.interface": 4,
    "passes": 5, "targets": 5, "edgec.session": 5, "edgec.native": 5, "edgec.emulator": 5, "edgec.bundle": 5, "edgec.measure": 5,
    "edgec.simulated": 5, "edgec.peers": 5, "edgec.samples": 5, "edgec.calibrate": 5, "edgec.score": 5, "edgec.history": 5,
    "edgec.report": 5, "edgec.clock": 5, "edgec.piped": 5, "edgec.remote": 5,
    "edgec.build": 6, "edgec.testing": 6, "edgec.verify": 6, "edgec.blame": 6, "edgec.study": 6, "edgec.fitting": 6, "edgec.why": 6,
    "edgec.measuring": 6, "edgec.contest": 6, "edgec.profile": 6,
    "edgec.cli": 7, "edgec.commands": 7,
    "edgec.__main__": 8,
    "edgec": 9,
}
# Conveniences that reach up, at call time only. Besides, everyone may ask `edgec` itself for its version.
UPWARDS = {("edgec.ir.graph", "edgec.onnx")}
# Who may import a library.
OWNERS = {
    "tvm": ("edgec.kernels.emit", "edgec.codegen"),
    "tvm_ffi": ("edgec.kernels.emit", "edgec.codegen"),
    "onnx": ("edgec.onnx", "edgec.schema", "edgec.ir.infer", "edgec.ir.evaluate", "edgec.ir.proto"),
    "onnx_graphsurgeon": ("edgec.onnx",),
    "lark": ("edgec.lang",),
    "onnxruntime": ("edgec.peers",),
    "openvino": ("edgec.peers",),
    "ai_edge_litert": ("edgec.peers",),
    "ncnn": ("edgec.peers",),
}
# Libraries that take long to load: outside these modules they are imported where they are used, inside functions.
SLOW: dict[str, tuple[str, ...]] = {"tvm": OWNERS["tvm"], "tvm_ffi": OWNERS["tvm_ffi"], "onnxruntime": (), "openvino": (),
                                    "ai_edge_litert": (), "ncnn": ()}
HEAVY = {"lark", "numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "scipy", "tvm", "tvm_ffi"}
TOP_LEVEL = {".ci", ".github", ".gitignore", "LICENSE", "README.md", "edgec", "examples", "passes", "pyproject.toml", "targets", "tests"}


@dataclass(frozen=True)
class Import:
    """`module` imports `name` in `line`: when it is loaded, when a function of it is called, or for the type checker only."""

    module: str
    name: str
    line: int
    when: str = "load"

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


def within(name: str, prefix: str) -> bool:
    """Whether a name is of a package or library."""
    return name == prefix or name.startswith(f"{prefix}.")


def part(module: str, whole: str) -> bool:
    """Whether a module of ours is one of ours, or a part of it."""
    return within(module, whole) or module.startswith(f"{whole}_")


def layer(name: str) -> int:
    known = [p for p in LAYERS if part(name, p) and (p != "edgec" or name == "edgec")]
    assert known, f"{name} is in no layer: give it one in {Path(__file__).name}"
    return LAYERS[max(known, key=len)]


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in (p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, source: str, known: frozenset[str]) -> Iterator[Import]:
    def visit(node: ast.AST, when: str) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                yield from (Import(module, n.name, node.lineno, when) for n in names)
            case ast.ImportFrom(module=origin, names=names, level=0) if origin is not None:
                for n in names:
                    whole = f"{origin}.{n.name}"
                    yield Import(module, whole if whole in known else origin, node.lineno, when)
            case ast.ImportFrom():
                pytest.fail(f"{module}:{node.lineno} uses a relative import")
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body):
                for statement in body:
                    yield from visit(statement, "types")
            case _:
                inner = "call" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) else when
                for child in ast.iter_child_nodes(node):
                    yield from visit(child, inner)

    yield from visit(ast.parse(source), "load")


@cache
def imports() -> tuple[Import, ...]:
    known = frozenset(modules())
    return tuple(i for name, path in modules().items() for i in imports_of(name, path.read_text(), known))


def own(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


def listing(*patterns: str) -> list[str]:
    """The files that git tracks or would track."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    return [f for f in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines() if (ROOT / f).exists()]


def test_the_reader_of_imports_sees_what_it_should() -> None:
    source = "import tvm\nfrom edgec import ir\nif TYPE_CHECKING:\n    import onnx\ndef f():\n    from edgec.ir import graph\n"
    found = [(i.name, i.line, i.when) for i in imports_of("m", source, frozenset({"edgec.ir", "edgec.ir.graph"}))]
    assert found == [("tvm", 1, "load"), ("edgec.ir", 2, "load"), ("onnx", 4, "types"), ("edgec.ir.graph", 6, "call")]
    assert layer("edgec.ir.graph") == 1
    assert layer("edgec") == 9


def test_imports_go_down() -> None:
    wrong = [str(i) for i in imports() if own(i.name) and i.name not in {i.module, "edgec"} and layer(i.name) > layer(i.module)
             and not (i.when != "load" and (i.module, i.name) in UPWARDS)]
    assert not wrong


def test_passes_and_targets_are_reached_through_one_door() -> None:
    # edgec.access imports the two by name: a plain import would find a user's folder `passes` or `targets` first
    wrong = [str(i) for i in imports() for p in ("passes", "targets") if within(i.name, p) and not within(i.module, p)]
    assert not wrong


def test_there_are_no_circles() -> None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for i in imports():
        if i.when != "types" and i.name in modules() and i.name not in {i.module, "edgec"} and (i.module, i.name) not in UPWARDS:
            sorter.add(i.module, i.name)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("library", OWNERS)
def test_only_its_owners_import(library: str) -> None:
    wrong = [str(i) for i in imports() if within(i.name, library) and not any(part(i.module, o) for o in OWNERS[library])]
    assert not wrong


@pytest.mark.parametrize("library", SLOW)
def test_slow_libraries_are_imported_late(library: str) -> None:
    slow, grown = set[str](), True
    while grown:
        more = {i.module for i in imports() if i.when == "load" and (within(i.name, library) or i.name in slow)} - slow
        slow, grown = slow | more, bool(more)
    assert not {m for m in slow if not any(part(m, o) for o in SLOW[library])}


def test_each_pass_is_a_row_a_file_a_golden_file_and_a_test() -> None:
    catalog = module("passes.catalog").CATALOG
    assert {row.run.__module__ for row in catalog.values()} == {f"passes.{name}" for name in catalog}
    assert {p.stem for p in (ROOT / "passes").glob("*.py")} - {"__init__", "catalog"} == set(catalog)
    assert {p.stem for p in (ROOT / "tests" / "golden").glob("*.edge")} >= set(catalog)
    tests = "".join(p.read_text() for p in (ROOT / "tests").glob("test_*.py") if p.name != Path(__file__).name)
    assert not {name for name in catalog if not re.search(rf"\b{name}\b", tests)}


def test_import_edgec_loads_nothing_heavy() -> None:
    code = f"import sys, edgec; print(*sorted({{m.partition('.')[0] for m in sys.modules}} & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_the_top_level_is_what_it_should_be() -> None:
    assert {f.partition("/")[0] for f in listing()} == TOP_LEVEL


def test_no_file_is_too_long() -> None:
    long = {f: n for f in listing("*.py") if (n := len((ROOT / f).read_text().splitlines())) > MAX_LINES}
    assert not long
