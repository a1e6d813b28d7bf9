"""The file of weights: a 64-byte header, then tensors at multiples of 64 bytes, fit to be mapped into memory as it is.

    bytes  0..7    EDGECWTS
    bytes  8..11   format, 1
    bytes 12..15   zero
    bytes 16..23   bytes after the header
    bytes 24..39   id of the program that reads them: where each tensor lies
    bytes 40..55   id of the values: of the bytes after the header
    bytes 56..63   zero

All numbers are little-endian. Code checks bytes 0..39, so weights can change without the code.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgec.codegen.program import Program
from edgec.errors import EdgecError

FORMAT, HEADER_BYTES, CHECKED_BYTES = 1, 64, 40
LARGE_PAGE = 2 << 20
"""Bytes of a large page of x86-64, and of aarch64 with pages of 4 KiB."""
Data = bytes | bytearray | memoryview


def checked_header(program: Program, identity: bytes) -> bytes:
    """The part of the header that the code compares: it depends on the program and not on the values."""
    return b"EDGECWTS" + FORMAT.to_bytes(4, "little") + bytes(4) + program.weights_bytes.to_bytes(8, "little") + identity[:16]


def write(path: Path, program: Program, weights: Mapping[int, Data], identity: bytes) -> None:
    """Write the file. EdgecError when the tensors are not what the program's buffers say."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for piece in _pieces(program, weights):
            digest.update(piece)
            file.write(piece)
        file.seek(0)
        file.write(checked_header(program, identity) + digest.digest()[:16] + bytes(8))


def _pieces(program: Program, weights: Mapping[int, Data]) -> Iterator[Data]:
    """The bytes after the header, gaps filled with zeros."""
    at = 0
    wanted = sorted((b.offset, i) for i, b in enumerate(program.buffers) if b.region == "weights")
    for offset, i in wanted:
        buffer = program.buffers[i]
        data = memoryview(weights.get(i, b"")).cast("B")
        if len(data) != buffer.bytes or offset < at:
            raise EdgecError(f"the weights {buffer.name} have {len(data)} bytes for {buffer.bytes} at {offset}, and others end at {at}")
        yield bytes(offset - at)
        yield data
        at = offset + len(data)
    if at > program.weights_bytes:
        raise EdgecError(f"the weights end at {at}, behind the {program.weights_bytes} bytes that the program says")
    yield bytes(program.weights_bytes - at)


def assembler(name: str, codes: Mapping[str, str] | None = None, *, large_pages: bool = False) -> str:
    """Source of an object that holds the file of weights as NAME_weights, and files of code as symbols of their own, ended by a zero.

    With `large_pages` the weights begin where a large page can, so that a system that keeps files in such pages maps them as they are.
    """
    held = "".join(f"""    .section .rodata.{symbol},"a"
    .balign 64
    .globl {symbol}
{symbol}:
    .incbin "{file}"
    .globl {symbol}_end
{symbol}_end:
    .byte 0
""" for symbol, file in (codes or {}).items())
    return f"""/* SPDX-License-Identifier: 0BSD. Puts the weights into the program: assemble this beside {name}.weights.bin. */
    .section .rodata.{name}_weights,"a"
    .balign {LARGE_PAGE if large_pages else HEADER_BYTES}
    .globl {name}_weights
{name}_weights:
    .incbin "{name}.weights.bin"
{held}    .section .note.GNU-stack,"",%progbits
"""


def is_aligned(program: Program) -> bool:
    """Whether every tensor lies at a multiple of 64 bytes, as a mapped file needs."""
    return all(b.offset % HEADER_BYTES == 0 for b in program.buffers if b.region == "weights")


