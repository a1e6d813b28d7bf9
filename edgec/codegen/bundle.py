"""The bundle: the folder that a build leaves behind, written beside its place and renamed as a whole.

    manifest.json                   everything there is to know, and a checksum of every other file
    NAME.h NAME.o libNAME.so        the model for C and C++ (a library where the target has an operating system)
    NAME.weights.bin NAME_weights.S its weights, to be read, mapped, or linked in
    edgec_rt.c .h libedgec_rt.so    an optional thread pool
    run.py main.c CMakeLists.txt    run it from Python (where there is an operating system), from C, use it in a project
    NOTICE                          licences of what is inside
    NAME.UNIT.cl edgec_opencl.c .h  for a target with more units: the code of each, its driver, and that as a library
      libedgec_opencl.so            (or cuda; units.py is for Python)

The same program, weights and tools give the same bytes.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import edgec
from edgec.codegen import c_source, c_units, elf, fit, toolchain, weights
from edgec.codegen import object as kernels
from edgec.codegen.cpu import requirements
from edgec.codegen.manifest import ABI, SCHEMA, file_digest, write_manifest
from edgec.codegen.program import HOST, Call, Program, Step
from edgec.errors import BadInput, EdgecError
from edgec.isa import Isa

_SYSTEM = frozenset({"getauxval"})
_POSIX = frozenset({"calloc", "free", *(f"pthread_{p}" for p in (
    "create", "join", "mutex_init", "mutex_destroy", "mutex_lock", "mutex_unlock",
    "cond_init", "cond_destroy", "cond_wait", "cond_broadcast"))})
"""What the thread pool may leave for the C library to define."""


_DRIVER = frozenset({"atoi", "dlopen", "dlsym", "calloc", "free", "getenv", "snprintf", "strlen", "strstr", "strtol"})
"""What a driver may leave for the C library to define."""


@dataclass(frozen=True)
class UnitCode:
    """The code of a unit beside the CPU: what its driver loads, and how that file's name ends; `more` files are for people."""

    suffix: str
    data: bytes
    more: Mapping[str, bytes] = field(default_factory=dict)


def write_bundle(  # noqa: PLR0913 - a build has this much to say
    out_dir: Path, program: Program, tensors: Mapping[int, weights.Data], objects: Mapping[str, bytes], *, isa: Isa, target: str,
    target_text: str = "", options: Mapping[str, object] | None = None, passes: Sequence[str] = (), model_sha256: str = "",
    cc: str | None = None, extra: Mapping[str, object] | None = None, codes: Mapping[str, UnitCode] | None = None,
    memories: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a bundle folder, replacing one that is there; returns its path.

    `tensors` holds the bytes of each weights buffer by its index in program.buffers, `objects` the compiled kernel of each key of
    program.kernels that the CPU runs, `codes` the code of each other unit. `extra` goes into the manifest as it is.
    Raises BadInput when the place cannot be written or holds something else, DoesNotFit when it is more than the target's `memories` hold.
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
        _fill(temporary, name, program, tensors, objects, codes or {}, isa, cc, memories=memories or {}, facts={
            "target": {"name": target, "text": target_text, "triple": isa.triple, "cpu": isa.mcpu, "features": list(isa.mattr)},
            "options": dict(options or {}), "passes": list(passes), "model_sha256": model_sha256, **(extra or {})})
        replace_folder(temporary, out_dir)
    except OSError as error:
        raise BadInput(f"the bundle cannot be written to {out_dir}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out_dir


def check_place(out_dir: Path, mark: str = "manifest.json") -> None:
    """See before anything is made whether a bundle could be written there; BadInput says why not. `mark` is a file that each has."""
    if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
        raise BadInput(f"the bundle cannot be written to {out_dir}, which is not a folder")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / mark).is_file():
        raise BadInput(f"the bundle cannot be written to {out_dir}, which holds other files")
    above = next(p for p in out_dir.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise BadInput(f"the bundle cannot be written to {out_dir}: {above} is {'not writable' if above.is_dir() else 'no folder'}")


def replace_folder(new: Path, place: Path) -> None:
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
    lies = [(b.region, b.offset, b.bytes, *([b.unit] if b.unit != HOST else ())) for b in program.buffers]
    steps = [_identity(program, s, objects) for s in (*program.prepare, *program.steps)]
    return hashlib.sha256(repr((lies, steps)).encode()).digest()


def _identity(program: Program, step: Step, objects: Mapping[str, bytes]) -> tuple[object, ...]:
    operands = [(o.buffer, o.offset) for o in step.operands]
    if not isinstance(step, Call):
        return type(step).__name__, operands, step.unit
    code = objects.get(step.kernel, program.kernels[step.kernel].symbol.encode())   # the symbol on another unit is a hash of its plan
    rounds = ((step.rounds, step.behind),) if step.rounds > 1 else ()
    return hashlib.sha256(code).hexdigest(), operands, step.tasks, *rounds


def _fill(  # noqa: PLR0913 - what a bundle is made of
    folder: Path, name: str, program: Program, tensors: Mapping[int, weights.Data], objects: Mapping[str, bytes],
    codes: Mapping[str, UnitCode], isa: Isa, cc: str | None, *, memories: Mapping[str, Mapping[str, Any]],
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
    taken = fit.uses(program, merged.code_bytes, memories)
    fit.check(taken, str(facts["target"]["name"]))  # type: ignore[index]
    (folder / f"{name}.o").write_bytes(elf.write(merged))
    hosted = toolchain.is_hosted(isa.triple)
    drivers = sorted({u.driver for u in program.units if c_units.has_driver(u.driver)})
    system = ("edgec_rt.c", "edgec_rt.h", "run.py", *(["units.py"] if program.units else ())) if hosted else ()
    for file in (*system, "NOTICE", *(f"edgec_{d}.{e}" for d in drivers for e in "ch")):
        (folder / file).write_text(c_source.fill(file, {"NAME": name, "DEVICE_ABI": c_source.device_abi()}))
    template = "CMakeLists.txt" if hosted else "CMakeLists_bare.txt"
    (folder / "CMakeLists.txt").write_text(c_source.fill(template, {"NAME": name, **c_units.cmake(program)}))
    if hosted:
        (folder / "run.py").chmod(0o755)
        chain.link_shared([f"{name}.o"], folder, f"lib{name}.so")
        _library(folder, chain, "rt", ["edgec_rt_create", "edgec_rt_destroy"], _POSIX)
        for driver in filter(c_units.has_library, drivers):
            _library(folder, chain, driver, [f"edgec_{driver}_{f}" for f in ("create", "destroy", "error")], _DRIVER)
    weights.write(folder / f"{name}.weights.bin", program, tensors, identity)
    files = {u: f"{name}.{c_source.identifier(u)}.{code.suffix}" for u, code in codes.items()}
    for unit, code in codes.items():
        (folder / files[unit]).write_bytes(code.data)
        for suffix, data in code.more.items():
            (folder / f"{name}.{c_source.identifier(unit)}.{suffix}").write_bytes(data)
    held = {f"{name}_{c_source.identifier(u)}_code": file for u, file in files.items()}
    large = hosted and program.weights_bytes >= 16 * weights.LARGE_PAGE    # of which up to one more is resident than is used
    (folder / f"{name}_weights.S").write_text(weights.assembler(name, held, large_pages=large))
    (folder / "main.c").write_text(c_source.example(program, hosted=hosted))
    manifest = _manifest(name, program, identity, requires, merged, chain, facts)
    manifest["memories"] = {use.memory: {"bytes": use.bytes, "size": use.size, "parts": dict(use.parts)} for use in taken}
    if program.units:
        manifest["units"] = [{**asdict(u), "code": files.get(u.name)} for u in program.units]
    manifest["files"] = {p.name: file_digest(p) for p in sorted(folder.iterdir())}
    write_manifest(folder, manifest)


def _object(
    folder: Path, name: str, program: Program, objects: Mapping[str, bytes], main: str, chain: toolchain.ToolChain,
) -> elf.Elf:
    """Compile the schedule and merge it with the kernels; only the public names stay visible, nothing foreign is needed."""
    functions: dict[str, bytes] = {}
    for key in program.functions:
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
    more = (*(["prepare_with"] if program.prepare else ()), *(["units"] if program.units else ()))
    public = [f"{name}_{p}" for p in ("run_args", "prepare", "strerror", "check_cpu", "info", *more)]
    merged = elf.merge(parts, public, name)
    if foreign := kernels.foreign(set(merged.imports) - _SYSTEM, chain.triple):
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


def _library(folder: Path, chain: toolchain.ToolChain, name: str, public: Sequence[str], imports: frozenset[str]) -> None:
    """Make libedgec_NAME.so of edgec_NAME.c: the thread pool, or the driver of a unit."""
    part = _compiled(folder, f"{name}_library.c", (folder / f"edgec_{name}.c").read_text(), chain, "-std=c11")
    merged = elf.merge([part], public, f"edgec_{name}")
    if foreign := sorted(set(merged.imports) - kernels.MEMORY - imports):
        raise EdgecError(f"libedgec_{name}.so needs {', '.join(foreign)}, which no C library has")
    (folder / "part.o").write_bytes(elf.write(merged))
    chain.link_shared(["part.o"], folder, f"libedgec_{name}.so")
    (folder / "part.o").unlink()


def _manifest(
    name: str, program: Program, identity: bytes, requires: Sequence[str], merged: elf.Elf, chain: toolchain.ToolChain,
    facts: Mapping[str, object],
) -> dict[str, Any]:
    return {
        "schema": SCHEMA if program.units else 1, "abi": ABI, "name": program.name, "c_name": name, "id": identity[:16].hex(), **facts,
        "requires": {"machine": toolchain.machine(chain.triple), "cpu": list(requires)},
        "sizes": {
            "weights_bytes": program.weights_bytes, "arena_bytes": program.arena_bytes, "arena_lower_bound": program.arena_lower_bound,
            "state_bytes": program.state_bytes, "prepared_bytes": program.prepared_bytes,
            "prepare_only_bytes": max(program.spent[1], default=0), "code_bytes": merged.code_bytes, "alignment": program.alignment},
        "inputs": [asdict(p) for p in program.inputs], "outputs": [asdict(p) for p in program.outputs],
        "kernels": {k: {"function": c_source.kernel_name(program, k) if v.unit == HOST else v.symbol, **asdict(v)}
                    for k, v in program.kernels.items()},
        "buffers": [asdict(b) for b in program.buffers], "steps": [_step(s) for s in program.steps],
        "prepare": [_step(s) for s in program.prepare],
        "imports": list(merged.imports),
        "tools": {"edgec": edgec.__version__, **kernels.versions(), "c": chain.version()},
    }




def _step(step: Step) -> dict[str, Any]:
    """A step as the manifest tells it; one that runs no kernel says what it is."""
    return asdict(step) if isinstance(step, Call) else {"step": type(step).__name__.lower(), **asdict(step)}
