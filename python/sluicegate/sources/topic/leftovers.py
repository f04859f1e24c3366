"""Takes away what was made on AWS for PacketSources that do not want it any more (contract section 4.2).

The state remembers each queue from before it was made until after it was deleted. So it does not matter how a
PacketSource went, by a call of the API, by a reload, or while the gateway was down: `sweep` compares what is remembered
with what is wanted. `drainage.py` says by whom a queue is emptied. The steps of a queue that is left over:

    awaits      what replaces it is not subscribed yet: it stays as it is, and messages go on coming by it
    draining    its subscription is ended; what waits is sent by its taker (`reader.py`). Without a taker it waits
    deleted     once polls brought nothing and SQS counted nothing for a minute (`quiet.py`), or when an operator
                discards it

A PacketSource that is still declared and not Active loses its subscription and keeps its queue, unread. What cannot be
done at once is tried again, here and after the next start.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import structlog

from sluicegate.aws import Aws, AwsError, Role
from sluicegate.backoff import Backoff
from sluicegate.events import EventLog
from sluicegate.faults import log_fault
from sluicegate.model import PacketSource
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.sources.topic.drainage import Assigned, Wanted, assign, document_of, still_able
from sluicegate.sources.topic.quiet import Quiet
from sluicegate.sources.topic.subscription import (
    Subscription,
    gateway_role,
    next_step,
    no_topic,
    served_regions,
    subscriptions,
    unsubscribe,
)
from sluicegate.state import SourceQueue, State, StateError

log = structlog.get_logger("sluicegate.sources")

PAUSES = Backoff(5.0, 300.0)
WATCH_SECONDS = 15.0
"""How often SQS is asked how much waits in a queue that nobody empties."""


@dataclass(slots=True, eq=False)
class Leftover:
    """A queue that is left over. `unsubscribed_at` (of `time.monotonic`): when its subscription was ended. `quiet`: its
    taker says that nothing comes any more. `served`: the regions that got the messages of its topic."""

    assigned: Assigned
    quiet_watch: Quiet
    unsubscribed_at: float | None = None
    quiet: bool = False
    discarded: bool = False
    served: frozenset[str] | None = None
    explained: str = ""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    unsubscribed: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def queue(self) -> SourceQueue:
        return self.assigned.queue


class Leftovers:
    """Of the gateway of this region and node. Belongs to the event loop."""

    def __init__(self, aws: Aws, state: State, events: EventLog, *, region: str, node: int) -> None:
        self._aws = aws
        self._state = state
        self._events = events
        self._region = region
        self._node = node
        self._tasks: dict[asyncio.Task[None], Leftover] = {}
        self._idle: set[str] = set()
        """Queues, by ARN, that a PacketSource keeps that is not Active: their subscriptions are ended."""
        self._ready: dict[str, float] = {}
        self._noted: dict[str, PacketSource] = {}
        self._sources: frozenset[str] = frozenset()
        self.drained: Callable[[], None] = lambda: None
        """Called when a queue is gone whose PacketSource is not declared any more."""

    # What is wanted

    def still_able(self, wanted: Collection[str], listeners: Collection[str]) -> dict[str, PacketSource]:
        """The PacketSources beside `wanted` that have queues and can still send. From any thread. `StateError`."""
        queues = self._state.source_queues()
        self._sources = frozenset(queue.source for queue in queues)
        return still_able(queues, self._state.source_documents(), wanted, listeners) if queues else {}

    def draining(
        self, wanted: Mapping[str, Wanted], able: Mapping[str, PacketSource]
    ) -> dict[str, PacketSource]:
        """Those of `able` that have to run on, because nobody else sends what waits. From any thread. `StateError`."""
        if not able:
            return {}
        found = assign(self._state.source_queues(), wanted, able, region=self._region, node=self._node)
        takers = {one.taker for one in found}
        return {name: one for name, one in able.items() if name in takers}

    def has(self, source: str) -> bool:
        """True if a PacketSource had queues on AWS when the present change began."""
        return source in self._sources

    def sweep(self, wanted: Mapping[str, Wanted], able: Mapping[str, PacketSource]) -> None:
        """Begin to take away what nobody of `wanted`, all that are declared, uses. `able`: see `still_able`."""
        try:
            queues = self._state.source_queues()
            self._note(wanted, {queue.source for queue in queues})
        except StateError as error:
            self._events.emit("SourceProvisionFailed", Reason="StateFailed", Detail=str(error))
            return
        known = {one.queue.arn: one for one in self._tasks.values()}
        for one in assign(queues, wanted, able, region=self._region, node=self._node):
            before = known.get(one.queue.arn)
            if before is not None:
                before.assigned = replace(one, queue=before.queue)
                before.changed.set()
            elif not (one.idle and one.queue.arn in self._idle):
                self._begin(one)

    def _note(self, wanted: Mapping[str, Wanted], with_queues: Collection[str]) -> None:
        """Keep the documents of PacketSources on AWS, as far as they have changed, for when they are gone."""
        changed: dict[str, str | None] = {}
        noted: dict[str, PacketSource] = {}
        for name, one in wanted.items():
            if one.active and one.topic_arn is not None:
                noted[name] = one.resource
                if self._noted.get(name) is not one.resource:
                    changed[name] = document_of(one.resource)
            elif not one.active and (name in with_queues or name in self._noted):
                changed[name] = None  # what waits for it must not be sent
        for name in self._state.source_documents():
            if name not in wanted and name not in with_queues:
                changed[name] = None
        self._state.keep_source_documents(changed)
        self._noted = noted

    async def spare(self, owns: Callable[[str], bool]) -> None:
        """A PacketSource wants these queues again. Returns once nobody here touches them."""
        for task, one in list(self._tasks.items()):
            if owns(one.queue.arn):
                async with one.turn:
                    task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._idle = {arn for arn in self._idle if not owns(arn)}

    def unready(self, source: str) -> None:
        """A PacketSource begins: its own queue is not subscribed yet."""
        self._ready.pop(source, None)

    def ready(self, source: str, seconds: float = 0.0) -> None:
        """A PacketSource's own queue is subscribed, and gets every message in so many seconds."""
        if source not in self._ready:
            self._ready[source] = time.monotonic() + seconds
            self._wake()

    # Emptying

    def left(self, taker: str) -> list[Leftover]:
        """The queues that a PacketSource has to empty."""
        return [
            one
            for one in self._tasks.values()
            if one.assigned.taker == taker and not one.quiet and not one.discarded
        ]

    def empty(self, one: Leftover) -> None:
        """Its taker says that nothing comes any more."""
        one.quiet = True
        one.changed.set()

    async def served(self, one: Leftover) -> frozenset[str]:
        """The regions that got the messages of the topic of a queue. Raises `AwsError`."""
        if one.served is None:
            await self._listed(one)
        return one.served or frozenset()

    async def open(self, one: Leftover) -> SourceQueue | None:
        """The queue with its URL, to be read; None if it is gone. Raises `AwsError`, `StateError`."""
        queue = one.queue
        if not queue.url:
            url = await sns_queue.url_of(self._aws, sns_queue.region_of(queue.arn), queue)
            if url is None:
                self.empty(one)
                return None
            queue = replace(queue, url=url)
            self._state.keep_source_queue(queue)
            one.assigned = replace(one.assigned, queue=queue)
            one.quiet_watch = Quiet(self._aws, queue)
        return queue

    # An operator

    def shown(self) -> list[Leftover]:
        """The queues that are left over, in the order in which that was found."""
        return [one for one in self._tasks.values() if not one.assigned.idle]

    def counts(self) -> dict[str, int]:
        """How many queues are left over, by the PacketSource that they were made for."""
        return dict(Counter(one.queue.source for one in self.shown()))

    async def discard(self, source: str, seconds: float) -> int:
        """Delete the queues that are left of a PacketSource, with what waits in them, for at most so long; how many."""
        found = {task: one for task, one in self._tasks.items() if one.queue.source == source}
        found = {task: one for task, one in found.items() if not one.assigned.idle}
        for one in found.values():
            one.discarded = True
            one.changed.set()
        if found:
            await asyncio.wait(list(found), timeout=seconds)
        return len(found)

    async def gone(self, source: str, seconds: float) -> None:
        """Wait for at most so long until no queue that is left of a PacketSource is subscribed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for one in [one for one in self._tasks.values() if one.queue.source == source]:
                    await one.unsubscribed.wait()

    async def close(self) -> None:
        """Leave the rest to the next start."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Taking away

    def _begin(self, assigned: Assigned) -> None:
        one = Leftover(assigned, Quiet(self._aws, assigned.queue))
        task = asyncio.create_task(self._take_away(one), name=f"clean up {assigned.queue.arn}")
        self._tasks[task] = one
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        one = self._tasks.pop(task)
        one.unsubscribed.set()
        if not task.cancelled() and one.assigned.taker == one.queue.source:
            self.drained()

    def _wake(self) -> None:
        for one in self._tasks.values():
            one.changed.set()

    async def _take_away(self, one: Leftover) -> None:
        failures = 0
        while True:
            one.changed.clear()
            try:
                async with one.turn:
                    if await self._attempt(one):
                        return
                failures = 0
            except AwsError as error:
                failures += 1
                role = self._role(one)
                detail = f"{error}; {next_step(error, role, own=error.service == 'sqs')}"
                self._tell("SourceProvisionFailed", one, Reason=error.code, Detail=detail)
            except StateError as error:
                failures += 1
                self._tell("SourceProvisionFailed", one, Reason="StateFailed", Detail=str(error))
            except Exception as error:
                failures += 1
                log_fault(log, "a queue could not be taken away", error, packet_source=one.queue.source)
                detail = "a mistake of the program, please report it: the gateway's log says where it is"
                self._tell("SourceProvisionFailed", one, Reason="InternalError", Detail=detail)
            await _until(one.changed, PAUSES.pause(failures) if failures else WATCH_SECONDS)

    async def _attempt(self, one: Leftover) -> bool:
        """The next steps, as far as they can be made; true when nothing is left to do. Raises `AwsError`,
        `StateError`."""
        if self._awaits(one):
            self._explain(one)
            return False
        had_some = one.unsubscribed_at is None and await self._unsubscribe(one)
        if one.assigned.idle:
            return self._keep(one, had_some)
        self._explain(one)
        if not (one.quiet or one.discarded):
            if one.assigned.taker is not None or one.assigned.held:
                return False
            queue = await self.open(one)
            if queue is not None and not await one.quiet_watch.lasts(one.unsubscribed_at or time.monotonic()):
                return False
        await sns_queue.delete(self._aws, sns_queue.region_of(one.queue.arn), one.queue)
        self._state.forget_source_queue(one.queue.arn)
        what = "what waited in it was discarded" if one.discarded and not one.quiet else None
        self._tell("SourceRemoved", one, Topic=one.queue.topic_arn, Queue=one.queue.arn, Detail=what)
        return True

    def _awaits(self, one: Leftover) -> bool:
        """True while what is to replace the queue could not be made."""
        if not one.assigned.awaits or one.unsubscribed_at is not None or one.discarded:
            return False
        ready = self._ready.get(one.assigned.taker or "")
        return ready is None or time.monotonic() < ready

    def _keep(self, one: Leftover, had_some: bool) -> bool:
        """The queue stays where it is, for a PacketSource that is not Active."""
        self._state.keep_source_queue(replace(one.queue, attributes=""))
        if had_some:
            self._tell("SourceUnsubscribed", one, Topic=one.queue.topic_arn, Detail="it is not Active")
        self._idle.add(one.queue.arn)
        return True

    async def _unsubscribe(self, one: Leftover) -> bool:
        """End the subscription; true if there was one. Raises `AwsError`."""
        queue, had_some = one.queue, False
        try:
            for found in await self._listed(one):
                if found.endpoint == queue.arn:
                    await unsubscribe(self._aws, found, self._role(one))
                    had_some = True
        except AwsError as error:
            if not no_topic(error):
                if error.retryable or one.assigned.held:
                    raise
                await self._shut(one, error)
        one.unsubscribed_at = time.monotonic()
        one.unsubscribed.set()
        return had_some

    async def _listed(self, one: Leftover) -> list[Subscription]:
        try:
            found = await subscriptions(self._aws, one.queue.topic_arn, self._role(one))
        except AwsError as error:
            if no_topic(error):
                one.served = frozenset()
            raise
        one.served = served_regions(found)
        return found

    async def _shut(self, one: Leftover, error: AwsError) -> None:
        """The subscription cannot be ended: the role may have gone with the source. Let SNS in no more."""
        queue = one.queue
        step = f"end the subscription of {queue.arn} to {queue.topic_arn} by hand"
        self._tell("SourceProvisionFailed", one, Reason=error.code, Detail=f"{error}; {step}")
        opened = await self.open(one)
        if opened is not None:
            await sns_queue.shut(self._aws, opened)

    # Telling

    def problem(self, one: Leftover) -> str:
        """What becomes of a queue, in words."""
        assigned = one.assigned
        end = f"`sluicegate sources remove {one.queue.source} --discard` deletes the queue with what waits in it"
        if self._awaits(one):
            what = (
                f"the queue that replaces it, of PacketSource {assigned.taker}, could not be subscribed yet"
            )
            return f"{what}; until then messages come by this one, and it is not deleted; {end}"
        if assigned.taker is None:
            return f"nobody sends what waits in it; {assigned.why}, or {end}"
        sender = f"PacketSource {assigned.taker} of Listener {assigned.listener}"
        return f"what waits in it is sent by {sender}; it is deleted after a minute without messages; {end}"

    def _explain(self, one: Leftover) -> None:
        text = self.problem(one)
        if text != one.explained and not (one.discarded or one.quiet):
            one.explained = text
            self._tell("SourceDraining", one, Topic=one.queue.topic_arn, Queue=one.queue.arn, Detail=text)

    def _role(self, one: Leftover) -> Role | None:
        return gateway_role(one.queue.role, sns_queue.region_of(one.queue.arn), one.queue.source)

    def _tell(self, event: str, one: Leftover, **fields: object) -> None:
        self._events.emit(event, Listener=one.assigned.listener, PacketSource=one.queue.source, **fields)


async def _until(changed: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()
