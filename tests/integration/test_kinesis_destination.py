"""`arn:aws:kinesis:…` against an independent implementation of Kinesis."""

from aws_destinations import AwsContract, data_of
from aws_destinations import ministack_keys as ministack_keys
from ministack import ACCOUNT, REGION, Ministack, unique

from sluicegate.destinations.base import Destination
from sluicegate.destinations.kinesis import KinesisDestination


class TestKinesis(AwsContract):
    kind = KinesisDestination
    arguments = {"PartitionKeyExpression": "[0:2]", "PartitionKeyExpressionFormatter": "base64"}
    bad_targets = ("arn:aws:kinesis:us-east-1:123456789012:readings", "arn:aws:sqs:us-east-1:123456789012:q")
    bad_arguments = (
        {"PartitionKeyExpression": "[0:"},
        {"PartitionKeyExpressionFormatter": "base32"},
        {"PartitionKeyFormatter": "hex"},  # the other spelling is there already
    )

    def make(self, ministack: Ministack) -> None:
        self.kinesis = ministack.client("kinesis")
        self.name = unique("destination")
        self.kinesis.create_stream(StreamName=self.name, ShardCount=1)
        self.target = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{self.name}"
        shard = self.kinesis.list_shards(StreamName=self.name)["Shards"][0]["ShardId"]
        self.iterator = self.kinesis.get_shard_iterator(
            StreamName=self.name, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]

    def delivered(self, destination: Destination) -> list[str]:
        found = self.kinesis.get_records(ShardIterator=self.iterator)
        self.iterator = found["NextShardIterator"]
        return data_of([record["Data"] for record in found["Records"]])

    def refuse(self, destination: Destination) -> None:
        self.kinesis.delete_stream(StreamName=self.name)
