"""Reads queues on AWS for one PacketSource: its own, and those that are left over (contract section 4.2)."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

import structlog

from sluicegate.aws import AwsError, Role
from sluicegate.backoff import Backoff
from sluicegate.faults import log_fault
from sluicegate.model import PacketSource
from sluicegate.sources.base import MessageSource, SourceContext
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.sources.topic.carrier import IN_FLIGHT_MESSAGES, Carrier
from sluicegate.sources.topic.consumer import Consumer, SourceStats
from sluicegate.sources.topic.leftovers import Leftover
from sluicegate.sources.topic.origin import Origin, of_leftover
from sluicegate.sources.topic.quiet import Quiet
from sluicegate.sources.topic.setting import SnsSetting
from sluicegate.sources.topic.subscription import next_step
from sluicegate.state import SourceQueue, StateError

log = structlog.get_logger("sluicegate.sources")

SETTLE_SECONDS = 1.0
"""At the end, for the deletes of what has been sent, whatever time is left."""
LOOK_SECONDS = 1.0
"""How often it is looked which queues are to be emptied."""
RETRIES = Backoff(1.0, 30.0)

Ends = Callable[[float], Awaitable[bool]]


class QueueReader(MessageSource):
    """Messages of queues. A subclass says in `run` which queues beside those that are left over."""

    def __init__(self, setting: SnsSetting, resource: PacketSource, context: SourceContext) -> None:
        super().__init__(resource.name, context)
        self.listener = context.listener
        self._setting = setting
        self._resource = resource
        self._carrier = Carrier(
            self.name,
            self.index,
            self.sender,
            setting.ended,
            self.fault,
            limit=in_flight_limit(resource),
        )
        # Of a `QueueOwner`, beside the three methods below. The carrier's own: they are called for every message.
        self.take = self._carrier.take
        self.deleted = self._carrier.deleted
        self._consumers: dict[str, tuple[Consumer, asyncio.Task[None]]] = {}
        self._left: dict[str, Leftover] = {}
        self._gone: list[Consumer] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._down: dict[str, str] = {}

    @property
    def stats(self) -> SourceStats:
        """What this source counts."""
        return self._carrier.stats

    @property
    def role(self) -> Role | None:
        """In whose name SNS is called."""
        return None

    async def provision(self) -> None:
        """Read what has ended before. Nothing on AWS: it may be out of reach, and the gateway has to start anyway."""
        await asyncio.to_thread(self._setting.ended.recall)

    def stop_polls(self) -> None:
        """Fetch nothing more. What was fetched goes on."""
        for _, task in self._consumers.values():
            task.cancel()

    async def drain(self, seconds: float) -> None:
        """Wait until what was fetched has ended and is deleted. After `run`."""
        await self._carrier.drain(max(seconds, SETTLE_SECONDS))

    async def close(self) -> None:
        """Give back what has not ended."""
        tasks = [task for _, task in self._consumers.values()] + list(self._calls)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._carrier.close()
        for consumer in [*self._gone, *(consumer for consumer, _ in self._consumers.values())]:
            await consumer.close()

    # Queues

    def read(
        self, queue: SourceQueue, origin: Origin, ended: Callable[[SourceQueue], None]
    ) -> Consumer | None:
        """Poll a queue, unless that is done already. `ended` is called once its polls have ended by themselves."""
        if queue.arn not in self._consumers and queue.url:
            self._carrier.expect(queue.arn, origin)
            calls = self._setting.aws.queue(queue.url, region=sns_queue.region_of(queue.arn))
            consumer = Consumer(calls, queue.arn, self, self._carrier.room, self.stats)
            task = asyncio.create_task(consumer.poll(), name=f"poll {queue.arn}")
            task.add_done_callback(lambda task: self._on_end(queue, task, ended))
            self._consumers[queue.arn] = consumer, task
        found = self._consumers.get(queue.arn)
        return found[0] if found is not None else None

    def _on_end(
        self, queue: SourceQueue, task: asyncio.Task[None], ended: Callable[[SourceQueue], None]
    ) -> None:
        """The polls of a queue have ended: by us, because it is empty, or by a mistake in this program."""
        if task.cancelled():
            return
        self._gone.append(self._consumers.pop(queue.arn)[0])
        if (error := task.exception()) is None:
            ended(queue)
        else:
            self.fault("the queue is read anew", error)
            self.again()

    def again(self) -> None:
        """Something has changed: look at the queues now."""

    def ending(self, quiet: Quiet, since: Callable[[], float | None]) -> Ends:
        """For `Consumer.ends`: true when a queue has been quiet for long enough after `since`, None while it must not
        end."""

        async def ends(empty_since: float) -> bool:
            began = since()
            if began is None:
                return False
            try:
                return await quiet.lasts(max(began, empty_since))
            except AwsError as error:
                self._failed("SourcePollFailed", error, own=True)
                return False

        return ends

    def stop_reading(self, queue_arn: str) -> None:
        """Poll a queue no more. What came from it goes on."""
        found = self._consumers.pop(queue_arn, None)
        if found is not None:
            found[1].cancel()
            self._gone.append(found[0])

    # Those that are left over

    async def empty_leftovers(self) -> None:
        """Send what waits in queues that this PacketSource has to empty, as they come and go, until cancelled."""
        while True:
            try:
                await self._look_at_leftovers()
            except AwsError as error:
                self._failed("SourcePollFailed", error, own=True)
                await asyncio.sleep(RETRIES.pause(1))
            except StateError as error:
                self._emit("SourcePollFailed", Reason="StateFailed", Detail=str(error))
                await asyncio.sleep(RETRIES.longest)
            except Exception as error:
                self.fault("queues that are left over could not be read", error)
                await asyncio.sleep(RETRIES.longest)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_at_leftovers(self) -> None:
        leftovers = self._setting.leftovers
        wanted = {one.queue.arn: one for one in leftovers.left(self.name)}
        for arn in [arn for arn, one in self._left.items() if wanted.get(arn) is not one]:
            del self._left[arn]
            self.stop_reading(arn)
        for arn, one in wanted.items():
            if arn not in self._consumers:
                queue = await leftovers.open(one)
                if queue is not None:
                    self._left[arn] = one
                    self._read_leftover(queue, one)

    def _read_leftover(self, queue: SourceQueue, one: Leftover) -> None:
        leftovers = self._setting.leftovers
        origin = of_leftover(queue, self._setting.region, partial(leftovers.served, one))
        consumer = self.read(queue, origin, lambda queue: leftovers.empty(one))
        if consumer is not None:
            consumer.ends = self.ending(one.quiet_watch, lambda: one.unsubscribed_at)

    # Telling

    def failed(self, consumer: Consumer, error: AwsError) -> None:
        """A request to the queue of `consumer` failed."""
        found = self._consumers.get(consumer.arn)
        if not sns_queue.is_gone(error):
            self._failed("SourcePollFailed", sns_queue.naming(error, consumer.arn), own=True)
        elif found is not None and found[0] is consumer:
            self.stop_reading(consumer.arn)
            left = self._left.pop(consumer.arn, None)
            if left is not None:
                self._setting.leftovers.empty(left)
            else:
                self.lost(consumer.arn, error)

    def lost(self, queue_arn: str, error: AwsError) -> None:
        """A queue that was read is gone, and is none of those that are left over."""

    def _failed(
        self, event: str, error: AwsError, *, own: bool, what: str | None = None, note: str = ""
    ) -> None:
        """Tell of an error, once until it is another one or `what` has recovered."""
        what = what or (error.operation if event == "SourcePollFailed" else event)
        if self._down.get(what) == error.code:
            return
        self._down[what] = error.code
        detail = "; ".join(filter(None, (self._explained(error, own=own), note)))
        self._emit(event, Reason=error.code, Detail=detail)

    def _explained(self, error: AwsError, *, own: bool) -> str:
        return f"{error}; {next_step(error, self.role, own=own)}"

    def fault(self, what: str, error: BaseException, *, event: str = "SourcePollFailed") -> None:
        """A mistake of this program: it goes on, and somebody has to hear of it."""
        log_fault(log, what, error, packet_source=self.name)
        detail = f"{what}; please report this mistake of the program, the gateway's log says where it is"
        self._emit(event, Reason="InternalError", Detail=detail)

    def recovered(self, what: str) -> None:
        """What failed works again; reported if the failure was."""
        if self._down.pop(what, None) is not None:
            self._emit("SourceRecovered", Detail=what)

    def _emit(self, event: str, **fields: object) -> None:
        self._setting.events.emit(event, Listener=self.listener, PacketSource=self.name, **fields)

    def _call(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._on_call)

    def _on_call(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fault("a call of AWS was not finished", error)


def in_flight_limit(resource: PacketSource) -> int:
    """Messages to fetch at most. Behind a rate only so many that one-entry messages wait for half of their hold."""
    rate = resource.rate_limit.packets_per_second if resource.rate_limit else None
    if rate is None:
        return IN_FLIGHT_MESSAGES
    return max(1, min(IN_FLIGHT_MESSAGES, int(rate * resource.hold_seconds / 2)))
