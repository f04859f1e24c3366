"""What no PacketSource wants any more goes away on AWS, and what one wants again stays."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fake_aws import ACCOUNT, FakeAws

from sluicegate.aws import AwsError
from sluicegate.backoff import Backoff
from sluicegate.events import EventLog, MemorySink
from sluicegate.model import PacketSource
from sluicegate.sources.topic import leftovers as sns_leftovers
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.sources.topic import quiet as sns_quiet
from sluicegate.sources.topic.drainage import Wanted
from sluicegate.sources.topic.leftovers import Leftovers
from sluicegate.state import SourceQueue, State
from waiting import until

TOPIC = f"arn:aws:sns:us-east-1:{ACCOUNT}:replies"
LEFT = "SourceDraining"
DENIED = AwsError("sns", "ListSubscriptionsByTopic", "Throttling", "slowly", status=400)


def wanted(state: str = "Active", topic: str | None = TOPIC, name: str = "replies") -> dict[str, Wanted]:
    """One PacketSource, declared."""
    source = {"topic_arn": topic or TOPIC}
    resource = PacketSource.model_validate(
        {"name": name, "listener_name": "decoder", "sns_topic_source": source}
    )
    return {name: Wanted(resource, state, topic)}


class GatedAws(FakeAws):
    """Answers once `gate` is open; `entered` when somebody waits there."""

    def __init__(self, *topics: str) -> None:
        super().__init__(*topics)
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def call(self, *args: Any, **named: Any) -> dict[str, Any]:
        self.entered.set()
        await self.gate.wait()
        return await super().call(*args, **named)


class Rig:
    """The state knows one queue of `NAMED`, which is there and subscribed."""

    def __init__(self, directory: Path) -> None:
        self.aws = GatedAws(TOPIC)
        self.state = State.open(directory / "state.db")
        self.sink = MemorySink()
        self.leftovers = Leftovers(
            self.aws,  # type: ignore[arg-type]
            self.state,
            EventLog(self.sink),
            region="us-east-1",
            node=1,
        )
        name = f"{sns_queue.name_stem(1, TOPIC, 'replies')}1"
        self.arn = sns_queue.queue_arn(TOPIC, "us-east-1", ACCOUNT, name)
        self.queue = SourceQueue(self.arn, "replies", TOPIC, None, 1, f"https://sqs/{name}", "{}")
        self.state.keep_source_queue(self.queue)
        self.aws.queues[name] = {}
        self.aws.topics[TOPIC].append(
            {"SubscriptionArn": f"{TOPIC}:1", "Protocol": "sqs", "Endpoint": self.arn, "Attributes": {}}
        )

    def owns(self, arn: str) -> bool:
        return arn == self.arn


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(sns_leftovers, "PAUSES", Backoff(0.01, 0.02))
    monkeypatch.setattr(sns_leftovers, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(sns_quiet, "QUIET_SECONDS", 0.05)
    made = Rig(tmp_path)
    yield made
    await made.leftovers.close()
    made.state.close()


async def test_what_is_in_use_is_not_touched(rig: Rig) -> None:
    rig.leftovers.sweep(wanted(), {})
    await asyncio.sleep(0)
    assert rig.aws.calls == []
    assert rig.leftovers.shown() == []


async def test_the_queue_of_before_goes_once_the_new_one_is_subscribed_and_nothing_comes(rig: Rig) -> None:
    rig.leftovers.sweep(wanted(topic=f"{TOPIC}-other"), {})
    await until(lambda: rig.sink.named(LEFT))
    await asyncio.sleep(0.05)
    assert len(rig.aws.topics[TOPIC]) == len(rig.aws.queues) == 1, "nothing replaces it yet"
    (told,) = rig.sink.named(LEFT)
    assert (told["Listener"], told["PacketSource"], told["Queue"]) == ("decoder", "replies", rig.arn)
    assert "could not be subscribed yet" in told["Detail"]
    assert "sources remove replies --discard" in told["Detail"]

    rig.leftovers.ready("replies")
    await until(lambda: not rig.aws.topics[TOPIC])
    await asyncio.sleep(0.05)
    assert len(rig.aws.queues) == 1, "its taker has not said that it is empty"
    (left,) = rig.leftovers.left("replies")
    rig.leftovers.empty(left)
    await until(lambda: rig.sink.named("SourceRemoved"))
    assert rig.aws.queues == {}
    assert rig.state.source_queues() == []


async def test_away_from_home_the_new_subscription_has_time_to_get_its_filter(rig: Rig) -> None:
    rig.leftovers.sweep(wanted(topic=f"{TOPIC}-other"), {})
    rig.leftovers.ready("replies", 1000.0)
    await asyncio.sleep(0.05)
    assert len(rig.aws.topics[TOPIC]) == 1


async def test_one_whose_source_takes_messages_from_elsewhere_is_replaced_at_once(rig: Rig) -> None:
    rig.leftovers.sweep(wanted(topic=None), {})
    await until(lambda: not rig.aws.topics[TOPIC])
    assert len(rig.leftovers.left("replies")) == 1


@pytest.mark.parametrize("listener", ["decoder", "other"])
async def test_a_renamed_source_of_the_same_listener_and_topic_empties_it(rig: Rig, listener: str) -> None:
    """One of another Listener does not: the packets would leave from another port."""
    before = wanted()["replies"].resource
    own = {"replies": before.model_copy(update={"listener_name": listener})}
    rig.leftovers.sweep(wanted(name="answers"), own)
    rig.leftovers.ready("answers")
    await until(lambda: not rig.aws.topics[TOPIC])
    assert len(rig.leftovers.left("answers")) == (listener == "decoder")
    assert len(rig.leftovers.left("replies")) == (listener != "decoder")


async def test_what_nobody_can_send_waits_and_is_told(rig: Rig) -> None:
    queue = rig.aws.queue(rig.queue.url)
    queue.put("waits")
    rig.leftovers.sweep({}, {})
    await until(lambda: rig.sink.named(LEFT))
    await until(lambda: len(rig.aws.asked("GetQueueAttributes")) > 5)
    assert rig.aws.topics[TOPIC] == []
    assert len(rig.aws.queues) == 1
    (told,) = rig.sink.named(LEFT)
    assert "nobody sends what waits in it" in told["Detail"]
    (left,) = rig.leftovers.shown()
    assert left.quiet_watch.counted == 1
    queue.waiting.clear()
    await until(lambda: rig.sink.named("SourceRemoved"))
    assert rig.aws.queues == {}


async def test_what_is_discarded_goes_with_what_waits(rig: Rig) -> None:
    rig.aws.queue(rig.queue.url).put("waits")
    rig.leftovers.sweep(wanted(topic=f"{TOPIC}-other"), {})
    await until(lambda: rig.sink.named(LEFT))
    assert await rig.leftovers.discard("another", 5.0) == 0
    assert await rig.leftovers.discard("replies", 5.0) == 1
    assert rig.aws.queues == {}
    assert rig.aws.topics[TOPIC] == []
    (told,) = rig.sink.named("SourceRemoved")
    assert "discarded" in told["Detail"]


async def test_one_that_is_declared_and_not_active_keeps_its_queue(rig: Rig) -> None:
    rig.leftovers.sweep(wanted("Disabled"), {})
    await until(lambda: rig.sink.named("SourceUnsubscribed"))
    (told,) = rig.sink.named("SourceUnsubscribed")
    assert (told["Listener"], told["PacketSource"], told["Topic"]) == ("decoder", "replies", TOPIC)
    assert rig.aws.topics[TOPIC] == []
    assert len(rig.aws.queues) == 1
    assert [(one.arn, one.attributes) for one in rig.state.source_queues()] == [(rig.arn, "")]
    asked = len(rig.aws.calls)
    rig.leftovers.sweep(wanted("Disabled"), {})
    await asyncio.sleep(0.01)
    assert len(rig.aws.calls) == asked, "it is known to be unsubscribed"
    assert rig.leftovers.shown() == []
    rig.leftovers.sweep({}, {})
    await until(lambda: rig.sink.named("SourceRemoved"))
    assert rig.aws.queues == {}


@pytest.mark.parametrize("state", ["Disabled", "Rejected", "PendingApproval"])
async def test_the_queue_of_another_topic_waits_for_a_source_that_is_not_active(rig: Rig, state: str) -> None:
    rig.leftovers.sweep(wanted(state, f"{TOPIC}-other"), {})
    await until(lambda: rig.sink.named(LEFT))
    await asyncio.sleep(0.05)
    assert len(rig.aws.queues) == 1
    assert rig.leftovers.left("replies") == []
    assert f"is {state}" in rig.sink.named(LEFT)[0]["Detail"]


async def test_what_a_source_was_is_known_while_it_has_a_queue(rig: Rig) -> None:
    rig.leftovers.sweep(wanted(), {})
    own = rig.leftovers.still_able([], ["decoder"])
    assert own == {"replies": wanted()["replies"].resource}
    assert rig.leftovers.still_able(["replies"], ["decoder"]) == {}, "it is declared"
    assert rig.leftovers.still_able([], ["other"]) == {}, "its Listener is gone"
    rig.leftovers.sweep(wanted("Rejected"), {})
    assert rig.leftovers.still_able([], ["decoder"]) == {}, "what waits must not be sent"
    rig.leftovers.sweep(wanted(), {})
    rig.state.forget_source_queue(rig.arn)
    rig.leftovers.sweep({}, {})
    assert rig.state.source_documents() == {}


async def test_one_that_is_wanted_again_is_not_touched_from_then_on(rig: Rig) -> None:
    rig.aws.gate.clear()
    rig.leftovers.sweep({}, {})
    await rig.aws.entered.wait()
    sparing = asyncio.create_task(rig.leftovers.spare(rig.owns))
    await asyncio.sleep(0.01)
    assert not sparing.done(), "what is under way ends first: it could undo what the next one does"
    rig.aws.refuse["ListSubscriptionsByTopic"] = DENIED
    rig.aws.gate.set()
    await sparing
    asked = len(rig.aws.calls)
    await asyncio.sleep(0.05)
    assert len(rig.aws.calls) == asked
    assert rig.state.source_queues() == [rig.queue]
    # And it is a leftover like any other when it goes again.
    rig.aws.refuse.clear()
    rig.leftovers.sweep({}, {})
    await until(lambda: rig.sink.named("SourceRemoved"))


async def test_what_cannot_be_done_is_tried_until_it_is_done(rig: Rig) -> None:
    rig.aws.refuse["ListSubscriptionsByTopic"] = DENIED
    rig.leftovers.sweep(wanted("Disabled"), {})
    await until(lambda: rig.sink.named("SourceProvisionFailed"))
    # It is deleted meanwhile: the queue goes too.
    rig.leftovers.sweep({}, {})
    rig.aws.refuse.clear()
    await until(lambda: rig.sink.named("SourceRemoved"))
    assert rig.aws.queues == {}


async def test_a_mistake_is_told_and_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arn: str) -> None:
        monkeypatch.undo()
        raise RuntimeError("text of a library")

    monkeypatch.setattr(sns_leftovers, "PAUSES", Backoff(0.01, 0.02))
    monkeypatch.setattr(rig.state, "forget_source_queue", broken)
    rig.leftovers.sweep(wanted(topic=None), {})
    rig.leftovers.empty(rig.leftovers.left("replies")[0])
    await until(lambda: rig.sink.named("SourceProvisionFailed"))
    assert "text of a library" not in rig.sink.named("SourceProvisionFailed")[0]["Detail"]


async def test_a_stop_leaves_the_rest_to_the_next_start(rig: Rig) -> None:
    rig.aws.refuse["DeleteQueue"] = AwsError("sqs", "DeleteQueue", "NoAnswer", "no")
    rig.leftovers.sweep({}, {})
    await until(lambda: rig.sink.named("SourceProvisionFailed"))
    await rig.leftovers.close()
    assert rig.state.source_queues() == [rig.queue]
    asked = len(rig.aws.calls)
    await asyncio.sleep(0.05)
    assert len(rig.aws.calls) == asked
