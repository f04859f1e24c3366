"""Dead letters: every entry that could not be sent, with the reason (contract section 4.5), and the file for them.

In SQS: `queue.py`. In a file, one JSON object a line: the gateway appends, and `sluicegate replay` takes the
whole file away, each under the file's lock, so that neither loses what the other does. The file is opened for each
append: failures are rare, and a file that was moved away (by `replay`, by a log rotation) is simply made anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from sluicegate.deadletters.failures import Failure, Failures
from sluicegate.events.entries import Entries
from sluicegate.linefile import append_locked

_CUT_DETAIL = 200  # characters of `Detail` in a letter that is cut
_PIECE_BYTES = 1 << 20  # of lines that are written as one


@dataclass(slots=True)
class DeadLetter:
    """`of` one message. Where the failure is the body's as a whole, `entry` is that body as text."""

    of: "FailedMessage"
    failure: Failure
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
        cut = document | {
            "Detail": self.failure.detail[:_CUT_DETAIL],
            "Entry": "",
            "EntryBytes": len(entry.encode()),
        }
        room = limit - len(_dumped(cut)) + len(b'""')
        low, high = 0, max(room, 0)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(_dumped(entry[:middle])) <= room else (low, middle - 1)
        return _dumped(cut | {"Entry": entry[:low]}).decode()

    def _document(self) -> dict[str, object]:
        of, failure = self.of, self.failure
        return {
            "PacketSource": of.source,
            "Listener": of.listener,
            "MessageId": of.message_id,
            "Index": failure.index,
            "Reason": failure.reason,
            "Detail": failure.detail,
            "At": of.at,
            "Entry": self.entry,
        }


def _dumped(value: object) -> bytes:
    """JSON without the two characters that SQS refuses: inside of a JSON string an escape says the same."""
    return orjson.dumps(value).replace(b"\xef\xbf\xbe", b"\\ufffe").replace(b"\xef\xbf\xbf", b"\\uffff")


@dataclass(slots=True)
class FailedMessage:
    """The failed entries of one message, of which each is to be a dead letter.

    The letters are made when they are written: together they may be hundreds of times as long as the body. `at` is
    ISO 8601 UTC.
    """

    source: str
    listener: str
    message_id: str
    at: str
    body: bytes
    failures: Failures

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""
        return len(self.body) + self.failures.held_bytes

    def letters(self) -> Iterator[DeadLetter]:
        """In the order of the failures."""
        entries = Entries(self.body)
        for failure in self.failures:
            yield DeadLetter(self, failure, entries.entry(failure.index))


class NotKept(Exception):
    """The gateway stopped before the dead letters were kept: what they came from is not to be acknowledged."""


class NotWritten(OSError):
    """So many letters are lost, for this cause."""

    def __init__(self, letters: int, cause: OSError) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.letters = letters


class DeadLetterPlace(Protocol):
    """Where the dead letters of a PacketSource go."""

    @property
    def name(self) -> str:
        """For people: a path or an ARN."""

    @property
    def congested(self) -> bool:
        """True while more waits than is meant to: who settles its messages is to bring no more of them."""

    @property
    def settled(self) -> bool:
        """True if everything appended so far is kept: `settle` would return at once."""

    def append(self, messages: Sequence[FailedMessage], *, settles: bool) -> None:
        """Keep their letters, now or soon. `settles`: whoever sent the message keeps it until `settle` has returned, so
        it may wait for room; otherwise what finds no room is lost and reported. Raises `NotWritten`."""

    async def settle(self) -> None:
        """Return once everything appended so far is kept. `NotKept` when the gateway stops first."""


class DeadLetterFile:
    """`file:PATH` of a PacketSource's `DeadLetterQueueArn`. `links` as for `linefile.open_lines`."""

    def __init__(self, path: Path, *, links: bool = True) -> None:
        self.path = path
        self._links = links

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def congested(self) -> bool:
        """Never: nothing waits."""
        return False

    @property
    def settled(self) -> bool:
        """Always: `append` writes."""
        return True

    def append(self, messages: Sequence[FailedMessage], *, settles: bool) -> None:
        """At once, and without messages make the file. Raises `NotWritten`."""
        left = sum(len(message.failures) for message in messages)
        lines: list[bytes] = []
        size = 0
        try:
            for message in messages:
                for letter in message.letters():
                    line = letter.line()
                    lines.append(line)
                    size += len(line)
                    if size > _PIECE_BYTES:
                        append_locked(self.path, b"".join(lines), links=self._links)
                        left -= len(lines)
                        lines, size = [], 0
            if lines or not messages:
                append_locked(self.path, b"".join(lines), links=self._links)
        except OSError as error:
            raise NotWritten(left, error) from error

    async def settle(self) -> None:
        """At once."""
