"""`edgec doctor`: what of this machine edgec can use, and what to install for the rest."""

import argparse
import ctypes
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from edgec.commands.console import Console, table
from edgec.errors import EdgecError, ToolMissing

HELP = "say what works here, and what to install for what does not"
_NEEDED = ("numpy", "ml-dtypes", "onnx", "onnx-graphsurgeon", "apache-tvm", "apache-tvm-ffi", "lark", "scipy")
_USEFUL = {"onnxruntime": "the reference of edgec verify and edgec bench", "openvino": "another peer of edgec bench",
           "ziglang": "a C compiler and linker for every target", "ethos-u-vela": "command streams for Arm's Ethos-U NPUs"}
_MACHINES = ("aarch64", "x86_64")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for. `needed` when no build works without it; `install` is the command that brings it."""

    name: str
    ok: bool
    detail: str
    install: str = ""
    needed: bool = False


def arguments(parser: argparse.ArgumentParser) -> None:
    """`edgec doctor` takes nothing of its own."""


def run(_: argparse.Namespace, console: Console) -> int:
    """Look at everything; 5 when something is missing without which nothing can be built."""
    found = [*_python(), *_tools(), *_emulators(), *_gpus(), _cache(), _processor()]
    console.result(table([("ok" if f.ok else "MISSING" if f.needed else "-", f.name, f.detail) for f in found], ("", "what", "")))
    for f in found:
        if f.install:
            console.result(f"for {f.name}: {f.install}")
    broken = [f.name for f in found if f.needed and not f.ok]
    console.result(f"nothing can be built without {', '.join(broken)}" if broken else "edgec can build for this machine")
    console.data({"ok": not broken, "findings": [asdict(f) for f in found]})
    return ToolMissing.exit_code if broken else 0


def _python() -> Iterator[Finding]:
    yield Finding("Python", ok=True, detail=f"{platform.python_version()}, {sys.executable}", needed=True)
    for name in _NEEDED:
        version = _version(name)
        yield Finding(name, bool(version), version or "not installed", "" if version else f"pip install {name}", needed=True)
    for name, use in _USEFUL.items():
        version = _version(name)
        yield Finding(name, bool(version), f"{version or 'not installed'}: {use}", "" if version else f"pip install {name}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _tools() -> Iterator[Finding]:
    """The tool chain for each processor that a known target has."""
    try:
        from edgec.codegen import toolchain  # noqa: PLC0415 - slow to load
        from edgec.isa import cpu_isa  # noqa: PLC0415
        from edgec.target import find, known  # noqa: PLC0415

        host = cpu_isa(find("host")).triple
        triples = {cpu_isa(t).triple for t in known().values() if any(u.kind == "cpu" for u in t.units.values())}
    except (ImportError, EdgecError) as error:
        yield Finding("targets", ok=False, detail=f"cannot be looked at: {error}", needed=True)
        return
    for triple in sorted(triples | {host}, key=lambda t: (t != host, t)):
        try:
            chain = toolchain.find(triple)
            yield Finding(f"C for {triple}", ok=True, detail=f"{chain.name}: {chain.version()}", needed=triple == host)
        except EdgecError as error:
            install = getattr(error, "install", "")
            detail = str(error).partition("; install it with")[0].splitlines()[0]
            yield Finding(f"C for {triple}", ok=False, detail=detail, install=install, needed=triple == host)


def _emulators() -> Iterator[Finding]:
    try:
        from edgec.emulator import BOARD_INSTALL, command  # noqa: PLC0415
    except ImportError:
        return
    for machine in _MACHINES:
        if machine != platform.machine():
            try:
                yield Finding(f"run {machine}", ok=True, detail=command(machine, "")[0])
            except ToolMissing as error:
                yield Finding(f"run {machine}", ok=False, detail="no emulator", install=error.install)
    remote = shutil.which("ssh")
    yield Finding("run on other machines", ok=bool(remote), detail=remote or "no ssh, which --on needs",
                  install="" if remote else "apt-get install openssh-client")
    found = shutil.which("qemu-system-arm")
    yield Finding("run microcontrollers", ok=bool(found), detail=found or "no emulator", install="" if found else BOARD_INSTALL)


def _gpus() -> Iterator[Finding]:
    """What GPU kernels are compiled and run with."""
    try:
        from edgec.codegen import cuda  # noqa: PLC0415
        from edgec.native import INSTALL  # noqa: PLC0415
    except ImportError:
        return
    nvcc = cuda.compiler()
    detail = nvcc or "no nvcc: CUDA targets cannot be built"
    yield Finding("CUDA kernels", ok=bool(nvcc), detail=detail, install="" if nvcc else cuda.INSTALL)
    for driver, library in (("opencl", "libOpenCL.so.1"), ("cuda", "libcuda.so.1")):
        try:
            ctypes.CDLL(library)
        except OSError:
            yield Finding(f"run {driver}", ok=False, detail=f"no {library}", install=INSTALL[driver])
        else:
            yield Finding(f"run {driver}", ok=True, detail=library)


def _cache() -> Finding:
    try:
        from edgec.codegen.object import cache_home  # noqa: PLC0415
    except ImportError as error:
        return Finding("cache", ok=False, detail=str(error))
    folder = cache_home()
    kernels = [f.stat().st_size for f in (folder / "kernels").rglob("*.o")] if folder.is_dir() else []
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        return Finding("cache", ok=False, detail=f"{folder} cannot be written, so kernels are not remembered; EDGEC_CACHE names another")
    return Finding("cache", ok=True, detail=f"{folder}: {len(kernels)} kernels, {sum(kernels) / 2**20:.1f} MiB")


def _processor() -> Finding:
    try:
        from edgec.isa import cpu_isa  # noqa: PLC0415
        from edgec.target import find  # noqa: PLC0415

        host = find("host")
        isa = cpu_isa(host)
    except (ImportError, EdgecError) as error:
        return Finding("processor", ok=False, detail=str(error), needed=True)
    features = " ".join(isa.mattr) or "no further features"
    return Finding("processor", ok=True, detail=f"{host.doc}; built for as {isa.mcpu} ({features})", needed=True)
