"""Compile one kernel plan and run it on arrays between guard pages, on this machine, under qemu (Arm) or in Bochs (x86-64).

Each operand ends where an inaccessible page begins (and, in a second run, begins where one ends), so an access outside crashes.
Outputs and scratch start as NaN. Every kernel runs twice: all tasks in one call, then task by task in reverse order, or round by round
where it has one task in rounds; the results must be equal bit by bit.
"""

import ctypes
import mmap
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from edgec.codegen.object import ALLOWED
from edgec.ir.graph import Array
from edgec.ir.layout import Layout, View
from edgec.ir.types import numpy_dtype
from edgec.isa import Gpu, Isa
from edgec.kernels.base import KernelPlan
from edgec.kernels.gpu.plan import GpuPlan, share
from tests import bochs, opencl
from tests.opencl import OPENCL
from tests.scratch import scratch

Emit = Callable[[Any, str], Any]


def _isa(triple: str, mcpu: str, lanes: int, registers: int, mattr: tuple[str, ...] = ()) -> Isa:
    return Isa(triple, mcpu, mattr, lanes, registers, "lane" if triple.startswith("aarch64") else "memory", fma_ports=2, fma_latency=4,
               load_ports=2, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20, line_bytes=64, dram_bytes_per_cycle=10.0,
               l2_bytes_per_cycle=32.0, clock_hz=3e9)


AVX512 = _isa("x86_64-linux-gnu", "x86-64-v4", 16, 32)
AVX2 = _isa("x86_64-linux-gnu", "x86-64-v3", 8, 16)
__all__ = ["OPENCL"]
A72 = _isa("aarch64-linux-gnu", "cortex-a72", 4, 32, ("+neon",))


def _native(isa: Isa) -> bool:
    if platform.machine() != isa.arch:
        return False
    flags = Path("/proc/cpuinfo").read_text(encoding="utf8") if Path("/proc/cpuinfo").exists() else ""
    named = {"+avx512vnni": "avx512_vnni", "+avx512vbmi": "avx512vbmi", "+avxvnni": "avx_vnni"}
    needed = {{"x86-64-v4": "avx512bw", "x86-64-v3": "avx2"}.get(isa.mcpu, ""), *(named.get(a, "") for a in isa.mattr)}
    return all(f in flags for f in needed)


def runs(isa: Isa) -> str | None:
    """Why this machine cannot run kernels of an ISA, or None."""
    if _native(isa):
        return None
    if isa.arch == "opencl":
        return opencl.missing()
    if isa.arch == "aarch64":
        return next((f"{tool} is not installed" for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64") if not shutil.which(tool)), None)
    return f"this CPU does not run {isa.mcpu}, and {why}" if (why := bochs.missing(isa.mcpu, isa.mattr)) else None


def emulated(isa: Isa) -> bool:
    """Whether its kernels run in Bochs here, half a second each time."""
    return isa.arch == "x86_64" and not _native(isa)


def on(*isas: Isa) -> list[Any]:
    """Parameters for pytest: those that cannot run here are marked as skipped, those that need Bochs as slow."""
    def marks(isa: Isa) -> list[pytest.MarkDecorator]:
        return [pytest.mark.skip(reason=why)] if (why := runs(isa)) else [pytest.mark.slow] * emulated(isa)

    return [pytest.param(i, id=i.mcpu or i.arch, marks=marks(i)) for i in isas]


HOST = next((p.values[0] for p in on(AVX512, AVX2) if not p.marks), AVX2)
"""The widest core that kernels run on here without an emulator."""


def slow(*isas: Isa) -> list[Any]:
    """The same for tests that take their time."""
    return [pytest.param(*p.values, id=p.id, marks=[*p.marks, pytest.mark.slow]) for p in on(*isas)]


ISAS = on(AVX512, AVX2, A72)


@dataclass(frozen=True)
class Outcome:
    """What a kernel answered: its return code, and its outputs in the order of its arguments."""

    code: int
    outputs: tuple[Array, ...]


def run(plan: KernelPlan, emit: Emit, inputs: Sequence[Array]) -> Outcome:
    """Run all tasks of a plan on flat inputs (weights among them, in argument order); AssertionError when it crashes or tasks interfere."""
    if isinstance(plan.isa, Gpu) and not isinstance(plan, GpuPlan):
        shared = share(plan, plan.isa)
        if isinstance(shared, str):
            pytest.skip(shared)
        plan = shared
    given = iter(inputs)
    arrays = []
    for arg in plan.args:
        if arg.role in ("input", "weight", "prepared"):
            array = np.ascontiguousarray(next(given)).reshape(-1)
            assert array.dtype == numpy_dtype(arg.dtype), (arg, array.dtype)
            assert array.size == arg.elements, (arg, array.size)
        else:
            slots = plan.tasks if arg.role == "scratch" else 1
            array = np.full(slots * arg.elements * numpy_dtype(arg.dtype).itemsize, 0xFF, np.uint8).view(numpy_dtype(arg.dtype))
        arrays.append(array)
    assert next(given, None) is None, "more inputs than arguments"
    if isinstance(plan, GpuPlan):
        first, second = opencl.execute(plan, arrays)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True)), "the result depends on where operands lie"
        return Outcome(0, tuple(first))
    folder = _compiled(plan, emit)
    assert undefined(plan, emit) <= ALLOWED
    execute = _execute_native if _native(plan.isa) else _execute_bochs if emulated(plan.isa) else _execute_qemu
    whole, parts = execute(plan, folder, arrays)
    assert whole.code == parts.code or whole.code != 0
    if whole.code == 0:
        for a, b in zip(whole.outputs, parts.outputs, strict=True):
            assert a.tobytes() == b.tobytes(), "the result depends on how the tasks are run"
    return whole


def undefined(plan: KernelPlan, emit: Emit) -> set[str]:
    """The names that the compiled kernel leaves for others to define."""
    done = subprocess.run(["nm", "-u", object_file(plan, emit)], capture_output=True, text=True, check=True)
    return set(done.stdout.split()) - {"U"}


def scatter(array: Array, layout: Layout | None = None) -> Array:
    """A tensor as it lies in memory in a layout; padding of incomplete blocks is NaN (or the largest number)."""
    view = View.of(array.shape, layout)
    size = layout.elements(array.shape) if layout else array.size
    flat = np.full(size * array.itemsize, 0xFF, np.uint8).view(array.dtype)
    flat[offsets(view)] = array.reshape(-1)
    return flat


def offsets(view: View) -> Array:
    """The offset of every element of a view, in row-major order of its index space."""
    total = np.zeros((1,) * len(view.axes), np.int64)
    for k, axis in enumerate(view.axes):
        along = np.array([axis.at(i) for i in range(axis.extent)], np.int64)
        total = total + along.reshape([-1 if k == a else 1 for a in range(len(view.axes))])
    return np.broadcast_to(total, view.shape).reshape(-1)


def gathered(flat: Array, view: View) -> Array:
    """The tensor that lies in memory as a view says."""
    return flat[offsets(view)].reshape(view.shape)


def ulps(found: Array, exact: Array) -> Array:
    """The distance of f32 numbers to float64 references, in units of the last place of the rounded reference; inf and NaN must agree."""
    rounded = exact.astype(np.float32)
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    spacing = np.spacing(np.abs(np.where(np.isfinite(rounded), rounded, np.float32(1)))).astype(np.float64)
    with np.errstate(all="ignore"):
        distance = np.abs(found.astype(np.float64) - exact) / spacing
    distance = np.where(np.isfinite(found) & np.isfinite(rounded), distance, np.inf)
    return np.where(same & ~np.isfinite(distance), 0.0, distance)


@cache
def object_file(plan: KernelPlan, emit: Emit) -> Path:
    from edgec.codegen.lower import build  # noqa: PLC0415  TVM takes seconds to import
    path = Path(tempfile.mkdtemp(dir=scratch("kernels"))) / "k.o"
    built = build(emit(plan, "kernel"), plan.isa.llvm_target())
    for kind in ("o", "s") if emulated(plan.isa) else ("o",):
        built.write_to_file(str(path.with_suffix(f".{kind}")), kind)
    return path


@cache
def _compiled(plan: KernelPlan, emit: Emit) -> Path:
    folder = object_file(plan, emit).parent
    if _native(plan.isa):
        subprocess.run([shutil.which("ld") or "gcc", "-shared", "-o", folder / "k.so", folder / "k.o", "-lm"], check=True)
    elif emulated(plan.isa):
        bochs.assemble(folder / "k.s")
        main = (bochs.PROGRAMS / "bochs_kernel.c").read_text(encoding="utf8").replace("CALLS", _calls())
        (folder / "main.c").write_text(main, encoding="utf8")
        bochs.link(folder, ["main.c", "k.o"], "k")
    else:
        subprocess.run(["aarch64-linux-gnu-gcc", "-static", "-o", folder / "k", _main(), folder / "k.o", "-lm"], check=True)
    return folder


class _Guarded:
    """Shared memory with an inaccessible page on either side; the array touches the upper one, or the lower."""

    def __init__(self, array: Array, *, low: bool) -> None:
        page = mmap.PAGESIZE
        room = -(-max(array.nbytes, 1) // page) * page
        self._map = mmap.mmap(-1, room + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None)
        for guard in (start, start + page + room):
            assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
        self.address = start + page + (0 if low else room - array.nbytes)
        self.array = np.frombuffer(self._map, array.dtype, array.size, self.address - start)
        self.array[:] = array


def _execute_native(plan: KernelPlan, folder: Path, arrays: Sequence[Array]) -> list[Outcome]:
    """In a child process, because a kernel may crash."""
    passes = [[_Guarded(a, low=low) for a in (*arrays, np.zeros(1, np.int32))] for low in (False, True)]
    kernel = ctypes.CDLL(str(folder / "k.so")).kernel
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        for split, (*operands, code) in enumerate(passes):
            for begin, end in _pieces(plan) if split else [(0, plan.span)]:
                code.array[0] = code.array[0] or kernel(*(ctypes.c_void_p(g.address) for g in operands), begin, end)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the kernel crashed: {signal.strsignal(os.WTERMSIG(status))}"
    return [Outcome(int(code.array[0]), tuple(g.array.copy() for g, a in zip(operands, plan.args, strict=True) if a.role == "output"))
            for *operands, code in passes]


def _pieces(plan: KernelPlan) -> list[tuple[int, int]]:
    pieces = [(t, t + 1) for t in range(plan.span)]
    return pieces if plan.rounds > 1 else pieces[::-1]


def _execute_bochs(plan: KernelPlan, folder: Path, arrays: Sequence[Array]) -> list[Outcome]:
    """Here what a kernel reads cannot be written, either."""
    uses: Mapping[str, Literal["out", "work"]] = {"output": "out", "scratch": "work"}
    operands = [(a, arg.role) for a, arg in zip(arrays, plan.args, strict=True)]
    blocks = [bochs.Block(a.tobytes(), uses.get(role, "in"), low)
              for low in (False, True) for a, role in [*operands, (np.zeros(1, np.int32), "output")]]
    model = bochs.processor(plan.isa.mcpu, plan.isa.mattr)
    assert model
    kept = iter(bochs.run(folder / "k", model, [len(arrays), plan.span, int(plan.rounds > 1)], blocks))
    made = []
    for _ in range(2):
        outputs = tuple(np.frombuffer(next(kept), a.dtype) for a, role in operands if role == "output")
        made.append(Outcome(int.from_bytes(next(kept), "little", signed=True), outputs))
    return made


def _execute_qemu(plan: KernelPlan, folder: Path, arrays: Sequence[Array]) -> list[Outcome]:
    (folder / "in").write_bytes(b"".join(a.tobytes() for a in arrays))
    command: list[str | Path] = ["qemu-aarch64", "-cpu", plan.isa.mcpu, folder / "k", folder / "in", folder / "out", str(plan.span)]
    command += [str(int(plan.rounds > 1)), *(str(a.nbytes) for a in arrays)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the kernel crashed under qemu: exit code {done.returncode}; {done.stderr}"
    data, at, made = (folder / "out").read_bytes(), 0, []
    for code in done.stdout.split():
        outputs = []
        for array, arg in zip(arrays, plan.args, strict=True):
            if arg.role == "output":
                outputs.append(np.frombuffer(data, array.dtype, array.size, at).copy())
            at += array.nbytes
        made.append(Outcome(int(code), tuple(outputs)))
    return made


@cache
def _main() -> Path:
    """An object file for aarch64: reads operands from a file, runs `kernel` on them between guard pages, writes them to another."""
    source = scratch("kernels") / "main.c"
    source.write_text(_MAIN.replace("CALLS", _calls()), encoding="utf8")
    subprocess.run(["aarch64-linux-gnu-gcc", "-O1", "-w", "-c", "-o", source.with_suffix(".o"), source], check=True)
    return source.with_suffix(".o")


def _calls() -> str:
    return "\n".join(f"case {n}: return kernel({', '.join(f'p[{i}]' for i in range(n))}, b, e);" for n in range(1, 17))


_MAIN = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
int32_t kernel();
static int32_t call(int n, void** p, int32_t b, int32_t e) {
  switch (n) { CALLS }
  abort();
}
int main(int argc, char** argv) {
  int32_t span = atoi(argv[3]), rounds = atoi(argv[4]), n = argc - 5;
  const size_t page = 65536;
  FILE* out = fopen(argv[2], "wb");
  void* p[16];
  for (int split = 0; split < 2; split++) {
    FILE* in = fopen(argv[1], "rb");
    int32_t code = 0;
    for (int i = 0; i < n; i++) {
      size_t size = atol(argv[5 + i]), room = (size + page - 1) / page * page + (size == 0) * page;
      char* base = mmap(0, room + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      mprotect(base, page, PROT_NONE);
      mprotect(base + page + room, page, PROT_NONE);
      p[i] = base + page + (split ? 0 : room - size);
      if (fread(p[i], 1, size, in) != size) return 2;
    }
    fclose(in);
    if (!split) code = call(n, p, 0, span);
    else for (int32_t i = 0; i < span; i++) {
      int32_t t = rounds ? i : span - 1 - i, c = call(n, p, t, t + 1);
      if (!code) code = c;
    }
    for (int i = 0; i < n; i++) fwrite(p[i], 1, atol(argv[5 + i]), out);
    printf("%d ", code);
  }
  fclose(out);
  return 0;
}
"""
