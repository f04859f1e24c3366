"""Whose queues and subscriptions are touched, when, and in whose name SNS may write to them (contract section 4.2)."""

import json
from typing import Any

import pytest
from fake_aws import ACCOUNT
from test_sns_source_parts import ROLE, TOPIC, Rig, attribute
from test_sns_source_parts import rig as rig

from doubles import envelope
from sluicegate.aws import AwsError
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.sources.topic import quiet as sns_quiet
from sluicegate.sources.topic import subscription as sns_subscription
from sluicegate.sources.topic.subscription import gateway_role, next_step
from waiting import until

STRANGER = "999999999999"


async def subscribed(rig: Rig, **fields: Any) -> str:
    """The ARN of the queue, once it is subscribed."""
    await rig.start(**fields)
    await until(lambda: rig.named("SourceSubscribed"))
    arn: str = rig.subscriptions[-1]["Endpoint"]
    return arn


async def reconciled(rig: Rig, times: int = 5) -> None:
    """It has looked so many times more."""
    seen = len(rig.aws.asked("ListSubscriptionsByTopic"))
    await until(
        lambda: len(rig.aws.asked("ListSubscriptionsByTopic")) > seen + times * len(rig.subscriptions)
    )


def add_subscription(rig: Rig, queue_arn: str) -> dict[str, Any]:
    made = {
        "SubscriptionArn": f"{TOPIC}:{len(rig.subscriptions) + 100}",
        "Protocol": "sqs",
        "Endpoint": queue_arn,
        "Attributes": {"RawMessageDelivery": "false"},
    }
    rig.subscriptions.append(made)
    return made


async def test_another_accounts_gateway_of_the_same_names_is_left_alone_and_so_is_the_own_queue(
    rig: Rig,
) -> None:
    arn = await subscribed(rig)
    theirs = add_subscription(rig, arn.replace(ACCOUNT, STRANGER))
    await reconciled(rig)
    assert theirs in rig.subscriptions
    assert list(rig.aws.queues) == [sns_queue.name_of(arn)]
    assert rig.aws.asked("Unsubscribe") == rig.aws.asked("DeleteQueue") == []
    assert [queue.arn for queue in rig.state.source_queues()] == [arn]
    assert rig.named("SourceProvisionFailed") == []


async def test_an_earlier_queue_that_a_lost_state_does_not_know_is_read_before_it_goes(rig: Rig) -> None:
    first = await subscribed(rig)
    await rig.stop()
    for queue in rig.state.source_queues():
        rig.state.forget_source_queue(queue.arn)
    second = f"{first[:-1]}2"
    rig.aws.queues[sns_queue.name_of(second)] = {}
    add_subscription(rig, second)
    rig.aws.queue(f"https://sqs/{sns_queue.name_of(first)}").put(envelope("m1", "waits", topic=TOPIC))
    await rig.start()
    await until(lambda: rig.aws.asked("DeleteQueue"))
    assert [message.body for message in rig.sender.sent] == [b"waits"]
    assert list(rig.aws.queues) == [sns_queue.name_of(second)]
    assert [one["Endpoint"] for one in rig.subscriptions] == [second]


async def test_away_from_home_both_subscriptions_stay_until_sns_has_applied_the_filter(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.region = "eu-west-1"
    first = await subscribed(rig)
    rig.subscriptions[0]["Attributes"]["FilterPolicy"] = "{}"  # by hand
    await until(lambda: len(rig.subscriptions) == 2)
    await reconciled(rig)
    assert rig.aws.asked("Unsubscribe") == []
    old = rig.aws.queue(f"https://sqs/{sns_queue.name_of(first)}")
    old.put(envelope("m1", "by the old way", topic=TOPIC, MessageAttributes=attribute("eu-west-1")))
    await until(lambda: old.deleted)
    assert [message.body for message in rig.sender.sent] == [b"by the old way"]
    monkeypatch.setattr(sns_subscription, "FILTER_SECONDS", 0.0)
    await until(lambda: len(rig.aws.queues) == 1)
    assert [one["Endpoint"] for one in rig.subscriptions] == [f"{first[:-1]}2"]


async def test_a_new_queue_is_read_though_the_old_subscription_cannot_be_ended(rig: Rig) -> None:
    first = await subscribed(rig)
    rig.aws.refuse["Unsubscribe"] = AwsError("sns", "Unsubscribe", "AuthorizationError", "no", status=403)
    rig.subscriptions[0]["Attributes"]["RawMessageDelivery"] = "true"  # by hand
    await until(lambda: rig.named("SourceProvisionFailed"))
    new = rig.aws.queue(f"https://sqs/{sns_queue.name_of(first)[:-1]}2")
    new.put(envelope("m1", "x", topic=TOPIC))
    await until(lambda: new.deleted)
    assert "sns:Unsubscribe on *" in rig.named("SourceProvisionFailed")[0]["Detail"]


async def test_a_queue_is_read_for_a_while_after_its_subscription_has_ended(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sns_quiet, "QUIET_SECONDS", 1000.0)
    first = await subscribed(rig)
    rig.subscriptions[0]["Attributes"]["RawMessageDelivery"] = "true"  # by hand
    await until(lambda: rig.aws.asked("Unsubscribe"))
    await reconciled(rig)
    old = rig.aws.queue(f"https://sqs/{sns_queue.name_of(first)}")
    old.put(envelope("m1", "late", topic=TOPIC))
    await until(lambda: old.deleted)
    assert rig.aws.asked("DeleteQueue") == []
    monkeypatch.setattr(sns_quiet, "QUIET_SECONDS", 0.0)
    await until(lambda: len(rig.aws.queues) == 1)


# Names


@pytest.mark.parametrize("source", ["replies", "r", "x" * 255, "with.dots_and-1"])
def test_what_a_gateway_makes_is_known_as_a_gateways_queue(source: str) -> None:
    name = f"{sns_queue.name_stem(1, TOPIC, source)}17"
    assert sns_queue.is_of_a_gateway(sns_queue.queue_arn(TOPIC, "eu-west-1", ACCOUNT, name))


@pytest.mark.parametrize(
    "name", ["sluicegate-results", "sluicegate-replies-dead", "sluicegate-r-0123456789ab-x", "other-1"]
)
async def test_a_queue_of_somebody_else_does_not_serve_its_region(rig: Rig, name: str) -> None:
    await subscribed(rig)
    add_subscription(rig, f"arn:aws:sqs:eu-west-1:{ACCOUNT}:{name}")
    await reconciled(rig)
    queue = rig.aws.contents[f"https://sqs/{sns_queue.name_of(rig.subscriptions[0]['Endpoint'])}"]
    queue.put(envelope("m1", "x", topic=TOPIC, MessageAttributes=attribute("eu-west-1")))
    await until(lambda: queue.deleted)
    (message,) = rig.sender.sent
    assert message.refusal is not None
    assert message.refusal[0] == "WrongRegion"


# Opt-in regions


@pytest.mark.parametrize(
    ("topic_region", "queue_region", "sender"),
    [
        ("us-east-1", "eu-west-1", None),
        ("ap-east-1", "ap-east-1", None),
        ("ap-east-1", "us-east-1", "sns.ap-east-1.amazonaws.com"),
        ("us-east-1", "ap-east-1", "sns.ap-east-1.amazonaws.com"),
        ("af-south-1", "ap-east-1", "sns.ap-east-1.amazonaws.com"),
    ],
)
async def test_sns_delivers_to_and_from_opt_in_regions_in_a_regional_name(
    rig: Rig, topic_region: str, queue_region: str, sender: str | None
) -> None:
    rig.region = queue_region
    topic = TOPIC.replace("us-east-1", topic_region)
    rig.aws.topics[topic] = []
    await rig.start(sns_topic_source={"topic_arn": topic, "role": ROLE})
    await until(lambda: rig.named("SourceSubscribed"))
    (queue,) = rig.aws.queues.values()
    (statement,) = json.loads(queue["Policy"])["Statement"]
    plain = "sns.amazonaws.com"
    assert statement["Principal"] == {"Service": [plain, sender] if sender else plain}
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": topic}}
    assert ("opt-in" in rig.named("SourceSubscribed")[0].get("Detail", "")) == (sender is not None)


def test_a_topic_of_another_partition_has_no_regional_sender() -> None:
    assert sns_queue.regional_sender(TOPIC.replace("aws", "aws-us-gov"), "us-gov-west-1") is None


# What to put into a policy


def test_unsubscribe_is_allowed_on_everything_as_sns_has_no_resource_for_it() -> None:
    arn = f"{TOPIC}:1"
    error = AwsError("sns", "Unsubscribe", "AuthorizationError", "no", status=403, resource=arn)
    step = next_step(error, gateway_role(ROLE, "us-east-1", "replies"), own=False)
    assert step == f"attach to {ROLE} a policy that allows sns:Unsubscribe on *"


async def test_what_the_queue_refuses_names_its_arn(rig: Rig) -> None:
    arn = await subscribed(rig)
    queue = await rig.queue()
    url = f"https://sqs/{sns_queue.name_of(arn)}"
    queue.errors.append(AwsError("sqs", "ReceiveMessage", "AccessDenied", "no", status=403, resource=url))
    await until(lambda: rig.named("SourcePollFailed"))
    (event,) = rig.named("SourcePollFailed")
    assert f"a policy that allows sqs:ReceiveMessage on {arn}" in event["Detail"]
    assert "https://" not in event["Detail"]
