# ruff: noqa: T201 - it is a program
"""Instructions of one inference on an Arm core, one thread: `python -m tests.benchmarks.instructions [MODEL …] [--root ROOT]`.

qemu counts them (count.c): they say nothing of caches, but the same bundle gives the same figure everywhere, and no board is needed.
ONNX Runtime's are measured with its aarch64 wheel in a Debian system under ROOT, which `bash tests/benchmarks/aarch64_peer.sh ROOT` makes.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import edgec
from edgec.bundle import Bundle
from edgec.codegen import c_source, toolchain
from edgec.errors import EdgecError
from tests.benchmarks.models import find, table
from tests.bundles import BOUND, feeds, write_inputs

MODELS = ("mnist_opset8", "mlperf_kws_dscnn_fp32", "mlperf_vww_mbv1_fp32", "mobilenetv1_025_128_fp32", "resnet20_cifar10_fp32",
          "light_squeezenet", "light_shufflenet", "ultraface_rfb320", "ppocrv3_det", "minilm_l6_w16", "light_inception_v2",
          "light_resnet50")
HERE = Path(__file__).parent
_PEER = """
import os, sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = session.io_binding()
for name, array in np.load(sys.argv[2]).items():
    given.bind_cpu_input(name, array)
for port in session.get_outputs():
    given.bind_output(port.name)
def mark():
    try:
        os.getpgid(0xED6E)
    except OSError:
        pass
for _ in range(3):
    mark()
    session.run_with_iobinding(given)
    mark()
"""
_MOST_KERNELS = 12


def plugin(folder: Path) -> Path:
    """The plugin of qemu, compiled."""
    made = folder / "count.so"
    if not made.exists():
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", str(HERE / "count.c"), "-o", str(made)], check=True)
    return made


def marks(command: Sequence[str]) -> list[dict[str, int]]:
    """The instructions of each function between the marks of a program, one table for each mark; EdgecError when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: list[dict[str, int]] = []
    for line in done.stderr.splitlines():
        if line.startswith("mark "):
            found.append({})
        elif (counted := re.fullmatch(r"  (\d+) (.+)", line)) and found:
            found[-1][counted[2]] = int(counted[1])
    if done.returncode or not found:
        raise EdgecError(f"{Path(command[0]).name} ended with status {done.returncode}: {done.stderr[-500:]}")
    return found


def qemu(machine: str, cpu: str, folder: Path, *words: str) -> list[str]:
    """The emulator that counts."""
    return [f"qemu-{machine}", "-cpu", cpu, *words, "-plugin", str(plugin(folder))]


def bytes_of(ports: Iterable[Mapping[str, Any]]) -> str:
    """The bytes of each port, as C has them."""
    return ", ".join(str(prod(p["shape"]) * c_source.element_bytes(p["dtype"])) for p in ports)


def counted(made: Bundle, folder: Path) -> dict[str, int]:
    """The instructions of each function in the second run of a bundle, on one thread."""
    name, manifest = made.manifest["c_name"], made.manifest
    chain = toolchain.find(manifest["target"]["triple"], executable=True)
    text = (HERE / "count_main.c").read_text()
    places = {"NAME": name, "IN_BYTES": bytes_of(manifest["inputs"]), "OUT_BYTES": bytes_of(manifest["outputs"])}
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for file in (f"{name}.o", f"{name}.h", f"{name}.weights.bin"):
            Path(work, file).write_bytes((made.path / file).read_bytes())
        Path(work, "main.c").write_text(re.sub(r"@(\w+)@", lambda m: places[m[1]], text))
        chain.link_executable(["main.c", f"{name}.o"], Path(work), "main", "-O1", "-std=gnu11")
        files = write_inputs(feeds(made, 0), Path(work))
        _, first, _, second = marks([*qemu(manifest["requires"]["machine"], manifest["target"]["cpu"], folder), f"{work}/main",
                                     f"{work}/{name}.weights.bin", *map(str, files)])
    if sum(first.values()) != sum(second.values()):
        print(f"{name}: the first run took {sum(first.values())} instructions, the second {sum(second.values())}", file=sys.stderr)
    return second


def peer(model: Path, made: Bundle, root: Path, folder: Path) -> int:
    """The instructions of ONNX Runtime's third run."""
    given = folder / "given.npz"
    np.savez(given, **feeds(made, 0))   # type: ignore[arg-type]
    found = marks([*qemu("aarch64", made.manifest["target"]["cpu"], folder, "-L", str(root), "-E", f"PYTHONPATH={root}/opt/onnxruntime"),
                   str(root / "usr/bin/python3"), "-c", _PEER, str(model), str(given)])
    return sum(found[5].values())


def kernels(made: Bundle, spent: Mapping[str, int]) -> list[tuple[object, ...]]:
    """Rows: the functions that take most, what they are, and the multiply-accumulates of an instruction."""
    calls = Counter(str(step.get("kernel")) for step in made.manifest["steps"])
    known = {k["function"]: (k["algo"], k["macs"] * calls[key]) for key, k in made.manifest["kernels"].items()}
    rows: list[tuple[object, ...]] = []
    for function, count in sorted(spent.items(), key=lambda item: -item[1])[:_MOST_KERNELS]:
        algo, macs = known.get(function, ("", 0))
        rows.append((function, algo, f"{count / 1e6:.3f}", f"{count / sum(spent.values()):.1%}", f"{macs / count:.2f}"))
    return rows


def main() -> None:
    """Print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--target", default="cortex-a72")
    parser.add_argument("--root", type=Path, help="a Debian system for aarch64 with ONNX Runtime's wheel in opt/onnxruntime")
    parser.add_argument("--exact", action="store_true", help="without Winograd's method")
    parser.add_argument("--kernels", action="store_true", help="the kernels that take most, too")
    args = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in args.models:
            model = find(name, folder)
            made = edgec.build(model, args.target, folder / "made.edgec", exact=args.exact, **BOUND.get(name, {}))
            spent = counted(made, folder)
            total = sum(spent.values())
            theirs = peer(model, made, args.root, folder) if args.root else 0
            rows.append((name, f"{total / 1e6:.2f}", *((f"{theirs / 1e6:.2f}", f"{total / theirs:.2f}") if theirs else ("", ""))))
            print(*rows[-1], flush=True)
            if args.kernels:
                print(table(("function", "kernel", "million", "share", "macs each"), kernels(made, spent)), flush=True)
    print(table(("model", "edgec, million", "onnxruntime, million", "ratio"), rows))


if __name__ == "__main__":
    main()
