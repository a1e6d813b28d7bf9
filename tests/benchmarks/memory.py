# ruff: noqa: T201 - it is a program
"""Peak memory, cold start and steadiness of fresh processes: python -m tests.benchmarks.memory [MODEL ...].

The bundle's own runner (main.c) and its run.py are compared with a Python process of ONNX Runtime. Memory is the highest resident set of
the process (VmHWM: private memory and mapped weights) less that of its empty self: a C program that returns at once; Python with numpy;
Python with onnxruntime. Files are in the system's cache. One thread and one core unless said. The last column but one is what a single
run takes when everything is warm: the least that any way of loading leaves of the time to the first output.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import edgec
from edgec.codegen import toolchain
from edgec.isa import AIMS
from tests.benchmarks.models import LIGHT, find, table
from tests.bundles import BOUND, ROOT

MODELS = (*LIGHT, "squeezenet_fp32", "mobilenetv1_025_128_fp32", "ppocrv3_det", "ultraface_rfb320", "minilm_l6_w16")
"""Those of more than 1 MB."""
_REPORT = """
#include <stdio.h>
#include <string.h>
#include <time.h>
static struct timespec begun;
__attribute__((constructor)) static void begin(void) { clock_gettime(CLOCK_MONOTONIC, &begun); }
__attribute__((destructor)) static void report(void) {
  char line[256];
  struct timespec ended;
  FILE* status = fopen("/proc/self/status", "r");
  clock_gettime(CLOCK_MONOTONIC, &ended);
  while (status != NULL && fgets(line, sizeof line, status) != NULL)
    if (strncmp(line, "VmHWM:", 6) == 0) fputs(line + 6, stderr);
  fprintf(stderr, "%.3f ms\\n", (double)(ended.tv_sec - begun.tv_sec) * 1e3 + (double)(ended.tv_nsec - begun.tv_nsec) * 1e-6);
}
"""
_PYTHON = """
import sys, time
def report(start):
    took = time.perf_counter() - start
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1]
    print(peak, "kB\\n", took * 1e3, "ms", file=sys.stderr)
"""
_ORT = _PYTHON + """
import numpy as np
import onnxruntime as ort
start = time.perf_counter()
if len(sys.argv) > 1:
    import json
    options, shapes = ort.SessionOptions(), json.loads(sys.argv[2])
    options.intra_op_num_threads = int(sys.argv[3])
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    session.run(None, {i.name: np.zeros(shapes[i.name], kinds[i.type]) for i in session.get_inputs()})
report(start)
"""
_RUN = _PYTHON + """
import numpy as np
start = time.perf_counter()
if len(sys.argv) > 1:
    sys.path.insert(0, sys.argv[1])
    from run import DTYPES, Model
    model = Model(threads=int(sys.argv[2]))
    model.run({p["name"]: np.zeros(p["shape"], DTYPES[p["dtype"]]) for p in model.inputs})
report(start)
"""


def build(name: str, folder: Path, aim: str) -> Path:
    """The bundle of a model for this machine, with its runner; one that lies in the folder is taken as it is."""
    place = folder / f"{name}.edgec"
    if not (place / "manifest.json").exists():
        edgec.build(find(name, folder), target="host", output=place, optimize_for=aim, **BOUND.get(name, {}))
    prefix = json.loads((place / "manifest.json").read_bytes())["c_name"]
    (folder / "report.c").write_text(_REPORT)
    link(["main.c", "edgec_rt.c", f"{prefix}.o", f"{prefix}_weights.S", str(folder / "report.c")], place, folder / f"{name}.runner")
    return place


def link(sources: list[str], folder: Path, output: Path) -> None:
    """A program of this machine, as a person would make it: linked with the C library of the system."""
    chain = toolchain.find("x86_64-pc-linux-gnu" if os.uname().machine == "x86_64" else f"{os.uname().machine}-linux-gnu")
    toolchain.run([*chain.command, "-O2", *sources, "-o", str(output), "-pthread", "-lm"], f"linking {output.name}", folder)


def measured(*command: str) -> tuple[float, float]:
    """MB of the peak of a process, and milliseconds from its start (of Python: from behind its imports) to its end."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, took = done.stderr.strip().splitlines()[-2:]
    return int(peak.split()[0]) * 1024 / 1e6, float(took.split()[0])


def medians(count: int, *command: str) -> tuple[float, float]:
    """Of several fresh processes."""
    peaks, times = zip(*(measured(*command) for _ in range(count)), strict=True)
    return statistics.median(peaks), statistics.median(times)


def steadiness(runner: str, threads: str, runs: int) -> tuple[float, float]:
    """The median of the times of runs in one process, and their 99th percentile as a multiple of it."""
    command = [runner, "-t", threads, "-n", str(runs + runs // 10)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    times = sorted(float(line.split()[0]) for line in lines[runs // 10:] if line)
    middle = statistics.median(times)
    return middle, times[len(times) * 99 // 100] / middle


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory, cold start and steadiness of fresh processes.")
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--folder", type=Path, help="where bundles are kept, and taken from the next time")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes of each kind")
    parser.add_argument("--runs", type=int, default=200, help="runs in one process, for their percentiles; 0 for none")
    parser.add_argument("--threads", type=int, default=1, help="of all three, on as many cores")
    parser.add_argument("-O", dest="optimize", choices=AIMS, default=AIMS[0], help="what to build for; each in a folder of its own")
    parser.add_argument("--build-only", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        places = {name: build(name, folder, args.optimize) for name in args.models}
        if args.build_only:
            return
        (folder / "empty.c").write_text("int main(void) { return 0; }\n")
        link(["empty.c", "report.c"], folder, folder / "empty")
        os.environ["PYTHONPATH"] = str(ROOT)
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads:])
        threads = str(args.threads)
        python = (sys.executable, "-c")
        empty = [medians(args.processes, *c)[0] for c in ((str(folder / "empty"),), (*python, _RUN), (*python, _ORT))]
        rows: list[tuple[object, ...]] = []
        for name, place in places.items():
            ports = json.loads((place / "manifest.json").read_bytes())["inputs"]
            shapes = json.dumps({p["name"]: p["shape"] for p in ports})
            runner = str(folder / f"{name}.runner")
            commands = ((runner, "-t", threads), (*python, _RUN, str(place), threads),
                        (*python, _ORT, str(find(name, folder)), shapes, threads))
            (ours, cold), (script, script_cold), (peer, peer_cold) = (medians(args.processes, *c) for c in commands)
            ours, script, peer = (m - e for m, e in zip((ours, script, peer), empty, strict=True))
            once, spread = steadiness(runner, threads, args.runs) if args.runs else (math.nan, math.nan)
            rows.append((name, f"{ours:.1f}", f"{script:.1f}", f"{peer:.1f}", f"{ours / peer:.2f}", f"{script / peer:.2f}",
                         f"{cold:.1f}", f"{script_cold:.1f}", f"{peer_cold:.1f}", f"{cold / peer_cold:.3f}", f"{once / peer_cold:.3f}",
                         f"{spread:.2f}"))
            print(*rows[-1], flush=True)
    print(f"\nempty processes, MB: C {empty[0]:.1f}, Python with numpy {empty[1]:.1f}, Python with onnxruntime {empty[2]:.1f}\n")
    print(table(("model", "main.c, MB", "run.py, MB", "onnxruntime, MB", "main.c : onnxruntime", "run.py : onnxruntime", "cold main.c, ms",
                 "cold run.py, ms", "cold onnxruntime, ms", "cold main.c : onnxruntime", "one run : cold onnxruntime", "p99 : p50"), rows))


if __name__ == "__main__":
    main()
