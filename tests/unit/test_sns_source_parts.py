"""A PacketSource on AWS: how it subscribes, what it takes, and what it says when it may not (contract section 4.2)."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_aws import ACCOUNT, FakeAws, FakeQueue

from doubles import envelope
from sluicegate.aws import AwsError
from sluicegate.deadletters.failures import Failure
from sluicegate.egress.message import EgressClosed, Message, Outcome
from sluicegate.events import EventLog, MemorySink
from sluicegate.model import GatewayConfig, PacketSource
from sluicegate.sources.base import SourceContext
from sluicegate.sources.topic import consumer as sns_consumer
from sluicegate.sources.topic import quiet as sns_quiet
from sluicegate.sources.topic import source as sns
from sluicegate.sources.topic.carrier import IN_FLIGHT_MESSAGES
from sluicegate.sources.topic.reader import in_flight_limit
from sluicegate.sources.topic.setting import SnsSetting
from sluicegate.sources.topic.source import SnsSource
from sluicegate.sources.topic.subscription import gateway_role
from sluicegate.state import State
from waiting import until

TOPIC = f"arn:aws:sns:us-east-1:{ACCOUNT}:replies"
ROLE = "arn:aws:iam::210987654321:role/topics"
DEAD = f"arn:aws:sqs:us-east-1:{ACCOUNT}:dead"


class FakeSender:
    """Ends each message at once, unless `hold`; bodies in `bad` fail."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.kept = asyncio.Event()
        self.kept.set()
        self.full = False
        self.congested = False
        self.closed = False
        self.given_back: list[str] = []
        self.ending: list[asyncio.Task[None]] = []

    def try_submit(self, messages: Sequence[Message], ended: Callable[[Outcome], None] | None = None) -> int:
        taken = 0 if self.full or self.closed else len(messages)
        for message in messages[:taken]:
            self.ending.append(asyncio.create_task(self._end(message, ended)))
        return taken

    async def _end(self, message: Message, ended: Callable[[Outcome], None] | None) -> None:
        with contextlib.suppress(EgressClosed):
            outcome = await self.send(message)
            if ended is not None:
                ended(outcome)

    def submit_later(self, message: Message) -> None:
        raise AssertionError("a queue's message is nobody else's")

    async def send(self, message: Message, *, room_seconds: float | None = None) -> Outcome:
        self.sent.append(message)
        await self.hold.wait()
        if self.closed:
            raise EgressClosed("closed")
        failed = [Failure(0, *message.refusal)] if message.refusal else []
        if message.body == b"bad":
            failed = [Failure(None, "MalformedMessage", "not valid JSON")]
        return Outcome(message.message_id, 1, 1 - len(failed), 0, failed)

    def settled(self, source: int) -> bool:
        return self.kept.is_set()

    async def settle(self, source: int) -> None:
        await self.kept.wait()

    def give_back(self, source: int, message_ids: Iterable[str]) -> None:
        self.given_back += message_ids


class Rig:
    """A gateway's PacketSource on AWS, without the gateway."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.aws = FakeAws(TOPIC)
        self.sender = FakeSender()
        self.sink = MemorySink()
        self.state = State.open(directory / "state.db")
        self.running: list[tuple[SnsSource, asyncio.Task[None]]] = []
        self.region = "us-east-1"

    def setting(self) -> SnsSetting:
        config = GatewayConfig(region=self.region, state=str(self.directory / "state.db"))
        made = SnsSetting(config, self.aws, self.state, EventLog(self.sink))  # type: ignore[arg-type]
        made.reconcile_seconds = 0.05
        return made

    async def start(self, **fields: Any) -> SnsSource:
        made = SnsSource(self.setting(), resource(**fields), SourceContext(self.sender, listener="decoder"))
        await made.provision()
        self.running.append((made, asyncio.create_task(made.run())))
        return made

    async def stop(self) -> None:
        for made, task in self.running:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await made.close()
        self.running.clear()

    @property
    def subscriptions(self) -> list[dict[str, Any]]:
        return self.aws.topics.get(TOPIC, [])

    async def queue(self) -> FakeQueue:
        """The queue that is subscribed, once it is polled."""
        await until(lambda: bool(self.aws.contents))
        return self.aws.contents[f"https://sqs/{self.subscriptions[-1]['Endpoint'].rpartition(':')[2]}"]

    def named(self, event: str) -> list[dict[str, Any]]:
        return self.sink.named(event)


def resource(**fields: Any) -> PacketSource:
    document = {"name": "replies", "listener_name": "decoder"} | fields
    document.setdefault("sns_topic_source", {"topic_arn": TOPIC, "role": ROLE})
    return PacketSource.model_validate(document)


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    quick = sns.Backoff(0.01, 0.02)
    monkeypatch.setattr(sns, "RETRIES", quick)
    monkeypatch.setattr(sns, "REFUSALS", quick)
    monkeypatch.setattr(sns_consumer, "PAUSES", quick)
    monkeypatch.setattr(sns_quiet, "QUIET_SECONDS", 0.1)
    made = Rig(tmp_path)
    yield made
    await made.stop()
    made.state.close()


# Subscribing


async def test_exactly_three_permissions_and_every_attribute_in_subscribe(rig: Rig) -> None:
    await rig.start(dead_letter_queue_arn=DEAD)
    await until(lambda: rig.named("SourceSubscribed"))
    asked = {(name, role) for name, _, role, _ in rig.aws.calls if role is not None}
    session = gateway_role(ROLE, "us-east-1", "replies")
    assert asked == {("ListSubscriptionsByTopic", session), ("Subscribe", session)}
    assert session is not None
    assert session.session_name == "sluicegate-us-east-1@210987654321-src-replies"
    assert rig.aws.asked("Subscribe")[0]["Attributes"] == {
        "RawMessageDelivery": "false",
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": DEAD}),
    }


def test_the_name_of_a_session_fits_into_64_characters() -> None:
    role = gateway_role(ROLE, "ap-southeast-2", "x" * 255)
    assert role is not None
    assert len(role.session_name) == 64
    assert role.session_name.startswith("sluicegate-ap-southeast-2@210987654321-src-xxx")


async def test_without_a_role_the_gateways_own_credentials_are_used(rig: Rig) -> None:
    await rig.start(sns_topic_source={"topic_arn": TOPIC})
    await until(lambda: rig.named("SourceSubscribed"))
    assert {role for _, _, role, _ in rig.aws.calls} == {None}


async def test_sns_is_called_in_the_topics_region_and_sqs_in_the_gateways(rig: Rig) -> None:
    rig.region = "eu-west-1"
    await rig.start(dead_letter_queue_arn=DEAD.replace("us-east-1", "eu-west-1"))
    await until(lambda: rig.named("SourceSubscribed"))
    regions = {name: region for name, _, _, region in rig.aws.calls}
    assert regions["Subscribe"] == regions["ListSubscriptionsByTopic"] == "us-east-1"
    assert regions["CreateQueue"] == "eu-west-1"
    (only,) = rig.subscriptions
    assert only["Endpoint"].startswith(f"arn:aws:sqs:eu-west-1:{ACCOUNT}:sluicegate-replies-")
    # SNS takes a dead-letter queue beside the topic only.
    assert only["Attributes"] == {
        "RawMessageDelivery": "false",
        "FilterPolicy": '{"EgressRegion": ["eu-west-1"]}',
    }
    assert "dead-letter queue" in rig.named("SourceSubscribed")[0]["Detail"]


async def test_a_subscription_with_other_attributes_is_replaced_by_another_queue(rig: Rig) -> None:
    await rig.start()
    await until(lambda: rig.named("SourceSubscribed"))
    first = await rig.queue()
    (old,) = rig.subscriptions
    rig.subscriptions[0]["Attributes"]["RawMessageDelivery"] = "true"  # by hand
    await until(lambda: [one["Endpoint"] for one in rig.subscriptions] != [old["Endpoint"]])
    first.put(envelope("m1", "in the old queue", topic=TOPIC))
    await until(lambda: rig.sender.sent)
    await until(lambda: len(rig.subscriptions) == 1)
    assert rig.subscriptions[0]["Attributes"] == {"RawMessageDelivery": "false"}
    order = [name for name, *_ in rig.aws.calls if name in ("Subscribe", "Unsubscribe")]
    assert order.index("Unsubscribe") > 0
    await until(lambda: len(rig.aws.queues) == 1)  # the old one is deleted, empty
    assert [queue.arn for queue in rig.state.source_queues()] == [rig.subscriptions[0]["Endpoint"]]


async def test_a_name_that_sqs_refuses_for_a_minute_is_passed_over(rig: Rig) -> None:
    await rig.start()
    await until(lambda: rig.named("SourceSubscribed"))
    (name,) = rig.aws.queues
    await rig.stop()
    rig.aws.queues.clear()
    rig.aws.recent.add(name)
    await rig.start()
    await until(lambda: rig.subscriptions[-1]["Endpoint"].endswith("-2"))
    await until(lambda: len(rig.subscriptions) == 1)
    assert list(rig.aws.queues) == [f"{name[:-1]}2"]


async def test_a_lost_state_finds_its_queue_by_the_subscription(rig: Rig) -> None:
    await rig.start()
    await until(lambda: rig.named("SourceSubscribed"))
    await rig.stop()
    (before,) = rig.subscriptions
    for queue in rig.state.source_queues():
        rig.state.forget_source_queue(queue.arn)
    await rig.start()
    await until(lambda: rig.state.source_queues())
    await until(lambda: rig.aws.contents)
    assert rig.subscriptions == [before]
    assert len(rig.named("SourceSubscribed")) == 1


async def test_a_queue_that_was_opened_by_hand_is_closed_again(rig: Rig) -> None:
    await rig.start()
    await until(lambda: rig.named("SourceSubscribed"))
    (name,) = rig.aws.queues
    policy = rig.aws.queues[name]["Policy"]
    rig.aws.queues[name]["Policy"] = json.dumps({"Statement": [{"Principal": "*"}]})
    await until(lambda: rig.aws.queues[name]["Policy"] == policy)


@pytest.mark.parametrize(
    ("operation", "error", "said"),
    [
        (
            "Subscribe",
            AwsError("sns", "Subscribe", "AuthorizationError", "not authorized", status=403, resource=TOPIC),
            [f"sns:Subscribe on {TOPIC}", f"attach to {ROLE} a policy that allows sns:Subscribe"],
        ),
        (
            "CreateQueue",
            AwsError(
                "sqs", "CreateQueue", "AccessDenied", "not authorized", status=403, resource="sluicegate-x"
            ),
            [
                f"sqs:CreateQueue on arn:aws:sqs:us-east-1:{ACCOUNT}:sluicegate-replies-",
                "attach to the gateway's own credentials a policy that allows sqs:CreateQueue on arn:aws:sqs:",
            ],
        ),
        (
            "ListSubscriptionsByTopic",
            AwsError("sts", "AssumeRole", "AccessDenied", "not authorized", status=403),
            [f"sts:AssumeRole on {ROLE}", "trust policy"],
        ),
        (
            "ListSubscriptionsByTopic",
            AwsError("sns", "ListSubscriptionsByTopic", "NotFound", "no topic", status=404, resource=TOPIC),
            [TOPIC, "create the topic"],
        ),
    ],
    ids=["role", "gateway", "trust", "topic"],
)
async def test_what_is_refused_names_the_action_the_resource_and_the_next_step(
    rig: Rig, operation: str, error: AwsError, said: list[str]
) -> None:
    rig.aws.refuse[operation] = error
    await rig.start()
    await until(lambda: rig.named("SourceProvisionFailed"))
    (event,) = rig.named("SourceProvisionFailed")
    assert event["Reason"] == error.code
    for words in said:
        assert words in event["Detail"]
    asked = len(rig.aws.calls)
    await until(lambda: len(rig.aws.calls) > asked + 5)  # it keeps trying, and says so once
    assert len(rig.named("SourceProvisionFailed")) == 1
    del rig.aws.refuse[operation]
    await until(lambda: rig.named("SourceRecovered"))
    assert len(rig.subscriptions) == 1


async def test_what_waits_is_taken_while_sns_does_not_answer(rig: Rig) -> None:
    await rig.start()
    await until(lambda: rig.named("SourceSubscribed"))
    queue = await rig.queue()
    await rig.stop()
    rig.aws.refuse["ListSubscriptionsByTopic"] = AwsError("sns", "ListSubscriptionsByTopic", "NoAnswer", "no")
    queue.put(envelope("m1", "waits", topic=TOPIC))
    await rig.start()
    await until(lambda: queue.deleted)
    assert [message.body for message in rig.sender.sent] == [b"waits"]


# Another account's topic


async def test_a_confirmation_for_the_topic_is_given_through_the_api(rig: Rig) -> None:
    rig.aws.pending = True
    await rig.start()
    queue = await rig.queue()
    asked = {"Type": "SubscriptionConfirmation", "Message": "confirm", "SubscribeURL": "http://evil/"}
    queue.put(json.dumps(asked | {"TopicArn": f"{TOPIC}-other", "Token": "forged"}))
    queue.put(json.dumps(asked | {"TopicArn": TOPIC, "Token": "token"}))
    await until(lambda: len(queue.deleted) == 2)
    await until(lambda: rig.aws.asked("ConfirmSubscription"))
    assert rig.aws.asked("ConfirmSubscription") == [{"TopicArn": TOPIC, "Token": "token"}]
    (refused,) = rig.named("SourceProvisionFailed")
    assert (refused["Reason"], f"{TOPIC}-other" in refused["Detail"]) == ("UnexpectedTopic", True)
    assert rig.sender.sent == []


# Leftovers


async def test_what_cannot_be_unsubscribed_any_more_is_said_and_sns_is_let_in_no_more(rig: Rig) -> None:
    await rig.start()
    await until(lambda: rig.named("SourceSubscribed"))
    await rig.stop()
    rig.aws.refuse["ListSubscriptionsByTopic"] = AwsError(
        "sts", "AssumeRole", "AccessDenied", "the role is gone", status=403
    )
    leftovers = rig.setting().leftovers
    leftovers.sweep({}, {})
    await until(lambda: rig.named("SourceRemoved"))
    assert rig.aws.queues == {}
    assert rig.state.source_queues() == []
    assert "by hand" in rig.named("SourceProvisionFailed")[0]["Detail"]
    assert rig.aws.asked("SetQueueAttributes")[-1]["Attributes"] == {"Policy": ""}


# Consuming


async def test_a_message_is_deleted_when_it_has_ended_and_not_before(rig: Rig) -> None:
    await rig.start()
    queue = await rig.queue()
    rig.sender.hold.clear()
    receipt = queue.put(
        envelope("m1", "hello", topic=TOPIC, Timestamp="2026-06-09T10:00:00.500Z"), message_id="sqs-id"
    )
    await until(lambda: rig.sender.sent)
    assert queue.deleted == []
    rig.sender.hold.set()
    await until(lambda: queue.deleted == [receipt])
    (message,) = rig.sender.sent
    assert (message.message_id, message.body, message.published_at) == ("m1", b"hello", 1780999200.5)


async def test_what_failed_is_deleted_once_its_dead_letter_is_kept(rig: Rig) -> None:
    await rig.start()
    queue = await rig.queue()
    rig.sender.kept.clear()
    bad = queue.put("bad")
    good = queue.put(envelope("m2", "good", topic=TOPIC))
    await until(lambda: queue.deleted == [good])
    rig.sender.kept.set()
    await until(lambda: queue.deleted == [good, bad])
    assert rig.sender.sent[0].published_at == 1000.0  # the queue's time, where there is no envelope


async def test_repeats_are_deleted_and_not_sent_while_it_is_held_after_it_ended_and_after_a_crash(
    rig: Rig,
) -> None:
    source = await rig.start()
    queue = await rig.queue()
    rig.sender.hold.clear()
    body = envelope("m1", "once", topic=TOPIC)
    receipts = [queue.put(body), queue.put(body, receive_count=2)]
    await until(lambda: source.stats.repeated == 1)
    rig.sender.hold.set()
    await until(lambda: queue.deleted == receipts)
    receipts.append(queue.put(body))
    await until(lambda: queue.deleted == receipts)
    await rig.stop()
    await rig.start()
    receipts.append(queue.put(body))
    await until(lambda: queue.deleted == receipts)
    assert len(rig.sender.sent) == 1
    assert source.stats.redelivered == 1


async def test_a_receipt_that_expired_is_no_loss(rig: Rig) -> None:
    source = await rig.start()
    queue = await rig.queue()
    body = envelope("m1", "late", topic=TOPIC)
    queue.delete_codes[queue.put(body)] = "ReceiptHandleIsInvalid"
    await until(lambda: source.stats.delete_errors)
    again = queue.put(body, receive_count=2)
    await until(lambda: queue.deleted == [again])
    assert len(rig.sender.sent) == 1
    assert source.stats.in_flight == 0


async def test_deletes_are_tried_until_they_succeed(rig: Rig) -> None:
    source = await rig.start()
    queue = await rig.queue()
    receipt = queue.put(envelope("m1", "x", topic=TOPIC))
    queue.delete_codes[receipt] = "InternalError"
    await until(lambda: queue.deleted == [receipt])
    assert source.stats.delete_errors == 1


async def test_an_outage_is_told_once_and_its_end_too(rig: Rig) -> None:
    source = await rig.start()
    queue = await rig.queue()
    queue.errors += [AwsError("sqs", "ReceiveMessage", "NoAnswer", "refused") for _ in range(5)]
    await until(lambda: source.stats.poll_errors == 5)
    receipt = queue.put(envelope("m1", "after", topic=TOPIC))
    await until(lambda: queue.deleted == [receipt])
    assert len(rig.named("SourcePollFailed")) == 1
    assert [event["Detail"] for event in rig.named("SourceRecovered")] == ["ReceiveMessage"]


async def test_polls_grow_with_the_backlog_and_one_is_left_when_it_is_gone(rig: Rig) -> None:
    source = await rig.start()
    queue = await rig.queue()
    await asyncio.sleep(0.1)
    assert queue.most_polls == 1
    for number in range(2_000):
        queue.put(envelope(f"m{number}", f"{number}", topic=TOPIC))
    await until(lambda: len(queue.deleted) == 2_000)
    assert queue.most_polls > 4
    await until(lambda: source.stats.polls == 1)
    assert {message.body for message in rig.sender.sent} == {b"%d" % n for n in range(2_000)}


async def test_nothing_is_fetched_beyond_what_may_be_in_flight(rig: Rig) -> None:
    source = await rig.start(rate_limit={"packets_per_second": 10}, hold_seconds=4)  # 20 messages
    queue = await rig.queue()
    rig.sender.hold.clear()
    for number in range(200):
        queue.put(envelope(f"m{number}", "x", topic=TOPIC))
    await until(lambda: source.stats.in_flight >= 20)
    await asyncio.sleep(0.1)
    assert source.stats.in_flight == 20
    assert queue.waiting
    rig.sender.hold.set()
    await until(lambda: len(queue.deleted) == 200)


async def test_what_has_not_ended_at_the_close_is_given_back(rig: Rig) -> None:
    await rig.start()
    queue = await rig.queue()
    rig.sender.hold.clear()
    receipt = queue.put(envelope("m1", "x", topic=TOPIC))
    await until(lambda: rig.sender.sent)
    await rig.stop()
    assert rig.sender.given_back == ["m1"]  # so that it makes no dead letter
    assert queue.extended == [(receipt, 0)]
    assert queue.deleted == []


async def test_a_listener_that_closes_leaves_the_message_in_the_queue(rig: Rig) -> None:
    source = await rig.start()
    queue = await rig.queue()
    rig.sender.closed = True
    queue.put(envelope("m1", "x", topic=TOPIC))
    await until(lambda: rig.sender.sent and source.stats.in_flight == 0)
    assert queue.deleted == []


def attribute(value: str, kind: str = "String") -> dict[str, Any]:
    return {"EgressRegion": {"Type": kind, "Value": value}}


async def test_at_home_a_region_that_nobody_can_list_now_waits_in_the_queue(rig: Rig) -> None:
    source = await rig.start()
    queue = await rig.queue()
    rig.aws.refuse["ListSubscriptionsByTopic"] = AwsError("sns", "ListSubscriptionsByTopic", "NoAnswer", "no")
    source._regions._known_at = float("-inf")
    queue.put(envelope("m1", "x", topic=TOPIC, MessageAttributes=attribute("eu-west-1")))
    await until(lambda: source.stats.received == 1 and source.stats.in_flight == 0)
    assert queue.deleted == []
    assert rig.sender.sent == []


async def test_away_from_home_only_what_names_this_region_is_sent(rig: Rig) -> None:
    rig.region = "eu-west-1"
    source = await rig.start()
    queue = await rig.queue()
    # Until SNS applies a new filter it may deliver anything.
    queue.put(envelope("m1", "nobody's", topic=TOPIC))
    queue.put(envelope("m2", "theirs", topic=TOPIC, MessageAttributes=attribute("us-east-1")))
    queue.put(envelope("m3", "ours", topic=TOPIC, MessageAttributes=attribute("eu-west-1")))
    listed = attribute('["us-east-1","eu-west-1"]', "String.Array")
    queue.put(envelope("m4", "of both", topic=TOPIC, MessageAttributes=listed))
    await until(lambda: len(queue.deleted) == 4)
    assert {message.body for message in rig.sender.sent} == {b"ours", b"of both"}
    assert source.stats.skipped == 2


def test_a_slow_source_fetches_no_more_than_it_can_send_in_time() -> None:
    assert in_flight_limit(resource()) == IN_FLIGHT_MESSAGES
    assert in_flight_limit(resource(rate_limit={"packets_per_second": 1}, hold_seconds=60)) == 30
    assert in_flight_limit(resource(rate_limit={"packets_per_second": 0.1}, hold_seconds=0)) == 1
    assert in_flight_limit(resource(rate_limit={"per_remote_packets_per_second": 1})) == IN_FLIGHT_MESSAGES
