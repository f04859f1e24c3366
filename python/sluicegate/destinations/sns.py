"""`arn:aws:sns:…`: a topic, one message for each packet."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from urllib.parse import quote
from xml.sax.saxutils import unescape

import orjson

from sluicegate.aws.errors import AwsError
from sluicegate.aws.signing import SNS
from sluicegate.destinations.aws import (
    SECONDS,
    AwsDestination,
    Entry,
    Limits,
    Refused,
    deliver_in_parts,
    strange_answer,
)
from sluicegate.destinations.base import Arguments, PacketBatch
from sluicegate.destinations.batch import content_id

LIMITS = Limits(entries=10, size=256 << 10, entry_size=256 << 10)
"""A topic may be set to take more; whoever publishes does not see it."""
_HEADERS = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
_QUOTED = {code: quote(bytes([code]), safe="-._~").encode() for code in range(256)}
"""What stands for each byte of a form."""
_MEMBER = re.compile(r"<member>(.*?)</member>", re.DOTALL)
_FIELD = re.compile(r"<(\w+)>([^<]*)</\1>")


class SnsDestination(AwsDestination):
    """Publishes each packet to a topic as one message, its JSON.

    In a FIFO topic the group of a message is `RemoteAddress:RemotePort`, and its de-duplication id 32 hex digits that
    no other packet has. A repeated delivery has the same ids.
    """

    usage = "arn:aws:sns:REGION:ACCOUNT:TOPIC"
    resource = re.compile(r"[A-Za-z0-9_-]{1,256}|[A-Za-z0-9_-]{1,251}\.fifo")
    protocol = SNS
    permissions = (("ARN", ("sns:Publish", "sns:PublishBatch")),)
    limits = "10 messages and 256 KiB. A FIFO topic gets one request after the other."

    def read(self, arguments: Arguments) -> None:
        self._fifo = self.arn.resource.endswith(".fifo")
        self._service = self.service()

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        entries = [self._entry(record) for record in batch.records()]
        await deliver_in_parts(entries, LIMITS, self._send, ordered=self._fifo)
        return None

    @property
    def concurrency(self) -> int:
        return 1 if self._fifo else self.parallel

    def _entry(self, record: bytes) -> Entry[dict[str, str]]:
        content = {"Message": record.decode()}
        if self._fifo:
            remote = orjson.loads(record)["Remote"]
            content["MessageDeduplicationId"] = content_id(record)
            content["MessageGroupId"] = f"{remote['IpAddress']}:{remote['Port']}"
        return Entry(len(record), content)

    async def _send(self, contents: Sequence[dict[str, str]]) -> Refused:
        fields = {"Action": "PublishBatch", "Version": "2010-03-31", "TopicArn": self.arn.text}
        for place, content in enumerate(contents):
            member = f"PublishBatchRequestEntries.member.{place + 1}"
            fields |= {f"{member}.Id": str(place)} | {
                f"{member}.{name}": one for name, one in content.items()
            }
        body = b"&".join(b"%b=%b" % (name.encode(), _quoted(value)) for name, value in fields.items())
        answer = await self._service.request("PublishBatch", _HEADERS, body, self.arn.text, SECONDS)
        return self._refused(answer.body.decode(errors="replace"), len(contents))

    def _refused(self, answer: str, sent: int) -> Refused:
        """What PublishBatchResponse says of each message: a <member> with its <Id>, and a <Code> if it failed."""
        members = [dict(_FIELD.findall(member)) for member in _MEMBER.findall(answer)]
        results = {member.get("Id"): member for member in members}
        if set(results) != set(map(str, range(sent))):
            raise strange_answer("sns", "PublishBatch", self.arn)
        return {place: self._refusal(one) for place in range(sent) if "Code" in (one := results[str(place)])}

    def _refusal(self, failed: dict[str, str]) -> AwsError:
        """`SenderFault` false: SNS failed, and another attempt may succeed."""
        status = 500 if failed.get("SenderFault") == "false" else 400
        code, message = failed["Code"], unescape(failed.get("Message") or "no more was said")
        return AwsError("sns", "PublishBatch", code, message, status=status, resource=self.arn.text)


def _quoted(text: str) -> bytes:
    """Percent-encoded, in a third of the time of `quote`: it is the most that a packet costs here."""
    return codecs.charmap_encode(text.encode().decode("latin-1"), "strict", _QUOTED)[0]
