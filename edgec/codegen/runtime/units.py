# SPDX-License-Identifier: 0BSD
# ruff: noqa: B905 - Python 3.8
"""Opens the units beside the CPU on which a model runs: the library of a driver, the code of the unit, its part of the weights."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSION = 1
LIBRARIES = {"opencl": ("libOpenCL.so.1", "libOpenCL.so"), "cuda": ("libcuda.so.1",)}
"""What the drivers open, where it is no part of a bundle."""
GUARD = 4096


class NoDriver(RuntimeError):
    """A unit that cannot run, because a library is not on this machine."""


class Unit(ctypes.Structure):
    """edgec_unit of NAME.h."""

    _fields_ = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32), ("name", ctypes.c_char_p), ("driver", ctypes.c_char_p),
                ("arena_bytes", ctypes.c_uint64), ("weights_offset", ctypes.c_uint64), ("weights_bytes", ctypes.c_uint64),
                ("kernel_names", ctypes.c_void_p), ("kernels", ctypes.c_uint32)]


_MOVE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64)


class Device(ctypes.Structure):
    """edgec_device of NAME.h."""

    _fields_ = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32), ("ctx", ctypes.c_void_p), ("write", _MOVE), ("read", _MOVE),
                ("launch", ctypes.c_void_p), ("finish", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p))]


class Units:
    """The devices of a model, for one run at a time (`with`). RuntimeError says what is wrong with one, NoDriver what is missing."""

    def __init__(self, folder: Path, facts: dict[str, Any], library: ctypes.CDLL, weights: int,
                 load: Callable[[Path], ctypes.CDLL]) -> None:
        """Open the units that the manifest `facts` lists; `library` is the model's, `load` loads those of drivers."""
        rows = facts["units"]
        table = (Unit * len(rows)).in_dll(library, f"{facts['c_name']}_units")
        self.arena_bytes = [u["arena_bytes"] for u in rows]
        self.index = {u["name"]: i for i, u in enumerate(rows)}
        self._drivers, self._names, self._turn = [], [u["name"] for u in rows], threading.Lock()
        self.pointers = (ctypes.c_void_p * len(rows))()
        for i, row in enumerate(rows):
            driver = self._driver(row, folder, load)
            self._drivers.append(driver)
            unit = Unit.from_buffer_copy(table[i])
            unit.arena_bytes += GUARD if unit.arena_bytes else 0  # none: it works in the memory of the CPU
            code, message = (folder / row["code"]).read_bytes(), ctypes.create_string_buffer(2048)
            self.pointers[i] = driver.create(ctypes.byref(unit), ctypes.c_void_p(weights), code, ctypes.c_size_t(len(code)), message,
                                             ctypes.c_size_t(len(message)))
            if not self.pointers[i]:
                text = message.value.decode(errors="replace")
                raise RuntimeError(f"the unit {row['name']} cannot be used: {text}")

    def __enter__(self) -> int:
        """Wait until no other run uses the devices; what NAME_args.devices should be."""
        self._turn.acquire()
        return ctypes.addressof(self.pointers)

    def __exit__(self, *_: object) -> None:
        """Let the next run use them."""
        self._turn.release()

    def _driver(self, row: dict[str, Any], folder: Path, load: Callable[[Path], ctypes.CDLL]) -> _Driver:
        name, file = row["driver"], folder / f"libedgec_{row['driver']}.so"
        if not file.exists():
            raise NoDriver(f"the unit {row['name']} needs a driver for {name}, and this bundle brings none: it runs in a program that does")
        wanted = LIBRARIES.get(name, ())
        if wanted and not any(map(_is_there, wanted)):
            raise NoDriver(f"the unit {row['name']} needs {wanted[0]}, which is not on this machine")
        return _Driver(load(file), name)

    def _device(self, unit: int) -> Device:
        return Device.from_address(self.pointers[unit] or 0)

    def error(self) -> str:
        """What drivers say about what failed."""
        said = ((n, d.error(ctypes.c_void_p(p))) for n, d, p in zip(self._names, self._drivers, self.pointers))
        return "; ".join(f"{name}: {text.decode(errors='replace')}" for name, text in said if text)

    def _arenas(self) -> list[tuple[int, int]]:
        return [(i, size) for i, size in enumerate(self.arena_bytes) if size]

    def read(self, unit: int, offset: int, size: int) -> bytes:
        """Bytes of a unit's arena."""
        device, data = self._device(unit), ctypes.create_string_buffer(size)
        if size and device.read(device.ctx, offset, ctypes.addressof(data), size):
            raise RuntimeError(f"the arena of a unit cannot be read: {self.error()}")
        return data.raw

    def fill(self, byte: int, guard: int) -> None:
        """Fill all arenas with one byte, and what lies behind each with another."""
        for i, size in self._arenas():
            device, data = self._device(i), bytes([byte]) * size + bytes([guard]) * GUARD
            if device.write(device.ctx, 0, ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data)):
                raise RuntimeError(f"the arena of a unit cannot be written: {self.error()}")

    def is_intact(self, guard: int) -> bool:
        """Whether what lies behind the arenas is as `fill` left it."""
        return all(self.read(i, size, GUARD) == bytes([guard]) * GUARD for i, size in self._arenas())

    def __del__(self) -> None:
        for driver, pointer in zip(getattr(self, "_drivers", ()), getattr(self, "pointers", ())):
            driver.destroy(ctypes.c_void_p(pointer))


class _Driver:
    """The three functions of a driver's library."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.create, self.error = library[f"edgec_{name}_create"], library[f"edgec_{name}_error"]
        self.destroy = library[f"edgec_{name}_destroy"]
        self.create.restype, self.error.restype, self.destroy.restype = ctypes.c_void_p, ctypes.c_char_p, None


def _is_there(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
