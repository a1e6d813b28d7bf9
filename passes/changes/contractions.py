"""Products of matrices in their few forms: MatMul, and Gemm with stored weights and nothing else to do."""

from collections.abc import Mapping, Sequence
from math import prod

from edgec.ir.graph import Node, Value
from edgec.ir.sweep import Changes, Sweep
from passes.changes.facts import Draft, dims


def stored(edit: Sweep, value: Value | None) -> bool:
    """Whether a value is a weight, or one that is stored narrow and widened."""
    maker = edit.producer(value)
    return edit.constant(value) is not None or (
        maker is not None and maker.op in ("Cast", "DequantizeLinear") and all(edit.constant(v) is not None for v in maker.inputs))


def plain_gemm(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A Gemm whose second operand is computed, whose first is turned, or that scales is a MatMul with what else there is around it."""
    a, b, c = node.inputs[0], node.inputs[1], node.input(2)
    alpha, beta, turn_a, turn_b = (node.attrs.get(k, d) for k, d in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0)))
    if alpha == 1 and (beta == 1 or c is None) and not turn_a and stored(edit, b):
        attrs = {"transB": 1} if turn_b else {}
        return edit.remake(node, attrs=attrs) if dict(node.attrs) != attrs else None
    if a is None or b is None or dims(a) is None or dims(b) is None or (c is not None and dims(c) is None):
        return None
    draft = Draft(edit, node)
    made = draft.matmul(draft.transpose(a, (1, 0)) if turn_a else a, draft.transpose(b, (1, 0)) if turn_b else b)
    if alpha != 1:
        made = draft("Mul", made, draft.number(alpha, made))
    if c is not None and beta != 0:
        made = draft("Add", made, c if beta == 1 else draft("Mul", c, draft.number(beta, c)))
    return [made]


def matmul_of_stacks(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """A stack of right factors wants a stack of left ones that is as long: kernels walk through both."""
    a, b = node.inputs
    left, right, result = dims(a), dims(b), dims(node.output)
    if a is None or left is None or right is None or result is None or min(len(left), len(right)) < 2:  # noqa: PLR2004  matrices
        return None
    if left[:-2] == result[:-2] or prod(right[:-2]) == 1 or prod(left[:-2]) == prod(result[:-2]):
        return None
    whole = (*result[:-2], *left[-2:])
    wide = edit.node(node, "Expand", (a, edit.integers(f"{node.output.name}.stack", whole)), whole)
    return edit.remake(node, inputs=(wide, b))


def einsum_as_matmul(node: Node, edit: Sweep) -> Sequence[Value] | None:
    """An Einsum of one or two operands without dots and diagonals is sums, transposes, and one product of stacked matrices."""
    read = _terms(node.attrs["equation"])
    operands = [v for v in node.inputs if v is not None]
    if read is None or len(operands) > 2 or any(dims(v) is None for v in operands):  # noqa: PLR2004  a product has two operands
        return None
    terms, result = read
    draft, size = Draft(edit, node), {letter: d for t, v in zip(terms, operands, strict=True) for letter, d in zip(t, v.dims, strict=True)}
    if any(size[letter] != d for t, v in zip(terms, operands, strict=True) for letter, d in zip(t, v.dims, strict=True)):
        return None  # an extent of one that is broadcast
    summed: list[tuple[str, Value]] = []
    for i, (term, value) in enumerate(zip(terms, operands, strict=True)):
        others = {*result, *(letter for j, t in enumerate(terms) if j != i for letter in t)}
        gone = [a for a, letter in enumerate(term) if letter not in others]
        summed.append(("".join(t for t in term if t in others), draft.reduce("ReduceSum", value, gone, keep=False) if gone else value))
    if len(summed) == 1:
        (term, value), = summed
        return [draft.transpose(value, [term.index(letter) for letter in result])]
    return [_product(draft, summed, result, size)]


def _product(draft: Draft, operands: Sequence[tuple[str, Value]], result: str, size: Mapping[str, int]) -> Value:
    """The product of two operands as one MatMul of stacks of matrices."""
    (left, a), (right, b) = operands
    both = [t for t in left if t in right]
    stack, inner = [t for t in both if t in result], [t for t in both if t not in result]
    rows, columns = [t for t in left if t not in right], [t for t in right if t not in left]
    if not rows and not columns and not inner:
        made = draft("Mul", draft.transpose(a, [left.index(t) for t in stack]), draft.transpose(b, [right.index(t) for t in stack]))
        return draft.transpose(made, [stack.index(t) for t in result])

    def matrices(value: Value, term: str, first: Sequence[str], second: Sequence[str]) -> Value:
        order = [*stack, *first, *second]
        turned = draft.transpose(value, [term.index(t) for t in order])
        return draft.reshape(turned, (*(size[t] for t in stack), prod(size[t] for t in first), prod(size[t] for t in second)))

    order = [*stack, *rows, *columns]
    made = draft.matmul(matrices(a, left, rows, inner), matrices(b, right, inner, columns))
    return draft.transpose(draft.reshape(made, [size[t] for t in order]), [order.index(t) for t in result])


def _terms(equation: str) -> tuple[list[str], str] | None:
    """The letters of each operand and of the result; None for dots, diagonals, and letters that the result repeats."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms, letters = left.split(","), left.replace(",", "")
    result = right if arrow else "".join(sorted(t for t in set(letters) if letters.count(t) == 1))
    if "." in equation or any(len(set(t)) < len(t) for t in (*terms, result)):
        return None
    return terms, result


CHANGES: Changes = {"Gemm": (plain_gemm,), "MatMul": (matmul_of_stacks,), "Einsum": (einsum_as_matmul,)}
