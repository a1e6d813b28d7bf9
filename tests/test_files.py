"""Files that commands write: whole or not at all, and what is no file stays what it is."""

import os
import threading
from pathlib import Path

import pytest

from edgec.commands.files import write
from edgec.errors import BadInput


def test_a_file_appears_whole_and_keeps_its_place(tmp_path: Path) -> None:
    write(tmp_path / "new" / "a.txt", b"one")
    (tmp_path / "link").symlink_to(tmp_path / "new" / "a.txt")
    write(tmp_path / "link", b"two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"two"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]
    with pytest.raises(BadInput, match="cannot be written"):
        write(tmp_path / "new", b"three")


def test_a_pipe_behind_a_link_gets_the_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    """What /dev/stdout is: a user with the right to replace it must not do so."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to(tmp_path / "pipe")
    found = list[bytes]()
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(tmp_path / "stdout", b"bytes")
    reader.join(10)
    assert found == [b"bytes"]
    assert (tmp_path / "stdout").is_symlink()
    assert (tmp_path / "pipe").is_fifo()
