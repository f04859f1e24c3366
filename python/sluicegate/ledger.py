"""What must be written before a message may be acknowledged: the journal of sent `Id`s, and dead letters.

A disk that cannot be written must not stop the traffic, nor go unnoticed: what could not be written is an event with
its number, and the gateway goes on.
"""

from collections.abc import Mapping, Sequence

from .deadletters import DeadLetter, DeadLetterFile
from .events import EventLog
from .journal import Journal


class Ledger:
    """For all Listeners of a gateway. `dead_letters` by the PacketSource's name; a source may have none."""

    def __init__(
        self, journal: Journal, dead_letters: Mapping[str, DeadLetterFile], events: EventLog
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

    def failed(self, letters: Sequence[DeadLetter]) -> None:
        """Entries of one PacketSource that were not sent."""
        source = letters[0].source
        file = self._dead_letters[source]
        try:
            file.append(letters)
        except OSError as error:
            detail = f"{len(letters)} dead letters could not be written to {file.path} ({error.strerror})"
            self._events.emit("DeadLetterFailed", PacketSource=source, Reason="WriteFailed", Detail=detail)
