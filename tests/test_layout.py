"""Views: reshape and slice say where elements lie exactly as numpy moves them."""

import numpy as np
import pytest

from edgec.ir.layout import Axis, Layout, View


def offsets(view: View) -> np.ndarray:
    grid = np.indices(view.shape).reshape(len(view.axes), -1)
    return np.array([view.offset([int(i) for i in index]) for index in grid.T], np.int64).reshape(view.shape)


LAYOUTS = [None, Layout((0, 2, 3, 1)), Layout((0, 1, 2, 3), ((1, 4),)), Layout((0, 1, 2, 3), ((1, 6),)), Layout((0, 1, 2, 3), ((1, 8),))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 24, 3, 5), (48, 15), (2, 3, 8, 3, 5), (2, 8, 3, 15), (2, 2, 12, 15), (720,), (2, 24, 15),
                                   (2, 24, 1, 3, 5), (2, 4, 6, 3, 5)])
def test_reshape_is_what_numpy_does_or_nothing(layout: Layout | None, shape: tuple[int, ...]) -> None:
    view = View.of((2, 24, 3, 5), layout)
    made = view.reshape(shape)
    if made is not None:
        assert made.shape == shape
        assert (offsets(made) == offsets(view).reshape(shape)).all()
    assert made is not None or layout is not None


def test_reshape_splits_and_joins_blocked_channels() -> None:
    view = View.of((1, 24, 3, 5), Layout((0, 1, 2, 3), ((1, 8),)))
    parts = view.reshape((1, 6, 4, 3, 5))
    assert parts is not None
    assert parts.axes[1] == Axis(6, 3 * 5 * 8, 2, 4)
    joined = parts.reshape((1, 24, 3, 5))
    assert joined is not None
    assert joined.axes[1] == view.axes[1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("axis", "start", "step", "count"), [(1, 8, 1, 8), (1, 3, 1, 5), (2, 2, -1, 3), (3, 1, 2, 2), (1, 0, 1, 4)])
def test_slice_is_what_numpy_does_or_nothing(layout: Layout | None, axis: int, start: int, step: int, count: int) -> None:
    view = View.of((2, 24, 3, 5), layout)
    made = view.slice(axis, start, step, count)
    if made is None:
        assert layout is not None
        assert layout.blocks
        return
    taken = np.take(offsets(view), range(start, start + step * count, step), axis)
    assert (offsets(made[0]) + made[1] == taken).all()


def test_layout_names_and_sizes() -> None:
    layout = Layout((0, 1, 2, 3), ((1, 16),))
    assert layout.name == "NCHW16c"
    assert layout.elements((1, 20, 2, 2)) == 1 * 2 * 2 * 2 * 16
    assert View.of((1, 32, 1, 1), layout).dense
    assert not View.of((1, 32, 2, 1), layout).dense
