"""Load a bundle and run it: in this process, or under the target's emulator when it is for another processor.

Nothing here needs TVM or ONNX. A Session may be used by several threads at once: each run has working memory of its own.
"""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.codegen.manifest import check_files, read_manifest
from edgec.emulator import EmulatedDevice
from edgec.errors import BadInput, DeviceError, UsageError
from edgec.ir.types import numpy_dtype
from edgec.native import NativeDevice
from edgec.remote import TIMEOUT, RemoteDevice
from edgec.simulated import Simulated

if TYPE_CHECKING:
    from edgec.clock import Clock

Array = npt.NDArray[Any]
Feeds = Mapping[str, npt.ArrayLike] | npt.ArrayLike


@dataclass(frozen=True)
class Port:
    """An input or output: its name in the model, shape, and numpy dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


class Stepper(Protocol):
    """A run in progress, whose memory can be looked at between steps."""

    def step(self, number: int) -> None:
        """Run one step."""

    def read(self, region: str, offset: int, size: int, unit: str = "cpu") -> bytes:
        """Bytes of the arena of a unit, or of the state, or a whole output, whose `offset` is its number."""


class Device(Protocol):
    """Something that can run a bundle's code on arrays that already have the right shapes and dtypes."""

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> None:
        """Fill the outputs. DeviceError when the code refuses."""

    def start(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> Stepper:
        """Prepare a run that goes step by step."""


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
            raise BadInput(f"operand {operand} of step {self.number} lies in the region {buffer['region']}, which no step writes")
        return self.memory.read(buffer["region"], buffer["offset"], buffer["bytes"], buffer["unit"])[place["offset"]:]


class Session:
    """A loaded model.

    `emulator` says what runs it, empty for a machine itself; `remote` which other machine does, empty for this one; `simulated` what stands
    for its NPUs, if they are.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], device: Device, *, emulator: str = "",
                 simulated: Simulated | None = None, poison: bool = False, remote: str = "") -> None:
        self.remote = remote
        self.path, self.manifest, self.emulator, self.poison = path, manifest, emulator, poison
        self.simulated = simulated.description if simulated is not None else ""
        self.inputs = tuple(_port(p) for p in manifest["inputs"])
        self.outputs = tuple(_port(p) for p in manifest["outputs"])
        self._device = device

    def run(self, feeds: Feeds, *, out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Run on arrays by name (or one array, when the model has one input) and return the outputs by name.

        `out` gives arrays that outputs are written into. Several threads may run at once. Raises BadInput for an array that
        does not fit, DeviceError when the model refuses the data.
        """
        inputs, outputs = self._arrays(feeds, out)
        self._device.run(inputs, outputs, poison=self.poison)
        return {p.name: a for p, a in zip(self.outputs, outputs, strict=True)}

    def steps(self, feeds: Feeds) -> Iterator[Step]:
        """Run step by step; each Step says what ran and can read memory until the next one is asked for."""
        inputs, outputs = self._arrays(feeds, None)
        memory = self._device.start(inputs, outputs, poison=self.poison)
        for number, call in enumerate(self.manifest["steps"]):
            memory.step(number)
            yield Step(number, call, self.manifest["buffers"], memory)

    def clock(self, feeds: Feeds) -> "Clock":
        """Loops in C around a run on these arrays, to time it by; DeviceError under an emulator, ToolMissing without a C compiler."""
        if not isinstance(self._device, NativeDevice):
            where = f"on {self.remote}" if self.remote else f"under {self.emulator} here"
            raise DeviceError(f"{self.path} runs {where}, so no loop in C can call it")
        from edgec.clock import Clock  # noqa: PLC0415 - it knows compilers, which loading and running do not

        return Clock(self._device.raw(*self._arrays(feeds, None)))

    def times(self, feeds: Feeds, runs: int) -> list[float]:
        """The seconds of so many runs on another machine, by its own clock; DeviceError where it is none (see `clock`)."""
        if not isinstance(self._device, RemoteDevice):
            raise DeviceError(f"{self.path} does not run on another machine, so nothing there can time it")
        return self._device.times(self._arrays(feeds, None)[0], runs)

    def _arrays(self, feeds: Feeds, out: Mapping[str, Array] | None) -> tuple[list[Array], list[Array]]:
        if type(feeds) is not dict and not isinstance(feeds, Mapping):      # the first question takes a tenth of the second's time
            if len(self.inputs) != 1:
                raise BadInput(f"the model has {len(self.inputs)} inputs ({_names(self.inputs)}), so arrays must be given by name")
            feeds = {self.inputs[0].name: feeds}
        inputs = [_input(port, feeds) for port in self.inputs]
        if len(feeds) > len(inputs):
            _check_names("input", feeds, self.inputs)
        if out is None:
            return inputs, [np.empty(p.shape, p.dtype) for p in self.outputs]
        _check_names("output", out, self.outputs)
        outputs = [_output(p, out[p.name], inputs) if p.name in out else np.empty(p.shape, p.dtype) for p in self.outputs]
        return inputs, outputs


def _names(ports: Sequence[Port]) -> str:
    return ", ".join(p.name for p in ports)


def _check_names(kind: str, given: Mapping[str, object], ports: Sequence[Port]) -> None:
    if len(given) > len(ports) or any(p.name not in given for p in ports):
        for name in given:
            if all(p.name != name for p in ports):
                raise BadInput(f"the model has no {kind} {name}; it has {_names(ports)}")


def _port(facts: Mapping[str, Any]) -> Port:
    return Port(facts["name"], tuple(facts["shape"]), np.dtype(numpy_dtype(facts["dtype"])))


def _input(port: Port, feeds: Mapping[str, npt.ArrayLike]) -> Array:
    given = feeds.get(port.name)
    if type(given) is np.ndarray and given.dtype == port.dtype and given.shape == port.shape:     # as it should be, so without delay
        flags = given.flags
        if flags.c_contiguous and flags.aligned:
            return given
    if given is None:
        raise BadInput(f"there is no array for the input {port}")
    try:
        array = given if isinstance(given, np.ndarray) else np.asarray(given, None if isinstance(given, np.generic) else port.dtype)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the input {port.name} cannot be made an array of {port.dtype}: {error}") from error
    if array.dtype != port.dtype or array.shape != port.shape:
        raise BadInput(f"the input {port.name} must be {port.dtype}{list(port.shape)}, not {array.dtype}{list(array.shape)}")
    return array if array.flags.c_contiguous and array.flags.aligned else np.array(array, order="C")


def _output(port: Port, array: Array, inputs: Sequence[Array]) -> Array:
    if array.dtype != port.dtype or array.shape != port.shape or not array.flags.carray:
        raise BadInput(f"out[{port.name}] must be a writable, contiguous array of {port.dtype}{list(port.shape)}")
    if any(np.may_share_memory(array, i) for i in inputs):
        raise BadInput(f"out[{port.name}] shares memory with an input")
    return array


def load(path: str | os.PathLike[str], *, threads: int = 1, poison: bool = False, simulate_npu: bool = False,
         on: str | None = None, timeout: float = TIMEOUT) -> Session:
    """Load a bundle; one for another processor is run by its emulator, when that is installed, or `on` a machine that ssh reaches.

    `poison` fills arena and outputs with NaN before each run and looks for writes outside the arena. Raises BadInput for a
    folder that is no bundle, a damaged file, or a bundle of a newer edgec; DeviceError for a processor that cannot run it,
    ToolMissing without an emulator. The command streams of an NPU can be executed nowhere but there: with `simulate_npu` each region is
    computed by what its operators mean, in numpy, and everything else by the bundle's own code; without it that is a DeviceError.
    `on` is user@host or what else ssh takes (edgec/remote.py); a request that it does not answer in `timeout` seconds is a DeviceError.
    """
    if threads < 1:
        raise UsageError(f"a bundle runs with at least one thread, not {threads}")
    place = Path(path)
    manifest = read_manifest(place)
    check_files(place, manifest)
    if on is not None:
        return Session(place, manifest, RemoteDevice(place, manifest, threads, on, timeout), poison=poison, remote=on)
    simulated = _simulated(place, manifest, simulate=simulate_npu)
    if manifest["requires"]["machine"] == platform.machine() and "linux" in manifest["target"]["triple"]:
        return Session(place, manifest, NativeDevice(place, manifest, threads, simulated), simulated=simulated, poison=poison)
    if manifest.get("units") and simulated is None:
        names = " and ".join(f"{u['name']} ({u['driver']})" for u in manifest["units"])
        raise DeviceError(f"{place} needs {names} beside a {manifest['requires']['machine']}, which no emulator has: run it on the board")
    device = EmulatedDevice(place, manifest, threads, simulated)
    return Session(place, manifest, device, emulator=device.description, simulated=simulated, poison=poison)


def _simulated(place: Path, manifest: Mapping[str, Any], *, simulate: bool) -> Simulated | None:
    """The NPUs of a bundle, when they shall be simulated; DeviceError when they cannot be executed and nobody asked for that."""
    npus = manifest.get("npus")
    if not npus:
        return None
    if simulate:
        return Simulated(place, manifest)
    names = " and ".join(f"{name} ({facts['accelerator']})" for name, facts in npus.items())
    raise DeviceError(f"{place} holds a command stream for {names}, which can be executed nowhere but on the NPU itself; with "
                      "--simulate-npu (in Python: simulate_npu=True) its regions are computed from what their operators mean")
