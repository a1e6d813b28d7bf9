"""From the text of a `.target` file to machines: inheritance, values of facts, and all that can be wrong with them, with its place."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, NoReturn

from edgec.errors import SourceError
from edgec.lang.expr import FUNCTIONS, CannotEvaluate, Expr, Literal, Member, Name, Place, evaluate, names, walk
from edgec.lang.syntax import Memory, Never, Runs, Setting, read_targets
from edgec.lang.syntax import Target as Syntax
from edgec.lang.syntax import Unit as UnitSyntax
from edgec.machine import FACTS, NODE_FACTS, OWN, Fact, Line, Scope, Target, Unit

_EXAMPLES = {"Hz": "1.5 GHz", "B": "32 KiB", "B/s": "4.2 GB/s", "B/cycle": "16 B/cycle", "cycles": "4 cycles"}
_UNITS_ALIKE = {"cycle": "cycles"}


@dataclass(frozen=True)
class Said:
    """What one text says of one target, and the text, to point into."""

    said: Syntax
    text: str
    path: str

    def wrong(self, message: str, at: Place) -> NoReturn:
        """Raise a SourceError that points here."""
        raise SourceError(message, self.text, at.line, at.column, self.path)

    def own(self, fact: str) -> tuple[str, ...] | None:
        """A list of texts that this target says itself and hands on to nobody (OWN); None when it does not say it."""
        for item in self.said.items:
            if isinstance(item, Setting) and item.name == fact:
                return tuple(_value_of(self, "target", item, {}, {}))
        return None


@cache
def parse(text: str, path: str) -> tuple[Said, ...]:
    """The targets of a text, in its order; SourceError when it does not read, or says one twice, or holds none."""
    said = tuple(Said(s, text, path) for s in read_targets(text, path))
    if not said:
        raise SourceError("this text describes no target", text, 1, 1, path)
    seen: set[str] = set()
    for s in said:
        if s.said.name in seen:
            s.wrong(f"{s.said.name} stands in this text twice", s.said.at)
        seen.add(s.said.name)
    return said


def resolve(name: str, known: Mapping[str, Said]) -> Target:
    """The machine of a name with all that its parents say; SourceError points at what is wrong with it."""
    said = known[name]
    line = _lineage(said, known, ())
    target_facts, units, memories = _gather(line)
    facts = _facts("target", target_facts, {})
    held = {name: _facts("memory", settings, facts) for name, settings in memories.items()}
    made = {n: Unit(n, u.kind, _facts("unit", u.settings, {**facts, **held}), tuple(u.lines)) for n, u in units.items()}
    groups: list[tuple[Scope, str, Mapping[str, _Setting]]] = [("target", "", target_facts)]
    groups += [("unit", n, u.settings) for n, u in units.items()] + [("memory", n, settings) for n, settings in memories.items()]
    sources = {(scope, n, fact): note for scope, n, settings in groups for fact, s in settings.items()
               if (note := _note(s.said, s.setting.at))}
    target = Target(name, said.said.doc, facts, made, held, tuple(s.said.name for s in line[:-1]), said.path, sources)
    _check_lines(target, said)
    _check_unread(target, groups)
    return target


def _lineage(said: Said, known: Mapping[str, Said], below: tuple[str, ...]) -> tuple[Said, ...]:
    """A target behind all its ancestors, each of which counts once, however many paths lead to it."""
    line: dict[str, Said] = {}
    for parent in said.said.parents:
        if parent.name in (*below, said.said.name):
            said.wrong(f"{said.said.name} inherits from itself", parent.at)
        if parent.name not in known:
            said.wrong(f"no target is called {parent.name}{guess(parent.name, known)}", parent.at)
        line |= {s.said.name: s for s in _lineage(known[parent.name], known, (*below, said.said.name)) if s.said.name not in line}
    return (*line.values(), said)


@dataclass(frozen=True)
class _Setting:
    setting: Setting
    said: Said


@dataclass
class _UnitParts:
    kind: str
    settings: dict[str, _Setting] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)


def _gather(line: Iterable[Said]) -> tuple[dict[str, _Setting], dict[str, _UnitParts], dict[str, dict[str, _Setting]]]:
    """What all of a lineage says, later ones over earlier ones: the target's settings, units, memories."""
    facts: dict[str, _Setting] = {}
    units: dict[str, _UnitParts] = {}
    memories: dict[str, dict[str, _Setting]] = {}
    for said in line:
        for item in said.said.items:
            match item:
                case Setting(name) if name not in OWN:
                    facts[name] = _Setting(item, said)
                case UnitSyntax(name, kind, lines):
                    unit = units.setdefault(name, _UnitParts(kind))
                    if unit.kind != kind:
                        said.wrong(f"{name} is a {kind} here, but a {unit.kind} where it was described before", item.at)
                    unit.settings |= {s.name: _Setting(s, said) for s in lines if isinstance(s, Setting)}
                    unit.lines += [Line(s, said.text, said.path) for s in lines if not isinstance(s, Setting)]
                case Memory(name, settings):
                    memories.setdefault(name, {}).update({s.name: _Setting(s, said) for s in settings})
    return facts, units, memories


def _facts(scope: Scope, settings: Mapping[str, _Setting], outside: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of settings. One that computes from others follows what overrides these."""
    done: dict[str, Any] = {}

    def value(name: str, asked: tuple[str, ...]) -> Any:
        if name not in done:
            s = settings[name]
            if name in asked:
                s.said.wrong(f"{name} is computed from itself", s.setting.at)
            read = {n.name for n in names(s.setting.value)}
            inside = {n: value(n, (*asked, name)) for n in read if n in settings}
            done[name] = _value_of(s.said, scope, s.setting, {**outside, **inside}, settings)
        return done[name]

    return MappingProxyType({name: value(name, ()) for name in settings})


def _value_of(said: Said, scope: Scope, setting: Setting, known: Mapping[str, Any], beside: Iterable[str]) -> Any:
    for name in names(setting.value):
        if name.name not in known:
            here = guess(name.name, (*known, *beside)) or f'; a word stands in quotes: "{name.name}"'
            said.wrong(f"{name.name} means nothing here{here}", name.at)
    try:
        value = _frozen(evaluate(setting.value, known))
    except CannotEvaluate as wrong:
        said.wrong(str(wrong), wrong.at)
    fact = FACTS[scope].get(setting.name)
    if fact is not None and (message := _misfit(fact, value, setting.value)):
        said.wrong(f"{setting.name} wants {message}", setting.value.at)
    return value


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _misfit(fact: Fact, value: Any, written: Expr) -> str:
    """What a fact wants and did not get; empty when the value is fine."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    checks: Mapping[str, tuple[Callable[[], bool], str]] = {
        "text": (lambda: isinstance(value, str), "a text in quotes"),
        "texts": (lambda: isinstance(value, tuple) and all(isinstance(v, str) for v in value), 'a list of texts such as ["a", "b"]'),
        "number": (lambda: number and value >= 0, "a number"),
        "count": (lambda: number and value >= 1 and value == int(value), "a whole number, at least 1"),
        "flag": (lambda: isinstance(value, bool), "true or false"),
    }
    fine, wanted = checks[fact.kind]
    if not fine():
        return wanted
    if fact.choices and not set(value if isinstance(value, tuple) else (value,)) <= set(fact.choices):
        return " or ".join(f'"{c}"' for c in fact.choices)
    if isinstance(written, Literal) and number and value:
        unit = re.sub(r"^[\d.]+(e[+-]?\d+)?\s*([KMG]i?(?=B|Hz)|k(?=Hz))?", "", written.source)
        if _UNITS_ALIKE.get(unit, unit) != fact.unit:
            return f"a quantity such as {_EXAMPLES[fact.unit]}" if fact.unit else "a number without a unit"
    return ""


def _check_lines(target: Target, said: Said) -> None:
    """Every name in a condition or a cost must mean something, now and not when the first node comes along."""
    for unit in target.units.values():
        known = {**target.names(unit.name), **NODE_FACTS}
        for line in unit.lines:
            here = Said(said.said, line.text, line.path)
            for expr in () if isinstance(line.said, Never) else _expressions(line.said):
                _check_names(expr, known, target, here)


def _check_names(expr: Expr, known: Mapping[str, Any], target: Target, here: Said) -> None:
    members = [part for part in walk(expr) if isinstance(part, Member)]
    for name in names(expr):
        if name.name not in known:
            here.wrong(f"{name.name} is no fact of a node, of {target.name} or of its unit{guess(name.name, known)}", name.at)
        if name.name in target.memories and not any(m.owner is name for m in members):
            here.wrong(f"{name.name} is a memory: ask for one of its facts, such as {name.name}.size", name.at)
    for member in members:
        if isinstance(member.owner, Name) and member.name not in target.memories.get(member.owner.name, {}):
            hint = guess(member.name, target.memories.get(member.owner.name, {}))
            here.wrong(f"{member.owner.name} has no {member.name}{hint}", member.at)
    for part in walk(expr):
        function = getattr(part, "function", None)
        if function is not None and function not in FUNCTIONS:
            here.wrong(f"no function is called {function}{guess(function, FUNCTIONS)}", part.at)


def _expressions(said: Runs) -> tuple[Expr, ...]:
    return (*said.when, *((said.cost,) if said.cost is not None else ()))


def _check_unread(target: Target, groups: Iterable[tuple[Scope, str, Mapping[str, _Setting]]]) -> None:
    """A fact that nothing reads and that is spelled almost like one that edgec reads is a slip of the pen."""
    groups = list(groups)
    read = {n.name for _, _, settings in groups for s in settings.values() for n in names(s.setting.value)}
    for unit in target.units.values():
        exprs = [e for line in unit.lines if isinstance(line.said, Runs) for e in _expressions(line.said)]
        read |= {part.name for e in exprs for part in walk(e) if isinstance(part, Name | Member)}
    for scope, _, settings in groups:
        for name, s in settings.items():
            meant = next((fact for fact in FACTS[scope] if one_slip(name, fact)), "")
            if meant and name not in FACTS[scope] and name not in read:
                s.said.wrong(f"nothing reads {name}; did you mean {meant}?", s.setting.at)


def _note(said: Said, at: Place) -> str:
    """The comment beside a line, or else right above it: by custom the source of the figure."""
    lines = said.text.splitlines()
    beside = _comment(lines[at.line - 1])
    if beside:
        return beside
    above: list[str] = []
    for line in reversed(lines[:at.line - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, _comment(line))
    return " ".join(above)


def _comment(line: str) -> str:
    found = re.match(r'(?:[^"#]|"(?:\\.|[^"\\])*")*#(.*)', line)
    return found[1].strip() if found else ""


def guess(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` when something known is spelled like a word, else nothing."""
    words = list(known)
    close = [w for w in words if one_slip(word, w)] or difflib.get_close_matches(word, words, 1)
    return f"; did you mean {close[0]}?" if close else ""


def one_slip(word: str, meant: str) -> bool:
    """Whether one letter too many, too few, wrong, or swapped with its neighbor makes the difference."""
    start = next((i for i, (a, b) in enumerate(zip(word, meant, strict=False)) if a != b), min(len(word), len(meant)))
    a, b = word[start:], meant[start:]
    return word != meant and (a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:]))
