"""Event lines in CloudWatch Logs: one sink for each log group of a Listener or Destination (contract sections 1.1, 6).

Theory of operation. The event log's lines and the sampled events of arriving packets go into one bounded queue, which
costs its newest lines when it is full; they are counted, and the group is told by an `EventsDropped` line. One task
takes what is queued, at most once a second, and writes it in the order of time to the stream
`LISTENER/NODE/YYYY-MM-DD`; group and stream are created when CloudWatch says that they are missing. Nothing else ever
waits for CloudWatch: while it cannot be reached the task tries again, with growing, jittered pauses.

What fails here is a `LogGroupFailed` event, which goes to every sink but the log groups: otherwise a group that refuses
lines would get one more for each refusal.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from sluicegate.aws import Aws, AwsError, LogStream, Role, session_name
from sluicegate.aws.logs import CALL_BYTES, CALL_EVENTS, EVENT_OVERHEAD, LINE_BYTES
from sluicegate.aws.outage import Outage
from sluicegate.backoff import Backoff
from sluicegate.events.filter import Filter
from sluicegate.events.hub import Subscription
from sluicegate.events.log import EventLog
from sluicegate.events.types import TYPES
from sluicegate.model import AssumedRole

QUEUE_BYTES = 4 << 20
LINGER_SECONDS = 1.0
CLOSING_PAUSE_SECONDS = 0.1

_MISSING = "ResourceNotFoundException"
_EXISTS = "ResourceAlreadyExistsException"
# CloudWatch will never take these events: not a matter of time or of a policy.
_REFUSED = frozenset(["InvalidParameterException", "DataAlreadyAcceptedException"])


@dataclass(frozen=True, slots=True)
class LogTarget:
    """Where to write, and for whom. Without `destination` everything of the Listener is meant, with it the failures of
    this Destination. `role` is assumed for it, None for the gateway's own credentials."""

    group: str
    listener: str
    destination: str | None = None
    role: AssumedRole | None = None

    def wants(self, event: Mapping[str, object]) -> bool:
        """True for what belongs into the group; events of single packets come another way."""
        known = TYPES.get(str(event.get("Event")))
        if known is None or known.name == "LogGroupFailed" or event.get("Listener") != self.listener:
            return False
        if self.destination is not None:
            return known.kind == "failure" and event.get("Destination") == self.destination
        return known.kind in ("failure", "life-cycle")


class LogGroup:
    """The sink for one target. Made, started and stopped in the event loop; `write` and `put` from any thread."""

    def __init__(
        self,
        target: LogTarget,
        aws: Aws,
        events: EventLog,
        *,
        node: int,
        region: str,
        limit_bytes: int = QUEUE_BYTES,
        linger_seconds: float = LINGER_SECONDS,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = "logs:" + "/".join(filter(None, (target.listener, target.destination)))
        self.target = target
        self._aws = aws
        self._events = events
        self._node = node
        self._region = region
        self._linger = linger_seconds
        self._queue = Subscription(Filter(), limit_bytes=limit_bytes)
        self._closing = asyncio.Event()
        self._outage, self._refusals = (
            Outage(self.name, self._tell, self._closing, backoff, closing_seconds=CLOSING_PAUSE_SECONDS)
            for _ in range(2)
        )
        self._task: asyncio.Task[None] | None = None
        self._role: Role | None = None
        self._streams: dict[str, LogStream] = {}
        self._held = 0
        self._given_up = 0

    @property
    def dropped(self) -> int:
        """Lines that did not reach the group, since the start."""
        return self._queue.missing + self._given_up

    def write(self, line: bytes) -> None:
        if self.target.wants(orjson.loads(line)):
            self.put(line)

    def put(self, lines: bytes) -> None:
        """Take lines without looking at them."""
        self._queue.put(lines)

    def close(self, seconds: float) -> None:
        """Nothing: `stop` has written out what there was, while the event loop ran."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self, seconds: float) -> None:
        """Write what is queued for at most `seconds`; what is left is counted and told. Safe to call twice."""
        self._queue.end()
        self._closing.set()
        if self._task is None:
            return
        _, unfinished = await asyncio.wait([self._task], timeout=seconds)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if unfinished:
            left = self._held + (await self._queue.read(0) or b"").count(b"\n")
            self._given_up += left
            self._report("Shutdown", f"it was closed before {left} lines were in {self.target.group}")

    # The task

    async def _run(self) -> None:
        while (lines := await self._queue.read(3600)) is not None:
            self._held = lines.count(b"\n")
            try:
                for day, batch in batches(lines):
                    await self._write_batch(f"{self.target.listener}/{self._node}/{day}", batch)
                    self._held -= len(batch)
            except Exception as error:  # of these lines: those that come are to be written
                self._refusals.failed(error)
            self._given_up += self._held  # lines longer than an event may be, or that are none
            self._held = 0
            await self._outage.wait(self._linger)

    async def _write_batch(self, stream: str, batch: Sequence[tuple[int, str]]) -> None:
        while True:
            try:
                await self._put_events(stream, batch)
            except Exception as error:  # the lines wait
                if isinstance(error, AwsError) and error.code in _REFUSED:
                    self._given_up += len(batch)
                    self._refusals.tell(error.code, f"{len(batch)} lines are refused: {error}")
                    return
                self._outage.failed(error)
                await self._outage.pause()
            else:
                self._outage.over()
                return

    async def _put_events(self, stream: str, batch: Sequence[tuple[int, str]]) -> None:
        if self._role is None and self.target.role is not None:
            account = await self._aws.account()
            purpose = f"log-{self.target.destination or self.target.listener}"
            name = session_name(self._region, account, purpose)
            self._role = Role(self.target.role.arn, name, self.target.role.seconds)
        if stream not in self._streams:
            self._streams = {stream: self._aws.log_stream(self.target.group, stream, role=self._role)}
        try:
            left_out = await self._streams[stream].put(batch)
        except AwsError as error:
            if error.code != _MISSING:
                raise
            await self._create(stream)
            left_out = await self._streams[stream].put(batch)
        self._given_up += len(left_out)  # too old after a long outage, or a clock that is wrong

    async def _create(self, stream: str) -> None:
        names = {"logGroupName": self.target.group, "logStreamName": stream}
        try:
            await self._call("CreateLogStream", names)
        except AwsError as error:
            if error.code != _MISSING:
                raise
            await self._call("CreateLogGroup", {"logGroupName": self.target.group})
            await self._call("CreateLogStream", names)

    async def _call(self, operation: str, names: Mapping[str, object]) -> None:
        try:
            await self._aws.call("logs", operation, names, role=self._role)
        except AwsError as error:
            if error.code != _EXISTS:
                raise

    def _tell(self, reason: str, cause: str) -> None:
        self._report(reason, f"events for the log group {self.target.group} cannot be written: {cause}")

    def _report(self, reason: str, detail: str) -> None:
        self._events.emit(
            "LogGroupFailed",
            Listener=self.target.listener,
            Destination=self.target.destination,
            Reason=reason,
            Detail=detail,
            Dropped=self.dropped,
        )


def batches(lines: bytes) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """`(YYYY-MM-DD, [(unix ms, line)])` of whole lines: in the order of time, each within one day and within what one
    PutLogEvents takes. Lines of the same time keep their order; those that no call takes are left out."""
    fitting = (line for line in lines.splitlines() if len(line) <= LINE_BYTES)
    timed = sorted(((_milliseconds(line), line) for line in fitting), key=lambda one: one[0][1])
    batch: list[tuple[int, str]] = []
    current, size = "", 0
    for (day, at), line in timed:
        cost = len(line) + EVENT_OVERHEAD
        if batch and (day != current or len(batch) == CALL_EVENTS or size + cost > CALL_BYTES):
            yield current, batch
            batch, size = [], 0
        current = day
        batch.append((at, line.decode()))
        size += cost
    if batch:
        yield current, batch


def _milliseconds(line: bytes) -> tuple[str, int]:
    """The day and the time of an event line, both of its `Time`."""
    text = str(orjson.loads(line)["Time"])
    return text[:10], round(datetime.fromisoformat(text).timestamp() * 1000)
