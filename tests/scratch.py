"""Folders that live as long as the process of the tests."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def scratch(what: str) -> Path:
    """The folder for one kind of file; removed with the process."""
    folder = Path(tempfile.mkdtemp(prefix=f"edgec-{what}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
