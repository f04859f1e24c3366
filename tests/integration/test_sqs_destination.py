"""`arn:aws:sqs:…` against an independent implementation of SQS."""

from typing import Any

from aws_destinations import AwsContract, data_of
from aws_destinations import ministack_keys as ministack_keys
from ministack import ACCOUNT, REGION, Ministack, unique

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
