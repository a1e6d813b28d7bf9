"""Golden tests: every case of every *.edge file in tests/golden is a test."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgec.errors import EdgecError
from edgec.testing.golden import SAME, Case, cases, difference_of_texts, outcome, replaced

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write what the passes make now into the golden files")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return GoldenFile.from_parent(parent, path=file_path) if file_path.suffix == ".edge" and GOLDEN in file_path.parents else None


class GoldenFile(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        seen: Counter[str] = Counter()
        for number, case in enumerate(cases(self.path.read_text("utf-8"))):
            seen[case.title] += 1
            name = case.title if seen[case.title] == 1 else f"{case.title}#{seen[case.title]}"
            yield GoldenCase.from_parent(self, name=name, case=case, number=number)


class GoldenFailed(Exception):
    """What a failed case shows, without a traceback."""


class GoldenCase(pytest.Item):
    def __init__(self, *, case: Case, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case, self.number = case, number

    def runtest(self) -> None:
        root, where = self.config.rootpath, self.path.relative_to(self.config.rootpath)
        whole = self.path.read_text("utf-8")
        try:
            found = outcome(self.case, whole, str(where), root)
        except EdgecError as error:
            raise GoldenFailed(str(error)) from error
        if found.wrong:
            raise GoldenFailed(f"{where}:{self.case.line + 1}: {found.wrong}")
        if found.after == self.case.after:
            return
        if self.config.getoption("--update"):
            self.path.write_text(replaced(whole, self.number, found.after), "utf-8")
            return
        expected, made = (found.before if text == SAME else text for text in (self.case.after, found.after))
        shown = difference_of_texts(expected, made)
        raise GoldenFailed(f"{where}:{self.case.line + 1}: the pass makes another graph\n{shown}\n"
                           f"If that is right, take it over and look at it with git diff:  pytest --update {where}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, GoldenFailed) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.case.line, f"{self.path.name}::{self.name}"
