"""What was measured, in one SQLite file beside the kernel cache: which plan was the fastest for what a kernel computes, on which unit.

A file that is damaged is made anew; one that cannot be used, or is of a newer edgec, costs what it knows and nothing else.
"""

import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

SCHEMA = 1
_WAIT = 5.0     # seconds for another build that writes just now
_TABLE = """CREATE TABLE findings (kernel TEXT, unit TEXT, default_choice TEXT, chosen TEXT, default_us REAL, us REAL, ratio REAL,
high REAL, tried INTEGER, PRIMARY KEY (kernel, unit, default_choice)) WITHOUT ROWID"""


@dataclass(frozen=True)
class Finding:
    """`chosen` of `tried` kernels beside the `default_choice`: microseconds of both, median ratio of neighboring turns, its upper bound."""

    default_choice: str
    chosen: str
    default_us: float
    us: float
    ratio: float
    high: float
    tried: int


class Database:
    """Findings by kernel and unit. Several builds may use one file at once: each finding is one transaction."""

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self.path, self._note, self._told = path, note, False
        self._usable = self._prepare()

    def get(self, kernel: str, unit: str, default: str) -> Finding | None:
        """What is known of a kernel for which the cost model chose `default`; None where nothing is."""
        if not self._usable:
            return None
        names = ", ".join(f.name for f in fields(Finding))
        try:
            with self._open() as connection:
                row = connection.execute(f"SELECT {names} FROM findings WHERE kernel = ? AND unit = ? AND default_choice = ?",  # noqa: S608
                                         (kernel, unit, default)).fetchone()
        except sqlite3.Error as error:
            self._give_up("read", error)
            return None
        return Finding(*row) if row is not None and _sound(row) else None

    def put(self, kernel: str, unit: str, found: Finding) -> None:
        """Remember a finding in the place of an older one."""
        if not self._usable:
            return
        values = (kernel, unit, *astuple(found))
        try:
            with self._open() as connection, connection:
                connection.execute(f"INSERT OR REPLACE INTO findings VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
        except sqlite3.Error as error:
            self._give_up("written", error)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_WAIT)) as connection:
            yield connection

    def _prepare(self) -> bool:
        """Whether there is a table of this version now: one that was there, or a new one."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)                   # two builds must not make it, or make it anew, at once
                return self._make()
        except OSError as error:
            self._tell(f"what is measured is not remembered, because {self.path} cannot be written: {error.strerror}")
            return False

    def _make(self) -> bool:
        for attempt in ("read", "made"):
            try:
                with self._open() as connection, connection:
                    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
                    if version > SCHEMA:
                        self._tell(f"{self.path} was made by a newer edgec: what it knows is not used, and nothing new is remembered")
                        return False
                    if version == SCHEMA:
                        _check(connection)
                        return True
                    connection.execute(_TABLE)
                    connection.execute(f"PRAGMA user_version = {SCHEMA}")
                    return True
            except sqlite3.OperationalError as error:
                if "locked" in str(error) or "open" in str(error) or "readonly" in str(error):
                    self._give_up(attempt, error)
                    return False
                self._anew(error)
            except sqlite3.DatabaseError as error:
                self._anew(error)
        self._tell(f"what is measured is not remembered, because {self.path} cannot be made")
        return False

    def _anew(self, error: sqlite3.Error) -> None:
        self._note(f"{self.path} is damaged ({error}) and is made anew: what it knew is measured again")
        self.path.unlink()

    def _give_up(self, what: str, error: sqlite3.Error) -> None:
        self._usable = False
        self._tell(f"{self.path} cannot be {what} ({error}): what it knows is not used, and nothing new is remembered")

    def _tell(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            self._note(sentence)


def _check(connection: sqlite3.Connection) -> None:
    """DatabaseError when the file is damaged, or another program's."""
    state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if state != "ok":
        raise sqlite3.DatabaseError(state)
    connection.execute("SELECT tried FROM findings WHERE kernel = ''").fetchone()


def _sound(row: tuple[object, ...]) -> bool:
    """Whether a row holds what it should: anybody may have written it."""
    *texts, default_us, us, ratio, high, tried = row
    numbers = (default_us, us, ratio, high)
    return all(isinstance(t, str) for t in texts) and isinstance(tried, int) and all(isinstance(n, float) and n >= 0 for n in numbers)
