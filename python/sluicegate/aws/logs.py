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

    async def put(self, events: Sequence[tuple[int, str]]) -> int:
        """Write events `(Unix time in ms, line)`, in order of time, within 24 hours and the limits above. Returns how
        many of them the service left out, as too old, too new or past the group's retention."""
        params = {
            "logGroupName": self.group,
            "logStreamName": self.stream,
            "logEvents": [{"timestamp": time, "message": line} for time, line in events],
        }
        resource = f"{self.group}:{self.stream}"
        answer = await self._service.call("PutLogEvents", params, resource, SECONDS)
        rejected = answer.get("rejectedLogEventsInfo")
        return _rejected(rejected, len(events)) if isinstance(rejected, dict) else 0


def _rejected(info: dict[str, int], count: int) -> int:
    """How many events lie before either of the first two indexes, or from the third on."""
    first = max(info.get("tooOldLogEventEndIndex", 0), info.get("expiredLogEventEndIndex", 0))
    last = info.get("tooNewLogEventStartIndex", count)
    return first + max(0, count - max(first, last))
