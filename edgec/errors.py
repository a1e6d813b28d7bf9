"""Everything that can go wrong on purpose: each error carries the exit code that the command line returns."""

from collections.abc import Sequence


class EdgecError(Exception):
    """A failure that a user can understand: one plain sentence, no traceback needed."""

    exit_code = 1


class UsageError(EdgecError):
    """The command line or the call does not make sense: an unknown flag, target, pass or shape."""

    exit_code = 2


class BadInput(EdgecError):
    """A file or an array that was given is missing, broken, or not what the model wants."""

    exit_code = 3


class SourceError(BadInput):
    """A mistake in a text that a person wrote, with the place where it stands.

    The message reads `path:line:column: sentence`, then the source line, then a caret.
    """

    def __init__(self, message: str, text: str, line: int, column: int, path: str) -> None:
        lines = text.splitlines()
        source = lines[line - 1] if 0 < line <= len(lines) else ""
        super().__init__(f"{path}:{line}:{column}: {message}\n  {source}\n  {' ' * (column - 1)}^")
        self.path, self.line, self.column = path, line, column


class UnsupportedModel(EdgecError):
    """A valid model that holds operators edgec cannot build; `nodes` names each of them."""

    exit_code = 3

    def __init__(self, message: str, nodes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)


class DoesNotFit(EdgecError):
    """A budget that cannot be met; `report` says by how much."""

    exit_code = 4

    def __init__(self, message: str, report: str = "") -> None:
        super().__init__(message)
        self.report = report


class ToolMissing(EdgecError):
    """A tool that this step needs is not installed; `install` is the command that would bring it."""

    exit_code = 5

    def __init__(self, message: str, install: str = "") -> None:
        super().__init__(f"{message}; install it with: {install}" if install else message)
        self.install = install


class DeviceError(EdgecError):
    """The machine that should run the artifact cannot: a missing CPU feature, a failed call."""

    exit_code = 6


class Cancelled(EdgecError):
    """The caller asked to stop."""

    exit_code = 130
