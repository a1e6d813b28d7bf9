"""Dims are canonical: equal expressions are one object, they print as they parse, and they compute as integers do."""

import pickle
import random

import pytest

from edgec.ir.dims import Dim, Sym, at_least, bind, ceildiv, evaluate, maximum, minimum, parse_dim, symbol, symbols

H, W, N = symbol("H"), symbol("W"), symbol("N")


@pytest.mark.parametrize(("dim", "text"), [
    (H, "H"),
    (H + 1 - H, "1"),
    ((H + 1) // 2, "(H+1)//2"),
    (ceildiv(H, 2), "(H+1)//2"),
    (ceildiv(ceildiv(H, 2), 2), "(H+3)//4"),
    (2 * H // 2, "H"),
    ((2 * H + 1) // 4, "H//2"),
    ((4 * H + W + 6) // 4, "H+(W+2)//4+1"),
    ((H + 1) // 2 * 2, "2*((H+1)//2)"),
    (H * W // 2 // W, "H//2"),
    ((N * H * W) // (N * W), "H"),
    (N * 12 * H // (N * 4), "3*H"),
    (-(H - W), "W-H"),
    (1 - H, "-H+1"),
    (maximum(H, 0), "H"),
    (maximum(H - 1, 0), "H-1"),
    (maximum(H, 2 * ((H - 1) // 2) + 1), "H"),
    (maximum(H, W, 3), "max(H,W,3)"),
    (minimum(H + 2, H), "H"),
    (maximum(H - 3, 0), "max(H-3,0)"),
    (symbol("p2o.0") + 1, "'p2o.0'+1"),
    (symbol("if"), "'if'"),
    (12 // H, "12//H"),
    (0 * H, "0"),
])
def test_expressions_print_in_one_form_and_parse_back_to_the_same_object(dim: Dim, text: str) -> None:
    assert str(dim) == text
    assert parse_dim(text) == dim
    assert type(parse_dim(text)) is type(dim)


def test_equal_expressions_are_one_object() -> None:
    assert (H + W) * (H - W) is H * H - W * W
    assert pickle.loads(pickle.dumps((H + 1) // 2)) is (H + 1) // 2  # noqa: S301


def test_random_expressions_compute_as_integers_do() -> None:
    rng = random.Random(7)  # noqa: S311
    for _ in range(2000):
        values = {"H": rng.randint(1, 40), "W": rng.randint(1, 40), "N": rng.randint(1, 4)}
        starts: list[Dim] = [H, W, N, 1, 5]
        dim = rng.choice(starts)
        want = evaluate(dim, values)
        for _ in range(rng.randint(1, 6)):
            choices: list[Dim] = [H, W, N, H + 3, rng.randint(-6, 6)]
            other = rng.choice(choices)
            number = evaluate(other, values)
            match rng.randrange(6):
                case 0:
                    dim, want = dim + other, want + number
                case 1:
                    dim, want = dim - other, want - number
                case 2:
                    dim, want = dim * other, want * number
                case 3 if number:
                    dim, want = dim // other, want // number
                case 4:
                    dim, want = maximum(dim, other), max(want, number)
                case 5:
                    dim, want = minimum(other, dim), min(want, number)
        assert evaluate(dim, values) == want, (dim, values)
        assert evaluate(parse_dim(str(dim)), values) == want
        if at_least(dim, 1):
            assert want >= 1


def test_binding_leaves_the_other_symbols() -> None:
    assert bind((H + W) // 2, {"H": 4}) == W // 2 + 2
    assert symbols(maximum(H, W) // N) == {"H", "W", "N"}
    with pytest.raises(KeyError, match="W"):
        evaluate(H + W, {"H": 1})


@pytest.mark.parametrize("text", ["", "H+", "H/2", "f(H)", "1.5", "H if W else N", "max(H)", "H//0", "True", "''"])
def test_what_is_no_dimension_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no dimension|needs a name"):
        parse_dim(text)


def test_a_sym_is_never_a_number() -> None:
    assert isinstance(H + 1, Sym)
    assert not isinstance(H - H, Sym)
