"""How an operator that no kernel of our own takes becomes one kernel through TVM.

`TABLE` says which operators TVM gets right, for which dtypes and with which attributes, so that planning needs no TVM.
tests/test_generic.py keeps it honest: against the evaluator for each entry and dtype, and against ONNX's node tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.cost import node_macs
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import Tensor, dtype_bits
from edgec.isa import Isa
from edgec.kernels.base import Arg, Operands, Planned, traffic
from edgec.kernels.functions import INTEGERS, NUMBERS
from edgec.kernels.generic import ALIGNMENT, Bounds, Fixed, GenericPlan

_LARGEST = 64
"""Elements of an operand that is structure, at most."""
_SLOW = 8.0
"""Cycles that an element takes in plain loops, about."""
_FLOATS = frozenset({"f32", "f64"})
_NUMBERS = NUMBERS - {"f16", "bf16"}
_Attrs = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """What is known of an operator: the dtypes of its operands that are no indices, and the positions of those that must be constants.

    `bits`: it moves elements, whatever their dtype. `scratch` counts buffers as large as its largest operand or result.
    `refuse` says what is wrong with a node. `indices`: the position of an operand with indices, and the axes of operand 0 they walk along.
    """

    dtypes: frozenset[str] = _FLOATS
    fixed: tuple[int, ...] = ()
    scratch: int = 0
    bits: bool = False
    refuse: Callable[[Node], str | None] = lambda _: None
    indices: Callable[[Node], tuple[int, Sequence[int]]] | None = None
    wraps: bool = True


def generic(node: Node, isa: Isa, operands: Operands) -> Planned | str:
    """A plan for one plain node, or the reason why there is none."""
    rule = TABLE.get(node.op)
    if rule is None:
        return f"no kernel is written for {node.op}"
    taken = _resize(node, operands) if node.op == "Resize" else _taken(node, rule, operands)
    if isinstance(taken, str):
        return taken
    given, attrs = taken
    values = tuple(v for v, g in zip(node.inputs, given, strict=False) if isinstance(g, int) and v is not None)
    if reason := rule.refuse(node) or _refused(node, rule, values, operands):
        return reason
    args = [*(Arg("input", v.tensor.dtype, v.tensor.elements) for v in values),
            *(Arg("output", v.tensor.dtype, v.tensor.elements) for v in node.outputs)]
    largest = max(a.elements for a in args)
    moved, macs = traffic(args), node_macs(node)
    if rule.scratch:
        size = largest * max(4, *(dtype_bits(a.dtype) // 8 for a in args))
        args.append(Arg("scratch", "u8", rule.scratch * (-(-size // ALIGNMENT) * ALIGNMENT)))
    every = (*values, *node.outputs)
    kinds = tuple(_bits(v.tensor.dtype) if rule.bits else v.tensor.dtype for v in every)
    plan = GenericPlan(isa, tuple(args), 1, op=node.op, attrs=_plain(attrs), operands=given, shapes=tuple(v.dims for v in every),
                       dtypes=kinds, bounds=_bounds(node, rule, given), macs=macs, bytes=moved,
                       computing=float(_SLOW * (largest + macs)))
    return Planned(plan, values, node.outputs)


_Given = tuple[int | Fixed | None, ...]


def _taken(node: Node, rule: Rule, operands: Operands) -> tuple[_Given, _Attrs] | str:
    """Each operand as an argument or a constant, and the attributes."""
    given: list[int | Fixed | None] = []
    for i, value in enumerate(node.inputs):
        if value is None:
            given.append(None)
        elif i not in rule.fixed:
            given.append(sum(isinstance(g, int) for g in given))
        elif value.tensor.elements > _LARGEST or (known := operands.ints(value)) is None:
            return f"operand {i} of {node.op} is not known when the model is built"
        else:
            given.append(Fixed(value.tensor.dtype, value.dims, known))
    return tuple(given), node.attrs


def _refused(node: Node, rule: Rule, values: Sequence[Value], operands: Operands) -> str | None:
    if any(isinstance(a, Graph | np.ndarray | Tensor) for a in node.attrs.values()):
        return f"{node.op} has an attribute that is neither numbers nor a word"
    number = rule.indices(node)[0] if rule.indices else None
    for v in (*values, *node.outputs):
        dtype = v.tensor.dtype
        if number is not None and v is node.inputs[number]:
            continue
        if not v.tensor.elements:
            return "there is nothing to compute"
        if dtype not in rule.dtypes and not (rule.bits and _bits(dtype)):
            return f"{node.op} is not written for {dtype}"
        if not operands.view(v).dense:
            return f"{node.op} needs %{v.name} in row-major order"
    return None


def _bits(dtype: str) -> str:
    """The dtype in which TVM can move elements of another, "" when there is none."""
    if dtype in _NUMBERS:
        return dtype
    return {8: "u8", 16: "u16", 32: "u32", 64: "u64"}.get(dtype_bits(dtype), "") if dtype != "string" else ""


def _bounds(node: Node, rule: Rule, given: _Given) -> tuple[Bounds, ...]:
    if rule.indices is None:
        return ()
    position, axes = rule.indices(node)
    number, data = given[position], node.inputs[0]
    if not isinstance(number, int) or data is None:
        return ()
    return (Bounds(number, tuple(data.dims[a] for a in axes), rule.wraps),)


def _plain(attrs: _Attrs) -> tuple[tuple[str, Any], ...]:
    """Attributes as data, in order; empty lists say nothing, and TVM cannot read them."""
    return tuple(sorted((k, tuple(a) if isinstance(a, list) else a) for k, a in attrs.items() if a != []))


def _resize(node: Node, operands: Operands) -> tuple[_Given, _Attrs] | str:
    """Resize by the sizes of its result: TVM computes with their ratio, so scales must be exactly that."""
    source, result = node.input(0), node.output
    if source is None or source.dims[:2] != result.dims[:2]:
        return "Resize is written for the axes after the first two"
    scales = node.input(2)
    if scales is not None and node.input(3) is None:
        known = operands.floats(scales)
        axes = node.attrs.get("axes") or range(len(source.dims))
        if known is None or any(np.float32(result.dims[a] / source.dims[a]) != np.float32(s) for a, s in zip(axes, known, strict=False)):
            return "Resize is written for scales that divide the sizes without remainder"
    sizes = Fixed("i64", (len(result.dims),), result.dims)
    return (0, None, None, sizes), {k: a for k, a in node.attrs.items() if k not in ("axes", "keep_aspect_ratio_policy")}


def _only(**allowed: Sequence[Any]) -> Callable[[Node], str | None]:
    """Attributes that may be absent or one of the values given."""
    def refuse(node: Node) -> str | None:
        wrong = [k for k, values in allowed.items() if k in node.attrs and node.attrs[k] not in values]
        return f"{node.op} is not written for {wrong[0]}={node.attrs[wrong[0]]}" if wrong else None
    return refuse


def _along_axis(node: Node) -> tuple[int, Sequence[int]]:
    return 1, (int(node.attrs.get("axis", 0)),)


def _last_axis(node: Node) -> tuple[int, Sequence[int]]:
    """GatherND and ScatterND: the last axis of the indices holds coordinates."""
    indices, skip = node.inputs[1], int(node.attrs.get("batch_dims", 0))
    return 1, range(skip, skip + (indices.dims[-1] if indices else 0))


def _pool(node: Node) -> str | None:
    """TVM's window of an average divides by what its pads hold when a window hangs over the end."""
    if len(node.outputs) != 1:
        return f"{node.op} is not written with indices"
    if node.op == "LpPool" and (node.attrs.get("ceil_mode") or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")):
        return "LpPool is not written for windows that hang over the end"
    return None


def _transposed(node: Node) -> str | None:
    return "ConvTranspose is not written for a given output shape" if "output_shape" in node.attrs else None


def _inference(node: Node) -> str | None:
    return f"{node.op} is not written for training" if len(node.outputs) != 1 or node.attrs.get("training_mode") else None


def _resized(node: Node) -> str | None:
    source = node.inputs[0]
    if source is not None and source.tensor.dtype in INTEGERS and node.attrs.get("mode", "nearest") != "nearest":
        return f"Resize of {source.tensor.dtype} is written for mode nearest"
    return _only(mode=("nearest", "linear", "cubic"), antialias=(0,), exclude_outside=(0,),
                 coordinate_transformation_mode=("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"),
                 nearest_mode=("round_prefer_floor", "floor", "ceil"))(node)


_F32 = frozenset({"f32"})
_QUANTIZED = frozenset({"u8", "i8", "u16", "i16"})
_LIBM = ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan")
TABLE: Mapping[str, Rule] = {
    **dict.fromkeys(_LIBM, Rule()),
    "AffineGrid": Rule(_F32, fixed=(1,), scratch=2),
    "AveragePool": Rule(refuse=_pool, scratch=1),
    "BatchNormalization": Rule(refuse=_inference, scratch=4),
    "Conv": Rule(scratch=1),
    "ConvTranspose": Rule(refuse=_transposed, scratch=2),
    "DequantizeLinear": Rule(_QUANTIZED | _F32 | {"i32"}, refuse=_only(block_size=(0,))),
    "DynamicQuantizeLinear": Rule(frozenset({"f32", "u8"}), scratch=2),
    "Einsum": Rule(_NUMBERS),
    "Gather": Rule(bits=True, indices=_along_axis),
    "GatherElements": Rule(bits=True, indices=_along_axis),
    "GatherND": Rule(bits=True, indices=_last_axis),
    "Gemm": Rule(_NUMBERS, refuse=_only(alpha=(1.0,), beta=(1.0,)), scratch=1),
    "GridSample": Rule(),
    "Hardmax": Rule(_NUMBERS, scratch=1),
    "LpPool": Rule(refuse=_pool, scratch=6),
    "MatMul": Rule(_NUMBERS),
    "MatMulInteger": Rule(frozenset({"u8", "i8", "i32"})),
    "MaxPool": Rule(_FLOATS | {"u8", "i8"}, refuse=_pool),
    "Pad": Rule(fixed=(1, 3), bits=True, refuse=_only(mode=("reflect", "edge", "wrap"))),
    "QuantizeLinear": Rule(_QUANTIZED | _F32, refuse=_only(block_size=(0,))),
    "Resize": Rule(_NUMBERS, refuse=_resized),
    "RoiAlign": Rule(_F32, refuse=_only(mode=("avg",)), indices=lambda _: (2, (0,)), wraps=False, scratch=1),
    "ScatterElements": Rule(bits=True, indices=_along_axis),
    "ScatterND": Rule(bits=True, indices=_last_axis),
    "Shrink": Rule(scratch=3),
    "Tile": Rule(fixed=(1,), bits=True),
    "Trilu": Rule(fixed=(1,), bits=True),
}
"""The operators that TVM gets right, and whose kernels of our own are missing, or do not take every dtype, rank or constant."""
