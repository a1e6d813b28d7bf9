"""What the cost model says of products of bytes."""

import pytest

from edgec.cost import choose_dot_tile, choose_tile, depth_cycles, dot_cycles, int8_peak, peak_macs
from edgec.isa import Isa, cpu_isa
from edgec.target import find

TARGETS = ("zen4", "zen5", "x86-64-v3", "x86-64-v4", "cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76")


def core(name: str) -> Isa:
    return cpu_isa(find(name))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("layer", [(128, 28, 288), (64, 56, 144), (256, 14, 64), (512, 7, 1152)])
def test_chosen_tiles_come_near_the_peak(name: str, layer: tuple[int, int, int]) -> None:
    isa, (channels, columns, steps) = core(name), layer
    tile = choose_dot_tile(isa, isa.int8_form, [isa.lanes] * (channels // isa.lanes), columns, steps)
    share = channels * columns * steps * 4 / int8_peak(isa) / tile.cycles
    assert (0.7 if name in ("zen4", "zen5", "cortex-a72", "cortex-a76") else 0.45) <= share <= 1
    assert tile.tw * tile.nb < isa.registers


@pytest.mark.parametrize(("name", "least", "most"), [
    ("zen4", 3.0, 4.6), ("cortex-a72", 1.6, 2.3), ("cortex-a76", 3.0, 4.8), ("x86-64-v3", 1.7, 2.3)])
def test_bytes_are_that_many_times_faster_than_reals(name: str, least: float, most: float) -> None:
    isa = core(name)
    vectors, lane = [isa.lanes] * (128 // isa.lanes), isa.broadcast == "lane"
    reals = choose_tile(isa, vectors, 28, 1152, rows=28, lane=lane)
    assert least <= reals.cycles / choose_dot_tile(isa, isa.int8_form, vectors, 28, 288, rows=28).cycles <= most


def test_a_target_without_an_instruction_for_bytes_is_not_expected_to_gain() -> None:
    isa = core("cortex-a72")
    plain = Isa(**{**vars(isa), "extra": tuple(f for f in isa.extra if not f[0].startswith("int8"))})
    assert plain.int8_form == "portable"
    assert int8_peak(plain) < peak_macs(plain)


def test_short_reductions_cost_more_for_each_product() -> None:
    isa = core("zen4")
    assert dot_cycles(isa, "vpdpbusd", 4, 6, 4) / 4 > 1.5 * dot_cycles(isa, "vpdpbusd", 4, 6, 64) / 64


def test_weights_that_could_saturate_16_bits_cost_more() -> None:
    isa = core("x86-64-v3")
    fast, signs, wide = (choose_dot_tile(isa, form, [isa.lanes] * 16, 28, 288).cycles for form in ("vpmaddubsw", "vpsignb", "pmaddwd"))
    assert 1.3 * fast < signs < wide


def test_strides_spoil_the_sharing_of_interleaved_columns() -> None:
    isa = core("zen4")
    assert depth_cycles(isa, "vpdpbusd", (3, 3), 100, 2) > depth_cycles(isa, "vpdpbusd", (3, 3), 100, 1)
