"""A rule proves itself: wherever it fires near its own example, the graph computes what it computed before.

Nothing is proved in the mathematician's sense. Every specimen that inference accepts is rewritten; where the rule fires, the graph
before and after is evaluated, once in float64 to compare the algebra and once in its own types to see that no accuracy is lost.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgec.errors import EdgecError
from edgec.ir.evaluate import CannotEvaluate, evaluate
from edgec.ir.graph import Array, Graph
from edgec.ir.infer import infer
from edgec.ir.types import Tensor
from edgec.ir.verify import verify
from edgec.rules.apply import rewrite
from edgec.rules.match import Rule
from edgec.rules.specimen import Specimen, build, examples
from edgec.rules.vary import variations

_HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN", "Attention"})
_EPS = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}
_SLACK = 64
_ENOUGH = 5
_RANKS: Mapping[str, Mapping[int, int]] = {
    "Clip": {1: 0, 2: 0}, "Conv": {2: 1}, "ConvTranspose": {2: 1}, "BatchNormalization": dict.fromkeys(range(1, 5), 1)}
"""Operands whose number of axes ONNX prescribes, which its inference does not check."""


@dataclass
class Proof:
    """What came of it: how many specimens there were, on how many the rule fired, and what went wrong, in words."""

    tried: int = 0
    fired: int = 0
    failures: list[str] = field(default_factory=list)
    more: int | None = None
    """How many nodes the result has more than the pattern, learned from the first example."""


def prove(rule: Rule, enough: int = _ENOUGH) -> list[str]:
    """What is wrong with a rule, one sentence each; empty when it is proved."""
    return proof(rule, enough).failures


def proof(rule: Rule, enough: int = _ENOUGH) -> Proof:
    """The whole proof of a rule. It stops when `enough` is wrong."""
    with np.errstate(all="ignore"):
        return _proof(rule, enough)


def _proof(rule: Rule, enough: int) -> Proof:
    made = Proof()
    for base in examples(rule):
        alone, inside = _try(rule, base, made), _try(rule, base.but("nodes around", deep="around"), made)
        if not alone and not inside:
            made.failures.append(f"{rule.name} does not fire on {base.what}")
        for plan in variations(rule, base):
            if len(made.failures) >= enough:
                return made
            _try(rule, plan, made)
    return made


def _try(rule: Rule, plan: Specimen, made: Proof) -> bool:
    """Whether the rule fired on a specimen; what went wrong is added to the proof."""
    try:
        raw, feeds, _ = build(rule, plan)
        before = infer(raw)
        legal = _legal(infer(build(rule, replace(plan, unknown=False))[0]) if plan.unknown else before)
    except (EdgecError, ValueError, OverflowError):
        return False  # no model looks like this
    if not legal:
        return False
    made.tried += 1
    fired: Counter[str] = Counter()
    try:
        after = rewrite(before, [rule], did=lambda name, _: fired.update([name]))
    except EdgecError as error:
        made.failures.append(f"{rule.name} on {plan.what}: {error}")
        return True
    if not fired:
        return False
    try:
        old = evaluate(before, feeds, precise=True)
        own = evaluate(before, feeds)
    except CannotEvaluate:
        return False
    made.fired += 1
    made.more = len(after.nodes) - len(before.nodes) if made.more is None else made.more
    made.failures += [f"{rule.name} on {plan.what}: {wrong}" for wrong in _compare(before, after, feeds, (old, own), max(made.more, 0))]
    return True


def _legal(graph: Graph) -> bool:
    """Whether a graph keeps what ONNX prescribes and its inference does not check."""
    for node in graph.nodes:
        if node.op in ("Conv", "ConvTranspose"):
            x, w = (v.type.shape if v is not None and isinstance(v.type, Tensor) else None for v in node.inputs[:2])
            group = node.attrs.get("group", 1)
            if x is not None and w is not None and x[1] != (w[0] if node.op == "ConvTranspose" or w[1] is None else w[1] * group):
                return False
    return all(v is None or not isinstance(v.type, Tensor) or v.type.rank in (None, rank)
               for n in graph.nodes for i, rank in _RANKS.get(n.op, {}).items() for v in [n.input(i)])


def _compare(before: Graph, after: Graph, feeds: Mapping[str, Array], results: tuple[Mapping[str, Any], Mapping[str, Any]],
             more: int) -> Iterator[str]:
    old, own = results
    yield from verify(after)
    if [v.name for v in after.outputs] != [v.name for v in before.outputs]:
        yield "a result has another name"
        return
    heavy, nodes = _heavy(after) - _heavy(before), len(after.nodes) - len(before.nodes) - more
    if heavy > 0:
        yield f"{heavy} more of the expensive operators are computed than before"
    if nodes > 0:
        yield f"{nodes} more nodes are computed than before because a value is still read"
    try:
        new, mine = evaluate(after, feeds, precise=True), evaluate(after, feeds)
    except CannotEvaluate as error:
        yield f"the result cannot be evaluated: {error}"
        return
    finite = all(np.isfinite(np.asarray(a, np.float64)).all() for a in (*feeds.values(), *before.weights.values()) if a.dtype.kind != "O")
    for value in before.outputs:
        kind = value.type.dtype if isinstance(value.type, Tensor) else ""
        name = value.name
        yield from (f"%{name} {wrong}" for wrong in _differ(old[name], new[name], own[name], mine[name], kind, finite=finite))


def _heavy(graph: Graph) -> int:
    return sum(n.op in _HEAVY for n in graph.nodes)


def _differ(old: Any, new: Any, own: Any, mine: Any, kind: str, *, finite: bool) -> Iterator[str]:
    """How two results differ: `old` and `new` in float64, `own` and `mine` in the types of the graph."""
    a, b = np.asarray(old), np.asarray(new)
    if a.shape != b.shape:
        yield f"has the shape {list(b.shape)} instead of {list(a.shape)}"
        return
    if mine.dtype != own.dtype:
        yield f"is {mine.dtype} instead of {own.dtype}"
        return
    if kind not in _EPS:
        if not np.array_equal(a, b):
            yield "has other elements"
        return
    a, b, ours, theirs = (np.asarray(x, np.float64) for x in (a, b, own, mine))
    usable = np.isfinite(a)
    if not finite:
        if not np.array_equal(np.isnan(a), np.isnan(b)) or not np.array_equal(a[np.isinf(a)], b[np.isinf(a)]):
            yield "has other infinities or NaNs"
            return
    elif not np.isfinite(b[usable]).all():
        yield "is not finite where it was"
        return
    if not usable.any():
        return
    scale = max(float(np.abs(a[usable]).max()), 1e-30)
    slack = _SLACK * _EPS[kind] * scale
    with np.errstate(all="ignore"):
        algebra = float(np.abs(a - b)[usable].max())
        good = usable & np.isfinite(ours)
        was, now = (float(np.abs(x - a)[good].max(initial=0)) for x in (ours, theirs))
    if algebra > slack:
        yield f"differs by {algebra:.3g}, its largest element being {scale:.3g}"
    elif not now <= 4 * was + slack:
        yield f"loses accuracy in {kind}: its error was {was:.3g} and is {now:.3g}"
