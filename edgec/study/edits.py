"""What could be done to a layer: each edit makes another graph of the layer alone, or says why there is none.

Low rank is the work of the pass, on the layer alone. Where there is no pass yet, the edit changes the weights as a simple one would:
its losses are an upper bound of what a good one would lose.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from edgec import access
from edgec.ir.edit import attributes
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.proto import CODES
from edgec.ir.types import Tensor
from edgec.pipeline import Context, run_passes
from edgec.study.layers import Layer
from edgec.target import Target

_LEVELS = 255
_MOST = 127


@dataclass(frozen=True)
class Edited:
    """A layer alone after an edit. `density` is the share of the weights that are left, `dtype` what its multiplications read.

    `guessed` says why its time is no kernel's time, empty when kernels for it exist.
    """

    graph: Graph
    dtype: str = "f32"
    density: float = 1.0
    guessed: str = ""


@dataclass(frozen=True)
class Edit:
    """An edit by name; `make` gets the layer, what it reads in all samples, and the target."""

    name: str
    about: str
    make: Callable[[Layer, Sequence[Array], Target], Edited | str]


def low_rank(ratio: float) -> Callable[[Layer, Sequence[Array], Target], Edited | str]:
    """So many times fewer weights, by low-rank factors that are fitted to what the layer reads."""
    def make(layer: Layer, rows: Sequence[Array], target: Target) -> Edited | str:
        feeds = [{layer.alone.inputs[0].name: r} for r in rows]
        context = Context(target, samples=feeds)
        made = run_passes(layer.alone, f'factorize{{rank="{ratio}"}}', access.module("passes.catalog").CATALOG, context)
        if made is layer.alone:
            return next((n.rpartition(": ")[2] for n in context.notes if "stays as it is" in n), "nothing is gained")
        return Edited(made)

    return make


def integers(layer: Layer, rows: Sequence[Array], _: Target) -> Edited | str:
    """Weights of 8 bits with a scale for each channel, and an input of 8 bits with one scale and zero point."""
    axis = _channel(layer)
    if axis is None:
        return "its weight is no matrix of channels"
    others = tuple(i for i in range(layer.weight.ndim) if i != axis)
    scale = np.abs(layer.weight).max(others, keepdims=True) / _MOST
    scale = np.where(scale == 0, 1, scale)
    low, high = min(0.0, *(float(r.min()) for r in rows)), max(0.0, *(float(r.max()) for r in rows))
    step = np.float32((high - low) / _LEVELS or 1.0)
    x = layer.alone.inputs[0]
    small, read = Value(f"{x.name}.u8", Tensor("u8", x.dims)), Value(f"{x.name}.read", x.type)
    constants: dict[Value, Array] = {
        Value(f"{x.name}.step", Tensor("f32", ())): np.array(step),
        Value(f"{x.name}.zero", Tensor("u8", ())): np.array(np.clip(np.rint(-low / step), 0, _LEVELS), np.uint8)}
    nodes = (Node("QuantizeLinear", (x, *constants), (small,)), Node("DequantizeLinear", (small, *constants), (read,)),
             replace(layer.node, inputs=(read, *layer.node.inputs[1:])))
    made = replace(_reweighted(layer, np.rint(layer.weight / scale) * scale), nodes=nodes)
    return Edited(replace(made, weights={**made.weights, **constants}), "i8", guessed="integer kernels are not planned yet")


def sparse(zeros: float) -> Callable[[Layer, Sequence[Array], Target], Edited | str]:
    """So large a share of the weights zero: the smallest ones, the rest unchanged."""
    def make(layer: Layer, _: Sequence[Array], __: Target) -> Edited | str:
        size = np.abs(layer.weight)
        order = np.argsort(size, axis=None, kind="stable")
        kept = np.ones(size.size, bool)
        kept[order[:int(zeros * size.size)]] = False
        return Edited(_reweighted(layer, layer.weight * kept.reshape(size.shape)), density=float(kept.mean()),
                      guessed="there are no sparse kernels yet")

    return make


def half(layer: Layer, _: Sequence[Array], __: Target) -> Edited | str:
    """Weights of 16 bits; the arithmetic stays as it is."""
    if float(np.abs(layer.weight).max(initial=0)) > np.finfo(np.float16).max:
        return "its weight has numbers that f16 does not have"
    w = layer.node.inputs[1]
    assert w is not None                    # noqa: S101  a layer has a weight
    short = Value(f"{w.name}.f16", Tensor("f16", layer.weight.shape))
    others = {v: a for v, a in layer.alone.weights.items() if v is not w}
    weights: Mapping[Value, Array] = {short: layer.weight.astype(np.float16), **others}
    return Edited(replace(layer.alone, nodes=(Node("Cast", (short,), (w,), attributes(to=CODES["f32"])), layer.node), weights=weights))


def _reweighted(layer: Layer, weight: Array) -> Graph:
    w = layer.node.inputs[1]
    return replace(layer.alone, weights={v: np.asarray(weight, np.float32) if v is w else a for v, a in layer.alone.weights.items()})


def _channel(layer: Layer) -> int | None:
    """The axis of the weight that counts results."""
    if layer.node.op in ("Conv", "ConvTranspose"):
        return 0 if layer.node.op == "Conv" else 1
    return None if layer.weight.ndim != 2 else 0 if layer.node.attrs.get("transB") else 1  # noqa: PLR2004  a matrix


EDITS: Mapping[str, Edit] = MappingProxyType({e.name: e for e in (
    Edit("rank-1/2", "low rank, half the weights", low_rank(2.0)),
    Edit("rank-1/4", "low rank, a quarter of the weights", low_rank(4.0)),
    Edit("int8", "weights and inputs of 8 bits", integers),
    Edit("sparse-50", "half of the weights zero, the smallest ones", sparse(0.5)),
    Edit("sparse-80", "four of five weights zero, the smallest ones", sparse(0.8)),
    Edit("fp16", "weights of 16 bits", half),
)})
"""The edits that a study tries, by name."""
