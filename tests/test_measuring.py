"""`edgec build --measure`: what is tried, what is believed, what is remembered, and that nothing depends on it otherwise."""

import json
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec
from edgec import cli
from edgec.bundle import Bundle
from edgec.errors import DeviceError, UsageError
from edgec.kernels import plan_winograd
from edgec.kernels.base import KernelPlan
from edgec.measuring import database, refine, trial
from edgec.measuring.database import Database, Finding
from edgec.target import find
from tests.bundles import ROOT, contents
from tests.nodes import run

FOREIGN = "cortex-a72" if platform.machine() == "x86_64" else "x86-64-v3"
X = np.random.default_rng(1).standard_normal((1, 16, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of kernels for all tests, so that each is compiled once."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def cache(kernels: Path, tmp_path: Path) -> Path:
    """A cache that knows kernels and has measured nothing."""
    place = tmp_path / "cache"
    place.mkdir()
    (place / "kernels").symlink_to(kernels)
    return place


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 3x3 convolution, of which there are Winograd's forms, between two of 1x1."""
    random = np.random.default_rng(0)
    weights = {"u": random.standard_normal((16, 16, 1, 1)), "v": random.standard_normal((32, 16, 3, 3)),
               "w": random.standard_normal((48, 32, 1, 1))}
    nodes = [helper.make_node("Conv", ["x", "u"], ["a"], "before"),
             helper.make_node("Conv", ["a", "v"], ["b"], "middle", pads=[1, 1, 1, 1]),
             helper.make_node("Relu", ["b"], ["c"], "act"), helper.make_node("Conv", ["c", "w"], ["y"], "after")]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 16, 12, 12))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 48, 12, 12))],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()])
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path


def build(model: Path, output: Path, cache: Path, measure: float | None = None, **options: Any) -> tuple[Bundle, list[str]]:
    """The bundle, and the notes."""
    notes: list[str] = []
    return edgec.build(model, "host", output, measure=measure, cache=cache, notes=notes, **options), notes


def code(made: Bundle) -> dict[str, bytes]:
    """What a bundle runs: all files but the manifest."""
    return {name: data for name, data in contents(made.path).items() if name != "manifest.json"}


def tiles(made: Bundle) -> list[str]:
    """The algorithms of all convolutions."""
    return sorted(k["algo"] for k in made.manifest["kernels"].values() if k["kind"] == "conv")


def rows(cache: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(cache / refine.FILE)
    found = connection.execute("SELECT * FROM findings").fetchall()
    connection.close()
    return found


def forge(cache: Path, made: Callable[[str], str]) -> None:
    """Let every finding name another fastest kernel, made from its default."""
    connection = sqlite3.connect(cache / refine.FILE)
    with connection:
        for kernel, default in connection.execute("SELECT kernel, default_choice FROM findings").fetchall():
            connection.execute("UPDATE findings SET chosen = ?, ratio = 0.5, high = 0.6 WHERE kernel = ?", (made(default), kernel))
    connection.close()


def pretend(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[str], float]) -> list[str]:
    """Kernels take the time that is said of their choice, and are not compiled; lists those that were tried."""
    tried: list[str] = []

    def timers(_: trial.Bench, plans: Mapping[str, KernelPlan], __: object) -> dict[str, Callable[[int], float]]:
        tried.extend(plans)
        return {name: lambda _runs, name=name: seconds(name) for name in plans}  # type: ignore[misc]

    monkeypatch.setattr(trial.Bench, "timers", timers)
    monkeypatch.setattr(refine, "compile_kernels", lambda *_args, **_kw: {})
    return tried


def test_another_machines_kernels_are_not_measured(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError, match=f"kernels for {FOREIGN} cannot be measured on this machine: they need a machine for"):
        edgec.build(model, FOREIGN, tmp_path / "no.edgec", measure=1)
    assert cli.main(["build", str(model), "-t", FOREIGN, "--measure", "0", "-o", str(tmp_path / "no.edgec")]) == 6
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_feature_that_the_processor_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "lacks", lambda _: ["avx_of_tomorrow"])
    with pytest.raises(DeviceError, match="they need avx_of_tomorrow, which this processor lacks"):
        refine.check(find("host"), 1)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_what_is_no_time_is_refused(model: Path, tmp_path: Path, seconds: float) -> None:
    with pytest.raises(UsageError, match="no number of seconds"):
        edgec.build(model, "host", tmp_path / "no.edgec", measure=seconds)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [["--emit", "c"], ["--emit", "asm"], ["--stop-after", "fold"]])
def test_only_bundles_are_measured(model: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", str(model), "--measure", "1", *more]) == 2
    assert "--measure chooses between kernels of a bundle" in capsys.readouterr().err


def test_without_time_and_knowledge_everything_is_as_without_measuring(model: Path, cache: Path, tmp_path: Path) -> None:
    plain, _ = build(model, tmp_path / "plain.edgec", cache)
    assert not (cache / refine.FILE).exists()
    made, notes = build(model, tmp_path / "made.edgec", cache, 0)
    assert code(made) == code(plain)
    assert "measured" not in plain.manifest
    assert made.manifest["measured"]["kernels"] == []
    assert made.manifest["measured"]["unknown"] == 3
    assert "0 of 3 kernels that leave a choice were known, 0 were tried, 3 wait for more time" in notes[-1]
    assert "measured   0 of 3 kernels that leave a choice: none is better otherwise" in made.summary()


def test_the_fastest_is_taken_remembered_and_known_the_next_time(
        model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = build(model, tmp_path / "plain.edgec", cache)
    form = "winograd4" if any(k["algo"].startswith("winograd2") for k in plain.manifest["kernels"].values()) else "winograd2"
    tried = pretend(monkeypatch, lambda name: 2e-5 if name.startswith(form) else 1e-4)
    made, notes = build(model, tmp_path / "made.edgec", cache, 1e9)
    assert tried
    assert "0 of 3 kernels that leave a choice were known, 3 were tried" in notes[-1]
    facts = {k["origins"][0].partition("+")[0]: k for k in made.manifest["measured"]["kernels"]}
    first, second = facts["middle"], facts["after"]
    assert set(facts) == {"before", "middle", "after"}
    assert first["chosen"].startswith(form)
    assert first["chosen"] == first["fastest"]
    assert first["ratio"] == first["ratio_high"] == pytest.approx(0.2)
    assert first["measured_us"] == {"default": pytest.approx(100), "other": pytest.approx(20)}
    assert first["predicted_us"]["chosen"] > 0
    assert second["chosen"] == second["default"]
    assert any(k["algo"].startswith(form) for k in made.manifest["kernels"].values())
    assert "1 changed, so that all of them take 0.733 of the time" in made.summary()
    tried.clear()
    again, notes = build(model, tmp_path / "again.edgec", cache, 0)
    once_more, _ = build(model, tmp_path / "more.edgec", cache, 1e9)
    assert not tried
    assert "3 of 3 kernels that leave a choice were known, 0 were tried" in notes[-1]
    assert code(again) == code(once_more) == code(made) != code(plain)
    assert [m.manifest["measured"] for m in (again, once_more)] == [made.manifest["measured"]] * 2
    assert not any(k["algo"].startswith(form) for k in plain.manifest["kernels"].values())


@pytest.mark.parametrize(("form", "share", "taken"), [
    ("direct", 0.99, False), ("direct", 0.97, True), ("winograd2", 0.95, False), ("winograd2", 0.85, True)])
def test_a_gain_must_be_larger_than_noise_and_that_of_a_short_cut_than_its_rounding(
        model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, share: float, *, taken: bool) -> None:
    monkeypatch.setattr(plan_winograd, "_GAIN", 0.0)                           # the cost model takes no short cut
    plain, _ = build(model, tmp_path / "plain.edgec", cache)
    defaults = {f"direct {k['algo'].partition('_')[2]}" for k in plain.manifest["kernels"].values() if k["kind"] == "conv"}
    assert all(d.startswith("direct") for d in defaults)

    def seconds(name: str) -> float:
        return 1e-4 * (share if name.startswith(form) and name not in defaults else 1.0)

    pretend(monkeypatch, seconds)
    made, _ = build(model, tmp_path / "made.edgec", cache, 1e9)
    changed = [k for k in made.manifest["measured"]["kernels"] if k["chosen"] != k["default"]]
    assert bool(changed) == taken
    assert all(k["chosen"].startswith(form) for k in changed)
    assert (code(made) == code(plain)) != taken


def test_a_gain_that_is_not_sure_is_none(model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = build(model, tmp_path / "plain.edgec", cache, exact=True)
    defaults = {f"direct {k['algo'].partition('_')[2]}" for k in plain.manifest["kernels"].values() if k["kind"] == "conv"}
    drawn = np.random.default_rng(0)
    pretend(monkeypatch, lambda name: 1e-4 if name in defaults else float(drawn.choice([0.5e-4, 1.4e-4])))
    made, _ = build(model, tmp_path / "made.edgec", cache, 1e9, exact=True)
    assert all(k["chosen"] == k["default"] for k in made.manifest["measured"]["kernels"])
    assert code(made) == code(plain)


def test_the_budget_is_kept_and_what_takes_most_comes_first(
        model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def seconds(_: str) -> float:
        now[0] += 0.05
        return 1e-4

    tried = pretend(monkeypatch, seconds)
    _, notes = build(model, tmp_path / "none.edgec", cache, 0.5)                # less than the turns of one kernel take
    assert now[0] == pytest.approx(0.55)                                       # one turn is not interrupted
    assert "0 were tried, 3 wait for more time" in notes[-1]
    assert not rows(cache)
    slowest = tried[0]
    tried.clear()
    made, notes = build(model, tmp_path / "one.edgec", cache, 8)
    measured = made.manifest["measured"]
    assert len(measured["kernels"]) + measured["unknown"] == 3
    assert slowest == tried[0]
    assert slowest in {k["default"] for k in measured["kernels"]}
    assert len(rows(cache)) == len(measured["kernels"]) >= 1
    plain, _ = build(model, tmp_path / "plain.edgec", cache)
    cycles = {k["algo"]: k["cycles"] for k in plain.manifest["kernels"].values()}
    assert max(cycles, key=lambda a: cycles[a]).endswith(slowest.partition(" ")[2])


def test_a_build_that_is_cancelled_while_it_measures_leaves_nothing(
        model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, lambda _: 1e-4)
    with pytest.raises(edgec.Cancelled):
        build(model, tmp_path / "made.edgec", cache, 1e9, cancelled=lambda: bool(tried))
    assert not (tmp_path / "made.edgec").exists()
    assert len(rows(cache)) == 1                                               # what was measured until then


def test_a_row_of_the_database_steers_the_tile_and_the_bits_stay(model: Path, cache: Path, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = build(model, tmp_path / "plain.edgec", cache, exact=True)
    pretend(monkeypatch, lambda _: 1e-4)
    build(model, tmp_path / "seen.edgec", cache, 1e9, exact=True)
    forge(cache, lambda default: f"direct 3x{min(2, int(default[-1]))}")
    made, notes = build(model, tmp_path / "made.edgec", cache, 0, exact=True)
    wanted = sorted(f"conv_3x{min(2, int(algo[-1]))}" for algo in tiles(plain))
    assert tiles(made) == wanted != tiles(plain)
    assert "3 changed" in made.summary()
    assert not any("is none for it" in n for n in notes)
    np.testing.assert_array_equal(made.load().run(X)["y"], plain.load().run(X)["y"])
    without, _ = build(model, tmp_path / "without.edgec", cache, exact=True)
    assert contents(without.path) == contents(plain.path)                      # nobody asked for what is known


@pytest.mark.parametrize("nonsense", ["direct 31x31", "winograd4 3x2", "banana", "direct 3x2; DROP TABLE findings", ""])
def test_a_row_that_names_no_kernel_changes_nothing(
        model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonsense: str) -> None:
    plain, _ = build(model, tmp_path / "plain.edgec", cache, exact=True)
    pretend(monkeypatch, lambda _: 1e-4)
    build(model, tmp_path / "seen.edgec", cache, 1e9, exact=True)
    forge(cache, lambda _: nonsense)
    made, notes = build(model, tmp_path / "made.edgec", cache, 0, exact=True)
    assert code(made) == code(plain)
    assert sum("is none for it: the default stays" in n for n in notes) == 3


def test_rows_with_other_types_are_not_read(cache: Path) -> None:
    known = Database(cache / "x.sqlite", lambda _: None)
    known.put("k", "u", Finding("direct 1x1", "direct 2x2", 2.0, 1.0, 0.5, 0.6, 3))
    assert known.get("k", "u", "direct 1x1") == Finding("direct 1x1", "direct 2x2", 2.0, 1.0, 0.5, 0.6, 3)
    assert known.get("k", "u", "direct 1x2") is None                           # another default was measured
    assert known.get("k", "other", "direct 1x1") is None
    connection = sqlite3.connect(cache / "x.sqlite")
    with connection:
        connection.execute("UPDATE findings SET ratio = 'fast'")
    connection.close()
    assert known.get("k", "u", "direct 1x1") is None


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"", "truncated"])
def test_a_damaged_database_is_made_anew(
        model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | str) -> None:
    pretend(monkeypatch, lambda _: 1e-4)
    build(model, tmp_path / "seen.edgec", cache, 1e9)
    path = cache / refine.FILE
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:5000])
    _, notes = build(model, tmp_path / "made.edgec", cache, 1e9)
    assert "0 of 3 kernels that leave a choice were known, 3 were tried" in notes[-1]
    assert any("is damaged" in n and "is made anew" in n for n in notes) == (content != b"")
    _, notes = build(model, tmp_path / "again.edgec", cache, 0)
    assert "3 of 3 kernels that leave a choice were known" in notes[-1]
    assert not any("damaged" in n for n in notes)


def test_a_database_of_a_newer_edgec_is_left_alone(
        model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda _: 1e-4)
    connection = sqlite3.connect(cache / refine.FILE)
    with connection:
        connection.execute(f"PRAGMA user_version = {database.SCHEMA + 1}")
        connection.execute("CREATE TABLE better (x)")
    connection.close()
    before = (cache / refine.FILE).read_bytes()
    made, notes = build(model, tmp_path / "made.edgec", cache, 1e9)
    assert sum("was made by a newer edgec: what it knows is not used, and nothing new is remembered" in n for n in notes) == 1
    assert len(made.manifest["measured"]["kernels"]) == 3
    assert (cache / refine.FILE).read_bytes() == before


def test_a_locked_database_is_told_and_the_build_goes_on(
        model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda _: 1e-4)
    monkeypatch.setattr(database, "_WAIT", 0.05)
    build(model, tmp_path / "seen.edgec", cache, 1e9)
    held = sqlite3.connect(cache / refine.FILE)
    held.execute("BEGIN EXCLUSIVE")
    made, notes = build(model, tmp_path / "made.edgec", cache, 1e9)
    held.close()
    assert sum("cannot be read (database is locked): what it knows is not used, and nothing new is remembered" in n for n in notes) == 1
    assert len(made.manifest["measured"]["kernels"]) == 3
    _, notes = build(model, tmp_path / "again.edgec", cache, 0)
    assert "3 of 3 kernels that leave a choice were known" in notes[-1]


def test_a_cache_that_cannot_be_written_is_told(model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda _: 1e-4)
    (cache / refine.FILE).mkdir()
    made, notes = build(model, tmp_path / "made.edgec", cache, 1e9)
    assert any(refine.FILE in n and "nothing new is remembered" in n for n in notes)
    assert len(made.manifest["measured"]["kernels"]) == 3


def test_builds_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    script = """if True:
        import sys
        from pathlib import Path
        from edgec.measuring.database import Database, Finding
        path, me = Path(sys.argv[1]), sys.argv[2]
        if me == "0":
            path.write_bytes(b"no database at all" * 100)
        known = Database(path, print)
        for i in range(40):
            known.put(f"{me}.{i}", "unit", Finding("direct 1x1", "direct 2x2", 2.0, 1.0, 0.5, 0.6, int(me)))
        assert all(known.get(f"{me}.{i}", "unit", "direct 1x1").tried == int(me) for i in range(40))"""
    place = tmp_path / "known.sqlite"
    place.write_bytes(b"neither one" * 200)
    running = [subprocess.Popen([sys.executable, "-c", script, place, str(i)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
               for i in range(1, 5)]
    told = [p.communicate()[0] for p in running]
    assert [p.returncode for p in running] == [0] * 4
    assert sum("is made anew" in t for t in told) == 1
    connection = sqlite3.connect(place)
    assert connection.execute("SELECT count(*) FROM findings").fetchone() == (160,)
    connection.close()


def test_the_command_measures_for_real(model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EDGEC_CACHE", str(cache))
    command = ["build", str(model), "-o", str(tmp_path / "made.edgec"), "--measure", "600", "--json"]
    assert cli.main(command) == 0
    told = capsys.readouterr()
    facts = json.loads(told.out)["measured"]
    assert facts["unknown"] == 0
    assert len(facts["kernels"]) == len(rows(cache)) == 3
    for kernel in facts["kernels"]:
        assert kernel["measured_us"]["default"] > 0
        assert kernel["tried"] > 0
        assert kernel["chosen"] == kernel["default"] or kernel["ratio"] <= 0.98
    assert cli.main([*command[:-1], "--quiet"]) == 0                           # known now: nothing is measured
    result = Bundle(tmp_path / "made.edgec").load().run(X)["y"]
    reference = run(model, {"x": X})[0]
    assert np.abs(result - reference).max() <= 1e-3 * np.abs(reference).max()
