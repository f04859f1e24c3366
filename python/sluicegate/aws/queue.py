"""An SQS queue, for many messages a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sluicegate.aws.chunks import chunks
from sluicegate.aws.errors import BAD_ANSWER, AwsError
from sluicegate.aws.service import Service

BATCH = 10
BATCH_BYTES = 1 << 20
"""SQS: the bodies of one SendMessageBatch together."""
PARALLEL_BATCHES = 16
"""Of one call; each may need a connection of its own."""
SECONDS = 10.0
"""For an answer, beyond the time that a long poll waits."""

_ATTRIBUTES = ("ApproximateReceiveCount", "SentTimestamp")


@dataclass(slots=True)
class QueueMessage:
    """`sent_at` is Unix time in seconds; `receive_count` is 1 at the first time."""

    message_id: str
    receipt: str
    body: str
    receive_count: int
    sent_at: float | None


Failures = list[tuple[int, str]]
"""Index and SQS's code of each that failed."""


class Queue:
    """Calls raise `AwsError`. Those on many messages go out in batches of ten, side by side; they raise if no batch
    came through, else what failed is in the result."""

    def __init__(self, service: Service, url: str) -> None:
        self._service = service
        self.url = url

    async def receive(
        self, *, limit: int = BATCH, wait_seconds: int = 20, visibility_seconds: int | None = None
    ) -> list[QueueMessage]:
        """Up to `limit` (1 to 10) messages; waits for the first. None of them is shown to others for
        `visibility_seconds` (default: what the queue says)."""
        params: dict[str, object] = {
            "QueueUrl": self.url,
            "MessageSystemAttributeNames": _ATTRIBUTES,
            "MaxNumberOfMessages": limit,
            "WaitTimeSeconds": wait_seconds,
        }
        if visibility_seconds is not None:
            params["VisibilityTimeout"] = visibility_seconds
        answer = await self._service.call("ReceiveMessage", params, self.url, wait_seconds + SECONDS)
        try:
            return [_message(found) for found in answer.get("Messages") or ()]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._strange("ReceiveMessage") from error

    async def delete(self, receipts: Sequence[str]) -> Failures:
        """Delete messages."""
        return await self._batches("DeleteMessageBatch", _chunks(receipts), _deletion)

    async def extend(self, receipts: Sequence[str], seconds: int) -> Failures:
        """Keep messages from others for so long from now."""

        def entry(index: str, receipt: str) -> dict[str, object]:
            return {"Id": index, "ReceiptHandle": receipt, "VisibilityTimeout": seconds}

        return await self._batches("ChangeMessageVisibilityBatch", _chunks(receipts), entry)

    async def send(self, bodies: Sequence[str]) -> Failures:
        """Send messages. One above SQS's limit is among the failures."""
        return await self._batches("SendMessageBatch", _sized_chunks(bodies), _sending)

    async def _batches(
        self,
        operation: str,
        chunks: Iterator[tuple[int, Sequence[str]]],
        entry: Callable[[str, str], dict[str, object]],
    ) -> Failures:
        batches = list(chunks)
        if len(batches) == 1:
            return await self._batch(operation, *batches[0], entry)
        free = asyncio.Semaphore(PARALLEL_BATCHES)
        raised: list[AwsError] = []

        async def one(start: int, items: Sequence[str]) -> Failures:
            async with free:
                try:
                    return await self._batch(operation, start, items, entry)
                except AwsError as error:
                    raised.append(error)
                    return [(start + index, error.code) for index in range(len(items))]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*batch)) for batch in batches]
        if raised and len(raised) == len(batches):
            raise raised[0]
        return [failure for task in tasks for failure in task.result()]

    async def _batch(
        self,
        operation: str,
        start: int,
        items: Sequence[str],
        entry: Callable[[str, str], dict[str, object]],
    ) -> Failures:
        entries = [entry(str(index), item) for index, item in enumerate(items)]
        params = {"QueueUrl": self.url, "Entries": entries}
        answer = await self._service.call(operation, params, self.url, SECONDS)
        try:
            failed = [(start + int(each["Id"]), str(each["Code"])) for each in answer.get("Failed") or ()]
            done = len(answer.get("Successful") or ())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._strange(operation) from error
        if done + len(failed) != len(items):
            raise self._strange(operation)
        return failed

    def _strange(self, operation: str) -> AwsError:
        cause = "the answer does not have what SQS says it has; check who answers at the endpoint"
        return AwsError("sqs", operation, BAD_ANSWER, cause, status=200, resource=self.url)


def _message(found: dict[str, Any]) -> QueueMessage:
    attributes = found.get("Attributes") or {}
    sent = attributes.get("SentTimestamp")
    return QueueMessage(
        found["MessageId"],
        found["ReceiptHandle"],
        found["Body"],
        int(attributes.get("ApproximateReceiveCount", 1)),
        int(sent) / 1000 if sent else None,
    )


def _deletion(index: str, receipt: str) -> dict[str, object]:
    return {"Id": index, "ReceiptHandle": receipt}


def _sending(index: str, body: str) -> dict[str, object]:
    return {"Id": index, "MessageBody": body}


def _chunks(items: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Where each batch starts, and what is in it."""
    for start in range(0, len(items), BATCH):
        yield start, items[start : start + BATCH]


def _sized_chunks(bodies: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """The same, no batch above the limit unless it is one body."""
    for start, end in chunks((len(body.encode()) for body in bodies), BATCH, BATCH_BYTES):
        yield start, bodies[start:end]
