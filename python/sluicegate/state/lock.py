"""One gateway per state: exclusive locks, held for the life of the process.

One lies on a file beside the database, for whoever comes to the same name; one on the database itself, for whoever
comes to the same file after somebody has deleted the first, or by another name (a hard link). The kernel gives locks
back however the process ends, SIGKILL included, so a stale lock cannot exist.
"""

import fcntl
import os
from pathlib import Path

from sluicegate.state.private import open_private


class StateError(Exception):
    """The state cannot be used: the message has the cause and the next step."""


class Lock:
    """An exclusive lock on the file `path`, made if absent; `StateError` when another process holds it."""

    def __init__(self, path: Path, state: Path) -> None:
        try:
            self._fd = open_private(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError as error:
            raise StateError(
                f"the state {state} cannot be locked: {error.strerror} ({path}), "
                "check that its directory exists and that this user may write there"
            ) from None
        try:
            lock(self._fd, state)
        except BaseException:
            self.release()
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def lock(fd: int, state: Path) -> None:
    """Lock an open file until its descriptor closes; `StateError` when another process has locked it. A `Lock` has the
    number of that process in it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        process = f" (process {holder})" if holder.isdecimal() else ""
        raise StateError(
            f"the state {state} is in use by another gateway{process}, "
            "stop that one or give this one its own `state:` file"
        ) from None
    except OSError as error:
        raise StateError(
            f"the state {state} cannot be locked: {error.strerror}, keep it on a local disk"
        ) from None
