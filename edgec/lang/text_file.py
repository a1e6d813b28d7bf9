"""Graphs in files: the text, and beside it, or at its end in comments, an archive of its big tensors."""

import base64
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from edgec.errors import BadInput
from edgec.ir.graph import Array, Graph
from edgec.ir.types import DTYPES, dtype_name, numpy_dtype
from edgec.lang.text_data import bits
from edgec.lang.text_reader import parse
from edgec.lang.text_writer import show

_MARK, _WIDTH = "\n; big tensors\n", 120


def save(graph: Graph, path: str | os.PathLike[str], header: str = "") -> None:
    """Write a graph's text, behind a header of comments, to `path`, and its big tensors, if it has any, to `path` + `.npz`.

    Each file appears whole or not at all; BadInput when it cannot be written.
    """
    blobs: dict[str, Array] = {}
    text, place = show(graph, blobs), Path(path)
    if blobs:
        _write(_archive(place), lambda file: _pack(blobs, file))
    else:
        _archive(place).unlink(missing_ok=True)  # one of an older text would be taken for this one's
    _write(place, lambda file: file.write((header + text).encode()))


def save_whole(graph: Graph, path: str | os.PathLike[str], header: str = "") -> None:
    """Write a graph as one text that holds everything."""
    text = whole(graph, header)
    _write(Path(path), lambda file: file.write(text.encode()))


def whole(graph: Graph, header: str = "") -> str:
    """A graph as one text that holds everything: lines of comments first, and the archive of big tensors in comments at the end."""
    blobs: dict[str, Array] = {}
    text, file = header + show(graph, blobs), io.BytesIO()
    if blobs:
        _pack(blobs, file)
        letters = base64.b64encode(file.getvalue()).decode()
        text += "".join((_MARK[1:], *(f"; {letters[i:i + _WIDTH]}\n" for i in range(0, len(letters), _WIDTH))))
    return text


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph that `save` or `save_whole` wrote; BadInput when a file is missing or broken, SourceError when the text has a mistake."""
    place = Path(path)
    try:
        text = place.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{place} cannot be read as a graph: {_reason(error)}") from None
    text, mark, letters = text.partition(_MARK)
    blobs = _unpack(_archive(place)) if _archive(place).exists() else {}
    if mark:
        blobs |= _unpack(_decoded(letters, place), place)
    return parse(text + mark[:1], str(place), blobs)


def _decoded(letters: str, place: Path) -> io.BytesIO:
    try:
        return io.BytesIO(base64.b64decode(letters.replace("; ", "").replace("\n", ""), validate=True))
    except ValueError:
        raise BadInput(f"the tensors at the end of {place} are broken") from None


def _archive(place: Path) -> Path:
    return place.with_name(place.name + ".npz")


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _write(place: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Fill a temporary file and give it its name only when it is whole."""
    try:
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False) as file:
            temporary = Path(file.name)
            try:
                fill(file)
                file.close()
                temporary.chmod(0o666 & ~_umask())
                temporary.replace(place)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise BadInput(f"{place} cannot be written: {_reason(error)}") from None


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _pack(blobs: Mapping[str, Array], file: IO[bytes]) -> None:
    """An npz whose entries are named key.dtype: the bits as unsigned integers, the shape; numpy alone does not know every dtype."""
    entries: dict[str, Array] = {}
    for key, array in blobs.items():
        kind = dtype_name(array.dtype)
        entries[f"{key}.{kind}"] = _pack_strings(array) if kind == "string" else bits(array)
        entries[f"{key}.shape"] = np.array(array.shape, np.int64)
    np.savez(file, allow_pickle=False, **entries)


def _pack_strings(array: Array) -> Array:
    """Strings as the UTF-8 of a JSON list; bytes stand in it as a list of one Latin-1 string."""
    texts = [[v.decode("latin-1")] if isinstance(v, bytes) else str(v) for v in array.reshape(-1).tolist()]
    return np.frombuffer(json.dumps(texts).encode(), np.uint8)


def _unpack(place: Path | io.BytesIO, shown: Path | None = None) -> dict[str, Array]:
    try:
        with np.load(place, allow_pickle=False) as archive:
            entries = {name: archive[name] for name in archive.files}
        made: dict[str, Array] = {}
        for name, stored in entries.items():
            key, _, kind = name.rpartition(".")
            if kind in DTYPES:
                made[key] = _restore(stored, kind).reshape(tuple(entries[f"{key}.shape"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{shown or place} is no archive of tensors: {_reason(error)}") from None
    return made


def _restore(stored: Array, kind: str) -> Array:
    if kind != "string":
        return stored.view(numpy_dtype(kind))
    texts = json.loads(stored.tobytes())
    made = np.empty(len(texts), object)
    made[:] = [t[0].encode("latin-1") if isinstance(t, list) else t for t in texts]
    return made
