"""Times, ratios and their intervals, with a clock that tests turn; inputs that are drawn; how outputs are judged."""

from collections.abc import Callable
from itertools import pairwise
from math import comb

import numpy as np
import pytest

from edgec.errors import BadInput
from edgec.lang.text import parse
from edgec.measure import Times, _rank, race, ratio
from edgec.samples import draw, ranges
from edgec.session import Port
from edgec.verify import agreement


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds
            self.log.append(name)
        return run


def test_contestants_take_turns_in_blocks() -> None:
    clock = Clock()
    times = race({"a": clock.work("a", 0.004), "b": clock.work("b", 0.03)}, warmup=2, duration=0.2, block=0.02, clock=clock)
    assert clock.log[:4] == ["a", "a", "b", "b"]
    turns = [name for name, following in pairwise([*clock.log[4:], ""]) if name != following]
    assert turns == ["a", "b"] * (len(turns) // 2)
    assert {len(b) for b in times["a"].blocks} == {5}
    assert {len(b) for b in times["b"].blocks} == {1}
    assert len(times["a"].blocks) == len(times["b"].blocks) > 1
    assert len(times["a"].runs) + len(times["a"].blocks) + 2 == clock.log.count("a")  # the first of each turn is not counted


def test_so_many_runs_as_were_asked_for() -> None:
    clock = Clock()
    times = race({"a": clock.work("a", 1.0)}, warmup=0, iterations=7, clock=clock)
    assert len(times["a"].runs) == clock.log.count("a") == 7


def test_the_summary_is_made_of_order_statistics() -> None:
    summary = Times([[k / 1e3 for k in range(1, 51)], [k / 1e3 for k in range(51, 101)]]).summary()
    assert summary == {"ms": 50.5, "p90_ms": 90.0, "p99_ms": 99.0, "min_ms": 1.0, "runs": 100}


def test_the_ratio_is_that_of_neighboring_blocks() -> None:
    drift = [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 9.0, 9.5]
    found = ratio(Times([[2e-3 * d] * 3 for d in drift]), Times([[1e-3 * d] * 3 for d in drift]))
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 20, 75, 1500])
def test_the_interval_holds_the_median_in_95_of_100_cases_and_is_no_wider(n: int) -> None:
    def outside(k: int) -> float:
        return float(2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)  # that fewer than k + 1 numbers lie on one side of the median

    k = _rank(n)
    assert k == 0 or outside(k) <= 0.05
    assert outside(k + 1) > 0.05


def port(name: str, shape: tuple[int, ...], dtype: str) -> Port:
    return Port(name, shape, np.dtype(dtype))


def test_images_have_low_frequencies() -> None:
    made = draw([port("x", (1, 3, 64, 64), "float32")], 1, {})["x"]
    assert made.dtype == np.float32
    assert 0.5 < made.std() < 2
    assert np.abs(np.diff(made, axis=3)).mean() < 0.6 * made.std()
    again, other = draw([port("x", (1, 3, 64, 64), "float32")], 1, {})["x"], draw([port("x", (1, 3, 64, 64), "float32")], 2, {})["x"]
    assert np.array_equal(made, again)
    assert not np.array_equal(made, other)


def test_integers_stay_in_their_ranges() -> None:
    ports = [port("ids", (500,), "int64"), port("mask", (500,), "int64"), port("q", (2000,), "int8"), port("flag", (50,), "bool")]
    made = draw(ports, 0, {"ids": (0, 9)})
    assert set(made["ids"].tolist()) == set(range(10))
    assert set(made["mask"].tolist()) == {0, 1}
    assert (made["q"].min(), made["q"].max()) == (-128, 127)
    assert made["flag"].dtype == np.bool_
    with pytest.raises(BadInput, match="text"):
        draw([port("text", (1,), "object")], 0, {})


def test_ranges_follow_indices_to_their_tables() -> None:
    graph = parse("""edge 1

graph @g(%ids: i64[1,4], %mask: i64[1,4], %x: f32[4,3]) {
  %table: f32[30,3] = random 1
  %shape: i64[1] = dense [4]
  %flat: i64[4] = Reshape(%ids, %shape)
  %small: i32[4] = Cast(%flat) {to=6}
  %row: f32[4,3] = Gather(%table, %small) {axis=0}
  %column: f32[4,4] = Gather(%row, %flat) {axis=1}
  return %column
}
""")
    assert ranges(graph) == {"ids": (0, 2)}


REFS = [np.array([0.0, 1.0, 4.0]), np.array([2.0, 1.0, 0.0])]


def test_the_error_is_the_deviation_over_the_spread() -> None:
    got = [REFS[0] + [0, 0, 2e-4], REFS[1]]
    found = agreement("y", got, REFS)
    assert found.error == pytest.approx(5e-5)
    assert found.ok
    assert not agreement("y", [REFS[0] + [0, 0, 1e-2], REFS[1]], REFS).ok
    assert not agreement("y", [REFS[0] * np.nan, REFS[1]], REFS).ok


def test_an_output_that_hardly_changes_is_no_check() -> None:
    same = [np.full(3, 100.0), np.full(3, 100.5)]
    assert (agreement("y", same, same).error, agreement("y", same, same).ok) == (None, True)
    assert not agreement("y", [same[0] + 1, same[1]], same).ok
    assert agreement("y", same[:1], same[:1]).error is None


def test_whole_numbers_shapes_and_types_have_to_be_equal() -> None:
    whole = [np.array([1, 2]), np.array([3, 4])]
    assert agreement("y", whole, whole).ok
    assert not agreement("y", [whole[0] + 1, whole[1]], whole).ok
    assert "float32" in agreement("y", [REFS[0].astype(np.float32), REFS[1]], REFS).why
    assert not agreement("y", [REFS[0][None], REFS[1]], REFS).ok


def test_half_precision_may_be_off_by_its_own_rounding() -> None:
    refs = [r.astype(np.float16) for r in REFS]
    near = [np.nextafter(refs[0], np.float16(9)), refs[1]]
    assert agreement("y", near, refs).ok
    assert not agreement("y", [refs[0] + np.float16(0.1), refs[1]], refs).ok
