"""A model file, bytes or a protobuf as a ModelProto that is complete: functions inlined, external data read."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, inliner

from edgec.errors import BadInput, UnsupportedModel
from edgec.ir.proto import VERSIONS

Model = str | Path | bytes | ModelProto


def load(model: Model) -> ModelProto:
    """The complete model, never the caller's own object.

    BadInput says what is wrong with a file: missing, a folder, not ONNX, weights missing or outside of the model's folder.
    """
    proto, name, folder = parsed(model)
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise BadInput(f"{name} holds no ONNX graph")
    _text_only(proto.graph, name)
    if proto.functions:
        proto = inlined(proto, name)
    for tensor in tensors(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            _fetch(tensor, name, folder)
    return proto


def versions(model: ModelProto) -> dict[str, int]:
    """The opset of each domain that a model declares; UnsupportedModel when one is newer than what edgec knows."""
    declared = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import} or {"": 1}
    for domain, version in declared.items():
        if version > VERSIONS.get(domain, version):
            newest = f"the newest that edgec knows is {VERSIONS[domain]}"
            raise UnsupportedModel(f"the model uses opset {version} of {domain or 'ONNX'}, and {newest}")
    return declared


def parsed(model: Model) -> tuple[ModelProto, str, Path | None]:
    """The message, what messages call it, and the folder where its weights may lie."""
    if isinstance(model, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy, "the model", None
    if isinstance(model, bytes | bytearray | memoryview):
        return _decoded(bytes(model), "the model"), "the model", None
    path = Path(model)
    if not path.exists():
        raise BadInput(f"there is no file {path}")
    if path.is_dir():
        raise BadInput(f"{path} is a folder, not an ONNX file")
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise BadInput(f"{path} cannot be read: {problem.strerror}") from None
    return _decoded(data, str(path)), str(path), path.resolve().parent


def _decoded(data: bytes, name: str) -> ModelProto:
    if not data:
        raise BadInput(f"{name} is empty")
    made = ModelProto()
    try:
        made.ParseFromString(data)
    except Exception:  # noqa: BLE001  the protobuf package has no public name for its error that all its implementations raise
        raise BadInput(f"{name} is no ONNX model, or a damaged one") from None
    return made


def _text_only(graph: GraphProto, name: str) -> None:
    """BadInput when a name holds bytes that are no text, which protobuf lets pass."""
    for node in graph.node:
        if not all(isinstance(n, str) for n in (node.op_type, node.domain, node.name, *node.input, *node.output)):
            raise BadInput(f"{name} is a damaged ONNX model: a name in it is no text")
        for attribute in node.attribute:
            if not isinstance(attribute.name, str):
                raise BadInput(f"{name} is a damaged ONNX model: a name in it is no text")
            if attribute.type == AttributeProto.GRAPH:
                _text_only(attribute.g, name)
    if not all(isinstance(v.name, str) for v in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)):
        raise BadInput(f"{name} is a damaged ONNX model: a name in it is no text")


def inlined(proto: ModelProto, name: str = "the model") -> ModelProto:
    """The model without functions of its own: BadInput or UnsupportedModel where that cannot be."""
    try:
        made = inliner.inline_local_functions(proto)
        if made.functions:  # those of another opset than the model's
            made = inliner.inline_local_functions(proto, convert_version=True)
    except Exception as problem:  # noqa: BLE001  the inliner raises bare RuntimeErrors and worse
        raise BadInput(f"the functions of {name} cannot be inlined: {str(problem).splitlines()[0]}") from None
    if made.functions:
        names = sorted(f.name for f in made.functions)
        raise UnsupportedModel(f"{name} has functions of an opset that cannot be brought to its own: {', '.join(names)}", names)
    return made


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All stored elements of a graph and of the bodies in it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.GRAPH:
                yield from tensors(attribute.g)


def _fetch(tensor: TensorProto, name: str, folder: Path | None) -> None:
    """Read the elements of a tensor that lie in another file, which must be inside the model's folder."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise BadInput(f"the weight {tensor.name!r} lies in the file {location!r}: give the model as a path, so that it can be found")
    path = (folder / location).resolve()
    if not location or os.path.isabs(location) or not path.is_relative_to(folder):  # noqa: PTH117  Path.is_absolute follows this system only
        raise BadInput(f"the weight {tensor.name!r} of {name} lies in {location!r}, outside of the model's folder")
    if not path.is_file():
        raise BadInput(f"the weight {tensor.name!r} of {name} lies in {location!r}, and there is no such file beside the model")
    try:
        offset, length = int(entries.get("offset", 0)), entries.get("length")
        data = np.fromfile(path, np.uint8, -1 if length is None else int(length), offset=offset)
    except (ValueError, OSError) as problem:
        raise BadInput(f"the weight {tensor.name!r} of {name} cannot be read from {location!r}: {problem}") from None
    if length is not None and data.size != int(length):
        raise BadInput(f"{location!r} ends before the weight {tensor.name!r} of {name} does")
    tensor.raw_data = data.tobytes()
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
