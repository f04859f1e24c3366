"""Carries messages from a PacketSource's queues to the egress, and says which may be deleted (contract 4.2, 4.3).

The states of a message, who moves it on, and what is counted on the way (`SourceStats`; `Port.stats` for entries):

    received    `take`, from a Consumer's poll: `received`, `in_flight` + 1; `redelivered` if SQS gave it before
    held        `_hold`: its visibility is extended (`extended`, `extend_failures`) until it is written or let go. A
                repeat joins the one that is held (`repeated`); one that has ended goes on to *written* (`repeated`);
                another region's goes on to *settled* (`skipped`)
    submitted   `_submit`, all of one turn at once, or `_send` where it has to wait: the egress has it
    ended       `_ended_one`, by the egress: each entry was sent, failed or was a duplicate (`Sources` of `Port.stats`)
    settled     `_settle`: its dead letters are written; at once where nothing failed
    written     `_write`: its MessageId is in the journal (`Ended.add`); from here on a repeat is known
    deleted     `deleted`, by the Consumer, once SQS has confirmed: `deleted`, `in_flight` - 1; the latter also where a
                receipt has become invalid and the message comes again

`_let_go` leads out of every state before *written* (`in_flight` - 1): the message is not acknowledged, and SQS gives it
again. That happens when the egress closes, when regions cannot be listed, and after a mistake in here; `close` also
makes such messages visible at once.

What comes in one turn of the loop is handed to the egress as one, and ends by callback: a task for each message would
cost more than the message. Only what has to wait, for room, for a list of regions or for its dead letters, gets one.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field

from sluicegate.aws import AwsError, QueueMessage
from sluicegate.egress.message import EgressClosed, Message, Outcome
from sluicegate.sources.base import CONGESTED_SECONDS, Sender, decongested
from sluicegate.sources.topic.consumer import BATCH, Consumer, Receipt, SourceStats
from sluicegate.sources.topic.ended import Ended
from sluicegate.sources.topic.envelope import Confirmation, Notification, read
from sluicegate.sources.topic.origin import Origin
from sluicegate.sources.topic.queue import VISIBILITY_SECONDS
from sluicegate.sources.topic.regions import Regions, Verdict
from sluicegate.sources.topic.room import Room

IN_FLIGHT_MESSAGES = 4_000
"""Messages of one PacketSource that are not deleted yet, at most."""
IN_FLIGHT_BYTES = 32 << 20
"""Beyond it nothing is fetched; what the polls then under way bring comes on top."""
EXTEND_EVERY_SECONDS = 5.0
RELEASE_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class _Receipt:
    """The right to a message. Its visibility is extended from `extend_at` (the loop's time) on."""

    consumer: Consumer
    handle: str
    extend_at: float


@dataclass(slots=True, eq=False)
class _Held:
    """A message whose entries have not all ended. `receipts` beyond the first are repeats that came meanwhile."""

    message_id: str
    size: int
    receipts: list[_Receipt] = field(default_factory=list)


class Carrier:
    """One PacketSource's messages. Belongs to the event loop; `start` before the first message.

    `expect` tells the origin of a queue before its first message; `fault` is as in `QueueOwner`.
    """

    def __init__(
        self,
        name: str,
        index: int,
        sender: Sender,
        ended: Ended,
        fault: Callable[[str, BaseException], None],
        *,
        limit: int = IN_FLIGHT_MESSAGES,
    ) -> None:
        self._name = name
        self._index = index
        self._sender = sender
        self._ended = ended
        self._fault = fault
        self._limit = limit
        self.stats = SourceStats()
        self.room = Room(self._free, min(BATCH, limit))
        self._idle = asyncio.Event()
        self._idle.set()
        self._origins: dict[str, Origin] = {}
        self._held: dict[str, _Held] = {}
        self._bytes = 0
        self._ready: list[Message] = []
        self._unsettled: list[_Held] = []
        self._finished: list[_Held] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._relieving = False

    def start(self) -> None:
        """Begin to extend what is held."""
        self._spawn(self._extend_forever())

    def expect(self, queue_arn: str, origin: Origin) -> None:
        """Messages of this queue come from there."""
        self._origins[queue_arn] = origin

    # In

    def take(self, consumer: Consumer, message: QueueMessage) -> None:
        """One message as it comes from a queue."""
        origin = self._origins[consumer.arn]
        self.stats.received += 1
        self.stats.in_flight += 1
        if message.receive_count > 1:
            self.stats.redelivered += 1
        found = read(message.body, message.message_id, message.sent_at)
        if isinstance(found, Confirmation):
            if origin.confirm is not None:
                origin.confirm(found)
            consumer.delete([Receipt(message.receipt)])
            return
        key = (self._name, found.message_id)
        if self._ended.has(*key) or self._ended.has(origin.source, found.message_id):
            self.stats.repeated += 1
            consumer.delete([Receipt(message.receipt, key)])
        elif (held := self._held.get(found.message_id)) is not None:
            self.stats.repeated += 1
            held.receipts.append(_receipt(consumer, message))
        else:
            self._hold(consumer, message, found, origin)
        self._idle.clear()

    def _hold(self, consumer: Consumer, message: QueueMessage, found: Notification, origin: Origin) -> None:
        held = _Held(found.message_id, len(message.body), [_receipt(consumer, message)])
        self._held[found.message_id] = held
        self._bytes += held.size
        verdict = origin.judge(found)
        if verdict is None:
            self._spawn(self._carry_judged(held, found, origin.regions), held)
        elif verdict is Verdict.SKIP:
            self._skip(held)
        else:
            self._make_ready(self._message(found, verdict))

    # Through

    def _message(self, found: Notification, verdict: Verdict | tuple[str, str]) -> Message:
        refusal = None if isinstance(verdict, Verdict) else verdict
        return Message(found.message_id, self._index, found.body, found.published_at, refusal)

    def _make_ready(self, message: Message) -> None:
        self._ready.append(message)
        if len(self._ready) == 1:
            asyncio.get_running_loop().call_soon(self._submit)

    def _submit(self) -> None:
        if not self._ready or self._congested():
            return
        ready, self._ready = self._ready, []
        taken = self._sender.try_submit(ready, self._ended_one)
        for message in ready[taken:]:
            held = self._held.get(message.message_id)
            self._spawn(self._send(message), *([held] if held else []))

    def _congested(self) -> bool:
        """True while nothing more may go in; `_relieve` then sees to what waits for that."""
        if self._sender.congested and not self._relieving:
            self._relieving = True
            self._spawn(self._relieve())
        return self._relieving

    async def _relieve(self) -> None:
        while self._sender.congested:
            try:
                await decongested(self._sender, self._index)
            except EgressClosed:
                return  # nothing goes in any more
            except Exception as error:
                self._fault("it is not known whether dead letters are kept", error)
                await asyncio.sleep(CONGESTED_SECONDS)
        self._relieving = False
        self._submit()
        self._measure()

    async def _carry_judged(self, held: _Held, found: Notification, regions: Regions) -> None:
        try:
            verdict = await regions.judge(found.egress_region or b"")
        except AwsError:
            self._let_go(held)  # until the regions can be listed
        else:
            if verdict is Verdict.SKIP:
                self._skip(held)
            else:
                self._make_ready(self._message(found, verdict))

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
            if not outcome.failures:
                # Given back at the end, and sent after that: the next start gets it again and has to know.
                self._ended.add([(self._name, outcome.message_id)])
            return
        if not outcome.failures or self._sender.settled(self._index):
            self._finish(held)
            return
        self._unsettled.append(held)
        if len(self._unsettled) == 1:
            # With whatever else fails in this turn of the loop.
            asyncio.get_running_loop().call_soon(self._settle_failed)

    def _settle_failed(self) -> None:
        failed, self._unsettled = self._unsettled, []
        self._spawn(self._settle(failed), *failed)

    async def _settle(self, failed: Sequence[_Held]) -> None:
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
            for one in held.receipts:
                receipts.setdefault(one.consumer, []).append(Receipt(one.handle, key))
            self._forget(held)
        for consumer, some in receipts.items():
            consumer.delete(some)
        self._measure()

    def deleted(self, receipts: Sequence[Receipt]) -> None:
        """These messages are gone from their queue."""
        self._ended.deleted(receipt.key for receipt in receipts if receipt.key is not None)
        self._measure()

    def _let_go(self, held: _Held) -> None:
        if self._held.get(held.message_id) is held:
            self._forget(held)
            self.stats.in_flight -= len(held.receipts)
            self._measure()

    def _forget(self, held: _Held) -> None:
        if self._held.pop(held.message_id, None) is not None:
            self._bytes -= held.size

    def _measure(self) -> None:
        self.room.look()
        if self.stats.in_flight:
            self._idle.clear()
        else:
            self._idle.set()

    def _free(self) -> int:
        """How many more messages may be in flight."""
        if self._bytes >= IN_FLIGHT_BYTES or self._congested():
            return 0
        return self._limit - self.stats.in_flight

    # While it lasts

    async def _extend_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(EXTEND_EVERY_SECONDS)
            now = loop.time()
            due = [one for held in self._held.values() for one in held.receipts if one.extend_at <= now]
            await self._extend(due, VISIBILITY_SECONDS)

    async def _extend(self, some: Iterable[_Receipt], seconds: int) -> None:
        """Of each queue by itself: one that does not answer must not touch the messages of another."""
        listed: dict[Consumer, list[_Receipt]] = {}
        for one in some:
            listed.setdefault(one.consumer, []).append(one)
        each = [_extend_some(consumer, receipts, seconds) for consumer, receipts in listed.items()]
        for error in await asyncio.gather(*each, return_exceptions=True):
            if isinstance(error, Exception):
                self._fault("messages that are held were not extended", error)

    def _spawn(self, work: Coroutine[None, None, None], *held: _Held) -> None:
        """`held` are the messages that nobody else sees to."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._on_done(task, held))

    def _on_done(self, task: asyncio.Task[None], held: Sequence[_Held]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault("messages could not be carried and come again", error)
            for one in held:
                self._let_go(one)

    # The end

    async def drain(self, seconds: float) -> None:
        """Wait until everything that was fetched has ended and is deleted, for at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def close(self) -> None:
        """Give back at once what has not ended: it waits in the queue. Safe to call twice."""
        left = [one for held in self._held.values() for one in held.receipts]
        tasks, self._tasks = list(self._tasks), set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sender.give_back(self._index, self._held)
        self._held.clear()
        self._ready.clear()
        with contextlib.suppress(TimeoutError):  # then it comes back when its visibility ends
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._extend(left, 0)


def _receipt(consumer: Consumer, message: QueueMessage) -> _Receipt:
    return _Receipt(consumer, message.receipt, asyncio.get_running_loop().time() + VISIBILITY_SECONDS / 2)


async def _extend_some(consumer: Consumer, receipts: Sequence[_Receipt], seconds: int) -> None:
    began = asyncio.get_running_loop().time()
    if await consumer.extend([one.handle for one in receipts], seconds):
        for one in receipts:
            one.extend_at = began + VISIBILITY_SECONDS / 2
