"""What waits in the state to be sent (contract sections 4.1, 4.2): entries until their `SendAt`, and messages that were
acknowledged because they lie there.

Theory of operation. Everything that is to be kept or forgotten goes into one batch, and a thread commits it: one fsync
for all that came while the one before was under way. `keep` calls back after the commit, and not before that anybody is
told. What is due is handed to the egress of its PacketSource and forgotten once it has
ended and its dead letters are written: a crash in between sends it again, unless it has an `Id`. So are whole messages,
as soon as they are kept. What an egress had no room for, or has left unfinished as its Listener was closed, lies in the
state all the same, and is read from there later.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import structlog

from sluicegate.backoff import Backoff
from sluicegate.egress.message import Due, EgressClosed, Message, Outcome
from sluicegate.events import EventLog
from sluicegate.faults import log_fault
from sluicegate.state import StateError
from sluicegate.state.waiting import WaitingRow, WaitingTable
from sluicegate.threads import Threads

log = structlog.get_logger("sluicegate.waiting")

UNDER_WAY = 1_024
"""Entries of one PacketSource that are under way at most; the others wait in the state."""
CHUNK = 512
UNWRITTEN_BYTES = 32 * 1024 * 1024
"""From so much on that waits for the disk, whoever can refuse more does."""
OVERDUE_MS = 1_000
"""So late an entry has missed its time, and waits as long as it takes for its turn. One that fell due before the start
has missed it however late it is."""
IDLE_SECONDS = 1.0
"""How often it is looked what has come back: PacketSources, room."""
BUSY_SECONDS = 0.02

Kept = Callable[[Sequence[int]], None]


class DueSender(Protocol):
    """Where due entries go: `sluicegate.egress.egress.Egress`."""

    @property
    def congested(self) -> bool: ...
    def try_submit(
        self,
        messages: Sequence[Message],
        ended: Callable[[Outcome], None] | None = None,
        gone: Callable[[], object] | None = None,
    ) -> int: ...
    def submit_later(self, message: Message) -> None: ...
    def settled(self, source: int) -> bool: ...
    async def settle(self, source: int) -> None: ...


Find = Callable[[str], tuple[DueSender, int, str] | None]
"""`(sender, index, state)` of a PacketSource that runs."""


@dataclass(slots=True)
class _Batch:
    add: list[WaitingRow] = field(default_factory=list)
    remove: list[int] = field(default_factory=list)
    kept: list[tuple[int, Kept]] = field(default_factory=list)
    size: int = 0


def _consequence(batch: _Batch) -> str:
    """Of a batch that cannot be written."""
    add, remove = len(batch.add), len(batch.remove)
    kept = f"{add} are not acknowledged" if add else ""
    forgotten = f"{remove} that were sent or are cancelled are not forgotten" if remove else ""
    return f"; {', and '.join(filter(None, (kept, forgotten)))} until it can be written"


class Waiting:
    """Belongs to the event loop. `leave(n)`: n entries wait no more, of which the native side does not know. Made
    before anything is kept; raises `StateError`."""

    def __init__(
        self,
        table: WaitingTable,
        events: EventLog,
        leave: Callable[[int], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._events = events
        self._leave = leave
        self._clock = clock
        self._threads = Threads("waiting entries")
        self._readers = Threads("due entries")
        self._batch = _Batch()
        self._writing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._next_ms: int | None = None
        self._unwritten = 0
        self._under_way: dict[int, str] = {}
        # Of whole messages: those that were handed over as they came, and what of each PacketSource is not.
        self._live: set[int] = set()
        self._last = table.last()
        self._left: dict[str, int] = {}
        self._came_back = 0
        # What has been cancelled or sent since the state was read: it may be among what was read.
        self._ended: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._run_task: asyncio.Task[None] | None = None
        self._began_ms = clock() * 1e3
        self._find: Find = lambda _: None
        self._sources: Callable[[], Iterable[str]] = tuple
        self._closed = False

    # Keeping

    def keep(self, rows: Sequence[WaitingRow], kept: Kept | None = None, remove: Iterable[int] = ()) -> None:
        """Keep `rows` and forget others; `kept` is called with the numbers of `rows` once all that is on the disk. It
        is not called if the gateway stops first."""
        batch = self._batch
        if kept is not None:
            batch.kept.append((len(rows), kept))
        elif rows:
            batch.kept.append((len(rows), lambda _: None))
        batch.add += rows
        batch.remove += remove
        size = sum(len(row.body) for row in rows)
        batch.size += size
        self._unwritten += size
        if self._writing is None and not self._closed:
            self._writing = asyncio.create_task(self._write(), name="keep what waits")

    @property
    def full(self) -> bool:
        """True while much waits for the disk, as it does where that is full or slow."""
        return self._unwritten >= UNWRITTEN_BYTES

    async def accept(self, rows: Sequence[WaitingRow]) -> Sequence[int]:
        """Keep whole messages, and send each of them as soon as it is on the disk; their numbers, once they are."""
        kept: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()

        def send(numbers: Sequence[int]) -> None:
            for row, number in zip(rows, numbers, strict=True):
                self._send_at_once(replace(row, number=number))
            if not kept.done():
                kept.set_result(numbers)

        self.keep(rows, send)
        return await kept

    async def _write(self) -> None:
        backoff, attempt = Backoff(0.25, 5.0), 0
        while self._batch.add or self._batch.remove or self._batch.kept:
            batch, self._batch = self._batch, _Batch()
            while True:
                try:
                    numbers = await self._threads.call(partial(self._table.write, batch.add, batch.remove))
                    break
                except Exception as error:
                    attempt += 1
                    if attempt == 1:
                        self._report("WriteFailed", error, _consequence(batch))
                    await asyncio.sleep(backoff.pause(attempt))
            attempt = 0
            self._unwritten -= batch.size
            self._note_times(batch.add)
            at = 0
            for count, kept in batch.kept:
                try:
                    kept(numbers[at : at + count])
                except Exception as error:
                    log_fault(log, "what is kept was not told", error)
                at += count
        self._writing = None

    def _report(self, reason: str, error: Exception, consequence: str = "") -> None:
        if not isinstance(error, StateError):
            log_fault(log, "what waits could not be kept or read", error)
        cause = str(error) if isinstance(error, StateError) else "an error in the gateway, see its log"
        self._events.emit("ScheduleFailed", Reason=reason, Detail=cause + consequence)

    def _note_times(self, rows: Iterable[WaitingRow]) -> None:
        first = min((row.at_ms for row in rows if row.index is not None), default=None)
        if first is not None and (self._next_ms is None or first < self._next_ms):
            self._next_ms = first
            self._wake.set()

    # Sending

    def start(self, find: Find, sources: Callable[[], Iterable[str]]) -> None:
        """Begin to send what is due. `sources` are the names of the PacketSources that run."""
        self._find, self._sources = find, sources
        self._run_task = asyncio.create_task(self._run(), name="send what is due")

    async def stop(self) -> None:
        """Send nothing more. What is under way may end."""
        if self._run_task is not None:
            self._run_task.cancel()
            await asyncio.gather(self._run_task, return_exceptions=True)

    async def close(self) -> None:
        """Write what is to be written, after the Listeners have ended. Safe to call twice."""
        await self.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._writing is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._writing, 2.0)
        self._closed = True
        self._threads.close()
        self._readers.close()

    async def _run(self) -> None:
        while True:
            try:
                self._ended.clear()
                names = [name for name in self._sources() if self._find(name) is not None]
                more = await self._send_messages(names) | await self._send_due(names)
            except Exception as error:
                self._report("ReadFailed", error)
                more = False
            await self._pause(more)

    async def _pause(self, more: bool) -> None:
        seconds = BUSY_SECONDS
        if not more:
            next_ms = self._next_ms
            wait = IDLE_SECONDS if next_ms is None else next_ms / 1e3 - self._clock()
            seconds = max(0.0, min(IDLE_SECONDS, wait))
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _send_messages(self, names: Sequence[str]) -> bool:
        """Send the messages that nobody sends: those of before this start, and what was left behind since; true if
        there are more at this moment."""
        found = False
        for name in names:
            after, last, came_back = self._left.get(name, 0), self._last, self._came_back
            if after >= last or self._busy(name):
                continue
            skip = [*self._live, *self._under_way]
            rows = await self._readers.call(
                partial(self._table.messages, [name], after, last, skip, CHUNK // 8)
            )
            if self._came_back != came_back:
                return True  # one that was under way when this was read
            if not rows:
                self._left[name] = last
            for row in rows:
                if not self._submit(row):
                    break
                self._left[name] = row.number
                found = True
        return found

    def _send_at_once(self, row: WaitingRow) -> None:
        """A message has just been kept."""
        self._live.add(row.number)
        if not self._submit(row):
            self._leave_behind(row)

    def _leave_behind(self, row: WaitingRow) -> None:
        """Nobody sends this message: it is to be read again."""
        self._live.discard(row.number)
        self._came_back += 1
        self._left[row.source] = min(self._left.get(row.source, 0), row.number - 1)
        self._last = max(self._last, row.number)

    async def _send_due(self, names: Sequence[str]) -> bool:
        now_ms = int(self._clock() * 1e3)
        blocked = {name for name in names if self._busy(name)}
        rows: Sequence[WaitingRow] = ()
        while ready := [name for name in names if name not in blocked]:
            skip = list(self._under_way)
            rows = await self._readers.call(partial(self._table.due, now_ms, ready, skip, CHUNK))
            before = len(blocked)
            for row in rows:
                if row.source not in blocked and (self._busy(row.source) or not self._submit(row)):
                    blocked.add(row.source)
            if len(blocked) == before:
                break
        self._next_ms = None
        next_ms = await self._readers.call(partial(self._table.next_ms, now_ms))
        if next_ms is not None and (self._next_ms is None or next_ms < self._next_ms):
            self._next_ms = next_ms
        return bool(blocked) or len(rows) == CHUNK

    def _busy(self, source: str) -> bool:
        return sum(one == source for one in self._under_way.values()) >= UNDER_WAY

    def _submit(self, row: WaitingRow) -> bool:
        """Hand over what is due; false if there is no room for it."""
        if row.number in self._under_way or row.number in self._ended:
            return True
        found = self._find(row.source)
        if found is None or found[0].congested:
            return False
        sender, index, state = found
        refusal = row.refusal
        if refusal is None and state != "Active":
            refusal = ("SourceDisabled", f"PacketSource {row.source} is {state}")
        message = Message(row.message_id, index, row.body, row.published_at, refusal)
        if row.index is not None:
            overdue = row.at_ms < max(self._began_ms, self._clock() * 1e3 - OVERDUE_MS)
            message.published_at, message.due = row.at_ms / 1e3, Due(row.index, tuple(row.ids), overdue)
        ended = partial(self._end, row.number, sender, index)
        if not sender.try_submit([message], ended, partial(self._gone, row)):
            return False
        if row.number not in self._live:
            self._under_way[row.number] = row.source
        return True

    def _gone(self, row: WaitingRow) -> None:
        """Its Listener was closed first."""
        self._under_way.pop(row.number, None)
        if row.index is None:
            self._leave_behind(row)

    def _end(self, number: int, sender: DueSender, index: int, outcome: Outcome) -> None:
        """What was kept under `number` has ended so: it is forgotten once its dead letters are written."""
        if not outcome.failures or sender.settled(index):
            self._forget(number)
            return
        task = asyncio.create_task(self._settle(number, sender, index), name="settle what waited")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, number: int, sender: DueSender, index: int) -> None:
        with contextlib.suppress(EgressClosed):
            await sender.settle(index)
            self._forget(number)

    def _forget(self, number: int) -> None:
        def forgotten(_: Sequence[int]) -> None:
            self._ended.add(number)
            self._live.discard(number)
            self._under_way.pop(number, None)

        self.keep((), forgotten, [number])

    # Looking at them, and cancelling

    async def ids(self, sources: Iterable[str]) -> list[tuple[str, str]]:
        """`(source, Id)` of what waits for these PacketSources. Raises `StateError`."""
        return await self._readers.call(partial(self._table.ids, list(sources)))

    async def count(self) -> int:
        """How many entries wait. Raises `StateError`."""
        return await self._readers.call(self._table.count)

    async def page(
        self, source: str | None, message_id: str | None, after: int, limit: int
    ) -> list[WaitingRow]:
        """Entries that wait, by their numbers from above `after` on. Raises `StateError`."""
        return await self._readers.call(partial(self._table.page, source, message_id, after, limit))

    async def cancel(self, number: int) -> bool:
        """Cancel the entry with this number; false if there is none that waits."""
        row = await self._readers.call(partial(self._table.one, number))
        return row is not None and await self._cancel([row]) > 0

    async def cancel_all(self, source: str | None, message_id: str | None) -> int:
        """Cancel the entries of this PacketSource and message, where given; how many, each of their `Remotes`
        counted."""
        cancelled, after = 0, 0
        while rows := await self.page(source, message_id, after, CHUNK):
            after = rows[-1].number
            cancelled += await self._cancel(rows)
        return cancelled

    async def _cancel(self, rows: Sequence[WaitingRow]) -> int:
        waiting = [row for row in rows if row.number not in self._under_way]
        if not waiting:
            return 0
        numbers = [row.number for row in waiting]
        self._under_way.update((row.number, row.source) for row in waiting)  # nobody else takes them
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.keep((), lambda _: None if gone.done() else gone.set_result(None), numbers)
        await gone
        self._ended.update(numbers)
        for row in waiting:
            del self._under_way[row.number]
            self._tell_cancelled(row)
        return sum(row.entries for row in waiting)

    def _tell_cancelled(self, row: WaitingRow) -> None:
        """An event and a counter, by the way that failed entries have."""
        reason, detail = "Cancelled", "it was cancelled before its SendAt"
        found = self._find(row.source)
        if found is not None:
            sender, index, _ = found
            due = Due(row.index or 0, tuple(row.ids), overdue=False)
            message = Message(row.message_id, index, row.body, row.at_ms / 1e3, (reason, detail), due=due)
            sender.submit_later(message)
            return
        self._leave(row.entries)
        self._events.emit(
            "SourceFailed",
            PacketSource=row.source,
            MessageId=row.message_id,
            Index=row.index,
            Reason=reason,
            Detail=detail,
        )
