"""Facts about ONNX operators at the normalized opset: arity, attributes and their defaults, algebra, function bodies."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto
from onnx.defs import OpSchema

from edgec.ir.graph import REGIONS, Graph, Node
from edgec.ir.operators import OWN
from edgec.ir.proto import (
    OPSET,
    VERSIONS,
    attribute_kinds,
    attribute_of,
    attribute_proto,
    node_proto,
    schema_of,
    split_op,
    type_proto,
)
from edgec.onnx_read import read
from edgec.onnx_upgrade import upgrade

__all__ = ["OPSET", "VERSIONS", "arity", "attributes", "defaults", "function_body", "has", "is_commutative", "outputs", "required"]

_COMMUTATIVE = {"Add", "Mul", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
_MICROSOFT = {"com.microsoft.BiasGelu": (2, 2), "com.microsoft.FastGelu": (1, 2), "com.microsoft.FusedMatMul": (2, 2),
              "com.microsoft.Gelu": (1, 1), "com.microsoft.QuickGelu": (1, 1), "com.microsoft.SkipLayerNormalization": (3, 5),
              "com.microsoft.SkipSimplifiedLayerNormalization": (3, 4)}
_OURS = {**dict.fromkeys(sorted(REGIONS), (0, 2**31 - 1)), "edgec.Reorder": (1, 1), "edgec.SumPool": (2, 2), "edgec.Lookup": (2, 2),
         "edgec.MultiplyShift": (3, 3)}


def has(op: str) -> bool:
    """Whether edgec knows what an operator means: `Conv`, `ai.onnx.ml.Scaler`, `com.microsoft.Gelu`."""
    return op in _MICROSOFT or op in _OURS or op in OWN or schema_of(op) is not None


def arity(op: str) -> tuple[int, int]:
    """The smallest and the largest number of inputs; KeyError for an unknown operator."""
    if op in _MICROSOFT or op in _OURS:
        return (_MICROSOFT | _OURS)[op]
    schema = _known(op)
    return schema.min_input, schema.max_input


def outputs(op: str) -> tuple[int, int]:
    """The smallest and the largest number of outputs; KeyError for an unknown operator."""
    if op in _MICROSOFT:
        return 1, 4 if "Skip" in op else 1
    if op in _OURS:
        return 1, 2**31 - 1 if op == "edgec.Fused" else 1
    schema = _known(op)
    return schema.min_output, schema.max_output


@cache
def defaults(op: str) -> Mapping[str, Any]:
    """The attributes that have a default, with it; KeyError for an unknown operator."""
    if op in _MICROSOFT or op in _OURS:
        return MappingProxyType({})
    return MappingProxyType({k: attribute_of(a.default_value) for k, a in _known(op).attributes.items() if a.default_value.name})


def required(op: str) -> frozenset[str]:
    """The attributes that a node must have; KeyError for an unknown operator."""
    return frozenset() if op in _MICROSOFT or op in _OURS else frozenset(k for k, a in _known(op).attributes.items() if a.required)


def attributes(op: str) -> frozenset[str]:
    """The names of all attributes that a node may have; empty for operators that onnx does not describe."""
    return frozenset(attribute_kinds(op))


def is_commutative(op: str) -> bool:
    """Whether the operator's operands may change places."""
    return op in _COMMUTATIVE


def function_body(node: Node) -> Graph | None:
    """What a node means in simpler operators, as a graph over fresh values in the order of its inputs; None when ONNX does not say.

    The node's inputs must have types. Inputs that the node leaves out are left out of the graph's inputs, too.
    """
    schema: Any = schema_of(node.op)  # onnx's type stubs leave the functions out
    if schema is None:
        return None
    if schema.has_function:
        function = schema.function_body
    elif schema.has_context_dependent_function:
        names = [f"i{i}" if v is not None else "" for i, v in enumerate(node.inputs)]
        proto = node_proto(node, names, [f"o{i}" for i in range(len(node.outputs))])
        types = [type_proto(v.type if v is not None else None).SerializeToString() for v in node.inputs]
        function = FunctionProto.FromString(schema.get_context_dependent_function(proto.SerializeToString(), types))
    else:
        return None
    return _graph(node, function)


def _known(op: str) -> OpSchema:
    schema = schema_of(op)
    if schema is None:
        raise KeyError(op)
    return schema


def _graph(node: Node, function: FunctionProto) -> Graph:
    """A function as a graph, with the node's attributes in place of references to them."""
    attrs = {**defaults(node.op), **node.attrs}
    given = {name: v for name, v in zip(function.input, node.inputs, strict=False) if v is not None}
    graph = GraphProto(name=split_op(node.op)[1], node=[_bound(n, attrs, set(function.input) - given.keys()) for n in function.node])
    graph.input.extend(ValueInfoProto(name=name, type=type_proto(v.type)) for name, v in given.items())
    graph.output.extend(ValueInfoProto(name=name) for name, v in zip(function.output, node.outputs, strict=False) if v.name)
    body = upgrade(read(ModelProto(graph=graph, opset_import=function.opset_import)), {o.domain: o.version for o in function.opset_import})
    return replace(body, nodes=tuple(replace(n, device=node.device, origin=node.origin) for n in body.nodes))


def _bound(node: NodeProto, attrs: Mapping[str, Any], absent: set[str]) -> NodeProto:
    """A node of a function with its references to attributes replaced, and with nothing in place of inputs that are not given."""
    made = NodeProto(op_type=node.op_type, domain=node.domain, input=["" if n in absent else n for n in node.input], output=node.output)
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            if attribute.ref_attr_name in attrs:
                made.attribute.append(attribute_proto(attribute.name, attrs[attribute.ref_attr_name], attribute.type))
        elif attribute.type == AttributeProto.GRAPH:
            inner = made.attribute.add(name=attribute.name, type=AttributeProto.GRAPH)
            inner.g.CopyFrom(attribute.g)
            nodes = [_bound(n, attrs, absent) for n in attribute.g.node]
            del inner.g.node[:]
            inner.g.node.extend(nodes)
        else:
            made.attribute.append(attribute)
    return made
