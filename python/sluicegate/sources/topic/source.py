"""A PacketSource on a topic in AWS (contract section 4.2).

Two things go on side by side. *Reconciling*: queue and subscription are made what they are to be, at the start and
every five minutes; whatever stands in the way is an event, and is tried again. *Consuming*: each queue that the state
knows is polled from the start on, so that what waits in it does not wait for SNS. The gateway serves in any case.

There is one only while its PacketSource is Active. Stopping changes nothing on AWS: messages wait in the queue. What
nobody wants any more is taken away by `leftovers.py`.
"""

import asyncio
from collections.abc import Coroutine
from pathlib import Path

import structlog

from sluicegate.aws import Aws, AwsError
from sluicegate.backoff import Backoff
from sluicegate.events import EventLog
from sluicegate.faults import log_fault
from sluicegate.model import GatewayConfig, PacketSource
from sluicegate.sources.base import MessageSource, SourceContext, SourceError
from sluicegate.sources.local.topics import LocalTopicSource, Topics
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.sources.topic.carrier import IN_FLIGHT_MESSAGES, Carrier
from sluicegate.sources.topic.consumer import Consumer, SourceStats
from sluicegate.sources.topic.ended import Ended
from sluicegate.sources.topic.envelope import Confirmation
from sluicegate.sources.topic.leftovers import Leftovers
from sluicegate.sources.topic.regions import Regions
from sluicegate.sources.topic.subscription import Subscribed, Subscriber, next_step, served_regions
from sluicegate.state import SourceQueue, State, StateError
from sluicegate.state.journal import Journal

log = structlog.get_logger("sluicegate.sources")

RETRIES = Backoff(1.0, 30.0)
REFUSALS = Backoff(2.0, 60.0)
"""After a definite refusal: a change of IAM arrives after seconds, and a missing topic may be made at any time."""

FILTER_NOTE = "SNS may take up to 15 minutes to apply its filter: until then messages for it may be missing"

OPT_IN_NOTE = (
    "topic and queue are in different regions, one of them opt-in: if nothing arrives, look whether both accounts have "
    "enabled it"
)

ENDED_SECONDS = 4 * 86_400.0
"""MessageIds that have ended are remembered across restarts for as long as SQS keeps a message by default."""
ENDED_LIMIT = 200_000
"""At least so many of them, at most twice as many."""

SETTLE_SECONDS = 1.0
"""At the end, for the deletes of what has been sent, whatever time is left."""


class SnsSetting:
    """What all sources of a gateway share: of `config`, the region, the node, and where its state is."""

    def __init__(self, config: GatewayConfig, aws: Aws, state: State, events: EventLog) -> None:
        self.aws = aws
        self.state = state
        self.events = events
        self.region = config.region
        self.node = config.node
        self.reconcile_seconds = config.aws.reconcile_seconds
        self._journal = Journal(Path(f"{config.state}.messages"), seconds=ENDED_SECONDS, limit=ENDED_LIMIT)
        self.ended = Ended(self._journal, events, limit=ENDED_LIMIT)
        self.leftovers = Leftovers(aws, state, events, region=config.region, node=config.node)

    async def close(self) -> None:
        """Close what was opened here: not `aws`, not the state."""
        await self.leftovers.close()
        self._journal.close()


class SnsSource(MessageSource):
    """Messages of one topic, through queues of the gateway's own."""

    def __init__(self, setting: SnsSetting, resource: PacketSource, context: SourceContext) -> None:
        super().__init__(resource.name, context)
        self.subscription = "Pending"
        self.listener = context.listener
        self._setting = setting
        self._resource = resource
        self._subscriber = Subscriber(
            setting.aws, setting.state, resource, region=setting.region, node=setting.node
        )
        self._regions = Regions(
            setting.region,
            at_home=self._subscriber.at_home,
            refresh=self._list_regions,
            added=lambda region: self._emit("SourceRegionAdded", EgressRegion=region, Detail=FILTER_NOTE),
        )
        self._carrier = Carrier(
            self.name,
            self.index,
            self.sender,
            setting.ended,
            self._regions,
            self._subscriber.topic_arn,
            self._on_confirmation,
            self.fault,
            limit=in_flight_limit(resource),
        )
        # Of a `QueueOwner`, beside the three methods below. The carrier's own: they are called for every message.
        self.take = self._carrier.take
        self.deleted = self._carrier.deleted
        self._consumers: dict[str, tuple[Consumer, asyncio.Task[None]]] = {}
        self._gone: list[Consumer] = []
        self._lost: list[str] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._dropping: set[str] = set()
        self._reconcile_now = asyncio.Event()
        self._down: dict[str, str] = {}

    @classmethod
    def create(cls, resource: PacketSource, context: SourceContext) -> MessageSource | None:
        """From a topic on AWS nothing is taken unless the PacketSource is Active. A topic of the gateway's own (`sns:`)
        is served in every state."""
        topics, setting = context.service(Topics), context.service(SnsSetting)
        if topics is not None:
            return LocalTopicSource(topics, resource, context)
        if setting is None:
            raise SourceError(
                "this gateway has neither AWS nor topics of its own", "configure `aws` or `sns`"
            )
        return cls(setting, resource, context) if context.state == "Active" else None

    @property
    def stats(self) -> SourceStats:
        """What this source counts."""
        return self._carrier.stats

    async def provision(self) -> None:
        """Read what has ended before. Nothing on AWS: it may be out of reach, and the gateway has to start anyway."""
        await asyncio.to_thread(self._setting.ended.recall)

    async def run(self) -> None:
        """Reconcile and consume until cancelled; what is under way then goes on until `close`."""
        await self._setting.leftovers.spare(self._subscriber.owns)
        self._carrier.start()
        try:
            for queue in self._subscriber.kept():
                self._consume(queue)
            await self._reconcile_forever()
        finally:
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

    # Reconciling

    async def _reconcile_forever(self) -> None:
        failures = 0
        while True:
            self._reconcile_now.clear()
            try:
                await self._subscribe()
            except AwsError as error:
                failures += 1
                self._failed("SourceProvisionFailed", error, own=error.service == "sqs")
                self.subscription_problem = self._explained(error, own=error.service == "sqs")
                if not error.retryable:
                    self.subscription = "Failed"
                pauses = RETRIES if error.retryable else REFUSALS
                await self._pause(pauses.pause(failures))
            except StateError as error:
                failures += 1
                self._emit("SourceProvisionFailed", Reason="StateFailed", Detail=str(error))
                self.subscription, self.subscription_problem = "Failed", str(error)
                await self._pause(REFUSALS.pause(failures))
            except Exception as error:
                failures += 1
                what = "queue and subscription could not be checked"
                self.fault(what, error, event="SourceProvisionFailed")
                await self._pause(REFUSALS.pause(failures))
            else:
                failures = 0
                self.subscription, self.subscription_problem = "Subscribed", ""
                self.recovered("SourceProvisionFailed")
                await self._pause(self._setting.reconcile_seconds)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._reconcile_now.wait()
        except TimeoutError:
            return
        # A queue that goes away again and again must not make this a busy loop.
        await asyncio.sleep(RETRIES.pause(1))

    async def _subscribe(self) -> None:
        while self._lost:
            self._setting.state.forget_source_queue(self._lost[-1])
            self._lost.pop()
        try:
            done = await self._subscriber.reconcile()
        except AwsError:
            # What was made before it failed is read all the same: messages may come to it.
            for queue in self._subscriber.kept():
                self._consume(queue)
            raise
        self._regions.update(done.regions)
        self.recovered("ListSubscriptionsByTopic")
        if done.new:
            self._emit("SourceSubscribed", **self._described(done))
        self._consume(done.queue)
        for queue in done.earlier:
            if queue.arn in done.over:
                self._retire(queue)
            else:
                self._consume(queue)

    def _described(self, done: Subscribed) -> dict[str, object]:
        notes = []
        if not self._subscriber.at_home:
            notes.append(FILTER_NOTE)
        if sns_queue.regional_sender(self._subscriber.topic_arn, self._setting.region) is not None:
            notes.append(OPT_IN_NOTE)
        wanted = self._resource.dead_letter_queue_arn or ""
        if wanted.startswith("arn:") and not self._subscriber.redrives:
            notes.append(
                "what SNS cannot deliver does not come into the dead-letter queue: SNS takes only one of the topic's "
                "own region and account"
            )
        return {
            "Topic": self._subscriber.topic_arn,
            "Queue": done.queue.arn,
            "Detail": "; ".join(notes) or None,
        }

    async def _list_regions(self) -> frozenset[str]:
        try:
            listed = await self._subscriber.listed()
        except AwsError as error:
            note = "messages that name other regions may wait in the queue until they can be listed"
            self._failed(
                "SourceProvisionFailed", error, own=False, what="ListSubscriptionsByTopic", note=note
            )
            raise
        self.recovered("ListSubscriptionsByTopic")
        return served_regions(listed) | {self._setting.region}

    def _on_confirmation(self, asked: Confirmation) -> None:
        if asked.topic_arn != self._subscriber.topic_arn:
            detail = (
                f"a subscription to {asked.topic_arn[:300]} wants to be confirmed: nobody here asked for it"
            )
            self._emit("SourceProvisionFailed", Reason="UnexpectedTopic", Detail=detail)
        elif asked.token is None:
            self._reconcile_now.set()  # the subscription was ended by somebody
        else:
            self._call(self._confirm(asked.token))

    async def _confirm(self, token: str) -> None:
        try:
            await self._subscriber.confirm(token)
        except AwsError as error:
            self._failed("SourceProvisionFailed", error, own=True)
            return
        self._emit("SourceSubscribed", Topic=self._subscriber.topic_arn, Detail="confirmed")
        self._reconcile_now.set()

    # Consuming

    def _consume(self, queue: SourceQueue) -> None:
        if queue.arn in self._consumers or queue.arn in self._dropping or not queue.url:
            return
        calls = self._setting.aws.queue(queue.url, region=self._setting.region)
        consumer = Consumer(calls, queue.arn, self, self._carrier.room, self.stats)
        task = asyncio.create_task(consumer.poll(), name=f"poll {queue.arn}")
        task.add_done_callback(lambda task: self._on_end(queue, task))
        self._consumers[queue.arn] = consumer, task

    def _retire(self, queue: SourceQueue) -> None:
        """Let the consumer of an earlier generation's queue end once it is empty, and then delete the queue."""
        self._consume(queue)
        if (found := self._consumers.get(queue.arn)) is not None:
            found[0].retiring = True

    def _on_end(self, queue: SourceQueue, task: asyncio.Task[None]) -> None:
        """The polls of a queue have ended: by us, because it is empty, or by a mistake in this program."""
        if task.cancelled():
            return
        self._gone.append(self._consumers.pop(queue.arn)[0])
        if (error := task.exception()) is None:
            self._call(self._drop(queue))
        else:
            self.fault("the queue is read anew", error)
            self._reconcile_now.set()

    async def _drop(self, queue: SourceQueue) -> None:
        self._dropping.add(queue.arn)
        try:
            again = not await sns_queue.is_empty(self._setting.aws, self._setting.region, queue)
            if not again:
                await self._subscriber.drop(queue)
        except (AwsError, StateError) as error:
            again = False  # the next reconciliation sees to it
            if isinstance(error, AwsError):
                self._failed("SourceProvisionFailed", error, own=True)
            else:
                self._emit("SourceProvisionFailed", Reason="StateFailed", Detail=str(error))
        finally:
            self._dropping.discard(queue.arn)
        if again:
            self._retire(queue)  # messages that are held, or that a crash left invisible

    def failed(self, consumer: Consumer, error: AwsError) -> None:
        """A request to the queue of `consumer` failed. One that is gone gets a successor."""
        if not sns_queue.is_gone(error):
            self._failed("SourcePollFailed", sns_queue.naming(error, consumer.arn), own=True)
        elif (found := self._consumers.get(consumer.arn)) is not None and found[0] is consumer:
            del self._consumers[consumer.arn]
            self._gone.append(consumer)
            self._lost.append(consumer.arn)
            self._emit("SourcePollFailed", Reason=error.code, Detail=f"{error}; a new queue is made")
            self._reconcile_now.set()
            found[1].cancel()

    # Telling

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
        return f"{error}; {next_step(error, self._subscriber.role, own=own)}"

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
