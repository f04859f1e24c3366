"""`arn:aws:firehose:…`: a delivery stream, one line for each packet."""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence

from sluicegate.aws.signing import FIREHOSE
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

LIMITS = Limits(entries=500, size=4 << 20, entry_size=1000 << 10)


class FirehoseDestination(AwsDestination):
    """Puts each packet into a delivery stream as one record: its JSON and a line break, so that the objects that the
    stream writes have a packet on each line."""

    usage = "arn:aws:firehose:REGION:ACCOUNT:deliverystream/NAME"
    resource = re.compile(r"deliverystream/([A-Za-z0-9_.-]{1,64})")
    protocol = FIREHOSE
    permissions = (("ARN", ("firehose:PutRecord", "firehose:PutRecordBatch")),)
    limits = "500 records and 4 MiB, 1,000 KiB in a record."

    def read(self, arguments: Arguments) -> None:
        self._stream = self.arn.resource.partition("/")[2]
        self._service = self.service()

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        entries = [_entry(record + b"\n") for record in batch.records()]
        await deliver_in_parts(entries, LIMITS, self._send)
        return None

    async def _send(self, records: Sequence[Content]) -> Refused:
        params = {"DeliveryStreamName": self._stream, "Records": records}
        answer = await self._service.call("PutRecordBatch", params, self.arn.text, SECONDS)
        return refused_records(
            "PutRecordBatch", answer, "RequestResponses", len(records), self.arn, "firehose"
        )


def _entry(line: bytes) -> Entry[Content]:
    return Entry(len(line), {"Data": binascii.b2a_base64(line, newline=False).decode()})
