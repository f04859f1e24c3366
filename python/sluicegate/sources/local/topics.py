"""Local topics: the registry behind the gateway's own SNS endpoint (contract section 4.2).

A topic exists because somebody created it or because a PacketSource is bound to its ARN. Bindings belong to
the configuration and topics to their users: deleting a bound topic stops its messages (`TopicNotFound`), and
creating it again brings them back, as a subscription that is reconciled would.
"""

import asyncio
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sluicegate.egress.message import Message
from sluicegate.egress.waiting import Waiting
from sluicegate.model import PacketSource
from sluicegate.sources.base import MessageSource, Sender, SourceContext, SourceError
from sluicegate.sources.egress_region import ATTRIBUTE, named_regions, shown
from sluicegate.sources.local.attributes import (
    DEFAULT_MESSAGE_SIZE,
    LARGEST_MESSAGE_SIZE,
    MESSAGE_SIZE,
    message_limit,
)
from sluicegate.state.waiting import WaitingRow

ACCOUNT_ID = "000000000000"
PAGE_SIZE = 100  # ListTopics answers up to 100 topics, as SNS does
TOPIC_LIMIT = 100_000  # SNS: standard topics per account
ATTRIBUTES_LIMIT = 16 << 20  # characters of all topics' attributes together

_NAME = re.compile(r"[A-Za-z0-9_-]{1,256}", re.ASCII)
_ARN = re.compile(r"arn:aws(?:-[a-z0-9-]+)?:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?", re.ASCII)

_SEND_AT = re.compile(b"".join(rb"(?:%c|\\u00%02x)" % (one, one) for one in b"SendAt"), re.IGNORECASE)
"""The name of the field, also where it is written with escapes. What else has this word is kept for nothing."""

Attributes = Mapping[str, str | bytes]
"""Message attributes: String and Number values as `str`, Binary as `bytes`."""


class TopicNotFound(Exception):
    """No topic has this ARN here."""


class TopicLimitExceeded(Exception):
    """There are as many topics as this gateway keeps."""


class Throttled(Exception):
    """A sender behind the topic has no room: nothing of the message was taken, publish it again later."""


class InvalidTopic(ValueError):
    """A topic name or ARN that SNS refuses as well; the message is worded as SNS words it."""


@dataclass(slots=True, eq=False)
class Binding:
    """A PacketSource that takes a topic's messages while its `state` (contract 1.3) is Active. `home_region` is its
    `HomeRegion` where set explicitly, else None."""

    source: str
    index: int
    sender: Sender
    home_region: str | None = None
    state: str = "Active"


@dataclass(slots=True)
class Topic:
    """A local topic. `attributes` are what users set; `made` tells whether one did, or the configuration alone."""

    arn: str
    attributes: dict[str, str] = field(default_factory=dict)
    made: bool = False
    published: int = 0

    @property
    def message_limit(self) -> int:
        """Bytes of a message, and of all messages of a batch together."""
        return message_limit(self.attributes)


def _size(attributes: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in attributes.items())


def check_name(name: str) -> None:
    """Raises `InvalidTopic` for a name that no topic can have here."""
    if name.endswith(".fifo"):
        raise InvalidTopic("Topic Name Reason: FIFO topics are not supported here, use a standard topic")
    if _NAME.fullmatch(name) is None:
        raise InvalidTopic("Topic Name")


def check_arn(arn: str, parameter: str = "TopicArn") -> str:
    """`arn` when it names a topic that can exist here; `InvalidTopic` otherwise."""
    if len(arn.split(":")) < 6:
        raise InvalidTopic(
            f"{parameter} Reason: An ARN must have at least 6 elements, not {len(arn.split(':'))}"
        )
    match = _ARN.fullmatch(arn)
    if match is None:
        raise InvalidTopic(f"{parameter} Reason: {arn[:300]!r} is not the ARN of an SNS topic")
    if match[1]:
        raise InvalidTopic(f"{parameter} Reason: FIFO topics are not supported here, use a standard topic")
    return arn


class Topics:
    """The topics of one gateway, all in memory. To be used from the event loop only.

    `region` is the node's. `on_change(arn, attributes)` and `on_delete(arn)` are called before users create, change and
    delete topics, so that the state can keep them: what they raise prevents it. Topics that exist through a
    PacketSource are the configuration's.
    """

    def __init__(
        self,
        region: str,
        *,
        known: Iterable[tuple[str, Mapping[str, str]]] = (),
        on_change: Callable[[str, Mapping[str, str]], None] | None = None,
        on_delete: Callable[[str], None] | None = None,
    ) -> None:
        self.region = region
        self.unrouted = 0
        self.throttled = 0
        self._on_change = on_change
        self._on_delete = on_delete
        self._topics = {arn: Topic(arn, dict(attributes), made=True) for arn, attributes in known}
        self._kept = sum(_size(topic.attributes) for topic in self._topics.values())
        """Characters of all topics' attributes."""
        self._large: set[str] = set()
        """Topics that take more than 256 KiB."""
        for topic in self._topics.values():
            self._note(topic)
        self._bindings: dict[str, list[Binding]] = {}
        self._waiting: Waiting | None = None
        self._keeps_every = False

    # Topics

    def create(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """The ARN of the topic of this name in this region, made if it is new. `InvalidTopic` for a name SNS
        refuses, `TopicLimitExceeded` where it would be too much."""
        check_name(name)
        arn = f"arn:aws:sns:{self.region}:{ACCOUNT_ID}:{name}"
        wanted = dict(attributes or {})
        topic = self._topics.get(arn)
        if topic is not None and (topic.made or not wanted):
            present = {MESSAGE_SIZE: str(DEFAULT_MESSAGE_SIZE), **topic.attributes}
            if any(present.get(key, value) != value for key, value in wanted.items()):
                raise InvalidTopic("Attributes Reason: Topic already exists with different attributes")
            return arn
        if topic is None and len(self._topics) >= TOPIC_LIMIT:
            raise TopicLimitExceeded(f"there are {TOPIC_LIMIT} topics already: delete some")
        self._keep(topic or Topic(arn), wanted)
        return arn

    def set_attribute(self, arn: str, name: str, value: str) -> None:
        """Give a topic an attribute. `InvalidTopic`, `TopicNotFound`: no such topic."""
        topic = self.get(arn)
        self._keep(topic, {**topic.attributes, name: value})

    def _keep(self, topic: Topic, attributes: dict[str, str]) -> None:
        kept = self._kept + _size(attributes) - _size(topic.attributes)
        if kept > ATTRIBUTES_LIMIT:
            raise TopicLimitExceeded(
                f"the attributes of all topics have more than {ATTRIBUTES_LIMIT} characters: delete some topics"
            )
        if self._on_change is not None:
            self._on_change(topic.arn, attributes)
        self._kept = kept
        topic.attributes = attributes
        topic.made = True
        self._topics[topic.arn] = topic
        self._note(topic)

    def delete(self, arn: str) -> None:
        """Remove a topic; one that does not exist is no error, as in SNS."""
        check_arn(arn)
        topic = self._topics.get(arn)
        if topic is None:
            return
        if self._on_delete is not None:
            self._on_delete(arn)
        del self._topics[arn]
        self._large.discard(arn)
        self._kept -= _size(topic.attributes)

    @property
    def largest_message(self) -> int:
        """Bytes of a message that some topic may take."""
        return LARGEST_MESSAGE_SIZE if self._large else DEFAULT_MESSAGE_SIZE

    def _note(self, topic: Topic) -> None:
        if topic.message_limit > DEFAULT_MESSAGE_SIZE:
            self._large.add(topic.arn)
        else:
            self._large.discard(topic.arn)

    def get(self, arn: str, parameter: str = "TopicArn") -> Topic:
        """The topic; `TopicNotFound`, or `InvalidTopic` when `arn` cannot be one."""
        topic = self._topics.get(arn)
        if topic is None:
            check_arn(arn, parameter)
            raise TopicNotFound("Topic does not exist")
        return topic

    def page(self, after: str = "") -> tuple[list[str], str | None]:
        """One page of ARNs in order, those behind `after`; and the last of them when more follow."""
        arns = sorted(self._topics)
        start = bisect_right(arns, after)
        page = arns[start : start + PAGE_SIZE]
        return page, page[-1] if start + PAGE_SIZE < len(arns) else None

    def sources(self, arn: str) -> tuple[Binding, ...]:
        """The PacketSources bound to a topic."""
        return tuple(self._bindings.get(arn, ()))

    # Bindings

    def bind(self, arn: str, binding: Binding) -> None:
        """Let a PacketSource take this topic's messages; the topic exists from now on."""
        check_arn(arn)
        self._topics.setdefault(arn, Topic(arn))
        self._bindings.setdefault(arn, []).append(binding)

    def unbind(self, arn: str, binding: Binding) -> None:
        """Stop that. The topic stays until it is deleted: a publisher may still hold its ARN."""
        bound = self._bindings.get(arn, [])
        if binding in bound:
            bound.remove(binding)
        if not bound:
            self._bindings.pop(arn, None)

    # Messages

    def keep_in(self, waiting: Waiting, *, every: bool) -> None:
        """From now on a message with a `SendAt` is on the disk before its publisher is answered, or `every` one."""
        self._waiting, self._keeps_every = waiting, every

    def is_kept(self, body: bytes) -> bool:
        """True for a message that `publish_kept` is to take."""
        return self._waiting is not None and (self._keeps_every or _names_send_at(body))

    def publish(
        self, arn: str, message_id: str, body: bytes, attributes: Attributes, published_at: float
    ) -> None:
        """Hand a message to every PacketSource bound to the topic. Returns once all of them have it.

        `body` is the message as published, `published_at` Unix seconds. `Throttled`: a sender is full, and
        none has it. `TopicNotFound`, `InvalidTopic`: no such topic. A topic without a PacketSource takes the
        message, and counts it.
        """
        topic = self.get(arn)
        bound = self._bindings.get(arn)
        if not bound:
            topic.published += 1
            self.unrouted += 1
            return
        for binding in bound:
            if binding.sender.full:
                self.throttled += 1
                raise Throttled(arn)
        taken = False
        for binding in bound:
            refusal = self._refusal(binding, attributes)
            message = Message(message_id, binding.index, body, published_at, refusal)
            if taken:
                # The first sender has the message: a retry of the publisher would send it there twice.
                binding.sender.submit_later(message)
            elif binding.sender.try_submit([message]) == 0:
                self.throttled += 1
                raise Throttled(arn)
            taken = True
        topic.published += 1

    async def publish_kept(
        self,
        arn: str,
        message_id: str,
        body: bytes,
        attributes: Attributes,
        published_at: float,
    ) -> None:
        """The same for a message that `is_kept`: it is on the disk before anybody has it, and survives a crash."""
        waiting = self._waiting
        if waiting is None:
            return self.publish(arn, message_id, body, attributes, published_at)
        topic = self.get(arn)
        bound = self._bindings.get(arn)
        if not bound:
            topic.published += 1
            self.unrouted += 1
            return
        if waiting.full or any(binding.sender.full for binding in bound):
            self.throttled += 1
            raise Throttled(arn)
        rows = [
            WaitingRow(
                binding.source,
                message_id,
                body,
                published_at=published_at,
                refusal=self._refusal(binding, attributes),
            )
            for binding in bound
        ]
        await waiting.accept(rows)
        topic.published += 1

    def _refusal(self, binding: Binding, attributes: Attributes) -> tuple[str, str] | None:
        if binding.state != "Active":
            return "SourceDisabled", f"PacketSource {binding.source} is {binding.state}"
        wanted = attributes.get(ATTRIBUTE)
        if wanted is None:
            if binding.home_region is None or binding.home_region == self.region:
                return None
            home = f"the HomeRegion of {binding.source} is {binding.home_region}"
            return "WrongRegion", f"no EgressRegion, and {home}, not {self.region}"
        if self.region in named_regions(wanted):
            return None
        return (
            "WrongRegion",
            f"EgressRegion is {shown(wanted)}, local topics are served in {self.region} only",
        )


def _names_send_at(body: bytes) -> bool:
    plain = body.lower()  # at a tenth of the time of the search
    return (b"sendat" in plain or b"\\u00" in plain) and _SEND_AT.search(body) is not None


class LocalTopicSource(MessageSource):
    """A PacketSource on a local topic. Publishing pushes straight into the sender, so `run` has nothing to
    fetch, and a publisher is answered when the sender has its message: nobody keeps it after that.

    It is bound in every state: what is published to a PacketSource that is not Active fails, and is reported."""

    def __init__(self, topics: Topics, resource: PacketSource, context: SourceContext) -> None:
        super().__init__(resource.name, context)
        self._topics = topics
        self._arn = resource.topic.topic_arn
        self._binding = Binding(self.name, self.index, self.sender, resource.home_region, context.state)

    async def provision(self) -> None:
        """Check the ARN. Nothing is bound before `run`, so that no message is taken too early."""
        try:
            check_arn(self._arn)
        except InvalidTopic as error:
            raise SourceError(str(error), "use the ARN of a standard topic") from None

    async def run(self) -> None:
        """Bound to the topic until cancelled."""
        self._topics.bind(self._arn, self._binding)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._topics.unbind(self._arn, self._binding)
