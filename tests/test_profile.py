"""`edgec profile`: rooflines by hand, and a table that adds up. Nothing here asks how fast anything is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.cli import main
from edgec.isa import cpu_isa
from edgec.profile import at_clock, floor
from edgec.target import find
from tests import tiny

ISA = replace(cpu_isa(find("zen4")), clock_hz=1e9, lanes=16, fma_ports=1, l1_bytes=1 << 10, l2_bytes=1 << 20, l2_bytes_per_cycle=32.0,
              l3_bytes=1 << 24, l3_bytes_per_cycle=16.0, dram_bytes_per_cycle=8.0)
CONV = {"kind": "contract", "algo": "conv_4x2", "macs": 16_000, "bytes": 3200}


def test_arithmetic_binds() -> None:
    found = floor(ISA, CONV, weights=0, arena=1 << 12, everything=1 << 12)
    assert [found.compute_us, found.memory_us] == pytest.approx([1, 0.1])
    assert (found.bound, found.us) == ("compute", found.compute_us)
    assert floor(ISA, CONV, 0, 1 << 12, 1 << 12, threads=2).compute_us == pytest.approx(0.5)


def test_weights_come_from_where_all_weights_are() -> None:
    kernel = {**CONV, "bytes": 80_000}
    found = floor(ISA, kernel, weights=64_000, arena=1 << 14, everything=1 << 25)
    assert found.memory_us == pytest.approx(64_000 / 8e3 + 16_000 / 32e3)
    assert found.bound == "dram"
    near = floor(ISA, kernel, weights=64_000, arena=1 << 14, everything=1 << 22)
    assert near.memory_us == pytest.approx(64_000 / 16e3 + 16_000 / 32e3)
    assert near.bound == "l3"
    assert floor(ISA, kernel, 64_000, 1 << 14, 1 << 22, threads=2).memory_us == pytest.approx(64_000 / 16e3 + 16_000 / 64e3)


@pytest.mark.parametrize(("algo", "share"), [("winograd2_7x2", 4 / 9), ("winograd4_6x4", 1 / 4), ("conv_6x4", 1)])
def test_winograd_needs_fewer_multiplications(algo: str, share: float) -> None:
    assert floor(ISA, {**CONV, "algo": algo}, 0, 1, 1).compute_us == pytest.approx(share)


def test_memory_does_not_follow_the_clock() -> None:
    slow = at_clock(ISA, 0.5e9)
    plain, halved = (floor(isa, {**CONV, "bytes": 80_000}, 80_000, 1, 1 << 25) for isa in (ISA, slow))
    assert halved.compute_us == pytest.approx(2 * plain.compute_us)
    assert halved.memory_us == pytest.approx(plain.memory_us)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = tiny.save(tiny.model(), tmp_path_factory.mktemp("profile") / "tiny.onnx")
    return edgec.build(model, target="host", output=model.with_suffix(".edgec"))


def test_the_table_adds_up(bundle: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(bundle.path), "--iters", "9", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    kernels = facts["kernels"]
    assert facts["runs"] == 9
    assert sorted(k["step"] for k in kernels) == list(range(len(bundle.manifest["steps"])))
    assert [k["us"] for k in kernels] == sorted((k["us"] for k in kernels), reverse=True)
    assert sum(k["macs"] for k in kernels) == bundle.manifest["report"]["macs"]
    assert facts["floor_us"] == pytest.approx(sum(k["floor_us"] for k in kernels))
    for k in kernels:
        assert k["gflops"] is None or k["gflops"] * k["us"] == pytest.approx(2e-3 * k["macs"])
        assert k["floor_us"] == max(k["floor"]["compute_us"], k["floor"]["memory_us"])
        assert k["bound"] == "compute" if k["floor"]["compute_us"] >= k["floor"]["memory_us"] else k["bound"] in ("l1", "l2", "l3", "dram")


def test_orders_and_a_table_to_read(bundle: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for order in ("step", "lost"):
        assert main(["profile", str(bundle.path), "--iters", "3", "--sort", order, "--json"]) == 0
        kernels = json.loads(capsys.readouterr().out)["kernels"]
        keys = [k["step"] if order == "step" else k["floor_us"] - k["us"] for k in kernels]
        assert keys == sorted(keys)
    assert main(["profile", str(bundle.path), "--iters", "3", "--top", "1", "--cpu-time"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "GFLOP/s" in lines[3]


def test_what_cannot_be_profiled(bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(bundle.path.with_suffix(".onnx"))]) == 3
    assert "edgec build" in capsys.readouterr().err
    assert main(["profile", str(tmp_path / "none")]) == 3
    assert main(["profile", str(bundle.path), "--duration", "0"]) == 2
    assert main(["profile", str(bundle.path), "--cpu-time", "--threads", "2"]) == 2
