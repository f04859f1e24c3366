"""`arn:aws:dynamodb:…` against an independent implementation of DynamoDB."""

import json
from typing import Any

import pytest
from aws_destinations import AwsContract, Scripted
from aws_destinations import ministack_keys as ministack_keys
from aws_destinations import scripted as scripted
from aws_server import ACCOUNT as SERVED
from aws_server import answer, refusal
from ministack import ACCOUNT, REGION, Ministack, unique

from doubles import described_table
from sluicegate.destinations.base import DeliveryError, Destination
from sluicegate.destinations.dynamodb import DynamoDbDestination
from sluicegate.testing import packet, packet_batch

ROUTE = "198.51.100.7:40001|192.0.2.10:2101"


class TestDynamoDb(AwsContract):
    kind = DynamoDbDestination
    bad_targets = (
        "arn:aws:dynamodb:us-east-1:123456789012:orders",
        "arn:aws:dynamodb:us-east-1:123456789012:table/ab",
        "arn:aws:dynamodb:us-east-1:123456789012:table/orders/index/by-time",
    )

    def make(self, ministack: Ministack) -> None:
        self.dynamodb = ministack.client("dynamodb")
        self.name = unique("destination")
        self.make_table("route", "moment")
        self.target = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{self.name}"
        self.seen: list[str] = []

    def make_table(self, *keys: str) -> None:
        self.dynamodb.create_table(
            TableName=self.name,
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
            KeySchema=[
                {"AttributeName": key, "KeyType": use}
                for key, use in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
            BillingMode="PAY_PER_REQUEST",
        )

    def items(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.dynamodb.scan(TableName=self.name)["Items"]
        return found

    def delivered(self, destination: Destination) -> list[str]:
        """In the order of their range keys, which end with the Tag."""
        new = sorted(one["Data"]["S"] for one in self.items())
        new = [one for one in new if one not in self.seen]
        self.seen += new
        return new

    def refuse(self, destination: Destination) -> None:
        self.dynamodb.delete_table(TableName=self.name)

    def test_items(self, context: Any) -> None:
        """Of one millisecond, with the keys of the table, also after it was made anew with other ones."""
        whole = packet("a") | {"Inner": {"SourceAddress": "10.0.0.1", "SourcePort": 7}, "Data": ""}

        async def check() -> None:
            async with self._provisioned(context) as made:
                await made.deliver(packet_batch(whole, "b"))
                await made.deliver(packet_batch("b"))  # once more: the same item
                by_moment = {one["moment"]["S"]: one for one in self.items()}
                assert sorted(by_moment) == [f"2026-06-09T10:00:00.123Z#tag-{one}" for one in "ab"]
                assert by_moment["2026-06-09T10:00:00.123Z#tag-a"] == {
                    "route": {"S": ROUTE},
                    "moment": {"S": "2026-06-09T10:00:00.123Z#tag-a"},
                    "Tag": {"S": "tag-a"},
                    "Remote": {"M": {"IpAddress": {"S": "198.51.100.7"}, "Port": {"N": "40001"}}},
                    "Local": {
                        "M": {
                            "Domain": {"S": "ingress-1"},
                            "IpAddress": {"S": "192.0.2.10"},
                            "Port": {"N": "2101"},
                            "Protocol": {"S": "udp"},
                        }
                    },
                    "ReceivedAt": {"S": "2026-06-09T10:00:00.123Z"},
                    "IngressRegion": {"S": "us-west-2"},
                    "Formatter": {"S": "utf8"},
                    "Data": {"S": ""},
                    "Inner": {"M": {"SourceAddress": {"S": "10.0.0.1"}, "SourcePort": {"N": "7"}}},
                }
                self.dynamodb.delete_table(TableName=self.name)
                self.make_table("Tag", "id")  # a field of packets, too
                with pytest.raises(DeliveryError) as raised:
                    await made.deliver(packet_batch("c"))
                assert not raised.value.retryable
                await made.deliver(packet_batch("c", "d"))
                keys = sorted((one["Tag"]["S"], one["id"]["S"]) for one in self.items())
                assert keys == [(ROUTE, f"2026-06-09T10:00:00.123Z#tag-{one}") for one in "cd"]

        self.run(check)


async def test_a_table_without_a_range_key_has_an_item_for_each_packet(scripted: Scripted) -> None:
    scripted.server.answers = [answer(200, json.dumps(described_table("id")).encode()), answer(200, b"{}")]
    async with scripted.destination(DynamoDbDestination, TABLE) as made:
        await made.deliver(packet_batch("a", "b"))
    put = scripted.bodies[-1]["RequestItems"][TABLE]
    ids = [one["PutRequest"]["Item"]["id"]["S"] for one in put]
    assert ids == [f"{ROUTE}|2026-06-09T10:00:00.123Z#tag-{one}" for one in "ab"]


TABLE = f"arn:aws:dynamodb:us-east-1:{SERVED}:table/orders"


@pytest.mark.parametrize(
    ("described", "reason", "detail"),
    [
        (
            answer(200, json.dumps(described_table("id", "at", "N")).encode()),
            "BadTableKey",
            "the table's key id has type N; make a table whose keys have type S",
        ),
        (
            answer(200, b'{"Table":{"KeySchema":[]}}'),
            "BadAnswer",
            f"dynamodb:DescribeTable on {TABLE} failed: the answer does not have what the service says it has; "
            "check who answers at the endpoint",
        ),
        (
            refusal("AccessDeniedException", "no policy allows it"),
            "AccessDenied",
            f"dynamodb:DescribeTable on {TABLE} was refused: no policy allows it (AccessDeniedException)",
        ),
    ],
    ids=["numbers", "strange", "denied"],
)
async def test_a_table_that_cannot_be_written(
    described: bytes, reason: str, detail: str, scripted: Scripted
) -> None:
    scripted.server.answers = [described]
    async with scripted.destination(DynamoDbDestination, TABLE) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("a"))
    assert (raised.value.reason, raised.value.detail) == (reason, detail)
