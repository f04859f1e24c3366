"""Dead letters in a file: every entry that could not be sent, with the reason (contract section 4.5).

One JSON object a line. The gateway appends, and `sluicegate replay` takes the whole file away, each under the file's
lock, so that neither loses what the other does. The file is opened for each append: failures are rare, and a file that
was moved away (by `replay`, by a log rotation) is simply made anew.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson


@dataclass(slots=True)
class DeadLetter:
    """`index` None: the body as a whole, which then is `entry` as text. `at` is ISO 8601 UTC."""

    source: str
    listener: str
    message_id: str
    index: int | None
    reason: str
    detail: str
    at: str
    entry: object

    def line(self) -> bytes:
        """The contract's JSON, with its line's end."""
        document = {
            "PacketSource": self.source,
            "Listener": self.listener,
            "MessageId": self.message_id,
            "Index": self.index,
            "Reason": self.reason,
            "Detail": self.detail,
            "At": self.at,
            "Entry": self.entry,
        }
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


class DeadLetterFile:
    """`file:PATH` of a PacketSource's `DeadLetterQueueArn`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, letters: Sequence[DeadLetter]) -> None:
        """Keep them. Raises `OSError`; then none, or only a cut line, is in the file."""
        append_lines(self.path, b"".join(letter.line() for letter in letters))


def append_lines(path: Path, data: bytes) -> None:
    """Append whole lines to the file that has this name now."""
    with locked(path) as fd:
        if not _ends_whole(fd):
            data = b"\n" + data
        while data:
            data = data[os.write(fd, data) :]


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """The file at `path`, made if absent, open for appending and locked against everybody else who asks here."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            # It may have been moved away while we waited for the lock.
            if _still_there(path, fd):
                yield fd
                return
        finally:
            os.close(fd)


def _still_there(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _ends_whole(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return size == 0 or os.pread(fd, 1, size - 1) == b"\n"
