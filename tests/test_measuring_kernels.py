"""Kernels that `edgec build --measure` tries: which they are, that they compute the same, how they are timed and known again."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from edgec.codegen.object import compile_kernels
from edgec.codegen.toolchain import find as toolchain
from edgec.ir.graph import Node, Value
from edgec.ir.layout import Layout
from edgec.ir.types import Tensor
from edgec.isa import Isa, cpu_isa
from edgec.kernels.base import KernelPlan, Operands, Planned
from edgec.kernels.choice import Choice, read
from edgec.kernels.emit import emit
from edgec.kernels.plan import packed, plan
from edgec.measuring import trial
from edgec.measuring.candidates import ask, candidates, with_choice
from edgec.target import find
from tests import kernel_harness
from tests.kernel_harness import ISAS


def test_kernels_are_timed_with_weights_from_as_far_as_in_the_net(tmp_path: Path) -> None:
    isa = cpu_isa(find("host"))
    made = _convolution(replace(isa, extra=(*isa.extra, ("exact", True))), 16, 32, 10)
    size = 4 * made.plan.args[1].elements
    plans: dict[str, KernelPlan] = {"one": made.plan}
    chain = toolchain(isa.triple)
    objects = compile_kernels(plans, isa, cache_dir=tmp_path)
    for footprint, count in ((0, 1), (size, 1), (5 * size, 5)):
        timer = trial.Bench(isa, chain, footprint).timers(plans, objects)["one"]
        assert timer.count == count
        assert timer(3) > 0
        assert timer.at.value == 3 % count
        assert len({tuple(p) for p in timer.places.tolist()}) == count
        assert len(set(timer.places[:, 1].tolist())) == count                  # the weights alone lie elsewhere each time
        assert len(set(timer.places[:, 0].tolist())) == 1


def _convolution(isa: Isa, channels: int, out: int, size: int, choice: Choice | None = None) -> Planned:
    made = plan(*_node(isa, channels, out, size, choice))
    assert not isinstance(made, str)
    return made


def _node(isa: Isa, channels: int, out: int, size: int, choice: Choice | None = None) -> tuple[Node, Isa, Operands]:
    layout = Layout((0, 1, 2, 3), ((1, isa.lanes),)) if channels % isa.lanes == out % isa.lanes == 0 else Layout((0, 2, 3, 1))
    x, y = (Value(n, Tensor("f32", (1, c, size, size), layout)) for n, c in (("x", channels), ("y", out)))
    w = Value("w", Tensor("f32", (out, channels, 3, 3)))
    node = Node("Conv", (x, w), (y,), MappingProxyType({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}))
    return node, isa, replace(Operands.of({w: np.zeros(w.dims, np.float32)}, lambda v: v.tensor.view), choice=choice)


@pytest.mark.parametrize("isa", ISAS)
def test_candidates_differ_in_their_choice_and_direct_ones_in_no_bit(isa: Isa) -> None:
    node, _, operands = _node(isa, 32, 64, 9)
    default = _convolution(isa, 32, 64, 9, Choice("direct", 0, 0))
    found = candidates(node, isa, operands, default)
    choices = [p.plan.choice for p in found]
    assert default.plan.choice not in choices
    assert len(set(choices)) == len(choices) >= 3
    assert {"winograd2", "winograd4"} <= {c.form for c in choices if c is not None}
    assert len({ask(node, isa, operands, p) for p in (default, *found)}) == 1
    assert all(read(str(c)) == c for c in choices)
    random = np.random.default_rng(3)
    x, w = random.standard_normal((1, 32, 9, 9)).astype(np.float32), random.standard_normal((64, 32, 3, 3)).astype(np.float32)
    direct = [default, *(p for p in found if p.plan.choice is not None and p.plan.choice.form == "direct")][:4]
    results = [kernel_harness.run(p.plan, emit, [kernel_harness.scatter(x, node.inputs[0].tensor.layout),  # type: ignore[union-attr]
                                                 packed(p.plan, 1, w)]).outputs[0].tobytes() for p in direct]
    assert len(direct) > 2
    assert len(set(results)) == 1


def test_a_kernel_is_known_by_what_it_computes_on_which_core() -> None:
    isa = cpu_isa(find("host"))
    asked = {name: ask(*_node(made, channels, 64, size), _convolution(made, channels, 64, size)) for name, made, channels, size in (
        ("one", isa, 32, 9), ("same", isa, 32, 9), ("wider", isa, 32, 10), ("deeper", isa, 64, 9),
        ("core", replace(isa, l1_bytes=1 << 14), 32, 9), ("exact", replace(isa, extra=(*isa.extra, ("exact", True))), 32, 9))}
    assert asked["one"] == asked["same"]
    assert len(set(asked.values())) == 5


def test_choices_that_cannot_be_had_are_none() -> None:
    isa = cpu_isa(find("host"))
    exact = replace(isa, extra=(*isa.extra, ("exact", True)))
    assert with_choice(*_node(isa, 32, 64, 9), Choice("direct", 2, 2)) is not None
    assert with_choice(*_node(isa, 32, 64, 9), Choice("winograd4", 2, 2)) is not None
    assert with_choice(*_node(exact, 32, 64, 9), Choice("winograd4", 2, 2)) is None
    assert with_choice(*_node(isa, 32, 64, 9), Choice("direct", 99, 99)) is None
    assert read("direct 4x") is None
