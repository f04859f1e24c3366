"""`arn:aws:geo:…` against an independent implementation of Amazon Location, which refuses single positions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_destinations import AwsContract, Scripted
from aws_destinations import ministack_keys as ministack_keys
from aws_destinations import scripted as scripted
from aws_server import ACCOUNT as SERVED
from aws_server import answer
from harness import Client, Gateway, until
from ministack import ACCOUNT, ENVIRONMENT, REGION, Ministack, unique

from sluicegate.destinations.base import DeliveryError, Destination
from sluicegate.destinations.batch import RecordBatch
from sluicegate.destinations.location import LocationDestination
from sluicegate.testing import packet_batch

NEEDED = {"DeviceIdExpression": "[:]", "LatitudeExpression": "[0]", "LongitudeExpression": "[0]"}


def positions(*devices: str) -> RecordBatch:
    """Packets of these devices, one of which is beyond the pole."""
    latitudes: list[str | None] = ["91" if one == "beyond" else "47.5" for one in devices]
    values: Mapping[str, list[str | None]] = {
        "DeviceIdExpression": list(devices),
        "LatitudeExpression": latitudes,
        "LongitudeExpression": ["8.25"] * len(devices),
    }
    return packet_batch(*devices, values=values)


class TestLocation(AwsContract):
    kind = LocationDestination
    arguments = {**NEEDED, "ScaleFactor": 1, "TimeUnit": "milliseconds"}
    bad_targets = (
        "arn:aws:geo:us-east-1:123456789012:orders",
        "arn:aws:geo:us-east-1:123456789012:geofence-collection/orders",
        "arn:aws:geo:us-east-1:123456789012:tracker/",
    )
    bad_arguments = (
        {"DeviceIdExpression": None},
        {"LatitudeExpression": "[0:"},
        {"LongitudeFormatter": "hex"},
        {"ScaleFactor": "much"},
        {"TimeUnit": "minutes"},
        {"TimestampTimeUnit": "seconds", "TimeUnit": "seconds"},
        {"PositionPropertyExpressions": {"A": "[0]", "B": "[1]", "C": "[2]", "D": "[3]"}},
        {"PositionPropertyExpressions": {"A": "[0:"}},
        {"PositionPropertyExpressions": {"A" * 21: "[0]"}},
    )

    @pytest.fixture(autouse=True)
    def _positions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sluicegate.testing.destination.packet_batch", positions)

    def make(self, ministack: Ministack) -> None:
        self.tracker = Tracker(ministack)
        self.target = self.tracker.arn
        self.seen: set[str] = set()

    def delivered(self, destination: Destination) -> list[str]:
        everybody = "abcde", [f"batch{number}" for number in range(8)]
        found = {one["DeviceId"] for some in everybody for one in self.tracker.positions(*some)} - self.seen
        self.seen |= found
        return sorted(found)

    def refuse(self, destination: Destination) -> None:
        self.tracker.delete()

    def refuse_packets(self, destination: Destination) -> str:
        return "beyond"


class Tracker:
    def __init__(self, ministack: Ministack) -> None:
        self._location = ministack.client("location")
        self._name = unique("orders")
        self._location.create_tracker(TrackerName=self._name)
        self.arn = f"arn:aws:geo:{REGION}:{ACCOUNT}:tracker/{self._name}"

    def positions(self, *devices: str) -> list[dict[str, Any]]:
        """Of those of the devices that have one."""
        answer = self._location.batch_get_device_position(TrackerName=self._name, DeviceIds=devices)
        found: list[dict[str, Any]] = answer["DevicePositions"]
        return found

    def delete(self) -> None:
        self._location.delete_tracker(TrackerName=self._name)


GATEWAY = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: {{ networks: [127.0.0.0/8] }}
    destinations:
      - name: tracker
        destination_arn: {arn}
        batching: {{ count: 11, timeout_in_seconds: 300 }}
        arguments:
          DeviceIdExpression: "[0:2]"
          LatitudeExpression: "i32le[2:6]"
          LongitudeExpression: "i32le[6:10]"
          ScaleFactor: "1e-7"
          AccuracyExpression: "u8[10]"
          TimestampExpression: "u32[11:15]"
          TimestampTimeUnit: seconds
          PositionPropertyExpressions: {{ Speed: "u8[15]", Raw: "[0:1]", None: "[99]" }}
"""


def test_packets_are_positions_of_a_tracker(ministack: Ministack, tmp_path: Path) -> None:
    """Eleven of them are two requests; one that is no position is refused alone."""
    tracker = Tracker(ministack)
    gateway = Gateway(tmp_path, GATEWAY.format(arn=tracker.arn), aws=ministack.url, environment=ENVIRONMENT)
    place = (473977418).to_bytes(4, "little") + (-85455938).to_bytes(4, "little", signed=True)
    rest = bytes([5]) + (1780999200).to_bytes(4) + bytes([42])
    with Client() as client:
        try:
            gateway.start()
            for number in range(10):
                client.send(bytes([0xA2, number]) + place + rest, gateway.address())
            client.send(b"short", gateway.address())
            until(
                lambda: gateway.metrics().value("delivery_failures", reason="BadPosition") == 1,
                "the short one is refused",
            )
        finally:
            gateway.close()
    *others, found = tracker.positions(*(f"A20{number}" for number in range(10)))
    assert len(others) == 9
    assert found["Position"] == [-8.5455938, 47.3977418]
    assert found["Accuracy"] == {"Horizontal": 5.0}
    assert found["PositionProperties"] == {"Speed": "42", "Raw": "A2"}
    assert found["SampleTime"].isoformat() == "2026-06-09T10:00:00+00:00"


TRACKER = f"arn:aws:geo:us-east-1:{SERVED}:tracker/orders"
ALL = NEEDED | {
    "AccuracyExpression": "[1]",
    "TimestampExpression": "[2]",
    "TimeUnit": "milliseconds",
    "PositionPropertyExpressions": {"Note": "[3]"},
}


async def test_what_is_no_position_is_refused_alone(scripted: Scripted) -> None:
    scripted.server.answers = [answer(200, b'{"Errors":[]}')]
    rows: list[tuple[str, str | None, str | None, str | None, str | None, str | None]] = [
        ("good", " 47.5\r\n", "8", None, None, None),
        ("", "47.5", "8", None, None, None),
        ("two words", "47.5", "8", None, None, None),
        ("no-latitude", None, "8", None, None, None),
        ("not-finite", "1", "nan", None, None, None),
        ("behind", "1", "1", "-1", None, None),
        ("late", "1", "1", None, "1e30", None),
        ("talks", "1", "1", None, None, "x" * 41),
        ("whole", "1", "-1", "2.5", "1780999200123", "hi"),
    ]
    names = (*NEEDED, "AccuracyExpression", "TimestampExpression", "PositionPropertyExpressions.Note")
    values = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    batch = packet_batch(*(f"{number}" for number in range(len(rows))), values=values)
    async with scripted.destination(LocationDestination, TRACKER, **ALL) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(batch)
    assert raised.value.packets is not None
    assert {index: one.detail for index, one in raised.value.packets.items()} == {
        1: "DeviceIdExpression gives no id that a tracker takes: 1 to 100 letters, digits and . _ -",
        2: "DeviceIdExpression gives no id that a tracker takes: 1 to 100 letters, digits and . _ -",
        3: "LatitudeExpression gives no number for the packet",
        4: "LongitudeExpression gives no number for the packet",
        5: "AccuracyExpression gives -1 metres",
        6: "TimestampExpression gives no time of this world",
        7: "the property Note has more than 40 characters",
    }
    assert {one.reason for one in raised.value.packets.values()} == {"BadPosition"}
    assert scripted.bodies == [
        {
            "Updates": [
                {"DeviceId": "good", "SampleTime": "2026-06-09T10:00:00.123Z", "Position": [8.0, 47.5]},
                {
                    "DeviceId": "whole",
                    "SampleTime": "2026-06-09T10:00:00.123000Z",
                    "Position": [-1.0, 1.0],
                    "Accuracy": {"Horizontal": 2.5},
                    "PositionProperties": {"Note": "hi"},
                },
            ]
        }
    ]
