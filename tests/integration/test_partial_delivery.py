"""A Destination of another package that takes batches in part, in a real gateway: what is repeated, and what counts."""

import json
from pathlib import Path
from typing import Any

from harness import Client, Gateway, until

from conftest import StartGateway
from packages import install, installed

# What a packet's Data says is what becomes of it.
MODULE = """
import json, pathlib
from sluicegate import DeliveryError, Destination

class Fussy(Destination):
    @classmethod
    def from_spec(cls, name, target, arguments, context):
        return cls(name, context)

    async def provision(self):
        self.log = (self.context.base_dir / "seen.ndjson").open("a", buffering=1)
        self.seen = set()

    async def deliver(self, batch):
        data = [json.loads(record)["Data"] for record in batch.records()]
        role, aws = self.context.role, self.context.aws
        seen = {"Data": data, "Role": role and [role.arn, role.session_name], "Aws": aws.region}
        print(json.dumps(seen), file=self.log)
        later = DeliveryError("Busy", "a moment please", retryable=True)
        never = DeliveryError("Poison", "no attempt will do")
        failed = {}
        for index, one in enumerate(data):
            if one.startswith("later") and one not in self.seen:
                failed[index] = later
            elif one.startswith("never"):
                failed[index] = never
            elif one.startswith("busy"):
                failed[index] = later
        self.seen.update(data)
        if failed:
            raise DeliveryError("Refused", "in part", packets=failed)

    async def close(self):
        self.log.close()
"""

CONFIGURATION = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: { networks: [127.0.0.0/8] }
    destinations:
      - name: fussy
        destination_arn: "fussy:"
        formatter: utf8
        role: arn:aws:iam::123456789012:role/put
        batching: { count: 10, timeout_in_seconds: 300 }
"""


def start(gateway: StartGateway, tmp_path: Path) -> Gateway:
    """A gateway beside which a package with this Destination is installed."""
    package = tmp_path / "package"
    install(package, {"fussy.py": MODULE}, "fussy", {"fussy": "fussy:Fussy"})
    made = gateway(CONFIGURATION, start=False)
    made.environment |= installed(package)
    return made.start()


def deliver(made: Gateway, data: list[str]) -> list[dict[str, Any]]:
    """Send these packets; what `Fussy` was asked for, once each packet counts."""
    address = made.address()
    with Client() as client:
        for one in data:
            client.send(one.encode(), address)
        until(lambda: sum(counted(made)) == len(data), "each packet is delivered or given up")
    return [json.loads(line) for line in (made.directory / "seen.ndjson").read_text().splitlines()]


def counted(made: Gateway) -> tuple[int, int]:
    """`(delivered, given up)`."""
    metrics = made.metrics()
    return metrics.value("delivery_packets"), metrics.value("delivery_failed_packets")


def test_exactly_the_packets_that_failed_are_repeated(gateway: StartGateway, tmp_path: Path) -> None:
    made = start(gateway, tmp_path)
    packets = ["a", "later1", "b", "c", "later2", "d", "e", "f", "g", "later3"]
    asked = deliver(made, packets)
    assert [one["Data"] for one in asked] == [packets, ["later1", "later2", "later3"]]
    metrics = made.metrics()
    assert metrics.value("destination_packets") == 10
    assert counted(made) == (10, 0)
    assert metrics.value("destination_dropped_packets") == 0
    assert (metrics.value("delivery_batches"), metrics.value("delivery_failed_batches")) == (1, 0)
    assert metrics.value("delivery_retries") == 1
    assert made.named("DeliveryFailed") == []
    # The context came whole.
    assert asked[0]["Aws"] == "us-east-1"
    assert asked[0]["Role"] == [
        "arn:aws:iam::123456789012:role/put",
        "sluicegate-us-east-1@123456789012-dstn-fussy",
    ]


def test_what_is_given_up_is_reported_by_reason_and_the_sums_hold(
    gateway: StartGateway, tmp_path: Path
) -> None:
    made = start(gateway, tmp_path)
    packets = ["never1", "a", "busy1", "b", "c", "later1", "never2", "d", "e", "f"]
    asked = deliver(made, packets)
    assert [one["Data"] for one in asked] == [packets, ["busy1", "later1"], *[["busy1"]] * 3]
    assert made.metrics().value("destination_packets") == 10
    assert counted(made) == (7, 3)
    assert made.metrics().by("reason", "delivery_failures") == {"Poison": 2, "Busy": 1}
    reported = [(event["Reason"], event["Packets"]) for event in made.named("DeliveryFailed")]
    assert reported == [("Poison", 2), ("Busy", 1)]
    assert len({event["RequestId"] for event in made.named("DeliveryFailed")}) == 1
