"""Appending lines: after a cut line, to a file that was moved, on a full disk, and beside others."""

import errno
import os
import threading
from pathlib import Path

import pytest

from sluicegate import linefile


def test_a_line_after_a_cut_one_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    linefile.append_locked(path, b"one\ntwo\n")
    with path.open("ab") as file:
        file.write(b'{"cut')
    linefile.append_locked(path, b"three\n")
    linefile.append_locked(path, b"four\n")
    assert path.read_bytes() == b'one\ntwo\n{"cut\nthree\nfour\n'
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_moved_is_not_at_its_path(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    fd = linefile.open_lines(path, 0o644)
    assert linefile.is_at(path, fd)
    path.rename(tmp_path / "lines.1")
    assert not linefile.is_at(path, fd)
    path.touch()
    assert not linefile.is_at(path, fd)
    os.close(fd)


@pytest.mark.parametrize("others", [b"", b"theirs\n"])
def test_what_does_not_fit_is_taken_back_unless_somebody_else_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bytes
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\n")
    fd = linefile.open_lines(path, 0o644)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if data.startswith(b"two"):
            written = write(fd, data[:2])
            write(fd, others)
            return written
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        linefile.append_lines(fd, b"two\n")
    os.close(fd)
    assert path.read_bytes() == (b"one\ntw" + others if others else b"one\n")


def test_those_who_append_and_those_who_take_away_lose_nothing(tmp_path: Path) -> None:
    path, taken = tmp_path / "lines", []

    def append(name: str) -> None:
        for number in range(200):
            linefile.append_locked(path, f"{name}{number}\n".encode())

    threads = [threading.Thread(target=append, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for number in range(20):
        with linefile.locked(path):
            path.rename(tmp_path / f"taken{number}")
        taken.append(tmp_path / f"taken{number}")
    for thread in threads:
        thread.join()
    lines = b"".join(file.read_bytes() for file in [*taken, path] if file.exists()).splitlines()
    assert sorted(lines) == sorted(f"{name}{number}".encode() for name in "abc" for number in range(200))
