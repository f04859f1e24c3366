"""A batch for a service that takes a request as a whole, if it is not too large."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson

from sluicegate.destinations.base import DeliveryError, PacketBatch
from sluicegate.destinations.batch import RecordBatch

Send = Callable[[PacketBatch], Awaitable[bytes | None]]


class TooLarge(Exception):
    """The service takes no request of this size; the text says what it takes."""


async def deliver_in_halves(batch: PacketBatch, send: Send) -> bytes | None:
    """Send a batch; what is `TooLarge` goes in halves, one after the other, and these in halves too.

    A packet that is too large by itself is refused alone. Returns the answer, that of parts put together. Raises a
    `DeliveryError` as `send` does, or one that names the packets of parts that failed.
    """
    try:
        return await send(batch)
    except TooLarge as error:
        if batch.count == 1:
            raise DeliveryError("PacketTooLarge", str(error)) from error
    records = batch.records()
    answers: list[bytes] = []
    failed: dict[int, DeliveryError] = {}
    parts = [(0, len(records) // 2), (len(records) // 2, len(records))]
    while parts:
        first, end = parts.pop(0)
        try:
            answer = await send(RecordBatch(records[first:end]))
            answers += [answer] if answer else []
        except DeliveryError as error:
            failed |= dict.fromkeys(range(first, end), error)
        except TooLarge as error:
            if end - first == 1:
                failed[first] = DeliveryError("PacketTooLarge", str(error))
            else:
                middle = (first + end) // 2
                parts[:0] = [(first, middle), (middle, end)]
    answer = _together(answers)
    if failed:
        worst = max(failed.values(), key=lambda one: (one.retryable, one.retry_after))
        raise DeliveryError(
            worst.reason,
            worst.detail,
            worst.retryable,
            packets=failed,
            retry_after=worst.retry_after,
            answer=answer,
        )
    return answer


def _together(answers: list[bytes]) -> bytes | None:
    """One answer with the Replies of all; one that is none as it is, so that it is reported."""
    replies: list[object] = []
    for answer in answers:
        try:
            found = orjson.loads(answer)
            replies += (found or {}).get("Replies") or []
        except (ValueError, AttributeError, TypeError):
            return answer
    return orjson.dumps({"Replies": replies}) if replies else None
