"""Keeps the gateway's queue subscribed to a PacketSource's topic (contract section 4.2).

The role may do three things: Subscribe, Unsubscribe, ListSubscriptionsByTopic. That is enough for everything here:

- *Who is subscribed* is in the list: endpoints are ARNs of queues, and queues of gateways have names of a known form.
- *Which attributes a subscription has* is not in the list, but Subscribe tells: it is idempotent for equal attributes
  and refuses different ones. What we ask for ourselves is in the state, so that a change of it is seen as well.
- *A subscription cannot be changed*, so one with wrong attributes is replaced: a queue of the next generation is
  subscribed first, then the old one is let go and emptied. What comes to both is one message by its MessageId. Where
  the new one has a filter, both stay for as long as SNS may take to apply it.
"""

import json
import time
from dataclasses import dataclass, replace

from sluicegate.aws import Aws, AwsError, Role, session_name
from sluicegate.model import PacketSource
from sluicegate.model.names import topic_region
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.state import SourceQueue, State

REPLACE_EVERY_SECONDS = 3600.0
"""No subscription is replaced more often: should SNS find fault with what it was asked for, queues would not end."""
FILTER_SECONDS = 900.0
"""SNS may take so long to apply a new filter: until then messages may come by the old subscription only."""
_NO_TOPIC = frozenset(("NotFound", "NotFoundException"))


@dataclass(frozen=True, slots=True)
class Subscription:
    """A line of ListSubscriptionsByTopic that concerns a gateway's queue. `confirmed` false: SNS waits for us."""

    arn: str
    endpoint: str

    @property
    def confirmed(self) -> bool:
        return self.arn.startswith("arn:")

    @property
    def region(self) -> str:
        return self.endpoint.split(":")[3]


@dataclass(slots=True)
class Subscribed:
    """What a reconciliation leaves behind. `new`: the subscription was made just now. `earlier`: queues of the source
    that exist beside the current one. `ended`: since when (`time.monotonic`) those of them, by ARN, that have no
    subscription any more have none."""

    queue: SourceQueue
    new: bool
    regions: frozenset[str]
    earlier: list[SourceQueue]
    ended: dict[str, float]


def gateway_role(role_arn: str | None, region: str, source: str) -> Role | None:
    """The role of a PacketSource with the name of its session: CloudTrail shows it to the topic's owner."""
    if role_arn is None:
        return None
    account = role_arn.split(":")[4]
    return Role(role_arn, session_name(region, account, f"src-{source}"))


async def subscriptions(aws: Aws, topic_arn: str, role: Role | None) -> list[Subscription]:
    """Every subscription of a gateway's queue to the topic, of all regions. Raises `AwsError`."""
    found: list[Subscription] = []
    params: dict[str, object] = {"TopicArn": topic_arn}
    while True:
        page = await aws.call(
            "sns", "ListSubscriptionsByTopic", params, role=role, region=topic_region(topic_arn)
        )
        for one in page.get("Subscriptions", ()):
            endpoint = str(one.get("Endpoint"))
            if one.get("Protocol") == "sqs" and sns_queue.is_of_a_gateway(endpoint):
                found.append(Subscription(str(one.get("SubscriptionArn")), endpoint))
        if not page.get("NextToken"):
            return found
        params["NextToken"] = page["NextToken"]


def served_regions(found: list[Subscription]) -> frozenset[str]:
    """The regions whose gateways get messages of the topic."""
    return frozenset(one.region for one in found if one.confirmed)


class Subscriber:
    """One PacketSource's queue and subscription. `reconcile` as often as you like."""

    def __init__(self, aws: Aws, state: State, resource: PacketSource, *, region: str, node: int) -> None:
        self._aws = aws
        self._state = state
        self._resource = resource
        self._region = region
        self.topic_arn = resource.topic.topic_arn
        self.role = gateway_role(resource.topic.role, region, resource.name)
        self._replaced_at = float("-inf")
        self._beside: dict[str, float] = {}
        self._unsubscribed: dict[str, float] = {}
        self._stem = sns_queue.name_stem(node, self.topic_arn, resource.name)

    @property
    def at_home(self) -> bool:
        """True where messages without `EgressRegion` are sent."""
        return self._region == self._resource.effective_home_region

    def attributes(self) -> dict[str, str]:
        """What the subscription is to have. No filter at home: one would lose messages without any attribute."""
        wanted = {"RawMessageDelivery": "false"}
        if not self.at_home:
            wanted["FilterPolicy"] = json.dumps({"EgressRegion": [self._region]})
        if self.redrives:
            wanted["RedrivePolicy"] = json.dumps(
                {"deadLetterTargetArn": self._resource.dead_letter_queue_arn}
            )
        return wanted

    @property
    def redrives(self) -> bool:
        """True if SNS itself may put what it cannot deliver into the dead-letter queue: only one beside the topic."""
        arn = self._resource.dead_letter_queue_arn or ""
        return arn.startswith("arn:") and arn.split(":")[3:5] == self.topic_arn.split(":")[3:5]

    def kept(self) -> list[SourceQueue]:
        """This source's queues that the state knows: the current one last, before it those still to be emptied."""
        ours = [queue for queue in self._state.source_queues() if self.owns(queue.arn)]
        return sorted(ours, key=lambda queue: queue.generation)

    async def reconcile(self) -> Subscribed:
        """Make queue and subscription what they are to be. Raises `AwsError`."""
        found = await self.listed()
        ours = await self._ours(found)
        queue = await self._queue(ours)
        before = {one.endpoint for one in ours}
        queue = await self._subscribe(queue, queue.arn in before)
        left = await self._let_go([one for one in ours if one.endpoint != queue.arn])
        earlier = await self._earlier(queue)
        now = time.monotonic()
        unsubscribed = [one.arn for one in earlier if one.arn not in left]
        self._unsubscribed = {arn: self._unsubscribed.get(arn, now) for arn in unsubscribed}
        regions = served_regions(found) | {self._region}
        return Subscribed(queue, queue.arn not in before, regions, earlier, dict(self._unsubscribed))

    async def listed(self) -> list[Subscription]:
        """The subscriptions of all gateways to the topic. Raises `AwsError`."""
        return await subscriptions(self._aws, self.topic_arn, self.role)

    async def confirm(self, token: str) -> None:
        """Say that this queue wants its subscription: needed where topic and queue have different owners. `AwsError`.

        In the gateway's own name: it is the queue's owner who confirms, and the role need not be allowed to.
        """
        params = {"TopicArn": self.topic_arn, "Token": token}
        await self._aws.call("sns", "ConfirmSubscription", params, region=topic_region(self.topic_arn))

    async def drop(self, queue: SourceQueue) -> None:
        """Delete a queue of an earlier generation. Raises `AwsError`."""
        await sns_queue.delete(self._aws, self._region, queue)
        self._state.forget_source_queue(queue.arn)

    def owns(self, queue_arn: str) -> bool:
        """True if the name is one of this source's queues, of whatever generation."""
        numbered = queue_arn.rpartition("-")[2].isdigit()
        return numbered and sns_queue.family(queue_arn) == (self._stem, self._region)

    async def _ours(self, found: list[Subscription]) -> list[Subscription]:
        """The subscriptions of this source's queues. Another account's gateway may have queues of the same names."""
        account = await self._aws.account()
        return [
            one for one in found if self.owns(one.endpoint) and sns_queue.account_of(one.endpoint) == account
        ]

    async def _queue(self, ours: list[Subscription]) -> SourceQueue:
        """The current queue, existing. A state that was lost is made up for by what is subscribed."""
        account = await self._aws.account()

        def queue_of(generation: int) -> SourceQueue:
            name = f"{self._stem}{generation}"
            arn = sns_queue.queue_arn(self.topic_arn, self._region, account, name)
            role = self._resource.topic.role
            return SourceQueue(arn, self._resource.name, self.topic_arn, role, generation)

        known = {queue.arn: queue for queue in self.kept()}
        generations = [queue.generation for queue in known.values()]
        generations += [_generation(one.endpoint) for one in ours]
        wanted = queue_of(max([*generations, 1]))
        if (kept := known.get(wanted.arn)) is not None:
            wanted = replace(wanted, attributes=kept.attributes)
        # Before it is made: what a crash leaves behind can be found and cleaned up.
        self._state.keep_source_queue(wanted)
        made = await sns_queue.ensure(self._aws, self._region, wanted)
        if made.arn != wanted.arn:
            self._state.forget_source_queue(wanted.arn)
        self._state.keep_source_queue(made)
        return made

    async def _subscribe(self, queue: SourceQueue, subscribed: bool) -> SourceQueue:
        attributes = self.attributes()
        wanted = json.dumps(attributes, sort_keys=True)
        changed = subscribed and queue.attributes not in ("", wanted)
        if not changed:
            try:
                await self._ask(queue, attributes)
            except AwsError as error:
                if not _differs(error) or time.monotonic() - self._replaced_at < REPLACE_EVERY_SECONDS:
                    raise
                changed = True
        if changed:
            self._replaced_at = time.monotonic()
            following = sns_queue.with_generation(queue, queue.generation + 1)
            self._state.keep_source_queue(following)
            queue = await sns_queue.ensure(self._aws, self._region, following)
            await self._ask(queue, attributes)
        queue = replace(queue, attributes=wanted)
        self._state.keep_source_queue(queue)
        return queue

    async def _ask(self, queue: SourceQueue, attributes: dict[str, str]) -> None:
        params = {
            "TopicArn": self.topic_arn,
            "Protocol": "sqs",
            "Endpoint": queue.arn,
            "Attributes": attributes,
            "ReturnSubscriptionArn": True,
        }
        await self._aws.call("sns", "Subscribe", params, role=self.role, region=topic_region(self.topic_arn))

    async def _let_go(self, others: list[Subscription]) -> set[str]:
        """End the earlier subscriptions, each when it is time; the endpoints of those that stay for now."""
        known = {queue.arn for queue in self.kept()}
        now = time.monotonic()
        stays: set[str] = set()
        self._beside = {one.endpoint: self._beside.get(one.endpoint, now) for one in others}
        for one in others:
            if one.endpoint not in known:
                role, generation = self._resource.topic.role, _generation(one.endpoint)
                self._state.keep_source_queue(
                    SourceQueue(one.endpoint, self._resource.name, self.topic_arn, role, generation)
                )
            if not self.at_home and now - self._beside[one.endpoint] < FILTER_SECONDS:
                stays.add(one.endpoint)
            else:
                await unsubscribe(self._aws, one, self.role)
        return stays

    async def _earlier(self, current: SourceQueue) -> list[SourceQueue]:
        """The queues of before `current` that exist, with their URLs; those that do not exist are forgotten."""
        found = []
        account = sns_queue.account_of(current.arn)
        for queue in self.kept():
            if queue.arn == current.arn or sns_queue.account_of(queue.arn) != account:
                continue
            if not queue.url:
                url = await sns_queue.url_of(self._aws, self._region, queue)
                if url is None:
                    self._state.forget_source_queue(queue.arn)
                    continue
                queue = replace(queue, url=url)
                self._state.keep_source_queue(queue)
            found.append(queue)
        return found


async def unsubscribe(aws: Aws, one: Subscription, role: Role | None) -> None:
    """End a subscription. One that waits for its confirmation has no ARN and ends by itself. Raises `AwsError`."""
    if not one.confirmed:
        return
    try:
        params = {"SubscriptionArn": one.arn}
        await aws.call("sns", "Unsubscribe", params, role=role, region=one.arn.split(":")[3])
    except AwsError as error:
        if error.code not in _NO_TOPIC:
            raise


def no_topic(error: AwsError) -> bool:
    """True if the topic does not exist."""
    return error.service == "sns" and error.code in _NO_TOPIC


def _generation(queue_arn: str) -> int:
    return int(queue_arn.rpartition("-")[2])


def _differs(error: AwsError) -> bool:
    return error.code.startswith("InvalidParameter") and "different attributes" in error.message.lower()


def next_step(error: AwsError, role: Role | None, *, own: bool) -> str:
    """What the user does about an error. `own`: the call was made in the gateway's own name and not in the role's."""
    if error.service == "sts" and error.denied and role is not None:
        return f"allow the gateway sts:AssumeRole on {role.arn}, and let the trust policy of that role name the gateway"
    if error.denied:
        who = "the gateway's own credentials" if own or role is None else role.arn
        # SNS has no resource for Unsubscribe: a policy that names one allows nothing.
        where = "*" if error.action == "sns:Unsubscribe" else error.resource or "it"
        return f"attach to {who} a policy that allows {error.action} on {where}"
    if error.operation == "Subscribe" and "redrive" in error.message.lower():
        return "correct `dead_letter_queue_arn`: a standard queue that exists, in region and account of the topic"
    if no_topic(error):
        return "create the topic, or correct `topic_arn`"
    if error.retryable:
        return "nothing is lost: it is tried again"
    return "it is tried again; the guide on packets from AWS lists what is needed"
