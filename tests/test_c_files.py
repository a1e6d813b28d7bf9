"""Models as C99: without a warning, with the numbers of the machine code, for every compiler that is here."""

import ctypes
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgec import cli
from edgec.build import build, compile_graph, read, sources
from edgec.codegen import c_files, c_source
from edgec.codegen.object import kernel_texts
from edgec.errors import BadInput, DoesNotFit, EdgecError
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Array
from edgec.lang.text import parse
from edgec.target import find, from_text, scalar
from tests import c_programs
from tests.bundles import feeds, source
from tests.c_programs import STRICT

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")


@pytest.mark.parametrize(("name", "compiler"), [
    ("digits_cnn", "gcc"), ("mlperf_kws_dscnn_fp32", "clang"), ("mlperf_kws_dscnn_qdq_s8", "clang"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("digits_cnn", "clang"), ("digits_transformer", "gcc"), ("digits_mobilenet", "clang"), ("squeezenet_fp16", "gcc")))])
def test_c_gives_what_the_object_gives(name: str, compiler: str, tmp_path: Path) -> None:
    """The same plans, once through LLVM and once through C, differ by the rounding of fused multiply-adds alone."""
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    narrow = scalar(find("host"))
    (tmp_path / "narrow.target").write_text(narrow.text())
    made = compile_graph(read(source(name), static=True), narrow, name)
    library = c_programs.compiled(made, tmp_path / "c", compiler)
    bundle = build(source(name), tmp_path / "narrow.target", tmp_path / "made.edgec")
    for seed in (1, 2):
        given = feeds(bundle, seed)
        got = c_programs.run(made, library, given)
        for key, wanted in bundle.load(poison=True).run(given).items():
            if "qdq" in name:
                assert got[key].tobytes() == wanted.tobytes()
            else:
                assert float(np.abs(got[key] - wanted).max()) <= 2e-6 * float(np.abs(wanted).max())


@pytest.mark.skipif(not shutil.which("arm-none-eabi-gcc"), reason="arm-none-eabi-gcc is not installed")
@pytest.mark.parametrize(("core", "name"), [("cortex-m3", "digits_gru"), ("cortex-m4", "digits_cnn"), ("cortex-m33", "digits_mobilenet")])
def test_a_compiler_for_microcontrollers_has_nothing_to_say(core: str, name: str, tmp_path: Path) -> None:
    made = compile_graph(read(source(name), static=True), scalar(find(core)), name)
    folder = c_programs.write(made, tmp_path / "c")
    for file in (f"{name}.c", f"{name}_weights.c", "main.c"):
        done = subprocess.run(["arm-none-eabi-gcc", f"-mcpu={core}", "-mthumb", *STRICT, "-O2", "-c", file, "-o", f"{file}.o"], cwd=folder,
                              capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


# ---- what C means

FLOATS = ("Abs", "Neg", "Sign", "Relu", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Gelu", "Mish", "Softsign", "Softplus",
          "Sigmoid", "Tanh", "Erf", "Exp", "Sin", "Cos", "Floor", "Ceil", "Round", "Reciprocal", "ThresholdedRelu", "LeakyRelu", "Swish")
PAIRS = ("Add", "Sub", "Mul", "Div", "Max", "Min")
LONG, COUNT = ("i32", "i64"), 96
CODES = {"f32": 1, "u8": 2, "i8": 3, "u16": 4, "i16": 5, "i32": 6, "i64": 7, "f16": 10, "f64": 11, "u32": 12, "u64": 13, "bf16": 16}
"""Element types in ONNX's words."""


def elementwise() -> str:
    """A graph with one kernel for each operator; all are results."""
    lines, names = list[str](), list[str]()

    def say(name: str, dtype: str, what: str) -> None:
        lines.append(f"%{name}: {dtype}[{COUNT}] = {what}")
        names.append(f"%{name}")

    for op in FLOATS:
        say(op, "f32", f"{op}(%x)")
    say("magnitude", "f32", "Abs(%x)")
    for op in ("Log", "Sqrt"):
        say(op, "f32", f"{op}(%magnitude)")
    say("Pow", "f32", "Pow(%magnitude, %y)")
    for op in ("IsNaN", "IsInf"):
        say(op, "bool", f"{op}(%Log)")
    for op in ("Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal"):
        say(op, "bool", f"{op}(%x, %y)")
    say("Where", "f32", "Where(%Less, %x, %y)")
    say("Not", "bool", "Not(%Less)")
    for op in ("And", "Or", "Xor"):
        say(op, "bool", f"{op}(%Less, %Greater)")
    for op in PAIRS:
        say(f"f32_{op}", "f32", f"{op}(%x, %y)")
    for dtype in ("i8", "u8", "i16", "u16", "i32", "i64", "u32", "u64"):
        say(f"to_{dtype}", dtype, f"Cast(%n) {{to={CODES[dtype]}}}")
        say(f"from_{dtype}", "f32", f"Cast(%to_{dtype}) {{to=1}}")
    for dtype in LONG:
        for op in (*PAIRS, "Mod"):
            if op not in ("Div", "Mod"):
                say(f"{dtype}_{op}", dtype, f"{op}(%to_{dtype}, %to_{dtype})")
        say(f"{dtype}_Neg", dtype, f"Neg(%to_{dtype})")
        say(f"{dtype}_Sign", dtype, f"Sign(%to_{dtype})")
        for op in ("Div", "Mod"):
            say(f"{dtype}_{op}", dtype, f"{op}(%to_{dtype}, %d_{dtype})")
    for dtype in ("u8", "u16", "u32", "u64"):
        say(f"{dtype}_shift", dtype, f'BitShift(%to_{dtype}, %s_{dtype}) {{direction="LEFT"}}')
        say(f"{dtype}_right", dtype, f'BitShift(%to_{dtype}, %s_{dtype}) {{direction="RIGHT"}}')
        say(f"{dtype}_not", dtype, f"BitwiseNot(%to_{dtype})")
        say(f"{dtype}_and", dtype, f"BitwiseAnd(%to_{dtype}, %s_{dtype})")
    say("half", "f16", "Cast(%x) {to=10}")
    say("single", "f32", "Cast(%h) {to=1}")
    say("double", "f64", "Cast(%x) {to=11}")
    say("wide", "f64", "Exp(%double)")
    say("brain", "bf16", "Cast(%x) {to=16}")
    divisors = ", ".join(f"%d_{d}: {d}[{COUNT}]" for d in LONG)
    shifts = ", ".join(f"%s_{d}: {d}[{COUNT}]" for d in ("u8", "u16", "u32", "u64"))
    inputs = f"%x: f32[{COUNT}], %y: f32[{COUNT}], %n: f32[{COUNT}], %h: f16[{COUNT}], {divisors}, {shifts}"
    return f"graph @g({inputs}) {{\n" + "\n".join(lines) + f"\nreturn {', '.join(names)}\n}}"


@needs_gcc
def test_every_operator_means_the_same_in_c(tmp_path: Path) -> None:
    graph, random = parse(elementwise()), np.random.default_rng(0)
    made = compile_graph(graph, scalar(find("host")), "g")
    x = random.normal(0, 3, COUNT).astype(np.float32)
    x[:8] = 0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 88.0, -100.0
    given = {"x": x, "y": random.normal(0, 2, COUNT).astype(np.float32), "n": random.integers(0, 128, COUNT).astype(np.float32)}
    given["h"] = random.normal(0, 1, COUNT).astype(np.float16)
    given |= {f"d_{d}": random.choice([-7, -1, 1, 2, 13], COUNT).astype(d.replace("i", "int")) for d in LONG}
    given |= {f"s_{d}": random.integers(0, 8, COUNT).astype(d.replace("u", "uint")) for d in ("u8", "u16", "u32", "u64")}
    got = c_programs.run(made, c_programs.compiled(made, tmp_path / "c"), given)
    with np.errstate(all="ignore"):
        wanted = evaluate(graph, given)
    assert len(got) == len(wanted) > 90
    for name, value in wanted.items():
        if value.dtype.kind in "iub":
            np.testing.assert_array_equal(got[name], value, err_msg=name)
        else:
            np.testing.assert_allclose(got[name].astype(np.float64), value.astype(np.float64), rtol=2e-6, atol=2e-6, err_msg=name)


@needs_gcc
def test_halves_are_those_of_numpy(tmp_path: Path) -> None:
    text = c_source.fill("half.c", {})
    source = "#include <stddef.h>\n#include <stdint.h>\n" + "".join(c_files._bits(text)) + text + """
        void widen(const uint16_t* a, float* b, size_t n) { for (size_t i = 0; i < n; i++) b[i] = f32_of_f16(a[i]); }
        void narrow(const float* a, uint16_t* b, size_t n) { for (size_t i = 0; i < n; i++) b[i] = f16_of_f32(a[i]); }"""
    (tmp_path / "half.c").write_text(source)
    subprocess.run(["gcc", *STRICT, "-O1", "-fPIC", "-shared", "half.c", "-o", "half.so"], cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "half.so"))

    def call(function: str, given: Array, dtype: type) -> Array:
        made: Array = np.empty(given.shape, dtype)
        getattr(library, function)(ctypes.c_void_p(given.ctypes.data), ctypes.c_void_p(made.ctypes.data), ctypes.c_size_t(given.size))
        return made

    halves = np.arange(65536, dtype=np.uint16)
    wide = call("widen", halves, np.float32)
    np.testing.assert_array_equal(wide, halves.view(np.float16).astype(np.float32))
    between = (wide[:-1].astype(np.float64) + wide[1:]) / 2                    # ties, and their neighbors
    ties = between[np.isfinite(between)].astype(np.float32)
    singles = np.concatenate([wide, ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf)),
                              np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32).view(np.float32)])
    with np.errstate(over="ignore"):
        expected = singles.astype(np.float16)
    got = call("narrow", singles, np.uint16).view(np.float16)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(got[numbers].view(np.uint16), expected[numbers].view(np.uint16))


def test_vectors_have_no_words_in_c() -> None:
    made = compile_graph(read(source("digits_cnn"), static=True), "cortex-a72", "digits_cnn")
    with pytest.raises(EdgecError, match="cannot be shown as c: EdgecError: a kernel "):
        kernel_texts(made.schedule.plans, made.isa, "c", jobs=1)


# ---- the folder

def test_weights_are_an_array_or_bytes_for_an_assembler(tmp_path: Path) -> None:
    made = compile_graph(read(source("digits_gru"), static=True), scalar(find("cortex-m4")), "digits_gru")
    array, bytes_ = sources(made, jobs=1, array=True), sources(made, jobs=1, array=False)
    assert set(array) == {"digits_gru.c", "digits_gru.h", "main.c", "digits_gru_weights.c"}
    assert set(bytes_) == {"digits_gru.c", "digits_gru.h", "main.c", "digits_gru_weights.S", "digits_gru.weights.bin"}
    assert array["digits_gru.c"] == bytes_["digits_gru.c"]
    numbers = array["digits_gru_weights.c"].decode().partition("{\n")[2].replace("};", "").replace(",\n", ",").strip(" ,\n")
    assert bytes(int(n) for n in numbers.split(",") if n.strip()) == bytes_["digits_gru.weights.bin"]
    assert "digits_gru_weights.c" in sources(made, jobs=1)


def test_what_would_not_fit_is_refused_in_c_too() -> None:
    small = from_text("target small : cortex-m4 { memory sram { size = 32 KiB } }")
    made = compile_graph(read(source("digits_cnn"), static=True), scalar(small), "digits_cnn")
    with pytest.raises(DoesNotFit, match="does not fit on small: 33128 bytes too much for sram"):
        sources(made)


def test_the_command_says_that_c_is_scalar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["build", str(source("digits_mobilenet")), "--target", "cortex-a72", "--emit", "c", "--progress", "none"]
    assert cli.main([*command, "--json"]) == 0
    said = capsys.readouterr()
    assert "cortex-a72 computes 4 numbers at once: C has no words for that, so this code is scalar" in said.err
    folder = tmp_path / json.loads(said.out)["path"]
    assert folder.name == "digits_mobilenet.cortex-a72.src"
    text = (folder / "digits_mobilenet.c").read_text()
    assert text.count("\nstatic int32_t digits_mobilenet_k_") == len(set(text.split("\nstatic int32_t digits_mobilenet_k_"))) - 1 > 5
    assert cli.main(command) == 0                                              # its own folder is written anew
    (folder / "digits_mobilenet.c").unlink()
    assert cli.main(command) == BadInput.exit_code
    assert "holds other files" in capsys.readouterr().err
    assert cli.main(["build", str(source("digits_mobilenet")), "--weights", "array"]) == 2
