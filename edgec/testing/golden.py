"""Golden cases: a graph before a pass and after it, as text."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgec.access import module
from edgec.errors import SourceError, UsageError
from edgec.ir.graph import Array, Graph
from edgec.ir.types import dtype_name
from edgec.ir.verify import verify
from edgec.lang.text import parse, show
from edgec.lang.text_data import random, same_bits
from edgec.pipeline import Context, Pass, headers, run_passes
from edgec.target import Target, find
from edgec.testing.numeric import numeric_difference

Passlike = Pass | Callable[[Graph], Graph] | str | Path
"""A pass of a catalog, a function from graph to graph, the text of a pipeline, or a file of rules (`*.rules`)."""
SAME = "same"
_ARROW = re.compile(r"^=>[ \t]*", re.MULTILINE)
_VERSION = "edge 1\n"


@dataclass(frozen=True)
class Case:
    """One case of a golden file: the graph before, which begins after line `line`, and the text after it, or `same`."""

    title: str
    before: str
    after: str
    line: int


def check(
    pass_: Passlike, *, before: str, after: str | None = None, target: Target | str | None = None, tolerance: float | None = 1e-4,
) -> None:
    """Assert what a pass makes of a graph; AssertionError shows the difference.

    `after` is the text of the expected graph, or "same" when nothing may change; without it only the numbers are looked at. Types
    that `before` leaves out are inferred. Both graphs have to be well formed and to compute the same on random inputs, up to
    `tolerance` of an output's spread; None skips that.
    """
    graph = typed(before, "before")
    made, text, blobs = _outcome(graph, pass_, target, before)
    if after is not None and text != after.strip():
        expected = _normal(after, graph, blobs, before)
        text = _text(graph, {}, before) if text == SAME else text
        if text != expected:
            raise AssertionError(f"the pass makes another graph:\n{difference_of_texts(expected, text)}")
    check_meaning(graph, made, tolerance)


def typed(text: str, path: str) -> Graph:
    """The graph of a text with the types of all its values, which passes ask for."""
    from edgec.ir.infer import infer  # noqa: PLC0415  it brings onnx along, which takes long to load

    return infer(parse(text, path))


def check_meaning(before: Graph, after: Graph, tolerance: float | None = 1e-4, *, precise: bool = False) -> None:
    """Assert that a graph is well formed and computes what another did, `precise` in float64; AssertionError says what is wrong."""
    if wrong := verify(after):
        raise AssertionError(f"the pass makes a wrong graph: {wrong[0]}")
    if tolerance is not None and after is not before and (found := numeric_difference(before, after, tolerance, precise=precise)):
        raise AssertionError(f"the pass changes what the graph computes: {found}")


def apply(pass_: Passlike, graph: Graph, target: Target | str | None = None) -> Graph:
    """The graph after a pass of any kind."""
    context = Context(target=find(target) if isinstance(target, str) else target)
    if isinstance(pass_, Pass):
        return run_passes(graph, pass_.name, {pass_.name: pass_}, context)
    if isinstance(pass_, Path) or (isinstance(pass_, str) and pass_.endswith(".rules")):
        from edgec.rules.apply import rewrite  # noqa: PLC0415  rules bring onnx along, which takes long to load
        from edgec.rules.check import load  # noqa: PLC0415

        path = Path(pass_)
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the rules {path} cannot be read: {error}") from None
        return rewrite(graph, load(text, str(path)))
    if isinstance(pass_, str):
        return run_passes(graph, pass_, module("passes.catalog").CATALOG, context)
    return pass_(graph)


def cases(text: str) -> Iterator[Case]:
    """The cases of a golden file: `before => after` or `before => same`, between lines of four dashes."""
    line = 0
    for chunk in re.split(r"^----\n", text, flags=re.MULTILINE):
        before, *after = _ARROW.split(chunk, maxsplit=1)
        title = re.search(r'^graph @("[^"]*"|[^\s(]+)', before, re.MULTILINE)
        yield Case(title[1].strip('"') if title else "?", before, after[0].strip() if after else "", line)
        line += chunk.count("\n") + 1


@dataclass(frozen=True)
class Outcome:
    """What became of a case: the text before with all types, the text after or `same`, and what is wrong with its meaning."""

    before: str
    after: str
    wrong: str | None


def outcome(case: Case, whole: str, path: str, root: Path) -> Outcome:
    """What the pass named in the header of a golden file makes of a case; UsageError when none is, or the errors of the pass."""
    asks = headers(whole)
    kinds = [k for k in ("pass", "passes", "rules") if k in asks]
    if len(kinds) != 1:
        raise UsageError(f"{path} begins with one line such as `; pass: fold`, `; passes: fold,cse` or `; rules: passes/absorb.rules`")
    pass_: Passlike = root / asks["rules"] if kinds == ["rules"] else asks[kinds[0]]
    graph = typed("\n" * case.line + case.before, path)
    made, text, _ = _outcome(graph, pass_, asks.get("target"), case.before)
    tolerance, wrong = asks.get("tolerance", "1e-4"), None
    try:
        check_meaning(graph, made, None if tolerance == "none" else float(tolerance))
    except AssertionError as error:
        wrong = str(error)
    return Outcome(_text(graph, {}, case.before), text, wrong)


def replaced(text: str, number: int, after: str) -> str:
    """The text of a golden file whose case of that number has another outcome."""
    chunks = re.split(r"^----\n", text, flags=re.MULTILINE)
    before = _ARROW.split(chunks[number], maxsplit=1)[0]
    chunks[number] = f"{before.rstrip()}\n=>{' ' if after == SAME else chr(10)}{after}\n"
    return "----\n".join(chunks)


def difference_of_texts(expected: str, made: str) -> str:
    """A unified difference of two texts."""
    return "\n".join(difflib.unified_diff(expected.splitlines(), made.splitlines(), "expected", "made", lineterm="", n=2))


def _outcome(graph: Graph, pass_: Passlike, target: Target | str | None, before: str) -> tuple[Graph, str, Mapping[str, Array]]:
    made = apply(pass_, graph, target)
    was: dict[str, Array] = {}
    now: dict[str, Array] = {}
    old, new = _text(graph, was, before), _text(made, now, before)
    same = old == new and all(same_bits(was[k], now[k]) for k in was)
    return made, SAME if same else new, now


def _text(graph: Graph, blobs: dict[str, Array], before: str) -> str:
    """The text of a graph without its version; big tensors that `random N` made in the text before are called so again."""
    text = show(graph, blobs).removeprefix(_VERSION).strip()
    seeds = sorted({int(s) for s in re.findall(r"= random (\d+)", before)})
    for key, array in blobs.items():
        for seed in seeds:
            if (kind := dtype_name(array.dtype)) != "string" and same_bits(array, random(seed, kind, array.shape)):
                text = re.sub(rf'\bblob "{re.escape(key)}"', f"random {seed}", text)
    return text


def _normal(after: str, graph: Graph, blobs: Mapping[str, Array], before: str) -> str:
    """The expected text as it would be printed, so that spaces and comments do not count; as it is when it cannot be read."""
    if after.strip() == SAME:
        return _text(graph, {}, before)
    try:
        return _text(parse(after, "after", blobs), {}, before)
    except SourceError:
        return after.strip()
