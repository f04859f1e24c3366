"""`/metrics`: what it shows before anything has happened, and with thousands of numbers."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pages import PAGES
from sluicegate.api.metrics import AT_ONCE, MetricSources, exposition
from sluicegate.deadletters.keeper import DeadLetterStats
from sluicegate.destinations.delivery import OWN_REASONS, DeliveryStats
from sluicegate.destinations.function import FunctionDestination
from sluicegate.events import EventLog, MemorySink
from sluicegate.running.domains import DomainStats
from sluicegate.sources.local.topics import Topics
from sluicegate.sources.topic.consumer import SourceStats


class Port:
    def __init__(self, name: str, destinations: int) -> None:
        self._stats = json.dumps(
            {
                "Listener": name,
                "ReceivedPackets": 1,
                "Destinations": [{"Name": f"d{n}", "Packets": 2} for n in range(destinations)],
                "Sources": [{"Name": "s", "Messages": 3}],
            }
        )

    def stats(self) -> str:
        return self._stats


async def turns_during(sources: MetricSources) -> tuple[bytes, int]:
    """What a scrape shows, and how often the loop went round meanwhile."""
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    text = await exposition(lambda: sources)()
    watching.cancel()
    return text, turns


@pytest.mark.attack
@pytest.mark.parametrize(("listeners", "destinations"), [(1000, 1), (1, 1000), (20, 50)])
async def test_the_loop_goes_on_between_a_few_numbers(listeners: int, destinations: int) -> None:
    ports = [Port(f"l{number}", destinations) for number in range(listeners)]
    delivered = [(f"l{number}", "d0", DeliveryStats()) for number in range(listeners)]
    text, turns = await turns_during(MetricSources(ports=ports, deliveries=delivered))
    numbers = sum(not line.startswith(b"#") for line in text.splitlines())
    assert numbers > 5000
    assert turns >= 2 * numbers / (2 * AT_ONCE)


@pytest.mark.attack
async def test_a_family_in_parts_is_one_family() -> None:
    ports = [Port(f"l{number}", 1) for number in range(3 * AT_ONCE)]
    text, _ = await turns_during(MetricSources(ports=ports))
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    (received,) = [family for family in families if family.name == "sluicegate_received_packets"]
    assert {sample.labels["listener"] for sample in received.samples} == {f"l{n}" for n in range(3 * AT_ONCE)}
    assert sum(sample.value for sample in received.samples) == 3 * AT_ONCE
    assert text.count(b"# TYPE sluicegate_received_packets_total ") == 1


class QuietPort:
    """A Listener to which nothing has happened."""

    def __init__(self, protocol: str) -> None:
        self._stats: dict[str, Any] = {"Listener": protocol, "Rejected": {}, "IcmpErrors": {}}
        self._stats["Destinations"] = [{"Name": "d", "Dropped": {}, "RepliesFailed": {}}]
        self._stats["Sources"] = [{"Name": "s", "Failed": {}}]
        if protocol == "wg":
            self._stats["WireGuard"] = {}
        if protocol == "coap":
            self._stats["Coap"] = {}

    def stats(self) -> str:
        return json.dumps(self._stats)


@pytest.fixture(scope="module")
def quiet() -> list[Metric]:
    """Every family of a gateway to which nothing has happened."""
    function = DeliveryStats(known_reasons=(*OWN_REASONS, *FunctionDestination.reasons))
    sources = MetricSources(
        ports=[QuietPort("udp"), QuietPort("wg"), QuietPort("coap")],
        deliveries=[("udp", "d", function)],
        events=EventLog(MemorySink()),
        topics=Topics("us-east-1"),
        queues=[("udp", "s", SourceStats())],
        draining={"s": 0},
        dead_letters=[("dead", DeadLetterStats())],
        domains=[("device.example.com", DomainStats())],
    )
    text = asyncio.run(exposition(lambda: sources)())
    return list(text_string_to_metric_families(text.decode()))


def shown(quiet: list[Metric], name: str, **labels: str) -> dict[str, float]:
    """The samples of a family with these labels, by the value of the label that is not named."""
    (family,) = [one for one in quiet if one.name == f"sluicegate_{name}"]
    found = [one for one in family.samples if labels.items() <= one.labels.items()]
    return {value: one.value for one in found for label, value in one.labels.items() if label not in labels}


@pytest.mark.parametrize(
    ("name", "labels", "some"),
    [
        ("source_failed_entries", {"listener": "udp", "packet_source": "s"}, ("RemoteDenied", "SendFailed")),
        (
            "destination_replies_failed",
            {"listener": "udp", "destination": "d"},
            ("InvalidTag", "AnswerRefused"),
        ),
        ("destination_dropped_packets", {"listener": "wg", "destination": "d"}, ("QueueFull", "Unbound")),
        ("delivery_failures", {"listener": "udp", "destination": "d"}, ("FunctionTimeout", "Shutdown")),
        ("rejected_packets", {"listener": "wg"}, ("RefusedNetwork", "ReplayedHandshake")),
        ("rejected_packets", {"listener": "coap"}, ("RefusedNetwork", "CoapRepeated")),
        (
            "destination_dropped_packets",
            {"listener": "udp", "destination": "d"},
            ("CoapVersion", "CoapNoPayload"),
        ),
        ("icmp_errors", {"listener": "udp"}, ("PortUnreachable", "Other")),
        ("events", {}, ("SourceFailed", "DeadLetterFailed", "ReloadRefused")),
    ],
)
def test_every_known_reason_is_counted_from_the_start(
    quiet: list[Metric], name: str, labels: dict[str, str], some: tuple[str, ...]
) -> None:
    found = shown(quiet, name, **labels)
    assert set(some) <= found.keys()
    assert set(found.values()) == {0}


def test_a_plain_listener_does_not_count_what_happens_on_wireguard_alone(quiet: list[Metric]) -> None:
    assert shown(quiet, "rejected_packets", listener="udp").keys() == {
        "NoDestination",
        "RefusedNetwork",
        "Shutdown",
    }


async def test_a_reason_that_a_package_brings_is_shown_when_it_comes() -> None:
    stats = DeliveryStats(failed_by_reason={"Odd": 2}, known_reasons=("Throttled",))
    text = await exposition(lambda: MetricSources(deliveries=[("l", "d", stats)]))()
    families = list(text_string_to_metric_families(text.decode()))
    assert shown(families, "delivery_failures", listener="l", destination="d") == {"Odd": 2, "Throttled": 0}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_call_metrics_as_they_are_exposed(quiet: list[Metric], page: Path) -> None:
    exposed = {sample.name for family in quiet for sample in family.samples}
    for name in set(re.findall(r"\bsluicegate_[a-z_]+\*?", page.read_text())):
        if name in ("sluicegate_syslog", "sluicegate_"):  # a package of the guide, and a prefix for `grep`
            continue
        known = [one for one in exposed if one == name or (name[-1] == "*" and one.startswith(name[:-1]))]
        assert known, f"{name} is not exposed"
