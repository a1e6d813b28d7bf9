"""The door to ONNX: files, bytes and protobufs come in as graphs of one normalized opset, graphs go out as models."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgec.errors import BadInput, EdgecError, UnsupportedModel
from edgec.ir.edit import prune, reads, rename, without
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.onnx_bind import bind
from edgec.onnx_load import Model, load, versions
from edgec.onnx_qlinear import STEPS as QLINEAR
from edgec.onnx_read import read
from edgec.onnx_upgrade import upgrade
from edgec.onnx_write import export_model
from edgec.schema import has

__all__ = ["Model", "export_model", "import_model"]


def import_model(
    model: Model, *, shapes: Mapping[str, Sequence[int]] | None = None, dims: Mapping[str, int] | None = None,
    inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None, static: bool = False, notes: list[str] | None = None,
) -> Graph:
    """The graph of a model (a path, bytes or a ModelProto), every operator at the normalized opset, with the types of all values.

    `shapes` sets shapes of inputs, `dims` symbols; `inputs` and `outputs` name values where the graph is cut. With `static` an unbound
    leading batch symbol becomes 1, which `notes` then say, and other unbound symbols are refused with the flags that would bind them.
    BadInput says what is wrong with the file or the names, UnsupportedModel which nodes cannot be built.
    """
    proto = load(model)
    declared = versions(proto)
    try:
        graph = read(proto)
    except EdgecError:
        raise
    except Exception as problem:  # noqa: BLE001  a damaged file can break onnx and numpy in any way
        what = f"it refers to {problem}, which does not exist" if isinstance(problem, LookupError) else problem
        raise BadInput(f"the model is damaged: {what}") from None
    if inputs or outputs:
        graph = _cut(graph, inputs or (), outputs or (), declared)
    graph = prune(graph)
    _refuse_unknown(graph)
    graph = bind(graph, shapes or {}, dims or {}, static=static, notes=notes if notes is not None else [])
    return prune(upgrade(graph, declared))


def _cut(graph: Graph, inputs: Sequence[str], outputs: Sequence[str], declared: Mapping[str, int]) -> Graph:
    """The part of the graph between two sets of values."""
    whole = graph
    named = {v.name: v for v in (*graph.weights, *graph.inputs, *(v for n in graph.nodes for v in n.outputs)) if v.name}
    ends = tuple(_named(named, o, "outputs") for o in outputs) or graph.outputs
    graph = replace(graph, outputs=ends)
    if not inputs:
        graph = prune(graph)
        read_ = {v for n in graph.nodes for v in reads(n)} | set(ends)
        return replace(graph, inputs=tuple(v for v in graph.inputs if v in read_))
    starts = tuple(_named(named, i, "inputs") for i in inputs)
    graph = prune(replace(graph, inputs=(*starts, *(v for v in graph.inputs if v not in starts)),
                          nodes=tuple(n for n in graph.nodes if not set(n.outputs) & set(starts))))
    for node in graph.nodes:
        for v in reads(node):
            if v in graph.inputs and v not in starts:
                raise BadInput(f"{node.label} still needs the input {v.name!r}: name it among the --inputs, too")
    made = {*starts, *graph.weights, *(v for n in graph.nodes for v in n.outputs)}
    for node in graph.nodes:
        for v in reads(node):
            if v not in made:
                raise BadInput(f"{node.label} needs {v.name!r}, which the cut takes away: name it among the --inputs, too")
    typed = _typed(whole, starts, declared)
    return rename(replace(graph, inputs=starts), typed)


def _typed(graph: Graph, values: Sequence[Value], declared: Mapping[str, int]) -> dict[Value, Value]:
    """The values in the middle of a graph with the types that the part before them gives, unless the model declares them."""
    if all(isinstance(v.type, Tensor) and v.type.shape is not None for v in values):
        return {}
    try:
        known = upgrade(prune(replace(graph, outputs=tuple(values))), declared).outputs
    except EdgecError:
        known = tuple(values)
    for value in known:
        if value.type is None:
            raise BadInput(f"--inputs names {value.name!r}, whose type the model does not say")
    return {old: new for old, new in zip(values, known, strict=True) if old is not new}


def _named(named: Mapping[str, Value], name: str, flag: str) -> Value:
    if name in named:
        return named[name]
    close = difflib.get_close_matches(name, named, 3)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise BadInput(f"--{flag} names {name!r}, which the model does not have{hint}")


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _refuse_unknown(graph: Graph) -> None:
    """UnsupportedModel for all operators that edgec does not know, with the cut that would do without them."""
    unknown = [n for _, n in graph.walk() if not _known(n)]
    if not unknown:
        return
    kinds: dict[str, list[str]] = {}
    for node in unknown:
        kinds.setdefault(node.op, []).append(node.origin)
    named = "; ".join(f"{op} ({_some(names)})" for op, names in kinds.items())
    edge = without(graph, [n for n in graph.nodes if not _known(n) or any(not _known(inner) for _, b in n.bodies for _, inner in b.walk())])
    advice = f"; --outputs {','.join(edge)} cuts them off" if edge else ""
    raise UnsupportedModel(f"edgec does not know {named}{advice}", [n.origin for n in unknown])


def _known(node: Node) -> bool:
    return has(node.op) or node.op in QLINEAR
