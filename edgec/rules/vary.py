"""What a proof enumerates: everything near an example that a model might hold instead."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from edgec.ir.proto import attribute_kinds, schema_of
from edgec.lang import syntax
from edgec.rules import facts
from edgec.rules.match import Rule
from edgec.rules.specimen import Shape, Specimen, forms, nodes_of, operands_of

_TEXTS: Mapping[str, tuple[str, ...]] = {
    "auto_pad": ("VALID", "SAME_UPPER", "SAME_LOWER"), "mode": ("reflect", "edge", "wrap", "linear", "cubic"),
    "approximate": ("none", "tanh"),
    "nearest_mode": ("floor", "ceil"), "coordinate_transformation_mode": ("align_corners", "asymmetric"), "reduction": ("add", "mul")}




def variations(rule: Rule, base: Specimen) -> Iterator[Specimen]:
    """Everything near an example that a model might hold instead."""
    yield from _values(rule, base)
    yield from _wiring(rule, base)
    yield from _attributes(rule, base, pairs=True)
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
        narrow = {n: "i8" if d == "f32" else d for n, d in base.dtypes.items()}
        yield base.but(f"i8, all {fill}", fills=dict.fromkeys(names, fill), dtypes=narrow)
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


def _attributes(rule: Rule, base: Specimen, *, pairs: bool = False) -> Iterator[Specimen]:
    """Each attribute of each node with other values, one at a time or two; also with results that nobody reads."""
    rank = max((len(s) for n, s in base.shapes.items() if n not in base.absent), default=0)
    for i, op in enumerate(base.ops):
        schema = schema_of(op)
        choices = [(key, value) for key in (schema.attributes if schema is not None else ())
                   for value in _attribute_values(key, attribute_kinds(op)[key], rank)]
        sets = [dict([c]) for c in choices]
        sets += [{a: x, b: y} for (a, x), (b, y) in combinations(choices, 2) if a != b] if pairs else []
        for chosen in sets:
            made = base.but(f"{op} {chosen}", attrs={**base.attrs, i: {**base.attrs.get(i, {}), **chosen}})
            yield made
            if pairs and facts.results(op) > 1:
                yield made.but("with all its results", wide=frozenset({i}))
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
