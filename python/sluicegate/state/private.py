"""Files that only their owner may read: the state and what lies beside it, exports, and files with keys in them."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sluicegate.regular import open_regular, require_regular


def open_private(path: Path, flags: int = os.O_RDWR) -> int:
    """A descriptor of the regular file at `path`, made with mode 0600 if absent. Raises `OSError`.

    What is no regular file is left alone: `chmod 600 /dev/null` by a program that runs as root would stop the machine.
    """
    return open_regular(path, flags | os.O_CREAT, 0o600)


def read_private(path: Path) -> BinaryIO:
    """The file at `path` for reading: a regular one, and no link to one. Raises `OSError`."""
    return os.fdopen(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def narrow(fd: int) -> None:
    """Take a file that was there before from everybody but its owner. Raises `OSError`."""
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
        os.fchmod(fd, 0o600)


def write_private(path: Path, text: bytes, owner: int | None = None) -> None:
    """A file of mode 0600 in the place of what has this name, so that a reader sees the old text or the new one.

    It is given to the user `owner`, if one is given. Raises `OSError`.
    """
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o600)  # whatever the umask
            if owner is not None:
                os.fchown(fd, owner, -1)
            file.write(text)
            file.flush()
            os.fsync(fd)
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_named(path: Path, text: str) -> None:
    """`write_private` to a file that a user named: a link leads to the file that is replaced, and only a regular file
    is. Raises `OSError`."""
    with suppress(FileNotFoundError):
        require_regular(path.stat(), path)
    write_private(path.resolve(), text.encode())
