"""`arn:aws:iot:…` against an independent implementation of AWS IoT, whose rule copies messages into a queue."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from aws_destinations import AwsContract, Scripted, data_of
from aws_destinations import ministack_keys as ministack_keys
from aws_destinations import scripted as scripted
from aws_server import ACCOUNT as SERVED
from aws_server import answer, refusal
from harness import Client, Gateway
from ministack import ACCOUNT, ENVIRONMENT, REGION, Ministack, unique

from sluicegate.destinations.base import DeliveryError, Destination
from sluicegate.destinations.iot import IotDestination
from sluicegate.testing import packet, packet_batch


class Topic:
    """A topic, and a queue with what is published there and below."""

    def __init__(self, ministack: Ministack) -> None:
        self.name = unique("orders")
        self.arn = f"arn:aws:iot:{REGION}:{ACCOUNT}:topic/{self.name}/all"
        self._sqs = ministack.client("sqs")
        self._url = self._sqs.create_queue(QueueName=self.name)["QueueUrl"]
        role = f"arn:aws:iam::{ACCOUNT}:role/copy"
        ministack.client("iot").create_topic_rule(
            ruleName=self.name.replace("-", "_"),
            topicRulePayload={
                "sql": f"SELECT encode(*, 'base64') AS data, topic() AS topic FROM '{self.name}/#'",
                "awsIotSqlVersion": "2016-03-23",
                "actions": [{"sqs": {"roleArn": role, "queueUrl": self._url, "useBase64": False}}],
            },
        )

    def published(self, count: int = 0) -> list[tuple[str, bytes]]:
        """All that is there, and at least so many messages; topic and payload, sorted. The rule is done before a
        publish is answered."""
        found: list[tuple[str, bytes]] = []
        while messages := self._receive(20 if len(found) < count else 0):
            for message in messages:
                body = json.loads(message["Body"])
                topic = body["topic"].removeprefix(f"{self.name}/")
                found.append((topic, base64.b64decode(body["data"])))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return sorted(found)

    def _receive(self, seconds: int) -> list[Any]:
        answer = self._sqs.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=seconds
        )
        messages: list[Any] = answer.get("Messages", [])
        return messages


class TestIot(AwsContract):
    kind = IotDestination
    arguments = {"DynamicTopicSuffix": False}
    bad_targets = (
        "arn:aws:iot:us-east-1:123456789012:thing/orders",
        "arn:aws:iot:us-east-1:123456789012:topic/",
        "arn:aws:iot:us-east-1:123456789012:topic/orders/#",
        "arn:aws:iot:us-east-1:123456789012:topic/+/orders",
    )
    bad_arguments = (
        {"DynamicTopicSuffix": "perhaps"},
        {"DynamicTopicSuffix": True, "TopicSuffixExpression": "[0:"},
        {"TopicSuffixFormatter": "coap"},
        {"TopicSuffixExpression": "[0]"},
    )

    def make(self, ministack: Ministack) -> None:
        self.topic = Topic(ministack)
        self.target = self.topic.arn

    def delivered(self, destination: Destination) -> list[str]:
        return sorted(data_of([payload for _, payload in self.topic.published()]))

    def refuse_packets(self, destination: Destination) -> str:
        return "x" * (128 << 10)


GATEWAY = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: {{ networks: [127.0.0.0/8] }}
    destinations:
      - name: raw
        destination_arn: {arn}
        formatter: utf8
        batching: {{ count: 4, timeout_in_seconds: 300 }}
        arguments:
          DynamicTopicSuffix: "true"
          TopicSuffixExpression: "[0] == 0xFD ? [1:3] : null"
"""


def test_raw_packets_to_topics_of_their_own(ministack: Ministack, tmp_path: Path) -> None:
    """Their bytes, whatever the formatter would make of them; without a suffix the topic is the sender's."""
    topic = Topic(ministack)
    packets = [b"\xfd\xa2\x0c\xff\0", b"\xfd\0\0", b"\xff\xfe", b""]
    gateway = Gateway(tmp_path, GATEWAY.format(arn=topic.arn), aws=ministack.url, environment=ENVIRONMENT)
    with Client() as client:
        try:
            gateway.start()
            for sent in packets:
                client.send(sent, gateway.address())
            sender = f"{client.address[0]}/{client.address[1]}"
            assert topic.published(4) == [
                ("all/0000", packets[1]),
                (f"all/{sender}", packets[3]),
                (f"all/{sender}", packets[2]),
                ("all/A20C", packets[0]),
            ]
        finally:
            gateway.close()


TOPIC = f"arn:aws:iot:us-east-1:{SERVED}:topic/orders"


async def test_packets_that_came_before_the_destination_had_the_argument(scripted: Scripted) -> None:
    """As their formatter shows them; a dead letter of another version has no more."""
    scripted.server.answers = [answer(200, b"")]
    shown: list[dict[str, Any]] = [
        packet(text) | {"Formatter": formatter, "Data": data}
        for text, formatter, data in (("1", "base64", "/wA="), ("2", "hex", "FF01"), ("3", "utf8", "ü"))
    ]
    async with scripted.destination(IotDestination, TOPIC, DynamicTopicSuffix=True) as made:
        await made.deliver(packet_batch(*shown))
    lines = {line for line, _, _ in scripted.server.requests}
    assert lines == {"POST /topics/orders%2F198.51.100.7%2F40001 HTTP/1.1"}
    assert {body for _, _, body in scripted.server.requests} == {b"\xff\0", b"\xff\1", "ü".encode()}


async def test_a_packet_that_is_refused_is_named_alone(scripted: Scripted) -> None:
    def respond(headers: dict[str, str], body: bytes) -> bytes:
        if b'"Data":"b"' in body:
            return answer(403, b'{"message":"Forbidden"}', "x-amzn-ErrorType: ForbiddenException")
        return (
            refusal("ThrottlingException", "Rate exceeded", 429)
            if b'"Data":"c"' in body
            else answer(200, b"")
        )

    scripted.server.answers = [scripted.peer(respond)]
    async with scripted.destination(IotDestination, TOPIC) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("a", "b"))
        assert raised.value.packets is not None
        assert [(index, one.reason) for index, one in raised.value.packets.items()] == [(1, "AccessDenied")]
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("c"))
        assert (raised.value.reason, raised.value.retryable) == ("Throttled", True)
