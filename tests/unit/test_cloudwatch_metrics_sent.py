"""Metrics for CloudWatch: what is sent when, through outages, changes and beyond the limits of a call."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from sluicegate.aws import AwsError
from sluicegate.aws.errors import NO_CREDENTIALS
from sluicegate.aws.metrics import CALL_BYTES, CALL_DATA, Datum, fitting
from sluicegate.destinations.delivery import Attempts
from sluicegate.events import EventLog, MemorySink
from sluicegate.model import Listener
from sluicegate.running.metrics import Metrics
from waiting import until

NOON = 1_780_999_200.0
ROLE = "arn:aws:iam::123456789012:role/echo"


class CloudWatch:
    """Keeps the sets of each call, by role, or fails."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, list[dict[str, Any]]]] = []
        self.broken: AwsError | None = None

    def service(self, protocol: object, *, role: Any = None) -> Any:
        return _Service(self, role.arn if role else None)

    def sum(self, name: str, destination: str | None = None) -> float:
        total = 0.0
        for _, data in self.calls:
            for one in data:
                dimensions = {pair["Name"]: pair["Value"] for pair in one["Dimensions"]}
                if one["MetricName"] == name and dimensions.get("Destination") == destination:
                    total += one["StatisticValues"]["Sum"]
        return total


class _Service:
    def __init__(self, cloudwatch: CloudWatch, role: str | None) -> None:
        self._cloudwatch, self._role = cloudwatch, role

    async def call(self, operation: str, params: dict[str, Any], resource: str, seconds: float) -> object:
        assert (operation, params["Namespace"]) == ("PutMetricData", "Sluicegate")
        if self._cloudwatch.broken is not None:
            raise self._cloudwatch.broken
        self._cloudwatch.calls.append((self._role, params["MetricData"]))
        return {}


class Counters:
    """A Delivery's, as far as metrics read them."""

    def __init__(self) -> None:
        self.attempts = Attempts()
        self.packets_delivered = self.packets_failed = self.retries = 0

    @property
    def stats(self) -> "Counters":
        return self

    counters = stats


class Place:
    def __init__(self, listener: Listener) -> None:
        (self.resource,) = listener.destination_specs
        self.delivery = Counters()
        self.removed = False


class Running:
    """A Listener, and the Port that counts for it."""

    def __init__(self, **settings: object) -> None:
        self.packets = 0
        self.port = self
        self.be(**settings)

    def be(self, *, enabled: bool = True, role: str | None = ROLE) -> None:
        destination = {
            "name": "echo",
            "destination_arn": "console:",
            "metrics_enabled": enabled,
            "role": role,
        }
        self.resource = Listener.model_validate(
            {"name": "a", "metrics_enabled": enabled, "destinations": [destination]}
        )
        self.destinations = [Place(self.resource)]

    def stats(self) -> str:
        echo = {"Name": "echo", "Packets": self.packets, "Bytes": 0, "RepliesSent": 0, "RepliesSentBytes": 0}
        echo |= {"RepliesFailed": {"InvalidTag": 2}, "Dropped": {"QueueFull": 3}}
        own = {"ReceivedPackets": self.packets, "ReceivedBytes": 0, "SentPackets": 0, "SentBytes": 0}
        return json.dumps(own | {"Rejected": {}, "KernelDrops": 0, "Destinations": [echo]})


class Rig:
    def __init__(self, held: int = 1000) -> None:
        self.cloudwatch, self.events, self.told = CloudWatch(), EventLog(), MemorySink()
        self.events.add_sink(self.told)
        self.now = NOON
        self.metrics = Metrics(
            self.cloudwatch,  # type: ignore[arg-type]
            "us-east-1",
            self.events,
            minute=0.01,
            held=held,
            clock=lambda: self.now,
        )

    def hold(self, one: Running) -> None:
        self.metrics.hold(one, one.resource)  # type: ignore[arg-type]

    def failures(self) -> list[Any]:
        return [json.loads(line) for line in self.told.lines if b"MetricsFailed" in line]

    async def turn(self) -> None:
        """Wait until the metrics were read once more, from the beginning to the end."""
        seen = len(self.cloudwatch.calls)
        await until(lambda: len(self.cloudwatch.calls) >= seen + 4)


async def test_what_has_grown_is_sent_once_in_each_ones_name() -> None:
    rig, one = Rig(), Running()
    rig.hold(one)
    await rig.turn()
    one.packets = 7
    one.destinations[0].delivery.attempts.add(0.25)
    one.destinations[0].delivery.attempts.add(0.75)
    await rig.turn()
    one.packets = 9
    await rig.metrics.close(5)
    assert rig.cloudwatch.sum("PacketsIn") == rig.cloudwatch.sum("PacketsIn", "echo") == 9
    assert rig.cloudwatch.sum("PacketsFailed", "echo") == 3
    assert rig.cloudwatch.sum("RepliesFailed", "echo") == 2
    (took,) = (
        data for _, call in rig.cloudwatch.calls for data in call if data["MetricName"] == "DeliveryDuration"
    )
    assert took["StatisticValues"] == {"SampleCount": 2, "Sum": 1000, "Minimum": 250, "Maximum": 750}
    assert Counter(role for role, _ in rig.cloudwatch.calls).keys() == {None, ROLE}
    assert {len(one["Dimensions"]) for role, call in rig.cloudwatch.calls for one in call if role} == {2}
    assert rig.failures() == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            AwsError("cloudwatch", "PutMetricData", "AccessDenied", "no", status=403, resource="*"),
            "AccessDenied",
        ),
        (AwsError("cloudwatch", "PutMetricData", "Throttling", "slower", status=400), "Throttled"),
        (AwsError("cloudwatch", "PutMetricData", "InternalFailure", "oh", status=500), "Unavailable"),
        (AwsError("cloudwatch", "PutMetricData", NO_CREDENTIALS, "nobody's name"), "NoCredentials"),
    ],
)
async def test_an_outage_is_told_once_and_loses_nothing(error: AwsError, reason: str) -> None:
    rig, one = Rig(), Running(role=None)
    rig.cloudwatch.broken = error
    rig.hold(one)
    one.packets = 5
    await until(lambda: bool(rig.failures()))
    rig.now += 60
    one.packets = 8
    await until(lambda: len(rig.metrics._queues[None]._waiting) > 60)
    rig.cloudwatch.broken = None
    await until(lambda: rig.cloudwatch.sum("PacketsIn") == 8)
    assert {one["Timestamp"] for _, call in rig.cloudwatch.calls for one in call} >= {NOON, NOON + 60}
    await rig.metrics.close(5)
    (event,) = rig.failures()
    assert (event["Reason"], event["Dropped"]) == (reason, 0)
    assert rig.cloudwatch.sum("PacketsIn") == 8


async def test_what_does_not_fit_is_counted() -> None:
    rig, one = Rig(held=30), Running(role=None)
    rig.cloudwatch.broken = AwsError("cloudwatch", "PutMetricData", "InternalFailure", "oh", status=500)
    rig.hold(one)
    await until(lambda: any(event["Reason"] == "TooMany" for event in rig.failures()))
    await rig.metrics.close(5)
    last = rig.failures()[-1]
    assert last["Reason"] == "Shutdown"
    assert "30 statistic sets" in last["Detail"]
    assert last["Dropped"] > 30


async def test_what_is_refused_for_good_is_given_up() -> None:
    rig, one = Rig(), Running(role=None)
    rig.cloudwatch.broken = AwsError("cloudwatch", "PutMetricData", "InvalidParameterValue", "no", status=400)
    rig.hold(one)
    await until(lambda: bool(rig.failures()))
    assert rig.failures()[0]["Dropped"] == 14
    rig.cloudwatch.broken = None
    await rig.turn()
    await rig.metrics.close(5)
    assert len(rig.failures()) == 1


async def test_what_was_counted_before_it_was_wanted_is_not_sent() -> None:
    rig, one, other = Rig(), Running(enabled=False), Running()
    rig.hold(one)
    rig.hold(other)
    await rig.turn()
    one.packets = 100
    one.be(enabled=True)
    rig.hold(one)
    await rig.turn()
    one.packets = 103
    await rig.metrics.drop(one)  # type: ignore[arg-type]
    await rig.metrics.close(5)
    assert rig.cloudwatch.sum("PacketsIn") == 3


async def test_a_stop_does_not_wait_for_cloudwatch() -> None:
    rig, one = Rig(), Running(role=None)

    async def never(data: Sequence[Datum]) -> None:
        await asyncio.Event().wait()

    rig.hold(one)
    await rig.turn()
    rig.metrics._queues[None]._store.put = never  # type: ignore[method-assign, assignment]
    await rig.metrics.close(0.05)
    assert [event["Reason"] for event in rig.failures()] == ["Shutdown"]


@pytest.mark.parametrize(("name", "count"), [("x", CALL_DATA), ("x" * 3000, CALL_BYTES // 3341)])
def test_a_call_has_limits(name: str, count: int) -> None:
    one = Datum(name, (), 0, "Count", 1, 1, 1, 1)
    assert count * 0.9 < fitting([one] * 2000) <= max(count, CALL_BYTES // 3300)
    assert fitting([]) == 0
