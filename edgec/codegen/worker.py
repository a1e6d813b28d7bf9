"""A worker process that compiles kernels: reads pickled requests from its input, answers on its output, ends with its input.

Started by object.py. TVM is imported here and not in the process that the user runs.
"""

import importlib
import inspect
import os
import pickle
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Request:
    """Compile `plan` (or look up CPU features when it is None) for `target`; `form` is obj, asm, ll, tir or c."""

    emitter: str
    plan: Any
    symbol: str
    target: dict[str, Any]
    form: str = "obj"


@dataclass(frozen=True)
class Answer:
    """`data` is the object's bytes, or text as UTF-8; on failure `error` says why, with `details` for a bug report."""

    data: bytes = b""
    error: str = ""
    details: str = ""


def send(stream: IO[bytes], message: object) -> None:
    """Write one message with its length in front."""
    data = pickle.dumps(message)
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message; EOFError when the other side has gone."""
    head = stream.read(8)
    if len(head) < 8:  # noqa: PLR2004 - the length's size
        raise EOFError
    data = stream.read(int.from_bytes(head, "little"))
    return pickle.loads(data)  # noqa: S301 - both ends are this program


def find_emitter(reference: str) -> Any:
    """Look up `module:function`."""
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the input ends."""
    while True:
        try:
            request = receive(requests)
        except EOFError:
            return
        try:
            answer = Answer(_answer(request))
        except Exception as error:  # noqa: BLE001 - whatever a kernel does wrong is reported to the parent
            answer = Answer(error=f"{type(error).__name__}: {error}".strip(), details=traceback.format_exc())
        send(answers, answer)


def _answer(request: Request) -> bytes:
    from edgec.codegen import lower  # noqa: PLC0415 - imports TVM

    if request.plan is None:
        return "\n".join(lower.cpu_features(request.target)).encode()
    function = find_emitter(request.emitter)(request.plan, request.symbol)
    if request.form == "tir":
        return str(function).encode()
    if request.form == "c":
        return lower.c_source(function, request.plan, request.symbol).encode()
    module = lower.build(function, request.target)
    if request.form in {"asm", "ll"}:
        return str(module.inspect_source(request.form)).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        module.write_to_file(str(path), "o")
        return path.read_bytes()


def _quick_import() -> None:
    """TVM's decorators call inspect.stack() without need for the source lines; finding these takes most of the import."""
    stack = inspect.stack
    inspect.stack = lambda context=0: stack(0 * context)


def main() -> None:
    """Serve on the standard streams; stray prints of libraries go to the standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _quick_import()
    importlib.import_module("tvm")
    serve(sys.stdin.buffer, answers)
