"""Operators of TFLite: each is computed as LiteRT's reference kernels compute it, bit by bit."""

from collections.abc import Callable

import numpy as np
import pytest

from edgec.ir.evaluate import run as evaluate
from edgec.ir.graph import Graph
from tests import litert
from tests.litert import Maker, needs_litert, value

Random = np.random.Generator
pytestmark = needs_litert


def zero(random: Random) -> int:
    return int(random.integers(-128, 128))


def scale(random: Random, low: float = 0.003, high: float = 0.2) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def activation(random: Random) -> str:
    return str(random.choice(["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]))


def pair(random: Random, low: int, high: int) -> tuple[int, int]:
    return int(random.integers(low, high)), int(random.integers(low, high))


def sliding(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: str) -> tuple[int, int]:
    return tuple(-(-d // s) if padding == "SAME" else (d - k) // s + 1
                 for d, k, s in zip(size, kernel, stride, strict=True))  # type: ignore[return-value]


def conv(random: Random) -> Graph:
    make, depthwise = Maker(), bool(random.integers(2))
    size, kernel, stride = pair(random, 5, 12), pair(random, 1, 5), pair(random, 1, 4)
    padding, c, many = str(random.choice(["SAME", "VALID"])), int(random.integers(1, 9)), int(random.integers(1, 3))
    k = c * many if depthwise else int(random.integers(1, 20))
    x = make.input((1, *size, c), scale(random), zero(random))
    scales = [scale(random, 0.0005, 0.02) for _ in range(k if random.integers(2) else 1)]
    shape = (1, *kernel, k) if depthwise else (k, *kernel, c)
    w = make.weight(random.integers(-127, 128, shape, dtype=np.int8), scales, (3 if depthwise else 0) if len(scales) > 1 else None)
    quant = x.tensor.quant
    assert quant is not None
    b = make.weight(random.integers(-3000, 3000, k, dtype=np.int32), [quant.scale[0] * s for s in scales], 0 if len(scales) > 1 else None)
    y = value("y", (1, *sliding(size, kernel, stride, padding), k), scale(random, 0.02, 0.4), zero(random))
    more = {"multiplier": many} if depthwise else {}
    return make.graph("DepthwiseConv2D" if depthwise else "Conv2D", [x, w, b], y, stride=stride, padding=padding,
                      activation=activation(random), **more)


def binary(random: Random) -> Graph:
    make = Maker()
    shape = (1, 5, 6, 7)
    other = [shape, (1, 1, 1, 7), (1, 1, 1, 1)][int(random.integers(3))]
    x, z = make.input(shape, scale(random), zero(random)), make.input(other, scale(random), zero(random))
    y = value("y", shape, scale(random), zero(random))
    return make.graph(str(random.choice(["Add", "Sub", "Mul"])), [x, z], y, activation=activation(random))


def pool(random: Random) -> Graph:
    make = Maker()
    size, kernel, stride = pair(random, 4, 12), pair(random, 1, 5), pair(random, 1, 4)
    padding, s, z = str(random.choice(["SAME", "VALID"])), scale(random), zero(random)
    x = make.input((1, *size, 5), s, z)
    y = value("y", (1, *sliding(size, kernel, stride, padding), 5), s, z)
    return make.graph(str(random.choice(["AveragePool2D", "MaxPool2D"])), [x], y, filter=kernel, stride=stride, padding=padding,
                      activation=activation(random))


def softmax(random: Random) -> Graph:
    make = Maker()
    shape = (int(random.integers(1, 4)), int(random.integers(2, 40)))
    return make.graph("Softmax", [make.input(shape, scale(random, 0.003, 1.0), zero(random))], value("y", shape, 1 / 256, -128), beta=1.0)


def table(random: Random) -> Graph:
    make, op = Maker(), str(random.choice(["Logistic", "Tanh"]))
    x = make.input((1, 256), scale(random), zero(random))
    return make.graph(op, [x], value("y", (1, 256), *((1 / 256, -128) if op == "Logistic" else (1 / 128, 0))))


def hard_swish(random: Random) -> Graph:
    make = Maker()
    x = make.input((1, 256), scale(random), zero(random))
    return make.graph("HardSwish", [x], value("y", (1, 256), scale(random, 0.02, 0.1), zero(random)))


def requantize(random: Random) -> Graph:
    make = Maker()
    s = scale(random)
    x = make.input((1, 256), s, zero(random))
    return make.graph("Quantize", [x], value("y", (1, 256), s * float(random.uniform(0.3, 3)), zero(random)))


def relu(random: Random) -> Graph:
    make = Maker()
    s = scale(random)
    x = make.input((1, 256), s, zero(random))
    kind = str(random.choice(["RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"]))
    return make.graph("Relu", [x], value("y", (1, 256), s * float(random.uniform(0.3, 3)), zero(random)), activation=kind)


def from_bytes(random: Random) -> Graph:
    """A shift of the zero point, at the borders of models of unsigned bytes."""
    make, s, z = Maker(), scale(random), int(random.integers(0, 256))
    if random.integers(2):
        return make.graph("Quantize", [make.input((1, 256), s, z, "u8")], value("y", (1, 256), s, z - 128))
    return make.graph("Quantize", [make.input((1, 256), s, z - 128)], value("y", (1, 256), s, z, "u8"))


def moves(random: Random) -> Graph:
    make, s, z = Maker(), scale(random), zero(random)
    x = make.input((1, 4, 6, 3), s, z)
    match int(random.integers(5)):
        case 0:
            other = make.input((1, 4, 6, 2), s, z)
            return make.graph("Concat", [x, other], value("y", (1, 4, 6, 5), s, z), axis=3)
        case 1:
            wide = make.weight(np.array([[0, 0], [1, 2], [0, 3], [0, 0]], np.int32))
            return make.graph("Pad", [x, wide], value("y", (1, 7, 9, 3), s, z))
        case 2:
            order = random.permutation(4)
            axes = make.weight(order.astype(np.int32))
            return make.graph("Transpose", [x, axes], value("y", tuple((1, 4, 6, 3)[int(i)] for i in order), s, z))
        case 3:
            return make.graph("Reshape", [x, make.weight(np.array([1, 72], np.int32))], value("y", (1, 72), s, z))
        case _:
            places = [make.weight(np.array(p, np.int32)) for p in ((0, 1, 2, 0), (1, 4, 6, 2), (1, 1, 2, 1))]
            return make.graph("StridedSlice", [x, *places], value("y", (1, 3, 2, 2), s, z))


def resize(random: Random) -> Graph:
    make, s, z = Maker(), scale(random), zero(random)
    size, wanted = pair(random, 1, 7), pair(random, 1, 15)
    x = make.input((1, *size, 3), s, z)
    corners = int(random.integers(2))
    half = 0 if corners else int(random.integers(2))
    return make.graph(str(random.choice(["ResizeNearestNeighbor", "ResizeBilinear"])), [x, make.weight(np.array(wanted, np.int32))],
                      value("y", (1, *wanted, 3), s, z), align_corners=corners, half_pixel_centers=half)


MAKERS = [conv, binary, pool, softmax, table, hard_swish, requantize, relu, from_bytes, moves, resize]


def feed(random: Random, graph: Graph) -> list[np.ndarray]:
    made = []
    for v in graph.inputs:
        kind = np.iinfo(np.uint8 if v.tensor.dtype == "u8" else np.int8)
        flat = np.arange(kind.min, kind.max + 1, dtype=kind.dtype)
        made.append(flat.reshape(v.dims) if v.dims == (1, 256) else random.integers(kind.min, kind.max + 1, v.dims, dtype=kind.dtype))
    return made


@pytest.mark.parametrize("make", MAKERS)
def test_operators_are_those_of_litert(make: Callable[[Random], Graph]) -> None:
    for seed in range(60):
        random = np.random.default_rng(seed)
        graph = make(random)
        inputs = feed(random, graph)
        (wanted,) = litert.run(graph, inputs, reference=make is not table)
        (made,) = evaluate(graph, inputs)
        assert made.dtype == wanted.dtype
        assert np.array_equal(made, wanted), (seed, graph.nodes[0])
