"""Run a bundle's library in this process, through ctypes."""

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.codegen.manifest import ABI
from edgec.codegen.runtime.units import NoDriver, Units
from edgec.errors import DeviceError, ToolMissing
from edgec.simulated import Simulated, Stand

Array = npt.NDArray[Any]
_addressof, _buffer = ctypes.addressof, ctypes.c_char.from_buffer
_HUGE_PAGE, _GUARD, _GUARD_BYTE = 2 << 20, 4096, 0xA5
INSTALL = {"opencl": "apt install ocl-icd-libopencl1, and the OpenCL driver of the GPU (pocl-opencl-icd runs on any CPU)",
            "cuda": "apt install nvidia-driver, on a machine with a GPU of NVIDIA"}
POISON = 0xFF
"""Memory filled with this byte is NaN in every floating-point type."""


class _Args(ctypes.Structure):
    """NAME_args of NAME.h."""

    _fields_ = (
        *((n, ctypes.c_uint32) for n in ("size", "abi")),
        *((n, ctypes.c_void_p) for n in ("weights", "prepared", "arena", "state", "inputs", "outputs", "in_dims", "out_dims", "rt")),
        *((n, ctypes.c_uint32) for n in ("level", "flags", "first_step", "step_count")), ("devices", ctypes.c_void_p))


class Memory:
    """Memory that starts at a multiple of any page, in huge pages where the system has them, with a guard on both sides."""

    def __init__(self, size: int) -> None:
        huge = size >= _HUGE_PAGE
        # private: shared memory is a file, whose pages are neither large nor ever given back
        pages = mmap.mmap(-1, size + 2 * _GUARD + huge * _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(pages, np.uint8)
        first = _address(whole)
        start = _GUARD + (-(first + _GUARD) % _HUGE_PAGE if huge else 0)
        self.array, self.address = whole[start:start + size], first + start
        self._guards = (whole[start - _GUARD:start], whole[start + size:start + size + _GUARD])
        self.set_guards()

    @classmethod
    def of(cls, path: Path) -> "Memory":
        """A file in memory."""
        memory = cls(path.stat().st_size)
        with path.open("rb", buffering=0) as file:
            file.readinto(memory.array.data)
        return memory

    def set_guards(self) -> None:
        """Write what `is_intact` looks for."""
        for guard in self._guards:
            guard[:] = _GUARD_BYTE

    def is_intact(self) -> bool:
        """Whether nothing was written beside the memory."""
        return all(bool((guard == _GUARD_BYTE).all()) for guard in self._guards)


def _release(_: None, start: int, size: int) -> None:
    """Give back the pages of weights that nobody reads any more."""
    begin, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(max(0, end - begin)), mmap.MADV_DONTNEED)


_RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)


def _address(array: Array) -> int:
    """Where the elements lie. The buffer protocol tells in a fourth of the time, but not for read-only arrays, or types that C lacks."""
    try:
        return _addressof(_buffer(array))  # type: ignore[arg-type] # arrays are buffers, as their stubs say from Python 3.12 on
    except (TypeError, ValueError, BufferError):
        return int(array.__array_interface__["data"][0])


class _Context:
    """What one run needs, kept for the next: an arena and the structure of arguments."""

    def __init__(self, facts: Mapping[str, Any], shared: Mapping[str, int]) -> None:
        self.arena = Memory(facts["sizes"]["arena_bytes"])
        self._inputs = (ctypes.c_void_p * max(1, len(facts["inputs"])))()
        self._outputs = (ctypes.c_void_p * max(1, len(facts["outputs"])))()
        self.args = _Args(size=ctypes.sizeof(_Args), abi=ABI, arena=self.arena.address, inputs=ctypes.addressof(self._inputs),
                          outputs=ctypes.addressof(self._outputs), **shared)
        self.pointer = ctypes.byref(self.args)

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        for i, a in enumerate(inputs):
            self._inputs[i] = _address(a)
        for i, a in enumerate(outputs):
            self._outputs[i] = _address(a)

    def poison(self, outputs: Sequence[Array]) -> None:
        for array in (self.arena.array, *outputs):
            array.reshape(-1).view(np.uint8)[:] = POISON


@dataclass(frozen=True)
class Raw:
    """A loaded model as C calls it: addresses of NAME_run_args, of its arguments, and of `first_step` in them; `kept` keeps them alive."""

    run: int
    args: int
    first_step: int
    steps: int
    triple: str
    kept: tuple[object, ...]


class NativeDevice:
    """A bundle's library, its weights in memory, and working memory for as many runs as there were at once."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], threads: int, simulated: Simulated | None = None) -> None:
        name, sizes = manifest["c_name"], manifest["sizes"]
        self._facts, self._pool = manifest, _Pool(path, threads)
        load_libm()
        library = _library(path / f"lib{name}.so")
        missing = ctypes.c_char_p()
        if library[f"{name}_check_cpu"](ctypes.byref(missing)):
            raise DeviceError(f"{path} needs {(missing.value or b'?').decode()}, which this processor lacks")
        self._run, self._strerror = library[f"{name}_run_args"], library[f"{name}_strerror"]
        self._strerror.restype = ctypes.c_char_p
        self._weights = Memory.of(path / f"{name}.weights.bin")
        self._prepared, self._state = Memory(sizes["prepared_bytes"]), Memory(sizes["state_bytes"])
        self._prepare(library, name)
        self._shared = {"weights": self._weights.address, "prepared": self._prepared.address, "state": self._state.address,
                        "rt": self._pool.address}
        self._units = Stand(simulated) if simulated is not None else _units(path, manifest, library, self._weights.address)
        self._idle: list[_Context] = []  # append and pop of a list are atomic

    def _prepare(self, library: ctypes.CDLL, name: str) -> None:
        """Look at the weights, and fill what is made of them; pages of weights that only this reads are given back."""
        operands = (ctypes.c_void_p(self._weights.address), ctypes.c_void_p(self._prepared.address))
        if hasattr(library, f"{name}_prepare_with"):
            self._check(library[f"{name}_prepare_with"](*operands, ctypes.c_void_p(self._pool.address), _RELEASE(_release), None))
        else:
            self._check(library[f"{name}_prepare"](*operands))

    def _check(self, code: int) -> None:
        if code:
            text = self._strerror(ctypes.c_int32(code))
            more = self._units.error() if self._units is not None else ""
            raise DeviceError(f"the model refused to run: {text.decode() if text else f'error {code}'}{more and f' ({more})'}")

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> None:
        """Fill the outputs; the calling thread and the pool's work together."""
        try:
            context = self._idle.pop()
        except IndexError:
            context = _Context(self._facts, self._shared)
        context.bind(inputs, outputs)
        if self._units is None and not poison:                  # small models take microseconds: nothing may cost one here
            code = self._run(context.pointer)
            if code:
                self._check(code)
        else:
            self._watched(context, outputs, poison=poison)
        self._idle.append(context)

    def _watched(self, context: _Context, outputs: Sequence[Array], *, poison: bool) -> None:
        """A run with units beside the CPU, or with a look at what it writes."""
        with self._units or nullcontext() as devices:
            context.args.devices = devices
            if poison:
                self._poison(context, outputs)
            self._check(self._run(context.pointer))
            if poison and not (context.arena.is_intact() and (self._units is None or self._units.is_intact(_GUARD_BYTE))):
                raise DeviceError("the model wrote outside its arena")

    def _poison(self, context: _Context, outputs: Sequence[Array]) -> None:
        context.poison(outputs)
        if self._units is not None:
            self._units.fill(POISON, _GUARD_BYTE)

    def start(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> "_Stepper":
        """Prepare a run that goes step by step, with an arena of its own."""
        context = _Context(self._facts, self._shared)
        context.bind(inputs, outputs)
        context.args.devices = ctypes.addressof(self._units.pointers) if self._units is not None else None
        if poison:
            self._poison(context, outputs)
        return _Stepper(context, tuple(inputs), tuple(outputs), self._state, lambda: self._check(self._run(context.pointer)), self._units)

    def raw(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Raw:
        """The model as C calls it, on these arrays and an arena of its own."""
        context = _Context(self._facts, self._shared)
        context.bind(inputs, outputs)
        context.args.devices = ctypes.addressof(self._units.pointers) if self._units is not None else None
        first = ctypes.addressof(context.args)
        return Raw(ctypes.cast(self._run, ctypes.c_void_p).value or 0, first, first + _Args.first_step.offset, len(self._facts["steps"]),
                   self._facts["target"]["triple"], (self, context, tuple(inputs), tuple(outputs)))


@dataclass
class _Stepper:
    """A run in progress; `inputs` only keeps the arrays alive."""

    context: _Context
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    state: Memory
    call: Callable[[], None]
    units: Units | Stand | None

    def step(self, number: int) -> None:
        self.context.args.first_step, self.context.args.step_count = number, 1
        self.call()
        if not self.context.arena.is_intact():
            raise DeviceError(f"step {number} wrote outside the arena")

    def read(self, region: str, offset: int, size: int, unit: str = "cpu") -> bytes:
        if self.units is not None and unit in self.units.index:
            return self.units.read(self.units.index[unit], offset, size)
        if region == "output":
            return self.outputs[offset].tobytes()
        memory = self.context.arena if region == "arena" else self.state
        return memory.array[offset:offset + size].tobytes()


def _units(path: Path, manifest: Mapping[str, Any], library: ctypes.CDLL, weights: int) -> Units | None:
    """The devices of the units beside the CPU, when the model has any."""
    if not manifest.get("units"):
        return None
    try:
        return Units(path, dict(manifest), library, weights, _library)
    except NoDriver as error:
        raise ToolMissing(f"{path} cannot run here: {error}", INSTALL.get(next(iter(manifest["units"]))["driver"], "")) from error
    except RuntimeError as error:
        raise DeviceError(f"{path} cannot run here: {error}") from error


class _Pool:
    """The bundle's thread pool; no pool and address 0 for one thread."""

    def __init__(self, path: Path, threads: int) -> None:
        self.address = 0
        if threads > 1:
            self._library = _library(path / "libedgec_rt.so")
            self._library.edgec_rt_create.restype = ctypes.c_void_p
            self.address = self._library.edgec_rt_create(ctypes.c_int32(threads)) or 0
            if not self.address:
                raise DeviceError(f"{threads} threads cannot be started")

    def __del__(self) -> None:
        if self.address:
            self._library.edgec_rt_destroy(ctypes.c_void_p(self.address))


_seen: dict[str, list[tuple[int, int]]] = {}
"""The files that were loaded from a path, by device and inode."""


def _library(path: Path) -> ctypes.CDLL:
    """A library. The loader goes by the spelling of the path, so another file that lies there now gets one of its own."""
    try:
        facts = path.stat()
        files = _seen.setdefault(str(path.absolute()), [])
        file = (facts.st_dev, facts.st_ino)
        if file not in files:
            files.append(file)                                     # never reused: a loaded library keeps its file alive
        return ctypes.CDLL(f"{path.absolute().parent}{'/.' * files.index(file)}/{path.name}")
    except OSError as error:
        raise DeviceError(f"{path} cannot be loaded: {error}") from error


def load_libm() -> None:
    """Make the functions of libm visible to bundles that use some; where it is part of libc there is nothing to load."""
    for name in ("libm.so.6", "libm.so"):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return
