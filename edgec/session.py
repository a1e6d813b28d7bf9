"""Load a bundle and run it: in this process through ctypes, or under the target's emulator when it is for another processor.

Needs numpy only. A Session may be used by several threads at once: each run has an arena of its own.
"""

import ctypes
import hashlib
import json
import mmap
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.errors import BadInput, DeviceError, EdgecError
from edgec.ir.types import numpy_dtype

SCHEMA, ABI = 1, 1
Array = npt.NDArray[Any]
_HUGE = 2 << 20
_GUARD = 4096
_POISON = 0xFF  # makes a NaN of every floating-point type


@dataclass(frozen=True)
class Port:
    """An input or output: its name in the model, shape, and dtype in numpy's words."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Device(Protocol):
    """Something that can run a bundle's code on arrays that already have the right shapes and dtypes."""

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> None:
        """Fill the outputs. DeviceError when the code refuses."""

    def start(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> "Stepper":
        """Prepare a run that goes step by step."""


class Stepper(Protocol):
    """A run in progress, whose memory can be looked at between steps."""

    def step(self, number: int) -> None:
        """Run one step."""

    def read(self, region: str, offset: int, size: int) -> bytes:
        """Bytes of the arena, the state, or of an output (whose `offset` is its number)."""

    def close(self) -> None:
        """Give the memory back."""


class Session:
    """A loaded model. `run` may be called by several threads at once, each call has its own working memory."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], device: Device, *, emulator: str = "", poison: bool = False) -> None:
        self.path, self.manifest, self.emulator, self.poison = path, manifest, emulator, poison
        self.inputs = tuple(_port(p) for p in manifest["inputs"])
        self.outputs = tuple(_port(p) for p in manifest["outputs"])
        self._device = device

    def run(self, feeds: Mapping[str, npt.ArrayLike] | npt.ArrayLike, *, out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Run on arrays by name (or one array, when the model has one input) and return the outputs by name.

        `out` gives arrays that some outputs are to be written into. BadInput names an array that does not fit.
        """
        inputs, outputs = self._arrays(feeds, out)
        self._device.run(inputs, outputs, poison=self.poison)
        return {p.name: a for p, a in zip(self.outputs, outputs, strict=True)}

    def steps(self, feeds: Mapping[str, npt.ArrayLike] | npt.ArrayLike) -> "Iterator[Step]":
        """Run step by step; each Step says what ran and can read what it wrote, until the next one is asked for."""
        inputs, outputs = self._arrays(feeds, None)
        run = self._device.start(inputs, outputs, poison=self.poison)
        try:
            for number, call in enumerate(self.manifest["steps"]):
                run.step(number)
                yield Step(number, call, self.manifest["buffers"], run)
        finally:
            run.close()

    def _arrays(self, feeds: Mapping[str, npt.ArrayLike] | npt.ArrayLike, out: Mapping[str, Array] | None) -> tuple[list[Array], list[Array]]:
        if not isinstance(feeds, Mapping):
            if len(self.inputs) != 1:
                raise BadInput(f"the model has {len(self.inputs)} inputs ({', '.join(p.name for p in self.inputs)}), so arrays must be named")
            feeds = {self.inputs[0].name: feeds}
        if len(feeds) != len(self.inputs) and (strange := [n for n in feeds if n not in {p.name for p in self.inputs}]):
            raise BadInput(f"the model has no input {strange[0]}; its inputs are {', '.join(p.name for p in self.inputs)}")
        inputs = [_input(port, feeds) for port in self.inputs]
        if out is None:
            return inputs, [np.empty(p.shape, p.dtype) for p in self.outputs]
        if strange := [n for n in out if n not in {p.name for p in self.outputs}]:
            raise BadInput(f"the model has no output {strange[0]}; its outputs are {', '.join(p.name for p in self.outputs)}")
        return inputs, [_output(p, out[p.name]) if p.name in out else np.empty(p.shape, p.dtype) for p in self.outputs]


@dataclass(frozen=True)
class Step:
    """A step that has just run: its number, its entry in the manifest, and what lies in memory now."""

    number: int
    call: Mapping[str, Any]
    buffers: Sequence[Mapping[str, Any]]
    memory: Stepper

    def read(self, operand: int) -> bytes:
        """The bytes from an operand's start to the end of its buffer; BadInput for an operand in the weights or an input."""
        place = self.call["operands"][operand]
        buffer = self.buffers[place["buffer"]]
        if buffer["region"] not in {"arena", "state", "output"}:
            raise BadInput(f"operand {operand} of step {self.number} lies in the {buffer['region']} and is not written")
        return self.memory.read(buffer["region"], buffer["offset"], buffer["bytes"])[place["offset"]:]


def _port(facts: Mapping[str, Any]) -> Port:
    return Port(facts["name"], tuple(facts["shape"]), numpy_dtype(facts["dtype"]))


def _input(port: Port, feeds: Mapping[str, npt.ArrayLike]) -> Array:
    try:
        given = feeds[port.name]
    except KeyError:
        raise BadInput(f"there is no array for the input {port.name}") from None
    array = np.asarray(given)
    if array.dtype != port.dtype or array.shape != port.shape:
        raise BadInput(f"the input {port.name} must be {port.dtype}{list(port.shape)}, not {array.dtype}{list(array.shape)}")
    return np.ascontiguousarray(array).reshape(port.shape)


def _output(port: Port, array: Array) -> Array:
    if array.dtype != port.dtype or array.shape != port.shape or not array.flags.c_contiguous or not array.flags.writeable:
        raise BadInput(f"out[{port.name}] must be a writable contiguous array {port.dtype}{list(port.shape)}")
    return array


class _Args(ctypes.Structure):
    """NAME_args of NAME.h."""

    _fields_ = (
        *((n, ctypes.c_uint32) for n in ("size", "abi")),
        *((n, ctypes.c_void_p) for n in ("weights", "prepared", "arena", "state", "inputs", "outputs", "in_dims", "out_dims", "rt")),
        *((n, ctypes.c_uint32) for n in ("level", "flags", "first_step", "step_count")))


class _Memory:
    """Anonymous memory, in huge pages where the system has them, with a guard before and behind `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(-1, size + 2 * _GUARD + (_HUGE if size >= _HUGE else 0))
        if size >= _HUGE:
            self._map.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(self._map, np.uint8)
        first = whole.__array_interface__["data"][0]
        start = _GUARD if size < _HUGE else -(first + _GUARD) % _HUGE + _GUARD
        self.array = whole[start:start + size]
        self.address = first + start
        self._guards = (whole[start - _GUARD:start], whole[start + size:start + size + _GUARD])
        self.write_guards()

    def write_guards(self) -> None:
        for guard in self._guards:
            guard[:] = 0xA5

    def is_intact(self) -> bool:
        return all(bool((guard == 0xA5).all()) for guard in self._guards)  # noqa: PLR2004


class _Context:
    """What one run needs, kept for the next: an arena and the structure of arguments."""

    def __init__(self, facts: Mapping[str, Any], shared: Mapping[str, int]) -> None:
        self.arena = _Memory(facts["sizes"]["arena_bytes"])
        self.inputs = (ctypes.c_void_p * max(1, len(facts["inputs"])))()
        self.outputs = (ctypes.c_void_p * max(1, len(facts["outputs"])))()
        self.args = _Args(size=ctypes.sizeof(_Args), abi=ABI, arena=self.arena.address, inputs=ctypes.addressof(self.inputs),
                          outputs=ctypes.addressof(self.outputs), **shared)
        self.pointer = ctypes.byref(self.args)

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        for i, a in enumerate(inputs):
            self.inputs[i] = a.__array_interface__["data"][0]
        for i, a in enumerate(outputs):
            self.outputs[i] = a.__array_interface__["data"][0]


class NativeDevice:
    """A bundle's library in this process."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], threads: int) -> None:
        self._facts, name = manifest, manifest["c_name"]
        _load_libm()
        library = ctypes.CDLL(str(path / f"lib{name}.so"))
        missing = ctypes.c_char_p()
        if library[f"{name}_check_cpu"](ctypes.byref(missing)):
            raise DeviceError(f"{path} needs {(missing.value or b'').decode()}, which this processor lacks; build it for --target host")
        self._run, self._strerror = library[f"{name}_run_args"], library[f"{name}_strerror"]
        self._strerror.restype = ctypes.c_char_p
        sizes = manifest["sizes"]
        self._weights, self._prepared, self._state = _read(path / f"{name}.weights.bin"), _Memory(sizes["prepared_bytes"]), _Memory(sizes["state_bytes"])
        self._shared = {"weights": self._weights.address, "prepared": self._prepared.address, "state": self._state.address}
        self._check(library[f"{name}_prepare"](ctypes.c_void_p(self._weights.address), ctypes.c_void_p(self._prepared.address)))
        if threads > 1:
            self._pool = ctypes.CDLL(str(path / "libedgec_rt.so"))
            self._pool.edgec_rt_create.restype = ctypes.c_void_p
            self._shared["rt"] = self._pool.edgec_rt_create(ctypes.c_int32(threads))
            if not self._shared["rt"]:
                raise DeviceError(f"{threads} threads cannot be started")
        self._idle: list[_Context] = []  # append and pop of a list are atomic

    def __del__(self) -> None:
        rt = getattr(self, "_shared", {}).get("rt")
        if rt:
            self._pool.edgec_rt_destroy(ctypes.c_void_p(rt))

    def _check(self, code: int) -> None:
        if code:
            text = self._strerror(ctypes.c_int32(code))
            raise DeviceError(f"the model refused to run: {text.decode() if text else f'error {code}'}")

    @contextmanager
    def _context(self) -> Iterator[_Context]:
        try:
            context = self._idle.pop()
        except IndexError:
            context = _Context(self._facts, self._shared)
        try:
            yield context
        finally:
            context.args.first_step = context.args.step_count = 0
            self._idle.append(context)

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> None:
        """Fill the outputs in the calling thread and the pool."""
        with self._context() as context:
            context.bind(inputs, outputs)
            if poison:
                _poison(context.arena, outputs)
            self._check(self._run(context.pointer))
            if poison and not context.arena.is_intact():
                context.arena.write_guards()
                raise DeviceError("the model wrote outside its arena")

    def start(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> "_NativeStepper":
        """Prepare a run that goes step by step, with an arena of its own."""
        context = _Context(self._facts, self._shared)
        context.bind(inputs, outputs)
        if poison:
            _poison(context.arena, outputs)
        return _NativeStepper(context, list(inputs), list(outputs), self._state, lambda: self._check(self._run(context.pointer)))


def _poison(arena: _Memory, outputs: Sequence[Array]) -> None:
    arena.array[:] = _POISON
    for a in outputs:
        np.frombuffer(a.data.cast("B") if a.size else b"", np.uint8)
        if a.size:
            a.reshape(-1).view(np.uint8)[:] = _POISON


@dataclass
class _NativeStepper:
    context: _Context
    inputs: list[Array]
    outputs: list[Array]
    state: _Memory
    call: Callable[[], None]

    def step(self, number: int) -> None:
        self.context.args.first_step, self.context.args.step_count = number, 1
        self.call()
        if not self.context.arena.is_intact():
            raise DeviceError(f"step {number} wrote outside the arena")

    def read(self, region: str, offset: int, size: int) -> bytes:
        if region == "output":
            return self.outputs[offset].tobytes()
        memory = self.context.arena if region == "arena" else self.state
        return memory.array[offset:offset + size].tobytes()

    def close(self) -> None:
        self.inputs, self.outputs = [], []


def _load_libm() -> None:
    """Make the functions of libm visible to bundles that use some; where it is part of libc there is nothing to load."""
    for name in ("libm.so.6", "libm.so"):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return


def _read(path: Path) -> _Memory:
    memory = _Memory(path.stat().st_size)
    with path.open("rb") as file:
        file.readinto(memory.array)  # type: ignore[attr-defined]
    return memory


def load(path: str | os.PathLike[str], *, threads: int = 1, poison: bool = False) -> Session:
    """Load a bundle.

    `poison` fills the arena and the outputs with NaN before each run and looks for writes outside the arena.
    Raises BadInput for a folder that is no bundle, a damaged file or a bundle of a newer edgec, DeviceError when this machine cannot run it.
    """
    place = Path(path)
    manifest = read_manifest(place)
    check_files(place, manifest)
    machine = manifest["requires"]["machine"]
    if machine == platform.machine():
        return Session(place, manifest, NativeDevice(place, manifest, threads), poison=poison)
    raise DeviceError(f"{place} is for {machine} and this machine is {platform.machine()}")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a bundle, checked for its version."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        schema, abi = int(manifest["schema"]), int(manifest["abi"])
    except OSError as error:
        raise BadInput(f"{path} is not a bundle: manifest.json cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path / 'manifest.json'} is damaged: {error}") from error
    if schema > SCHEMA or abi > ABI:
        raise BadInput(f"{path} was made by a newer edgec (schema {schema}, ABI {abi}); this one reads up to schema {SCHEMA}, ABI {ABI}")
    return dict(manifest)


def check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file with its checksum; BadInput names the first that is missing or damaged."""
    for name, digest in manifest["files"].items():
        try:
            with (path / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BadInput(f"{path / name} cannot be read: {error.strerror}") from error
        if found != digest:
            raise BadInput(f"{path / name} is damaged: its checksum is not the one in manifest.json")


__all__ = ["EdgecError", "Port", "Session", "Step", "load", "read_manifest"]
