"""Other runtimes, to compare numbers and times with. None of them is needed by edgec, and none is installed by it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import EdgecError, ToolMissing, UsageError

Array = npt.NDArray[Any]
_QUIET = 4  # of ONNX Runtime's log levels, the one that only tells of crashes


@dataclass(frozen=True)
class Peer:
    """A model that is loaded in another runtime; `run` takes arrays by name and returns the outputs by name."""

    name: str
    version: str
    run: Callable[[Mapping[str, Array]], dict[str, Array]]


def is_installed(name: str) -> bool:
    """Whether a peer can be loaded here."""
    return find_spec(name) is not None


def load(name: str, model: Path | bytes, threads: int = 1) -> Peer:
    """A model in the runtime `onnxruntime` or `openvino`.

    ToolMissing when it is not installed, UsageError for another name, EdgecError when it cannot load the model.
    """
    if name not in PEERS:
        raise UsageError(f"edgec can be compared with {' and '.join(PEERS)}, not with {name}")
    if not is_installed(name):
        raise ToolMissing(f"{name} is not installed", f"pip install {name}")
    try:
        return Peer(name, version(name), PEERS[name](model, threads))
    except Exception as error:
        raise EdgecError(f"{name} cannot load the model: {str(error).splitlines()[0]}") from error


def _onnxruntime(model: Path | bytes, threads: int) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    import onnxruntime  # noqa: PLC0415 - slow to load, and often not there

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, _QUIET
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


def _openvino(model: Path | bytes, threads: int) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    import openvino  # noqa: PLC0415 - slow to load, and often not there

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        made = request.infer(dict(feeds), share_inputs=True)
        return {port.any_name: np.array(made[port]) for port in compiled.outputs}

    return run


PEERS: Mapping[str, Callable[[Path | bytes, int], Callable[[Mapping[str, Array]], dict[str, Array]]]] = {
    "onnxruntime": _onnxruntime, "openvino": _openvino}
