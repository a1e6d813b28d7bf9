"""Run a bundle that is for another processor: link an executable around it and start that under qemu."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgec.errors import DeviceError, ToolMissing, UsageError
from edgec.piped import PipedDevice, link
from edgec.simulated import Simulated

_SYSTEM = ("-display", "none", "-monitor", "none", "-serial", "null", "-semihosting-config", "enable=on,target=native")
BOARD_INSTALL = "apt-get install qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi"
"""What brings an emulated microcontroller on Debian."""


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


class EmulatedDevice(PipedDevice):
    """A process under an emulator that holds the model; runs take turns."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], threads: int, simulated: Simulated | None = None) -> None:
        machine = None if "linux" in manifest["target"]["triple"] else board(path, manifest, threads)
        emulator = machine.command if machine else command(manifest["requires"]["machine"], manifest["target"]["cpu"])
        description = " ".join([Path(emulator[0]).name, *emulator[1:]])
        weights = path.absolute() / f"{manifest['c_name']}.weights.bin"
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            if machine:
                start = [*_SYSTEM, "-kernel", str(_link_bare(path, manifest, Path(folder), machine, weights))]
            else:
                start = [str(link(path, manifest, Path(folder), threads=threads)), str(weights), str(threads)]
            process = subprocess.Popen([*emulator, *start], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            super().__init__(process, description, simulated)
            self.check(path, f"the processor that {description} emulates")


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
