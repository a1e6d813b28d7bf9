"""The door to ONNX: files, bytes and protobufs come in as graphs of one normalized opset, graphs go out as models."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from edgec.errors import BadInput
from edgec.ir.edit import prune
from edgec.ir.graph import Graph
from edgec.onnx_read import read

Model = str | Path | bytes | ModelProto


def import_model(
    model: Model, *, shapes: Mapping[str, Sequence[int]] | None = None, dims: Mapping[str, int] | None = None,
    inputs: Sequence[str] = (), outputs: Sequence[str] = (), static: bool = False, notes: list[str] | None = None,
) -> Graph:
    """The graph of a model."""
    return prune(read(_load(model)))


def _load(model: Model) -> ModelProto:
    if isinstance(model, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy
    if isinstance(model, bytes):
        return onnx.load_model_from_string(model)
    return onnx.load(Path(model))


def export_model(graph: Graph) -> ModelProto:
    raise NotImplementedError
