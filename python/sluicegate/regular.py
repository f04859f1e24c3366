"""Opening files that somebody named: regular ones.

A pipe would wait for its other end, a terminal for somebody who types. So they, and devices, are refused before
anything of them is opened or changed.

`OSError`s have the cause in `strerror`, also for what is refused here (`EINVAL`; `EISDIR` for a folder).
"""

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_SINKS = tuple(os.makedev(1, minor) for minor in (3, 5, 7))
"""`/dev/null`, `zero` and `full`, which let nobody wait."""
_HANDED = ("/dev/fd", "/dev/stdin", "/proc/self/fd")


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A descriptor of the regular file at `path`. Raises `OSError`."""
    try:
        require_regular(path.stat(), path)
    except FileNotFoundError:
        if not flags & (os.O_CREAT | os.O_NOFOLLOW):
            raise
    # The name may lead elsewhere by now. Without O_NONBLOCK a pipe would wait for its other end.
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    try:
        require_regular(os.fstat(fd), path)
    except OSError:
        os.close(fd)
        raise
    return fd


def is_handed_over(path: Path) -> bool:
    """True for what a shell hands over by descriptor, such as `/dev/stdin`, and the `/dev/fd/63` of `<(generate)`. It
    lies in no folder of the user's."""
    return any(path.is_relative_to(place) for place in _HANDED)


def read_regular(path: Path, limit: int = -1, *, piped: bool = False) -> bytes:
    """What is in the file, at most `limit` bytes of it. Raises `OSError`.

    `piped`: a pipe that the shell has handed over is read to its end, as in `sluicegate validate <(generate)`.
    """
    if piped and is_handed_over(path) and path.is_fifo():
        with path.open("rb") as pipe:
            return pipe.read(limit)
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(limit)


def require_regular(found: os.stat_result, path: Path) -> None:
    """Raises `OSError` unless what was `found` at `path` is a regular file."""
    if stat.S_ISREG(found.st_mode):
        return
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
    raise OSError(errno.EINVAL, f"it is not a regular file but {kind}", str(path))


def require_appendable(path: Path) -> None:
    """Raises `OSError` for what is there and no file to append to, such as a pipe, whose reader might never come.
    `/dev/null` is one. Whoever opens the file finds out what else is wrong."""
    try:
        found = path.stat()
    except OSError:
        return
    if not (stat.S_ISCHR(found.st_mode) and found.st_rdev in _SINKS):
        require_regular(found, path)
