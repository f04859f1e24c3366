"""Messages to source, how they end, and what a Listener's egress (`egress.py`) needs around it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sluicegate.deadletters.failures import Failure
from sluicegate.deadletters.letter import FailedMessage
from sluicegate.state.waiting import WaitingRow


class EgressClosed(Exception):
    """The Listener is stopping: the message was not taken, or its end was not seen any more."""


class EgressFull(Exception):
    """The ring had no room within the time given: the sender is slower than the publishers. Try again
    later."""


@dataclass(frozen=True, slots=True)
class Due:
    """Says of a message that it is an entry whose `SendAt` has come: its place in the message that it came with, the
    `Id`s that were given with it, and whether it should have left before now."""

    index: int
    ids: Sequence[str] = ()
    overdue: bool = False


@dataclass(slots=True)
class Message:
    """One sourced message. `source` is the index of the PacketSource in the Listener's spec, `body` the JSON
    of contract section 4.1 as received, `published_at` Unix seconds. With a `refusal` `(reason, detail)`
    every entry fails so. `settles`: its sender keeps it until `settle` has returned, so that its dead letters
    need never be dropped. `due`: it is an entry that waited in the state."""

    message_id: str
    source: int
    body: bytes
    published_at: float | None = None
    refusal: tuple[str, str] | None = None
    settles: bool = True
    due: Due | None = None


@dataclass(slots=True)
class Outcome:
    """How a message ended: `entries == sent + duplicates + len(failures) + scheduled`, where each of an
    entry's `Remotes` counts as one. `letters_lost`: there was no room for the
    dead letters of its failures, which only happens to a message that does not settle.

    >>> from sluicegate import Outcome
    >>> Outcome("m1", entries=2, sent=2, duplicates=0, failures=[]).failures
    []
    """

    message_id: str
    entries: int
    sent: int
    duplicates: int
    failures: Sequence[Failure]
    letters_lost: bool = False
    scheduled: int = 0


class Ended(Protocol):
    """What `_native.Completion` shows."""

    @property
    def message_id(self) -> str: ...
    @property
    def source(self) -> int | None: ...
    @property
    def destination(self) -> int | None: ...
    @property
    def entries(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def failures(self) -> list[tuple[int | None, str, str]]: ...
    @property
    def remote_indexes(self) -> list[int | None]: ...
    @property
    def scheduled(self) -> list[tuple[int, int | None, int, str | None]]: ...


class EgressLedger(Protocol):
    """What is written before anything is acknowledged: `sluicegate.egress.ledger.Ledger`. Never raises."""

    def wants(self, source: str) -> bool: ...
    def sent(self, ids: Sequence[tuple[str, str]]) -> None: ...
    def failed(self, messages: Sequence[FailedMessage], *, settles: bool) -> None: ...
    def congested(self, sources: Sequence[str]) -> bool: ...
    def settled(self, source: str) -> bool: ...
    async def settle(self, source: str) -> None: ...


class Keeper(Protocol):
    """Keeps entries until their `SendAt`: `sluicegate.egress.waiting.Waiting`."""

    @property
    def full(self) -> bool:
        """True while much waits for the disk."""

    def keep(self, rows: Sequence[WaitingRow], kept: Callable[[Sequence[int]], None]) -> None:
        """Keep them, and call `kept` once they are on the disk."""


class EgressPort(Protocol):
    """The part of `_native.Port` that sends; a test brings its own."""

    def submit(
        self, messages: Sequence[tuple[str, float | None, int, bytes, tuple[str, str] | None]], /
    ) -> int: ...
    def submit_due(
        self,
        messages: Sequence[
            tuple[
                tuple[str, float | None, int, bytes, tuple[str, str] | None], tuple[int, Sequence[str], bool]
            ]
        ],
        /,
    ) -> int: ...
    def reply(self, destination: int, request_id: str, body: bytes, /) -> bool: ...
    def on_completions(self, callback: Callable[[], object] | None, /) -> None: ...
    def completions(self) -> Sequence[Ended]: ...
    def sent_ids(self) -> Sequence[tuple[int, str]]: ...
