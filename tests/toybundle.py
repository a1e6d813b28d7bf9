"""A small model made of toy kernels, y = x + exp(x * w), as a Program and as a bundle."""

import platform
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edgec.codegen.bundle import write_bundle
from edgec.codegen.object import compile_kernels, kernel_symbol
from edgec.codegen.program import Buffer, Call, Kernel, Operand, Port, Program
from edgec.ir.graph import Array
from edgec.isa import Isa
from tests.toykernels import Toy

EMITTER = "tests.toykernels:emit"
TASKS, CHUNK = 8, 32
SHAPE = (TASKS, CHUNK)
BYTES = TASKS * CHUNK * 4
PLANS = {kind: Toy(kind, TASKS, CHUNK) for kind in ("scale", "fragile", "exp", "add")}


def isa(triple: str, mcpu: str) -> Isa:
    """A CPU in as many words as the toys need."""
    return Isa(triple, mcpu, (), lanes=4, registers=16, broadcast="memory", fma_ports=1, fma_latency=4, load_ports=1, l1_bytes=0,
               l2_bytes=0, l3_bytes=0, line_bytes=64, dram_bytes_per_cycle=1.0, l2_bytes_per_cycle=1.0, clock_hz=1e9)


A72 = isa("aarch64-linux-gnu", "cortex-a72")
A76 = isa("aarch64-linux-gnu", "cortex-a76")
X86 = isa("x86_64-linux-gnu", "x86-64")
HOST = X86 if platform.machine() == "x86_64" else isa("aarch64-linux-gnu", "generic")

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-aarch64") or not shutil.which("aarch64-linux-gnu-gcc"),
                                reason="needs qemu-aarch64 and aarch64-linux-gnu-gcc")


@cache
def objects(cpu: Isa) -> Mapping[str, bytes]:
    """The compiled kernels."""
    return compile_kernels(PLANS, cpu, emitter=EMITTER, jobs=1)


def program(name: str, cpu: Isa, *, libm: bool = True) -> Program:
    """The schedule: x * w, a kernel that may refuse, exp (a copy without `libm`), + x."""
    size = BYTES
    buffers = (Buffer("x", "input", 0, size), Buffer("w", "weights", 0, size), Buffer("scaled", "arena", 0, size),
               Buffer("passed", "arena", size, size), Buffer("raised", "arena", 0, size), Buffer("y", "output", 0, size))
    steps = (Call("scale", (Operand(0), Operand(1), Operand(2, write=True)), TASKS, "mul", "scaled"),
             Call("fragile", (Operand(2), Operand(3, write=True)), TASKS, "check/*1*/", "passed"),
             Call("exp" if libm else "fragile", (Operand(3), Operand(4, write=True)), TASKS, "exp", "raised"),
             Call("add", (Operand(0), Operand(4), Operand(5, write=True)), TASKS, "add", "y"))
    kernels = {k: Kernel(kernel_symbol(p, cpu), "map", k, False, 0, 3 * size, 0, 1.0, 3) for k, p in PLANS.items()}  # noqa: FBT003
    return Program(name, buffers, steps, (Port("x", "x", "f32", SHAPE, 0),), (Port("y:0", "y_0", "f32", SHAPE, 5),), kernels,
                   weights_bytes=size, arena_bytes=2 * size, arena_lower_bound=2 * size)


def tensor(seed: int) -> Array:
    """Values between -1 and 1."""
    return np.random.default_rng(seed).uniform(-1, 1, SHAPE).astype(np.float32)


def expected(x: Array, seed: int = 1, *, libm: bool = True) -> Array:
    """What the model computes with the weights of a seed."""
    return np.asarray(x + (np.exp(x * tensor(seed)) if libm else x * tensor(seed)))


def make(
    folder: Path, name: str = "toy", *, cpu: Isa = HOST, seed: int = 1, cc: str | None = None, libm: bool = True,
) -> Path:
    """Build a bundle in a folder."""
    model = program(name, cpu, libm=libm)
    return write_bundle(folder / f"{name}.edgec", model, {1: tensor(seed).tobytes()}, objects(cpu), isa=cpu, target="toy", cc=cc)


def overrun(folder: Path) -> Path:
    """A bundle whose first step writes behind the arena."""
    model = program("overrun", HOST)
    buffers = (*model.buffers[:2], replace(model.buffers[2], offset=2 * BYTES - 64), *model.buffers[3:])
    moved = replace(model, buffers=buffers)
    return write_bundle(folder / "overrun.edgec", moved, {1: tensor(1).tobytes()}, objects(HOST), isa=HOST, target="toy")
