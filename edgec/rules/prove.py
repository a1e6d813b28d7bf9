"""A rule proves itself: wherever it fires near its own example, the graph computes what it computed before.

Nothing is proved in the mathematician's sense. Every specimen that inference accepts is rewritten; where the rule fires, the graph
before and after is evaluated, once in float64 to compare the algebra and once in its own types to see that no accuracy is lost.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from edgec.errors import EdgecError
from edgec.ir.evaluate import CannotEvaluate, evaluate
from edgec.ir.graph import Array, Graph
from edgec.ir.infer import infer
from edgec.ir.proto import schema_of
from edgec.ir.types import Tensor
from edgec.ir.verify import verify
from edgec.lang import syntax
from edgec.rules import facts
from edgec.rules.apply import rewrite
from edgec.rules.match import Rule
from edgec.rules.specimen import Shape, Specimen, build, examples, forms, nodes_of, operands_of

_HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN", "Attention"})
_EPS = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}
_SLACK = 64
_ENOUGH = 5
_TEXTS: Mapping[str, tuple[str, ...]] = {
    "auto_pad": ("VALID", "SAME_UPPER", "SAME_LOWER"), "mode": ("reflect", "edge", "wrap", "linear", "cubic", "tanh"), "approximate": ("none", "tanh"),
    "nearest_mode": ("floor", "ceil"), "coordinate_transformation_mode": ("align_corners", "asymmetric"), "reduction": ("add", "mul")}


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


def prove(rule: Rule) -> list[str]:
    """What is wrong with a rule, one sentence each; empty when it is proved."""
    return proof(rule).failures


def proof(rule: Rule) -> Proof:
    """The whole proof of a rule. It stops when enough is wrong."""
    with np.errstate(all="ignore"):
        return _proof(rule)


def _proof(rule: Rule) -> Proof:
    made = Proof()
    for base in examples(rule):
        if not any([_try(rule, plan, made) for plan in (base, base.but("nodes around", deep="around"))]):
            made.failures.append(f"{rule.name} does not fire on {base.what}")
        for plan in variations(rule, base):
            if len(made.failures) >= _ENOUGH:
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
    for node in graph.nodes:
        if node.op in ("Conv", "ConvTranspose"):
            x, w = (v.type.shape if v is not None and isinstance(v.type, Tensor) else None for v in node.inputs[:2])
            if x is not None and w is not None and x[1] != (w[1] * node.attrs.get("group", 1) if node.op == "Conv" else w[0]):  # type: ignore[operator]
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
        yield from (f"%{value.name} {w}" for w in _differ(old[value.name], new[value.name], own[value.name], mine[value.name], kind, finite=finite))


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


def variations(rule: Rule, base: Specimen) -> Iterator[Specimen]:
    """Everything near an example that a model might hold instead."""
    yield from _values(rule, base)
    yield from _wiring(rule, base)
    yield from _attributes(rule, base)
    yield from _shapes(rule, base)
    for equal in _equal_extents(base):
        yield equal
        yield from _shapes(rule, equal, constants_only=True)
        yield from _attributes(rule, equal)


def _values(rule: Rule, base: Specimen) -> Iterator[Specimen]:
    for kind in ("f16", "f64", "bf16", "i32", "i64", "u8", "i8"):
        yield base.but(kind, dtypes={n: kind if d == "f32" else d for n, d in base.dtypes.items()})
    for name in operands_of(rule):
        for fill in ("zero", "negative", "some", "large", "small", "nan", "inf", "-inf"):
            if name not in base.numbers:
                yield base.but(f"{name} {fill}", fills={name: fill})
    names = [n for n in operands_of(rule) if n not in base.numbers]
    for fill in ("negative", "large"):
        yield base.but(f"all {fill}", fills=dict.fromkeys(names, fill))
    for literal in ((1,), (1, 1), (1, 1, 1, 1, 1), (2,)):
        yield base.but(f"numbers of shape {list(literal)}", literal=literal)


def _wiring(rule: Rule, base: Specimen) -> Iterator[Specimen]:
    nodes, operands = nodes_of(rule), operands_of(rule)
    for i in range(len(nodes)):
        yield base.but(f"{base.ops[i]} read again", readers=frozenset({i}))
        if i < len(nodes) - 1:
            yield base.but(f"{base.ops[i]} as a result", taps=frozenset({(i, 0)}))
        for k in range(1, min(facts.results(base.ops[i]), 4)):
            yield base.but(f"output {k} of {base.ops[i]} read", taps=frozenset({(i, k)}))
    yield base.but("all read again", readers=frozenset(range(len(nodes))))
    for deep in ("before", "behind", "around"):
        yield base.but(f"nodes {deep}", deep=deep)
    optional = [n for n, o in operands.items() if o.optional and n not in base.absent]
    for name in optional:
        yield base.but(f"without {name}", absent=base.absent | {name})
    yield base.but("without optional operands", absent=base.absent | set(optional))
    for name, operand in operands.items():
        if isinstance(operand, syntax.Constant) and name not in base.absent:
            yield base.but(f"{name} read elsewhere", shared=frozenset({name}))
    for a, b in combinations([n for n in operands if n not in base.absent], 2):
        if isinstance(operands[a], syntax.Constant) == isinstance(operands[b], syntax.Constant) and base.dtypes[a] == base.dtypes[b]:
            yield base.but(f"{b} the same as {a}", same={b: a})


def _attributes(rule: Rule, base: Specimen) -> Iterator[Specimen]:
    for i, op in enumerate(base.ops):
        schema = schema_of(op)
        rank = max((len(base.shapes[n]) for n in base.shapes if n not in base.absent), default=0)
        for key in schema.attributes if schema is not None else ():
            for value in _attribute_values(key, int(schema.attributes[key].type.value), rank):  # type: ignore[union-attr]
                attrs = {**base.attrs, i: {**base.attrs.get(i, {}), key: value}}
                yield base.but(f"{op} {{{key}={value}}}", attrs=attrs)
        if op in ("Conv", "ConvTranspose"):
            yield from _groups(rule, base, i)


def _attribute_values(key: str, kind: int, rank: int) -> Iterator[Any]:
    """Values that an attribute might have: by its kind, and for lists by its name."""
    spatial = max(rank - 2, 0)
    match kind:
        case 1:
            yield from (0.5, 2.0, -1.0, 0.0)
        case 2:
            yield from (0, 1, 2, -1, -2)
        case 3:
            yield from _TEXTS.get(key, ())
        case 7:
            lists: dict[str, list[list[int]]] = {
                "pads": [[1] * (2 * spatial), [*range(spatial), *[2] * spatial]], "strides": [[2] * spatial], "dilations": [[2] * spatial],
                "output_padding": [[1] * spatial], "kernel_shape": [[3] * spatial, [2] * spatial],
                "perm": [list(range(rank)), list(range(rank))[::-1], [*range(1, rank), 0][:rank]], "axes": [[0], [-1], [0, 1]]}
            yield from lists.get(key, [])


def _groups(rule: Rule, base: Specimen, i: int) -> Iterator[Specimen]:
    """Two groups, and one for each channel: the weight sees fewer channels then."""
    node = nodes_of(rule)[i]
    weight = node.operands[1] if len(node.operands) > 1 else None
    if not isinstance(weight, syntax.Constant | syntax.Variable):
        return
    shape = base.shapes[weight.name]
    for group in {2, shape[1]} - {1}:
        if shape[1] % group == 0:
            seen = {**base.shapes, weight.name: (shape[0], shape[1] // group, *shape[2:])}
            for more in ({}, {"strides": [2] * (len(shape) - 2)}):
                yield base.but(f"{group} groups", shapes=seen, attrs={**base.attrs, i: {**base.attrs.get(i, {}), "group": group, **more}})


def _shapes(rule: Rule, base: Specimen, *, constants_only: bool = False) -> Iterator[Specimen]:
    operands = {n: o for n, o in operands_of(rule).items() if n not in base.absent}
    seen: set[tuple[str, Shape]] = set()
    for name, operand in operands.items():
        if constants_only and not isinstance(operand, syntax.Constant):
            continue
        for form in forms(base.shapes[name]):
            if form == base.shapes[name] or (name, form) in seen:
                continue
            seen.add((name, form))
            made = base.but(f"{name}{list(form)}", shapes={**base.shapes, name: form})
            yield made
            if not constants_only and not isinstance(operand, syntax.Constant):
                yield made.but("of unknown shape", unknown=True)
    if constants_only:
        return
    yield base.but("shapes unknown", unknown=True)
    variables = [n for n, o in operands.items() if isinstance(o, syntax.Variable)]
    yield base.but("one axis more", shapes={n: (2, *s) if n in variables else s for n, s in base.shapes.items()})
    for change, what in ((lambda s: s[:-1], "a last axis less"), (lambda s: (*s, s[-1]), "a last axis more")):
        yield base.but(what, shapes={n: change(s) if len(s) > 2 else s for n, s in base.shapes.items()})  # noqa: PLR2004  vectors and matrices have none


def _equal_extents(base: Specimen) -> Iterator[Specimen]:
    """The same with two different extents made equal, or all: where only a shape would tell a mistake, numbers must."""
    extents = sorted({d for n, s in base.shapes.items() if n not in base.absent and n not in base.numbers for d in s if d > 1})
    for small, big in combinations(extents, 2):
        shapes = {n: s if n in base.numbers else tuple(big if d == small else d for d in s) for n, s in base.shapes.items()}
        yield base.but(f"{small} as {big}", shapes=shapes)
    yield base.but("all extents 2", shapes={n: s if n in base.numbers else tuple(2 for _ in s) for n, s in base.shapes.items()})
