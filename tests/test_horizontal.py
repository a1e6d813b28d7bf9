"""horizontal: convolutions of one tensor become one where a core is faster with it, and mean what they meant."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgec.access import module
from edgec.build import build
from edgec.ir.graph import Graph
from edgec.lang.text import parse
from edgec.pipeline import Context, run_passes
from edgec.target import find
from edgec.testing import check_meaning
from tests.bundles import feeds

CATALOG, DEFAULT = module("passes.catalog").CATALOG, module("passes.catalog").DEFAULT


def heads(seed: int) -> Graph:
    """Some narrow convolutions of one tensor, each with a few nodes behind it that may differ."""
    draw = np.random.default_rng(seed)
    batch, channels, size = int(draw.integers(1, 3)), int(draw.integers(1, 40)), int(draw.integers(1, 12))
    lines, weights, results = list[str](), list[str](), list[str]()

    def weight(*dims: int) -> str:
        weights.append(f"  %w{len(weights)}: f32[{','.join(map(str, dims))}] = random {len(weights)}")
        return f"%w{len(weights) - 1}"

    def conv(x: str, w: str, bias: str, group: int, kernel: int, dims: str) -> str:
        k, p = f"[{kernel}, {kernel}]", kernel // 2
        lines.append(f"  %v{len(lines)}: f32[{dims}] = Conv({x}, {w}{bias}) {{kernel_shape={k}, strides=[1, 1], dilations=[1, 1], "
                     f'group={group}, pads=[{p}, {p}, {p}, {p}]}} at "n{len(lines)}"')
        return f"%v{len(lines) - 1}"

    for _ in range(int(draw.integers(2, 6))):
        out, kernel = int(draw.integers(1, 12)), int(draw.choice([1, 1, 1, 3]))
        dims = f"{batch},{out},{size},{size}"
        value = conv("%x", weight(out, channels, kernel, kernel), f", {weight(out)}" if draw.random() < 0.5 else "", 1, kernel, dims)
        for step in draw.choice(["Relu", "depthwise", "Sigmoid", "result"], int(draw.integers(0, 4)), p=[0.4, 0.4, 0.1, 0.1]):
            if step == "depthwise":
                value = conv(value, weight(out, 1, 3, 3), "", out, 3, dims)
            elif step == "result":
                results.append(value)
            else:
                lines.append(f"  %v{len(lines)}: f32[{dims}] = {step}({value})")
                value = f"%v{len(lines) - 1}"
        results.append(value)
    inside = "\n".join([*weights, *lines])
    return parse(f"graph @net(%x: f32[{batch},{channels},{size},{size}]) {{\n{inside}\n  return {', '.join(dict.fromkeys(results))}\n}}")


def merged(graph: Graph, **context: object) -> tuple[Graph, Context]:
    seen = Context(find("x86-64-v4"), **context)  # type: ignore[arg-type]
    return run_passes(graph, "horizontal", CATALOG, seen), seen


def test_random_heads_mean_what_they_meant() -> None:
    merges = 0
    for seed in range(60):
        before = heads(seed)
        after, context = merged(before)
        check_meaning(before, after, 1e-12, precise=True)
        assert [v.name for v in after.outputs] == [v.name for v in before.outputs]
        merges += len(context.trace)
    assert merges > 30


def test_without_a_target_or_when_disabled_nothing_changes() -> None:
    net = heads(1)
    assert merged(net)[1].trace
    assert run_passes(net, "horizontal", CATALOG) is net
    assert merged(net, disabled=frozenset({"merge-convolutions"}))[0] is net


@pytest.mark.parametrize("target", ["host", pytest.param("cortex-a72", marks=pytest.mark.device("qemu-aarch64"))])
def test_bundles_compute_what_onnx_runtime_does(target: str, tmp_path: Path) -> None:
    for seed in (1, 3):
        net = run_passes(heads(seed), DEFAULT.split(",partition")[0], CATALOG)
        model = net.to_onnx()
        made = build(model, target=target, output=tmp_path / f"{seed}.edgec")
        given = feeds(made, seed)
        wanted = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)
        found = made.load(poison=True).run(given)
        for name, w in zip([v.name for v in net.outputs], wanted, strict=True):
            np.testing.assert_allclose(found[name], w, rtol=1e-4, atol=1e-4)
