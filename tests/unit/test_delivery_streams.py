"""Answers that a Destination gives while it still delivers, and what becomes of them at the end."""

from __future__ import annotations

import asyncio

from delivering import Batch, Rig

from sluicegate.destinations import DeliveryError
from sluicegate.destinations.base import early_answers
from sluicegate.destinations.streaming import TOLD, ReplyStream

GOOD = b'{"Replies":[{"Tag":"a","Data":""}]}'


async def test_answers_leave_while_the_batch_is_delivered_and_it_fails_once() -> None:
    async def deliver(batch: Batch) -> None:
        stream = ReplyStream()
        await stream.feed(GOOD[:10])
        assert rig.replies == []
        await stream.feed(GOOD[10:] + b"\n" + GOOD)
        assert [body for _, body in rig.replies] == [GOOD, GOOD]
        raise DeliveryError("Broken", "in the middle")

    rig = Rig(deliver)
    rig.reader.put(Batch("a", 10))
    await rig.finish()
    stats = rig.delivery.stats
    assert (stats.replies, stats.batches_failed, stats.packets_failed) == (2, 1, 10)
    assert [(one["Event"], one["Reason"]) for one in rig.seen] == [("DeliveryFailed", "Broken")]


async def test_garbage_without_end_is_a_few_events() -> None:
    async def deliver(batch: Batch) -> None:
        stream = ReplyStream()
        for _ in range(1_000):
            await stream.feed(b"no reply\n")
        await stream.feed(b'{"Tag":')
        stream.end()

    rig = Rig(deliver)
    rig.reader.put(Batch("a", 10))
    await rig.finish()
    assert [one["Reason"] for one in rig.seen] == ["MalformedReply"] * (TOLD + 1)
    assert rig.seen[-1]["Detail"].startswith(f"{1_001 - TOLD} more places")
    assert rig.delivery.stats.packets_delivered == 10


async def test_nothing_is_sent_after_the_end_of_the_delivery() -> None:
    late: list[ReplyStream] = []

    async def deliver(batch: Batch) -> None:
        late.append(ReplyStream())
        await late[0].feed(GOOD)
        await asyncio.Event().wait()

    rig = Rig(deliver)
    rig.reader.put(Batch("a", 10))
    await asyncio.sleep(0)
    await rig.finish(seconds=0.05)
    await late[0].feed(GOOD)
    assert [body for _, body in rig.replies] == [GOOD]
    assert [(one["Event"], one["Reason"]) for one in rig.seen] == [
        ("DeliveryFailed", "Shutdown"),
        ("ReplyFailed", "Interrupted"),
    ]


async def test_an_answer_that_finds_no_room_until_the_delivery_ends_is_reported() -> None:
    async def deliver(batch: Batch) -> None:
        sending = asyncio.create_task(ReplyStream().feed(GOOD))
        await full.wait()
        sending.cancel()
        await asyncio.wait((sending,))
        raise DeliveryError("Timeout", "too late")

    async def reply(request_id: str, body: bytes) -> None:
        full.set()
        await asyncio.Event().wait()

    full = asyncio.Event()
    rig = Rig(deliver)
    rig.delivery._reply = reply
    rig.reader.put(Batch("a", 10))
    await rig.finish()
    assert [one["Reason"] for one in rig.seen] == ["Interrupted", "Timeout"]


async def test_without_a_delivery_nobody_takes_early_answers() -> None:
    assert early_answers.get() is None
    stream = ReplyStream()
    await stream.feed(GOOD)
    stream.end()
    assert not stream.wanted
