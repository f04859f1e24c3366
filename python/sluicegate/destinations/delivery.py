"""Runs one Destination: takes its batches from the native queue, delivers them, retries, counts (contract section 3).

Theory of operation. The native queue is the only bounded queue, and it drops the oldest packets. So nothing may pile up
here: a batch is read only when its delivery can start at once. A reader calls again and again as long as there is
something to read. It is therefore watched only while a slot is free; otherwise the loop would spin.

Each batch is a `_Job`, in a task of its own unless the Destination can begin at once and tells the end by a call
(`prompt.py`). A job shrinks until no packet of it is left: `_delivered` and `_failed`
count packets and take them off, and do nothing once the job has completed. So each packet completes exactly once, as
delivered or as failed, also when a Destination ignores its cancellation. A batch counts when its job completes: as
failed if any of its packets failed.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import structlog

from sluicegate.backoff import Backoff
from sluicegate.destinations.base import (
    DeliveryError,
    Destination,
    EventSink,
    PacketBatch,
    delivery_id,
    early_answers,
)
from sluicegate.destinations.batch import RecordBatch
from sluicegate.destinations.partial import names_others, parts
from sluicegate.destinations.prompt import Outcome, PromptDestination, UnderWay
from sluicegate.faults import log_fault
from sluicegate.ids import new_id

log = structlog.get_logger("sluicegate.delivery")

Reply = Callable[[str, bytes], Awaitable[None]]
"""`reply(request_id, body)` hands a Destination's answer, a JSON object, to the native side. It waits while the ring is
full."""

ReplyNow = Callable[[str, bytes], bool]
"""As `Reply`, but without a wait; false where it would wait, and has done nothing."""

ATTEMPTS = 5
"""Attempts for a batch, the first one included."""

PAUSES = Backoff(0.2, 10.0)
"""The pauses between the attempts for a batch, in seconds."""

LONGEST_WISH = 60.0
"""Most seconds that a service may ask for before the next attempt. Its queue drops packets meanwhile."""

DETAIL_LIMIT = 1000
"""Most characters of a failure's detail: a Destination may quote an answer of any length."""

CANCEL_SECONDS = 1.0
"""Seconds that a Destination has to clean up after its cancellation. Then its batch is given up."""


OWN_REASONS = ("Shutdown", "InternalError")
"""Why batches fail here, and not in the Destination."""


_STOPPED = ("Shutdown", "the gateway stopped before the answer was sent")
_CANCELLED = ("Shutdown", "the gateway stopped while the batch was being delivered")
_TOO_LATE = ("Interrupted", "the delivery of the batch ended before this part of its answer was sent")


class BatchReader(Protocol):
    """The queue of ready batches; `sluicegate._native.Reader` is the real one."""

    def on_ready(self, callback: Callable[[], object] | None, /) -> None: ...
    def read(self, limit: int, /) -> Sequence[PacketBatch]: ...
    @property
    def closed(self) -> bool: ...


@dataclass(slots=True)
class Attempts:
    """How long deliveries took, each attempt by itself, in seconds: of those since the last `take`."""

    count: int = 0
    sum: float = 0.0
    shortest: float = math.inf
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.sum += seconds
        self.shortest = min(self.shortest, seconds)
        self.longest = max(self.longest, seconds)

    def take(self) -> Attempts:
        """What there was, and begin anew."""
        taken = replace(self)
        self.count, self.sum, self.shortest, self.longest = 0, 0.0, math.inf, 0.0
        return taken


@dataclass(slots=True)
class DeliveryStats:
    """Counters since the start; `in_flight` is the number of batches being delivered now.

    Packets read so far = `packets_delivered` + `packets_failed` + those in flight; `failed_by_reason` counts packets
    and sums up to `packets_failed`. `known_reasons` are those that may come. A batch of which some packets failed
    counts in `batches_failed`, one that was delivered as a whole, even in several attempts, in `batches_delivered`.
    `replies` are answers handed on, `replies_failed` answers that could not be. `attempts` is the same in all copies.
    """

    batches_delivered: int = 0
    packets_delivered: int = 0
    batches_failed: int = 0
    packets_failed: int = 0
    failed_by_reason: dict[str, int] = field(default_factory=dict)
    known_reasons: tuple[str, ...] = ()
    retries: int = 0
    replies: int = 0
    replies_failed: int = 0
    in_flight: int = 0
    attempts: Attempts = field(default_factory=Attempts)


@dataclass(slots=True, eq=False)
class _Job:
    """The delivery of one batch. `batch` shrinks to the packets still to be delivered; `left` is their number; `began`
    is when the present attempt did."""

    batch: PacketBatch
    left: int
    request_id: str
    began: float
    failed: bool = False

    @property
    def ended(self) -> bool:
        return not self.left


@dataclass(slots=True, eq=False)
class _EarlyAnswers:
    """`EarlyAnswers` of one job."""

    delivery: Delivery
    job: _Job

    async def send(self, body: bytes, /) -> None:
        await self.delivery.answer_early(self.job, body)

    def malformed(self, detail: str, /) -> None:
        self.delivery.answer_malformed(self.job, detail)


class Delivery:
    """Delivers what `reader` yields to `destination`, from `start` to the end of `drain`.

    The owner provisions `destination` before and closes it afterwards. `reply` gets the answers. `on_delivered` gets,
    for each attempt, the number of packets that the service accepted, and the request id. `counters` are those of the
    Delivery whose queue this one takes over. `sleep` is there for tests. Everything runs in the event loop that called
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
        reply_now: ReplyNow = lambda request_id, body: False,
        on_delivered: Callable[[int, str], None] = lambda packets, request_id: None,
        attempts: int = ATTEMPTS,
        pauses: Backoff = PAUSES,
        counters: DeliveryStats | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._destination = destination
        self._reader = reader
        self._listener = listener
        self._events = events
        self._reply = reply
        self._reply_now = reply_now
        self._on_delivered = on_delivered
        self._attempts = attempts
        self._pauses = pauses
        self._sleep = sleep
        self._slots = max(1, destination.concurrency)
        self._prompt = destination if isinstance(destination, PromptDestination) else None
        self._running: dict[_Job, UnderWay] = {}
        self._none_running = asyncio.Event()  # set when the last one has ended
        self._watched = False
        self._stopped = False
        self._finished = asyncio.Event()
        self._stats = counters or DeliveryStats()

    @property
    def stats(self) -> DeliveryStats:
        """A copy of the counters."""
        stats = self._stats
        return DeliveryStats(
            **{name: getattr(stats, name) for name in DeliveryStats.__slots__}
            | {
                "failed_by_reason": dict(stats.failed_by_reason),
                "known_reasons": (*OWN_REASONS, *self._destination.reasons),
                "in_flight": len(self._running),
            }
        )

    @property
    def packets_under_way(self) -> int:
        """Packets that were read and have not completed. From any thread."""
        return sum(job.left for job in list(self._running))

    def start(self) -> None:
        """Begin to deliver; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._watch()

    @property
    def counters(self) -> DeliveryStats:
        """The counters themselves, for the Delivery that takes over."""
        return self._stats

    def hand_over(self) -> None:
        """Read no more: another Delivery takes over the queue. `end_running` ends the deliveries under way."""
        self._stopped = True
        self._unwatch()

    async def end_running(self, seconds: float) -> None:
        """Wait at most `seconds` for the deliveries under way, then give them up as `Shutdown`."""
        await self._wait_for_running(max(0.0, seconds))
        await self._give_up_running()

    async def drain(self, seconds: float) -> None:
        """Deliver the queued packets for at most `seconds`, then count the rest as failed with the reason `Shutdown`.

        Close the Port first: only the queue of a closed reader comes to an end. Afterwards every packet that was read
        has completed, and no delivery runs.
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
            self._stats.batches_failed += batches
            self._count_failed("Shutdown", packets)
            detail = "the gateway stopped before these batches could be delivered"
            self._emit("DeliveryFailed", Reason="Shutdown", Detail=detail, Packets=packets, Batches=batches)

    async def _give_up_running(self) -> None:
        for job, under_way in list(self._running.items()):
            under_way.cancel()
            if not isinstance(under_way, asyncio.Task):
                self._failed(job, *_CANCELLED)
                self._ended(job)
        # A Destination that ignores its cancellation cannot hold up the shutdown.
        await self._wait_for_running(CANCEL_SECONDS)
        for job in list(self._running):
            self._failed(
                job, "Shutdown", "the gateway stopped and the Destination did not let go of the batch"
            )

    async def _wait_for_running(self, seconds: float) -> None:
        if self._running:
            self._none_running.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._none_running.wait(), seconds)

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
            # The reader would call for good from now on, and the loop would spin.
            self._unwatch()
            if not self._running:
                self._finished.set()
        elif len(batches) < free:
            self._watch()
        else:
            self._unwatch()

    def _begin(self, batch: PacketBatch) -> None:
        job = _Job(batch, batch.count, new_id(), self._loop.time())
        under_way = None
        if self._prompt is not None:
            try:
                ended = partial(self._on_outcome, job)
                under_way = self._prompt.begin(batch, job.request_id, _EarlyAnswers(self, job), ended)
            except Exception as error:  # code of others, which may raise whatever it likes
                return self._internal_error(job, error)
        if under_way is None:
            self._begin_task(job, self._run(job))
        else:
            self._running[job] = under_way

    def _begin_task(self, job: _Job, work: Coroutine[Any, Any, None]) -> None:
        name = f"deliver {self._listener}/{self._destination.name}"
        task = self._running[job] = self._loop.create_task(work, name=name)
        task.add_done_callback(lambda _: self._ended(job))

    def _on_outcome(self, job: _Job, outcome: Outcome) -> None:
        """A delivery without a task has ended. What takes longer from here on gets one."""
        self._stats.attempts.add(self._loop.time() - job.began)
        if not isinstance(outcome, bytes):
            self._begin_task(job, self._run(job, outcome))
        elif self._delivered(job, job.left) and not self._answer_now(job, outcome):
            self._begin_task(job, self._answer(job, outcome))
        else:
            self._ended(job)

    def _ended(self, job: _Job) -> None:
        del self._running[job]
        if not job.ended:
            # The task was cancelled before its first step: its coroutine never ran.
            self._failed(job, "Shutdown", "the gateway stopped before the batch was delivered")
        if not self._running:
            self._none_running.set()
        self._pump()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._reader.on_ready(self._pump)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._reader.on_ready(None)

    # One batch

    async def _run(self, job: _Job, failed: Exception | None = None) -> None:
        """`failed` is how the first attempt has ended, if there was one."""
        delivery_id.set(job.request_id)
        early_answers.set(_EarlyAnswers(self, job))
        try:
            answer = await self._deliver(job, failed)
        except asyncio.CancelledError:
            if _cancelled_by_us():
                self._failed(job, *_CANCELLED)
                raise
            # The Destination cancelled a task of its own, and the CancelledError escaped from it.
            self._internal_error(job, asyncio.CancelledError())
            return
        except (Exception, SystemExit) as error:  # code of others, which may raise whatever it likes
            self._internal_error(job, error)
            return
        if answer is not None:
            await self._answer(job, answer)

    async def _deliver(self, job: _Job, failed: Exception | None) -> bytes | None:
        """Deliver until no packet is left. Returns the service's answer, if the last attempt had one."""
        for attempt in itertools.count(1):
            try:
                if failed is not None:
                    error, failed = failed, None
                    raise error
                job.began = self._loop.time()
                try:
                    answer = await self._destination.deliver(job.batch)
                finally:
                    self._stats.attempts.add(self._loop.time() - job.began)
            except DeliveryError as error:
                self._narrow(job, error, attempt)
                if error.answer is not None:
                    await self._answer(job, error.answer)
                wish = min(self._pauses.spread(error.retry_after), LONGEST_WISH)
            else:
                return answer if self._delivered(job, job.left) else None
            if job.ended:
                return None
            self._stats.retries += 1
            await self._sleep(max(self._pauses.pause(attempt), wish))
        raise AssertionError("it counts on")

    def _narrow(self, job: _Job, error: DeliveryError, attempt: int) -> None:
        """Count the packets that a failed attempt has decided. Packets that are worth another one stay in the job."""
        if job.ended:
            return
        whole = job.left
        if names_others(error, whole):
            what = "a Destination names packets that its batch does not have"
            log.error(what, destination=self._destination.name, packets=whole)
        found = parts(error, whole, attempt, last=attempt >= self._attempts)
        self._delivered(job, found.delivered)
        for reason, (packets, detail) in found.given_up.items():
            self._failed(job, reason, detail, packets)
        if 0 < len(found.again) < whole:
            job.batch = RecordBatch.some_of(job.batch, found.again, self._destination.expressions)

    async def answer_early(self, job: _Job, answer: bytes) -> None:
        """Hand on an answer of a delivery that still runs. What comes after its end is refused."""
        if job.ended:
            return self._reply_failed(job, *_TOO_LATE)
        await self._answer(job, answer, _TOO_LATE)

    def _answer_now(self, job: _Job, answer: bytes) -> bool:
        """`_answer` for what most answers are; false where it is more, or there is no room."""
        if answer == b"null":
            return True
        if not answer.startswith(b"{"):
            return False
        try:
            replied = self._reply_now(job.request_id, answer)
        except Exception:  # `_answer` meets it again, and reports it
            return False
        self._stats.replies += replied
        return replied

    async def _answer(self, job: _Job, answer: bytes, cancelled: tuple[str, str] = _STOPPED) -> None:
        """Hand on an answer. The packets are delivered whatever happens here. `cancelled` is the reason and detail if
        the wait for room is cancelled."""
        if not isinstance(answer, bytes):  # whatever a class of others returns
            detail = f"deliver returned {type(answer).__name__}; it returns bytes or None"
            return self._reply_failed(job, "MalformedReply", detail)
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
            self._reply_failed(job, *cancelled)
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

    def _delivered(self, job: _Job, packets: int) -> bool:
        """Count packets of a job as delivered. False if the job had completed before."""
        if job.ended:
            return False
        if packets:
            self._stats.packets_delivered += packets
            self._on_delivered(packets, job.request_id)
            self._take_off(job, packets)
        return True

    def _failed(self, job: _Job, reason: str, detail: str, packets: int | None = None) -> None:
        """Count and report packets of a job as given up; by default, all that are left."""
        if job.ended:
            return
        packets = job.left if packets is None else packets
        job.failed = True
        self._count_failed(reason, packets)
        self._emit(
            "DeliveryFailed", Reason=reason, Detail=_cut(detail), Packets=packets, RequestId=job.request_id
        )
        self._take_off(job, packets)

    def _take_off(self, job: _Job, packets: int) -> None:
        job.left -= packets
        if job.ended:
            self._stats.batches_failed += job.failed
            self._stats.batches_delivered += not job.failed

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

    def _count_failed(self, reason: str, packets: int) -> None:
        self._stats.packets_failed += packets
        by_reason = self._stats.failed_by_reason
        by_reason[reason] = by_reason.get(reason, 0) + packets

    def answer_malformed(self, job: _Job, detail: str) -> None:
        """Count and report a part of an answer that is none."""
        self._reply_failed(job, "MalformedReply", detail)

    def _reply_failed(self, job: _Job, reason: str, detail: str) -> None:
        self._stats.replies_failed += 1
        self._emit(
            "ReplyFailed", Reason=reason, Detail=detail, Packets=job.batch.count, RequestId=job.request_id
        )

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
