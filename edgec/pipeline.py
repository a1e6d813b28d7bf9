"""Passes in a row: what a pass is, the text that lists them, the runner, and who watches.

A pass is a function from graph to graph, so "changed" is `new is not old`, and every graph in between can be printed,
compared, exported and kept at no cost. The runner knows no pass: whoever calls it brings the catalog.
"""

import difflib
import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from edgec.errors import BadInput, EdgecError, UsageError
from edgec.ir.graph import Graph, Node
from edgec.ir.types import Tensor, Type
from edgec.ir.verify import verify
from edgec.lang import expr
from edgec.lang.syntax import Repeat, Run, read_pipeline
from edgec.lang.text import save, save_whole, show_type

if TYPE_CHECKING:
    from edgec.target import Target

_ROUNDS = 100
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class PassFailed(EdgecError):
    """A pass that crashed or made a wrong graph: a mistake in edgec. `reproducer` is the file that shows it again."""

    def __init__(self, message: str, reproducer: Path) -> None:
        super().__init__(f"{message}; {reproducer} shows it again: edgec opt {reproducer}")
        self.reproducer = reproducer


class Rewrite(NamedTuple):
    """One thing that a pass did: its name, and the node it was done to."""

    step: str
    name: str
    origin: str


@dataclass
class Context:
    """What a pass may know besides the graph, and where it tells what it did. One context serves one run of a pipeline.

    `samples` are inputs by name such as the model will see, for passes that fit weights to them. `facts` is what passes found out that
    belongs in a manifest, by the name of the pass. `again` is what a pass found out about a graph and its samples that would take it long
    to find again: contexts share it whose runs begin with the same graph and the same samples.
    """

    target: "Target | None" = None
    disabled: frozenset[str] = frozenset()
    limit: int | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    samples: Sequence[Mapping[str, Any]] = ()
    step: str = ""
    trace: list[Rewrite] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    again: dict[Any, Any] = field(default_factory=dict)
    times: list[tuple[str, float]] = field(default_factory=list)

    def may(self, name: str, ahead: int = 0) -> bool:
        """Whether a rewrite of this name is allowed: it is not disabled, and the limit is not reached when `ahead` more are taken down."""
        return (self.limit is None or len(self.trace) + ahead < self.limit) and name not in self.disabled

    def did(self, name: str, node: Node) -> None:
        """Take down a rewrite."""
        self.trace.append(Rewrite(self.step, name, node.origin or node.label))

    def note(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class Pass:
    """A row of the catalog. `options`: names and defaults; `after` and `before`: passes, and why they stand before or behind this one.

    Only a pass with `changes_interface` may give inputs and outputs other types.
    """

    name: str
    doc: str
    run: Callable[[Graph, Context], Graph]
    options: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    after: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    before: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    rewrites: Callable[[], Iterable[str]] = tuple
    changes_interface: bool = False


@dataclass(frozen=True)
class Watch:
    """Who looks on: `dump` is a folder for the graph after each step that changed it, `crashes` one for reproducers.

    `progress` hears the name of each step before it runs, and may raise to stop.
    """

    verify: bool = True
    dump: Path | None = None
    stop_after: str | None = None
    crashes: Path | None = None
    progress: Callable[[str], None] | None = None


Catalog = Mapping[str, Pass]
Pipeline = str | Sequence[str | Pass]


def run_passes(graph: Graph, pipeline: Pipeline, catalog: Catalog, context: Context | None = None, watch: Watch | None = None) -> Graph:
    """The graph after the steps of a pipeline; UsageError for an unknown or misplaced step, PassFailed for a pass that goes wrong.

    A pipeline is a text, or a list of texts and of passes that need not be in the catalog.
    """
    context, watch = context or Context(), watch or Watch()
    catalog = {**catalog, **{p.name: p for p in pipeline if isinstance(p, Pass)}}
    steps = read_steps(pipeline, catalog)
    known = {*catalog, *(name for p in catalog.values() for name in p.rewrites())} if context.disabled else set()
    for name in sorted(context.disabled - known):
        raise UsageError(f"nothing called {name} can be disabled: there is no such pass, rule or rewrite{_meant(name, known)}")
    if watch.stop_after is not None and watch.stop_after not in _names(steps):
        raise UsageError(f"the pipeline has no step {watch.stop_after} to stop after{_meant(watch.stop_after, _names(steps))}")
    if watch.dump is not None:
        save(graph, _folder(watch.dump) / "00-input.edge")
    return _Runner(catalog, context, watch).steps(graph, steps)[0]


def read_steps(pipeline: Pipeline, catalog: Catalog) -> tuple[Run | Repeat, ...]:
    """The steps of a pipeline, checked against the catalog: names, options and order."""
    steps = read_pipeline(pipeline if isinstance(pipeline, str) else ",".join(p.name if isinstance(p, Pass) else p for p in pipeline))
    names = _names(steps)
    for name in names:
        if name not in catalog:
            raise UsageError(f"no pass is called {name}{_meant(name, catalog)}; `edgec passes` lists them")
    for run in _runs(steps):
        options(run, catalog[run.name])
    for i, name in enumerate(names):
        for other, reason in catalog[name].after.items():
            if other in names[i:] and other not in names[:i]:
                raise UsageError(f"{name} cannot stand before {other}: {reason}")
        for other, reason in catalog[name].before.items():
            if other in names[:i]:
                raise UsageError(f"{name} cannot stand behind {other}: {reason}")
    return steps


def options(run: Run, known: Pass) -> Mapping[str, Any]:
    """The options of a step: the defaults of its pass, and what is written; UsageError for an unknown name or a value of another kind."""
    given = dict(known.options)
    for name, value in run.options:
        if name not in known.options:
            has = f"it has {', '.join(known.options)}" if known.options else "it has none"
            raise UsageError(f"the pass {run.name} has no option {name}{_meant(name, known.options)}; {has}")
        default = known.options[name]
        word = value.name if isinstance(value, expr.Name) and value.name not in ("true", "false") else None
        try:
            found = True if value is None else word if word is not None else expr.evaluate(value, {})
        except expr.CannotEvaluate as error:
            raise UsageError(f"the option {name} of {run.name} has no value: {error}") from None
        if isinstance(default, float) and type(found) is int:
            found = float(found)
        if default is not None and type(found) is not type(default):
            raise UsageError(f"the option {name} of {run.name} is {found!r}, but {type(default).__name__} is wanted, such as {default!r}")
        given[name] = found
    return MappingProxyType(given)


def show_steps(steps: Iterable[Run | Repeat]) -> str:
    """The text of steps, as `read_steps` reads it."""
    def one(step: Run | Repeat) -> str:
        if isinstance(step, Repeat):
            return f"repeat({show_steps(step.steps)})"
        given = ", ".join(k if v is None else f"{k}={expr.text(v)}" for k, v in step.options)
        return f"{step.name}{{{given}}}" if given else step.name

    return ",".join(map(one, steps))


def bisect(graph: Graph, pipeline: str, catalog: Catalog, good: Callable[[Graph], bool], context: Context | None = None) -> Rewrite | None:
    """The rewrite that first makes a result for which `good` does not hold, None when none does; UsageError when it never holds."""
    context = context or Context()

    def after(limit: int | None) -> tuple[bool, list[Rewrite]]:
        trial = Context(context.target, context.disabled, limit)  # a context counts, so each trial has its own
        return good(run_passes(graph, pipeline, catalog, trial)), trial.trace

    fine, trace = after(None)
    if fine:
        return None
    if not after(0)[0]:
        raise UsageError("the graph is wrong before any rewrite, so none is to blame")
    low, high = 0, len(trace)  # `low` rewrites are good, `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if after(middle)[0] else (low, middle)
    return trace[high - 1]


class _Runner:
    def __init__(self, catalog: Catalog, context: Context, watch: Watch) -> None:
        self.catalog, self.context, self.watch, self.count = catalog, context, watch, 0

    def steps(self, graph: Graph, steps: Iterable[Run | Repeat]) -> tuple[Graph, bool]:
        """The graph after some steps, and whether to go on."""
        for step in steps:
            graph, more = self.repeat(graph, step) if isinstance(step, Repeat) else self.one(graph, step)
            if not more:
                return graph, False
        return graph, True

    def repeat(self, graph: Graph, step: Repeat) -> tuple[Graph, bool]:
        for _ in range(_ROUNDS):
            old = graph
            graph, more = self.steps(graph, step.steps)
            if graph is old or not more:
                return graph, more
        raise self.failed(old, step, f"the steps {show_steps(step.steps)} do not settle in {_ROUNDS} rounds")

    def one(self, graph: Graph, step: Run) -> tuple[Graph, bool]:
        row, context = self.catalog[step.name], self.context
        context.step, context.options = step.name, options(step, row)
        if self.watch.progress:
            self.watch.progress(step.name)
        start = time.perf_counter()
        try:
            made = graph if step.name in context.disabled else row.run(graph, context)
        except EdgecError:
            raise
        except Exception as error:
            raise self.failed(graph, step, f"the pass {step.name} crashed with {type(error).__name__}: {error}") from error
        context.times.append((step.name, time.perf_counter() - start))
        self.count += 1
        same = [] if row.changes_interface or made is graph else interface_changes(graph, made)
        if made is not graph and self.watch.verify and (wrong := [*verify(made), *same]):
            raise self.failed(graph, step, f"the pass {step.name} made a wrong graph: {wrong[0]}")
        if made is not graph and self.watch.dump is not None:
            save(made, self.watch.dump / f"{self.count:02d}-{step.name}.edge")
        return made, step.name != self.watch.stop_after

    def failed(self, graph: Graph, step: Run | Repeat, message: str) -> PassFailed:
        """The error for a step that went wrong, its reproducer written."""
        context, pipeline = self.context, show_steps([step])
        asks = {"passes": pipeline, "target": context.target.name if context.target else "", "disable": ",".join(sorted(context.disabled))}
        name = hashlib.sha256(f"{graph.name} {message}".encode()).hexdigest()[:8]
        path = _folder(self.watch.crashes or Path(tempfile.gettempdir())) / f"edgec-crash-{name}.edge"
        save_whole(graph, path, f"; {message.splitlines()[0]}\n" + "".join(f"; {k}: {v}\n" for k, v in asks.items() if v))
        return PassFailed(message, path)


def headers(text: str) -> Mapping[str, str]:
    """What the comments at the head of a textual graph ask for, `; passes: canonicalize,cse` being one."""
    head = re.match(r"(\s*;[^\n]*\n)*", text)
    return dict(re.findall(r"^\s*;\s*(\w+):[ \t]*(.*\S)", head[0] if head else "", re.MULTILINE))


def interface_changes(old: Graph, new: Graph) -> list[str]:
    """How the interface of a graph has changed, one sentence each: names, order, or what was known of types before."""
    wrong: list[str] = []
    for what, before, after in (("input", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
        if [v.name for v in before] != [v.name for v in after]:
            wrong.append(f"the {what}s were {', '.join(v.name for v in before)} and are {', '.join(v.name for v in after)}")
            continue
        wrong += [f"the {what} {a.name} was {show_type(a.type)} and is {show_type(b.type) if b.type else 'of unknown type'}"
                  for a, b in zip(before, after, strict=True) if not _still(a.type, b.type)]
    return wrong


def _still(old: Type | None, new: Type | None) -> bool:
    """Whether a type says what it said; what was unknown may have become known."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        if old.shape is None:
            old = replace(old, shape=new.shape)
        elif new.shape is not None and len(old.shape) == len(new.shape):
            old = replace(old, shape=tuple(b if a is None else a for a, b in zip(old.shape, new.shape, strict=True)))
    return old is None or old == new


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"the folder {path} cannot be written: {error.strerror}") from None
    return path


def _runs(steps: Iterable[Run | Repeat]) -> Iterator[Run]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _runs(step.steps)
        else:
            yield step


def _names(steps: Iterable[Run | Repeat]) -> list[str]:
    return [run.name for run in _runs(steps)]


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
