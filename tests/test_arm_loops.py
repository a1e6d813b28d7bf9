"""The inner loops of f32 kernels for Arm cores keep everything in registers, whatever LLVM makes of them."""

import pytest

from edgec.codegen.object import kernel_texts
from edgec.isa import cpu_isa
from edgec.target import find
from tests.benchmarks.arm_loops import hottest, spills, total
from tests.benchmarks.fp32_arm import FMLA, LAYERS, kernels

_LOOPS = {
    "one block": ("k:\n.LBB0_1:\n\tfmla\tv0.4s, v1.4s, v2.s[0]\n\tb.ne\t.LBB0_1\n", 1),
    "accumulators count more than length": ((
        "k:\n.LBB0_1:\n\tfmla\tv0.4s, v1.4s, v2.s[0]\n\tfmla\tv0.4s, v1.4s, v2.s[1]\n\tfmla\tv0.4s, v1.4s, v2.s[2]\n\tb.ne\t.LBB0_1\n"
        ".LBB0_2:\n\tfmla\tv0.4s, v1.4s, v2.s[0]\n\tfmla\tv3.4s, v1.4s, v2.s[1]\n\tcbnz\tx0, .LBB0_2\n"), 2),
    "not by element": ("k:\n.LBB0_1:\n\tfmla\tv0.4s, v1.4s, v2.4s\n\tb.ne\t.LBB0_1\n", 0),
}


@pytest.mark.parametrize("name", _LOOPS)
def test_the_hottest_loop_is_found(name: str) -> None:
    text, count = _LOOPS[name]
    assert total(hottest(text, FMLA), FMLA) == count


def test_spills_are_seen() -> None:
    assert spills(["\tstr\tq5, [sp, #32]", "\tldr\tq1, [x5]", "\tldp\tq5, q6, [sp]"]) == 2


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76"])
def test_inner_loops_do_not_spill(core: str) -> None:
    isa = cpu_isa(find(core))
    loops = {name: hottest(text, FMLA) for name, text in kernel_texts(kernels(isa), isa, "asm").items()}
    assert len(loops) >= len(LAYERS)
    assert all(total(body, FMLA) >= 32 for body in loops.values())
    assert {name: spills(body) for name, body in loops.items() if spills(body)} == {}
