"""Tests that need OpenCL are skipped by name where there is none; PoCL (Debian: pocl-opencl-icd) runs it on any CPU."""

import ctypes

import pytest


def _devices() -> int:
    """How many devices OpenCL knows here."""
    try:
        library = ctypes.CDLL("libOpenCL.so.1")
    except OSError:
        return 0
    platforms, count, found = (ctypes.c_void_p * 8)(), ctypes.c_uint32(), ctypes.c_uint32()
    if library.clGetPlatformIDs(8, platforms, ctypes.byref(count)):
        return 0
    total = 0
    for platform in platforms[:count.value]:
        if library.clGetDeviceIDs(ctypes.c_void_p(platform), ctypes.c_uint64(0xFFFFFFFF), 0, None, ctypes.byref(found)) == 0:
            total += found.value
    return total


needs_opencl = pytest.mark.skipif(not _devices(), reason="OpenCL knows no device here: apt install pocl-opencl-icd ocl-icd-libopencl1")
