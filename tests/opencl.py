"""OpenCL in tests: whether there is a device, and one kernel run on it. PoCL (Debian: pocl-opencl-icd) runs OpenCL on any CPU."""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache

import numpy as np
import pytest

from edgec.codegen import c_source, toolchain
from edgec.codegen.runtime import units
from edgec.ir.graph import Array
from edgec.isa import Gpu
from edgec.kernels.gpu.emit import source
from edgec.kernels.gpu.plan import GpuPlan
from tests.scratch import scratch

OPENCL = Gpu(triple="opencl", mcpu="", mattr=(), lanes=4, registers=8, broadcast="memory", fma_ports=1, fma_latency=1, load_ports=1,
             l1_bytes=0, l2_bytes=0,
             l3_bytes=0, line_bytes=64, dram_bytes_per_cycle=20.0, l2_bytes_per_cycle=20.0, clock_hz=1e9, driver="opencl",
             group=64, macs_per_cycle=32.0, launch_cycles=1000.0)
_GAP, _FILL = 256, 0xFF


@cache
def missing() -> str | None:
    """Why OpenCL kernels cannot run here, or None."""
    try:
        library = ctypes.CDLL("libOpenCL.so.1")
    except OSError:
        return "there is no libOpenCL.so.1: apt install ocl-icd-libopencl1 pocl-opencl-icd"
    platforms, count, found = (ctypes.c_void_p * 8)(), ctypes.c_uint32(), ctypes.c_uint32()
    if library.clGetPlatformIDs(8, platforms, ctypes.byref(count)):
        return "OpenCL has no platform here: apt install pocl-opencl-icd"
    for platform in platforms[:count.value]:
        if library.clGetDeviceIDs(ctypes.c_void_p(platform), ctypes.c_uint64(0xFFFFFFFF), 0, None, ctypes.byref(found)) == 0:
            return None
    return "OpenCL knows no device here: apt install pocl-opencl-icd"


needs_opencl = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@cache
def driver() -> ctypes.CDLL:
    """The driver as a bundle has it."""
    folder = scratch("opencl")
    for file in ("edgec_opencl.c", "edgec_opencl.h"):
        (folder / file).write_text(c_source.fill(file, {"DEVICE_ABI": c_source.device_abi()}))
    chain = toolchain.find("x86_64-linux-gnu")
    chain.compile(["edgec_opencl.c"], folder, "driver.o", "-O2", "-std=c11")
    chain.link_shared(["driver.o"], folder, "driver.so")
    library = ctypes.CDLL(str(folder / "driver.so"))
    library.edgec_opencl_create.restype, library.edgec_opencl_error.restype = ctypes.c_void_p, ctypes.c_char_p
    return library


class _Operand(ctypes.Structure):
    _fields_ = (("host", ctypes.c_void_p), ("offset", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("region", ctypes.c_uint32),
                ("writes", ctypes.c_uint32))


class _Launch(ctypes.Structure):
    _fields_ = (("kernel", ctypes.c_char_p), ("number", ctypes.c_uint32), ("operands", ctypes.c_uint32), ("groups", ctypes.c_uint32),
                ("group", ctypes.c_uint32))


class Asked(Exception):
    """Instead of a result, while `together` looks what will be run."""


_wanted: dict[GpuPlan, int] | None = None
_built: dict[GpuPlan, tuple["Kernels", int]] = {}


def execute(plan: GpuPlan, arrays: Sequence[Array]) -> list[list[Array]]:
    """The outputs of a kernel, once with operands at aligned addresses, once with all of them one element behind."""
    size = sum(-(-a.nbytes // 64) * 64 + _GAP for a in arrays) + 2 * _GAP
    if _wanted is not None:
        _wanted[plan] = size
        raise Asked
    kernels, number = _built.get(plan) or (Kernels([plan], size), 0)
    return [kernels.run(number, arrays, shift) for shift in (0, 1)]


def together(tests: Iterable[Callable[[], object]]) -> None:
    """Build the first kernel of each test as a part of one program: a program of one kernel takes nearly as long, most of it for headers.

    Where that program cannot be built, each kernel is one by itself, as without this.
    """
    global _wanted  # noqa: PLW0603
    _wanted = {}
    try:
        for test in tests:
            with suppress(Asked, pytest.skip.Exception):
                test()
        plans = dict(_wanted)
    finally:
        _wanted = None
    if plans:
        with suppress(AssertionError):
            kernels = Kernels(list(plans), max(plans.values()))
            _built.update((plan, (kernels, i)) for i, plan in enumerate(plans))


class Kernels:
    """Several kernels in one program, and an arena of some bytes; AssertionError when the code cannot be built."""

    def __init__(self, plans: Sequence[GpuPlan], size: int) -> None:
        self.plans, self.size = plans, size
        self.names = [f"kernel_{i}" for i in range(len(plans))]
        table = (ctypes.c_char_p * len(plans))(*(n.encode() for n in self.names))
        unit = units.Unit(ctypes.sizeof(units.Unit), 1, b"gpu", b"opencl", size, 0, 0, ctypes.cast(table, ctypes.c_void_p), len(plans))
        code, message = source(dict(zip(self.names, plans, strict=True)), "opencl").encode(), ctypes.create_string_buffer(4096)
        self.pointer = driver().edgec_opencl_create(ctypes.byref(unit), None, code, ctypes.c_size_t(len(code)), message,
                                                    ctypes.c_size_t(4096))
        assert self.pointer, f"{message.value.decode()}\n{code.decode()}"

    def __del__(self) -> None:
        driver().edgec_opencl_destroy(ctypes.c_void_p(self.pointer))

    def run(self, number: int, arrays: Sequence[Array], shift: int = 0) -> list[Array]:
        """One run of a kernel, between bytes that are NaN; AssertionError when it changes anything but its outputs."""
        plan, places, at = self.plans[number], list[int](), _GAP
        for array in arrays:
            places.append(at + shift * array.itemsize)
            at += -(-array.nbytes // 64) * 64 + _GAP
        assert at <= self.size
        device = units.Device.from_address(self.pointer)
        before = bytearray([_FILL]) * self.size
        for place, array in zip(places, arrays, strict=True):
            before[place:place + array.nbytes] = array.tobytes()
        memory = ctypes.create_string_buffer(bytes(before), self.size)
        operands = (_Operand * len(arrays))(*(_Operand(None, p, a.nbytes, 1, 0) for p, a in zip(places, arrays, strict=True)))
        launch = _Launch(self.names[number].encode(), number, len(arrays), plan.tasks, plan.group)
        start = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(device.launch)
        codes = [device.write(device.ctx, 0, ctypes.addressof(memory), self.size),
                 start(device.ctx, ctypes.addressof(launch), ctypes.addressof(operands)),
                 device.read(device.ctx, 0, ctypes.addressof(memory), self.size)]
        assert codes == [0, 0, 0], driver().edgec_opencl_error(ctypes.c_void_p(self.pointer))
        after, outputs = bytearray(memory.raw), []
        for place, array, arg in zip(places, arrays, plan.args, strict=True):
            if arg.role == "output":
                outputs.append(np.frombuffer(bytes(after[place:place + array.nbytes]), array.dtype))
                after[place:place + array.nbytes] = before[place:place + array.nbytes]
        assert after == before, "the kernel wrote outside its output"
        return outputs
