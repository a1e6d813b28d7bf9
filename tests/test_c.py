"""The C side of a bundle: warnings, error codes, two models in one program, threads, sanitizers, cmake."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgec.codegen import c_source
from edgec.codegen.c_source import identifier
from edgec.codegen.manifest import ERRORS
from edgec.codegen.program import Buffer, Call, Kernel, Operand, Port, Program
from edgec.errors import EdgecError
from tests.shared import sanitizing
from tests.toybundle import BYTES, CHUNK, HOST, SHAPE, TASKS, expected, make, program, tensor

COMPILERS = [pytest.param(c, marks=pytest.mark.skipif(not shutil.which(c), reason=f"needs {c}")) for c in ("gcc", "clang")]
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles of the models `one` and `two`, whose kernels are the same and whose weights are not."""
    folder = tmp_path_factory.mktemp("bundles")
    make(folder, "one", seed=1)
    make(folder, "two", seed=2)
    return folder


def run(folder: Path, *command: object) -> str:
    done = subprocess.run([str(c) for c in command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def parts(bundle: Path) -> list[object]:
    """What a program needs of a bundle."""
    name = bundle.stem
    return [bundle / f"{name}.o", bundle / f"{name}_weights.S", f"-I{bundle}", f"-Wa,-I{bundle}"]


ERROR_PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "one.h"

static int expect(const char* what, int32_t code, int32_t wanted) {
  if (code != wanted) printf("%s: %d, not %d\\n", what, (int)code, (int)wanted);
  return code != wanted;
}

int main(void) {
  float* x = aligned_alloc(64, sizeof(float) * 512);
  float* y = aligned_alloc(64, sizeof(float) * 512);
  void* arena = aligned_alloc(64, one_ARENA_BYTES + 64);
  void* wrong = aligned_alloc(64, one_WEIGHTS_BYTES);
  const void* in[1];
  void* out[1];
  int64_t dims[2];
  one_args good, a;
  int bad = 0, i;
  memcpy(wrong, one_weights, one_WEIGHTS_BYTES);
  ((char*)wrong)[24] ^= 1;
  for (i = 0; i < 512; i++) x[i] = 0.001f * (float)i;
  in[0] = x;
  out[0] = y;
  memset(&good, 0, sizeof good);
  good.size = sizeof good;
  good.abi = EDGEC_ABI;
  good.weights = one_weights;
  good.arena = arena;
  good.in = in;
  good.out = out;
  bad += expect("good", one_run_args(&good), one_OK);
  bad += expect("run", one_run(x, y, arena), one_OK);
  bad += expect("no arguments", one_run_args(NULL), one_NULL_ARG);
  a = good; a.size = 8; bad += expect("size", one_run_args(&a), one_ABI);
  a = good; a.abi = EDGEC_ABI + 1; bad += expect("abi", one_run_args(&a), one_ABI);
  a = good; a.level = 1; bad += expect("level", one_run_args(&a), one_ABI);
  a = good; a.flags = 1; bad += expect("flags", one_run_args(&a), one_ABI);
  a = good; a.weights = NULL; bad += expect("no weights", one_run_args(&a), one_NULL_ARG);
  a = good; a.weights = one_weights + 1; bad += expect("weights' alignment", one_run_args(&a), one_ALIGN);
  a = good; a.weights = wrong; bad += expect("wrong weights", one_run_args(&a), one_WEIGHTS);
  a = good; a.arena = NULL; bad += expect("no arena", one_run_args(&a), one_NULL_ARG);
  a = good; a.arena = (char*)arena + 8; bad += expect("arena's alignment", one_run_args(&a), one_ALIGN);
  a = good; a.in = NULL; bad += expect("no inputs", one_run_args(&a), one_NULL_ARG);
  a = good; a.out = NULL; bad += expect("no outputs", one_run_args(&a), one_NULL_ARG);
  in[0] = NULL; bad += expect("no input", one_run_args(&good), one_NULL_ARG);
  in[0] = (char*)x + 2; bad += expect("input's alignment", one_run_args(&good), one_ALIGN);
  in[0] = (char*)x + 4; bad += expect("input aligned as its elements", one_run_args(&good), one_OK);
  in[0] = x; out[0] = (char*)y + 1; bad += expect("output's alignment", one_run_args(&good), one_ALIGN);
  out[0] = y;
  a = good; dims[0] = 8; dims[1] = 32; a.in_dims = dims; bad += expect("dims", one_run_args(&a), one_OK);
  dims[1] = 31; bad += expect("wrong dims", one_run_args(&a), one_DIM);
  a = good; a.out_dims = dims; bad += expect("dims out", one_run_args(&a), one_OK);
  bad += expect("dims out", (int32_t)(dims[0] * 100 + dims[1]), 832);
  a = good; a.first_step = one_STEPS + 1; bad += expect("first step", one_run_args(&a), one_STEP);
  a = good; a.first_step = 1; a.step_count = one_STEPS; bad += expect("step count", one_run_args(&a), one_STEP);
  a = good; a.step_count = 1; bad += expect("one step", one_run_args(&a), one_OK);
  for (i = 0; i < 20; i++) x[i] = 1e9f; /* one of which meets a positive weight */
  bad += expect("data", one_run(x, y, arena), one_INDEX);
  bad += expect("prepare", one_prepare(one_weights, NULL), one_OK);
  bad += expect("prepare with wrong weights", one_prepare(wrong, NULL), one_WEIGHTS);
  bad += expect("cpu", one_check_cpu(NULL), one_OK);
  bad += expect("info", one_info.size == sizeof one_info && one_info.abi == EDGEC_ABI && one_info.steps == one_STEPS
                && one_info.arena_bytes == one_ARENA_BYTES && one_info.weights_bytes == one_WEIGHTS_BYTES
                && memcmp(one_info.id, one_weights + 24, 16) == 0 && one_info.inputs == 1 && one_info.outputs == 1, 1);
  for (i = 0; one_strerror(i) != NULL; i++) printf("%d %s\\n", i, one_strerror(i));
  bad += expect("strerror", one_strerror(-1) == NULL, 1);
  free(x); free(y); free(arena); free(wrong);
  return bad;
}
"""


@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_error_code_and_no_warning(two: Path, tmp_path: Path, compiler: str) -> None:
    (tmp_path / "errors.c").write_text(ERROR_PROGRAM)
    run(tmp_path, sanitizing(compiler), "-std=c99", "-D_ISOC11_SOURCE", *STRICT, *SANITIZE, "-O2", "errors.c",
        *parts(two / "one.edgec"), "-o", "errors", "-lm")
    assert run(tmp_path, tmp_path / "errors").splitlines() == [f"{i} {sentence}" for i, (_, sentence) in enumerate(ERRORS)]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("standard", ["c99", "c11", "c17"])
def test_headers_and_schedule_are_clean_c(two: Path, tmp_path: Path, compiler: str, standard: str) -> None:
    for name in ("one", "two"):
        shutil.copy(two / f"{name}.edgec" / f"{name}.h", tmp_path)
        requires = {"x86_64": ["avx2", "avx512f"], "aarch64": ["neon", "sve2"]}[HOST.arch]
        (tmp_path / f"{name}_main.c").write_text(c_source.main(program(name, HOST), bytes(16), HOST.triple, requires))
        run(tmp_path, compiler, f"-std={standard}", *STRICT, "-O2", "-c", f"{name}_main.c")
    shutil.copy(two / "one.edgec" / "edgec_rt.h", tmp_path)
    (tmp_path / "all.c").write_text('#include "edgec_rt.h"\n#include "one.h"\n#include "two.h"\n#include "one.h"\n#include "edgec_rt.h"\n')
    run(tmp_path, compiler, f"-std={standard}", *STRICT, "-fsyntax-only", "all.c")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_schedule_under_sanitizers(tmp_path: Path, compiler: str) -> None:
    """The generated C itself, around kernels in C: one parallel_for that runs each task alone, backwards, and one that fails."""
    model = program("one", HOST)
    names = {k: c_source.kernel_name(model, k) for k in model.kernels}
    loop = f"{{ for (int i = begin * {CHUNK}; i < end * {CHUNK}; i++) y[i] = %s; return 0; }}\n"
    (tmp_path / "one.h").write_text(c_source.header(model, "toy"))
    (tmp_path / "one_main.c").write_text(c_source.main(model, bytes(16), HOST.triple, []))
    (tmp_path / "use.c").write_text(f"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "one.h"
int32_t {names["scale"]}(const float* x, const float* w, float* y, int32_t begin, int32_t end) {loop % "x[i] * w[i]"}
int32_t {names["fragile"]}(const float* x, float* y, int32_t begin, int32_t end) {loop % "x[i]"}
int32_t {names["exp"]}(const float* x, float* y, int32_t begin, int32_t end) {loop % "2 * x[i]"}
int32_t {names["add"]}(const float* a, const float* b, float* y, int32_t begin, int32_t end) {loop % "a[i] + b[i]"}

static int32_t backwards(void* ctx, edgec_task run, void* args, int32_t tasks) {{
  int32_t code = 0;
  if (ctx != NULL) return 7;
  while (tasks-- > 0 && code == 0) code = run(args, tasks, tasks + 1);
  return code;
}}

int main(void) {{
  float* x = malloc(sizeof(float) * 256), *y = malloc(sizeof(float) * 256);
  float* weights = aligned_alloc(64, one_WEIGHTS_BYTES);
  void* arena = aligned_alloc(64, one_ARENA_BYTES);
  edgec_rt rt = {{NULL, backwards}};
  uint64_t size = one_WEIGHTS_BYTES - 64;
  int i, bad = 0;
  memset(weights, 0, one_WEIGHTS_BYTES);
  memcpy(weights, "EDGECWTS\1", 9);
  memcpy((char*)weights + 16, &size, 8);
  for (i = 0; i < 256; i++) {{
    x[i] = (float)i;
    weights[16 + i] = 3;
  }}
  bad |= one_run_with(weights, &rt, x, y, arena);
  for (i = 0; i < 256; i++) bad |= y[i] != 7 * x[i];
  memset(y, 0, sizeof(float) * 256);
  bad |= one_run_with(weights, NULL, x, y, arena);
  for (i = 0; i < 256; i++) bad |= y[i] != 7 * x[i];
  rt.ctx = &rt;
  bad |= one_run_with(weights, &rt, x, y, arena) != one_ABORTED;
  free(x); free(y); free(weights); free(arena);
  return bad;
}}
""")
    run(tmp_path, sanitizing(compiler), "-std=c11", *STRICT, *SANITIZE, "-O1", "-g", "use.c", "one_main.c", "-o", "use")
    run(tmp_path, tmp_path / "use")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_two_models_in_one_cpp_program(two: Path, tmp_path: Path, compiler: str) -> None:
    one, other = two / "one.edgec", two / "two.edgec"
    (tmp_path / "main.cpp").write_text("""
        #include <cstdio>
        #include <memory>
        #include <thread>
        #include <vector>
        #include "edgec_rt.h"
        #include "one.h"
        #include "two.h"

        struct alignas(64) arenas { unsigned char one[one_ARENA_BYTES], two[two_ARENA_BYTES]; };

        int main() {
          std::vector<float> x(256), y(256), z(256);
          for (int i = 0; i < 256; i++) x[static_cast<std::size_t>(i)] = static_cast<float>(i) / 256.0f;
          if (one_check_cpu(nullptr) != one_OK || two_check_cpu(nullptr) != two_OK) return 1;
          edgec_rt* rt = edgec_rt_create(3);
          std::vector<std::thread> users;
          std::vector<int> codes(4);
          std::vector<std::vector<float>> results(4, std::vector<float>(256));
          for (std::size_t i = 0; i < 4; i++)
            users.emplace_back([&, i] {
              auto memory = std::make_unique<arenas>();
              for (int k = 0; k < 100; k++)
                codes[i] |= i % 2 ? two_run_with(two_weights, rt, x.data(), results[i].data(), memory->two)
                                  : one_run_with(one_weights, rt, x.data(), results[i].data(), memory->one);
            });
          for (auto& user : users) user.join();
          auto memory = std::make_unique<arenas>();
          if (one_run(x.data(), y.data(), memory->one) || two_run(x.data(), z.data(), memory->two)) return 2;
          edgec_rt_destroy(rt);
          for (std::size_t i = 0; i < 4; i++) if (codes[i] || results[i] != (i % 2 ? z : y)) return 3;
          std::fwrite(y.data(), 4, 256, stdout);
          std::fwrite(z.data(), 4, 256, stdout);
        }
    """)
    plus = {"gcc": "g++", "clang": "clang++"}[compiler]
    run(tmp_path, compiler, "-std=c11", *STRICT, "-O2", "-c", one / "edgec_rt.c", "-o", "rt.o")
    run(tmp_path, plus, "-std=c++17", *STRICT, "-O2", "main.cpp", *parts(one), *parts(other), "rt.o", "-o", "both", "-pthread", "-lm")
    made = subprocess.run([tmp_path / "both"], capture_output=True, check=True).stdout
    x = (np.arange(256, dtype=np.float32) / 256).reshape(SHAPE)
    results = np.frombuffer(made, np.float32).reshape(2, *SHAPE)
    np.testing.assert_allclose(results[0], expected(x, 1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(results[1], expected(x, 2), rtol=1e-6, atol=1e-6)


POOL_PROGRAM = """
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include "edgec_rt.h"

typedef struct { edgec_rt* rt; int32_t done[1000], fails; } job;

static int32_t mark(void* p, int32_t begin, int32_t end) {
  job* j = p;
  for (; begin < end; begin++) j->done[begin]++;
  return 0;
}
static int32_t fail(void* p, int32_t begin, int32_t end) {
  (void)p;
  return begin <= 7 && 7 < end ? 42 : 0;
}
static int32_t nest(void* p, int32_t begin, int32_t end) {
  job inner = {0};
  job* j = p;
  int32_t i;
  inner.rt = j->rt;
  for (; begin < end; begin++) {
    if (j->rt->parallel_for(j->rt->ctx, mark, &inner, 50) != 0) return 1;
  }
  for (i = 0; i < 50; i++) if (inner.done[i] == 0) return 2;
  return 0;
}
static void* user(void* p) {
  job* j = p;
  int32_t k, i, tasks;
  for (k = 0; k < ROUNDS; k++) {
    tasks = 1 + k * 37 % 1000;
    for (i = 0; i < 1000; i++) j->done[i] = 0;
    j->fails += j->rt->parallel_for(j->rt->ctx, mark, j, tasks) != 0;
    for (i = 0; i < 1000; i++) j->fails += j->done[i] != (i < tasks);
    j->fails += j->rt->parallel_for(j->rt->ctx, fail, j, 100) != 42;
    if (k % 10 == 0) j->fails += j->rt->parallel_for(j->rt->ctx, nest, j, 5) != 0;
  }
  return NULL;
}
int main(void) {
  static job jobs[4];
  pthread_t thread[4];
  int32_t threads, i, fails = 0;
  for (threads = 0; threads <= 4; threads++) {
    edgec_rt* rt = edgec_rt_create(threads);
    if (rt == NULL) return 1;
    for (i = 0; i < 4; i++) {
      jobs[i].rt = rt;
      pthread_create(&thread[i], NULL, user, &jobs[i]);
    }
    for (i = 0; i < 4; i++) {
      pthread_join(thread[i], NULL);
      fails += jobs[i].fails;
    }
    edgec_rt_destroy(rt);
  }
  edgec_rt_destroy(NULL);
  printf("%d\\n", (int)fails);
  return fails != 0;
}
"""


@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_type_and_region_in_c_and_cpp(tmp_path: Path, compiler: str) -> None:
    dtypes = ["f16", "f32", "f64", "bf16", "bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"]
    buffers = [Buffer("i", "input", k, 8) for k in range(13)] + [Buffer("o", "output", k, 8) for k in range(13)]
    buffers += [Buffer("s", "state", 64, 64), Buffer("p", "prepared", 128, 64), Buffer("a", "arena", 0, 5_000_000_000)]
    operands = (*(Operand(k, 0) for k in range(13)), *(Operand(k, 0, write=True) for k in range(13, 26)), Operand(26, 8, write=True),
                Operand(27), Operand(28, 4_500_000_000, write=True))
    ins = tuple(Port(f"in {d}", f"in_{d}", d, (), k) for k, d in enumerate(dtypes))
    outs = tuple(Port(f"out {d}", f"out_{d}", d, (2, 0), k) for k, d in enumerate(dtypes))
    kernels = {"k": Kernel("k", "map", "map", generic=False, macs=0, bytes=0, scratch_bytes=0, cycles=0.0, parameters=0)}
    every = Program("every", tuple(buffers), (Call("k", operands, 3),), ins, outs, kernels, arena_bytes=5_000_000_000,
                    state_bytes=128, prepared_bytes=192)
    nothing = Program("nothing", (Buffer("y", "output", 0, 4),), (), (), (Port("y", "y", "f32", (), 0),))
    for model in (every, nothing):
        (tmp_path / f"{model.name}.h").write_text(c_source.header(model, "toy"))
        (tmp_path / f"{model.name}_main.c").write_text(c_source.main(model, bytes(16), HOST.triple, []))
        (tmp_path / f"{model.name}_example.c").write_text(c_source.example(model))
        run(tmp_path, compiler, "-std=c99", *STRICT, "-O2", "-c", f"{model.name}_main.c")
        (tmp_path / "edgec_rt.h").write_text(c_source.fill("edgec_rt.h", {}))
        run(tmp_path, compiler, "-std=c11", *STRICT, "-O2", "-c", f"{model.name}_example.c")
    (tmp_path / "both.cpp").write_text('#include "every.h"\n#include "nothing.h"\n')
    run(tmp_path, {"gcc": "g++", "clang": "clang++"}[compiler], "-std=c++17", *STRICT, "-O2", "-c", "both.cpp")


@needs_gcc
@pytest.mark.parametrize(("sanitizer", "rounds"), [("thread", 300), ("address,undefined", 1000)])
def test_thread_pool(two: Path, tmp_path: Path, sanitizer: str, rounds: int) -> None:
    (tmp_path / "pool.c").write_text(POOL_PROGRAM)
    run(tmp_path, "gcc", "-std=c11", *STRICT, "-O1", "-g", f"-DROUNDS={rounds}", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all",
        "pool.c", two / "one.edgec" / "edgec_rt.c", f"-I{two / 'one.edgec'}", "-o", "pool", "-pthread")
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []  # the thread sanitizer dislikes some random addresses
    assert run(tmp_path, *fixed, tmp_path / "pool") == "0\n"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_example_program(two: Path, tmp_path: Path, compiler: str) -> None:
    bundle = two / "two.edgec"
    x = tensor(9)
    x.tofile(tmp_path / "x.bin")
    (tmp_path / "short.bin").write_bytes(bytes(BYTES - 1))
    (tmp_path / "long.bin").write_bytes(bytes(BYTES + 1))
    sources = [bundle / "main.c", bundle / "edgec_rt.c", *parts(bundle)]
    run(tmp_path, compiler, "-std=c11", *STRICT, "-O2", *sources, "-o", "two", "-pthread", "-lm")
    program = tmp_path / "two"
    assert run(tmp_path, program, "-t", "2", "-n", "3", "x.bin", "y.bin").count(" ms\n") == 3
    np.testing.assert_allclose(np.fromfile(tmp_path / "y.bin", np.float32).reshape(SHAPE), expected(x, 2), rtol=1e-6, atol=1e-6)
    for wrong, why in [("short.bin", "does not have the size"), ("long.bin", "does not have the size"), ("none.bin", "cannot be read")]:
        done = subprocess.run([program, wrong], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert why in done.stderr


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_cmake(two: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(two / f"{name}.edgec", tmp_path / f"{name}.edgec")
    (tmp_path / "CMakeLists.txt").write_text("""
        cmake_minimum_required(VERSION 3.16)
        project(app CXX)
        add_subdirectory(one.edgec)
        add_subdirectory(two.edgec)
        add_executable(app app.cpp)
        target_link_libraries(app PRIVATE edgec::one edgec::two edgec::rt)
    """)
    (tmp_path / "app.cpp").write_text("""
        #include "edgec_rt.h"
        #include "one.h"
        #include "two.h"
        alignas(64) static unsigned char arena[one_ARENA_BYTES + two_ARENA_BYTES];
        int main() { float x[256] = {}, y[256]; return one_run(x, y, arena) + two_run(x, y, arena); }
    """)
    run(tmp_path, "cmake", "-S", ".", "-B", "build")
    run(tmp_path, "cmake", "--build", "build")
    run(tmp_path, tmp_path / "build" / "app")
    run(tmp_path, "cmake", "-S", "one.edgec", "-B", "alone")
    run(tmp_path, "cmake", "--build", "alone")
    assert " ms" in run(tmp_path, tmp_path / "alone" / "one")


def test_identifiers() -> None:
    assert [identifier(t) for t in ("x", "a/b:0", "1x", "", "__init__", "float", "data-0", "größe", "arena")] == [
        "x", "a_b_0", "m1x", "m", "init", "float_", "data_0", "gr_e", "arena_"]


def test_types_that_c_has_not() -> None:
    with pytest.raises(EdgecError, match="cannot have an input or output of type string"):
        c_source.c_type("string")
    assert c_source.element_bytes("f16") == 2
    assert c_source.element_bytes("u8") == 1
    assert c_source.element_bytes("f64") == 8


def test_ports_are_described() -> None:
    model = program("one", HOST)
    text = c_source.header(model, "toy")
    assert f"output y_0: f32[{TASKS},32], called y:0 in the model" in text
    assert "float y_0[256]" in text
    assert "const float x[256]" in text
    evil = Port("*/ int main; /*", "class", "i64", (), 0)
    text = c_source.header(replace(model, inputs=(evil,)), "toy")
    assert "*/ int" not in text
    assert "const int64_t class_[1]" in text
