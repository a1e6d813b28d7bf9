"""Samples: every form they come in, what is said of strange ones, and how results are compared."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec import calibrate
from edgec.errors import BadInput, EdgecError, ToolMissing, UsageError
from edgec.ir.graph import Value
from edgec.ir.types import Tensor

X = Value("x", Tensor("f32", (2, 3)))
INDEX = Value("i", Tensor("i64", (2,)))
IMAGE = Value("image", Tensor("f32", (1, 1, 4, 6)))


def numbers(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_first_axis_is_samples_and_is_split_to_the_batch(tmp_path: Path) -> None:
    array = numbers(41, 3)
    np.savez(tmp_path / "s.npz", x=array, other=numbers(2))
    found = calibrate.load(tmp_path / "s.npz", [X])
    assert (len(found), found.count, found.warnings) == (20, 41, ())
    assert np.array_equal(np.concatenate([f["x"] for f in found.feeds]), array[:40])


def test_one_array_is_enough_for_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", numbers(4, 3).astype(np.float64))
    found = calibrate.load(str(tmp_path / "s.npy"), [X])
    assert [f["x"].dtype for f in found.feeds] == [np.float32, np.float32]


def test_whole_inputs_may_be_samples() -> None:
    found = calibrate.load({"x": numbers(5, 2, 3), "i": np.arange(10).reshape(5, 2)}, [X, INDEX])
    assert len(found) == 5
    assert found.feeds[4]["i"].tolist() == [8, 9]


def test_a_folder_holds_single_samples_or_several(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", numbers(3, 3))
    np.save(tmp_path / "a.npy", np.ones(3, np.float32))
    found = calibrate.load(tmp_path, [X])
    assert found.feeds[0]["x"][0].tolist() == [1, 1, 1]
    assert len(found) == 2


def test_a_function_gives_arrays_or_one_sample_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_samples.py").write_text("""
import numpy as np
def whole(): return {"x": np.ones((4, 3), "f4")}
def single(): return ({"x": np.full(3, i, "f4")} for i in range(4))
def broken(): raise ValueError("no data")
def text(): return 3
value = 1
""")
    monkeypatch.chdir(tmp_path)
    assert len(calibrate.load("my_samples:whole", [X])) == 2
    assert calibrate.load("my_samples:single", [X]).feeds[1]["x"][:, 0].tolist() == [2, 3]
    for name, kind, message in (("broken", BadInput, "my_samples:broken fails with ValueError: no data"),
                                ("text", BadInput, "returns neither arrays by name"), ("value", UsageError, "has no function value"),
                                ("missing", UsageError, "has no function missing")):
        with pytest.raises(kind, match=message):
            calibrate.load(f"my_samples:{name}", [X])
    with pytest.raises(UsageError, match="the module no_such_module cannot be imported"):
        calibrate.load("no_such_module:f", [X])
    del sys.modules["my_samples"]


@pytest.mark.parametrize(("arrays", "inputs", "message"), [
    ({"y": numbers(4, 3)}, [X], "has no array x, which is an input of the model; it has y"),
    ({"x": numbers(4, 5)}, [X], r"the array x has the shape \[4, 5\], but \[N, 3\] is wanted"),
    ({"x": numbers(4)}, [X], r"the array x has the shape \[4\]"),
    ({"x": numbers(1, 3)}, [X], "holds 1 samples, and the model takes 2 at once"),
    ({"x": numbers(0, 3)}, [X], "holds 0 samples"),
    ({"x": np.array([["a", "b", "c"]] * 2)}, [X], "the array x is <U1, but f32 is wanted"),
    ({"x": numbers(4, 3) + np.inf}, [X], "the array x holds numbers that are not finite"),
    ({"i": numbers(4)}, [INDEX], "the array i is float32, but i64 is wanted"),
    ({"i": np.full(4, -1)}, [Value("i", Tensor("u8", (2,)))], "the array i has numbers that u8 does not have"),
    ({"x": numbers(4, 3), "i": np.zeros(6, np.int64)}, [X, INDEX], "different numbers of samples: 4 of x, 6 of i"),
    ({"x": numbers(4, 3)}, [Value("x", Tensor("f32", (None, 3)))], "the shape of the input x is not known"),
    ({}, [], "the model has no inputs"),
])
def test_wrong_arrays_are_named(arrays: dict[str, Any], inputs: list[Value], message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        calibrate.load(arrays, inputs)
    assert len(str(error.value).splitlines()) == 1


def broken_file(folder: Path) -> Path:
    (folder / "s.npz").write_bytes(b"not a zip")
    return folder / "s.npz"


def one_for_two(folder: Path) -> Path:
    np.save(folder / "s.npy", numbers(4, 3))
    return folder / "s.npy"


def both_kinds(folder: Path) -> Path:
    one_for_two(folder)
    (folder / "a.png").write_bytes(b"")
    return folder


def other_file(folder: Path) -> Path:
    (folder / "s.txt").write_text("1 2 3")
    return folder / "s.txt"


@pytest.mark.parametrize(("make", "message"), [
    (lambda f: f / "missing.npz", "there is no file .*missing.npz"),
    (lambda f: f / "missing", "there is no file, folder or module:function"),
    (lambda f: f, "holds no .npz, .npy or image files"), (broken_file, "cannot be read as arrays"),
    (other_file, "is not a .npz or .npy file"), (one_for_two, "holds one array, but the model has the inputs x, i"),
    (both_kinds, "holds both images and arrays, such as a.png")])
def test_wrong_files_are_named(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        calibrate.load(make(tmp_path), [X, INDEX])


def test_images_need_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ToolMissing, match="pip install pillow"):
        calibrate.load(tmp_path, [IMAGE])


@pytest.mark.skipif(find_spec("PIL") is None, reason="Pillow is not installed")
def test_images_become_what_the_model_takes(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert calibrate.load(tmp_path, [IMAGE]).feeds[0]["image"].shape == (1, 1, 4, 6)
    color = calibrate.load(tmp_path, [Value("image", Tensor("f32", (1, 8, 12, 3)))]).feeds[0]["image"]
    assert color[0, 3, 5].tolist() == [1, 0, 0]
    assert calibrate.load(tmp_path, [Value("image", Tensor("u8", (1, 3, 4, 6)))]).feeds[0]["image"][0, :, 0, 0].tolist() == [255, 0, 0]
    with pytest.raises(BadInput, match="which is none"):
        calibrate.load(tmp_path, [X])
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"b\.png cannot be read as an image"):
        calibrate.load(tmp_path, [IMAGE])


def test_strange_samples_are_told() -> None:
    assert calibrate.load({"x": numbers(64, 3)}, [X]).warnings == ()
    few, = calibrate.load({"x": numbers(4, 3)}, [X]).warnings
    assert few.startswith("the samples: 4 samples; with fewer than 32")
    equal, = calibrate.load({"x": np.ones((64, 3), np.float32)}, [X]).warnings
    assert "all samples of x are equal" in equal
    raw, = calibrate.load({"image": np.random.default_rng(0).integers(0, 256, (64, 1, 4, 6)).astype(np.uint8)}, [IMAGE]).warnings
    assert "as pixels do that nobody normalized" in raw


def test_results_are_compared(tmp_path: Path) -> None:
    scores = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]])
    np.save(tmp_path / "y.npy", np.array([1, 0, 0, 0]))
    assert calibrate.top1(scores, calibrate.labels(tmp_path / "y.npy", 4)) == 0.75
    assert calibrate.compare(scores, scores) == {"agreement": 1.0, "cosine": pytest.approx(1.0), "signal_to_noise_db": float("inf")}
    made = calibrate.compare(scores * [1, 2], scores)
    assert made["agreement"] == 0.75
    assert made["cosine"] == pytest.approx(((scores * [1, 2]) * scores).sum() / np.linalg.norm(scores * [1, 2]) / np.linalg.norm(scores))
    assert made["signal_to_noise_db"] == pytest.approx(10 * np.log10(np.square(scores).sum() / np.square(scores[:, 1]).sum()))
    assert calibrate.cosine(scores * 0, scores * 0) == 1


@pytest.mark.parametrize(("act", "message"), [
    (lambda f: calibrate.labels(f / "y.npy", 3), "holds 2 labels for 3 samples"),
    (lambda f: calibrate.labels(f / "r.npy", 2), "does not hold labels"),
    (lambda f: calibrate.labels(f / "none.npy", 2), "there is no file"),
    (lambda _: calibrate.top1(np.zeros(3), np.zeros(3)), "top1 wants scores"),
    (lambda _: calibrate.agreement(np.zeros((2, 3)), np.zeros((3, 3))), "cannot be compared")])
def test_what_cannot_be_compared_is_named(tmp_path: Path, act: Callable[[Path], Any], message: str) -> None:
    np.save(tmp_path / "y.npy", np.array([1, 0]))
    np.save(tmp_path / "r.npy", np.array([1.0, 0]))
    with pytest.raises(EdgecError, match=message):
        act(tmp_path)
