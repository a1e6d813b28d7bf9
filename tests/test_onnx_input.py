"""Everything that a model file may hold is read, and what is wrong with one is said in one sentence."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgec.errors import BadInput, EdgecError, UnsupportedModel
from edgec.ir.evaluate import evaluate
from edgec.ir.proto import CODES, array_of, tensor_proto
from edgec.ir.types import DTYPES, Map, Optional, Sequence, Tensor
from edgec.onnx import export_model, import_model
from tests.nodes import X, cases, chain
from tests.shared import model, needs_models

I64 = np.int64


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_every_dtype_survive(dtype: str) -> None:
    rng = np.random.default_rng(3)
    if dtype == "string":
        array = np.array([["a", "ü\x00"], ["", "日本"]], object)
    elif dtype == "bool":
        array = np.array([[True, False]])
    else:
        array = rng.integers(-1 if dtype.startswith("i") else 1, 2, (3, 5)).astype(DTYPES[dtype])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [],
                              [helper.make_tensor_value_info("y", CODES[dtype], array.shape)], [tensor_proto(array, "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)])
    onnx.checker.check_model(proto)
    for imported in (import_model(proto), import_model(export_model(import_model(proto)))):
        (value, weight), = imported.weights.items()
        assert value.type == Tensor(dtype, array.shape)
        assert weight.dtype == array.dtype
        assert weight.tolist() == array.tolist()
        assert evaluate(imported, {})["y"].tolist() == array.tolist()


def test_constant_nodes_in_every_form_become_weights() -> None:
    sparse = helper.make_sparse_tensor(helper.make_tensor("v", TensorProto.FLOAT, [2], [3, 4]),
                                       helper.make_tensor("i", TensorProto.INT64, [2], [1, 2]), [4])
    forms: list[tuple[dict[str, Any], Any]] = [
        ({"value": numpy_helper.from_array(X[0, 0])}, X[0, 0]), ({"value_float": 2.5}, np.float32(2.5)), ({"value_int": 3}, I64(3)),
        ({"value_ints": [1, 2]}, np.array([1, 2])), ({"value_floats": [1.5]}, np.array([1.5], np.float32)),
        ({"value_string": "s"}, np.array("s", object)), ({"value_strings": ["s", "t"]}, np.array(["s", "t"], object)),
        ({"sparse_value": sparse}, np.array([0, 3, 4, 0], np.float32)),
    ]
    for attrs, want in forms:
        node = helper.make_node("Constant", [], ["y"], **attrs)
        proto = helper.make_model(helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("y")]))
        graph = import_model(proto)
        assert not graph.nodes
        made = evaluate(graph, {})["y"]
        assert (made.dtype, made.shape) == (want.dtype, want.shape)
        assert made.tolist() == want.tolist()


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_initializers_become_dense(linear: bool) -> None:  # noqa: FBT001
    indices = helper.make_tensor("i", TensorProto.INT64, [2] if linear else [2, 2], [1, 5] if linear else [0, 1, 1, 2])
    proto = chain(("Add", "x s", "y", {}))
    elements = helper.make_tensor("s", TensorProto.FLOAT, [2], [3, 4])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(elements, indices, [2, 3]))
    want = np.array([[1, 4, 1], [1, 1, 5]], np.float32)
    assert evaluate(import_model(proto), {"x": np.ones((2, 3), np.float32)})["y"].tolist() == want.tolist()


def test_weights_of_old_models_stand_among_the_inputs() -> None:
    weight = numpy_helper.from_array(np.ones(3, "f"), "w")
    proto = chain(("Add", "x w", "y", {}), inputs=(("x", (2, 3)), ("w", (3,))), weights=[weight], ir=3)
    assert [v.name for v in import_model(proto).inputs] == ["x"]


def test_functions_are_inlined_and_nested() -> None:
    twice = helper.make_function("mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)])
    four = helper.make_function("mine", "Four", ["a"], ["b"], [
        helper.make_node("Twice", ["a"], ["c"], domain="mine"), helper.make_node("Twice", ["c"], ["b"], domain="mine")],
        [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)])
    proto = chain(("Four", "x", "y", {"domain": "mine"}), functions=[twice, four])
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    graph = import_model(proto)
    assert [n.op for n in graph.nodes] == ["Add", "Add"]
    assert evaluate(graph, {"x": np.ones((2, 3), np.float32)})["y"].max() == 4


def test_containers_keep_their_types() -> None:
    found = {type(v.type) for c in cases(0, 1) if c.name.startswith(("test_sequence", "test_optional", "test_identity"))
             for g in (import_model(c.model),) for v in (*g.inputs, *g.outputs)}
    assert {Sequence, Optional, Tensor} <= found
    graph = import_model(model("logreg_wine_zipmap"))
    assert graph.outputs[1].type == Sequence(Map("i64", Tensor("f32", ())))
    assert export_model(graph).graph.output[1].type.sequence_type.elem_type.map_type.key_type == TensorProto.INT64


def test_nodes_without_a_name_are_called_by_kind_and_place() -> None:
    proto = chain(("Relu", "x", "a", {}), ("Neg", "a", "y", {}))
    proto.graph.node[1].name = ""
    assert [n.origin for n in import_model(proto).nodes] == ["n_a", "Neg_1"]


def test_nodes_in_any_order_are_sorted() -> None:
    proto = chain(("Neg", "a", "y", {}), ("Relu", "x", "a", {}))
    assert [n.op for n in import_model(proto).nodes] == ["Relu", "Neg"]


def test_the_callers_model_is_left_alone() -> None:
    proto = chain(("Relu", "x", "y", {}))
    before = proto.SerializeToString()
    import_model(proto, shapes={"x": (5, 3)})
    assert proto.SerializeToString() == before


def test_text_in_weights_is_read_back() -> None:
    array = np.array(["a\udcff", "b"], object)
    assert array_of(tensor_proto(array)).tolist() == array.tolist()


def external(folder: Path, location: str = "weights.bin", length: int = 12) -> Path:
    folder.mkdir(exist_ok=True)
    weight = numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")
    proto = chain(("Add", "x w", "y", {}), weights=[weight])
    (folder / "weights.bin").write_bytes(b"skip" + weight.raw_data)
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], location, offset=4, length=length)
    proto.graph.initializer[0].ClearField("raw_data")
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_external_data_is_read_from_beside_the_model(tmp_path: Path) -> None:
    graph = import_model(external(tmp_path / "m"))
    assert [a.tolist() for a in graph.weights.values()] == [[0, 1, 2]]


def test_external_data_never_comes_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "", "a/../../secret.bin"):
        with pytest.raises(BadInput, match="outside of the model's folder"):
            import_model(external(tmp_path / "m", location))
    (tmp_path / "m" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(BadInput, match="outside of the model's folder"):
        import_model(external(tmp_path / "m", "link.bin"))


def test_external_data_that_is_missing_or_short(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file beside the model"):
        import_model(external(tmp_path, "other.bin"))
    with pytest.raises(BadInput, match="ends before the weight 'w'"):
        import_model(external(tmp_path, length=400))
    with pytest.raises(BadInput, match="give the model as a path"):
        import_model(external(tmp_path).read_bytes())


def test_unknown_operators_are_named_all_at_once_with_the_cut_that_avoids_them() -> None:
    proto = chain(("Relu", "x", "a", {}), ("Magic", "a", "b", {}), ("Neg", "a", "c", {}), ("Fly", "b c", "y", {"domain": "com.acme"}),
                  outputs=("y", "c"))
    proto.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(UnsupportedModel) as caught:
        import_model(proto)
    assert caught.value.nodes == ("n_b", "n_y")
    assert "Magic ('n_b'); com.acme.Fly ('n_y'); --outputs c,a cuts them off" in str(caught.value)
    assert [n.op for n in import_model(proto, outputs=["c", "a"]).nodes] == ["Relu", "Neg"]


MNIST = chain(("Relu", "x", "a", {}), ("Neg", "a", "y", {})).SerializeToString()


@pytest.mark.parametrize(("data", "message"), [
    (b"", "is empty"), (b"hello, this is text", "no ONNX model, or a damaged one"), (MNIST[:-7], "no ONNX model, or a damaged one"),
    (ModelProto(ir_version=8).SerializeToString(), "holds no ONNX graph"),
    (chain(("Relu", "y", "a", {}), ("Neg", "a", "y", {})), "a cycle through"),
    (chain(("Relu", "q", "y", {})), "Relu 'n_y' reads 'q', which nothing in the model makes"),
    (chain(("Relu", "x", "a", {})), "returns 'y', which nothing in it makes"),
    (chain(("Relu", "x", "y", {}), ("Neg", "x", "y", {})), "makes the value 'y' twice"),
    (chain(("MatMul", "x x", "y", {})), "MatMul 'n_y' does not fit its inputs"),
    (chain(("Relu", "x", "y", {"bogus": 1})), "Unrecognized attribute: bogus"),
    (chain(("Add", "x", "y", {})), "Add 'n_y' does not fit its inputs"),
    (chain(("Add", "x w", "y", {}), weights=[TensorProto(name="w", data_type=1, dims=[3], raw_data=b"12345678")]), "the model is damaged"),
])
def test_broken_models_are_refused_in_one_sentence(data: bytes | ModelProto, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    with pytest.raises(BadInput, match=message) as caught:
        import_model(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no file"):
        import_model(tmp_path / "no.onnx")
    with pytest.raises(BadInput, match="is a folder"):
        import_model(str(tmp_path))


@needs_models
@pytest.mark.parametrize("name", ["mnist_opset8", "logreg_wine_zipmap", "hand_keypoint_mlp"])
def test_damage_of_any_kind_is_an_error_and_never_a_crash(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, rng = model(name).read_bytes(), random.Random(5)  # noqa: S311
    refused: list[str] = []
    for turn in range(150):
        broken = bytearray(data)
        if turn % 3:
            for _ in range(turn % 5 + 1):
                broken[rng.randrange(min(len(broken), 6000))] ^= 1 << rng.randrange(8)
        else:
            broken = broken[:rng.randrange(len(broken))]
        try:
            import_model(bytes(broken))
        except EdgecError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert not [r for r in refused if "\n" in r]
    assert capfd.readouterr() == ("", "")
