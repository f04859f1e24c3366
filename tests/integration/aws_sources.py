"""Topics on AWS as an application sees them, gateways that serve them, and a network between gateway and AWS."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import Client, Gateway, free_port, source_of, until
from ministack import ACCOUNT, ENVIRONMENT, REGION, Ministack, unique

import packages

ROLE = f"arn:aws:iam::{ACCOUNT}:role/sluicegate-topics"
BRISK = {**ENVIRONMENT, **packages.installed(Path(__file__).parents[1] / "brisk")}
"""The environment of a gateway whose waits for SQS are shorter: see `brisk/sitecustomize.py`."""
LISTENER = """
listeners:
  - name: decoder
    bind: 127.0.0.1
"""


class Topic:
    """A topic, with boto3 as its publisher."""

    def __init__(self, ministack: Ministack) -> None:
        self.name = unique("replies")
        self.arn = f"arn:aws:sns:{REGION}:{ACCOUNT}:{self.name}"
        self.sns = ministack.client("sns")
        self._clients: Callable[..., Any] = ministack.client
        self.create()

    def create(self) -> None:
        assert self.sns.create_topic(Name=self.name)["TopicArn"] == self.arn

    def delete(self) -> None:
        self.sns.delete_topic(TopicArn=self.arn)

    def publish(self, message: Any, **attributes: str | list[str]) -> str:
        """The MessageId."""
        text = message if isinstance(message, str) else json.dumps(message)
        extra: dict[str, Any] = {}
        if attributes:
            extra["MessageAttributes"] = {name: _attribute(value) for name, value in attributes.items()}
        return str(self.sns.publish(TopicArn=self.arn, Message=text, **extra)["MessageId"])

    def publish_batch(self, messages: Sequence[Any]) -> None:
        entries = [{"Id": str(n), "Message": json.dumps(message)} for n, message in enumerate(messages)]
        answer = self.sns.publish_batch(TopicArn=self.arn, PublishBatchRequestEntries=entries)
        assert not answer.get("Failed")

    def subscriptions(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.sns.list_subscriptions_by_topic(TopicArn=self.arn)["Subscriptions"]
        return found

    def subscription_attributes(self) -> list[dict[str, str]]:
        arns = [one["SubscriptionArn"] for one in self.subscriptions()]
        return [self.sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"] for arn in arns]

    def unsubscribe(self) -> None:
        for one in self.subscriptions():
            self.sns.unsubscribe(SubscriptionArn=one["SubscriptionArn"])

    def queue(self, region: str = REGION) -> "SourceQueue":
        """The queue that a gateway of `region` has subscribed."""
        (arn,) = {one["Endpoint"] for one in self.subscriptions() if one["Endpoint"].split(":")[3] == region}
        return SourceQueue(self._clients("sqs", region), arn)


class SourceQueue:
    """A gateway's queue, seen from outside."""

    def __init__(self, sqs: Any, arn: str) -> None:
        self.sqs = sqs
        self.arn = arn
        self.url = sqs.get_queue_url(QueueName=arn.rpartition(":")[2])["QueueUrl"]

    def attributes(self) -> dict[str, str]:
        found: dict[str, str] = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])[
            "Attributes"
        ]
        return found

    def in_flight(self) -> int:
        return int(self.attributes()["ApproximateNumberOfMessagesNotVisible"])

    def is_empty(self) -> bool:
        found = self.attributes()
        return (
            found["ApproximateNumberOfMessages"] == "0"
            and found["ApproximateNumberOfMessagesNotVisible"] == "0"
        )

    def is_gone(self) -> bool:
        try:
            self.attributes()
        except self.sqs.exceptions.QueueDoesNotExist:
            return True
        return False

    def put(self, body: str) -> None:
        self.sqs.send_message(QueueUrl=self.url, MessageBody=body)


class Served:
    """Gateways of one test, each in a directory of its own."""

    def __init__(self, directory: Path, environment: Mapping[str, str] = ENVIRONMENT) -> None:
        self._directory = directory
        self._environment = environment
        self.made: list[Gateway] = []

    def __call__(
        self,
        topic: Topic,
        endpoint: str,
        *,
        region: str = REGION,
        source: str = "",
        reconcile_seconds: int = 1,
    ) -> Gateway:
        """A gateway that is started; `source` are more lines of its PacketSource."""
        directory = self._directory / f"gateway{len(self.made)}"
        directory.mkdir()
        one = Gateway(
            directory,
            configuration(topic, source),
            region=region,
            aws=endpoint,
            reconcile_seconds=reconcile_seconds,
            environment=self._environment,
        )
        self.made.append(one)
        return one.start()


def configuration(topic: Topic, source: str = "") -> str:
    described = f'{{ topic_arn: "{topic.arn}", role: "{ROLE}" }}'
    return f"{LISTENER}{source_of('decoder', '[127.0.0.0/8]', described)}{source}"


@pytest.fixture
def topic(ministack: Ministack) -> Iterator[Topic]:
    made = Topic(ministack)
    yield made
    made.delete()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with closing_all(Served(tmp_path)) as made:
        yield made


@pytest.fixture
def brisk(tmp_path: Path) -> Iterator[Served]:
    """As `served`, with the shorter waits of `BRISK`."""
    with closing_all(Served(tmp_path, BRISK)) as made:
        yield made


@contextlib.contextmanager
def closing_all(served: Served) -> Iterator[Served]:
    yield served
    for one in served.made:
        one.close()


def article(client: Client, data: str) -> dict[str, Any]:
    """The message of the article: one entry, base64, `IP`, no attribute."""
    host, port = client.address
    return {"Data": data, "Remote": {"IP": host, "Port": port}}


def entry(client: Client, text: str) -> dict[str, Any]:
    return {"Data": text, "Formatter": "utf8", "Remote": client.remote}


def comes_through(topic: Topic, gateway: Gateway, text: str) -> None:
    with Client() as client:
        topic.publish(entry(client, text))
        assert client.receive() == (text.encode(), gateway.address())


def received(gateway: Gateway, name: str) -> int:
    """A counter of the source's queues."""
    return gateway.metrics().value(f"source_queue_{name}")


def _attribute(value: str | list[str]) -> dict[str, str]:
    if isinstance(value, str):
        return {"DataType": "String", "StringValue": value}
    return {"DataType": "String.Array", "StringValue": json.dumps(value)}


THROTTLED = json.dumps({"__type": "com.amazonaws.sqs#RequestThrottled", "message": "Rate exceeded"}).encode()


class Network:
    """A way to AWS that can be cut, slowed and made to answer throttling; a thread with an event loop."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._target = target
        self._mode = "open"
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._do(self._listen())

    def open(self) -> None:
        self._do(self._set("open"))

    def refuse(self) -> None:
        """Nobody listens any more."""
        self._do(self._set("refuse"))

    def delay(self) -> None:
        """Every answer takes half a second longer."""
        self._do(self._set("delay"))

    def throttle(self) -> None:
        """Every request is answered as SQS does when it is asked too often."""
        self._do(self._set("throttle"))

    def close(self) -> None:
        self._do(self._set("refuse"))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _set(self, mode: str) -> None:
        self._mode = mode
        for writer in list(self._connections):
            writer.transport.abort()
        if mode == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
        elif mode != "refuse" and self._server is None:
            await self._listen()
        await asyncio.sleep(0.05)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if self._mode == "throttle":
                    await self._throttle(reader, writer)
                else:
                    await self._pass(reader, writer)
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _throttle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.startswith(b"content-length")
                ),
                0,
            )
            await reader.readexactly(length)
            answer = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.0\r\n"
            writer.write(answer + f"Content-Length: {len(THROTTLED)}\r\n\r\n".encode() + THROTTLED)
            await writer.drain()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._target)
        self._connections.add(forth)
        try:
            await asyncio.gather(self._pipe(reader, forth, 0.0), self._pipe(back, writer, 0.5))
        finally:
            self._connections.discard(forth)
            forth.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
        try:
            while data := await reader.read(65_536):
                if pause and self._mode == "delay":
                    await asyncio.sleep(pause)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@pytest.fixture
def network(ministack: Ministack) -> Iterator[Network]:
    made = Network(ministack.port)
    yield made
    made.close()


def wait_until_empty(queue: SourceQueue) -> None:
    until(queue.is_empty, "the queue is empty")


def wait_until_gone(queue: SourceQueue) -> None:
    """Once its subscription has ended for a while, and it was empty for as long."""
    deadline = time.monotonic() + 180
    while not queue.is_gone():
        assert time.monotonic() < deadline, "the queue of before is not deleted"
        time.sleep(1)
