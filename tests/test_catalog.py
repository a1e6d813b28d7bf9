"""The table of passes: each is explained, the order is what the reasons say, and names lead to one thing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from edgec.access import folder, module
from edgec.errors import UsageError
from edgec.ir.sweep import name_of
from edgec.lang.text import parse
from edgec.pipeline import read_steps, run_passes
from edgec.testing import random_graph

PASSES, ROOT = folder("passes"), folder("passes").parent
catalog = module("passes.catalog")
NAMES = list(catalog.CATALOG)


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_says_what_it_is_for(name: str) -> None:
    assert catalog.CATALOG[name].name == name
    assert catalog.CATALOG[name].doc.endswith(".")
    assert f"| `{name}.py`" in (PASSES / "README.md").read_text()


def test_every_file_of_rules_is_explained() -> None:
    readme = (PASSES / "README.md").read_text()
    assert not [p.name for p in PASSES.glob("*.rules") if f"`{p.name}`" not in readme]


@pytest.mark.parametrize("pipeline", [catalog.PORTABLE, catalog.DEFAULT, ",".join(NAMES)])
def test_the_pipelines_keep_the_order(pipeline: str) -> None:
    assert read_steps(pipeline, catalog.CATALOG)


@pytest.mark.parametrize(("name", "other"), [(n, o) for n in NAMES for o in catalog.CATALOG[n].after])
def test_a_pass_does_not_stand_before_what_it_needs(name: str, other: str) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot stand before {other}: "):
        read_steps(f"{name},{other}", catalog.CATALOG)


@pytest.mark.parametrize(("name", "other"), [(n, o) for n in NAMES for o in catalog.CATALOG[n].before])
def test_a_pass_does_not_stand_behind_what_needs_it(name: str, other: str) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot stand behind {other}: "):
        read_steps(f"{other},{name}", catalog.CATALOG)


def test_names_of_rewrites_lead_to_one_pass() -> None:
    owners = Counter(name for row in catalog.CATALOG.values() for name in row.rewrites())
    assert not [name for name, count in owners.items() if count > 1]
    assert not set(owners) & set(NAMES) - {"fold"}  # fold does one thing


def test_names_of_changes_are_told_apart() -> None:
    for room in ("canonicalize", "legalize"):
        changes = {c for row in module(f"passes.{room}").CHANGES.values() for c in row}
        assert len({name_of(c) for c in changes}) == len(changes)


def test_a_pass_that_finds_nothing_gives_the_same_graph() -> None:
    graph = parse("graph @g(%x: f32[2]) {\n%y: f32[2] = Relu(%x)\nreturn %y\n}")
    for name in NAMES:
        if name not in ("cluster", "layout"):  # these two look for a target
            assert run_passes(graph, name, catalog.CATALOG) is graph


def test_graphs_are_never_changed() -> None:
    graph = random_graph(3, 30)
    before = (graph.nodes, dict(graph.weights), [a.copy() for a in graph.weights.values()], [dict(n.attrs) for n in graph.nodes])
    run_passes(graph, catalog.PORTABLE, catalog.CATALOG)
    assert (graph.nodes, dict(graph.weights)) == before[:2]
    assert all((a == b).all() for a, b in zip(graph.weights.values(), before[2], strict=True))
    assert [dict(n.attrs) for n in graph.nodes] == before[3]


def test_the_example_of_a_pass_passes_its_tests() -> None:
    example = ROOT / "examples" / "a_pass"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(example)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_of_a_pass_runs_over_a_model(tmp_path: Path) -> None:
    graph = parse("""
    graph @g(%x: f32[2]) {
      %l: f32[] = splat 0.0
      %a: f32[2] = Relu(%x)
      %b: f32[2] = Clip(%a, %l)
      %c: f32[2] = Mul(%b, %b)
      %y: f32[2] = Sqrt(%c)
      return %y
    }""")
    (tmp_path / "model.onnx").write_bytes(graph.to_onnx().SerializeToString())
    command = [sys.executable, str(ROOT / "examples" / "a_pass" / "idle_clips.py"), str(tmp_path / "model.onnx")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr) == ("4 nodes, 2 of them left\n", "")
