"""A model timed from C: in a loop without Python's calls, step by step, and beside what the processor can do at most."""

import atexit
import ctypes
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.codegen import toolchain
from edgec.errors import DeviceError
from edgec.isa import Isa
from edgec.native import Raw

_SOURCE = Path(__file__).parent / "codegen" / "runtime" / "clock.c"
_SETS = {16: "avx512f,fma", 8: "avx2,fma", 4: "fma"}
_SUMS, _ROUNDS, _TRIES = 12, 400_000, 20  # of edgec_clock_peak; tries take milliseconds, which clocks tell apart; some escape interruptions


class Clock:
    """Loops in C around a loaded model. Not for several threads at once."""

    def __init__(self, raw: Raw) -> None:
        self._raw, self._library = raw, _library(toolchain.find(raw.triple), 0)

    def repeat(self, runs: int) -> None:
        """Run so many times; DeviceError when the model refuses its data."""
        self._check(self._library.edgec_clock_repeat(ctypes.c_void_p(self._raw.run), ctypes.c_void_p(self._raw.args), ctypes.c_int32(runs)))

    def steps(self, runs: int, *, cpu_time: bool = False) -> npt.NDArray[np.float64]:
        """The seconds of each step in so many runs, [runs, steps], without the time of a call that runs no step.

        `cpu_time` counts what the processor spent on this thread, whatever else runs on the machine.
        """
        seconds = np.empty((runs, self._raw.steps + 1))
        self._check(self._library.edgec_clock_steps(
            ctypes.c_void_p(self._raw.run), ctypes.c_void_p(self._raw.args), ctypes.c_void_p(self._raw.first_step),
            ctypes.c_int32(self._raw.steps), ctypes.c_int32(runs), ctypes.c_int32(cpu_time), ctypes.c_void_p(seconds.ctypes.data)))
        empty = np.median(seconds[:, -1])
        return np.asarray(np.maximum(seconds[:, :-1] - empty, 0.0))

    def _check(self, code: int) -> None:
        if code:
            raise DeviceError(f"the model refused to run: error {code}")


def peak_gflops(isa: Isa) -> float:
    """The most f32 GFLOP/s that a loop of fused multiply-adds in registers reaches on one core of this machine, now."""
    library = _library(toolchain.find(isa.triple), isa.lanes)
    library.edgec_clock_peak.restype = ctypes.c_double
    result = ctypes.c_float()
    best = min(float(library.edgec_clock_peak(ctypes.c_int32(_ROUNDS), ctypes.c_float(0.5), ctypes.c_float(0.25), ctypes.byref(result)))
               for _ in range(_TRIES))
    return 2e-9 * _ROUNDS * _SUMS * isa.lanes / best


@cache
def _library(chain: toolchain.ToolChain, lanes: int) -> Any:
    """The loops as a library, compiled into a folder that lives as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="edgec-clock-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copy(_SOURCE, folder)
    known = (f'-DEDGEC_SET="{_SETS[lanes]}"',) if toolchain.machine(chain.triple) == "x86_64" and lanes in _SETS else ()
    chain.compile([_SOURCE.name], folder, "clock.o", "-O2", "-ffp-contract=fast", f"-DEDGEC_LANES={lanes or 4}", *known)
    chain.link_shared(["clock.o"], folder, "clock.so")
    return ctypes.CDLL(str(folder / "clock.so"))
