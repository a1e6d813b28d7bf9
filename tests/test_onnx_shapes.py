"""Shapes and symbols that a user binds, and cuts of a model."""

from typing import Any

import onnx
import pytest
from onnx import ModelProto

from edgec.errors import BadInput
from edgec.ir.evaluate import evaluate
from edgec.onnx import import_model
from tests.nodes import chain, same, sample
from tests.shared import model, needs_models


def dynamic(*shape: Any, name: str = "x", more: Any = ()) -> ModelProto:
    return chain(("Relu", name, "y", {}), inputs=((name, shape), *more))


def test_an_open_batch_becomes_one_with_one_note() -> None:
    notes: list[str] = []
    graph = import_model(dynamic("batch", 3), static=True, notes=notes)
    assert graph.inputs[0].dims == (1, 3)
    assert notes == ["batch size 1: batch is not bound (--dim batch=N changes that)"]
    notes.clear()
    assert import_model(dynamic("batch", 3), static=True, dims={"batch": 4}, notes=notes).outputs[0].dims == (4, 3)
    assert import_model(dynamic(None, 3), static=True, shapes={"x": [2, 3]}, notes=notes).outputs[0].dims == (2, 3)
    assert notes == []
    assert str(import_model(dynamic("batch", 3)).outputs[0].tensor.shape) == "(batch, 3)"


def test_open_symbols_are_listed_with_the_flags_that_bind_them() -> None:
    with pytest.raises(BadInput) as caught:
        import_model(dynamic("b", "H", None, "W x", more=(("z", None),)), static=True)
    text = str(caught.value)
    assert "H, x_dim2, W x, all of z" in text
    for flag in ("--dim H=N", "--shape x=1,N,N,N", "--dim 'W x=N'", "--shape"):
        assert flag in text


def test_a_shape_settles_its_symbols_everywhere() -> None:
    proto = dynamic("b", "H", more=(("z", ("H", 2)),))
    graph = import_model(proto, shapes={"x": (2, 7)}, static=True)
    assert graph.inputs[1].dims == (7, 2)
    with pytest.raises(BadInput, match=r"--shape z=8,2: the symbol H is 7 elsewhere, and here it would be 8"):
        import_model(proto, shapes={"x": (2, 7), "z": (8, 2)})


@pytest.mark.parametrize(("options", "message"), [
    ({"shapes": {"X": (1, 2)}}, "--shape names 'X', which is no input; did you mean 'x'"),
    ({"shapes": {"x": (1, 2, 3)}}, r"--shape x=1,2,3: the input has 2 axes, \[b,H\], not 3"),
    ({"shapes": {"x": (1, -2)}}, "must not be negative"),
    ({"dims": {"h": 2}}, "--dim names 'h', which is no symbol of the model's inputs"),
    ({"dims": {"H": 0}}, "a dim must be at least 1"),
    ({"outputs": ["yy"]}, "--outputs names 'yy', which the model does not have; did you mean 'y'"),
    ({"inputs": ["q"]}, "--inputs names 'q', which the model does not have"),
])
def test_names_and_shapes_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        import_model(dynamic("b", "H"), **options)


def test_another_shape_than_the_declared_one_reaches_every_value() -> None:
    proto = onnx.shape_inference.infer_shapes(chain(("Relu", "x", "a", {}), ("Neg", "a", "y", {})))
    assert proto.graph.value_info
    assert [v.dims for n in import_model(proto, shapes={"x": (7, 3)}).nodes for v in n.outputs] == [(7, 3), (7, 3)]


LONG = chain(("Relu", "x", "a", {}), ("Add", "a b", "c", {}), ("Transpose", "c", "y", {}), inputs=(("x", (2, 3)), ("b", (3,))))


def test_a_cut_at_the_outputs_drops_inputs_that_nobody_reads() -> None:
    graph = import_model(LONG, outputs=["a"])
    assert ([v.name for v in graph.inputs], [v.name for v in graph.outputs]) == (["x"], ["a"])


def test_a_cut_at_the_inputs_knows_the_type_there() -> None:
    graph = import_model(LONG, inputs=["c"])
    assert [(v.name, v.dims) for v in graph.inputs] == [("c", (2, 3))]
    assert graph.outputs[0].dims == (3, 2)
    with pytest.raises(BadInput, match="still needs the input 'b'"):
        import_model(LONG, inputs=["a"])
    assert [v.name for v in import_model(LONG, inputs=["b", "a"]).inputs] == ["b", "a"]


@needs_models
def test_a_cut_of_a_real_model_computes_the_same() -> None:
    path = model("squeezenet_fp32")
    whole = import_model(path)
    middle = [n.output.name for n in whole.nodes if n.op == "MaxPool"][1]
    feeds = sample(whole)
    made = evaluate(import_model(path, outputs=[middle]), feeds)
    assert list(made) == [middle]
    same(evaluate(whole, feeds), evaluate(import_model(path, inputs=[middle]), made))
