"""A stream of CloudWatch Logs."""

from __future__ import annotations

from collections.abc import Sequence

from sluicegate.aws.service import Service

CALL_EVENTS = 10_000
CALL_BYTES = 1 << 20
EVENT_OVERHEAD = 26
"""PutLogEvents: so many events, and so many bytes, each event counted with this much beyond its UTF-8."""
LINE_BYTES = (256 << 10) - EVENT_OVERHEAD
"""Of one event."""
SECONDS = 10.0


class LogStream:
    """Calls raise `AwsError`; code `ResourceNotFoundException` if group or stream does not exist."""

    def __init__(self, service: Service, group: str, stream: str) -> None:
        self._service = service
        self.group, self.stream = group, stream

    async def put(self, events: Sequence[tuple[int, str]], seconds: float = SECONDS) -> dict[int, str]:
        """Write events `(Unix time in ms, line)`, in order of time, within 24 hours and the limits above. Returns those
        that the service left out, by their index, with the word for why: `EventTooOld`, `EventExpired` (past the
        group's retention) or `EventTooNew`."""
        params = {
            "logGroupName": self.group,
            "logStreamName": self.stream,
            "logEvents": [{"timestamp": time, "message": line} for time, line in events],
        }
        resource = f"{self.group}:{self.stream}"
        answer = await self._service.call("PutLogEvents", params, resource, seconds)
        rejected = answer.get("rejectedLogEventsInfo")
        return _rejected(rejected, len(events)) if isinstance(rejected, dict) else {}


def _rejected(info: dict[str, int], count: int) -> dict[int, str]:
    """The events before either of the first two indexes, and those from the third on."""
    new = dict.fromkeys(range(info.get("tooNewLogEventStartIndex", count), count), "EventTooNew")
    expired = dict.fromkeys(range(min(info.get("expiredLogEventEndIndex", 0), count)), "EventExpired")
    old = dict.fromkeys(range(min(info.get("tooOldLogEventEndIndex", 0), count)), "EventTooOld")
    return new | expired | old
