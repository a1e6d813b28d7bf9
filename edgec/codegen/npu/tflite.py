"""A graph of `tfl` operators as the TFLite model that it is: one operator each, one tensor for each value.

Regions of NPUs are of integers; of reals are whole models for LiteRT, with which edgec is compared (edgec/peers/tflite.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.codegen.npu.flat import Field, Table, buffer
from edgec.errors import EdgecError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.tflite import PREFIX

_TYPES = {"f32": 0, "i32": 2, "u8": 3, "i64": 4, "i8": 9}
_PADDINGS = ("SAME", "VALID")
_ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
_ALONE = {"RELU": (19, 2), "RELU_N1_TO_1": (20, 1), "RELU6": (21, 2), "RELU_0_TO_1": (152, 1)}
"""Activations that are operators of their own: codes and versions."""
_LAST_OLD_CODE = 127

Attrs = Mapping[str, Any]


def _activation(slot: int, attrs: Attrs) -> Field:
    return Field(slot, "i8", _ACTIVATIONS[attrs.get("activation", "NONE")])


def _strides(attrs: Attrs) -> list[Field]:
    height, width = attrs["stride"]
    return [Field(0, "i8", _PADDINGS.index(attrs["padding"])), Field(1, "i32", width), Field(2, "i32", height)]


def _dilation(slot: int, attrs: Attrs) -> list[Field]:
    height, width = attrs.get("dilation", (1, 1))
    return [Field(slot, "i32", width), Field(slot + 1, "i32", height)]


def _conv(attrs: Attrs) -> Table:
    return [*_strides(attrs), _activation(3, attrs), *_dilation(4, attrs)]


def _depthwise(attrs: Attrs) -> Table:
    return [*_strides(attrs), Field(3, "i32", attrs["multiplier"]), _activation(4, attrs), *_dilation(5, attrs)]


def _pool(attrs: Attrs) -> Table:
    height, width = attrs["filter"]
    return [*_strides(attrs), Field(3, "i32", width), Field(4, "i32", height), _activation(5, attrs)]


def _resize(first: int) -> Callable[[Attrs], Table]:
    return lambda a: [Field(first, "bool", bool(a.get("align_corners", 0))), Field(first + 1, "bool", bool(a.get("half_pixel_centers", 0)))]


def _nothing(_: Attrs) -> Table:
    return []


def _fully_connected(attrs: Attrs) -> Table:
    return [_activation(0, attrs), Field(2, "bool", bool(attrs.get("keep_num_dims", 0)))]


def _response_norm(attrs: Attrs) -> Table:
    return [Field(0, "i32", attrs["radius"]), *(Field(i, "f32", attrs[n]) for i, n in enumerate(("bias", "alpha", "beta"), 1))]


def _keep_dims(attrs: Attrs) -> Table:
    return [Field(0, "bool", bool(attrs["keep_dims"]))]


def _first_activation(attrs: Attrs) -> Table:
    return [_activation(0, attrs)]


_OPERATORS: Mapping[str, tuple[int, int, int, Callable[[Attrs], Table]]] = {
    "Add": (0, 2, 11, _first_activation), "Sub": (41, 2, 28, _first_activation), "Mul": (18, 2, 21, _first_activation),
    "AveragePool2D": (1, 2, 5, _pool), "MaxPool2D": (17, 2, 5, _pool),
    "Concat": (2, 2, 10, lambda a: [Field(0, "i32", a["axis"])]), "Conv2D": (3, 3, 1, _conv), "DepthwiseConv2D": (4, 3, 2, _depthwise),
    "Logistic": (14, 2, 0, _nothing), "Tanh": (28, 2, 0, _nothing),
    "Relu": (19, 2, 0, _nothing), "Reshape": (22, 1, 17, _nothing),
    "Softmax": (25, 2, 9, lambda a: [Field(0, "f32", a.get("beta", 1.0))]),
    "Pad": (34, 2, 22, _nothing), "Transpose": (39, 2, 26, _nothing), "Quantize": (114, 2, 89, _nothing),
    "HardSwish": (117, 1, 91, _nothing), "StridedSlice": (45, 2, 32, _nothing),
    "ResizeBilinear": (23, 3, 15, _resize(2)), "ResizeNearestNeighbor": (97, 3, 74, _resize(0)),
    # and those that only occur with reals
    "FullyConnected": (9, 5, 8, _fully_connected), "BatchMatMul": (126, 1, 101, _nothing), "Div": (42, 1, 29, _first_activation),
    "TransposeConv": (67, 4, 49, lambda a: [*_strides(a), _activation(3, a)]),
    "Mean": (40, 1, 27, _keep_dims), "Sum": (74, 1, 27, _keep_dims), "ReduceMax": (82, 1, 27, _keep_dims),
    "Maximum": (55, 1, 39, _nothing), "Minimum": (57, 1, 39, _nothing), "SquaredDifference": (99, 1, 76, _nothing),
    "Exp": (47, 1, 33, _nothing), "Pow": (78, 1, 56, _nothing), "Sqrt": (75, 1, 0, _nothing), "Rsqrt": (76, 1, 0, _nothing),
    "Gelu": (150, 1, 116, lambda a: [Field(0, "bool", bool(a["approximate"]))]),
    "LocalResponseNorm": (13, 1, 13, _response_norm), "PadV2": (60, 1, 43, _nothing),
    "Gather": (36, 1, 23, lambda a: [Field(0, "i32", a["axis"])]),
    "Cast": (53, 1, 37, lambda a: [Field(0, "i8", _TYPES[a["from"]]), Field(1, "i8", _TYPES[a["to"]])]),
}
"""The code of each operator, its version, the code of its table of options (0: none), and that table."""


def model(graph: Graph) -> bytes:
    """The model of a graph whose nodes are `tfl` operators; ToolMissing without the package `flatbuffers`."""
    return buffer(_Writer(graph).run(), b"TFL3")


class _Writer:
    """Numbers of tensors, buffers and operator codes, in the order in which they are met."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensors: list[Table] = []
        self.buffers: list[Table] = [[]]
        self.codes: dict[tuple[int, int], int] = {}
        self.number: dict[Value, int] = {}

    def run(self) -> Table:
        inputs = [self._tensor(v) for v in self.graph.inputs]
        operators = [self._operator(n) for n in self.graph.nodes]
        outputs = [self._tensor(v) for v in self.graph.outputs]
        subgraph = [Field(0, "[table]", self.tensors), Field(1, "[i32]", inputs), Field(2, "[i32]", outputs),
                    Field(3, "[table]", operators), Field(4, "text", self.graph.name or "main")]
        codes = [[Field(0, "i8", min(c, _LAST_OLD_CODE)), Field(2, "i32", version), Field(3, "i32", c)] for c, version in self.codes]
        return [Field(0, "u32", 3), Field(1, "[table]", codes), Field(2, "[table]", [subgraph]), Field(3, "text", "edgec"),
                Field(4, "[table]", self.buffers)]

    def _tensor(self, value: Value | None) -> int:
        """The number of a value's tensor; -1 for an operand that is absent."""
        if value is None:
            return -1
        if value in self.number:
            return self.number[value]
        self.number[value] = len(self.tensors)
        kind, place = value.tensor, 0
        if (array := self.graph.weights.get(value)) is not None:
            place = len(self.buffers)
            self.buffers.append([Field(0, "bytes", np.ascontiguousarray(array).tobytes())])
        fields = [Field(0, "[i32]", kind.dims), Field(1, "i8", _TYPES[kind.dtype]), Field(2, "u32", place), Field(3, "text", value.name),
                  Field(8, "bool", value=True)]
        if kind.quant is not None:
            zeros = kind.quant.zero * (len(kind.quant.scale) if len(kind.quant.zero) == 1 else 1)
            fields.append(Field(4, "table", [Field(2, "[f32]", kind.quant.scale), Field(3, "[i64]", zeros),
                                             Field(6, "i32", kind.quant.axis or 0)]))
        self.tensors.append(fields)
        return self.number[value]

    def _operator(self, node: Node) -> Table:
        name = node.op.removeprefix(PREFIX)
        if name not in _OPERATORS or name == node.op:
            raise EdgecError(f"{node.label} is no operator of TFLite")
        code, version, options, table = _OPERATORS[name]
        if name == "Relu":
            code, version = _ALONE[node.attrs["activation"]]
        fields = [Field(0, "u32", self.codes.setdefault((code, version), len(self.codes))),
                  Field(1, "[i32]", [self._tensor(v) for v in node.inputs]), Field(2, "[i32]", [self._tensor(v) for v in node.outputs])]
        return [*fields, Field(3, "u8", options), Field(4, "table", table(node.attrs))] if options else fields


__all__: Sequence[str] = ["model"]
