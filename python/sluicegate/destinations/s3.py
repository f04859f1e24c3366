"""`arn:aws:s3:::BUCKET/PREFIX*`: a bucket, one object of NDJSON for each batch."""

from __future__ import annotations

import re
import uuid
from urllib.parse import quote

import orjson

from sluicegate.aws.errors import AwsError
from sluicegate.aws.signing import S3
from sluicegate.destinations.aws import AwsDestination
from sluicegate.destinations.base import (
    Arguments,
    DeliveryError,
    DestinationError,
    PacketBatch,
    delivery_id,
)

SECONDS = 60.0
KEY_LIMIT = 1024
"""Bytes of a key."""
_HEADERS = {"content-type": "application/x-ndjson"}


class S3Destination(AwsDestination):
    """Writes each batch as one object: a line of JSON for each packet.

    The key is `PREFIX{listener}/{destination}/{yyyy}/{mm}/{dd}/{hh}/{yyyymmddThhmmss.mmmZ}-{uuid}.ndjson`, its time
    that of the batch's first packet, in UTC. A repeated delivery writes the same object. The bucket may be in any
    region of the partition.
    """

    usage = "arn:aws:s3:::BUCKET or arn:aws:s3:::BUCKET/PREFIX*"
    resource = re.compile(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^*\0]*)\*)?")
    protocol = S3
    permissions = (("ARN", ("s3:PutObject",)),)
    limits = "One batch is one object; `SizeInMb` bounds it."
    parallel = 4

    def read(self, arguments: Arguments) -> None:
        bucket, _, prefix = self.arn.resource.partition("/")
        self._bucket, self._folder = bucket, f"{prefix[:-1]}{self.context.listener}/{self.name}/"
        if len(f"{self._folder}{_name('2026-06-09T10:00:00.123Z', '-' * 36)}".encode()) > KEY_LIMIT:
            cause = f"destination {self.name}: the keys of its objects would be longer than {KEY_LIMIT} bytes"
            raise DestinationError(cause, "use a shorter prefix")
        self._in_region(self.context.region)

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        lines = batch.lines()
        first = orjson.loads(lines[: lines.index(b"\n")])
        name = _name(first["ReceivedAt"], delivery_id.get() or str(uuid.uuid4()))
        path = quote(f"/{self._folder}{name}")
        try:
            try:
                await self._put(path, lines)
            except AwsError as error:
                if not error.region:
                    raise
                self._in_region(error.region)  # S3 knows where the bucket is
                await self._put(path, lines)
        except AwsError as error:
            raise DeliveryError.from_aws(error) from error
        return None

    def _in_region(self, region: str) -> None:
        self._service = self.service(region, ("HeadBucket", {"Bucket": self._bucket}))

    async def _put(self, path: str, body: bytes) -> None:
        await self._service.request(
            "PutObject", _HEADERS, body, self.arn.text, SECONDS, method="PUT", path=path
        )


def _name(received_at: str, unique: str) -> str:
    """The end of a key; `received_at` as RequestPackets have it, `2026-06-09T10:00:00.123Z`."""
    day, _, time = received_at.partition("T")
    stamp = f"{day}T{time}".replace("-", "").replace(":", "")
    return f"{day.replace('-', '/')}/{time[:2]}/{stamp}-{unique}.ndjson"
