"""`arn:aws:s3:::…` against an independent implementation of S3."""

import re

from aws_destinations import AwsContract, data_of
from aws_destinations import ministack_keys as ministack_keys
from ministack import Ministack, unique

from sluicegate.destinations.base import Destination
from sluicegate.destinations.s3 import S3Destination

KEY = re.compile(
    r"raw/a b/decoder/contract/2026/06/09/10/20260609T100000\.123Z-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.ndjson"
)


class TestS3(AwsContract):
    kind = S3Destination
    bad_targets = (
        "arn:aws:s3:us-east-1:123456789012:bucket",
        "arn:aws:s3:::Bucket",
        "arn:aws:s3:::bucket/prefix",
        "arn:aws:s3:::bucket/*/more*",
        f"arn:aws:s3:::bucket/{'x' * 1000}*",
    )

    def make(self, ministack: Ministack) -> None:
        self.s3 = ministack.client("s3")
        self.bucket = unique("destination")
        self.s3.create_bucket(Bucket=self.bucket)
        self.target = f"arn:aws:s3:::{self.bucket}/raw/a b/*"

    def delivered(self, destination: Destination) -> list[str]:
        keys = [one["Key"] for one in self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])]
        assert all(KEY.fullmatch(key) for key in keys), keys
        bodies = [self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys]
        return sorted(data_of(b"".join(bodies).splitlines()))  # the packets of the contract are in this order

    def refuse(self, destination: Destination) -> None:
        for one in self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", []):
            self.s3.delete_object(Bucket=self.bucket, Key=one["Key"])
        self.s3.delete_bucket(Bucket=self.bucket)
