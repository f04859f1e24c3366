"""Carries messages from a PacketSource's queues to the egress, and says which may be deleted (contract 4.2, 4.3).

A message is held until each of its entries has ended: its visibility is extended for as long. Then its MessageId goes
into the journal, and then it is deleted. What comes again in between joins the one that is held; what comes again
later is known by its MessageId.

What comes in one turn of the loop is handed to the egress as one, and ends by callback: a task for each message would
cost more than the message. Only what has to wait, for room, for a list of regions or for its dead letters, gets one.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field

from sluicegate.aws import AwsError, QueueMessage
from sluicegate.egress import EgressClosed, Message, Outcome
from sluicegate.sources.base import Sender
from sluicegate.sources.ended import Ended
from sluicegate.sources.sns_consumer import Consumer, Receipt, SourceStats
from sluicegate.sources.sns_envelope import Confirmation, Notification, read
from sluicegate.sources.sns_queue import VISIBILITY_SECONDS
from sluicegate.sources.sns_regions import Regions, Verdict

IN_FLIGHT_MESSAGES = 4_000
"""Messages of one PacketSource that are not deleted yet, at most; what the polls then under way bring comes on top."""
IN_FLIGHT_BYTES = 32 << 20
EXTEND_EVERY_SECONDS = 5.0
RELEASE_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class _Held:
    """A message whose entries have not all ended. `receipts` beyond the first are repeats that came meanwhile."""

    message_id: str
    size: int
    extend_at: float
    receipts: list[tuple[Consumer, str]] = field(default_factory=list)


class Carrier:
    """One PacketSource's messages. Belongs to the event loop; `start` before the first message.

    `confirm` is called with each Confirmation that comes, wanted or not.
    """

    def __init__(
        self,
        name: str,
        index: int,
        sender: Sender,
        ended: Ended,
        regions: Regions,
        topic_arn: str,
        confirm: Callable[[Confirmation], None],
        *,
        limit: int = IN_FLIGHT_MESSAGES,
    ) -> None:
        self._name = name
        self._index = index
        self._sender = sender
        self._ended = ended
        self._regions = regions
        self._topic_arn = topic_arn
        self._confirm = confirm
        self._limit = limit
        self.stats = SourceStats()
        self.room = asyncio.Event()
        self.room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._held: dict[str, _Held] = {}
        self._bytes = 0
        self._ready: list[Message] = []
        self._unsettled: list[_Held] = []
        self._finished: list[_Held] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to extend what is held."""
        self._spawn(self._extend_forever())

    # In

    def take(self, consumer: Consumer, message: QueueMessage) -> None:
        """One message as it comes from a queue."""
        self.stats.received += 1
        self.stats.in_flight += 1
        if message.receive_count > 1:
            self.stats.redelivered += 1
        found = read(message.body, message.message_id, message.sent_at)
        if isinstance(found, Confirmation):
            self._confirm(found)
            consumer.delete([Receipt(message.receipt)])
            return
        key = (self._name, found.message_id)
        if self._ended.has(*key):
            self.stats.repeated += 1
            consumer.delete([Receipt(message.receipt, key)])
        elif (held := self._held.get(found.message_id)) is not None:
            self.stats.repeated += 1
            held.receipts.append((consumer, message.receipt))
        else:
            self._hold(consumer, message, found)
        self._measure()

    def _hold(self, consumer: Consumer, message: QueueMessage, found: Notification) -> None:
        extend_at = asyncio.get_running_loop().time() + VISIBILITY_SECONDS / 2
        held = _Held(found.message_id, len(message.body), extend_at, [(consumer, message.receipt)])
        self._held[found.message_id] = held
        self._bytes += held.size
        verdict = self._judge(found)
        if verdict is None:
            self._spawn(self._carry_judged(held, found))
        elif verdict is Verdict.SKIP:
            self._skip(held)
        else:
            self._ready.append(self._message(found, verdict))
            if len(self._ready) == 1:
                asyncio.get_running_loop().call_soon(self._submit)

    # Through

    def _judge(self, found: Notification) -> Verdict | tuple[str, str] | None:
        """None if the regions have to be listed first."""
        if found.topic_arn is None:
            return Verdict.SEND  # its attributes were stripped; what SNS's filter let through is ours
        if found.topic_arn != self._topic_arn:
            return (
                "MalformedMessage",
                f"it was published to {found.topic_arn[:300]}, not to {self._topic_arn}",
            )
        return self._regions.judge_at_once(found.egress_region)

    def _message(self, found: Notification, verdict: Verdict | tuple[str, str]) -> Message:
        refusal = None if isinstance(verdict, Verdict) else verdict
        return Message(found.message_id, self._index, found.body, found.published_at, refusal)

    def _submit(self) -> None:
        ready, self._ready = self._ready, []
        taken = self._sender.try_submit(ready, self._ended_one)
        for message in ready[taken:]:
            self._spawn(self._send(message))

    async def _carry_judged(self, held: _Held, found: Notification) -> None:
        try:
            verdict = await self._regions.judge(found.egress_region or b"")
        except AwsError:
            self._let_go(held)  # until the regions can be listed
        else:
            if verdict is Verdict.SKIP:
                self._skip(held)
            else:
                await self._send(self._message(found, verdict))

    async def _send(self, message: Message) -> None:
        try:
            self._ended_one(await self._sender.send(message))
        except EgressClosed:
            held = self._held.get(message.message_id)
            if held is not None:
                self._let_go(held)  # for the next start

    def _ended_one(self, outcome: Outcome) -> None:
        held = self._held.get(outcome.message_id)
        if held is None:
            return
        if not outcome.failures:
            self._finish(held)
            return
        self._unsettled.append(held)
        if len(self._unsettled) == 1:
            self._spawn(self._settle())

    async def _settle(self) -> None:
        """Everything that has failed up to this task's first step."""
        failed, self._unsettled = self._unsettled, []
        try:
            await self._sender.settle(self._index)
        except EgressClosed:
            for held in failed:
                self._let_go(held)
        else:
            for held in failed:
                self._finish(held)

    def _skip(self, held: _Held) -> None:
        self.stats.skipped += 1
        self._finish(held)

    # Out

    def _finish(self, held: _Held) -> None:
        self._finished.append(held)
        if len(self._finished) == 1:
            # Whatever else ends in this turn of the loop is written with it.
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        finished, self._finished = self._finished, []
        self._ended.add([(self._name, held.message_id) for held in finished])
        receipts: dict[Consumer, list[Receipt]] = {}
        for held in finished:
            key = (self._name, held.message_id)
            for consumer, handle in held.receipts:
                receipts.setdefault(consumer, []).append(Receipt(handle, key))
            self._forget(held)
        for consumer, some in receipts.items():
            consumer.delete(some)
        self._measure()

    def deleted(self, receipts: Sequence[Receipt]) -> None:
        """These messages are gone from their queue."""
        self._ended.deleted(receipt.key for receipt in receipts if receipt.key is not None)
        self._measure()

    def _let_go(self, held: _Held) -> None:
        self._forget(held)
        self.stats.in_flight -= len(held.receipts)
        self._measure()

    def _forget(self, held: _Held) -> None:
        if self._held.pop(held.message_id, None) is not None:
            self._bytes -= held.size

    def _measure(self) -> None:
        if self.stats.in_flight < self._limit and self._bytes < IN_FLIGHT_BYTES:
            self.room.set()
        else:
            self.room.clear()
        if self.stats.in_flight:
            self._idle.clear()
        else:
            self._idle.set()

    # While it lasts

    async def _extend_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(EXTEND_EVERY_SECONDS)
            now = loop.time()
            due = [held for held in self._held.values() if held.extend_at <= now]
            if await self._extend(due, VISIBILITY_SECONDS):
                for held in due:
                    held.extend_at = now + VISIBILITY_SECONDS / 2

    async def _extend(self, some: Iterable[_Held], seconds: int) -> bool:
        handles: dict[Consumer, list[str]] = {}
        for held in some:
            for consumer, handle in held.receipts:
                handles.setdefault(consumer, []).append(handle)
        answers = [await consumer.extend(listed, seconds) for consumer, listed in handles.items()]
        return all(answers)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The end

    async def drain(self, seconds: float) -> None:
        """Wait until everything that was fetched has ended and is deleted, for at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def close(self) -> None:
        """Give back at once what has not ended: it waits in the queue. Safe to call twice."""
        left = list(self._held.values())
        tasks, self._tasks = list(self._tasks), set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._held.clear()
        with contextlib.suppress(TimeoutError):  # then it comes back when its visibility ends
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._extend(left, 0)
