"""Samples: inputs such as a model will see, to fit weights to and to judge results by; labels, and measures of agreement.

They come from an .npz file (`{input: [N, …]}`), an .npy file for a model with one input, a folder of such files or of images, a function
(`module:function`), or arrays. The first axis counts samples; a model with a batch of b gets b of them at a time.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgec.errors import BadInput, ToolMissing, UsageError
from edgec.ir.graph import Array, Value
from edgec.ir.types import DTYPES, Tensor, numpy_dtype

Source = str | Path | Mapping[str, Any]
_FEW = 32
_PIXEL = 64.0       # an image whose numbers reach this was not divided by 255
_IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Samples:
    """Inputs by name for each run of a model, how many samples they hold, and what is strange about them, one sentence each.

    A run takes `batch` samples; those that do not fill one are left out.
    """

    feeds: tuple[Mapping[str, Array], ...]
    count: int
    warnings: tuple[str, ...] = field(default=())
    batch: int = 1

    def __len__(self) -> int:
        return len(self.feeds)


def load(source: Source, inputs: Sequence[Value]) -> Samples:
    """The samples of a source for a model with these inputs.

    BadInput names what is missing or does not fit, UsageError a function that cannot be called, ToolMissing Pillow.
    """
    place = "the samples" if isinstance(source, Mapping) else str(source)
    ports = {v.name: _port(v) for v in inputs}
    if not ports:
        raise BadInput(f"the model has no inputs, so {place} cannot be samples of them")
    found = {name: _fitting(array, name, ports[name], place) for name, array in _arrays(source, ports, place).items()}
    counts = {name: len(array) for name, array in found.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{n} of {name}" for name, n in counts.items())
        raise BadInput(f"{place} holds different numbers of samples: {said}")
    feeds = [dict(zip(found, group, strict=True)) for group in zip(*(_runs(a, ports[n]) for n, a in found.items()), strict=False)]
    if not feeds:
        batch = next(iter(ports.values())).dims[0]
        raise BadInput(f"{place} holds {next(iter(counts.values()))} samples, and the model takes {batch} at once")
    count = next(iter(counts.values()))
    name, port = next(iter(ports.items()))
    batch = 1 if _whole(found[name], port) else port.dims[0]
    return Samples(tuple(feeds), count, tuple(_warnings(found, ports, count, place)), batch)


def labels(path: str | Path, count: int) -> Array:
    """The class of each sample from an .npy file: integers [N]; BadInput when they do not fit `count` samples."""
    array = _numpy(Path(path))
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim != 1:
        raise BadInput(f"{path} does not hold labels: an array of integers with one axis is wanted")
    if len(array) != count:
        raise BadInput(f"{path} holds {len(array)} labels for {count} samples")
    return array


def top1(results: Array, wanted: Array) -> float:
    """The share of rows [N, classes] whose largest element is that of the label."""
    if results.ndim < 2 or len(results) != len(wanted):  # noqa: PLR2004
        raise BadInput(f"top1 wants scores [{len(wanted)}, classes], not {list(results.shape)}")
    return float((results.reshape(len(results), -1).argmax(1) == wanted).mean())


def agreement(results: Array, reference: Array) -> float:
    """The share of rows whose largest elements are at the same place."""
    made, other = _same(results, reference)
    return float((made.reshape(len(made), -1).argmax(1) == other.reshape(len(other), -1).argmax(1)).mean())


def cosine(results: Array, reference: Array) -> float:
    """The cosine of the angle between results and reference, all elements as one vector; one when both are zero."""
    made, other = (a.astype(np.float64).reshape(-1) for a in _same(results, reference))
    length = float(np.linalg.norm(made) * np.linalg.norm(other))
    return float(made @ other) / length if length else float(np.array_equal(made, other))


def signal_to_noise(results: Array, reference: Array) -> float:
    """The power of the reference over that of the difference, in dB; infinite when there is none."""
    made, other = (a.astype(np.float64) for a in _same(results, reference))
    noise, signal = float(np.square(made - other).sum()), float(np.square(other).sum())
    if not noise:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if signal else -float("inf")


METRICS: Mapping[str, Callable[[Array, Array], float]] = {"agreement": agreement, "cosine": cosine, "signal_to_noise_db": signal_to_noise}
"""What compares results with those of a reference, without labels."""


def compare(results: Array, reference: Array) -> dict[str, float]:
    """Every measure of METRICS."""
    return {name: measure(results, reference) for name, measure in METRICS.items()}


def _same(results: Array, reference: Array) -> tuple[Array, Array]:
    if results.shape != reference.shape or not results.ndim:
        raise BadInput(f"results {list(results.shape)} cannot be compared with {list(reference.shape)}")
    return results, reference


def _port(value: Value) -> Tensor:
    if not isinstance(value.type, Tensor) or not value.type.is_static:
        raise BadInput(f"the shape of the input {value.name} is not known, so no samples fit it: bind it with --shape or --dim")
    return value.type


def _arrays(source: Source, ports: Mapping[str, Tensor], place: str) -> dict[str, Array]:
    """An array for each input, checked for names only."""
    if isinstance(source, Mapping):
        return _named(source, ports, place)
    path = Path(source)
    if path.is_dir():
        return _folder(path, ports)
    if path.suffix in (".npz", ".npy") or path.exists():
        return _named(_contents(path, ports), ports, place)
    if ":" in str(source):
        return _called(str(source), ports)
    raise BadInput(f"there is no file, folder or module:function {source} to take samples from")


def _contents(path: Path, ports: Mapping[str, Tensor]) -> Mapping[str, Any]:
    if path.suffix not in (".npz", ".npy"):
        raise BadInput(f"{path} is not a .npz or .npy file, a folder, or module:function")
    found = _numpy(path)
    if isinstance(found, dict):
        return found
    if len(ports) != 1:
        raise BadInput(f"{path} holds one array, but the model has the inputs {', '.join(ports)}: give an .npz file")
    return {next(iter(ports)): found}


def _numpy(path: Path) -> Any:
    try:
        made = np.load(path, allow_pickle=False)
        return {k: made[k] for k in made.files} if isinstance(made, np.lib.npyio.NpzFile) else made
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path} cannot be read as arrays: {error}") from None


def _named(arrays: Mapping[str, Any], ports: Mapping[str, Tensor], place: str) -> dict[str, Array]:
    for name in ports:
        if name not in arrays:
            raise BadInput(f"{place} has no array {name}, which is an input of the model; it has {', '.join(map(str, arrays)) or 'none'}")
    return {name: np.asarray(arrays[name]) for name in ports}


def _folder(path: Path, ports: Mapping[str, Tensor]) -> dict[str, Array]:
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".npz", ".npy", *_IMAGES))
    pictures = [p for p in files if p.suffix.lower() in _IMAGES]
    if not files:
        raise BadInput(f"the folder {path} holds no .npz, .npy or image files")
    if pictures and len(pictures) != len(files):
        raise BadInput(f"the folder {path} holds both images and arrays, such as {pictures[0].name}: only one kind is taken")
    if pictures:
        if len(ports) != 1:
            raise BadInput(f"{path} holds images, but the model has the inputs {', '.join(ports)}")
        (name, port), = ports.items()
        return {name: np.stack([_picture(p, name, port) for p in pictures])}
    parts: list[dict[str, Array]] = []
    for file in files:
        named = _named(_contents(file, ports), ports, str(file))
        parts.append({n: _several(named[n], n, port, str(file)) for n, port in ports.items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in ports}


def _picture(path: Path, name: str, port: Tensor) -> Array:
    """An image as the model takes one: resized, channels where it has them, in [0, 1] for reals."""
    try:
        from PIL import Image  # noqa: PLC0415  optional, and slow to load
    except ImportError:
        raise ToolMissing(f"Pillow, which reads images such as {path}, is not installed", "pip install pillow") from None
    dims = port.dims
    first = len(dims) == 4 and dims[1] in _CHANNELS  # noqa: PLR2004
    if not first and (len(dims) != 4 or dims[3] not in _CHANNELS):  # noqa: PLR2004
        raise BadInput(f"{path} is an image, but the input {name} has the shape {list(dims)}, which is none")
    channels, height, width = (dims[1], *dims[2:]) if first else (dims[3], *dims[1:3])
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(_CHANNELS[channels]).resize((width, height))).reshape(height, width, channels)
    except OSError:
        raise BadInput(f"{path} cannot be read as an image") from None
    kind = numpy_dtype(port.dtype)
    made = pixels if kind.kind in "iu" else pixels / 255
    return np.asarray(made.transpose(2, 0, 1) if first else made).astype(kind)


def function(source: str) -> Callable[..., Any]:
    """What `module:function` names; UsageError when there is no such thing."""
    module, _, name = source.rpartition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name, None) if module else None
    except ImportError as error:
        raise UsageError(f"{source}: the module {module} cannot be imported: {error}") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise UsageError(f"{source}: the module {module} has no function {name}" if module else f"{source} is not module:function")
    return found  # type: ignore[no-any-return]


def _called(source: str, ports: Mapping[str, Tensor]) -> dict[str, Array]:
    """What a function returns: arrays by input, or an iterable of such, one for each sample or for several."""
    make = function(source)
    try:
        made = make()
        parts = [made] if isinstance(made, Mapping) else list(made) if isinstance(made, Iterable) else None
    except Exception as error:
        raise BadInput(f"{source} fails with {type(error).__name__}: {error}") from error
    if not parts or not all(isinstance(p, Mapping) for p in parts):
        raise BadInput(f"{source} returns neither arrays by name nor a list of such")
    named = [_named(p, ports, source) for p in parts]
    return {n: np.concatenate([_several(a[n], n, port, source) for a in named]) for n, port in ports.items()}


def _several(array: Array, name: str, port: Tensor, place: str) -> Array:
    """An array with an axis of samples, which one that is a single sample lacks."""
    return _fitting(array[None] if array.shape == port.dims[1:] else array, name, port, place)


def _fitting(array: Array, name: str, port: Tensor, place: str) -> Array:
    """The array in the dtype of its input; BadInput when shape, dtype or numbers do not fit."""
    dims = port.dims
    if not _whole(array, port) and not (array.ndim == len(dims) > 0 and array.shape[1:] == dims[1:]):
        wanted = ["N", *dims[1:]] if dims else ["N"]
        raise BadInput(f"{place}: the array {name} has the shape {list(array.shape)}, but [{', '.join(map(str, wanted))}] is wanted")
    kind = DTYPES[port.dtype]
    whole = {kind.kind, array.dtype.kind} <= {"i", "u"}
    if kind != array.dtype and (kind.kind in "OSUb" or array.dtype.kind not in "iuf" or (kind.kind in "iu" and not whole)):
        raise BadInput(f"{place}: the array {name} is {array.dtype}, but {port.dtype} is wanted")
    made = array.astype(kind)
    if kind.kind in "iu" and not np.array_equal(made, array):
        raise BadInput(f"{place}: the array {name} has numbers that {port.dtype} does not have")
    if kind.kind == "f" and not np.isfinite(made).all():
        raise BadInput(f"{place}: the array {name} holds numbers that are not finite")
    return made


def _whole(array: Array, port: Tensor) -> bool:
    """Whether each element along the first axis is a whole input, batch and all."""
    return array.shape[1:] == port.dims and array.ndim == len(port.dims) + 1


def _runs(array: Array, port: Tensor) -> list[Array]:
    """The array in pieces that the model takes at once; what does not fill a batch is left out."""
    if _whole(array, port):
        return list(array)
    batch = port.dims[0]
    return [array[i:i + batch] for i in range(0, len(array) - batch + 1, batch)]


def _warnings(arrays: Mapping[str, Array], ports: Mapping[str, Tensor], count: int, place: str) -> Iterable[str]:
    if count < _FEW:
        yield f"{place}: {count} samples; with fewer than {_FEW}, what is fitted to them fits little else"
    for name, array in arrays.items():
        if count > 1 and (array == array[:1]).all():
            yield f"{place}: all samples of {name} are equal"
        if array.dtype.kind == "f" and len(ports[name].dims) == 4 and array.min() >= 0 and _PIXEL < array.max() <= 255:  # noqa: PLR2004
            yield f"{place}: {name} ranges up to {array.max():g}, as pixels do that nobody normalized, and is taken as it is"
