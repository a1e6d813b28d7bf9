"""Flatbuffers from plain data, through the package `flatbuffers`: no generated code, tables are named by the slots of their fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgec.errors import ToolMissing

_SCALARS = {"bool": "Bool", "i8": "Int8", "u8": "Uint8", "i32": "Int32", "u32": "Uint32", "f32": "Float32", "i64": "Int64"}
_BYTES = {"i32": 4, "f32": 4, "i64": 8}
_ALIGN = 16
INSTALL = "pip install 'edgec[npu]'"


@dataclass(frozen=True)
class Field:
    """A field of a table: its slot, and its value with its kind.

    Kinds are `i32`, … for scalars, `[i32]`, … for vectors of them, `text`, `bytes`, `table` (a Table) and `[table]`.
    """

    slot: int
    kind: str
    value: Any


Table = Sequence[Field]


def buffer(root: Table, identifier: bytes) -> bytes:
    """The flatbuffer of a root table; ToolMissing without the package `flatbuffers`."""
    try:
        from flatbuffers import Builder  # noqa: PLC0415  an optional package
    except ImportError as missing:
        raise ToolMissing("a model for an NPU's compiler is written by the package flatbuffers, which is absent", INSTALL) from missing
    builder = Builder(1 << 16)
    builder.Finish(_table(builder, root), file_identifier=identifier)
    return bytes(builder.Output())


def _table(builder: Any, fields: Table) -> int:
    """What a table refers to comes first, then its fields in the order of their slots."""
    placed = [(f, f.value if f.kind in _SCALARS else _reference(builder, f)) for f in sorted(fields, key=lambda f: f.slot)]
    builder.StartObject(max((f.slot for f in fields), default=-1) + 1)
    for field, value in placed:
        if field.kind in _SCALARS:
            getattr(builder, f"Prepend{_SCALARS[field.kind]}")(value)
        else:
            builder.PrependUOffsetTRelative(value)
        builder.Slot(field.slot)
    return int(builder.EndObject())


def _reference(builder: Any, field: Field) -> int:
    match field.kind:
        case "text":
            return int(builder.CreateString(field.value))
        case "table":
            return _table(builder, field.value)
        case "bytes":
            return _bytes(builder, field.value)
        case "[table]":
            return _vector(builder, [_table(builder, t) for t in field.value], 4, builder.PrependUOffsetTRelative)
        case kind:
            scalar = kind.strip("[]")
            return _vector(builder, field.value, _BYTES[scalar], getattr(builder, f"Prepend{_SCALARS[scalar]}"))


def _vector(builder: Any, items: Sequence[Any], size: int, prepend: Any) -> int:
    builder.StartVector(size, len(items), size)
    for item in reversed(items):
        prepend(item)
    return int(builder.EndVector())


def _bytes(builder: Any, data: bytes) -> int:
    """Bytes at a multiple of 16, as readers that map a file want them."""
    builder.StartVector(1, len(data), _ALIGN)
    builder.head = builder.Head() - len(data)
    builder.Bytes[builder.Head():builder.Head() + len(data)] = data
    return int(builder.EndVector())
