"""Structured events (contract section 6): one JSON line each, to any number of sinks."""

from sluicegate.events.log import EventLog
from sluicegate.events.sinks import MemorySink, Sink, StandardOutputSink, StreamSink

__all__ = ["EventLog", "MemorySink", "Sink", "StandardOutputSink", "StreamSink"]
