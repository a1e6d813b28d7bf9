"""Random one-node models: what is drawn covers the corners of each operator, and a seed always draws the same."""

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.stress_draw import INTEGERS, KINDS, OPSET, Draw, Made, kind

if TYPE_CHECKING:
    from collections.abc import Callable


def _window(d: Draw, image: tuple[int, ...], *, dilate: bool, half: bool) -> dict[str, Any]:
    """Kernel, strides, dilations, pads that fit an image; `half`: no pad of a whole kernel."""
    rank = len(image)
    while True:
        kernel = [d.whole(1, 5) for _ in range(rank)]
        dilations = [d.one(1, 1, 2, 3) if dilate else 1 for _ in range(rank)]
        reach = [(k - 1) * s + 1 for k, s in zip(kernel, dilations, strict=True)]
        pads = [d.whole(0, (k - 1) if half else 3) for k in kernel * 2]
        if all(n + pads[i] + pads[i + rank] >= r for i, (n, r) in enumerate(zip(image, reach, strict=True))):
            break
    made = {"kernel_shape": kernel, "strides": [d.one(1, 1, 2, 3) for _ in range(rank)], "pads": pads}
    return made | ({"dilations": dilations} if dilate else {})


@kind
def conv(d: Draw) -> Made:
    rank, groups = d.one(1, 2, 2, 2, 3), d.one(1, 1, 1, 2, 3, 5)
    c, m = d.one(1, 2, 3, 4, 5, 8, 13) * groups, d.one(1, 2, 3, 5, 8, 16, 17, 33) * groups
    if d.chance(0.25):
        groups = c
        m = c * d.one(1, 1, 2, 3)
    image = tuple(d.whole(1, 12 if rank < 3 else 5) for _ in range(rank))
    attrs = _window(d, image, dilate=True, half=False) | {"group": groups}
    if d.chance(0.2):
        del attrs["pads"]
        attrs |= {"auto_pad": d.one("SAME_UPPER", "SAME_LOWER"), "dilations": [1] * rank}
    dtype = d.one("f4", "f4", "f4", "f4", "f8")
    x = d.array((d.one(1, 1, 3), c, *image), dtype)
    names = [d.given(x), d.given(d.array((m, c // groups, *attrs["kernel_shape"]), dtype), stored=0.8)]
    if d.chance(0.6):
        names.append(d.given(d.array((m,), dtype), stored=0.8))
    return "Conv", names, 1, attrs


@kind
def transposed(d: Draw) -> Made:
    rank, groups = d.one(1, 2, 2), d.one(1, 1, 2, 3)
    c, m = d.one(1, 2, 3, 5, 8), d.one(1, 2, 3, 5, 8, 17)
    image = tuple(d.whole(1, 7) for _ in range(rank))
    kernel, strides = [d.whole(1, 4) for _ in range(rank)], [d.whole(1, 3) for _ in range(rank)]
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "group": groups}
    if d.chance(0.6):
        attrs["pads"] = [d.whole(0, max(0, (k - 1) // 2)) for k in kernel * 2]
    if d.chance(0.4):
        attrs["dilations"] = [d.whole(1, 2) for _ in range(rank)]
    if d.chance(0.4):
        attrs["output_padding"] = [d.whole(0, s - 1) for s in strides]
    elif d.chance(0.3):
        attrs.pop("pads", None)
        attrs["output_shape"] = [n * s for n, s in zip(image, strides, strict=True)]
        attrs["kernel_shape"] = kernel = [max(k, s) for k, s in zip(kernel, strides, strict=True)]
    names = [d.given(d.array((d.one(1, 2), c * groups, *image))), d.given(d.array((c * groups, m, *kernel)), stored=0.8)]
    if d.chance(0.5):
        names.append(d.given(d.array((m * groups,)), stored=0.8))
    return "ConvTranspose", names, 1, attrs


@kind
def pool(d: Draw) -> Made:
    op = d.one("MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool")
    image = d.shape(d.one(1, 2, 2, 2, 3), 9)
    attrs = _window(d, image, dilate=op == "MaxPool" and d.chance(0.5), half=True)
    if op != "LpPool":
        attrs["ceil_mode"] = d.whole(0, 1)
    if op == "AveragePool":
        attrs["count_include_pad"] = d.whole(0, 1)
    if d.chance(0.15):
        del attrs["pads"]
        attrs |= {"auto_pad": d.one("SAME_UPPER", "SAME_LOWER"), "ceil_mode": 0}
        attrs.pop("dilations", None)
        if op == "LpPool":
            del attrs["ceil_mode"]
    x = d.array((d.one(1, 3), d.one(1, 2, 3, 8, 13, 16, 17), *image))
    return op, [d.given(x)], 1, attrs


@kind
def global_pool(d: Draw) -> Made:
    x = d.array((d.whole(1, 3), d.whole(1, 17), *d.shape(d.whole(1, 3))))
    return d.one("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), [d.given(x)], 1, {}


@kind
def gemm(d: Draw) -> Made:
    n, k, m = d.one(1, 2, 3, 7), d.one(1, 2, 5, 16, 33, 300), d.one(1, 2, 3, 8, 10, 17, 40)
    a, b = d.whole(0, 1), d.whole(0, 1)
    dtype = d.one("f4", "f4", "f4", "f8")
    names = [d.given(d.array((k, n) if a else (n, k), dtype)), d.given(d.array((m, k) if b else (k, m), dtype), stored=0.6)]
    if d.chance(0.7):
        names.append(d.given(d.array(d.one((), (1,), (m,), (1, m), (n, 1), (n, m), (1, 1)), dtype), stored=0.6))
    factors = {"alpha": d.one(1.0, 0.5, 0.0, -2.0), "beta": d.one(1.0, 0.25, 0.0, -1.0)}
    return "Gemm", names, 1, {"transA": a, "transB": b, **factors}


@kind
def matmul(d: Draw) -> Made:
    k = d.one(1, 3, 8, 17, 64)
    left, right = [d.one(1, 2, 5), k], [k, d.one(1, 3, 8, 16, 17)]
    batch = [d.one(1, 2, 3) for _ in range(d.whole(0, 3))]
    left = [*(n if d.chance(0.7) else 1 for n in batch[d.whole(0, len(batch)):]), *left]
    right = [*(n if d.chance(0.7) else 1 for n in batch[d.whole(0, len(batch)):]), *right]
    if d.chance(0.1):
        left = [k]
    if d.chance(0.1):
        right = [k]
    dtype = d.one("f4", "f4", "f4", "f8", "i4")
    return "MatMul", [d.given(d.array(tuple(left), dtype), stored=0.2), d.given(d.array(tuple(right), dtype), stored=0.5)], 1, {}


@kind
def softmax(d: Draw) -> Made:
    shape = d.shape(d.whole(1, 4), 17)
    x = d.array(shape) * d.one(1.0, 30.0, 200.0)
    op, axis = d.one("Softmax", "Softmax", "LogSoftmax", "Hardmax"), d.whole(-len(shape), len(shape) - 1)
    return op, [d.given(x.astype("f4"))], 1, {"axis": axis}


@kind
def reduction(d: Draw) -> Made:
    plain = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
    op = d.one(*plain, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
    shape = d.shape(d.whole(1, 5), 7)
    dtype = d.one("f4", "f4", "f4", "f8", "i4", "i8") if op in plain else "f4"
    x = d.array(shape, dtype)
    if op == "ReduceLogSum":
        x = np.abs(x)
    if op == "ReduceProd" and dtype[0] == "i":
        x = np.sign(x) + (x == 5)                                          # ONNX Runtime does not wrap large products, edgec does
    axes = [i - d.one(0, len(shape)) for i in range(len(shape)) if d.chance(0.5)]
    names = [d.given(x)] + ([d.const(axes)] if axes or d.chance(0.5) else [])
    return op, names, 1, {"keepdims": d.whole(0, 1), "noop_with_empty_axes": d.whole(0, 1)}


@kind
def arg(d: Draw) -> Made:
    shape = d.shape(d.whole(1, 4), 17)
    x = np.round(d.array(shape) * 2) if d.chance(0.5) else d.array(shape)
    return d.one("ArgMax", "ArgMin"), [d.given(x.astype(d.one("f4", "f4", "i4")))], 1, {
        "axis": d.whole(-len(shape), len(shape) - 1), "keepdims": d.whole(0, 1), "select_last_index": d.whole(0, 1)}


UNARY = ("Abs", "Neg", "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Erf", "Sign", "Softplus",
         "Softsign", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "HardSwish", "HardSigmoid",
         "Elu", "Selu", "Celu", "LeakyRelu", "ThresholdedRelu", "Mish", "Gelu", "IsNaN", "IsInf", "Identity", "Shrink")


@kind
def unary(d: Draw) -> Made:
    op = d.one(*UNARY)
    many = {"Abs", "Neg", "Relu", "Exp", "Log", "Sqrt", "Floor", "Tanh", "Sigmoid", "Sign"}
    dtype = d.one("f4", "f4", "f4", "f8", "f2") if op in many else "f4"
    if op in {"Abs", "Neg", "Sign", "Identity"} and d.chance(0.4):
        dtype = d.one("i1", "i2", "i4", "i8")
    x = d.array(d.one((37,), (1,), (3, 5, 7), (2, 16), (1, 3, 4, 5)), dtype, special=dtype[0] == "f" and d.chance(0.5))
    if dtype[0] == "f" and d.chance(0.3):
        x = (x * 20).astype(dtype)
    attrs = {"IsInf": {"detect_negative": d.whole(0, 1), "detect_positive": d.whole(0, 1)}, "Gelu": {"approximate": d.one("none", "tanh")},
             "Elu": {"alpha": 0.7}, "LeakyRelu": {"alpha": 0.3}, "Shrink": {"lambd": 0.4, "bias": 0.1}}
    return op, [d.given(x)], 1, attrs.get(op, {})


def _nearly(d: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that is broadcast to another."""
    return tuple(n if d.chance(0.7) else 1 for n in shape)


_DTYPES = {"And": "?", "Or": "?", "Xor": "?", "PRelu": "f4", "Sum": "f4", "Mean": "f4"}


@kind
def binary(d: Draw) -> Made:
    op = d.one("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual", "And",
               "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "PRelu", "Sum", "Mean")
    dtype = d.one("u1", "u4", "u8") if op == "BitShift" else d.one(*INTEGERS) if op.startswith("Bit") else _DTYPES.get(op)
    dtype = dtype or d.one("f4", "f4", "f4", "f8", "i4", "i8", "u1", "i1", "f2")
    shape = d.shape(d.whole(1, 4), 8)
    a = d.array(shape if op == "PRelu" else _nearly(d, shape), dtype, special=dtype[0] == "f" and d.chance(0.3))
    b = d.array(_nearly(d, shape[0 if d.chance(0.6) else d.whole(0, len(shape)):]), dtype)
    if d.chance(0.4) and op not in {"PRelu", "Pow", "BitShift"}:
        a, b = b, a
    if op == "Pow" and dtype[0] in "iu":
        b = np.abs(b) % 4
    if op in {"Div", "Mod"}:  # numbers for which a quotient and its remainder are well defined
        b = np.where(np.isfinite(b) & (np.abs(b) > 1e-3), b, np.asarray(3, b.dtype))
        a = np.where(np.isfinite(a) & (np.abs(a) < 1e3), a, np.asarray(1, a.dtype))
    attrs = {"Mod": {"fmod": 1 if dtype[0] == "f" else d.whole(0, 1)}, "BitShift": {"direction": d.one("LEFT", "RIGHT")}}.get(op, {})
    return op, [d.given(a, stored=0.15), d.given(b, stored=0.3)], 1, attrs


@kind
def where(d: Draw) -> Made:
    shape, dtype = d.shape(d.whole(1, 4), 8), d.one("f4", "f4", "i4", "i8", "u1", "?", "f8")
    condition, x, y = (d.array(_nearly(d, shape), t) for t in ("?", dtype, dtype))
    return "Where", [d.given(condition), d.given(x), d.given(y, stored=0.3)], 1, {}


@kind
def logical_not(d: Draw) -> Made:
    op, dtype = ("Not", "?") if d.chance(0.4) else ("BitwiseNot", d.one(*INTEGERS))
    return op, [d.given(d.array(d.shape(2), dtype))], 1, {}


@kind
def clip(d: Draw) -> Made:
    dtype, has_low, has_high = d.one("f4", "f4", "f8", "i4", "i1", "u1", "i8"), d.chance(0.7), d.chance(0.7)
    special = dtype == "f4" and has_low and has_high  # an absent bound is the largest finite number to ONNX Runtime, and none to edgec
    x = d.given(d.array(d.shape(3), dtype, special=special and d.chance(0.5)))
    low = d.given(np.asarray(1 if dtype[0] == "u" else -1, dtype), stored=0.7) if has_low else ""
    return "Clip", [x, low, *([d.given(np.asarray(d.one(2, 3), dtype), stored=0.7)] if has_high else [])], 1, {}


@kind
def cast(d: Draw) -> Made:
    types = ("f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
    a, b = d.one(*types), d.one(*types)
    x = np.abs(d.array((5, 7), a)) if b[0] == "u" else d.array((5, 7), a)
    return "Cast", [d.given((x * 3 if a[0] == "f" else x).astype(a))], 1, {"to": int(helper.np_dtype_to_tensor_dtype(np.dtype(b)))}


@kind
def resize(d: Draw) -> Made:
    rank = d.one(1, 2, 2, 2)
    image = tuple(d.whole(1, 9) for _ in range(rank))
    mode = d.one("nearest", "nearest", "linear", "linear", "cubic") if rank == 2 else d.one("nearest", "linear")
    attrs = {"mode": mode, "coordinate_transformation_mode": d.one("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")}
    if mode == "nearest":
        attrs["nearest_mode"] = d.one("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode == "cubic":
        attrs |= {"cubic_coeff_a": d.one(-0.75, -0.5), "exclude_outside": d.whole(0, 1)}
    x = d.given(d.array((d.whole(1, 2), d.one(1, 3, 8, 16), *image)))
    batch = d.feeds[x].shape[:2]
    if d.chance(0.5):
        return "Resize", [x, "", "", d.const([*batch, *(d.whole(1, 15) for _ in image)])], 1, attrs
    scales = [max(d.one(0.5, 0.6, 1.0, 1.5, 2.0, 2.3, 3.0), 1.0 / n) for n in image]
    return "Resize", [x, "", d.const([1, 1, *scales], "f4")], 1, attrs


@kind
def moves(d: Draw) -> Made:
    shape = d.shape(d.whole(1, 5), 7)
    x = d.given(d.array(shape, d.one("f4", "f4", "i8", "u1", "?", "f8", "i2", "f2")))
    rank = len(shape)
    made: dict[str, Callable[[], tuple[list[Any], dict[str, Any]]]] = {
        "Transpose": lambda: ([], {"perm": [int(i) for i in d.random.permutation(rank)]}),
        "Tile": lambda: ([[d.whole(1, 3) for _ in shape]], {}),
        "Expand": lambda: ([[*d.one([], [2], [3, 1]), *(1 if n > 1 else d.whole(1, 4) for n in shape)]], {}),
        "Flatten": lambda: ([], {"axis": d.whole(-rank, rank)}),
        "Reshape": lambda: ([d.one([-1], [0, -1], [1, -1, 1], [*shape[::-1]])], {}),
        "Unsqueeze": lambda: ([[0, -1]], {}),
        "Squeeze": lambda: ([], {}),
    }
    op = d.one(*made)
    constants, attrs = made[op]()
    return op, [x, *map(d.const, constants)], 1, attrs


@kind
def cut(d: Draw) -> Made:
    shape = d.shape(d.whole(1, 5), 7)
    x = d.given(d.array(shape, d.one("f4", "f4", "i8", "u1", "?", "f8", "i2")))
    axes = [i for i in range(len(shape)) if d.chance(0.6)] or [0]
    starts = [d.whole(-shape[a] - 1, shape[a] + 1) for a in axes]
    ends = [d.whole(-shape[a] - 2, shape[a] + 2) for a in axes]
    named = [a - d.one(0, len(shape)) for a in axes]
    return "Slice", [x, *map(d.const, (starts, ends, named, [d.one(1, 1, 2, -1, -2, 3) for _ in axes]))], 1, {}


@kind
def pad(d: Draw) -> Made:
    shape, mode = d.shape(d.whole(1, 4), 7), d.one("constant", "constant", "edge", "reflect", "wrap")
    low, high = -1 if mode == "constant" and min(shape) > 2 else 0, 3 if mode != "reflect" else min(3, min(shape) - 1)
    x = d.given(d.array(shape, d.one("f4", "f4", "f8", "i8")))
    return "Pad", [x, d.const([d.whole(low, high) for _ in range(2 * len(shape))])], 1, {"mode": mode}


@kind
def parts(d: Draw) -> Made:
    shape = d.shape(d.whole(1, 4), 7)
    rank, dtype = len(shape), d.one("f4", "f4", "i8", "?")
    x = d.given(d.array(shape, dtype))
    axis = d.whole(-rank, rank - 1)
    if d.chance(0.5):
        return "Concat", [x, *([x] if d.chance(0.3) else []), d.given(d.array(shape, dtype))], 1, {"axis": axis}
    first = d.whole(0, shape[axis])
    return "Split", [x, d.const([first, shape[axis] - first])], 2, {"axis": axis}


@kind
def gather(d: Draw) -> Made:
    shape = d.shape(d.whole(1, 4), 7)
    axis = d.whole(-len(shape), len(shape) - 1)
    n, dtype = shape[axis], d.one("i4", "i8")
    x = d.given(d.array(shape, d.one("f4", "f4", "i8", "u1")), stored=0.3)
    if d.chance(0.3):
        wanted = list(shape)
        wanted[axis] = d.whole(1, 5)
        return "GatherElements", [x, d.given(d.random.integers(-n, n, wanted).astype(dtype))], 1, {"axis": axis}
    return "Gather", [x, d.given(d.random.integers(-n, n, d.shape(d.whole(0, 2))).astype(dtype), stored=0.3)], 1, {"axis": axis}


@kind
def gather_nd(d: Draw) -> Made:
    shape = d.shape(d.whole(2, 4), 5)
    depth = d.whole(1, len(shape))
    indices = np.stack([d.random.integers(-n, n, (3, 2)) for n in shape[:depth]], -1)
    if d.chance(0.5):
        return "GatherND", [d.given(d.array(shape)), d.given(indices, stored=0.3)], 1, {}
    indices = np.stack(np.unravel_index(d.random.permutation(int(np.prod(shape[:depth])))[:4], shape[:depth]), -1)
    updates = d.array((len(indices), *shape[depth:]))
    names = [d.given(d.array(shape)), d.given(indices.astype("i8"), stored=0.3), d.given(updates)]
    return "ScatterND", names, 1, {"reduction": d.one("none", "add", "mul", "max")}


@kind
def layer_norm(d: Draw) -> Made:
    shape = d.shape(d.whole(2, 4), 9)
    axis = d.whole(-len(shape), len(shape) - 1)
    parameters = [d.given(d.array(shape[axis:]), stored=0.7) for _ in range(d.whole(1, 2))]
    return "LayerNormalization", [d.given(d.array(shape)), *parameters], 1, {"axis": axis, "epsilon": 1e-3}


@kind
def norm(d: Draw) -> Made:
    c = d.one(2, 4, 6, 12, 16)
    x = d.given(d.array((d.whole(1, 3), c, *d.shape(2, 6))))
    made: dict[str, tuple[int, dict[str, Any]]] = {
        "InstanceNormalization": (2, {}), "GroupNormalization": (2, {"num_groups": 2}), "BatchNormalization": (4, {}),
        "LRN": (0, {"size": d.one(1, 3, 5), "alpha": 0.1, "beta": 0.75, "bias": 1.5}), "MeanVarianceNormalization": (0, {}),
        "LpNormalization": (0, {"axis": d.whole(-4, 3), "p": d.whole(1, 2)})}
    op = d.one(*made)
    if op == "MeanVarianceNormalization" and d.feeds[x][:, 0].size == 1:
        op = "InstanceNormalization"                                       # the variance of one number is NaN in ONNX Runtime at times
    count, attrs = made[op]
    size = 2 if op == "GroupNormalization" else c
    return op, [x, *(d.const(np.abs(d.array((size,))) + 0.1, "f4") for _ in range(count))], 1, attrs


@kind
def blocks(d: Draw) -> Made:
    b = d.one(1, 2, 3)
    if d.chance(0.5):
        return "DepthToSpace", [d.given(d.array((2, b * b * d.whole(1, 3), 3, 4)))], 1, {"blocksize": b, "mode": d.one("DCR", "CRD")}
    return "SpaceToDepth", [d.given(d.array((2, 3, 2 * b, 3 * b)))], 1, {"blocksize": b}


@kind
def along(d: Draw) -> Made:
    shape = d.shape(d.whole(1, 3))
    axis = d.whole(-len(shape), len(shape) - 1)
    x = d.given(d.array(shape))
    if d.chance(0.5):
        return "CumSum", [x, d.const(axis)], 1, {"exclusive": d.whole(0, 1), "reverse": d.whole(0, 1)}
    return "TopK", [x, d.const([d.whole(1, shape[axis])])], 2, {"axis": axis, "largest": d.whole(0, 1)}


@kind
def matrices(d: Draw) -> Made:
    op = d.one("Trilu", "EyeLike", "Size", "Shape", "Einsum")
    if op == "Einsum":
        equation, *shapes = d.one(("ij,jk->ik", (3, 4), (4, 5)), ("bij,bkj->bik", (2, 3, 4), (2, 5, 4)), ("i,i->", (7,), (7,)),
                                  ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)), ("ij->ji", (3, 4)))
        return op, [d.given(d.array(s)) for s in shapes], 1, {"equation": equation}
    x = d.given(d.array(d.shape(2 if op == "EyeLike" else d.whole(2, 4))))
    attrs: dict[str, Any] = {"EyeLike": {"k": d.whole(-2, 2)}, "Trilu": {"upper": d.whole(0, 1)}}.get(op, {})
    return op, [x, *([d.const(d.whole(-3, 3))] if op == "Trilu" else [])], 1, attrs


@kind
def others(d: Draw) -> Made:
    op = d.one("OneHot", "QuantizeLinear", "DequantizeLinear", "GridSample", "Range")
    if op == "OneHot":
        indices = d.given(d.random.integers(-6, 7, (3, 4)).astype("i8"))
        return op, [indices, d.const(5), d.const([0.5, 2.0], "f4")], 1, {"axis": d.one(0, 1, -1)}
    if op == "QuantizeLinear":
        return op, [d.given(d.array((2, 5, 3)) * 20), d.const(0.25, "f4"), d.const(3, d.one("u1", "i1"))], 1, {}
    if op == "DequantizeLinear":
        scales, zeros = d.const([0.1, 0.2, 0.3, 0.4, 0.5], "f4"), d.const([1, 2, 3, 4, 5], "u1")
        return op, [d.given(d.array((2, 5, 3), "u1")), scales, zeros], 1, {"axis": 1}
    if op == "GridSample":
        attrs = {"mode": d.one("linear", "nearest"), "padding_mode": d.one("zeros", "border", "reflection"), "align_corners": d.whole(0, 1)}
        return op, [d.given(d.array((1, 3, 5, 6))), d.given(d.array((1, 4, 7, 2)) * np.float32(0.8))], 1, attrs
    return op, [d.const(1, "f4"), d.const(9, "f4"), d.const(2, "f4")], 1, {}


class Case:
    """A node with its data."""

    def __init__(self, seed: int, only: str | None = None) -> None:
        d = Draw(seed)
        made = KINDS[only or d.one(*KINDS)](d)
        self.seed, self.op, self.feeds, self.weights = seed, made[0], d.feeds, d.weights
        self.attrs = made[3]
        self.outputs = [f"y{seed}_{i}" for i in range(made[2])]
        self.node = helper.make_node(made[0], made[1], self.outputs, name=f"node{seed}", **made[3])

    @property
    def magnitude(self) -> "Case":
        """The same node on absolute values: of a sum of products, what a rounding error is measured against."""
        made = copy.copy(self)
        made.feeds, made.weights = ({n: np.abs(a) for n, a in arrays.items()} for arrays in (self.feeds, self.weights))
        return made

    def __str__(self) -> str:
        arrays = [f"{n}:{a.dtype}{list(a.shape)}" + "=w" * (n in self.weights) for n, a in (self.feeds | self.weights).items()]
        return f"{self.seed} {self.op} {' '.join(arrays)} {self.attrs}"


def model(cases: list[Case]) -> onnx.ModelProto:
    """One model of all these nodes."""
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
              for c in cases for n, a in c.feeds.items()]
    outputs = [helper.make_empty_tensor_value_info(o) for c in cases for o in c.outputs]
    weights = [numpy_helper.from_array(a, n) for c in cases for n, a in c.weights.items()]
    graph = helper.make_graph([c.node for c in cases], "stress", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
