"""Quantized operators of ONNX in TFLite's: what each becomes, or why it cannot be said there."""

from collections.abc import Callable, Mapping

from edgec.ir.graph import Node, Value
from edgec.ir.types import Quant
from passes.changes.qdq import Quantized
from passes.changes.tflite import IMAGE, Body, Refused
from passes.changes.tflite_windows import WINDOWS
from passes.changes.tflite_work import IMAGE_RANK, Work, last, padded

_PROBABILITY, _TANH = Quant((1 / 256,), (-128,)), Quant((1 / 128,), (0,))


def _elementwise(op: str) -> Callable[[Work], None]:
    def write(work: Work) -> None:
        rank = len(work.dims)
        both = [work.operand(0), work.operand(1)]
        image = rank == IMAGE_RANK and work.body.is_image(*(q for q in both if q.stored.tensor.rank == rank))
        operands = [_spread(work, q, rank, image=image) for q in both]
        made = work.emit(op, operands, last(work.dims) if image else work.dims, activation=work.activation())
        work.done(made, image=image)

    return write


def _spread(work: Work, operand: Quantized, rank: int, *, image: bool) -> Value:
    """An operand of an elementwise operator, with as many axes as the result."""
    if operand.array is not None:
        return work.body.constant(operand, rank, image=image)
    dims = operand.stored.dims
    if len(dims) == rank:
        return (work.body.image if image else work.body.plain)(operand.stored, operand.quant)
    x = work.body.reshaped(work.body.plain(operand.stored, operand.quant), (1,) * (rank - len(dims)) + dims)
    return work.body.transposed(x, IMAGE) if image else x


def _same(work: Work) -> tuple[Value, bool]:
    """The first operand, in whichever order of axes it is there."""
    operand = work.computed(0)
    image = len(operand.stored.dims) == IMAGE_RANK and work.body.is_image(operand)
    return (work.image() if image else work.plain()), image


def _bounded(work: Work) -> None:
    """Relu or Clip by itself."""
    kind = work.activation(work.anchor)
    x, image = _same(work)
    work.done(x if kind == "NONE" else work.emit("Relu", (x,), x.dims, activation=kind), image=image)


def _table(op: str, fixed: Quant | None) -> Callable[[Work], None]:
    """A function of one byte; `fixed` is the scale that TFLite wants of its result."""
    def write(work: Work) -> None:
        x, image = _same(work)
        work.done(work.emit(op, (x,), x.dims, fixed), image=image)

    return write


def _softmax(work: Work) -> None:
    rank = len(work.dims)
    axis = int(work.attrs.get("axis", -1)) % rank
    image = rank == IMAGE_RANK and axis == 1
    if not image and axis != rank - 1:
        raise Refused(f"a softmax along axis {axis} of {rank}; TFLite's is along the last")
    x = work.image() if image else work.plain()
    work.done(work.emit("Softmax", (x,), x.dims, _PROBABILITY, beta=1.0), image=image)


def _concat(work: Work) -> None:
    rank = len(work.dims)
    axis = int(work.attrs["axis"]) % rank
    operands = [work.computed(i) for i in range(len(work.group.inputs))]
    image = rank == IMAGE_RANK and work.body.is_image(*operands)
    parts = [(work.body.image if image else work.body.plain)(q.stored, q.quant) for q in operands]
    parts = [work.body.quantized(p, work.result, p.name) for p in parts]
    made = work.emit("Concat", parts, last(work.dims) if image else work.dims, axis=IMAGE.index(axis) if image else axis)
    work.done(made, image=image)


def _pad(work: Work) -> None:
    pads, value, axes = work.constant(1), work.group.inputs[2] if len(work.group.inputs) > 2 else None, work.constant(3)  # noqa: PLR2004
    rank = len(work.dims)
    fill = work.constant(2) if value is None else None
    if pads is None or work.attrs.get("mode", "constant") != "constant" or (pads < 0).any() or axes is not None or rank > IMAGE_RANK:
        raise Refused("a pad that is not a border of constants")
    if (fill is not None and fill.any()) or (value is not None and (value.array is None or (value.array != value.zero).any())):
        raise Refused("a border that is not zero")
    x, image = _same(work)
    pairs = [(int(pads[i]), int(pads[rank + i])) for i in range(rank)]
    made = padded(work.body, x, [pairs[i] for i in IMAGE] if image else pairs, work.output.stored.name)
    if image and made.tensor.quant == work.result and pairs[:2] == [(0, 0), (0, 0)]:
        work.body.pads[work.output.stored] = work.computed(0).stored, tuple(pairs[2:])
    work.done(made, image=image)


def _moved(work: Work) -> None:
    """Elements in another shape or order."""
    source = work.computed(0)
    move(work.body, work.anchor, source.stored, source.quant, work.output.stored)
    for image in (False, True):
        if (work.output.stored, image) in work.body.forms:
            work.done(work.body.forms[work.output.stored, image], image=image)


def move(body: Body, node: Node, source: Value, quant: Quant, result: Value) -> None:
    """A Transpose, or another shape, of a tensor whatever its elements stand for."""
    if node.op != "Transpose":
        body.put(result, body.reshaped(body.plain(source, quant), result.dims), image=False)
        return
    order = [int(i) for i in node.attrs.get("perm") or reversed(range(len(result.dims)))]
    if order == [0, 2, 3, 1]:
        body.put(result, body.image(source, quant), image=False)
    elif order == [0, 3, 1, 2]:
        body.put(result, body.plain(source, quant), image=True)
    else:
        body.put(result, body.transposed(body.plain(source, quant), order), image=False)


MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""What moves elements, quantized or not."""
OPERATORS: Mapping[str, Callable[[Work], None]] = {
    **WINDOWS, "Add": _elementwise("Add"), "Sub": _elementwise("Sub"), "Mul": _elementwise("Mul"),
    "Relu": _bounded, "Clip": _bounded, "Sigmoid": _table("Logistic", _PROBABILITY), "Tanh": _table("Tanh", _TANH),
    "HardSwish": _table("HardSwish", None), "Softmax": _softmax, "Concat": _concat, "Pad": _pad,
    **dict.fromkeys(sorted(MOVES), _moved),
}


def write(work: Work) -> None:
    """Write a group; Refused says why that cannot be done."""
    operator = OPERATORS.get(work.anchor.op)
    if operator is None:
        raise Refused(f"TFLite has no {work.anchor.op} that an int8 unit runs")
    if work.group.activation is not None and work.anchor.op not in ("Conv", "Gemm", "MatMul", "Add", "Sub", "Mul"):
        raise Refused(f"{work.group.activation.op} behind {work.anchor.op}")
    operator(work)


__all__ = ["MOVES", "OPERATORS", "Work", "move", "write"]
