"""Dead letters: every entry that could not be sent, with the reason (contract section 4.5), and the file for them.

In SQS: `deadletter_queue.py`. In a file, one JSON object a line: the gateway appends, and `sluicegate replay` takes the
whole file away, each under the file's lock, so that neither loses what the other does. The file is opened for each
append: failures are rare, and a file that was moved away (by `replay`, by a log rotation) is simply made anew.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

_CUT_DETAIL = 200  # characters of `Detail` in a letter that is cut


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
        return orjson.dumps(self._document(), option=orjson.OPT_APPEND_NEWLINE)

    def text(self, limit: int) -> str:
        """The contract's JSON in at most `limit` bytes (1,024 or more) and in characters that SQS takes.

        Where that needs it, `Entry` is the beginning of the entry's JSON, as text, and `EntryBytes` its whole length.
        """
        document = self._document()
        whole = _dumped(document)
        if len(whole) <= limit:
            return whole.decode()
        entry = self.entry if isinstance(self.entry, str) else orjson.dumps(self.entry).decode()
        cut = document | {"Detail": self.detail[:_CUT_DETAIL], "Entry": "", "EntryBytes": len(entry.encode())}
        room = limit - len(_dumped(cut)) + len(b'""')
        low, high = 0, max(room, 0)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(_dumped(entry[:middle])) <= room else (low, middle - 1)
        return _dumped(cut | {"Entry": entry[:low]}).decode()

    def _document(self) -> dict[str, object]:
        return {
            "PacketSource": self.source,
            "Listener": self.listener,
            "MessageId": self.message_id,
            "Index": self.index,
            "Reason": self.reason,
            "Detail": self.detail,
            "At": self.at,
            "Entry": self.entry,
        }


def _dumped(value: object) -> bytes:
    """JSON without the two characters that SQS refuses: inside of a JSON string an escape says the same."""
    return orjson.dumps(value).replace(b"\xef\xbf\xbe", b"\\ufffe").replace(b"\xef\xbf\xbf", b"\\uffff")


class NotKept(Exception):
    """The gateway stopped before the dead letters were kept: what they came from is not to be acknowledged."""


class DeadLetterPlace(Protocol):
    """Where the dead letters of a PacketSource go."""

    @property
    def name(self) -> str:
        """For people: a path or an ARN."""

    def append(self, letters: Sequence[DeadLetter], *, settles: bool) -> None:
        """Keep them, now or soon. `settles`: whoever sent the message keeps it until `settle` has returned, so it may
        wait for room; otherwise what finds no room is lost and reported. Raises `OSError` if they are lost."""

    async def settle(self) -> None:
        """Return once everything appended so far is kept. `NotKept` when the gateway stops first."""


class DeadLetterFile:
    """`file:PATH` of a PacketSource's `DeadLetterQueueArn`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return str(self.path)

    def append(self, letters: Sequence[DeadLetter], *, settles: bool) -> None:
        """At once. Raises `OSError`; then none, or only a cut line, is in the file."""
        append_lines(self.path, b"".join(letter.line() for letter in letters))

    async def settle(self) -> None:
        """At once."""


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
