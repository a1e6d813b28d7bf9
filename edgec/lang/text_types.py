"""Types as text: `i8<0.02:-3>[1,64,(H+1)//2,?]/NHWC`, `seq(f32[?])`, `map(i64, f32)`."""

import json
import re
from functools import lru_cache

from edgec.ir.dims import Dim, parse_dim
from edgec.ir.layout import Layout
from edgec.ir.types import DTYPES, Map, Optional, Quant, Sequence, Tensor, Type

WORD = re.compile(r"[A-Za-z_][\w.]*\Z")
_PARTS = re.compile(r"(?P<dtype>\w+)(?:<(?P<quant>[^>]*)>)?(?P<shape>\[.*\])?(?:/(?P<layout>[\w+-]*))?\Z")
_QUANT = re.compile(r"(?P<scale>[^:@/]*)(?::(?P<zero>[^@/]*))?(?:@(?P<axis>-?\d+))?(?:/(?P<block>\d+))?\Z")
_NUMBERED = re.compile(r"(?P<order>(?:\d+(?:-\d+)*)?)(?P<blocks>(?:\+\d+x\d+)*)\Z")
_LETTERED = re.compile(r"(?P<order>[A-Z]+)(?P<blocks>(?:\d+[a-z])*)\Z")
_LETTERS = {3: "NCW", 4: "NCHW", 5: "NCDHW"}


@lru_cache(4096)
def show_type(kind: Type) -> str:
    """The text of a type, which `parse_type` reads back as the same type."""
    match kind:
        case Sequence():
            return f"seq({show_type(kind.element)})"
        case Optional():
            return f"optional({show_type(kind.element)})"
        case Map():
            return f"map({kind.key}, {show_type(kind.value)})"
    shape = "" if kind.shape is None else "[" + ",".join("?" if d is None else str(d) for d in kind.shape) + "]"
    return kind.dtype + _show_quant(kind.quant) + shape + (f"/{kind.layout.name}" if kind.layout else "")


def _show_quant(quant: Quant | None) -> str:
    """`<0.02:-3>`, `<0.1,0.2:0,3@1>` along axis 1, `<0.1,0.2@1/32>` in blocks of 32; a lone zero point of 0 is left out."""
    if quant is None:
        return ""
    zero = "" if quant.zero == (0,) else ":" + ",".join(str(int(z)) for z in quant.zero)
    axis = "" if quant.axis is None else f"@{quant.axis}"
    return f"<{','.join(repr(float(s)) for s in quant.scale)}{zero}{axis}{f'/{quant.block}' if quant.block else ''}>"


@lru_cache(4096)
def read_tensor(text: str) -> Tensor:
    """The tensor type of a text; ValueError says what is wrong with it."""
    parts = _PARTS.match(text)
    if parts is None:
        raise ValueError(f"{text!r} is no type: write one such as f32[1,3,?]/NHWC")
    dtype = dtype_of(parts["dtype"])
    shape = None if parts["shape"] is None else tuple(map(_dim, _split(parts["shape"][1:-1])))
    layout = None if parts["layout"] is None else read_layout(parts["layout"])
    if layout and shape is not None and len(layout.order) != len(shape):
        raise ValueError(f"the layout /{parts['layout']} has {len(layout.order)} axes, the shape has {len(shape)}")
    return Tensor(dtype, shape, layout, None if parts["quant"] is None else _read_quant(parts["quant"]))


def dtype_of(name: str) -> str:
    """The name itself when it is an element type; ValueError otherwise."""
    if name not in DTYPES:
        raise ValueError(f"there is no element type {name}; there are {', '.join(DTYPES)}")
    return name


def _dim(text: str) -> Dim | None:
    return None if text.strip() == "?" else parse_dim(text)


def _split(text: str) -> list[str]:
    """The dims of a shape: split at commas that stand neither in parentheses nor in quotes."""
    parts, depth, start = list[str](), 0, 0
    for piece in re.finditer(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[(),]", text):
        depth += (piece[0] == "(") - (piece[0] == ")")
        if piece[0] == "," and not depth:
            parts.append(text[start:piece.start()])
            start = piece.end()
    return [*parts, text[start:]] if parts or text.strip() else []


def _read_quant(text: str) -> Quant:
    parts = _QUANT.match(text)
    try:
        if parts:
            scale = tuple(map(float, filter(str.strip, parts["scale"].split(","))))
            zero = (0,) if parts["zero"] is None else tuple(map(int, filter(str.strip, parts["zero"].split(","))))
            return Quant(scale, zero, None if parts["axis"] is None else int(parts["axis"]), int(parts["block"] or 0))
    except ValueError:
        pass
    raise ValueError(f"<{text}> is no quantization: write <scale:zero>, or <scales:zeros@axis/block>")


def read_layout(name: str) -> Layout:
    """The layout of a name such as NHWC, NCHW16c or 0-2-1+1x16; ValueError when there is none of that name."""
    wrong = ValueError(f"there is no layout {name!r}: write NHWC, NCHW16c, or axes and blocks such as 0-2-1+1x16")
    if parts := _LETTERED.match(name):
        letters = _LETTERS.get(len(parts["order"]), "")
        if sorted(letters) != sorted(parts["order"]):
            raise wrong
        blocks = re.findall(r"(\d+)([a-z])", parts["blocks"])
        if not all(letter.upper() in letters for _, letter in blocks):
            raise wrong
        made = Layout(tuple(map(letters.index, parts["order"])), tuple((letters.index(x.upper()), int(n)) for n, x in blocks))
    elif parts := _NUMBERED.match(name):
        order = tuple(map(int, filter(None, parts["order"].split("-"))))
        made = Layout(order, tuple((int(a), int(n)) for a, n in re.findall(r"\+(\d+)x(\d+)", parts["blocks"])))
    else:
        raise wrong
    axes = [a for a, _ in made.blocks]
    if sorted(made.order) != list(range(len(made.order))) or not set(axes) <= set(made.order) or not all(n > 0 for _, n in made.blocks):
        raise wrong
    return made


def word(text: str) -> str:
    """A name as it stands in the text: plain when it can be, else in quotes."""
    return text if WORD.match(text) else quoted(text)


def quoted(text: str) -> str:
    """A string in quotes on one line, with escapes for what does not print."""
    return json.dumps(text, ensure_ascii=not text.isprintable())
