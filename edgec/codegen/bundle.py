"""The bundle: the folder that a build leaves behind, written beside its place and renamed as a whole.

    manifest.json                   everything there is to know, and a checksum of every other file
    NAME.h NAME.o libNAME.so        the model for C and C++ (a library where the target has an operating system)
    NAME.weights.bin NAME_weights.S its weights, to be read, mapped, or linked in
    edgec_rt.c .h libedgec_rt.so    an optional thread pool
    run.py main.c CMakeLists.txt    run it from Python, from C, use it in a project
    NOTICE                          licences of what is inside

The same program, weights and tools give the same bytes.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import edgec
from edgec.codegen import c_source, elf, toolchain, weights
from edgec.codegen import object as kernels
from edgec.codegen.cpu import requirements
from edgec.codegen.manifest import ABI, SCHEMA, file_digest, write_manifest
from edgec.codegen.program import Program
from edgec.errors import BadInput, EdgecError
from edgec.isa import Isa

_SYSTEM = frozenset({"getauxval"})
_POSIX = frozenset({"calloc", "free", *(f"pthread_{p}" for p in (
    "create", "join", "mutex_init", "mutex_destroy", "mutex_lock", "mutex_unlock",
    "cond_init", "cond_destroy", "cond_wait", "cond_broadcast"))})
"""What the thread pool may leave for the C library to define."""


def write_bundle(  # noqa: PLR0913 - a build has this much to say
    out_dir: Path, program: Program, tensors: Mapping[int, weights.Data], objects: Mapping[str, bytes], *, isa: Isa, target: str,
    target_text: str = "", options: Mapping[str, object] | None = None, passes: Sequence[str] = (), model_sha256: str = "",
    cc: str | None = None, extra: Mapping[str, object] | None = None,
) -> Path:
    """Write a bundle folder, replacing one that is there; returns its path.

    `tensors` holds the bytes of each weights buffer by its index in program.buffers, `objects` the compiled kernel of each key of
    program.kernels. `extra` goes into the manifest as it is. Raises BadInput when the place cannot be written or holds something else.
    """
    name = c_source.identifier(program.name)
    check_place(out_dir)
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out_dir.parent, prefix=f".{out_dir.name}."))
    except OSError as error:
        raise BadInput(f"the bundle cannot be written to {out_dir}: {error.strerror}") from error
    try:
        temporary.chmod(0o755)
        _fill(temporary, name, program, tensors, objects, isa, cc, {
            "target": {"name": target, "text": target_text, "triple": isa.triple, "cpu": isa.mcpu, "features": list(isa.mattr)},
            "options": dict(options or {}), "passes": list(passes), "model_sha256": model_sha256, **(extra or {})})
        _replace(temporary, out_dir)
    except OSError as error:
        raise BadInput(f"the bundle cannot be written to {out_dir}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out_dir


def check_place(out_dir: Path) -> None:
    """See before anything is made whether a bundle could be written there; BadInput says why not."""
    if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
        raise BadInput(f"the bundle cannot be written to {out_dir}, which is not a folder")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / "manifest.json").is_file():
        raise BadInput(f"the bundle cannot be written to {out_dir}, which holds other files and no bundle")
    above = next(p for p in out_dir.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise BadInput(f"the bundle cannot be written to {out_dir}: {above} is {'not writable' if above.is_dir() else 'no folder'}")


def _replace(new: Path, place: Path) -> None:
    """Put a folder in another's place; when that fails the old one is back."""
    if not place.exists():
        new.rename(place)
        return
    old = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.")) / "old"
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def program_identity(program: Program, objects: Mapping[str, bytes]) -> bytes:
    """What the weights of this program must fit: where tensors lie, what the steps do, which kernels do it. No values."""
    lies = [(b.region, b.offset, b.bytes) for b in program.buffers]
    steps = [(hashlib.sha256(objects[s.kernel]).hexdigest(), [(o.buffer, o.offset) for o in s.operands], s.tasks) for s in program.steps]
    return hashlib.sha256(repr((lies, steps)).encode()).digest()


def _fill(
    folder: Path, name: str, program: Program, tensors: Mapping[int, weights.Data], objects: Mapping[str, bytes], isa: Isa, cc: str | None,
    facts: Mapping[str, object],
) -> None:
    """Write all files of a bundle into an empty folder."""
    if not weights.is_aligned(program):
        raise EdgecError("the program's weights do not all lie at multiples of 64 bytes")
    chain = toolchain.find(isa.triple, cc)
    identity = program_identity(program, objects)
    requires = requirements(isa.triple, kernels.cpu_features(isa))
    description = f"{facts['target']['name']} ({isa.triple}, {isa.mcpu})"  # type: ignore[index]
    (folder / f"{name}.h").write_text(c_source.header(program, description))
    main = c_source.main(program, identity, isa.triple, requires)
    merged = _object(folder, name, program, objects, main, chain)
    (folder / f"{name}.o").write_bytes(elf.write(merged))
    for file in ("edgec_rt.c", "edgec_rt.h", "run.py", "CMakeLists.txt", "NOTICE"):
        (folder / file).write_text(c_source.fill(file, {"NAME": name}))
    (folder / "run.py").chmod(0o755)
    if "linux" in isa.triple:
        chain.link_shared([f"{name}.o"], folder, f"lib{name}.so")
        _thread_pool(folder, chain)
    weights.write(folder / f"{name}.weights.bin", program, tensors, identity)
    (folder / f"{name}_weights.S").write_text(weights.assembler(name))
    (folder / "main.c").write_text(c_source.example(program))
    manifest = _manifest(name, program, identity, requires, merged, chain, facts)
    manifest["files"] = {p.name: file_digest(p) for p in sorted(folder.iterdir())}
    write_manifest(folder, manifest)


def _object(
    folder: Path, name: str, program: Program, objects: Mapping[str, bytes], main: str, chain: toolchain.ToolChain,
) -> elf.Elf:
    """Compile the schedule and merge it with the kernels; only the public names stay visible, nothing foreign is needed."""
    functions: dict[str, bytes] = {}
    for key in dict.fromkeys(s.kernel for s in program.steps):
        function = c_source.kernel_name(program, key)
        if functions.setdefault(function, objects[key]) != objects[key]:
            raise EdgecError(f"two different kernels have the same symbol {program.kernels[key].symbol}")
    parts = [_compiled(folder, f"{name}_main.c", main, chain, "-std=c99", "-ffreestanding")]
    for function, data in functions.items():
        part = elf.read(data, f"the kernel {function}")
        own = [s for s in part.exports if s.startswith("edgec_k_")]
        if len(own) != 1:
            raise EdgecError(f"the object of the kernel {function} defines {len(own)} kernels")
        parts.append(elf.rename(part, {own[0]: function}))
    public = [f"{name}_{p}" for p in ("run_args", "prepare", "strerror", "check_cpu", "info")]
    merged = elf.merge(parts, public, name)
    if foreign := sorted(set(merged.imports) - kernels.ALLOWED - _SYSTEM):
        raise EdgecError(f"the code of {name} needs {', '.join(foreign)}, which no device has")
    return merged


def _compiled(folder: Path, file: str, source: str, chain: toolchain.ToolChain, *flags: str) -> elf.Elf:
    """Compile one C text beside the headers in `folder`; what compilers write about themselves and the machine is left out."""
    (folder / file).write_text(source)
    chain.compile([file], folder, "part.o", "-O2", *flags)
    part = elf.read((folder / "part.o").read_bytes(), file)
    (folder / "part.o").unlink()
    (folder / file).unlink()
    return part


def _thread_pool(folder: Path, chain: toolchain.ToolChain) -> None:
    """Make libedgec_rt.so."""
    part = _compiled(folder, "pool.c", (folder / "edgec_rt.c").read_text(), chain, "-std=c11")
    merged = elf.merge([part], ["edgec_rt_create", "edgec_rt_destroy"], "edgec_rt")
    if foreign := sorted(set(merged.imports) - kernels.MEMORY - _POSIX):
        raise EdgecError(f"the thread pool needs {', '.join(foreign)}, which no C library has")
    (folder / "part.o").write_bytes(elf.write(merged))
    chain.link_shared(["part.o"], folder, "libedgec_rt.so")
    (folder / "part.o").unlink()


def _manifest(
    name: str, program: Program, identity: bytes, requires: Sequence[str], merged: elf.Elf, chain: toolchain.ToolChain,
    facts: Mapping[str, object],
) -> dict[str, Any]:
    return {
        "schema": SCHEMA, "abi": ABI, "name": program.name, "c_name": name, "id": identity[:16].hex(), **facts,
        "requires": {"machine": toolchain.machine(chain.triple), "cpu": list(requires)},
        "sizes": {
            "weights_bytes": program.weights_bytes, "arena_bytes": program.arena_bytes, "arena_lower_bound": program.arena_lower_bound,
            "state_bytes": program.state_bytes, "prepared_bytes": program.prepared_bytes, "code_bytes": merged.code_bytes,
            "alignment": program.alignment},
        "inputs": [asdict(p) for p in program.inputs], "outputs": [asdict(p) for p in program.outputs],
        "kernels": {k: {"function": c_source.kernel_name(program, k), **asdict(v)} for k, v in program.kernels.items()},
        "buffers": [asdict(b) for b in program.buffers], "steps": [asdict(s) for s in program.steps],
        "imports": list(merged.imports),
        "tools": {"edgec": edgec.__version__, **kernels.versions(), "c": chain.version()},
    }


