"""Relocatable ELF files without binutils: read, look at symbols, merge several into one that exports only what it should.

What a merged file leaves out, on purpose: debug information, unwind tables, comments and notes (they differ between
machines and compilers, and no kernel can be unwound through), and every function that nothing reaches.
"""

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgec.errors import EdgecError

_PROGBITS, _SYMTAB, _STRTAB, _RELA, _NOBITS, _REL, _SYMTAB_SHNDX, _GROUP = 1, 2, 3, 4, 8, 9, 18, 17
_ATTRIBUTES = 0x70000003  # of ARM and of RISC-V alike
_ALLOC, _INFO_LINK, _LINK_ORDER, _IN_GROUP, _EXCLUDE = 0x2, 0x40, 0x80, 0x200, 0x80000000
_UNDEFINED, _ABSOLUTE, _LAST_PLAIN = 0, 0xFFF1, 0xFF00
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_SECTION, _FILE = 3, 4
_ARM, _ARM_FLOAT_ABI = 40, 0x600
_DROPPED = (".debug", ".comment", ".note", ".eh_frame", ".llvm", ".ARM.exidx", ".ARM.extab", ".zdebug")


@dataclass(frozen=True)
class Relocation:
    """One place in a section that the linker fills in; `symbol` is an index into the file's symbols, -1 for none."""

    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True)
class Section:
    """A named piece of code or data with the relocations that apply to it."""

    name: str
    type: int
    flags: int
    align: int
    entry: int
    size: int
    data: bytes
    relocations: tuple[Relocation, ...] = ()
    explicit_addends: bool = True


@dataclass(frozen=True)
class Symbol:
    """A name for a place; `section` is an index into the file's sections, None when undefined, -1 when absolute."""

    name: str
    section: int | None
    value: int = 0
    size: int = 0
    binding: int = _GLOBAL
    type: int = 0
    visibility: int = 0

    @property
    def is_public(self) -> bool:
        """Whether other files can refer to this definition."""
        return self.section is not None and self.binding != _LOCAL

    @property
    def is_undefined(self) -> bool:
        """Whether another file must define it."""
        return self.section is None


@dataclass(frozen=True)
class Elf:
    """A relocatable file. `kind` is what two files must share to be merged: class, byte order, ABI, machine, flags."""

    kind: tuple[int, int, int, int, int]
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    @property
    def exports(self) -> tuple[str, ...]:
        """The names it defines for others, in the file's order."""
        return tuple(s.name for s in self.symbols if s.is_public)

    @property
    def imports(self) -> tuple[str, ...]:
        """The names that others must define, sorted."""
        used = {r.symbol for section in self.sections for r in section.relocations}
        return tuple(sorted({s.name for i, s in enumerate(self.symbols) if i in used and s.is_undefined}))

    @property
    def code_bytes(self) -> int:
        """Bytes of everything that is loaded: code, constants, tables."""
        return sum(s.size for s in self.sections if s.flags & _ALLOC)


@dataclass(frozen=True)
class _Form:
    """How the tables of one class and byte order are packed; 64-bit symbols order their fields differently."""

    order: str
    wide: bool

    @property
    def header(self) -> struct.Struct:
        return struct.Struct(f"{self.order}16sHHI{'QQQ' if self.wide else 'III'}IHHHHHH")

    @property
    def section(self) -> struct.Struct:
        return struct.Struct(f"{self.order}II{'QQQQIIQQ' if self.wide else 'IIIIIIII'}")

    @property
    def symbol(self) -> struct.Struct:
        return struct.Struct(f"{self.order}{'IBBHQQ' if self.wide else 'IIIBBH'}")

    def relocation(self, *, addend: bool) -> struct.Struct:
        return struct.Struct(f"{self.order}{'QQ' if self.wide else 'II'}{('q' if self.wide else 'i') if addend else ''}")

    @property
    def shift(self) -> int:
        return 32 if self.wide else 8

    def read_symbols(self, table: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
        for row in self.symbol.iter_unpack(table):
            if self.wide:
                name, info, other, section, value, size = row
            else:
                name, value, size, info, other, section = row
            yield name, info, other, section, value, size

    def pack_symbol(self, name: int, info: int, other: int, section: int, value: int, size: int) -> bytes:
        if self.wide:
            return self.symbol.pack(name, info, other, section, value, size)
        return self.symbol.pack(name, value, size, info, other, section)


def _form(kind: tuple[int, int, int, int, int]) -> _Form:
    return _Form("<" if kind[1] == 1 else ">", kind[0] == 2)  # noqa: PLR2004 - ELFCLASS64


def _text(table: bytes, at: int) -> str:
    return table[at:table.index(b"\0", at)].decode()


def read(data: bytes, what: str = "object") -> Elf:
    """Read a relocatable file. EdgecError, which calls it `what`, when it is none; debug sections and notes are left out."""
    if data[:4] != b"\x7fELF" or len(data) < 52:  # noqa: PLR2004 - the smallest header
        raise EdgecError(f"{what} is not an ELF file, and no other object format is known here")
    try:
        return _read(data, what)
    except (struct.error, IndexError, ValueError, KeyError) as error:
        raise EdgecError(f"{what} is a broken ELF file: {error}") from error


def _read(data: bytes, what: str) -> Elf:
    form = _form((data[4], data[5], 0, 0, 0))
    _, file_type, machine, _, _, _, table_at, flags, _, _, _, row, count, names_at = form.header.unpack_from(data)
    if file_type != 1:
        raise EdgecError(f"{what} is not a relocatable ELF file")
    rows = [form.section.unpack_from(data, table_at + i * row) for i in range(count)]
    body = [b"" if r[1] == _NOBITS else data[r[4]:r[4] + r[5]] for r in rows]
    names = [_text(body[names_at], r[0]) for r in rows]
    tables = [i for i, r in enumerate(rows) if r[1] == _SYMTAB]
    if any(r[1] == _SYMTAB_SHNDX for r in rows) or len(tables) != 1:
        raise EdgecError(f"{what} has {len(tables)} symbol tables, or too many sections")
    kept = [i for i, r in enumerate(rows) if r[1] not in {0, _SYMTAB, _STRTAB, _RELA, _REL, _GROUP}
            and not names[i].startswith(_DROPPED) and not r[2] & _EXCLUDE]
    place = {old: new for new, old in enumerate(kept)}
    relocations = {r[7]: (r[1] == _RELA, body[i]) for i, r in enumerate(rows) if r[1] in {_RELA, _REL}}
    strings, symbols, number = body[rows[tables[0]][6]], list[Symbol](), {0: -1}  # the first row is no symbol
    for i, (name, info, other, section, value, size) in enumerate(form.read_symbols(body[tables[0]])):
        if i == 0 or info & 15 == _FILE or (section not in {_UNDEFINED, _ABSOLUTE} and section < _LAST_PLAIN and section not in place):
            continue
        if section >= _LAST_PLAIN and section != _ABSOLUTE:
            raise EdgecError(f"{what} has a common symbol {_text(strings, name)}: compile it with -fno-common")
        number[i] = len(symbols)
        where = None if section == _UNDEFINED else -1 if section == _ABSOLUTE else place[section]
        symbols.append(Symbol(_text(strings, name), where, value, size, info >> 4, info & 15, other & 3))
    sections = []
    for i in kept:
        explicit, table = relocations.get(i, (True, b""))
        fixes = []
        for at, info, *addend in form.relocation(addend=explicit).iter_unpack(table):
            symbol, kind = info >> form.shift, info & ((1 << form.shift) - 1)
            fixes.append(Relocation(at, kind, number[symbol], addend[0] if addend else 0))
        r = rows[i]
        if r[2] & _LINK_ORDER:
            raise EdgecError(f"{what} has the linked section {names[i]}, which cannot be merged here")
        sections.append(Section(names[i], r[1], r[2] & ~_IN_GROUP, r[8], r[9], r[5], body[i], tuple(fixes), explicit))
    if machine == _ARM:                                        # how floats are passed stands in the attributes, here only sometimes
        flags &= ~_ARM_FLOAT_ABI
    return Elf((data[4], data[5], data[7], machine, flags), tuple(sections), tuple(symbols))


def rename(elf: Elf, names: Mapping[str, str]) -> Elf:
    """Give symbols other names."""
    return replace(elf, symbols=tuple(replace(s, name=names.get(s.name, s.name)) for s in elf.symbols))


def merge(files: Sequence[Elf], public: Collection[str], what: str = "object") -> Elf:
    """Link files into one relocatable file that defines the `public` names alone; everything else defined becomes local.

    A name defined twice must be weak in all files but one. Sections that no public name reaches are left out.
    """
    kinds = {f.kind for f in files}
    if len(kinds) != 1:
        raise EdgecError(f"the parts of {what} are made for different machines or ABIs: {sorted(kinds)}")
    sections, symbols = _concatenate(files, what)
    known = {s.name for s in symbols if s.is_public}
    if missing := [name for name in public if name not in known]:
        raise EdgecError(f"{what} does not define {', '.join(missing)}")
    live = _reachable(sections, symbols, public)
    place = {old: new for new, old in enumerate(live)}
    used = {r.symbol for i in live for r in sections[i].relocations}
    local, shared, number = list[Symbol](), list[Symbol](), {-1: -1}
    keep = [i for i, s in enumerate(symbols) if (s.section in place or s.section == -1 or i in used) and _wanted(s, used, i)]
    for wants_local in (True, False):
        for i in keep:
            s = symbols[i]
            is_local = s.section is not None and s.name not in public
            if is_local == wants_local:
                where = place[s.section] if s.section is not None and s.section >= 0 else s.section
                number[i] = len(local) + len(shared)
                (local if is_local else shared).append(
                    replace(s, section=where, binding=_LOCAL if is_local else s.binding, visibility=0))
    done = tuple(replace(sections[i], relocations=tuple(replace(r, symbol=number[r.symbol]) for r in sections[i].relocations))
                 for i in live)
    return Elf(files[0].kind, done, (*local, *shared))


def _wanted(symbol: Symbol, used: Collection[int], index: int) -> bool:
    """Leave out names without a use: assembler labels that no relocation needs, except ARM's mapping symbols."""
    return index in used or (symbol.type not in {0, _SECTION}) or symbol.name.startswith("$") or symbol.binding != _LOCAL


def _concatenate(files: Sequence[Elf], what: str) -> tuple[list[Section], list[Symbol]]:
    """Put all sections and symbols into one numbering in which each shared name exists once."""
    sections, symbols, shared, attributes = list[Section](), list[Symbol](), dict[str, int](), set[str]()
    for file in files:
        base, number = len(sections), {-1: -1}
        for i, s in enumerate(file.symbols):
            moved = replace(s, section=s.section if s.section is None or s.section < 0 else base + s.section)
            if s.binding == _LOCAL or not s.name:
                number[i] = len(symbols)
                symbols.append(moved)
                continue
            old = shared.setdefault(s.name, len(symbols))
            number[i] = old
            if old == len(symbols):
                symbols.append(moved)
                continue
            before = symbols[old]
            if before.section is None or (before.binding == _WEAK and s.section is not None and s.binding != _WEAK):
                symbols[old] = moved if s.section is not None or s.binding != _WEAK else before
            elif s.section is not None and s.binding != _WEAK:
                raise EdgecError(f"two parts of {what} define {s.name}")
        for section in file.sections:
            if section.type == _ATTRIBUTES and section.name in attributes:  # one per file; their bytes agree in all that matters
                sections.append(Section("", 0, 0, 0, 0, 0, b""))
                continue
            if section.type == _ATTRIBUTES:
                attributes.add(section.name)
            sections.append(replace(section, relocations=tuple(replace(r, symbol=number[r.symbol]) for r in section.relocations)))
    return sections, symbols


def _reachable(sections: Sequence[Section], symbols: Sequence[Symbol], public: Iterable[str]) -> list[int]:
    """Sections needed by the public names, in order; sections that are not loaded (attributes) stay."""
    names = set(public)
    todo = [s.section for s in symbols if s.name in names and s.section is not None and s.section >= 0]
    seen = {i for i, s in enumerate(sections) if s.type == _ATTRIBUTES}
    while todo:
        i = todo.pop()
        if i in seen:
            continue
        seen.add(i)
        for r in sections[i].relocations:
            target = symbols[r.symbol].section if r.symbol >= 0 else None
            if target is not None and target >= 0:
                todo.append(target)
    return sorted(seen)


class _Strings:
    """A string table under construction."""

    def __init__(self) -> None:
        self.data, self._known = bytearray(b"\0"), {"": 0}

    def add(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self._known[text]


def write(elf: Elf) -> bytes:
    """The bytes of a relocatable file; local symbols must come first, as `merge` leaves them."""
    form, names, strings = _form(elf.kind), _Strings(), _Strings()
    stack = Section(".note.GNU-stack", _PROGBITS, 0, 1, 0, 0, b"")  # says: no executable stack needed
    plain = [*elf.sections, stack]
    relocated = [i for i, s in enumerate(plain) if s.relocations]
    table = len(plain) + len(relocated) + 1
    symbols = bytearray(form.pack_symbol(0, 0, 0, 0, 0, 0))
    for s in elf.symbols:
        section = _UNDEFINED if s.section is None else _ABSOLUTE if s.section < 0 else s.section + 1
        symbols += form.pack_symbol(strings.add(s.name), s.binding << 4 | s.type, s.visibility, section, s.value, s.size)
    local = 1 + sum(s.binding == _LOCAL for s in elf.symbols)
    word = 8 if form.wide else 4
    # name, type, flags, size, link, info, align, entry, data
    rows = [(s.name, s.type, s.flags, s.size, 0, 0, s.align, s.entry, s.data) for s in plain]
    for i in relocated:
        fixed, explicit = plain[i], plain[i].explicit_addends
        pack = form.relocation(addend=explicit)
        fixes = b"".join(pack.pack(r.offset, (r.symbol + 1) << form.shift | r.kind, *([r.addend] if explicit else []))
                         for r in fixed.relocations)
        rows.append(((".rela" if explicit else ".rel") + fixed.name, _RELA if explicit else _REL, _INFO_LINK, len(fixes),
                     table, i + 1, word, pack.size, fixes))
    rows.append((".symtab", _SYMTAB, 0, len(symbols), table + 1, local, word, form.symbol.size, bytes(symbols)))
    rows.append((".strtab", _STRTAB, 0, len(strings.data), 0, 0, 1, 0, bytes(strings.data)))
    name_numbers = [names.add(row[0]) for row in rows] + [names.add(".shstrtab")]
    rows.append((".shstrtab", _STRTAB, 0, len(names.data), 0, 0, 1, 0, bytes(names.data)))
    out, heads = bytearray(form.header.size), bytearray(form.section.size)
    for named, (_, kind, flags, size, link, info, align, entry, data) in zip(name_numbers, rows, strict=True):
        out += bytes(-len(out) % max(1, align))
        heads += form.section.pack(named, kind, flags, 0, len(out), size, link, info, align, entry)
        out += data
    out += bytes(-len(out) % word)
    ident = b"\x7fELF" + bytes((elf.kind[0], elf.kind[1], 1, elf.kind[2])) + bytes(8)
    form.header.pack_into(out, 0, ident, 1, elf.kind[3], 1, 0, 0, len(out), elf.kind[4], form.header.size, 0, 0,
                          form.section.size, len(rows) + 1, len(rows))
    return bytes(out + heads)
