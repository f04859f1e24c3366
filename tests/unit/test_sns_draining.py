"""Queues that no PacketSource names any more are emptied by one that sends (contract section 4.2)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fake_aws import FakeQueue
from test_sns_source_parts import ROLE, TOPIC, Rig, attribute, resource

from doubles import envelope
from sluicegate.aws import AwsError
from sluicegate.backoff import Backoff
from sluicegate.model import PacketSource
from sluicegate.sources.base import MessageSource, SourceContext
from sluicegate.sources.topic import consumer as sns_consumer
from sluicegate.sources.topic import leftovers as sns_leftovers
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.sources.topic import quiet as sns_quiet
from sluicegate.sources.topic import reader as sns_reader
from sluicegate.sources.topic import source as sns
from sluicegate.sources.topic.drainage import Wanted
from sluicegate.sources.topic.draining import DrainingSource
from sluicegate.sources.topic.reader import QueueReader
from sluicegate.sources.topic.setting import SnsSetting
from sluicegate.sources.topic.source import SnsSource
from waiting import until

OTHER = f"{TOPIC}-other"


class Node(Rig):
    """A gateway as far as its topics go. `serve` is a start with these PacketSources; None: not on AWS any more."""

    number = 1

    async def serve(self, *declared: PacketSource, listeners: tuple[str, ...] = ("decoder",)) -> None:
        await self.stop()
        self.made = self.node_setting()
        wanted = {one.name: Wanted(one, "Active", self.topic(one)) for one in declared}
        able = self.made.leftovers.still_able(wanted, listeners)
        self.own = own = self.made.leftovers.draining(wanted, able)
        for one in [*declared, *own.values()]:
            context = SourceContext(self.sender, listener="decoder")
            source = self.source(one, context, one.name in own)
            await source.provision()
            self.running.append((source, asyncio.create_task(source.run())))  # type: ignore[arg-type]
        self.made.leftovers.sweep(wanted, able)

    local = False

    def topic(self, one: PacketSource) -> str | None:
        return None if self.local else one.topic.topic_arn

    def source(self, one: PacketSource, context: SourceContext, draining: bool) -> QueueReader:
        if draining or self.local:
            return DrainingSource(self.made, one, context, None if draining else Beside(one.name, context))
        return SnsSource(self.made, one, context)

    def node_setting(self) -> SnsSetting:
        made = self.setting()
        made.node = made.leftovers._node = self.number
        return made

    async def stop(self) -> None:
        await super().stop()
        if hasattr(self, "made"):
            await self.made.leftovers.close()

    def at(self, arn: str) -> FakeQueue:
        return self.aws.queue(f"https://sqs/{sns_queue.name_of(arn)}")

    async def first(self) -> FakeQueue:
        """The queue of a gateway that stops after that, with three messages in it."""
        await self.serve(resource())
        await until(lambda: self.named("SourceSubscribed"))
        self.arn = self.subscriptions[0]["Endpoint"]
        await self.stop()
        queue = self.at(self.arn)
        for number in range(3):
            queue.put(envelope(f"m{number}", f"{number}", topic=TOPIC))
        return queue

    @property
    def exists(self) -> bool:
        return sns_queue.name_of(self.arn) in self.aws.queues

    @property
    def bodies(self) -> list[str]:
        return sorted(message.body.decode() for message in self.sender.sent)


class Beside(MessageSource):
    """A source of another kind."""

    running = False

    async def provision(self) -> None:
        Beside.running = False

    async def run(self) -> None:
        Beside.running = True


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    quick = Backoff(0.01, 0.02)
    for module, name in (
        (sns, "RETRIES"),
        (sns, "REFUSALS"),
        (sns_consumer, "PAUSES"),
        (sns_leftovers, "PAUSES"),
        (sns_reader, "RETRIES"),
    ):
        monkeypatch.setattr(module, name, quick)
    monkeypatch.setattr(sns_reader, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(sns_leftovers, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(sns_quiet, "QUIET_SECONDS", 0.1)
    made = Node(tmp_path)
    yield made
    await made.stop()
    made.state.close()


def of(topic: str, **fields: Any) -> PacketSource:
    return resource(sns_topic_source={"topic_arn": topic, "role": ROLE}, **fields)


async def test_a_mistyped_topic_loses_nothing(node: Node) -> None:
    queue = await node.first()
    await node.serve(of(OTHER))  # there is no such topic
    await until(lambda: len(queue.deleted) == 3)
    await until(lambda: rig_failed(node))
    await asyncio.sleep(0.3)
    assert node.exists, "nothing replaces it"
    assert [one["Endpoint"] for one in node.subscriptions] == [node.arn], "messages go on coming"
    queue.put(envelope("m3", "3", topic=TOPIC))
    await until(lambda: len(queue.deleted) == 4)

    await node.serve(resource())
    queue.put(envelope("m4", "4", topic=TOPIC))
    await until(lambda: len(queue.deleted) == 5)
    assert node.bodies == ["0", "1", "2", "3", "4"]
    assert [one["Endpoint"] for one in node.subscriptions] == [node.arn]
    assert node.aws.asked("DeleteQueue") == node.aws.asked("Unsubscribe") == []


def rig_failed(node: Node) -> bool:
    return any("create the topic" in one["Detail"] for one in node.named("SourceProvisionFailed"))


async def test_another_topic_empties_the_queue_of_before_and_then_it_goes(node: Node) -> None:
    node.aws.topics[OTHER] = []
    queue = await node.first()
    await node.serve(of(OTHER))
    await until(lambda: node.named("SourceRemoved"))
    assert len(queue.deleted) == 3
    assert node.bodies == ["0", "1", "2"]
    assert node.subscriptions == []
    assert not node.exists
    assert len(node.aws.topics[OTHER]) == 1


async def test_what_somebody_holds_is_waited_for(node: Node) -> None:
    """SQS counts what a crash left invisible, and gives it again."""
    node.aws.topics[OTHER] = []
    queue = await node.first()
    (held,) = await queue.receive(limit=1)
    await node.serve(of(OTHER))
    await until(lambda: len(queue.deleted) == 2)
    await asyncio.sleep(0.4)
    assert node.exists
    del queue.invisible[held.receipt]
    queue.waiting.append(held)
    await until(lambda: node.named("SourceRemoved"))
    assert node.bodies == ["0", "1", "2"]


async def test_a_late_message_begins_the_minute_anew(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sns_quiet, "QUIET_SECONDS", 0.6)
    node.aws.topics[OTHER] = []
    queue = await node.first()
    await node.serve(of(OTHER))
    for number in range(3, 6):
        await asyncio.sleep(0.3)
        assert node.exists
        queue.put(envelope(f"m{number}", f"{number}", topic=TOPIC))
    await until(lambda: node.named("SourceRemoved"))
    assert node.bodies == ["0", "1", "2", "3", "4", "5"]


async def test_a_rename_sends_each_message_once(node: Node) -> None:
    queue = await node.first()
    node.sender.hold.clear()
    await node.serve(resource(name="answers"))
    assert node.own == {}, "the other one empties it"
    await until(lambda: len(node.sender.sent) == 3)
    # What SNS put into both queues while both were subscribed.
    (new,) = {one["Endpoint"] for one in node.subscriptions} - {node.arn}
    for each in (queue, node.at(new)):
        each.put(envelope("m3", "3", topic=TOPIC))
    node.sender.hold.set()
    await until(lambda: node.named("SourceRemoved"))
    await until(lambda: node.at(new).deleted)
    assert node.bodies == ["0", "1", "2", "3"]
    assert [one["Endpoint"] for one in node.subscriptions] == [new]


async def test_another_node_takes_over(node: Node) -> None:
    await node.first()
    node.number = 2
    await node.serve(resource())
    await until(lambda: node.named("SourceRemoved"))
    assert node.bodies == ["0", "1", "2"]
    assert len(node.subscriptions) == 1


async def test_another_region_takes_over(node: Node) -> None:
    queue = await node.first()
    queue.put(envelope("m3", "named", topic=TOPIC, MessageAttributes=attribute("us-east-1")))
    queue.put(envelope("m4", "new", topic=TOPIC, MessageAttributes=attribute("eu-west-1")))
    queue.put(envelope("m5", "elsewhere", topic=TOPIC, MessageAttributes=attribute("ap-east-1")))
    node.region = "eu-west-1"
    await node.serve(resource(home_region="eu-west-1"))
    await until(lambda: node.named("SourceRemoved"))
    failed = [message for message in node.sender.sent if message.refusal]
    assert [message.refusal[0] for message in failed if message.refusal] == ["WrongRegion"]
    assert node.bodies == ["0", "1", "2", "elsewhere", "named", "new"]
    regions = {region for operation, _, _, region in node.aws.calls if operation == "DeleteQueue"}
    assert regions == {"us-east-1"}


async def test_topics_of_its_own_beside_what_waits(node: Node) -> None:
    queue = await node.first()
    node.local = True
    await node.serve(resource())
    await until(lambda: node.named("SourceRemoved"))
    assert len(queue.deleted) == 3
    assert node.bodies == ["0", "1", "2"]
    assert Beside.running
    assert node.subscriptions == []


async def test_one_that_is_not_declared_any_more_sends_what_waits_by_its_own_rules(node: Node) -> None:
    queue = await node.first()
    await node.serve()
    assert node.own["replies"] == resource()
    await until(lambda: node.named("SourceRemoved"))
    assert len(queue.deleted) == 3
    assert node.bodies == ["0", "1", "2"]
    assert node.subscriptions == []
    await node.serve()
    assert node.own == {}


async def test_it_goes_on_after_a_restart(node: Node) -> None:
    queue = await node.first()
    node.sender.hold.clear()
    await node.serve()
    await until(lambda: len(node.sender.sent) == 3)
    await node.stop()
    for ending in node.sender.ending:  # what was held in memory is gone with the process
        ending.cancel()
    for message in list(queue.invisible.values()):  # its visibility ends
        queue.waiting.append(message)
    queue.invisible.clear()
    node.sender.sent.clear()
    node.sender.hold.set()
    await node.serve()
    await until(lambda: node.named("SourceRemoved"))
    assert node.bodies == ["0", "1", "2"]


async def test_without_its_listener_it_waits_until_that_is_there_again(node: Node) -> None:
    queue = await node.first()
    await node.serve(listeners=("other",))
    await until(lambda: node.named("SourceDraining"))
    assert "nobody sends what waits" in node.named("SourceDraining")[0]["Detail"]
    await asyncio.sleep(0.3)
    assert node.exists
    assert len(queue.waiting) == 3
    await node.serve()
    await until(lambda: node.named("SourceRemoved"))
    assert node.bodies == ["0", "1", "2"]


async def test_a_queue_that_somebody_deletes_meanwhile_is_forgotten(node: Node) -> None:
    queue = await node.first()
    await node.serve(of(OTHER))
    await until(lambda: len(queue.deleted) == 3)
    node.aws.queues.pop(sns_queue.name_of(node.arn))
    gone = AwsError("sqs", "ReceiveMessage", "QueueDoesNotExist", "no such queue", status=400)
    queue.errors.append(gone)
    node.aws.topics[OTHER] = []
    await until(lambda: node.named("SourceRemoved"))
    assert all("a new queue is made" not in one["Detail"] for one in node.named("SourcePollFailed"))
