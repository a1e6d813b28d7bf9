"""Bundles on another machine by ssh: the results are those of this one, mistakes are told in a sentence, and nothing is left there."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgec.build import build
from edgec.bundle import Bundle
from edgec.cli import main
from edgec.errors import DeviceError, ToolMissing, UsageError
from edgec.session import load
from tests import tiny
from tests.ssh import Server, needs_sshd, server
from tests.toybundle import A72, HOST, SHAPE, expected, isa, make, needs_qemu, overrun, tensor

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture(autouse=True)
def ssh(machine: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does, nothing is left."""
    monkeypatch.setenv("EDGEC_SSH", machine.command)
    yield
    assert machine.is_tidy()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("net")
    return build(tiny.save(tiny.model(), folder / "net.onnx"), "host", folder / "net.edgec")


@pytest.mark.parametrize("host", ["board", "noisy"])
def test_results_are_those_of_this_machine(toy: Path, machine: Server, host: str) -> None:
    here = load(toy)
    session = load(toy, on=host, poison=True, threads=2)
    assert (session.remote, session.emulator) == (host, "")
    assert [p.name[:6] for p in machine.work.iterdir()] == ["edgec."]
    for seed in range(3):
        assert np.array_equal(session.run(tensor(seed))["y:0"], here.run(tensor(seed))["y:0"])
    with pytest.raises(DeviceError, match="refused to run: a value in the data points outside"):
        session.run(np.full(SHAPE, 1e9, np.float32))
    times = session.times(tensor(0), 5)
    assert len(times) == 5
    assert all(0 < t < 10 for t in times)
    with pytest.raises(DeviceError, match="refused to run: a value in the data points outside"):
        session.times(np.full(SHAPE, 1e9, np.float32), 3)
    np.testing.assert_allclose(session.run(tensor(7))["y:0"], expected(tensor(7)), rtol=1e-6, atol=1e-6)


def test_nothing_is_left_when_the_connection_breaks(toy: Path, machine: Server) -> None:
    session = load(toy, on="board")
    process = session._device._process              # type: ignore[attr-defined]
    process.kill()
    with pytest.raises(DeviceError, match="board"):
        session.run(tensor(0))
    assert machine.is_tidy()


def test_commands(net: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 3, 12, 12), np.float32))
    x, path = str(tmp_path / "x.npy"), str(net.path)
    assert main(["run", path, x, "--on", "board", "-o", str(tmp_path / "there.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["on"] == "board"
    assert main(["run", path, x, "-o", str(tmp_path / "here.npz")]) == 0
    with np.load(tmp_path / "there.npz") as there, np.load(tmp_path / "here.npz") as here:
        assert np.array_equal(there["y"], here["y"])
    capsys.readouterr()
    assert main(["verify", path, "--model", str(net.path.parent / "net.onnx"), "--on", "board", "--per-kernel"]) == 0
    assert "on 3 inputs on board; the reference is" in capsys.readouterr().out
    assert main(["bench", path, "--on", "board", "--iters", "25", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["on"], facts["runs"], facts["emulator"]) == ("board", 25, None)
    assert 0 < facts["min_ms"] <= facts["ms"] <= facts["p99_ms"]
    assert main(["bench", path, "--on", "board", "--duration", "0.1"]) == 0
    assert "net for " in (said := capsys.readouterr().out)
    assert " on board, 1 thread, milliseconds" in said


@needs_qemu
def test_a_machine_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=f"is for aarch64, and board is {HOST.arch}"):
        load(make(tmp_path, cpu=A72), on="board")


def test_a_processor_without_a_feature(tmp_path: Path) -> None:
    cpu = isa("x86_64-linux-gnu", "bdver4") if HOST.arch == "x86_64" else replace(HOST, mattr=("+sme",))
    with pytest.raises(DeviceError, match=r"toy\.edgec needs (sse4a|xop|fma4|sme), which the processor of board lacks"):
        load(make(tmp_path, cpu=cpu), on="board")


def test_a_program_that_writes_where_it_must_not(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="wrote outside its arena"):
        load(overrun(tmp_path), on="board", poison=True).run(tensor(1))


@pytest.mark.parametrize(("host", "message"), [
    ("full", r"full has no room for runner \(\d+ bytes\)"), ("silent", "silent has not answered in 1 seconds"),
    ("stranger", "stranger cannot be reached: .*ermission denied.*ssh-copy-id"),
    ("ssh://127.0.0.1:1", "127.0.0.1:1 cannot be reached: .*refused")])
def test_machines_that_cannot_run_it(toy: Path, host: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        load(toy, on=host, timeout=1.0 if host == "silent" else 60.0)


def test_the_command_line_says_it_in_a_sentence(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(toy), "--on", "stranger"]) == 6
    said = capsys.readouterr().err
    assert said.startswith("edgec: stranger cannot be reached: ")
    assert "Traceback" not in said
    assert main(["run", str(toy), "--on=-oProxyCommand=touch x"]) == 2
    assert "write user@host" in capsys.readouterr().err
    assert main(["bench", str(toy), "--on", "board", "--from-c"]) == 2
    assert "leave out --vs, --from-c and --plot" in capsys.readouterr().err


def test_without_ssh(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_SSH", "no-such-ssh")
    with pytest.raises(ToolMissing, match="apt-get install openssh-client"):
        load(toy, on="board")
    with pytest.raises(UsageError, match="write user@host"):
        load(toy, on="-F/tmp/x")
