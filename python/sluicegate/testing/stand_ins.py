"""What surrounds a Destination in a gateway, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from sluicegate.aws import Aws, Role
from sluicegate.destinations.base import DestinationContext, EventSink
from sluicegate.destinations.batch import RecordBatch
from sluicegate.events import EventLog


def packet(data: str) -> dict[str, Any]:
    """A packet as a Destination gets it (contract section 2), with `data` as payload in the formatter utf8.

    >>> from sluicegate.testing import packet
    >>> packet("hello")["Data"]
    'hello'
    """
    return {
        "Tag": f"tag-{data}",
        "Remote": {"IpAddress": "198.51.100.7", "Port": 40001},
        "Local": {"Domain": "ingress-1", "IpAddress": "192.0.2.10", "Port": 2101, "Protocol": "udp"},
        "ReceivedAt": "2026-06-09T10:00:00.123Z",
        "IngressRegion": "us-west-2",
        "Formatter": "utf8",
        "Data": data,
    }


def packet_batch(
    *packets: str | Mapping[str, Any], values: Mapping[str, Sequence[str | None]] | None = None
) -> RecordBatch:
    """A batch of these packets: whole ones, or `packet` of a text. `values`: what each expression says of each packet.

    >>> from sluicegate.testing import packet, packet_batch
    >>> packet_batch("hello", packet("world") | {"Formatter": "ascii"}).count
    2
    """
    whole = (packet(one) if isinstance(one, str) else one for one in packets)
    return RecordBatch((orjson.dumps(one) for one in whole), values)


def destination_context(
    base_dir: Path = Path(),
    *,
    region: str = "us-east-1",
    listener: str = "decoder",
    events: EventSink | None = None,
    aws: Aws | None = None,
    role: Role | None = None,
) -> DestinationContext:
    """The context of a Destination. Without `events` they go nowhere; a `MemorySink` keeps them.

    >>> from sluicegate.events import EventLog, MemorySink
    >>> from sluicegate.testing import destination_context
    >>> sink = MemorySink()
    >>> destination_context(events=EventLog(sink)).events.emit("DeliveryFailed", Reason="Busy")
    >>> sink.events[0]["Reason"]
    'Busy'
    """
    return DestinationContext(
        listener=listener,
        region=region,
        base_dir=base_dir,
        events=events or EventLog(),
        aws=aws or Aws(region),
        role=role,
    )
