"""Kernels to object code: in parallel worker processes, remembered by content.

The same plan for the same CPU gives the same bytes in every process and on every machine, so an object is stored under a
hash of everything that it depends on: plan, CPU, the sources of the emitter, the versions of TVM and its LLVM.
"""

import atexit
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgec.codegen import elf
from edgec.codegen.worker import Answer, Request, receive, send
from edgec.errors import Cancelled, EdgecError
from edgec.isa import Isa

EMITTER = "edgec.kernels.emit:emit"
_LIBM = """
    acos acosh asin asinh atan atan2 atanh cbrt ceil cos cosh erf erfc exp exp2 expm1 fabs floor fma fmax fmin fmod hypot lgamma log
    log10 log1p log2 nearbyint pow remainder rint round roundeven sin sinh sqrt tan tanh tgamma trunc"""
LIBM = frozenset(f"{name}{kind}" for kind in ("", "f") for name in _LIBM.split())
MEMORY = frozenset({"memcpy", "memmove", "memset"})
ALLOWED = LIBM | MEMORY
"""The only names that a kernel may leave for others to define."""
_ROUTINES = re.compile(r"__aeabi_\w+|__\w*[shd]f\d?|__(?:u?(?:div|mod|divmod)|mul|ashl|ashr|lshr|clz)[sd]i[234]")
"""What a compiler calls where there is no instruction, on 32-bit Arm: Run-time ABI for the Arm Architecture, and its names in GCC."""

_HEADER = b"edgec kernel cache 1\n"
_LOG = 4000  # characters of what a process printed before it died


def cache_home() -> Path:
    """Where edgec keeps what it can make again: EDGEC_CACHE, or `edgec` in the user's cache folder."""
    if named := os.environ.get("EDGEC_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgec"


def kernel_symbol(plan: object, isa: Isa) -> str:
    """The name of a kernel's function in its own object: the same for the same plan on the same CPU."""
    return f"edgec_k_{hashlib.sha256(repr((plan, isa)).encode()).hexdigest()[:16]}"


def compile_kernels(  # noqa: PLR0913 - a build has this much to decide
    plans: Mapping[str, Any], isa: Isa, *, jobs: int | None = None, cache_dir: Path | None = None, emitter: str = EMITTER,
    origins: Mapping[str, str] | None = None, progress: Callable[[int, int, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None, note: Callable[[str], None] | None = None,
) -> dict[str, bytes]:
    """Compile each plan to a relocatable object with one global function, `kernel_symbol(plan, isa)`.

    `emitter` names the function `module:function` that makes TIR from (plan, symbol). `origins` says for error messages
    which nodes a plan comes from, `progress` is told (done, total, key), `note` gets sentences about a cache that cannot be used.
    Raises Cancelled when `cancelled()` says so, EdgecError when a kernel cannot be compiled.
    """
    store = KernelCache(cache_dir or cache_home(), note or (lambda _: None))
    done: dict[str, bytes] = {}
    missing: dict[str, list[str]] = {}
    for key, plan in plans.items():
        symbol = kernel_symbol(plan, isa)
        data = None if symbol in missing else store.get(_identity(symbol, plan, isa, emitter))
        if data is None:
            missing.setdefault(symbol, []).append(key)
        else:
            done[key] = data
    if progress and done:
        progress(len(done), len(plans), "cached")

    def finish(symbol: str, answer: Answer) -> None:
        keys = missing[symbol]
        plan = plans[keys[0]]
        origin = (origins or {}).get(keys[0], keys[0])
        if answer.error:
            error = EdgecError(f"the kernel of {origin} cannot be compiled for {isa.mcpu}: {answer.error}; its plan is {plan}")
            error.add_note(answer.details)
            raise error
        check_object(answer.data, symbol, origin, isa.triple)
        store.put(_identity(symbol, plan, isa, emitter), answer.data)
        for key in keys:
            done[key] = answer.data
            if progress:
                progress(len(done), len(plans), key)

    requests = {s: Request(emitter, plans[keys[0]], s, _llvm_target(plans[keys[0]], isa)) for s, keys in missing.items()}
    _work(requests, jobs, cancelled or (lambda: False), finish)
    return {key: done[key] for key in plans}


def kernel_texts(plans: Mapping[str, Any], isa: Isa, form: str, *, jobs: int | None = None, emitter: str = EMITTER) -> dict[str, str]:
    """What a compiler writer wants to see of each plan: `form` is tir, ll, asm or c."""
    texts: dict[str, str] = {}

    def finish(key: str, answer: Answer) -> None:
        if answer.error:
            raise EdgecError(f"the kernel {key} cannot be shown as {form}: {answer.error}")
        texts[key] = answer.data.decode()

    requests = {k: Request(emitter, p, kernel_symbol(p, isa), _llvm_target(p, isa), form) for k, p in plans.items()}
    _work(requests, jobs, lambda: False, finish)
    return {key: texts[key] for key in plans}


def _llvm_target(plan: object, isa: Isa) -> dict[str, Any]:
    """The CPU that a plan was made for: integer kernels may want another name of the same one."""
    made_for = getattr(plan, "isa", isa)
    return made_for.llvm_target() if isinstance(made_for, Isa) else isa.llvm_target()


def cpu_features(isa: Isa) -> tuple[str, ...]:
    """The features, in LLVM's words, that LLVM may use when it compiles for this CPU."""
    return _cpu_features(isa.triple, isa.mcpu, isa.mattr, isa)


_KNOWN_FEATURES: dict[tuple[str, str, tuple[str, ...]], tuple[str, ...]] = {}


def _cpu_features(triple: str, mcpu: str, mattr: tuple[str, ...], isa: Isa) -> tuple[str, ...]:
    key = (triple, mcpu, mattr)
    if key not in _KNOWN_FEATURES:
        store = KernelCache(cache_home(), lambda _: None)
        name = hashlib.sha256(repr(("features", _versions(), key)).encode()).hexdigest()
        data = store.get(name)
        if data is None:
            answers: dict[str, Answer] = {}
            _work({"": Request("", None, "", isa.llvm_target())}, 1, lambda: False, answers.__setitem__)
            if answers[""].error:
                raise EdgecError(f"LLVM does not know the CPU {mcpu} of {triple}: {answers[''].error}")
            data = answers[""].data
            store.put(name, data)
        _KNOWN_FEATURES[key] = tuple(data.decode().split("\n"))
    return _KNOWN_FEATURES[key]


def foreign(names: Iterable[str], triple: str) -> list[str]:
    """Those names that a device may not have. The routines of its compiler come with every tool chain for a 32-bit Arm."""
    arm = triple.startswith(("thumb", "arm"))
    return sorted(n for n in set(names) - ALLOWED if not (arm and _ROUTINES.fullmatch(n)))


def check_object(data: bytes, symbol: str, origin: str, triple: str = "") -> None:
    """Check that a kernel's object defines its function and leaves nothing undefined that a device may not have."""
    file = elf.read(data, f"the kernel of {origin}")
    if symbol not in file.exports:
        raise EdgecError(f"the kernel of {origin} defines {', '.join(file.exports)} instead of {symbol}")
    if strange := foreign(set(file.imports) - set(file.exports), triple):
        raise EdgecError(f"the kernel of {origin} needs {', '.join(strange)}, which no device has")


def _versions() -> tuple[str, str]:
    return version("apache-tvm"), version("apache-tvm-ffi")


def _identity(symbol: str, plan: object, isa: Isa, emitter: str) -> str:
    return hashlib.sha256(repr((symbol, plan, isa, _versions(), emitter, _sources(emitter))).encode()).hexdigest()


def maker() -> str:
    """A hash of everything beside a plan that decides what code it becomes."""
    return hashlib.sha256(repr((_versions(), EMITTER, _sources(EMITTER))).encode()).hexdigest()


@cache
def _sources(emitter: str) -> str:
    """A hash of the sources that decide what a plan becomes."""
    package = Path(__file__).parents[1]
    paths = [*sorted((package / "kernels").rglob("*.py")), *(package / p for p in ("ir/layout.py", "isa.py", "codegen/lower.py"))]
    found = importlib.util.find_spec(emitter.partition(":")[0])
    if found and found.origin and not Path(found.origin).is_relative_to(package):
        paths.append(Path(found.origin))
    digest = hashlib.sha256()
    for path in paths:
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


class KernelCache:
    """Objects on disk, each with a checksum in front. A folder that cannot be used costs time and nothing else."""

    def __init__(self, folder: Path, note: Callable[[str], None], kind: str = "kernels") -> None:
        self._folder, self._note, self._told = folder / kind, note, False

    def _tell(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            self._note(sentence)

    def _path(self, identity: str) -> Path:
        return self._folder / identity[:2] / f"{identity}.o"

    def get(self, identity: str) -> bytes | None:
        """The stored bytes, None when there are none or they were damaged."""
        path = self._path(identity)
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        head, digest, data = stored[:len(_HEADER)], stored[len(_HEADER):len(_HEADER) + 32], stored[len(_HEADER) + 32:]
        if head != _HEADER or digest != hashlib.sha256(identity.encode() + data).digest():
            self._tell(f"the kernel cache entry {path} is damaged and is made again")
            return None
        return data

    def put(self, identity: str, data: bytes) -> None:
        """Store bytes under a temporary name and rename them."""
        path = self._path(identity)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
                file.write(_HEADER + hashlib.sha256(identity.encode() + data).digest() + data)
            Path(file.name).replace(path)
        except OSError as error:
            self._tell(f"kernels are not remembered, because the cache folder {self._folder} cannot be written: {error.strerror}")


class _Worker:
    """One process. It keeps the parent's import path, so plans of any importable module can be read there."""

    def __init__(self) -> None:
        start = f"import sys; sys.path[:] = {[p or os.getcwd() for p in sys.path]!r}; from edgec.codegen.worker import main; main()"  # noqa: PTH109
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - what the process prints is kept until it ends
        self.process = subprocess.Popen(
            [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TVM_NUM_THREADS": "1"})

    def ask(self, request: Request) -> Answer:
        """Send one request and wait. A worker that dies answers with an error."""
        requests, answers = self.process.stdin, self.process.stdout
        if requests is None or answers is None:
            raise EdgecError("a worker process has no pipes")
        try:
            send(requests, request)
            answer = receive(answers)
        except (EOFError, OSError):
            status = self.process.wait()
            self._log.seek(0)
            return Answer(error=f"the compiler process died (status {status})", details=self._log.read().decode(errors="replace")[-_LOG:])
        return answer if isinstance(answer, Answer) else Answer(error="the compiler process answered nonsense")

    def stop(self) -> None:
        """End the process now."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._log):
            if pipe:
                with suppress(OSError):  # what was not sent any more
                    pipe.close()


_idle: list[_Worker] = []
_idle_lock = threading.Lock()


def prestart(build: str, *, jobs: int | None = None, cache_dir: Path | None = None) -> None:
    """Start workers ahead of time, unless this build has found all its kernels before: they import TVM while passes run."""
    if _builds(cache_dir).get(_build_identity(build)) is None:
        with _idle_lock:
            _idle.extend(_Worker() for _ in range(_most(jobs) - len(_idle)))


def _most(jobs: int | None) -> int:
    """How many workers there may be."""
    return jobs or os.cpu_count() or 1


def remember(build: str, *, cache_dir: Path | None = None) -> None:
    """Remember that all kernels of a build are in the cache."""
    _builds(cache_dir).put(_build_identity(build), b"")


def _build_identity(build: str) -> str:
    return hashlib.sha256(repr(("build", build, maker())).encode()).hexdigest()


def _builds(folder: Path | None) -> KernelCache:
    return KernelCache(folder or cache_home(), lambda _: None, "builds")


@atexit.register
def stop_workers() -> None:
    """End the processes that wait for more kernels; a later build starts others."""
    with _idle_lock:
        while _idle:
            _idle.pop().stop()


def _take() -> _Worker:
    with _idle_lock:
        while _idle:
            worker = _idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.stop()
    return _Worker()


def _work(
    requests: Mapping[str, Request], jobs: int | None, cancelled: Callable[[], bool], finish: Callable[[str, Answer], None],
) -> None:
    """Answer all requests with at most `jobs` workers; `finish` is called in this thread, as answers come."""
    if not requests:
        return
    count = min(_most(jobs), len(requests))
    busy: set[_Worker] = set()

    def ask(request: Request) -> Answer:
        worker = _take()
        busy.add(worker)
        answer = worker.ask(request)
        busy.discard(worker)
        if worker.process.poll() is None:
            with _idle_lock:
                _idle.append(worker)
        else:
            worker.stop()
        return answer

    with ThreadPoolExecutor(count) as pool:
        waiting: dict[Future[Answer], str] = {pool.submit(ask, request): key for key, request in requests.items()}
        try:
            while waiting:
                ready, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                _check_cancelled(cancelled)
                for future in ready:
                    finish(waiting.pop(future), future.result())
        except BaseException:
            for future in waiting:
                future.cancel()
            for worker in list(busy):
                worker.process.kill()
            raise


def _check_cancelled(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("stopped while kernels were compiled")


def versions() -> dict[str, str]:
    """The versions of what makes machine code, for the manifest."""
    return dict(zip(("apache-tvm", "apache-tvm-ffi"), _versions(), strict=True))
