"""Run a bundle that is for another processor: link an executable around it and start that under qemu."""

import json
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.codegen.manifest import ERRORS
from edgec.errors import DeviceError, ToolMissing, UsageError
from edgec.simulated import Simulated

Array = npt.NDArray[Any]
_SYSTEM = ("-display", "none", "-monitor", "none", "-serial", "null", "-semihosting-config", "enable=on,target=native")
BOARD_INSTALL = "apt-get install qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi"
"""What brings an emulated microcontroller on Debian."""
_WHAT_BYTES = 64  # of the feature's name that the runner sends


def command(machine: str, cpu: str) -> list[str]:
    """The emulator for a machine and a CPU in LLVM's words: EDGEC_EMULATOR, or qemu's user mode. ToolMissing when there is none."""
    if named := os.environ.get("EDGEC_EMULATOR"):
        return named.split()
    found = shutil.which(f"qemu-{machine}") or shutil.which(f"qemu-{machine}-static")
    if not found:
        raise ToolMissing(f"this bundle is for {machine} and there is no emulator for it here", "apt-get install qemu-user")
    return [found, "-cpu", cpu] if cpu in _cpus(found) else [found]


@cache
def _cpus(qemu: str) -> frozenset[str]:
    return frozenset(subprocess.run([qemu, "-cpu", "help"], capture_output=True, text=True, check=False).stdout.split())


@dataclass(frozen=True)
class Board:
    """An emulated microcontroller: the command, and where it has memory, as (address, bytes)."""

    command: list[str]
    code: tuple[str, str]
    data: tuple[str, str]


def board(path: Path, manifest: Mapping[str, Any], threads: int) -> Board:
    """The emulator that a bundle's target names; DeviceError when it names none, ToolMissing when that is not here."""
    from edgec.target import from_text  # noqa: PLC0415 - not needed by bundles for this machine

    target = from_text(manifest["target"]["text"], name=manifest["target"]["name"]) if manifest["target"]["text"] else None
    memory = [tuple(place.split()) for place in target.facts.get("emulator_memory", ())] if target else []
    if target is None or not target.emulator or [len(place) for place in memory] != [2, 2]:
        raise DeviceError(f"{path} is for {manifest['target']['triple']}, which has no operating system to run it under, "
                          "and its target names no emulator")
    if threads > 1:
        raise UsageError(f"{path} is for {target.name}, which has no operating system and so no threads: {threads} are too many")
    words = os.environ.get("EDGEC_EMULATOR", "").split() or list(target.emulator)
    found = shutil.which(words[0])
    if not found:
        raise ToolMissing(f"this bundle is for {target.name}, and {words[0]} is not here to run it", BOARD_INSTALL)
    return Board([found, *words[1:]], *memory)


class EmulatedDevice:
    """A process under an emulator that holds the model; runs take turns."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], threads: int, simulated: Simulated | None = None) -> None:
        self._lock, self._simulated = threading.Lock(), simulated
        machine = None if "linux" in manifest["target"]["triple"] else board(path, manifest, threads)
        emulator = machine.command if machine else command(manifest["requires"]["machine"], manifest["target"]["cpu"])
        self.description = " ".join([Path(emulator[0]).name, *emulator[1:]])
        weights = path.absolute() / f"{manifest['c_name']}.weights.bin"
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            if machine:
                start = [*_SYSTEM, "-kernel", str(_link_bare(path, manifest, Path(folder), machine, weights))]
            else:
                start = [str(_link(path, manifest, Path(folder), threads)), str(weights), str(threads)]
            self._process = subprocess.Popen([*emulator, *start], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            weakref.finalize(self, _end, self._process)
            code, what = struct.unpack(f"<i{_WHAT_BYTES}s", self._get(4 + _WHAT_BYTES))
        if code:
            feature = what.rstrip(b"\0").decode()
            raise DeviceError(f"{path} needs {feature}, which the processor that {self.description} emulates lacks")

    def _get(self, size: int) -> bytes:
        data = self._process.stdout.read(size) if self._process.stdout else b""
        if len(data) != size:
            raise DeviceError(f"the model under {self.description} ended (status {self._process.wait()})")
        return data

    def _ask(self, letter: bytes, *numbers: int, data: bytes = b"", answer: int = 0) -> bytes:
        if self._process.stdin is None:
            raise DeviceError("the emulator has no pipe")
        try:
            self._process.stdin.write(letter + struct.pack("<3Q", *numbers, *[0] * (3 - len(numbers))) + data)
            self._process.stdin.flush()
        except OSError as error:
            raise DeviceError(f"the model under {self.description} ended (status {self._process.wait()})") from error
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
        if code:
            raise DeviceError(f"the model refused to run: {ERRORS[code][1]}")
        if not intact:
            raise DeviceError("the model wrote outside its arena")

    def _launch(self, unit: int) -> None:
        """Do what a unit would do."""
        kernel, reads, writes = struct.unpack("<3Q", self._get(24))
        given = [self._get(self._number()) for _ in range(reads)]
        sizes = [self._number() for _ in range(writes)]
        if self._simulated is None or self._process.stdin is None:
            raise DeviceError("the model started a unit that nobody simulates")
        for data in self._simulated.launch(unit, kernel, given, sizes):
            self._process.stdin.write(data)
        self._process.stdin.flush()

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

    def read(self, letter: bytes, *numbers: int, size: int) -> bytes:
        """Read memory of the model."""
        with self._lock:
            return self._ask(letter, *numbers, answer=size)


@dataclass(frozen=True)
class _Stepper:
    device: EmulatedDevice
    output_bytes: tuple[int, ...]

    def step(self, number: int) -> None:
        self.device.step(number)

    def read(self, region: str, offset: int, size: int, unit: str = "cpu") -> bytes:  # noqa: ARG002 - one memory
        if region == "output":
            return self.device.read(b"o", offset, size=self.output_bytes[offset])
        return self.device.read(b"a" if region == "arena" else b"s", offset, size, size=size)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(OSError):  # what was not sent any more
                pipe.close()


def _link(path: Path, manifest: Mapping[str, Any], folder: Path, threads: int) -> Path:
    """An executable that holds the model's code and answers requests; with a C library only if it needs one."""
    from edgec.codegen import c_source, toolchain  # noqa: PLC0415 - not needed by bundles for this machine

    name = manifest["c_name"]
    hosted = threads > 1 or not set(manifest["imports"]) <= {"getauxval", "memcpy", "memmove", "memset"}
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


def _link_bare(path: Path, manifest: Mapping[str, Any], folder: Path, machine: Board, weights: Path) -> Path:
    """A program for a microcontroller that holds the model's code and answers requests."""
    from edgec.codegen import c_source, toolchain  # noqa: PLC0415 - not needed by bundles for this machine

    name = manifest["c_name"]
    chain = toolchain.find(manifest["target"]["triple"])
    if chain.kind != "gcc" and not set(manifest["imports"]) <= {"memcpy", "memmove", "memset"}:
        needed = ", ".join(manifest["imports"])
        raise ToolMissing(f"this bundle needs {needed} of a C library for {chain.triple}, which is not here", BOARD_INSTALL)
    for file in (f"{name}.o", f"{name}.h"):
        shutil.copyfile(path / file, folder / file)
    (folder / "runner.c").write_text(c_source.runner(name, manifest["inputs"], manifest["outputs"]))
    (folder / "start.h").write_text(c_source.fill("start_m.h", {"WEIGHTS": json.dumps(str(weights))}))
    places = {"CODE": machine.code[0], "CODE_BYTES": machine.code[1], "DATA": machine.data[0], "DATA_BYTES": machine.data[1]}
    (folder / "board.ld").write_text(c_source.fill("board.ld", places))
    chain.link_bare(["runner.c", f"{name}.o"], folder, "runner", "board.ld", "-O1", "-std=gnu11")
    return folder / "runner"
