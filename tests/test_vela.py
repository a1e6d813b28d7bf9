"""Command streams by Vela, the file of a unit's code, the C that hands both to Arm's driver, and bundles that hold them."""

import ctypes
import json
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec import cli
from edgec.build import build
from edgec.bundle import Bundle
from edgec.codegen import c_source, toolchain
from edgec.codegen.npu import flat, region, tflite, vela
from edgec.codegen.runtime.units import Device, Unit
from edgec.errors import DeviceError, EdgecError, ToolMissing, UnsupportedModel
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.isa import Npu, devices
from edgec.lang.text import load as load_text
from edgec.lang.text import parse
from edgec.session import load
from edgec.simulated import _Function, _Launch, _Operand
from edgec.target import find
from passes.tflite import written
from tests.litert import Maker, value
from tests.test_npu import CASES

HERE = Path(__file__).parent
needs_vela = pytest.mark.skipif(not vela.is_installed(), reason="no ethos-u-vela: pip install '.[npu]'")
needs_flatbuffers = pytest.mark.skipif(find_spec("flatbuffers") is None, reason="no flatbuffers: pip install '.[npu]'")


def npu(board: str = "imx93") -> Npu:
    made = devices(find(board))["npu"]
    assert isinstance(made, Npu)
    return made


def strided(stride: int) -> Graph:
    make = Maker()
    x = make.input((1, 16, 16, 4), 0.05, 3)
    w = make.weight(np.ones((1, 3, 3, 4), np.int8), [0.01])
    size = -(-16 // stride)
    return make.graph("DepthwiseConv2D", [x, w, make.weight(np.zeros(4, np.int32), [0.0005])], value("y", (1, size, size, 4), 0.1),
                      stride=(stride, stride), padding="SAME", activation="NONE", multiplier=1)


@needs_vela
@pytest.mark.parametrize(("name", "board"), [
    *((name, "imx93") for name in CASES),
    *(pytest.param(name, "corstone-320", marks=pytest.mark.slow if name != "conv" else ()) for name in CASES)])
def test_vela_leaves_nothing_for_the_cpu(name: str, board: str, tmp_path: Path) -> None:
    body, _, _ = written(CASES[name])
    made = vela.compile_model(tflite.model(body), npu(board), cache=tmp_path)
    assert made.stream[:4] in (b"COP1", b"COP2")
    assert [p.bytes for p in made.inputs] == [v.tensor.bytes for v in body.inputs]
    assert [p.bytes for p in made.outputs] == [v.tensor.bytes for v in body.outputs]
    assert all(p.offset + p.bytes <= made.scratch for p in (*made.inputs, *made.outputs))
    assert made.figures.cycles > 0 or not made.figures.layers


@needs_vela
def test_figures_are_those_of_vela_and_what_was_made_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tflite.model(strided(2))
    made = vela.compile_model(data, npu(), cache=tmp_path)
    assert made.figures.macs == 8 * 8 * 4 * 9
    assert sum(layer.macs for layer in made.figures.layers) == made.figures.macs
    assert [layer.name for layer in made.figures.layers] == ["y"]
    assert made.figures.clock == 1e9
    monkeypatch.setattr(vela, "_run", lambda *_: pytest.fail("it was made a second time"))
    assert vela.compile_model(data, npu(), cache=tmp_path) == made


@needs_vela
def test_what_vela_leaves_for_the_cpu_is_told_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"conv1 \(DEPTHWISE_CONV_2D\): Unsupported kernel stride: 4, 4") as error:
        vela.compile_model(tflite.model(strided(4)), npu(), origins={"y": "conv1"}, cache=tmp_path)
    assert error.value.nodes == ("conv1",)
    with pytest.raises(EdgecError, match="Vela cannot compile a region for ethos-u65-256: RuntimeError: Compilation failed"):
        vela.compile_model(b"no model", npu(), cache=tmp_path)


def test_without_vela_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vela, "find_spec", lambda _: None)
    with pytest.raises(ToolMissing, match=r"made by ethos-u-vela, which is not installed; install it with: pip install 'edgec\[npu\]'"):
        vela.compiler_version()
    assert not vela.is_installed()


def test_without_flatbuffers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "flatbuffers", None)
    with pytest.raises(ToolMissing, match=r"flatbuffers, which is absent; install it with: pip install 'edgec\[npu\]'"):
        flat.buffer([], b"TFL3")


MODEL = """edge 1
graph @small(%x: f32[1,4,6,6]) {
  %ys: f32[] = splat 0.07
  %yz: i8[] = splat -5
  %xs: f32[] = splat 0.05
  %xz: i8[] = splat 3
  %q: i8[1,4,6,6] = QuantizeLinear(%x, %xs, %xz) at "in"
  %a: i8[1,5,6,6] = edgec.Region(%q) {kind="npu", body=@1} on npu at "conv"
  %b: i8[1,5,6,6] = edgec.Region(%a) {kind="npu", body=@2} on npu at "pool"
  %y: f32[1,5,6,6] = DequantizeLinear(%b, %ys, %yz) at "out"
  return %y
}

graph @1 "conv"(%x: i8[1,4,6,6]) {
  %xs: f32[] = splat 0.05
  %xz: i8[] = splat 3
  %ys: f32[] = splat 0.07
  %yz: i8[] = splat -5
  %w: i8[5,4,3,3] = random 1
  %ws: f32[] = splat 0.006
  %wz: i8[] = splat 0
  %r: f32[1,4,6,6] = DequantizeLinear(%x, %xs, %xz)
  %k: f32[5,4,3,3] = DequantizeLinear(%w, %ws, %wz)
  %c: f32[1,5,6,6] = Conv(%r, %k) {group=1, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1]} at "conv"
  %y: i8[1,5,6,6] = QuantizeLinear(%c, %ys, %yz)
  return %y
}

graph @2 "pool"(%x: i8[1,5,6,6]) {
  %xs: f32[] = splat 0.07
  %xz: i8[] = splat -5
  %r: f32[1,5,6,6] = DequantizeLinear(%x, %xs, %xz)
  %p: f32[1,5,6,6] = AveragePool(%r) {kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]} at "pool"
  %y: i8[1,5,6,6] = QuantizeLinear(%p, %xs, %xz)
  return %y
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.edge"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that is this machine, with an Ethos-U beside it."""
    path = tmp_path_factory.mktemp("target") / "here.target"
    base = find("host").text().replace("target host", "target plain", 1)
    facts = {**npu().__dict__}
    unit = f"""unit npu npu {{ clock = 1 GHz  macs_per_cycle = 256  bandwidth = 3.7 GB/s  compiler = "vela"
    accelerator = "{facts['accelerator']}"  system = "{facts['system']}"  memory_mode = "{facts['memory_mode']}" }}"""
    path.write_text(f"{base}\ntarget here : plain {{ {unit} }}\n")
    return path


@pytest.fixture(scope="module")
def bundle(model: Path, here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(model, here, tmp_path_factory.mktemp("bundle") / "small.edgec").path


def inputs(seed: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).uniform(-5, 5, (1, 4, 6, 6)).astype(np.float32)}


@needs_vela
def test_a_bundle_says_what_was_compiled_and_that_nobody_saw_it_run(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    facts = manifest["npus"]["npu"]
    assert facts["executed"] is False
    assert facts["compiler"].startswith("ethos-u-vela ")
    assert [r["number"] for r in facts["regions"]] == [0, 1]
    assert facts["regions"][0]["macs"] == 5 * 6 * 6 * 4 * 9
    assert all(r["figures"]["cycles"] > 0 for r in facts["regions"])
    wanted = {"small.npu.bin", "small.npu.0.edge", "small.npu.1.edge", "small.npu.0.vela.tflite", "edgec_ethosu.c", "edgec_ethosu.h"}
    assert wanted <= manifest["files"].keys()
    assert not (bundle / "libedgec_ethosu.so").exists()        # it calls Arm's driver, which only the user's program has
    summary = Bundle(bundle).summary()
    assert "npu        ethos-u65-256: 100.0% of the multiply-accumulates, 2 command streams" in summary
    assert "not executed here" in summary
    assert (bundle / "small.npu.0.vela.tflite").read_bytes()[4:8] == b"TFL3"


@needs_vela
def test_the_code_file_holds_commands_and_constants_at_multiples_of_64(bundle: Path) -> None:
    data = (bundle / "small.npu.bin").read_bytes()
    assert struct.unpack("<8s2I", data[:16]) == (b"EDGECNPU", 1, 2)
    facts = json.loads((bundle / "manifest.json").read_text())["npus"]["npu"]["regions"]
    for i, r in enumerate(facts):
        stream, size, constants, more, scratch, fast, reads, writes, places = struct.unpack("<9I", data[16 + 36 * i:52 + 36 * i])
        assert (size, more, scratch, fast, reads, writes) == (r["commands_bytes"], r["constants_bytes"], r["scratch_bytes"],
                                                              r["fast_bytes"], 1, 1)
        assert stream % 64 == constants % 64 == 0
        assert data[stream:stream + 3] == b"COP"
        pair = struct.unpack("<2I", data[places:places + 8])
        assert pair == (r["inputs"][0]["offset"], r["inputs"][0]["bytes"])


@needs_vela
def test_it_refuses_to_run_unless_a_simulation_is_asked_for(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError, match=r"a command stream for npu \(ethos-u65-256\), which can be executed nowhere but on the NPU"):
        load(bundle)
    assert cli.main(["run", str(bundle)]) == 6
    assert "--simulate-npu" in capsys.readouterr().err
    assert cli.main(["run", str(bundle), "--simulate-npu"]) == 0
    assert "no NPU executed its commands: their place was taken by what the operators of npu mean, in numpy" in capsys.readouterr().err


@needs_vela
def test_a_simulation_runs_the_bundles_code_and_means_what_the_regions_mean(bundle: Path) -> None:
    session = load(bundle, simulate_npu=True, poison=True)
    body = parse(MODEL)
    regions = [load_text(bundle / f"small.npu.{i}.edge") for i in (0, 1)]
    for seed in range(3):
        feeds = inputs(seed)
        got = session.run(feeds)["y"]
        (want,) = evaluate(body, feeds).values()
        assert np.abs(got - want).max() <= 2.01 * 0.07         # the NPU rounds in other places than reals do
        assert np.unique(got).size > 9
        quantized = np.clip(np.rint(feeds["x"] / np.float32(0.05)) + 3, -128, 127).astype(np.int8)
        image = quantized.transpose(0, 2, 3, 1)
        for part in regions:
            (image,) = evaluate(part, {part.inputs[0].name: image}).values()
        exact = (image.transpose(0, 3, 1, 2).astype(np.float32) + 5) * np.float32(0.07)
        assert np.array_equal(got, exact)


@needs_vela
def test_run_py_says_that_a_driver_is_missing(bundle: Path) -> None:
    done = subprocess.run(["python3", bundle / "run.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the unit npu needs a driver for ethosu, and this bundle brings none" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# The C that binds a bundle to Arm's driver


class Fake:
    """edgec_ethosu.c with a core driver that keeps what it was given."""

    def __init__(self, folder: Path, code: bytes, kernels: int) -> None:
        for file in ("edgec_ethosu.c", "edgec_ethosu.h"):
            (folder / file).write_text(c_source.fill(file, {"DEVICE_ABI": c_source.device_abi()}))
        chain = toolchain.find(find("host").facts.get("triple") or "x86_64-linux-gnu")
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1"]
        subprocess.run([*chain.command, *flags, "edgec_ethosu.c", HERE / "ethosu_driver.c", "-o", "fake.so"], cwd=folder, check=True)
        self.library = ctypes.CDLL(str(folder / "fake.so"))
        self.library.edgec_ethosu_create.restype, self.library.edgec_ethosu_error.restype = ctypes.c_void_p, ctypes.c_char_p
        self._memory = ctypes.create_string_buffer(len(code) + 64)
        start = ctypes.addressof(self._memory)
        self.code = start + -start % 64
        ctypes.memmove(self.code, code, len(code))
        self.size, self.kernels = len(code), kernels
        self.message = ctypes.create_string_buffer(200)

    def unit(self, version: int = 1) -> Any:
            return Unit(size=ctypes.sizeof(Unit), version=version, name=b"npu", driver=b"ethosu", kernels=self.kernels)

    def create(self, unit: Any = None, size: int | None = None) -> int | None:
        made: int | None = self.library.edgec_ethosu_create(ctypes.byref(unit or self.unit()), None, ctypes.c_void_p(self.code),
                                                            ctypes.c_size_t(self.size if size is None else size), self.message, 200)
        return made

    def error(self, device: int) -> str:
        said: bytes = self.library.edgec_ethosu_error(ctypes.c_void_p(device))
        return said.decode()

    def set(self, **values: int) -> None:
        for name, number in values.items():
            kind = ctypes.c_int if name in ("fail", "absent") else ctypes.c_size_t
            kind.in_dll(self.library, name).value = number

    def launch(self, device: int, number: int, memory: int, size: int, buffers: Mapping[str, Any]) -> int:
        table = Device.from_address(device)
        rows = [*((a.ctypes.data, a.nbytes, int(name == "out")) for name, a in buffers.items()), (memory, size, 1)]
        operands = (_Operand * len(rows))(*(_Operand(host, 0, count, 0, writes) for host, count, writes in rows))
        what = _Launch(b"k", number, len(rows), 1, 1)
        return int(_Function(table.launch or 0)(table.ctx, ctypes.pointer(what), operands))


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    unit, node = npu(), parse(MODEL).nodes[1]
    places = (vela.Place(64, 16),), (vela.Place(128, 16),)
    figures = vela.Figures(1, 1e9, 0, 0, 0, 0, 0)
    commands = vela.Commands(b"COP1" + bytes(range(60)), bytes(range(100)), 256, 0, *places, figures)
    body = replace(commands, fast=512)
    made = Fake(tmp_path, region.code([region.Region("npu", unit, node, b"", c) for c in (commands, body)]), 2)
    made.set(**{"from": 64, "to": 128, "bytes": 16, "fail": 0, "absent": 0})
    return made


def aligned(size: int) -> tuple[Any, int]:
    block = np.zeros(size + 64, np.uint8)
    return block, int(block.ctypes.data) + -int(block.ctypes.data) % 64


def test_the_driver_hands_a_command_stream_to_arms(fake: Fake) -> None:
    device = fake.create()
    assert device, fake.message.value
    _, memory = aligned(256)
    x, y = np.arange(16, dtype=np.uint8), np.zeros(16, np.uint8)
    assert fake.launch(device, 0, memory, 256, {"in": x, "out": y}) == 0
    assert np.array_equal(y, x + 1)
    addresses = list((ctypes.c_uint64 * 8).in_dll(fake.library, "addresses"))
    sizes = list((ctypes.c_size_t * 8).in_dll(fake.library, "sizes"))
    assert ctypes.c_int.in_dll(fake.library, "count").value == 3
    assert addresses[1] == addresses[2] == memory
    assert sizes[:3] == [100, 256, 256]
    assert addresses[0] % 64 == 0
    assert ctypes.string_at(addresses[0], 100) == bytes(range(100))
    assert bytes((ctypes.c_ubyte * 64).in_dll(fake.library, "stream")) == b"COP1" + bytes(range(60))
    assert ctypes.c_int.in_dll(fake.library, "npu").value == 0  # given back


def test_the_driver_says_what_is_wrong(fake: Fake) -> None:
    device = fake.create()
    assert device
    _, memory = aligned(256)
    x, y = np.arange(16, dtype=np.uint8), np.zeros(16, np.uint8)
    assert fake.launch(device, 2, memory, 256, {"in": x, "out": y}) != 0
    assert fake.error(device) == "the code of the unit has no such command stream"
    assert fake.launch(device, 0, memory + 8, 256, {"in": x, "out": y}) != 0
    assert "multiple of 16 bytes" in fake.error(device)
    assert fake.launch(device, 0, memory, 255, {"in": x, "out": y}) != 0
    assert fake.launch(device, 0, memory, 256, {"in": x}) != 0
    assert fake.error(device) == "a command stream got another number of operands"
    assert fake.launch(device, 0, memory, 256, {"in": x[:8], "out": y}) != 0
    assert fake.launch(device, 1, memory, 256, {"in": x, "out": y}) != 0
    assert fake.error(device) == "a command stream needs fast memory: call edgec_ethosu_fast_memory"
    _, fast = aligned(512)
    fake.library.edgec_ethosu_fast_memory(ctypes.c_void_p(device), ctypes.c_void_p(fast), ctypes.c_size_t(512))
    assert fake.launch(device, 1, memory, 256, {"in": x, "out": y}) == 0
    assert list((ctypes.c_uint64 * 8).in_dll(fake.library, "addresses"))[2] == fast
    fake.set(fail=1)
    assert fake.launch(device, 0, memory, 256, {"in": x, "out": y}) != 0
    assert fake.error(device) == "ethosu_invoke_v3 reported an error"
    fake.set(fail=0, absent=1)
    assert fake.launch(device, 0, memory, 256, {"in": x, "out": y}) != 0
    assert "was ethosu_init called?" in fake.error(device)
    fake.library.edgec_ethosu_destroy(ctypes.c_void_p(device))


def test_the_driver_looks_at_the_code_first(fake: Fake) -> None:
    for unit, size, why in ((fake.unit(2), None, b"different versions of edgec"), (None, 8, b"not that of an Ethos-U")):
        assert fake.create(unit, size) is None
        assert why in fake.message.value
    fake.kernels = 3
    assert fake.create() is None
    assert b"another number of command streams" in fake.message.value
    fake.kernels = 2
    made = [fake.create() for _ in range(3)]
    assert all(made[:2])
    assert made[2] is None
    assert b"EDGEC_ETHOSU_DEVICES" in fake.message.value
    fake.library.edgec_ethosu_destroy(ctypes.c_void_p(made[0]))
    assert fake.create()


@needs_vela
def test_verify_compares_with_the_rounding_of_the_npu(bundle: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(bundle), "--model", str(model)]) == 6
    assert cli.main(["verify", str(bundle), "--model", str(model), "--simulate-npu", "--per-kernel"]) == 0
    said = capsys.readouterr()
    assert "the reference is edgec's evaluator in numpy, with the rounding of the NPU" in said.out
    assert "which rounds otherwise, differs in" in said.err


@needs_vela
def test_the_report_shows_what_vela_expects(bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert cli.main(["report", str(bundle), "-o", str(page)]) == 0
    text = page.read_text()
    assert "NPU npu" in text
    assert "They were not executed where this bundle was made" in text
    assert "cycles at 1000 MHz" in text
