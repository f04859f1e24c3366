"""`arn:aws:events:…`: an event bus of EventBridge, one event for each packet."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sluicegate.aws.signing import EVENTS
from sluicegate.destinations.aws import (
    SECONDS,
    AwsDestination,
    Content,
    Entry,
    Limits,
    Refused,
    deliver_in_parts,
    refused_records,
)
from sluicegate.destinations.base import Arguments, PacketBatch

LIMITS = Limits(entries=10, size=(1 << 20) - 1, entry_size=(1 << 20) - 1)
SOURCE, DETAIL_TYPE = "proxylity", "udp-gateway-packet-ingress"
"""What rules for packets match on, those that were written for the reference service too."""


class EventBridgeDestination(AwsDestination):
    """Puts each packet on an event bus as one event, its JSON as `detail`.

    A rule matches on `"source": ["proxylity"]` and `"detail-type": ["udp-gateway-packet-ingress"]`, or on any part of
    `detail`. The bus says nothing of an event that no rule matches.
    """

    usage = "arn:aws:events:REGION:ACCOUNT:event-bus/NAME"
    resource = re.compile(r"event-bus/[A-Za-z0-9/._-]{1,256}")
    protocol = EVENTS
    permissions = (("ARN", ("events:PutEvents",)),)
    limits = "10 events, together less than 1 MiB."

    def read(self, arguments: Arguments) -> None:
        self._service = self.service()

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        entries = [self._entry(record) for record in batch.records()]
        await deliver_in_parts(entries, LIMITS, self._send)
        return None

    def _entry(self, record: bytes) -> Entry[Content]:
        event: Content = {
            "EventBusName": self.arn.text,
            "Source": SOURCE,
            "DetailType": DETAIL_TYPE,
            "Detail": record.decode(),
        }
        return Entry(len(record) + len(SOURCE) + len(DETAIL_TYPE), event)

    async def _send(self, events: Sequence[Content]) -> Refused:
        answer = await self._service.call("PutEvents", {"Entries": events}, self.arn.text, SECONDS)
        return refused_records("PutEvents", answer, "Entries", len(events), self.arn, "events")
