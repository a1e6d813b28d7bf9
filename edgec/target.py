"""Which machines there are: edgec's own, those of EDGEC_TARGETS, registered ones, a file, and the machine one is on."""

import os
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgec import access
from edgec.errors import BadInput, UsageError
from edgec.machine import Scope, Target, Unit, Verdict, show
from edgec.target_host import HOST, host_text
from edgec.target_read import Said, guess, parse, resolve

VARIABLE = "EDGEC_TARGETS"
"""The environment variable that lists further `.target` files and folders of them."""
_REGISTERED: list[Path] = []
_NUMBER, _SCALAR_REGISTERS = 4, 16
_SCALAR = ("triple", "mcpu", "mattr", "clock", "vector", "registers", "core_registers", "fpu", "issue", "fma_ports", "fma_cycles",
           "fma_latency", "load_ports")
"""Facts of a CPU that are still true when all code for it is C."""
_SHORT = 14  # longer values get a line of their own


def find(name_or_path: str | Path) -> Target:
    """The target of a name, an alias, `host`, or a file: `my.target` (its last target) or `my.target:name`.

    UsageError says which name comes near an unknown one; BadInput, SourceError say what is wrong with a file.
    """
    wanted = str(name_or_path)
    if isinstance(name_or_path, Path) or os.sep in wanted or ".target" in wanted:
        both = ".target:" in wanted and not Path(wanted).exists()
        path, _, name = wanted.rpartition(":") if both else (wanted, "", "")
        return from_text(_content(Path(path)), path, name)
    said = _all()
    if wanted == HOST:
        return _host(said)
    name = _aliases(said).get(wanted, wanted)
    if name not in said:
        for file in (wanted, f"{wanted}.target"):
            if Path(file).is_file():
                raise UsageError(f"no target is called {wanted}; to read the file, write ./{file}")
        near = guess(wanted, (*said, *_aliases(said), HOST))
        raise UsageError(f"no target is called {wanted}{near or '; `edgec targets` lists all'}")
    return resolve(name, said)


def scalar(target: Target) -> Target:
    """The first CPU of a machine without its vectors and everything that only machine code can say: what C has words for."""
    cpu = target.cpu
    narrow = {"vector": _NUMBER, "broadcast": "memory", "int8_dot": False}
    if cpu.facts.get("vector", _NUMBER) > _NUMBER:
        narrow |= {"registers": _SCALAR_REGISTERS}
    facts = {name: value for name, value in cpu.facts.items() if name in _SCALAR}
    anything = from_text("target any { unit cpu cpu { runs * } }").cpu.lines
    return replace(target, units={cpu.name: replace(cpu, facts=facts | narrow, lines=anything)})


def from_text(text: str, path: str = "<text>", name: str = "") -> Target:
    """The last target of a text, or the one of that name; its parents stand in the text or else are known by name.

    A text that needs no others, such as Target.text(), means the same wherever it is read.
    """
    said = {s.said.name: s for s in parse(text, path)}
    if name and name not in said:
        raise UsageError(f"{path} describes no target {name}{guess(name, said)}; it has {', '.join(said)}")
    alone = all(parent.name in said for s in said.values() for parent in s.said.parents)
    around = said if alone else {**_all(), **said}
    resolved = [resolve(each, around) for each in said]  # all of them, so that a mistake anywhere in a file is told
    return next(t for t in resolved if t.name == name) if name else resolved[-1]


def known() -> dict[str, Target]:
    """All targets by name, in the order of their names, without `host`; SourceError when one of them is wrong."""
    said = _all()
    return {name: resolve(name, said) for name in sorted(said)}


def aliases() -> dict[str, str]:
    """Further names, and the targets that they mean."""
    return _aliases(_all())


def register(path: str | Path) -> tuple[str, ...]:
    """Make the targets of a file or folder known by name while this program runs; return their names, checked."""
    place = Path(path).absolute()
    fresh = place not in _REGISTERED
    names = tuple(s.said.name for file in _targets_in(place, "the registered path") for s in parse(_content(file), str(file)))
    if fresh:
        _REGISTERED.append(place)
    try:
        said = _all()
        _aliases(said)
        for name in names:
            resolve(name, said)
    except Exception:
        if fresh:
            _REGISTERED.remove(place)
        raise
    return names


def listing() -> str:
    """All targets, one line each: name, aliases, what it is."""
    said = _all()
    further: dict[str, list[str]] = {}
    for alias, name in _aliases(said).items():
        further.setdefault(name, []).append(alias)
    titles = {name: ", ".join((name, *further.get(name, ()))) for name in sorted(said)}
    width = max(map(len, (*titles.values(), HOST)))
    rows = [(HOST, "the machine this runs on, detected"), *((titles[name], said[name].said.doc) for name in sorted(said))]
    return "\n".join(f"{title:{width}}  {doc}".rstrip() for title, doc in rows)


def describe(target: Target) -> str:
    """One screen about a machine: where it comes from, its units and memories, and the source of each figure."""
    parents = f" (from {', '.join(reversed(target.parents))})" if target.parents else ""
    lines = [f"{target.name}: {target.doc or 'a machine'}{parents}", *_facts(target, "target", "", target.facts)]
    for unit in target.units.values():
        lines += [f"  unit {unit.name}, a {unit.kind}", *_facts(target, "unit", unit.name, unit.facts)]
    for name, facts in target.memories.items():
        lines += [f"  memory {name}", *_facts(target, "memory", name, facts)]
    return "\n".join(lines)


def _facts(target: Target, scope: Scope, name: str, facts: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, value in facts.items():
        head, shown, source = f"    {key:16} ", show(scope, key, value), target.sources.get((scope, name, key), "")
        note = f"# {source}" if source else ""
        if len(shown) <= _SHORT:
            lines.append(f"{head}{shown:{_SHORT}} {note}".rstrip())
        else:
            lines += textwrap.wrap(shown, 120, initial_indent=head, subsequent_indent=" " * (len(head) + 1))
            lines += [" " * len(head) + note] if note else []
    return lines


def _all() -> dict[str, Said]:
    """What all known texts say, by name; SourceError when two describe a target of the same name."""
    files = access.files("targets", "**/*.target")
    for entry in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        files += _targets_in(Path(entry), VARIABLE)
    for place in _REGISTERED:
        files += _targets_in(place, "the registered path")
    said: dict[str, Said] = {}
    for file in dict.fromkeys(f.absolute() for f in files):
        for s in parse(_content(file), str(file)):
            if s.said.name in said:
                s.wrong(f"there is a target {s.said.name} already, in {said[s.said.name].path}", s.said.at)
            if s.said.name == HOST:
                s.wrong(f"{HOST} is the name of the machine that edgec runs on", s.said.at)
            said[s.said.name] = s
    return said


def _aliases(said: Mapping[str, Said]) -> dict[str, str]:
    made: dict[str, str] = {}
    for name, s in said.items():
        for alias in s.own("aliases") or ():
            if alias in said or alias in made or alias == HOST:
                s.wrong(f"the alias {alias} means {made.get(alias, alias)} already", s.said.at)
            made[alias] = name
    return made


def _host(said: Mapping[str, Said]) -> Target:
    text = host_text(said)
    return resolve(HOST, {**said, HOST: parse(text, f"<{HOST}>")[0]})


def _targets_in(place: Path, whence: str) -> list[Path]:
    if place.is_dir():
        return sorted(place.rglob("*.target"))
    if not place.exists():
        raise UsageError(f"{whence} names {place}, which does not exist")
    return [place]


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as wrong:
        raise BadInput(f"{path} is no text: byte {wrong.start} is not UTF-8") from wrong
    except OSError as wrong:
        raise BadInput(f"the target file {path} cannot be read: {wrong.strerror}") from wrong


__all__ = ["VARIABLE", "Target", "Unit", "Verdict", "aliases", "describe", "find", "from_text", "known", "listing", "register"]
