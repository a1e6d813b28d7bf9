"""One prediction: what --rank, the partition, the study and the summary say of time comes from the same plans."""

import re
from dataclasses import replace

import numpy as np
import pytest

from edgec.access import module
from edgec.build import compile_graph, report
from edgec.fitting import Fitted
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.isa import cpu_isa
from edgec.kernels.base import Operands
from edgec.kernels.plan import plan
from edgec.study.costs import Prices
from edgec.study.layers import Layer, layers
from edgec.target import find

A72 = find("cortex-a72")
SIZE = 448
offers = module("passes.changes.offers")


def net(depth: int = 3) -> Graph:
    """Products of one row with square matrices that together are larger than the second cache of a Cortex-A72."""
    random = np.random.default_rng(0)
    row = [Value(f"v{i}", Tensor("f32", (1, SIZE))) for i in range(depth + 1)]
    weights = {Value(f"w{i}", Tensor("f32", (SIZE, SIZE))): random.standard_normal((SIZE, SIZE)).astype(np.float32) for i in range(depth)}
    nodes = [Node("MatMul", (row[i], w), (row[i + 1],), origin=f"fc{i}") for i, w in enumerate(weights)]
    return Graph("net", (row[0],), (row[-1],), tuple(nodes), weights)


def test_weights_that_no_cache_holds_are_read_from_dram() -> None:
    dense = report(compile_graph(net(), A72, "net"))
    seconds = dense["predicted_ms"] / 1e3
    assert 1 <= seconds / (3 * SIZE * SIZE * 4 / A72.memories["dram"]["bandwidth"]) < 1.01


def test_the_speed_that_rank_foretells_is_that_of_the_summary() -> None:
    dense, small = (compile_graph(net(), A72, "net", fitted=Fitted(rank=rank)) for rank in (None, "2.0"))
    said = next(m[1] for n in small.context.notes if (m := re.search(r"by prediction ([0-9.]+) times", n)))
    assert report(dense)["predicted_ms"] / report(small)["predicted_ms"] == pytest.approx(float(said), rel=0.01)
    assert float(said) == pytest.approx(2, rel=0.02)


def test_study_and_partition_say_what_the_summary_says() -> None:
    given = net()
    whole = report(compile_graph(given, A72, "net"))["predicted_ms"] * 1e3
    prices = Prices(A72, sum(a.nbytes for a in given.weights.values()))
    studied = [prices.of(layer).us for layer in layers(given).values() if isinstance(layer, Layer)]
    assert sum(studied) == pytest.approx(whole)
    assert sum(g.offers["cpu"].us for g in offers.groups(given, A72, [A72.cpu])) == pytest.approx(whole)


def test_one_layer_alone_finds_its_weights_nearer_than_in_a_net() -> None:
    given, isa = net(1), cpu_isa(find("x86-64-v3"))
    alone = Operands.of(given.weights, lambda v: v.tensor.view)
    assert alone.footprint == SIZE * SIZE * 4
    near, far = (plan(given.nodes[0], isa, o) for o in (alone, replace(alone, footprint=2**24)))
    assert not isinstance(near, str)
    assert not isinstance(far, str)
    assert near.plan.computing == far.plan.computing
    assert near.plan.cycles < 0.5 * far.plan.cycles
    assert repr(near.plan) == repr(far.plan)                           # what a net weighs is no part of a kernel
