"""Which kernels threads share out: by what that costs, as the target says it."""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgec.build import compile_graph
from edgec.codegen.program import Program
from edgec.cost import short
from edgec.isa import cpu_isa
from edgec.onnx import import_model
from edgec.target import find


def tower(channels: int, size: int, layers: int) -> ModelProto:
    """A 1x1 convolution, then depthwise and 1x1 ones in turns."""
    random, value, nodes, weights = np.random.default_rng(0), "x", [], {}
    for i in range(2 * layers - 1):
        k, own = (3, 1) if i % 2 else (1, channels)
        weights[f"w{i}"] = (random.standard_normal((channels, own, k, k)) / (own * k * k) ** 0.5).astype(np.float32)
        nodes.append(helper.make_node("Conv", [value, f"w{i}"], [f"v{i}"], f"layer{i}", pads=[k // 2] * 4, group=channels // own))
        value = f"v{i}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, channels, size, size]) for n in ("x", value)]
    graph = helper.make_graph(nodes, "tower", ends[:1], ends[1:], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def steps(proto: ModelProto, target: str) -> Program:
    return compile_graph(import_model(proto), target, "tower").schedule.program


def test_short_kernels_in_a_row_are_one_task_each() -> None:
    few = steps(tower(64, 12, 4), "sapphirerapids")
    assert all(s.tasks == 1 for s in few.calls)
    assert any(s.rounds > 1 for s in few.calls)
    assert any(s.tasks > 1 for s in steps(tower(64, 12, 4), "zen4").calls)     # which says nothing of what sharing costs


def test_a_short_kernel_between_long_ones_is_shared_out() -> None:
    made = steps(tower(192, 14, 3), "sapphirerapids")
    isa = cpu_isa(find("sapphirerapids"))
    assert [short(isa, made.kernels[s.kernel].cycles) for s in made.calls] == [False, True, False, True, False]
    assert all(s.tasks > 1 for s in made.calls)
