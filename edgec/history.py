"""What each step of a pipeline saw and made: a run of passes, kept. Graphs never change and share their nodes, so it costs little."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgec.ir.graph import Graph
from edgec.pipeline import Catalog, Context, Pass, Rewrite, run_passes


@dataclass(frozen=True)
class Moment:
    """A step that ran: its pass, the options it got, the graphs before and after, and which rewrites it took down, `first` to `last`."""

    row: Pass
    options: Mapping[str, Any]
    before: Graph
    after: Graph
    first: int
    last: int

    @property
    def changed(self) -> bool:
        """Whether it made another graph."""
        return self.after is not self.before

    def rewrites(self, context: Context) -> list[Rewrite]:
        """What it took down in the context of the whole run."""
        return context.trace[self.first:self.last]

    def again(self, context: Context, limit: int) -> Graph:
        """What it makes when only the first `limit` rewrites of the whole pipeline are done, as `--limit` counts them."""
        told = context.trace[:self.first]
        trial = replace(context, limit=limit, options=self.options, step=self.row.name, trace=told, notes=[], times=[])
        return self.row.run(self.before, trial)


def record(graph: Graph, pipeline: str, catalog: Catalog, context: Context) -> tuple[Graph, list[Moment]]:
    """The graph after a pipeline, and its steps in order; raises what `run_passes` raises."""
    moments: list[Moment] = []

    def watched(row: Pass) -> Pass:
        def run(before: Graph, now: Context) -> Graph:
            first = len(now.trace)
            after = row.run(before, now)
            moments.append(Moment(row, now.options, before, after, first, len(now.trace)))
            return after

        return replace(row, run=run)

    final = run_passes(graph, pipeline, {name: watched(row) for name, row in catalog.items()}, context)
    return final, moments
