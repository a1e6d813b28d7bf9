"""Winograd's convolutions between guard pages, against the evaluator in float64, and when they are chosen."""

import ctypes
import mmap
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec
from edgec.codegen.runtime.run import Args
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.layout import Layout, View
from edgec.ir.types import Tensor
from edgec.isa import Isa
from edgec.kernels import plan_winograd
from edgec.kernels.base import Operands, Planned
from edgec.kernels.emit.winograd import emit
from edgec.kernels.emit.winograd_filters import emit as emit_filters
from edgec.kernels.plan import packed, plan
from edgec.kernels.region import Region, region
from edgec.kernels.winograd import WinogradPlan
from edgec.native import NativeDevice
from passes.cluster import image_layout
from tests.kernel_harness import AVX512, HOST, ISAS, gathered, run, scatter

CASES = [
    ((1, 16, 12, 12), 32, (1, 1, 1, 1), True, True), ((2, 20, 7, 9), 24, (1, 1, 1, 1), True, False),
    ((1, 33, 5, 14), 17, (0, 0, 0, 0), False, True), ((1, 64, 6, 6), 48, (2, 0, 1, 1), True, True),
    ((3, 16, 4, 3), 16, (1, 1, 1, 1), True, True), ((1, 16, 1, 1), 16, (1, 1, 1, 1), False, False),
    ((1, 32, 30, 21), 64, (1, 1, 1, 1), True, True)]


def conv(shape: tuple[int, ...], out: int, pads: tuple[int, ...], *, bias: bool, residual: bool) -> tuple[Graph, dict[str, Any]]:
    """A convolution, a residual that is added and a Relu, as a region."""
    n, c, h, w = shape
    rng = np.random.default_rng(2)
    dims = (n, out, h + pads[0] + pads[2] - 2, w + pads[1] + pads[3] - 2)
    x, r, k, b = (Value(s, Tensor("f32", d)) for s, d in (("x", shape), ("r", dims), ("w", (out, c, 3, 3)), ("b", (out,))))
    y, z, o = (Value(s, Tensor("f32", dims)) for s in "yzo")
    attrs = MappingProxyType({"pads": list(pads), "strides": [1, 1], "dilations": [1, 1], "group": 1, "kernel_shape": [3, 3]})
    nodes = [Node("Conv", (x, k, b) if bias else (x, k), (y,), attrs)]
    nodes += [Node("Add", (y, r), (z,))] if residual else []
    nodes.append(Node("Relu", (nodes[-1].output,), (o,)))
    weights = {k: (rng.standard_normal((out, c, 3, 3)) / np.sqrt(9 * c)).astype(np.float32)}
    if bias:
        weights[b] = rng.standard_normal(out).astype(np.float32)
    inputs = (x, r) if residual else (x,)
    outer = (*inputs, *weights)
    fused = Node("edgec.Fused", outer, (o,), MappingProxyType({"kind": "conv", "body": Graph("region", outer, (o,), tuple(nodes))}))
    feeds = {v.name: rng.standard_normal(v.dims).astype(np.float32) for v in inputs}
    return Graph("g", inputs, (o,), (fused,), weights), feeds


def lying(value: Value, isa: Isa) -> Layout | None:
    return image_layout(value.tensor, isa.lanes) if len(value.dims) == 4 else None


def formed(graph: Graph, isa: Isa, m: int) -> Planned:
    operands = Operands.of(graph.weights, lambda v: View.of(v.dims, lying(v, isa) if v not in graph.weights else None))
    what = region(graph.nodes[0])
    assert isinstance(what, Region)
    planned = plan_winograd._form(what, isa, operands, m)
    assert planned is not None
    return planned


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("shape", "out", "pads", "bias", "residual"), CASES)
def test_results(shape: tuple[int, ...], out: int, pads: tuple[int, ...], bias: bool, residual: bool, m: int, isa: Isa) -> None:  # noqa: FBT001
    graph, feeds = conv(shape, out, pads, bias=bias, residual=residual)
    planned = formed(graph, isa, m)
    (position, filters), = planned.plan.prepare
    weight = planned.inputs[position]
    arrays = []
    for i, v in enumerate(planned.inputs):
        if i == position:
            arrays.append(run(filters, emit_filters, [packed(filters, 0, graph.weights[weight])]).outputs[0])
        else:
            arrays.append(graph.weights[v] if v in graph.weights else scatter(feeds[v.name], lying(v, isa)))
    outcome = run(planned.plan, emit, arrays)
    assert outcome.code == 0
    result = graph.outputs[0]
    got = gathered(outcome.outputs[0], View.of(result.dims, lying(result, isa)))
    wanted = evaluate(graph, feeds, precise=True)["o"]
    assert np.abs(got - wanted).max() < (1e-5 if m == 2 else 6e-5)


@pytest.mark.parametrize("m", [2, 4])
def test_filters_that_are_stored_are_those_that_are_made_at_start(m: int) -> None:
    graph, _ = conv((1, 19, 9, 9), 37, (1, 1, 1, 1), bias=True, residual=False)
    made, stored = formed(graph, HOST, m), formed(graph, replace(HOST, extra=(("optimize", "start"),)), m)
    (position, filters), = made.plan.prepare
    assert not stored.plan.prepare
    assert [a.role for a in (made.plan.args[position], stored.plan.args[position])] == ["prepared", "weight"]
    weight = graph.weights[stored.inputs[position]]
    wanted = run(filters, emit_filters, [packed(filters, 0, weight)]).outputs[0]
    got = packed(stored.plan, position, weight)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_a_net_that_must_start_quickly_prepares_nothing(tmp_path: Path) -> None:
    plain, early = _two_convolutions(tmp_path), _two_convolutions(tmp_path, aim="start")
    sizes, others = plain.manifest["sizes"], early.manifest["sizes"]
    assert sizes["prepared_bytes"] > others["prepared_bytes"] == others["prepare_only_bytes"] == 0
    assert not early.manifest["prepare"]
    assert others["weights_bytes"] == sizes["weights_bytes"] - sizes["prepare_only_bytes"] + sizes["prepared_bytes"]
    feed = np.random.default_rng(0).standard_normal((1, 32, 24, 24)).astype(np.float32)
    one, other = (edgec.load(b.path).run(feed)["y"] for b in (plain, early))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_it_is_chosen_where_it_is_fast_and_allowed() -> None:
    graph, _ = conv((1, 64, 56, 56), 64, (1, 1, 1, 1), bias=True, residual=True)
    operands = Operands.of(graph.weights, lambda v: View.of(v.dims, lying(v, AVX512) if v not in graph.weights else None))

    def chosen(isa: Isa) -> str:
        made = plan(graph.nodes[0], isa, operands)
        assert isinstance(made, Planned)
        return made.plan.kind

    assert chosen(AVX512) == "winograd"
    assert chosen(replace(AVX512, extra=(("exact", True),))) == chosen(replace(AVX512, extra=(("optimize", "size"),))) == "contract"


def test_a_run_of_blocks_has_scratch_of_its_own() -> None:
    planned = formed(conv((1, 64, 112, 112), 64, (1, 1, 1, 1), bias=True, residual=False)[0], AVX512, 4).plan
    assert isinstance(planned, WinogradPlan)
    assert planned.tasks == planned.runs * planned.parts > 1
    assert planned.args[-1].role == "scratch"


def test_filters_must_be_worth_the_bytes_that_come_from_memory() -> None:
    graph, _ = conv((1, 192, 14, 14), 320, (1, 1, 1, 1), bias=True, residual=False)
    operands = Operands.of(graph.weights, lambda v: View.of(v.dims, lying(v, AVX512) if v not in graph.weights else None))

    def kept(bandwidth: float) -> int:
        made = plan(graph.nodes[0], replace(AVX512, dram_bytes_per_cycle=bandwidth), operands)
        assert isinstance(made, Planned)
        return sum(a.elements for a in made.plan.args if a.role in ("weight", "prepared"))

    weight, bias = 192 * 320, 320
    assert [kept(b) - bias for b in (1000.0, 8.0, 0.1)] == [weight * 36, weight * 16, weight * 9]


def test_weights_that_only_preparing_reads_may_be_given_back(tmp_path: Path) -> None:
    """They are the last of the file, each may be overwritten as soon as that is said, and no thread count changes a bit."""
    made = _two_convolutions(tmp_path)
    feed = np.random.default_rng(0).standard_normal((1, 32, 24, 24)).astype(np.float32)
    session = edgec.load(made.path)
    wanted = session.run(feed)["y"]
    name, sizes = made.manifest["c_name"], made.manifest["sizes"]
    assert isinstance(session._device, NativeDevice)
    last = slice(-sizes["prepare_only_bytes"] + mmap.PAGESIZE, -mmap.PAGESIZE)
    assert np.fromfile(made.path / f"{name}.weights.bin", np.uint8)[last].any()
    assert not session._device._weights.array[last].any()                 # pages that were given back are zeros
    library = ctypes.CDLL(str(made.path / f"lib{name}.so"))
    pool = ctypes.CDLL(str(made.path / "libedgec_rt.so"))
    pool.edgec_rt_create.restype = ctypes.c_void_p
    for threads in (0, 3):
        data = np.fromfile(made.path / f"{name}.weights.bin", np.uint8)
        weights, prepared, arena = (_aligned(n) for n in (data.size, sizes["prepared_bytes"], sizes["arena_bytes"]))
        weights[:] = data
        told: list[tuple[int, int]] = []

        def release(_: None, start: int, size: int, weights: Any = weights, told: Any = told) -> None:
            told.append((start - weights.ctypes.data, size))
            weights[told[-1][0]:sum(told[-1])] = 0xFF

        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)
        rt = ctypes.c_void_p(pool.edgec_rt_create(threads)) if threads else None
        assert library[f"{name}_prepare_with"](*(ctypes.c_void_p(m.ctypes.data) for m in (weights, prepared)), rt, kind(release), None) == 0
        assert len(told) == 2
        assert len({start for start, _ in told}) == 1
        assert 0 < told[0][1] < told[1][1] == data.size - told[0][0] == sizes["prepare_only_bytes"] == (64 + 64) * 32 * 9 * 4
        out = np.full_like(wanted, np.nan)
        pointers = [(ctypes.c_void_p * 1)(a.ctypes.data) for a in (feed, out)]
        args = Args(size=ctypes.sizeof(Args), abi=1, weights=weights.ctypes.data, prepared=prepared.ctypes.data, arena=arena.ctypes.data,
                    ins=ctypes.addressof(pointers[0]), outs=ctypes.addressof(pointers[1]))
        assert library[f"{name}_run_args"](ctypes.byref(args)) == 0
        assert np.array_equal(out, wanted)


def _aligned(size: int) -> np.ndarray[Any, Any]:
    block = np.zeros(size + 64, np.uint8)
    return block[(start := -block.ctypes.data % 64):start + size]


def _two_convolutions(folder: Path, aim: str = "speed") -> edgec.Bundle:
    """Two layers of Winograd's method, and around them some that need their weights in every run."""
    rng = np.random.default_rng(1)
    names, weights = ["x", "a", "b", "c", "d", "y"], [(32, 32, 1, 1), (64, 32, 3, 3), (32, 64, 1, 1), (64, 32, 3, 3), (64, 64, 1, 1)]
    nodes = [helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[shape[2] // 2] * 4) for i, shape in enumerate(weights)]
    tensors = [numpy_helper.from_array((rng.standard_normal(s) / 16).astype(np.float32), f"w{i}") for i, s in enumerate(weights)]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in (("x", (1, 32, 24, 24)), ("y", (1, 64, 24, 24)))]
    model = helper.make_model(helper.make_graph(nodes, "two", ports[:1], ports[1:], tensors), opset_imports=[helper.make_opsetid("", 17)])
    return edgec.build(model, target="host", output=folder / f"two.{aim}.edgec", name="two", optimize_for=aim)
