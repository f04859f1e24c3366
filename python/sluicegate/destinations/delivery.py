"""Runs one Destination: takes its batches from the native queue, delivers them, retries, counts (contract
section 3).

Theory of operation. The native queue is the one bounded queue, and it drops the oldest; so nothing may pile
up here: a batch is read only when a delivery can start with it at once. The file descriptor is level
triggered, therefore it is watched only while a slot is free; else the loop would spin. Each batch is a `_Job`
in a task of its own and ends exactly once, as delivered or as failed: the first call of `_delivered` or
`_failed` wins, so that a Destination which ignores its cancellation cannot be counted twice.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from sluicegate.destinations.base import DeliveryError, Destination, EventSink, PacketBatch, delivery_id
from sluicegate.faults import log_fault

log = structlog.get_logger("sluicegate.delivery")

Reply = Callable[[str, bytes], Awaitable[None]]
"""`reply(request_id, body)` hands an answer, a JSON object, to the native side; it waits while the ring is
full.
"""

DETAIL_LIMIT = 1000
"""Characters of a failure's detail: a Destination may quote an answer of any length."""

CANCEL_SECONDS = 1.0
"""What a Destination has to clean up after its cancellation; then its batch is given up without it."""


class BatchReader(Protocol):
    """The queue of ready batches; `sluicegate._native.Reader` is the real one."""

    def fileno(self) -> int: ...
    def read(self, limit: int, /) -> Sequence[PacketBatch]: ...
    @property
    def closed(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` in all; the pause before retry n is random in (0.5 … 1) · `first_seconds` · 2ⁿ⁻¹, at most
    `longest_seconds`.
    """

    attempts: int = 5
    first_seconds: float = 0.2
    longest_seconds: float = 10.0

    def pause(self, retry: int, chance: float) -> float:
        """Seconds before retry number `retry` (1 is the first), `chance` in [0, 1)."""
        # Jitter, so that Destinations which failed together do not come back together.
        return float(min(self.longest_seconds, self.first_seconds * 2 ** (retry - 1)) * (0.5 + chance / 2))


@dataclass(slots=True)
class DeliveryStats:
    """Counters since the start; `in_flight` is the number of batches being delivered now.

    Packets read so far = `packets_delivered` + `packets_failed` + those in flight; `failed_by_reason` counts
    packets and sums up to `packets_failed`. `replies` are answers handed on, `replies_failed` answers that
    could not be.
    """

    batches_delivered: int = 0
    packets_delivered: int = 0
    batches_failed: int = 0
    packets_failed: int = 0
    failed_by_reason: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    replies: int = 0
    replies_failed: int = 0
    in_flight: int = 0


@dataclass(slots=True, eq=False)
class _Job:
    batch: PacketBatch
    packets: int
    request_id: str
    ended: bool = False


class Delivery:
    """Delivers what `reader` yields to `destination`, from `start` to the end of `drain`.

    `destination` is provisioned before and closed after by the owner. `reply` gets the answers, `on_delivered` the
    packets and the request id of each batch that the service took. `counters` are those of the Delivery whose queue
    this one takes over. `sleep` and `chance` are there for tests. Everything runs in the event loop that called
    `start`.
    """

    def __init__(
        self,
        destination: Destination,
        reader: BatchReader,
        *,
        listener: str,
        events: EventSink,
        reply: Reply,
        on_delivered: Callable[[int, str], None] = lambda packets, request_id: None,
        retry: RetryPolicy | None = None,
        counters: DeliveryStats | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._destination = destination
        self._reader = reader
        self._listener = listener
        self._events = events
        self._reply = reply
        self._on_delivered = on_delivered
        self._retry = retry or RetryPolicy()
        self._sleep = sleep
        self._chance = chance
        self._slots = max(1, destination.concurrency)
        self._running: dict[asyncio.Task[None], _Job] = {}
        self._watched: int | None = None
        self._stopped = False
        self._finished = asyncio.Event()
        self._stats = counters or DeliveryStats()

    @property
    def stats(self) -> DeliveryStats:
        """A copy of the counters."""
        stats = self._stats
        return DeliveryStats(
            **{name: getattr(stats, name) for name in DeliveryStats.__slots__}
            | {"failed_by_reason": dict(stats.failed_by_reason), "in_flight": len(self._running)}
        )

    def start(self) -> None:
        """Begin to deliver; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._watch()

    @property
    def counters(self) -> DeliveryStats:
        """The counters themselves, for the Delivery that takes over."""
        return self._stats

    def hand_over(self) -> None:
        """Read no more: another Delivery takes over the queue. `end_running` ends what is being delivered."""
        self._stopped = True
        self._unwatch()

    async def end_running(self, seconds: float) -> None:
        """Let what is being delivered end for at most `seconds`, then give it up as `Shutdown`."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=max(0.0, seconds))
        await self._give_up_running()

    async def drain(self, seconds: float) -> None:
        """Deliver what is left for at most `seconds`, then give up the rest as failed with the reason
        `Shutdown`.

        Close the Port first: only a closed reader has an end. Afterwards every packet read has ended, nothing
        runs.
        """
        try:
            await asyncio.wait_for(self._finished.wait(), max(0.0, seconds))
        except TimeoutError:
            await self._abandon()
        self._stopped = True
        self._unwatch()

    async def _abandon(self) -> None:
        self.hand_over()
        await self._give_up_running()
        batches = packets = 0
        while left := self._reader.read(64):
            batches += len(left)
            packets += sum(batch.count for batch in left)
        if packets:
            self._count_failed("Shutdown", batches, packets)
            detail = "the gateway stopped before these batches could be delivered"
            self._emit("DeliveryFailed", Reason="Shutdown", Detail=detail, Packets=packets, Batches=batches)

    async def _give_up_running(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            # A Destination that ignores its cancellation does not get the shutdown into its hands.
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
        for job in list(self._running.values()):
            self._failed(
                job, "Shutdown", "the gateway stopped and the Destination did not let go of the batch"
            )

    # The queue

    def _pump(self) -> None:
        """Start as many deliveries as there are free slots; watch the queue only while one stays free."""
        if self._stopped:
            return
        free = self._slots - len(self._running)
        batches = self._reader.read(free) if free > 0 else []
        for batch in batches:
            self._begin(batch)
        if self._reader.closed:
            # Readable for good from now on.
            self._unwatch()
            if not self._running:
                self._finished.set()
        elif len(batches) < free:
            self._watch()
        else:
            self._unwatch()

    def _begin(self, batch: PacketBatch) -> None:
        job = _Job(batch, batch.count, str(uuid.uuid4()))
        task = self._loop.create_task(self._run(job), name=f"deliver {self._destination.name}")
        self._running[task] = job
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        job = self._running.pop(task)
        if not job.ended:
            # Cancelled before its first step: the coroutine never ran.
            self._failed(job, "Shutdown", "the gateway stopped before the batch was delivered")
        self._pump()

    def _watch(self) -> None:
        if self._watched is None:
            self._watched = self._reader.fileno()
            self._loop.add_reader(self._watched, self._pump)

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._watched = None

    # One batch

    async def _run(self, job: _Job) -> None:
        delivery_id.set(job.request_id)
        try:
            answer = await self._deliver(job)
        except DeliveryError as error:
            self._failed(job, error.reason, error.detail)
            return
        except asyncio.CancelledError:
            if _cancelled_by_us():
                detail = "the gateway stopped while the batch was being delivered"
                self._failed(job, "Shutdown", detail)
                raise
            # A Destination that lets the cancellation of something of its own escape.
            self._internal_error(job, asyncio.CancelledError())
            return
        except Exception as error:
            self._internal_error(job, error)
            return
        if self._delivered(job) and answer is not None:
            await self._answer(job, answer)

    async def _deliver(self, job: _Job) -> bytes | None:
        for attempt in range(1, self._retry.attempts + 1):
            try:
                return await self._destination.deliver(job.batch)
            except DeliveryError as error:
                if not error.retryable:
                    raise
                if attempt >= self._retry.attempts:
                    detail = f"{error.detail} (given up after {attempt} attempts)"
                    raise DeliveryError(error.reason, detail) from error
            self._stats.retries += 1
            await self._sleep(self._retry.pause(attempt, self._chance()))
        raise DeliveryError("InternalError", "the retry policy allows no attempt")

    async def _answer(self, job: _Job, answer: bytes) -> None:
        """Hand on an answer. The packets are delivered whatever happens here."""
        start = answer[:64].lstrip() or answer.lstrip()
        if not start or answer.strip() == b"null":
            return
        if not start.startswith(b"{"):
            detail = f'the answer is {_kind(start)}; contract section 3 expects {{"Replies": [...]}} or null'
            self._reply_failed(job, "MalformedReply", detail)
            return
        try:
            await self._reply(job.request_id, answer)
        except asyncio.CancelledError:
            self._reply_failed(job, "Shutdown", "the gateway stopped before the answer was sent")
            raise
        except Exception as error:
            log_fault(
                log,
                "the answer of a Destination could not be handed on",
                error,
                destination=self._destination.name,
            )
            self._reply_failed(
                job, "InternalError", "the gateway could not hand on the answer; its log says where"
            )
        else:
            self._stats.replies += 1

    # Ends

    def _delivered(self, job: _Job) -> bool:
        if job.ended:
            return False
        job.ended = True
        self._stats.batches_delivered += 1
        self._stats.packets_delivered += job.packets
        self._on_delivered(job.packets, job.request_id)
        return True

    def _failed(self, job: _Job, reason: str, detail: str) -> None:
        if job.ended:
            return
        job.ended = True
        self._count_failed(reason, 1, job.packets)
        self._emit(
            "DeliveryFailed",
            Reason=reason,
            Detail=_cut(detail),
            Packets=job.packets,
            RequestId=job.request_id,
        )

    def _internal_error(self, job: _Job, error: BaseException) -> None:
        log_fault(
            log,
            "a Destination raised what its contract does not allow",
            error,
            destination=self._destination.name,
        )
        detail = (
            f"the Destination failed with an unexpected {type(error).__name__}; the gateway's log says where"
        )
        self._failed(job, "InternalError", detail)

    def _count_failed(self, reason: str, batches: int, packets: int) -> None:
        self._stats.batches_failed += batches
        self._stats.packets_failed += packets
        by_reason = self._stats.failed_by_reason
        by_reason[reason] = by_reason.get(reason, 0) + packets

    def _reply_failed(self, job: _Job, reason: str, detail: str) -> None:
        self._stats.replies_failed += 1
        self._emit("ReplyFailed", Reason=reason, Detail=detail, Packets=job.packets, RequestId=job.request_id)

    def _emit(self, event: str, **fields: object) -> None:
        try:
            self._events.emit(event, Listener=self._listener, Destination=self._destination.name, **fields)
        except Exception as error:
            # The failure is counted already; a broken sink must not stop delivery.
            log_fault(log, "the event sink failed", error, destination=self._destination.name)


def _cancelled_by_us() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cut(detail: str) -> str:
    return detail if len(detail) <= DETAIL_LIMIT else detail[: DETAIL_LIMIT - 1] + "…"


def _kind(start: bytes) -> str:
    if start.startswith(b"["):
        return "a JSON list"
    if start.startswith(b'"'):
        return "a JSON string"
    if start[:1].isdigit() or start.startswith(b"-"):
        return "a number"
    return "a boolean" if start.rstrip() in (b"true", b"false") else "not JSON"
