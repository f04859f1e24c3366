"""Events: one line each, in the contract's order, bounded in rate, and never at the cost of the caller."""

import itertools
import os
import threading
import time
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.events import EventLog, MemorySink, StreamSink
from sluicegate.events.entries import Entries


class Clock:
    def __init__(self, now: float = 1_781_085_600.123) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_fields_follow_the_order_of_the_contract() -> None:
    sink = MemorySink()
    log = EventLog(sink, node=3, region="us-east-1", clock=Clock())
    log.emit(
        "SourceFailed",
        Extra=1,
        Detail="why",
        Reason="RemoteDenied",
        Bytes=4,
        Remote={"IpAddress": "10.0.0.1", "Port": 1},
        Tag="t",
        Id="i",
        Index=0,
        MessageId="m",
        PacketSource="replies",
        Listener="decoder",
    )
    assert sink.lines == [
        b'{"Time":"2026-06-10T10:00:00.123Z","Event":"SourceFailed","Node":3,"Region":"us-east-1",'
        b'"Listener":"decoder","PacketSource":"replies","MessageId":"m","Index":0,"Id":"i","Tag":"t",'
        b'"Remote":{"IpAddress":"10.0.0.1","Port":1},"Bytes":4,"Reason":"RemoteDenied","Detail":"why",'
        b'"Extra":1}\n'
    ]


def test_snake_case_names_are_the_same_fields_and_none_is_absent() -> None:
    sink = MemorySink()
    EventLog(sink, clock=Clock()).emit("DeliveryFailed", listener="a", message_id="m", destination=None)
    assert sink.events == [
        {
            "Time": "2026-06-10T10:00:00.123Z",
            "Event": "DeliveryFailed",
            "Listener": "a",
            "MessageId": "m",
        }
    ]


def test_what_is_beyond_the_limit_is_counted_and_summed_up_once_a_second() -> None:
    clock, sink = Clock(1000.0), MemorySink()
    log = EventLog(sink, limit=100, clock=clock)
    for _ in range(250):
        log.emit("SourceFailed", Listener="l", PacketSource="a", Reason="Expired", Detail="x")
    for _ in range(3):
        log.emit("SourceFailed", Listener="l", PacketSource="b", Reason="Expired")
    assert len(sink.lines) == 103  # each kind has its own limit
    clock.now = 1001.0
    log.emit("SourceFailed", Listener="l", PacketSource="a", Reason="Expired")
    summary = sink.events[103]
    assert summary == {
        "Time": "1970-01-01T00:16:41.000Z",
        "Event": "SourceFailed",
        "Listener": "l",
        "PacketSource": "a",
        "Reason": "Expired",
        "Suppressed": 150,
    }
    assert len(sink.lines) == 105  # and the new second writes again
    assert log.counts() == {"SourceFailed": 254}


def test_details_are_asked_for_only_if_the_line_is_written_and_share_the_limit_of_plain_events() -> None:
    sink, asked = MemorySink(), []

    def details() -> Iterator[dict[str, object]]:
        for number in itertools.count():
            asked.append(number)
            yield {"Detail": "x", "MessageId": f"m{number}", "Index": None}

    log = EventLog(sink, limit=4, clock=Clock(1000.0))
    log.emit("SourceFailed", Listener="l", PacketSource="a", Reason="Expired")
    for count in (2, 3, 5):
        shared = {"Listener": "l", "Destination": None, "PacketSource": "a", "Reason": "Expired"}
        log.emit_alike("SourceFailed", count, details(), **shared)
    log.flush()
    assert asked == [0, 1, 0]  # of the first two, and then there is room for one more
    assert [event.get("MessageId") for event in sink.events] == [None, "m0", "m1", "m0", None]
    names = ["Time", "Event", "Listener", "PacketSource", "MessageId", "Reason", "Detail"]
    assert list(sink.events[1]) == names
    assert sink.events[4]["Suppressed"] == 7
    assert "Destination" not in sink.events[4]
    assert log.counts() == {"SourceFailed": 11}


def test_the_summary_comes_by_itself_when_nothing_follows() -> None:
    arrived = threading.Event()

    class Watching(MemorySink):
        def write(self, line: bytes) -> None:
            super().write(line)
            if b'"Suppressed":4' in line:
                arrived.set()

    log = EventLog(Watching(), limit=1)
    while time.time() % 1 > 0.5:  # all five within one second of the clock
        time.sleep(0.01)
    for _ in range(5):
        log.emit("ReplyFailed", Reason="InvalidTag")
    assert arrived.wait(5)


def test_close_writes_the_summaries_first() -> None:
    sink = MemorySink()
    log = EventLog(sink, limit=1, clock=Clock())
    log.emit("A")
    log.emit("A")
    log.close()
    assert sink.events[-1]["Suppressed"] == 1


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value", [object(), b"\xff", "\ud800", 1 << 80, float("nan"), {1: {2}}, Unprintable(), [Unprintable()]]
)
def test_no_value_costs_the_event(value: object) -> None:
    sink = MemorySink()
    EventLog(sink).emit("SourceFailed", Reason="SendFailed", Detail=value, Listener="l")
    assert sink.events[0]["Reason"] == "SendFailed"


def test_an_unhashable_name_is_written_all_the_same() -> None:
    sink = MemorySink()
    EventLog(sink).emit("Odd", Listener=["a"])
    assert sink.events[0]["Listener"] == ["a"]


def test_secrets_are_not_written() -> None:
    sink = MemorySink()
    EventLog(sink).emit("ListenerStarted", private_key="abc", Token="def", PeerKey="public")
    assert sink.events[0]["PrivateKey"] == sink.events[0]["Token"] == "[redacted]"
    assert sink.events[0]["PeerKey"] == "public"


def test_a_reader_that_stops_costs_lines_never_time_and_is_told_how_many() -> None:
    reading, writing = os.pipe()
    sink = StreamSink(writing, "pipe", limit_bytes=64 << 10)
    log = EventLog(sink, limit=1_000_000)
    began = time.monotonic()
    for number in range(5000):
        log.emit("Tick", Number=number, Detail="x" * 100)
    assert time.monotonic() - began < 5
    # The pipe (64 KiB) and the queue (64 KiB) are full; the rest is dropped and counted.
    assert 0 < sink.dropped < 5000
    received = bytearray()

    def read() -> None:
        while chunk := os.read(reading, 1 << 16):
            received.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 10
    while b"EventsDropped" not in received and time.monotonic() < deadline:
        log.emit("Tick", Number=-1)
        time.sleep(0.01)
    log.close()
    os.close(writing)
    reader.join()
    os.close(reading)
    events = [orjson.loads(line) for line in received.splitlines()]
    ticks = [event for event in events if event["Event"] == "Tick"]
    missing = sum(event["Suppressed"] for event in events if event["Event"] == "EventsDropped")
    assert missing > 0
    assert len(ticks) + missing == log.counts()["Tick"]


def test_a_closed_reader_costs_nothing_but_lines() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    sink = StreamSink(writing, "pipe")
    log = EventLog(sink)
    log.emit("Tick")
    log.close()
    os.close(writing)
    assert log.dropped() == {"pipe": 1}


def test_a_non_blocking_descriptor_gets_every_byte() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    sink = StreamSink(writing, "pipe")
    expected = 20_000
    received = bytearray()

    def read() -> None:
        while chunk := os.read(reading, 1 << 16):
            received.extend(chunk)

    for number in range(expected):
        sink.write(b"%d\n" % number)
    reader = threading.Thread(target=read)
    reader.start()
    sink.close(10)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert received.split() == [b"%d" % number for number in range(expected)]


FLAT = b'{"Data":"AQIDBA==","Remote":{"IP":"203.0.113.42","Port":4567},"Id":"fw-17/3"}'


def test_entries_of_both_generations_and_of_an_answer() -> None:
    described = {"Id": "fw-17/3", "Remote": {"IP": "203.0.113.42", "Port": 4567}, "Bytes": 4}
    assert Entries(FLAT).fields(0) == described
    assert Entries(b'{"Messages":[null,' + FLAT + b"]}").fields(1) == described
    answer = b'{"Replies":[{"Tag":"abc","Data":"00ff","Formatter":"hex"}]}'
    assert Entries(answer).fields(0) == {"Tag": "abc", "Bytes": 2}
    assert Entries(FLAT).fields(None) == Entries(FLAT).fields(7) == Entries(b"{").fields(0) == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["Messages", "Replies", "Remote", "Id", "Tag", "Data", "Formatter", "IP", "x"]),
            inner,
        )
    ),
)


@given(json_values, st.none() | st.integers(-3, 5))
def test_no_document_makes_the_lookup_raise(document: object, index: int | None) -> None:
    found = Entries(orjson.dumps(document)).fields(index)
    assert set(found) <= {"Id", "Tag", "Remote", "Bytes"}
    assert len(orjson.dumps(found)) < 8000


@given(st.binary())
def test_no_bytes_make_the_lookup_raise(body: bytes) -> None:
    assert isinstance(Entries(body).fields(0), dict)
