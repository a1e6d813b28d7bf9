"""The two grammars, and the one function that reads a text with them."""

import hashlib
import marshal
import os
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import lark
from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.grammar import Rule
from lark.lexer import PatternStr, TerminalDef

from edgec.errors import SourceError

Kind = Literal["rules", "targets", "pipeline", "graphs", "one_type"]
STARTS = {"edge": ("rules", "targets", "pipeline"), "graph": ("graphs", "one_type")}
"""Each grammar file with its start symbols."""
_SHOWN = 8


def read(kind: Kind, text: str, path: str = "<text>") -> Tree[Token]:
    """The tree of a text of one kind; SourceError says what stands at the place of a mistake and what could stand there."""
    name = next(n for n, starts in STARTS.items() if kind in starts)
    parser = _parser(name)
    try:
        return parser.parse(text, start=kind)
    except UnexpectedToken as error:
        wanted = _wanted(name, error.accepts or error.expected)
        if error.token.type == "$END":
            line, column = _end(text)
            raise SourceError(f"the text ends here, wanted {wanted}", text, line, column, path) from None
        raise SourceError(f"found {_quoted(str(error.token))}, wanted {wanted}", text, error.line, error.column, path) from None
    except UnexpectedCharacters as error:
        wanted = _wanted(name, error.allowed or set())
        if error.char == '"':
            message = "this string is not closed on its line, or holds an unknown escape"
        else:
            message = f"nothing starts with {_quoted(error.char)} here, wanted {wanted}"
        raise SourceError(message, text, error.line, error.column, path) from None
    except UnexpectedInput as error:
        raise SourceError("this cannot be read", text, error.line, error.column, path) from None


def grammar_text(name: str) -> str:
    """The source of a grammar: `edge` or `graph`."""
    return (files("edgec.lang") / f"{name}.lark").read_text("utf-8")


@cache
def _parser(name: str) -> Lark:
    """The parser of a grammar, from the user's cache when it is there: building one takes several times as long."""
    text = grammar_text(name)
    key = hashlib.sha256("\0".join((text, lark.__version__, sys.version, *STARTS[name])).encode()).hexdigest()[:32]
    place = _cache_folder() / f"{name}-{key}.grammar"
    try:
        data, memo = marshal.loads(place.read_bytes())  # noqa: S302  marshal runs no code, and the file is the user's own
        saved: Any = {"data": data, "memo": memo}  # load takes what save would have pickled
        return Lark.load(saved)
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError):
        pass  # absent, unreadable or broken: build it
    parser = Lark(text, parser="lalr", start=list(STARTS[name]), maybe_placeholders=True, propagate_positions=name == "edge")
    _store(place, marshal.dumps(parser.memo_serialize([TerminalDef, Rule])))
    return parser


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111  Path.expanduser raises without a home
    return Path(base) / "edgec"


def _store(place: Path, data: bytes) -> None:
    """Write a cache file whole or not at all; a folder that cannot be written is no reason to fail."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
            temporary = Path(file.name)
        try:
            temporary.write_bytes(data)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)


@cache
def _words(name: str) -> dict[str, str]:
    """How messages call each terminal: the comment at the end of its line in the grammar, or the text it stands for."""
    said = {t.name: _quoted(t.pattern.value) if isinstance(t.pattern, PatternStr) else t.name.lower().replace("_", " ")
            for t in _parser(name).terminals}
    for line in grammar_text(name).splitlines():
        head, colon, rest = line.partition(":")
        terminal, comment = head.split(".")[0].strip(), rest.rpartition(" // ")
        if colon and terminal in said and comment[1]:
            said[terminal] = comment[2].strip()
    return {**said, "$END": "the end"}


def _wanted(name: str, terminals: set[str]) -> str:
    ignored = set(_parser(name).lexer_conf.ignore)
    words = sorted({_words(name)[t] for t in terminals - ignored}, key=lambda w: (w.startswith('"'), w))
    if len(words) > _SHOWN:
        return ", ".join(words[:_SHOWN]) + " …"
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _quoted(text: str) -> str:
    return f'"{text}"' if '"' not in text else f"'{text}'"


def _end(text: str) -> tuple[int, int]:
    """The place behind the last word of a text."""
    before = text.rstrip().split("\n")
    return len(before), len(before[-1]) + 1
