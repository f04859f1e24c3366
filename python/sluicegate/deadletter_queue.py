"""Dead letters in SQS: one task for each queue sends what is appended, and never loses a letter without a count.

Theory of operation. Letters wait in memory, rendered, in the order in which entries failed. The task sends from the
head, and a letter leaves only when SQS has it; so `settle` has to wait for nothing but the number at the head. While
the queue cannot be reached the task tries again, with growing, jittered pauses. What waits is bounded twice: senders
that settle their messages (a queue's consumer) stop to fetch and lose nothing; letters of others (local topics, REST)
are dropped and counted beyond `limit_bytes`.

The gateway's own credentials are used. They need `sqs:GetQueueUrl` and `sqs:SendMessage` on the queue.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from .aws import Aws, AwsError, Queue
from .backoff import Backoff
from .deadletters import DeadLetter, NotKept
from .events import EventLog
from .faults import log_fault

log = structlog.get_logger("sluicegate.deadletters")

WAITING_BYTES = 16 << 20
LETTER_BYTES = 262_144
"""The default limit of a queue's messages before 2025, which most queues still have; larger letters are cut."""
SMALLEST_BYTES = 1_024  # the lowest MaximumMessageSize that a queue can have
CHUNK = 100  # letters in one go: up to ten requests of SendMessageBatch at once
CLOSING_PAUSE_SECONDS = 0.3
REPORT_SECONDS = 60.0
"""While an outage lasts, it is told once in this time."""

# Codes of single letters in a batch: the queue will never take this one as it is.
_REFUSED = frozenset(["InvalidMessageContents", "InvalidParameterValue", "MessageTooLong"])


@dataclass(slots=True)
class DeadLetterStats:
    """Letters since the start, and those that wait now."""

    kept: int = 0
    lost: int = 0
    waiting: int = 0


@dataclass(slots=True)
class _Waiting:
    letter: DeadLetter
    body: str
    number: int
    settles: bool
    cut: bool = False


class DeadLetterQueue:
    """The SQS queue `arn`. Belongs to the event loop in which `start` is called; `close` it before `aws`."""

    def __init__(
        self,
        arn: str,
        aws: Aws,
        events: EventLog,
        *,
        limit_bytes: int = WAITING_BYTES,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = arn
        self._aws = aws
        self._events = events
        self._limit = limit_bytes
        self._backoff = backoff or Backoff()
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._numbers = itertools.count(1)
        self._newest = 0
        self._settling: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closing = asyncio.Event()
        self._queue: Queue | None = None
        self._task: asyncio.Task[None] | None = None
        self._dropped: dict[tuple[str, str], int] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._told_at = float("-inf")
        self._kept = self._lost = 0
        self._unkept = False  # letters were lost whose messages are not to be acknowledged

    @property
    def stats(self) -> DeadLetterStats:
        return DeadLetterStats(self._kept, self._lost, len(self._waiting))

    def start(self) -> None:
        """Begin to send. The queue is looked up at once, so that a wrong ARN or policy is an event at the start."""
        self._task = asyncio.create_task(self._run(), name=f"dead letters {self.name}")

    def append(self, letters: Sequence[DeadLetter], *, settles: bool) -> None:
        """Take them for sending. Never raises and never waits."""
        for letter in letters:
            body = letter.text(LETTER_BYTES)
            if self._closing.is_set() or (not settles and self._bytes + len(body) > self._limit):
                self._unkept |= settles
                self._drop(letter)
                continue
            self._newest = next(self._numbers)
            self._waiting.append(_Waiting(letter, body, self._newest, settles))
            self._bytes += len(body)
        if self._waiting:
            self._empty.clear()
            self._more.set()

    async def settle(self) -> None:
        """Return once SQS has everything appended so far. `NotKept` when the gateway stops first."""
        if self._unkept:
            raise NotKept
        if not self._waiting:
            return
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling.append((self._newest, settled))
        await settled

    async def close(self, seconds: float) -> None:
        """Send what waits for at most `seconds`; what is left is reported with its number. Safe to call twice."""
        self._closing.set()
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), max(0.0, seconds))
        task, self._task = self._task, None
        if task is None:
            return  # somebody else gave it less time
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._report_left()
        self._report_dropped()
        self._empty.set()  # whoever would have waited for longer need not

    # The task

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                if self._queue is None:
                    self._queue = await self._look_up()
                await self._more.wait()
                refused = await self._send(self._queue)
            except AwsError as error:
                if not error.retryable:
                    self._queue = None  # it may have been made anew
                self._tell(_reason(error), str(error))
            except (
                Exception
            ) as error:  # the letters wait for a version that can do it, rather than for nothing
                log_fault(log, "dead letters could not be sent", error, queue=self.name)
                self._tell("InternalError", "the gateway's log says why")
            else:
                if not refused:
                    failures, self._told_at = 0, float("-inf")
                    continue
                self._tell("Unavailable", f"SQS did not take some letters ({', '.join(sorted(refused))})")
            failures += 1
            await self._pause(failures)

    async def _look_up(self) -> Queue:
        _, _, _, region, account, name = self.name.split(":")
        wanted = {"QueueName": name, "QueueOwnerAWSAccountId": account}
        answer = await self._aws.call("sqs", "GetQueueUrl", wanted, region=region)
        return self._aws.queue(str(answer["QueueUrl"]), region=region)

    async def _send(self, queue: Queue) -> set[str]:
        """Send letters from the head; the codes of those that are to be tried again."""
        chunk = list(itertools.islice(self._waiting, CHUNK))
        failed = dict(await queue.send([one.body for one in chunk]))
        again: list[_Waiting] = []
        codes: set[str] = set()
        for index, one in enumerate(chunk):
            self._waiting.popleft()
            code = failed.get(index)
            if code is None:
                self._kept += 1
                self._bytes -= len(one.body)
            elif code not in _REFUSED:
                codes.add(code)
                again.append(one)
            elif not one.cut:
                self._bytes -= len(one.body)
                one.body, one.cut = one.letter.text(SMALLEST_BYTES), True
                self._bytes += len(one.body)
                again.append(one)
            else:
                self._bytes -= len(one.body)
                self._refused(one.letter, code)
        self._waiting.extendleft(reversed(again))
        self._settled()
        return codes

    def _settled(self) -> None:
        if not self._waiting:
            self._more.clear()
            self._empty.set()
        # Letters that are tried again keep their numbers and their place at the head.
        reached = self._waiting[0].number - 1 if self._waiting else self._newest
        while self._settling and self._settling[0][0] <= reached:
            _, settled = self._settling.popleft()
            if not settled.done():
                settled.set_result(None)

    async def _pause(self, failures: int) -> None:
        seconds = self._backoff.pause(failures)
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, CLOSING_PAUSE_SECONDS))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    # What is told

    def _tell(self, reason: str, cause: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at < REPORT_SECONDS:
            return
        self._told_at = now
        waiting = len(self._waiting)
        detail = f"dead letters cannot be sent to {self.name} and wait: {cause}"
        letter = self._waiting[0].letter if waiting else None
        self._emit(letter, reason, detail, waiting)

    def _refused(self, letter: DeadLetter, code: str) -> None:
        self._lost += 1
        detail = f"{self.name} refuses this dead letter ({code}): check its MaximumMessageSize"
        self._emit(letter, "Refused", f"{detail}; entry {letter.index} of message {letter.message_id}", 1)

    def _drop(self, letter: DeadLetter) -> None:
        self._lost += 1
        key = (letter.listener, letter.source)
        self._dropped[key] = self._dropped.get(key, 0) + 1
        if self._flush is None:
            # Once a second, so that the numbers in the events add up.
            self._flush = asyncio.get_running_loop().call_later(1.0, self._report_dropped)

    def _report_dropped(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        dropped, self._dropped = self._dropped, {}
        for (listener, source), count in dropped.items():
            self._events.emit(
                "DeadLetterFailed",
                Listener=listener,
                PacketSource=source,
                Reason="QueueFull",
                Detail=f"no room for dead letters: {self._bytes} bytes wait for {self.name}",
                Letters=count,
            )

    def _report_left(self) -> None:
        """Of the letters that did not leave, those of messages that were not acknowledged come again with them."""
        again = sum(one.settles for one in self._waiting)
        lost = len(self._waiting) - again
        self._lost += lost
        if self._waiting:
            detail = (
                f"it was closed before these dead letters were in {self.name}: {lost} are lost, "
                f"{again} come again with their messages"
            )
            self._emit(self._waiting[0].letter, "Shutdown", detail, len(self._waiting))
        self._unkept |= again > 0
        self._waiting.clear()
        for _, settled in self._settling:
            if not settled.done():
                settled.set_exception(NotKept())
        self._settling.clear()

    def _emit(self, letter: DeadLetter | None, reason: str, detail: str, letters: int) -> None:
        self._events.emit(
            "DeadLetterFailed",
            Listener=letter.listener if letter else None,
            PacketSource=letter.source if letter else None,
            Reason=reason,
            Detail=detail,
            Letters=letters,
        )


def _reason(error: AwsError) -> str:
    if error.denied:
        return "AccessDenied"
    if "NonExistentQueue" in error.code or "QueueDoesNotExist" in error.code:
        return "NoSuchQueue"
    return "Throttled" if error.throttled else "Unavailable"
