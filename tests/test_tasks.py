"""A kernel's result does not depend on how its tasks are handed out: one call, or one each in reverse order (kernel_harness.run)."""

import numpy as np
import pytest

from edgec.ir.graph import Value
from edgec.ir.layout import Layout
from edgec.ir.types import Tensor
from edgec.isa import Isa
from edgec.kernels import plan_map
from edgec.kernels.base import Planned
from edgec.kernels.emit import emit
from tests.kernel_harness import AVX2, AVX512, gathered, on, run, scatter


@pytest.mark.parametrize("isa", on(AVX512, AVX2))
@pytest.mark.parametrize(("shape", "source", "target"), [
    ((1, 3, 224, 224), None, Layout((0, 2, 3, 1))), ((1, 112, 56, 56), None, Layout((0, 1, 2, 3), ((1, 16),))),
    ((5, 70000), None, Layout((1, 0)))])
def test_copies_in_many_tasks(shape: tuple[int, ...], source: Layout | None, target: Layout, isa: Isa) -> None:
    x, y = Value("x", Tensor("f32", shape, source)), Value("y", Tensor("f32", shape, target))
    planned = plan_map.copy(x, x.tensor.view, y.tensor.view, isa)
    assert isinstance(planned, Planned)
    assert planned.plan.tasks > 1
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    outcome = run(planned.plan, emit, [scatter(values, source)])
    assert (gathered(outcome.outputs[0], y.tensor.view) == values).all()
