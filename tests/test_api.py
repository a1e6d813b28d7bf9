"""The public interface of Python: quick to import, the same names wherever they are looked up, nothing printed, cancellable."""

import ast
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgec
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
X = np.random.default_rng(2).standard_normal((1, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> edgec.Bundle:
    return edgec.build(tiny.model(), output=tmp_path_factory.mktemp("api") / "tiny.edgec", name="tiny")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_public_name_is_there() -> None:
    assert all(getattr(edgec, name) is getattr(edgec, name) for name in edgec.__all__)
    asked = {"build", "optimize", "import_onnx", "load", "targets", "register_target", "Bundle", "UnsupportedModel", "ToolMissing"}
    assert asked <= set(edgec.__all__) <= set(dir(edgec))
    assert set(edgec.__all__) == {*edgec._HOMES, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'bulid'"):
        edgec.bulid  # noqa: B018 - this is what is tested


def test_import_loads_nothing_heavy_and_no_room() -> None:
    heavy = {"numpy", "tvm", "onnx", "lark", "scipy", "passes", "targets"}
    assert python(f"import sys, edgec; print(sorted({{m.partition('.')[0] for m in sys.modules}} & {heavy}))") == "[]"


def test_load_and_run_import_neither_tvm_nor_onnx(bundle: edgec.Bundle) -> None:
    code = (f"import sys, numpy, edgec; edgec.load({str(bundle.path)!r}).run(numpy.zeros((1, 3, 12, 12), 'f4'));"
            "print(sorted({m.partition('.')[0] for m in sys.modules} & {'tvm', 'onnx', 'lark', 'scipy', 'onnxruntime'}))")
    assert python(code) == "[]"


@pytest.mark.parametrize("first", [
    "import edgec.build", "from edgec.build import compile_graph", "import edgec.codegen.bundle", "import edgec.cli"])
def test_build_stays_the_function_when_modules_are_imported(first: str) -> None:
    assert python(f"{first}; import edgec; from edgec import build; print(edgec.build.__name__, callable(build))") == "build True"


def test_type_checkers_see_every_public_name() -> None:
    (block,) = [n for n in ast.parse((ROOT / "edgec" / "__init__.py").read_text()).body if isinstance(n, ast.If)]
    declared = {a.asname or a.name: f"{n.module}:{a.name}" for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert declared == edgec._HOMES


def test_build_takes_a_path_bytes_or_a_model(bundle: edgec.Bundle, tmp_path: Path) -> None:
    path = tiny.save(tiny.model(), tmp_path / "tiny.onnx")
    of_path = edgec.build(path, output=tmp_path / "a.edgec")
    of_bytes = edgec.build(path.read_bytes(), output=str(tmp_path / "b.edgec"), name="tiny")
    objects = {(b.path / "tiny.o").read_bytes() for b in (bundle, of_path, of_bytes)}
    assert len(objects) == 1
    assert of_path.manifest["model_sha256"] == of_bytes.manifest["model_sha256"]


def test_build_prints_nothing_and_tells_its_steps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps: list[tuple[str, int, int]] = []
    notes: list[str] = []
    made = edgec.build(tiny.model(batch="N"), output=tmp_path / "t.edgec", progress=lambda *step: steps.append(step), notes=notes)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert (steps[0], steps[-1]) == (("import", 0, 1), ("bundle", 1, 1))
    assert all(0 <= done <= total for _, done, total in steps)
    assert len([n for n in notes if "batch size 1" in n]) == 1
    assert made.manifest["notes"] == notes
    assert "t.edgec for host" in made.summary()


def test_a_build_is_cancelled_at_its_next_step(tmp_path: Path) -> None:
    seen: list[str] = []
    with pytest.raises(edgec.Cancelled) as told:
        edgec.build(tiny.model(), output=tmp_path / "t.edgec", progress=lambda step, *_: seen.append(step), cancelled=lambda: "cse" in seen)
    assert told.value.exit_code == 130
    assert "cluster" not in seen
    assert not list(tmp_path.iterdir())


def test_run_by_name_or_alone_and_into_given_arrays(bundle: edgec.Bundle) -> None:
    session = edgec.load(bundle.path)
    assert [str(p) for p in (*session.inputs, *session.outputs)] == ["x float32[1, 3, 12, 12]", "y float32[1, 5]"]
    expected = session.run({"x": X})["y"]
    out = np.zeros((1, 5), np.float32)
    made = session.run(X, out={"y": out})
    assert made["y"] is out
    assert np.array_equal(out, expected)
    assert np.array_equal(session.run(X.tolist())["y"], expected)


def test_many_threads_run_one_session(bundle: edgec.Bundle) -> None:
    session = bundle.load()
    inputs = [X * k for k in range(1, 9)]
    alone = [session.run(x)["y"] for x in inputs]
    barrier = threading.Barrier(4)

    def work(x: np.ndarray) -> bool:
        barrier.wait()
        return all(np.array_equal(session.run(x)["y"], alone[k]) for k, y in enumerate(inputs) if y is x for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, inputs))


def test_threads_do_not_change_results(bundle: edgec.Bundle) -> None:
    results = [bundle.load(threads=n, poison=True).run(X)["y"] for n in (1, 2, 4)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_graphs_are_optimized_and_exported() -> None:
    graph = edgec.import_onnx(tiny.model())
    assert isinstance(graph, edgec.Graph)
    portable = edgec.optimize(graph)
    onnx.checker.check_model(portable.to_onnx())
    kernels = edgec.optimize(graph, target="cortex-a72")
    assert [n.op for n in kernels.nodes if n.op == "edgec.Fused"]
    assert edgec.optimize(graph, passes="cse") is graph
    assert edgec.optimize(graph, passes=["canonicalize", "cse"]) is not graph


def test_targets_are_known_and_registered(tmp_path: Path) -> None:
    (tmp_path / "mine.target").write_text('target my-api-board : cortex-a53 "a board" {\n  cores = 2  # its data sheet\n}\n')
    assert "my-api-board" not in edgec.targets()
    assert edgec.register_target(tmp_path / "mine.target") == ("my-api-board",)
    assert edgec.targets()["my-api-board"].facts["cores"] == 2
    assert "cortex-a72" in edgec.targets()


def test_errors_carry_their_codes() -> None:
    codes = {"UsageError": 2, "BadInput": 3, "SourceError": 3, "UnsupportedModel": 3, "DoesNotFit": 4, "ToolMissing": 5, "DeviceError": 6,
             "Cancelled": 130, "EdgecError": 1}
    assert {name: getattr(edgec, name).exit_code for name in codes} == codes
    assert edgec.UnsupportedModel("no", ["a"]).nodes == ("a",)
    assert edgec.DoesNotFit("no", "by 3").report == "by 3"
    assert edgec.ToolMissing("no qemu", "apt-get install qemu-user").install == "apt-get install qemu-user"


def test_the_kit_for_tests_is_reached_from_the_package() -> None:
    edgec.testing.check("canonicalize", before="edge 1\n\ngraph @g(%x: f32[2]) {\n  %y: f32[2] = Relu(%x)\n  return %y\n}\n", after="same")
