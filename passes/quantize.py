"""quantize: quantized operators in one form, DequantizeLinear, an operator of reals and QuantizeLinear.

However a model writes them, they have this form afterwards; with `int8`, a model in reals is quantized first, fitted to samples
(`changes/post_training.py`). The result is plain ONNX that any runtime runs. `changes/qdq.py` reads it.
"""

import difflib
from collections.abc import Collection, Iterable

import numpy as np

from edgec.errors import UsageError
from edgec.ir.edit import prune, splice
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.sweep import sweep
from edgec.pipeline import Context
from passes import absorb
from passes.changes import equalize, qlinear, quantizable, rulebook
from passes.changes.post_training import Insertion, corrected, observe, scales
from passes.changes.qdq import separate

_LAYER, _EQUAL, _BIAS = "quantize-layer", "equalize-channels", "correct-bias"
KEEP = "|"
"""Between the names of layers that stay as they are, in the option `keep`."""
_BORDERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def run(graph: Graph, context: Context) -> Graph:
    """The graph with its quantized operators in one form, each with borders of its own; UsageError for `int8` without samples."""
    if context.options.get("int8", False):
        graph = _quantized(graph, context)
    while True:
        made = sweep(graph, qlinear.CHANGES, context)
        if made is graph:
            break
        graph = prune(made)
    return separate(graph)


def rewrites() -> Iterable[str]:
    """The names of everything it does."""
    return [*rulebook.names(qlinear.CHANGES), _LAYER, _EQUAL, _BIAS]


def _expanded(graph: Graph, context: Context) -> Graph:
    """The graph whose layers have their weights in f32, scales that stood behind the sums among them: they are stored as integers anew."""
    instead, weights = dict[Node, tuple[Node, ...]](), dict[Value, Array]()
    for node in graph.nodes:
        readers = graph.consumers.get(node.output, ())
        stored = node.op == "Cast" and node.inputs[0] in graph.weights and readers and all(r.op in quantizable.LAYERS for r in readers)
        if stored and node.inputs[0] is not None and node.output.tensor.dtype == "f32" and node.output not in graph.outputs:
            weights[node.output] = graph.weights[node.inputs[0]].astype(np.float32)
            instead[node] = ()
    return absorb.run(prune(splice(graph, instead, weights)), context) if instead else graph


def _check(keep: Collection[str], graph: Graph) -> None:
    """UsageError for a layer to keep that is not there."""
    known = [n.origin or n.output.name for n in graph.nodes if n.op in quantizable.LAYERS]
    for name in keep:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(f"keep={name}: no layer is called so" + (f"; did you mean {near[0]}?" if near else ""))


def _is_paired(context: Context) -> bool:
    """Whether the CPU is fastest where no pair of neighboring weights can saturate 16 bits."""
    units = context.target.units.values() if context.target is not None else ()
    return any(u.kind == "cpu" and u.facts.get("int8_form") == "vpmaddubsw" for u in units)


def _quantized(graph: Graph, context: Context) -> Graph:
    """The graph quantized after its training."""
    if any(n.op in _BORDERS for n in graph.nodes):
        context.note("int8: the model is quantized already, and is left as it is")
        return graph
    if not context.samples:
        raise UsageError("int8 needs samples of what the model will see: give --calibrate")
    graph = _expanded(graph, context)
    keep = frozenset(filter(None, str(context.options.get("keep", "")).split(KEEP)))
    _check(keep, graph)
    plan = quantizable.plan(graph, keep)
    for node, reason in plan.kept.items():
        context.note(f"int8: {node.origin or node.output.name} stays in f32: {reason}")
    layers = [n for n in graph.nodes if n in plan.nodes and n.op in quantizable.LAYERS]
    if not layers or not context.may(_LAYER):
        return graph
    pairs = equalize.pairs(graph) if context.may(_EQUAL) else []
    between = {p.between for p in pairs}
    added = [b for n in layers if (b := quantizable.bias_behind(graph, n)) is not None and b in plan.nodes]
    results = {n.output: 1 if n.op == "Conv" else -1 for n in (*layers, *added)}
    seen = observe(graph, context.samples, set(plan.stored), between, results)
    equal, changed = equalize.equalized(graph, pairs, seen.channels)
    if changed:
        for pair in changed:
            context.did(_EQUAL, pair.first)
        context.note(f"int8: the channels of {', '.join(p.first.origin or p.first.output.name for p in changed)} are equalized")
        graph, plan = equal, quantizable.plan(equal, keep)
        seen = observe(graph, context.samples, set(plan.stored), set(), results)
    insertion = Insertion(graph, plan, scales(graph, plan, seen.ranges), paired=_is_paired(context))
    made = insertion.run()
    for node in layers:
        context.did(_LAYER, node)
    if context.may(_BIAS):
        made = corrected(made, context.samples, insertion.biases, seen.means, results)
        context.did(_BIAS, layers[0])
    total = len(layers) + len(plan.kept)
    context.note(f"int8: {len(layers)} of {total} layers are quantized, fitted to {len(context.samples)} runs of the samples")
    return prune(made)
