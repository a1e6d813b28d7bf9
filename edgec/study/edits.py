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
        if "," in layer.name or '"' in layer.name:
            return "its name cannot be written behind --rank"
        made = run_passes(layer.alone, f'factorize{{rank="{layer.name}=/{ratio:g}"}}', access.module("passes.catalog").CATALOG, context)
        if made is layer.alone:
            return next((n.rpartition(": ")[2] for n in context.notes if "stays as it is" in n), "nothing is gained")
        return Edited(made)

    return make


def integers(layer: Layer, rows: Sequence[Array], target: Target) -> Edited | str:
    """Weights and activations of 8 bits, by the pass that quantizes."""
    context = Context(target, samples=[{layer.alone.inputs[0].name: r} for r in rows])
    made = run_passes(layer.alone, "quantize{int8=true}", access.module("passes.catalog").CATALOG, context)
    if all(n.op != "QuantizeLinear" for n in made.nodes):
        return next((n.rpartition(": ")[2] for n in context.notes if "stays in f32" in n), "nothing of it is quantized")
    return Edited(made, "i8")


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


EDITS: Mapping[str, Edit] = MappingProxyType({e.name: e for e in (
    Edit("rank-1/2", "low rank, half the weights", low_rank(2.0)),
    Edit("rank-1/4", "low rank, a quarter of the weights", low_rank(4.0)),
    Edit("int8", "weights and inputs of 8 bits", integers),
    Edit("sparse-50", "half of the weights zero, the smallest ones", sparse(0.5)),
    Edit("sparse-80", "four of five weights zero, the smallest ones", sparse(0.8)),
    Edit("fp16", "weights of 16 bits", half),
)})
"""The edits that a study tries, by name."""
