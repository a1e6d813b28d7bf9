"""Random graphs through every prefix of the pipeline: passes may change a graph, and never what it computes."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgec.access import module
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.sweep import Sweep, sweep
from edgec.lang.syntax import Repeat, Run
from edgec.lang.text import show
from edgec.pipeline import Context, Pass, bisect, interface_changes, read_steps, run_passes, show_steps
from edgec.testing import numeric_difference, random_graph

CATALOG, PORTABLE = module("passes.catalog").CATALOG, module("passes.catalog").PORTABLE


def prefixes(steps: tuple[Run | Repeat, ...]) -> list[str]:
    """Every beginning of a pipeline, beginnings of its repeated parts included."""
    made = []
    for i, step in enumerate(steps):
        inner = prefixes(step.steps)[:-1] if isinstance(step, Repeat) else []
        before = [show_steps(steps[:i])] if i else []
        made += [",".join([*before, p]) for p in inner]
        made.append(show_steps(steps[:i + 1]))
    return made


PREFIXES = prefixes(read_steps(PORTABLE, CATALOG))


@cache
def graph(seed: int) -> Graph:
    return random_graph(seed, 4 + seed % 37)


def same(before: Graph, after: Graph) -> bool:
    return not interface_changes(before, after) and numeric_difference(before, after, 1e-4, seeds=2) is None


def explain(before: Graph, pipeline: str, context: Context) -> str:
    """What an assertion says: the first rewrite that is to blame, and the graph."""
    blame = bisect(before, pipeline, CATALOG, lambda g: same(before, g), context)
    return f"{blame} is wrong in {pipeline}:\n{show(before)}"


def test_the_prefixes_are_those_of_the_pipeline() -> None:
    assert PREFIXES[0] == "canonicalize"
    assert "canonicalize,fold" in PREFIXES
    assert PREFIXES[-1] == PORTABLE
    assert len(PREFIXES) == len(set(PREFIXES)) > 8


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(PREFIXES))
@example(4, PORTABLE)
def test_no_prefix_changes_what_a_graph_computes(seed: int, prefix: str) -> None:
    before = graph(seed)
    after = run_passes(before, prefix, CATALOG)
    assert same(before, after), explain(before, prefix, Context())


@pytest.mark.parametrize("seed", range(40))
def test_the_whole_pipeline_changes_nothing_twice(seed: int) -> None:
    before = graph(seed)
    after = run_passes(before, PORTABLE, CATALOG)
    assert same(before, after), explain(before, PORTABLE, Context())
    assert run_passes(after, PORTABLE, CATALOG) is after


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 40))
def test_any_number_of_rewrites_is_right(seed: int, limit: int) -> None:
    before = graph(seed)
    context = Context(limit=limit)
    assert same(before, run_passes(before, PORTABLE, CATALOG, context))
    assert len(context.trace) <= limit


@pytest.mark.parametrize("name", ["canonicalize", "fold", "cse", "legalize", "absorb", "explicit-window", "positive-axis", "full-slice"])
def test_the_pipeline_is_right_without_any_one_of_its_parts(name: str) -> None:
    for seed in range(6):
        before = graph(seed)
        context = Context(disabled=frozenset({name}))
        assert same(before, run_passes(before, PORTABLE, CATALOG, context)), explain(before, PORTABLE, context)


@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_rewrite_is_found_and_named(seed: int) -> None:
    def forget_attributes(node: Node, edit: Sweep) -> Sequence[Value] | None:
        return edit.remake(node, attrs={k: a for k, a in node.attrs.items() if k != "pads"}) if any(node.attrs.get("pads", ())) else None

    def spoil(before: Graph, context: Context) -> Graph:
        return sweep(before, {"Conv": (forget_attributes,)}, context)

    def padded(made: Graph) -> bool:
        return any(n.op == "Conv" and any(n.attrs.get("pads", ())) for n in made.nodes)

    before = next(filter(padded, map(graph, range(seed * 10, 1000))))
    catalog = {**CATALOG, "spoil": Pass("spoil", "", spoil)}
    blame = bisect(before, "canonicalize,spoil,fold", catalog, padded)
    assert blame is not None
    assert (blame.step, blame.name) == ("spoil", "forget-attributes")
