"""A whole model as C99, kernels and all, for tool chains that edgec has no machine code for, or for eyes that want to see it.

    NAME.h NAME.c       what a bundle's header says, and everything that it declares
    NAME_weights.c      the weights as an array; or NAME_weights.S and NAME.weights.bin, for an assembler with .incbin
    main.c              the least that runs it

The kernels are made from the same plans as a bundle's, for a core without vectors, and each is a static function.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgec.codegen import c_source, weights
from edgec.codegen.bundle import program_identity
from edgec.codegen.object import LIBM
from edgec.codegen.program import Program

ARRAY_BYTES = 1 << 20
"""Weights beyond this are assembled unless told otherwise: a compiler takes four seconds for a megabyte of numbers."""
_TYPES = {"f32": "float", "f64": "double", "i16": "int16_t", "u16": "uint16_t",
          "i32": "int32_t", "u32": "uint32_t", "i64": "int64_t", "u64": "uint64_t"}
_MATH = {*LIBM, "INFINITY", "NAN", "isnan"}
_ROW = 24


def files(
    program: Program, tensors: Mapping[int, weights.Data], kernels: Mapping[str, str], target: str, *, array: bool,
) -> dict[str, bytes]:
    """The files by name. `kernels` holds the C of each kernel by its key in the program; `array` puts the weights into C, too."""
    name = c_source.identifier(program.name)
    identity = program_identity(program, {key: text.encode() for key, text in kernels.items()})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        weights.write(path, program, tensors, identity)
        data = path.read_bytes()
    main = c_source.main(program, identity, "", (), _kernels(program, kernels))
    made = {f"{name}.h": c_source.header(program, target).encode(), f"{name}.c": main.encode(),
            "main.c": c_source.example(program, hosted=False).encode()}
    if array:
        return made | {f"{name}_weights.c": "".join(_array(name, data)).encode()}
    return made | {f"{name}.weights.bin": data, f"{name}_weights.S": weights.assembler(name).encode()}


def _kernels(program: Program, kernels: Mapping[str, str]) -> str:
    """Every kernel behind what it needs."""
    origins = {s.kernel: c_source.comment(s.origin) for s in reversed((*program.prepare, *program.calls))}
    parts = []
    for key in sorted(origins):
        kernel = program.kernels[key]
        head = f"/* {kernel.algo}: {origins[key]} */\n"
        parts.append(head + kernels[key].replace(f" {kernel.symbol}(", f" {c_source.kernel_name(program, key)}(", 1))
    text = "\n\n".join(parts)
    half = c_source.fill("half.c", {}) if re.search(r"\bf(16_of_f32|32_of_f16)\(", text) else ""
    includes = "#include <math.h>\n\n" if _MATH & set(re.findall(r"\w+", text)) else ""
    return "\n".join([includes, *_bits(half + text), *_words(text), half, text]).lstrip("\n")


def _bits(text: str) -> Iterable[str]:
    """Functions that take the bits of a number for those of another, as far as a text calls them."""
    for to, source in sorted(set(re.findall(r"\b([fiu]\d+)_of_([fiu]\d+)_bits\(", text))):
        yield (f"static inline {_TYPES[to]} {to}_of_{source}_bits({_TYPES[source]} from) {{\n"
               f"  union {{ {_TYPES[source]} from; {_TYPES[to]} to; }} bits;\n  bits.from = from;\n  return bits.to;\n}}\n")


def _words(text: str) -> Iterable[str]:
    """Functions that take some neighboring bytes for one number, the lowest first, as far as a text calls them."""
    for kind in sorted(set(re.findall(r"\b([iu]\d+)_at\(", text))):
        wide = _TYPES[f"u{kind[1:]}"]
        parts = " | ".join(f"({wide})b[{i}] << {8 * i}" if i else f"({wide})b[0]" for i in range(int(kind[1:]) // 8))
        yield (f"static inline {_TYPES[kind]} {kind}_at(const void* p) {{\n  const uint8_t* b = p;\n"
               f"  return ({_TYPES[kind]})({parts});\n}}\n")


def _array(name: str, data: bytes) -> Iterable[str]:
    yield (f"/* SPDX-License-Identifier: 0BSD. The weights of {name}, with the header that the code looks at. */\n"
           f'#include "{name}.h"\n\n__attribute__((aligned({name}_ALIGNMENT))) const unsigned char {name}_weights[] = {{\n')
    for i in range(0, len(data), _ROW):
        yield f"  {','.join(map(str, data[i:i + _ROW]))},\n"
    yield "};\n"
