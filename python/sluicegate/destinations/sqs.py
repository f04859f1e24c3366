"""`arn:aws:sqs:…`: a queue, one message for each packet."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from sluicegate.aws.errors import AwsError
from sluicegate.aws.signing import SQS
from sluicegate.destinations.aws import (
    SECONDS,
    AwsDestination,
    Content,
    Entry,
    Limits,
    Refused,
    deliver_in_parts,
    strange_answer,
)
from sluicegate.destinations.base import Arguments, DeliveryError, PacketBatch
from sluicegate.destinations.batch import content_id

LIMITS = Limits(entries=10, size=1 << 20, entry_size=1 << 20)
GROUP, DEDUPLICATION = "MessageGroupIdExpression", "MessageDeduplicationIdExpression"
_ID = re.compile(r"[!-~]{1,128}")  # MessageGroupId and MessageDeduplicationId
_NOT_TEXT = re.compile(
    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # SendMessage: allowed characters
_ATTRIBUTES = (
    ("LocalDomain", "String", "Local", "Domain"),
    ("LocalPort", "Number", "Local", "Port"),
    ("RemoteAddress", "String", "Remote", "IpAddress"),
    ("RemotePort", "Number", "Remote", "Port"),
)


class SqsDestination(AwsDestination):
    """Sends each packet to a queue as one message: its JSON or, with `SendRaw`, its formatted payload alone.

    In a FIFO queue the group of a message is what `MessageGroupIdExpression` says, else `RemoteAddress:RemotePort`; its
    de-duplication id is what `MessageDeduplicationIdExpression` says, else 32 hex digits that no other packet has. A
    repeated delivery has the same ids. A null expression is as none.
    """

    usage = "arn:aws:sqs:REGION:ACCOUNT:QUEUE"
    resource = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")
    protocol = SQS
    permissions = (("ARN", ("sqs:GetQueueUrl", "sqs:SendMessage", "sqs:SendMessageBatch")),)
    reasons = (*AwsDestination.reasons, "BadMessageId", "BadMessageBody")
    arguments = (
        ("SendRaw", "true: the body is the formatted payload alone"),
        (
            "UseMessageAttributes",
            "true: `LocalDomain`, `LocalPort`, `RemoteAddress`, `RemotePort` as attributes",
        ),
        (GROUP, "the message group, of FIFO and of fair queues"),
        ("MessageGroupIdFormatter", "how its bytes are shown: `hex` (default), `base64`, `utf8`, `ascii`"),
        (DEDUPLICATION, "the de-duplication id, of FIFO queues"),
        ("MessageDeduplicationIdFormatter", "how its bytes are shown, `hex` by default"),
    )
    limits = "10 messages and 1 MiB. A FIFO queue gets one request after the other."

    def read(self, arguments: Arguments) -> None:
        self._fifo = self.arn.resource.endswith(".fifo")
        self._raw = arguments.flag("SendRaw")
        self._attributes = arguments.flag("UseMessageAttributes")
        self.read_expressions(arguments, GROUP, DEDUPLICATION)
        if DEDUPLICATION in self.expressions and not self._fifo:
            cause = f"{DEDUPLICATION} is for FIFO queues, and {self.arn.resource} is none"
            raise arguments.wrong(DEDUPLICATION, cause, "name a queue that ends with .fifo, or leave it out")
        self._url = ""
        self._asking = asyncio.Lock()
        self._service = self.service()

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        columns = [self._column(batch, name) for name in (GROUP, DEDUPLICATION)]
        entries = map(self._entry, batch.records(), *columns)
        await deliver_in_parts(list(entries), LIMITS, self._send, ordered=self._fifo)
        return None

    @property
    def concurrency(self) -> int:
        return 1 if self._fifo else self.parallel

    def _column(self, batch: PacketBatch, name: str) -> Iterable[str | None]:
        return batch.values(name) if name in self.expressions else [None] * batch.count

    def _entry(
        self, record: bytes, group: str | None, deduplication: str | None
    ) -> Entry[Content] | DeliveryError:
        content: Content = {}
        body = record.decode()
        if self._raw or self._attributes or (self._fifo and not group):
            packet = orjson.loads(record)
            body = packet["Data"] if self._raw else body
            if self._fifo:
                group = group or f"{packet['Remote']['IpAddress']}:{packet['Remote']['Port']}"
            if self._attributes:
                content["MessageAttributes"] = _attributes(packet)
        if not body or (not (body.isascii() and body.isprintable()) and _NOT_TEXT.search(body)):
            return DeliveryError(
                "BadMessageBody", "SQS takes no empty message, and no control characters in one"
            )
        if self._fifo:
            deduplication = deduplication or content_id(record)
        for name, value in (("MessageGroupId", group), ("MessageDeduplicationId", deduplication)):
            if value:
                if not _ID.fullmatch(value):
                    return DeliveryError("BadMessageId", f"{name} is not 1 to 128 printable ASCII characters")
                content[name] = value
        content["MessageBody"] = body
        return Entry(len(body.encode()) + _size(content.get("MessageAttributes")), content)

    async def _send(self, contents: Sequence[Content]) -> Refused:
        entries = [{"Id": str(place), **content} for place, content in enumerate(contents)]
        params = {"QueueUrl": await self._queue_url(), "Entries": entries}
        answer = await self._service.call("SendMessageBatch", params, self.arn.text, SECONDS)
        try:
            refused = {int(one["Id"]): self._refusal(one) for one in answer.get("Failed") or ()}
            done = len(answer.get("Successful") or ())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise strange_answer("sqs", "SendMessageBatch", self.arn) from error
        if done + len(refused) != len(entries):
            raise strange_answer("sqs", "SendMessageBatch", self.arn)
        return refused

    def _refusal(self, failed: dict[str, Any]) -> AwsError:
        """`SenderFault` false: SQS failed, and another attempt may succeed."""
        status = 400 if failed.get("SenderFault", True) else 500
        code, message = str(failed["Code"]), str(failed.get("Message") or "no more was said")
        return AwsError("sqs", "SendMessageBatch", code, message, status=status, resource=self.arn.text)

    async def _queue_url(self) -> str:
        """Asked for once."""
        async with self._asking:
            if not self._url:
                params = {"QueueName": self.arn.resource, "QueueOwnerAWSAccountId": self.arn.account}
                answer = await self._service.call("GetQueueUrl", params, self.arn.text, SECONDS)
                if not isinstance(url := answer.get("QueueUrl"), str):
                    raise strange_answer("sqs", "GetQueueUrl", self.arn)
                self._url = url
        return self._url


def _attributes(packet: dict[str, Any]) -> dict[str, dict[str, str]]:
    values = ((name, kind, str(packet[side][key])) for name, kind, side, key in _ATTRIBUTES)
    return {name: {"DataType": kind, "StringValue": value} for name, kind, value in values if value}


def _size(attributes: Any) -> int:
    """Names, types and values count."""
    return sum(len(name) + sum(map(len, one.values())) for name, one in (attributes or {}).items())
