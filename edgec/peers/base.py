"""What every peer is: a model that is loaded in another runtime."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
Shapes = Mapping[str, Sequence[int]]
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Peer:
    """A model that is loaded in another runtime.

    `run` takes arrays by name and returns the outputs by name, as a program in Python would. `bind` takes the arrays once, and what it
    returns runs on them without moving any (ONNX Runtime's IO binding; OpenVINO's request with shared tensors). `precision` is what the
    runtime says that it computes in, `settings` what it was asked for. `parts` are the versions of what the model went through on its way,
    `remark` what is to be said of its results, and is empty where nothing is.
    """

    name: str
    version: str
    run: Callable[[Mapping[str, Array]], dict[str, Array]]
    bind: Callable[[Mapping[str, Array]], Callable[[], object]]
    precision: str
    settings: Mapping[str, object]
    parts: Mapping[str, str] = field(default_factory=lambda: _NONE)
    remark: str = ""
