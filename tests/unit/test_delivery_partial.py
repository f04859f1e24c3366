"""A service that takes a batch in part: the packets that it refused are repeated or given up, each counts once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from delivering import Rig, balance, settle

from sluicegate.destinations import DeliveryError, PacketBatch
from sluicegate.destinations.batch import RecordBatch
from sluicegate.testing import packet_batch


def data(batch: PacketBatch) -> list[str]:
    return [message["Data"] for message in orjson.loads(batch.body())["Messages"]]


def letters(text: str = "abcdefghij") -> PacketBatch:
    return packet_batch(*text)


class Service:
    """Refuses packets as told, one instruction an attempt; takes everything afterwards."""

    def __init__(self, *refusals: DeliveryError | None) -> None:
        self._refusals = list(refusals)
        self.asked: list[str] = []

    async def __call__(self, batch: Any) -> bytes | None:
        self.asked.append("".join(data(batch)))
        refusal = self._refusals.pop(0) if self._refusals else None
        if refusal is not None:
            raise refusal
        return b'{"Replies": []}'


def throttled(packets: Iterable[int]) -> DeliveryError:
    return DeliveryError("Throttled", "too fast", retryable=True, packets=list(packets))


async def test_exactly_the_packets_that_failed_are_repeated() -> None:
    service = Service(throttled([7, 1, 4]), throttled([1]))
    rig = Rig(service)
    rig.reader.put(letters())
    await rig.finish()
    assert service.asked == ["abcdefghij", "beh", "e"]
    assert balance(rig) == (10, 0)
    assert rig.delivery.stats.retries == 2
    assert rig.seen == []
    # One batch, told in three parts: those that watch see each packet once, under one id.
    assert [packets for packets, _ in rig.delivered] == [7, 2, 1]
    assert len({request_id for _, request_id in rig.delivered}) == 1
    assert (rig.delivery.stats.batches_delivered, rig.delivery.stats.batches_failed) == (1, 0)
    # The answer of the last attempt.
    assert [body for _, body in rig.replies] == [b'{"Replies": []}']


async def test_the_others_count_at_once() -> None:
    rig = Rig(Service(throttled([0])))
    rig.delivery._sleep = lambda seconds: asyncio.Event().wait()
    rig.reader.put(letters())
    await settle()
    assert balance(rig) == (9, 0)
    await rig.finish(0.0)
    assert balance(rig) == (9, 1)
    assert rig.delivery.stats.failed_by_reason == {"Shutdown": 1}
    assert [event["Packets"] for event in rig.seen] == [1]


async def test_each_packet_has_a_fate_of_its_own() -> None:
    busy = DeliveryError("Busy", "a moment please", retryable=True)
    long = DeliveryError("TooLong", "longer than the service takes")
    service = Service(
        DeliveryError("Refused", "in part", packets={9: busy, 2: long, 3: long, 5: busy}),
        DeliveryError("Refused", "in part", packets={1: DeliveryError("Duplicate", "known already")}),
    )
    rig = Rig(service)
    rig.reader.put(letters())
    await rig.finish()
    assert service.asked == ["abcdefghij", "fj"]
    assert balance(rig) == (7, 3)
    assert rig.delivery.stats.failed_by_reason == {"TooLong": 2, "Duplicate": 1}
    assert [(event["Reason"], event["Packets"], event["Detail"]) for event in rig.seen] == [
        ("TooLong", 2, "longer than the service takes"),
        ("Duplicate", 1, "known already"),
    ]
    # A batch of which something was given up is a failed one.
    assert (rig.delivery.stats.batches_delivered, rig.delivery.stats.batches_failed) == (0, 1)
    assert rig.replies == []


async def test_what_is_left_is_given_up_after_the_last_attempt() -> None:
    busy = DeliveryError("Busy", "a moment please", retryable=True)
    rig = Rig(Service(throttled([1, 2, 3]), throttled([0, 1]), throttled({0: busy, 1: busy})), attempts=3)
    rig.reader.put(letters())
    await rig.finish()
    assert balance(rig) == (8, 2)
    [event] = rig.seen
    assert (event["Reason"], event["Packets"]) == ("Throttled", 2)
    assert "3 attempts" in event["Detail"]


async def test_without_another_attempt_nothing_is_repeated() -> None:
    service = Service(DeliveryError("Refused", "no", packets=[0, 9]))
    rig = Rig(service)
    rig.reader.put(letters())
    await rig.finish()
    assert service.asked == ["abcdefghij"]
    assert balance(rig) == (8, 2)


async def test_all_of_them_may_fail() -> None:
    service = Service(throttled(range(10)))
    rig = Rig(service)
    rig.reader.put(letters())
    await rig.finish()
    assert service.asked == ["abcdefghij"] * 2
    assert balance(rig) == (10, 0)


@pytest.mark.parametrize(
    "packets", [[], {}, [10], [-1], [3, 99], ["3"], [True], [1.0], {0: "Busy"}, {10: DeliveryError("A", "b")}]
)
async def test_packets_that_the_batch_does_not_have_lose_nothing(packets: Any) -> None:
    """The whole batch has failed then: repeated if that may help, and given up with all of its packets."""
    service = Service(
        DeliveryError("Busy", "a moment please", retryable=True, packets=packets),
        DeliveryError("Busy", "no", packets=packets),
    )
    rig = Rig(service)
    rig.reader.put(letters())
    await rig.finish()
    assert service.asked == ["abcdefghij"] * 2
    assert balance(rig) == (0, 10)
    [event] = rig.seen
    assert (event["Reason"], event["Packets"]) == ("Busy", 10)
    assert "names packets" in event["Detail"]


async def test_a_late_partial_failure_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicegate.destinations.delivery.CANCEL_SECONDS", 0.0)
    gate = asyncio.Event()

    async def deaf(batch: Any) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        raise throttled([0])

    rig = Rig(deaf)
    rig.reader.put(letters())
    await settle()
    await rig.finish(0.0)
    gate.set()
    await settle()
    assert balance(rig) == (0, 10)
    assert rig.delivered == []


def test_a_batch_of_chosen_records_is_one_like_the_native() -> None:
    whole = letters("abc")
    some = RecordBatch([whole.records()[2], whole.records()[0]])
    assert data(some) == ["c", "a"]
    assert some.count == 2
    assert some.lines() == b"".join(record + b"\n" for record in some.records())
    assert b"\n" not in some.body()


async def test_what_it_answered_for_those_that_it_took_is_handed_on() -> None:
    too_long = {1: DeliveryError("TooLong", "it takes 10 bytes")}
    rig = Rig(Service(DeliveryError("TooLong", "too long", packets=too_long, answer=b'{"Replies": [1]}')))
    rig.reader.put(letters("abc"))
    await rig.finish()
    assert balance(rig) == (2, 1)
    assert [body for _, body in rig.replies] == [b'{"Replies": [1]}']


@pytest.mark.parametrize(("asked", "paused"), [(0.2, 0.5), (7.0, 7.0), (86_400.0, 60.0)])
async def test_a_service_says_how_long_to_wait(asked: float, paused: float) -> None:
    """But not for less than the gateway waits by itself, nor for a day."""
    rig = Rig(Service(DeliveryError("Throttled", "too fast", retryable=True, retry_after=asked)))
    rig.reader.put(letters("ab"))
    await rig.finish()
    assert rig.pauses == [paused]
    assert balance(rig) == (2, 0)
