"""The functions that rules may call, besides those of every expression.

Some ask about things in the graph: nodes, values, weights. The others compute with numbers. Each raises NoMatch, with
the reason, when it has no answer.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from edgec.ir.dims import Dim
from edgec.ir.graph import Array, Node
from edgec.ir.types import Tensor, dtype_name
from edgec.lang.expr import FUNCTIONS
from edgec.rules.site import Absent, Const, NoMatch, Site, Thing, value_of


class Typed:
    """Numbers that are to become a weight of a certain element type."""

    def __init__(self, number: Any, dtype: str) -> None:
        self.number, self.dtype = np.asarray(number), dtype


def _tensor(thing: Thing) -> Tensor:
    if isinstance(thing, Const) and not isinstance(thing, Absent):
        return Tensor(dtype_name(thing.array.dtype), tuple(thing.array.shape))
    value = value_of(thing)
    if value is None:
        raise NoMatch("an absent operand has no type")
    if not isinstance(value.type, Tensor):
        raise NoMatch(f"the type of {value} is not known")
    return value.type


# Questions about the graph: each gets the site first.


def uses(site: Site, thing: Thing) -> int:
    """How often a value, or any output of a node, is read by nodes and as a result."""
    if isinstance(thing, Node):
        return sum(site.uses(v) for v in thing.outputs)
    value = value_of(thing)
    return 0 if value is None else site.uses(value)


def dims(_: Site, thing: Thing) -> list[Dim | None]:
    """The shape; a dim may be symbolic or unknown."""
    shape = _tensor(thing).shape
    if shape is None:
        raise NoMatch(f"the rank of {value_of(thing)} is not known")
    return list(shape)


def rank(site: Site, thing: Thing) -> int:
    """The number of axes."""
    return len(dims(site, thing))


def dtype(_: Site, thing: Thing) -> str:
    """The element type by its short name."""
    return _tensor(thing).dtype


def floating(site: Site, thing: Thing) -> bool:
    """Whether the elements are floating-point numbers."""
    return dtype(site, thing).startswith(("f", "bf"))


def static(site: Site, thing: Thing) -> bool:
    """Whether every dim is a number."""
    return all(isinstance(d, int) for d in dims(site, thing))


def given(_: Site, thing: Thing) -> bool:
    """Whether an optional operand is there."""
    return not isinstance(thing, Absent)


def shape_of(site: Site, thing: Thing) -> Array:
    """The operand of a Reshape that gives this shape: at most one dim may be symbolic and is written -1."""
    made = [d if isinstance(d, int) else -1 for d in dims(site, thing)]
    if made.count(-1) > 1 or 0 in made:
        raise NoMatch(f"no Reshape can say the shape of {value_of(thing)}")
    return np.array(made, np.int64)


def axes(site: Site, numbers: Any, thing: Thing) -> list[int]:
    """Axes counted from the front, in order; all of them when absent."""
    n = rank(site, thing)
    if numbers is None or isinstance(numbers, Absent):
        return list(range(n))
    return sorted({int(a) % n for a in np.asarray(numbers).ravel()})


def kept(site: Site, thing: Thing, numbers: Any) -> list[Dim | None]:
    """The shape of a reduction over some axes that keeps them."""
    gone = axes(site, numbers, thing)
    return [1 if i in gone else d for i, d in enumerate(dims(site, thing))]


def channels(site: Site, numbers: Any, thing: Thing, along: int = 1) -> Array:
    """The vector that a constant is along one axis of a tensor that it is broadcast to; NoMatch when it varies along others."""
    shape, array = dims(site, thing), np.asarray(numbers)
    along %= len(shape)
    extent = shape[along]
    if array.ndim > len(shape):
        raise NoMatch(f"the constant has {array.ndim} axes, the tensor {len(shape)}")
    if not isinstance(extent, int):
        raise NoMatch("the number of channels is not known")
    full = (1,) * (len(shape) - array.ndim) + array.shape
    if any(d != 1 for i, d in enumerate(full) if i != along) or full[along] not in (1, extent):
        raise NoMatch(f"the constant varies along more than axis {along}")
    return np.broadcast_to(array.reshape(-1), (extent,))


def per_channel(site: Site, numbers: Any, thing: Thing, along: int = 1) -> bool:
    """Whether a constant is broadcast to a tensor along one axis only."""
    try:
        channels(site, numbers, thing, along)
    except NoMatch:
        return False
    return True


def like(_: Site, numbers: Any, thing: Thing) -> Typed:
    """Numbers as a weight with the element type of something else."""
    return Typed(numbers, _tensor(thing).dtype)


# Arithmetic.


def column(vector: Array, rank: int, along: int = 0) -> Array:
    """A vector, or a single number, laid along one axis of so many."""
    return np.reshape(vector, [-1 if i == along else 1 for i in range(rank)])


def grouped(vector: Array, weight: Any, group: int) -> Array:
    """A vector over the input channels of a convolution, laid along its weight: each output channel sees those of its group."""
    outputs, seen = weight.array.shape[:2]
    rows = np.reshape(vector, (group, seen))[np.arange(outputs) // (outputs // group)]
    return np.reshape(rows, (outputs, seen, *[1] * (weight.array.ndim - 2)))


def insert(items: Sequence[Any], at: int, item: Any) -> list[Any]:
    """A list with one more item in a place."""
    return [*items[:at], item, *items[at:]]


def ndim(array: Any) -> int:
    """The number of axes of an array."""
    return int(np.ndim(array))


def size(array: Any) -> int:
    """The number of elements of an array."""
    return int(np.size(array))


def nonzero(array: Any) -> bool:
    """Whether no element is zero."""
    return bool(np.all(array))


def scalar(array: Any) -> Array:
    """An array of one element, without axes."""
    if np.size(array) != 1:
        raise NoMatch("the constant has more than one element")
    return np.asarray(array).reshape(())


def power_of_two(array: Any) -> bool:
    """Whether a multiplication with each element's reciprocal is as exact as the division."""
    fraction, _ = np.frexp(np.asarray(array, np.float64))
    return bool((np.abs(fraction) == 0.5).all())  # noqa: PLR2004  frexp makes fractions from a half to one


def compose(first: Sequence[int] | None, second: Sequence[int] | None, rank: int) -> list[int]:
    """The permutation of two transposes, one after the other; None reverses all axes."""
    p, q = perm(first, rank), perm(second, rank)
    return [p[i] for i in q]


def perm(given: Sequence[int] | None, rank: int) -> list[int]:
    """The permutation of a transpose; None reverses all axes."""
    return list(given) if given is not None else list(range(rank))[::-1]


def identity(rank: int) -> list[int]:
    """The permutation that changes nothing."""
    return list(range(rank))


def padding(begin_end: Any, rank: int) -> list[int]:
    """The padding of the spatial axes, beginnings then ends, from the pads of all axes; NoMatch when others are padded."""
    pads = [int(p) for p in np.asarray(begin_end).ravel()]
    if len(pads) != 2 * rank or any(p < 0 for p in pads) or any(pads[i] for i in (0, 1, rank, rank + 1)):
        raise NoMatch("the padding reaches beyond the spatial axes, or crops")
    return pads[2:rank] + pads[rank + 2:]


def sum_pads(first: Sequence[int] | None, second: Sequence[int]) -> list[int]:
    """Two paddings as one; None is no padding."""
    return [a + b for a, b in zip(first or [0] * len(second), second, strict=True)]


_ASKING: Mapping[str, Callable[..., Any]] = {f.__name__: f for f in (
    uses, dims, rank, dtype, floating, static, given, shape_of, axes, kept, channels, per_channel, like)}
_COMPUTING: Mapping[str, Callable[..., Any]] = {**FUNCTIONS, **{f.__name__: f for f in (
    column, ndim, size, scalar, nonzero, power_of_two, compose, perm, identity, padding, sum_pads, insert, grouped)}}
HELPERS: Mapping[str, tuple[Callable[..., Any], bool]] = {
    **{n: (f, False) for n, f in _COMPUTING.items()}, **{n: (f, True) for n, f in _ASKING.items()}}
"""Every function that a rule may call, and whether it gets the site before its arguments."""


def functions(site: Site) -> Mapping[str, Callable[..., Any]]:
    """The functions as a rule calls them at a site."""
    if not site.functions:
        site.functions |= {**_COMPUTING, **{name: partial(f, site) for name, f in _ASKING.items()}}
    return site.functions
