"""`arn:aws:iot:…`: a topic of AWS IoT, one MQTT message for each packet."""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import orjson

from sluicegate.aws.signing import IOT
from sluicegate.destinations.aws import SECONDS, AwsDestination, Entry, Limits, Refused, deliver_in_parts
from sluicegate.destinations.base import Arguments, Expression, PacketBatch

LIMITS = Limits(entries=1, size=128 << 10, entry_size=128 << 10)
SUFFIX = "TopicSuffixExpression"
_RAW = "Payload"
"""The packet's bytes, whatever the formatter makes of them."""

Message = tuple[str, bytes]
"""A topic and what it gets."""


class IotDestination(AwsDestination):
    """Publishes each packet to a topic as one message, its JSON.

    With `DynamicTopicSuffix` a message is the packet's bytes as they came, and its topic is `TOPIC/SUFFIX`: the suffix
    is what `TopicSuffixExpression` says, else `RemoteAddress/RemotePort`. A null expression is as none. Messages have
    QoS 0.
    """

    usage = "arn:aws:iot:REGION:ACCOUNT:topic/TOPIC"
    resource = re.compile(r"topic/[^+#\0]{1,256}", re.DOTALL)
    protocol = IOT
    permissions = (("ARN", ("iot:Publish",)), ("ARN/*", ("iot:Publish",)))
    arguments = (
        ("DynamicTopicSuffix", "true: the packet's bytes, to a topic of their own below the one of the ARN"),
        (SUFFIX, "the end of that topic; it may have slashes"),
        ("TopicSuffixFormatter", "how its bytes are shown: `hex` (default), `base64`, `utf8`, `ascii`"),
    )
    limits = "one message, 128 KiB."

    def read(self, arguments: Arguments) -> None:
        self._topic = self.arn.resource.partition("/")[2]
        self._dynamic = arguments.flag("DynamicTopicSuffix")
        self.read_expressions(arguments, SUFFIX)
        if self._dynamic:
            self._expressions[_RAW] = Expression("[:]", "base64")
        elif SUFFIX in self.expressions:
            cause = f"{SUFFIX} is for topics with a suffix"
            raise arguments.wrong(SUFFIX, cause, "set DynamicTopicSuffix to true, or leave it out")
        self._service = self.service()

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        entries = self._raw(batch) if self._dynamic else [(self._topic, record) for record in batch.records()]
        await deliver_in_parts([Entry(len(one[1]), one) for one in entries], LIMITS, self._publish)
        return None

    def _raw(self, batch: PacketBatch) -> list[Message]:
        raws, suffixes = batch.values(_RAW), batch.values(SUFFIX)
        messages = []
        for record, raw, suffix in zip(batch.records(), raws, suffixes, strict=True):
            packet = orjson.loads(record)
            suffix = suffix or f"{packet['Remote']['IpAddress']}/{packet['Remote']['Port']}"
            payload = _shown(packet) if raw is None else binascii.a2b_base64(raw)
            messages.append((f"{self._topic}/{suffix}", payload))
        return messages

    async def _publish(self, messages: Sequence[Message]) -> Refused:
        ((topic, payload),) = messages
        path = f"/topics/{quote(topic, safe='')}"
        await self._service.request("Publish", {}, payload, self.arn.text, SECONDS, path=path)
        return {}


def _shown(packet: dict[str, Any]) -> bytes:
    """The bytes of a packet that came before the Destination asked for them, as far as its formatter keeps them."""
    data: str = packet["Data"]
    match packet["Formatter"]:
        case "base64":
            return binascii.a2b_base64(data)
        case "hex":
            return binascii.unhexlify(data)
    return data.encode()
