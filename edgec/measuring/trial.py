"""Kernels timed by themselves, as they would run in a net: activations lie in caches, weights come from where those of the whole net lie.

Between two uses of a kernel's weights all others of the net pass through the caches. So its weights are read from one place after the other
in as much memory as the net has of them. Kernels take turns in short blocks on one core, by the time of the thread.
"""

import ctypes
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from edgec.codegen.object import kernel_symbol
from edgec.codegen.toolchain import ToolChain
from edgec.ir.types import numpy_dtype
from edgec.isa import Isa
from edgec.kernels.base import Arg, KernelPlan
from edgec.measure import Ratio, Times, pinned, ratio
from edgec.native import Memory, load_libm

_ALIGN, _MOST, _SETS = 64, 128 << 20, 4096
"""Bytes to which operands are aligned, at most so many bytes of weights, and places of them."""
_TURN = 0.002                   # seconds of the thread
_FIRST, _LAST = 5, 15           # turns of each kernel: to find the fastest, and to compare it with the default
_HOPELESS = 1.1                 # times the median of the fastest, above which a kernel has no further turns
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Timer:
    """A loop in C around a kernel.

    `places`: addresses of its operands, [count, operands], one row for each place of its weights; `at`: the row that is next. `span`: where
    the range of a call of the whole kernel ends.
    """

    loop: Callable[..., float]
    places: npt.NDArray[np.uint64]
    count: int
    at: ctypes.c_int32
    span: int
    kept: tuple[Memory, ...]

    def __call__(self, runs: int) -> float:
        """Run so many times; the mean seconds of one run."""
        return self.loop(ctypes.c_void_p(self.places.ctypes.data), ctypes.c_int32(self.count), ctypes.byref(self.at), ctypes.c_int32(runs),
                         ctypes.c_int32(self.span)) / runs


class Bench:
    """Memory for kernels of one net on this machine. `footprint` counts the bytes of all weights of the net."""

    def __init__(self, isa: Isa, chain: ToolChain, footprint: int) -> None:
        self._isa, self._chain, self._footprint = isa, chain, min(footprint, _MOST)
        self._pools: dict[tuple[str, int], Memory] = {}
        load_libm()

    def timers(self, plans: Mapping[str, KernelPlan], objects: Mapping[str, bytes]) -> dict[str, Timer]:
        """A timer for each plan, by the same names as its object."""
        with tempfile.TemporaryDirectory(prefix="edgec-measure-") as name:
            folder = Path(name)
            for key, data in objects.items():
                (folder / f"{kernel_symbol(plans[key], self._isa)}.o").write_bytes(data)
            symbols = {key: kernel_symbol(plan, self._isa) for key, plan in plans.items()}
            (folder / "loops.c").write_text(_loops({symbols[key]: len(plan.args) for key, plan in plans.items()}))
            self._chain.compile(["loops.c"], folder, "loops.o", "-O2")
            self._chain.link_shared(["loops.o", *(f"{s}.o" for s in dict.fromkeys(symbols.values()))], folder, "loops.so")
            library = ctypes.CDLL(str(folder / "loops.so"))
        return {key: self._timer(library, symbols[key], plan) for key, plan in plans.items()}

    def _timer(self, library: ctypes.CDLL, symbol: str, plan: KernelPlan) -> Timer:
        loop = library[f"time_{symbol}"]
        loop.restype = ctypes.c_double
        kept, places = self._operands(plan)
        return Timer(loop, np.array(places, np.uint64), len(places), ctypes.c_int32(0), plan.span, kept)

    def _operands(self, plan: KernelPlan) -> tuple[tuple[Memory, ...], list[list[int]]]:
        """Addresses of the operands, once for each place at which the weights lie, and the memory that holds them."""
        sizes = [_bytes(arg, plan.tasks) for arg in plan.args]
        stored = [i for i, arg in enumerate(plan.args) if arg.role in ("weight", "prepared")]
        far = max(stored, key=lambda i: sizes[i], default=None)
        own = Memory(sum(_whole(s) for i, s in enumerate(sizes) if i != far))
        fixed, at = list[int](), 0
        for i, (arg, size) in enumerate(zip(plan.args, sizes, strict=True)):
            fixed.append(own.address + at)
            if i != far:
                own.array[at:at + size] = _numbers(arg.dtype, size)
                at += _whole(size)
        if far is None:
            return (own,), [fixed]
        step = _whole(sizes[far])
        count = max(1, min(_SETS, self._footprint // step))
        pool = self._pool(plan.args[far].dtype, count * step)
        return (own, pool), [[pool.address + n * step if i == far else a for i, a in enumerate(fixed)] for n in range(count)]

    def _pool(self, dtype: str, size: int) -> Memory:
        """Memory full of numbers, of at least this size and kept for the next kernel."""
        found = next((m for (d, s), m in self._pools.items() if d == dtype and s >= size), None)
        if found is None:
            size = max(size, self._footprint)
            found = self._pools[dtype, size] = Memory(size)
            found.array[:] = _numbers(dtype, size)
        return found


class Contest:
    """Kernels that take turns. `late` is asked before each turn and may raise."""

    def __init__(self, timers: Mapping[str, Timer], late: Callable[[], None]) -> None:
        self._timers, self._late = timers, late
        self.times: dict[str, list[float]] = {}
        self._counts: dict[str, int] = {}

    def fastest(self, default: str) -> str:
        """The name of the kernel that takes the least time, after a few turns of each."""
        with pinned(1):
            for name, timer in self._timers.items():
                self._late()
                timer(1)
                self._late()
                self._counts[name] = max(1, int(_TURN / max(timer(1), 1e-8)))
            left = list(self._timers)
            for turn in range(_FIRST):
                self._turns(left)
                if turn == _FIRST // 2:
                    best = min(map(self.seconds, left))
                    left = [n for n in left if n == default or self.seconds(n) <= _HOPELESS * best]
        return min(left, key=lambda n: (self.seconds(n), n != default))

    def seconds(self, name: str) -> float:
        """The median time of a kernel."""
        return median(self.times[name])

    def compare(self, name: str, default: str) -> tuple[Ratio, float, float]:
        """The ratio of two kernels' times, and the median seconds of both, all measured anew: the least of many is too small by chance."""
        self.times.clear()
        with pinned(1):
            for _ in range(_LAST):
                self._turns([default, name])
        ours, theirs = self.times[name], self.times[default]
        return ratio(Times([[t] for t in ours]), Times([[t] for t in theirs])), median(ours), median(theirs)

    def _turns(self, names: Sequence[str]) -> None:
        for name in names:
            self._late()
            self.times.setdefault(name, []).append(self._timers[name](self._counts[name]))


def _loops(symbols: Mapping[str, int]) -> str:
    """C that runs each kernel, of so many operands, a number of times from place to place, and tells the seconds of its thread."""
    made = ["#define _POSIX_C_SOURCE 200112L", "#include <stdint.h>", "#include <time.h>",
            "static double now(void) {", "  struct timespec t;", "  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);",
            "  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;", "}"]
    for symbol, count in symbols.items():
        operands = ", ".join(f"p[{i}]" for i in range(count))
        made += [f"int32_t {symbol}({'void*, ' * count}int32_t, int32_t);",
                 f"double time_{symbol}(void* (*places)[{count}], int32_t count, int32_t* at, int32_t runs, int32_t span) {{",
                 "  const double start = now();",
                 "  for (; runs > 0; runs--) {",
                 "    void** p = places[*at];",
                 f"    {symbol}({operands}, 0, span);",
                 "    *at = *at + 1 < count ? *at + 1 : 0;",
                 "  }", "  return now() - start;", "}"]
    return "\n".join(made) + "\n"


def _bytes(arg: Arg, tasks: int) -> int:
    return arg.elements * numpy_dtype(arg.dtype).itemsize * (tasks if arg.role == "scratch" else 1)


def _whole(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _numbers(dtype: str, size: int) -> npt.NDArray[np.uint8]:
    """So many bytes of small numbers of a type: sums of their products stay finite."""
    random = np.random.default_rng(0)
    kind = numpy_dtype(dtype)
    made = random.standard_normal(_SAMPLE) * 0.1 if kind.kind == "f" else random.integers(1, 100, _SAMPLE)
    return np.resize(made.astype(kind).view(np.uint8), size)
