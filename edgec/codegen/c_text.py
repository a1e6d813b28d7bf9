"""Names, types and templates of the C that edgec writes."""

import re
from collections.abc import Mapping
from pathlib import Path

from edgec.codegen.program import Operand, Program
from edgec.errors import EdgecError

_RUNTIME = Path(__file__).parent / "runtime"
_C_TYPES = {
    "f32": "float", "f64": "double", "bool": "uint8_t", "f16": "uint16_t", "bf16": "uint16_t",
    **{f"{s}{b}": f"{'u' * (s == 'u')}int{b}_t" for s in "iu" for b in (8, 16, 32, 64)},
}
_RESERVED = frozenset(_C_TYPES.values()) | frozenset("""
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl concept const constexpr continue decltype
    default delete do double else enum explicit export extern false float for friend goto if inline int long mutable namespace new
    noexcept not not_eq nullptr operator or or_eq private protected public register requires restrict return short signed sizeof
    static struct switch template this throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while
    xor xor_eq
    NULL arena args edgec_rt in out prepared rt size_t state weights""".split())  # noqa: SIM905 - keywords of C and C++, and names that the header uses


def identifier(text: str) -> str:
    """A C and C++ identifier that reads like `text`."""
    name = re.sub(r"_+", "_", re.sub(r"[^0-9A-Za-z]", "_", text)).strip("_") or "m"
    return f"m{name}" if name[0].isdigit() else f"{name}_" if name in _RESERVED else name


def element_bytes(dtype: str) -> int:
    """Bytes of the C type that stands for a dtype."""
    text = c_type(dtype)
    return {"float": 4, "double": 8}.get(text) or int(text.strip("uint_")) // 8


def c_type(dtype: str) -> str:
    """The C type of the elements of a port; EdgecError for types that C has not."""
    if dtype not in _C_TYPES:
        raise EdgecError(f"a model in C cannot have an input or output of type {dtype}")
    return _C_TYPES[dtype]


def address(program: Program, operand: Operand) -> str:
    """Where an operand in the CPU's memory lies."""
    buffer = program.buffers[operand.buffer]
    match buffer.region:
        case "input":
            base, offset = f"(const char*)f->in[{buffer.offset}]", operand.offset
        case "output":
            base, offset = f"(char*)f->out[{buffer.offset}]", operand.offset
        case region:
            base, offset = f"f->{region}", buffer.offset + operand.offset
    return f"{base} + {offset}" if offset else base


def comment(text: str) -> str:
    """Text that cannot end or confuse a comment."""
    return re.sub(r"[*\\\x00-\x1f]", "_", text)


def fill(template: str, values: Mapping[str, object]) -> str:
    """A file of the folder `runtime` with each @KEY@ replaced."""
    text = (_RUNTIME / template).read_text()
    known = {"ABI": (_RUNTIME / "abi.h").read_text(), **values}
    return re.sub(r"@([A-Z_]+)@", lambda m: str(known[m[1]]), text)
