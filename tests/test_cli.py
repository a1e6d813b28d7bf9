"""The command line: what each command prints, where it prints it, and with which code it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

import edgec
from edgec.cli import COMMANDS, main
from edgec.errors import UsageError
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("numpy", "tvm", "onnx", "lark", "scipy", "onnxruntime")


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the bundle of it, and the same network with other weights."""
    made = tmp_path_factory.mktemp("cli")
    tiny.save(tiny.model(), made / "tiny.onnx")
    tiny.save(tiny.model(seed=5), made / "other.onnx")
    edgec.build(made / "tiny.onnx", output=made / "tiny.edgec")
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path) -> Done:
        code = main([str(w).replace("@", str(folder)) if isinstance(w, str) and w.startswith("@") else str(w) for w in words])
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return call


def command(*words: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    names = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}  # a shell's background job ignores Ctrl-C: its children must not
    return subprocess.Popen([sys.executable, *words], cwd=cwd, env=names, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # noqa: PLW1509


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids="-".join)
def test_help_answers_without_loading_anything_heavy(words: list[str]) -> None:
    loaded = f"{{m.partition('.')[0] for m in sys.modules}} & {set(HEAVY)}"
    code = f"import sys, atexit; atexit.register(lambda: print({loaded}, file=sys.stderr)); from edgec.cli import main; main({words})"
    out, err = command("-c", code).communicate()
    assert err.strip() == "set()"
    assert "edgec" in out


def test_every_command_of_the_top_level_help_is_there_and_none_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {name}" in text for name in COMMANDS)


def test_without_a_command_there_is_help_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    assert "commands:" in said.err


@pytest.mark.parametrize(("words", "meant"), [
    (["buidl", "m.onnx"], "build"), (["build", "m.onnx", "--tagret=x"], "--target"), (["verify", "b", "--modle", "m"], "--model"),
    (["build", "m.onnx", "--emit", "objj"], "obj"), (["--jsno", "targets"], "--json"),
])
def test_a_slip_of_the_pen_is_understood(run: Any, words: list[str], meant: str) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert f"did you mean {meant}?" in done.err
    assert done.err.count("\n") == 1


def test_flags_are_not_abbreviated(run: Any) -> None:
    assert run("build", "m.onnx", "--targ", "host").code == 2


def test_common_flags_stand_before_or_behind_the_command(run: Any) -> None:
    before, behind = run("--json", "targets", "cortex-a72"), run("targets", "cortex-a72", "--json")
    assert before == behind
    assert before.json["name"] == "cortex-a72"


def test_build_tells_sizes_and_what_to_type_next(run: Any, tmp_path: Path) -> None:
    done = run("build", "@/tiny.onnx", "-o", "my model.edgec")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("my model.edgec for host")
    assert done.out.splitlines()[-1] == "next: edgec run 'my model.edgec'"
    assert all(word in done.out for word in ("kernels", "predicted", "weights", "arena", "lower bound", "code"))
    assert {p.name for p in tmp_path.iterdir()} == {"my model.edgec"}


def test_compile_is_build_and_the_bundle_is_named_for_model_and_target(run: Any, tmp_path: Path) -> None:
    done = run("compile", "@/tiny.onnx", "--target", "x86-64-v3", "--json")
    assert done.code == 0
    assert done.json["bundle"] == "tiny.x86-64-v3.edgec"
    assert done.json["next"] == "edgec run tiny.x86-64-v3.edgec"
    assert (tmp_path / "tiny.x86-64-v3.edgec" / "manifest.json").is_file()


def test_progress_as_lines_of_json_on_stderr(run: Any) -> None:
    done = run("build", "@/tiny.onnx", "--progress", "jsonl", "-o", "a.edgec")
    steps = [json.loads(line) for line in done.err.splitlines()]
    assert all(set(s) == {"step", "done", "total"} for s in steps)
    assert steps[0]["step"] == "import"
    assert {"cluster", "layout", "schedule", "kernels", "bundle"} <= {s["step"] for s in steps}


def test_progress_as_a_bar(run: Any) -> None:
    assert "[####" in run("build", "@/tiny.onnx", "--progress", "bar", "-o", "a.edgec").err


def test_time_is_told_step_by_step(run: Any) -> None:
    err = run("build", "@/tiny.onnx", "--time", "-o", "a.edgec").err
    assert [line.split()[0] for line in err.splitlines()][:2] == ["import", "canonicalize"]
    assert all(line.endswith(" ms") for line in err.splitlines())


@pytest.mark.parametrize(("kind", "start"), [("ir", b"edge 1"), ("asm", b"# edgec_k_"), ("obj", b"\x7fELF")])
def test_emit_writes_one_thing_instead_of_a_bundle(run: Any, tmp_path: Path, kind: str, start: bytes) -> None:
    done = run("build", "@/tiny.onnx", "--emit", kind, "--json")
    assert done.code == 0, done.err
    path = tmp_path / done.json["path"]
    assert path.read_bytes().startswith(start)
    assert {p.name for p in tmp_path.iterdir()} - {f"{path.name}.npz"} == {path.name}


def test_emit_onnx_is_a_model(run: Any) -> None:
    assert run("build", "@/tiny.onnx", "--emit", "onnx", "--stop-after", "cse", "-o", "final.onnx").code == 0
    onnx.checker.check_model("final.onnx")


def test_stop_after_prints_the_graph(run: Any) -> None:
    done = run("build", "@/tiny.onnx", "--stop-after", "canonicalize")
    assert done.out.startswith("edge 1\n")
    assert "Fused" not in done.out
    assert run("build", "@/tiny.onnx", "--stop-after", "canonicalize", "--emit", "obj").code == 2


def test_dump_numbers_the_graphs(run: Any, tmp_path: Path) -> None:
    assert run("build", "@/tiny.onnx", "--dump", "graphs", "-o", "a.edgec").code == 0
    names = sorted(p.name for p in (tmp_path / "graphs").glob("*.edge"))
    assert names[:2] == ["00-input.edge", "01-canonicalize.edge"]
    assert any(n[2:] == "-cluster.edge" for n in names)


def test_limit_and_disable_reach_the_passes(run: Any) -> None:
    whole = run("opt", "@/tiny.onnx", "--json").json
    assert whole["rewrites"] > 0
    assert run("opt", "@/tiny.onnx", "--limit", "0", "--json").json["rewrites"] == 0
    less = run("opt", "@/tiny.onnx", "--disable", "canonicalize,fold", "--disable", "cse", "--json").json
    assert less["rewrites"] < whole["rewrites"]


def test_run_draws_its_inputs_and_says_so(run: Any) -> None:
    done = run("run", "@/tiny.edgec")
    assert done.code == 0
    assert "random (seed 0)" in done.err
    assert done.out.splitlines()[1].startswith("y")
    assert run("run", "@/tiny.edgec") == done
    assert run("run", "@/tiny.edgec", "--seed", "1").out != done.out
    assert run("run", "@/tiny.edgec", "-q").err == ""


@pytest.mark.parametrize("words", [["x.npy"], ["x=@x.npy"], ["x=x.npy"], ["all.npz"]])
def test_run_reads_and_writes_arrays(run: Any, folder: Path, words: list[str]) -> None:
    x = np.random.default_rng(3).standard_normal((1, 3, 12, 12)).astype(np.float32)
    np.save("x.npy", x)
    np.savez("all.npz", x=x)
    done = run("run", "@/tiny.edgec", *words, "--out", "y.npz", "--json")
    expected = edgec.load(folder / "tiny.edgec").run(x)["y"]
    assert np.array_equal(np.load("y.npz")["y"], expected)
    assert done.json["outputs"]["y"]["values"] == pytest.approx(expected.reshape(-1).tolist())
    assert (done.json["random"], done.json["emulator"]) == (False, None)
    assert run("run", "@/tiny.edgec", *words, "--out", "outputs").code == 0
    assert np.array_equal(np.load("outputs/y.npy"), expected)


def test_verify_agrees_with_the_own_model(run: Any) -> None:
    done = run("verify", "@/tiny.edgec", "--model", "@/tiny.onnx", "--per-kernel", "--json")
    assert (done.code, done.err) == (0, "")
    facts = done.json
    assert facts["ok"]
    assert facts["first_kernel"] is None
    assert facts["inputs"] == 3
    assert facts["outputs"]["y"]["error"] <= facts["outputs"]["y"]["tolerance"] == 1e-4


def test_verify_names_the_first_kernel_that_differs(run: Any) -> None:
    done = run("verify", "@/tiny.edgec", "--model", "@/other.onnx", "--per-kernel", "--json")
    assert done.code == 4
    assert "another file" in done.err
    facts = done.json
    assert not facts["ok"]
    assert facts["first_kernel"]["step"] == 0
    assert "conv" in facts["first_kernel"]["origin"]
    assert facts["outputs"]["y"]["error"] > 1e-2
    text = run("verify", "@/tiny.edgec", "--model", "@/other.onnx").out
    assert "NOT EQUAL" in text


def test_verify_takes_given_inputs(run: Any) -> None:
    x = np.random.default_rng(3).standard_normal((2, 1, 3, 12, 12)).astype(np.float32)
    np.savez("two.npz", x=x)
    np.savez("one.npz", x=x[0])
    assert run("verify", "@/tiny.edgec", "--model", "@/tiny.onnx", "--inputs", "two.npz", "--json").json["inputs"] == 2
    assert run("verify", "@/tiny.edgec", "--model", "@/tiny.onnx", "--inputs", "one.npz", "--json").json["ok"]
    np.savez("same.npz", x=np.stack([x[0], x[0]]))
    done = run("verify", "@/tiny.edgec", "--model", "@/tiny.onnx", "--inputs", "same.npz", "--json")
    assert done.code == 4
    assert "nothing was checked" in done.err
    assert done.json["outputs"]["y"]["error"] is None


def test_verify_without_onnxruntime_takes_the_evaluator_and_says_so(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.peers.is_installed", lambda _: False)
    done = run("verify", "@/tiny.edgec", "--model", "@/tiny.onnx")
    assert done.code == 0
    assert "evaluator" in done.out


def test_bench_measures_a_bundle(run: Any) -> None:
    facts = run("bench", "@/tiny.edgec", "--iters", "5", "--json").json
    assert {"ms", "p90_ms", "p99_ms", "min_ms"} <= set(facts)
    assert 0 < facts["min_ms"] <= facts["ms"] <= facts["p90_ms"] <= facts["p99_ms"]
    assert facts["peers"] == {}


def test_bench_measures_a_model_against_a_peer(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    before = os.sched_getaffinity(0)
    facts = run("bench", "@/tiny.onnx", "--vs", "onnxruntime", "--iters", "5", "--json").json
    peer = facts["peers"]["onnxruntime"]
    assert peer["interval"][0] <= peer["ratio"] <= peer["interval"][1]
    assert peer["ms"] > 0
    assert peer["error"] < 1e-4
    assert len(facts["cores"]) == facts["threads"] == 1
    assert os.sched_getaffinity(0) == before
    assert not list(tmp_path.iterdir())
    assert "edgec / other" in run("bench", "@/tiny.edgec", "--vs", "onnxruntime", "--model", "@/tiny.onnx", "--iters", "5").out


def test_inspect_a_bundle(run: Any) -> None:
    facts = run("inspect", "@/tiny.edgec", "--json").json
    assert {"arena_bytes", "arena_lower_bound", "weights_bytes", "code_bytes", "macs", "predicted_ms", "weight_sparsity"} <= set(facts)
    assert facts["energy"] is None or set(facts["energy"]) == {"value", "table"}
    for kernel in facts["kernels"]:
        assert {"op", "kind", "origin", "algo", "generic", "predicted_us", "macs", "bytes", "scratch_bytes"} <= set(kernel)
    assert [k["op"] for k in facts["kernels"]] == ["Conv", "MaxPool", "Gemm"]
    assert facts["kernels"][0]["fused"] == ["Relu"]
    assert sum(k["macs"] for k in facts["kernels"]) == facts["macs"] == 8 * 27 * 144 + 288 * 5
    assert sum(k["predicted_us"] for k in facts["kernels"]) == pytest.approx(facts["predicted_ms"] * 1e3)
    text = run("inspect", "@/tiny.edgec").out
    assert "Conv+Relu" in text
    assert "none of them generic" in text


def test_inspect_a_model(run: Any) -> None:
    facts = run("inspect", "@/tiny.onnx", "--json").json
    assert facts["ops"] == {"Conv": 1, "Relu": 1, "MaxPool": 1, "Flatten": 1, "Gemm": 1} | facts["ops"]
    assert facts["parameters"] >= 8 * 27 + 8 + 288 * 5 + 5
    assert (facts["kernels"], facts["generic"], facts["unsupported"]) == (3, [], [])
    assert "3 kernels, none of them generic" in run("inspect", "@/tiny.onnx").out


def test_inspect_tells_which_sizes_are_open(run: Any, tmp_path: Path) -> None:
    wild = tiny.of([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": [1, "H", "W"]}, {"y": [1, "H", "W"]})
    tiny.save(wild, tmp_path / "wild.onnx")
    facts = run("inspect", "wild.onnx", "--json").json
    assert "--dim H=N --dim W=N" in facts["problem"]
    assert facts["kernels"] is None
    assert run("inspect", "wild.onnx", "--dim", "H=4", "--dim", "W=6", "--json").json["kernels"] == 1


@pytest.mark.parametrize("shape", ["1x4x6", "1,4,6", "x=1x4x6", "x=[1,4,6]"])
def test_shapes_are_written_as_one_likes(run: Any, tmp_path: Path, shape: str) -> None:
    wild = tiny.of([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": [1, "H", "W"]}, {"y": [1, "H", "W"]})
    tiny.save(wild, tmp_path / "wild.onnx")
    assert "f32[1,4,6]" in run("opt", "wild.onnx", "--shape", shape).out


def test_a_batch_that_is_not_bound_is_one_and_said_once(run: Any, tmp_path: Path) -> None:
    tiny.save(tiny.model(batch="N"), tmp_path / "n.onnx")
    done = run("build", "n.onnx")
    assert done.code == 0
    assert done.err.count("batch size 1") == 1
    assert edgec.load("n.host.edgec").inputs[0].shape == (1, 3, 12, 12)


def test_opt_prints_and_writes(run: Any) -> None:
    done = run("opt", "@/tiny.onnx", "--passes", "canonicalize,fold")
    assert done.out.startswith("edge 1\n")
    assert run("opt", "@/tiny.onnx", "-o", "o.edge").code == 0
    assert run("opt", "o.edge", "--passes", "cse").code == 0
    assert run("opt", "o.edge", "-o", "o.onnx").code == 0
    onnx.checker.check_model("o.onnx")
    assert run("opt", "@/tiny.onnx", "-o", "o.txt").code == 2
    assert "Fused" in run("opt", "@/tiny.onnx", "--target", "cortex-a72").out


def test_opt_does_what_a_reproducer_asks_for(run: Any, tmp_path: Path) -> None:
    text = run("opt", "@/tiny.onnx", "--passes", "cse", "-o", "plain.edge", "--json")
    assert text.json["rewrites"] == 0
    whole = "; passes: canonicalize\n; disable: fold\n" + (tmp_path / "plain.edge").read_text()
    (tmp_path / "crash.edge").write_text(whole)
    (tmp_path / "plain.edge.npz").rename(tmp_path / "crash.edge.npz")
    assert run("opt", "crash.edge", "--json").json["passes"] == "canonicalize"


def test_a_crash_leaves_a_file_that_shows_it_again(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as broken:
        broken.setattr(sys.modules["edgec.build"], "schedule", crash)
        done = run("build", "@/tiny.onnx", "-o", "a.edgec")
    assert done.code == 1
    assert "Traceback" not in done.err
    (path,) = tmp_path.glob("*.edge")
    assert f"{path} shows it again: edgec build {path} --target host" in done.err
    assert run("build", path, "--target", "host", "-o", "b.edgec").code == 0
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "b.edgec"}


def test_targets_passes_and_rules_are_listed(run: Any) -> None:
    assert "cortex-a72" in run("targets").out
    assert "raspberrypi4" in {t["name"] for t in run("targets", "--json").json}
    assert "fma_per_cycle" in run("targets", "cortex-a72").out or "unit" in run("targets", "cortex-a72").out
    passes = run("passes", "--json").json
    assert [p["name"] for p in passes["passes"][:2]] == ["interface", "canonicalize"]
    assert passes["default"].endswith("layout")
    rules = run("rules", "--json").json
    assert {"name", "doc", "place", "roots"} == set(rules[0])
    assert rules[0]["name"] in run("rules").out


def test_rules_are_proved_and_counted(run: Any) -> None:
    name = run("rules", "--json").json[0]["name"]
    facts = run("rules", name, "--prove", "--json").json
    assert facts["ok"]
    assert facts["rules"][0]["fired"] > 0
    counted = run("rules", "--fires", "@/tiny.onnx", "--json").json
    assert len(counted["nowhere"]) + sum(bool(n) for n in counted["fires"].values()) == len(counted["fires"])
    done = run("rules", name[:-1])
    assert (done.code, f"did you mean {name}?" in done.err) == (2, True)


def test_doctor_finds_what_a_build_needs(run: Any) -> None:
    facts = run("doctor", "--json").json
    found = {f["name"]: f for f in facts["findings"]}
    assert facts["ok"]
    assert found["apache-tvm"]["ok"]
    assert all(f["install"] for f in found.values() if not f["ok"] and f["name"] in ("onnxruntime", "openvino", "ziglang"))


def test_doctor_says_what_to_install(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgec.commands import doctor  # noqa: PLC0415

    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name == "lark" else version(name))
    done = run("doctor")
    assert done.code == 5
    assert "for lark: pip install lark" in done.out
    assert "nothing can be built without lark" in done.out


def test_a_mistake_in_edgec_is_one_sentence(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> int:
        raise KeyError("inner")

    monkeypatch.setattr("edgec.commands.targets.run", crash)
    done = run("targets")
    assert (done.code, done.out) == (1, "")
    assert done.err == "edgec: a mistake in edgec: KeyError: 'inner'; the same command with --debug shows where\n"
    assert "Traceback" in run("targets", "--debug").err


def test_ctrl_c_ends_a_build_at_once_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    cache = {"EDGEC_CACHE": str(tmp_path / "cache")}
    words = ("-m", "edgec", "build", str(folder / "tiny.onnx"), "-o", "out/a.edgec", "--progress", "jsonl")
    process = command(*words, cwd=tmp_path, env=cache)
    assert process.stderr is not None
    while '"kernels"' not in (line := process.stderr.readline()):
        assert line, "the build ended before its kernels were compiled"
        if '"schedule"' in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.splitlines()[-1]) == (130, "edgec: interrupted")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_closed_pipe_is_no_error() -> None:
    words = ["/bin/sh", "-c", f"{sys.executable} -m edgec targets cortex-a72 | true"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_streams_are_no_error() -> None:
    done = subprocess.run(["/bin/sh", "-c", f"{sys.executable} -m edgec targets >&- 2>&-"], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_opt_for_a_target_needs_shapes_that_are_numbers(run: Any, tmp_path: Path) -> None:
    (tmp_path / "open.edge").write_text("edge 1\n\ngraph @g(%x: f32[n,3]) {\n  %y: f32[n,3] = Relu(%x)\n  return %y\n}\n")
    done = run("opt", "open.edge", "--target", "host")
    assert (done.code, done.err) == (3, "edgec: the input %x is f32[n,3]: shapes have to be numbers before memory is laid out\n")


def test_an_array_for_an_input_that_does_not_exist(run: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    done = run("run", "@/tiny.edgec", "nope=@x.npy")
    assert done.code == 2
    assert "no input nope" in done.err


def test_no_threads(folder: Path) -> None:
    with pytest.raises(UsageError, match="at least one thread"):
        edgec.load(folder / "tiny.edgec", threads=0)
    with pytest.raises(UsageError, match="at least one thread"):
        edgec.build(folder / "tiny.onnx", threads=0)
