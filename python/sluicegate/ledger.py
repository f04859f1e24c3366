"""What must be written before a message may be acknowledged: the journal of sent `Id`s, and dead letters.

Dead letters go to a file at once; those for SQS are handed to `deadletter_queue.py`, and `settle` waits for them.

A disk that cannot be written must not stop the traffic, nor go unnoticed: what could not be written is an event with
its number, and the gateway goes on.
"""

from collections.abc import Mapping, Sequence

from .deadletters import DeadLetter, DeadLetterPlace
from .events import EventLog
from .journal import Journal


class Ledger:
    """For all Listeners of a gateway. `dead_letters` by the PacketSource's name; a source may have none."""

    def __init__(
        self, journal: Journal, dead_letters: Mapping[str, DeadLetterPlace], events: EventLog
    ) -> None:
        self._journal = journal
        self._dead_letters = dead_letters
        self._events = events

    def wants(self, source: str) -> bool:
        """True if failures of this PacketSource are to be kept."""
        return source in self._dead_letters

    def sent(self, ids: Sequence[tuple[str, str]]) -> None:
        """`(source, id)` of entries that the kernel has taken."""
        try:
            self._journal.append(ids)
        except OSError as error:
            detail = f"{len(ids)} Ids could not be written to {self._journal.path} ({error.strerror})"
            consequence = "a retry after a restart would be sent again"
            self._events.emit("JournalFailed", Reason="WriteFailed", Detail=f"{detail}: {consequence}")

    def failed(self, letters: Sequence[DeadLetter], *, settles: bool) -> None:
        """Entries of one PacketSource that were not sent; `settles` as in `DeadLetterPlace.append`."""
        first = letters[0]
        place = self._dead_letters[first.source]
        try:
            place.append(letters, settles=settles)
        except OSError as error:
            self._events.emit(
                "DeadLetterFailed",
                Listener=first.listener,
                PacketSource=first.source,
                Reason="WriteFailed",
                Detail=f"{len(letters)} dead letters could not be written to {place.name} ({error.strerror})",
                Letters=len(letters),
            )

    async def settle(self, source: str) -> None:
        """Return once every failure so far of this PacketSource is kept. `NotKept` when the gateway stops first."""
        place = self._dead_letters.get(source)
        if place is not None:
            await place.settle()
