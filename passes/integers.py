"""integers: quantized operators compute with integers, and no tensor of reals or of 32-bit sums lies between two of them.

What each group of `changes/qdq.py` becomes stands in `changes/integer.py` (sums of products) and `changes/integer_moves.py` (moves, bounds,
tables). Sums and products of two tensors stay as they are: DequantizeLinear, the operator and QuantizeLinear are one kernel. Rounding is
that of the unit: reals where it has them (`fpu`), fixed-point numbers otherwise, and then sums, products and softmax become integers, too
(`changes/integer_fixed.py`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from edgec.errors import UsageError
from edgec.ir.edit import Namer, attributes, prune, splice
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Tensor, dtype_name
from edgec.kernels.pairs import fit
from edgec.machine import Unit
from edgec.pipeline import Context
from passes.changes import integer, integer_fixed, integer_moves
from passes.changes.integer_draft import Draft
from passes.changes.pairs import rows
from passes.changes.qdq import Group, Quantized, groups, quantized

_Change = Callable[[Draft, Group], bool]
_SUM, _AVERAGE = (("sum-integers", integer.contraction),), (("average-integers", integer.average),)
_MOVE, _TABLE = (("move-bytes", integer_moves.moved),), (("look-up", integer_moves.looked_up),)
CHANGES: Mapping[str, tuple[tuple[str, _Change], ...]] = MappingProxyType({
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _SUM),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), _AVERAGE),
    **dict.fromkeys((*integer_moves.MOVES, "Pad", "Resize", "MaxPool", "GlobalMaxPool"), _MOVE),
    **dict.fromkeys(integer_moves.TABLES, _TABLE),
    **dict.fromkeys(("Relu", "Clip"), (("bound-bytes", integer_moves.bounded), *_TABLE)),
    **dict.fromkeys(("Add", "Sub"), (*_TABLE, ("sum-fixed-point", integer_fixed.summed))),
    "Mul": (*_TABLE, ("multiply-fixed-point", integer_fixed.multiplied)),
    "Softmax": (("softmax-fixed-point", integer_fixed.softmax),),
    "Concat": (("join-bytes", integer_moves.joined),),
})
"""For each operator of a group, what it may become, in the order of trying, and how `--disable` calls that."""
_LOOSE, _UNSIGNED = "sum-integers", "store-unsigned"
_CONTRACTIONS = ("Conv", "Gemm", "MatMul")
_FLIP, _U8 = 128, 2


def run(graph: Graph, context: Context) -> Graph:
    """The graph whose quantized operators compute with integers; the same object when it has none, or when another unit runs them."""
    if not any(n.op == "DequantizeLinear" for n in graph.nodes):
        return graph
    if context.target is None:
        raise UsageError("integers needs a target")
    units = context.target.units
    main = next((u for u in units.values() if u.kind == "cpu"), None)

    def unit(node: Node) -> Unit | None:
        return units.get(node.device) if node.device is not None else main

    def computes(node: Node) -> bool:
        return (found := unit(node)) is not None and found.kind == "cpu"

    form = main.facts.get("int8_form") if main is not None else None
    if form == "vpdpbusd" or (form == "vpmaddubsw" and _is_paired(graph)):
        graph = _unsigned(graph, context, computes)
    instead, draft = dict[Node, Iterable[Node]](), Draft(graph)
    for group in groups(graph):
        for name, change in CHANGES.get(group.anchor.op, ()) if computes(group.anchor) else ():
            draft.begin(replace(group.anchor, outputs=group.makes))
            draft.fpu = _has_reals(unit(group.anchor))
            if context.may(name) and change(draft, group):
                context.did(name, group.anchor)
                instead |= {q.node: () for q in group.outputs} | {group.outputs[-1].node: tuple(draft.nodes)}
                break
    taken = {v for nodes in instead.values() for n in nodes for v in n.outputs}
    for node in graph.nodes:
        alone = node.op in _CONTRACTIONS and _is_quantized(graph, node) and not _ends_in(graph, node, taken)
        if alone and computes(node) and context.may(_LOOSE):
            draft.begin(node)
            reason = integer.loose(draft, node)
            if reason is None:
                context.did(_LOOSE, node)
                instead[node] = tuple(draft.nodes)
            else:
                context.note(f"int8: {node.origin or node.output.name} computes with reals: {reason}")
    return prune(splice(graph, instead, draft.weights)) if instead else graph


def rewrites() -> Iterable[str]:
    """The names of everything it does."""
    return [*dict.fromkeys(name for row in CHANGES.values() for name, _ in row), _UNSIGNED]


def _is_paired(graph: Graph) -> bool:
    """Whether more than half of all weights are multiplied with unsigned bytes: in layers of which no pair can saturate 16 bits."""
    stored = [(n, q.array) for n in graph.nodes if n.op in _CONTRACTIONS and (w := n.input(1)) is not None
              and (maker := graph.producer.get(w)) is not None and (q := quantized(graph, maker)) is not None and q.array is not None]
    paired = sum(a.size for n, a in stored if a.dtype == np.int8 and fit(rows(n, a)))
    return 2 * paired > sum(a.size for _, a in stored)


def _has_reals(unit: Unit | None) -> bool:
    return unit is None or bool(unit.facts.get("fpu", True))


def _is_quantized(graph: Graph, node: Node) -> bool:
    maker = graph.producer.get(node.inputs[0]) if node.inputs[0] is not None else None
    return maker is not None and maker.op == "DequantizeLinear"


def _ends_in(graph: Graph, node: Node, made: set[Value]) -> bool:
    """Whether a node belongs to a group that is computed in another way now."""
    value = node.output
    while len(readers := graph.consumers.get(value, ())) == 1 and readers[0].op in ("Add", "Relu", "Clip"):
        value = readers[0].output
    return any(r.op == "QuantizeLinear" and r.output in made for r in graph.consumers.get(value, ()))


def _unsigned(graph: Graph, context: Context, computes: Callable[[Node], bool]) -> Graph:
    """The graph whose bytes are u8 wherever they are not seen from outside: what is multiplied is unsigned there.

    The zero point moves along, so that the same reals are meant. An input in i8 is turned round once.
    """
    fresh, before = dict[Value, Value](), list[Node]()
    name, weights = Namer(graph), dict[Value, Array]()
    for value in (*graph.inputs, *(v for n in graph.nodes if n.op == "QuantizeLinear" for v in n.outputs)):
        readers = graph.consumers.get(value, ())
        known = [q for r in readers if (q := quantized(graph, r)) is not None and q.axis is None and q.stored is value]
        if not isinstance(value.type, Tensor) or value.type.dtype != "i8" or not readers or len(known) != len(readers):
            continue
        maker = graph.producer.get(value)
        wanted = value not in graph.outputs and maker is not None and (made := quantized(graph, maker)) is not None and made.axis is None
        multiplied = any(c.op in _CONTRACTIONS for r in readers for c in graph.consumers.get(r.output, ()))
        if not (wanted or (maker is None and multiplied)) or not all(map(computes, readers)) or not context.may(_UNSIGNED, len(fresh)):
            continue
        fresh[value] = Value(value.name if wanted else name(f"{value.name}.unsigned"), replace(value.type, dtype="u8"))
        if maker is None:
            cast = Value(name(f"{value.name}.cast"), fresh[value].type)
            weights[bit := Value(name(f"{value.name}.bit"), Tensor("u8", ()))] = np.array(_FLIP, np.uint8)
            before += [Node("Cast", (value,), (cast,), attributes(to=_U8), origin=value.name),
                       Node("BitwiseXor", (cast, bit), (fresh[value],), origin=value.name)]
        context.did(_UNSIGNED, readers[0])
    if not fresh:
        return graph
    zeros = dict[Value | None, Value]()

    def shifted(q: Quantized) -> Value:
        key = q.node.input(2)
        if key not in zeros:
            array = np.asarray(q.zero.astype(np.int16) + _FLIP, np.uint8).reshape(() if key is None else graph.weights[key].shape)
            base = key.name if key is not None else f"{q.stored.name}.zero"
            zeros[key] = Value(name(f"{base}.unsigned"), Tensor(dtype_name(array.dtype), array.shape))
            weights[zeros[key]] = array
        return zeros[key]

    def node(old: Node) -> Node:
        q = quantized(graph, old)
        if q is None or q.stored not in fresh or (graph.producer.get(q.stored) is None and old.op == "QuantizeLinear"):
            return old
        now = fresh[q.stored]
        inputs = (old.inputs[0] if old.op == "QuantizeLinear" else now, old.inputs[1], shifted(q))
        return replace(old, inputs=inputs, outputs=(now,) if old.op == "QuantizeLinear" else old.outputs)

    return prune(replace(graph, nodes=(*before, *map(node, graph.nodes)), weights={**graph.weights, **weights}))
