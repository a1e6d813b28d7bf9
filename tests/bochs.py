"""Run programs on x86-64 processors that this machine is not: in Bochs, an emulator of a whole PC, without an operating system.

A PC of ours has no BIOS, either: its ROM (programs/bochs_rom.S) starts in microseconds. The program sees the memory that it was given,
page by page, and an access elsewhere is an exception.
"""

import os
import platform
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from tests.scratch import scratch

PROCESSORS: Mapping[str, str] = {
    "x86-64-v3": "corei7_haswell_4770", "x86-64-v4": "corei7_skylake_x", "cascadelake": "corei7_icelake_u",
    "icelake-client": "corei7_icelake_u", "sapphirerapids": "tigerlake", "znver4": "tigerlake"}
"""What stands for a processor of LLVM's in Bochs 2.7."""
VNNI = {"+avx512vnni", "+avx512vbmi"}
"""Features that x86-64-v4 lacks and Ice Lake has."""
AVX_VNNI = "+avxvnni"
"""VPDPBUSD without AVX-512: Bochs knows it in the other encoding only, see `assemble`."""
_OTHERS = re.compile(r"^\s*(?:\{vex\}|vpinsrb\s.*\(|vpextrw\s.*\()", re.MULTILINE)
_MISREAD = re.compile(r"\s62 (?:[0-9a-f]{2} ){7,8}\s*(vpinsrb|vpextrw) .*\(")
"""Instructions with a short distance in EVEX, which Bochs 2.7 multiplies by another number than processors do. It does so with these
two of 436 forms that were tried."""
PROGRAMS = Path(__file__).resolve().parent / "programs"
PAGE, SECTOR, CYLINDER = 4096, 512, 16 * 63 * 512
HEADER, TABLES, CODE = 0x100000, 0x101000, 0x400000
ROM, STACK = (0xF0000, 0x10000), 1 << 20
PRESENT, WRITABLE = 1, 2
TOP = 1 << 30
EXCEPTIONS = {0: "division by zero", 6: "an instruction that this processor lacks", 13: "general protection", 14: "page fault",
              19: "floating-point exception"}
LIMIT = 300  # seconds

_CONFIGURATION = """\
cpu: model={processor}, count=1, ips=100000000, reset_on_triple_fault=0
megs: {megabytes}
romimage: file={rom}
ata0-master: type=disk, path={disk}, mode=flat
display_library: term
config_interface: textconfig
port_e9_hack: enabled=1
sound: waveoutdrv=dummy, waveindrv=dummy
log: {log}
panic: action=fatal
"""


class Crash(AssertionError):
    """What a program under Bochs raised instead of coming back."""


@dataclass(frozen=True)
class Block:
    """Bytes of memory that end where a page begins that is not there, or (`low`) begin where one ends. Only what is `out` comes back."""

    data: bytes
    use: Literal["in", "work", "out"] = "in"
    low: bool = False


def missing(mcpu: str, mattr: Sequence[str] = ()) -> str | None:
    """Why Bochs cannot run programs for a processor here, or None."""
    if platform.machine() != "x86_64":
        return "the programs for Bochs are linked with the host's libraries, and those are not for x86-64"
    if processor(mcpu, mattr) is None:
        return f"Bochs has no {' '.join([mcpu, *mattr])}"
    if not any(Path("/usr/lib").glob("*/bochs/plugins/libbx_term_gui.so")):
        return "bochs-term is not installed"
    return next((f"{tool} is not installed" for tool in ("bochs-bin", "gcc", "ld", "objdump") if not shutil.which(tool)), None)


def link(folder: Path, sources: Sequence[str | Path], name: str = "bochs") -> Path:
    """A program of C sources and objects, of which one defines `program` (programs/bochs_start.c); subprocess.CalledProcessError."""
    made = folder / name
    words = ["-static", "-no-pie", "-fno-pie", "-fno-stack-protector", "-O1", "-w",
             f"-Wl,-e,begin,-Ttext-segment={CODE:#x},-z,noseparate-code,--build-id=none"]
    subprocess.run(["gcc", *words, "-o", made, *sources, PROGRAMS / "bochs_start.c", "-lm"], check=True, cwd=folder)
    return made


def assemble(source: Path) -> None:
    """Make the object beside what LLVM wrote anew where Bochs would not understand it, with the same instructions in other encodings.

    Those of AVX-VNNI become those of AVX-512, which compute the same; distances that Bochs gets wrong become long ones.
    """
    text = source.read_text(encoding="utf8")
    if _OTHERS.search(text):
        text = re.sub(r"^\s*(vpinsrb|vpextrw)\b", r"{disp32} \1", text.replace("{vex}", ""), flags=re.MULTILINE)
        text = re.sub(r"^\s*\.(file|loc)\s.*", "", text, flags=re.MULTILINE)      # LLVM and gas disagree on how these are written
        source.write_text(text, encoding="utf8")
        subprocess.run(["gcc", "-c", "-o", source.with_suffix(".o"), source], check=True)


def misread(program: Path) -> str | None:
    """An instruction of a program that Bochs gets wrong, or None."""
    listed = subprocess.run(["objdump", "-d", "--insn-width=15", program], capture_output=True, text=True, check=True).stdout
    return found[1] if (found := _MISREAD.search(listed)) else None


def processor(mcpu: str, mattr: Sequence[str] = ()) -> str | None:
    """A processor in Bochs' words, by its name and its features in LLVM's; None when Bochs has none."""
    found = PROCESSORS.get(mcpu)
    if found and mattr:
        added = VNNI if mcpu == "x86-64-v4" else {AVX_VNNI} if mcpu == "x86-64-v3" else set[str]()
        found = PROCESSORS["icelake-client"] if added.issuperset(mattr) else None
    return found


def run(program: Path, model: str, numbers: Sequence[int], blocks: Sequence[Block]) -> list[bytes]:
    """Call a program with numbers and the addresses of blocks behind them; what the blocks of use "out" then hold, in their order.

    Crash when it raises an exception of the processor, or does not end within LIMIT seconds.
    """
    with tempfile.TemporaryDirectory(dir=scratch("bochs")) as name:
        folder = Path(name)
        entry, segments = _segments(program.read_bytes())
        memory = _Memory()
        for segment in segments:
            memory.map(*segment)
        addresses = [memory.add(b) for b in blocks]
        stack = memory.add(Block(bytes(STACK), "work"))
        words = memory.add(Block(np.array([*numbers, *addresses], "<i8").tobytes()))
        back = [(address, len(b.data)) for address, b in zip(addresses, blocks, strict=True) if b.use == "out"]
        memory.write(folder / "disk", (entry, words, TABLES, stack + STACK), back)
        said = _start(folder, model, memory.top)
        if said != "done":
            vector = re.match(r"exception (\w+)", said)
            what = EXCEPTIONS.get(int(vector[1], 16), "") if vector else ""
            raise Crash(f"a program under Bochs as {model} did not come back: {what} ({said})")
        with (folder / "disk").open("rb") as disk:
            return [os.pread(disk.fileno(), size, address) for address, size in back]


def _start(folder: Path, model: str, top: int) -> str:
    """What the PC printed on port 0xE9, or what Bochs says of a PC that stopped."""
    (folder / "pc").write_text(_CONFIGURATION.format(
        processor=model, megabytes=max(32, -(-top // (1 << 20)) + 1), rom=_rom(), disk=folder / "disk", log=folder / "log"))
    (folder / "go").write_text("c\n")  # Debian's Bochs has a debugger, which waits for a word
    try:
        subprocess.run(["bochs-bin", "-q", "-f", folder / "pc", "-rc", folder / "go"], stdin=subprocess.DEVNULL, check=False, timeout=LIMIT,
                       env={**os.environ, "TERM": "dumb"}, stdout=(folder / "out").open("wb"), stderr=(folder / "err").open("wb"))
    except subprocess.TimeoutExpired:
        raise Crash(f"a program under Bochs as {model} did not end within {LIMIT} s") from None
    out, err = ((folder / name).read_text(errors="replace") for name in ("out", "err"))
    said = re.search(r"<<(.*)>>", out) or re.search(r"following message:\s*(.*)", err)
    return said[1] if said else f"Bochs stopped: {err.strip()[-1000:]}"


class _Memory:
    """Physical memory, mapped where it is; nothing else is there."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, bytes]] = []
        self._pages = np.zeros(TOP // PAGE, "<u8")
        self.top = 0
        self._flags(HEADER, PAGE, PRESENT)
        self._flags(*ROM, PRESENT)

    def add(self, block: Block) -> int:
        """The address of a new block."""
        begin, room = (-(-self.top // PAGE) + 1) * PAGE, -(-max(len(block.data), 1) // PAGE) * PAGE
        address = begin if block.low else begin + room - len(block.data)
        flags = WRITABLE * (block.use != "in")
        self._flags(begin, room, flags)
        self.map(address, block.data, flags)
        self.top = begin + room
        return address

    def map(self, address: int, data: bytes, flags: int) -> None:
        self._parts.append((address, data))
        self._flags(address, len(data), flags)
        self.top = max(self.top, address + len(data))

    def _flags(self, address: int, size: int, flags: int) -> None:
        pages = slice(address // PAGE, -(-(address + size) // PAGE))
        self._pages[pages] = np.arange(pages.start, pages.stop, dtype=np.uint64) * PAGE | PRESENT | flags

    def write(self, disk: Path, words: Sequence[int], back: Sequence[tuple[int, int]]) -> None:
        """The disk: the memory, and in it the header and the page tables."""
        first = self._pages[:(-(-self.top // (512 * PAGE)) + 1) * 512]
        upper = np.zeros((3, 512), "<u8")
        upper[0, 0], upper[1, 0] = (TABLES + PAGE * (i + 1) | PRESENT | WRITABLE for i in range(2))
        count = len(first) // 512
        upper[2, :count] = TABLES + PAGE * (3 + np.arange(count, dtype=np.uint64)) | PRESENT | WRITABLE
        parts = [*self._parts, (TABLES, upper.tobytes() + first.tobytes())]
        pairs = [[v for address, size in each if size for v in (address // SECTOR, -(-(address + size) // SECTOR) - address // SECTOR)]
                 for each in ([(a, len(d)) for a, d in parts], back)]
        header = np.array([*words, *pairs[0], 0, 0, *pairs[1], 0, 0], "<u8").tobytes()
        assert len(header) <= 4 * SECTOR, "too many blocks"
        with disk.open("wb") as file:
            for address, data in [*parts, (HEADER, header)]:
                os.pwrite(file.fileno(), data, address)
            file.truncate(-(-(self.top + PAGE) // CYLINDER) * CYLINDER)


def _segments(elf: bytes) -> tuple[int, list[tuple[int, bytes, int]]]:
    """Where a program begins, and what is loaded of it: (address, bytes, WRITABLE or 0)."""
    entry, table = struct.unpack_from("<QQ", elf, 24)
    size, count = struct.unpack_from("<HH", elf, 54)
    found = []
    for i in range(count):
        kind, flags, offset, address, _, stored, held = struct.unpack_from("<IIQQQQQ", elf, table + i * size)
        if kind == 1 and held:
            found.append((address, elf[offset : offset + stored] + bytes(held - stored), flags & WRITABLE))
    return entry, found


@cache
def _rom() -> Path:
    folder = Path(tempfile.mkdtemp(dir=scratch("bochs")))
    subprocess.run(["gcc", "-c", "-o", folder / "rom.o", PROGRAMS / "bochs_rom.S"], check=True)
    subprocess.run(["ld", "-Ttext=0", "--oformat", "binary", "-e", "0", "-o", folder / "rom", folder / "rom.o"], check=True)
    return folder / "rom"
