"""What random one-node models are drawn with: shapes, arrays with awkward numbers, inputs and weights. A seed always draws the same."""

from collections.abc import Callable
from typing import Any

import numpy as np

SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-42, 3.4e38, 88.8, -104.0, 1e-7, 0.5, 1.5, 2.5, -0.5)
INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
OPSET = 20


class Draw:
    """A case that is being drawn: one node, its inputs, and its weights."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.feeds: dict[str, Any] = {}
        self.weights: dict[str, Any] = {}
        self.seed = seed

    def one(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def whole(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(self.random.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def shape(self, rank: int | None = None, largest: int = 9) -> tuple[int, ...]:
        return tuple(self.whole(1, largest) for _ in range(self.whole(0, 5) if rank is None else rank))

    def array(self, shape: tuple[int, ...], dtype: str = "f4", *, special: bool = False) -> Any:
        if dtype == "?":
            return self.random.integers(0, 2, shape).astype(bool)
        if dtype[0] in "iu":
            low = 0 if dtype[0] == "u" else -7
            return self.random.integers(low, 8, shape).astype(dtype)
        made = np.asarray(self.random.standard_normal(shape)).astype(dtype)
        if special and made.size:
            with np.errstate(over="ignore"):
                made.reshape(-1)[:len(SPECIAL)] = np.array(SPECIAL)[:made.size].astype(dtype)
        return made

    def given(self, array: Any, *, stored: float = 0.0) -> str:
        """The name of an array, which is an input, or a weight with the probability `stored`."""
        if self.chance(stored):
            name = f"w{self.seed}_{len(self.weights)}"
            self.weights[name] = np.asarray(array)
        else:
            name = f"x{self.seed}_{len(self.feeds)}"
            self.feeds[name] = np.asarray(array)
        return name

    def const(self, array: Any, dtype: str = "i8") -> str:
        return self.given(np.asarray(array, dtype), stored=1.0)


Made = tuple[str, list[str], int, dict[str, Any]]
KINDS: dict[str, Callable[[Draw], Made]] = {}


def kind(make: Callable[[Draw], Made]) -> Callable[[Draw], Made]:
    KINDS[make.__name__] = make
    return make
