"""A Graph at any stage as a ModelProto that onnx.checker accepts and that runtimes run, through onnx-graphsurgeon.

Regions become the nodes they are made of, layouts vanish, and the opset stamped on the model is the oldest one that has every
operator as it is used, because runtimes lag behind.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, TypeProto
from onnx_graphsurgeon.logger import G_LOGGER

from edgec.errors import UsageError
from edgec.ir.graph import REGIONS, Graph, Node, Value
from edgec.ir.proto import CODES, VERSIONS, attribute_kinds, attribute_proto, split_op, tensor_proto, type_proto
from edgec.ir.tflite import PREFIX
from edgec.ir.types import Map, Optional, Sequence, Tensor, Type
from edgec.onnx_own import expanded

_OLDEST = {"": 18, "ai.onnx.ml": 3}
_CEIL = 22
_CHANGED = {"DFT": 20, "GridSample": 20, "GroupNormalization": 21}
"""Operators whose meaning changed in an opset after the oldest without a trace in their signature."""


def export_model(graph: Graph) -> ModelProto:
    """The model of a graph at any stage of compilation; inputs, outputs and weights keep names, types and elements.

    UsageError for operators that ONNX has not, those of NPUs. Models whose weights exceed 2 GB can be used in memory, and saved with
    `onnx.save(..., save_as_external_data=True)`.
    """
    plain = _plain(graph)
    if any(n.op.startswith(PREFIX) for n in plain.nodes):
        raise UsageError("regions of an NPU are in the operators of another format by now, which ONNX has not; before the pass tflite they "
                         "are ONNX: edgec opt --stop-after partition")
    names = _Names(plain)
    with G_LOGGER.suppress(G_LOGGER.CRITICAL + 1):
        opsets = [onnx.helper.make_opsetid(d, v) for d, v in _stamps(plain).items()]
        ir = max(8, onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True))
        model: ModelProto = gs.export_onnx(_surgeon(plain, names, {}), do_type_check=False, opset_imports=opsets, ir_version=ir)
    model.producer_name = "edgec"
    _complete(model.graph, plain, names)
    return model


def _plain(graph: Graph) -> Graph:
    """The graph with ONNX's operators only, and bodies that return what they make."""
    nodes: list[Node] = []
    weights = dict(graph.weights)
    for node in graph.nodes:
        if node.op in REGIONS:
            made, more = _opened(node)
            nodes += made
            weights.update(more)
        elif node.op == "edgec.Reorder":
            nodes.append(replace(node, op="Identity", attrs=MappingProxyType({})))
        elif (parts := expanded(node)) is not None:
            nodes += parts[0]
            weights.update(parts[1])
        elif node.op == "AveragePool" and set(node.attrs.get("dilations", ())) == {1}:  # which older runtimes stumble over
            nodes.append(replace(node, attrs=MappingProxyType({k: a for k, a in node.attrs.items() if k != "dilations"})))
        elif bodies := {k: _returning(_plain(b)) for k, b in node.bodies}:
            nodes.append(replace(node, attrs=MappingProxyType({**node.attrs, **bodies})))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), weights=weights)


def _opened(node: Node) -> tuple[list[Node], dict[Value, Any]]:
    """The nodes of a region, with the values of the graph around it, and its weights."""
    body = _plain(node.attrs["body"])
    now: dict[Value, Value | None] = dict(zip(body.inputs, node.inputs, strict=True))
    returned: list[Node] = []
    for inner, outer in zip(body.outputs, node.outputs, strict=True):
        if inner in now or inner in body.weights:
            returned.append(Node("Identity", (inner,), (outer,), origin=node.origin))
        else:
            now[inner] = outer
    for value in (*body.weights, *(v for n in body.nodes for v in n.outputs)):
        now.setdefault(value, Value(value.name, value.type))  # two regions may share one body
    nodes = [replace(n, inputs=tuple(v and now[v] for v in n.inputs), outputs=tuple(now[v] or v for v in n.outputs)) for n in body.nodes]
    nodes += [replace(n, inputs=(now[n.inputs[0]],)) for n in returned if n.inputs[0] is not None]
    return nodes, {v: a for w, a in body.weights.items() if (v := now[w]) is not None}


def _returning(body: Graph) -> Graph:
    """The body with an Identity before each result that it does not make itself, or that it returns twice."""
    made = {v for n in body.nodes for v in n.outputs}
    outputs: list[Value] = []
    nodes = list(body.nodes)
    for value in body.outputs:
        if value in made and value not in outputs:
            outputs.append(value)
        else:
            outputs.append(Value(f"{value.name}.result", value.type))
            nodes.append(Node("Identity", (value,), (outputs[-1],)))
    return replace(body, nodes=tuple(nodes), outputs=tuple(outputs))


class _Names:
    """One name for each value of the whole model, bodies included, and for each node; the interface keeps its own."""

    def __init__(self, graph: Graph) -> None:
        self._values = {v: v.name for v in (*graph.inputs, *graph.outputs)}
        self._used = set(self._values.values())
        self._counts: dict[str, int] = {}
        self._nodes: set[str] = set()
        read = {v for g in _graphs(graph) for v in (*g.outputs, *(i for n in g.nodes for i in n.inputs if i is not None))}
        for inner in _graphs(graph):
            for value in (*inner.inputs, *inner.weights, *(v for n in inner.nodes for v in n.outputs)):
                if value not in self._values:
                    self._values[value] = self._fresh(value.name or "value", self._used) if value.name or value in read else ""

    def __getitem__(self, value: Value | None) -> str:
        return "" if value is None else self._values[value]

    def node(self, node: Node) -> str:
        """A node's own name."""
        return self._fresh(node.origin or split_op(node.op)[1], self._nodes)

    def _fresh(self, base: str, used: set[str]) -> str:
        name = base
        while name in used:
            self._counts[base] = self._counts.get(base, 1) + 1
            name = f"{base}.{self._counts[base]}"
        used.add(name)
        return name


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        for _, body in node.bodies:
            yield from _graphs(body)


def _surgeon(graph: Graph, names: _Names, tensors: dict[Value, gs.Variable]) -> gs.Graph:
    """Nodes and tensors; attributes, types and elements are filled in by `_complete`, which knows all of ONNX's kinds."""

    def tensor(value: Value | None) -> gs.Variable:
        if value is None or not names[value]:
            return gs.Variable.empty()
        if value not in tensors:
            tensors[value] = gs.Variable(names[value])
        return tensors[value]

    nodes = []
    inputs = [tensor(v) for v in graph.inputs]
    for node in graph.nodes:
        domain, op = split_op(node.op)
        bodies = {k: _surgeon(b, names, tensors) for k, b in node.bodies}
        nodes.append(gs.Node(op, names.node(node), bodies, list(map(tensor, node.inputs)), list(map(tensor, node.outputs)), domain or None))
    outputs = [tensor(v) for v in dict.fromkeys(graph.outputs)]
    return gs.Graph(nodes, inputs, outputs, name=graph.name or "main", opset=VERSIONS[""])


def _complete(proto: GraphProto, graph: Graph, names: _Names) -> None:
    proto.initializer.extend(tensor_proto(array, names[value]) for value, array in graph.weights.items())
    for values, infos in ((graph.inputs, proto.input), (tuple(dict.fromkeys(graph.outputs)), proto.output)):
        for value, info in zip(values, infos, strict=True):
            if value.type is not None:
                info.type.CopyFrom(_type(value.type))
    for node, made in zip(graph.nodes, proto.node, strict=True):
        bodies = {a.name: a.g for a in made.attribute}
        for key, body in node.bodies:
            _complete(bodies[key], body, names)
        kinds = attribute_kinds(node.op)
        made.attribute.extend(attribute_proto(k, v, kinds.get(k, 0)) for k, v in node.attrs.items() if not isinstance(v, Graph))


def _type(kind: Type) -> TypeProto:
    """The type as ONNX's message, with plain symbols under the names that the model gave them."""
    made = TypeProto()
    made.CopyFrom(type_proto(kind))
    inner = made
    while inner.WhichOneof("value") != "tensor_type":
        match inner.WhichOneof("value"):
            case "sequence_type":
                inner = inner.sequence_type.elem_type
            case "optional_type":
                inner = inner.optional_type.elem_type
            case "map_type":
                inner = inner.map_type.value_type
            case _:
                return made
    for dim in inner.tensor_type.shape.dim:
        if dim.dim_param.startswith("'") and dim.dim_param.count("'") == 2:  # noqa: PLR2004  one quoted name and nothing else
            dim.dim_param = dim.dim_param.strip("'")
    return made


def _stamps(graph: Graph) -> dict[str, int]:
    """The oldest opset of each domain in which every node means what it means here."""
    stamps = {"": _OLDEST[""]}
    for inner in _graphs(graph):
        for node in inner.nodes:
            domain, op = split_op(node.op)
            types = tuple(_type_name(v.type) if v is not None else None for v in node.inputs)
            results = tuple(_type_name(v.type) for v in node.outputs)
            stamp = _oldest(domain, op, frozenset(node.attrs), node.attrs.get("fmod", 0), types, results)
            if op in ("AveragePool", "MaxPool") and node.attrs.get("ceil_mode", 0):  # older versions counted windows beyond the border
                stamp = max(stamp, _CEIL)
            stamps[domain] = max(stamps.get(domain, 1), stamp)
    return stamps


@cache
def _oldest(domain: str, op: str, attrs: frozenset[str], fmod: int, inputs: tuple[str | None, ...], outputs: tuple[str, ...]) -> int:
    newest = VERSIONS.get(domain, 1)
    if op == "Mod" and bool(fmod) != ("float" in (inputs[0] or "") or "double" in (inputs[0] or "")):
        return newest
    if op == "Range" and "float16" in (inputs[0] or ""):
        return newest
    for version in range(max(_OLDEST.get(domain, 1), _CHANGED.get(op, 1)), newest + 1):
        if onnx.defs.has(op, version, domain) and _fits(onnx.defs.get_schema(op, version, domain), attrs, inputs, outputs):
            return version
    return newest


def _fits(schema: onnx.defs.OpSchema, attrs: frozenset[str], inputs: tuple[str | None, ...], outputs: tuple[str, ...]) -> bool:
    """Whether an operator's version takes these attributes and types; a type that is not known fits."""
    if schema.deprecated or not attrs <= schema.attributes.keys() or not schema.min_input <= len(inputs) <= schema.max_input:
        return False
    if len(outputs) > schema.max_output:
        return False
    pairs: list[tuple[Any, str | None]] = []
    for formals, given in ((schema.inputs, inputs), (schema.outputs, outputs)):
        pairs += [(formals[min(i, len(formals) - 1)], g) for i, g in enumerate(given)]
    return all(not kind or kind in formal.types for formal, kind in pairs)


def _type_name(kind: Type | None) -> str:
    """The type as schemas write it: seq(tensor(float)); empty when it is not known."""
    match kind:
        case Tensor(dtype=dtype):
            return f"tensor({_LONG[dtype]})"
        case Sequence(element=element):
            return f"seq({_type_name(element)})"
        case Optional(element=element):
            return f"optional({_type_name(element)})"
        case Map(key=key, value=Tensor(dtype=dtype)):
            return f"map({_LONG[key]}, tensor({_LONG[dtype]}))"
    return ""


_LONG: Mapping[str, str] = {name: onnx.TensorProto.DataType.Name(code).lower() for name, code in CODES.items()}
