"""Files that commands read and write: each written one appears whole or not at all."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgec.errors import BadInput


def write(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it; BadInput when the place cannot be written.

    A pipe, a terminal or a device gets the bytes as they come: to rename a file over /dev/stdout would take it from everybody else.
    """
    try:
        path = path.resolve() if path.is_symlink() and path.is_file() else path
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.close()
                mask = os.umask(0o022)
                os.umask(mask)
                temporary.chmod(0o666 & ~mask)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None


def write_folder(path: Path, files: Mapping[str, bytes], mark: str) -> None:
    """Write a folder as a whole, in place of one that was written so before: one with a file `mark` in it. BadInput when that fails."""
    from edgec.codegen.bundle import check_place, replace_folder  # noqa: PLC0415 - slow to load, like everything heavy in commands

    check_place(path, mark)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            made = Path(folder) / "made"
            made.mkdir()
            for name, data in files.items():
                (made / name).write_bytes(data)
            replace_folder(made, path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None


def is_bundle(path: Path) -> bool:
    """Whether a path is a bundle, and not a model; BadInput when it is neither."""
    if not path.exists():
        raise BadInput(f"there is no file or bundle {path}")
    if path.is_dir() and not (path / "manifest.json").exists():
        raise BadInput(f"{path} is a folder without a manifest.json, so it is neither a model nor a bundle")
    return path.is_dir()
