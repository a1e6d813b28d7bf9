"""NPUs that are not there: what their command streams would do is computed from what their regions mean, in numpy.

The bundle's own code runs as ever and starts an NPU through the same hooks as a real driver's. What is not seen this way are the commands
themselves.
"""

import ctypes
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.codegen.c_text import identifier
from edgec.codegen.runtime import units
from edgec.errors import DeviceError
from edgec.ir.types import numpy_dtype

if TYPE_CHECKING:
    from edgec.ir.graph import Graph

_USED = 0x5A
"""What the memory that commands worked in is full of afterwards: nobody may read it."""


class Simulated:
    """The units of a bundle, all of which are NPUs; DeviceError when one is not."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.names = [u["name"] for u in manifest["units"]]
        for name in self.names:
            if name not in manifest["npus"]:
                raise DeviceError(f"{path} also runs on the unit {name}, which is no NPU and cannot be simulated")
        self._path, self._name = path, manifest["c_name"]
        self._body = cache(self._load)

    @property
    def description(self) -> str:
        """Who does it, for messages."""
        return f"what the operators of {' and '.join(self.names)} mean, in numpy"

    def launch(self, unit: int, kernel: int, given: Sequence[bytes], sizes: Sequence[int]) -> Iterator[bytes]:
        """What a command stream writes into operands of these sizes, the memory that it works in last, from those that it reads."""
        from edgec.ir.evaluate import run  # noqa: PLC0415  it brings onnx along, which takes long to load

        body = self._body(self.names[unit], kernel)
        arrays = [_array(data, v.tensor.dtype, v.dims) for data, v in zip(given, body.inputs, strict=True)]
        made = [*(np.ascontiguousarray(a).tobytes() for a in run(body, arrays)), b""]
        for data, size in zip(made, sizes, strict=True):
            yield data + bytes([_USED]) * (size - len(data))

    def _load(self, unit: str, kernel: int) -> "Graph":
        from edgec.lang.text import load  # noqa: PLC0415  it brings the parser along

        return load(self._path / f"{self._name}.{identifier(unit)}.{kernel}.edge")


def _array(data: bytes, dtype: str, dims: Sequence[int]) -> np.ndarray[Any, Any]:
    kind = np.dtype(numpy_dtype(dtype))
    count = int(np.prod(dims))
    return np.frombuffer(data, kind, count).reshape(dims)


class _Operand(ctypes.Structure):
    """edgec_operand of NAME.h."""

    _fields_ = (("host", ctypes.c_void_p), ("offset", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("region", ctypes.c_uint32),
                ("writes", ctypes.c_uint32))


class _Launch(ctypes.Structure):
    """edgec_launch of NAME.h."""

    _fields_ = (("kernel", ctypes.c_char_p), *((n, ctypes.c_uint32) for n in ("number", "operands", "groups", "group")))


_Function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(_Launch), ctypes.POINTER(_Operand))
_Finish = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)


class Stand:
    """Simulated units for a library in this process: what `Units` of runtime/units.py are for real ones."""

    def __init__(self, simulated: Simulated) -> None:
        self._simulated, self._turn, self._said = simulated, threading.Lock(), ""
        self.index: Mapping[str, int] = {}                     # none has an arena
        self._functions = [_Function(self._hook(i)) for i in range(len(simulated.names))]
        self._finish = _Finish(lambda _: 0)
        self._devices = [units.Device(size=ctypes.sizeof(units.Device), version=units.VERSION, finish=self._finish,
                                      launch=ctypes.cast(f, ctypes.c_void_p)) for f in self._functions]
        self.pointers = (ctypes.c_void_p * len(self._devices))(*map(ctypes.addressof, self._devices))

    def __enter__(self) -> int:
        self._turn.acquire()
        self._said = ""
        return ctypes.addressof(self.pointers)

    def __exit__(self, *_: object) -> None:
        self._turn.release()

    def error(self) -> str:
        """What went wrong in the simulation."""
        return self._said

    def read(self, unit: int, offset: int, size: int) -> bytes:
        """Bytes of a unit's arena, which none of these has."""
        raise DeviceError(f"the unit {self._simulated.names[unit]} has no arena: there are no {size} bytes at {offset}")

    def fill(self, byte: int, guard: int) -> None:
        """Nothing: there is no arena."""

    def is_intact(self, _: int) -> bool:
        """Yes: there is no arena."""
        return True

    def _hook(self, unit: int) -> Any:
        def launch(_: Any, what: Any, operands: Any) -> int:
            try:
                rows = [operands[i] for i in range(what[0].operands)]
                given = [ctypes.string_at(o.host, o.bytes) for o in rows if not o.writes]
                written = [o for o in rows if o.writes]
                made = self._simulated.launch(unit, what[0].number, given, [o.bytes for o in written])
                for operand, data in zip(written, made, strict=True):
                    ctypes.memmove(operand.host, data, len(data))
            except Exception as error:  # noqa: BLE001  nothing may leave a function that C calls
                self._said = str(error)
                return -1
            return 0

        return launch


__all__ = ["Simulated", "Stand"]
