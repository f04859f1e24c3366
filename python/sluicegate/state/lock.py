"""One gateway per state: an exclusive lock beside the database, held for the life of the process.

The kernel gives the lock back however the process ends, SIGKILL included, so a stale lock cannot exist. The
file stays: removing it would let two processes lock two different files of the same name.
"""

import fcntl
import os
from pathlib import Path


class StateError(Exception):
    """The state cannot be used: the message has the cause and the next step."""


class Lock:
    """An exclusive lock on `path`; `StateError` when another process holds it."""

    def __init__(self, path: Path, state: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateError(
                f"the state {state} cannot be locked: {error.strerror} ({path}), "
                "check that its directory exists and that this user may write there"
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            if not isinstance(error, BlockingIOError):
                raise StateError(
                    f"the state {state} cannot be locked: {error.strerror}, keep it on a local disk"
                ) from None
            process = f" (process {holder})" if holder else ""
            raise StateError(
                f"the state {state} is in use by another gateway{process}, "
                "stop that one or give this one its own `state:` file"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
