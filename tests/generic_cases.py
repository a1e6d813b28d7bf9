"""One node or more of each operator that TVM may take, as operands and attributes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgec.ir.edit import attributes
from edgec.ir.evaluate import evaluate_node
from edgec.ir.graph import Array, Node, Value
from edgec.ir.types import Tensor, dtype_name, numpy_dtype
from edgec.kernels.plan_generic import TABLE

INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")


@dataclass(frozen=True)
class Data:
    """An operand of the dtype under test with numbers from low to high."""

    shape: tuple[int, ...]
    low: float = -3.0
    high: float = 3.0


@dataclass(frozen=True)
class Case:
    """A node: operands are Data, arrays, or None for absent ones; `results` counts them."""

    op: str
    operands: tuple[Data | Array | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    results: int = 1


def ints(*values: int, dtype: str = "i64") -> Array:
    return np.array(values, numpy_dtype(dtype))


def case(op: str, *operands: Data | Array | None, results: int = 1, **attrs: Any) -> Case:
    return Case(op, operands, attrs, results)


IMAGE, VOLUME, ROWS = Data((1, 3, 14, 11)), Data((2, 4, 5, 6, 7)), Data((40, 30))
SCALE, ZERO = np.array([0.5, 0.25, 2, 1], np.float32), np.array([1, 3, 0, 7])
RNG = np.random.default_rng(0)
REDUCTIONS = ("add", "mul", "min", "max")
MODES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")


def indices(size: int, *shape: int, dtype: str = "i64") -> Array:
    return RNG.integers(-size, size, shape).astype(numpy_dtype(dtype))


def quantized(dtype: str, *shape: int) -> Array:
    kind = numpy_dtype(dtype)
    return RNG.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape).astype(kind)


def scaled(op: str, dtype: str) -> Case:
    """QuantizeLinear or DequantizeLinear by channel."""
    given = np.linspace(-9, 90, 480, dtype=np.float32).reshape(4, 120) if op == "QuantizeLinear" else quantized(dtype, 4, 120)
    return case(op, given, SCALE, ZERO.astype(numpy_dtype(dtype)), axis=0)


CASES = [
    *(case(op, Data((30, 17), -0.9, 0.9)) for op in ("Acos", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan")),
    case("Acosh", Data((30, 17), 1, 9)),
    case("AffineGrid", Data((2, 2, 3)), ints(2, 1, 15, 16)),
    case("AffineGrid", Data((1, 3, 4)), ints(1, 1, 12, 3, 14), align_corners=1),
    case("AveragePool", VOLUME, kernel_shape=[2, 3, 2], pads=[1, 1, 0, 0, 1, 1], strides=[1, 2, 1]),
    case("AveragePool", VOLUME, kernel_shape=[2, 2, 2], ceil_mode=1, count_include_pad=1, strides=[2, 2, 2]),
    case("BatchNormalization", IMAGE, Data((3,)), Data((3,)), Data((3,)), Data((3,), 0.1, 2), epsilon=1e-3),
    case("Conv", VOLUME, Data((6, 2, 2, 3, 1)), Data((6,)), group=2, pads=[1, 1, 0, 0, 1, 0], strides=[1, 1, 2]),
    case("Conv", IMAGE, Data((5, 3, 3, 3)), dilations=[2, 1], pads=[2, 0, 2, 0]),
    case("Conv", Data((1, 2, 90)), Data((3, 2, 3)), Data((3,))),
    case("ConvTranspose", VOLUME, Data((4, 3, 2, 2, 2)), strides=[2, 1, 2], pads=[1, 0, 0, 0, 0, 1], output_padding=[1, 0, 0]),
    case("ConvTranspose", Data((1, 4, 9, 9)), Data((4, 2, 3, 3)), Data((4,)), group=2, strides=[2, 2]),
    case("DynamicQuantizeLinear", np.linspace(-3, 5, 500, dtype=np.float32).reshape(25, 20), results=3),
    case("Einsum", Data((13, 14)), Data((14, 2, 13)), equation="ij,jki->ik"),
    case("Einsum", Data((12, 15, 15)), equation="...ii->...i"),
    case("Gather", ROWS, indices(40, 150)),
    case("Gather", ROWS, indices(30, 2, 9, dtype="i32"), axis=-1),
    case("GatherElements", ROWS, indices(40, 22, 30), axis=0),
    case("GatherElements", ROWS, indices(30, 40, 7, dtype="i32"), axis=1),
    case("GatherND", Data((30, 30, 2)), indices(30, 80, 2)),
    case("GatherND", Data((20, 3, 40)), indices(3, 20, 7, 1), batch_dims=1),
    case("Gemm", Data((13, 24)), Data((24, 25)), Data((25,))),
    case("Gemm", Data((24, 13)), Data((25, 24)), transA=1, transB=1),
    *(case("GridSample", IMAGE, Data((1, 4, 3, 2), -1.3, 1.3), mode=mode, padding_mode=pad, align_corners=corners)
      for mode, pad, corners in (("linear", "zeros", 0), ("nearest", "border", 0), ("cubic", "zeros", 1), ("linear", "reflection", 1))),
    case("GridSample", Data((1, 2, 3, 4, 5)), Data((1, 2, 3, 2, 3), -1.3, 1.3)),
    case("Hardmax", Data((13, 14, 5)), axis=1),
    case("LpPool", Data((1, 4, 16, 15), 0.1), kernel_shape=[2, 3], p=2),
    case("LpPool", Data((2, 3, 90)), kernel_shape=[3], p=1, pads=[1, 1]),
    case("MatMul", Data((2, 13, 24)), Data((24, 25))),
    case("MatMul", Data((24,)), Data((2, 24, 13))),
    case("MaxPool", VOLUME, kernel_shape=[2, 3, 2], pads=[1, 1, 0, 0, 1, 1], strides=[1, 2, 1], dilations=[1, 1, 2]),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], ceil_mode=1, strides=[2, 2]),
    *(case("Pad", Data((13, 4, 15)), ints(1, 0, 2, 2, 0, 1), mode=mode) for mode in ("reflect", "edge", "wrap")),
    case("Pad", Data((30, 14)), ints(2, 1), None, ints(-1), mode="edge"),
    *(case("Resize", IMAGE, None, None, ints(1, 3, 9, 24), mode=mode, coordinate_transformation_mode=where)
      for mode in ("nearest", "linear", "cubic") for where in MODES),
    *(case("Resize", IMAGE, None, None, ints(1, 3, 9, 24), nearest_mode=mode) for mode in ("floor", "ceil", "round_prefer_floor")),
    case("Resize", Data((1, 2, 5)), None, np.array([1, 1, 2], np.float32), mode="linear"),
    case("Resize", VOLUME, None, None, ints(2, 4, 6, 4, 9), mode="linear"),
    case("RoiAlign", IMAGE, np.array([[0, 0, 3, 4], [1, 1.5, 4, 5]], np.float32), ints(0, 0), output_height=12, output_width=13,
         sampling_ratio=2),
    case("ScatterElements", ROWS, RNG.permuted(np.arange(-20, 20)[:, None].repeat(30, 1), axis=0), Data((40, 30)), axis=0),
    case("ScatterND", ROWS, RNG.permutation(40)[:, None] - 20, Data((40, 30))),
    case("ScatterND", ROWS, np.array([[2, -1], [0, 1]]), Data((2,))),
    case("Shrink", Data((30, 17)), lambd=1.5, bias=0.5),
    case("Tile", Data((12, 13)), ints(2, 3)),
    case("Trilu", Data((2, 14, 15)), ints(1), upper=0),
    case("Trilu", Data((24, 13)), ints(-1)),
]
ADDING = [
    *(case("ScatterElements", Data((30, 14), 0, 2), indices(30, 22, 14), Data((22, 14), 0, 2), reduction=r) for r in REDUCTIONS),
    *(case("ScatterND", Data((40, 13), 0, 2), indices(40, 50, 1), Data((50, 13), 0, 2), reduction=r) for r in REDUCTIONS),
]
QUANTIZED = [
    *(scaled("QuantizeLinear", d) for d in ("u8", "i8", "u16", "i16")),
    case("QuantizeLinear", np.array([0.5, 1.5, -2.5, 300, -300], np.float32), np.array(1, np.float32)),
    *(scaled("DequantizeLinear", d) for d in ("u8", "i8", "u16", "i16")),
    case("DequantizeLinear", ints(3, -4, dtype="i32"), np.array(0.5, np.float32)),
    case("MatMulInteger", quantized("u8", 33, 14), quantized("i8", 14, 22), np.array(3, np.uint8), np.array(-1, np.int8)),
    case("MatMulInteger", quantized("u8", 2, 13, 14), quantized("u8", 14, 22)),
]


def numbers(rng: np.random.Generator, data: Data, dtype: str) -> Array:
    kind = numpy_dtype(dtype)
    if dtype == "bool":
        return rng.random(data.shape) < 0.5
    if dtype in INTEGERS:
        return rng.integers(0 if dtype[0] == "u" else int(data.low), int(data.high) + 1, data.shape).astype(kind)
    return rng.uniform(data.low, data.high, data.shape).astype(np.float32).astype(kind)


def made(what: Case, dtype: str) -> tuple[Node, dict[Value, Array], list[Array]]:
    """The node with types, its operands, and what the evaluator says of it in float64."""
    rng = np.random.default_rng(1)
    arrays = [numbers(rng, o, dtype) if isinstance(o, Data) else o for o in what.operands]
    inputs = [None if a is None else Value(f"i{i}", Tensor(dtype_name(a.dtype), a.shape)) for i, a in enumerate(arrays)]
    results = tuple(Value(f"o{i}") for i in range(what.results))
    node = Node(what.op, tuple(inputs), results, attributes(**what.attrs), origin="case")
    stored, exact = evaluate_node(node, arrays), evaluate_node(node, arrays, precise=True)
    outputs = tuple(Value(v.name, Tensor(dtype_name(a.dtype), a.shape)) for v, a in zip(results, stored, strict=True))
    known = {v: a for v, a in zip(inputs, arrays, strict=True) if v is not None and a is not None}
    return replace(node, outputs=outputs), known, [e if s.dtype.kind == "f" else s for s, e in zip(stored, exact, strict=True)]


def dtypes(what: Case) -> list[str]:
    """The dtypes that the table allows for a case, but for some that it allows because they are mere bits."""
    rule = TABLE[what.op]
    if not any(isinstance(o, Data) for o in what.operands):
        return ["f32"]
    if rule.bits and not what.attrs.get("reduction"):
        return [*INTEGERS, "f16", "bf16", "f32", "f64", "bool", "f8e5m2", "c64"]
    whole = INTEGERS if what.attrs.get("mode", "nearest") == "nearest" or what.op != "Resize" else ()
    return [d for d in (*whole, "f32", "f64") if d in rule.dtypes]
