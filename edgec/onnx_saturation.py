"""Quantized models for ONNX Runtime on machines where its sums of bytes saturate, so that its results are those of the ONNX standard.

On x86-64 without VNNI it multiplies u8 by i8 with VPMADDUBSW, which adds two products in 16 bits and saturates (onnxruntime.ai, Quantize
ONNX models, "When and why do I need to try U8U8?"). Two factors in u8, or both in i8, it widens first, and is exact. So weights in i8
beside activations in u8 are moved by 128, together with their zero point: w - z stays what it was, and so does what the model means.

ONNX Runtime's own `session.x64quantprecision` does the same to stored weights, but cannot load models in which they share a zero point,
nor those whose activations are i8, for it moves the weights there, too, and has no kernel for that.
"""

import platform
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, shape_inference

from edgec.errors import BadInput
from edgec.ir.graph import Array
from edgec.ir.proto import array_of, join_op, tensor_proto
from edgec.onnx_load import inlined, load, parsed, tensors

CPUINFO = Path("/proc/cpuinfo")
U8, I8 = TensorProto.UINT8, TensorProto.INT8
_MOST_BYTES = 2**31 - 2**20
"""What a protobuf holds, less some room for what is added."""
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_MOVERS = frozenset({"Cast", "Dropout", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""What ONNX Runtime may exchange with a DequantizeLinear, or remove, before it makes an integer product of what follows."""


@dataclass(frozen=True)
class _Operands:
    """Where an operator has its weights, their zero point, the other factor `x` and its zero point: positions of inputs, None for absent.

    Weights of the type `moved` are wrong beside an `x` of another one. A zero point that is left out has the shape of the input `like`,
    or none.
    """

    weight: int
    zero: int
    x: int | None = None
    x_zero: int | None = None
    like: int | None = None
    moved: int = I8

    @property
    def ending(self) -> str:
        """What the type they are moved to is called."""
        return "u8" if self.moved == I8 else "i8"


_DEQUANTIZED = _Operands(0, 2, like=1)
"""Beside an `x` of either type: in i8 it becomes u8 in ONNX Runtime where a QuantizeLinear makes it, and real numbers elsewhere."""
_OPERANDS: Mapping[str, _Operands] = MappingProxyType({
    "DequantizeLinear": _DEQUANTIZED, "com.microsoft.DequantizeLinear": _DEQUANTIZED,
    "QLinearConv": _Operands(3, 5, 0, 2, 4), "com.microsoft.QLinearConv": _Operands(3, 5, 0, 2, 4),
    "QLinearMatMul": _Operands(3, 5, 0, 2, 4), "com.microsoft.QGemm": _Operands(3, 5, 0, 2, 4),
    "MatMulInteger": _Operands(1, 3, 0, 2), "com.microsoft.MatMulIntegerToFloat": _Operands(1, 5, 0, 4, 3),
    "com.microsoft.DynamicQuantizeMatMul": _Operands(1, 3, like=2),
    "ConvInteger": _Operands(1, 3, 0, 2, moved=U8)})
"""ConvInteger has its weights on the left of the product, so there it is weights in u8 beside images in i8 that saturate."""


def saturates(cpuinfo: Path = CPUINFO) -> bool:
    """Whether ONNX Runtime's sums of u8 times i8 saturate on this machine; assumed of an x86-64 that does not say what it has."""
    words = set(cpuinfo.read_text("utf-8", errors="replace").split()) if cpuinfo.exists() else set[str]()
    return platform.machine().lower() in ("x86_64", "amd64") and not words & {"avx512_vnni", "avx_vnni"}


def notices(model: Path | bytes) -> bool:
    """Whether ONNX Runtime may compute something else than the standard says, on this machine; BadInput says what is wrong with a file."""
    return saturates() and affected(parsed(model)[0])


def exact(model: Path | bytes) -> Path | bytes:
    """What to give to ONNX Runtime on this machine so that its results are the standard's.

    The given object, unless the model would notice what this machine does: then the bytes of another model that means the same
    (`without_saturation`), external data included. Where these would exceed the 2 GB of a protobuf, it is the given object all the same.
    BadInput says what is wrong with a file.
    """
    if not saturates():
        return model
    outline, *_ = parsed(model)
    elements = sum(prod(t.dims) * np.dtype(helper.tensor_dtype_to_np_dtype(t.data_type)).itemsize
                   for t in tensors(outline.graph) if t.data_location == TensorProto.EXTERNAL)
    if not affected(outline) or outline.ByteSize() + elements > _MOST_BYTES:
        return model
    return bytes(without_saturation(load(model)).SerializeToString())


def affected(model: ModelProto) -> bool:
    """Whether a model has sums that saturate on such machines; elements in other files are not read."""
    return _typed(inlined(model) if model.functions else model) is not None


def without_saturation(model: ModelProto) -> ModelProto:
    """A model that means the same and has no sums that saturate on such machines; the same object when the given one has none.

    Stored weights become stored weights of the other type, others are moved when the model runs; functions are inlined. Elements have to
    be in the model, not in other files (BadInput). A model of more than 2 GB is returned as it is, because onnx cannot look at it.
    """
    if model.ByteSize() > _MOST_BYTES:
        return model
    whole = inlined(model) if model.functions else model
    if (typed := _typed(whole)) is None:
        return model
    made = ModelProto()
    made.CopyFrom(whole)
    names = {n for g in _graphs(made.graph) for n in _names(g)}
    bodies = list(_bodies(made, typed))
    moved = {n for body in reversed(bodies) for n in _Mover(body, names).move()}  # the inner ones first: nodes are copied
    read = {n for g in _graphs(made.graph) for n in (*(i for node in g.node for i in node.input), *(o.name for o in g.output))}
    for graph in _graphs(made.graph):
        for tensor in [t for t in graph.initializer if t.name in moved - read]:
            graph.initializer.remove(tensor)
    return made


def _typed(model: ModelProto) -> ModelProto | None:
    """The model, which has no functions, with the types of its values; None when nothing in it saturates."""
    if not any(join_op(n.domain, n.op_type) in _OPERANDS for g in _graphs(model.graph) for n in g.node):
        return None
    try:
        typed = shape_inference.infer_shapes(model)
    except shape_inference.InferenceError as problem:
        raise BadInput(f"onnx cannot tell the types of the model: {str(problem).splitlines()[0]}") from None
    return typed if any(b.wrong(n) for b in _bodies(typed, typed) for n in b.graph.node) else None


class _Body:
    """A graph, or one within it, which sees what is around it: by name what is stored, and types."""

    def __init__(self, graph: GraphProto, typed: GraphProto, factors: set[str], outer: "_Body | None" = None) -> None:
        """`typed` is the same graph with the types of values, `factors` are the right factors of products."""
        self.graph, self.typed, self.factors = graph, typed, factors
        fed = {v.name for v in graph.input}
        stored = {t.name: t for t in graph.initializer if t.name not in fed}
        stored |= {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
        self.stored: ChainMap[str, TensorProto] = ChainMap(stored, *(outer.stored.maps if outer else ()))
        values = (*typed.input, *typed.output, *typed.value_info)
        types = {v.name: v.type.tensor_type.elem_type for v in values} | {n: t.data_type for n, t in stored.items()}
        self.types: ChainMap[str, int] = ChainMap(types, *(outer.types.maps if outer else ()))

    def wrong(self, node: NodeProto) -> _Operands | None:
        """Where a node has weights that have to be moved; None when it has none, or when its types are not known."""
        at = _OPERANDS.get(join_op(node.domain, node.op_type))
        if at is None or self.types.get(_input(node, at.weight)) != at.moved:
            return None
        if not _input(node, at.zero) and at.like is not None and _input(node, at.like) not in self.stored:
            return None
        if at is _DEQUANTIZED:
            return at if node.output[0] in self.factors else None
        if at.x is None or at.x_zero is None:
            return at
        other = self.types.get(_input(node, at.x_zero)) or self.types.get(_input(node, at.x))
        return at if other and other != at.moved else None


def _bodies(model: ModelProto, typed: ModelProto) -> Iterator[_Body]:
    """The graph of a model and all within it, outer ones first."""

    def within(body: _Body) -> Iterator[_Body]:
        yield body
        for node, same in zip(body.graph.node, body.typed.node, strict=True):
            for mine, theirs in zip(node.attribute, same.attribute, strict=True):
                if mine.HasField("g"):
                    yield from within(_Body(mine.g, theirs.g, body.factors, body))

    return within(_Body(model.graph, typed.graph, _factors(model.graph)))


def _factors(graph: GraphProto) -> set[str]:
    """The names of right factors of products in real numbers, and of what they are moved from."""
    nodes = [n for g in _graphs(graph) for n in g.node]
    found = {n.input[1] for n in nodes if n.op_type in _PRODUCTS}
    from_ = {o: n for n in nodes if n.op_type in _MOVERS for o in n.output}
    left = list(found)
    while left:
        if (node := from_.get(left.pop())) and node.input[0] not in found:
            found.add(node.input[0])
            left.append(node.input[0])
    return found


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all within it."""
    yield graph
    for attribute in (a for n in graph.node for a in n.attribute if a.HasField("g")):
        yield from _graphs(attribute.g)


def _names(graph: GraphProto) -> Iterator[str]:
    """All names of values that a graph uses itself."""
    yield from (v.name for values in (graph.input, graph.output, graph.value_info) for v in values)
    yield from (t.name for t in graph.initializer)
    yield from (name for node in graph.node for name in (*node.input, *node.output))


def _input(node: NodeProto, i: int) -> str:
    """The name of an input, empty when it is left out."""
    return node.input[i] if i < len(node.input) else ""


class _Mover:
    """What moves the weights of one graph, but not of those within it; `names` are taken, and new ones are added."""

    def __init__(self, body: _Body, names: set[str]) -> None:
        self._body, self._names = body, names
        self._nodes, self._known = list[NodeProto](), dict[str, str]()

    def move(self) -> set[str]:
        """Change the graph; the names of stored weights that were moved."""
        for node in self._body.graph.node:
            if at := self._body.wrong(node):
                node.input.extend([""] * (at.zero + 1 - len(node.input)))
                node.input[at.zero] = self._other(node.input[at.zero], at) if node.input[at.zero] else self._zero(node, at)
                node.input[at.weight] = self._other(node.input[at.weight], at)
            self._nodes.append(node)
        del self._body.graph.node[:]
        self._body.graph.node.extend(self._nodes)
        return {n for n in self._known if n in self._body.stored}

    def _zero(self, node: NodeProto, at: _Operands) -> str:
        shape = () if at.like is None else tuple(self._body.stored[node.input[at.like]].dims)
        return self._store(f"{node.input[at.weight]}_zero", _flipped(np.zeros(shape, np.int8 if at.moved == I8 else np.uint8)))

    def _other(self, name: str, at: _Operands) -> str:
        """The name of the same numbers, moved."""
        if name not in self._known:
            self._known[name] = self._stored(name, at) if name in self._body.stored else self._computed(name, at)
        return self._known[name]

    def _stored(self, name: str, at: _Operands) -> str:
        tensor = self._body.stored[name]
        if tensor.data_location == TensorProto.EXTERNAL:
            raise BadInput(f"the elements of {name!r} are in another file: read the model with them")
        return self._store(f"{name}_{at.ending}", _flipped(array_of(tensor)))

    def _computed(self, name: str, at: _Operands) -> str:
        offset = self._store(f"{name}_offset", np.array(128 if at.moved == I8 else -128, np.int32))
        wide, moved, made = (self._new(f"{name}_{what}") for what in ("i32", "moved", at.ending))
        self._nodes += [helper.make_node("Cast", [name], [wide], to=TensorProto.INT32), helper.make_node("Add", [wide, offset], [moved]),
                        helper.make_node("Cast", [moved], [made], to=U8 if at.moved == I8 else I8)]
        return made

    def _store(self, name: str, array: Array) -> str:
        made = self._new(name)
        self._body.graph.initializer.append(tensor_proto(array, made))
        return made

    def _new(self, name: str) -> str:
        made = next(n for n in (name, *(f"{name}_{i}" for i in range(len(self._names)))) if n not in self._names)
        self._names.add(made)
        return made


def _flipped(array: Array) -> Array:
    """Bytes of one type as those of the other, 128 away: in both the first bit alone is another."""
    return (array.view(np.uint8) ^ np.uint8(128)).view(np.uint8 if array.dtype == np.int8 else np.int8)
