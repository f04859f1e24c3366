"""Where `/metrics` finds its numbers. Apart from `metrics.py`, which is loaded with the first scrape."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sluicegate.deadletters.keeper import DeadLetterStats
from sluicegate.destinations.delivery import DeliveryStats
from sluicegate.events import EventLog
from sluicegate.running.domains import DomainStats
from sluicegate.sources.local.topics import Topics
from sluicegate.sources.topic.consumer import SourceStats


class PortStats(Protocol):
    """The part of `_native.Port` that counts."""

    def stats(self) -> str: ...


@dataclass(slots=True)
class MetricSources:
    """Where the numbers come from. `deliveries` are `(listener, destination, statistics)`, `dead_letters`
    `(queue, statistics)`, `queues` `(listener, PacketSource, statistics)`, `domains` `(name, statistics)`.
    `draining`: queues that no PacketSource names any more, by the PacketSource that they were made for."""

    ports: Iterable[PortStats] = ()
    deliveries: Iterable[tuple[str, str, DeliveryStats]] = ()
    events: EventLog | None = None
    topics: Topics | None = None
    queues: Iterable[tuple[str, str, SourceStats]] = ()
    draining: Mapping[str, int] = field(default_factory=dict)
    dead_letters: Iterable[tuple[str, DeadLetterStats]] = ()
    domains: Iterable[tuple[str, DomainStats]] = ()
