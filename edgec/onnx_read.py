"""A ModelProto as a Graph of the model's own operators: structure and scopes by onnx-graphsurgeon, the rest read from the messages.

onnx-graphsurgeon resolves names to tensors, also across If, Loop and Scan bodies. What it cannot hold (sequence, optional and map
types, sparse weights, attributes that are types) is taken from the protobuf node that stands at the same place.
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx_graphsurgeon.logger import G_LOGGER

from edgec.errors import BadInput, UnsupportedModel
from edgec.ir.edit import sort
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.proto import array_of, attribute_of, constant_array, dim_named, join_op, sparse_array, tensor_proto, type_of
from edgec.ir.types import Tensor, Type, dtype_name


def read(model: ModelProto) -> Graph:
    """The main graph of a model, in an order of use, with Constant nodes and sparse tensors turned into weights.

    The model's messages may be changed. BadInput names a value that nothing makes or that is made twice, or a node on a cycle;
    UnsupportedModel names a type or an attribute that edgec does not know.
    """
    _densify(model.graph)
    with G_LOGGER.suppress(G_LOGGER.CRITICAL + 1):  # its remarks are about what is read here instead
        surgeon = gs.import_onnx(model)
    return _Reader().graph(surgeon, model.graph, None)


def _densify(graph: GraphProto) -> None:
    for sparse in graph.sparse_initializer:
        graph.initializer.append(tensor_proto(sparse_array(sparse), sparse.values.name))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _densify(attribute.g)


@dataclass
class _Scope:
    """A graph while it is read: what its names mean, and the scope around it."""

    outer: "_Scope | None"
    types: dict[str, Type | None]
    constants: dict[str, TensorProto]
    values: dict[str, Value] = field(default_factory=dict)
    weights: dict[Value, Array] = field(default_factory=dict)

    def find(self, name: str) -> Value | None:
        """The value of a name here or further out."""
        return self.values.get(name) or (self.outer.find(name) if self.outer else None)

    def owner(self, name: str) -> "_Scope":
        """The scope whose initializer a name is."""
        return self if name in self.constants or self.outer is None else self.outer.owner(name)


class _Reader:
    """One model on its way in."""

    def __init__(self) -> None:
        self._count = 0
        self._seen: dict[int, Value] = {}
        self._keep: list[gs.Tensor] = []

    def graph(self, surgeon: gs.Graph, proto: GraphProto, outer: _Scope | None) -> Graph:
        """A graph, or a body with the scope around it."""
        types = {i.name: _type(i) for i in (*proto.value_info, *proto.output, *proto.input)}
        scope = _Scope(outer, types, {t.name: t for t in proto.initializer})
        inputs = tuple(self._make(scope, t) for t in surgeon.inputs)
        nodes = [n for pair in zip(surgeon.nodes, proto.node, strict=True) if (n := self._node(scope, *pair)) is not None]
        outputs = tuple(self._output(scope, t) for t in surgeon.outputs)
        made = Graph(proto.name or "main", inputs, outputs, tuple(nodes), scope.weights)
        return self._checked(made, scope)

    def _make(self, scope: _Scope, tensor: gs.Tensor) -> Value:
        """The value that an input or a node's output defines."""
        if tensor.name in scope.values and tensor.name:
            raise BadInput(f"the model makes the value {tensor.name!r} twice")
        value = self._known(scope, tensor) or self._remember(tensor, Value(tensor.name, scope.types.get(tensor.name)))
        scope.values[tensor.name] = value
        return value

    def _known(self, scope: _Scope, tensor: gs.Tensor) -> Value | None:
        """The value of a tensor that was read before, or that is a weight."""
        if id(tensor) not in self._seen and isinstance(tensor, gs.Constant):
            owner = scope.owner(tensor.name)
            self._weight(owner, tensor, array_of(owner.constants[tensor.name]))
        return self._seen.get(id(tensor))

    def _remember(self, tensor: gs.Tensor, value: Value) -> Value:
        self._keep.append(tensor)  # an id means something only while its object lives
        self._seen[id(tensor)] = value
        return value

    def _weight(self, scope: _Scope, tensor: gs.Tensor, array: Array) -> Value:
        value = self._remember(tensor, Value(tensor.name, Tensor(dtype_name(array.dtype), array.shape)))
        scope.values[tensor.name] = value
        scope.weights[value] = array
        return value

    def _output(self, scope: _Scope, tensor: gs.Tensor) -> Value:
        value = self._known(scope, tensor) or scope.find(tensor.name)  # a body may return what is made outside of it
        if value is None:
            raise BadInput(f"the model returns {tensor.name!r}, which nothing in it makes")
        return value

    def _node(self, scope: _Scope, surgeon: gs.Node, proto: NodeProto) -> Node | None:
        """A node; None when it was a Constant, which becomes a weight."""
        op = join_op(proto.domain, proto.op_type)
        origin = proto.name or f"{proto.op_type}_{self._count}"
        self._count += 1
        if op == "Constant" and (array := _constant(proto)) is not None:
            if surgeon.outputs[0].name in scope.values:
                raise BadInput(f"the model makes the value {surgeon.outputs[0].name!r} twice")
            self._weight(scope, surgeon.outputs[0], array)
            return None
        inputs = tuple(self._read(scope, t) for t in surgeon.inputs)
        attrs: dict[str, Any] = {}
        for attribute in proto.attribute:
            if attribute.type == AttributeProto.GRAPH:
                attrs[attribute.name] = self.graph(surgeon.attrs[attribute.name], attribute.g, scope)
            else:
                try:
                    attrs[attribute.name] = attribute_of(attribute)
                except ValueError as problem:
                    raise UnsupportedModel(f"{op} {origin!r} has {problem}", [origin]) from None
        outputs = tuple(self._make(scope, t) for t in surgeon.outputs)
        return Node(op, inputs, outputs, MappingProxyType(attrs), None, origin)

    def _read(self, scope: _Scope, tensor: gs.Tensor) -> Value | None:
        if not tensor.name:
            return None
        return self._known(scope, tensor) or self._remember(tensor, Value(tensor.name, scope.types.get(tensor.name)))

    def _checked(self, graph: Graph, scope: _Scope) -> Graph:
        for node in graph.nodes:
            for value in node.inputs:
                if value is not None and scope.find(value.name) is not value:
                    raise BadInput(f"{node.label} reads {value.name!r}, which nothing in the model makes")
        try:
            return sort(graph)
        except ValueError as problem:
            raise BadInput(f"{problem}: a model must not feed on its own results") from None


def _type(info: ValueInfoProto) -> Type | None:
    try:
        return type_of(info.type, dim_named)
    except ValueError as problem:
        raise UnsupportedModel(f"{info.name!r} is of {problem}, which edgec does not know", [info.name]) from None


def _constant(proto: NodeProto) -> Array | None:
    """The array that a Constant node stands for; None when it has no value."""
    return next((constant_array(a.name, attribute_of(a)) for a in proto.attribute if a.name.startswith(("value", "sparse_value"))), None)
