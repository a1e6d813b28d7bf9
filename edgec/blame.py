"""Which rewrite, or which kernel, makes a result differ from what the imported graph computes.

Every graph between two steps can be evaluated, so the step is found by halves, then the rewrite within it by running the step again
with other limits, and at last the compiled kernels are compared one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgec.bundle import Bundle
from edgec.history import Moment, record
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array, Graph, Value
from edgec.ir.types import Tensor, numpy_dtype
from edgec.pipeline import Catalog, Context
from edgec.verify import Agreement, Feeds, agreement, per_kernel


@dataclass(frozen=True)
class Culprit:
    """What first makes a result differ.

    `step` is a pass, and `rewrite` what it did to `node`: the one with number `limit`, so `--limit` one less is right; both are None
    when the pass errs without a rewrite. Or `step` is "kernel", and `rewrite` its function. `value` is the first that differs, and `why`
    says how.
    """

    step: str
    rewrite: str | None
    node: str
    limit: int | None
    value: str
    why: str


class Judge:
    """Whether graphs compute what an imported one does, on some inputs, within a tolerance.

    Reals are computed in float64 and rounded to the type that the imported graph gives them, so that rounding on the way blames nobody.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Feeds], tolerance: float) -> None:
        self.feeds, self.tolerance = feeds, tolerance
        self._outputs = graph.outputs
        self._reference = self.values(graph, graph.outputs)

    @property
    def checks(self) -> bool:
        """Whether any result changes enough between the inputs for an error to mean anything."""
        return any(a.error is not None for a in self._compare(self._reference))

    def wrong(self, graph: Graph) -> Agreement | None:
        """The first result that does not agree."""
        return next((a for a in self._compare(self.values(graph, self._outputs)) if not a.ok), None)

    def wrong_results(self, got: Sequence[Mapping[str, Array]]) -> Agreement | None:
        """The first of given results, one mapping for each of the inputs, that does not agree."""
        return next((a for a in self._compare(got) if not a.ok), None)

    def values(self, graph: Graph, wanted: Sequence[Value]) -> list[dict[str, Array]]:
        """The values of these names in a graph, by name and for each of the inputs, in the types that `wanted` gives them."""
        types = {v.name: numpy_dtype(v.tensor.dtype) for v in wanted}
        inside = {v.name: v for v in (*graph.inputs, *graph.weights, *(v for n in graph.nodes for v in n.outputs))}
        cut = replace(graph, outputs=tuple({**inside, **{v.name: v for v in graph.outputs}}[name] for name in types))
        found = [evaluate(cut, f, precise=True) for f in self.feeds]
        return [{name: np.asarray(f[name]).astype(t, copy=False) for name, t in types.items()} for f in found]

    def _compare(self, got: Sequence[Mapping[str, Any]]) -> Iterator[Agreement]:
        for name in self._reference[0]:
            yield agreement(name, [g[name] for g in got], [r[name] for r in self._reference], self.tolerance)


def blame_passes(graph: Graph, pipeline: str, catalog: Catalog, context: Context, judge: Judge) -> Culprit | None:
    """The first rewrite of a pipeline that makes a result differ, None when none does. What errs is taken to stay wrong afterwards."""
    final, moments = record(graph, pipeline, catalog, context)
    if judge.wrong(final) is None:
        return None
    changes = [m for m in moments if m.changed]
    low, high = 0, len(changes)  # what `low` changes made is right, what `high` made is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if judge.wrong(changes[middle - 1].after) is None else (low, middle)
    return _within(changes[high - 1], context, judge)


def _within(moment: Moment, context: Context, judge: Judge) -> Culprit:
    """The rewrite to blame within the step that is."""
    low, high = moment.first, moment.last
    if low == high or judge.wrong(moment.again(context, low)) is not None:
        value, node, why = _difference(moment.before, moment.after, judge)
        return Culprit(moment.row.name, None, node, None, value, why)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if judge.wrong(moment.again(context, middle)) is None else (low, middle)
    did = context.trace[high - 1]
    value, _, why = _difference(moment.again(context, low), moment.again(context, high), judge)
    return Culprit(did.step, did.name, did.origin, high, value, why)


def _difference(right: Graph, wrong: Graph, judge: Judge) -> tuple[str, str, str]:
    """The first value that two graphs make under the same name and that differs, the node that makes it in `wrong`, and how it differs."""
    known = {v.name: v for n in right.nodes for v in n.outputs}
    shared = [v for n in wrong.nodes for v in n.outputs if v.name in known and isinstance(known[v.name].type, Tensor)]
    wanted = [known[v.name] for v in shared]
    expected, got = judge.values(right, wanted), judge.values(wrong, wanted)
    for value in shared:
        found = agreement(value.name, [g[value.name] for g in got], [e[value.name] for e in expected], judge.tolerance)
        if not found.ok:
            return value.name, wrong.producer[value].origin or wrong.producer[value].label, found.why
    output = judge.wrong(wrong)  # an output that is an input or a weight by now
    return (output.name, output.name, output.why) if output else ("", "", "")


def blame_kernels(bundle: Bundle, model: Any, judge: Judge) -> Culprit | None:
    """The first kernel whose result is not what the evaluator says, or the bundle as a whole; None when nothing differs."""
    for found in per_kernel(bundle, model, judge.feeds, judge.tolerance):
        if not found.agreement.ok:
            function = bundle.manifest["kernels"][found.kernel]["function"]
            return Culprit("kernel", function, found.origin, None, found.agreement.name, found.agreement.why)
    session = bundle.load(poison=True)
    whole = judge.wrong_results([session.run(f) for f in judge.feeds])
    return Culprit("bundle", None, "all kernels together, each of which is right", None, whole.name, whole.why) if whole else None
