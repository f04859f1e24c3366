"""`arn:aws:sns:…` against an independent implementation of SNS, which hands messages on to a queue."""

import re
from pathlib import Path
from typing import Any

import pytest
from aws_destinations import AwsContract, Scripted, data_of
from aws_destinations import ministack_keys as ministack_keys
from aws_destinations import scripted as scripted
from aws_server import ACCOUNT as SERVED
from aws_server import answer
from ministack import ACCOUNT, REGION, Ministack, unique

from sluicegate.aws import Aws
from sluicegate.destinations.base import DeliveryError, Destination
from sluicegate.destinations.sns import SnsDestination
from sluicegate.testing import destination_context, packet_batch


class Topic:
    """A topic and a queue that gets its messages as they are."""

    def __init__(self, ministack: Ministack, name: str, **attributes: str) -> None:
        self.sns, self._sqs = ministack.client("sns"), ministack.client("sqs")
        fifo = {"FifoQueue": "true"} if attributes else {}
        self._url = self._sqs.create_queue(QueueName=name, Attributes=fifo)["QueueUrl"]
        self.arn = self.sns.create_topic(Name=name, Attributes=attributes)["TopicArn"]
        self.sns.subscribe(
            TopicArn=self.arn,
            Protocol="sqs",
            Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}",
            Attributes={"RawMessageDelivery": "true"},
        )

    def received(self) -> list[dict[str, Any]]:
        found = self._sqs.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=10, AttributeNames=["All"]
        ).get("Messages", [])
        for message in found:
            self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return list(found)


class TestSns(AwsContract):
    kind = SnsDestination
    bad_targets = (
        "arn:aws:sns:us-east-1:123456789012:",
        "arn:aws:sns:us-east-1:123456789012:two words",
        "arn:aws:sns:us-east-1:123456789012:topic:b3e5a3a2-0000-4000-8000-000000000000",
        "arn:aws:sqs:us-east-1:123456789012:q:q",
    )

    def make(self, ministack: Ministack) -> None:
        self.topic = Topic(ministack, unique("destination"))
        self.target = self.topic.arn

    def delivered(self, destination: Destination) -> list[str]:
        return data_of([message["Body"] for message in self.topic.received()])

    def refuse(self, destination: Destination) -> None:
        self.topic.sns.delete_topic(TopicArn=self.target)


async def test_a_fifo_topic(ministack: Ministack, ministack_keys: None, tmp_path: Path) -> None:
    topic = Topic(ministack, unique("orders") + ".fifo", FifoTopic="true")
    aws = Aws(REGION, ministack.url)
    made = SnsDestination.from_spec("orders", topic.arn, {}, destination_context(tmp_path, aws=aws))
    assert made.concurrency == 1
    packets = [f"{number} & grüße" for number in range(12)]
    try:
        await made.deliver(packet_batch(*packets))
        await made.deliver(packet_batch(*packets))  # again: the same ids, so nothing comes twice
    finally:
        await aws.close()
    found: list[dict[str, Any]] = []
    while more := topic.received():
        found += more
    assert data_of([message["Body"] for message in found]) == packets
    assert {message["Attributes"]["MessageGroupId"] for message in found} == {"198.51.100.7:40001"}
    ids = {message["Attributes"]["MessageDeduplicationId"] for message in found}
    assert len(ids) == 12
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


async def test_an_answer_for_other_messages(scripted: Scripted) -> None:
    """Nothing of what was sent counts as taken."""
    for members in ("<member><Id>0</Id></member>", "<member><Id>0</Id></member><member><Id>7</Id></member>"):
        scripted.server.answers = [answer(200, f"<R><Successful>{members}</Successful></R>".encode())]
        async with scripted.destination(SnsDestination, f"arn:aws:sns:us-east-1:{SERVED}:orders") as made:
            with pytest.raises(DeliveryError) as raised:
                await made.deliver(packet_batch("a", "b"))
            assert (raised.value.reason, raised.value.retryable) == ("BadAnswer", True)
