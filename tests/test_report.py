"""`edgec report`: a page that holds everything, needs nothing else, and says what the manifest says."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import edgec
from edgec.cli import main
from edgec.codegen.manifest import read_manifest
from edgec.report.page import page
from edgec.report.pictures import edges, lifetimes
from tests import tiny

VOID = {"meta", "rect", "line", "path", "br"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.links: list[str] = []
        self.text: list[str] = []
        self.rects: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        facts = dict(attrs)
        self.classes.update((facts.get("class") or "").split())
        self.links += [str(v) for k, v in attrs if k in {"src", "href", "data", "action"}]
        if tag == "rect" and "title" not in self.open:
            self.rects.append(facts)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual network whose names are as hostile to HTML as they can be."""
    random = np.random.default_rng(0)
    weights = {n: (random.standard_normal((8, c, 3, 3)) / 5).astype(np.float32) for n, c in (("w1", 3), ("w2", 8))}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first<script>", pads=[1, 1, 1, 1]), helper.make_node("Relu", ["a"], ["r"], "act&'\""),
        helper.make_node("Conv", ["r", "w2"], ["b"], "second", pads=[1, 1, 1, 1]), helper.make_node("Add", ["b", "r"], ["s"], "sum"),
        helper.make_node("MaxPool", ["s"], ["y"], "pool", kernel_shape=[2, 2]),
    ]
    folder = tmp_path_factory.mktemp("report")
    model = tiny.save(tiny.of(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 8, 7, 7]}, weights), folder / "res.onnx")
    return edgec.build(model, output=folder / "res.edgec").path


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> dict[str, Any]:
    return read_manifest(bundle)


def test_the_command_writes_a_page_and_says_where(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(bundle)]) == 0
    assert capsys.readouterr().out == "res.html\n"
    assert main(["report", str(bundle), "-o", "deep/er.html"]) == 0
    assert (tmp_path / "deep/er.html").read_bytes() == (tmp_path / "res.html").read_bytes()
    assert main(["report", str(tmp_path)]) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "res.html"]


def test_the_page_is_well_formed_and_needs_nothing_else(manifest: dict[str, Any]) -> None:
    text = page(manifest)
    seen = Page(text)
    assert seen.links == []
    assert not re.search(r"https?:|@import|url\(", text)
    assert (seen.tags["html"], seen.tags["style"], seen.tags["script"], seen.tags["svg"]) == (1, 1, 1, 2)
    assert "first<script>" in "".join(seen.text)  # told as text, because the count of script tags is one


def test_the_page_says_what_the_manifest_says(manifest: dict[str, Any]) -> None:
    text = "".join(Page(page({**manifest, "notes": ["a note & more"]})).text)
    for said in (manifest["model_sha256"], manifest["id"], f"{manifest['report']['predicted_ms']:.3f} ms", "45nm", "a note & more",
                 *manifest["tools"].values(), *manifest["passes"], *(k["algo"] for k in manifest["kernels"].values()),
                 *(s["origin"] for s in manifest["steps"])):
        assert said in text
    shares = re.findall(r'class="number share" data-value="([\d.]+)"', page(manifest))
    assert len(shares) == len(manifest["steps"])
    assert sum(map(float, shares)) == pytest.approx(1)


def test_the_arena_shows_each_buffer_while_it_lives(manifest: dict[str, Any]) -> None:
    life = lifetimes(manifest)
    names = {manifest["buffers"][b]["name"]: steps for b, steps in life.items()}
    assert names == {"r": (0, 1), "s": (1, 2)}
    seen = Page(page(manifest))
    assert seen.classes["buffer"] == len(life)
    assert seen.classes["bound"] == 1
    heights = [float(r["height"] or 0) for r in seen.rects if "fill-opacity" in r]
    sizes = [manifest["buffers"][b]["bytes"] for b in life]
    assert heights == pytest.approx([380 * size / manifest["sizes"]["arena_bytes"] for size in sizes], abs=0.01)


def test_the_graph_connects_makers_and_readers(manifest: dict[str, Any]) -> None:
    assert [s["op"] for s in manifest["steps"]] == ["Conv", "Conv", "MaxPool"]
    x = next(i for i, b in enumerate(manifest["buffers"]) if b["region"] == "input")
    assert edges(manifest) == [(-1 - x, 0), (0, 1), (1, 2)]
    seen = Page(page(manifest))
    assert (seen.classes["node"], seen.classes["port"], seen.classes["edge"]) == (3, 1, 3)


def test_a_bundle_without_kernels_has_a_page(tmp_path: Path) -> None:
    model = tiny.of([helper.make_node("Relu", ["x"], ["y"])], {"x": [4]}, {"y": [4]})
    manifest = read_manifest(edgec.build(tiny.save(model, tmp_path / "m.onnx"), output=tmp_path / "m.edgec").path)
    assert "There is no arena" in page(manifest)
    nothing = {**manifest, "steps": [], "kernels": {}, "report": {**manifest["report"], "energy": None}}
    assert "No kernel runs" in page(nothing)
    assert Page(page(nothing)).tags["svg"] == 0
