"""LiteRT, Google's runtime for TFLite models, with XNNPACK: fed with the same model, written in TFLite's operators."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgec.codegen.npu import tflite
from edgec.ir.graph import Graph
from edgec.peers.base import Array, Peer, Shapes
from edgec.peers.feed import prepared
from edgec.peers.tflite import tflite as in_words_of_tflite


def convert(model: Path | bytes, shapes: Shapes) -> tuple[Graph, bytes]:
    """A model as edgec reads it, and as a TFLite file; UnsupportedModel names all that TFLite has no operator for."""
    graph = prepared(model, shapes)
    return graph, tflite.model(in_words_of_tflite(graph))


def load(model: Path | bytes, threads: int, shapes: Shapes) -> Peer:
    """A model in LiteRT's interpreter, f32, with its default delegate: XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - slow to load, and often not there

    graph, data = convert(model, shapes)
    names = [v.name for v in graph.outputs]

    def made() -> Any:
        interpreter = Interpreter(model_content=data, num_threads=threads)
        interpreter.allocate_tensors()
        return interpreter

    interpreter = made()
    inputs = {v.name: place["index"] for v, place in zip(graph.inputs, interpreter.get_input_details(), strict=True)}
    outputs = [place["index"] for place in interpreter.get_output_details()]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        for name, place in inputs.items():
            interpreter.set_tensor(place, feeds[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(place) for name, place in zip(names, outputs, strict=True)}

    def bind(feeds: Mapping[str, Array]) -> Callable[[], object]:
        bound = made()
        for name, place in inputs.items():
            bound.set_tensor(place, feeds[name])
        invoke: Callable[[], object] = bound.invoke
        return invoke

    operators = [o["op_name"] for o in interpreter._get_ops_details()]  # noqa: SLF001  nothing public tells what was delegated
    settings = {"num_threads": threads, "delegate": "XNNPACK" if "DELEGATE" in operators else None,
                "delegated_parts": operators.count("DELEGATE")}
    return Peer("litert", version("ai-edge-litert"), run, bind, "f32", settings)
