"""Log groups: what goes in, in which order and size, through outages and without looping into itself."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.aws import AwsError, Role
from sluicegate.aws.logs import CALL_BYTES, CALL_EVENTS, EVENT_OVERHEAD
from sluicegate.backoff import Backoff
from sluicegate.events import EventLog, Filter, LiveEvents, MemorySink
from sluicegate.events.batches import Batches
from sluicegate.events.cloudwatch import LogGroup, LogTarget, batches
from sluicegate.events.times import iso_milliseconds
from sluicegate.events.types import TYPES
from sluicegate.model import AssumedRole
from waiting import until

NOON = 1_780_999_200.0  # 2026-06-09T10:00:00Z
ROLE = "arn:aws:iam::123456789012:role/logs"


def failed(code: str, status: int = 400, operation: str = "PutLogEvents") -> AwsError:
    return AwsError("logs", operation, code, "as the test wants it", status=status, resource="devices")


class Logs:
    """CloudWatch Logs: groups, streams and what is in them."""

    def __init__(self) -> None:
        self.groups: set[str] = set()
        self.streams: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self.puts: list[int] = []
        self.errors: list[AwsError] = []
        self.broken: AwsError | None = None
        self.denied: set[str] = set()
        self.roles: set[Role | None] = set()

    async def account(self) -> str:
        return "123456789012"

    async def call(
        self, service: str, operation: str, params: dict[str, str], *, role: Role | None = None
    ) -> dict[str, object]:
        assert service == "logs"
        self.roles.add(role)
        if operation in self.denied:
            raise failed("AccessDeniedException", operation=operation)
        group = params["logGroupName"]
        if operation == "CreateLogGroup":
            self.groups.add(group)
        elif group not in self.groups:
            raise failed("ResourceNotFoundException", operation=operation)
        else:
            self.streams[group, params["logStreamName"]] = []
        return {}

    def log_stream(self, group: str, stream: str, *, role: Role | None = None) -> "Stream":
        self.roles.add(role)
        return Stream(self, group, stream)

    def lines(self, group: str = "devices") -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for (name, _), events in sorted(self.streams.items())
            if name == group
            for _, line in events
        ]


class Stream:
    def __init__(self, logs: Logs, group: str, stream: str) -> None:
        self._logs, self._key = logs, (group, stream)

    async def put(self, events: Sequence[tuple[int, str]]) -> dict[int, str]:
        await asyncio.sleep(0)
        if self._logs.broken is not None:
            raise self._logs.broken
        if self._logs.errors:
            raise self._logs.errors.pop(0)
        if self._key not in self._logs.streams:
            raise failed("ResourceNotFoundException")
        self._logs.streams[self._key] += events
        self._logs.puts.append(len(events))
        return {}


class Rig:
    def __init__(self, target: LogTarget | None = None, limit_bytes: int = 1 << 20) -> None:
        self.logs = Logs()
        self.sink = MemorySink()
        self.now = NOON
        self.events = EventLog(self.sink, clock=lambda: self.now, limit=10_000)
        self.group = LogGroup(
            target or LogTarget("devices", "decoder"),
            self.logs,  # type: ignore[arg-type]
            self.events,
            node=3,
            region="eu-west-1",
            limit_bytes=limit_bytes,
            linger_seconds=0.001,
            backoff=Backoff(0.001, 0.001),
        )
        self.events.add_sink(self.group)
        self.group.start()

    def fail(self, index: int = 0, **fields: object) -> None:
        named = {
            "Listener": "decoder",
            "PacketSource": "replies",
            "Index": index,
            "Reason": "Expired",
        } | fields
        self.events.emit("SourceFailed", **named)

    @property
    def troubles(self) -> list[dict[str, object]]:
        return self.sink.named("LogGroupFailed")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.group.stop(0)


async def test_the_group_has_the_event_s_line_in_the_listener_s_stream_of_the_day(rig: Rig) -> None:
    rig.fail(7)
    await rig.group.stop(5)
    (key,) = rig.logs.streams
    assert key == ("devices", "decoder/3/2026-06-09")
    ((at, line),) = rig.logs.streams[key]
    assert at == 1_780_999_200_000
    assert line.encode() + b"\n" == rig.sink.lines[0]
    assert rig.logs.roles == {None}


async def test_only_the_listener_s_own_failures_and_life_are_written(rig: Rig) -> None:
    for name in TYPES:
        rig.events.emit(name, Listener="decoder", Reason="r")
        rig.events.emit(name, Listener="other")
        rig.events.emit(name)
    await rig.group.stop(5)
    wanted = [
        name
        for name, known in TYPES.items()
        if known.kind in ("failure", "life-cycle") and name != "LogGroupFailed"
    ]
    assert [line["Event"] for line in rig.logs.lines()] == wanted
    assert {line["Listener"] for line in rig.logs.lines()} == {"decoder"}


async def test_a_destination_s_group_has_its_failures_in_the_name_of_its_role() -> None:
    rig = Rig(LogTarget("devices", "decoder", "echo", AssumedRole(arn=ROLE, duration="2:00:00")))
    rig.events.emit("DeliveryFailed", Listener="decoder", Destination="echo", Reason="Timeout")
    rig.events.emit("DeliveryFailed", Listener="decoder", Destination="other", Reason="Timeout")
    rig.events.emit("ListenerStarted", Listener="decoder")
    await rig.group.stop(5)
    assert [(line["Event"], line["Destination"]) for line in rig.logs.lines()] == [("DeliveryFailed", "echo")]
    assert rig.logs.roles == {Role(ROLE, "sluicegate-eu-west-1@123456789012-log-echo", 7200)}


async def test_a_name_with_spaces_is_one_that_a_session_may_have() -> None:
    rig = Rig(LogTarget("devices", "my gate", role=AssumedRole(arn=ROLE)))
    rig.events.emit("ListenerStarted", Listener="my gate")
    await rig.group.stop(5)
    assert [line["Listener"] for line in rig.logs.lines()] == ["my gate"]
    assert rig.logs.roles == {Role(ROLE, "sluicegate-eu-west-1@123456789012-log-my-gate")}


async def test_an_outage_is_ridden_out_in_order_and_told_once(rig: Rig) -> None:
    rig.logs.broken = failed("ServiceUnavailableException", 503)
    rig.fail(0)
    await until(lambda: rig.troubles)
    for index in range(1, 2_000):
        rig.fail(index)
    await asyncio.sleep(0.02)
    rig.logs.broken = None
    await until(lambda: len(rig.logs.lines()) == 2_000)
    assert [line["Index"] for line in rig.logs.lines()] == list(range(2_000))
    assert [event["Reason"] for event in rig.troubles] == ["Unavailable"]
    assert rig.group.dropped == 0


async def test_what_does_not_fit_is_counted_and_the_group_is_told() -> None:
    rig = Rig(limit_bytes=20_000)
    rig.logs.broken = failed("ThrottlingException")
    rig.fail(0)
    await until(lambda: rig.troubles)
    for index in range(1, 1_001):
        rig.fail(index)
    assert rig.group.dropped > 0
    rig.logs.broken = None
    await rig.group.stop(5)
    lines = rig.logs.lines()
    (gap,) = [line for line in lines if line["Event"] == "EventsDropped"]
    assert gap["Suppressed"] == rig.group.dropped
    assert len(lines) - 1 + rig.group.dropped == 1_001
    assert rig.events.dropped()["logs:decoder"] == rig.group.dropped


async def test_a_group_that_may_not_be_created_names_the_action_and_goes_on_once_it_is_there(
    rig: Rig,
) -> None:
    rig.logs.denied = {"CreateLogGroup"}
    rig.fail(0)
    await until(lambda: rig.troubles)
    event = rig.troubles[0]
    assert event["Reason"] == "AccessDenied"
    assert "devices" in str(event["Detail"])
    assert "logs:CreateLogGroup" in str(event["Detail"])
    rig.logs.groups.add("devices")
    await until(rig.logs.lines)
    assert "LogGroupFailed" not in {line["Event"] for line in rig.logs.lines()}


async def test_lines_that_are_refused_for_good_are_given_up_with_their_number(rig: Rig) -> None:
    rig.logs.errors = [failed("InvalidParameterException")]
    rig.fail(0)
    await until(lambda: rig.troubles)
    assert rig.group.dropped == rig.troubles[0]["Dropped"] == 1
    rig.fail(1)
    await until(rig.logs.lines)
    assert [line["Index"] for line in rig.logs.lines()] == [1]


async def test_a_group_that_refuses_every_batch_is_told_of_once_a_minute(rig: Rig) -> None:
    rig.logs.errors = [failed("InvalidParameterException") for _ in range(5)]
    for index in range(5):
        rig.fail(index)
        await until(lambda count=index + 1: rig.group.dropped == count)
    rig.fail(5)
    await until(rig.logs.lines)
    assert [(event["Reason"], event["Dropped"]) for event in rig.troubles] == [
        ("InvalidParameterException", 1)
    ]


async def test_a_line_that_cannot_be_taken_apart_costs_itself_and_not_those_that_follow(rig: Rig) -> None:
    rig.group.put(b"no JSON\n")
    await until(lambda: rig.group.dropped == 1)
    rig.fail(1)
    await until(rig.logs.lines)
    assert [line["Index"] for line in rig.logs.lines()] == [1]
    assert [event["Reason"] for event in rig.troubles] == ["InternalError"]


async def test_a_stop_in_an_outage_tells_how_many_lines_are_missing(rig: Rig) -> None:
    rig.logs.broken = failed("ServiceUnavailableException", 503)
    rig.fail(0)
    await until(lambda: rig.troubles)
    rig.fail(1)
    rig.fail(2)
    await rig.group.stop(0.01)
    assert (rig.troubles[-1]["Reason"], rig.troubles[-1]["Dropped"]) == ("Shutdown", 3)
    assert rig.group.dropped == 3


async def test_days_have_streams_of_their_own(rig: Rig) -> None:
    rig.now = NOON + 14 * 3600 - 0.001
    rig.fail(0)
    rig.now = NOON + 14 * 3600
    rig.fail(1)
    await rig.group.stop(5)
    assert {stream: len(lines) for (_, stream), lines in rig.logs.streams.items()} == {
        "decoder/3/2026-06-09": 1,
        "decoder/3/2026-06-10": 1,
    }


def line(at: float, size: int = 60) -> bytes:
    head = f'{{"Time":"{iso_milliseconds(at)}","Text":"'.encode()
    return head + b"x" * max(0, size - len(head) - 2) + b'"}\n'


@given(st.lists(st.tuples(st.integers(-90_000_000, 90_000_000), st.integers(0, 200_000)), max_size=30))
def test_calls_are_in_order_and_within_the_limits(wanted: list[tuple[int, int]]) -> None:
    made = list(batches(b"".join(line(NOON + ms / 1000, size) for ms, size in wanted)))
    times = [at for _, batch in made for at, _ in batch]
    assert len(times) == len(wanted)
    assert times == sorted(times)
    for day, batch in made:
        assert len(batch) <= CALL_EVENTS
        assert sum(len(text.encode()) + EVENT_OVERHEAD for _, text in batch) <= CALL_BYTES
        assert {json.loads(text)["Time"][:10] for _, text in batch} == {day}


def test_many_events_of_one_time_keep_their_order() -> None:
    lines = b"".join(b'{"Time":"2026-06-09T10:00:00.000Z","N":%d}\n' % n for n in range(CALL_EVENTS + 1))
    made = list(batches(lines))
    assert [len(batch) for _, batch in made] == [CALL_EVENTS, 1]
    assert [json.loads(text)["N"] for _, batch in made for _, text in batch] == list(range(CALL_EVENTS + 1))


# BatchDelivered


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def test_batches_are_shown_within_a_rate_and_the_rest_is_counted() -> None:
    clock, shown = Clock(), list[dict[str, Any]]()
    made = Batches(EventLog(node=3, region="eu-west-1", clock=clock), clock)
    watch = made.watch(Filter(rate=2), lambda text: shown.append(json.loads(text)))
    for _ in range(5):
        made.delivered("decoder", "echo", 10, "r1")
    made.delivered("other", "sink", 1, "r2")
    clock.now += 1
    made.delivered("decoder", "echo", 1, "r3")
    watch.close()
    made.delivered("decoder", "echo", 1, "r4")
    assert shown[0] == {
        "Time": "2026-06-09T10:00:00.000Z",
        "Event": "BatchDelivered",
        "Node": 3,
        "Region": "eu-west-1",
        "Listener": "decoder",
        "Destination": "echo",
        "Packets": 10,
        "RequestId": "r1",
    }
    assert [(one["Event"], one["Listener"], one.get("Suppressed")) for one in shown[1:]] == [
        ("BatchDelivered", "decoder", None),
        ("BatchDelivered", "other", None),
        ("BatchDelivered", "decoder", 3),
        ("BatchDelivered", "decoder", None),
    ]


def test_without_a_watcher_no_line_is_made() -> None:
    class Unused:
        def render(self, event: str, /, **fields: object) -> bytes:
            raise AssertionError("nobody watches")

    made = Batches(Unused())  # type: ignore[arg-type]
    made.delivered("decoder", "echo", 10, "r1")
    made.watch(Filter(listeners=frozenset(["other"])), print)
    made.delivered("decoder", "echo", 10, "r1")


async def test_a_live_stream_shows_the_batches_that_its_filter_takes() -> None:
    live = LiveEvents(EventLog())
    everything = live.subscribe(Filter())
    others = live.subscribe(Filter(events=frozenset(["PacketReceived"])))
    outward = live.subscribe(Filter(direction="out"))
    live.batches.delivered("decoder", "echo", 10, "r1")
    lines = await everything.read(5)
    assert lines is not None
    assert json.loads(lines)["Event"] == "BatchDelivered"
    assert await others.read(0) == await outward.read(0) == b""
    everything.close()
    live.batches.delivered("decoder", "echo", 10, "r2")
    assert await everything.read(0) is None
    live.close()
