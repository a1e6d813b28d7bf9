"""The question of layouts in numbers: what each kernel costs with its operands in each layout, and what copies between layouts cost.

A tensor has one layout among some. Whoever reads it, or a view of it, reads it as it lies, or a copy in another layout, which all readers
of the same view share. The price of an answer is what all kernels and copies take one after the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product


@dataclass(frozen=True)
class Read:
    """What kernels read: a view of `tensor`. `copies` has, for each layout of the tensor, the price of a copy in each other layout."""

    tensor: int
    copies: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Work:
    """A kernel, and its price by what it reads and writes; what is missing is impossible.

    A key has for each of `reads` the layout of its tensor, or, counted on from there, the copy that is read; then for each of `writes`, the
    tensors that it makes, their layout.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    price: Mapping[tuple[int, ...], float]


@dataclass(frozen=True)
class Answer:
    """The layout of each tensor, and for each work its key in `Work.price`; the price of it all."""

    layouts: tuple[int, ...]
    keys: tuple[tuple[int, ...], ...]
    price: float


@dataclass(frozen=True)
class Problem:
    """`layouts`: how many each tensor may choose from."""

    layouts: tuple[int, ...]
    reads: tuple[Read, ...]
    works: tuple[Work, ...]

    def fits(self, work: int, key: tuple[int, ...], layouts: Sequence[int]) -> bool:
        """Whether a key of a work speaks of these layouts of the tensors."""
        w = self.works[work]
        seen, made = key[:len(w.reads)], key[len(w.reads):]
        there = all(k >= self.layouts[t] or k == layouts[t] for k, t in zip(seen, (self.reads[r].tensor for r in w.reads), strict=True))
        return there and all(k == layouts[t] for k, t in zip(made, w.writes, strict=True))

    def copied(self, keys: Sequence[tuple[int, ...]]) -> set[tuple[int, int]]:
        """The copies that keys need: (read, layout of the copy)."""
        return {(r, k - self.layouts[self.reads[r].tensor]) for w, key in zip(self.works, keys, strict=True)
                for r, k in zip(w.reads, key, strict=False) if k >= self.layouts[self.reads[r].tensor]}

    def price(self, layouts: Sequence[int], keys: Sequence[tuple[int, ...]]) -> float:
        """What an answer costs."""
        return (sum(w.price[key] for w, key in zip(self.works, keys, strict=True))
                + sum(self.reads[r].copies[layouts[self.reads[r].tensor]][k] for r, k in self.copied(keys)))

    @cached_property
    def parts(self) -> tuple["Part", ...]:
        """Works that share no tensor with works of another part: each can be answered alone."""
        parent = list(range(len(self.layouts)))

        def root(t: int) -> int:
            while parent[t] != t:
                parent[t] = parent[parent[t]]
                t = parent[t]
            return t

        for w in self.works:
            touched = [*(self.reads[r].tensor for r in w.reads), *w.writes]
            for t in touched[1:]:
                parent[root(t)] = root(touched[0])
        found: dict[int, list[int]] = {}
        for i, w in enumerate(self.works):
            touched = [*(self.reads[r].tensor for r in w.reads), *w.writes]
            found.setdefault(root(touched[0]) if touched else -1 - i, []).append(i)
        return tuple(_part(self, works) for works in found.values())


@dataclass(frozen=True)
class Part:
    """A problem of its own, and the numbers that its tensors and works have in the whole one."""

    problem: Problem
    tensors: tuple[int, ...]
    works: tuple[int, ...]


def _part(whole: Problem, works: Sequence[int]) -> Part:
    reads = list(dict.fromkeys(r for i in works for r in whole.works[i].reads))
    tensors = list(dict.fromkeys([*(whole.reads[r].tensor for r in reads), *(t for i in works for t in whole.works[i].writes)]))
    tensor, read = {t: i for i, t in enumerate(tensors)}, {r: i for i, r in enumerate(reads)}
    problem = Problem(
        tuple(whole.layouts[t] for t in tensors), tuple(Read(tensor[whole.reads[r].tensor], whole.reads[r].copies) for r in reads),
        tuple(Work(tuple(read[r] for r in w.reads), tuple(tensor[t] for t in w.writes), w.price) for w in (whole.works[i] for i in works)))
    return Part(problem, tuple(tensors), tuple(works))


def every(problem: Problem) -> Iterator[Answer]:
    """Every answer there is, for problems so small that one can look at all of them."""
    for layouts in product(*map(range, problem.layouts)):
        choices = [[k for k in w.price if problem.fits(i, k, layouts)] for i, w in enumerate(problem.works)]
        for keys in product(*choices):
            yield Answer(layouts, keys, problem.price(layouts, keys))
