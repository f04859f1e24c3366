"""Dead letters on their way to their place: what waits, what is settled; none goes without a count.

Theory of operation. What waits are messages, in the order in which they failed, each as its body and its failures: its
letters may be hundreds of times as long. A task of each place makes letters of the first ones, some at a time, and a
letter leaves only when the place has it; so `settle` has to wait for nothing but the number at the head. While nothing
is taken the task tries again, with growing, jittered pauses. What waits is bounded twice. Beyond three quarters of
`limit_bytes` it is `congested`: senders that settle their messages (a queue's consumer) bring no more than is under way
and lose nothing, and a publisher who can be refused is. Beyond `limit_bytes` the letters of messages that do not settle
(REST) are dropped, counted, and marked as lost in the message's outcome.
"""

import asyncio
import contextlib
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import structlog

from sluicegate.aws.outage import Outage
from sluicegate.backoff import Backoff
from sluicegate.deadletters.letter import FailedMessage, NotKept
from sluicegate.events import EventLog
from sluicegate.faults import log_fault

log = structlog.get_logger("sluicegate.deadletters")

CLOSING_PAUSE_SECONDS = 0.3

L = TypeVar("L")


@dataclass(slots=True)
class DeadLetterStats:
    """Failed entries since the start, and those whose letters wait now."""

    kept: int = 0
    lost: int = 0
    waiting: int = 0


@dataclass(slots=True)
class Waiting(Generic[L]):
    """A message of which `left` failed entries are not in their place; those of `unmade` are still to come from
    `letters`."""

    message: FailedMessage
    number: int
    settles: bool
    size: int
    left: int
    unmade: int
    letters: Iterator[L]


class DeadLetterKeeper(ABC, Generic[L]):
    """One place, called `name`. Belongs to the event loop in which `start` is called; nothing here blocks.

    A subclass says how letters are made (`_letters_of`) and kept (`_keep`).
    """

    kept_verb: ClassVar[str]
    """`sent to`, `written to`."""

    def __init__(self, name: str, events: EventLog, *, limit_bytes: int, backoff: Backoff | None) -> None:
        self.name = name
        self._events = events
        self._limit = limit_bytes
        self._waiting: dict[int, Waiting[L]] = {}  # by number, so in order
        self._bytes = self._letters = 0
        self._numbers = itertools.count(1)
        self._newest = 0
        self._settling: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closing = asyncio.Event()
        self._outage = Outage(
            f"dead letters {name}", self._tell, self._closing, backoff, closing_seconds=CLOSING_PAUSE_SECONDS
        )
        self._task: asyncio.Task[None] | None = None
        self._dropped: dict[tuple[str, str], int] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._kept = self._lost = 0
        self._unkept = False  # letters were lost whose messages are not to be acknowledged

    @property
    def key(self) -> str:
        """Places with the same key are one place."""
        return self.name

    @property
    def stats(self) -> DeadLetterStats:
        return DeadLetterStats(self._kept, self._lost, self._letters)

    @property
    def congested(self) -> bool:
        """True while so much waits that who settles its messages is to bring no more of them."""
        return self._bytes > self._limit * 3 // 4

    @property
    def settled(self) -> bool:
        """True if the place has everything appended so far."""
        return not self._waiting and not self._unkept

    def start(self) -> None:
        """Begin to keep."""
        self._task = asyncio.create_task(self._run(), name=f"dead letters {self.name}")

    def append(self, messages: Sequence[FailedMessage], *, settles: bool) -> None:
        """Take them for keeping. Never raises and never waits."""
        for message in messages:
            size, letters = message.held_bytes, len(message.failures)
            if self._closing.is_set() or (not settles and self._bytes + size > self._limit):
                self._unkept |= settles
                self._drop(message, letters)
                continue
            self._newest = next(self._numbers)
            made = self._letters_of(message)  # none, before the first is taken
            self._waiting[self._newest] = Waiting(
                message, self._newest, settles, size, letters, letters, made
            )
            self._bytes += size
            self._letters += letters
        if self._waiting:
            self._empty.clear()
            self._more.set()

    async def settle(self) -> None:
        """Return once the place has everything appended so far. `NotKept` when the gateway stops first."""
        if self._unkept:
            raise NotKept
        if not self._waiting:
            return
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling.append((self._newest, settled))
        await settled

    async def close(self, seconds: float) -> None:
        """Keep what waits for at most `seconds`; what is left is reported with its number. Safe to call twice."""
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
                await self._prepare()
                await self._more.wait()
                problem = await self._keep()
            except Exception as error:  # the letters wait: the task must not end
                self._failed(error)
            else:
                if problem is None:
                    self._outage.over()
                    continue
                self._outage.tell("Unavailable", problem)
            await self._outage.pause()

    async def _prepare(self) -> None:
        """What can be found wrong before the first letter."""

    @abstractmethod
    async def _keep(self) -> str | None:
        """Keep letters from the head, one at least; why some of them are to be tried again, else None. May raise."""

    @abstractmethod
    def _letters_of(self, message: FailedMessage) -> Iterator[L]:
        """Its letters, of which none is made before it is taken."""

    def _failed(self, error: Exception) -> None:
        """`_keep` has raised."""
        self._outage.failed(error)

    def _not_made(self, waiting: Waiting[L], error: Exception) -> None:
        """The rest of its letters cannot be made: the others are not to wait for them."""
        log_fault(log, "dead letters could not be made", error, place=self.name)
        lost, waiting.unmade = waiting.unmade, 0
        self._lost += lost
        self._emit(waiting.message, "InternalError", "a fault of the gateway, see its log", lost)
        self._end(waiting, lost)

    def _end(self, waiting: Waiting[L], letters: int = 1) -> None:
        waiting.left -= letters
        self._letters -= letters
        if waiting.left == 0 and self._waiting.pop(waiting.number, None) is not None:
            self._bytes -= waiting.size

    def _head(self) -> Waiting[L] | None:
        return next(iter(self._waiting.values()), None)

    def _settle_ended(self) -> None:
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
        detail = f"dead letters cannot be {self.kept_verb} {self.name} and wait: {cause}"
        head = self._head()
        self._emit(head.message if head else None, reason, detail, self._letters)

    def _drop(self, message: FailedMessage, letters: int) -> None:
        message.failures.lost = True
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
