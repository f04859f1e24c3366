"""What must be written before a message may be acknowledged: the journal of sent `Id`s, and dead letters.

Dead letters are handed to their place (`deadletters/keeper.py`), and `settle` waits for them.

A disk that cannot be written must not go unnoticed: `Id`s that could not be written are an event with their number, and
the gateway goes on; dead letters wait, as long as there is room for them.
"""

from collections.abc import Mapping, Sequence

import structlog

from sluicegate.deadletters.letter import DeadLetterPlace, FailedMessage
from sluicegate.events import EventLog
from sluicegate.faults import log_fault
from sluicegate.state.journal import Journal

log = structlog.get_logger("sluicegate.ledger")


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

    def congested(self, sources: Sequence[str]) -> bool:
        """True while dead letters of one of these PacketSources wait beyond the bound of their place."""
        return any(place.congested for name, place in self._dead_letters.items() if name in sources)

    def sent(self, ids: Sequence[tuple[str, str]]) -> None:
        """`(source, id)` of entries that the kernel has taken."""
        try:
            self._journal.append(ids)
        except Exception as error:
            cause = _cause("Ids could not be written down", error)
            detail = f"{len(ids)} Ids could not be written to {self._journal.path} ({cause})"
            consequence = "a retry after a restart would be sent again"
            self._events.emit("JournalFailed", Reason="WriteFailed", Detail=f"{detail}: {consequence}")

    def failed(self, messages: Sequence[FailedMessage], *, settles: bool) -> None:
        """Messages of one PacketSource with entries that were not sent; `settles` as in `DeadLetterPlace.append`."""
        first = messages[0]
        place = self._dead_letters[first.source]
        try:
            place.append(messages, settles=settles)
        except Exception as error:
            lost = sum(len(message.failures) for message in messages)
            cause = _cause("dead letters could not be kept", error, source=first.source)
            self._events.emit(
                "DeadLetterFailed",
                Listener=first.listener,
                PacketSource=first.source,
                Reason="InternalError",
                Detail=f"{lost} dead letters could not be kept in {place.name} ({cause})",
                Letters=lost,
            )

    def settled(self, source: str) -> bool:
        """True if `settle` would return at once."""
        place = self._dead_letters.get(source)
        return place is None or place.settled

    async def settle(self, source: str) -> None:
        """Return once every failure so far of this PacketSource is kept. `NotKept` when the gateway stops first."""
        place = self._dead_letters.get(source)
        if place is not None:
            await place.settle()


def _cause(what: str, error: Exception, **names: object) -> str:
    """For an event. What nobody expects stands in the log, and must not keep anybody from being told of an outcome."""
    if isinstance(error, OSError):
        return error.strerror or "the system does not say why"
    log_fault(log, what, error, **names)
    return "an error in the gateway, see its log"
