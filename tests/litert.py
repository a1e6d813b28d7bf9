"""LiteRT's interpreter as a reference for graphs of `tfl` operators, and graphs to try."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from edgec.codegen.npu.tflite import model
from edgec.ir.edit import attributes
from edgec.ir.graph import Array, Graph, Node, Value
from edgec.ir.types import Quant, Tensor, dtype_name

needs_litert = pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="no LiteRT: pip install '.[npu,dev]'")


def run(graph: Graph, inputs: Sequence[Array], *, reference: bool = True) -> list[Array]:
    """What LiteRT makes of a graph, by its reference kernels or by its optimized ones."""
    return run_model(model(graph), inputs, reference=reference)


def run_model(data: bytes, inputs: Sequence[Array], *, reference: bool = True) -> list[Array]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: PLC0415  an optional package

    kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=kind)
    interpreter.allocate_tensors()
    for place, array in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(place["index"], array)
    interpreter.invoke()
    return [np.asarray(interpreter.get_tensor(place["index"])) for place in interpreter.get_output_details()]


class Maker:
    """One operator as a graph."""

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.weights: dict[Value, Array] = {}

    def input(self, shape: Sequence[int], scale: float, zero: int = 0, dtype: str = "i8") -> Value:
        self.inputs.append(value(f"x{len(self.inputs)}", shape, scale, zero, dtype))
        return self.inputs[-1]

    def weight(self, array: Array, scales: Sequence[float] | None = None, axis: int | None = None) -> Value:
        quant = None if scales is None else Quant(tuple(float(np.float32(s)) for s in scales), (0,) * len(scales), axis)
        made = Value(f"w{len(self.weights)}", Tensor(dtype_name(array.dtype), array.shape, quant=quant))
        self.weights[made] = array
        return made

    def graph(self, op: str, operands: Sequence[Value | None], result: Value, **attrs: Any) -> Graph:
        node = Node(f"tfl.{op}", tuple(operands), (result,), attributes(**attrs))
        return Graph("one", tuple(self.inputs), (result,), (node,), self.weights)


def value(name: str, shape: Sequence[int], scale: float, zero: int = 0, dtype: str = "i8") -> Value:
    return Value(name, Tensor(dtype, tuple(shape), quant=Quant((float(np.float32(scale)),), (zero,))))
