"""Seeded random graphs that look like what models are made of: image nets and transformers, full of what passes look for."""

from collections.abc import Iterable

import numpy as np

from edgec.ir.graph import Graph, Value
from edgec.ir.types import Tensor
from edgec.testing import image_patterns, patterns
from edgec.testing.garden import CHANNELS, Garden

_PATTERNS = (*image_patterns.PATTERNS, *patterns.PATTERNS)


def random_graph(seed: int, size: int, ops: Iterable[str] | None = None) -> Graph:
    """A valid static f32 graph of about `size` nodes that depends on nothing but its arguments; `ops` limits the operators.

    Some values are read twice, some inner values are outputs, some nodes are dead. ValueError when no pattern is made of `ops`.
    """
    draw = np.random.default_rng(seed)
    allowed = None if ops is None else frozenset(ops)
    image = bool(draw.integers(2))
    ranks = {4 if image else 3}
    fitting = [p for p in _PATTERNS if allowed is None or p.needs <= allowed]
    if allowed is not None and not any(p.rank is None or p.rank in ranks for p in fitting):
        ranks = {p.rank for p in fitting if p.rank is not None} - {2}
    if not ranks or not fitting:
        raise ValueError(f"no pattern is made of {', '.join(sorted(allowed or ()))} alone")
    garden = Garden(draw, allowed)
    batch = int(draw.integers(1, 3))
    if 4 in ranks:  # noqa: PLR2004  images
        shape = [int(draw.choice(CHANNELS)), int(draw.integers(5, 14)), int(draw.integers(5, 14))]
    else:
        shape = [int(draw.integers(2, 9)), int(draw.choice((4, 6, 8, 12, 16)))]
    garden.values.append(Value("x", Tensor("f32", (batch, *shape))))
    for _ in range(100 + 20 * size):  # a pattern may find that it does not fit
        if len(garden.nodes) >= size:
            break
        known = {len(v.dims) for v in garden.values}
        now = [p for p in fitting if p.rank is None or p.rank in known]
        pattern = now[int(draw.choice(len(now), p=np.array([p.often for p in now]) / sum(p.often for p in now)))]
        garden.values.append(pattern.plant(garden, garden.pick(pattern.rank)))
    if not garden.nodes:
        raise ValueError(f"no pattern of {', '.join(sorted(allowed or ()))} fits anywhere")
    return garden.graph(f"random_{seed}")
