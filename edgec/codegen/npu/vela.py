"""Arm's compiler for Ethos-U NPUs, ethos-u-vela, as a process of its own: a TFLite model in, a command stream and its figures out.

What it made is remembered by content, beside the kernels: the model, the NPU's configuration, and Vela's version.
"""

import csv
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgec.codegen.npu.flat import INSTALL
from edgec.codegen.object import KernelCache, cache_home
from edgec.errors import EdgecError, ToolMissing, UnsupportedModel
from edgec.isa import Npu

_PACKAGE = "ethos-u-vela"
_CONFIG = "Arm/vela.ini"
_KIB = 1024
_REFUSED = re.compile(r"operator: (\w+), ofm: '(.*)'\nReason: (.*)\n")


@dataclass(frozen=True)
class Place:
    """Where an input or output lies in the scratch memory of a command stream."""

    offset: int
    bytes: int


@dataclass(frozen=True)
class Layer:
    """What Vela expects of one operator: the tensor that it makes, cycles and multiply-accumulates."""

    name: str
    operator: str
    cycles: int
    macs: int


@dataclass(frozen=True)
class Figures:
    """What Vela expects of a command stream: cycles at the clock of its configuration, bytes of each memory, bytes of encoded weights."""

    cycles: int
    clock: float
    macs: int
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    weight_bytes: int
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Commands:
    """A command stream with its constants, how much memory it works in, where its inputs and outputs lie there, and its figures.

    `scratch` is memory of the model, `fast` is memory that belongs to the NPU alone (0 where it has none).
    """

    stream: bytes = field(repr=False)
    constants: bytes = field(repr=False)
    scratch: int
    fast: int
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    figures: Figures


class LeftForCpu(UnsupportedModel):
    """Operators that Vela leaves for the CPU; `reasons` are its words by the name of the tensor that each makes."""

    def __init__(self, message: str, nodes: Sequence[str], reasons: Mapping[str, str]) -> None:
        super().__init__(message, nodes)
        self.reasons = dict(reasons)


def compiler_version() -> str:
    """Vela's version; ToolMissing when it is not installed."""
    try:
        found = version(_PACKAGE) if find_spec("ethosu") else ""
    except PackageNotFoundError:
        found = ""
    if not found:
        raise ToolMissing("the command stream of an Ethos-U is made by ethos-u-vela, which is not installed", INSTALL)
    return found


def is_installed() -> bool:
    """Whether Vela is there."""
    try:
        compiler_version()
    except ToolMissing:
        return False
    return True


def compile_model(
    model: bytes, npu: Npu, *, origins: Mapping[str, str] | None = None, cache: Path | None = None,
    note: Callable[[str], None] | None = None,
) -> Commands:
    """The command stream of a TFLite model, all of it on the NPU.

    UnsupportedModel says in Vela's words what would be left for the CPU; `origins` tells where the tensor of a name comes from.
    ToolMissing without Vela.
    """
    store = KernelCache(cache or cache_home(), note or (lambda _: None))
    asked = (compiler_version(), npu.accelerator, npu.system, npu.memory_mode)
    identity = hashlib.sha256(repr(("vela", asked)).encode() + model).hexdigest()
    if (stored := store.get(identity)) is not None:
        return _unpacked(stored)
    with tempfile.TemporaryDirectory(prefix="edgec-vela-") as folder:
        made = _run(model, npu, Path(folder), origins or {})
    store.put(identity, _packed(made))
    return made


def linux_model(model: bytes, npu: Npu, *, cache: Path | None = None) -> bytes:
    """The same in the form that Arm's driver for Linux reads: a TFLite model with one custom operator."""
    store = KernelCache(cache or cache_home(), lambda _: None)
    asked = (compiler_version(), npu.accelerator, npu.system, npu.memory_mode)
    identity = hashlib.sha256(repr(("vela for linux", asked)).encode() + model).hexdigest()
    if (stored := store.get(identity)) is not None:
        return stored
    with tempfile.TemporaryDirectory(prefix="edgec-vela-") as name:
        folder = Path(name)
        _call(model, npu, folder, "tflite", {})
        data = (folder / "region_vela.tflite").read_bytes()
    store.put(identity, data)
    return data


def _call(model: bytes, npu: Npu, folder: Path, form: str, origins: Mapping[str, str]) -> None:
    """Let Vela write its files into a folder."""
    (folder / "region.tflite").write_bytes(model)
    command = [sys.executable, "-m", "ethosu.vela", "region.tflite", "--output-dir", ".", "--output-format", form,
               "--accelerator-config", npu.accelerator, "--config", _CONFIG, "--system-config", npu.system,
               "--memory-mode", npu.memory_mode, "--verbose-performance"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if not done.returncode:
        return
    if refused := _REFUSED.findall(done.stdout):
        lines = [f"  {origins.get(name, name)} ({operator}): {reason}" for operator, name, reason in refused]
        raise LeftForCpu("Vela leaves operators for the CPU, though the target says that its NPU runs them:\n" + "\n".join(lines),
                         [origins.get(name, name) for _, name, _ in refused], {name: reason for _, name, reason in refused})
    said = (done.stderr or done.stdout).strip().splitlines()
    error = EdgecError(f"Vela cannot compile a region for {npu.accelerator}: {said[-1] if said else f'exit code {done.returncode}'}")
    error.add_note(done.stdout + done.stderr)
    raise error


def _run(model: bytes, npu: Npu, folder: Path, origins: Mapping[str, str]) -> Commands:
    _call(model, npu, folder, "raw", origins)
    summary = _rows(folder / f"region_summary_{npu.system}.csv")[0]
    layers = _rows(folder / "region_per-layer.csv")
    with np.load(folder / "region_vela.npz") as made:              # without pickles: nothing in it is executed
        for name, region in (("weight_region", 0), ("scratch_region", 1)):
            if int(made[name]) != region:
                raise EdgecError(f"Vela put {name} at {int(made[name])}, not at {region}: this version is not known")
        return Commands(
            made["cmd_data"].tobytes(), made["weight_data"].tobytes(), int(made["scratch_size"]), int(made["scratch_fast_size"]),
            _places(made, "input"), _places(made, "output"), _figures(summary, layers))


def _places(made: Any, kind: str) -> tuple[Place, ...]:
    if any(int(r) != 1 for r in made[f"{kind}_region"]):
        raise EdgecError(f"Vela put an {kind} outside of the scratch memory: this version is not known")
    sizes = [int(np.prod(s)) * int(e) for s, e in zip(made[f"{kind}_shape"], made[f"{kind}_elem_size"], strict=True)]
    return tuple(Place(int(o), s) for o, s in zip(made[f"{kind}_offset"], sizes, strict=True))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _figures(summary: Mapping[str, str], layers: Sequence[Mapping[str, str]]) -> Figures:
    def kib(name: str) -> int:
        return round(float(summary[name]) * _KIB)

    rows = tuple(Layer(r["Name"], r["Original Operator"], round(float(r["Op Cycles"])), round(float(r["MAC Count"]))) for r in layers)
    return Figures(round(float(summary["cycles_total"])), float(summary["core_clock"]), round(float(summary["nn_macs"])),
                   kib("sram_memory_used"), kib("dram_memory_used"), kib("on_chip_flash_memory_used") + kib("off_chip_flash_memory_used"),
                   round(float(summary["total_npu_encoded_weights"])), rows)


def _packed(made: Commands) -> bytes:
    """Figures as JSON with its length in front, the stream, the constants."""
    facts = {f.name: getattr(made, f.name) for f in fields(made) if f.name not in ("stream", "constants")}
    text = json.dumps({**facts, "inputs": [asdict(p) for p in made.inputs], "outputs": [asdict(p) for p in made.outputs],
                       "figures": asdict(made.figures), "stream": len(made.stream)}).encode()
    return len(text).to_bytes(8, "little") + text + made.stream + made.constants


def _unpacked(data: bytes) -> Commands:
    start = 8 + int.from_bytes(data[:8], "little")
    facts = json.loads(data[8:start])
    end = start + facts["stream"]
    layers = tuple(Layer(**layer) for layer in facts["figures"].pop("layers"))
    places = {k: tuple(Place(**p) for p in facts[k]) for k in ("inputs", "outputs")}
    figures = Figures(**facts["figures"], layers=layers)
    return Commands(data[start:end], data[end:], facts["scratch"], facts["fast"], **places, figures=figures)


__all__ = ["Commands", "Figures", "Layer", "LeftForCpu", "Place", "compile_model", "compiler_version", "is_installed", "linux_model"]
