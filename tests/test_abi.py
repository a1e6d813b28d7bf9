"""What a C program meets: names, memory and threads of real models, under sanitizers and between guard pages."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgec.build import compile_graph, read
from edgec.bundle import Bundle
from edgec.codegen import c_source, elf, toolchain
from edgec.codegen.cpu import requirements
from edgec.codegen.object import compile_kernels, cpu_features
from tests.bundles import EXAMPLES, LARGER, ROOT, SMALL, bundle, feeds, source, write_header, write_inputs
from tests.shared import sanitizing

PROGRAMS = ROOT / "tests" / "programs"
STRICT = ("-Wall", "-Wextra", "-Werror")
A72 = ("qemu-aarch64", "-cpu", "cortex-a72")
LIBM = re.compile(r"(a?(sin|cos|tan)h?|atan2|exp(2|m1)?|log(10|1p|2)?|pow|sqrt|cbrt|erfc?|f(abs|loor|ma|max|min|mod)|ceil|hypot|[lt]gamma|"
                  r"nearbyint|remainder|rint|round|roundeven|trunc)f?")

needs_a72 = pytest.mark.skipif(not shutil.which("qemu-aarch64") or not shutil.which("aarch64-linux-gnu-gcc"),
                               reason="needs qemu-aarch64 and aarch64-linux-gnu-gcc")
both_targets = pytest.mark.parametrize("target", ["host", pytest.param("cortex-a72", marks=needs_a72)])
some = pytest.mark.parametrize("name", [*EXAMPLES, *SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGER)])


def run(folder: Path, *command: object) -> str:
    done = subprocess.run([str(c) for c in command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def needs(tool: str) -> str:
    return shutil.which(tool) or pytest.skip(f"needs {tool}")


def host_only() -> None:
    if not toolchain.is_host("x86_64-linux-gnu"):
        pytest.skip("the host target is not x86-64 Linux")


@some
@both_targets
def test_only_public_names_and_nothing_foreign(name: str, target: str) -> None:
    made = bundle(name, target)
    c_name, machine = made.manifest["c_name"], made.manifest["requires"]["machine"]
    whole = elf.read((made.path / f"{c_name}.o").read_bytes())
    more = ["prepare_with"] if made.manifest["prepare"] else []
    assert sorted(whole.exports) == sorted(f"{c_name}_{p}" for p in ("run_args", "prepare", *more, "strerror", "check_cpu", "info"))
    allowed = {"memcpy", "memset", "memmove", *(["getauxval"] if machine == "aarch64" else [])}
    assert not [i for i in whole.imports if i not in allowed and not LIBM.fullmatch(i)]
    assert list(whole.imports) == made.manifest["imports"]
    if nm := shutil.which("nm"):  # what other tools see is the same
        printed = run(made.path, nm, "-P", f"{c_name}.o")
        symbols = [(line.split()[0], line.split()[1]) for line in printed.splitlines()]
        assert sorted(s for s, kind in symbols if kind == "U") == sorted(whole.imports)
        assert sorted(s for s, kind in symbols if kind.isupper() and kind != "U") == sorted(whole.exports)
        pool = {line.split()[0] for line in run(made.path, nm, "-P", "-D", "-u", "libedgec_rt.so").splitlines()}
        assert not {p for p in pool if not p.startswith("pthread_")} - {"calloc", "free", "memset", "memcpy"}


# Memory


def test_names_of_libm_are_told_from_others() -> None:
    assert all(LIBM.fullmatch(n) for n in ("expf", "exp", "tanhf", "erff", "fmaf", "roundevenf", "log1p", "powf"))
    assert not any(LIBM.fullmatch(n) for n in ("malloc", "printf", "__cpu_model", "fopen", "expfoo", "__expf_finite"))


@some
@pytest.mark.parametrize("how", ["above", "below"])
@both_targets
def test_nothing_outside_of_a_buffer_is_touched(name: str, how: str, target: str, tmp_path: Path) -> None:
    """Each buffer ends, or begins, at a page that nobody may touch; inputs and weights cannot be written."""
    made, emulated = bundle(name, target), target != "host"
    compiler = needs("aarch64-linux-gnu-gcc" if emulated else "gcc")
    write_header(made, tmp_path)
    c_name, given = made.manifest["c_name"], feeds(made, 3)
    run(tmp_path, compiler, "-std=c11", *STRICT, "-O1", *(["-static"] if emulated else []), PROGRAMS / "guarded.c", "-I.", f"-I{made.path}",
        made.path / f"{c_name}.o", "-o", "guarded", "-lm")
    results = [tmp_path / f"out{i}.bin" for i in range(len(made.manifest["outputs"]))]
    run(tmp_path, *(A72 if emulated else ()), tmp_path / "guarded", how, made.path / f"{c_name}.weights.bin",
        *write_inputs(given, tmp_path), *results)
    for path, (port, array) in zip(results, made.load(poison=True).run(given).items(), strict=True):
        assert path.read_bytes() == array.tobytes(), f"{port} has other bits than in a Session"


def parts(name: str, folder: Path) -> list[Path]:
    """The schedule of a model as C, its header, and its kernels as objects of their own: the C can be compiled in any way then."""
    made = compile_graph(read(source(name), static=True, notes=[]), "host", name)
    program = made.schedule.program
    objects = compile_kernels(made.schedule.plans, made.isa)
    (folder / f"{program.name}.h").write_text(c_source.header(program, "host"))
    identity = bytes.fromhex(bundle(name).manifest["id"])
    requires = requirements(made.isa.triple, cpu_features(made.isa))
    (folder / "schedule.c").write_text(c_source.main(program, identity, made.isa.triple, requires))
    kernels = [folder / f"kernel{i}.o" for i in range(len(objects))]
    for path, (key, data) in zip(kernels, objects.items(), strict=True):
        path.write_bytes(elf.write(elf.rename(elf.read(data), {program.kernels[key].symbol: c_source.kernel_name(program, key)})))
    return [folder / "schedule.c", *kernels]


def sanitized(name: str, program: str, folder: Path, sanitizer: str, *more: object) -> Bundle:
    """Compile one of tests/programs with a model's schedule under a sanitizer."""
    host_only()
    made = bundle(name)
    write_header(made, folder)
    run(folder, sanitizing("clang"), "-std=c11", *STRICT, "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all",
        PROGRAMS / f"{program}.c", "-I.", *parts(name, folder), *more, "-o", program, "-lm", "-pthread")
    return made


@pytest.mark.parametrize("name", [*EXAMPLES, *SMALL])
def test_the_schedule_is_clean_under_address_and_undefined_behavior_sanitizers(name: str, tmp_path: Path) -> None:
    made, given = sanitized(name, "guarded", tmp_path, "address,undefined"), feeds(bundle(name), 3)
    expected = made.load().run(given)
    for how in ("heap", "above", "below"):
        results = [tmp_path / f"out{i}.bin" for i in range(len(expected))]
        run(tmp_path, tmp_path / "guarded", how, made.path / f"{name}.weights.bin", *write_inputs(given, tmp_path), *results)
        assert [p.read_bytes() for p in results] == [a.tobytes() for a in expected.values()]


# Threads


@pytest.mark.parametrize(("name", "sanitizer"), [
    ("digits_cnn", "thread"), ("mlperf_kws_dscnn_fp32", "thread"), ("digits_mobilenet", "address,undefined")])
def test_a_crowd_on_one_pool(name: str, sanitizer: str, tmp_path: Path) -> None:
    """Three callers, pools of 1, 2 and 4 threads: no race is seen, and every run has the bits of a run alone."""
    place = bundle(name).path
    made = sanitized(name, "crowd", tmp_path, sanitizer, place / "edgec_rt.c", f"-I{place}")
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []  # the thread sanitizer dislikes some random addresses
    assert run(tmp_path, *fixed, tmp_path / "crowd", place / f"{name}.weights.bin", *write_inputs(feeds(made, 4), tmp_path)) == "0\n"


# Two models in one program


@pytest.mark.parametrize(("target", "c", "plus"), [
    ("host", "gcc", "g++"), ("host", "clang", "clang++"),
    pytest.param("cortex-a72", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++", marks=needs_a72)])
def test_two_models_in_one_program(target: str, c: str, plus: str, tmp_path: Path) -> None:
    """One program holds both and runs them at the same time on one pool: the bits are those of each alone."""
    one, two = bundle("digits_cnn", target), bundle("digits_transformer", target)
    emulator, static = ([], []) if target == "host" else (A72, ["-static"])
    run(tmp_path, needs(c), "-std=c11", *STRICT, "-O2", "-c", one.path / "edgec_rt.c", "-o", "rt.o")
    run(tmp_path, needs(plus), "-std=c++17", *STRICT, "-O2", *static, PROGRAMS / "two.cpp", *linked(one), *linked(two), f"-I{one.path}",
        "rt.o", "-o", "both", "-pthread", "-lm")
    given = feeds(one, 5)
    write_inputs(given, tmp_path)
    run(tmp_path, *emulator, tmp_path / "both", "in0.bin", "out.bin")
    found = np.fromfile(tmp_path / "out.bin", np.float32).reshape(2, 10)
    for made, logits in zip((one, two), found, strict=True):
        assert made.load().run(given)["logits"].tobytes() == logits.tobytes()
    assert not np.allclose(*found)


def linked(made: Bundle) -> Sequence[object]:
    """What a program needs of a bundle."""
    name = made.manifest["c_name"]
    return made.path / f"{name}.o", made.path / f"{name}_weights.S", f"-I{made.path}", f"-Wa,-I{made.path}"


# Another processor than it was built for


REFUSAL = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
int main(void) {
  static float x[1 << 16], y[1 << 16];
  void* arena = aligned_alloc(64, (MODEL(ARENA_BYTES) + 63) / 64 * 64);
  const char* missing = NULL;
  int code = MODEL(check_cpu)(&missing), wanted = MODEL(CPU);
  if (code == MODEL(OK)) wanted = MODEL(OK);
  void* prepared = aligned_alloc(64, (MODEL(PREPARED_BYTES) + 64) / 64 * 64);
  if (MODEL(prepare)(MODEL(weights), prepared) != wanted) return 9;
#if PREPARED
  if (MODEL(run)(x, y, arena, prepared) != wanted) return 9;
#else
  if (MODEL(run)(x, y, arena) != wanted) return 9;
#endif
  printf("%s: %s\\n", missing != NULL ? missing : "nothing", MODEL(strerror)(code));
  return code;
}
"""


@needs_a72
def test_a_newer_processors_code_refuses_an_older_one(tmp_path: Path) -> None:
    made = bundle("digits_gru", "cortex-a76")
    (tmp_path / "refusal.c").write_text(REFUSAL)
    write_header(made, tmp_path)
    prepared = f"-DPREPARED={int(made.manifest['sizes']['prepared_bytes'] > 0)}"
    compiler = ("aarch64-linux-gnu-gcc", "-std=c11", *STRICT, "-O1", "-static", *linked(made), "-I.", prepared)
    run(tmp_path, *compiler, "refusal.c", "-o", "refusal", "-lm")
    run(tmp_path, *compiler, made.path / "main.c", made.path / "edgec_rt.c", "-o", "example", "-pthread", "-lm")
    older, newer = ([["qemu-aarch64", "-cpu", cpu, tmp_path / p] for p in ("refusal", "example")] for cpu in ("cortex-a72", "max"))
    done = [subprocess.run(command, capture_output=True, text=True, check=False) for command in older]
    assert (done[0].returncode, done[1].returncode) == (8, 1)
    assert re.fullmatch(r"(dotprod|fullfp16|rdm): this processor lacks an instruction that the code uses\n", done[0].stdout)
    assert re.fullmatch(r"this processor lacks: (dotprod|fullfp16|rdm)\n", done[1].stderr)
    assert run(tmp_path, *newer[0]) == "nothing: everything went well\n"
    assert " ms" in run(tmp_path, *newer[1])
