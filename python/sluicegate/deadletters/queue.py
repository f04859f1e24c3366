"""Dead letters in SQS: one task for each queue sends what is appended, and never loses a letter without a count.

Theory of operation. What waits are messages, in the order in which they failed, each as its body and its failures: its
letters may be hundreds of times as long. The task makes letters of the first ones, a chunk at a time, and a letter
leaves only when SQS has it; so `settle` has to wait for nothing but the number at the head. While the queue cannot be
reached the task tries again, with growing, jittered pauses. What waits is bounded twice: beyond `limit_bytes` senders
that settle their messages (a queue's consumer) see that it is `congested`, bring no more than is under way and lose
nothing; the letters of others (local topics, REST) are dropped and counted.

The gateway's own credentials are used. They need `sqs:GetQueueUrl` and `sqs:SendMessage` on the queue.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from sluicegate.aws import Aws, AwsError, Queue
from sluicegate.aws.outage import Outage
from sluicegate.backoff import Backoff
from sluicegate.deadletters.letter import DeadLetter, FailedMessage, NotKept
from sluicegate.events import EventLog
from sluicegate.faults import log_fault

log = structlog.get_logger("sluicegate.deadletters")

WAITING_BYTES = 16 << 20
LETTER_BYTES = 262_144
"""The default limit of a queue's messages before 2025, which most queues still have; larger letters are cut."""
SMALLEST_BYTES = 1_024  # the lowest MaximumMessageSize that a queue can have
CHUNK = 100  # letters in one go: up to ten requests of SendMessageBatch at once
CLOSING_PAUSE_SECONDS = 0.3

# Codes of single letters in a batch: the queue will never take this one as it is.
_REFUSED = frozenset(
    ["InvalidMessageContents", "InvalidParameterValue", "InvalidParameterValueException", "MessageTooLong"]
)


@dataclass(slots=True)
class DeadLetterStats:
    """Letters since the start, and those that wait now."""

    kept: int = 0
    lost: int = 0
    waiting: int = 0


@dataclass(slots=True)
class _Waiting:
    """A message of which SQS does not have `left` letters; `unmade` of them are still to come from `letters`."""

    message: FailedMessage
    number: int
    settles: bool
    size: int
    left: int
    unmade: int
    letters: Iterator[DeadLetter] = field(init=False)

    def __post_init__(self) -> None:
        self.letters = self.message.letters()  # nothing is made before the first is taken


@dataclass(slots=True)
class _Letter:
    letter: DeadLetter
    body: str
    of: _Waiting
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
        self._waiting: dict[int, _Waiting] = {}  # by number, so in order
        self._made: deque[_Letter] = deque()
        self._bytes = self._letters = 0
        self._numbers = itertools.count(1)
        self._newest = 0
        self._settling: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closing = asyncio.Event()
        self._outage = Outage(
            f"dead letters {arn}", self._tell, self._closing, backoff, closing_seconds=CLOSING_PAUSE_SECONDS
        )
        self._queue: Queue | None = None
        self._task: asyncio.Task[None] | None = None
        self._dropped: dict[tuple[str, str], int] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._kept = self._lost = 0
        self._unkept = False  # letters were lost whose messages are not to be acknowledged

    @property
    def stats(self) -> DeadLetterStats:
        return DeadLetterStats(self._kept, self._lost, self._letters)

    @property
    def congested(self) -> bool:
        """True while more than `limit_bytes` wait: who settles its messages is to bring no more of them."""
        return self._bytes > self._limit

    @property
    def settled(self) -> bool:
        """True if SQS has everything appended so far."""
        return not self._waiting and not self._unkept

    def start(self) -> None:
        """Begin to send. The queue is looked up at once, so that a wrong ARN or policy is an event at the start."""
        self._task = asyncio.create_task(self._run(), name=f"dead letters {self.name}")

    def append(self, messages: Sequence[FailedMessage], *, settles: bool) -> None:
        """Take them for sending. Never raises and never waits."""
        for message in messages:
            size, letters = message.held_bytes, len(message.failures)
            if self._closing.is_set() or (not settles and self._bytes + size > self._limit):
                self._unkept |= settles
                self._drop(message, letters)
                continue
            self._newest = next(self._numbers)
            self._waiting[self._newest] = _Waiting(message, self._newest, settles, size, letters, letters)
            self._bytes += size
            self._letters += letters
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
        while True:
            try:
                if self._queue is None:
                    self._queue = await self._look_up()
                await self._more.wait()
                refused = await self._send(self._queue)
            except AwsError as error:
                if not error.retryable:
                    self._queue = None  # it may have been made anew
                # A policy names the ARN; other errors are better told with the URL that was asked.
                self._outage.failed(error.about(self.name) if error.denied else error)
            except Exception as error:  # the letters wait: the task must not end
                self._outage.failed(error)
            else:
                if not refused:
                    self._outage.over()
                    continue
                self._outage.tell("Unavailable", f"SQS did not take some ({', '.join(sorted(refused))})")
            await self._outage.pause()

    async def _look_up(self) -> Queue:
        _, _, _, region, account, name = self.name.split(":")
        wanted = {"QueueName": name, "QueueOwnerAWSAccountId": account}
        answer = await self._aws.call("sqs", "GetQueueUrl", wanted, region=region)
        return self._aws.queue(str(answer["QueueUrl"]), region=region)

    async def _send(self, queue: Queue) -> set[str]:
        """Send letters from the head; the codes of those that are to be tried again."""
        self._make()
        chunk = list(self._made)
        failed = dict(await queue.send([one.body for one in chunk]))
        self._made.clear()
        codes: set[str] = set()
        for index, one in enumerate(chunk):
            code = failed.get(index)
            if code is None:
                self._kept += 1
                self._end(one.of)
            elif code not in _REFUSED:
                codes.add(code)
                self._made.append(one)
            elif not one.cut:
                one.body, one.cut = one.letter.text(SMALLEST_BYTES), True
                self._made.append(one)
            else:
                self._refused(one, code)
                self._end(one.of)
        self._settled()
        return codes

    def _make(self) -> None:
        """Make letters of the messages at the head, up to a chunk with those that are tried again."""
        for waiting in list(itertools.islice(self._waiting.values(), CHUNK)):
            try:
                while waiting.unmade and len(self._made) < CHUNK:
                    letter = next(waiting.letters)
                    self._made.append(_Letter(letter, letter.text(LETTER_BYTES), waiting))
                    waiting.unmade -= 1
            except Exception as error:  # the others are not to wait for what cannot be made
                log_fault(log, "dead letters could not be made", error, queue=self.name)
                lost, waiting.unmade = waiting.unmade, 0
                self._lost += lost
                self._emit(waiting.message, "InternalError", "a fault of the gateway, see its log", lost)
                self._end(waiting, lost)
            if not waiting.unmade:
                waiting.letters = iter(())  # lets go of the entries

    def _end(self, waiting: _Waiting, letters: int = 1) -> None:
        waiting.left -= letters
        self._letters -= letters
        if waiting.left == 0:
            del self._waiting[waiting.number]
            self._bytes -= waiting.size

    def _head(self) -> _Waiting | None:
        return next(iter(self._waiting.values()), None)

    def _settled(self) -> None:
        head = self._head()
        if head is None:
            self._more.clear()
            self._empty.set()
        # Letters that are tried again keep their message, with its number, at the head.
        reached = self._newest if head is None else head.number - 1
        while self._settling and self._settling[0][0] <= reached:
            _, settled = self._settling.popleft()
            if not settled.done():
                settled.set_result(None)

    # What is told

    def _tell(self, reason: str, cause: str) -> None:
        detail = f"dead letters cannot be sent to {self.name} and wait: {cause}"
        head = self._head()
        self._emit(head.message if head else None, reason, detail, self._letters)

    def _refused(self, one: _Letter, code: str) -> None:
        self._lost += 1
        message, index = one.of.message, one.letter.failure.index
        detail = f"{self.name} refuses this dead letter ({code}): check its MaximumMessageSize"
        self._emit(message, "Refused", f"{detail}; entry {index} of message {message.message_id}", 1)

    def _drop(self, message: FailedMessage, letters: int) -> None:
        self._lost += letters
        key = (message.listener, message.source)
        self._dropped[key] = self._dropped.get(key, 0) + letters
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
        again = sum(one.left for one in self._waiting.values() if one.settles)
        lost = self._letters - again
        self._lost += lost
        if (head := self._head()) is not None:
            detail = (
                f"it was closed before these dead letters were in {self.name}: {lost} are lost, "
                f"{again} come again with their messages"
            )
            self._emit(head.message, "Shutdown", detail, self._letters)
        self._unkept |= again > 0
        self._waiting.clear()
        self._made.clear()
        self._bytes = self._letters = 0
        for _, settled in self._settling:
            if not settled.done():
                settled.set_exception(NotKept())
        self._settling.clear()

    def _emit(self, of: FailedMessage | None, reason: str, detail: str, letters: int) -> None:
        self._events.emit(
            "DeadLetterFailed",
            Listener=of.listener if of else None,
            PacketSource=of.source if of else None,
            Reason=reason,
            Detail=detail,
            Letters=letters,
        )
