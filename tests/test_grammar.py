"""Mistakes in textual graphs are pointed at, and the cache of grammars never gets in the way."""

import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
from lark import Lark

from edgec.errors import SourceError
from edgec.lang import grammar
from edgec.lang.text import parse, parse_type, show

WHOLE = """
graph @net(%x: f32[1,3,224,(W+1)//2]/NHWC, %s: f32[]) where 1 <= W <= 640 {
  %axes: i64[2] = dense [-1, 2]
  %q: i8<0.02:-3>[1,64,?,?] = Conv(%x, %axes, _) {strides=[1, 2], auto_pad="NOTSET", alpha=0.5, t=type seq(f32)} on vip at "layer1/conv"
  %y = If(%s) {then_branch=@1, m=tensor f32[2] splat 1.0}
  return %q, %y
}
graph @1 "then"() { %c = Neg(%q) return %c }
"""
MISTAKES = [
    ("graph @g(%x) {\n  %y = Relu(%z)\n  return %y\n}", "2:13: %z is read before it is defined"),
    ("graph @g(%x) {\n  %x = Relu(%x)\n  return %x\n}", "2:3: %x is defined a second time"),
    ("graph @g(%x, %x) {\n  return %x\n}", "1:14: %x is defined a second time"),
    ("graph @g(%x) {\n  return %y\n}", "2:10: %y is read before it is defined"),
    ("graph @g(%x: f33[1]) {\n  return %x\n}", "1:14: there is no element type f33"),
    ("graph @g(%x: map(f3, f32)) {\n  return %x\n}", "1:18: there is no element type f3"),
    ("graph @g(%x: f32[1,H+]) {\n  return %x\n}", "1:14: 'H+' is no dimension"),
    ("graph @g(%x: f32[1,2]/NHWC) {\n  return %x\n}", "1:14: the layout /NHWC has 4 axes, the shape has 2"),
    ("graph @g(%x: f32/NHWX) {\n  return %x\n}", "1:14: there is no layout 'NHWX'"),
    ("graph @g(%x: f32/0-0) {\n  return %x\n}", "1:14: there is no layout '0-0'"),
    ("graph @g(%x: f32/NCHW0c) {\n  return %x\n}", "1:14: there is no layout 'NCHW0c'"),
    ("graph @g(%x: i8<a>[1]) {\n  return %x\n}", "1:14: <a> is no quantization"),
    ("graph @g() {\n  %w: f32[2,?] = splat 1.0\n  return %w\n}", "2:3: %w needs a type whose dims are all numbers"),
    ("graph @g() {\n  %w = dense [1]\n  return %w\n}", "2:3: %w needs a type whose dims are all numbers"),
    ('graph @g() {\n  %w: f32[2] = blob "7"\n  return %w\n}', '2:21: there is no blob "7"'),
    ("graph @g() {\n  %w: f32[3] = dense [1, 2]\n  return %w\n}", "2:22: the type wants 3 numbers, the list has 2"),
    ("graph @g() {\n  %w: f32[2,2] = dense [[1, 2], [3]]\n  return %w\n}", "2:25: the type wants 2 numbers, the list has 1"),
    ("graph @g() {\n  %w: i8[2] = dense [1, 128]\n  return %w\n}", "2:21: 128 is no i8"),
    ("graph @g() {\n  %w: i8[] = splat 1.5\n  return %w\n}", "2:20: 1.5 is no i8"),
    ('graph @g() {\n  %w: f32[] = splat "a"\n  return %w\n}', '2:21: "a" is no f32'),
    ("graph @g() {\n  %w: string[1] = random 1\n  return %w\n}", "2:26: there are no random strings"),
    ("graph @g() {\n  %a, %w: f32[1] = splat 1.0\n  return %w\n}", "2:7: a constant has one value"),
    ("graph @g() {\n  _: f32[1] = splat 1.0\n  return\n}", "2:3: only an output of a node may have no name"),
    ("graph @g(_) {\n  return\n}", "1:10: only an output of a node may have no name"),
    ("graph @g(%x) {\n  %y = Op(%x) {a=1, a=2}\n  return %y\n}", "2:21: the attribute a is given twice"),
    ("graph @g(%x) {\n  %y = Op(%x) {a=[1, 2x]}\n  return %y\n}", "2:18: '2x' is no number"),
    ("graph @g(%x) {\n  %y = Op(%x) {a=@1}\n  return %y\n}", "2:18: there is no graph @1"),
    ("graph @g(%x) {\n  %y = Op(%x) {a=@g}\n  return %y\n}", "2:18: the graph @g would hold itself"),
    ("graph @g() {\n  return\n}\ngraph @g() {\n  return\n}", "4:7: there are two graphs @g"),
    ("graph @g() {\n  return\n}\ngraph @h() {\n  return\n}", "4:7: no node has the body @h"),
    ("edge 2\ngraph @g() {\n  return\n}", "1:6: this text is of version 2"),
    ("graph @g() where 5 <= H <= 4 {\n  return\n}", "1:18: 5 is more than 4"),
    ('graph @g() {\n  %y = Op(%"a) {}\n  return %y\n}', '2:11: nothing starts with "%" here'),
    ('graph @g() {\n  %y = Op() {a="b\\q"}\n  return %y\n}', "2:16: this string is not closed on its line, or holds an unknown escape"),
    ("graph @g() {\n  %y = Op(\n", '2:11: the text ends here, wanted a %value, ")" or "_"'),
    ("graph @g(%x)\n  %y = Op(%x)\n", '2:3: found "%y", wanted "where" or "{"'),
    ("", '1:1: the text ends here, wanted "edge" or "graph"'),
    ("graph @g() {\n  return $\n}", '2:10: nothing starts with "$" here, wanted a %value or "}"'),
    ("graph @g() {\n  %y = Op() {a=1x}\n  return %y\n}", '2:16: nothing starts with "1" here'),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[m[:40] for _, m in MISTAKES])
def test_every_mistake_is_pointed_at(text: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse(text, "my.edge")
    place, source, caret = str(caught.value).split("\n")
    assert place.startswith(f"my.edge:{message}")
    line, column = map(int, message.split(":")[:2])
    assert source == "  " + text.split("\n")[line - 1]
    assert caret == "  " + " " * (column - 1) + "^"


def test_a_wrong_type_is_pointed_at() -> None:
    with pytest.raises(SourceError, match="<type>:1:5: there is no element type f3"):
        parse_type("seq(f3)")


def broken(folder: Path) -> None:
    for file in folder.glob("edgec/*"):
        file.write_bytes(file.read_bytes()[:1000])


def garbled(folder: Path) -> None:
    for file in folder.glob("edgec/*"):
        file.write_bytes(b"")


def missing(folder: Path) -> None:
    for file in folder.glob("edgec/*"):
        file.unlink()


@pytest.mark.parametrize("harm", [missing, broken, garbled])
def test_a_grammar_is_cached_and_a_harmed_cache_does_no_harm(harm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    messages = []
    for _ in range(3):  # built, cached, harmed and built again
        grammar._parser.cache_clear()
        grammar._words.cache_clear()
        with pytest.raises(SourceError) as caught:
            parse("graph @g() {\n  %y = Op(\n", "my.edge")
        messages.append(str(caught.value))
        assert len(list(tmp_path.glob("edgec/graph-*.grammar"))) == 1
        assert [p.suffix for p in tmp_path.glob("edgec/*")] == [".grammar"]
        if len(messages) == 2:
            harm(tmp_path)
    assert len(set(messages)) == 1


@pytest.mark.parametrize("place", ["a-file", "/proc/no", ""])
def test_a_cache_folder_that_cannot_be_written_is_no_reason_to_fail(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", place and str(tmp_path / place))
    monkeypatch.setenv("HOME", "/proc/nobody")
    grammar._parser.cache_clear()
    assert parse("graph @g() { return }").name == "g"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_folder_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    grammar._parser.cache_clear()
    assert parse("graph @g() { return }").name == "g"


@pytest.mark.parametrize("name", sorted(grammar.STARTS))
def test_the_grammars_have_no_conflict_that_lark_resolves_silently(name: str) -> None:
    pytest.importorskip("interegular")
    Lark(grammar.grammar_text(name), parser="lalr", start=list(grammar.STARTS[name]), maybe_placeholders=True, strict=True)


def test_random_texts_give_errors_with_a_place_and_nothing_else() -> None:
    draw, whole = random.Random(0), show(parse(WHOLE))  # noqa: S311
    for _ in range(300):
        at, length = draw.randrange(len(whole)), draw.randrange(6)
        text = whole[:at] + draw.choice(["", "%", '"', "[", "}", "7", "@1", "f32", "é", "\n"]) + whole[at + length:]
        try:
            parse(text, "my.edge")
        except SourceError as error:
            assert re.match(r"my\.edge:\d+:\d+: ", str(error))  # noqa: PT017
