"""What a node is as a region, where a slice cuts channels, and results that are no kernel's own."""

from types import MappingProxyType

import pytest

from edgec.access import module
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.kernels.region import Region, region
from edgec.pipeline import Context, run_passes
from edgec.target import find
from tests.small import graph

catalog = module("passes.catalog")


def fused(given: Graph) -> Node:
    """The whole graph as one region."""
    body = Graph("body", (*given.inputs, *given.weights), given.outputs, given.nodes)
    outer = tuple(Value(v.name, v.type) for v in body.inputs)
    return Node("edgec.Fused", outer, (Value("out", given.outputs[0].type),), MappingProxyType({"kind": "test", "body": body}))


def test_a_region_numbers_its_anchor_its_operands_and_its_steps() -> None:
    node = fused(graph("%x: f32[2,3], %r: f32[2,4]", "%w: f32[3,4] = random 1", "%m: f32[2,4] = MatMul(%x, %w)",
                       "%a: f32[2,4] = Add(%r, %m)", "%y: f32[2,4] = Relu(%a)"))
    made = region(node)
    assert isinstance(made, Region)
    assert made.anchor is not None
    assert made.anchor.op == "MatMul"
    assert [v.name for v in made.operands] == ["r"]
    assert [(i.op, i.args) for i in made.expr.instrs] == [("Add", (1, 0)), ("Relu", (2,))]


def test_a_stored_weight_is_widened_by_the_anchor() -> None:
    node = fused(graph("%x: f32[2,3]", "%w: f16[3,4] = random 1", "%c: f32[3,4] = Cast(%w) {to=1}", "%y: f32[2,4] = MatMul(%x, %c)"))
    made = region(node)
    assert isinstance(made, Region)
    assert [v and v.tensor.dtype for v in made.anchor_inputs] == ["f32", "f16"]
    assert made.expr.instrs == ()


def test_a_clip_with_one_bound_is_min_or_max() -> None:
    def ops(*inputs: str) -> list[str]:
        clip = f"%y: f32[2] = Clip({', '.join(inputs)})"
        made = region(fused(graph("%x: f32[2]", "%l: f32[] = splat 0.0", "%h: f32[] = splat 6.0", clip)))
        assert isinstance(made, Region)
        return [i.op for i in made.expr.instrs]

    assert ops("%x", "%l", "%h") == ["Clip"]
    assert ops("%x", "%l") == ["Max"]
    assert ops("%x") == ["Identity"]


def test_reasons() -> None:
    two = fused(graph("%x: f32[2,3]", "%a: f32[2,3] = Softmax(%x) {axis=1}", "%y: f32[2,3] = Softmax(%a) {axis=0}"))
    assert region(two) == "Softmax and Softmax do not fit into one kernel"
    before = fused(graph("%x: f32[2,3]", "%a: f32[2,3] = Relu(%x)", "%y: f32[2,3] = Softmax(%a) {axis=1}"))
    assert region(before) == "Softmax reads something that is computed inside the region"
    t = Tensor("f32", (2,))
    x = Value("x", t)
    assert region(Node("Max", (x, x, x), (Value("y", t),))) == "Max with these operands is not elementwise arithmetic of one kernel"


@pytest.mark.parametrize(("start", "end", "step", "layout"), [(16, 48, 1, "NCHW4c"), (6, 38, 1, "NHWC"), (0, 64, 2, "NHWC")])
def test_a_slice_that_cuts_blocks_lies_channels_last(start: int, end: int, step: int, layout: str) -> None:
    given = graph("%x: f32[1,64,6,6]", "%w: f32[64,64,1,1] = random 1", "%v: f32[32,32,1,1] = random 2",
                  "%a: f32[1,64,6,6] = Conv(%x, %w) {kernel_shape=[1, 1]}", f"%z: i64[1] = dense [{start}]", f"%e: i64[1] = dense [{end}]",
                  f"%o: i64[1] = dense [1]\n%t: i64[1] = dense [{step}]", "%s: f32[1,32,6,6] = Slice(%a, %z, %e, %o, %t)",
                  "%y: f32[1,32,6,6] = Conv(%s, %v) {kernel_shape=[1, 1]}")
    made = run_passes(given, "cluster,layout", catalog.CATALOG, Context(target=find("cortex-a72")))
    found = next(v for n in made.nodes for v in n.outputs if v.name == "a")
    assert found.tensor.layout is not None
    assert found.tensor.layout.name == layout
