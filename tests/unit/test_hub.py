"""Live events: each subscriber sees what it asked for, once, and is told what it missed; nobody else waits for it."""

import asyncio
import contextlib
import gc
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.events import EventLog, Filter, FilterError, Hub, LiveEvents, MemorySink, Subscription
from sluicegate.events.live import SUBSCRIPTIONS, TooManySubscriptions
from sluicegate.events.native import NativeEvents


class Watch:
    """A stand-in for `_native.Events`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.closed = False
        self.watched = False
        self.release = asyncio.Event()
        self._lines = b""
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)

    def happen(self, *events: dict[str, object]) -> None:
        self._lines += b"".join(json.dumps(event).encode() + b"\n" for event in events)
        os.eventfd_write(self._fd, 1)

    def vanish(self) -> None:
        self.closed = True
        os.eventfd_write(self._fd, 1)

    def on_ready(self, callback: Callable[[], object] | None, /) -> None:
        self.watched = callback is not None
        loop = asyncio.get_running_loop()
        if callback is None:
            loop.remove_reader(self._fd)
        else:
            loop.add_reader(self._fd, callback)

    def read(self) -> bytes:
        if not self.closed:
            os.eventfd_write(self._fd, 1)
            os.eventfd_read(self._fd)
        lines, self._lines = self._lines, b""
        return lines

    def close(self) -> None:
        self.release.set()

    @property
    def released(self) -> bool:
        return self.release.is_set()


class Port:
    def __init__(self) -> None:
        self.watches: list[Watch] = []

    def events(self, filter_json: str) -> Watch:
        watch = Watch(json.loads(filter_json))
        self.watches.append(watch)
        return watch


def wanted(**query: str | list[str]) -> Filter:
    return Filter.parse({name: [text] if isinstance(text, str) else text for name, text in query.items()})


async def read(subscription: Subscription, count: int) -> list[dict[str, Any]]:
    """The next `count` events."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        lines = await subscription.read(60)
        assert lines is not None, f"the stream ended after {found}"
        found += map(json.loads, lines.splitlines())
    return found


def names(events: list[dict[str, Any]]) -> list[object]:
    return [event["Event"] for event in events]


RECEIVED = {"Event": "PacketReceived", "Listener": "a", "Remote": {"IpAddress": "10.0.0.1", "Port": 5}}
ICMP = {"Event": "IcmpError", "Listener": "a", "Remote": {"IpAddress": "10.0.0.1", "Port": 5}}
REJECTED = {"Event": "PacketRejected", "Listener": "a", "Reason": "RefusedNetwork"}
FAILED = {
    "Event": "SourceFailed",
    "Listener": "b",
    "Reason": "Expired",
    "Remote": {"Address": "::ffff:10.0.0.1", "Port": 6},
}
STARTED = {"Event": "GatewayStarted"}
NOTE = {"Event": "EventsSkipped", "Listener": "a", "Suppressed": 3}
ALL = [RECEIVED, ICMP, REJECTED, FAILED, STARTED, NOTE]


@pytest.mark.parametrize(
    ("query", "taken"),
    [
        ({}, ALL),
        ({"listener": "a"}, [RECEIVED, ICMP, REJECTED, NOTE]),
        ({"listener": ["a", "b"]}, [RECEIVED, ICMP, REJECTED, FAILED, NOTE]),
        ({"listener": "b"}, [FAILED]),
        ({"direction": "in"}, [RECEIVED, REJECTED, NOTE]),
        ({"direction": "out"}, [ICMP, FAILED, NOTE]),
        ({"reason": "Expired"}, [FAILED, NOTE]),
        ({"event": ["IcmpError", "GatewayStarted"]}, [ICMP, STARTED, NOTE]),
        ({"remote": "10.0.0.1"}, [RECEIVED, ICMP, FAILED, NOTE]),
        ({"remote": "10.0.0.99/24"}, [RECEIVED, ICMP, FAILED, NOTE]),
        ({"remote": "10.0.0.1:6"}, [FAILED, NOTE]),
        ({"remote": "[::ffff:10.0.0.1]:5"}, [RECEIVED, ICMP, NOTE]),
        ({"remote": "2001:db8::1"}, [NOTE]),
    ],
)
def test_a_filter_takes(query: dict[str, str], taken: list[object]) -> None:
    one = wanted(**query)
    assert [event for event in ALL if one.takes(event)] == taken


def test_what_a_filter_asks_of_the_native_side() -> None:
    def native(**query: str) -> Any:
        asked = wanted(**query).native("a")
        return None if asked is None else json.loads(asked)

    every = ["PacketReceived", "PacketRejected", "ReplySent", "PacketSourced"]
    assert native() == {"Events": every, "Rate": 100, "Remotes": None, "Port": None}
    assert native(remote="[2001:db8::1]:7", rate="5") == {
        "Events": every,
        "Rate": 5,
        "Remotes": ["2001:db8::1/128"],
        "Port": 7,
    }
    assert native(direction="out")["Events"] == every[2:]
    assert native(reason="RefusedNetwork")["Events"] == ["PacketRejected"]
    assert native(event="SourceFailed") is None
    assert native(listener="b") is None


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"event": "PacketRecieved"}, "did you mean PacketReceived?"),
        ({"event": "zzz"}, "there are PacketReceived"),
        ({"direction": "up"}, "use in or out"),
        ({"remote": "host"}, "use 192.0.2.1"),
        ({"remote": "10.0.0.1:0"}, "use 192.0.2.1"),
        ({"remote": "10.0.0.0/33"}, "use 192.0.2.1"),
        ({"remote": ["10.0.0.1", "10.0.0.2"]}, "give remote once"),
        ({"rate": "0"}, "use 1 to 10000"),
        ({"rate": "10001"}, "use 1 to 10000"),
        ({"colour": "red"}, "there is no filter 'colour'"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused_with_what_to_do(query: dict[str, str], words: str) -> None:
    with pytest.raises(FilterError) as refused:
        wanted(**query)
    assert words in str(refused.value)


@given(
    st.dictionaries(
        st.sampled_from(["remote", "direction", "rate", "event"]), st.lists(st.text(), min_size=1)
    )
)
def test_any_query_is_a_filter_or_refused(query: dict[str, list[str]]) -> None:
    with contextlib.suppress(FilterError):
        assert Filter.parse(query) is not None


async def test_lines_of_any_thread_reach_every_subscriber_that_wants_them() -> None:
    hub = Hub()
    log = EventLog(MemorySink(), hub, limit=1000)
    log.emit("GatewayStarted")  # nobody listens yet
    everything, failures = Subscription(wanted()), Subscription(wanted(event="SourceFailed"))
    hub.add(everything)
    hub.add(failures)

    def work() -> None:
        for number in range(100):
            log.emit("SourceFailed", Index=number)
            log.emit("ReplyFailed", Index=number)

    thread = threading.Thread(target=work)
    thread.start()
    assert [event["Index"] for event in await read(failures, 100)] == list(range(100))
    assert names(await read(everything, 200)) == ["SourceFailed", "ReplyFailed"] * 100
    thread.join()
    hub.remove(failures)
    log.emit("SourceFailed")
    assert await failures.read(0.0) == b""
    assert hub.dropped == 0


async def test_a_slow_reader_loses_the_newest_lines_and_is_told() -> None:
    hub = Hub()
    slow, other = Subscription(wanted(), limit_bytes=1000), Subscription(wanted())
    hub.add(slow)
    hub.add(other)
    line = b'{"Event":"SourceFailed"}\n'
    for _ in range(100):
        hub.write(line)
    kept = 1000 // len(line)
    found = await read(slow, kept + 1)
    assert names(found[:-1]) == ["SourceFailed"] * kept
    assert (found[-1]["Event"], found[-1]["Suppressed"]) == ("EventsDropped", 100 - kept)
    assert hub.dropped == 100 - kept
    assert len(await read(other, 100)) == 100
    hub.write(line)
    assert names(await read(slow, 1)) == ["SourceFailed"]


async def test_a_stream_ends_after_what_it_has() -> None:
    subscription = Subscription(wanted())
    subscription.put(b"{}\n")
    subscription.end()
    assert subscription.put(b"{}\n") == 0
    assert await subscription.read(60) == b"{}\n"
    assert await subscription.read(60) is None


async def test_native_events_come_as_they_happen_until_the_listener_is_gone() -> None:
    port, got = Port(), asyncio.Queue[bytes]()
    NativeEvents(port, "{}", got.put_nowait)
    [watch] = port.watches
    watch.happen(RECEIVED)
    assert json.loads(await got.get()) == RECEIVED
    watch.happen(REJECTED)
    watch.vanish()
    assert json.loads(await got.get()) == REJECTED
    await asyncio.wait_for(watch.release.wait(), 60)
    assert not watch.watched


async def test_closing_native_events_hands_on_the_last_ones() -> None:
    port, got = Port(), list[bytes]()
    events = NativeEvents(port, "{}", got.append)
    port.watches[0].happen(RECEIVED)
    events.close()
    events.close()
    assert [json.loads(lines) for lines in got] == [RECEIVED]
    assert port.watches[0].released


async def test_icmp_errors_reach_every_sink_and_packets_only_who_asks() -> None:
    sink = MemorySink()
    live = LiveEvents(EventLog(sink))
    port = Port()
    live.watch("a", port)
    [icmp] = port.watches
    assert icmp.spec["Events"] == [
        "IcmpError",
        "LoopSuspected",
        "KernelDropped",
        "ProtocolSendFailed",
        "LocalAddressGone",
    ]
    subscription = live.subscribe(wanted())
    packets = port.watches[1]
    assert "IcmpError" not in packets.spec["Events"]  # it would come twice
    packets.happen(RECEIVED)
    assert await read(subscription, 1) == [RECEIVED]
    icmp.happen(ICMP)
    assert await read(subscription, 1) == [ICMP]
    assert sink.events == [ICMP]
    subscription.close()
    assert packets.released
    assert not icmp.released
    live.close()
    assert icmp.released


def watches_alive() -> int:
    gc.collect()
    return sum(isinstance(one, NativeEvents) for one in gc.get_objects())


async def test_a_subscription_outlives_a_listener_and_holds_nothing_of_it() -> None:
    live = LiveEvents(EventLog())
    port, before = Port(), watches_alive()
    live.watch("a", port)
    subscription = live.subscribe(wanted())
    packets = port.watches[1]
    packets.happen(RECEIVED)
    packets.vanish()
    live.unwatch("a", port)
    assert await read(subscription, 1) == [RECEIVED]
    assert packets.released
    assert watches_alive() == before
    again = Port()
    live.watch("a", again)
    again.watches[1].happen(REJECTED)
    assert await read(subscription, 1) == [REJECTED]


async def test_a_sample_of_packets_goes_to_the_sinks_and_not_twice_to_subscribers() -> None:
    sink = MemorySink()
    live = LiveEvents(EventLog(sink), packets_per_second=7)
    port = Port()
    live.watch("a", port)
    sample = port.watches[1]
    assert sample.spec["Rate"] == 7
    subscription = live.subscribe(wanted())
    sample.happen(RECEIVED)
    port.watches[2].happen(REJECTED)
    assert await read(subscription, 1) == [REJECTED]
    live.close()
    assert await subscription.read(60) is None
    assert sink.events == [RECEIVED]


async def test_reasons_are_filtered_after_the_native_side() -> None:
    live = LiveEvents(EventLog())
    port = Port()
    live.watch("a", port)
    subscription = live.subscribe(wanted(reason="Shutdown"))
    other = dict(REJECTED, Reason="Shutdown")
    port.watches[1].happen(REJECTED, other, NOTE)
    assert await read(subscription, 2) == [other, NOTE]


async def test_subscriptions_are_bounded_and_name_listeners_that_exist() -> None:
    live = LiveEvents(EventLog())
    live.watch("a", Port())
    with pytest.raises(FilterError, match="there is no Listener 'b': there are a"):
        live.subscribe(wanted(listener="b"))
    made = [live.subscribe(wanted()) for _ in range(SUBSCRIPTIONS)]
    with pytest.raises(TooManySubscriptions):
        live.subscribe(wanted())
    made[0].close()
    made[0].close()
    live.subscribe(wanted())
