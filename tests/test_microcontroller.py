"""Microcontrollers: bundles without a library, what fits into flash and RAM, and right results under qemu's system emulation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgec import cli
from edgec.build import build, compile_graph, read
from edgec.bundle import Bundle
from edgec.codegen import elf, toolchain
from edgec.codegen import object as kernels
from edgec.cost import choose_tile, fits, tile_cycles
from edgec.emulator import board
from edgec.errors import DeviceError, DoesNotFit, SourceError, ToolMissing, UsageError
from edgec.ir.evaluate import evaluate
from edgec.isa import cpu_isa
from edgec.kernels.dot import DotPlan
from edgec.session import load
from edgec.target import find, from_text
from tests.bundles import bundle, feeds, source

CORES = ("cortex-m3", "cortex-m4", "cortex-m4-nofpu", "cortex-m7", "cortex-m33")
needs_gcc = pytest.mark.skipif(not shutil.which("arm-none-eabi-gcc"), reason="arm-none-eabi-gcc is not installed")
needs_board = pytest.mark.skipif(not shutil.which("qemu-system-arm") or not shutil.which("arm-none-eabi-gcc"),
                                 reason="qemu-system-arm and arm-none-eabi-gcc are not both installed")


def right(made: Bundle, name: str, seed: int = 1, tolerance: float = 1e-5) -> None:
    """Compare one run in poisoned memory with the evaluator."""
    given = feeds(made, seed)
    got = made.load(poison=True).run(given)
    for key, wanted in evaluate(read(source(name), static=True), given).items():
        np.testing.assert_allclose(got[key], wanted, rtol=tolerance, atol=tolerance * float(np.abs(wanted).max()), err_msg=key)


# ---- what is known of them

@pytest.mark.parametrize("name", CORES)
def test_register_tiles_of_scalars_fit(name: str) -> None:
    isa = cpu_isa(find(name))
    assert isa.lanes == 1
    assert isa.registers == (32 if isa.fact("fpu") else isa.fact("core_registers"))
    for channels, columns, steps in ((64, 25, 40), (16, 28, 9), (3, 7, 300), (1, 1, 4)):
        tile = choose_tile(isa, (1,) * channels, columns, steps)
        assert fits(isa, tile.tw, tile.nb)
        assert tile.tw * tile.nb >= min(4, channels * columns)     # a scalar that is loaded is used more than once


def test_one_instruction_at_a_time_adds_up() -> None:
    m4 = cpu_isa(find("cortex-m4"))
    step = tile_cycles(m4, 4, 4, 1000) / 1000
    assert 4 * 4 * 3 + 8 <= step <= 1.1 * (4 * 4 * 3 + 8)         # 16 VFMA of three cycles, 8 loads
    m7 = cpu_isa(find("cortex-m7"))
    assert 16 <= tile_cycles(m7, 4, 4, 1000) / 1000 <= 1.1 * 16   # two instructions a cycle: the loads are beside


def test_integers_have_registers_of_their_own() -> None:
    assert [cpu_isa(find(name)).integer.registers for name in CORES] == [10] * len(CORES)
    assert cpu_isa(find("cortex-a72")).integer.registers == 32
    made = compile_graph(read(source("mlperf_kws_dscnn_qdq_s8"), static=True), "cortex-m4", "kws")
    tiles = [p for p in made.schedule.plans.values() if isinstance(p, DotPlan)]
    assert tiles
    assert all(p.columns * max(map(len, p.widths)) <= 10 for p in tiles)


def test_names_that_a_compiler_may_call() -> None:
    names = ("__aeabi_fmul", "__ltsf2", "__muldi3", "__divdi3", "__floatsisf", "__unordsf2", "memcpy", "expf")
    assert kernels.foreign(names, "thumbv7m-none-eabi") == []
    assert kernels.foreign(names, "x86_64-linux-gnu") == sorted(names[:6])
    assert kernels.foreign(("malloc", "__stack_chk_fail", "TVMBackendAllocWorkspace"), "thumbv7m-none-eabi") == [
        "TVMBackendAllocWorkspace", "__stack_chk_fail", "malloc"]


# ---- bundles

def test_a_bundle_for_no_operating_system() -> None:
    made = bundle("digits_cnn", "cortex-m4")
    assert {p.name for p in made.path.iterdir()} == {
        "manifest.json", "digits_cnn.h", "digits_cnn.o", "digits_cnn.weights.bin", "digits_cnn_weights.S", "main.c", "CMakeLists.txt",
        "NOTICE"}
    file = elf.read((made.path / "digits_cnn.o").read_bytes())
    writable = [s.name for s in file.sections if s.flags & 1 and s.size]
    assert writable == []                                          # nothing but flash and the arena
    memories = made.manifest["memories"]
    assert memories["flash"]["parts"] == {"code": file.code_bytes, "weights": made.manifest["sizes"]["weights_bytes"] + 64}
    assert memories["sram"]["parts"] == {"arena": made.manifest["sizes"]["arena_bytes"], "state": 0, "prepared": 0,
                                         "inputs": 28 * 28 * 4, "outputs": 40}
    assert f"sram       {memories['sram']['bytes']} of 655360 bytes" in made.summary()


@needs_gcc
def test_its_example_is_a_whole_program(tmp_path: Path) -> None:
    made = bundle("digits_cnn", "cortex-m4")
    for path in made.path.iterdir():
        shutil.copy(path, tmp_path)
    chain = toolchain.find(cpu_isa(find("cortex-m4")).triple)
    toolchain.run([*chain.command, "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2", "--specs=nosys.specs", "main.c",
                   "digits_cnn.o", "digits_cnn_weights.S", "-o", "app", "-lm"], "linking the example", tmp_path)
    assert (tmp_path / "app").stat().st_size > made.manifest["sizes"]["weights_bytes"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    small = tmp_path / "small.target"
    small.write_text("target small : cortex-m4 { memory sram { size = 32 KiB } memory flash { size = 256 KiB } }")
    with pytest.raises(DoesNotFit, match=r"does not fit on small: \d+ bytes too much for flash \(353152 of 262144 bytes: weights 353152\), "
                                         r"33128 bytes too much for sram \(65896 of 32768 bytes: arena 62720, inputs 3136, outputs 40\)"):
        build(source("digits_cnn"), small, tmp_path / "no.edgec")
    assert not (tmp_path / "no.edgec").exists()
    # weights alone would fit, with the code they do not
    small.write_text("target small : cortex-m4 { memory flash { size = 353152 B } }")
    assert cli.main(["-q", "build", str(source("digits_cnn")), "--target", str(small), "-o", str(tmp_path / "no.edgec")]) == 4
    assert not (tmp_path / "no.edgec").exists()


def test_reals_without_instructions_for_them_are_told_of() -> None:
    said = "cortex-m3 has no instructions for reals: 100% of the multiply-accumulates take routines"
    assert any(said in note for note in bundle("digits_cnn", "cortex-m3").manifest["notes"])
    assert not any("reals" in note for note in bundle("digits_cnn", "cortex-m4").manifest["notes"])
    assert not any("reals" in note for note in bundle("mlperf_kws_dscnn_qdq_s8", "cortex-m3").manifest["notes"])


def test_a_memory_holds_what_there_is() -> None:
    with pytest.raises(SourceError, match='holds wants "code" or "weights" or'):
        from_text('target a { memory m { holds = ["heap"] } }')


def test_there_are_no_threads(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cortex-m4 has no operating system and so no threads: 2 are too many"):
        build(source("digits_cnn"), "cortex-m4", tmp_path / "no.edgec", threads=2)
    made = bundle("digits_cnn", "cortex-m4")
    with pytest.raises(UsageError, match="no threads: 2 are too many"):
        load(made.path, threads=2)


def test_without_an_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle("digits_cnn", "cortex-m4")
    silent = json.loads((made.path / "manifest.json").read_text())
    silent["target"]["text"] = "\n".join(line for line in silent["target"]["text"].splitlines() if "emulator" not in line)
    with pytest.raises(DeviceError, match="no operating system to run it under, and its target names no emulator"):
        board(made.path, silent, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match=r"is for cortex-m4, and qemu-system-arm is not here .* apt-get install qemu-system-arm"):
        load(made.path)


# ---- runs

@needs_board
@pytest.mark.parametrize("core", CORES)
def test_digits_run(core: str) -> None:
    right(bundle("digits_cnn", core), "digits_cnn")


@needs_board
def test_keyword_spotting_runs() -> None:
    right(bundle("mlperf_kws_dscnn_fp32", "cortex-m4"), "mlperf_kws_dscnn_fp32")


@needs_board
@pytest.mark.parametrize("name", ["digits_mobilenet", "digits_transformer", "mnist_opset8", "hand_keypoint_mlp"])
def test_others_run(name: str) -> None:
    right(bundle(name, "cortex-m7"), name, tolerance=1e-4)


@needs_board
def test_steps_can_be_looked_at() -> None:
    made = bundle("digits_cnn", "cortex-m4")
    given = feeds(made, 3)
    session = made.load(poison=True)
    whole = session.run(given)["logits"]
    seen = [step.read(len(step.call["operands"]) - 1) for step in session.steps(given)]
    assert len(seen) == len(made.manifest["steps"])
    assert np.frombuffer(seen[-1], np.float32).tolist() == whole.reshape(-1).tolist()
