"""The cost model: register tiles that agree with what was measured, bytes at the speed of where they lie, energy by a named table."""

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest

from edgec.cost import (
    CALL_CYCLES,
    ENERGY,
    bytes_per_cycle,
    choose_tile,
    energy,
    fits,
    kernel_cycles,
    memory_cycles,
    node_bytes,
    node_facts,
    node_macs,
    peak_macs,
    predicted_us,
    shared,
    short,
    tile_cycles,
)
from edgec.errors import UsageError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor
from edgec.isa import Isa
from edgec.machine import NODE_FACTS
from edgec.target import find

LAYERS = [(64, 56, 576), (128, 28, 1152), (256, 14, 2304), (512, 7, 4608)]
"""Output channels, columns and steps of the 3x3 convolutions of a ResNet."""


def core(name: str) -> Isa:
    """The facts of a target's CPU."""
    machine = find(name)
    return Isa.of(machine.cpu, machine)


ZEN5, AVX2, A72, A76 = map(core, ("zen5", "x86-64-v3", "cortex-a72", "cortex-a76"))


# ---- tiles

@pytest.mark.parametrize(("isa", "tw", "nb", "lane", "least"), [
    (ZEN5, 14, 2, False, 14),                              # 28 accumulators through two ports
    (A72, 7, 2, True, 14),                                 # 14 through one
    (AVX2, 2, 1, False, 4),                                # too few to hide the latency
    (replace(A72, fma_latency=1), 8, 1, False, 9),         # 9 loads through one port, against 8 multiply-accumulates
])
def test_a_step_costs_what_binds_it_and_a_little_more(isa: Isa, tw: int, nb: int, lane: object, least: float) -> None:
    assert least < tile_cycles(isa, tw, nb, 100, lane=bool(lane)) / 100 < 1.25 * least


def test_a_lane_load_is_cheaper_than_a_broadcast_for_each_input() -> None:
    narrow = replace(A72, fma_latency=1)
    assert tile_cycles(narrow, 8, 1, 100, lane=True) < tile_cycles(narrow, 8, 1, 100)


def test_a_tile_that_spills_is_slower_than_one_that_does_not() -> None:
    assert tile_cycles(AVX2, 7, 2, 100) / 14 > 1.1 * tile_cycles(AVX2, 6, 2, 100) / 12


def test_setting_up_and_storing_counts_once() -> None:
    short, long = (tile_cycles(ZEN5, 14, 2, k) for k in (1, 2))
    assert 2 * short - long == pytest.approx(0.75 * 28)


@pytest.mark.parametrize(("tw", "nb", "lane"), [(8, 2, True), (4, 4, True), (5, 4, True), (6, 3, True), (14, 2, False), (6, 4, False)])
def test_tiles_that_ran_without_spills_fit(tw: int, nb: int, lane: object) -> None:
    assert fits(A72 if lane else ZEN5, tw, nb, lane=bool(lane))


@pytest.mark.parametrize(("tw", "nb", "lane"), [(6, 4, True), (7, 3, True), (8, 3, True), (7, 4, False)])
def test_tiles_that_spilled_do_not_fit(tw: int, nb: int, lane: object) -> None:
    assert not fits(A72 if lane else ZEN5, tw, nb, lane=bool(lane))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("isa", "lane", "least"), [(ZEN5, False, 0.8), (AVX2, False, 0.6), (A72, True, 0.75), (A76, True, 0.75)])
def test_chosen_tiles_come_near_the_peak(isa: Isa, lane: object, least: float, layer: tuple[int, int, int]) -> None:
    channels, columns, k = layer
    tile = choose_tile(isa, [isa.lanes] * (channels // isa.lanes), columns, k, lane=bool(lane))
    assert fits(isa, tile.tw, tile.nb, lane=bool(lane))
    assert least <= channels * columns * k / peak_macs(isa) / tile.cycles <= 1
    assert tile.tw * tile.nb >= isa.fma_latency * isa.fma_ports or isa is AVX2  # which has too few registers to be sure


@pytest.mark.parametrize(("vectors", "columns"), [(1, 1), (1, 50), (2, 1), (3, 5), (5, 7), (63, 1), (2, 13), (125, 3)])
@pytest.mark.parametrize(("isa", "lane"), [(ZEN5, False), (AVX2, False), (A72, True)])
def test_nothing_beats_the_choice(isa: Isa, lane: object, vectors: int, columns: int) -> None:
    form = bool(lane)
    best = choose_tile(isa, [isa.lanes] * vectors, columns, 64, lane=form)
    assert 1 <= best.tw <= columns
    assert (2 if form and vectors > 1 else 1) <= best.nb <= vectors

    def pieces(total: int, size: int) -> list[int]:
        return [size] * (total // size) + ([total % size] if total % size else [])

    for tw, nb in product(range(1, columns + 1), range(2 if form and vectors > 1 else 1, vectors + 1)):
        if fits(isa, tw, nb, lane=form):
            kinds = len(set(pieces(columns, tw))) * len(set(pieces(vectors, nb)))
            cycles = sum(tile_cycles(isa, w, n, 64, lane=form) for w in pieces(columns, tw) for n in pieces(vectors, nb))
            assert best.cycles <= cycles * (1 + 0.003 * (kinds - 1)) + 1e-6


@pytest.mark.parametrize("tw", [10, 14])
def test_inputs_that_are_broadcast_for_one_vector_need_registers(tw: int) -> None:
    """Measured with AVX2: 9x1 reaches 98 GFLOP/s, 11x1 and wider ones 59 to 91, where 6x2 and 4x3 reach 115."""
    assert fits(AVX2, 9, 1)
    assert not fits(AVX2, tw, 1)
    assert fits(ZEN5, tw, 1)


def test_large_inputs_want_many_channels_at_once() -> None:
    """Measured: 256 to 512 channels on 56x56 pixels with stride 2 are 5 % faster in tiles of 6x4 than of 10x2."""
    small, large = (choose_tile(ZEN5, [16] * 32, 28, 256, rows=28, inputs=n) for n in (1 << 14, 1 << 24))
    assert large.nb > small.nb
    assert large.cycles > small.cycles


def test_rows_only_multiply() -> None:
    one, many = (choose_tile(ZEN5, [16, 16, 8], 14, 100, rows=rows) for rows in (1, 14))
    assert (many.tw, many.nb) == (one.tw, one.nb)
    assert many.cycles == pytest.approx(14 * one.cycles)


def test_wide_machines_are_faster() -> None:
    assert [peak_macs(isa) for isa in (A72, A76, AVX2, ZEN5)] == [4, 8, 16, 32]


# ---- memory and time

def test_bytes_move_at_the_speed_of_where_they_lie() -> None:
    assert bytes_per_cycle(ZEN5, 48 * 2**10) == 2 * 64
    assert bytes_per_cycle(ZEN5, 2**20) == 64
    assert bytes_per_cycle(ZEN5, 2**20 + 1) == 30
    assert bytes_per_cycle(ZEN5, 2**30) == pytest.approx(46e9 / 4.2e9)
    assert bytes_per_cycle(A72, 2**20 + 1) == pytest.approx(5.1e9 / 1.5e9)
    assert memory_cycles(ZEN5, 1024) == 8
    assert memory_cycles(ZEN5, 1024, 2**20) == 16


def test_a_level_of_unknown_speed_is_passed_over() -> None:
    bare = replace(A72, l2_bytes_per_cycle=0.0)
    assert bytes_per_cycle(bare, 2**19) == bytes_per_cycle(A72, 2**30)
    with pytest.raises(UsageError, match="the target of cortex-a72 names no memory with a bandwidth that holds 524288 bytes"):
        bytes_per_cycle(replace(bare, dram_bytes_per_cycle=0.0), 2**19)


def test_the_slower_of_arithmetic_and_memory_counts() -> None:
    assert kernel_cycles(ZEN5, 3200, 128) == CALL_CYCLES + 100
    assert kernel_cycles(ZEN5, 3200, 128, computing=250) == CALL_CYCLES + 250
    assert kernel_cycles(ZEN5, 32, 12800) == CALL_CYCLES + 100
    assert kernel_cycles(ZEN5, 32, 12800, weights=12800) == CALL_CYCLES + 200


def test_weights_come_from_the_level_that_holds_those_of_the_whole_net() -> None:
    near, far = (kernel_cycles(ZEN5, 0, 0, weights=64_000, footprint=f) for f in (2**20, 2**30))
    assert (near, far) == pytest.approx((CALL_CYCLES + 1000, CALL_CYCLES + 64_000 / (46e9 / 4.2e9)))


@pytest.mark.parametrize(("passes", "waits"), [(1, 0), (2, 3000), (3, 4000)])
def test_only_the_first_pass_over_weights_waits_for_them(passes: int, waits: int) -> None:
    isa = replace(ZEN5, dram_bytes_per_cycle=1.0)
    assert kernel_cycles(isa, 0, 0, computing=6000, weights=6000, passes=passes, footprint=2**30) == CALL_CYCLES + 6000 + waits


def test_where_memory_has_no_known_speed_arithmetic_is_all() -> None:
    assert kernel_cycles(replace(A72, dram_bytes_per_cycle=0.0), 0, 10**9, computing=7.0) == CALL_CYCLES + 7


def test_a_batch_of_one_through_a_large_matrix_waits_for_its_weights() -> None:
    measured_us = 64  # 1x2048x1000 from the third level, measured
    bytes_read = 2048 * 1000 * 4
    assert predicted_us(ZEN5, kernel_cycles(ZEN5, 2048 * 1000, bytes_read)) == pytest.approx(measured_us, rel=0.1)


def test_a_resnet_takes_as_long_as_was_measured() -> None:
    assert predicted_us(ZEN5, kernel_cycles(ZEN5, 4.1e9, 0)) / 1e3 == pytest.approx(30.5, rel=0.01)  # 33.8 ms measured, at 90 % of the peak


# ---- energy

def test_energy_names_its_table() -> None:
    estimate = energy(1e9, 1e6, "f32")
    assert estimate.table == "45nm"
    assert estimate.value == pytest.approx(1e9 * 4.6e-12 + 1e6 * 160e-12)
    assert energy(1e9, 1e6, "i8", "7nm").value == pytest.approx(1e9 * 0.077e-12 + 1e6 * 88e-12)
    assert energy(0, 0, "u8", "45nm", sram=4).value == pytest.approx(5e-12)
    assert all(table.source for table in ENERGY.values())


def test_energy_of_what_no_table_knows() -> None:
    with pytest.raises(UsageError, match="no energy table is called 3nm; there are 45nm, 7nm"):
        energy(1, 1, "f32", "3nm")
    with pytest.raises(UsageError, match="the energy table 45nm says nothing of f64; it knows i8, f16, f32"):
        energy(1, 1, "f64")


# ---- facts of nodes

def value(name: str, *shape: int, dtype: str = "f32") -> Value:
    """A tensor."""
    return Value(name, Tensor(dtype, shape))


X, W, Y, Z = value("x", 1, 8, 10, 10), value("w", 16, 4, 3, 3), value("y", 1, 16, 5, 5), value("z", 1, 16, 5, 5)
CONV = Node("Conv", (X, W), (Y,), {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]})
MATMUL = Node("MatMul", (value("a", 2, 3, 5), value("b", 5, 7)), (value("c", 2, 3, 7),))
GRAPH = Graph("g", (X,), (Y,), (CONV,), {W: np.zeros((16, 4, 3, 3), np.float32)})


@pytest.mark.parametrize(("node", "expected"), [
    (CONV, 16 * 25 * 4 * 9),
    (MATMUL, 2 * 3 * 5 * 7),
    (Node("Gemm", (value("a", 5, 3), value("b", 5, 7)), (value("c", 3, 7),), {"transA": 1}), 3 * 5 * 7),
    (Node("ConvTranspose", (value("x", 1, 8, 4, 4), value("w", 8, 2, 3, 3)), (value("y", 1, 2, 9, 9),)), 8 * 16 * 2 * 9),
    (Node("QLinearConv", (X, None, None, W, None, None, None, None), (Y,)), 16 * 25 * 4 * 9),
    (Node("ConvInteger", (X, W), (Y,)), 16 * 25 * 4 * 9),
    (Node("Relu", (X,), (X,)), 0),
    (Node("edgec.Fused", (X, W), (Y,), {"kind": "conv", "body": Graph("b", (X, W), (Y,), (CONV, Node("Relu", (Y,), (Z,))))}), 14400),
])
def test_multiply_accumulates(node: Node, expected: int) -> None:
    assert node_macs(node) == expected


def test_bytes_count_each_value_once() -> None:
    assert node_bytes(Node("Mul", (X, X), (Y,))) == (800 + 400) * 4
    assert node_bytes(CONV) == (800 + 576 + 400) * 4


def test_facts_of_a_convolution() -> None:
    facts = node_facts(CONV, GRAPH)
    assert facts == {"op": "Conv", "dtype": "f32", "macs": 14400, "bytes": 7104, "weight_bytes": 2304, "elements": 400, "rank": 4,
                     "batch": 1, "channels": 8, "out_channels": 16, "group": 2, "kernel": 3, "stride": 2, "dilation": 1}
    assert set(facts) <= set(NODE_FACTS)


def test_facts_of_other_nodes() -> None:
    pool = node_facts(Node("MaxPool", (X,), (Y,), {"kernel_shape": [3, 5], "strides": [2, 1]}), GRAPH)
    assert (pool["kernel"], pool["stride"], pool["dilation"], pool["macs"]) == (5, 2, 1, 0)
    resize = node_facts(Node("Resize", (X,), (Y,), {"mode": "nearest"}), GRAPH)
    assert resize["mode"] == "nearest"
    assert "kernel" not in resize
    assert node_facts(MATMUL, GRAPH)["weight_bytes"] == 0


def test_what_is_not_known_is_left_out() -> None:
    unknown = Value("u", Tensor("f16", (None, 8, 4, 4)))
    assert node_facts(Node("Conv", (unknown, W), (Y,)), GRAPH) == {"op": "Conv", "dtype": "f16", "group": 1, "out_channels": 16}
    assert node_facts(Node("RandomNormal", (), (Value("r"),)), GRAPH) == {"op": "RandomNormal"}


def test_facts_of_nodes_answer_the_questions_of_targets() -> None:
    verdict = find("cortex-a72").verdict("cpu", "Conv", node_facts(CONV, GRAPH))
    assert verdict.cost == 14400 / 4


@pytest.mark.parametrize("name", ["zen4", "x86-64-v4", "x86-64-v3"])
def test_weights_of_halves_are_fetched_faster_and_cost_a_conversion(name: str) -> None:
    isa = core(name)
    assert tile_cycles(isa, 4, 3, 16, stored=2) > tile_cycles(isa, 4, 3, 16)       # in the first level, where fetching is free
    wide = [tile_cycles(replace(isa, l2_bytes_per_cycle=4.0), 4, 3, 4096, stored=n) for n in (2, 4)]
    assert wide[0] < wide[1]                                                       # behind a narrow bus, half the bytes count more


def test_halves_on_zen4_come_in_threes() -> None:
    """Measured on 128x1536x384: tiles of 8x3 and 6x4 reach 108 GFLOP/s, those of 8x2, 10x2 and 12x2 98, whatever the columns."""
    isa = core("zen4")
    assert choose_tile(isa, [16] * 24, 128, 1536, stored=2).nb >= 3


def test_what_sharing_a_kernel_out_costs_decides_who_runs_it() -> None:
    forking = replace(ZEN5, extra=(*ZEN5.extra, ("fork", 1000.0)))
    assert [short(forking, c) for c in (0.0, 1.0, 1999.0, 2000.0)] == [False, True, True, False]
    assert not short(ZEN5, 1.0)
    assert shared(forking, [10.0], whole=False)            # between kernels that are shared out: both cores have their part already
    assert not shared(forking, [10.0], whole=True)
    assert not shared(forking, [900.0, 900.0], whole=False)
    assert shared(forking, [1500.0, 1500.0], whole=False)


def test_what_is_asked_for_in_advance_comes_no_faster_than_a_core_can_ask() -> None:
    asking = replace(ZEN5, extra=(*ZEN5.extra, ("prefetch_per_cycle", 2.0)))
    far, near = (partial(kernel_cycles, asking, 0, 0, computing=100, footprint=f) for f in (2.0**30, 2.0**16))
    assert far(weights=64_000, asked=True) == CALL_CYCLES + 32_000
    assert far(weights=64_000) < CALL_CYCLES + 32_000
    assert near(weights=64_000, asked=True) == near(weights=64_000)
