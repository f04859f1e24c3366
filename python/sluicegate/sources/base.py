"""What brings messages to a Listener: a `MessageSource`, for each way in (contract section 4.2).

A MessageSource carries the messages of one PacketSource to the egress of its Listener, and does nothing else with
them: the native side reads, judges and sends them, `egress.py` reports how they ended.

Its life, in this order:

    make       `create`: reads the resource; no side effects
    provision  `provision()`: opens or checks what it needs outside the process; takes no message
    run        `run()`: takes messages until it is cancelled
    drain      `drain(seconds)`: lets end what was taken, and acknowledges it
    close      `close()`: gives back what has not ended; is called after a failed `provision` too

Who acknowledges, and when. Somebody outside keeps each message until the MessageSource acknowledges it: a queue deletes
it, a stream moves its cursor on. The MessageSource alone acknowledges, and only after

- each entry of the message has ended: as sent, as failed, or as a duplicate (`Sender.send` returns), and
- each failure has been written where dead letters go (`Sender.settle` returns).

A message that is not acknowledged comes again. So a crash may repeat packets, and loses none. `carry` does all of this
for a message; a MessageSource with needs of its own calls the `Sender` itself.

A publisher that waits for an answer and keeps nothing (the gateway's own SNS endpoint, REST) is told at once when the
sender has no room; its messages have `settles=False`, or nobody waits for their end.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import structlog

from sluicegate.egress.message import EgressClosed, Message, Outcome
from sluicegate.events import EventLog
from sluicegate.faults import log_fault
from sluicegate.localcode import LocalCode, Outside
from sluicegate.model import PacketSource, Resource

log = structlog.get_logger("sluicegate.sources")

CONGESTED_SECONDS = 0.5
"""How often it is looked whether the dead letters of other PacketSources have been written; one's own report it."""

T = TypeVar("T")


class SourceError(Exception):
    """A MessageSource cannot be made or provisioned until the user changes something.

    `cause` says what is wrong, `fix` the next step.

    >>> from sluicegate import SourceError
    >>> str(SourceError("readings.ndjson does not exist", "create it"))
    'readings.ndjson does not exist: create it'
    """

    def __init__(self, cause: str, fix: str) -> None:
        if not (isinstance(cause, str) and isinstance(fix, str)):
            raise TypeError("cause and fix of a SourceError are text")
        super().__init__(f"{cause}: {fix}")
        self.cause = cause
        self.fix = fix


class Sender(Protocol):
    """Takes messages for one Listener: `sluicegate.egress.egress.Egress`, or `sluicegate.testing.MemorySender`."""

    @property
    def full(self) -> bool:
        """True while `try_submit` would take nothing, or dead letters wait beyond their bound: whoever can refuse a
        message is to refuse it."""

    @property
    def congested(self) -> bool:
        """True while dead letters of this Listener wait beyond their bound: fetch nothing more, submit nothing more.
        `settle` returns when they are written."""

    def try_submit(
        self,
        messages: Sequence[Message],
        ended: Callable[[Outcome], None] | None = None,
        gone: Callable[[], object] | None = None,
    ) -> int:
        """Take messages without waiting; how many, from the first on. `ended` gets the outcome of each; `gone` is
        called for each that has none, because the Listener was closed."""

    def submit_later(self, message: Message, ended: Callable[[Outcome], None] | None = None) -> None:
        """Take a message that must not be refused any more. `ended` gets its outcome."""

    async def send(self, message: Message, *, room_seconds: float | None = None) -> Outcome:
        """Take a message, waiting for room, and return once each of its entries has ended.

        Raises `EgressFull` after `room_seconds` without room, and `EgressClosed` when the gateway stops first.
        """

    def send_now(self, message: Message) -> asyncio.Future[Outcome] | None:
        """Take a message without waiting, None if it cannot be taken so. The future brings what `send` returns."""

    def settled(self, source: int) -> bool:
        """True if `settle` would return at once."""

    async def settle(self, source: int) -> None:
        """Return once every failure reported so far for this PacketSource is written where its dead letters go: then
        a message may be acknowledged. Raises `EgressClosed` when the gateway stops first."""

    def give_back(self, source: int, message_ids: Iterable[str]) -> None:
        """These messages have not ended and come again: their failures become no dead letters."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a MessageSource may know of the gateway around it.

    `index` is the PacketSource's place in its Listener's spec: `Message.source`. `state` is `Active`, `Disabled`,
    `PendingApproval` or `Rejected` (contract section 1.3). `settings` are what stands under the source kind in the
    PacketSource, an instance of the class's `Settings`. Relative paths are relative to `base_dir`. `services` are what
    all sources of a gateway share, by their types. `local_code`: folders below which files must lie where the document
    came by the API, else None.

    >>> from sluicegate import SourceContext
    >>> from sluicegate.testing import MemorySender
    >>> SourceContext(MemorySender(), listener="decoder").state
    'Active'
    """

    sender: Sender
    index: int = 0
    listener: str = ""
    state: str = "Active"
    settings: Any = None
    region: str = "us-east-1"
    base_dir: Path = Path()
    events: EventLog = field(default_factory=EventLog)
    services: Mapping[type[Any], object] = field(default_factory=dict)
    local_code: LocalCode | None = None

    def local_path(self, text: str, *, written: bool = False) -> Path:
        """The file that `text` names, relative to `base_dir`. `written`: the source writes to it.

        Where the document came by the API, symbolic links are resolved, and a file outside of `local_code` raises
        `SourceError`.
        """
        path = self.base_dir / text
        if self.local_code is None:
            return path
        try:
            return self.local_code.writable(path) if written else self.local_code.inside(path)
        except Outside as error:
            raise SourceError(error.cause, error.fix) from None

    def service(self, kind: type[T]) -> T | None:
        """The service of this type, None where the gateway has none."""
        found = self.services.get(kind)
        return found if isinstance(found, kind) else None


class MessageSource(ABC):
    """One PacketSource's way in. To write one, subclass it and register it as an entry point of the group
    `sluicegate.sources`; the entry point's name is the source kind:

        [project.entry-points."sluicegate.sources"]
        LineFile = "my_package.lines:LineFileSource"

    A PacketSource names it under `message_source`, and what stands there is read with the class's `Settings`:

        packet_sources:
          - { name: readings, listener_name: decoder, message_source: { line_file: { path: readings.ndjson } } }

    For example, each line of a file is a message; the numbers of lines that have ended are written to a second file:

        >>> from sluicegate import MessageSource, Outcome, Resource, SourceError
        >>> class LineFileSource(MessageSource):
        ...     class Settings(Resource):
        ...         path: str
        ...
        ...     async def provision(self) -> None:
        ...         self._path = self.context.local_path(self.context.settings.path)
        ...         if not self._path.exists():
        ...             raise SourceError(f"{self._path} does not exist", "create it")
        ...
        ...     async def run(self) -> None:
        ...         for number, line in enumerate(self._path.read_bytes().splitlines()):
        ...             await self.carry(str(number), line, acknowledge=self._remember)
        ...
        ...     async def _remember(self, outcome: Outcome) -> None:
        ...         with self._path.with_suffix(".done").open("a") as done:
        ...             print(outcome.message_id, file=done)

    Everything runs in the gateway's event loop and must not block it; calls that can only block belong into
    `sluicegate.threads.Threads`. The module's text says who acknowledges a message, and when.
    """

    class Settings(Resource):
        """What stands under the source kind. Nothing, unless a subclass replaces it."""

    in_flight_limit: ClassVar[int] = 1000
    """Messages that `carry` has under way at most. 1 keeps the order of messages."""
    subscription: str = "Subscribed"
    """`Subscribed`, `Pending` while that is not known yet, `Failed` when it was refused; both are tried again."""
    subscription_problem: str = ""
    """What is in the way of a subscription, with the next step."""

    def __init__(self, name: str, context: SourceContext) -> None:
        self.name = name
        self.context = context
        self.index = context.index
        self.sender = context.sender
        self._places = asyncio.Semaphore(self.in_flight_limit)
        self._carried: dict[asyncio.Task[None], str] = {}

    @classmethod
    def create(cls, resource: PacketSource, context: SourceContext) -> Self | MessageSource | None:
        """Make what takes the messages of a PacketSource in `context.state`; None if nothing is to be taken.

        Reads the resource, without side effects. Raises `SourceError`.
        """
        return cls(resource.name, context) if context.state == "Active" else None

    @abstractmethod
    async def provision(self) -> None:
        """Open or check what this source needs; take no message yet. May be called again.

        Raises `SourceError` when that cannot work until the user changes something: then nothing of the new
        configuration starts. What may mend itself (a server that cannot be reached) is for `run` to try again.
        """

    @abstractmethod
    async def run(self) -> None:
        """Take messages until cancelled, or until there will be no more. What a message holds never makes it raise."""

    async def drain(self, seconds: float) -> None:
        """After `run`: wait for at most `seconds` until what was taken has ended and is acknowledged."""
        if self._carried:
            await asyncio.wait(list(self._carried), timeout=max(0.0, seconds))

    async def close(self) -> None:
        """Give back what has not ended, and release everything. May be called twice, and after a failed `provision`.

        Whoever overrides it calls this one first.
        """
        left = dict(self._carried)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if left:
            self.sender.give_back(self.index, left.values())

    async def carry(
        self,
        message_id: str,
        body: bytes,
        acknowledge: Callable[[Outcome], Awaitable[None]],
        *,
        published_at: float | None = None,
    ) -> None:
        """Hand over one message for `run`. Returns once it is under way, for which it may have to wait.

        `body` is the JSON of contract section 4.1, `published_at` Unix seconds. `acknowledge(outcome)` is called once,
        when the message has ended and its failures are written. It is not called if the gateway stops before that: the
        message has to come again. An exception in `acknowledge` is logged, and the message counts as not acknowledged.
        """
        await self._places.acquire()
        try:
            await decongested(self.sender, self.index)
        except BaseException:
            self._places.release()
            raise
        message = Message(message_id, self.index, body, published_at)
        task = asyncio.create_task(self._carry(message, acknowledge), name=f"carry {message_id}")
        self._carried[task] = message_id
        task.add_done_callback(self._on_carried)

    async def _carry(self, message: Message, acknowledge: Callable[[Outcome], Awaitable[None]]) -> None:
        try:
            outcome = await self.sender.send(message)
            if outcome.failures and not self.sender.settled(self.index):
                await self.sender.settle(self.index)
        except EgressClosed:
            return  # it comes again
        await acknowledge(outcome)

    def _on_carried(self, task: asyncio.Task[None]) -> None:
        self._carried.pop(task)
        self._places.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log_fault(log, "a message was not acknowledged", error, packet_source=self.name)


async def decongested(sender: Sender, index: int) -> None:
    """Return once no dead letters of the sender's Listener wait beyond their bound. Raises `EgressClosed`."""
    while sender.congested:
        await sender.settle(index)
        if sender.congested:
            await asyncio.sleep(CONGESTED_SECONDS)
