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
    from edgec.build import build, optimize
    from edgec.bundle import Bundle
    from edgec.errors import (
        BadInput,
        Cancelled,
        DeviceError,
        DoesNotFit,
        EdgecError,
        SourceError,
        ToolMissing,
        UnsupportedModel,
        UsageError,
    )
    from edgec.ir.graph import Graph
    from edgec.onnx import import_model as import_onnx
    from edgec.session import Session, load
    from edgec.target import known as targets
    from edgec.target import register as register_target

__version__ = "0.1.0"

__all__ = [
    "BadInput", "Bundle", "Cancelled", "DeviceError", "DoesNotFit", "EdgecError", "Graph", "Session", "SourceError", "ToolMissing",
    "UnsupportedModel", "UsageError", "__version__", "build", "import_onnx", "load", "optimize", "register_target", "targets",
]
_HOMES = {
    "Bundle": "edgec.bundle:Bundle", "Graph": "edgec.ir.graph:Graph", "Session": "edgec.session:Session", "build": "edgec.build:build",
    "import_onnx": "edgec.onnx:import_model", "load": "edgec.session:load", "optimize": "edgec.build:optimize",
    "register_target": "edgec.target:register", "targets": "edgec.target:known",
    **{name: f"edgec.errors:{name}" for name in ("BadInput", "Cancelled", "DeviceError", "DoesNotFit", "EdgecError", "SourceError",
                                                 "ToolMissing", "UnsupportedModel", "UsageError")},
}


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
