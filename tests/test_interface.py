"""Callers' own types, layouts and pixels: whatever is asked, a model computes what the pipeline in numpy computes."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import edgec
from edgec.access import module
from edgec.cli import main
from edgec.errors import BadInput, UsageError
from edgec.fitting import Fitting
from edgec.interface import Interface, Outside, of, read, recorded
from edgec.ir.evaluate import evaluate
from edgec.ir.graph import Graph
from edgec.ir.types import numpy_dtype
from edgec.ir.verify import verify
from edgec.lang.text import parse
from edgec.pipeline import Context, run_passes
from edgec.target import find
from edgec.testing.golden import typed
from edgec.verify import reference
from tests import shared
from tests.small import graph, ops

catalog = module("passes.catalog")
PHOTO: dict[str, Any] = {"type": "u8", "layout": "NHWC", "mean": (123.7, 116.3, 103.5), "scale": (0.0171, 0.0175, 0.0174),
                         "swap_channels": True}
TEXTS = {"input_type": ["x=u8"], "input_layout": ["x=NHWC"], "mean": ["x=123.7,116.3,103.5"], "scale": ["x=0.0171,0.0175,0.0174"],
         "swap_channels": ["x"]}
CONV = ("%w: f32[4,3,3,3] = random 1", "%b: f32[4] = random 2")
HEADS = {
    "convolution": ("3,6,7", "%y: f32[1,4,4,5] = Conv(%x, %w, %b)"),
    "padded": ("3,6,7", "%y: f32[1,4,6,7] = Conv(%x, %w, %b) {pads=[1,1,1,1]}"),
    "same": ("3,6,7", '%y: f32[1,4,3,4] = Conv(%x, %w, %b) {auto_pad="SAME_UPPER", strides=[2,2]}'),
    "pad": ("3,6,7", "%p: i64[8] = dense [0,0,1,1,0,0,1,2]", "%q: f32[1,3,8,10] = Pad(%x, %p)", "%y: f32[1,4,6,8] = Conv(%q, %w, %b)"),
    "last": ("6,7,3", "%t: f32[1,3,6,7] = Transpose(%x) {perm=[0,3,1,2]}", "%y: f32[1,4,4,5] = Conv(%t, %w, %b)"),
    "depthwise": ("3,6,7", "%d: f32[3,1,3,3] = random 3", "%y: f32[1,3,4,5] = Conv(%x, %d) {group=3}"),
    "two": ("3,6,7", "%1: f32[1,4,4,5] = Conv(%x, %w)", "%2: f32[1,4,4,5] = Conv(%x, %w, %b)", "%y: f32[1,4,4,5] = Add(%1, %2)"),
    "flat": ("3,2,2", "%f: f32[1,12] = Flatten(%x)", "%g: f32[12,5] = random 3", "%y: f32[1,5] = Gemm(%f, %g)"),
    "turned": ("3,2,2", "%f: f32[1,12] = Flatten(%x)", "%g: f32[5,12] = random 3", "%c: f32[1,5] = random 4",
               "%y: f32[1,5] = Gemm(%f, %g, %c) {transB=1}"),
    "product": ("3,2,2", "%f: f32[1,12] = Flatten(%x)", "%g: f32[12,5] = random 3", "%y: f32[1,5] = MatMul(%f, %g)"),
    "padded product": ("3,2,2", "%p: i64[8] = dense [0,0,1,0,0,0,0,1]", "%q: f32[1,3,3,3] = Pad(%x, %p)", "%f: f32[1,27] = Flatten(%q)",
                       "%g: f32[27,5] = random 3", "%y: f32[1,5] = MatMul(%f, %g)"),
    "columns": ("3,2,4", "%g: f32[4,5] = random 3", "%y: f32[1,3,2,5] = MatMul(%x, %g)"),
    "factors": ("3,2,2", "%f: f32[1,12] = Flatten(%x)", "%g: f32[12,5] = random 3", "%y: f32[1,5] = Gemm(%f, %g) {alpha=0.5}"),
    "nodes": ("3,6,7", "%r: f32[1,3,6,7] = Relu(%x)", "%c: f32[1,4,4,5] = Conv(%x, %w)", "%d: f32[1,4,4,5] = Conv(%r, %w)",
              "%y: f32[1,4,4,5] = Add(%c, %d)"),
}


def head(name: str) -> Graph:
    """A small net; typed."""
    shape, *statements = HEADS[name]
    return typed(f"graph @g(%x: f32[1,{shape}]) {{\n" + "\n".join([*CONV, *statements]) + "\nreturn %y\n}", name)


def applied(before: Graph, asked: Interface, context: Context | None = None) -> Graph:
    """The graph behind the pass, well formed."""
    text = catalog.pipeline(interface=asked.options()).removesuffix(f",{catalog.DEFAULT}")
    after = run_passes(before, text, catalog.CATALOG, context or Context())
    assert not verify(after)
    return after


def difference(before: Graph, after: Graph, asked: Interface, seed: int = 0) -> float:
    """The largest difference between a graph behind the pass and the pipeline in numpy around the one before, over its spread."""
    random = np.random.default_rng(seed)
    feeds = {v.name: random.integers(0, 256, v.dims).astype(numpy_dtype(v.tensor.dtype)) for v in after.inputs}
    wanted = asked.deliver(evaluate(before, asked.prepare(feeds, before.inputs)))
    got = evaluate(after, feeds)
    assert {n: (a.dtype, a.shape) for n, a in got.items()} == {n: (a.dtype, a.shape) for n, a in wanted.items()}
    return max(float(np.abs(got[n].astype(np.float64) - wanted[n]).max() / np.ptp(wanted[n])) for n in got)


def test_texts_and_dicts_say_the_same() -> None:
    asked = read(TEXTS)
    assert asked == of({"x": PHOTO}, head("convolution")) == Interface({"x": Outside(**PHOTO)})
    assert read(asked.options()) == asked
    assert recorded(json.loads(json.dumps(asked.facts()))) == asked
    assert not read({})


def test_nothing_asked_changes_nothing() -> None:
    before = head("padded")
    assert run_passes(before, "interface", catalog.CATALOG) is before
    assert catalog.pipeline() == catalog.DEFAULT == catalog.pipeline(interface={})


def test_what_the_model_reads() -> None:
    x = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    asked = Interface({"x": Outside("u8", "NHWC", (1, 2, 3), (10, 20, 30), swap_channels=True)})
    got = asked.prepare({"x": x, "z": x}, parse("graph @g(%x: f32[1,3,2,2]) {\n%y: f32[1,3,2,2] = Relu(%x)\nreturn %y\n}").inputs)
    wanted = np.stack([(x[..., 2] - 1.0) * 10, (x[..., 1] - 2.0) * 20, (x[..., 0] - 3.0) * 30], 1).astype(np.float32)
    assert got["x"].dtype == np.float32
    assert (got["x"] == wanted).all()
    assert got["z"] is x


EXPECTED = {
    "convolution": "Cast Conv", "padded": "Cast Sub Conv", "same": "Cast Sub Conv", "pad": "Cast Sub Pad Conv",
    "last": "Cast Transpose Conv",
    "depthwise": "Cast Slice Conv", "two": "Cast Conv Conv Add", "flat": "Cast Flatten Gemm", "turned": "Cast Flatten Gemm",
    "product": "Cast Flatten MatMul Add", "padded product": "Cast Slice Sub Pad Flatten MatMul", "columns": "Cast Slice Sub Mul MatMul",
    "factors": "Cast Slice Sub Mul Flatten Gemm", "nodes": "Cast Slice Sub Mul Relu Conv Conv Add",
}


@pytest.mark.parametrize("name", HEADS)
def test_what_goes_into_weights(name: str) -> None:
    before, context = head(name), Context()
    asked = of({"x": {k: v for k, v in PHOTO.items() if k != "layout"}}, before)
    after = applied(before, asked, context)
    assert ops(after) == EXPECTED[name]
    assert after.inputs[0].tensor.dtype == "u8"
    assert difference(before, after, asked) < 1e-5
    is_told = any(op in EXPECTED[name].split() for op in ("Slice", "Sub", "Mul")) and name != "two"
    assert any("of its own" in n or "of their own" in n or "as it is converted" in n for n in context.notes) == is_told


def numbers(low: float, high: float) -> st.SearchStrategy[tuple[float, ...]]:
    one = st.floats(low, high, width=32)
    return st.one_of(st.just(()), st.tuples(one), st.tuples(one, one, one))


INPUTS = st.builds(Outside, st.sampled_from([None, "u8", "i8", "f16", "f32"]), st.sampled_from([None, "NCHW", "NHWC"]), numbers(-50, 200),
                   numbers(0.0625, 2), st.booleans())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(HEADS)), INPUTS, st.sampled_from([None, "f16", "f32"]), st.integers(0, 9))
@example("padded", Outside("u8", "NHWC", (100.0, 3.0, 7.0), (0.5,), swap_channels=True), "f16", 1)
def test_random_interfaces(name: str, face: Outside, result: str | None, seed: int) -> None:
    before = head(name)
    four = len(before.outputs[0].dims) == 4
    asked = Interface({"x": replace(face, layout=None) if name == "last" else face}, {"y": Outside(result, face.layout if four else None)})
    assume(asked.options())
    after = applied(before, asked)
    assert difference(before, after, asked, seed) < (1e-4 if result != "f16" else 2e-3)
    portable = run_passes(after, catalog.PORTABLE, catalog.CATALOG)
    assert difference(before, portable, asked, seed) < (1e-4 if result != "f16" else 2e-3)


def test_folding_can_be_switched_off() -> None:
    before = head("convolution")
    asked = of({"x": PHOTO}, before)
    after = applied(before, asked, Context(disabled=frozenset({"fold-preprocessing"})))
    assert ops(after) == "Transpose Cast Slice Sub Mul Conv"
    assert difference(before, after, asked) < 1e-5


def test_a_name_may_hold_anything() -> None:
    before = graph('%"in\\\\put:0": f32[1,3,4,4]', "%w: f32[2,3,1,1] = random 1", '%y: f32[1,2,4,4] = Conv(%"in\\\\put:0", %w)')
    asked = of({"in\\put:0": {"type": "u8", "scale": 0.5}}, before)
    assert ops(applied(before, asked)) == "Cast Conv"


def test_whole_numbers() -> None:
    before = graph("%x: i64[3]", "%i: i64[] = splat 1", "%y: i64[3] = Add(%x, %i)")
    asked = of({"x": {"type": "i32"}, "y": {"type": "i32"}}, before)
    after = applied(before, asked)
    assert ops(after) == "Cast Add Cast"
    assert difference(before, after, asked) == 0


@pytest.mark.parametrize(("said", "message"), [
    ({"z": {"type": "u8"}}, "the model has no input or output z; it has x, y"),
    ({"x": {"typ": "u8"}}, r"nothing called typ can be said about x; did you mean type\?; it has type, layout, mean, scale, swap_channels"),
    ({"y": {"mean": 3}}, "nothing called mean can be said about y; it has type, layout"),
    ({"x": {"mean": "abc"}}, "mean is 'abc', and numbers are wanted"),
    ({"x": {"type": "u32"}}, r"the input x is f32\[1,3,6,7\] and cannot be u32; it can be f32, u8, i8, u16, i16, f16"),
    ({"y": {"type": "u8"}}, r"the output y is f32\[1,4,4,5\] and cannot be u8; it can be f32, f16"),
    ({"x": {"layout": "NCWH"}}, "the input x cannot have the layout NCWH; there are NCHW and NHWC"),
    ({"x": {"mean": (1, 2)}}, r"the input x is f32\[1,3,6,7\], which has no 2 channels for the mean"),
    ({"x": {"scale": float("nan")}}, "the scale of the input x must be finite numbers"),
])
def test_what_cannot_be(said: Mapping[str, Mapping[str, Any]], message: str) -> None:
    before = head("convolution")
    with pytest.raises(UsageError, match=f"^{message}$"):
        applied(before, of(said, before))


@pytest.mark.parametrize(("inputs", "said", "message"), [
    ("%x: f32[2,3]", {"layout": "NHWC"}, r"the input x is f32\[2,3\], and a layout belongs to four axes"),
    ("%x: f32[1,8,8,3]", {"layout": "NHWC"}, r"the input x is f32\[1,8,8,3\] and has its channels last already, so leave its layout out"),
    ("%x: i64[1,3]", {"mean": 3}, r"the input x is i64\[1,3\], and a mean belongs to floating point"),
    ("%x: f32[1,4]", {"swap_channels": True}, r"the input x is f32\[1,4\], which has no 3 channels to swap"),
])
def test_what_cannot_be_of_another_input(inputs: str, said: Mapping[str, Any], message: str) -> None:
    before = graph(inputs, f"%y: {inputs.split(': ')[1]} = Neg(%x)")
    with pytest.raises(UsageError, match=f"^{message}$"):
        applied(before, of({"x": said}, before))


@pytest.mark.parametrize(("texts", "message"), [
    ({"input_type": ["u8"]}, "--input-type u8: write NAME=u8"),
    ({"mean": ["x=1,b"]}, "--mean x=1,b: 1,b is no list of numbers"),
    ({"scale": ["x="]}, "--scale x=: nothing is no list of numbers"),
    ({"scale": ["x=1", "x=2"]}, "--scale x=2: this is said twice about x"),
])
def test_texts_that_say_nothing(texts: Mapping[str, list[str]], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        read(texts)


def test_an_unknown_flag_of_an_input() -> None:
    with pytest.raises(UsageError, match=r"^the model has no input xx; did you mean x\?; it has x$"):
        applied(head("padded"), read({"input_type": ["xx=u8"]}))


def test_a_model_is_built_verified_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, bundle = tmp_path / "m.onnx", tmp_path / "m.edgec"
    before = head("padded")
    model.write_bytes(before.to_onnx().SerializeToString())
    flags = [f"--{flag.replace('_', '-')}={text}" for flag, texts in TEXTS.items() for text in texts]
    assert main(["build", str(model), "-o", str(bundle), *flags, "--output-type=y=f16", "--output-layout=y=NHWC"]) == 0
    assert main(["verify", str(bundle), "--model", str(model), "--per-kernel"]) == 0
    assert main(["run", str(bundle)]) == 0
    assert "float16[1, 6, 7, 4]" in capsys.readouterr().out
    made = edgec.Bundle(bundle)
    assert made.manifest["preprocessing"]["x"] == {k: list(v) if isinstance(v, tuple) else v for k, v in PHOTO.items()}
    assert made.manifest["postprocessing"]["y"] == {"type": "f16", "layout": "NHWC"}
    assert made.manifest["inputs"][0]["shape"] == [1, 6, 7, 3]


def test_photographs(tmp_path: Path) -> None:
    model, notes = shared.model("resnet20_cifar10_fp32"), list[str]()
    (own,) = edgec.import_onnx(model, static=True).inputs
    name, size = own.name, own.dims[2]
    made = edgec.build(model, output=tmp_path / "m.edgec", interface={name: PHOTO}, notes=notes)
    assert any("subtracted as it is converted" in n for n in notes)
    session = made.load()
    port = session.inputs[0]
    assert port.shape == (1, size, size, 3)
    buffers, step = made.manifest["buffers"], made.manifest["inputs"][0]
    assert buffers[step["buffer"]]["bytes"] * 4 == own.tensor.bytes
    expect, _ = reference(made, model)
    random = np.random.default_rng(5)
    patch = np.ones((1, size // 4, size // 4, 1))
    photographs = [{name: np.kron(random.integers(0, 256, (1, 4, 4, 3)), patch).astype(np.uint8)} for _ in range(2)]
    wanted, got = ([np.concatenate([a.ravel() for a in run(p).values()]) for p in photographs] for run in (expect, session.run))
    error = max(np.abs(g - w).max() for g, w in zip(got, wanted, strict=True))
    assert error / np.abs(wanted[0] - wanted[1]).max() < 1e-4


def resolved(samples: Mapping[str, Any], texts: Mapping[str, list[str]], notes: list[str] | None = None) -> list[dict[str, Any]]:
    """What passes get of samples for a small net behind an interface."""
    asked = Fitting(int8=True, calibrate=samples)
    fitted = asked.resolve(head("convolution"), find("cortex-a72"), [] if notes is None else notes, interface=read(texts))
    return [dict(s) for s in fitted.samples]


def test_samples_are_what_callers_give_or_what_the_model_reads() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 7, 3)).astype(np.uint8)
    own = np.concatenate([read(TEXTS).prepare({"x": p[None]}, head("convolution").inputs)["x"] for p in pixels])
    for samples in (pixels, own, own.astype(np.float16), own.astype(np.float64)):
        assert np.array_equal(np.concatenate([s["x"] for s in resolved({"x": samples}, TEXTS)]), pixels)


def test_samples_in_neither_form_are_refused() -> None:
    noise = np.random.default_rng(0).standard_normal((40, 3, 6, 7)).astype(np.float32)
    with pytest.raises(BadInput, match=r"the input x would have numbers from .* before its mean and scale, and not all are whole"):
        resolved({"x": noise}, TEXTS)
    with pytest.raises(BadInput, match="not all are whole numbers of u8"):
        resolved({"x": np.full((40, 3, 6, 7), 200, np.uint8)}, TEXTS)       # pixels, but not in the layout that was asked for
    with pytest.raises(BadInput, match=r"\[40, 6, 7, 4\], but \[N, 6, 7, 3\] is wanted by .* own inputs, .* but \[N, 3, 6, 7\] is wanted"):
        resolved({"x": np.zeros((40, 6, 7, 4), np.uint8)}, TEXTS)


def test_samples_that_could_be_in_both_forms_are_those_of_callers() -> None:
    given, notes = np.random.default_rng(0).uniform(0, 255, (40, 3, 6, 7)).astype(np.float32), list[str]()
    made = resolved({"x": given}, {"mean": ["x=128"]}, notes)
    assert np.array_equal(np.concatenate([s["x"] for s in made]), given)
    assert "the samples of x are taken as callers will give them, before mean and scale" in notes


def test_bytes_in_and_bytes_inside(tmp_path: Path) -> None:
    """A budget, layers of integers and pixels as a camera gives them, all fitted to the same pixels."""
    folder = Path(__file__).resolve().parent.parent / "examples" / "models"
    with np.load(folder / "digits_test.npz") as data:
        images, labels = data["images"], data["labels"]
    bundle = edgec.build(folder / "digits_cnn.onnx", "host", tmp_path / "m.edgec", int8=True, calibrate={"image": images[:32]},
                         max_drop=0.2, labels=labels[:32].astype(np.int64), interface={"image": {"type": "u8", "scale": 1 / 255}})
    session = bundle.load()
    found = [int(session.run({"image": i[None]})["logits"].argmax()) for i in images[100:200]]
    assert np.mean(found == labels[100:200]) >= 0.9
    assert bundle.manifest["inputs"][0]["dtype"] == "u8"
    assert bundle.manifest["report"]["integer_macs"] > 0
