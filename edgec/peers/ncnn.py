"""ncnn, fed with what its own converter pnnx makes of the graph; everything that would compute in less than f32 is turned off."""

import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgec.errors import EdgecError, UnsupportedModel
from edgec.ir.edit import attributes
from edgec.ir.graph import Graph, Node
from edgec.peers.base import Array, Peer, Shapes
from edgec.peers.feed import prepared, ranges

OFF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_bf16_packed", "use_int8_inference",
       "use_vulkan_compute")
"""Options that would lose precision, or leave the processor."""
_HEAD = 2   # lines of a .param file before its layers


def convert(model: Path | bytes, shapes: Shapes, folder: Path) -> tuple[Graph, Path, Path]:
    """A model as edgec reads it, and the .param and .bin that pnnx makes of it in `folder`.

    UnsupportedModel when inputs are no single samples, which is all that ncnn takes; EdgecError with pnnx's words when it fails.
    """
    graph = _strides_as_windows(prepared(model, shapes))
    if several := [v.name for v in graph.inputs if len(v.dims) < 2 or v.dims[0] != 1]:  # noqa: PLR2004  a batch and more
        raise UnsupportedModel(f"it takes one sample at a time, without an axis for more: {', '.join(several)}", several)
    (folder / "model.onnx").write_bytes(graph.to_onnx().SerializeToString())
    found = find_spec("pnnx")
    program = Path(str(found.origin)).parent / "pnnx" if found is not None else Path("pnnx")
    done = subprocess.run([str(program), "model.onnx", "fp16=0"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / "model.ncnn.param").exists():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise EdgecError(f"pnnx fails with status {done.returncode}: {said[-1] if said else 'it says nothing'}")
    return graph, folder / "model.ncnn.param", folder / "model.ncnn.bin"


def _strides_as_windows(graph: Graph) -> Graph:
    """Every other row and column is what a window of one pixel sees; ncnn's Crop has no steps."""
    def changed(node: Node) -> Node:
        cut, value = ranges(graph, node) or {}, node.inputs[0] if node.inputs else None
        if value is None or not cut or len(value.dims) != 4 or min(cut) < 2 or any(begin for begin, _, _ in cut.values()):  # noqa: PLR2004
            return node
        steps, size = [cut[a][2] if a in cut else 1 for a in (2, 3)], node.output.dims[2:]
        if any(s < 1 or (n - 1) // s + 1 != m for n, m, s in zip(value.dims[2:], size, steps, strict=True)):
            return node
        return replace(node, op="MaxPool", inputs=(value,),
                       attrs=attributes(kernel_shape=[1, 1], strides=steps, pads=[0, 0, 0, 0], dilations=[1, 1]))

    return replace(graph, nodes=tuple(map(changed, graph.nodes)))


def unknown(param: Path) -> list[str]:
    """The layers of a .param file that ncnn does not have."""
    import ncnn  # noqa: PLC0415

    kinds = {line.split()[0] for line in param.read_text("utf-8").splitlines()[_HEAD:] if line.strip()}
    return sorted(k for k in kinds if ncnn.layer_to_index(k) < 0)


def load(model: Path | bytes, threads: int, shapes: Shapes) -> Peer:
    """A model in ncnn, f32, with its packed layouts and Winograd's method.

    Pools of memory would make it 1 % faster at most, but results that outlive them are read from memory that is gone.
    """
    import ncnn  # noqa: PLC0415 - slow to load, and often not there

    with tempfile.TemporaryDirectory(prefix="edgec-ncnn-") as name:
        graph, param, weights = convert(model, shapes, Path(name))
        if bad := unknown(param):
            raise UnsupportedModel(f"it has no layer {', '.join(bad)}, as pnnx calls what the model needs", bad)
        net = ncnn.Net()
        net.opt.num_threads = threads
        for option in OFF:
            setattr(net.opt, option, False)
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise UnsupportedModel("ncnn cannot load the layers that pnnx makes of it: " + ", ".join(sorted({n.op for n in graph.nodes})))
    outputs = [(v.name, f"out{i}", v.dims) for i, v in enumerate(graph.outputs)]

    def placed(feeds: Mapping[str, Array]) -> list[tuple[str, Any]]:
        # copied: ncnn writes into inputs that nobody counts, and into no others
        return [(f"in{i}", ncnn.Mat(_plain(feeds[v.name][0])).clone()) for i, v in enumerate(graph.inputs)]

    def call(mats: list[tuple[str, Any]]) -> list[Any]:
        extractor = net.create_extractor()
        for place, mat in mats:
            extractor.input(place, mat)
        return [extractor.extract(place)[1] for _, place, _ in outputs]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.array(mat).reshape(dims) for (name, _, dims), mat in zip(outputs, call(placed(feeds)), strict=True)}

    def bind(feeds: Mapping[str, Array]) -> Callable[[], object]:
        mats = placed(feeds)
        return lambda: call(mats)

    settings = {"num_threads": threads, **dict.fromkeys(OFF, False)}
    return Peer("ncnn", version("ncnn"), run, bind, "f32", settings, {"pnnx": version("pnnx")})


def _plain(array: Array) -> Array:
    """An array as ncnn takes it: integers of 32 bits."""
    return np.ascontiguousarray(array.astype(np.int32) if array.dtype == np.int64 else array)
