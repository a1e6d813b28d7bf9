"""What a command says: its result on stdout, and on stderr notes, warnings and progress."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

_WIDTH = 24
_PAUSE = 0.05  # seconds between two drawings of the bar


class Console:
    """The two streams of a command. `level` is -1 for quiet, 0, or the number of -v; `style` is a style of progress."""

    def __init__(self, *, level: int = 0, as_json: bool = False, style: str = "auto") -> None:
        self.level, self.as_json = level, as_json
        self._style = style if style != "auto" else "bar" if sys.stderr.isatty() and level >= 0 else "none"
        self._drawn, self._last, self._step = 0.0, "", ""
        self._started = time.perf_counter()
        self.times: list[tuple[str, float]] = []

    def result(self, text: str) -> None:
        """Print a part of the result, unless the result is JSON."""
        if not self.as_json:
            sys.stdout.write(text + "\n")

    def data(self, facts: Any) -> None:
        """Print the result as JSON when that is wanted."""
        if self.as_json:
            json.dump(facts, sys.stdout, indent=1, default=str, allow_nan=False)
            sys.stdout.write("\n")

    def note(self, text: str) -> None:
        """Say something worth knowing, on stderr."""
        if self.level >= 0:
            self._wipe()
            sys.stderr.write(f"note: {text}\n")

    def warn(self, text: str) -> None:
        """Say what may be wrong, on stderr, even when everything else is quiet."""
        self._wipe()
        sys.stderr.write(f"warning: {text}\n")

    def detail(self, text: str) -> None:
        """Say what only a curious reader wants, on stderr with -v."""
        if self.level > 0:
            self._wipe()
            sys.stderr.write(text + "\n")

    def progress(self, step: str, done: int, total: int) -> None:
        """Hear of a step; draws it in the style that was asked for, and takes its time."""
        now = time.perf_counter()
        if step != self._step:
            self.end(now)
            self._step, self._started = step, now
            self.detail(f"{step} ...")
        if self._style == "jsonl":
            sys.stderr.write(json.dumps({"step": step, "done": done, "total": total}) + "\n")
            sys.stderr.flush()
        elif self._style == "bar" and (now - self._drawn > _PAUSE or done == total):
            self._drawn = now
            self._draw(f"[{'#' * (_WIDTH * done // max(total, 1)):{_WIDTH}}] {step}" + (f" {done}/{total}" if total > 1 else ""))

    def end(self, now: float | None = None) -> None:
        """Take the time of the last step, and leave no bar behind."""
        if self._step:
            self.times.append((self._step, (now or time.perf_counter()) - self._started))
            self._step = ""
        if now is None:
            self._wipe()

    def show_times(self) -> None:
        """Print, on stderr, how long each step took."""
        self.end()
        width = max((len(s) for s, _ in self.times), default=0)
        sys.stderr.write("".join(f"{step:{width}} {seconds * 1e3:10.1f} ms\n" for step, seconds in self.times))

    def _draw(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(len(self._last)))
        sys.stderr.flush()
        self._last = text

    def _wipe(self) -> None:
        if self._last:
            sys.stderr.write("\r" + " " * len(self._last) + "\r")
            self._last = ""


def table(rows: Iterable[Sequence[object]], head: Sequence[str], right: Sequence[int] = ()) -> str:
    """Rows under a head, in columns; those numbered in `right` end together."""
    cells = [list(head), *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join("  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
                     for row in cells)
