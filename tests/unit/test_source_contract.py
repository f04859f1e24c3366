"""Every way in keeps the contract of message sources: in memory, local topics, SNS on AWS, REST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_aws import ACCOUNT, FakeAws, FakeQueue

from doubles import envelope
from sluicegate import entrypoints, sources
from sluicegate.api.app import create_app
from sluicegate.config.checks import checks
from sluicegate.egress.message import Message, Outcome
from sluicegate.events import EventLog
from sluicegate.model import GatewayConfig, PacketSource
from sluicegate.sources import MessageSource, SourceContext, SourceError
from sluicegate.sources.local.topics import Throttled, Topics
from sluicegate.sources.memory import MemorySource, Published
from sluicegate.sources.topic import reader as sns_reader
from sluicegate.sources.topic.setting import SnsSetting
from sluicegate.state import State
from sluicegate.testing import MemorySender, MessageSourceContract
from waiting import until

TOPIC = f"arn:aws:sns:us-east-1:{ACCOUNT}:replies"


def resource(**fields: Any) -> PacketSource:
    return PacketSource.model_validate({"name": "replies", "listener_name": "decoder", **fields})


@pytest.fixture
def memory_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package is installed that brings the source kind `Memory`."""

    def entry_points(group: str) -> list[EntryPoint]:
        assert group == "sluicegate.sources"
        return [EntryPoint("Memory", "sluicegate.sources.memory:MemorySource", group)]

    monkeypatch.setattr(entrypoints, "entry_points", entry_points)
    registry = entrypoints.Registry(sources._REGISTRY.group, MessageSource, sources._REGISTRY._built_in)
    monkeypatch.setattr(sources, "_REGISTRY", registry)


@pytest.mark.usefixtures("memory_kind")
class TestMemory(MessageSourceContract):
    def make(self, context: SourceContext) -> MessageSource | None:
        return sources.create(resource(message_source={"memory": None}), context)

    async def publish(self, source: MessageSource, body: bytes) -> Published:
        assert isinstance(source, MemorySource)
        return source.publish(body)

    def acknowledged(self, receipt: Published) -> bool:
        return receipt.acknowledged


class TestLocalTopic(MessageSourceContract):
    keeper = "nobody"

    @pytest.fixture(autouse=True)
    def topics(self) -> None:
        self.local = Topics("us-east-1")
        self.arn = TOPIC
        self.ids = (f"m{number}" for number in count())

    def make(self, context: SourceContext) -> MessageSource | None:
        declared = resource(sns_topic_source={"topic_arn": self.arn})
        return sources.create(declared, replace(context, services={Topics: self.local}))

    async def publish(self, source: MessageSource, body: bytes) -> bool:
        try:
            self.local.publish(TOPIC, next(self.ids), body, {}, time.time())
        except Throttled:
            return False
        return True

    def acknowledged(self, receipt: bool) -> bool:
        return receipt

    def refused(self, receipt: bool) -> bool:
        return not receipt

    def fail_to_provision(self) -> None:
        self.arn = f"{TOPIC}.fifo"


class TestSnsOnAws(MessageSourceContract):
    @pytest.fixture(autouse=True)
    def aws(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(sns_reader, "SETTLE_SECONDS", 0.01)
        self.fake = FakeAws(TOPIC)
        self.state = State.open(tmp_path / "state.db")
        self.ids = (f"m{number}" for number in count())
        config = GatewayConfig(region="us-east-1", state=str(tmp_path / "state.db"))
        self.setting = SnsSetting(config, self.fake, self.state, EventLog())  # type: ignore[arg-type]
        yield
        self.state.close()

    def make(self, context: SourceContext) -> MessageSource | None:
        declared = resource(sns_topic_source={"topic_arn": TOPIC})
        return sources.create(declared, replace(context, services={SnsSetting: self.setting}))

    async def publish(self, source: MessageSource, body: bytes) -> str:
        await until(lambda: self.fake.contents)
        return self.queue.put(envelope(next(self.ids), body.decode(), topic=TOPIC))

    @property
    def queue(self) -> FakeQueue:
        (queue,) = self.fake.contents.values()
        return queue

    def acknowledged(self, receipt: str) -> bool:
        return receipt in self.queue.deleted


class RestSource(MessageSource):
    """The API's way in, as `gateway.source` shows it: it keeps nothing, and its client waits for the answer."""

    async def provision(self) -> None:
        self.app = create_app(self)  # type: ignore[arg-type]
        self.posts: list[asyncio.Task[httpx.Response]] = []

    def source(self, name: str) -> tuple[Any, int, str] | None:
        return (self.sender, self.index, self.context.state) if name == self.name else None

    def metrics(self) -> None:
        raise AssertionError("nobody asks")

    async def run(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def drain(self, seconds: float) -> None:
        if self.posts:
            await asyncio.wait(self.posts, timeout=seconds)

    def post(self, body: bytes) -> asyncio.Task[httpx.Response]:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.post(f"/v1/packet-sources/{self.name}/messages", content=body)

        self.posts.append(asyncio.create_task(send()))
        return self.posts[-1]


class TestRest(MessageSourceContract):
    keeper = "publisher"

    def make(self, context: SourceContext) -> MessageSource:
        return RestSource("replies", context)

    async def publish(self, source: MessageSource, body: bytes) -> asyncio.Task[httpx.Response]:
        assert isinstance(source, RestSource)
        return source.post(body)

    def acknowledged(self, receipt: asyncio.Task[httpx.Response]) -> bool:
        return receipt.done() and not receipt.cancelled() and receipt.result().status_code == 200

    def refused(self, receipt: asyncio.Task[httpx.Response]) -> bool:
        return receipt.done() and not receipt.cancelled() and receipt.result().status_code >= 400


# The suite finds what breaks the contract


class AcknowledgesWhenTaken(MemorySource):
    async def carry(self, message_id: str, body: bytes, acknowledge: Any, **more: Any) -> None:
        await super().carry(message_id, body, acknowledge, **more)
        await acknowledge(Outcome(message_id, 1, 1, 0, []))


class ForgetsLetters(MemorySource):
    async def _carry(self, message: Message, acknowledge: Any) -> None:
        await acknowledge(await self.sender.send(message))


class SendsTwice(MemorySource):
    async def carry(self, message_id: str, body: bytes, acknowledge: Any, **more: Any) -> None:
        await super().carry(message_id, body, acknowledge, **more)
        await super().carry(message_id, body, acknowledge, **more)


class AcknowledgesAtTheEnd(MemorySource):
    async def close(self) -> None:
        for task in self._carried:
            task.cancel()
        for published in self.all:
            published.outcome = Outcome(published.message_id, 1, 1, 0, [])
        await super().close()

    def publish(self, body: bytes, message_id: str | None = None) -> Published:
        self.all = [super().publish(body, message_id)]
        return self.all[0]


class KeepsWhatItCannotEnd(MemorySource):
    async def close(self) -> None:
        for task in self._carried:
            task.cancel()


class WaitsForNothing(MemorySource):
    async def drain(self, seconds: float) -> None:
        return


class SubmitsAnyway(MemorySource):
    async def carry(self, message_id: str, body: bytes, acknowledge: Any, **more: Any) -> None:
        self.sender.try_submit([Message(message_id, self.index, body)])


class TakesInEveryState(MemorySource):
    @classmethod
    def create(cls, resource: PacketSource, context: SourceContext) -> MessageSource | None:
        return cls(resource.name, context)


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (AcknowledgesWhenTaken, "a_message_is_acknowledged_once_each_entry_has_ended"),
        (ForgetsLetters, "a_failed_message_is_acknowledged_once_its_letters_are_written"),
        (SendsTwice, "every_message_ends_exactly_once_and_the_counts_add_up"),
        (AcknowledgesAtTheEnd, "what_has_not_ended_at_a_stop_is_not_acknowledged_and_given_back"),
        (KeepsWhatItCannotEnd, "what_has_not_ended_at_a_stop_is_not_acknowledged_and_given_back"),
        (WaitsForNothing, "drain_waits_for_what_was_taken"),
        (SubmitsAnyway, "nothing_is_submitted_while_dead_letters_wait_beyond_their_bound"),
        (TakesInEveryState, "a_source_that_is_not_active_takes_nothing_or_refuses"),
    ],
)
def test_a_source_that_breaks_the_contract_is_found(
    kind: type[MemorySource], test: str, tmp_path: Path
) -> None:
    class Suite(TestMemory):
        def make(self, context: SourceContext) -> MessageSource | None:
            return kind.create(resource(message_source={"memory": None}), context)

    with pytest.raises(AssertionError):
        getattr(Suite(), f"test_{test}")(tmp_path)


# The seam


@pytest.mark.usefixtures("memory_kind")
def test_a_source_kind_of_a_package_is_known_and_its_settings_are_checked(tmp_path: Path) -> None:
    assert sources.kinds() == ["Memory", "SnsTopicSource"]
    assert sources.check(resource(message_source={"Memory": {}})) == []
    (found,) = sources.check(resource(message_source={"memory": {"size": 3}}))
    assert found.path == ("message_source", "memory", "size")
    assert "unknown key `size`" in found.cause
    (found,) = sources.check(resource(message_source={"redis_stream": {}}))
    assert (found.path, found.on_key) == (("message_source", "redis_stream"), True)
    assert "known are Memory, SnsTopicSource" in found.fix


def test_an_unknown_source_kind_is_found_wherever_a_document_is_checked(tmp_path: Path) -> None:
    document = {"name": "r", "listener_name": "l", "message_source": {"redis_stream": {}}}
    PacketSource.model_validate(document)  # its form is right
    with pytest.raises(ValueError, match='no source kind "redis_stream"'):
        PacketSource.model_validate(document, context={"check": checks(tmp_path, "us-east-1")})


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({}, "`sns_topic_source` is missing"),
        ({"message_source": {}}, "names 0 source kinds"),
        ({"message_source": {"a": {}, "b": {}}}, "names 2 source kinds"),
        ({"message_source": {"SnsTopicSource": {}}}, "has a key of its own"),
        ({"message_source": {"a": {}}, "sns_topic_source": {"topic_arn": TOPIC}}, "are both given"),
    ],
)
def test_a_packet_source_has_exactly_one_source(fields: dict[str, Any], cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        resource(**fields)


async def test_without_aws_and_topics_an_sns_source_is_refused() -> None:
    with pytest.raises(SourceError, match="neither AWS nor topics"):
        sources.create(resource(sns_topic_source={"topic_arn": TOPIC}), SourceContext(MemorySender()))


# What `carry` does beyond the contract


class OneAtATime(MemorySource):
    in_flight_limit = 1


async def test_a_limit_of_one_keeps_the_order_of_messages() -> None:
    sender = MemorySender()
    source = OneAtATime("replies", SourceContext(sender))
    running = asyncio.create_task(source.run())
    published = [source.publish(b"{}") for _ in range(5)]
    for number, one in enumerate(published):
        await until(lambda: sender.held)
        assert len(sender.taken) == number + 1
        sender.end()
        await until(lambda p=one: p.acknowledged)
    running.cancel()
    await source.close()


async def test_an_acknowledgement_that_fails_stops_no_other_message() -> None:
    sender, told = MemorySender(), []

    async def acknowledge(outcome: Any) -> None:
        told.append(outcome.message_id)
        if len(told) == 1:
            raise RuntimeError("the broker went away")

    source = MemorySource("replies", SourceContext(sender))
    for name in ("m1", "m2"):
        await source.carry(name, b"{}", acknowledge)
        await until(lambda: sender.held)
        sender.end()
    await source.drain(10)
    assert told == ["m1", "m2"]
    await source.close()
    assert sender.given_back == []


@pytest.mark.usefixtures("memory_kind")
def test_settings_that_cannot_be_read_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = resource(message_source={"memory": None})
    monkeypatch.setattr(MemorySource, "Settings", dict)
    (found,) = sources.check(declared)
    assert found.path == ("message_source", "memory")
    assert found.cause.startswith(
        "the MessageSource for 'memory', sluicegate.sources.memory:MemorySource, failed"
    )


@pytest.mark.usefixtures("memory_kind")
def test_what_is_no_source_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemorySource, "create", lambda resource, context: "text")
    with pytest.raises(TypeError, match="create returned str, not a MessageSource"):
        sources.create(resource(message_source={"memory": None}), SourceContext(MemorySender()))
