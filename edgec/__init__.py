"""edgec: a graph compiler that turns a trained ONNX model into a self-contained artifact for an edge machine.

    import edgec

    bundle = edgec.build("model.onnx", target="cortex-a72", output="model.edgec")
    outputs = edgec.load("model.edgec").run({"x": array})

Importing edgec is quick: what a function needs (numpy, ONNX, TVM) is loaded when the function is first asked for.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.build import build as build
    from edgec.build import optimize as optimize
    from edgec.bundle import Bundle as Bundle
    from edgec.errors import BadInput as BadInput
    from edgec.errors import Cancelled as Cancelled
    from edgec.errors import DeviceError as DeviceError
    from edgec.errors import DoesNotFit as DoesNotFit
    from edgec.errors import EdgecError as EdgecError
    from edgec.errors import SourceError as SourceError
    from edgec.errors import ToolMissing as ToolMissing
    from edgec.errors import UnsupportedModel as UnsupportedModel
    from edgec.errors import UsageError as UsageError
    from edgec.ir.graph import Graph as Graph
    from edgec.onnx import import_model as import_onnx  # noqa: F401
    from edgec.session import Session as Session
    from edgec.session import load as load
    from edgec.target import known as targets  # noqa: F401
    from edgec.target import register as register_target  # noqa: F401

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "edgec.bundle:Bundle", "Graph": "edgec.ir.graph:Graph", "Session": "edgec.session:Session", "build": "edgec.build:build",
    "import_onnx": "edgec.onnx:import_model", "load": "edgec.session:load", "optimize": "edgec.build:optimize",
    "register_target": "edgec.target:register", "targets": "edgec.target:known",
    **{name: f"edgec.errors:{name}" for name in ("BadInput", "Cancelled", "DeviceError", "DoesNotFit", "EdgecError", "SourceError",
                                                 "ToolMissing", "UnsupportedModel", "UsageError")},
}
__all__ = [  # noqa: PLE0604 - the names of _HOMES, spelled out where a type checker reads them
    "__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public name, or a module of edgec such as `edgec.testing`, when it is first asked for."""
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        return globals().setdefault(name, getattr(import_module(module), attribute))
    if name in ("errors", "testing"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(ModuleType):
    """A package in which `build` is the function: Python would put the module `edgec.build` over it when that is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
