"""Wrong input of every kind: one clear sentence, the documented exit code, no traceback, and nothing half-written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

import edgec
from edgec.cli import main
from edgec.errors import BadInput, EdgecError, SourceError
from tests import tiny

USAGE, INPUT, TOOL, DEVICE = 2, 3, 5, 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its bundles for this machine and for a foreign one."""
    folder = tmp_path_factory.mktemp("errors")
    tiny.save(tiny.model(), folder / "tiny.onnx")
    edgec.build(folder / "tiny.onnx", output=folder / "tiny.edgec")
    edgec.build(folder / "tiny.onnx", "cortex-a72", folder / "a72.edgec")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, with the model and the bundle in it, where commands run."""
    shutil.copy(made / "tiny.onnx", tmp_path)
    shutil.copytree(made / "tiny.edgec", tmp_path / "tiny.edgec")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], folder: Path, code: int, *words: str) -> str:
    """Run a command that must fail with this code, saying one thing on stderr and writing nothing; what it said."""
    before = tiny.files(folder)
    capsys.readouterr()
    ended = main(words)
    said = capsys.readouterr()
    assert ended == code, said.err
    assert said.out == ""
    assert said.err.startswith("edgec: ")
    assert sum(line.startswith("edgec: ") for line in said.err.splitlines()) == 1
    assert "Traceback" not in said.err
    assert tiny.files(folder) == before
    return said.err


def relu(**other: Any) -> list[onnx.NodeProto]:
    return [helper.make_node(**{"op_type": "Relu", "inputs": ["x"], "outputs": ["y"], "name": "only", **other})]


def plain(nodes: list[onnx.NodeProto], shape: list[int | str] | None = None) -> ModelProto:
    return tiny.of(nodes, {"x": shape or [1, 8]}, {"y": shape or [1, 8]})


def external(location: str) -> ModelProto:
    model = tiny.model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


def cyclic() -> ModelProto:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"], "second"),
             helper.make_node("Relu", ["b"], ["y"], "third")]
    return plain(nodes)


def strange_dtype() -> ModelProto:
    model = plain(relu())
    model.graph.input[0].type.tensor_type.elem_type = 99
    return model


def newer() -> ModelProto:
    model = plain(relu())
    model.opset_import[0].version = 999
    return model


MODELS: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "unknown operator": (lambda: plain(relu(op_type="Rleu")), "Rleu"),
    "unknown domain": (lambda: plain(relu(op_type="Magic", domain="com.example")), "com.example"),
    "cycle": (cyclic, "first"),
    "dangling input": (lambda: plain(relu(inputs=["nobody"])), "nobody"),
    "dangling output": (lambda: plain(relu(outputs=["z"])), "y"),
    "defined twice": (lambda: plain([*relu(), *relu()]), "y"),
    "missing attribute": (lambda: plain(relu(op_type="Cast")), "only"),
    "wrong number of inputs": (lambda: plain(relu(inputs=["x", "x"])), "only"),
    "shapes that do not fit": (lambda: plain([helper.make_node("MatMul", ["x", "x"], ["y"], "only")], [2, 3]), "only"),
    "external data is missing": (lambda: external("weights.bin"), "weights.bin"),
    "external data outside of the folder": (lambda: external("../weights.bin"), "outside"),
    "external data by an absolute path": (lambda: external("/etc/passwd"), "outside"),
    "newer opset": (newer, "999"),
    "unknown element type": (strange_dtype, "refers to 99"),
    "sizes that are open": (lambda: plain(relu(), [1, "H", "W"]), "--dim H=N --dim W=N"),
    "no graph": (ModelProto, "graph"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_wrong_models(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    make, word = MODELS[kind]
    model = tiny.save(make(), tmp_path / "m.onnx")
    assert word in refused(capsys, tmp_path, INPUT, "build", str(model), "-o", str(tmp_path / "m.edgec"))


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"this is no model", "no ONNX model"),
    "truncated": (tiny.model().SerializeToString()[:-700], "m.onnx"),
    "nonsense": (bytes(range(256)) * 8, "no ONNX model"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_models(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    data, word = FILES[kind]
    (tmp_path / "m.onnx").write_bytes(data)
    assert word in refused(capsys, tmp_path, INPUT, "build", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.edgec"))


def test_flipped_bits_never_crash_the_importer(tmp_path: Path) -> None:
    data = tiny.model().SerializeToString()
    structure = [i for i in range(len(data)) if i < 400 or i > len(data) - 400]  # bits of weights only change numbers
    random = np.random.default_rng(1)
    outcomes = []
    for place in random.choice(structure, 250, replace=False):
        broken = bytearray(data)
        broken[place] ^= 1 << random.integers(8)
        try:
            edgec.import_onnx(bytes(broken), static=True)
        except EdgecError as error:
            outcomes.append(error.exit_code)
    assert set(outcomes) == {INPUT}
    assert len(outcomes) > 50


COMMANDS: dict[str, tuple[int, str, list[str]]] = {
    "no such model": (INPUT, "there is no file nope.onnx", ["build", "nope.onnx"]),
    "a folder as model": (INPUT, "folder", ["build", "."]),
    "shape without numbers": (USAGE, "--shape x=big", ["build", "tiny.onnx", "--shape", "x=big"]),
    "shape of rank 3": (INPUT, "4 axes", ["build", "tiny.onnx", "--shape", "x=1,3,12"]),
    "shape of an unknown input": (INPUT, "did you mean 'x'", ["build", "tiny.onnx", "--shape", "xx=1,3,12,12"]),
    "negative shape": (USAGE, "--shape x=-1,3", ["build", "tiny.onnx", "--shape=x=-1,3"]),
    "two shapes": (USAGE, "two shapes", ["build", "tiny.onnx", "--shape", "x=1,3,12,12", "--shape", "x=2,3,12,12"]),
    "dim without number": (USAGE, "--dim N=", ["build", "tiny.onnx", "--dim", "N="]),
    "dim of zero": (USAGE, "--dim N=0", ["build", "tiny.onnx", "--dim", "N=0"]),
    "unknown dim": (INPUT, "'N'", ["build", "tiny.onnx", "--dim", "N=2"]),
    "unknown output": (INPUT, "'z'", ["build", "tiny.onnx", "--outputs", "z"]),
    "unknown input": (INPUT, "'z'", ["build", "tiny.onnx", "--inputs", "z"]),
    "no threads": (USAGE, "--threads", ["build", "tiny.onnx", "--threads", "0"]),
    "unknown target": (USAGE, "did you mean cortex-a72?", ["build", "tiny.onnx", "--target", "cortex-a27"]),
    "no such target file": (INPUT, "my.target", ["build", "tiny.onnx", "--target", "./my.target"]),
    "unknown pass": (USAGE, "did you mean fold?", ["opt", "tiny.onnx", "--passes", "folt"]),
    "misplaced pass": (USAGE, "cannot stand", ["opt", "tiny.onnx", "--passes", "cluster,fold", "--target", "host"]),
    "pass without a target": (USAGE, "target", ["opt", "tiny.onnx", "--passes", "canonicalize,fold,cluster"]),
    "unknown option of a pass": (USAGE, "option", ["opt", "tiny.onnx", "--passes", "fold{most=3}"]),
    "broken pipeline": (INPUT, "^", ["opt", "tiny.onnx", "--passes", "fold,,cse"]),
    "nothing to disable": (USAGE, "did you mean", ["build", "tiny.onnx", "--disable", "folt"]),
    "no step to stop after": (USAGE, "did you mean fold?", ["build", "tiny.onnx", "--stop-after", "folt"]),
    "negative limit": (USAGE, "--limit", ["build", "tiny.onnx", "--limit=-1"]),
    "unknown compiler": (USAGE, "nocc", ["build", "tiny.onnx", "--cc", "nocc"]),
    "output below a file": (INPUT, "cannot be written", ["build", "tiny.onnx", "-o", "tiny.onnx/a.edgec"]),
    "output is a file": (INPUT, "not a folder", ["build", "tiny.onnx", "-o", "tiny.onnx"]),
    "output is a folder of other things": (INPUT, "holds other files", ["build", "tiny.onnx", "-o", "."]),
    "emitted below a file": (INPUT, "cannot be written", ["build", "tiny.onnx", "--emit", "onnx", "-o", "tiny.onnx/a.onnx"]),
    "dump below a file": (INPUT, "cannot be written", ["build", "tiny.onnx", "--dump", "tiny.onnx/dump"]),
    "no such bundle": (INPUT, "nope.edgec", ["run", "nope.edgec"]),
    "a model as bundle": (INPUT, "not a bundle", ["run", "tiny.onnx"]),
    "no such array": (INPUT, "there is no file nope.npy", ["run", "tiny.edgec", "nope.npy"]),
    "an array that is none": (INPUT, "tiny.onnx cannot be read", ["run", "tiny.edgec", "tiny.onnx"]),
    "unknown name of an array": (USAGE, "no input z", ["run", "tiny.edgec", "x=@x.npy", "z=@x.npy"]),
    "too many arrays": (USAGE, "one array more", ["run", "tiny.edgec", "x.npy", "x.npy"]),
    "array of another shape": (INPUT, "float32[1, 3, 12, 12]", ["run", "tiny.edgec", "small.npy"]),
    "array of another dtype": (INPUT, "float64", ["run", "tiny.edgec", "double.npy"]),
    "array of objects": (INPUT, "cannot be read", ["run", "tiny.edgec", "pickle.npy"]),
    "outputs below a file": (INPUT, "cannot be written", ["run", "tiny.edgec", "x.npy", "--out", "tiny.onnx/y.npz"]),
    "verify without the model": (INPUT, "nope.onnx", ["verify", "tiny.edgec", "--model", "nope.onnx"]),
    "verify with arrays of another name": (
        INPUT, "no array for the input x", ["verify", "tiny.edgec", "--model", "tiny.onnx", "--inputs", "z.npz"]),
    "unknown peer": (USAGE, "tensorflow", ["bench", "tiny.edgec", "--vs", "tensorflow", "--model", "tiny.onnx"]),
    "a peer without the model": (USAGE, "--model", ["bench", "tiny.edgec", "--vs", "onnxruntime"]),
    "bench for no time": (USAGE, "--duration", ["bench", "tiny.edgec", "--duration", "0"]),
    "inspect a folder": (INPUT, "manifest.json", ["inspect", "."]),
    "unknown rule": (USAGE, "no rule is called", ["rules", "no-such-rule"]),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_wrong_commands(capsys: pytest.CaptureFixture[str], here: Path, kind: str) -> None:
    np.save("x.npy", np.zeros((1, 3, 12, 12), np.float32))
    np.save("small.npy", np.zeros((1, 3), np.float32))
    np.save("double.npy", np.zeros((1, 3, 12, 12)))
    np.save("pickle.npy", np.array([{}], object), allow_pickle=True)
    np.savez("z.npz", z=np.zeros(3))
    code, word, words = COMMANDS[kind]
    assert word in refused(capsys, here, code, *words)


def test_an_unreadable_place_is_told(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (here / "locked").mkdir(mode=0o555)
    assert "not writable" in refused(capsys, here, INPUT, "build", "tiny.onnx", "-o", "locked/a.edgec")


def test_unsupported_operators_are_told_all_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nodes = [helper.make_node("First", ["x"], ["a"], "one", domain="com.example"),
             helper.make_node("Second", ["a"], ["y"], "two", domain="com.example")]
    model = tiny.save(plain(nodes), tmp_path / "m.onnx")
    said = refused(capsys, tmp_path, INPUT, "build", str(model))
    assert all(word in said for word in ("one", "two", "First", "Second"))


TEXTS: dict[str, tuple[str, str]] = {
    "target": ("target mine : cortex-a72 {\n  clok = 1 GHz\n}\n", "2:3"),
    "target with an unknown parent": ("target mine : nobody {\n}\n", "1:15"),
    "graph": ("edge 1\n\ngraph @g(%x: f32[2]) {\n  %y = Relu(%z)\n  return %y\n}\n", "4:13"),
    "graph of a newer format": ("edge 99\n", "1:"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_mistakes_in_texts_come_with_a_caret(capsys: pytest.CaptureFixture[str], here: Path, kind: str) -> None:
    text, place = TEXTS[kind]
    name = "mine.target" if kind.startswith("target") else "mine.edge"
    (here / name).write_text(text)
    words = ["build", "tiny.onnx", "--target", f"./{name}"] if name.endswith(".target") else ["build", name]
    said = refused(capsys, here, INPUT, *words)
    assert f"{name}:{place}" in said
    assert said.splitlines()[-1].strip() == "^"


def test_a_mistake_in_a_rule_comes_with_a_caret() -> None:
    from edgec.rules.check import load  # noqa: PLC0415

    text = 'rule wrong "it does not know y"\n  Relu(x)\n  => Abs(y)\n  example x: f32[2]\n'
    with pytest.raises(SourceError) as told:
        load(text, "my.rules")
    assert str(told.value).startswith("my.rules:3:")
    assert told.value.exit_code == INPUT


DAMAGE: dict[str, Callable[[Path], object]] = {
    "library": lambda b: _flip(b / "libtiny.so"),
    "weights": lambda b: _flip(b / "tiny.weights.bin"),
    "manifest": lambda b: (b / "manifest.json").write_text((b / "manifest.json").read_text()[:-100]),
    "manifest with other numbers": lambda b: _edit(b, arena=1),
    "manifest of a newer edgec": lambda b: _edit(b, schema=99),
    "no library": lambda b: (b / "libtiny.so").unlink(),
    "no manifest": lambda b: (b / "manifest.json").unlink(),
}


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _edit(bundle: Path, **changes: int) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("words", [
    ["run", "tiny.edgec"], ["bench", "tiny.edgec"], ["verify", "tiny.edgec", "--model", "tiny.onnx"]], ids=lambda w: w[0])
def test_damaged_bundles(capsys: pytest.CaptureFixture[str], here: Path, kind: str, words: list[str]) -> None:
    DAMAGE[kind](here / "tiny.edgec")
    assert "tiny.edgec" in refused(capsys, here, INPUT, *words)


def test_a_foreign_bundle_without_an_emulator(
        capsys: pytest.CaptureFixture[str], made: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    said = refused(capsys, here, TOOL, "run", str(made / "a72.edgec"))
    assert "install it with: apt-get install qemu-user" in said


def test_an_interrupted_or_refused_run_tells_the_device_code(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    manifest = json.loads((here / "tiny.edgec" / "manifest.json").read_text())
    assert manifest["requires"]["cpu"]

    def missing(*_: object) -> None:
        raise edgec.DeviceError("tiny.edgec needs avx99, which this processor lacks")

    with pytest.MonkeyPatch.context() as other:
        other.setattr("edgec.session.NativeDevice", missing)
        assert "avx99" in refused(capsys, here, DEVICE, "run", "tiny.edgec")


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(capsys: pytest.CaptureFixture[str], here: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").write_text("")
    monkeypatch.setenv("EDGEC_CACHE", str(here / "file" / "cache"))
    assert main(["build", "tiny.onnx", "-o", "again.edgec"]) == 0
    said = capsys.readouterr()
    assert "cannot be written" in said.err
    assert said.err.count("\n") == 1
    assert (here / "again.edgec" / "libtiny.so").read_bytes() == (here / "tiny.edgec" / "libtiny.so").read_bytes()


def test_the_interface_raises_what_the_command_line_tells(here: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no file nope\.onnx"):
        edgec.build("nope.onnx")
    with pytest.raises(edgec.UsageError, match="did you mean cortex-a72"):
        edgec.build("tiny.onnx", "cortex-a27")
    with pytest.raises(edgec.UnsupportedModel) as told:
        edgec.import_onnx(plain(relu(op_type="Magic", domain="com.example")))
    assert any("only" in n for n in told.value.nodes)
