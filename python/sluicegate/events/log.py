"""The event log: fields in the contract's order, bounded in rate, with nothing lost without a count.

For each `(Event, Reason, Listener, PacketSource or Destination)`, at most `limit` lines are written in one second of
the clock. Events beyond the limit are counted. When the second is over, one more line with the same event, reason and
names carries `Suppressed: n`. So for each kind of event, the lines without `Suppressed` and the sum of `Suppressed`
give the number of events.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import islice

import orjson

from sluicegate.events.limiter import Limiter
from sluicegate.events.sinks import Sink
from sluicegate.events.times import iso_milliseconds

FIELD_ORDER = (
    "Listener",
    "Destination",
    "PacketSource",
    "MessageId",
    "Index",
    "RemoteIndex",
    "Id",
    "Tag",
    "Remote",
    "Bytes",
    "Reason",
    "Detail",
)
"""The order of fields after Time, Event, Node and Region (contract section 6). Others follow in the order given."""

_ORDERED = frozenset(FIELD_ORDER)
_SECRET = frozenset(
    [
        "Authorization",
        "Key",
        "Password",
        "PreSharedKey",
        "PrivateKey",
        "Secret",
        "SharedSecret",
        "TagKey",
        "Token",
    ]
)
_STRING_LIMIT = 2048
_SUMMARIZED = ("Listener", "Destination", "PacketSource", "Reason")
"""The fields of a summary line."""


class EventLog:
    """Writes events to its sinks. Safe to call from any thread; never blocks, never raises.

    `node` and `region` stand in every event when given. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        *sinks: Sink,
        node: int | str | None = None,
        region: str | None = None,
        limit: int = 100,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Replaced as a whole, because it is read without the lock too.
        self._sinks = list(sinks)
        self._node = node
        self._region = region
        self._clock = clock
        # Guarded by _lock: everything below.
        self._lock = threading.Lock()
        self._limiter = Limiter(limit, self._write_summary, self.flush)
        self._counts: Counter[str] = Counter()

    def add_sink(self, sink: Sink) -> None:
        """Write events from now on to this sink too."""
        with self._lock:
            self._sinks = [*self._sinks, sink]

    def remove_sink(self, sink: Sink) -> None:
        """Write no more events to this sink. The caller closes it."""
        with self._lock:
            self._sinks = [one for one in self._sinks if one is not sink]

    def emit(self, event: str, /, **fields: object) -> None:
        """Write one event. Field names are PascalCase; snake_case is accepted too. None means absent."""
        named = {_pascal(name): value for name, value in fields.items() if value is not None}
        now = self._clock()
        with self._lock:
            if self._admit(event, named, now):
                self._write(event, named, now)

    def emit_alike(
        self, event: str, count: int, details: Iterable[Mapping[str, object]], /, **fields: object
    ) -> None:
        """Write `count` events that share `fields` (in PascalCase) and therefore a limit. `details` has the other
        fields of each event. It is read only for the first ones, whose lines are written."""
        now = self._clock()
        with self._lock:
            admitted = self._admit(event, fields, now, count)
        # Without the lock: `details` may read a long message.
        for detail in islice(details, admitted):
            named = {name: value for name, value in {**fields, **detail}.items() if value is not None}
            with self._lock:
                self._write(event, named, now)

    def forward(self, lines: bytes, *, skip: Sink | None = None) -> None:
        """Write whole lines that were rendered, filtered and counted elsewhere (the native side), as they are.

        `skip` is a sink that has them already."""
        for line in lines.splitlines(keepends=True):
            for sink in self._sinks:
                if sink is not skip:
                    sink.write(line)

    def counts(self) -> dict[str, int]:
        """Events by name since the start, the suppressed ones included."""
        with self._lock:
            return dict(self._counts)

    def dropped(self) -> dict[str, int]:
        """Lines that each sink could not take, by the sink's name."""
        return {sink.name: sink.dropped for sink in self._sinks}

    def flush(self) -> None:
        """Write the summaries of the events that were suppressed so far."""
        with self._lock:
            self._limiter.summarize(self._clock())

    def close(self, seconds: float = 2.0) -> None:
        """Write the last summaries and close the sinks, all of them within `seconds`."""
        self.flush()
        end = time.monotonic() + seconds
        for sink in self._sinks:
            sink.close(max(0.0, end - time.monotonic()))

    def _admit(self, event: str, named: Mapping[str, object], now: float, count: int = 1) -> int:
        """Count `count` events of one kind. Returns how many of them get a line; a summary stands for the others."""
        self._counts[event] += count
        names = named.get("Listener"), named.get("PacketSource") or named.get("Destination")
        kind: Hashable = (event, named.get("Reason"), *names)
        try:
            hash(kind)
        except TypeError:  # a caller named a resource by something unhashable
            kind = event
        return self._limiter.admit(kind, (event, named), now, count)

    def _write_summary(self, about: tuple[str, Mapping[str, object]], count: int, now: float) -> None:
        event, named = about
        fields = {name: named[name] for name in _SUMMARIZED if named.get(name) is not None}
        self._write(event, {**fields, "Suppressed": count}, now)

    def render(self, event: str, /, **fields: object) -> bytes:
        """One event as a line; it is written nowhere and not counted."""
        named = {_pascal(name): value for name, value in fields.items() if value is not None}
        return self._line(event, named, self._clock())

    def _write(self, event: str, named: dict[str, object], now: float) -> None:
        line = self._line(event, named, now)
        for sink in self._sinks:
            sink.write(line)

    def _line(self, event: str, named: dict[str, object], now: float) -> bytes:
        entry: dict[str, object] = {"Time": iso_milliseconds(now), "Event": event}
        if self._node is not None:
            entry["Node"] = self._node
        if self._region is not None:
            entry["Region"] = self._region
        for name in FIELD_ORDER:
            if name in named:
                entry[name] = named[name]
        for name, value in named.items():
            if name not in _ORDERED:
                entry[name] = "[redacted]" if name in _SECRET else value
        try:
            return orjson.dumps(entry, default=str, option=_OPTIONS)
        except Exception:  # a value that JSON cannot hold must not cost the event
            return orjson.dumps({name: _plain(value) for name, value in entry.items()}, option=_OPTIONS)


_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


def _plain(value: object) -> str | int | float | None:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and -(1 << 53) < value < 1 << 53:
        return value
    try:
        text = str(value)
    except Exception:
        text = f"[{type(value).__name__}]"
    return text[:_STRING_LIMIT].encode("utf-8", "replace").decode()


_pascal_names: dict[str, str] = {}


def _pascal(name: str) -> str:
    """`packet_source` → `PacketSource`; PascalCase stays. Names come from code, so the table stays small."""
    known = _pascal_names.get(name)
    if known is None:
        parts = name.split("_")
        known = "".join(part[:1].upper() + part[1:] for part in parts)
        _pascal_names[name] = known
    return known
