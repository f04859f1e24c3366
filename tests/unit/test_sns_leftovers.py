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
from sluicegate.sources.topic import leftovers as sns_leftovers
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.sources.topic.leftovers import Leftovers
from sluicegate.state import SourceQueue, State
from waiting import until

TOPIC = f"arn:aws:sns:us-east-1:{ACCOUNT}:replies"
NAMED = ("replies", TOPIC)
DENIED = AwsError("sns", "ListSubscriptionsByTopic", "Throttling", "slowly", status=400)


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
    made = Rig(tmp_path)
    yield made
    await made.leftovers.close()
    made.state.close()


async def test_what_is_in_use_is_not_touched(rig: Rig) -> None:
    rig.leftovers.sweep([NAMED], {NAMED: "decoder"})
    await asyncio.sleep(0)
    assert rig.aws.calls == []
    # Another topic of the same PacketSource is another queue.
    rig.leftovers.sweep([("replies", f"{TOPIC}-other")], {("replies", f"{TOPIC}-other"): "decoder"})
    await until(lambda: rig.sink.named("SourceRemoved"))
    assert rig.aws.topics[TOPIC] == []
    assert rig.aws.queues == {}
    assert rig.state.source_queues() == []


async def test_one_that_is_declared_and_not_active_keeps_its_queue(rig: Rig) -> None:
    rig.leftovers.sweep([], {NAMED: "decoder"})
    await until(lambda: rig.sink.named("SourceUnsubscribed"))
    (told,) = rig.sink.named("SourceUnsubscribed")
    assert (told["Listener"], told["PacketSource"], told["Topic"]) == ("decoder", *NAMED)
    assert rig.aws.topics[TOPIC] == []
    assert len(rig.aws.queues) == 1
    assert [(one.arn, one.attributes) for one in rig.state.source_queues()] == [(rig.arn, "")]
    asked = len(rig.aws.calls)
    rig.leftovers.sweep([], {NAMED: "decoder"})
    await asyncio.sleep(0.01)
    assert len(rig.aws.calls) == asked, "it is known to be unsubscribed"
    rig.leftovers.sweep([], {})
    await until(lambda: rig.sink.named("SourceRemoved"))
    assert rig.aws.queues == {}


async def test_one_that_is_wanted_again_is_not_touched_from_then_on(rig: Rig) -> None:
    rig.aws.gate.clear()
    rig.leftovers.sweep([], {})
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
    rig.leftovers.sweep([], {})
    await until(lambda: rig.sink.named("SourceRemoved"))


async def test_what_cannot_be_done_is_tried_until_it_is_done(rig: Rig) -> None:
    rig.aws.refuse["ListSubscriptionsByTopic"] = DENIED
    rig.leftovers.sweep([], {NAMED: "decoder"})
    await until(lambda: rig.sink.named("SourceProvisionFailed"))
    # It is deleted meanwhile: the queue goes too.
    rig.leftovers.sweep([], {})
    rig.aws.refuse.clear()
    await until(lambda: rig.sink.named("SourceRemoved"))
    assert rig.aws.queues == {}


async def test_a_stop_leaves_the_rest_to_the_next_start(rig: Rig) -> None:
    rig.aws.refuse["DeleteQueue"] = AwsError("sqs", "DeleteQueue", "NoAnswer", "no")
    rig.leftovers.sweep([], {})
    await until(lambda: rig.sink.named("SourceProvisionFailed"))
    await rig.leftovers.close()
    assert rig.state.source_queues() == [rig.queue]
    asked = len(rig.aws.calls)
    await asyncio.sleep(0.05)
    assert len(rig.aws.calls) == asked
