"""What Listeners and Destinations with `metrics_enabled` count, in CloudWatch (contract section 6).

Theory of operation. Nothing is counted here. Once a minute one task reads the counters that `/metrics` shows, and puts
what they have grown by since the last time, as statistic sets of that time, into a queue: one for each role, and one
for the gateway's own credentials. Then it sends what is queued. What CloudWatch does not take stays queued with its
time, for the next minute. A queue has a limit; beyond it the oldest sets are given up and counted. The first sets are
sent at once, as zeros: a missing permission shows at the start.

A failure is a `MetricsFailed` event: one for each queue and reason, until CloudWatch takes something again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import orjson
import structlog

from sluicegate.aws import Aws, AwsError, Role, session_name
from sluicegate.aws.errors import NO_CREDENTIALS
from sluicegate.aws.metrics import Datum, MetricStore, fitting
from sluicegate.aws.outage import reason
from sluicegate.aws.signing import CLOUDWATCH
from sluicegate.destinations.delivery import Attempts, Delivery
from sluicegate.events import EventLog
from sluicegate.faults import log_fault
from sluicegate.model import AssumedRole, DestinationSpec, Listener

log = structlog.get_logger("sluicegate.metrics")

NAMESPACE = "Sluicegate"
MINUTE = 60.0
HELD = 50_000
"""Statistic sets that wait in one queue, some 15 MB: never those of two weeks, after which CloudWatch takes none."""
_REFUSED = ("InvalidParameter", "MissingRequiredParameter", "Validation", "InvalidFormat")
"""How the codes begin of what CloudWatch will never take."""

Counts = dict[str, tuple[str, int]]
"""Unit and number, by the metric's name."""
Dimensions = tuple[tuple[str, str], ...]


class Place(Protocol):
    """A Destination at its place in a Listener."""

    @property
    def resource(self) -> DestinationSpec: ...
    @property
    def delivery(self) -> Delivery | None: ...
    @property
    def removed(self) -> bool: ...


class Port(Protocol):
    """The part of `_native.Port` that counts."""

    def stats(self) -> str: ...


class Counted(Protocol):
    """A Listener that runs."""

    @property
    def resource(self) -> Listener: ...
    @property
    def port(self) -> Port: ...
    @property
    def destinations(self) -> Sequence[Place]: ...


class _Series(NamedTuple):
    """What one resource counts. `key` is the same from minute to minute."""

    key: tuple[int, str]
    wanted: bool
    role: AssumedRole | None
    dimensions: Dimensions
    counts: Counts
    attempts: Attempts | None = None
    removed: bool = False


@dataclass(slots=True)
class _Owner:
    """`before` are the counters as they were sent; None: what was counted so far is nobody's."""

    wanted: bool
    before: dict[tuple[int, str], Counts] | None = field(default_factory=dict)


class Metrics:
    """Belongs to the event loop. `close` it after the Listeners, so that the last part of a minute is sent too."""

    def __init__(
        self,
        aws: Aws,
        region: str,
        events: EventLog,
        *,
        minute: float = MINUTE,
        held: int = HELD,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._aws = aws
        self._region = region
        self._events = events
        self._minute, self._held, self._clock = minute, held, clock
        self._owners: dict[Counted, _Owner] = {}
        self._queues: dict[AssumedRole | None, _Queue] = {}
        self._since = int(clock())
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def hold(self, owner: Counted, listener: Listener) -> None:
        """`owner` runs `listener` from now on, in place of what it ran before."""
        wanted = listener.metrics_enabled or any(one.metrics_enabled for one in listener.destination_specs)
        known = self._owners.get(owner)
        if known is None:
            self._owners[owner] = _Owner(wanted)
        elif wanted != known.wanted:
            known.wanted, known.before = wanted, None
        if wanted and self._task is None:
            self._since = int(self._clock())
            self._task = asyncio.create_task(self._run(), name="metrics")

    async def drop(self, owner: Counted) -> None:
        """Read the counters of an `owner` that has ended for the last time."""
        async with self._reading:
            if owner in self._owners:
                await self._read(owner, self._owners.pop(owner))

    async def close(self, seconds: float) -> None:
        """Send what was counted since the last minute, for at most `seconds`. What is left is told."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        last = asyncio.create_task(self._turn(), name="last metrics")
        await asyncio.wait([last], timeout=seconds)
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)
        for queue in self._queues.values():
            queue.end()

    async def _run(self) -> None:
        while True:
            await self._turn()
            # Full minutes: the sets of several gateways have the same times.
            await asyncio.sleep(self._minute - self._clock() % self._minute)

    async def _turn(self) -> None:
        try:
            async with self._reading:
                for owner, known in list(self._owners.items()):
                    await self._read(owner, known)
                self._since = int(self._clock())
            await asyncio.gather(*(queue.send() for queue in self._queues.values()))
        except Exception as error:
            log_fault(log, "metrics go on after a fault", error)

    async def _read(self, owner: Counted, known: _Owner) -> None:
        if not known.wanted:
            return
        stats = orjson.loads(await asyncio.to_thread(owner.port.stats))
        now: dict[tuple[int, str], Counts] = {}
        for series in _series(owner, stats):
            now[series.key] = series.counts
            if known.before is not None and series.wanted:
                grown = _grown(known.before.get(series.key, {}), series.counts)
                if not series.removed or any(count for _, count in grown.values()):
                    self._queue(series.role).put(self._data(series, grown))
            elif series.attempts is not None:
                series.attempts.take()
        known.before = now

    def _data(self, series: _Series, grown: Counts) -> Iterator[Datum]:
        """Statistic sets of the time that began with the last turn."""
        for name, (unit, count) in grown.items():
            yield Datum(name, series.dimensions, self._since, unit, 1, count, count, count)
        if series.attempts is not None and (took := series.attempts.take()).count:
            total, shortest, longest = (
                round(1000 * one, 3) for one in (took.sum, took.shortest, took.longest)
            )
            yield Datum(
                "DeliveryDuration",
                series.dimensions,
                self._since,
                "Milliseconds",
                took.count,
                total,
                shortest,
                longest,
            )

    def _queue(self, role: AssumedRole | None) -> "_Queue":
        if role not in self._queues:
            assumed = None
            if role is not None:
                name = session_name(self._region, role.arn.split(":")[4], "metrics")
                assumed = Role(role.arn, name, role.seconds)
            store = MetricStore(self._aws.service(CLOUDWATCH, role=assumed), NAMESPACE)
            self._queues[role] = _Queue(store, role, self._events, self._held)
        return self._queues[role]


class _Queue:
    """What is to be sent in one name."""

    def __init__(self, store: MetricStore, role: AssumedRole | None, events: EventLog, limit: int) -> None:
        self._store = store
        self._as = f" as {role.arn}" if role is not None else ""
        self._events = events
        self._waiting: deque[Datum] = deque()
        self._limit = limit
        self._dropped = 0
        self._told: set[str] = set()

    def put(self, data: Iterator[Datum]) -> None:
        self._waiting.extend(data)
        over = len(self._waiting) - self._limit
        if over > 0:
            self._give_up(over)
            self._tell("TooMany", f"more than {self._limit:,} statistic sets wait; the oldest are given up")

    async def send(self) -> None:
        """Send what waits, until it is empty or CloudWatch fails."""
        while self._waiting:
            data = [self._waiting.popleft() for _ in range(fitting(self._waiting))]
            try:
                await self._store.put(data)
            except BaseException as error:
                if isinstance(error, AwsError) and error.code.startswith(_REFUSED):
                    self._dropped += len(data)
                    self._tell(error.code, f"a call of them is refused and given up: {error}")
                    continue
                self._waiting.extendleft(reversed(data))
                if not isinstance(error, AwsError):
                    raise
                why, cause = reason(error), str(error)
                if error.code == NO_CREDENTIALS:
                    why = NO_CREDENTIALS
                    cause += "; or remove `metrics_enabled`: `/metrics` has the numbers too"
                self._tell(why, cause)
                return
            self._told.clear()

    def end(self) -> None:
        if self._waiting:
            left = len(self._waiting)
            self._give_up(left)
            self._tell("Shutdown", f"the gateway stopped before {left} statistic sets were sent")

    def _give_up(self, count: int) -> None:
        for _ in range(count):
            self._waiting.popleft()
        self._dropped += count

    def _tell(self, why: str, cause: str) -> None:
        if why not in self._told:
            self._told.add(why)
            detail = f"metrics cannot be written to CloudWatch{self._as}: {cause}"
            self._events.emit("MetricsFailed", Reason=why, Detail=detail, Dropped=self._dropped)


def _series(owner: Counted, stats: Mapping[str, Any]) -> Iterator[_Series]:
    listener = owner.resource
    dimensions: Dimensions = (("Listener", listener.name),)
    counts: Counts = {
        "PacketsIn": ("Count", stats["ReceivedPackets"]),
        "BytesIn": ("Bytes", stats["ReceivedBytes"]),
        "PacketsOut": ("Count", stats["SentPackets"]),
        "BytesOut": ("Bytes", stats["SentBytes"]),
        "PacketsRejected": ("Count", sum(stats["Rejected"].values())),
        "PacketsLost": ("Count", stats["KernelDrops"]),
    }
    yield _Series((-1, ""), listener.metrics_enabled, listener.role, dimensions, counts)
    # A change comes between the two at times: what it adds is there the next time.
    for index, (place, counted) in enumerate(zip(owner.destinations, stats["Destinations"], strict=False)):
        one = place.resource
        if counted["Name"] != one.name:
            continue
        counts = {
            "PacketsIn": ("Count", counted["Packets"]),
            "BytesIn": ("Bytes", counted["Bytes"]),
            "PacketsOut": ("Count", counted["RepliesSent"]),
            "BytesOut": ("Bytes", counted["RepliesSentBytes"]),
            "RepliesFailed": ("Count", sum(counted["RepliesFailed"].values())),
        }
        failed = sum(counted["Dropped"].values())
        if place.delivery is not None:
            delivered = place.delivery.stats
            failed += delivered.packets_failed
            counts["PacketsDelivered"] = ("Count", delivered.packets_delivered)
            counts["Retries"] = ("Count", delivered.retries)
        counts["PacketsFailed"] = ("Count", failed)
        attempts = place.delivery.counters.attempts if place.delivery is not None else None
        key = (index, str(one.name))
        named: Dimensions = (*dimensions, ("Destination", str(one.name)))
        yield _Series(key, one.metrics_enabled, one.role, named, counts, attempts, place.removed)


def _grown(before: Counts, now: Counts) -> Counts:
    """By how much each counter has grown. One that is less than it was began anew."""
    grown: Counts = {}
    for name, (unit, count) in now.items():
        _, was = before.get(name, (unit, 0))
        grown[name] = (unit, count - was if count >= was else count)
    return grown
