"""Recurrent layers that run side by side on several threads: the same bits as one after the other, whoever hands out the rounds."""

import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import edgec
from edgec import why
from edgec.build import compile_graph, read, sources
from edgec.bundle import Bundle
from edgec.codegen.program import Call, Program
from edgec.ir.evaluate import evaluate
from edgec.onnx import import_model
from edgec.target import find, scalar
from tests.toybundle import needs_qemu

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LINEAR: dict[str, Any] = {"linear_before_reset": 1}


def stack(
    op: str, sizes: tuple[int, ...], steps: int = 40, batch: int = 1, *, states: bool = False, chained: bool = False, last: bool = False,
    directions: tuple[str, ...] = (), **attrs: Any,
) -> ModelProto:
    """Layers one above the other: x f32[steps, batch, sizes[0]] to y f32[steps, batch, sizes[-1]].

    `states`: each layer begins with states that are inputs of the model; `chained`: each but the first with the last ones of the layer
    before it; `last`: the last states are outputs. `directions` of the layers, forward where nothing is said. With `layout=1` among the
    attributes the batch is the first axis of everything.
    """
    def dims(*axes: int) -> list[int]:
        return [axes[1], axes[0], axes[2]] if attrs.get("layout") else list(axes)

    random, weights, nodes, value = np.random.default_rng(7), dict[str, np.ndarray](), list[Any](), "x"
    inputs, outputs, kept = {"x": dims(steps, batch, sizes[0])}, {"y": dims(steps, batch, sizes[-1])}, "hc" if op == "LSTM" else "h"
    for i, (width, hidden) in enumerate(pairwise(sizes)):
        shapes = {"w": (GATES[op] * hidden, width), "r": (GATES[op] * hidden, hidden), "b": (2 * GATES[op] * hidden,)}
        weights |= {f"{n}{i}": (random.standard_normal((1, *s)) / np.sqrt(s[-1])).astype(np.float32) for n, s in shapes.items()}
        given = [f"{s}{i}" for s in kept] if states else [f"last_{s}{i - 1}" for s in kept] if chained and i else []
        inputs |= {f"{s}{i}": dims(1, batch, hidden) for s in kept if states}
        outputs |= {f"last_{s}{i}": dims(1, batch, hidden) for s in kept if last}
        nodes.append(helper.make_node(op, [value, f"w{i}", f"r{i}", f"b{i}", *([""] * bool(given)), *given],
                                      [f"v{i}", *(f"last_{s}{i}" for s in kept)], f"layer{i}", hidden_size=hidden,
                                      direction=directions[i] if directions else "forward", **attrs))
        value = "y" if i == len(sizes) - 2 else f"s{i}"
        nodes.append(helper.make_node("Squeeze", [f"v{i}", "axis"], [value]))
    weights["axis"] = np.array([2 if attrs.get("layout") else 1])
    ends, results = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in p.items()] for p in (inputs, outputs))
    graph = helper.make_graph(nodes, "stack", ends, results, [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def made(proto: ModelProto, target: str = "host", **options: Any) -> Program:
    return compile_graph(import_model(proto), target, "stack", **options).schedule.program


def feeds(bundle: Bundle, seed: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {p["name"]: random.standard_normal(p["shape"]).astype(np.float32) for p in bundle.manifest["inputs"]}


def behind(program: Program) -> list[int]:
    return [s.behind for s in program.calls if s.op in GATES]


STACKS = [
    ("lstm", stack("LSTM", (48, 72, 64), 67)), ("lstm_states", stack("LSTM", (40, 72, 64, 56), 50, 3, states=True, last=True)),
    ("lstm_reverse", stack("LSTM", (64, 72, 64), 65, directions=("reverse", "reverse"))),
    ("lstm_batch_first", stack("LSTM", (64, 72, 64), 67, 3, states=True, last=True, layout=1)),
    ("gru_linear", stack("GRU", (48, 80, 64), 64, last=True, **LINEAR)), ("gru", stack("GRU", (33, 81, 90), 71, states=True)),
    ("rnn", stack("RNN", (128, 160, 160, 128), 49, 2))]


@pytest.mark.parametrize("proto", [pytest.param(p, id=name) for name, p in STACKS])
def test_every_number_of_threads_gives_the_same_bits(proto: ModelProto, tmp_path: Path) -> None:
    bundle = edgec.build(proto, target="host", output=tmp_path / "stack.edgec")
    calls = [s for s in bundle.manifest["steps"] if s.get("op") in GATES]
    assert all(s["behind"] > 0 for s in calls[1:])
    assert not calls[0]["behind"]
    assert len({s["rounds"] for s in calls}) == 1 < calls[0]["rounds"]
    given = feeds(bundle)
    wanted = bundle.load(poison=True).run(given)
    for name, exact in evaluate(import_model(proto), given, precise=True).items():
        np.testing.assert_allclose(wanted[name], exact, rtol=0, atol=5e-6 * max(1.0, np.abs(exact).max()))
    for threads in (2, 3, 5):
        session = bundle.load(threads=threads, poison=True)
        for _ in range(20):
            for name, array in session.run(given).items():
                assert array.tobytes() == wanted[name].tobytes(), (name, threads)


def test_single_steps_run_one_after_the_other(tmp_path: Path) -> None:
    bundle = edgec.build(STACKS[1][1], target="host", output=tmp_path / "stack.edgec")
    given = feeds(bundle)
    wanted = bundle.load().run(given)
    for threads in (1, 2):
        found = {}
        for step in bundle.load(threads=threads, poison=True).steps(given):
            for i, operand in enumerate(step.call["operands"]):
                buffer = step.buffers[operand["buffer"]]
                if operand["write"] and buffer["region"] == "output":
                    found[buffer["name"]] = step.read(i)
        assert found == {name: array.tobytes() for name, array in wanted.items()}


@needs_qemu
def test_threads_under_an_emulator(tmp_path: Path) -> None:
    bundle = edgec.build(stack("GRU", (24, 40, 36), 40, last=True, **LINEAR), target="cortex-a72", output=tmp_path / "stack.edgec")
    assert [s["behind"] for s in bundle.manifest["steps"] if s.get("op") == "GRU"] == [0, 1]
    given = feeds(bundle)
    wanted = bundle.load(poison=True).run(given)
    found = bundle.load(threads=2, poison=True).run(given)
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in wanted.items()}


def test_steps_side_by_side_share_no_memory() -> None:
    """X of the first layer and results of the second lie in the arena, where without threads one might take the place of the other."""
    proto = stack("LSTM", (64, 64, 64))
    ends = [helper.make_node("Exp", ["x"], ["e"]), *proto.graph.node, helper.make_node("Neg", ["y"], ["z"])]
    ends[1].input[0], proto.graph.output[0].name = "e", "z"
    graph = helper.make_graph(ends, "between", proto.graph.input, proto.graph.output, proto.graph.initializer)
    program = made(helper.make_model(graph, opset_imports=proto.opset_import, ir_version=8))
    layers = [s for s in program.steps if isinstance(s, Call) and s.op == "LSTM"]
    assert layers[1].behind > 0
    used = {o.buffer for s in layers for o in s.operands if program.buffers[o.buffer].region == "arena"}
    assert len(used) == 5                                              # e, v0, v1, and scratch of both
    places = sorted((program.buffers[b].offset, program.buffers[b].offset + program.buffers[b].bytes) for b in used)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(places))


@pytest.mark.parametrize(("why", "proto"), [
    ("the second needs the end of the first", stack("LSTM", (64, 64, 64), chained=True)),
    ("one goes from the last step to the first", stack("LSTM", (64, 64, 64), directions=("forward", "reverse"))),
    ("they have one round", stack("LSTM", (64, 64, 64), 4)), ("they are tiny", stack("GRU", (8, 8, 8))),
    ("the batch makes two tasks", stack("LSTM", (64, 64, 64), 40, 8)), ("there is one", stack("LSTM", (64, 64), 40))])
def test_what_has_to_wait_or_is_not_worth_it(why: str, proto: ModelProto) -> None:
    assert not any(behind(made(proto))), why


def test_only_where_there_are_threads_and_time_counts() -> None:
    proto = stack("LSTM", (64, 64, 64))
    assert behind(made(proto))[1] > 0
    assert not any(behind(made(proto, "cortex-m7")))
    small = made(proto, optimize_for="size")
    assert not any(behind(small))
    assert small.arena_bytes < made(proto).arena_bytes


RACES = """
#include <stdlib.h>
#include <string.h>
#include "edgec_rt.h"
#include "stack.h"

static int32_t calls, most;

static int32_t backwards(void* ctx, edgec_task run, void* args, int32_t tasks) {
  int32_t code = 0;
  (void)ctx;
  calls++;
  if (tasks > most) most = tasks;
  while (tasks-- > 0 && code == 0) code = run(args, tasks, tasks + 1);
  return code;
}

static int32_t stopped(void* ctx, edgec_task run, void* args, int32_t tasks) {
  (void)run; (void)args; (void)tasks;
  return ++*(int32_t*)ctx == 3 ? 7 : 0;
}

int main(void) {
  static float x[COUNT_X], y[COUNT_Y], wanted[COUNT_Y];
  int32_t i, ended = 0, bad = 0;
  void* arena = aligned_alloc(64, (stack_ARENA_BYTES + 63) / 64 * 64);
  edgec_rt rt = {NULL, backwards}, stops = {&ended, stopped};
  edgec_rt* pool = edgec_rt_create(3);
  for (i = 0; i < COUNT_X; i++) x[i] = (float)(i * 37 % 101) / 50 - 1;
  memset(arena, 0xFF, stack_ARENA_BYTES);
  bad |= stack_run_with(stack_weights, NULL, x, wanted, arena);
  memset(arena, 0xFF, stack_ARENA_BYTES);
  bad |= stack_run_with(stack_weights, &rt, x, y, arena) != stack_OK;
  bad |= (memcmp(y, wanted, sizeof y) != 0) << 1 | (calls < 4) << 2 | (most != 2) << 3;
  for (i = 0; i < 20; i++) {
    memset(arena, 0xFF, stack_ARENA_BYTES);
    memset(y, 0, sizeof y);
    bad |= (stack_run_with(stack_weights, pool, x, y, arena) != stack_OK) << 4;
    bad |= (memcmp(y, wanted, sizeof y) != 0) << 5;
  }
  bad |= (stack_run_with(stack_weights, &stops, x, y, arena) != stack_ABORTED) << 6;
  bad |= (ended != 3) << 7;
  edgec_rt_destroy(pool);
  free(arena);
  return bad;
}
"""


SANITIZERS = {"thread": ["-fsanitize=thread"], "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]}


@pytest.mark.parametrize("flags", SANITIZERS.values(), ids=SANITIZERS)
def test_rounds_in_c_under_sanitizers(flags: list[str], tmp_path: Path) -> None:
    """The whole model in C: on a pool of threads, on a caller's own that runs stages in reverse order, and on one that gives up."""
    gcc = shutil.which("gcc") or pytest.skip("needs gcc")
    proto = stack("LSTM", (20, 24, 24), 40)
    (tmp_path / "stack.onnx").write_bytes(proto.SerializeToString())
    built = compile_graph(read(tmp_path / "stack.onnx", static=True), scalar(find("host")), "stack")
    assert behind(built.schedule.program) == [0, 1]
    for name, data in sources(built, jobs=1, array=True).items():
        (tmp_path / name).write_bytes(data)
    runtime = Path(edgec.__file__).parent / "codegen" / "runtime"
    for file in ("edgec_rt.c", "edgec_rt.h"):
        text = (runtime / file).read_text()
        (tmp_path / file).write_text(text.replace("@ABI@", (runtime / "abi.h").read_text()))
    ports = (*built.schedule.program.inputs, *built.schedule.program.outputs)
    counts = [f"#define COUNT_{p.name.upper()} {int(np.prod(p.shape))}" for p in ports]
    (tmp_path / "main.c").write_text("\n".join(counts) + RACES)
    files = ["main.c", "stack.c", "stack_weights.c", "edgec_rt.c"]
    done = subprocess.run([gcc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", *flags, *files, "-o", "races", "-pthread", "-lm"],
                          cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []       # older libraries of gcc do not know where Linux puts things today
    ran = subprocess.run([*fixed, tmp_path / "races"], capture_output=True, text=True, check=False,
                         env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"})
    assert (ran.returncode, ran.stderr) == (0, "")


def test_why_and_the_program_tell_of_it() -> None:
    proto = stack("LSTM", (64, 72, 72), 65)
    told = why.why(import_model(proto), "layer1", find("host"))
    (kernel,) = (k for k in told.kernels if k.ops[0] == "LSTM")
    assert kernel.tasks == 1 < kernel.rounds
    assert kernel.behind > 0
    assert f"x1 in {kernel.rounds} rounds, {kernel.behind} behind ; v1 <- layer1" in str(made(proto))
