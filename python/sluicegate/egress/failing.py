"""Failures of one Listener's egress: each is an event, and a dead letter where its PacketSource has a place for them.

Failures are noted while a turn of the event loop lasts, and reported together at its end: writing letters and events
costs about the same for one message as for fifty (contract section 4.5).
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import structlog

from sluicegate.deadletters.failures import Failures
from sluicegate.deadletters.letter import FailedMessage
from sluicegate.egress.message import EgressLedger
from sluicegate.events import EventLog
from sluicegate.events.entries import Entries
from sluicegate.events.times import iso_milliseconds
from sluicegate.faults import log_fault

log = structlog.get_logger("sluicegate.egress")

_CANCELLED = "Cancelled"
"""Somebody wanted that: no dead letter."""
_Account = tuple[int | None, int | None, bool, bool]
"""`(source, destination, settles, given back)`: what failures are reported together by."""
_Failed = tuple[str, "Body", Failures]
"""`(message id, body, failures)`."""


class Body(NamedTuple):
    """The body of a message, and the index of its first entry."""

    text: bytes
    first: int = 0


class FailureReports:
    """`sources` and `destinations` are the names in the order of the Port's spec; they follow `rename`."""

    def __init__(
        self,
        listener: str,
        sources: Sequence[str],
        destinations: Sequence[str],
        events: EventLog,
        ledger: EgressLedger | None,
    ) -> None:
        self.listener = listener
        self.sources = list(sources)
        self.destinations = list(destinations)
        self._events = events
        self._ledger = ledger
        self._noted: dict[_Account, list[_Failed]] = {}

    def rename(self, sources: Sequence[str], destinations: Sequence[str]) -> None:
        """The Port's spec has changed: the names in its order."""
        self.sources, self.destinations = list(sources), list(destinations)

    def source(self, index: int | None) -> str | None:
        """The name of the PacketSource at this place."""
        return _name(self.sources, index)

    def note(
        self,
        message_id: str,
        source: int | None,
        destination: int | None,
        body: Body,
        failures: Failures,
        *,
        settles: bool = False,
        given_back: bool = False,
    ) -> None:
        """For `report`, which is to follow in the same turn. What was given back gets no dead letters: it comes again.

        `settles`: the message's sender keeps it until its letters are written.
        """
        account = (source, destination, settles, given_back)
        self._noted.setdefault(account, []).append((message_id, body, failures))

    def report(self) -> None:
        """Write dead letters and events of all that was noted since the last time. Never raises: the outcomes of a
        whole turn depend on this."""
        noted, self._noted = self._noted, {}
        for account, failed in noted.items():
            try:
                self._keep_letters(account, failed)
                self._emit(account, failed)
            except Exception as error:
                self.fault(error, failed[0][0])

    def fault(self, error: Exception, message_id: str) -> None:
        """An outcome was not reported because of a mistake in this program."""
        log_fault(log, "an outcome was not told", error, listener=self.listener, message_id=message_id)

    def _keep_letters(self, account: _Account, failed: Sequence[_Failed]) -> None:
        source, _, settles, given_back = account
        name = self.source(source)
        if self._ledger is None or name is None or given_back or not self._ledger.wants(name):
            return
        at = iso_milliseconds(time.time())
        messages = [
            FailedMessage(name, self.listener, id_, at, body.text, failures, body.first)
            for id_, body, failures in failed
            if failures.reasons().keys() != {_CANCELLED}
        ]
        if messages:
            self._ledger.failed(messages, settles=settles)

    def _emit(self, account: _Account, failed: Sequence[_Failed]) -> None:
        source, destination, _, _ = account
        counts: dict[str, int] = {}
        for _, _, failures in failed:
            for reason, count in failures.reasons().items():
                counts[reason] = counts.get(reason, 0) + count
        for reason, count in counts.items():
            self._events.emit_alike(
                "ReplyFailed" if source is None else "SourceFailed",
                count,
                _details(failed, reason),
                Listener=self.listener,
                Destination=_name(self.destinations, destination),
                PacketSource=self.source(source),
                Reason=reason,
            )


def _details(failed: Iterable[_Failed], reason: str) -> Iterator[dict[str, object]]:
    """What the events of failures for this reason say of each alone."""
    for message_id, body, failures in failed:
        entries = Entries(*body)
        for failure in failures:
            if failure.reason == reason:
                detail: dict[str, object] = {"MessageId": message_id, "Index": failure.index}
                if failure.remote_index is not None:
                    detail["RemoteIndex"] = failure.remote_index
                yield (
                    detail | {"Detail": failure.detail} | entries.fields(failure.index, failure.remote_index)
                )


def _name(names: Sequence[str], index: int | None) -> str | None:
    if index is None:
        return None
    return names[index] if 0 <= index < len(names) else str(index)
