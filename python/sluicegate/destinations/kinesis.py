"""`arn:aws:kinesis:…`: a data stream, one record for each packet."""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Sequence

from sluicegate.aws.signing import KINESIS
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
from sluicegate.destinations.base import Arguments, DeliveryError, PacketBatch

LIMITS = Limits(entries=500, size=5 << 20, entry_size=1 << 20)
KEY = "PartitionKeyExpression"
KEY_LIMIT = 256
"""Characters of a partition key."""


class KinesisDestination(AwsDestination):
    """Puts each packet into a data stream as one record, its JSON.

    The partition key of a record is what `PartitionKeyExpression` says, else 32 random hex digits. A null expression is
    as none.
    """

    usage = "arn:aws:kinesis:REGION:ACCOUNT:stream/NAME"
    resource = re.compile(r"stream/[A-Za-z0-9_.-]{1,128}")
    protocol = KINESIS
    permissions = (("ARN", ("kinesis:PutRecords",)),)
    reasons = (*AwsDestination.reasons, "BadPartitionKey")
    arguments = (
        (KEY, "the partition key, at most 256 characters"),
        ("PartitionKeyFormatter", "how its bytes are shown: `hex` (default), `base64`, `utf8`, `ascii`"),
        ("PartitionKeyExpressionFormatter", "the same, by its other name"),
    )
    limits = "500 records and 5 MiB, 1 MiB in a record."

    def read(self, arguments: Arguments) -> None:
        self.read_expressions(arguments, KEY)
        some = {"Data": b"", "PartitionKey": "-"}
        asked = "PutRecords", {"StreamARN": self.arn.text, "Records": [some]}  # accounts have hosts
        self._service = self.service(asked=asked)

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        keys = batch.values(KEY) if KEY in self.expressions else [None] * batch.count
        chance = os.urandom(16 * batch.count).hex()
        entries = [
            _entry(record, key or chance[32 * index : 32 * (index + 1)])
            for index, (record, key) in enumerate(zip(batch.records(), keys, strict=True))
        ]
        await deliver_in_parts(entries, LIMITS, self._send)
        return None

    async def _send(self, records: Sequence[Content]) -> Refused:
        params = {"StreamARN": self.arn.text, "Records": records}
        answer = await self._service.call("PutRecords", params, self.arn.text, SECONDS)
        return refused_records("PutRecords", answer, "Records", len(records), self.arn, "kinesis")


def _entry(record: bytes, key: str) -> Entry[Content] | DeliveryError:
    if len(key) > KEY_LIMIT:
        return DeliveryError("BadPartitionKey", f"the partition key has more than {KEY_LIMIT} characters")
    data = binascii.b2a_base64(record, newline=False).decode()
    return Entry(len(record) + len(key.encode()), {"Data": data, "PartitionKey": key})
