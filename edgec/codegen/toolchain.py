"""C compilers and linkers for a target: what is on this machine, in a fixed order of preference.

Kernels never pass through a C compiler. It is needed for the schedule (a page of C), to link the shared library, and for
executables on demand. The same chain on another machine gives the same files: nothing of the machine gets into them.
"""

import atexit
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgec.codegen.object import cache_home
from edgec.errors import EdgecError, ToolMissing, UsageError

PLAIN = ("-fPIC", "-fno-ident", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-common",
         "-U_FORTIFY_SOURCE", "-fcf-protection=none")
"""Flags for code that must not depend on how a distribution set up its compiler."""

_PROFILES = {"thumbv7m": ("armv7-m", "cortex_m3"), "thumbv7em": ("armv7e-m", "cortex_m4"), "thumbv8m.main": ("armv8-m.main", "cortex_m33"),
             "thumbv8.1m.main": ("armv8.1-m.main+mve", "cortex_m55")}
"""Microcontrollers of Arm by the first part of their triple: the architecture in GCC's words, and a core in zig's."""
_PROBE = """#include <pthread.h>
#include <stdint.h>
int main(void) { return pthread_equal(pthread_self(), pthread_self()) != 0; }
"""


@dataclass(frozen=True)
class ToolChain:
    """A way to make files for `triple`: `command` compiles and links C; `static` are the words that make it link an executable."""

    kind: str
    triple: str
    command: tuple[str, ...]
    static: tuple[str, ...] = ("-static",)

    @property
    def name(self) -> str:
        """How a person would call it."""
        return "zig cc" if self.kind == "zig" else Path(self.command[0]).name

    @property
    def flags(self) -> tuple[str, ...]:
        """PLAIN as far as this compiler and architecture know it."""
        known: tuple[str, ...] = PLAIN if self.triple.startswith(("x86_64", "i686")) else PLAIN[:-1]
        if not is_hosted(self.triple):
            known = known[1:]                          # without a loader addresses are known, and tables of them may lie in flash
        if self.triple.startswith("aarch64"):
            known = (*known, "-mno-outline-atomics")   # else atomics are calls into the compiler's library, which a bundle does not bring
        return known if self.kind == "gcc" else (*known, "-fno-sanitize=all")

    def version(self) -> str:
        """The first line that the compiler says of itself."""
        if self.kind == "zig":
            return "zig " + run([*self.command[:3], "version"], "the zig compiler's version").strip()
        return run([self.command[0], "--version"], "the compiler's version").splitlines()[0]

    def compile(self, sources: Sequence[str], folder: Path, output: str, *flags: str) -> None:
        """Compile one C or assembler file in `folder` to an object there; names are relative, so that no path gets into it."""
        run([*self.command, "-c", *self.flags, *flags, *sources, "-o", output], f"compiling {', '.join(sources)}", folder)

    def link_shared(self, objects: Sequence[str], folder: Path, output: str) -> None:
        """Link objects into a shared library that needs no other library; undefined names are the loading program's business."""
        run([*self.command, "-shared", "-nostdlib", f"-Wl,-soname,{output}", "-Wl,-z,noexecstack",
             *(() if self.kind == "zig" else ("-Wl,--build-id=none", "-Wl,--hash-style=gnu")), *objects, "-o", output],
            f"linking {output}", folder)

    def link_executable(self, sources: Sequence[str], folder: Path, output: str, *flags: str) -> None:
        """Compile and link a static executable."""
        target = self.command if self.kind != "zig" else tuple(w.replace("-gnu.2.17", "-musl") for w in self.command)
        run([*target, *self.flags, *self.static, *flags, *sources, "-o", output, "-lm"], f"linking {output}", folder)

    def link_bare(self, sources: Sequence[str], folder: Path, output: str, script: str, *flags: str) -> None:
        """Compile and link a program for a processor without an operating system; `script` says where its memory is."""
        libraries = ("-lm", "-lc", "-lgcc") if self.kind == "gcc" else ()
        run([*self.command, *self.flags, "-ffreestanding", "-nostdlib", "-static", f"-Wl,-T,{script}", *flags, *sources, "-o", output,
             *libraries], f"linking {output}", folder)

    def link_freestanding(self, sources: Sequence[str], folder: Path, output: str, *flags: str) -> None:
        """Compile and link a static executable that uses no library and brings its own _start."""
        run([*self.command, *self.flags, "-fno-pic", "-ffreestanding", "-nostdlib", "-static", *flags, *sources, "-o", output],
            f"linking {output}", folder)


def run(command: Sequence[str], what: str, folder: Path | None = None) -> str:
    """Run a tool; EdgecError with its own words when it fails."""
    env = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    if "ziglang" in command:
        env |= {"ZIG_GLOBAL_CACHE_DIR": _zig_cache(), "ZIG_LOCAL_CACHE_DIR": _zig_cache()}
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    except OSError as error:
        raise EdgecError(f"{what} failed: {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise EdgecError(f"{what} failed (status {done.returncode} of {' '.join(command)}):\n{(done.stderr or done.stdout).strip()}")
    return done.stdout


@cache
def _zig_cache() -> str:
    """A folder in which zig can keep the libraries that it builds: edgec's cache, or one that lives as long as this process."""
    place = cache_home() / "zig"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return str(place)
    except OSError:
        folder = tempfile.TemporaryDirectory(prefix="edgec-zig-")
        atexit.register(folder.cleanup)
        return folder.name


def is_hosted(triple: str) -> bool:
    """Whether there is an operating system, which loads libraries and has threads."""
    return "linux" in triple


def gnu_triple(triple: str) -> str:
    """The name that compilers of a Linux distribution carry: x86_64-linux-gnu of x86_64-pc-linux-gnu."""
    parts = triple.split("-")
    return "-".join([parts[0], *(p for p in parts[1:] if p not in {"pc", "unknown", "none"})])


def is_host(triple: str) -> bool:
    """Whether code for this triple runs on this machine's processor and system."""
    return machine(triple) == os.uname().machine and "linux" in triple and sys.platform == "linux"


def machine(triple: str) -> str:
    """The processor of a triple, as `uname -m` calls it."""
    return triple.partition("-")[0]


def _candidates(triple: str, cc: str | None) -> Iterable[ToolChain]:
    if cc:
        words = tuple(cc.split())
        kind = "zig" if "zig" in cc else "clang" if "clang" in cc else "gcc"
        yield ToolChain(kind, triple, (shutil.which(words[0]) or words[0], *words[1:]))
        return
    gnu = gnu_triple(triple)
    if found := shutil.which(f"{gnu}-gcc"):
        yield ToolChain("gcc", triple, (found,))
    if (profile := _PROFILES.get(machine(triple))) and (found := shutil.which("arm-none-eabi-gcc")):
        unit, way = ("+fp", "hard") if triple.endswith("hf") else ("", "soft")
        yield ToolChain("gcc", triple, (found, "-mthumb", f"-march={profile[0]}{unit}", f"-mfloat-abi={way}"))
    if is_host(triple):
        for name, kind in (("gcc", "gcc"), ("cc", "gcc"), ("clang", "clang")):
            if found := shutil.which(name):
                yield ToolChain(kind, triple, (found,))
    clang, lld = shutil.which("clang"), shutil.which("ld.lld")
    if clang and lld:
        yield ToolChain("clang", triple, (clang, f"--target={triple}", "-fuse-ld=lld", "-Wno-unused-command-line-argument"))
    if importlib.util.find_spec("ziglang"):
        libc = f"{gnu}.2.17" if gnu.endswith("-gnu") else gnu
        core: tuple[str, ...] = ()
        if profile:
            libc, core = f"thumb-freestanding-{triple.rpartition('-')[2]}", (f"-mcpu={profile[1]}",)
        yield ToolChain("zig", triple, (sys.executable, "-m", "ziglang", "cc", "-target", libc, *core))


@cache
def _problem(chain: ToolChain, *, executable: bool) -> str:
    """Empty when the chain can make a library that uses threads, or a static executable, else what it said."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "probe.c").write_text(_PROBE)
        try:
            if executable:
                chain.link_executable(["probe.c"], place, "probe")
            elif is_hosted(chain.triple):
                chain.compile(["probe.c"], place, "probe.o")
                chain.link_shared(["probe.o"], place, "probe.so")
            else:
                (place / "probe.c").write_text("int edgec_probe;\n")
                chain.compile(["probe.c"], place, "probe.o")
        except EdgecError as error:
            return str(error)
    return ""


def find(triple: str, cc: str | None = None, *, executable: bool = False) -> ToolChain:
    """The first tool chain that works for a triple, and that links static executables when one is wanted.

    The order is `cc` (and then nothing else), TRIPLE-gcc, the host's own compiler, clang with lld, zig. ToolMissing when there is
    none, UsageError when `cc` does not work.
    """
    tried = list[str]()
    for chain in _candidates(triple, cc):
        problem = _problem(chain, executable=executable)
        if not problem:
            return chain
        tried.append(chain.name)
        if cc:
            raise UsageError(f"the compiler {cc} cannot make files for {triple}: {problem}")
    reason = f"; {', '.join(tried)} cannot make files for it" if tried else ""
    raise ToolMissing(f"no C compiler and linker for {triple} was found{reason}", "pip install ziglang")


def forget() -> None:
    """Look at the machine anew the next time: tools were installed or PATH has changed."""
    _problem.cache_clear()


def describe(triples: Sequence[str]) -> list[str]:
    """One line for each triple: the tool chain that a build would take, or what to install."""
    lines = []
    for triple in triples:
        try:
            chain = find(triple)
        except ToolMissing as error:
            lines.append(f"{triple}: {error}")
        else:
            lines.append(f"{triple}: {chain.name} ({chain.version()})")
    return lines
