"""Layouts in numbers: the program's answer costs what the best of all answers costs, and parts are answered alone."""

from itertools import product

import numpy as np
import pytest

from edgec.errors import EdgecError
from edgec.layouts.problem import Problem, Read, Work, every
from edgec.layouts.solve import solve


def drawn(seed: int) -> Problem:
    """A random DAG: each work makes a tensor from earlier ones, or from views of them; some keys are impossible."""
    random = np.random.default_rng(seed)
    layouts, reads, works = [int(random.integers(1, 4)) for _ in range(2)], list[Read](), list[Work]()
    for _ in range(int(random.integers(1, 5))):
        sources = random.choice(len(layouts), int(random.integers(1, 3)))
        mine = []
        for t in sources.tolist():
            old = [i for i, r in enumerate(reads) if r.tensor == t]
            if old and random.random() < 0.6:
                mine.append(int(random.choice(old)))
            else:
                copies = int(random.integers(0, 3))
                reads.append(Read(t, tuple(tuple(random.integers(1, 20, copies).tolist()) for _ in range(layouts[t]))))
                mine.append(len(reads) - 1)
        layouts.append(int(random.integers(1, 3)))
        options = [range(layouts[reads[r].tensor] + len(reads[r].copies[0])) for r in mine]
        keys = [k for k in product(*options, range(layouts[-1])) if len({(r, c) for r, c in zip(mine, k, strict=False)}) == len(set(mine))]
        kept = [k for k in keys if k[:-1] == (0,) * len(mine) or random.random() < 0.8]
        works.append(Work(tuple(mine), (len(layouts) - 1,), {k: float(random.integers(0, 50)) for k in kept}))
    return Problem(tuple(layouts), tuple(reads), tuple(works))


@pytest.mark.parametrize("seed", range(60))
def test_no_answer_is_cheaper(seed: int) -> None:
    problem = drawn(seed)
    answers = list(every(problem))
    if not answers:
        with pytest.raises(EdgecError, match="not solved"):
            solve(problem)
        return
    found = solve(problem)
    assert found.price == pytest.approx(min(a.price for a in answers))
    assert any((a.layouts, a.keys) == (found.layouts, found.keys) for a in answers)


def test_a_copy_is_paid_once_for_all_its_readers() -> None:
    read = Read(0, ((10.0,),))
    reader: dict[tuple[int, ...], float] = {(0, 0): 9.0, (1, 0): 1.0}
    alone = solve(Problem((1, 1), (read,), (Work((0,), (1,), reader),)))
    both = solve(Problem((1, 1, 1), (read,), (Work((0,), (1,), reader), Work((0,), (2,), reader))))
    assert (alone.keys, alone.price) == (((0, 0),), 9.0)
    assert (both.keys, both.price) == (((1, 0), (1, 0)), 12.0)


def test_the_layout_that_a_maker_likes_gives_way_to_two_readers() -> None:
    works = [Work((), (0,), {(0,): 1.0, (1,): 6.0})]
    works += [Work((0,), (1 + i,), {(0, 0): 5.0, (1, 0): 1.0}) for i in range(2)]
    one = solve(Problem((2, 1), (Read(0, ((), ())),), tuple(works[:2])))
    two = solve(Problem((2, 1, 1), (Read(0, ((), ())),), tuple(works)))
    assert (one.layouts[0], one.price) == (0, 6.0)
    assert (two.layouts[0], two.price) == (1, 8.0)


def test_parts_share_no_tensor() -> None:
    works = [Work((i,), (), {(0,): 3.0, (1,): 1.0}) for i in range(5)]
    problem = Problem((2,) * 5, tuple(Read(i, ((), ())) for i in range(5)), tuple(works))
    assert sorted(t for p in problem.parts for t in p.tensors) == list(range(5))
    assert len(problem.parts) == 5
    assert solve(problem).layouts == (1,) * 5
