"""Files to which whole lines are appended, by this process and by others: one object of JSON a line.

Three things go wrong with them. A crash or a full disk cuts a line: the next one must not become its tail. Somebody
(`replay`, logrotate) moves the file away: what follows belongs into a new one of that name. Two programs append or take
at the same time: each locks the file that has the name at that moment.
"""

import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
"""Readable too, to look at the last byte."""
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_lines(path: Path, mode: int, *, links: bool = True) -> int:
    """The file at `path` for appending, made with `mode` if absent. Raises `OSError`.

    `links=False`: no part of the absolute path may be a symbolic link, so that one that is put there after the path was
    checked leads nowhere. Folders that are missing are made then.
    """
    if links:
        return os.open(path, _FLAGS, mode)
    folder = os.open(path.anchor, _FOLDER)
    try:
        for part in path.parts[1:-1]:
            inner = _open_folder(part, folder)
            os.close(folder)
            folder = inner
        return os.open(path.name, _FLAGS | os.O_NOFOLLOW, mode, dir_fd=folder)
    finally:
        os.close(folder)


def _open_folder(name: str, parent: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        os.mkdir(name, dir_fd=parent)
        return os.open(name, _FOLDER, dir_fd=parent)


def is_at(path: Path, fd: int) -> bool:
    """True if `path` still leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def line_start(fd: int, size: int) -> bytes:
    """What has to stand before the next line of a file of `size` bytes: a line's end if the last line was cut."""
    return b"\n" if size and os.pread(fd, 1, size - 1) not in (b"\n", b"") else b""


def append_lines(fd: int, data: bytes) -> None:
    """Append whole lines, all or none of them. Raises `OSError`: then what was written is taken back, unless somebody
    else has appended meanwhile, whose lines are not ours to cut."""
    size = os.fstat(fd).st_size
    start = line_start(fd, size)
    data = start + data if start else data
    written = 0
    try:
        while written < len(data):
            written += os.write(fd, data[written:] if written else data)
    except OSError:
        if written and os.fstat(fd).st_size == size + written:
            os.ftruncate(fd, size)
        raise


def write_out(fd: int, data: bytes) -> None:
    """Write all of `data` to a pipe or terminal; waits while its reader does. Raises `OSError`."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            # Somebody else made the shared descriptor non-blocking.
            room = select.poll()
            room.register(fd, select.POLLOUT)
            room.poll(1000)


@contextmanager
def locked(path: Path, *, links: bool = True) -> Iterator[int]:
    """The file at `path`, made if absent (mode 0600), locked against everybody else who asks here. Raises `OSError`."""
    while True:
        fd = open_lines(path, 0o600, links=links)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            # It may have been moved away while we waited for the lock.
            if is_at(path, fd):
                yield fd
                return
        finally:
            os.close(fd)


def append_locked(path: Path, data: bytes, *, links: bool = True) -> None:
    """`append_lines` to the file that has this name now. `links` as for `open_lines`."""
    with locked(path, links=links) as fd:
        append_lines(fd, data)
