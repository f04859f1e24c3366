"""`arn:aws:sqs:…` against an independent implementation of SQS."""

import re
from pathlib import Path
from typing import Any

from aws_destinations import AwsContract, data_of
from aws_destinations import ministack_keys as ministack_keys
from harness import Client, Gateway
from ministack import ACCOUNT, ENVIRONMENT, REGION, Ministack, unique

from sluicegate.destinations.base import Destination
from sluicegate.destinations.sqs import SqsDestination


class TestSqs(AwsContract):
    kind = SqsDestination
    arguments = {"UseMessageAttributes": True, "MessageGroupIdExpression": "[0:2]"}
    bad_targets = (
        "arn:aws:sqs:us-east-1:123456789012:",
        "arn:aws:sqs:us-east-1:12345:queue",
        "arn:aws:sqs:::queue",
        "arn:aws:sqs:us-east-1:123456789012:two words",
    )
    bad_arguments = (
        {"SendRaw": "perhaps"},
        {"MessageGroupIdExpression": "[0:"},
        {"MessageGroupIdFormatter": "base32"},
        {"MessageDeduplicationIdExpression": "[0]"},
    )

    def make(self, ministack: Ministack) -> None:
        self.sqs = ministack.client("sqs")
        name = unique("destination")
        attributes = {"MaximumMessageSize": "2048"}
        self.url = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        self.target = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"

    def received(self) -> list[dict[str, Any]]:
        found = self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        )
        for message in found.get("Messages", []):
            self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        messages: list[dict[str, Any]] = found.get("Messages", [])
        return messages

    def delivered(self, destination: Destination) -> list[str]:
        return data_of([message["Body"] for message in self.received()])

    def refuse(self, destination: Destination) -> None:
        self.sqs.delete_queue(QueueUrl=self.url)

    def refuse_packets(self, destination: Destination) -> str:
        return "x" * 3000


FIFO = """
listeners:
  - name: drones
    bind: 127.0.0.1
    client_restrictions: {{ networks: [127.0.0.0/8] }}
    destinations:
      - name: orders
        destination_arn: {arn}
        formatter: hex
        batching: {{ count: 12, timeout_in_seconds: 300 }}
        arguments:
          SendRaw: true
          UseMessageAttributes: "true"
          MessageGroupIdExpression: "[0] == 0xFD ? [3:5] : 0xFFFF"
"""


def all_messages(sqs: Any, url: str, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        answer = sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=20,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        assert answer.get("Messages"), f"no more than {found} within 20 s"
        found += answer["Messages"]
        for message in answer["Messages"]:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


def test_binary_packets_in_a_fifo_queue(ministack: Ministack, tmp_path: Path) -> None:
    sqs, name = ministack.client("sqs"), unique("orders") + ".fifo"
    url = sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})["QueueUrl"]
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
    gateway = Gateway(tmp_path, FIFO.format(arn=arn), aws=ministack.url, environment=ENVIRONMENT)
    # Two identical packets among them: each is a message of its own.
    packets = [bytes([0xFD, number, 0, 0xA2, 0x0C, 0xFF]) for number in range(10)] + [b"\0\xfe", b"\0\xfe"]
    with Client() as client:
        try:
            gateway.start()
            for packet in packets:
                client.send(packet, gateway.address())
            found = all_messages(sqs, url, len(packets))
            local, remote = gateway.address(), client.address
        finally:
            gateway.close()
    groups: dict[str, list[str]] = {}
    for message in found:
        groups.setdefault(message["Attributes"]["MessageGroupId"], []).append(message["Body"])
    assert groups == {"A20C": [packet.hex().upper() for packet in packets[:10]], "FFFF": ["00FE", "00FE"]}
    ids = {message["Attributes"]["MessageDeduplicationId"] for message in found}
    assert len(ids) == 12
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    for message in found:
        values = {
            key: (one["DataType"], one["StringValue"]) for key, one in message["MessageAttributes"].items()
        }
        assert values == {
            "LocalDomain": ("String", "ingress-1"),
            "LocalPort": ("Number", str(local[1])),
            "RemoteAddress": ("String", remote[0]),
            "RemotePort": ("Number", str(remote[1])),
        }
