"""The log groups of the Listeners that run."""

import asyncio
from dataclasses import dataclass, field

from sluicegate.aws import Aws
from sluicegate.events.cloudwatch import LogGroup, LogTarget
from sluicegate.events.live import Arrivals, LiveEvents
from sluicegate.events.log import EventLog
from sluicegate.model import GatewayConfig, Listener

LOG_SECONDS = 2.0
"""How long a group that is let go may write what it has."""


@dataclass(slots=True, eq=False)
class _Open:
    group: LogGroup
    arrivals: Arrivals | None
    owners: set[object] = field(default_factory=set)


class LogGroups:
    """Sinks for every Listener and Destination with a `log_group_name`. Belongs to the event loop; `close` it after the
    Listeners and `live`, so that their last events are written too."""

    def __init__(self, settings: GatewayConfig, aws: Aws, events: EventLog, live: LiveEvents) -> None:
        self._settings = settings
        self._aws = aws
        self._events = events
        self._live = live
        self._open: dict[LogTarget, _Open] = {}
        self._held: dict[object, set[LogTarget]] = {}
        """The groups that each owner writes to; only of owners that have some."""
        self._ending: set[asyncio.Task[None]] = set()

    def hold(self, owner: object, listener: Listener) -> None:
        """Whoever `owner` is, it runs `listener` from now on, in place of what it ran before.

        One that takes over from another one has the same group: nothing is written twice.
        """
        wanted = _targets(listener)
        left = self._held.pop(owner, set()) - set(wanted)
        if wanted:
            self._held[owner] = set(wanted)
        for target in wanted:
            if target not in self._open:
                self._open[target] = self._start(target)
            self._open[target].owners.add(owner)
        self._let_go(owner, left)

    def drop(self, owner: object) -> None:
        """Write no more log groups for `owner`. Lines that its groups have are written in the background."""
        self._let_go(owner, self._held.pop(owner, set()))

    async def close(self, seconds: float) -> None:
        """Write what is queued, for at most `seconds`."""
        await asyncio.gather(*self._ending, *(self._end(one, seconds) for one in self._open.values()))
        self._open.clear()

    def _start(self, target: LogTarget) -> _Open:
        settings = self._settings
        group = LogGroup(target, self._aws, self._events, node=settings.node, region=settings.region)
        self._events.add_sink(group)
        rate = settings.events.log_group_packets_per_second
        arrivals = None
        if target.destination is None and rate:
            arrivals = self._live.sample_arrivals(target.listener, rate, group.put)
        group.start()
        return _Open(group, arrivals)

    def _let_go(self, owner: object, targets: set[LogTarget]) -> None:
        for target in targets:
            one = self._open[target]
            one.owners.discard(owner)
            if not one.owners:
                del self._open[target]
                task = asyncio.create_task(self._end(one, LOG_SECONDS), name=f"end {one.group.name}")
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    async def _end(self, one: _Open, seconds: float) -> None:
        if one.arrivals is not None:
            self._live.end_arrivals(one.arrivals)
        self._events.remove_sink(one.group)
        await one.group.stop(seconds)


def _targets(listener: Listener) -> list[LogTarget]:
    found = []
    if listener.log_group_name is not None:
        found.append(LogTarget(listener.log_group_name, listener.name, role=listener.role))
    for destination in listener.destination_specs:
        name = destination.log_group_name
        # What goes to the Listener's group is there already.
        if name is not None and destination.enable_logging is not False and name != listener.log_group_name:
            found.append(LogTarget(name, listener.name, destination.name, destination.role))
    return found
