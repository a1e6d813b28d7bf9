# ruff: noqa: T201 - it is a program
"""Instructions of one inference on an Arm core, one thread: `python -m tests.benchmarks.instructions [MODEL …] [--root ROOT]`.

qemu counts them (count.c): they say nothing of caches, but the same bundle gives the same figure everywhere, and no board is needed.
Those of other runtimes are measured with their aarch64 wheels in a Debian system under ROOT, which
`bash tests/benchmarks/aarch64_debian.sh ROOT onnxruntime litert ncnn` makes.
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
from edgec import peers
from edgec.bundle import Bundle
from edgec.codegen import c_source, toolchain
from edgec.errors import EdgecError, UnsupportedModel
from edgec.peers import litert, ncnn
from edgec.peers.ncnn import OFF
from tests.benchmarks.models import find, table
from tests.bundles import BOUND, feeds, write_inputs

MODELS = ("mnist_opset8", "mlperf_kws_dscnn_fp32", "mlperf_vww_mbv1_fp32", "mobilenetv1_025_128_fp32", "resnet20_cifar10_fp32",
          "light_squeezenet", "light_shufflenet", "ultraface_rfb320", "ppocrv3_det", "minilm_l6_w16", "light_inception_v2",
          "light_resnet50")
HERE = Path(__file__).parent
_GUEST = """
import os, sys
import numpy as np
path, given = sys.argv[1], list(np.load(sys.argv[2]).items())
@load@
def mark():
    try:
        os.getpgid(0xED6E)
    except OSError:
        pass
for _ in range(3):
    mark()
    run()
    mark()
np.savez(sys.argv[3], *results())
"""
_LOAD = {"onnxruntime": """
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
bound = session.io_binding()
for name, array in given:
    bound.bind_cpu_input(name, array)
for port in session.get_outputs():
    bound.bind_output(port.name)
run = lambda: session.run_with_iobinding(bound)
results = bound.copy_outputs_to_cpu
""", "litert": """
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=path, num_threads=1)
interpreter.allocate_tensors()
for place, (_, array) in zip(interpreter.get_input_details(), given):
    interpreter.set_tensor(place["index"], array)
run = interpreter.invoke
results = lambda: [interpreter.get_tensor(place["index"]) for place in interpreter.get_output_details()]
""", "ncnn": f"""
import ncnn
net = ncnn.Net()
net.opt.num_threads = 1
for option in {OFF!r}:
    setattr(net.opt, option, False)
assert net.load_param(path) == 0 and net.load_model(path[:-5] + "bin") == 0
mats = [ncnn.Mat(np.ascontiguousarray(array[0])).clone() for _, array in given]
def run():
    global made
    extractor = net.create_extractor()
    for i, mat in enumerate(mats):
        extractor.input(f"in{{i}}", mat)
    made = [extractor.extract(f"out{{i}}")[1] for i in range(len(net.output_names()))]
results = lambda: list(map(np.array, made))
"""}
_CLOSE, _NEAR = 1e-3, 1e-6   # of the largest number, and at least: what a peer may be off; ONNX Runtime's own Sigmoid is off by 4e-7
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


def peer(name: str, model: Path, made: Bundle, root: Path, folder: Path) -> int:
    """The instructions of a peer's third run.

    UnsupportedModel when it cannot be fed the model, EdgecError when it computes something else than ONNX Runtime on this machine.
    """
    inputs, given, results = feeds(made, 0), folder / "given.npz", folder / "results.npz"
    np.savez(given, **inputs)   # type: ignore[arg-type]
    shapes = {port["name"]: port["shape"] for port in made.manifest["inputs"]}
    fed = _fed(name, model, shapes, folder)
    found = marks([*qemu("aarch64", made.manifest["target"]["cpu"], folder, "-L", str(root), "-E", f"PYTHONPATH={root}/opt/{name}"),
                   str(root / "usr/bin/python3"), "-c", _GUEST.replace("@load@", _LOAD[name]), *map(str, (fed, given, results))])
    expected = peers.load("onnxruntime", model, 1, shapes).run(inputs)
    for (output, right), got in zip(expected.items(), np.load(results).values(), strict=True):
        if got.size != right.size or not np.abs(got.reshape(right.shape) - right).max() <= _CLOSE * np.abs(right).max() + _NEAR:
            raise EdgecError(f"{name} computes another {output} than onnxruntime")
    return sum(found[5].values())


def _fed(name: str, model: Path, shapes: Mapping[str, Sequence[int]], folder: Path) -> Path:
    """The file that a peer reads."""
    if name == "litert":
        made = folder / "model.tflite"
        made.write_bytes(litert.convert(model, shapes)[1])
        return made
    if name == "ncnn":
        made = ncnn.convert(model, shapes, folder)[1]
        if bad := ncnn.unknown(made):
            raise UnsupportedModel(f"no layer {', '.join(bad)}", bad)
        return made
    return model


def row(name: str, total: int, theirs: Mapping[str, int | str]) -> tuple[object, ...]:
    """A line of the table: millions, and of each peer the ratio to it, or why there is none."""
    columns = [c for t in theirs.values() for c in ((f"{t / 1e6:.2f}", f"{total / t:.2f}") if isinstance(t, int) else (t, ""))]
    return (name, f"{total / 1e6:.2f}", *columns)


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
    parser.add_argument("--root", type=Path, help="a Debian system for aarch64 with the peers' wheels in opt")
    parser.add_argument("--vs", type=lambda text: text.split(","), default=["onnxruntime"], metavar="PEER,PEER",
                        help="of onnxruntime, litert, ncnn, where --root is given (default: onnxruntime)")
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
            theirs: dict[str, int | str] = {}
            for other in args.vs if args.root else ():
                try:
                    theirs[other] = peer(other, model, made, args.root, folder)
                except EdgecError as error:
                    theirs[other] = "refused" if isinstance(error, UnsupportedModel) else "wrong"
                    print(f"{name}: {other}: {error}", file=sys.stderr)
            rows.append(row(name, total, theirs))
            print(*rows[-1], flush=True)
            if args.kernels:
                print(table(("function", "kernel", "million", "share", "macs each"), kernels(made, spent)), flush=True)
    others = [c for p in (args.vs if args.root else ()) for c in (f"{p}, million", "ratio")]
    print(table(("model", "edgec, million", *others), rows))


if __name__ == "__main__":
    main()
