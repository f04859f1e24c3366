"""How much is under way, for how long it stays ours, and what happens when something unforeseen does (contract 4.3)."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from fake_aws import FakeQueue
from test_sns_source_parts import TOPIC, Rig, attribute
from test_sns_source_parts import rig as rig

from doubles import envelope
from sluicegate.aws import AwsError
from sluicegate.sources import base as sources_base
from sluicegate.sources.topic import carrier as sns_carrier
from sluicegate.sources.topic import quiet as sns_quiet
from waiting import until


def put(queue: FakeQueue, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        queue.put(envelope(f"m{number}", "x", topic=TOPIC))


@pytest.mark.parametrize(("rate", "limit"), [(10, 20), (2, 4), (0.1, 1)])
async def test_polls_bring_no_more_than_may_be_in_flight(rig: Rig, rate: float, limit: int) -> None:
    source = await rig.start(rate_limit={"packets_per_second": rate}, hold_seconds=4)
    queue = await rig.queue()
    most = 0
    received = queue.receive

    async def receive(**options: Any) -> list[Any]:
        nonlocal most
        most = max(most, source.stats.in_flight)
        got = await received(**options)
        asyncio.get_running_loop().call_soon(lambda: watch())
        return got

    def watch() -> None:
        nonlocal most
        most = max(most, source.stats.in_flight)

    queue.receive = receive  # type: ignore[method-assign, assignment]
    put(queue, 200 if limit > 4 else 20)
    count = len(queue.waiting)
    await until(lambda: len(queue.deleted) == count)
    assert 0 < most <= limit


async def test_nothing_is_fetched_nor_sent_while_dead_letters_wait_beyond_their_bound(rig: Rig) -> None:
    source = await rig.start()
    queue = await rig.queue()
    rig.sender.congested = True
    rig.sender.kept.clear()
    put(queue, 5)  # for the poll that is out
    await until(lambda: source.stats.in_flight == 5)
    put(queue, 50, start=5)
    await asyncio.sleep(0.1)
    assert rig.sender.sent == []
    assert len(queue.waiting) == 50
    rig.sender.congested = False
    rig.sender.kept.set()
    await until(lambda: len(queue.deleted) == 55)
    assert len(rig.sender.sent) == 55


async def test_dead_letters_of_somebody_else_hold_back_too_and_are_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_base, "CONGESTED_SECONDS", 0.05)
    settles = 0

    async def settle(source: int) -> None:
        nonlocal settles
        settles += 1  # nothing of ours waits

    rig.sender.settle = settle  # type: ignore[method-assign]
    await rig.start()
    queue = await rig.queue()
    rig.sender.congested = True
    put(queue, 5)
    await until(lambda: settles == 3)
    assert rig.sender.sent == []
    rig.sender.congested = False
    await until(lambda: len(queue.deleted) == 5)


async def test_what_leaves_after_it_was_given_back_is_not_sent_again_by_the_next_start(rig: Rig) -> None:
    await rig.start()
    queue = await rig.queue()
    rig.sender.hold.clear()
    put(queue, 1)
    await until(lambda: rig.sender.sent)
    await rig.stop()
    assert len(queue.extended) == 1  # given back
    rig.sender.hold.set()
    await asyncio.gather(*rig.sender.ending)
    await rig.start()
    put(queue, 1)
    await until(lambda: len(queue.deleted) == 1)
    assert len(rig.sender.sent) == 1


async def test_what_fails_after_it_was_given_back_is_tried_by_the_next_start(rig: Rig) -> None:
    await rig.start()
    queue = await rig.queue()
    rig.sender.hold.clear()
    queue.put(envelope("m1", "bad", topic=TOPIC))
    await until(lambda: rig.sender.sent)
    await rig.stop()
    rig.sender.hold.set()
    await asyncio.gather(*rig.sender.ending)
    await rig.start()
    queue.put(envelope("m1", "bad", topic=TOPIC))
    await until(lambda: len(queue.deleted) == 1)
    assert len(rig.sender.sent) == 2


async def test_messages_that_wait_for_a_list_of_regions_are_spoken_of_and_so_is_its_return(rig: Rig) -> None:
    source = await rig.start()
    queue = await rig.queue()
    rig.running[-1][1].cancel()  # nothing but messages asks from here on
    await asyncio.gather(rig.running[-1][1], return_exceptions=True)
    refused = AwsError("sns", "ListSubscriptionsByTopic", "AuthorizationError", "no", status=403)
    rig.aws.refuse["ListSubscriptionsByTopic"] = refused
    source._regions._known_at = float("-inf")
    consumer = next(iter(source._consumers.values()))[0]

    async def fetch() -> None:
        queue.put(envelope("m1", "x", topic=TOPIC, MessageAttributes=attribute("eu-west-1")))
        (message,) = await queue.receive()
        source._carrier.take(consumer, message)
        await until(lambda: source.stats.in_flight == 0)

    await fetch()
    (event,) = rig.named("SourceProvisionFailed")
    assert event["Reason"] == "AuthorizationError"
    assert "wait in the queue" in event["Detail"]
    assert "sns:ListSubscriptionsByTopic" in event["Detail"]
    await fetch()
    assert len(rig.named("SourceProvisionFailed")) == 1
    del rig.aws.refuse["ListSubscriptionsByTopic"]
    source._regions._failed_at = float("-inf")
    await fetch()
    assert [event["Detail"] for event in rig.named("SourceRecovered")] == ["ListSubscriptionsByTopic"]


# Visibility


async def test_messages_that_cannot_be_kept_from_others_are_spoken_of(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sns_carrier, "EXTEND_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(sns_carrier, "VISIBILITY_SECONDS", 0)
    await rig.start()
    queue = await rig.queue()
    rig.sender.hold.clear()
    denied = [
        AwsError("sqs", "ChangeMessageVisibilityBatch", "AccessDenied", "no", status=403) for _ in range(3)
    ]
    queue.errors += denied
    put(queue, 1)
    await until(lambda: queue.extended)
    (event,) = rig.named("SourcePollFailed")
    assert "a policy that allows sqs:ChangeMessageVisibility on arn:aws:sqs:" in event["Detail"]
    assert [event["Detail"] for event in rig.named("SourceRecovered")] == ["ChangeMessageVisibilityBatch"]


async def test_a_queue_that_extends_nothing_does_not_make_another_extend_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sns_carrier, "EXTEND_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(sns_quiet, "QUIET_SECONDS", 1000.0)
    source = await rig.start()
    old = await rig.queue()
    rig.subscriptions[0]["Attributes"]["RawMessageDelivery"] = "true"  # by hand
    await until(lambda: rig.aws.asked("Unsubscribe") and len(rig.aws.contents) == 2)
    new = rig.aws.contents[f"https://sqs/{rig.subscriptions[-1]['Endpoint'].rpartition(':')[2]}"]
    rig.sender.hold.clear()
    tried = 0

    async def extend(receipts: Sequence[str], seconds: int) -> list[tuple[int, str]]:
        nonlocal tried
        tried += 1
        raise AwsError("sqs", "ChangeMessageVisibilityBatch", "NoAnswer", "no")

    monkeypatch.setattr(old, "extend", extend)
    old.put(envelope("m1", "x", topic=TOPIC))
    new.put(envelope("m2", "x", topic=TOPIC))
    await until(lambda: source.stats.in_flight == 2)
    for held in source._carrier._held.values():
        for receipt in held.receipts:
            receipt.extend_at = 0.0
    await until(lambda: tried >= 5)
    assert len(new.extended) == 1


# Mistakes of this program


def breaking(times: int, then: Any) -> Any:
    """A method that raises what nobody expects so many times."""
    left = times

    async def broken(*args: Any, **options: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise RuntimeError("text of a library")
        return await then(*args, **options)

    return broken


def told(rig: Rig, name: str = "SourcePollFailed") -> None:
    for event in rig.named(name):
        assert event["Reason"] == "InternalError"
        assert "report" in event["Detail"]
        assert "text of a library" not in event["Detail"]
    assert rig.named(name)


@pytest.mark.parametrize("call", ["receive", "delete"])
async def test_a_mistake_in_a_poll_or_a_delete_is_told_and_the_call_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    await rig.start()
    queue = await rig.queue()
    monkeypatch.setattr(queue, call, breaking(2, getattr(queue, call)))
    put(queue, 1)
    await until(lambda: len(queue.deleted) == 1)
    told(rig)


async def test_a_mistake_while_extending_is_told_and_the_message_extended_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sns_carrier, "EXTEND_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(sns_carrier, "VISIBILITY_SECONDS", 0)
    await rig.start()
    queue = await rig.queue()
    rig.sender.hold.clear()
    monkeypatch.setattr(queue, "extend", breaking(2, queue.extend))
    put(queue, 1)
    await until(lambda: queue.extended)
    told(rig)


@pytest.mark.parametrize(("body", "method"), [("bad", "settle"), ("x", "send")])
async def test_a_mistake_with_a_message_is_told_and_the_message_comes_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, body: str, method: str
) -> None:
    source = await rig.start()
    queue = await rig.queue()
    monkeypatch.setattr(rig.sender, "full", method == "send")
    monkeypatch.setattr(rig.sender, "settled", lambda source: False)
    monkeypatch.setattr(rig.sender, method, breaking(1, getattr(rig.sender, method)))
    queue.put(envelope("m1", body, topic=TOPIC))
    await until(lambda: rig.named("SourcePollFailed"))
    assert (source.stats.in_flight, queue.deleted) == (0, [])
    told(rig)
    queue.put(envelope("m1", body, topic=TOPIC), receive_count=2)
    await until(lambda: len(queue.deleted) == 1)


async def test_a_mistake_while_reconciling_is_told_and_it_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.aws, "account", breaking(1, rig.aws.account))
    await rig.start()
    await until(lambda: rig.named("SourceSubscribed"))
    told(rig, "SourceProvisionFailed")
