"""edgec: a graph compiler that turns a trained ONNX model into a self-contained artifact for an edge machine."""

__version__ = "0.1.0"
