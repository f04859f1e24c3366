"""A PacketSource on a topic in AWS (contract section 4.2).

Two things go on side by side. *Reconciling*: queue and subscription are made what they are to be, at the start and
every five minutes; whatever stands in the way is an event, and is tried again. *Consuming*: each queue that the state
knows is polled from the start on, so that what waits in it does not wait for SNS; and so are the queues that are left
over and that this PacketSource empties. The gateway serves in any case.

There is one only while its PacketSource is Active. Stopping changes nothing on AWS: messages wait in the queue. What
nobody wants any more is taken away by `leftovers.py`.
"""

import asyncio
import json

from sluicegate.aws import AwsError, Role
from sluicegate.backoff import Backoff
from sluicegate.model import PacketSource
from sluicegate.sources.base import MessageSource, SourceContext, SourceError
from sluicegate.sources.local.topics import LocalTopicSource, Topics
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.sources.topic import redrive
from sluicegate.sources.topic import subscription as sns_subscription
from sluicegate.sources.topic.envelope import Confirmation
from sluicegate.sources.topic.origin import Origin
from sluicegate.sources.topic.quiet import Quiet
from sluicegate.sources.topic.reader import QueueReader
from sluicegate.sources.topic.regions import Regions
from sluicegate.sources.topic.setting import SnsSetting
from sluicegate.sources.topic.subscription import Subscribed, Subscriber, served_regions
from sluicegate.state import SourceQueue, StateError

RETRIES = Backoff(1.0, 30.0)
REFUSALS = Backoff(2.0, 60.0)
"""After a definite refusal: a change of IAM arrives after seconds, and a missing topic may be made at any time."""

FILTER_NOTE = "SNS may take up to 15 minutes to apply its filter: until then messages for it may be missing"

REDRIVE = "redrive of the subscription"

OPT_IN_NOTE = (
    "topic and queue are in different regions, one of them opt-in: if nothing arrives, look whether both accounts have "
    "enabled it"
)


class SnsSource(QueueReader):
    """Messages of one topic, through queues of the gateway's own."""

    def __init__(self, setting: SnsSetting, resource: PacketSource, context: SourceContext) -> None:
        super().__init__(setting, resource, context)
        self.subscription = "Pending"
        self._subscriber = Subscriber(
            setting.aws, setting.state, resource, region=setting.region, node=setting.node
        )
        self._regions = Regions(
            setting.region,
            at_home=self._subscriber.at_home,
            refresh=self._list_regions,
            added=lambda region: self._emit("SourceRegionAdded", EgressRegion=region, Detail=FILTER_NOTE),
        )
        self._origin = Origin(self.name, self._subscriber.topic_arn, self._regions, self._on_confirmation)
        self._lost: list[str] = []
        self._ended: dict[str, float] = {}
        """Since when queues of earlier generations have no subscription."""
        self._dropping: set[str] = set()
        self._redrive_note = ""
        self._reconcile_now = asyncio.Event()

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
    def role(self) -> Role | None:
        """The role of the topic's owner."""
        return self._subscriber.role

    async def run(self) -> None:
        """Reconcile and consume until cancelled; what is under way then goes on until `close`."""
        self._setting.leftovers.unready(self.name)
        await self._setting.leftovers.spare(self._subscriber.owns)
        self._carrier.start()
        try:
            for queue in self._subscriber.kept():
                self._consume(queue)
            async with asyncio.TaskGroup() as both:
                both.create_task(self.empty_leftovers())
                both.create_task(self._reconcile_forever())
        finally:
            self.stop_polls()

    def again(self) -> None:
        """Reconcile now."""
        self._reconcile_now.set()

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
        self._consume(done.queue)
        self._ended = done.ended
        for queue in done.earlier:
            self._consume(queue, earlier=True)
        # Outside of the home region not every message comes at once: SNS applies the filter later.
        seconds = 0.0 if self._subscriber.at_home else sns_subscription.FILTER_SECONDS
        self._setting.leftovers.ready(self.name, seconds)
        await self._look_at_redrive()
        if done.new:
            self._emit("SourceSubscribed", **self._described(done))

    async def _look_at_redrive(self) -> None:
        """Tell whether SNS may use the dead-letter queue. Nothing else depends on it."""
        self._redrive_note = ""
        if not self._subscriber.redrives:
            self.recovered(REDRIVE)
            return
        arn = self._resource.dead_letter_queue_arn or ""
        try:
            found = await redrive.problem(self._setting.aws, self._subscriber.topic_arn, arn)
        except AwsError as error:
            needed = json.dumps(redrive.statement(self._subscriber.topic_arn, arn))
            self._redrive_note = (
                f"SNS puts what it cannot deliver into {arn} if the policy of that queue has the statement {needed}, "
                f"which the gateway could not check ({error.code} of {error.action})"
            )
            return
        if found is None:
            self.recovered(REDRIVE)
        elif self._down.get(REDRIVE) != found:
            self._down[REDRIVE] = found
            detail = f"what SNS cannot deliver would be lost; {found}"
            self._emit("SourceProvisionFailed", Reason="RedriveDenied", Detail=detail)

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
                "own region and account, so name a queue there"
            )
        if self._redrive_note:
            notes.append(self._redrive_note)
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

    def _consume(self, queue: SourceQueue, *, earlier: bool = False) -> None:
        """Read a queue of this source. One of an earlier generation is deleted when nothing comes by it any more."""
        if queue.arn in self._dropping:
            return
        consumer = self.read(queue, self._origin, lambda queue: self._call(self._drop(queue)))
        if consumer is not None and earlier and consumer.ends is None:
            quiet = Quiet(self._setting.aws, queue)
            consumer.ends = self.ending(quiet, lambda: self._ended.get(queue.arn))

    async def _drop(self, queue: SourceQueue) -> None:
        self._dropping.add(queue.arn)
        try:
            await self._subscriber.drop(queue)
        except AwsError as error:  # the next reconciliation sees to it
            self._failed("SourceProvisionFailed", error, own=True)
        except StateError as error:
            self._emit("SourceProvisionFailed", Reason="StateFailed", Detail=str(error))
        finally:
            self._dropping.discard(queue.arn)

    def lost(self, queue_arn: str, error: AwsError) -> None:
        """A queue of this source is gone: it gets a successor."""
        self._lost.append(queue_arn)
        self._emit("SourcePollFailed", Reason=error.code, Detail=f"{error}; a new queue is made")
        self._reconcile_now.set()
