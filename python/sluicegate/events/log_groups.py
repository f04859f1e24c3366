"""The log groups that a configuration names."""

import asyncio

from sluicegate.aws import Aws
from sluicegate.events.cloudwatch import LogGroup, LogTarget
from sluicegate.events.live import LiveEvents
from sluicegate.events.log import EventLog
from sluicegate.model import GatewayConfig, Listener


class LogGroups:
    """Sinks for every Listener and Destination with a `log_group_name`. Made in the event loop, before a Listener
    opens; `close` it after the Listeners and `live`, so that their last events are written too."""

    def __init__(self, settings: GatewayConfig, aws: Aws, events: EventLog, live: LiveEvents) -> None:
        self._groups: list[LogGroup] = []
        rate = settings.events.log_group_packets_per_second
        for listener in settings.listeners:
            for target in _targets(listener):
                group = LogGroup(target, aws, events, node=settings.node, region=settings.region)
                self._groups.append(group)
                events.add_sink(group)
                if target.destination is None and rate:
                    live.sample_arrivals(listener.name, rate, group.put)
                group.start()

    async def close(self, seconds: float) -> None:
        """Write what is queued, for at most `seconds`."""
        await asyncio.gather(*(group.stop(seconds) for group in self._groups))


def _targets(listener: Listener) -> list[LogTarget]:
    found = []
    if listener.log_group_name is not None:
        found.append(LogTarget(listener.log_group_name, listener.name, role=listener.role))
    for destination in listener.destinations:
        name = destination.log_group_name
        # What goes to the Listener's group is there already.
        if name is not None and destination.enable_logging is not False and name != listener.log_group_name:
            found.append(LogTarget(name, listener.name, destination.name, destination.role))
    return found
