"""`arn:aws:firehose:…` against an independent implementation of Firehose, which writes into a bucket."""

from aws_destinations import AwsContract, data_of
from aws_destinations import ministack_keys as ministack_keys
from ministack import ACCOUNT, REGION, Ministack, unique

from sluicegate.destinations.base import Destination
from sluicegate.destinations.firehose import FirehoseDestination


class TestFirehose(AwsContract):
    kind = FirehoseDestination
    bad_targets = (
        "arn:aws:firehose:us-east-1:123456789012:stream/readings",
        "arn:aws:firehose:::deliverystream/a",
    )

    def make(self, ministack: Ministack) -> None:
        self.s3, self.firehose = ministack.client("s3"), ministack.client("firehose")
        self.name = unique("destination")
        self.s3.create_bucket(Bucket=self.name)
        self.firehose.create_delivery_stream(
            DeliveryStreamName=self.name,
            ExtendedS3DestinationConfiguration={
                "RoleARN": f"arn:aws:iam::{ACCOUNT}:role/firehose",
                "BucketARN": f"arn:aws:s3:::{self.name}",
            },
        )
        self.target = f"arn:aws:firehose:{REGION}:{ACCOUNT}:deliverystream/{self.name}"

    def delivered(self, destination: Destination) -> list[str]:
        found = self.s3.list_objects_v2(Bucket=self.name).get("Contents", [])
        lines = b"".join(self.s3.get_object(Bucket=self.name, Key=one["Key"])["Body"].read() for one in found)
        assert lines.endswith(b"\n")
        # Its objects have times of whole seconds; the packets of the contract are in the order of their names.
        return sorted(data_of(lines.splitlines()))

    def refuse(self, destination: Destination) -> None:
        self.firehose.delete_delivery_stream(DeliveryStreamName=self.name)
