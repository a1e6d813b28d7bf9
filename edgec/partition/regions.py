"""The regions of an assignment: what a unit that runs whole regions is given at once.

No order has to be chosen, and no assignment is forbidden: a region is a connected part of one unit and one *level*, and the level of a
group is how often a path to it can enter such a unit. Along a path levels never fall, and they rise where it enters, so no path leaves a
region and comes back, and regions never wait for each other. Each region has a tensor of its own that enters it, which pays for its start.
"""

from collections.abc import Iterable, Mapping

from edgec.partition.problem import Assignment, Problem


def connected(pairs: Iterable[tuple[int, int]], members: Iterable[int]) -> list[list[int]]:
    """The parts of `members` that pairs among them hold together, each in order, by their first members."""
    parent = {m: m for m in members}

    def root(m: int) -> int:
        while parent[m] != m:
            parent[m] = m = parent[parent[m]]
        return m

    for a, b in pairs:
        if a in parent and b in parent:
            first, second = sorted((root(a), root(b)))
            parent[second] = first
    parts: dict[int, list[int]] = {}
    for m in sorted(parent):
        parts.setdefault(root(m), []).append(m)
    return list(parts.values())


def small_parts(problem: Problem, on: Assignment) -> list[tuple[int, list[int]]]:
    """The connected parts on a unit that have fewer operators than it asks for: (unit, groups)."""
    pairs = edges(problem)
    return [(u, part) for u, unit in enumerate(problem.units) if unit.min_region > 1
            for part in connected(pairs, [i for i, v in enumerate(on) if v == u]) if sum(map(problem.size, part)) < unit.min_region]


def regions(problem: Problem, on: Assignment) -> list[tuple[int, list[int]]]:
    """The regions of the units that run such: (unit, groups), in an order in which they can run."""
    level = _levels(problem, on)
    pairs = edges(problem)
    made: list[tuple[int, int, list[int]]] = []
    for u, unit in enumerate(problem.units):
        if unit.runs_regions:
            together = [(a, b) for a, b in pairs if on[a] == on[b] == u and level[a] == level[b]]
            together += _fed_together(problem, on, level, u)
            made += [(level[part[0]], u, part) for part in connected(together, [i for i, v in enumerate(on) if v == u])]
    return [(u, part) for _, u, part in sorted(made, key=lambda m: (m[0], m[2][0]))]


def edges(problem: Problem) -> list[tuple[int, int]]:
    """Which group reads what which group makes: (producer, reader)."""
    return [(f.producer, r) for f in problem.flows if f.producer is not None for r in f.readers if r is not None]


def _fed_together(problem: Problem, on: Assignment, level: Mapping[int, int], unit: int) -> list[tuple[int, int]]:
    """Groups of one level that read the same tensor: one start brings it to both."""
    pairs: list[tuple[int, int]] = []
    for flow in problem.flows:
        here = [r for r in flow.readers if r is not None and on[r] == unit]
        first = {level[r]: r for r in reversed(here)}
        pairs += [(first[level[r]], r) for r in here]
    return pairs


def _levels(problem: Problem, on: Assignment) -> dict[int, int]:
    """How often a path to a group enters a unit that runs regions; then as late as those who read it allow, to join their region."""
    def enters(a: int, b: int) -> int:
        return int(on[a] != on[b] and problem.units[on[b]].runs_regions)

    before: dict[int, list[int]] = {}
    behind: dict[int, list[int]] = {}
    for a, b in edges(problem):
        before.setdefault(b, []).append(a)
        behind.setdefault(a, []).append(b)
    level: dict[int, int] = {}
    for i, unit in enumerate(on):
        given = int(problem.units[unit].runs_regions)
        level[i] = max([given, *(level[a] + enters(a, i) for a in before.get(i, ()))])
    for i in reversed(range(len(on))):
        if readers := behind.get(i):
            latest = min(level[b] - enters(i, b) for b in readers)
            if not problem.units[on[i]].runs_regions or any(on[b] == on[i] and level[b] == latest for b in readers):
                level[i] = max(level[i], latest)
    return level
