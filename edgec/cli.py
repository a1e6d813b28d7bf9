"""The command line: `edgec COMMAND ...`. It knows all commands, reads their arguments, and turns errors into exit codes.

0 fine, 1 a mistake in edgec, 2 wrong usage, 3 wrong input or an unsupported model, 4 a budget or a tolerance is missed,
5 a tool is missing, 6 the device cannot run it, 130 interrupted.
"""

import argparse
import difflib
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO

import edgec
from edgec.commands import bench, bisect, build, doctor, inspect, measure, opt, passes, profile, report, rules, study, targets, verify, why
from edgec.commands import run as run_command
from edgec.commands.console import Console
from edgec.errors import EdgecError, UsageError


class Command(Protocol):
    """What a module of edgec.commands has: one line of help, the arguments, and what is done, which answers with the exit code."""

    HELP: str

    def arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Say what it takes."""

    def run(self, args: argparse.Namespace, console: Console, /) -> int:
        """Do it."""


COMMANDS: Mapping[str, Command] = {
    "build": build, "run": run_command, "verify": verify, "bench": bench, "profile": profile, "measure": measure, "inspect": inspect,
    "report": report, "study": study, "opt": opt, "why": why, "bisect": bisect, "targets": targets, "passes": passes, "rules": rules,
    "doctor": doctor,
}
ALIASES = {"compile": "build"}


class _Parser(argparse.ArgumentParser):
    """A parser that raises UsageError with a suggestion instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` says what there is")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(c) for c in action.choices]
            what = "command" if action.dest == "command" else "/".join(action.option_strings) or action.dest
            raise UsageError(f"{what} cannot be {value}{_meant(str(value), known) or '; it is one of ' + ', '.join(known)}")

    def flags(self) -> Iterable[str]:
        """All option strings."""
        return self._option_string_actions


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _common() -> _Parser:
    """What every command takes, before or behind its name."""
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("common")
    group.add_argument("--version", action="version", version=f"edgec {edgec.__version__}")
    group.add_argument("-v", "--verbose", action="count", help="say more on stderr")
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing but the result, warnings and errors")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    group.add_argument("--json", action="store_true", help="print the result as JSON")
    group.add_argument("--progress", choices=("auto", "bar", "jsonl", "none"),
                       help="how to show progress on stderr (auto: a bar on a terminal)")
    return common


def parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of the whole command line, and those of its commands."""
    common = _common()
    top = _Parser(prog="edgec", description="Compile trained ONNX models into self-contained artifacts for edge machines.",
                  parents=[common], allow_abbrev=False, epilog="exit codes: 0 fine, 1 internal, 2 usage, 3 input or unsupported, "
                  "4 budget or tolerance missed, 5 tool missing, 6 device, 130 interrupted")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    aliases = {name: [a for a, n in ALIASES.items() if n == name] for name in COMMANDS}
    made: dict[str, _Parser] = {}
    for name, module in COMMANDS.items():
        sub = commands.add_parser(name, help=module.HELP, description=module.HELP, parents=[common], aliases=aliases[name],
                                  allow_abbrev=False)
        module.arguments(sub)
        made |= dict.fromkeys((name, *aliases[name]), sub)
    return top, made


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    top, commands = parser()
    _check_flags(arguments, top, commands)
    args, rest = top.parse_known_args(arguments, argparse.Namespace(verbose=0, quiet=False, debug=False, json=False, progress="auto"))
    if args.command is None and not rest:
        top.print_help(sys.stderr)
        raise SystemExit(2)
    if rest:
        sub = commands.get(args.command, top)
        raise UsageError(f"nothing can be done with {rest[0]!r}; `{sub.prog} --help` says what there is")
    return args


def _check_flags(arguments: Sequence[str], top: _Parser, commands: Mapping[str, _Parser]) -> None:
    """UsageError for a flag that does not exist, before anybody complains that the one it should have been is missing."""
    sub = top
    for word in arguments[:arguments.index("--")] if "--" in arguments else arguments:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in sub.flags():
            raise UsageError(f"there is no flag {flag}{_meant(flag, sub.flags())}; `{sub.prog} --help` says what there is")
        if sub is top:
            sub = commands.get(word, top)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. Errors are told in one sentence on stderr, with a traceback only after --debug."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # None where whoever started this has closed them
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        code = _run(given)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the second Ctrl-C of an impatient user must not show a traceback of the exit
        return _told("interrupted", 130, debug=debug)
    except EdgecError as error:
        return _told(str(error), error.exit_code, debug=debug)
    except Exception as error:  # noqa: BLE001 - the last resort: no traceback unless it is wanted
        what = f"{type(error).__name__}: {str(error) or 'no reason given'}"
        return _told(f"a mistake in edgec: {what}; the same command with --debug shows where", 1, debug=debug)
    return code


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _run(arguments: Sequence[str]) -> int:
    args = _parse(arguments)
    console = Console(level=-1 if args.quiet else args.verbose, as_json=args.json, style=args.progress)
    try:
        return COMMANDS[ALIASES.get(args.command, args.command)].run(args, console)
    finally:
        console.end()


def _told(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"edgec: {message}\n")
    return code
