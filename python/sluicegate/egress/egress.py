"""Messages in, outcomes out: one Listener's egress (contract sections 4.2, 4.3, 4.5).

Theory of operation. The native side owns a bounded ring and sends at its own pace: `submit` and `reply` put
documents into the ring, `completions` reports each of them once all of its entries have ended. Four rules
keep that honest:

- *First come, first served.* Whoever found the ring full waits in one backlog, sourced messages and handlers'
  answers alike, and while somebody waits nobody else is let past. Acceptance without waiting (`try_submit`)
  then takes nothing.
- *Room is tried for when the native side says so*, by the completions descriptor, and every 50 ms while the
  ring is known to be full: one lost wake-up must not stop a Listener for good.
- *A body is kept exactly as long as it is in flight*, to name the entries that failed; the outcome carries no
  bytes.
- *Failures of messages that their senders keep anyway are told together*, a moment later: to write letters and events
  costs about the same for one message as for fifty, and whoever would lose one in a crash now gets the message again.
  Until then they count as in flight.

Counters are the native side's (`Port.stats`): nothing is counted twice here.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sluicegate.deadletters.failures import Failures
from sluicegate.deadletters.letter import NotKept
from sluicegate.egress.failing import Body, FailureReports
from sluicegate.egress.message import (
    EgressClosed,
    EgressFull,
    EgressLedger,
    EgressPort,
    Ended,
    Keeper,
    Message,
    Outcome,
)
from sluicegate.egress.putting_off import rows_of
from sluicegate.events import EventLog

ROOM_RETRY_SECONDS = 0.05
GATHER_SECONDS = 0.03
GATHER_MESSAGES = 256
"""So long, and until there are so many, messages that settle and failed are gathered before that is told."""
TURN_FAILURES = 10_000
"""After so many failed entries of one turn, what else has ended is told in the next: others want their turn too."""


@dataclass(slots=True)
class _InFlight:
    body: bytes
    done: "asyncio.Future[Outcome] | None" = None
    ended: Callable[[Outcome], None] | None = None
    settles: bool = False
    given_back: bool = False
    gone: Callable[[], object] | None = None
    first: int = 0
    """The index of the body's first entry."""


@dataclass(slots=True)
class _Waiter:
    put: Callable[[], bool]
    room: "asyncio.Future[None]"
    owed: Message | None = None


_NONE = Failures()
_Key = tuple[str, int | None, int | None]
"""`(message id, source, destination)`: two PacketSources of one Listener may carry the same message id."""


class Egress:
    """Sends for one Listener. Everything here runs in the loop given to `start`; nothing here blocks.

    `sources` and `destinations` are the names in the order of the Port's spec.
    """

    def __init__(
        self,
        port: EgressPort,
        listener: str,
        sources: Sequence[str],
        destinations: Sequence[str],
        events: EventLog,
        ledger: EgressLedger | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._ledger = ledger
        self._keeper = keeper
        self.listener = listener
        self._port = port
        self._failing = FailureReports(listener, sources, destinations, events, ledger)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._full = False
        self._retry: asyncio.TimerHandle | None = None
        # A message id comes twice only when it is redelivered while the first is in flight: both wait in one
        # list.
        self._in_flight: dict[_Key, deque[_InFlight]] = {}
        self._ended: deque[Ended] = deque()
        self._gathered: list[Ended] = []
        self._gathered_failures = 0
        self._gathered_keys: set[_Key] = set()
        self._gathering: asyncio.TimerHandle | None = None
        # Ended, but for what of it is being written to the state.
        self._keeping: dict[int, tuple[Ended, _InFlight | None, Failures]] = {}
        self._kept_so_far = 0
        self._backlog: deque[_Waiter] = deque()
        self._idle_waiters: list[asyncio.Future[None]] = []

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read completions in `loop`."""
        self._loop = loop
        self._port.on_completions(self._on_completions)

    def rename(self, sources: Sequence[str], destinations: Sequence[str]) -> None:
        """The Port's spec has changed: the names in its order."""
        self._failing.rename(sources, destinations)

    def holds(self, *, source: int | None = None, destination: int | None = None) -> bool:
        """True while something of this PacketSource or Destination may be under way: it must keep its place."""
        if self._backlog:
            return True
        if any(
            (one.source, one.destination) == (source, destination) for one, _, _ in self._keeping.values()
        ):
            return True
        return any((one, other) == (source, destination) for _, one, other in self._in_flight)

    @property
    def full(self) -> bool:
        """True while the ring is known to have no room (`try_submit` would take nothing), while letters of a message
        might find none (`congested`), or while the state does not take what is to be sent later: for whoever can refuse
        it."""
        return self._no_room or self.congested or self._keeper_full

    @property
    def _keeper_full(self) -> bool:
        return self._keeper is not None and self._keeper.full

    @property
    def _no_room(self) -> bool:
        return self._full or bool(self._backlog)

    @property
    def congested(self) -> bool:
        """True while dead letters of its PacketSources wait beyond their bound: a sender that settles its messages is
        to fetch and submit nothing more, as each could fail and wait there too."""
        return self._ledger is not None and self._ledger.congested(self._failing.sources)

    @property
    def in_flight(self) -> int:
        """Messages and answers taken by the ring of which some entry has not ended."""
        return sum(map(len, self._in_flight.values())) + len(self._keeping)

    def try_submit(
        self,
        messages: Sequence[Message],
        ended: Callable[[Outcome], None] | None = None,
        gone: Callable[[], object] | None = None,
    ) -> int:
        """Hand over messages without waiting; how many of them, from the first on, were taken. `ended` gets
        the outcome of each, except of those that a closed Listener left unfinished, or that failed with it: for each of
        them `gone` is called. Without it they go to the events alone. Those that are `due` come alone.

        Less than all means that the ring is full (or the Listener stopping): the publisher is to try later.
        """
        if self._closed or self._no_room or not messages:
            return 0
        taken = self._put(messages)
        for message in messages[:taken]:
            self._track_message(message, None, ended, gone)
        if taken < len(messages):
            self._mark_full()
        return taken

    def submit_later(self, message: Message, ended: Callable[[Outcome], None] | None = None) -> None:
        """Hand over a message that must not be refused any more, behind everything that waits already.

        For a message that another PacketSource has taken. It is held in memory without a limit of its own, so
        the caller checks `full` first: then at most one message is owed for each time that the ring fills up.
        """
        if self._closed:
            self._report_lost(message)
        elif self._no_room or not self._take(message, None, ended):
            self._wait(
                _Waiter(lambda: self._take(message, None, ended), self._running().create_future(), message)
            )

    async def send(self, message: Message, *, room_seconds: float | None = None) -> Outcome:
        """Send and wait until every entry has ended.

        Waits for room in the ring (`EgressFull` after `room_seconds`, if given, and at once while the state does not
        take what is to be sent later), then for the end, which
        pacing and handshakes may hold back for the source's `HoldSeconds`. `EgressClosed` when the Listener
        stops first. Cancelling the call does not take back a message that the ring has.
        """
        done: asyncio.Future[Outcome] = self._running().create_future()
        if room_seconds is not None and self._keeper_full:
            raise EgressFull(f"what is to be sent later waits for the disk on Listener {self.listener}")
        await self._room(lambda: self._take(message, done), room_seconds)
        return await done

    def send_now(self, message: Message) -> "asyncio.Future[Outcome] | None":
        """`send` where nothing is to be waited for but the end: what `send` would await then, else None."""
        if self._loop is None or self._closed or self._no_room or self._keeper_full:
            return None
        done: asyncio.Future[Outcome] = self._loop.create_future()
        return done if self._take(message, done) else None

    def settled(self, source: int) -> bool:
        """True if every failure reported so far for this PacketSource is kept where its dead letters go: always where
        they go nowhere."""
        name = self._failing.source(source)
        return self._ledger is None or name is None or self._ledger.settled(name)

    async def settle(self, source: int) -> None:
        """Return once `settled`. While their place takes no dead letters this waits; `EgressClosed` when the
        gateway stops first. Then the message must not be acknowledged.
        """
        name = self._failing.source(source)
        if self._ledger is None or name is None:
            return
        try:
            await self._ledger.settle(name)
        except NotKept:
            raise EgressClosed("the gateway stopped before the dead letters were kept") from None

    def give_back(self, source: int, message_ids: Iterable[str]) -> None:
        """The sender of these messages, which have not ended, keeps them for another time and settles them no more.

        Their failures are events still, and become no dead letters: the entries come again.
        """
        for message_id in message_ids:
            records = self._in_flight.get((message_id, source, None))
            if records:
                records[0].given_back = records[0].settles  # a later one is somebody else's

    def give_back_unfinished(self) -> None:
        """The Listener is about to be closed: what is `gone` then fails with it, and is not lost. Call it when there is
        no more time to wait for an end."""
        self._end_gathered()
        for record in itertools.chain.from_iterable(self._in_flight.values()):
            record.given_back |= record.gone is not None

    async def reply(self, destination: int, request_id: str, body: bytes) -> None:
        """Hand over a handler's answer (contract section 3); returns once the ring has it. First come, first
        served."""

        await self._room(lambda: self._put_reply(destination, request_id, body), None)

    def reply_now(self, destination: int, request_id: str, body: bytes) -> bool:
        """As `reply`, but without a wait: false where it would wait, and the ring does not have it."""
        if self._loop is None or self._closed or self._no_room:
            return False
        return self._put_reply(destination, request_id, body)

    def _put_reply(self, destination: int, request_id: str, body: bytes) -> bool:
        if not self._port.reply(destination, request_id, body):
            return False
        self._track((request_id, None, destination), _InFlight(body))
        return True

    async def drain(self, seconds: float) -> bool:
        """Wait until everything taken or waiting has ended; False when `seconds` were not enough.

        Stop the sources and Destinations first: this refuses nothing by itself.
        """
        if not self._in_flight and not self._backlog and not self._keeping:
            return True
        idle: asyncio.Future[None] = self._running().create_future()
        self._idle_waiters.append(idle)
        try:
            async with asyncio.timeout(seconds):
                await idle
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Stop. Reads the last completions (call it after `Port.close`), then fails whatever is left as
        `SendFailed`.

        Callers that still wait get `EgressClosed`. Safe to call twice.
        """
        if self._closed:
            return
        self._end_gathered()  # their senders may settle these yet
        for record in itertools.chain.from_iterable(self._in_flight.values()):
            record.given_back = record.settles  # nobody can settle it any more
        if self._loop is not None:
            self._port.on_completions(None)
            self._end_all()
            while self._ended:
                self._end_some()
            self._end_gathered()
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for (message_id, source, destination), records in self._in_flight.items():
            for record in records:
                lost = Failures([(None, "SendFailed", "the Listener was closed before this ended")])
                self._note((message_id, source, destination), record, lost)
                _fail(record.done)
                if record.gone is not None:
                    record.gone()
        for one, kept, _ in self._keeping.values():
            if kept is not None:
                _fail(kept.done)
                if not kept.settles:
                    indices = dict.fromkeys(index for index, *_ in one.scheduled)
                    why = "the gateway was closed before this was in its state"
                    self._note(_key(one), kept, Failures([(index, "SendFailed", why) for index in indices]))
        self._keeping.clear()
        self._failing.report()
        self._in_flight.clear()
        for waiter in self._backlog:
            if waiter.owed is not None:
                self._report_lost(waiter.owed)
                waiter.room.cancel()
            else:
                _fail(waiter.room)
        self._backlog.clear()
        self._wake_idle()

    # Into the ring

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._closed:
            raise EgressClosed(f"Listener {self.listener} is not running")
        return self._loop

    def _take(
        self,
        message: Message,
        done: "asyncio.Future[Outcome] | None",
        ended: Callable[[Outcome], None] | None = None,
    ) -> bool:
        if not self._put([message]):
            return False
        self._track_message(message, done, ended)
        return True

    def _put(self, messages: Sequence[Message]) -> int:
        due = messages[0].due
        if due is not None:
            return self._port.submit_due(
                [(_submission(messages[0]), (due.index, list(due.ids), due.overdue))]
            )
        return self._port.submit([_submission(message) for message in messages])

    def _track_message(
        self,
        message: Message,
        done: "asyncio.Future[Outcome] | None",
        ended: Callable[[Outcome], None] | None = None,
        gone: Callable[[], object] | None = None,
    ) -> None:
        settles = message.settles and (done is not None or ended is not None)
        first = message.due.index if message.due is not None else 0
        record = _InFlight(message.body, done, ended, settles, gone=gone, first=first)
        self._track((message.message_id, message.source, None), record)

    def _track(self, key: _Key, record: _InFlight) -> None:
        records = self._in_flight.get(key)
        if records is None:
            self._in_flight[key] = deque((record,))
        else:
            records.append(record)

    async def _room(self, put: Callable[[], bool], seconds: float | None) -> None:
        loop = self._running()
        if not self._no_room and put():
            return
        waiter = _Waiter(put, loop.create_future())
        self._wait(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.room
        except TimeoutError:
            # The wait may have ended in the same turn of the loop in which its time ran out: then the ring
            # has it.
            if waiter.room.cancelled():
                raise EgressFull(f"no room to send on Listener {self.listener}") from None

    def _wait(self, waiter: _Waiter) -> None:
        self._backlog.append(waiter)
        self._mark_full()

    def _mark_full(self) -> None:
        self._full = True
        if self._retry is None and self._loop is not None:
            self._retry = self._loop.call_later(ROOM_RETRY_SECONDS, self._on_retry)

    def _on_retry(self) -> None:
        self._retry = None
        self._pump()
        self._wake_idle()

    def _pump(self) -> None:
        """Let those who wait put, in order, until the ring is full again."""
        self._full = False
        while self._backlog:
            waiter = self._backlog[0]
            if not waiter.room.done():  # done already: its caller gave up
                try:
                    if not waiter.put():
                        self._mark_full()
                        return
                except Exception as error:
                    self._backlog.popleft()
                    if waiter.owed is not None:
                        self._report_lost(waiter.owed)
                    else:
                        waiter.room.set_exception(error)
                    continue
                waiter.room.set_result(None)
            self._backlog.popleft()

    # Out of the ring

    def _on_completions(self) -> None:
        self._end_all()
        self._pump()
        self._wake_idle()

    def _end_all(self) -> None:
        ended = self._port.completions()
        # After the completions, so that it has theirs; before anybody is told: what is acknowledged must be known after
        # a restart. And what of a message has left, while the rest of it waits.
        sent = self._port.sent_ids()
        if sent and self._ledger is not None:
            names = self._failing.sources
            self._ledger.sent([(names[source], entry_id) for source, entry_id in sent])
        more = not self._ended  # else it is told already that more is to come
        self._ended.extend(ended)
        if more:
            self._end_some()

    def _end_some(self) -> None:
        """Tell what has ended, as far as that takes no long turn."""
        told: list[Ended] = []
        failures = 0
        while self._ended and failures < TURN_FAILURES:
            one = self._ended.popleft()
            if one.scheduled or (self._keeping and one.duplicates):
                self._keep(one)
                continue
            failed = one.entries - one.sent - one.duplicates
            failures += failed
            if not self._gather(one, failed):
                told.append(one)
        if self._ended and self._loop is not None:
            self._loop.call_soon(self._on_more)
        self._end(told)
        if len(self._gathered) >= GATHER_MESSAGES or self._gathered_failures >= TURN_FAILURES:
            self._end_gathered()

    def _keep(self, one: Ended) -> None:
        """Have its entries of later written to the state, before anybody is told of it.

        So with duplicates meanwhile: that of which they are one may not be written yet.
        """
        record, failures = self._pop(one)
        number = self._kept_so_far
        self._kept_so_far += 1
        self._keeping[number] = (one, record, failures)
        rows = rows_of(one, record.body, self._failing.source(one.source) or "") if record else []
        if self._keeper is not None:
            self._keeper.keep(rows, lambda _: self._on_kept(number))

    def _on_kept(self, number: int) -> None:
        known = self._keeping.pop(number, None)
        if known is not None and not self._closed:
            self._end_known([known])
            self._wake_idle()

    def _on_more(self) -> None:
        if not self._closed:
            self._end_some()
            self._wake_idle()

    def _gather(self, ended: Ended, failed: int) -> bool:
        """True for one that `_end_gathered` is to tell."""
        key = _key(ended)
        if key not in self._gathered_keys:  # of two that are alike the first ends first
            records = self._in_flight.get(key)
            if not failed or not records or not records[0].settles:
                return False
            self._gathered_keys.add(key)
        self._gathered.append(ended)
        self._gathered_failures += failed
        if self._gathering is None and self._loop is not None:
            self._gathering = self._loop.call_later(GATHER_SECONDS, self._on_gathered)
        return True

    def _on_gathered(self) -> None:
        self._end_gathered()
        self._wake_idle()

    def _end_gathered(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        gathered, self._gathered = self._gathered, []
        self._gathered_failures = 0
        self._gathered_keys.clear()
        self._end(gathered)

    def _end(self, ended: Iterable[Ended]) -> None:
        self._end_known([(one, *self._pop(one)) for one in ended])

    def _end_known(self, known: Iterable[tuple[Ended, _InFlight | None, Failures]]) -> None:
        self._failing.report()
        for one, record, failures in known:
            try:
                _tell(one, record, failures)
            except Exception as error:  # of whoever is told: the others are to be told too
                self._failing.fault(error, one.message_id)

    def _pop(self, ended: Ended) -> tuple[_InFlight | None, Failures]:
        """What was kept of a document that has ended, and its failures, which are noted."""
        key = _key(ended)
        records = self._in_flight.get(key)
        record = None
        if records:
            record = records.popleft()
            if not records:
                del self._in_flight[key]
        failed = ended.failures
        if not failed:
            return record, _NONE
        failures = Failures(failed, ended.remote_indexes)
        self._note(key, record or _InFlight(b""), failures)
        return record, failures

    def _wake_idle(self) -> None:
        if self._in_flight or self._backlog or self._keeping:
            return
        for idle in self._idle_waiters:
            if not idle.done():
                idle.set_result(None)
        self._idle_waiters.clear()

    # Ends that the native side does not report

    def _note(self, key: _Key, record: _InFlight, failures: Failures) -> None:
        given_back, settles = record.given_back, record.settles
        body = Body(record.body, record.first)
        self._failing.note(*key, body, failures, settles=settles, given_back=given_back)

    def _report_lost(self, message: Message) -> None:
        lost = Failures([(None, "SendFailed", "the Listener was closed before this could be sent")])
        self._note((message.message_id, message.source, None), _InFlight(message.body), lost)
        self._failing.report()


def _key(ended: Ended) -> _Key:
    return (ended.message_id, ended.source, ended.destination)


def _tell(ended: Ended, record: _InFlight | None, failures: Failures) -> None:
    if record is None or (record.done is None and record.ended is None):
        return
    if failures and record.given_back and record.gone is not None:
        record.gone()
        return
    outcome = Outcome(
        ended.message_id,
        ended.entries,
        ended.sent,
        ended.duplicates,
        failures,
        failures.lost,
        len(ended.scheduled),
    )
    if record.ended is not None:
        record.ended(outcome)
    elif record.done is not None and not record.done.done():
        record.done.set_result(outcome)


def _submission(message: Message) -> tuple[str, float | None, int, bytes, tuple[str, str] | None]:
    return (message.message_id, message.published_at, message.source, message.body, message.refusal)


def _fail(future: "asyncio.Future[Outcome] | asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_exception(EgressClosed("the Listener was closed"))
