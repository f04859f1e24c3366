"""`arn:aws:dynamodb:…`: a table, one item for each packet."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from sluicegate.aws.errors import AwsError
from sluicegate.aws.signing import DYNAMODB
from sluicegate.destinations.aws import (
    SECONDS,
    AwsDestination,
    Content,
    Entry,
    Limits,
    Refused,
    deliver_in_parts,
    delivery_error,
    strange_answer,
)
from sluicegate.destinations.base import Arguments, DeliveryError, PacketBatch

LIMITS = Limits(entries=25, size=16 << 20, entry_size=400 << 10)
_OTHER_KEYS = frozenset(("ValidationException", "ResourceNotFoundException"))
"""What DynamoDB says of items when the table is not the one that was described."""


class _Keys(NamedTuple):
    """The names of a table's key attributes; it may have no range key."""

    hash: str
    range: str | None

    def of(self, item: Content) -> tuple[str, ...]:
        return tuple(str(item[name]) for name in self if name)


class DynamoDbDestination(AwsDestination):
    """Puts each packet into a table as one item.

    The table's own keys, both of type S, say where from and where to, and when: the hash key is
    `RemoteAddress:RemotePort|LocalAddress:LocalPort`, the range key `ReceivedAt#Tag`. In a table without a range key
    both stand in the hash key, with a `|` between. The other attributes are the fields of the RequestPacket, as
    strings, numbers and maps. Two packets of one millisecond are two items, and a repeated delivery writes the same
    item.
    """

    usage = "arn:aws:dynamodb:REGION:ACCOUNT:table/NAME"
    resource = re.compile(r"table/[A-Za-z0-9_.-]{3,255}")
    protocol = DYNAMODB
    permissions = (("ARN", ("dynamodb:DescribeTable", "dynamodb:BatchWriteItem")),)
    reasons = (*AwsDestination.reasons, "BadTableKey")
    limits = "25 items, 400 KiB in an item."

    def read(self, arguments: Arguments) -> None:
        self._keys: _Keys | None = None
        self._asking = asyncio.Lock()
        asked = "DescribeTable", {"TableName": self.arn.text}
        self._service = self.service(asked=asked)

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        try:
            keys = await self._table_keys()
        except AwsError as error:
            raise delivery_error(error) from error
        entries = [_entry(keys, record) for record in batch.records()]
        await deliver_in_parts(entries, LIMITS, partial(self._put, keys))
        return None

    async def _put(self, keys: _Keys, items: Sequence[Content]) -> Refused:
        params = {"RequestItems": {self.arn.text: [{"PutRequest": {"Item": item}} for item in items]}}
        try:
            answer = await self._service.call("BatchWriteItem", params, self.arn.text, SECONDS)
        except AwsError as error:
            if error.code in _OTHER_KEYS:
                self._keys = None  # the table may be another one: ask again the next time
            raise
        if not (unprocessed := answer.get("UnprocessedItems")):
            return {}
        places = {keys.of(item): place for place, item in enumerate(items)}
        try:
            (left,) = unprocessed.values()
            return {places[keys.of(one["PutRequest"]["Item"])]: self._unprocessed() for one in left}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise strange_answer("dynamodb", "BatchWriteItem", self.arn) from error

    def _unprocessed(self) -> AwsError:
        cause = "it has no capacity for the item now"
        return AwsError("dynamodb", "BatchWriteItem", "Throttled", cause, resource=self.arn.text)

    async def _table_keys(self) -> _Keys:
        """Asked for once. Raises `AwsError` and `DeliveryError`."""
        async with self._asking:
            if self._keys is None:
                params = {"TableName": self.arn.text}
                answer = await self._service.call("DescribeTable", params, self.arn.text, SECONDS)
                try:
                    self._keys = _keys_of(answer["Table"])
                except (KeyError, TypeError) as error:
                    raise strange_answer("dynamodb", "DescribeTable", self.arn) from error
            return self._keys


def _keys_of(table: dict[str, Any]) -> _Keys:
    types = {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]}
    names = {one["KeyType"]: one["AttributeName"] for one in table["KeySchema"]}
    for name in names.values():
        if types[name] != "S":
            cause = f"the table's key {name} has type {types[name]}; make a table whose keys have type S"
            raise DeliveryError("BadTableKey", cause)
    return _Keys(names["HASH"], names.get("RANGE"))


def _entry(keys: _Keys, record: bytes) -> Entry[Content]:
    packet = orjson.loads(record)
    remote, local = packet["Remote"], packet["Local"]
    tuple_ = f"{remote['IpAddress']}:{remote['Port']}|{local['IpAddress']}:{local['Port']}"
    moment = f"{packet['ReceivedAt']}#{packet['Tag']}"
    named = {keys.hash: tuple_, keys.range: moment} if keys.range else {keys.hash: f"{tuple_}|{moment}"}
    # Keys come last: a table may have one that is called as a field of the packet.
    item = {**packet, **named}
    size, typed = _typed(item)
    return Entry(size, typed["M"])


def _typed(value: Any) -> tuple[int, dict[str, Any]]:
    """As DynamoDB counts and writes it: `{"S": "text"}`, `{"N": "5"}`, `{"M": {…}}`.

    Names and text count in UTF-8, a number up to 21 bytes, a map 3 and 1 for each value in it.
    """
    if isinstance(value, str):
        return _utf8_size(value), {"S": value}
    if not isinstance(value, dict):
        return 21, {"N": str(value)}
    size, typed = 3, {}
    for name, one in value.items():
        its_size, typed[name] = _typed(one)
        size += _utf8_size(name) + 1 + its_size
    return size, {"M": typed}


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
