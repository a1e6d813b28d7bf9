"""The partition solver: equal to brute force, to minimum cuts and to dynamic programming, and its regions are convex."""

from itertools import product
from math import inf

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from edgec.partition import HOST, Flow, Link, Problem, Stored, connected, regions, solve
from edgec.partition.problem import Assignment

Draw = np.random.Generator


# ---- problems at random

def random_flows(draw: Draw, n: int) -> tuple[Flow, ...]:
    """Each group makes one tensor, or two, that some later ones read; the caller gives one or two, and takes what nobody reads."""
    readers: list[list[int | None]] = [[] for _ in range(n)]
    given: list[list[int | None]] = [[] for _ in range(int(draw.integers(1, 3)))]
    for i in range(n):
        for _ in range(int(draw.integers(1, 4))):
            source = int(draw.integers(-1, i)) if i else -1
            (readers[source] if source >= 0 else given[int(draw.integers(len(given)))]).append(i)
    flows = [Flow(size(draw), None, tuple(dict.fromkeys(r))) for r in given if r]
    for i, found in enumerate(readers):
        if draw.random() < 0.2 or not found:
            found.append(None)
        flows.append(Flow(size(draw), i, tuple(dict.fromkeys(found))))
        if draw.random() < 0.15 and i + 1 < n:
            flows.append(Flow(size(draw), i, (int(draw.integers(i + 1, n)),)))
    return tuple(flows)


def size(draw: Draw) -> int:
    """Bytes of a tensor: mostly few, for round numbers make ties."""
    return int(draw.integers(1, 20)) * 100


def random_problem(seed: int) -> Problem:
    """Up to 12 groups on two or three units of all kinds: with links, regions, little memory, least sizes, and much that cannot run."""
    draw = np.random.default_rng(seed)
    n = int(draw.integers(1, 13))
    kinds = int(draw.integers(2, 4))
    if kinds == 3 and n > 9:
        n = 9
    units = [Link("cpu")]
    for u in range(1, kinds):
        npu = draw.random() < 0.5
        units.append(Link(
            f"unit{u}", latency=float(draw.integers(0, 20)), bytes_per_us=float(draw.choice([10, 100, inf])),
            start=float(draw.integers(0, 30)) if npu else 0.0, runs_regions=bool(npu),
            capacity=float(draw.integers(0, 8)) * 100 if draw.random() < 0.3 else inf,
            min_region=int(draw.integers(1, 4)) if draw.random() < 0.5 else 1))
    costs = draw.integers(1, 60, (n, kinds)).astype(float)
    costs[:, 1:] /= draw.choice([1, 2, 5])
    costs[:, 1:][draw.random((n, kinds - 1)) < 0.2] = inf
    stored = [Stored(int(draw.integers(1, 4)) * 100, (int(i),)) for i in range(n) if draw.random() < 0.5]
    if n > 2:
        stored.append(Stored(150, tuple(map(int, draw.choice(n, 2, replace=False)))))
    sizes = tuple(map(int, draw.integers(0, 4, n)))
    return Problem(tuple(units), costs.tolist(), random_flows(draw, n), tuple(stored), sizes)


def allowed(problem: Problem, on: Assignment) -> bool:
    """Whether an assignment keeps to what the units ask for, written down on its own."""
    edges = [(f.producer, r) for f in problem.flows for r in f.readers if f.producer is not None and r is not None]
    for u, unit in enumerate(problem.units[1:], 1):
        mine = {i for i, v in enumerate(on) if v == u}
        if sum(s.size for s in problem.stored if mine.intersection(s.readers)) > unit.capacity:
            return False
        while mine:
            part = {mine.pop()}
            while more := {b for e in edges for a, b in (e, e[::-1]) if a in part and b in mine}:
                part |= more
                mine -= more
            if unit.min_region > 1 and sum(problem.sizes[i] for i in part) < unit.min_region:
                return False
    return True


def brute_force(problem: Problem) -> float:
    """The least price of all assignments: all of them, a row each, priced again in numpy, the cheapest that is allowed."""
    every = np.array(list(product(*([u for u, c in enumerate(row) if c < inf] for row in problem.costs))))
    prices = sum(np.array(row)[every[:, i]] for i, row in enumerate(problem.costs))
    for f in problem.flows:
        home = np.zeros(len(every), int) if f.producer is None else every[:, f.producer]
        there = np.stack([np.zeros(len(every), int) if r is None else every[:, r] for r in f.readers])
        for u, unit in enumerate(problem.units[1:], 1):
            prices = prices + ((home == u) & (there != u).any(0)) * (unit.latency + f.size / unit.bytes_per_us)
            prices = prices + ((home != u) & (there == u).any(0)) * (unit.start + unit.latency + f.size / unit.bytes_per_us)
    return next(float(prices[k]) for k in np.argsort(prices) if allowed(problem, every[k].tolist()))


@pytest.mark.parametrize("start", range(0, 500, 50))
def test_equal_to_brute_force(start: int) -> None:
    for seed in range(start, start + 50):
        problem = random_problem(seed)
        on = solve(problem)
        assert on is not None
        assert allowed(problem, on), seed
        assert problem.price(on) == pytest.approx(brute_force(problem), abs=1e-6), seed


def test_the_price_is_that_of_a_serial_run() -> None:
    """conv (gpu) -> relu (cpu) -> conv (gpu), whose first result the caller also wants: two copies there, two back, each tensor once."""
    flows = (Flow(1000, None, (0,)), Flow(2000, 0, (1, 2, None)), Flow(500, 1, (2,)), Flow(300, 2, (None,)))
    problem = Problem((Link("cpu"), Link("gpu", latency=5, bytes_per_us=100)), [[9, 3], [1, inf], [9, 4]], flows)
    assert [(c.flow, c.into, c.us) for c in problem.copies([1, 0, 1])] == [(0, True, 15), (1, False, 25), (2, True, 10), (3, False, 8)]
    assert problem.price([1, 0, 1]) == 3 + 1 + 4 + 15 + 25 + 10 + 8
    assert problem.price([0, 1, 0]) == inf
    assert problem.single(1) == [1, 0, 1]


def test_a_tensor_goes_from_unit_to_unit_through_the_cpu() -> None:
    units = (Link("cpu"), Link("gpu", latency=1), Link("npu", latency=2, start=10, runs_regions=True))
    problem = Problem(units, [[9, 1, 9], [9, 9, 1]], (Flow(8, 0, (1,)),))
    assert [(c.unit, c.into, c.us) for c in problem.copies([1, 2])] == [(1, False, 1), (2, True, 12)]


def test_a_tensor_that_two_read_is_copied_once() -> None:
    problem = Problem((Link("cpu"), Link("gpu", latency=7)), [[0, 9], [5, 1], [5, 1], [5, 1]], (Flow(8, 0, (1, 2, 3)),))
    assert solve(problem) == [0, 1, 1, 1]
    assert problem.price([0, 1, 1, 1]) == 10


# ---- other ways to the same answer

def two_units(seed: int, n: int) -> Problem:
    """A problem on two units without limits, in whole numbers."""
    draw = np.random.default_rng(seed)
    costs = draw.integers(1, 100, (n, 2)).astype(float)
    costs[:, 1][draw.random(n) < 0.2] = inf
    units = (Link("cpu"), Link("gpu", latency=float(draw.integers(0, 30)), bytes_per_us=100.0))
    return Problem(units, costs.tolist(), random_flows(draw, n))


def minimum_cut(problem: Problem) -> int:
    """The least price on two units as a minimum cut: groups cut off from the source run on unit 1, and copies are cut edges.

    A copy into unit 1 is an edge producer -> t -> readers with a node t of its own, one to the CPU an edge the other way round.
    """
    n, huge = len(problem.costs), 10**8
    source, sink, count = n, n + 1, n + 2
    edges: dict[tuple[int, int], int] = {}

    def add(a: int, b: int, capacity: float) -> None:
        edges[a, b] = edges.get((a, b), 0) + (huge if capacity == inf else round(capacity))

    for i, (cpu, gpu) in enumerate(problem.costs):
        add(source, i, gpu)                                    # cut when i is on the sink's side: unit 1
        add(i, sink, cpu)
    for flow in problem.flows:
        home = source if flow.producer is None else flow.producer
        there = [source if r is None else r for r in flow.readers]
        into, out = count, count + 1
        count += 2
        add(home, into, problem.units[1].into(flow.size))
        add(out, home, problem.units[1].out(flow.size))
        for r in there:
            add(into, r, inf)
            add(r, out, inf)
    rows, columns = zip(*edges, strict=True)
    graph = csr_array((np.array(list(edges.values()), np.int32), (rows, columns)), shape=(count, count))
    return int(maximum_flow(graph.tocsr(), source, sink).flow_value)


@pytest.mark.parametrize("seed", range(40))
def test_equal_to_a_minimum_cut(seed: int) -> None:
    problem = two_units(seed, 5 + 4 * seed)
    on = solve(problem)
    assert on is not None
    assert problem.price(on) == pytest.approx(minimum_cut(problem), abs=1e-6)


def chain(seed: int) -> Problem:
    """Groups in a row, on up to four units."""
    draw = np.random.default_rng(seed)
    n, kinds = int(draw.integers(1, 120)), int(draw.integers(2, 5))
    units = [Link("cpu"), *(Link(f"u{u}", float(draw.integers(0, 20)), 100.0, float(draw.integers(0, 9))) for u in range(1, kinds))]
    costs = draw.integers(1, 60, (n, kinds)).astype(float)
    costs[:, 1:][draw.random((n, kinds - 1)) < 0.2] = inf
    flows = [Flow(size(draw), i - 1 if i else None, (i if i < n else None,)) for i in range(n + 1)]
    return Problem(tuple(units), costs.tolist(), tuple(flows))


def along_a_chain(problem: Problem) -> float:
    """The least price of a chain by dynamic programming: what it costs to have come to each unit."""
    def moved(flow: Flow, a: int, b: int) -> float:
        return 0.0 if a == b else (problem.units[a].out(flow.size) if a else 0.0) + (problem.units[b].into(flow.size) if b else 0.0)

    units = range(len(problem.units))
    best = [0.0 if u == HOST else inf for u in units]
    for flow, row in zip(problem.flows, [*problem.costs, [0.0, *[inf] * (len(units) - 1)]], strict=True):
        best = [min(best[a] + moved(flow, a, b) for a in units) + row[b] for b in units]
    return best[HOST]


@pytest.mark.parametrize("seed", range(40))
def test_equal_to_dynamic_programming_on_chains(seed: int) -> None:
    problem = chain(seed)
    on = solve(problem)
    assert on is not None
    assert problem.price(on) == pytest.approx(along_a_chain(problem), abs=1e-6)


# ---- what is promised of every answer

def large(seed: int, n: int, kinds: int) -> Problem:
    """A net of n groups, each of which reads one to three of the last ten."""
    draw = np.random.default_rng(seed)
    readers: list[list[int | None]] = [[] for _ in range(n + 1)]
    for i in range(n):
        for _ in range(int(draw.integers(1, 4))):
            readers[max(0, i - int(draw.integers(10)))].append(i)
    sizes = map(int, draw.integers(10**3, 10**6, n + 1))
    flows = [Flow(s, i - 1 if i else None, tuple(dict.fromkeys(r)) or (None,)) for i, (s, r) in enumerate(zip(sizes, readers, strict=True))]
    base = draw.lognormal(5, 1, (n, 1)) * draw.uniform(0.2, 3, (n, kinds))
    base[:, 1:][draw.random((n, kinds - 1)) < 0.15] = inf
    units = (Link("cpu"), *(Link(f"u{u}", 20.0, 6000.0, 50.0 * (u == 2), runs_regions=u == 2) for u in range(1, kinds)))
    return Problem(units, base.tolist(), tuple(flows))


@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_the_best_single_unit(seed: int) -> None:
    problem = large(seed, 300, 3)
    on = solve(problem)
    assert on is not None
    assert problem.price(on) <= min(problem.price(problem.single(u)) for u in range(3)) + 1e-6
    assert len(set(on)) > 1


def check_regions(problem: Problem, on: Assignment) -> int:
    """Regions cover what their units run, each once, and can run one after the other, with all else in between."""
    found = regions(problem, on)
    covered = [i for u, part in found for i in part]
    assert sorted(covered) == [i for i, u in enumerate(on) if problem.units[u].runs_regions]
    assert all(on[i] == u for u, part in found for i in part)
    node = {i: i for i in range(len(on))} | {i: -1 - k for k, (_, part) in enumerate(found) for i in part}
    after: dict[int, set[int]] = {v: set() for v in node.values()}
    for f in problem.flows:
        for r in f.readers:
            if f.producer is not None and r is not None and node[f.producer] != node[r]:
                after[node[f.producer]].add(node[r])
    place: dict[int, int] = {}
    waiting = {v: sum(v in readers for readers in after.values()) for v in after}
    ready = [v for v, count in waiting.items() if not count]
    while ready:
        place[v := ready.pop()] = len(place)
        for r in after[v]:
            waiting[r] -= 1
            if not waiting[r]:
                ready.append(r)
    assert len(place) == len(after), "regions wait for each other"
    entering = {(c.flow, c.unit) for c in problem.copies(on) if c.into and problem.units[c.unit].runs_regions}
    fed = [{i for i, f in enumerate(problem.flows) if set(part).intersection(f.readers)} for _, part in found]
    starved = [k for k, (u, _) in enumerate(found) if not any((i, u) in entering for i in fed[k])]
    assert not starved, "a region that no tensor enters"
    assert len(found) <= len(entering)
    return len(found)


def test_regions_are_convex_and_pay_for_their_start() -> None:
    most = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        n = int(draw.integers(1, 30))
        units = (Link("cpu"), Link("npu", runs_regions=True), Link("other", runs_regions=True), Link("gpu"))
        problem = Problem(units, [[1.0] * 4] * n, random_flows(draw, n))
        most = max(most, check_regions(problem, [int(u) for u in draw.choice(4, n, p=[0.25, 0.45, 0.15, 0.15])]))
    assert most > 3


def test_a_path_out_and_back_makes_two_regions() -> None:
    """conv -> gelu (cpu) -> conv -> add, and conv -> add: the addition waits for the CPU, so it cannot be in the first region."""
    flows = (Flow(1, None, (0,)), Flow(1, 0, (1, 3)), Flow(1, 1, (2,)), Flow(1, 2, (3,)), Flow(1, 3, (None,)))
    problem = Problem((Link("cpu"), Link("npu", runs_regions=True)), [[9, 1], [1, inf], [9, 1], [9, 1]], flows)
    on = solve(problem)
    assert on == [1, 0, 1, 1]
    assert regions(problem, on) == [(1, [0]), (1, [2, 3])]


def test_what_can_wait_joins_the_later_region() -> None:
    """x -> a -> gelu (cpu) -> b, and x -> c -> b: c runs with b, or with a, but does not need a start of its own."""
    flows = (Flow(1, None, (0,)), Flow(1, None, (2,)), Flow(1, 0, (1,)), Flow(1, 1, (3,)), Flow(1, 2, (3,)), Flow(1, 3, (None,)))
    problem = Problem((Link("cpu"), Link("npu", runs_regions=True)), [[1, 1]] * 4, flows)
    assert regions(problem, [1, 0, 1, 1]) == [(1, [0]), (1, [2, 3])]


def test_small_parts_stay_on_the_cpu() -> None:
    flows = tuple(Flow(1, i - 1 if i else None, (i if i < 6 else None,)) for i in range(7))
    costs = [[9.0, 1.0], [9.0, 1.0], [9.0, inf], [9.0, 1.0], [9.0, 1.0], [9.0, 1.0]]
    for least, expected in ((1, [1, 1, 0, 1, 1, 1]), (3, [0, 0, 0, 1, 1, 1]), (4, [0] * 6)):
        assert solve(Problem((Link("cpu"), Link("npu", min_region=least)), costs, flows)) == expected


def test_weights_fit_the_memory_of_a_unit() -> None:
    flows = tuple(Flow(1, i - 1 if i else None, (i if i < 3 else None,)) for i in range(4))
    stored = (Stored(60, (0,)), Stored(50, (1,)), Stored(30, (1, 2)), Stored(20, (2,)))
    for capacity, expected in ((160, [1, 1, 1]), (159, [1, 1, 0]), (99, [1, 0, 0]), (50, [0, 0, 1]), (10, [0, 0, 0])):
        problem = Problem((Link("cpu"), Link("gpu", capacity=capacity)), [[9, 1], [8, 1], [7, 1]], flows, stored)
        assert solve(problem) == expected


def test_what_cannot_be_done_has_no_answer() -> None:
    problem = Problem((Link("cpu"), Link("npu", min_region=2)), [[inf, 1]], (Flow(1, None, (0,)),))
    assert solve(problem) is None


def test_nothing_to_assign() -> None:
    assert solve(Problem((Link("cpu"),), [])) == []


def test_connected_parts() -> None:
    assert connected([(0, 1), (2, 3), (1, 5), (9, 0)], [0, 1, 2, 3, 4, 5]) == [[0, 1, 5], [2, 3], [4]]
