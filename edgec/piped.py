"""A bundle held by a program at the other end of two pipes (codegen/runtime/runner.c): under an emulator, or on another machine."""

import shutil
import struct
import subprocess
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.codegen.manifest import ERRORS
from edgec.errors import DeviceError
from edgec.simulated import Simulated

Array = npt.NDArray[Any]
_WHAT_BYTES = 64  # of the feature's name that the runner sends
_FREESTANDING = {"getauxval", "memcpy", "memmove", "memset"}


class PipedDevice:
    """A process that holds the model; runs take turns. `description` says what runs it, such as "qemu-aarch64 -cpu cortex-a72"."""

    def __init__(self, process: subprocess.Popen[bytes], description: str, simulated: Simulated | None = None, *,
                 ending: Callable[[subprocess.Popen[bytes]], None] | None = None) -> None:
        self._lock, self._process, self.description, self._simulated = threading.Lock(), process, description, simulated
        weakref.finalize(self, ending or end, process)

    def check(self, path: Path, processor: str) -> None:
        """Read what the program says first; DeviceError when the processor lacks a feature that the bundle at `path` needs."""
        code, what = struct.unpack(f"<i{_WHAT_BYTES}s", self._get(4 + _WHAT_BYTES))
        if code:
            raise DeviceError(f"{path} needs {what.rstrip(bytes(1)).decode()}, which {processor} lacks")

    def _broken(self) -> DeviceError:
        """What to say when the process ends too early."""
        return DeviceError(f"the model under {self.description} ended (status {self._process.wait()})")

    def _get(self, size: int) -> bytes:
        data = self._process.stdout.read(size) if self._process.stdout else b""
        if len(data) != size:
            raise self._broken()
        return data

    def _put(self, data: bytes) -> None:
        if self._process.stdin is None:
            raise DeviceError(f"the model under {self.description} has no pipe")
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError as error:
            raise self._broken() from error

    def _ask(self, letter: bytes, *numbers: int, data: bytes = b"", answer: int = 0) -> bytes:
        self._put(letter + struct.pack("<3Q", *numbers, *[0] * (3 - len(numbers))) + data)
        return self._get(answer)

    def _give(self, inputs: Sequence[Array], *, poison: bool) -> None:
        if poison:
            self._ask(b"p")
        for i, array in enumerate(inputs):
            self._ask(b"i", i, array.nbytes, data=array.tobytes())

    def _go(self, first: int = 0, count: int = 0) -> None:
        code, intact = struct.unpack("<2i", self._ask(b"r", first, count, answer=8))
        while code < 0:                                        # in the middle of a run a unit is started, and `intact` is its number
            self._launch(intact)
            code, intact = struct.unpack("<2i", self._get(8))
        self._check(code)
        if not intact:
            raise DeviceError("the model wrote outside its arena")

    def _check(self, code: int) -> None:
        if code:
            raise DeviceError(f"the model refused to run: {ERRORS[code][1]}")

    def _launch(self, unit: int) -> None:
        """Do what a unit would do."""
        kernel, reads, writes = struct.unpack("<3Q", self._get(24))
        given = [self._get(self._number()) for _ in range(reads)]
        sizes = [self._number() for _ in range(writes)]
        if self._simulated is None:
            raise DeviceError("the model started a unit that nobody simulates")
        for data in self._simulated.launch(unit, kernel, given, sizes):
            self._put(data)

    def _number(self) -> int:
        return int.from_bytes(self._get(8), "little")

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> None:
        """Fill the outputs."""
        with self._lock:
            self._give(inputs, poison=poison)
            self._go()
            for i, array in enumerate(outputs):
                data = self._ask(b"o", i, answer=array.nbytes)
                array[...] = np.frombuffer(data, array.dtype).reshape(array.shape)

    def start(self, inputs: Sequence[Array], outputs: Sequence[Array], *, poison: bool) -> "_Stepper":
        """Prepare a run that goes step by step. No other run may come in between."""
        with self._lock:
            self._give(inputs, poison=poison)
        return _Stepper(self, tuple(a.nbytes for a in outputs))

    def step(self, number: int) -> None:
        """Run one step."""
        with self._lock:
            self._go(number, 1)

    def times(self, inputs: Sequence[Array], runs: int) -> list[float]:
        """The seconds of so many runs, one after the other, by the clock of the machine that makes them: hosted programs have one."""
        with self._lock:
            self._give(inputs, poison=False)
            code, *spent = struct.unpack(f"<i{runs}Q", self._ask(b"t", runs, answer=4 + 8 * runs))
            self._check(code)
            return [ns / 1e9 for ns in spent]

    def read(self, letter: bytes, *numbers: int, size: int) -> bytes:
        """Read memory of the model."""
        with self._lock:
            return self._ask(letter, *numbers, answer=size)


@dataclass(frozen=True)
class _Stepper:
    device: PipedDevice
    output_bytes: tuple[int, ...]

    def step(self, number: int) -> None:
        self.device.step(number)

    def read(self, region: str, offset: int, size: int, unit: str = "cpu") -> bytes:  # noqa: ARG002 - one memory
        if region == "output":
            return self.device.read(b"o", offset, size=self.output_bytes[offset])
        return self.device.read(b"a" if region == "arena" else b"s", offset, size, size=size)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(OSError):  # what was not sent any more
                pipe.close()


def link(path: Path, manifest: Mapping[str, Any], folder: Path, *, clock: bool = False, threads: int = 1) -> Path:
    """An executable that holds the model's code and answers requests; with a C library only if it needs one, or a `clock`."""
    from edgec.codegen import c_source, toolchain  # noqa: PLC0415 - not needed by bundles for this machine

    name = manifest["c_name"]
    hosted = clock or threads > 1 or not set(manifest["imports"]) <= _FREESTANDING
    chain = toolchain.find(manifest["target"]["triple"], executable=hosted)
    for file in (f"{name}.o", f"{name}.h", "edgec_rt.c", "edgec_rt.h"):
        shutil.copyfile(path / file, folder / file)
    (folder / "runner.c").write_text(c_source.runner(name, manifest["inputs"], manifest["outputs"]))
    if hosted:
        chain.link_executable(["runner.c", f"{name}.o", "edgec_rt.c"], folder, "runner", "-O1", "-std=gnu11", "-DEDGEC_HOSTED")
    else:
        (folder / "start.h").write_text(c_source.fill("start.h", {}))
        chain.link_freestanding(["runner.c", f"{name}.o"], folder, "runner", "-O1", "-std=gnu11")
    return folder / "runner"
