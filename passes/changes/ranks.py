"""What `--rank` asks for: `auto`, a ratio such as 2.0, or ranks of layers such as `fc1=32,conv2=16x32,conv3=/2`."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgec.errors import UsageError
from passes.changes.low_rank import Layer, Shape
from passes.changes.sharing import best

HELP = ("--rank is auto, how many times fewer weights, such as 2.0, or ranks of layers, such as fc1=32,conv2=16x32, or /2 for a layer that "
        "shall have half of its weights")


@dataclass(frozen=True)
class Rank:
    """A rank for the results of a layer, and one for its inputs where its window has several taps; `name` is for messages."""

    name: str
    results: int
    inputs: int | None

    def shape(self, layer: Layer) -> Shape:
        """The shape of a layer with this rank; UsageError when it is more than the layer has."""
        (o, i), taps = layer.weight.shape[:2], layer.taps
        if self.results >= min(o, i * taps) or (self.inputs or 0) >= i or (self.inputs and taps == 1):
            most = f"below {i} and {min(o, i * taps)}" if taps > 1 else f"one number below {min(o, i)}"
            said = f"{self.inputs}x{self.results}" if self.inputs else str(self.results)
            raise UsageError(f"--rank {self.name}={said}: the weight of {self.name} is {o}x{i}x{taps}, so write {most}")
        return Shape(self.inputs, self.results)


@dataclass(frozen=True)
class Share:
    """How many times fewer weights a layer shall have; `name` is for messages."""

    name: str
    ratio: float

    def shape(self, layer: Layer) -> Shape | str:
        """The best shape of a layer that is so small, or why there is none."""
        size = layer.weight.size
        return best(layer, int(size / self.ratio)) or f"{int(size / self.ratio)} of its {size} weights are not enough for rank 1"


@dataclass(frozen=True)
class Wanted:
    """What is wanted of all layers, None for nothing, and of some."""

    every: float | Literal["auto"] | None
    layers: Mapping[str, Rank | Share]

    @property
    def auto(self) -> bool:
        """Whether the cost model decides."""
        return self.every == "auto"

    def of(self, name: str) -> "float | Literal['auto'] | Rank | Share | None":
        """What is wanted of a layer."""
        return next((self.layers[n] for n in (name, *name.split("+")) if n in self.layers), self.every)

    def check(self, names: Iterable[str]) -> None:
        """UsageError for a layer that is not there."""
        known = {part for name in names for part in (name, *name.split("+"))}
        for name in self.layers:
            if name not in known:
                near = difflib.get_close_matches(name, sorted(known), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UsageError(f"--rank {name}=…: no matrix product or convolution with stored weights is called {name}{hint}")


def read(text: str) -> Wanted:
    """The meaning of a text; UsageError when it has none."""
    if text == "auto":
        return Wanted("auto", {})
    if "=" not in text:
        ratio = _number(text)
        if ratio is None or not 1 < ratio < float("inf"):
            raise UsageError(f"--rank {text}: {HELP}")
        return Wanted(ratio, {})
    layers: dict[str, Rank | Share] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        if name and number.startswith("/") and (ratio := _number(number[1:])) is not None and 1 < ratio < float("inf"):
            if name in layers:
                raise UsageError(f"--rank {part}: {name} has two ranks")
            layers[name] = Share(name, ratio)
            continue
        words = number.split("x")
        if not name or len(words) > 2 or not all(w.isdecimal() and int(w) for w in words):  # noqa: PLR2004
            raise UsageError(f"--rank {part}: {HELP}")
        if name in layers:
            raise UsageError(f"--rank {part}: {name} has two ranks")
        layers[name] = Rank(name, int(words[-1]), int(words[0]) if len(words) > 1 else None)
    return Wanted(None, layers)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
