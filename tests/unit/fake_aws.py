"""SNS and SQS in memory, as far as a PacketSource goes; with AWS's own refusals, which ministack does not have."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sluicegate.aws import AwsError, QueueMessage, Role

ACCOUNT = "123456789012"


class FakeQueue:
    """`sluicegate.aws.Queue`. `put` fills it; what was received is not given again before `expire`."""

    def __init__(self) -> None:
        self.waiting: list[QueueMessage] = []
        self.invisible: dict[str, QueueMessage] = {}
        self.deleted: list[str] = []
        self.extended: list[tuple[str, int]] = []
        self.errors: list[AwsError] = []
        """Raised by the next calls of their operations, one each."""
        self.delete_codes: dict[str, str] = {}
        """Receipts whose delete fails with this code, once."""
        self.polls = 0
        self.most_polls = 0
        self._numbers = itertools.count(1)

    def put(self, body: str, *, message_id: str | None = None, receive_count: int = 1) -> str:
        number = next(self._numbers)
        receipt = f"receipt-{number}"
        self.waiting.append(QueueMessage(message_id or f"sqs-{number}", receipt, body, receive_count, 1000.0))
        return receipt

    async def receive(
        self, *, limit: int = 10, wait_seconds: int = 20, visibility_seconds: int | None = None
    ) -> list[QueueMessage]:
        self.polls += 1
        self.most_polls = max(self.polls, self.most_polls)
        try:
            await asyncio.sleep(0.002)
            self._raise("ReceiveMessage")
            if not self.waiting and wait_seconds:
                await asyncio.sleep(0.02)
            got, self.waiting = self.waiting[:limit], self.waiting[limit:]
        finally:
            self.polls -= 1
        self.invisible |= {message.receipt: message for message in got}
        return got

    async def delete(self, receipts: Sequence[str]) -> list[tuple[int, str]]:
        self._raise("DeleteMessageBatch")
        failed = []
        for index, receipt in enumerate(receipts):
            code = self.delete_codes.pop(receipt, None)
            if code is None:
                self.deleted.append(receipt)
                self.invisible.pop(receipt, None)
            else:
                failed.append((index, code))
        return failed

    async def extend(self, receipts: Sequence[str], seconds: int) -> list[tuple[int, str]]:
        self._raise("ChangeMessageVisibilityBatch")
        self.extended += [(receipt, seconds) for receipt in receipts]
        return []

    def _raise(self, operation: str) -> None:
        if self.errors and self.errors[0].operation == operation:
            raise self.errors.pop(0)


class FakeAws:
    """`sluicegate.aws.Aws`: `calls` has what was asked for, `refuse` what is answered with an error."""

    def __init__(self, *topics: str) -> None:
        self.calls: list[tuple[str, Mapping[str, Any], Role | None, str | None]] = []
        self.refuse: dict[str, AwsError] = {}
        self.topics: dict[str, list[dict[str, Any]]] = {topic: [] for topic in topics}
        self.queues: dict[str, dict[str, str]] = {}
        self.recent: set[str] = set()
        self.contents: dict[str, FakeQueue] = {}
        self.pending = False
        """New subscriptions wait for their confirmation."""
        self._numbers = itertools.count(1)

    def queue(self, url: str, *, region: str | None = None, role: Role | None = None) -> FakeQueue:
        return self.contents.setdefault(url, FakeQueue())

    async def account(self) -> str:
        return ACCOUNT

    async def call(
        self,
        service: str,
        operation: str,
        params: Mapping[str, Any] = {},
        *,
        role: Role | None = None,
        region: str | None = None,
    ) -> dict[str, Any]:
        self.calls.append((operation, params, role, region))
        if (error := self.refuse.get(operation)) is not None:
            raise error
        answer: dict[str, Any] = getattr(self, f"_{operation}")(**params)
        return answer

    def asked(self, operation: str) -> list[Mapping[str, Any]]:
        return [params for name, params, *_ in self.calls if name == operation]

    # SQS

    def _CreateQueue(self, QueueName: str, Attributes: dict[str, str]) -> dict[str, Any]:
        if QueueName in self.recent:
            raise AwsError("sqs", "CreateQueue", "QueueDeletedRecently", "wait 60 seconds", status=400)
        self.queues[QueueName] = dict(Attributes)
        return {"QueueUrl": f"https://sqs/{QueueName}"}

    def _GetQueueUrl(self, QueueName: str, QueueOwnerAWSAccountId: str = ACCOUNT) -> dict[str, Any]:
        if QueueName not in self.queues or QueueOwnerAWSAccountId != ACCOUNT:
            raise AwsError("sqs", "GetQueueUrl", "QueueDoesNotExist", "no such queue", status=400)
        return {"QueueUrl": f"https://sqs/{QueueName}"}

    def _GetQueueAttributes(self, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:
        contents = self.contents.get(QueueUrl, FakeQueue())
        counts = {
            "ApproximateNumberOfMessages": str(len(contents.waiting)),
            "ApproximateNumberOfMessagesNotVisible": str(len(contents.invisible)),
            "ApproximateNumberOfMessagesDelayed": "0",
        }
        found = counts | self.queues[QueueUrl.rpartition("/")[2]]
        return {"Attributes": {name: found[name] for name in AttributeNames if name in found}}

    def _SetQueueAttributes(self, QueueUrl: str, Attributes: dict[str, str]) -> dict[str, Any]:
        self.queues[QueueUrl.rpartition("/")[2]].update(Attributes)
        return {}

    def _DeleteQueue(self, QueueUrl: str) -> dict[str, Any]:
        name = QueueUrl.rpartition("/")[2]
        del self.queues[name]
        self.recent.add(name)
        return {}

    # SNS

    def _subscriptions(self, topic: str, operation: str) -> list[dict[str, Any]]:
        if topic not in self.topics:
            raise AwsError("sns", operation, "NotFound", "Topic does not exist", status=404, resource=topic)
        return self.topics[topic]

    def _ListSubscriptionsByTopic(self, TopicArn: str, NextToken: str = "0") -> dict[str, Any]:
        # A page has one line, so that whoever forgets NextToken is found out.
        found = self._subscriptions(TopicArn, "ListSubscriptionsByTopic")
        start = int(NextToken)
        more = {"NextToken": str(start + 1)} if start + 1 < len(found) else {}
        return {"Subscriptions": found[start : start + 1], **more}

    def _Subscribe(
        self,
        TopicArn: str,
        Protocol: str,
        Endpoint: str,
        Attributes: dict[str, str],
        ReturnSubscriptionArn: bool,
    ) -> dict[str, Any]:
        found = self._subscriptions(TopicArn, "Subscribe")
        for one in found:
            if one["Endpoint"] == Endpoint:
                if any(one["Attributes"].get(name) != value for name, value in Attributes.items()):
                    cause = "Attributes Reason: Subscription already exists with different attributes"
                    raise AwsError("sns", "Subscribe", "InvalidParameter", cause, status=400)
                return {"SubscriptionArn": one["SubscriptionArn"]}
        arn = f"{TopicArn}:{next(self._numbers)}"
        shown = "PendingConfirmation" if self.pending else arn
        found.append(
            {
                "SubscriptionArn": shown,
                "Protocol": Protocol,
                "Endpoint": Endpoint,
                "Attributes": dict(Attributes),
            }
        )
        return {"SubscriptionArn": arn}

    def _Unsubscribe(self, SubscriptionArn: str) -> dict[str, Any]:
        for found in self.topics.values():
            found[:] = [one for one in found if one["SubscriptionArn"] != SubscriptionArn]
        return {}

    def _ConfirmSubscription(self, TopicArn: str, Token: str) -> dict[str, Any]:
        for one in self._subscriptions(TopicArn, "ConfirmSubscription"):
            one["SubscriptionArn"] = f"{TopicArn}:{Token}"
        return {}
