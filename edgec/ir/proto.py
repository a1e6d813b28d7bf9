"""Types, arrays and attributes as the messages that ONNX has for them, and back: the vocabulary shared by all who ask onnx something."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, numpy_helper

from edgec.ir.dims import Dim, parse_dim, symbol
from edgec.ir.graph import Array, Graph, Node
from edgec.ir.types import Map, Optional, Sequence, Tensor, Type, dtype_name

OPSET = 28
VERSIONS: Mapping[str, int] = {
    "": OPSET, "ai.onnx.ml": 5, "ai.onnx.preview": 1, "ai.onnx.preview.training": 1, "com.microsoft": 1, "edgec": 1}
"""The one version of each domain whose operators a Graph holds; the importer brings older ones up to it."""

CODES: Mapping[str, int] = {
    "f32": TensorProto.FLOAT, "u8": TensorProto.UINT8, "i8": TensorProto.INT8, "u16": TensorProto.UINT16, "i16": TensorProto.INT16,
    "i32": TensorProto.INT32, "i64": TensorProto.INT64, "string": TensorProto.STRING, "bool": TensorProto.BOOL, "f16": TensorProto.FLOAT16,
    "f64": TensorProto.DOUBLE, "u32": TensorProto.UINT32, "u64": TensorProto.UINT64, "c64": TensorProto.COMPLEX64,
    "c128": TensorProto.COMPLEX128, "bf16": TensorProto.BFLOAT16, "f8e4m3fn": TensorProto.FLOAT8E4M3FN,
    "f8e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ, "f8e5m2": TensorProto.FLOAT8E5M2, "f8e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
    "u4": TensorProto.UINT4, "i4": TensorProto.INT4, "f4e2m1": TensorProto.FLOAT4E2M1, "f8e8m0": TensorProto.FLOAT8E8M0,
    "u2": TensorProto.UINT2, "i2": TensorProto.INT2,
}
NAMES: Mapping[int, str] = {code: name for name, code in CODES.items()}


def split_op(op: str) -> tuple[str, str]:
    """The domain ("" for ONNX's own) and the name of an operator: `com.microsoft.Gelu` is ("com.microsoft", "Gelu")."""
    domain, _, name = op.rpartition(".")
    return domain, name


def join_op(domain: str, name: str) -> str:
    """The operator's name as a Node has it; both spellings of ONNX's own domain are left out."""
    return name if domain in ("", "ai.onnx") else f"{domain}.{name}"


@cache
def type_proto(kind: Type | None) -> TypeProto:
    """A type as ONNX's message; expressions become names such as `(H+1)//2`, what is unknown stays unset."""
    made = TypeProto()
    match kind:
        case Tensor(dtype=dtype, shape=shape):
            made.tensor_type.elem_type = CODES[dtype]
            if shape is not None:
                made.tensor_type.shape.SetInParent()
                for d in shape:
                    dim = made.tensor_type.shape.dim.add()
                    if isinstance(d, int):
                        dim.dim_value = d
                    elif d is not None:
                        dim.dim_param = str(d)
        case Sequence(element=element):
            made.sequence_type.elem_type.CopyFrom(type_proto(element))
        case Optional(element=element):
            made.optional_type.elem_type.CopyFrom(type_proto(element))
        case Map(key=key, value=value):
            made.map_type.key_type = CODES[key]
            made.map_type.value_type.CopyFrom(type_proto(value))
    return made


def type_of(proto: TypeProto, dim: Callable[[str], Dim | None] = parse_dim) -> Type | None:
    """The type in ONNX's message, None when it says nothing; `dim` reads names of dims; ValueError for sparse and opaque types."""
    match proto.WhichOneof("value"):
        case "tensor_type":
            inner = proto.tensor_type
            if inner.elem_type not in NAMES:
                return None
            return Tensor(NAMES[inner.elem_type], tuple(_dim(d, dim) for d in inner.shape.dim) if inner.HasField("shape") else None)
        case "sequence_type":
            element = type_of(proto.sequence_type.elem_type, dim)
            return element and Sequence(element)
        case "optional_type":
            element = type_of(proto.optional_type.elem_type, dim)
            return element and Optional(element)
        case "map_type":
            element = type_of(proto.map_type.value_type, dim)
            return element and Map(NAMES[proto.map_type.key_type], element)
        case None:
            return None
        case other:
            raise ValueError(f"a {other.removesuffix('_type')} type")


def _dim(dim: TensorShapeProto.Dimension, named: Callable[[str], Dim | None]) -> Dim | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return named(dim.dim_param) if dim.dim_param else None


def dim_named(text: str) -> Dim | None:
    """The dim that a model calls `text`: an expression when it reads as one, else a symbol of that name; None for `?`."""
    if text == "?":
        return None
    if re.search(r"[+*/(]|- ?\d", text):  # batch-size is a name
        try:
            return parse_dim(text)
        except ValueError:
            return symbol(text)
    return symbol(text)


def array_of(proto: TensorProto, base: str = "") -> Array:
    """The elements of ONNX's message, in edgec's numpy dtypes (text as str objects); `base` is the folder of external data."""
    if proto.data_type == TensorProto.STRING:  # numpy's own text would lose zeros at the end
        return np.array([*(s.decode("utf-8", "surrogateescape") for s in proto.string_data), None], object)[:-1].reshape(tuple(proto.dims))
    return numpy_helper.to_array(proto, base)


def tensor_proto(array: Array, name: str = "") -> TensorProto:
    """An array as ONNX's message; packed where the dtype is."""
    if array.dtype.kind in "OUST":
        made = TensorProto(name=name, data_type=TensorProto.STRING, dims=array.shape)
        made.string_data.extend(str(s).encode("utf-8", "surrogateescape") for s in array.ravel())
        return made
    made = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    made.data_type = CODES[dtype_name(array.dtype)]
    return made


def sparse_array(proto: onnx.SparseTensorProto) -> Array:
    """The dense form of ONNX's sparse tensor."""
    values, indices = array_of(proto.values), array_of(proto.indices)
    dense = np.zeros(tuple(proto.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def attribute_of(proto: AttributeProto) -> Any:
    """The value of an attribute as a Node holds it, GRAPH excepted; ValueError for the kinds that no operator has."""
    match proto.type:
        case AttributeProto.INT:
            return proto.i
        case AttributeProto.FLOAT:
            return proto.f
        case AttributeProto.STRING:
            return proto.s.decode("utf-8", "surrogateescape")
        case AttributeProto.INTS:
            return list(proto.ints)
        case AttributeProto.FLOATS:
            return list(proto.floats)
        case AttributeProto.STRINGS:
            return [s.decode("utf-8", "surrogateescape") for s in proto.strings]
        case AttributeProto.TENSOR:
            return array_of(proto.t)
        case AttributeProto.SPARSE_TENSOR:
            return sparse_array(proto.sparse_tensor)
        case AttributeProto.TYPE_PROTO:
            return type_of(proto.tp)
    raise ValueError(f"the attribute {proto.name!r} of an unknown kind")


def constant_array(kind: str, value: Any) -> Array:
    """The array that a Constant node stands for, from its one attribute: `value`, `sparse_value`, `value_float` and so on."""
    dtypes = {"float": np.float32, "floats": np.float32, "int": np.int64, "ints": np.int64}
    return np.asarray(value) if kind in ("value", "sparse_value") else np.array(value, dtypes.get(kind.removeprefix("value_"), object))


def attribute_proto(name: str, value: Any, kind: int = 0) -> AttributeProto:
    """An attribute as ONNX's message; `kind` is the AttributeProto type that the operator declares, which an empty list needs."""
    made = AttributeProto(name=name)
    if isinstance(value, np.ndarray):
        made.type = AttributeProto.TENSOR
        made.t.CopyFrom(tensor_proto(value))
    elif isinstance(value, Tensor | Sequence | Optional | Map):
        made.type = AttributeProto.TYPE_PROTO
        made.tp.CopyFrom(type_proto(value))
    elif isinstance(value, str):
        made.type, made.s = AttributeProto.STRING, value.encode("utf-8", "surrogateescape")
    elif isinstance(value, float) or kind == AttributeProto.FLOAT:
        made.type, made.f = AttributeProto.FLOAT, float(value)
    elif isinstance(value, int | np.integer | np.bool_):
        made.type, made.i = AttributeProto.INT, int(value)
    else:
        _fill_list(made, list(value), kind)
    return made


def _fill_list(made: AttributeProto, items: list[Any], kind: int) -> None:
    if kind == AttributeProto.FLOATS or any(isinstance(i, float) for i in items):
        made.type = AttributeProto.FLOATS
        made.floats.extend(map(float, items))
    elif kind == AttributeProto.STRINGS or any(isinstance(i, str) for i in items):
        made.type = AttributeProto.STRINGS
        made.strings.extend(str(i).encode("utf-8", "surrogateescape") for i in items)
    else:
        made.type = AttributeProto.INTS
        made.ints.extend(map(int, items))


@cache
def schema_of(op: str) -> onnx.defs.OpSchema | None:
    """What onnx knows of an operator at its normalized version, or at the last one that was not deprecated; None when nothing."""
    domain, name = split_op(op)
    version = VERSIONS.get(domain, 1)
    if not onnx.defs.has(name, version, domain):
        return None
    schema = onnx.defs.get_schema(name, version, domain)
    return onnx.defs.get_schema(name, schema.since_version - 1, domain) if schema.deprecated and schema.since_version > 1 else schema


@cache
def attribute_kinds(op: str) -> Mapping[str, int]:
    """The AttributeProto type of each attribute of an operator; empty for operators that onnx does not know."""
    schema = schema_of(op)
    kinds = {} if schema is None else {k: str(a.type).rpartition(".")[2] for k, a in schema.attributes.items()}
    return {k: AttributeProto.AttributeType.Value(kind) for k, kind in kinds.items()}


def node_proto(node: Node, inputs: Iterable[str], outputs: Iterable[str], name: str = "") -> NodeProto:
    """A node as ONNX's message without its bodies, which whoever calls adds."""
    domain, op = split_op(node.op)
    made = NodeProto(op_type=op, domain=domain, name=name, input=inputs, output=outputs)
    kinds = attribute_kinds(node.op)
    made.attribute.extend(attribute_proto(k, v, kinds.get(k, 0)) for k, v in node.attrs.items() if not isinstance(v, Graph))
    return made


def node_model(node: Node, constants: Mapping[int, Array]) -> onnx.ModelProto:
    """A model of one node without bodies: inputs i0, i1, … but for those among `constants`, which counts positions; outputs o0, o1, …."""
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(node.inputs)]
    made = onnx.ModelProto(ir_version=onnx.IR_VERSION)
    made.graph.name = "one"
    made.graph.node.append(node_proto(node, names, [f"o{k}" for k in range(len(node.outputs))]))
    for k, value in enumerate(node.inputs):
        if k in constants:
            made.graph.initializer.append(tensor_proto(constants[k], names[k]))
        elif value is not None:
            made.graph.input.add(name=names[k], type=type_proto(value.type))
    for k, value in enumerate(node.outputs):
        made.graph.output.add(name=f"o{k}", type=type_proto(value.type))
    for domain in sorted({"", split_op(node.op)[0]}):
        made.opset_import.add(domain=domain, version=VERSIONS.get(domain, 1))
    return made
