"""The same model gives the same bytes on any machine, and new weights change nothing but weights."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgec
from edgec.ir.graph import Array
from tests.bundles import BOUND, EXAMPLES, LARGER, ROOT, SMALL, contents, feeds, source
from tests.shared import SHARED, light

BUILD = """if True:
    import json, sys
    from pathlib import Path
    import edgec
    model, target, output, cache, jobs, bound = sys.argv[1:]
    edgec.build(model, target=target, output=output, cache=Path(cache), jobs=int(jobs), **json.loads(bound))"""
SIMD = "from numpy._core import _multiarray_umath as m; print(*(f for f in m.__cpu_dispatch__ if m.__cpu_features__[f]))"
ONE = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
OTHER = {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TZ": "Asia/Tokyo", "LANG": "tr_TR.UTF-8"}


def python(code: str, environment: Mapping[str, str], folder: Path, *arguments: object) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_simd() -> dict[str, str]:
    """What makes numpy compute without the instructions that it looks for when it starts."""
    found = python(SIMD, {}, ROOT).split()
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(found)} if found else {}


def test_numpy_can_be_made_to_compute_otherwise() -> None:
    disabled = without_simd()
    if not disabled:
        pytest.skip("numpy uses no instructions here that it could do without")
    assert python(SIMD, disabled, ROOT).split() == []


_TWICE = ("digits_mobilenet", "mnist_opset8", *SMALL[1:], *LARGER, "light_squeezenet", "light_inception_v2")
_QUICK = {("digits_mobilenet", "host"), ("mnist_opset8", "cortex-a72")}


@pytest.mark.parametrize(("name", "target"), [
    pytest.param(name, target, marks=() if (name, target) in _QUICK else pytest.mark.slow)
    for name in _TWICE for target in ("host", "cortex-a72")])
def test_two_builds_are_identical(name: str, target: str, tmp_path: Path) -> None:
    """In other folders and processes, with caches of their own, other instructions in numpy, and other numbers of threads and workers."""
    if name.startswith("light_"):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(light(name[6:]).SerializeToString())
    else:
        path = source(name)
    bound = json.dumps(BOUND.get(name, {}))
    made = []
    other = {**OTHER, **without_simd()}
    for environment, folder, jobs in (({**ONE}, tmp_path / "here", 2), (other, tmp_path / "there" / "deeper", 1)):
        folder.mkdir(parents=True)
        environment["EDGEC_CACHE"] = str(folder / "features")
        python(BUILD, environment, folder, path, target, "bundle", folder / "cache", jobs, bound)
        made.append(contents(folder / "bundle"))
    assert made[0].keys() == made[1].keys()
    assert not [file for file in made[0] if made[0][file] != made[1][file]]
    paths = [str(p).encode() for p in (tmp_path, ROOT, SHARED)]
    assert not [file for file, data in made[0].items() if any(p in data for p in paths)]


# Other weights


def trained_on(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The same architecture after other training."""
    draw = np.random.default_rng(seed)

    def other(array: Array, role: str) -> Array:
        scaled = np.asarray(array * draw.uniform(0.5, 1.5, array.shape))
        return scaled if role == "var" else scaled + draw.standard_normal(array.shape) / 10

    return changed(model, other)


def untrained(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The same architecture before any training: whole vectors of zeros and ones, many of them equal."""
    draw = np.random.default_rng(seed)

    def fresh(array: Array, role: str) -> Array:
        if role in {"var", "scale"}:
            return np.ones(array.shape)
        return np.zeros(array.shape) if array.ndim == 1 else np.asarray(draw.standard_normal(array.shape) / 10)

    return changed(model, fresh)


def changed(model: onnx.ModelProto, change: Callable[[Array, str], Array]) -> onnx.ModelProto:
    """The model with other numbers in every weight that has more than one."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    roles = {n.input[i]: role for n in made.graph.node for i, role in enumerate(("x", "scale", "bias", "mean", "var"))
             if n.op_type == "BatchNormalization"}
    roles |= {n.input[1]: "scale" for n in made.graph.node if n.op_type == "LayerNormalization"}
    for tensor in made.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.size > 1:
            role = roles.get(tensor.name, "")
            tensor.CopyFrom(numpy_helper.from_array(change(array, role).astype(array.dtype), tensor.name))
    return made


@pytest.mark.parametrize("name", [*EXAMPLES, "mnist_opset8", *(pytest.param(n, marks=pytest.mark.slow) for n in (*SMALL[1:], *LARGER[:5]))])
def test_other_weights_recompile_nothing(name: str, tmp_path: Path) -> None:
    model, cache = onnx.load(source(name)), tmp_path / "cache"
    first = edgec.build(model, output=tmp_path / "1", name=name, cache=cache)
    kernels = {p: p.stat().st_mtime_ns for p in (cache / "kernels").rglob("*") if p.is_file()}
    assert len(kernels) == len(first.manifest["kernels"])
    one, given = contents(first.path), feeds(first, 1)
    result = next(iter(first.load().run(given).values()))
    for retrain in (trained_on, untrained):
        second = edgec.build(retrain(model, 1), output=tmp_path / retrain.__name__, name=name, cache=cache)
        assert {p: p.stat().st_mtime_ns for p in (cache / "kernels").rglob("*") if p.is_file()} == kernels
        two = contents(second.path)
        assert {file for file in one if one[file] != two[file]} == {f"{name}.weights.bin", "manifest.json"}
        facts = [{k: v for k, v in m.manifest.items() if k not in {"model_sha256", "files", "report"}} for m in (first, second)]
        assert facts[0] == facts[1]
        assert not np.allclose(result, next(iter(second.load().run(given).values())))


def test_other_weights_fit_the_old_code_and_those_of_another_model_do_not(tmp_path: Path) -> None:
    """The id in the header is that of the arrangement: a device can be given new weights without new code."""
    model = onnx.load(source("digits_cnn"))
    first = edgec.build(model, output=tmp_path / "1", name="m")
    second = edgec.build(trained_on(model, 2), output=tmp_path / "2", name="m")
    other = edgec.build(onnx.load(source("digits_mobilenet")), output=tmp_path / "3", name="m")
    heads = [(b.path / "m.weights.bin").read_bytes()[:64] for b in (first, second, other)]
    assert heads[0][:40] == heads[1][:40] != heads[2][:40]
    assert heads[0][40:56] != heads[1][40:56]
