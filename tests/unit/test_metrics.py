"""`/metrics` with thousands of numbers: the event loop goes on meanwhile."""

import asyncio
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluicegate.api.metrics import AT_ONCE, MetricSources, exposition
from sluicegate.destinations.delivery import DeliveryStats

pytestmark = pytest.mark.attack


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


@pytest.mark.parametrize(("listeners", "destinations"), [(1000, 1), (1, 1000), (20, 50)])
async def test_the_loop_goes_on_between_a_few_numbers(listeners: int, destinations: int) -> None:
    ports = [Port(f"l{number}", destinations) for number in range(listeners)]
    delivered = [(f"l{number}", "d0", DeliveryStats()) for number in range(listeners)]
    text, turns = await turns_during(MetricSources(ports=ports, deliveries=delivered))
    numbers = sum(not line.startswith(b"#") for line in text.splitlines())
    assert numbers > 5000
    assert turns >= 2 * numbers / (2 * AT_ONCE)


async def test_a_family_in_parts_is_one_family() -> None:
    ports = [Port(f"l{number}", 1) for number in range(3 * AT_ONCE)]
    text, _ = await turns_during(MetricSources(ports=ports))
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    (received,) = [family for family in families if family.name == "sluicegate_received_packets"]
    assert {sample.labels["listener"] for sample in received.samples} == {f"l{n}" for n in range(3 * AT_ONCE)}
    assert sum(sample.value for sample in received.samples) == 3 * AT_ONCE
    assert text.count(b"# TYPE sluicegate_received_packets_total ") == 1
