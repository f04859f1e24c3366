"""Polls of one queue, as many as its backlog wants, and deletes (contract section 4.2).

One long poll is always out: a trickle costs three requests a minute. A poll that comes back full starts another one,
up to `POLLS`, and each of those ends when it comes back empty. Every poll has its room before it goes out, so that what
it brings is never more than may be in flight.

While the queue cannot be reached one poll tries again with growing pauses; everything that is known of the messages
stays, and deletes wait for their turn.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sluicegate.aws import AwsError, QueueMessage
from sluicegate.backoff import Backoff
from sluicegate.sources.topic.queue import LONG_POLL_SECONDS, VISIBILITY_SECONDS, is_gone
from sluicegate.sources.topic.room import Room

BATCH = 10  # SQS: messages in one request
POLLS = 32
DELETES = 4
"""Requests for deletes at the same time; each takes up to `DELETE_BATCHES` batches."""
DELETE_BATCHES = 10
LINGER_SECONDS = 0.02
"""How long a delete waits for others, to go out ten at a time."""

PAUSES = Backoff(0.5, 20.0)
_HANDLE_GONE = frozenset(
    ("ReceiptHandleIsInvalid", "InvalidParameterValue", "InvalidParameterValueException", "InvalidIdFormat")
)
"""SQS's words for a receipt that is no longer valid: the message comes again and is recognized then."""


class QueueCalls(Protocol):
    """`sluicegate.aws.Queue`, or a test's."""

    async def receive(
        self, *, limit: int = 10, wait_seconds: int = 20, visibility_seconds: int | None = None
    ) -> list[QueueMessage]: ...
    async def delete(self, receipts: Sequence[str]) -> list[tuple[int, str]]: ...
    async def extend(self, receipts: Sequence[str], seconds: int) -> list[tuple[int, str]]: ...


@dataclass(slots=True)
class SourceStats:
    """What a source counts, of all its queues. All grow only but `in_flight` (not deleted yet) and `polls`."""

    received: int = 0
    redelivered: int = 0
    skipped: int = 0
    repeated: int = 0
    deleted: int = 0
    extended: int = 0
    extend_failures: int = 0
    poll_errors: int = 0
    delete_errors: int = 0
    in_flight: int = 0
    polls: int = 0


@dataclass(slots=True)
class Receipt:
    """The right to delete one message. `key` is its place in the memory of what has ended, None where it has none."""

    handle: str
    key: tuple[str, str] | None = None


class QueueOwner(Protocol):
    """Whose messages a `Consumer` fetches: the PacketSource's `SnsSource`. None of these blocks or raises."""

    def take(self, consumer: "Consumer", message: QueueMessage, /) -> None:
        """One message as it comes from the queue: it is the owner's until it is deleted."""

    def deleted(self, receipts: Sequence[Receipt], /) -> None:
        """The queue has confirmed that these messages are gone."""

    def failed(self, consumer: "Consumer", error: AwsError, /) -> None:
        """A request failed; it is tried again."""

    def recovered(self, operation: str, /) -> None:
        """An operation of SQS works again, e.g. `ReceiveMessage`."""

    def fault(self, what: str, error: BaseException, /) -> None:
        """A mistake of this program: what was being done, and the exception that nobody expected."""


class Consumer:
    """One queue. Belongs to the event loop."""

    def __init__(
        self, queue: QueueCalls, arn: str, owner: QueueOwner, room: Room, stats: SourceStats
    ) -> None:
        self.arn = arn
        self._queue = queue
        self._owner = owner
        self._room = room
        self._stats = stats
        self._helpers: set[asyncio.Task[None]] = set()
        self._deletes = _Deletes(queue, self, owner, stats)
        self._extends = True
        self._empty_since: float | None = None
        self.ends: Callable[[float], Awaitable[bool]] | None = None
        """Asked after a poll without message whether that was the last one, with the time (of the loop) from which on
        polls brought nothing. None: it goes on."""

    async def poll(self) -> None:
        """Fetch until cancelled, or until `ends` says so."""
        failures = 0
        try:
            while True:
                try:
                    count = await self._fetch(LONG_POLL_SECONDS)
                except AwsError as error:
                    failures += 1
                    self._empty_since = None
                    self._stats.poll_errors += 1
                    self._owner.failed(self, error)
                    await asyncio.sleep(PAUSES.pause(failures))
                    continue
                if failures:
                    failures = 0
                    self._owner.recovered("ReceiveMessage")
                if count == 0 and await self._is_over():
                    return
        finally:
            for helper in self._helpers:
                helper.cancel()

    async def _is_over(self) -> bool:
        since = self._empty_since
        return self.ends is not None and since is not None and await self.ends(since)

    async def _fetch(self, wait_seconds: int) -> int:
        await self._room.take()
        self._stats.polls += 1
        began = asyncio.get_running_loop().time()
        try:
            messages = await self._queue.receive(
                limit=self._room.share, wait_seconds=wait_seconds, visibility_seconds=VISIBILITY_SECONDS
            )
            for message in messages:
                self._owner.take(self, message)
        finally:
            self._stats.polls -= 1
            self._room.give()
        if messages:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = began
        if len(messages) == self._room.share and len(self._helpers) < POLLS - 1 and self._room.open:
            helper = asyncio.create_task(self._help(), name="another poll")
            self._helpers.add(helper)
            helper.add_done_callback(self._helpers.discard)
        return len(messages)

    async def _help(self) -> None:
        try:
            while await self._fetch(1):
                pass
        except AwsError:
            return  # the business of the poll that is always there
        except Exception as error:
            self._owner.fault("a poll ended", error)

    def delete(self, receipts: Sequence[Receipt]) -> None:
        """Delete these as soon as may be; `QueueOwner.deleted` tells when they are gone."""
        self._deletes.add(receipts)

    async def extend(self, receipts: Sequence[str], seconds: int) -> bool:
        """Keep messages from others for so long from now on; false if the queue did not answer.

        One that cannot be extended comes again, and is counted."""
        try:
            failed = len(await self._queue.extend(receipts, seconds))
        except AwsError as error:
            self._stats.extend_failures += len(receipts)
            self._extends = False
            self._owner.failed(self, error)
            return False
        if not self._extends:
            self._extends = True
            self._owner.recovered("ChangeMessageVisibilityBatch")
        self._stats.extend_failures += failed
        self._stats.extended += len(receipts) - failed
        return True

    async def close(self) -> None:
        """End what runs on its own. Receipts that wait are given up: their messages come again."""
        await self._deletes.close()


class _Deletes:
    def __init__(self, queue: QueueCalls, consumer: Consumer, owner: QueueOwner, stats: SourceStats) -> None:
        self._queue = queue
        self._consumer = consumer
        self._owner = owner
        self._stats = stats
        self._waiting: list[Receipt] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, receipts: Sequence[Receipt]) -> None:
        self._waiting += receipts
        if len(self._tasks) < DELETES:
            task = asyncio.create_task(self._run(), name="delete messages")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        """Delete until nothing waits."""
        while self._waiting:
            if len(self._waiting) < BATCH:
                await asyncio.sleep(LINGER_SECONDS)
            count = DELETE_BATCHES * BATCH
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            failures = 0
            while batch:
                batch = await self._attempt(batch)
                if batch:
                    failures += 1
                    await asyncio.sleep(PAUSES.pause(failures))
            if failures:
                self._owner.recovered("DeleteMessageBatch")

    async def _attempt(self, batch: list[Receipt]) -> list[Receipt]:
        """What is to be tried again."""
        try:
            failed = dict(await self._queue.delete([receipt.handle for receipt in batch]))
        except AwsError as error:
            self._stats.delete_errors += 1
            if is_gone(error):
                return self._end(batch, {})
            self._owner.failed(self._consumer, error)
            return batch
        except Exception as error:
            self._owner.fault("messages were not deleted", error)
            return batch
        return self._end(batch, failed)

    def _end(self, batch: list[Receipt], failed: dict[int, str]) -> list[Receipt]:
        self._stats.delete_errors += len(failed)
        again = [batch[index] for index, code in failed.items() if code not in _HANDLE_GONE]
        gone = [receipt for index, receipt in enumerate(batch) if index not in failed]
        self._stats.deleted += len(gone)
        self._stats.in_flight -= len(batch) - len(again)
        self._owner.deleted(gone)
        return again
