"""`arn:aws:logs:…`: a log group of CloudWatch Logs, one log event for each packet."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import orjson

from sluicegate.aws.errors import AwsError
from sluicegate.aws.logs import CALL_BYTES, CALL_EVENTS, EVENT_OVERHEAD, LogStream
from sluicegate.aws.signing import LOGS
from sluicegate.destinations.aws import SECONDS, AwsDestination, Entry, Limits, Refused, deliver_in_parts
from sluicegate.destinations.base import Arguments, DeliveryError, PacketBatch

LIMITS = Limits(entries=CALL_EVENTS, size=CALL_BYTES, entry_size=CALL_BYTES)
_MISSING, _EXISTS = "ResourceNotFoundException", "ResourceAlreadyExistsException"
_LEFT_OUT = {
    "EventTooOld": "the packet was received more than 14 days ago",
    "EventExpired": "the packet was received before the time for which the group keeps its events",
    "EventTooNew": "the packet was received more than 2 hours from now: check this machine's clock",
}


class _Event(NamedTuple):
    day: str
    time: int
    text: str


class CloudWatchLogsDestination(AwsDestination):
    """Writes each packet into a log group as one log event: its `Data` as text, at the time at which it was received.

    The log stream is `LISTENER/NODE/YYYY-MM-DD`, one for each day (UTC), and is made when it is not there. The log
    group has to exist. Without it no packet is delivered, and each `DeliveryFailed` event has the command that makes
    it. The `formatter` is `utf8` unless you name another one.
    """

    usage = "arn:aws:logs:REGION:ACCOUNT:log-group:GROUP or arn:aws:logs:REGION:ACCOUNT:log-group:GROUP:*"
    resource = re.compile(r"log-group:[A-Za-z0-9_/.#-]{1,512}(:\*)?")
    protocol = LOGS
    permissions = (("ARN:*", ("logs:CreateLogStream", "logs:PutLogEvents")),)
    reasons = (*AwsDestination.reasons, "NoLogGroup", "EmptyMessage", *_LEFT_OUT)
    limits = "10,000 events and 1 MiB, of one day, each with 26 bytes beyond its text. One request after the other."
    parallel = 1

    def read(self, arguments: Arguments) -> None:
        self._group = self.arn.resource.split(":")[1]
        self._service = self.service()

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        entries = [_entry(record) for record in batch.records()]
        await deliver_in_parts(entries, LIMITS, self._send, ordered=True)
        return None

    async def _send(self, events: Sequence[_Event]) -> Refused:
        """They are of one day: a request spans 24 hours at most."""
        name = f"{self.context.listener}/{self.context.node}/{events[0].day}"
        stream = LogStream(self._service, self._group, name)
        places = sorted(range(len(events)), key=lambda place: events[place].time)
        lines = [events[place][1:] for place in places]
        try:
            try:
                left_out = await stream.put(lines, SECONDS)
            except AwsError as error:
                if error.code != _MISSING:
                    raise
                await self._create(name)
                left_out = await stream.put(lines, SECONDS)
        except AwsError as error:
            raise error.about(self.arn.text) from error
        return {places[index]: self._left_out(word) for index, word in left_out.items()}

    async def _create(self, stream: str) -> None:
        params = {"logGroupName": self._group, "logStreamName": stream}
        try:
            await self._service.call("CreateLogStream", params, self.arn.text, SECONDS)
        except AwsError as error:
            if error.code == _MISSING:
                group = shlex.quote(self._group)
                command = f"aws logs create-log-group --region {self.arn.region} --log-group-name {group}"
                told = f"the log group {self._group} does not exist: make it with `{command}`"
                raise DeliveryError("NoLogGroup", told) from error
            if error.code != _EXISTS:
                raise

    def _left_out(self, word: str) -> AwsError:
        return AwsError("logs", "PutLogEvents", word, _LEFT_OUT[word], resource=self.arn.text)


def _entry(record: bytes) -> Entry[_Event] | DeliveryError:
    packet = orjson.loads(record)
    text, received = packet["Data"], packet["ReceivedAt"]
    if not text:
        return DeliveryError("EmptyMessage", "CloudWatch Logs takes no event without text")
    time = round(datetime.fromisoformat(received).timestamp() * 1000)
    event = _Event(received[:10], time, text)
    return Entry(len(text.encode()) + EVENT_OVERHEAD, event, event.day)
