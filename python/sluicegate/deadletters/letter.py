"""Dead letters: every entry that could not be sent, with the reason (contract section 4.5).

Where they go: `file.py` and `queue.py`, and what both have in common, `keeper.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from sluicegate.deadletters.failures import Failure, Failures
from sluicegate.events.entries import Entries

_CUT_DETAIL = 200  # characters of `Detail` in a letter that is cut
_CUT_REMOTES = 16  # of more than these it does not say which they are
LETTER_BYTES = 262_144
"""The default limit of a queue's messages before 2025, which most queues still have; larger letters are cut."""
ALONE_BYTES = 64 << 10
ALONE_TIMES = 4
SHARING = 100  # entries of one line at most
_SHARED_BYTES = 64 << 10  # of its entries, unless it is one


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, with its end, and how many failed entries it is for."""

    data: bytes
    entries: int


@dataclass(slots=True)
class DeadLetter:
    """`of` one message. Where the failure is the body's as a whole, `entry` is that body as text.

    `remote_indexes`: the places of its `Remotes` in those of the message's entry. They fail for one reason, and the
    detail is that of the first.
    """

    of: "FailedMessage"
    failure: Failure
    entry: object
    remote_indexes: Sequence[int] = ()

    @property
    def failures(self) -> int:
        """For how many failures it stands."""
        return len(self.remote_indexes) or 1

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
        if len(self.remote_indexes) > _CUT_REMOTES:
            del document["RemoteIndexes"]
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
        remotes = {"RemoteIndexes": self.remote_indexes} if self.remote_indexes else {}
        return {
            "PacketSource": of.source,
            "Listener": of.listener,
            "MessageId": of.message_id,
            "Index": failure.index,
            **remotes,
            "Reason": failure.reason,
            "Detail": failure.detail,
            "At": of.at,
            "Entry": self.entry,
        }


def _at(remotes: Sequence[object], place: int) -> object:
    return remotes[place] if 0 <= place < len(remotes) else None


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
    first: int = 0
    """The index of the body's first entry."""

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""
        return len(self.body) + self.failures.held_bytes

    def letters(self) -> Iterator[DeadLetter]:
        """One for each failure, in their order; then those of `Remotes`."""
        entries = Entries(self.body, self.first)
        alone, shared = self.failures.split()
        for failure in alone:
            yield DeadLetter(self, failure, entries.entry(failure.index))
        for failures in shared:
            yield from self._of_remotes(failures, entries.entry(failures[0].index))

    def _of_remotes(self, failures: Sequence[Failure], entry: object) -> Iterator[DeadLetter]:
        """Letters of an entry's `Remotes` that failed for one reason: the payload, and as many of them as fit."""
        places = [failure.remote_index or 0 for failure in failures]
        remotes = entry.get("Remotes") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(remotes, list):
            yield DeadLetter(self, failures[0], entry, places)
            return
        bare = DeadLetter(self, failures[0], entry | {"Remotes": []}, places[:1])
        room = max(LETTER_BYTES - len(_dumped(bare._document())), LETTER_BYTES // 4)
        start = size = 0
        for end, place in enumerate(places):
            length = len(_dumped(_at(remotes, place))) + len(f",{place},")
            if end > start and size + length > room:
                yield self._of_some(failures[start:end], entry, remotes)
                start, size = end, 0
            size += length
        yield self._of_some(failures[start:], entry, remotes)

    def _of_some(
        self, failures: Sequence[Failure], entry: dict[str, object], remotes: Sequence[object]
    ) -> DeadLetter:
        places = [failure.remote_index or 0 for failure in failures]
        return DeadLetter(
            self, failures[0], entry | {"Remotes": [_at(remotes, place) for place in places]}, places
        )

    def lines(self) -> Iterator[Line]:
        """The same as lines of a file, and bounded: the failures that have none within `ALONE_BYTES` and `ALONE_TIMES`
        the body share lines, those with one reason and detail.

        A body of `[1,1,1,…]` would else become more than a hundred times as long.
        """
        entries = Entries(self.body, self.first)
        alone, shared = self.failures.split()
        for failures in shared:
            for letter in self._of_remotes(failures, entries.entry(failures[0].index)):
                yield Line(letter.line(), letter.failures)
        room = ALONE_BYTES + ALONE_TIMES * len(self.body)
        count = 0
        for failure in alone:
            if room <= 0:
                break
            line = DeadLetter(self, failure, entries.entry(failure.index)).line()
            room -= len(line)
            count += 1
            yield Line(line, 1)
        for alike in alone.alike(count):
            found: list[object] = []
            size = 0
            for place, failure in enumerate(alike):
                entry = entries.entry(failure.index)
                length = len(orjson.dumps(entry))
                if found and (size + length > _SHARED_BYTES or len(found) == SHARING):
                    yield self._shared(alike[place - len(found) : place], found)
                    found, size = [], 0
                found.append(entry)
                size += length
            yield self._shared(alike[len(alike) - len(found) :], found)

    def _shared(self, failures: Sequence[Failure], entries: Sequence[object]) -> Line:
        document = {
            "PacketSource": self.source,
            "Listener": self.listener,
            "MessageId": self.message_id,
            "Indexes": [failure.index for failure in failures],
            "Reason": failures[0].reason,
            "Detail": failures[0].detail,
            "At": self.at,
            "Entries": entries,
        }
        return Line(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE), len(failures))


class NotKept(Exception):
    """The gateway stopped before the dead letters were kept: what they came from is not to be acknowledged."""


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
        """Keep their letters soon. `settles`: whoever sent the message keeps it until `settle` has returned, so it may
        wait for room; otherwise what finds no room is lost, reported, and marked so (`Failures.lost`)."""

    async def settle(self) -> None:
        """Return once everything appended so far is kept. `NotKept` when the gateway stops first."""
