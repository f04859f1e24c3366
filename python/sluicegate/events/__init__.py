"""Structured events (contract section 6): one JSON line each, to any number of sinks and live subscribers.

What only a gateway needs is not imported here: `events.setup` opens the sinks of a configuration.
"""

from sluicegate.events.filter import Filter, FilterError
from sluicegate.events.hub import Hub, Subscription
from sluicegate.events.live import LiveEvents, TooManySubscriptions
from sluicegate.events.log import EventLog
from sluicegate.events.sinks import MemorySink, Sink, StandardOutputSink, StreamSink
from sluicegate.events.types import TYPES, EventType

__all__ = [
    "TYPES",
    "EventLog",
    "EventType",
    "Filter",
    "FilterError",
    "Hub",
    "LiveEvents",
    "MemorySink",
    "Sink",
    "StandardOutputSink",
    "StreamSink",
    "Subscription",
    "TooManySubscriptions",
]
