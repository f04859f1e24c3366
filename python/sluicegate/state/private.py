"""Files that only their owner may read: the state and what lies beside it, exports, and files with keys in them."""

import errno
import os
import stat
from pathlib import Path


def open_private(path: Path, flags: int = os.O_RDWR) -> int:
    """A descriptor of the regular file at `path`, made with mode 0600 if absent. Raises `OSError`.

    A device, a pipe or a directory is refused before anything of it is opened or changed: `chmod 600 /dev/null` by a
    program that runs as root would stop the machine.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    if found is not None:
        _require_regular(found)
    # The name may lead elsewhere by now. Without O_NONBLOCK a pipe would wait for a writer.
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        _require_regular(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def narrow(fd: int) -> None:
    """Take a file that was there before from everybody but its owner. Raises `OSError`."""
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
        os.fchmod(fd, 0o600)


def write_private(path: Path, text: str) -> None:
    """`text` in place of what the file held, which must be a regular one. Raises `OSError`."""
    fd = open_private(path, os.O_WRONLY)
    with os.fdopen(fd, "w") as file:
        narrow(fd)
        file.truncate(0)
        file.write(text)


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
