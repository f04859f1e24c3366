"""Which messages have ended: every entry sent, failed and kept, or a duplicate (contract section 4.3).

A queue gives a message again when its delete did not arrive, when SNS delivered it twice, or after a crash between
sending and deleting. By its MessageId it is then deleted and not sent again. Remembered are: those that the journal
recalls of the time before this start, those whose delete has not been confirmed, and the most recent ones.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from sluicegate.events import EventLog
from sluicegate.state.journal import Journal

_Key = tuple[str, str]


class Ended:
    """For all queues of a gateway; keys are `(PacketSource, MessageId)`. Of those that were deleted at least `limit`
    are remembered, at most twice as many."""

    def __init__(self, journal: Journal, events: EventLog, *, limit: int) -> None:
        self._journal = journal
        self._events = events
        self._limit = limit
        self._recalled: frozenset[bytes] = frozenset()
        self._unconfirmed: set[bytes] = set()
        self._recent: set[bytes] = set()
        self._older: set[bytes] = set()

    def recall(self) -> None:
        """Read the journal before the first message, once for all sources. Raises `OSError`."""
        if not self._recalled:
            self._recalled = frozenset(_digest((source, id_)) for source, id_, _ in self._journal.recall())

    def has(self, source: str, message_id: str) -> bool:
        """True if this message has ended."""
        key = _digest((source, message_id))
        return key in self._recent or key in self._unconfirmed or key in self._older or key in self._recalled

    def add(self, keys: Sequence[_Key]) -> None:
        """These ended just now: one write, and then they may be deleted. A full disk is an event and stops nothing."""
        self._unconfirmed.update(map(_digest, keys))
        try:
            self._journal.append(keys)
        except OSError as error:
            detail = f"{len(keys)} MessageIds could not be written to {self._journal.path} ({error.strerror})"
            consequence = "after a crash now they would be sent again"
            self._events.emit("JournalFailed", Reason="WriteFailed", Detail=f"{detail}: {consequence}")

    def deleted(self, keys: Iterable[_Key]) -> None:
        """The queue has confirmed that these are gone."""
        for key in map(_digest, keys):
            self._unconfirmed.discard(key)
            self._recent.add(key)
        if len(self._recent) >= self._limit:
            self._older, self._recent = self._recent, set()


def _digest(key: _Key) -> bytes:
    """The key in a quarter of its memory."""
    return blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=16).digest()
