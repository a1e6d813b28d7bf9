"""Other runtimes, to compare numbers and times with. None of them is needed by edgec, and none is installed by it.

ONNX Runtime and OpenVINO read ONNX models. LiteRT and ncnn have formats of their own: what they are fed is made of the graph that the
portable passes leave (edgec/peers/feed.py), and what cannot be said there is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from edgec.errors import EdgecError, ToolMissing, UnsupportedModel, UsageError
from edgec.onnx_saturation import exact, notices
from edgec.peers import litert, ncnn
from edgec.peers.base import Array, Peer, Shapes

SATURATED = "whose sums of u8 times i8 saturate on this machine"
UNSATURATED = "weights in u8, because its sums of u8 times i8 saturate on this machine"
_QUIET = 4  # of ONNX Runtime's log levels, the one that only tells of crashes


def is_installed(name: str) -> bool:
    """Whether a peer can be loaded here."""
    return not _missing(name)


def _missing(name: str) -> list[str]:
    return [package for package in _NEEDS.get(name, (name,)) if find_spec(package) is None]


def load(name: str, model: Path | bytes, threads: int = 1, shapes: Shapes | None = None) -> Peer:
    """A model in one of the runtimes of `PEERS`, computing in f32 what the model has in f32.

    `shapes` bind inputs whose dimensions the model leaves open, so that the runtime can prepare for them as edgec does.

    ToolMissing when it is not installed, UsageError for another name, UnsupportedModel with all that a runtime has no operator for,
    EdgecError when it cannot load the model.
    """
    if name not in PEERS:
        raise UsageError(f"edgec can be compared with {', '.join([*PEERS][:-1])} and {[*PEERS][-1]}, not with {name}")
    if missing := _missing(name):
        raise ToolMissing(f"{name} cannot run without {' and '.join(missing)}, which is not installed", _INSTALL.get(missing[0], _EXTRA))
    try:
        return PEERS[name](model, threads, shapes or {})
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{name} cannot be fed this model: {error}", error.nodes) from error
    except Exception as error:
        raise EdgecError(f"{name} cannot load the model: {str(error).splitlines()[0]}") from error


def reference(model: Path | bytes, shapes: Shapes | None = None) -> Peer:
    """A model in ONNX Runtime, to compare numbers with, not times.

    Where this machine's sums of bytes saturate, a quantized model is changed for it, so that its results are right
    (edgec/onnx_saturation.py). The errors are those of `load`.
    """
    given = exact(model) if is_installed("onnxruntime") else model
    peer = load("onnxruntime", given, 1, shapes)
    return peer if given is model else replace(peer, remark=UNSATURATED)


def _onnxruntime(model: Path | bytes, threads: int, shapes: Shapes) -> Peer:
    import onnxruntime  # noqa: PLC0415 - slow to load, and often not there

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, _QUIET
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    sizes = {have: want for i in session.get_inputs() if i.name in shapes for have, want in zip(i.shape, shapes[i.name], strict=True)
             if isinstance(have, str)}
    if sizes:
        for symbol, size in sizes.items():
            options.add_free_dimension_override_by_name(symbol, size)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(None, feeds), strict=True))

    def bind(feeds: Mapping[str, Array]) -> Callable[[], object]:
        binding, value = session.io_binding(), onnxruntime.OrtValue.ortvalue_from_numpy
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, value(array))
        for name, array in run(feeds).items():
            binding.bind_ortvalue_output(name, value(array))
        return lambda: session.run_with_iobinding(binding)

    return Peer("onnxruntime", version("onnxruntime"), run, bind, "as in the model",
                {"intra_op_num_threads": threads, "inter_op_num_threads": 1, "providers": "CPUExecutionProvider"},
                remark=SATURATED if notices(model) else "")


def _openvino(model: Path | bytes, threads: int, shapes: Shapes) -> Peer:
    import openvino  # noqa: PLC0415 - slow to load, and often not there

    core = openvino.Core()
    # where the processor multiplies bf16, OpenVINO would: f32 has to be asked for
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    read = core.read_model(model)
    if read.is_dynamic() and shapes:
        read.reshape({i.any_name: list(shapes[i.any_name]) for i in read.inputs})
    compiled = core.compile_model(read, "CPU", settings)
    request = compiled.create_infer_request()
    ports = [(port.any_name, port) for port in compiled.outputs]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        made = request.infer(feeds, share_inputs=True)
        return {name: made[port] for name, port in ports}

    def bind(feeds: Mapping[str, Array]) -> Callable[[], object]:
        bound = compiled.create_infer_request()
        for name, array in feeds.items():
            bound.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return lambda: bound.infer(share_outputs=True)

    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return Peer("openvino", version("openvino"), run, bind, str(precision), settings)


PEERS: Mapping[str, Callable[[Path | bytes, int, Shapes], Peer]] = {
    "onnxruntime": _onnxruntime, "openvino": _openvino, "litert": litert.load, "ncnn": ncnn.load}
CONVERTED = ("litert", "ncnn")
"""Peers that read no ONNX: what they compute has to be compared before it is timed."""
_NEEDS = {"litert": ("ai_edge_litert", "flatbuffers"), "ncnn": ("ncnn", "pnnx")}
_EXTRA = "pip install 'edgec[peers]'"
_INSTALL = {"pnnx": "pip install --no-deps pnnx"}   # its wheel asks for torch, which its program does not need

__all__ = ["CONVERTED", "PEERS", "Array", "Peer", "Shapes", "is_installed", "load", "reference"]
