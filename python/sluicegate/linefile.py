"""Files to which whole lines are appended, by this process and by others: one object of JSON a line.

Four things go wrong with them. A crash or a full disk cuts a line: the next one must not become its tail. Somebody
(`replay`, logrotate) moves the file away: what follows belongs into a new one of that name. Two programs append or take
at the same time: each locks the file that has the name at that moment, and neither waits for ever. The name is that of
a pipe or a device, which would hold up whoever writes: it is refused.
"""

import contextlib
import errno
import fcntl
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sluicegate.regular import require_regular

LOCK_SECONDS = 2.0
"""How long somebody else may hold the lock of a file before that is an error."""
_LOCK_RETRY_SECONDS = 0.02
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""Readable too, to look at the last byte. Nothing waits for the other end of a pipe."""
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Rotation:
    """A file that would become larger than `bytes` becomes `FILE.1`; of the old ones `keep` remain."""

    bytes: int = 64 << 20
    keep: int = 5


def open_lines(path: Path, mode: int, *, links: bool = True, devices: bool = False) -> int:
    """The file at `path` for appending, made with `mode` if absent. Raises `OSError`, also for a pipe, a socket or a
    device; not with `devices`, for whoever has looked (`regular.require_appendable`).

    `links=False`: no part of the absolute path may be a symbolic link, so that one that is put there after the path was
    checked leads nowhere. Folders that are missing are made then.
    """
    if not devices:
        with contextlib.suppress(FileNotFoundError):
            require_regular(path.stat(), path)  # a device is not even opened
    fd = os.open(path, _FLAGS, mode) if links else _open_unlinked(path, mode)
    try:
        if not devices:
            require_regular(os.fstat(fd), path)  # the name may lead elsewhere by now
    except OSError:
        os.close(fd)
        raise
    return fd


def _open_unlinked(path: Path, mode: int) -> int:
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
def locked(path: Path, *, links: bool = True, seconds: float = LOCK_SECONDS) -> Iterator[int]:
    """The file at `path`, made if absent (mode 0600), locked against everybody else who asks here.

    Waits for the lock for at most `seconds`. Raises `OSError`.
    """
    end = time.monotonic() + seconds
    while True:
        fd = open_lines(path, 0o600, links=links)
        try:
            _lock(fd, end)
            # It may have been moved away while we waited for the lock.
            if is_at(path, fd):
                yield fd
                return
        finally:
            os.close(fd)


def _lock(fd: int, end: float) -> None:
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise OSError(errno.EAGAIN, "another program holds its lock") from None
        time.sleep(_LOCK_RETRY_SECONDS)


def append_locked(path: Path, data: bytes, *, links: bool = True, rotate: Rotation | None = None) -> int:
    """`append_lines` to the file that has this name now; the number of lines that a rotation deleted before that.
    `links` as for `open_lines`."""
    deleted = 0
    while True:
        with locked(path, links=links) as fd:
            size = os.fstat(fd).st_size
            if rotate is None or not size or size + len(data) <= rotate.bytes:
                append_lines(fd, data)
                return deleted
            deleted += rotated(path, rotate.keep, links=links, count=True)


def rotated(path: Path, keep: int, *, links: bool = True, count: bool = False) -> int:
    """Rename `FILE` to `FILE.1`, `FILE.1` to `FILE.2`, …, and delete what was `FILE.keep`: the number of its lines, if
    they are to be counted. Raises `OSError`."""
    parent = os.open(path.parent, _FOLDER if not links else _FOLDER & ~os.O_NOFOLLOW)
    try:
        deleted = _lines(f"{path.name}.{keep}", parent) if count else 0
        for number in range(keep, 0, -1):
            newer = f"{path.name}.{number - 1}" if number > 1 else path.name
            with contextlib.suppress(FileNotFoundError):
                os.rename(newer, f"{path.name}.{number}", src_dir_fd=parent, dst_dir_fd=parent)
        return deleted
    finally:
        os.close(parent)


def _lines(name: str, parent: int) -> int:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    except OSError:
        return 0
    with os.fdopen(fd, "rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
