"""Whole models that the pass partition splits over a CPU and a GPU: built by flags alone, run through OpenCL, equal to ONNX Runtime."""

import re
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.report.page import page
from tests import tiny
from tests.bundles import feeds, source
from tests.opencl import needs_opencl
from tests.split import error

FAST = """target fast : desktop-opencl "a GPU that is worth its copies, and has no kernel for what ends a net" {
  unit gpu gpu {
    macs_per_cycle = 4000
    bandwidth = 500 GB/s
    launch = 200 cycles
    copy_latency = 300 cycles
    copy_bandwidth = 50 GB/s
    never GlobalAveragePool, AveragePool, Softmax because "the CPU reads the last tensor anyway"
  }
}
"""


def test_the_summary_and_the_report_tell_where_the_time_goes(tmp_path: Path) -> None:
    (tmp_path / "fast.target").write_text(FAST)
    made = edgec.build(str(tiny.save(tiny.model(), tmp_path / "m.onnx")), target=str(tmp_path / "fast.target"), output=tmp_path / "m.edgec",
                       place={"conv": "gpu", "dense": "cpu"})
    assert re.search(r"predicted  \d+\.\d+ ms one after the other: cpu \d+\.\d+, gpu \d+\.\d+, copies \d+\.\d+\n", made.summary())
    text = page(made.manifest)
    section = text[text.index("<h2>Partition</h2>"):text.index("<h2>Arena</h2>")]
    for said in ("Conv", "µs on gpu", "to gpu", "from gpu", "conv+relu"):
        assert said in section
    kernels = {k["unit"]: k["cycles"] for k in made.manifest["kernels"].values()}
    assert set(kernels) == {"cpu", "gpu"}
    facts = made.manifest["partition"]
    assert facts["groups"][0]["unit"] == "gpu"
    assert sum(u["us"] + u["copies_us"] for u in facts["units"]) == pytest.approx(made.manifest["report"]["predicted_ms"] * 1e3, rel=0.05)


@needs_opencl
@pytest.mark.parametrize(("name", "options", "kernels"), [
    ("squeezenet_fp32", {}, 20), ("resnet20_cifar10_fp32", {"place": {"/layer2*": "cpu"}}, 12), ("mlperf_kws_dscnn_fp32", {}, 8),
    ("mobilenetv1_025_128_fp32", {"units": ["gpu"]}, 20)])
def test_split_models_compute_what_onnxruntime_does(name: str, options: dict[str, Any], kernels: int, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    (tmp_path / "fast.target").write_text(FAST)
    made = edgec.build(str(source(name)), target=str(tmp_path / "fast.target"), output=tmp_path / "m.edgec", **options)
    facts, report = made.manifest["partition"], made.manifest["report"]
    assert [u["name"] for u in facts["units"] if u["groups"]] == ["cpu", "gpu"]
    assert facts["predicted_us"] == pytest.approx(report["predicted_ms"] * 1e3, rel=0.1)     # layouts, and so copies, are chosen later
    assert {"cpu", "gpu", "copies"} == set(report["units_ms"])
    ran = [made.manifest["kernels"][s["kernel"]]["unit"] for s in made.manifest["steps"] if "kernel" in s]
    assert ran.count("gpu") >= kernels
    assert len(ran) > ran.count("gpu")
    assert sum(s.get("step") == "copy" for s in made.manifest["steps"]) == len(facts["copies"])
    session = made.load(poison=True)
    reference = onnxruntime.InferenceSession(str(source(name)), providers=["CPUExecutionProvider"])
    names = [o.name for o in reference.get_outputs()]
    given = [feeds(made, seed) for seed in range(3)]
    wanted = [dict(zip(names, reference.run(None, x), strict=True)) for x in given]
    for i, x in enumerate(given):
        assert error(session.run(x), wanted[i], wanted[i - 1]) <= 1e-4
