"""A Delivery: what it reads, repeats, counts and hands on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from delivering import Batch, Rig, balance, nothing, settle

from sluicegate.destinations import DeliveryError
from sluicegate.destinations.base import delivery_id


async def test_delivers_all_that_is_waiting_and_all_that_comes() -> None:
    rig = Rig(nothing)
    rig.reader.put(Batch("a"), Batch("b", 3))
    await settle()
    rig.reader.put(Batch("c"))
    await rig.finish()
    assert balance(rig) == (23, 0)
    assert rig.delivery.stats.batches_delivered == 3
    assert rig.seen == []


async def test_reads_no_more_than_it_can_start() -> None:
    gate = asyncio.Event()

    async def slow(batch: Any) -> None:
        await gate.wait()

    rig = Rig(slow, concurrency=2)
    rig.reader.put(*(Batch(str(n)) for n in range(5)))
    await settle()
    assert len(rig.reader.queue) == 3
    assert rig.delivery.stats.in_flight == 2
    reads = len(rig.reader.reads)
    await settle()
    # Readable all the time, and yet not watched: no spinning.
    assert len(rig.reader.reads) == reads
    gate.set()
    await rig.finish()
    assert balance(rig) == (50, 0)


async def test_one_slow_batch_does_not_hold_up_the_others() -> None:
    gate = asyncio.Event()
    done: list[str] = []

    async def deliver(batch: Any) -> None:
        if batch.name == "slow":
            await gate.wait()
        done.append(batch.name)

    rig = Rig(deliver, concurrency=2)
    rig.reader.put(Batch("slow"), Batch("b"), Batch("c"), Batch("d"))
    await settle()
    assert done == ["b", "c", "d"]
    gate.set()
    await rig.finish()
    assert done[-1] == "slow"


async def test_retries_what_may_succeed_with_growing_pauses() -> None:
    attempts: list[str] = []

    async def deliver(batch: Any) -> None:
        attempts.append(delivery_id.get())
        if len(attempts) < 4:
            raise DeliveryError("Throttled", "too fast", retryable=True)

    rig = Rig(deliver, attempts=5)
    rig.reader.put(Batch("a"))
    await rig.finish()
    assert balance(rig) == (10, 0)
    assert rig.delivery.stats.retries == 3
    # Half of 1, 2 and 4 seconds without luck, the last cut to the longest pause.
    assert rig.pauses == [0.5, 1.0, 1.5]
    assert len(set(attempts)) == 1


async def test_gives_up_after_the_last_attempt() -> None:
    async def deliver(batch: Any) -> None:
        raise DeliveryError("Throttled", "too fast", retryable=True)

    rig = Rig(deliver, attempts=3)
    rig.reader.put(Batch("a"))
    await rig.finish()
    assert balance(rig) == (0, 10)
    assert len(rig.pauses) == 2
    [event] = rig.seen
    assert event["Reason"] == "Throttled"
    assert "3 attempts" in event["Detail"]


async def test_a_failure_is_one_event_and_is_not_retried() -> None:
    async def deliver(batch: Any) -> None:
        if batch.name == "bad":
            raise DeliveryError("Refused", "the service says no" + "x" * 10_000)

    rig = Rig(deliver)
    rig.reader.put(Batch("a"), Batch("bad", 7), Batch("c"))
    await rig.finish()
    assert balance(rig) == (20, 7)
    assert rig.delivery.stats.failed_by_reason == {"Refused": 7}
    [event] = rig.seen
    assert [packets for packets, _ in rig.delivered] == [10, 10]
    assert len({event["RequestId"], *(request_id for _, request_id in rig.delivered)}) == 3
    assert (event["Event"], event["Listener"], event["Destination"]) == ("DeliveryFailed", "decoder", "echo")
    assert (event["Reason"], event["Packets"]) == ("Refused", 7)
    assert len(event["Detail"]) <= 1000


@pytest.mark.parametrize(
    "error", [ValueError("password=hunter2"), KeyError("x"), SystemExit(3), asyncio.CancelledError()]
)
async def test_whatever_a_destination_raises_stays_its_own(error: BaseException) -> None:
    async def deliver(batch: Any) -> None:
        if batch.name == "bad":
            raise error

    rig = Rig(deliver)
    rig.reader.put(Batch("bad"), Batch("good"))
    await rig.finish()
    assert balance(rig) == (10, 10)
    [event] = rig.seen
    assert event["Reason"] == "InternalError"
    assert type(error).__name__ in event["Detail"]
    assert "hunter2" not in str(event)


async def test_hands_on_answers_as_they_came() -> None:
    async def deliver(batch: Any) -> bytes:
        return b' {"Replies": []}'

    rig = Rig(deliver)
    rig.reader.put(Batch("a"), Batch("b"))
    await rig.finish()
    assert [body for _, body in rig.replies] == [b' {"Replies": []}'] * 2
    assert len({request_id for request_id, _ in rig.replies}) == 2
    assert rig.delivery.stats.replies == 2


@pytest.mark.parametrize("answer", [None, b"", b"  \n", b"null", b" null\n"])
async def test_no_answer_is_no_failure(answer: bytes | None) -> None:
    async def deliver(batch: Any) -> bytes | None:
        return answer

    rig = Rig(deliver)
    rig.reader.put(Batch("a"))
    await rig.finish()
    assert balance(rig) == (10, 0)
    assert (rig.replies, rig.seen) == ([], [])


ODD = [b"[]", b'"text"', b"12", b"-1", b"true", b"garbage", b"\xff\xfe", b'""', 1, "{}", {"Replies": []}]


@pytest.mark.parametrize("answer", ODD)
async def test_an_answer_of_another_shape_harms_itself_alone(answer: Any) -> None:
    async def deliver(batch: Any) -> Any:
        return answer if batch.name == "bad" else b'{"Replies": []}'

    rig = Rig(deliver)
    rig.reader.put(Batch("bad"), Batch("good"))
    await rig.finish()
    assert balance(rig) == (20, 0)
    assert rig.delivery.stats.replies_failed == 1
    assert len(rig.replies) == 1
    [event] = rig.seen
    assert (event["Event"], event["Reason"]) == ("ReplyFailed", "MalformedReply")


async def test_a_reply_that_cannot_be_handed_on_stops_nothing() -> None:
    async def deliver(batch: Any) -> bytes:
        return b"{}"

    rig = Rig(deliver)

    async def broken(request_id: str, body: bytes) -> None:
        raise RuntimeError

    rig.delivery._reply = broken
    rig.reader.put(Batch("a"), Batch("b"))
    await rig.finish()
    assert balance(rig) == (20, 0)
    assert rig.delivery.stats.replies_failed == 2


async def test_a_broken_event_sink_stops_nothing() -> None:
    async def deliver(batch: Any) -> None:
        raise DeliveryError("Refused", "no")

    rig = Rig(deliver)
    rig.events.emit = lambda *a, **k: 1 / 0  # type: ignore[assignment, method-assign]
    rig.reader.put(Batch("a"), Batch("b"))
    await rig.finish()
    assert balance(rig) == (0, 20)


async def test_drain_waits_for_what_runs_and_reads_the_queue_empty() -> None:
    gate = asyncio.Event()

    async def deliver(batch: Any) -> None:
        await gate.wait()

    rig = Rig(deliver)
    rig.reader.put(Batch("a"), Batch("b"), Batch("c"))
    await settle()
    rig.reader.close_port()
    drain = asyncio.create_task(rig.delivery.drain(10.0))
    await settle()
    assert not drain.done()
    gate.set()
    await drain
    assert balance(rig) == (30, 0)


async def test_drain_out_of_time_fails_the_running_and_the_waiting() -> None:
    async def deliver(batch: Any) -> None:
        await asyncio.Event().wait()

    rig = Rig(deliver, concurrency=2)
    rig.reader.put(*(Batch(str(n)) for n in range(100)))
    await settle()
    await rig.finish(0.0)
    assert balance(rig) == (0, 1000)
    assert rig.delivery.stats.failed_by_reason == {"Shutdown": 1000}
    assert rig.delivery.stats.in_flight == 0
    # One event for each that ran and one for all that waited: not a hundred lines while the gateway ends.
    assert sum(event["Packets"] for event in rig.seen) == 1000
    assert len(rig.seen) == 3


async def test_drain_cuts_a_pause_between_attempts() -> None:
    async def deliver(batch: Any) -> None:
        raise DeliveryError("Throttled", "too fast", retryable=True)

    rig = Rig(deliver)
    rig.delivery._sleep = lambda seconds: asyncio.Event().wait()
    rig.reader.put(Batch("a"))
    await settle()
    await rig.finish(0.0)
    assert rig.delivery.stats.failed_by_reason == {"Shutdown": 10}


async def test_a_destination_that_ignores_its_cancellation_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sluicegate.destinations.delivery.CANCEL_SECONDS", 0.0)
    gate = asyncio.Event()

    async def deliver(batch: Any) -> None:
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()

    rig = Rig(deliver)
    rig.reader.put(Batch("a"))
    await settle()
    await rig.finish(0.0)
    assert balance(rig) == (0, 10)
    gate.set()
    await settle()
    assert balance(rig) == (0, 10)


async def test_drain_of_a_queue_without_end_takes_what_is_there() -> None:
    rig = Rig(nothing)
    rig.reader.put(Batch("a"))
    await settle()
    await rig.delivery.drain(0.0)
    assert balance(rig) == (10, 0)
    rig.reader.put(Batch("b"))
    await settle()
    assert len(rig.reader.queue) == 1
