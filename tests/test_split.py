"""Models on a CPU and a GPU: whole ones through OpenCL against ONNX Runtime, the copies between memories, and code for boards."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.codegen import cuda
from edgec.codegen.place import Places
from edgec.codegen.program import HOST, Copy, Launch
from edgec.codegen.schedule import schedule
from edgec.codegen.transfer import Move, Work, transfers
from edgec.errors import DeviceError
from edgec.ir.graph import Node
from edgec.isa import cpu_isa, devices
from edgec.kernels.gpu.writer import number
from edgec.kernels.plan import Operands, plan
from edgec.target import find
from edgec.verify import per_kernel
from tests.bundles import feeds, source
from tests.opencl import needs_opencl
from tests.shared import light
from tests.small import graph
from tests.split import Where, build, error, split

needs_nvcc = pytest.mark.skipif(cuda.compiler() is None, reason="nvcc is not installed: apt install nvidia-cuda-toolkit")


def thirds(i: int, _: Node) -> str | None:
    """Three nodes here, three there."""
    return "gpu" if i // 3 % 2 else None


def everything(_i: int, _n: Node) -> str | None:
    return "gpu"


def at_random(seed: int) -> Where:
    return lambda i, _: "gpu" if hashlib.sha256(f"{seed} {i}".encode()).digest()[0] & 1 else None


def check(name: str, where: Where, folder: Path) -> Counter[str]:
    """Run a model on two units with all memory poisoned; how many steps of each kind it took."""
    onnxruntime = pytest.importorskip("onnxruntime")
    made = build(source(name), where, folder)
    session = made.load(poison=True)
    reference = onnxruntime.InferenceSession(str(source(name)), providers=["CPUExecutionProvider"])
    names = [o.name for o in reference.get_outputs()]
    given = [feeds(made, seed) for seed in range(3)]
    wanted = [dict(zip(names, reference.run(None, x), strict=True)) for x in given]
    for i, x in enumerate(given):
        assert error(session.run(x), wanted[i], wanted[i - 1]) <= 1e-4
    return Counter(s.get("step") or made.manifest["kernels"][s["kernel"]]["unit"] for s in made.manifest["steps"])


@needs_opencl
@pytest.mark.parametrize(("name", "where"), [
    pytest.param("squeezenet_fp32", thirds, marks=pytest.mark.slow),   # test_partition_opencl.py has another division of it
    ("resnet20_cifar10_fp32", thirds), ("mlperf_kws_dscnn_fp32", thirds), ("mobilenetv1_025_128_fp32", everything),
    ("digits_transformer", everything), ("digits_cnn", at_random(1))])
def test_whole_models_as_onnxruntime_runs_them(name: str, where: Where, tmp_path: Path) -> None:
    steps = check(name, where, tmp_path)
    assert steps["gpu"] > 1
    assert steps["copy"] > 1
    assert (steps["cpu"] == 0) == (where is everything)


@needs_opencl
def test_a_build_puts_nodes_where_it_is_told_and_every_kernel_is_right(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = edgec.build(source("digits_cnn"), "desktop-opencl", tmp_path / "d.edgec", place={"*": "gpu"})
    steps = Counter(s.get("step") or made.manifest["kernels"][s["kernel"]]["unit"] for s in made.manifest["steps"])
    assert steps["gpu"] > 1
    assert re.search(rf"gpu +opencl: {steps['gpu']} kernels, {steps['copy']} copies, \d+ bytes of weights, arena \d+ bytes", made.summary())
    found = list(per_kernel(made, source("digits_cnn"), [feeds(made, seed) for seed in range(3)]))
    assert len(found) >= steps["gpu"]
    assert all(k.agreement.ok for k in found)


@needs_opencl
@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet_fp16", "ultraface_rfb320", "super_resolution_dyn", "mlperf_vww_mbv1_fp32", "mnist_opset8",
                                  "squeezenet_fp32", "resnet20_cifar10_fp32", "mlperf_kws_dscnn_fp32", "mobilenetv1_025_128_fp32"])
def test_more_models(name: str, tmp_path: Path) -> None:
    for i, where in enumerate((everything, at_random(2), at_random(3))):
        (tmp_path / str(i)).mkdir()
        assert check(name, where, tmp_path / str(i))["gpu"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["digits_cnn", "digits_mobilenet", "digits_transformer"])
def test_each_tensor_is_copied_once_to_each_memory_and_read_where_it_is(name: str, seed: int) -> None:
    _, made = split(source(name), at_random(seed), "desktop-opencl")
    program, written, copied = made.program, set[int](), Counter[tuple[int, int]]()
    ports = {p.buffer for p in program.inputs}
    for step in program.steps:
        for operand in step.operands:
            buffer = program.buffers[operand.buffer]
            memory = step.unit if isinstance(step, Launch) else HOST
            assert isinstance(step, Copy) or buffer.unit == memory
            if not operand.write and buffer.region not in ("weights", "prepared"):
                assert operand.buffer in written | ports
        written.update(o.buffer for o in step.operands if o.write)
        if isinstance(step, Copy):
            assert {program.buffers[o.buffer].unit for o in step.operands} == {HOST, "gpu"}
            copied[step.operands[0].buffer, step.operands[1].buffer] += 1
    assert set(copied.values()) <= {1}
    assert len({target for _, target in copied}) == len(copied)
    for unit in program.units:
        mine = [b for b in program.buffers if b.unit == unit.name and b.region == "weights"]
        assert all(unit.weights_offset <= b.offset <= unit.weights_offset + unit.weights_bytes - b.bytes for b in mine)
        assert all(b.offset + b.bytes <= unit.arena_bytes for b in program.buffers if b.unit == unit.name and b.region == "arena")


def moves(text: str, where: Callable[[Node], str | None]) -> list[str]:
    """The steps of a small graph as `x: cpu > gpu` and names of results; `gpu` and `far` are GPUs."""
    given = graph(*text.split("\n"))
    given = replace(given, nodes=tuple(replace(n, device=where(n)) for n in given.nodes))
    gpu, cpu = devices(find("desktop-opencl"))["gpu"], cpu_isa(find("desktop-opencl"))
    places = Places(given)
    operands = Operands.of(given.weights, lambda v: places[v].view)
    work = []
    for node in given.nodes:
        if node.op != "Concat":
            planned = plan(node, gpu if node.device else cpu, operands)
            assert not isinstance(planned, str)
            on = node.device or HOST
            work.append(Work(planned, node, node.outputs, tuple(places[v] for v in node.outputs), gpu if node.device else cpu, on, on))
    return [f"{s.root.name}: {s.source} > {s.target}" if isinstance(s, Move) else s.values[0].name for s in transfers(given, places, work)]


def test_from_one_unit_to_another_through_the_cpu() -> None:
    text = "%x: f32[4]\n%a: f32[4] = Relu(%x)\n%b: f32[4] = Neg(%a)\n%c: f32[4] = Abs(%a)\n%y: f32[4] = Add(%b, %c)"
    on = {"Relu": "gpu", "Neg": "far", "Abs": "far", "Add": None}
    assert moves(text, lambda n: on[n.op]) == [
        "x: cpu > gpu", "a", "a: gpu > cpu", "a: cpu > far", "b", "c", "b: far > cpu", "c: far > cpu", "y"]


def test_a_result_that_is_read_again_is_copied_once() -> None:
    text = "%x: f32[4]\n%a: f32[4] = Relu(%x)\n%b: f32[4] = Neg(%a)\n%y: f32[4] = Mul(%a, %b)"
    assert moves(text, lambda n: "gpu" if n.op == "Relu" else None) == ["x: cpu > gpu", "a", "a: gpu > cpu", "b", "y"]
    assert moves(text, lambda n: "gpu" if n.op != "Neg" else None) == [
        "x: cpu > gpu", "a", "a: gpu > cpu", "b", "b: cpu > gpu", "y", "y: gpu > cpu"]


def test_parts_of_a_concat_are_written_in_place_on_its_own_unit_only() -> None:
    text = ("%x: f32[2, 4]\n%a: f32[2, 4] = Relu(%x)\n%b: f32[2, 4] = Neg(%x)\n%c: f32[4, 4] = Concat(%a, %b) {axis=0}\n"
            "%y: f32[4, 4] = Abs(%c)")
    given = graph(*text.split("\n"))
    given = replace(given, nodes=tuple(replace(n, device=None if n.op == "Neg" else "gpu") for n in given.nodes))
    machine = find("desktop-opencl")
    made = schedule(given, cpu_isa(machine), "parts", units=devices(machine))
    assert [type(s).__name__ for s in made.program.steps] == ["Copy", "Launch", "Call", "Copy", "Launch", "Launch", "Copy"]


@needs_nvcc
@pytest.mark.parametrize("target", ["jetson-orin", "desktop-cuda"])
def test_a_bundle_for_cuda_holds_machine_code_of_each_kernel(target: str, tmp_path: Path) -> None:
    made = build(source("digits_cnn"), thirds, tmp_path, target)
    data = (made.path / "split.gpu.cubin").read_bytes()
    assert data[:4] == b"\x7fELF"
    assert int.from_bytes(data[18:20], "little") == 190                # EM_CUDA
    launched = {k["symbol"] for k in made.manifest["kernels"].values() if k["unit"] == "gpu"}
    assert launched
    assert all(f".text.{symbol}\0".encode() in data for symbol in launched)
    assert made.manifest["units"][0]["driver"] == "cuda"


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("target", ["jetson-orin", "desktop-cuda"])
@pytest.mark.parametrize("name", ["squeezenet_fp32", "light_resnet50"])
def test_larger_bundles_for_cuda(name: str, target: str, tmp_path: Path) -> None:
    model = light("resnet50").SerializeToString() if name == "light_resnet50" else source(name)
    made = build(model, everything, tmp_path, target)
    assert (made.path / "split.gpu.cubin").stat().st_size > 10_000


def test_a_bundle_for_a_board_with_a_mali(tmp_path: Path) -> None:
    made = build(source("digits_cnn"), thirds, tmp_path, "rk3588")
    assert int.from_bytes((made.path / "split.o").read_bytes()[18:20], "little") == 183   # EM_AARCH64
    text = (made.path / "split.gpu.cl").read_text()
    assert set(re.findall(r"KERNEL (\w+)\(", text)) == {k["symbol"] for k in made.manifest["kernels"].values() if k["unit"] == "gpu"}
    with pytest.raises(DeviceError, match=r"needs gpu \(opencl\) beside a aarch64, which no emulator has"):
        made.load()


def test_constants_as_c_writes_them() -> None:
    assert [number(v) for v in (1.0, -0.5, 1e-5, 3e38, np.inf, -np.inf, np.nan, -0.0)] == [
        "1.0f", "(-0.5f)", f"{float(np.float32(1e-5))!r}f", f"{float(np.float32(3e38))!r}f", "INFINITY", "(-INFINITY)", "NAN", "(-0.0f)"]
    assert number(3, "i64") == "((i64)(3L))"
