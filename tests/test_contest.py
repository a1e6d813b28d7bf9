"""Contests: bundles and other runtimes in turns, loops in C that run what Python runs, and the chart of their times."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgec
from edgec import peers
from edgec.cli import main
from edgec.clock import Clock, peak_gflops
from edgec.contest import FROM_C, Rules, hold
from edgec.errors import DeviceError
from edgec.isa import cpu_isa
from edgec.native import NativeDevice
from edgec.report.times import lines
from edgec.session import load
from edgec.target import find
from tests import tiny
from tests.toybundle import A72, make, needs_qemu, tensor

X = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.model(), tmp_path_factory.mktemp("contest") / "tiny.onnx")


@pytest.fixture(scope="module")
def bundle(model: Path) -> Any:
    return edgec.build(model, target="host", output=model.with_suffix(".edgec"))


def test_a_loop_in_c_computes_what_a_run_computes(bundle: Any) -> None:
    session = bundle.load()
    device = session._device
    assert isinstance(device, NativeDevice)
    out = np.full((1, 5), np.nan, np.float32)
    raw = device.raw([X], [out])
    Clock(raw).repeat(3)
    np.testing.assert_array_equal(out, session.run(X)["y"])
    out[:] = np.nan
    seconds = Clock(raw).steps(4)
    assert seconds.shape == (4, len(bundle.manifest["steps"]))
    assert (seconds >= 0).all()
    assert seconds.max() > 0
    np.testing.assert_array_equal(out, session.run(X)["y"])


def test_a_loop_in_c_tells_of_data_that_the_model_refuses(tmp_path: Path) -> None:
    made = tiny.of([helper.make_node("Gather", ["t", "i"], ["y"])], {}, {"y": [2, 3]}, {"t": np.ones((4, 3), np.float32)})
    made.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [2]))
    session = edgec.build(tiny.save(made, tmp_path / "g.onnx"), target="host", output=tmp_path / "g.edgec").load()
    session.clock({"i": np.array([0, 3])}).repeat(1)
    with pytest.raises(DeviceError, match="refused"):
        session.clock({"i": np.array([0, 4])}).repeat(1)


@needs_qemu
def test_no_loop_in_c_under_an_emulator(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="qemu"):
        load(make(tmp_path, cpu=A72)).clock({"x": tensor(0)})


def test_the_peak_is_that_of_vectors() -> None:
    isa = cpu_isa(find("host"))
    # one fused multiply-add a cycle at a tenth of the clock is less than any machine that runs tests does
    assert peak_gflops(isa) > 0.1 * isa.clock_hz * 2 * isa.lanes * 1e-9


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_bound_arrays_are_computed_on(name: str, model: Path) -> None:
    pytest.importorskip(name)
    peer = peers.load(name, model)
    x = X.copy()
    before = peer.run({"x": x})["y"]
    bound = peer.bind({"x": x})
    bound()
    assert peer.precision in ("f32", "as in the model")
    np.testing.assert_array_equal(peer.run({"x": x})["y"], before)


def test_openvino_computes_in_f32(model: Path) -> None:
    pytest.importorskip("openvino")
    assert peers.load("openvino", model).precision == "f32"


def test_bundles_and_peers_take_turns(bundle: Any, model: Path) -> None:
    pytest.importorskip("onnxruntime")
    held = hold({"a": bundle, "b": bundle}, model, ["onnxruntime"], Rules(1, iterations=3, from_c=True))
    assert list(held.times) == ["a", "b", "onnxruntime", *(n + FROM_C for n in ("a", "b", "onnxruntime"))]
    assert len({len(t.blocks) for t in held.times.values()}) == 1
    for name in ("a", "b"):
        facts = held.against(name, "onnxruntime")
        assert facts["interval"][0] <= facts["ratio"] <= facts["interval"][1]
        assert facts["from_c"]["fed"] == "arrays bound once"
        best = held.best(name)
        assert best is not None
        assert best["ratio"] == facts["ratio"]
        assert best["from_c"]["ratio"] == facts["from_c"]["ratio"]
    assert held.errors["onnxruntime"] is not None
    assert held.errors["onnxruntime"] < 1e-4


def test_bench_from_c_with_a_plot(bundle: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    chart = tmp_path / "t.svg"
    words = ["bench", str(bundle.path), "--model", str(model), "--vs", "onnxruntime", "--from-c", "--iters", "3", "--plot", str(chart)]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["best"]["peer"] == "onnxruntime"
    assert facts["best"]["from_c"]["interval"][0] <= facts["best"]["from_c"]["ratio"]
    assert facts["from_c"]["ms"] > 0
    texts = ET.parse(chart).iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 - our own file
    names = [t.text for t in texts if t.text and t.text.endswith(" ms")]
    assert [n.partition(":")[0] for n in names] == ["edgec", "onnxruntime", "edgec from C", "onnxruntime bound"]
    assert main(words) == 0
    assert "onnxruntime bound" in capsys.readouterr().out


def test_bench_beside_another_bundle(bundle: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.edgec"
    edgec.build(model, target="host", output=other, exact=True)
    assert main(["bench", str(bundle.path), "--vs", str(other), "--from-c", "--iters", "3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["bundles"][str(other)]
    assert facts["interval"][0] <= facts["ratio"] <= facts["interval"][1]
    assert facts["error"] < 1e-4
    assert facts["from_c"]["ms"] > 0
    assert main(["bench", str(bundle.path), "--vs", str(other), "--from-c", "--iters", "3"]) == 0
    assert f"{other} from C" in capsys.readouterr().out


def test_bench_refuses_a_bundle_of_another_model(bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tiny.of([helper.make_node("Relu", ["z"], ["y"])], {"z": [2]}, {"y": [2]}, {})
    edgec.build(tiny.save(made, tmp_path / "other.onnx"), target="host", output=tmp_path / "other.edgec")
    assert main(["bench", str(bundle.path), "--vs", str(tmp_path / "other.edgec")]) == 2
    assert "has other inputs than the bundle that it is compared with: z: f32[2] beside" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["bench", str(bundle.path), "--vs", str(tmp_path / "empty")]) == 3
    assert "without a manifest.json" in capsys.readouterr().err
    assert main(["bench", str(bundle.path), "--vs", "missing.edgec"]) == 3
    assert "there is no file or bundle missing.edgec" in capsys.readouterr().err


def test_a_chart_puts_values_where_they_belong() -> None:
    picture = ET.fromstring(lines("a < b", {"x": [1.0, 2.0], "y": [5.0, 0.0]}))  # noqa: S314 - our own text
    texts = [line.attrib["points"] for line in picture.iter() if "points" in line.attrib]
    points = [[tuple(map(float, p.split(","))) for p in text.split()] for text in texts]
    (x0, y1), (x1, y2) = points[0]
    (_, y5), (_, y0) = points[1]
    assert x0 < x1
    assert y0 - y1 == pytest.approx(y1 - y2)
    assert y0 - y5 == pytest.approx(5 * (y0 - y1))


def test_exact_belongs_to_models(bundle: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), "--exact"]) == 2
    assert "--exact" in capsys.readouterr().err
