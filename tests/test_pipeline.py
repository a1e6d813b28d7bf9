"""The runner of passes, without any real pass: names, options, order, and what watchers see."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgec.errors import BadInput, Cancelled, SourceError, UsageError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Layout
from edgec.ir.types import Tensor
from edgec.lang.text import load, parse, show
from edgec.pipeline import (
    Catalog,
    Context,
    Pass,
    PassFailed,
    Rewrite,
    Watch,
    bisect,
    headers,
    interface_changes,
    read_steps,
    run_passes,
    show_steps,
)

TEXT = """
graph @chain(%x: f32[2]) {
  %a: f32[2] = Relu(%x) at "first"
  %b: f32[2] = Relu(%a) at "second"
  %c: f32[2] = Relu(%b) at "third"
  return %c
}
"""


def rename_to(op: str) -> Any:
    """A pass that turns every Relu into another operator, one rewrite each."""
    def run(graph: Graph, context: Context) -> Graph:
        nodes = []
        for node in graph.nodes:
            if node.op == "Relu" and context.may(f"to-{op.lower()}"):
                context.did(f"to-{op.lower()}", node)
                nodes.append(replace(node, op=op))
            else:
                nodes.append(node)
        return replace(graph, nodes=tuple(nodes)) if any(a is not b for a, b in zip(nodes, graph.nodes, strict=True)) else graph

    return run


def crash(graph: Graph, _: Context) -> Graph:
    raise IndexError(f"{len(graph.nodes)} is too many")


def forget_types(graph: Graph, _: Context) -> Graph:
    return replace(graph, outputs=(Value("other", graph.outputs[0].type),))


def retype_output(graph: Graph, _: Context) -> Graph:
    out = Value("c", Tensor("f16", (2,)))
    return replace(graph, outputs=(out,), nodes=(*graph.nodes[:-1], replace(graph.nodes[-1], outputs=(out,))))


def restless(graph: Graph, _: Context) -> Graph:
    return replace(graph)


def with_options(graph: Graph, context: Context) -> Graph:
    context.note(" ".join(f"{k}={v}" for k, v in context.options.items()))
    return graph


CATALOG: Catalog = {p.name: p for p in (
    Pass("tanh", "", rename_to("Tanh"), rewrites=lambda: ["to-tanh"], before={"late": "it comes last"}),
    Pass("abs", "", rename_to("Abs"), rewrites=lambda: ["to-abs"]),
    Pass("late", "", lambda g, _: g, after={"abs": "it reads what abs writes"}),
    Pass("crash", "", crash), Pass("other-name", "", forget_types), Pass("other-type", "", retype_output), Pass("restless", "", restless),
    Pass("tuned", "", with_options, options={"most": 8, "share": 0.5, "fast": False, "mode": "slow"}),
)}


@pytest.fixture
def graph() -> Graph:
    return parse(TEXT)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def options_of(text: str) -> str:
    context = Context()
    run_passes(parse(TEXT), text, CATALOG, context)
    return context.notes[0]


def test_steps_run_in_order_and_are_timed(graph: Graph) -> None:
    context = Context()
    made = run_passes(graph, "abs,tanh", CATALOG, context)
    assert ops(made) == ["Abs"] * 3
    assert [name for name, _ in context.times] == ["abs", "tanh"]
    assert context.trace == [Rewrite("abs", "to-abs", origin) for origin in ("first", "second", "third")]


def test_nothing_to_do_gives_the_same_graph(graph: Graph) -> None:
    assert run_passes(graph, "", CATALOG) is graph
    assert run_passes(graph, ["late", "late"], CATALOG) is graph


def test_a_pass_that_is_in_no_catalog_can_be_given_itself(graph: Graph) -> None:
    own = Pass("mine", "", rename_to("Exp"), after={"late": "it wants to"})
    assert ops(run_passes(graph, ["late", own], CATALOG)) == ["Exp"] * 3
    with pytest.raises(UsageError, match="mine cannot stand before late: it wants to"):
        run_passes(graph, [own, "late"], CATALOG)


def test_repeat_ends_when_nothing_changes(graph: Graph) -> None:
    context = Context()
    run_passes(graph, "repeat(abs,repeat(tanh))", CATALOG, context)
    assert [name for name, _ in context.times] == ["abs", "tanh", "abs", "tanh"]


def test_a_repeat_that_never_ends_is_a_failure(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(PassFailed, match="the steps restless do not settle in 100 rounds") as failure:
        run_passes(graph, "repeat(restless)", CATALOG, watch=Watch(crashes=tmp_path))
    assert headers(failure.value.reproducer.read_text())["passes"] == "repeat(restless)"


def test_options_have_defaults_and_kinds() -> None:
    assert options_of("tuned") == "most=8 share=0.5 fast=False mode=slow"
    assert options_of("tuned{most=2 * 8, share=1, fast, mode=quick}") == "most=16 share=1.0 fast=True mode=quick"
    assert options_of('tuned{fast=false, mode="a b", share=-1/4}') == "most=8 share=-0.25 fast=False mode=a b"


@pytest.mark.parametrize(("pipeline", "message"), [
    ("ab", "no pass is called ab; did you mean abs"),
    ("repeat(abs,zzz)", "no pass is called zzz; `edgec passes` lists them"),
    ("tuned{moist=1}", "the pass tuned has no option moist; did you mean most?; it has most, share, fast, mode"),
    ("abs{most=1}", "the pass abs has no option most; it has none"),
    ("tuned{most=0.5}", "the option most of tuned is 0.5, but int is wanted, such as 8"),
    ("tuned{fast=1}", "the option fast of tuned is 1, but bool is wanted"),
    ("tuned{most=1/0}", "the option most of tuned has no value"),
    ("late,tanh", "tanh cannot stand behind late: it comes last"),
    ("late,repeat(abs)", "late cannot stand before abs: it reads what abs writes"),
])
def test_bad_pipelines_are_refused(graph: Graph, pipeline: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        run_passes(graph, pipeline, CATALOG)
    assert message in str(error.value)


def test_a_pipeline_that_cannot_be_read_says_where(graph: Graph) -> None:
    with pytest.raises(SourceError, match="<pipeline>:1:5"):
        run_passes(graph, "abs,,abs", CATALOG)


def test_a_pass_may_stand_again_behind_what_it_comes_before(graph: Graph) -> None:
    assert ops(run_passes(graph, "abs,late,abs", CATALOG)) == ["Abs"] * 3


def test_steps_print_as_they_are_read() -> None:
    text = 'abs,repeat(tuned{most=3, fast, mode="x"},late),late'
    assert show_steps(read_steps(text, CATALOG)) == text


def test_a_pass_or_a_rewrite_can_be_disabled(graph: Graph) -> None:
    assert ops(run_passes(graph, "abs,tanh", CATALOG, Context(disabled=frozenset({"abs"})))) == ["Tanh"] * 3
    assert ops(run_passes(graph, "abs,tanh", CATALOG, Context(disabled=frozenset({"to-abs"})))) == ["Tanh"] * 3
    with pytest.raises(UsageError, match=r"nothing called to-aps can be disabled: .*; did you mean to-abs\?"):
        run_passes(graph, "abs", CATALOG, Context(disabled=frozenset({"to-aps"})))


def test_the_limit_counts_rewrites(graph: Graph) -> None:
    assert ops(run_passes(graph, "abs,tanh", CATALOG, Context(limit=2))) == ["Abs", "Abs", "Relu"]
    assert run_passes(graph, "abs,tanh", CATALOG, Context(limit=0)) is graph


def test_bisection_finds_the_rewrite(graph: Graph) -> None:
    assert bisect(graph, "abs", CATALOG, lambda g: ops(g)[1] == "Relu") == Rewrite("abs", "to-abs", "second")
    assert bisect(graph, "abs", CATALOG, lambda g: ops(g)[2] == "Relu") == Rewrite("abs", "to-abs", "third")
    assert bisect(graph, "abs", CATALOG, lambda _: True) is None
    with pytest.raises(UsageError, match="wrong before any rewrite"):
        bisect(graph, "abs", CATALOG, lambda _: False)


def test_stop_after(graph: Graph) -> None:
    assert ops(run_passes(graph, "abs,tanh", CATALOG, watch=Watch(stop_after="abs"))) == ["Abs"] * 3
    context = Context()
    run_passes(graph, "repeat(repeat(tuned,abs),tanh),tuned", CATALOG, context, Watch(stop_after="abs"))
    assert [name for name, _ in context.times] == ["tuned", "abs"]
    with pytest.raises(UsageError, match=r"no step abz to stop after; did you mean abs\?"):
        run_passes(graph, "abs", CATALOG, watch=Watch(stop_after="abz"))


def test_dumps_are_numbered_and_can_be_loaded_and_steps_that_change_nothing_leave_none(graph: Graph, tmp_path: Path) -> None:
    made = run_passes(graph, "abs,late,restless", CATALOG, watch=Watch(dump=tmp_path / "deep" / "dumps"))
    files = sorted(p.name for p in (tmp_path / "deep" / "dumps").iterdir())
    assert files == ["00-input.edge", "01-abs.edge", "03-restless.edge"]
    assert show(load(tmp_path / "deep" / "dumps" / "03-restless.edge")) == show(made)


def test_a_dump_folder_that_cannot_be_made_is_bad_input(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        run_passes(graph, "abs", CATALOG, watch=Watch(dump=tmp_path / "file" / "dumps"))


def test_progress_hears_each_step_and_may_stop(graph: Graph) -> None:
    heard: list[str] = []

    def stop_at_tanh(step: str) -> None:
        heard.append(step)
        if step == "tanh":
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        run_passes(graph, "abs,tanh,abs", CATALOG, watch=Watch(progress=stop_at_tanh))
    assert heard == ["abs", "tanh"]


@pytest.mark.parametrize(("step", "message"), [
    ("crash", "the pass crash crashed with IndexError: 3 is too many"),
    ("other-name", "the pass other-name made a wrong graph: the graph returns %other, which nobody makes"),
    ("other-type", "the pass other-type made a wrong graph: the output c was f32[2] and is f16[2]"),
])
def test_a_failure_leaves_one_file_that_shows_it_again(graph: Graph, tmp_path: Path, step: str, message: str) -> None:
    with pytest.raises(PassFailed) as failure:
        run_passes(graph, f"abs,{step}", CATALOG, watch=Watch(crashes=tmp_path / "crashes"))
    path = failure.value.reproducer
    assert str(failure.value) == f"{message}; {path} shows it again: edgec opt {path}"
    assert list((tmp_path / "crashes").iterdir()) == [path]
    with pytest.raises(PassFailed) as again:
        run_passes(load(path), headers(path.read_text())["passes"], CATALOG, watch=Watch(crashes=tmp_path / "again"))
    assert str(again.value).partition(";")[0] == message


def test_a_reproducer_holds_big_weights_too(tmp_path: Path) -> None:
    graph = parse("graph @g(%x: f32[40]) {\n  %w: f32[40] = random 1\n  %y: f32[40] = Add(%x, %w)\n  return %y\n}")
    with pytest.raises(PassFailed) as failure:
        run_passes(graph, "crash", CATALOG, watch=Watch(crashes=tmp_path))
    (path,) = tmp_path.iterdir()
    (before,), (after,) = graph.weights.values(), load(path).weights.values()
    assert path == failure.value.reproducer
    assert (before == after).all()


def test_headers_are_read_from_comments_at_the_head() -> None:
    found = headers("; words\n; passes: a,b{c=1}\n\n;target:  arm \ngraph @g() {\n; passes: no\n}")
    assert found == {"passes": "a,b{c=1}", "target": "arm"}


def test_an_unknown_type_of_the_interface_may_become_known() -> None:
    def graph(kind: Tensor | None) -> Graph:
        x = Value("x", kind)
        return Graph("g", (x,), (x,), ())

    for old in (None, Tensor("f32", None), Tensor("f32", (None, 3)), Tensor("f32", (2, 3))):
        assert not interface_changes(graph(old), graph(Tensor("f32", (2, 3))))
    for old in (Tensor("f32", (2, None, 3)), Tensor("f16", None), Tensor("f32", (3, 3)), Tensor("f32", (2, 3), Layout((1, 0)))):
        assert interface_changes(graph(old), graph(Tensor("f32", (2, 3))))


def test_notes_are_said_once() -> None:
    context = Context()
    context.note("a")
    context.note("a")
    assert context.notes == ["a"]


def test_errors_of_the_user_pass_through_unchanged(graph: Graph) -> None:
    def refuse(_: Graph, __: Context) -> Graph:
        raise BadInput("no")

    with pytest.raises(BadInput, match=r"^no$"):
        run_passes(graph, "refuse", {"refuse": Pass("refuse", "", refuse)})


def test_rewrites_of_unnamed_nodes_are_told_apart() -> None:
    context = Context(step="s")
    context.did("r", Node("Relu", (), (Value("y"),)))
    assert context.trace == [Rewrite("s", "r", "Relu that makes %y")]
