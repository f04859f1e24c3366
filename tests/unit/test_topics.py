"""Local topics: who gets a message, who does not and why, and what the registry keeps."""

import asyncio
from collections.abc import Mapping

import pytest

from doubles import FakeSender
from sluicegate.egress.message import Message
from sluicegate.model import PacketSource
from sluicegate.sources import SourceContext, SourceError
from sluicegate.sources.local.topics import (
    Binding,
    InvalidTopic,
    LocalTopicSource,
    Throttled,
    TopicNotFound,
    Topics,
)

ARN = "arn:aws:sns:us-east-1:000000000000:replies"


def bound(
    topics: Topics, *, arn: str = ARN, home_region: str | None = None, state: str = "Active"
) -> FakeSender:
    sender = FakeSender()
    topics.bind(arn, Binding("replies", 0, sender, home_region, state))
    return sender


def publish(topics: Topics, attributes: Mapping[str, str | bytes] | None = None, arn: str = ARN) -> None:
    topics.publish(arn, "m1", b"body", attributes or {}, 1000.0)


def bound_to(arn: str) -> PacketSource:
    document = {"name": "replies", "listener_name": "decoder", "sns_topic_source": {"topic_arn": arn}}
    return PacketSource.model_validate(document)


def refusal(sender: FakeSender) -> str | None:
    (message,) = sender.taken
    return message.refusal[0] if message.refusal else None


def test_create_is_idempotent_and_gives_the_arn_of_this_region() -> None:
    created: list[str] = []
    topics = Topics("us-east-1", on_change=lambda arn, _: created.append(arn))
    assert topics.create("replies") == topics.create("replies") == ARN
    assert created == [ARN]
    assert topics.create("replies", {"DisplayName": "x"}) == ARN  # a new attribute is no contradiction


def test_create_with_other_attributes_is_refused() -> None:
    topics = Topics("us-east-1")
    topics.create("replies", {"DisplayName": "one"})
    with pytest.raises(InvalidTopic, match="different attributes"):
        topics.create("replies", {"DisplayName": "two"})


@pytest.mark.parametrize("name", ["", "with space", "a/b", "x" * 257, "replies.fifo", "ünicode", "a\n"])
def test_names_that_sns_refuses(name: str) -> None:
    with pytest.raises(InvalidTopic):
        Topics("us-east-1").create(name)


@pytest.mark.parametrize(
    ("arn", "cause"),
    [
        ("replies", "at least 6 elements, not 1"),
        ("arn:aws:sqs:us-east-1:000000000000:replies", "not the ARN of an SNS topic"),
        ("arn:aws:sns:us-east-1:000000000000:a:b", "not the ARN of an SNS topic"),
        ("arn:aws:sns:us-east-1:12:replies", "not the ARN of an SNS topic"),
        ("arn:aws:sns:us-east-1:000000000000:replies\n", "not the ARN of an SNS topic"),
        ("arn:aws:sns:us-east-1:000000000000:replies.fifo", "FIFO"),
    ],
)
def test_arns_that_name_no_topic(arn: str, cause: str) -> None:
    with pytest.raises(InvalidTopic, match=cause):
        publish(Topics("us-east-1"), arn=arn)


def test_an_unknown_topic_is_not_found_and_delete_needs_no_topic() -> None:
    deleted: list[str] = []
    topics = Topics("us-east-1", known=[(ARN, {})], on_delete=deleted.append)
    topics.delete(ARN)
    topics.delete(ARN)
    assert deleted == [ARN]
    with pytest.raises(TopicNotFound):
        publish(topics)


def test_pages_hold_a_hundred_and_lose_none() -> None:
    topics = Topics("us-east-1")
    created = sorted(topics.create(f"t{number}") for number in range(250))
    found: list[str] = []
    after: str | None = ""
    sizes = []
    while after is not None:
        page, after = topics.page(after)
        sizes.append(len(page))
        found += page
    assert found == created
    assert sizes == [100, 100, 50]


def test_a_bound_topic_exists_from_the_start_and_its_source_gets_the_message() -> None:
    topics = Topics("us-east-1")
    sender = bound(topics, arn="arn:aws:sns:us-east-1:123456789012:my-packet-source-topic")
    publish(topics, arn="arn:aws:sns:us-east-1:123456789012:my-packet-source-topic")
    assert sender.taken == [Message("m1", 0, b"body", 1000.0, None)]


def test_a_deleted_topic_that_is_bound_comes_back_with_create() -> None:
    topics = Topics("us-east-1")
    sender = bound(topics)
    topics.delete(ARN)
    with pytest.raises(TopicNotFound):
        publish(topics)
    topics.create("replies")
    publish(topics)
    assert len(sender.taken) == 1


def test_a_topic_without_a_source_takes_the_message_and_counts_it() -> None:
    topics = Topics("us-east-1")
    topics.create("replies")
    publish(topics)
    assert (topics.unrouted, topics.get(ARN).published) == (1, 1)


@pytest.mark.parametrize(
    ("attributes", "home_region", "enabled", "expected"),
    [
        ({}, None, True, None),
        ({}, "us-east-1", True, None),
        ({}, "eu-west-1", True, "WrongRegion"),
        ({"EgressRegion": "us-east-1"}, None, True, None),
        ({"EgressRegion": "us-east-1"}, "eu-west-1", True, None),
        ({"EgressRegion": "eu-west-1"}, None, True, "WrongRegion"),
        ({"EgressRegion": "us-east-1 "}, None, True, "WrongRegion"),
        ({"EgressRegion": b"us-east-1"}, None, True, "WrongRegion"),
        ({"EgressRegion": '["eu-west-1","us-east-1"]'}, None, True, None),
        ({"EgressRegion": '["eu-west-1"]'}, None, True, "WrongRegion"),
        ({"EgressRegion": "[us-east-1"}, None, True, "WrongRegion"),
        ({"Other": "eu-west-1"}, None, True, None),
        ({}, None, False, "SourceDisabled"),
        ({"EgressRegion": "eu-west-1"}, None, False, "SourceDisabled"),
    ],
)
def test_the_egress_region_rule(
    attributes: dict[str, str | bytes], home_region: str | None, enabled: bool, expected: str | None
) -> None:
    topics = Topics("us-east-1")
    sender = bound(topics, home_region=home_region, state="Active" if enabled else "Disabled")
    publish(topics, attributes)
    assert refusal(sender) == expected


def test_every_source_of_a_topic_gets_the_message() -> None:
    topics = Topics("us-east-1")
    first, second = bound(topics), bound(topics, state="Disabled")
    publish(topics)
    assert refusal(first) is None
    assert [message.refusal[0] for message in second.owed if message.refusal] == ["SourceDisabled"]


def test_a_full_sender_throttles_before_anybody_has_the_message() -> None:
    topics = Topics("us-east-1")
    first, second = bound(topics), bound(topics)
    second.full = True
    with pytest.raises(Throttled):
        publish(topics)
    assert first.taken == second.taken == second.owed == []
    second.full = False
    first.room = 0
    with pytest.raises(Throttled):
        publish(topics)
    assert second.owed == []
    assert topics.throttled == 2


async def test_a_local_source_is_bound_while_it_runs() -> None:
    topics, sender = Topics("us-east-1"), FakeSender()
    source = LocalTopicSource(topics, bound_to(ARN), SourceContext(sender))
    await source.provision()
    assert topics.sources(ARN) == ()
    running = asyncio.create_task(source.run())
    await asyncio.sleep(0)
    publish(topics)
    assert len(sender.taken) == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await source.close()
    publish(topics)
    assert len(sender.taken) == 1
    assert topics.unrouted == 1


async def test_a_source_with_a_bad_arn_is_refused_before_it_runs() -> None:
    context = SourceContext(FakeSender())
    with pytest.raises(SourceError, match="FIFO topics are not supported here"):
        await LocalTopicSource(Topics("us-east-1"), bound_to(f"{ARN}.fifo"), context).provision()
