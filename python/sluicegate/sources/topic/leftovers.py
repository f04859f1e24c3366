"""Takes away what was made on AWS for PacketSources that do not want it any more (contract section 4.2).

The state remembers each queue from before it was made until after it was deleted. So it does not matter how a
PacketSource went, by a call of the API, by a reload, or while the gateway was down: `sweep` compares what is remembered
with what is wanted. A PacketSource that is still declared and not Active loses its subscription and keeps its queue; of
one that is gone nothing stays. What cannot be done at once is tried again, here and after the next start.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from sluicegate.aws import Aws, AwsError
from sluicegate.backoff import Backoff
from sluicegate.events import EventLog
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.sources.topic.subscription import (
    gateway_role,
    next_step,
    no_topic,
    subscriptions,
    unsubscribe,
)
from sluicegate.state import SourceQueue, State, StateError

PAUSES = Backoff(5.0, 300.0)

Named = tuple[str, str]
"""`(PacketSource, topic)`."""


@dataclass(slots=True, eq=False)
class _Leftover:
    """`listener` is that of the PacketSource, None if it is not declared any more."""

    queue: SourceQueue
    listener: str | None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Leftovers:
    """Of the gateway of this region and node. Belongs to the event loop."""

    def __init__(self, aws: Aws, state: State, events: EventLog, *, region: str, node: int) -> None:
        self._aws = aws
        self._state = state
        self._events = events
        self._region = region
        self._node = node
        self._tasks: dict[asyncio.Task[None], _Leftover] = {}
        self._unsubscribed: set[str] = set()

    def sweep(self, active: Collection[Named], declared: Mapping[Named, str]) -> None:
        """Begin to take away what none of `active` uses; `declared` are all that there are, with their Listeners."""
        try:
            queues = self._state.source_queues()
        except StateError as error:
            self._events.emit("SourceProvisionFailed", Reason="StateFailed", Detail=str(error))
            return
        used = {self._family(*one) for one in active}
        listeners = {self._family(*one): listener for one, listener in declared.items()}
        known = {one.queue.arn: one for one in self._tasks.values()}
        for queue in queues:
            family = sns_queue.family(queue.arn)
            listener = listeners.get(family)
            if family in used or (listener is not None and queue.arn in self._unsubscribed):
                continue
            if queue.arn in known:
                known[queue.arn].listener = listener
            else:
                self._begin(_Leftover(queue, listener))

    async def spare(self, owns: Callable[[str], bool]) -> None:
        """A PacketSource wants these queues again. Returns once nobody here touches them."""
        for task, one in list(self._tasks.items()):
            if owns(one.queue.arn):
                async with one.turn:
                    task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._unsubscribed = {arn for arn in self._unsubscribed if not owns(arn)}

    async def gone(self, source: str, seconds: float) -> None:
        """Wait for at most so long until nothing is left of a PacketSource."""
        tasks = [task for task, one in self._tasks.items() if one.queue.source == source]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def close(self) -> None:
        """Leave the rest to the next start."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _family(self, source: str, topic_arn: str) -> tuple[str, str]:
        return sns_queue.name_stem(self._node, topic_arn, source), self._region

    def _begin(self, one: _Leftover) -> None:
        task = asyncio.create_task(self._take_away(one), name=f"clean up {one.queue.arn}")
        self._tasks[task] = one
        task.add_done_callback(self._tasks.pop)

    async def _take_away(self, one: _Leftover) -> None:
        failures = 0
        while True:
            async with one.turn:
                if await self._attempt(one):
                    return
            failures += 1
            await asyncio.sleep(PAUSES.pause(failures))

    async def _attempt(self, one: _Leftover) -> bool:
        """True when it is done."""
        queue, listener = one.queue, one.listener
        region = queue.arn.split(":")[3]
        role = gateway_role(queue.role, region, queue.source)
        try:
            had_some = await self._unsubscribe(one)
            if listener is None:
                await sns_queue.delete(self._aws, region, queue)
                self._state.forget_source_queue(queue.arn)
                self._tell("SourceRemoved", one, Topic=queue.topic_arn, Queue=queue.arn)
                return True
            self._state.keep_source_queue(replace(queue, attributes=""))
        except AwsError as error:
            detail = f"{error}; {next_step(error, role, own=error.service == 'sqs')}"
            self._tell("SourceProvisionFailed", one, Reason=error.code, Detail=detail)
            return False
        except StateError as error:
            self._tell("SourceProvisionFailed", one, Reason="StateFailed", Detail=str(error))
            return False
        if had_some:
            self._tell("SourceUnsubscribed", one, Topic=queue.topic_arn, Detail="it is not Active")
        if one.listener is None:
            return False  # it was deleted meanwhile
        self._unsubscribed.add(queue.arn)
        return True

    async def _unsubscribe(self, one: _Leftover) -> bool:
        """True if there was a subscription."""
        queue = one.queue
        role = gateway_role(queue.role, queue.arn.split(":")[3], queue.source)
        try:
            found = await subscriptions(self._aws, queue.topic_arn, role)
            ours = [one for one in found if one.endpoint == queue.arn]
            for subscription in ours:
                await unsubscribe(self._aws, subscription, role)
        except AwsError as error:
            if no_topic(error):
                return False
            if error.retryable or one.listener is not None:
                raise
            # The role may have gone with the source. Without its queue a subscription does no harm.
            step = f"end the subscription of {queue.arn} to {queue.topic_arn} by hand"
            self._tell("SourceProvisionFailed", one, Reason=error.code, Detail=f"{error}; {step}")
            return False
        return bool(ours)

    def _tell(self, event: str, one: _Leftover, **fields: object) -> None:
        self._events.emit(event, Listener=one.listener, PacketSource=one.queue.source, **fields)
